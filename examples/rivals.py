"""
Attention clusters and their rivals on every set
================================================

Every method, with its default parameters, and the attention cluster with one option set, on every
set of the data home under its own protocol:

- musk1, elephant, birds: the given 5 x 10 folds, the repetition being the seed, 0 to 4;
- Japanese vowels: the given split;
- UTD-MHAD (each sensor, and all three): trained on subjects 1, 3, 5 and 7, with the features of
  `utd_mhad.py`;
- spoken digits: recordings with an index of 5 or more are for training;
- Flash-MNIST: 20,480 videos of MNIST's training images, 10,240 of its test images, with the
  authors' extractor; 10 epochs ("20 epochs": 20).

    python examples/rivals.py [--sets musk1 elephant] [--methods "attention cluster" average]
        [--seeds 0 1 2] [--n-jobs 2]

Local features are standardised on the training part. A row per run goes to the CSV file as soon as
it is done; what is there is not run again. Seconds are those of the process, of one thread.
`rivals_report.py` makes the tables and the plot of it.
"""

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from joblib import delayed
from result_rows import percent, read_rows, run_all, stop_if_orphaned, surroundings
from rival_sets import SETS, load
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from acluster import (
    AttentionClusterClassifier,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    rivals,
)
from acluster.preprocessing import LocalFeatureTransformer

HERE = Path(__file__).resolve().parent
CSV = HERE.parent / "docs" / "results" / "rivals.csv"


class Run(NamedTuple):
    """A method on a part of a set."""

    dataset: str
    method: str
    seed: int
    fold: int


def attention_cluster(is_multimodal, seed, **parameters):
    kind = MultimodalAttentionClusterClassifier if is_multimodal else AttentionClusterClassifier
    return kind(**parameters, random_state=seed)


def pooled_svm(is_multimodal, seed):
    """The baseline of earlier results: four statistics of each item."""
    return make_pipeline(FunctionTransformer(statistics), StandardScaler(), SVC(C=10))


def statistics(X):
    names = ["mean", "std", "min", "max"]
    modalities = [X[name] for name in X.names] if isinstance(X, MultimodalFeatureSets) else [X]
    return np.hstack([rivals.pooled_statistics(sets, names) for sets in modalities])


def by_default(kind):
    """A rival with its default parameters."""
    is_seeded = "random_state" in kind().get_params()
    return lambda _, seed: kind(random_state=seed) if is_seeded else kind()


METHODS = {
    "attention cluster": attention_cluster,
    "average": by_default(rivals.AverageClassifier),
    "flatten": by_default(rivals.FlattenClassifier),
    "BiLSTM": by_default(rivals.BiLSTMClassifier),
    "TS-LSTM": by_default(rivals.TSLSTMClassifier),
    "temporal inception": by_default(rivals.TemporalInceptionClassifier),
    "attention MIL": by_default(rivals.AttentionMILClassifier),
    "gated attention MIL": by_default(rivals.GatedAttentionMILClassifier),
    "NetVLAD": by_default(rivals.NetVLADClassifier),
    "set transformer": by_default(rivals.SetTransformerClassifier),
    "efficient probing": by_default(rivals.EfficientProbingClassifier),
    "pooled logistic regression": by_default(rivals.PooledClassifier),
    "pooled SVM": pooled_svm,
}
OPTIONS = {
    "5 highest": {"n_attended": 5},
    "pyramid of time": {"pyramid_levels": 3},
    "20 epochs": {"max_iter": 20},
}
# On a given split they run once, with the first seed.
WITHOUT_SEED = ("pooled logistic regression", "pooled SVM")


def perform(run, parent):
    """The row of a run."""
    stop_if_orphaned(parent)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    problem = load(run.dataset)
    X, y = problem.X, problem.y
    train, test = problem.folds(run.seed)[run.fold]
    make = METHODS.get(run.method, attention_cluster)
    method = make(isinstance(X, MultimodalFeatureSets), run.seed)
    if problem.max_epochs and is_network(method):
        method.set_params(max_iter=problem.max_epochs)
    method.set_params(**OPTIONS.get(run.method, {}))
    model = make_pipeline(LocalFeatureTransformer(StandardScaler()), method)
    started = time.process_time()
    model.fit(X[train], y[train])
    fitted = time.process_time()
    accuracy = percent(model.predict(X[test]) == y[test])
    return {
        **run._asdict(),
        "accuracy": accuracy,
        "fit_seconds": round(fitted - started, 2),
        "predict_seconds": round(time.process_time() - fitted, 2),
        "parameters": n_parameters(method),
        "epochs": getattr(method, "n_iter_", ""),
        **surroundings(),
    }


def is_network(method):
    return "batch_size" in method.get_params(deep=False)


def n_parameters(method):
    """The numbers that a network has learnt; none are counted of others."""
    network = getattr(method, "network_", None)
    return "" if network is None else sum(p.numel() for p in network.parameters())


def wanted_runs(options):
    """Every run that was asked for, set by set."""
    for dataset in options.sets:
        problem = load(dataset)
        for seed in problem.seeds if options.seeds is None else options.seeds:
            folds = range(len(problem.folds(seed)))
            skipped = WITHOUT_SEED if len(folds) == 1 and seed != problem.seeds[0] else ()
            methods = [name for name in options.methods if name not in skipped]
            for fold in folds[: options.folds]:
                yield from (Run(dataset, method, seed, fold) for method in methods)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    names = [*METHODS, *OPTIONS]
    parser.add_argument("--methods", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 3, or all repetitions")
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count())
    parser.add_argument("--folds", type=int, help="stop after this many of each seed")
    parser.add_argument("--csv", type=Path, default=CSV, help="where the rows go")
    options = parser.parse_args(arguments)
    done = read_rows(options.csv, Run)
    runs = [run for run in wanted_runs(options) if run not in done]
    tasks = (delayed(perform)(run, os.getpid()) for run in runs)
    for number, (run, row) in enumerate(run_all(tasks, options.csv, options.n_jobs, Run), 1):
        shown = f"{run.dataset}, {run.method}, seed {run.seed}, fold {run.fold}"
        print(f"{number} of {len(runs)}: {shown}: {row['accuracy']} %", flush=True)
    print(f"{len(done) + len(runs)} runs are in {options.csv}.")


if __name__ == "__main__":
    main()
