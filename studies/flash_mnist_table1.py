"""Reproduce the 40 cells of Table 1 of the paper.

The task is Flash-MNIST with the authors' recipe. The set of digits that flash up in 25 noisy frames
is one of 1,024 classes. The extractor is trained for one epoch and ends in the authors'
log-softmax. The optimizer is Adam with learning rate 0.001, batch size 64 and dropout 0.5. Five
methods (Average, FC1 and FC2, the last two also with the shifting operation) are trained with 1 to
128 attention units.

    python studies/flash_mnist_table1.py [--methods fc1 fc1+shift] [--cluster-sizes 8 32]
        [--seeds 0 1 2] [--n-jobs 2] [--quick]

Cells run in parallel processes of one thread each, the longest first. Every cell saves a checkpoint
after each epoch: a killed command resumes there and reaches the same result. A finished cell is
a row of the CSV file and is not trained again, unless you pass more `--epochs`. The test videos are
scored after every epoch for the learning curve only; a row has the accuracy of the last epoch.

`--quick` trains a few small cells, on scikit-learn's digits if MNIST is not available.
"""

import argparse
import os
import time
from typing import NamedTuple

import flash_mnist_features as features
import joblib
import torch
from joblib import delayed
from result_rows import environment, keep, percent, positive, read_rows, run_all, stop_if_orphaned

from acluster import AttentionClusterClassifier

CSV = features.RESULTS / "flash_mnist_table1.csv"

METHODS = {
    "average": {"weighting": "average", "shifting": False},
    "fc1": {"weighting": "fc1", "shifting": False},
    "fc2": {"weighting": "fc2", "shifting": False},
    "fc1+shift": {"weighting": "fc1", "shifting": True},
    "fc2+shift": {"weighting": "fc2", "shifting": True},
}
RECIPE = (64, 0.001)  # the authors' batch size and learning rate
CLUSTER_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# The authors train for 100 epochs. Cells with an earlier plateau get fewer: without shifting, small
# clusters stay at a few percent. Large clusters of FC2 improve the longest.
EPOCHS = {
    method: dict(zip(CLUSTER_SIZES, n_epochs, strict=True))
    for method, n_epochs in (
        ("average", (12, 12, 12, 12, 12, 20, 20, 20)),
        ("fc1", (20, 20, 20, 60, 100, 60, 60, 60)),
        ("fc2", (20, 20, 20, 60, 100, 60, 60, 60)),
        ("fc1+shift", (60, 100, 100, 60, 60, 40, 30, 20)),
        ("fc2+shift", (60, 100, 100, 60, 60, 40, 40, 40)),
    )
}

QUICK = {"videos": 4096, "test_videos": 1024, "images": 2000, "epochs": 2, "cluster_sizes": [1, 4]}


class Cell(NamedTuple):
    """A cell of the table and its training settings."""

    method: str
    cluster_size: int
    seed: int
    batch_size: int
    learning_rate: float
    videos: int

    def __str__(self):
        return "{}, N = {}, seed {}, batch size {}, learning rate {:g}".format(*self[:-1])

    def file(self, folder):
        """Return the path of the checkpoint, in the folder of the features."""
        return folder / "cells" / "{}_{}_seed{}_batch{}_step{:g}.joblib".format(*self[:-1])

    def classifier(self):
        return AttentionClusterClassifier(
            cluster_size=self.cluster_size,
            n_attended=None,
            **METHODS[self.method],
            optimizer="adam",
            learning_rate=self.learning_rate,
            max_grad_norm=None,
            dropout=0.5,
            standardize=False,
            batch_size=self.batch_size,
            random_state=self.seed,
        )


def train(cell, n_epochs, folder, parent):
    """Train a cell from its last checkpoint, and return its row."""
    torch.set_num_threads(1)
    path = cell.file(folder)
    state = joblib.load(path) if path.exists() else None
    clf, curve, seconds = state or (cell.classifier(), [], 0.0)
    X, y, X_test, y_test = features.load_features(folder)
    # Processes share the CPU, so count the time of this one. Time on a GPU is wall-clock time.
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    while len(curve) < n_epochs:
        stop_if_orphaned(parent)
        started = clock()
        clf.partial_fit(X, y, classes=range(1024))
        seconds += clock() - started
        curve.append(percent(clf.predict(X_test) == y_test))
        keep((clf, curve, seconds), path)
        print(f"{cell}: epoch {len(curve)} of {n_epochs}, {curve[-1]:.1f} %", flush=True)
    return {
        **cell._asdict(),
        "epochs": len(curve),
        "accuracy": curve[-1],
        "seconds": round(seconds, 1),
        "extractor_accuracy": features.read_about(folder)["extractor_accuracy"],
        **environment(),
        "curve": " ".join(map(str, curve)),
    }


def show(rows, recipe):
    """Print mean accuracy over seeds; `recipe` is (batch size, learning rate, number of videos)."""
    rows = {cell: row for cell, row in rows.items() if cell[-3:] == recipe}
    print(f"\n{'N':>4}" + "".join(f"{method:>12}" for method in METHODS))
    for size in sorted({cell.cluster_size for cell in rows}):
        print(f"{size:4}", end="")
        for method in METHODS:
            found = [
                float(row["accuracy"])
                for cell, row in rows.items()
                if (cell.method, cell.cluster_size) == (method, size)
            ]
            print(f"{sum(found) / len(found):12.1f}" if found else f"{'-':>12}", end="")
        print()


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--cluster-sizes", nargs="+", type=positive, default=CLUSTER_SIZES, metavar="N"
    )
    parser.add_argument(
        "--epochs", type=positive, help="epochs of every cell (default: fewer for large N)"
    )
    parser.add_argument("--batch-size", type=positive, default=RECIPE[0])
    parser.add_argument("--learning-rate", type=float, default=RECIPE[1])
    features.add_options(parser, CSV)
    parser.add_argument("--quick", action="store_true", help="a small run, to try it out")
    options = parser.parse_args(arguments)
    if options.quick:
        work = features.WORK / "quick"
        parser.set_defaults(**QUICK, csv=work / "table1.csv", work=work)
        options = parser.parse_args(arguments)
    return options


def cells_of(options):
    """Return a dict from each requested cell to its epochs, the longest first."""
    cells = {
        Cell(method, size, seed, options.batch_size, options.learning_rate, options.videos): (
            options.epochs or EPOCHS[method].get(size, max(EPOCHS[method].values()))
        )
        for method in options.methods
        for size in options.cluster_sizes
        for seed in options.seeds
    }
    expense = {"fc2": 1.3, "fc2+shift": 1.3}
    least = 200 if torch.cuda.is_available() else 8  # most sizes take about the same time on a GPU

    def seconds(item):
        cell, n_epochs = item
        return n_epochs * (least + cell.cluster_size) * expense.get(cell.method, 1)

    return dict(sorted(cells.items(), key=seconds, reverse=True))


def main(arguments=None):
    options = parse(arguments)
    folder = options.work / f"features_{options.videos}"
    parts = features.make_parts(options)
    extractor = features.authors_extractor(len(parts["train"].images))
    features.make_features(folder, extractor, parts)
    (folder / "cells").mkdir(exist_ok=True)
    rows = features.read_rows_of(folder, options.csv, Cell)
    to_run = {
        cell: n_epochs
        for cell, n_epochs in cells_of(options).items()
        if cell not in rows or int(rows[cell]["epochs"]) < n_epochs
    }
    tasks = (delayed(train)(*item, folder, os.getpid()) for item in to_run.items())
    finished = run_all(tasks, options.csv, options.n_jobs, Cell)
    for n_done, (cell, row) in enumerate(finished, start=1):
        print(f"{n_done} of {len(to_run)} cells: {cell}: {row['accuracy']:.1f} %", flush=True)
    recipe = (options.batch_size, options.learning_rate, options.videos)
    show(read_rows(options.csv, Cell), recipe)


if __name__ == "__main__":
    main()
