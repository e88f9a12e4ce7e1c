"""
Table 1 of the paper, all 40 cells
==================================

Flash-MNIST with the authors' recipe: one of 1,024 classes, the set of digits that flashed up in
25 noisy frames; an extractor trained for one epoch, with their log-softmax on its features; Adam
with step size 0.001, batches of 64, dropout 0.5. Five methods (Average, FC1, FC2, and the last two
with the shifting operation), each with 1 to 128 attention units.

    python examples/flash_mnist_table1.py [--methods fc1 fc1+shift] [--cluster-sizes 8 32]
        [--seeds 0 1 2] [--n-jobs 2] [--quick]

Cells run in parallel processes of a thread each, the longest first. After every epoch a cell is
kept in the work folder: killed at any time, the same command goes on from there, to the same
result. A cell that is done is a row of the CSV file and is not run again; with more `--epochs` it
goes on. The test videos are scored after every epoch for the curve, and choose nothing: the
accuracy of a row is that of its last epoch.

    quick: few videos and epochs of a few cells, on scikit-learn's digits where MNIST is not at hand
"""

import argparse
import os
import time
from typing import NamedTuple

import flash_mnist_features as features
import joblib
import torch
from joblib import delayed
from result_rows import keep, percent, positive, read_rows, run_all, stop_if_orphaned, surroundings

from acluster import AttentionClusterClassifier

CSV = features.RESULTS / "flash_mnist_table1.csv"

METHODS = {
    "average": {"weighting": "average", "shifting": False},
    "fc1": {"weighting": "fc1", "shifting": False},
    "fc2": {"weighting": "fc2", "shifting": False},
    "fc1+shift": {"weighting": "fc1", "shifting": True},
    "fc2+shift": {"weighting": "fc2", "shifting": True},
}
RECIPE = (64, 0.001)  # the authors' batch size and step size
CLUSTER_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# The authors have 100. Where a curve is flat sooner, fewer: without shifting small clusters never
# leave the first few percent. Large ones of FC2 rise the longest.
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
    """A place in the table, and how it is trained."""

    method: str
    cluster_size: int
    seed: int
    batch_size: int
    learning_rate: float
    videos: int

    def __str__(self):
        return "{}, N = {}, seed {}, batches of {}, step size {:g}".format(*self[:-1])

    def file(self, folder):
        """Where its last epoch is kept, with the features that it learns from."""
        return folder / "cells" / "{}_{}_seed{}_batch{}_step{:g}.joblib".format(*self[:-1])

    def classifier(self):
        return AttentionClusterClassifier(
            cluster_size=self.cluster_size,
            **METHODS[self.method],
            optimizer="adam",
            learning_rate=self.learning_rate,
            max_grad_norm=None,
            dropout=0.5,
            batch_size=self.batch_size,
            random_state=self.seed,
        )


def train(cell, n_epochs, folder, parent):
    """Train a cell to the end, from where it was left; its row of the table."""
    torch.set_num_threads(1)
    path = cell.file(folder)
    state = joblib.load(path) if path.exists() else None
    clf, curve, seconds = state or (cell.classifier(), [], 0.0)
    X, y, X_test, y_test = features.load_features(folder)
    # On a processor the time of this process: others may be running beside it.
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
        **surroundings(),
        "curve": " ".join(map(str, curve)),
    }


def show(rows, recipe):
    """The cells of a batch size, a step size and a number of videos: the mean over the seeds."""
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
        "--epochs", type=positive, help="of every cell; by default fewer for large N"
    )
    parser.add_argument("--batch-size", type=positive, default=RECIPE[0])
    parser.add_argument("--learning-rate", type=float, default=RECIPE[1])
    features.add_options(parser, CSV)
    parser.add_argument("--quick", action="store_true", help="a small run, to see it work")
    options = parser.parse_args(arguments)
    if options.quick:
        work = features.WORK / "quick"
        parser.set_defaults(**QUICK, csv=work / "table1.csv", work=work)
        options = parser.parse_args(arguments)
    return options


def cells_of(options):
    """The cells that were asked for and their epochs, those that take longest first."""
    cells = {
        Cell(method, size, seed, options.batch_size, options.learning_rate, options.videos): (
            options.epochs or EPOCHS[method].get(size, max(EPOCHS[method].values()))
        )
        for method in options.methods
        for size in options.cluster_sizes
        for seed in options.seeds
    }
    expense = {"fc2": 1.3, "fc2+shift": 1.3}
    least = 200 if torch.cuda.is_available() else 8  # to a GPU most sizes are alike

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
