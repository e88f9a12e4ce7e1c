"""
Beyond Table 1
==============

The videos of `flash_mnist_table1.py` and the public classes, with other choices than the authors':

- ten labels, one for each digit, in the place of 1,024 classes: a video counts where all ten are
  right;
- other extractors of 50 features than theirs: "longer", the same network without the log-softmax,
  trained for 16 epochs; "deeper", of `flash_mnist_deeper.py`; "longer+deeper" has the features of
  both side by side;
- every epoch puts the training frames together anew: each is replaced by a frame of any training
  video that shows the same digit, or none;
- Adam with batches of 512, the step size falling to 0 along a cosine.

    python examples/flash_mnist_beyond.py [--extractors authors longer longer+deeper]
        [--seeds 0 1 2] [--quick]

A tenth of the training videos is held out to choose the step size for each cluster size, with and
without the shifting operation; with it, the network is trained on all of them and scored on the
test videos once. Runs go to the CSV file as they are done, and are not run again.

    quick: few images, videos and epochs, on scikit-learn's digits where MNIST is not at hand
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import flash_mnist_table1 as table1
import numpy as np
import torch
from flash_mnist_deeper import DeeperExtractor
from joblib import delayed
from torch.nn.functional import affine_grid, grid_sample

from acluster import AttentionClusterClassifier, FeatureSets
from acluster.datasets import make_flash_mnist

CSV = table1.CSV.with_name("flash_mnist_beyond.csv")
STEP_SIZES = (0.003, 0.01, 0.03)
EXTRACTOR_EPOCHS = {"longer": 16, "deeper": 40}
EXTRACTORS = ["authors", *EXTRACTOR_EPOCHS]
DISTORTED_COPIES = 7
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
    """A network, how it is trained, and the videos that it is scored on."""

    extractor: str
    cluster_size: int
    shifting: bool
    learning_rate: float
    seed: int
    epochs: int
    videos: int
    part: str


def prepare(name, folder, options):
    """Make the features of an extractor.

    A twelfth of the training images is shown to nobody: of these are the videos held out.
    """
    parts = table1.make_parts(options.images, options.videos, options.test_videos)
    images, labels, n_videos = parts["train"]
    n = len(images) - len(images) // 12
    parts["held-out"] = table1.Part(images[n:], labels[n:], options.test_videos)
    images, labels = images[:n], labels[:n]
    if name != "authors":
        images, labels = with_distorted(images, labels)
    parts["train"] = table1.Part(images, labels, n_videos)
    table1.make_features(folder, make_extractor(name, n, options.extractor_epochs), parts)


def make_extractor(name, n_images, n_epochs):
    """An extractor that is not yet trained; that of the authors always as theirs."""
    if name == "authors":
        return table1.authors_extractor(n_images)
    n_epochs = n_epochs or EXTRACTOR_EPOCHS[name]
    if name == "deeper":
        return DeeperExtractor(n_epochs=n_epochs, random_state=0)
    return table1.authors_extractor(
        n_images,
        log_softmax=False,
        n_epochs=n_epochs,
        n_noisy_copies=1,
        learning_rate=0.004,
        learning_rate_schedule="one-cycle",
        batch_size=256,
        dropout=0.1,
    )


def with_distorted(images, labels):
    """The images and distorted copies of them, with their labels."""
    torch.manual_seed(0)
    blocks = np.array_split(images, math.ceil(len(images) / 4096))
    copies = [distort(block) for _ in range(DISTORTED_COPIES) for block in blocks]
    return np.concatenate([images, *copies]), np.tile(labels, 1 + DISTORTED_COPIES)


def distort(images):
    """Images turned by up to 12°, scaled by up to 10 % and moved by up to 2 pixels."""
    n, height, width = images.shape
    angle = torch.empty(n).uniform_(-math.pi / 15, math.pi / 15)
    scale = torch.empty(n).uniform_(0.9, 1.1)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    right, down = torch.empty(2, n).uniform_(-2, 2) * 2 / torch.tensor([[width], [height]])
    rows = torch.stack([cosine, -sine, right, sine, cosine, down], dim=1).view(n, 2, 3)
    grid = affine_grid(rows, (n, 1, height, width), align_corners=False)
    moved = grid_sample(torch.from_numpy(images[:, None]).float(), grid, align_corners=False)
    moved = moved.round().to(torch.uint8)[:, 0].numpy()
    # Interpolation blurs. The noise of videos has the grey levels of their images.
    level = np.searchsorted(share_up_to_level(images), share_up_to_level(moved))
    return level.astype(np.uint8)[moved]


def share_up_to_level(images):
    """The share of pixels up to each of 256 grey levels."""
    return np.bincount(images.ravel(), minlength=256).cumsum() / images.size


def shuffle_alike(X, frame_digits, generator):
    """The sets of frames with each in the place of another that shows the same digit."""
    values, offsets = X.packed()
    order = np.arange(len(values))
    for digit in range(-1, 10):
        members = np.flatnonzero(frame_digits == digit)
        order[members] = generator.permutation(members)
    return FeatureSets(values[order], offsets)


def fit(run, X, Y, frame_digits):
    """A classifier of ten labels, trained."""
    clf = AttentionClusterClassifier(
        cluster_size=run.cluster_size,
        shifting=run.shifting,
        optimizer="adam",
        max_grad_norm=None,
        dropout=0.5,
        batch_size=BATCH_SIZE,
        random_state=run.seed,
    )
    generator = np.random.default_rng(run.seed)
    for epoch in range(run.epochs):
        falling = 0.5 * (1 + math.cos(math.pi * epoch / run.epochs))
        clf.set_params(learning_rate=run.learning_rate * falling)
        clf.partial_fit(shuffle_alike(X, frame_digits, generator), Y, classes=range(10))
    return clf


def exact_set_accuracy(clf, X, Y):
    """Videos with all ten labels right, in %."""
    return table1.percent((clf.predict(X) == Y).all(axis=1))


def to_labels(target):
    """The class of a video as ten labels."""
    return (target[:, None] >> np.arange(10)) & 1


def perform(run, folder, frame_digits):
    """The row of a run."""
    torch.set_num_threads(1)
    X, y, X_scored, y_scored = table1.load_features(folder, run.part)
    started = time.perf_counter()
    clf = fit(run, X, to_labels(y), frame_digits.ravel())
    seconds = time.perf_counter() - started
    return {
        **run._asdict(),
        "accuracy": exact_set_accuracy(clf, X_scored, to_labels(y_scored)),
        "seconds": round(seconds, 1),
        **table1.surroundings(),
    }


def perform_all(runs, folder, frame_digits, options):
    """The accuracy of these runs; those that are not in the file yet are run now."""
    missing = [run for run in runs if run not in table1.read_rows(options.csv, Run)]
    tasks = (delayed(perform)(run, folder, frame_digits) for run in missing)
    for run, row in table1.perform_all(tasks, options.csv, options.n_jobs, Run):
        print(f"{run}: {row['accuracy']} %", flush=True)
    rows = table1.read_rows(options.csv, Run)
    return {run: float(rows[run]["accuracy"]) for run in runs}


def describe(folder):
    """How well an extractor alone does."""
    about = table1.read_about(folder)
    return f"frames with a digit {about['extractor_accuracy']}, union {about['union']}"


def compare(extractor, folder, frame_digits, options):
    """Choose step sizes on the videos held out, and print the accuracy on the test videos."""
    candidates = [
        Run(extractor, size, shifting, step, 0, options.epochs[0], options.videos, "held-out")
        for size in options.cluster_sizes
        for shifting in (False, True)
        for step in STEP_SIZES
    ]
    scores = perform_all(candidates, folder, frame_digits, options)
    best = {}
    for run in sorted(scores, key=scores.get):
        best[run.cluster_size, run.shifting] = run
    final = [
        run._replace(seed=seed, epochs=options.epochs[1], part="test")
        for run in best.values()
        for seed in options.seeds
    ]
    accuracy = perform_all(final, folder, frame_digits, options)
    print(f"\n{extractor} ({describe(folder)}; all in %)")
    print(f"{'N':>4} {'shifting':>9} {'step size':>10} {'held out':>9} {'test':>7}   by seed")
    for (size, shifting), run in sorted(best.items()):
        found = [accuracy[final_run] for final_run in final if final_run[1:3] == run[1:3]]
        print(
            f"{size:4} {shifting!s:>9} {run.learning_rate:10g} {scores[run]:9.1f} "
            f"{np.mean(found):7.1f}   " + ", ".join(map(str, found))
        )
    chosen = max(best.values(), key=scores.get)
    print(f"Best on the videos held out: N = {chosen.cluster_size}, shifting {chosen.shifting}.")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--extractors", nargs="+", choices=EXTRACTORS, default=EXTRACTORS)
    parser.add_argument(
        "--cluster-sizes", nargs="+", type=table1.positive, default=[1, 8, 32], metavar="N"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--epochs", nargs=2, type=table1.positive, default=[8, 30], help="to choose, and to test"
    )
    parser.add_argument(
        "--extractor-epochs",
        type=table1.positive,
        help="but the authors'; by default 16 and 40",
    )
    parser.add_argument(
        "--images", type=table1.positive, help="of the training images; by default all"
    )
    parser.add_argument("--videos", type=table1.positive, default=102_400, help="for training")
    parser.add_argument("--test-videos", type=table1.positive, default=10_240)
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count(), help="runs at a time")
    parser.add_argument("--csv", type=Path, default=CSV, help="where the rows go")
    parser.add_argument("--work", type=Path, default=table1.WORK, help="where features are kept")
    parser.add_argument("--quick", action="store_true", help="a small run, to see it work")
    options = parser.parse_args(arguments)
    if options.quick:
        work = table1.WORK / "quick"
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
    """The digits on the frames of the training videos; images of a pixel will do to draw them."""
    images, labels = np.zeros((10, 1, 1), dtype=np.uint8), np.arange(10)
    return make_flash_mnist(images, labels, n_videos=n_videos, random_state=0).frame_digits


if __name__ == "__main__":
    main()
