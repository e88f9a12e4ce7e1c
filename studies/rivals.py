"""Compare attention clusters with their rivals on fifteen data sets.

Every method runs with its default parameters. If `--methods` names them, the attention cluster also
runs with other options, and some rivals run with a cosine decay of the learning rate. Each data set
has its own protocol:

- musk1, elephant, birds, tiger, fox, newsgroups, colon: the published five repetitions of ten
  folds, with the repetition (0 to 4) as seed;
- Japanese vowels, MSR-Action3D: the published split;
- UTD-MHAD (each sensor, and all three): training on subjects 1, 3, 5 and 7, with the features of
  `utd_mhad.py`;
- spoken digits: training on recordings with an index of 5 or more;
- Flash-MNIST: 20,480 training videos from MNIST's training images, 10,240 test videos from its test
  images, with the authors' extractor; 10 epochs ("20 epochs": 20).

    python studies/rivals.py [--sets musk1 elephant] [--methods "attention cluster" average]
        [--seeds 0 1 2] [--n-jobs 2]

Local features are standardized on the training part. Finished runs are rows of the CSV file and are
not repeated. Times are CPU seconds of one thread. `rivals_report.py` turns the rows into tables and
a plot.
"""

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from joblib import delayed
from result_rows import environment, percent, read_rows, run_all, stop_if_orphaned
from rival_sets import SETS, load
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    MultimodalAttentionClusterClassifier,
    MultimodalAttentionClusterClassifierCV,
    MultimodalFeatureSets,
    rivals,
)
from acluster.preprocessing import LocalFeatureTransformer

HERE = Path(__file__).resolve().parent
CSV = HERE.parent / "docs" / "results" / "rivals.csv"


class Run(NamedTuple):
    """A method on one fold of a data set."""

    dataset: str
    method: str
    seed: int
    fold: int


def attention_cluster(is_multimodal, seed, **parameters):
    """Return an attention cluster classifier."""
    kind = MultimodalAttentionClusterClassifier if is_multimodal else AttentionClusterClassifier
    return kind(**parameters, random_state=seed)


def untuned(is_multimodal, seed):
    """Return a classifier that chooses its parameters by cross-validation."""
    kind = AttentionClusterClassifierCV
    return (MultimodalAttentionClusterClassifierCV if is_multimodal else kind)(random_state=seed)


def by_default(kind):
    """Return a function that makes a rival with its default parameters."""
    is_seeded = "random_state" in kind().get_params()
    return lambda _, seed: kind(random_state=seed) if is_seeded else kind()


METHODS = {
    "attention cluster": attention_cluster,
    "attention cluster CV": untuned,
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
    "pooled SVM": by_default(rivals.PooledSVMClassifier),
}
# The defaults until November 2026: all local features, and a constant learning rate.
CONSTANT = {"learning_rate_schedule": "constant", "max_iter": 200}
ATTENDING_TO_ALL = {"n_attended": None, **CONSTANT}
COSINE = {"learning_rate_schedule": "cosine"}
# From the name of an option to the method and its parameters.
OPTIONS = {
    "attending to all": ("attention cluster", ATTENDING_TO_ALL),
    "5 highest, constant": ("attention cluster", CONSTANT),
    "pyramid of time": ("attention cluster", {**ATTENDING_TO_ALL, "pyramid_levels": 3}),
    "20 epochs": ("attention cluster", {**ATTENDING_TO_ALL, "max_iter": 20}),
    "set transformer, cosine": ("set transformer", COSINE),
    "NetVLAD, cosine": ("NetVLAD", COSINE),
    "efficient probing, cosine": ("efficient probing", COSINE),
    "BiLSTM, cosine": ("BiLSTM", COSINE),
}
# Deterministic methods: a published split needs one run of them, with the first seed.
WITHOUT_SEED = ("pooled logistic regression", "pooled SVM")


def perform(run, parent):
    """Train and score the method of a run, and return its row."""
    stop_if_orphaned(parent)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    problem = load(run.dataset)
    X, y = problem.X, problem.y
    train, test = problem.folds(run.seed)[run.fold]
    name, parameters = OPTIONS.get(run.method, (run.method, {}))
    method = METHODS[name](isinstance(X, MultimodalFeatureSets), run.seed)
    method.set_params(**parameters)
    if problem.max_epochs and is_network(method) and run.method != "20 epochs":
        method.set_params(max_iter=problem.max_epochs)
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
        "epochs": method.n_iter_ if hasattr(method, "network_") else "",
        **environment(),
    }


def is_network(method):
    """Return whether a method is trained by gradient descent."""
    return not {"batch_size", "n_configurations"}.isdisjoint(method.get_params(deep=False))


def n_parameters(method):
    """Return the number of parameters of a network, and an empty text for other methods."""
    network = getattr(method, "network_", None)
    return "" if network is None else sum(p.numel() for p in network.parameters())


def wanted_runs(options):
    """Yield the requested runs, one data set after the other."""
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
    parser.add_argument(
        "--methods", nargs="+", choices=names, default=list(METHODS), metavar="NAME"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="seeds (default: 3, or all repetitions)"
    )
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count())
    parser.add_argument("--folds", type=int, help="run only the first folds of each seed")
    parser.add_argument("--csv", type=Path, default=CSV, help="results file")
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
