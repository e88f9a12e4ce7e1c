"""
What the shifting operation does on Flash-MNIST
===============================================

The paper's task with the authors' recipe: one of 1024 classes, the set of digits that
flashed up; an extractor trained for one epoch, with their log-softmax on its features; Adam
with step size 0.001, batches of 64, dropout 0.5. A cluster of 8 units with the shifting
operation, the same without it, and the Average baseline see the same videos for the same
number of epochs.

    python examples/flash_mnist_shifting.py [--videos 25600] [--epochs 60] [--seeds 3] [--csv FILE]

A row per method and seed goes to the CSV file as soon as it is done.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.callback import ProgressBar

from acluster import AttentionClusterClassifier
from acluster.datasets import FrameExtractor, fetch_mnist, make_flash_mnist

CSV = Path(__file__).parent.parent / "docs" / "results" / "flash_mnist_shifting.csv"
COLUMNS = ["method", "cluster_size", "seed", "videos", "epochs", "accuracy", "seconds", "curve"]
METHODS = {
    "fc1+shift": {"weighting": "fc1", "shifting": True},
    "fc1": {"weighting": "fc1", "shifting": False},
    "average": {"weighting": "average", "shifting": False},
}


def local_features(n_videos, seed):
    """Training and test sets of 25 local features of width 50, with their classes."""
    mnist = fetch_mnist()
    extractor = FrameExtractor(random_state=seed).set_callbacks(ProgressBar())
    extractor.fit(mnist.train_images, mnist.train_labels)
    train = make_flash_mnist(
        mnist.train_images, mnist.train_labels, n_videos=n_videos, random_state=seed
    )
    test = make_flash_mnist(
        mnist.test_images, mnist.test_labels, n_videos=10_240, random_state=seed + 1
    )
    with_digit = test.frame_digits >= 0
    accuracy = extractor.score(test.videos[with_digit], test.frame_digits[with_digit])
    print(f"The extractor names the digit on {100 * accuracy:.1f} % of the test frames with one.")
    X_train, X_test = extractor.transform(train.videos), extractor.transform(test.videos)
    return X_train, train.target, X_test, test.target


def run(method, seed, epochs, X_train, y_train, X_test, y_test):
    torch.set_num_threads(1)
    started = time.perf_counter()
    clf = AttentionClusterClassifier(
        cluster_size=8,
        **METHODS[method],
        optimizer="adam",
        learning_rate=1e-3,
        dropout=0.5,
        batch_size=64,
        max_iter=epochs,
        tol=None,
        random_state=seed,
    )
    # Watched only: the accuracy reported is that of the last epoch.
    clf.fit(X_train, y_train, X_val=X_test, y_val=y_test)
    curve = [round(100 * score, 2) for score in clf.validation_scores_]
    seconds = round(time.perf_counter() - started, 1)
    return [method, 8, seed, len(X_train), epochs, curve[-1], seconds, " ".join(map(str, curve))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--videos", type=int, default=25_600, help="training videos")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3, help="runs of each method")
    parser.add_argument("--csv", type=Path, default=CSV, help="where the rows go")
    parser.add_argument("--n-jobs", type=int, default=2)
    options = parser.parse_args()
    data = local_features(options.videos, seed=0)
    tasks = [(method, seed, options.epochs) for seed in range(options.seeds) for method in METHODS]
    parallel = Parallel(options.n_jobs, return_as="generator_unordered")
    rows = []
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    with options.csv.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in parallel(delayed(run)(*task, *data) for task in tasks):
            rows.append(row)
            writer.writerow(row)
            file.flush()
            print(f"{len(rows)}/{len(tasks)}: {row[0]}, seed {row[2]}: {row[5]:.1f} %", flush=True)
    for method in METHODS:
        percent = [row[5] for row in rows if row[0] == method]
        error = np.std(percent, ddof=1) / len(percent) ** 0.5 if len(percent) > 1 else 0
        print(f"{method:10} {np.mean(percent):5.1f} ± {error:.1f} ({len(percent)} runs)")


if __name__ == "__main__":
    main()
