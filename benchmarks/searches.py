"""Time searches and single fits against what they replace, in one run.

    python benchmarks/searches.py [--data musk1 ...] [--repeats 5] [--epochs 20] [--json FILE]

All figures are ratios of the other way's time to acluster's, from medians of interleaved runs:

search: scikit-learn's GridSearchCV(n_jobs=2), with one thread per process and steps in torch, to
    that of acluster.model_selection; 32 candidates, one fold.
search_compiled: the same, but scikit-learn's search takes compiled steps, too.
fit: a default fit in torch, step by step, to one with the compiled step.
store: eight fits that stream a compressed store, to a search over eight candidates, once.
"""

import argparse
import json
import os
import tempfile
from datetime import date
from pathlib import Path

import numpy as np
import torch
import zarr
from joblib import parallel_config
from sklearn import model_selection as sk
from stopwatch import interleaved

from acluster import (
    AttentionClusterClassifier,
    model_selection,
    open_feature_sets,
    save_feature_sets,
)
from acluster.datasets import load_benchmark, load_utd_mhad
from acluster.estimators import _fitting

GRID = {
    "learning_rate": [0.003, 0.006, 0.01, 0.02],
    "dropout": [0.2, 0.4, 0.6, 0.8],
    "weight_decay": [0.0, 1e-3],
}


def training_items(name):
    """Return the training items of a benchmark, in memory as float32."""
    if name == "skeleton":
        data = load_utd_mhad()
        X, y, train = data.data["skeleton"], data.target, data.train_indices
    else:
        data = load_benchmark(name)
        X, y = data.data, data.target
        train = data.folds[0][0][0] if hasattr(data, "folds") else data.train_indices
    return X[train], y[train]


class InTorch(AttentionClusterClassifier):
    """The classifier without the compiled step, in this process or another."""

    def fit(self, X, y):
        limit = _fitting._MAX_OPERATIONS
        _fitting._MAX_OPERATIONS = 0
        try:
            return super().fit(X, y)
        finally:
            _fitting._MAX_OPERATIONS = limit


def classifier(n_epochs, kind=AttentionClusterClassifier):
    options = {"standardize": True, "tol": None, "random_state": 0, "dtype": "float32"}
    return kind(max_iter=n_epochs, **options)


def search(module, clf, X, y, **options):
    fold = [(np.arange(len(y)), np.arange(0, len(y), 10))]
    return module.GridSearchCV(clf, GRID, cv=fold, refit=False, **options).fit(X, y)


def fit_runs(X, y, n_epochs):
    return {
        "others": lambda: classifier(n_epochs, InTorch).fit(X, y),
        "ours": lambda: classifier(n_epochs).fit(X, y),
    }


def search_runs(X, y, n_epochs, kind):
    def others():
        with parallel_config(backend="loky", inner_max_num_threads=1):
            search(sk, classifier(n_epochs, kind), X, y, n_jobs=2)

    return {"others": others, "ours": lambda: search(model_selection, classifier(n_epochs), X, y)}


def compressed(X, path):
    """Write a store with compressed features, and open it."""
    save_feature_sets(path, X)
    group = zarr.open_group(path, mode="r+")
    values = group["features"][:]
    del group["features"]
    chunks = (1024, values.shape[1])
    group.create_array("features", data=values, chunks=chunks, fill_value=np.nan)
    return open_feature_sets(path)


def store_runs(X, y, n_epochs):
    grid = {"learning_rate": [0.003, 0.006, 0.01, 0.02], "dropout": [0.3, 0.6]}
    clf = classifier(n_epochs).set_params(cache="stream")

    def together():
        fold = [(np.arange(len(y)), np.arange(2))]
        model_selection.GridSearchCV(clf, grid, cv=fold, refit=False).fit(X, y)

    def one_by_one():
        for parameters in sk.ParameterGrid(grid):
            AttentionClusterClassifier(**{**clf.get_params(), **parameters}).fit(X, y)

    return {"others": one_by_one, "ours": together}


def ratio(runs, repeats):
    measured = interleaved(runs, repeats)
    medians = {name: float(np.median(times)) for name, times in measured.items()}
    pairs = [a / b for a, b in zip(measured["others"], measured["ours"], strict=True)]
    return {
        "ratio": medians["others"] / medians["ours"],
        "range": [min(pairs), max(pairs)],
        "seconds": medians,
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["japanese_vowels", "musk1", "elephant", "skeleton"]
    parser.add_argument("--data", nargs="+", default=names)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    report = {"date": str(date.today()), "threads": torch.get_num_threads()}
    for name in options.data:
        X, y = training_items(name)
        runs = {
            "fit": fit_runs(X, y, options.epochs),
            "search": search_runs(X, y, options.epochs, InTorch),
            "search_compiled": search_runs(X, y, options.epochs, AttentionClusterClassifier),
        }
        report[name] = {way: ratio(own, options.repeats) for way, own in runs.items()}
        print(name, {way: round(figures["ratio"], 2) for way, figures in report[name].items()})
    with tempfile.TemporaryDirectory() as folder:
        X, y = training_items(options.data[-1])
        stored = compressed(X, os.path.join(folder, "sets.zarr"))
        report["store"] = ratio(store_runs(stored, y, max(1, options.epochs // 4)), options.repeats)
        print("store", round(report["store"]["ratio"], 2))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
