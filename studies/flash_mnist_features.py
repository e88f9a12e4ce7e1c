"""Extract the local features of Flash-MNIST videos once, and store them for several studies.

An extractor is trained on single frames. It then turns the frames of the training and test videos
into sets of local features, which are saved as zarr stores.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch
from result_rows import keep, percent, positive, read_rows
from sklearn.callback import ProgressBar

from acluster import open_feature_sets, save_feature_sets
from acluster.datasets import (
    FrameExtractor,
    fetch_mnist,
    get_data_home,
    load_digits_28,
    make_flash_mnist,
)

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "docs" / "results"
WORK = HERE / "output" / "flash_mnist_table1"


class Part(NamedTuple):
    """The source images of the training or test videos, and the number of videos."""

    images: np.ndarray
    labels: np.ndarray
    n_videos: int


def image_source():
    """Return the name of the images: MNIST if the data home has it, else scikit-learn's digits."""
    return "MNIST" if (get_data_home() / "mnist").is_dir() else "scikit-learn's digits"


def load_digit_images():
    """Return the images of `image_source`."""
    return fetch_mnist() if image_source() == "MNIST" else load_digits_28()


def make_parts(options):
    """Return the training and test parts of the paper, reduced as the options say."""
    digits, source = load_digit_images(), image_source()
    if source != "MNIST" and options.csv.resolve().parent == RESULTS:
        raise SystemExit(
            f"{options.csv} holds results on MNIST, but the data home has no MNIST, only {source}. "
            "Download it with acluster.datasets.fetch_mnist, pass another file to --csv, or use "
            "--quick."
        )
    images, labels = digits.train_images[: options.images], digits.train_labels[: options.images]
    return {
        "train": Part(images, labels, options.videos),
        "test": Part(digits.test_images, digits.test_labels, options.test_videos),
    }


def authors_extractor(n_images, **parameters):
    """Return the untrained extractor of the authors, for `n_images` training images."""
    extractor = FrameExtractor(n_noise_images=n_images // 2, random_state=0, **parameters)
    return extractor.set_callbacks(ProgressBar())


def make_features(folder, extractor, parts):
    """Write a store with the 25 local features of each video, for every part.

    An existing folder is kept if it was made from the same data and extractor. The extractor is
    trained on the images of "train" and scored on the videos of "test". The position of a part in
    `parts` is the random seed of its videos. The trained extractor is saved beside the folder, to
    compute the same features on another machine.
    """
    made_of = {
        name: f"{part.n_videos} videos, {len(part.images)} images" for name, part in parts.items()
    }
    made_of = {"digits": image_source(), "extractor": describe(extractor), **made_of}
    if folder.exists():
        found = {name: read_about(folder).get(name) for name in made_of}
        if found != made_of:
            raise SystemExit(
                f"{folder} holds features made from {found}, but {made_of} is requested. Remove "
                "the folder, or pass another one to --work."
            )
        return
    extractor = trained(
        extractor, parts["train"], folder.with_name(f"{folder.name}.extractor.joblib")
    )
    unfinished = folder.with_suffix(f".unfinished{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    for seed, (name, part) in enumerate(parts.items()):
        made = make_flash_mnist(*part[:2], n_videos=part.n_videos, random_state=seed)
        sets = extractor.transform(made.videos)
        save_feature_sets(unfinished / f"{name}.zarr", sets, label=made.target)
        if name == "test":
            about = {**made_of, **score_extractor(extractor, made)}
    print(json.dumps(about), flush=True)
    (unfinished / "about.json").write_text(json.dumps(about))
    unfinished.rename(folder)


def trained(extractor, part, path):
    """Return the trained extractor saved at `path`, or train this one and save it there."""
    # The number of threads changes the rounding, and training amplifies the difference.
    torch.set_num_threads(1)
    made_of = [image_source(), describe(extractor), len(part.images)]
    if path.exists():
        kept_of, kept = joblib.load(path)
        if kept_of == made_of:
            return kept
    print("Training the extractor of local features.", flush=True)
    extractor.fit(part.images, part.labels)
    keep((made_of, extractor), path)
    return extractor


def describe(extractor):
    """Return the class and the parameters of an extractor."""
    parameters = ", ".join(f"{name}={value!r}" for name, value in extractor.get_params().items())
    return f"{type(extractor).__name__}({parameters})"


def score_extractor(extractor, flash_mnist):
    """Return the accuracy of an extractor on single frames, in percent.

    "union" is the accuracy on whole videos of the union of the digits predicted for their frames.
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


def load_features(folder, scored="test"):
    """Return the training sets and classes, then those of the part to score on."""
    stores = [open_feature_sets(folder / f"{part}.zarr") for part in ("train", scored)]
    return [found for store in stores for found in (store.load(), store.label)]


def read_about(folder):
    """Return the origin of the features and the scores of their extractor."""
    return json.loads((folder / "about.json").read_text())


def read_rows_of(folder, path, key):
    """Return the rows of a CSV file that come from these features; see `read_rows`."""
    accuracy = str(read_about(folder)["extractor_accuracy"])
    rows = read_rows(path, key)
    return {run: row for run, row in rows.items() if row["extractor_accuracy"] == accuracy}


def add_options(parser, csv):
    """Add the options that the Flash-MNIST studies share."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="seeds of the networks")
    parser.add_argument("--images", type=positive, help="training images (default: all)")
    parser.add_argument("--videos", type=positive, default=102_400, help="training videos")
    parser.add_argument("--test-videos", type=positive, default=10_240, help="test videos")
    parser.add_argument(
        "--n-jobs", type=int, default=os.cpu_count(), help="parallel runs, 1 GB each"
    )
    parser.add_argument("--csv", type=Path, default=csv, help="results file")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for features")
