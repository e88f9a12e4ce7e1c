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
import csv
import json
import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch
from flash_mnist import load_digit_images
from joblib import Parallel, delayed
from sklearn.callback import ProgressBar

from acluster import AttentionClusterClassifier, open_feature_sets, save_feature_sets
from acluster.datasets import FrameExtractor, make_flash_mnist

HERE = Path(__file__).parent
CSV = HERE.parent / "docs" / "results" / "flash_mnist_table1.csv"
WORK = HERE / "output" / "flash_mnist_table1"

METHODS = {
    "average": {"weighting": "average", "shifting": False},
    "fc1": {"weighting": "fc1", "shifting": False},
    "fc2": {"weighting": "fc2", "shifting": False},
    "fc1+shift": {"weighting": "fc1", "shifting": True},
    "fc2+shift": {"weighting": "fc2", "shifting": True},
}
RECIPE = (64, 0.001)  # the authors' batch size and step size
CLUSTER_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
# The authors have 100. Large clusters settle in fewer, and take longer for each; with less than a
# few percent a curve does not rise any more.
EPOCHS = {
    method: dict(zip(CLUSTER_SIZES, n_epochs, strict=True))
    for methods, n_epochs in (
        (("average",), (20, 20, 20, 20, 20, 20, 20, 12)),
        (("fc1", "fc2"), (20, 20, 20, 60, 100, 60, 30, 15)),
        (("fc1+shift", "fc2+shift"), (60, 100, 100, 60, 40, 30, 20, 12)),
    )
    for method in methods
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

    def file(self, work):
        """Where its last epoch is kept."""
        return work / "{}_{}_seed{}_batch{}_step{:g}.joblib".format(*self[:-1])

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


class Part(NamedTuple):
    """What the videos for training or for testing are made of."""

    images: np.ndarray
    labels: np.ndarray
    n_videos: int


def make_parts(n_images, n_videos, n_test_videos):
    """The paper's parts, of fewer images where `n_images` is a number."""
    _, digits = load_digit_images()
    return {
        "train": Part(digits.train_images[:n_images], digits.train_labels[:n_images], n_videos),
        "test": Part(digits.test_images, digits.test_labels, n_test_videos),
    }


def authors_extractor(n_images, **parameters):
    """Their network for local features, to be trained on so many images."""
    extractor = FrameExtractor(n_noise_images=n_images // 2, random_state=0, **parameters)
    return extractor.set_callbacks(ProgressBar())


def make_features(folder, extractor, parts):
    """Sets of 25 local features from the videos of each part, made once, as a store for each.

    The extractor learns from the images of "train" and is judged on the videos of "test". The
    place of a part among the others is the seed of its videos.
    """
    made_of = {
        name: f"{part.n_videos} videos, {len(part.images)} images" for name, part in parts.items()
    }
    made_of = {"digits": load_digit_images()[0], "extractor": describe(extractor), **made_of}
    if folder.exists():
        found = {name: read_about(folder).get(name) for name in made_of}
        if found != made_of:
            raise SystemExit(
                f"{folder} holds features made of {found}, asked for are {made_of}. Remove the "
                "folder, or give another to --work."
            )
        return
    print("Training the extractor of local features.", flush=True)
    extractor.fit(parts["train"].images, parts["train"].labels)
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for seed, (name, part) in enumerate(parts.items()):
        made = make_flash_mnist(*part[:2], n_videos=part.n_videos, random_state=seed)
        sets = extractor.transform(made.videos)
        save_feature_sets(unfinished / f"{name}.zarr", sets, label=made.target)
        if name == "test":
            about = {**made_of, **judge(extractor, made)}
    print(json.dumps(about), flush=True)
    (unfinished / "about.json").write_text(json.dumps(about))
    unfinished.rename(folder)


def describe(extractor):
    """Its class and parameters."""
    parameters = ", ".join(f"{name}={value!r}" for name, value in extractor.get_params().items())
    return f"{type(extractor).__name__}({parameters})"


def judge(extractor, flash_mnist):
    """How well an extractor tells single frames, in %.

    "union" is what these alone come to: videos whose set of digits is that of the digits named
    in their frames.
    """
    shape = flash_mnist.frame_digits.shape
    frames = flash_mnist.videos.reshape(-1, *flash_mnist.videos.shape[2:])
    named = extractor.predict(frames).reshape(shape)
    with_digit = flash_mnist.frame_digits >= 0
    union = (named[..., None] == range(10)).any(axis=1)
    return {
        "extractor_accuracy": percent((named == flash_mnist.frame_digits)[with_digit]),
        "noise_accuracy": percent((named == flash_mnist.frame_digits)[~with_digit]),
        "union": percent((union == flash_mnist.digits).all(axis=1)),
    }


def percent(hits):
    return round(100 * float(hits.mean()), 2)


def load_features(folder, scored="test"):
    """Training sets, their classes, and the same of the part to be scored on."""
    stores = [open_feature_sets(folder / f"{part}.zarr") for part in ("train", scored)]
    return [found for store in stores for found in (store.load(), store.label)]


def read_about(features):
    """How well the extractor of these features tells single frames: see `judge`."""
    return json.loads((features / "about.json").read_text())


def train(cell, n_epochs, features, cells, parent):
    """Train a cell to the end, from where it was left; its row of the table.

    Where the process `parent` is gone, nobody waits for it, and another may train the cell.
    """
    torch.set_num_threads(1)
    path = cell.file(cells)
    state = joblib.load(path) if path.exists() else None
    clf, curve, seconds = state or (cell.classifier(), [], 0.0)
    X, y, X_test, y_test = load_features(features)
    while len(curve) < n_epochs:
        if parent not in (os.getpid(), os.getppid()):
            raise SystemExit("The process that asked for this cell is gone.")
        started = time.perf_counter()
        clf.partial_fit(X, y, classes=range(1024))
        seconds += time.perf_counter() - started
        curve.append(round(100 * clf.score(X_test, y_test), 2))
        keep((clf, curve, seconds), path)
        print(f"{cell}: epoch {len(curve)} of {n_epochs}, {curve[-1]:.1f} %", flush=True)
    return {
        **cell._asdict(),
        "epochs": len(curve),
        "accuracy": curve[-1],
        "seconds": round(seconds, 1),
        "extractor_accuracy": read_about(features)["extractor_accuracy"],
        **surroundings(),
        "curve": " ".join(map(str, curve)),
    }


def keep(state, path):
    """Replace what was kept in one step."""
    unfinished = path.with_suffix(f".unfinished{os.getpid()}")
    joblib.dump(state, unfinished)
    os.replace(unfinished, path)


def surroundings():
    """What a figure may depend on beside the cell."""
    git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    names = ("acluster", "torch", "scikit-learn", "numpy")
    return {
        "device": "cuda" if torch.cuda.is_available() else platform.machine(),
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "commit": commit or "unknown",
    }


def read_rows(path, key=Cell):
    """The rows of a CSV file by cell, or by another NamedTuple of some of the columns."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {**key.__annotations__}
    kinds.update({name: "True".__eq__ for name, kind in kinds.items() if kind is bool})
    return {key(**{name: kind(row[name]) for name, kind in kinds.items()}): row for row in rows}


def perform_all(tasks, path, n_jobs, key=Cell):
    """Run tasks, which return rows, in parallel, and yield each row after it is in the file."""
    for row in Parallel(n_jobs, return_as="generator_unordered")(tasks):
        done = key(*(row[name] for name in key._fields))
        # Read anew: another command may have written rows meanwhile.
        rows = {**read_rows(path, key), done: row}
        write_csv([rows[one] for one in sorted(rows)], path)
        yield done, row


def write_csv(rows, path):
    """Rows, with the columns of the first, in the place of what was there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".unfinished{os.getpid()}")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)


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


def positive(text):
    """A number of things, of which there is one at least."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument(
        "--cluster-sizes", nargs="+", type=positive, default=CLUSTER_SIZES, metavar="N"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument(
        "--epochs", type=positive, help="of every cell; by default fewer for large N"
    )
    parser.add_argument("--batch-size", type=positive, default=RECIPE[0])
    parser.add_argument("--learning-rate", type=float, default=RECIPE[1])
    parser.add_argument("--images", type=positive, help="of the training images; by default all")
    parser.add_argument("--videos", type=positive, default=102_400, help="for training")
    parser.add_argument("--test-videos", type=positive, default=10_240)
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count(), help="cells at a time")
    parser.add_argument("--csv", type=Path, default=CSV, help="where the rows go")
    parser.add_argument("--work", type=Path, default=WORK, help="where unfinished cells are kept")
    parser.add_argument("--quick", action="store_true", help="a small run, to see it work")
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(**QUICK, csv=WORK / "quick.csv", work=WORK / "quick")
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
    expense = {"fc2": 2, "fc2+shift": 2}
    return dict(
        sorted(
            cells.items(),
            key=lambda item: -item[1] * (4 + item[0].cluster_size) * expense.get(item[0].method, 1),
        )
    )


def main(arguments=None):
    options = parse(arguments)
    features = options.work / f"features_{options.videos}"
    cells_folder = options.work / f"cells_{options.videos}"
    cells_folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(options.csv)
    to_run = {
        cell: n_epochs
        for cell, n_epochs in cells_of(options).items()
        if cell not in rows or int(rows[cell]["epochs"]) < n_epochs
    }
    if to_run:
        parts = make_parts(options.images, options.videos, options.test_videos)
        make_features(features, authors_extractor(len(parts["train"].images)), parts)
    tasks = (delayed(train)(*item, features, cells_folder, os.getpid()) for item in to_run.items())
    finished = perform_all(tasks, options.csv, options.n_jobs)
    for n_done, (cell, row) in enumerate(finished, start=1):
        print(f"{n_done} of {len(to_run)} cells: {cell}: {row['accuracy']:.1f} %", flush=True)
    show(read_rows(options.csv), (options.batch_size, options.learning_rate, options.videos))


if __name__ == "__main__":
    main()
