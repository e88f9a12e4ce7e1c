"""Memory, descriptors and threads of a process over many fits and predictions.

Usage: python benchmarks/leaks.py [--fits 200] [--predictions 10000] [--out docs/results/leaks.json]

Each quantity is read after a warm-up and at the end. A leak of one batch, descriptor or thread per
call would show as a difference in the order of the number of calls.
"""

import argparse
import gc
import json
import os
import tempfile
import threading
import warnings

import numpy as np

from acluster import AttentionClusterClassifier, open_feature_sets, save_feature_sets

N_WARM_UP = 10


def resources():
    """Return the resident memory in MB, and the numbers of descriptors and threads."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return {
        "MB": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "python threads": threading.active_count(),
    }


def growth(function, n):
    """Return by how much the resources grow over n calls after a warm-up."""
    for _ in range(min(n, N_WARM_UP)):
        function()
    before = resources()
    for _ in range(n):
        function()
    after = resources()
    return {name: round(after[name] - before[name], 2) for name in before}


def measure(n_fits, n_predictions):
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(int(rng.integers(1, 20)), 32)).astype(np.float32) for _ in range(64)]
    y = np.arange(64) % 3
    options = {"cluster_size": 4, "max_iter": 2, "tol": None, "random_state": 0, "batch_size": 16}
    clf = AttentionClusterClassifier(**options).fit(X, y)
    with tempfile.TemporaryDirectory() as folder:
        save_feature_sets(f"{folder}/sets.zarr", X)
        stored = open_feature_sets(f"{folder}/sets.zarr")

        def fit_with_checkpoint():
            run = tempfile.mkdtemp(dir=folder)
            AttentionClusterClassifier(**options).fit(X, y, checkpoint_dir=run)

        def fit_from_store():
            AttentionClusterClassifier(cache="stream", **options).fit(stored, y)

        return {
            "fits": growth(lambda: AttentionClusterClassifier(**options).fit(X, y), n_fits),
            "fits with a checkpoint": growth(fit_with_checkpoint, n_fits),
            "fits from a store": growth(fit_from_store, n_fits),
            "predictions": growth(lambda: clf.predict(X[:4]), n_predictions),
            "predictions from a store": growth(
                lambda: clf.predict(stored[:4]), n_predictions // 10
            ),
            "saves": growth(lambda: clf.save(f"{folder}/model"), n_fits),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--out", help="a JSON file for the results")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = {
        "n_fits": options.fits,
        "n_predictions": options.predictions,
        "growth": measure(options.fits, options.predictions),
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        with open(options.out, "w") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
