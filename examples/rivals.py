"""
Attention clusters and their rivals on every set
================================================

Every method, with its default parameters, on every set of the data home under its own protocol:

- musk1, elephant, birds: the given 5 x 10 folds, the repetition being the seed, 0 to 4;
- Japanese vowels: the given split;
- UTD-MHAD (each sensor, and all three): trained on subjects 1, 3, 5 and 7, with the features of
  `utd_mhad.py`;
- spoken digits: recordings with an index of 5 or more are for training;
- Flash-MNIST: 25,600 videos of MNIST's training images, 10,240 of its test images, with the
  authors' extractor.

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
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import flash_mnist_features
import numpy as np
import torch
import utd_mhad
from joblib import delayed
from result_rows import percent, read_rows, run_all, stop_if_orphaned, surroundings
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from acluster import (
    AttentionClusterClassifier,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    rivals,
    save_feature_sets,
)
from acluster.datasets import load_benchmark, load_fsdd
from acluster.preprocessing import LocalFeatureTransformer

HERE = Path(__file__).resolve().parent
CSV = HERE.parent / "docs" / "results" / "rivals.csv"
WORK = HERE / "output" / "rivals"


class Run(NamedTuple):
    """A method on a part of a set."""

    dataset: str
    method: str
    seed: int
    fold: int


class Problem(NamedTuple):
    """Items with their labels, and what to train and to test on."""

    X: Any
    y: np.ndarray
    folds: Callable[[int], list]  # of a seed: (train, test) indices
    seeds: range = range(3)


def benchmark(name):
    data = load_benchmark(name)
    if "folds" in data:
        given = dict(enumerate(data.folds))  # so many repetitions there are, and no more
        return Problem(data.data, data.target, lambda seed: given.get(seed, []), range(len(given)))
    return Problem(data.data, data.target, lambda seed: [(data.train_indices, data.test_indices)])


@cache
def actions():
    """The clips of UTD-MHAD, their local features extracted once."""
    store = WORK / "utd_mhad.zarr"
    return open_feature_sets(store) if store.exists() else utd_mhad.local_features(store)


def actions_of(*names):
    X = actions()
    is_train = X.group % 2 == 1
    split = [(np.flatnonzero(is_train), np.flatnonzero(~is_train))]
    sets = {name: X[name].load() for name in names}
    chosen = MultimodalFeatureSets(sets) if len(names) > 1 else sets[names[0]]
    return Problem(chosen, X.label, lambda seed: split)


def spoken_digits():
    store = WORK / "fsdd.zarr"
    if not store.exists():
        digits = load_fsdd()
        is_test = np.isin(np.arange(len(digits.data)), digits.test_indices)
        save_feature_sets(store, digits.data, label=digits.target, group=is_test.astype(int))
    X = open_feature_sets(store)
    split = [(np.flatnonzero(X.group == 0), np.flatnonzero(X.group == 1))]
    return Problem(X.load(), X.label, lambda seed: split)


def flash_mnist():
    options = argparse.Namespace(images=None, videos=25_600, test_videos=10_240, csv=CSV)
    parts = flash_mnist_features.make_parts(options)
    folder = WORK / "flash_mnist"
    extractor = flash_mnist_features.authors_extractor(len(parts["train"].images))
    flash_mnist_features.make_features(folder, extractor, parts)
    X, y, X_test, y_test = flash_mnist_features.load_features(folder)
    both = X.from_arrays([*X, *X_test])
    split = [(np.arange(len(y)), np.arange(len(y), len(y) + len(y_test)))]
    return Problem(both, np.concatenate([y, y_test]), lambda seed: split)


SETS = {
    "musk1": lambda: benchmark("musk1"),
    "elephant": lambda: benchmark("elephant"),
    "birds": lambda: benchmark("birds_winter_wren"),
    "japanese vowels": lambda: benchmark("japanese_vowels"),
    "skeleton": lambda: actions_of("skeleton"),
    "inertial": lambda: actions_of("inertial"),
    "depth": lambda: actions_of("depth"),
    "three sensors": lambda: actions_of("skeleton", "inertial", "depth"),
    "spoken digits": spoken_digits,
    "flash-mnist": flash_mnist,
}
load = cache(lambda name: SETS[name]())


def attention_cluster(is_multimodal, seed):
    kind = MultimodalAttentionClusterClassifier if is_multimodal else AttentionClusterClassifier
    return kind(random_state=seed)


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


def perform(run, parent):
    """The row of a run."""
    stop_if_orphaned(parent)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y, folds, _ = load(run.dataset)
    train, test = folds(run.seed)[run.fold]
    is_multimodal = isinstance(X, MultimodalFeatureSets)
    method = METHODS[run.method](is_multimodal, run.seed)
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


def n_parameters(method):
    """The numbers that a network has learnt; none are counted of others."""
    network = getattr(method, "network_", None)
    return "" if network is None else sum(p.numel() for p in network.parameters())


def wanted_runs(options):
    """Every run that was asked for, set by set."""
    for dataset in options.sets:
        problem = load(dataset)
        for seed in problem.seeds if options.seeds is None else options.seeds:
            for fold in range(len(problem.folds(seed)))[: options.folds]:
                yield from (Run(dataset, method, seed, fold) for method in options.methods)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
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
