"""Improve on Table 1 with a different training recipe and better extractors.

The test videos are those of `flash_mnist_table1.py`, and the estimators are the public ones. The
differences from Table 1 are:

- Ten binary labels, one per digit, replace the 1,024 classes. A prediction is correct if all ten
  labels are.
- Two other extractors of 50 features. "longer" is the authors' network without the log-softmax,
  trained for more epochs with larger batches; "deeper" is defined in `flash_mnist_deeper.py`. Both,
  and the clusters on their features, are also trained on distorted copies of the images. An
  extractor produces unrealistically clean features for images it was trained on.
- Every epoch permutes the training frames among those of all videos that show the same digit, or
  none.
- Adam with batch size 512 and a cosine schedule of the learning rate down to 0.

    python studies/flash_mnist_beyond.py [--extractors authors longer deeper]
        [--seeds 0 1 2] [--quick]

A twelfth of the training images is held out from all networks. The learning rate of each method is
chosen on videos of the held-out images. The network is then retrained for more epochs with it, and
scored once on the test videos. Finished runs are rows of the CSV file and are not repeated.
`--heads classes` predicts the 1,024 classes again, to measure what they cost.

`--quick` uses few images, videos and epochs, and scikit-learn's digits if MNIST is not available.
"""

import argparse
import math
import os
import time
from itertools import product
from typing import NamedTuple

import flash_mnist_features as features
import numpy as np
import torch
from flash_mnist_deeper import DeeperExtractor
from flash_mnist_table1 import METHODS
from joblib import delayed
from result_rows import environment, percent, positive, run_all, stop_if_orphaned
from torch.nn.functional import affine_grid, grid_sample

from acluster import AttentionClusterClassifier, FeatureSets
from acluster.datasets import make_flash_mnist

CSV = features.RESULTS / "flash_mnist_beyond.csv"
RATES = (0.001, 0.003, 0.01, 0.03)  # learning rates to choose from
EXTRACTOR_EPOCHS = {"longer": 4, "deeper": 3}
EXTRACTORS = ["authors", *EXTRACTOR_EPOCHS]
DISTORTED_COPIES = 15
HEADS = {"labels": 10, "classes": 1024}  # number of outputs
BATCH_SIZE = 512

QUICK = {
    "images": 1000,
    "videos": 2048,
    "test_videos": 1024,
    "cluster_sizes": [4],
    "epochs": [1, 2],
    "extractor_epochs": 2,
}


class Run(NamedTuple):
    """A network, its training settings, and the part it is scored on."""

    extractor: str
    head: str
    method: str
    cluster_size: int
    learning_rate: float
    seed: int
    epochs: int
    videos: int
    part: str


def prepare(name, folder, options):
    """Extract features; the videos of a twelfth of the training images are held out."""
    parts = features.make_parts(options)
    images, labels, n_videos = parts["train"]
    n = len(images) - len(images) // 12
    parts["held-out"] = features.Part(images[n:], labels[n:], options.test_videos)
    images, labels = images[:n], labels[:n]
    if name != "authors":
        images, labels = with_distorted(images, labels)
    parts["train"] = features.Part(images, labels, n_videos)
    features.make_features(folder, make_extractor(name, n, options.extractor_epochs), parts)


def make_extractor(name, n_images, n_epochs):
    """Return an untrained extractor; `n_epochs` does not apply to that of the authors."""
    if name == "authors":
        return features.authors_extractor(n_images)
    n_epochs = n_epochs or EXTRACTOR_EPOCHS[name]
    if name == "deeper":
        return DeeperExtractor(n_epochs=n_epochs, random_state=0)
    return features.authors_extractor(
        n_images,
        log_softmax=False,
        n_epochs=n_epochs,
        n_noisy_copies=1,
        learning_rate=0.004,
        learning_rate_schedule="one-cycle",
        batch_size=256,
        dropout=0.0,
    )


def with_distorted(images, labels):
    """Return the images followed by distorted copies, and the labels of all."""
    torch.manual_seed(0)
    blocks = np.array_split(images, math.ceil(len(images) / 4096))
    copies = [distort(block) for _ in range(DISTORTED_COPIES) for block in blocks]
    return np.concatenate([images, *copies]), np.tile(labels, 1 + DISTORTED_COPIES)


def distort(images):
    """Rotate images by up to 12°, scale them by up to 10 % and shift them by up to 2 pixels."""
    n, height, width = images.shape
    angle = torch.empty(n).uniform_(-math.pi / 15, math.pi / 15)
    scale = torch.empty(n).uniform_(0.9, 1.1)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    right, down = torch.empty(2, n).uniform_(-2, 2) * 2 / torch.tensor([[width], [height]])
    rows = torch.stack([cosine, -sine, right, sine, cosine, down], dim=1).view(n, 2, 3)
    grid = affine_grid(rows, (n, 1, height, width), align_corners=False)
    moved = grid_sample(torch.from_numpy(images[:, None]).float(), grid, align_corners=False)
    moved = moved.round().to(torch.uint8)[:, 0].numpy()
    # Interpolation blurs the images, and the noise of the videos is drawn from their gray levels.
    # Histogram matching restores the original distribution.
    level = np.searchsorted(share_up_to_level(images), share_up_to_level(moved))
    level[0] = 0  # keep the background black
    return level.astype(np.uint8)[moved]


def share_up_to_level(images):
    """Return the cumulative distribution of the 256 gray levels."""
    return np.bincount(images.ravel(), minlength=256).cumsum() / images.size


def shuffle_alike(X, frame_digits, generator):
    """Permute the frames of all sets among those that show the same digit, or none."""
    values, offsets = X.packed()
    order = np.arange(len(values))
    for digit in range(-1, 10):
        members = np.flatnonzero(frame_digits == digit)
        order[members] = generator.permutation(members)
    return FeatureSets(values[order], offsets)


def fit(run, X, y, frame_digits, parent):
    """Return the trained classifier of a run."""
    clf = AttentionClusterClassifier(
        cluster_size=run.cluster_size,
        n_attended=None,
        **METHODS[run.method],
        optimizer="adam",
        max_grad_norm=None,
        dropout=0.5,
        standardize=False,
        batch_size=BATCH_SIZE,
        random_state=run.seed,
    )
    generator = np.random.default_rng(run.seed)
    for epoch in range(run.epochs):
        stop_if_orphaned(parent)
        decay = 0.5 * (1 + math.cos(math.pi * epoch / run.epochs))
        clf.set_params(learning_rate=run.learning_rate * decay)
        clf.partial_fit(
            shuffle_alike(X, frame_digits, generator), y, classes=range(HEADS[run.head])
        )
    return clf


def to_head(target, head):
    """Return the class of each video, or its ten binary labels."""
    return (target[:, None] >> np.arange(10)) & 1 if head == "labels" else target


def perform(run, folder, frame_digits, parent):
    """Train and score the network of a run, and return its row."""
    torch.set_num_threads(1)
    X, y, X_scored, y_scored = features.load_features(folder, run.part)
    started = time.perf_counter()
    clf = fit(run, X, to_head(y, run.head), frame_digits.ravel(), parent)
    seconds = time.perf_counter() - started
    right = clf.predict(X_scored) == to_head(y_scored, run.head)
    return {
        **run._asdict(),
        "accuracy": percent(right.reshape(len(right), -1).all(axis=1)),
        "seconds": round(seconds, 1),
        "extractor_accuracy": features.read_about(folder)["extractor_accuracy"],
        **environment(),
    }


def accuracy_of(runs, folder, frame_digits, options):
    """Return the accuracy of the runs in percent; perform those missing from the CSV file."""
    done = features.read_rows_of(folder, options.csv, Run)
    tasks = (
        delayed(perform)(run, folder, frame_digits, os.getpid()) for run in runs if run not in done
    )
    for run, row in run_all(tasks, options.csv, options.n_jobs, Run):
        print(f"{run}: {row['accuracy']} %", flush=True)
    rows = features.read_rows_of(folder, options.csv, Run)
    return {run: float(rows[run]["accuracy"]) for run in runs}


def compare(extractor, folder, frame_digits, options):
    """Choose learning rates on the held-out videos, and print the accuracy on the test videos."""
    chosen = (options.heads, options.methods, options.cluster_sizes)
    networks = product([extractor], *map(dict.fromkeys, chosen))
    training = (0, options.epochs[0], options.videos, "held-out")
    candidates = [Run(*network, rate, *training) for network, rate in product(networks, RATES)]
    scores = accuracy_of(candidates, folder, frame_digits, options)
    best = {run[:4]: run for run in sorted(scores, key=scores.get)}
    final = [
        run._replace(seed=seed, epochs=options.epochs[1], part="test")
        for run, seed in product(best.values(), dict.fromkeys(options.seeds))
    ]
    accuracy = accuracy_of(final, folder, frame_digits, options)
    about = features.read_about(folder)
    figures = f"frames with a digit {about['extractor_accuracy']}, union {about['union']}"
    print(f"\n{extractor} ({figures}; all in %)")
    print(f"{'head':8}{'method':10}{'N':>5}{'rate':>11}{'held out':>10}{'test':>8}   by seed")
    for network, run in sorted(best.items()):
        found = [accuracy[final_run] for final_run in final if final_run[:4] == network]
        print(
            f"{run.head:8}{run.method:10}{run.cluster_size:5}{run.learning_rate:11g}"
            f"{scores[run]:10.2f}{np.mean(found):8.2f}   " + ", ".join(map(str, found))
        )
    winner = max(best.values(), key=scores.get)
    print(f"Best on the held-out videos: {', '.join(map(str, winner[1:4]))}")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--extractors", nargs="+", choices=EXTRACTORS, default=EXTRACTORS)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=["labels"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS)[1:])
    parser.add_argument("--cluster-sizes", nargs="+", type=positive, default=[16], metavar="N")
    parser.add_argument(
        "--epochs", nargs=2, type=positive, default=[8, 16], help="epochs to choose, and to test"
    )
    parser.add_argument(
        "--extractor-epochs",
        type=positive,
        help="epochs of the other extractors (default: 4 and 3)",
    )
    features.add_options(parser, CSV)
    parser.add_argument("--quick", action="store_true", help="a small run, to try it out")
    options = parser.parse_args(arguments)
    if options.quick:
        work = features.WORK / "quick"
        parser.set_defaults(**QUICK, csv=work / "beyond.csv", work=work)
        options = parser.parse_args(arguments)
    return options


def main(arguments=None):
    options = parse(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    frame_digits = training_frame_digits(options.videos)
    for extractor in options.extractors:
        folder = options.work / f"features_{options.videos}_{extractor}"
        prepare(extractor, folder, options)
        compare(extractor, folder, frame_digits, options)


def training_frame_digits(n_videos):
    """Return the digits on the frames of the training videos, -1 for noise."""
    # The digits depend on the random seed only, so images of one pixel are enough.
    images, labels = np.zeros((10, 1, 1), dtype=np.uint8), np.arange(10)
    return make_flash_mnist(images, labels, n_videos=n_videos, random_state=0).frame_digits


if __name__ == "__main__":
    main()
