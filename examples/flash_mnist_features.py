"""
Local features of Flash-MNIST videos, as stores
===============================================

What the scripts about Flash-MNIST share: an extractor learns from single frames, and turns the
frames of training and test videos into sets of local features, once.
"""

import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch
from flash_mnist import load_digit_images
from result_rows import keep, percent, positive, read_rows
from sklearn.callback import ProgressBar

from acluster import open_feature_sets, save_feature_sets
from acluster.datasets import FrameExtractor, make_flash_mnist

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "docs" / "results"
WORK = HERE / "output" / "flash_mnist_table1"


class Part(NamedTuple):
    """What the videos for training or for testing are made of."""

    images: np.ndarray
    labels: np.ndarray
    n_videos: int


def make_parts(options):
    """The paper's parts, smaller where the options say so."""
    source, digits = load_digit_images()
    if source != "MNIST" and options.csv.resolve().parent == RESULTS:
        raise SystemExit(
            f"{options.csv} has rows of MNIST, which is not in the data home: here are {source}. "
            "Fetch it with acluster.datasets.fetch_mnist, give another file to --csv, or try "
            "--quick."
        )
    images, labels = digits.train_images[: options.images], digits.train_labels[: options.images]
    return {
        "train": Part(images, labels, options.videos),
        "test": Part(digits.test_images, digits.test_labels, options.test_videos),
    }


def authors_extractor(n_images, **parameters):
    """Their network for local features, not yet trained; of so many images they have."""
    extractor = FrameExtractor(n_noise_images=n_images // 2, random_state=0, **parameters)
    return extractor.set_callbacks(ProgressBar())


def make_features(folder, extractor, parts):
    """Sets of 25 local features from the videos of each part, made once, as a store for each.

    The extractor learns from the images of "train" and is judged on the videos of "test". The
    place of a part among the others is the seed of its videos. The trained extractor is kept
    beside the folder, for the same features on another machine.
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
            about = {**made_of, **judge(extractor, made)}
    print(json.dumps(about), flush=True)
    (unfinished / "about.json").write_text(json.dumps(about))
    unfinished.rename(folder)


def trained(extractor, part, path):
    """The extractor that was kept at `path`, or this one, trained and kept there."""
    torch.set_num_threads(1)  # the number of threads changes the last digits, and so all others
    made_of = [load_digit_images()[0], describe(extractor), len(part.images)]
    if path.exists():
        kept_of, kept = joblib.load(path)
        if kept_of == made_of:
            return kept
    print("Training the extractor of local features.", flush=True)
    extractor.fit(part.images, part.labels)
    keep((made_of, extractor), path)
    return extractor


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


def load_features(folder, scored="test"):
    """Training sets, their classes, and the same of the part to be scored on."""
    stores = [open_feature_sets(folder / f"{part}.zarr") for part in ("train", scored)]
    return [found for store in stores for found in (store.load(), store.label)]


def read_about(folder):
    """What these features are made of, and how well their extractor does: see `judge`."""
    return json.loads((folder / "about.json").read_text())


def read_rows_of(folder, path, key):
    """The rows of a CSV file that come from these features; see `read_rows`."""
    accuracy = str(read_about(folder)["extractor_accuracy"])
    rows = read_rows(path, key)
    return {run: row for run, row in rows.items() if row["extractor_accuracy"] == accuracy}


def add_options(parser, csv):
    """The options that all these scripts have."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the networks")
    parser.add_argument("--images", type=positive, help="of the training images; by default all")
    parser.add_argument("--videos", type=positive, default=102_400, help="for training")
    parser.add_argument("--test-videos", type=positive, default=10_240)
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count(), help="at a time, 1 GB each")
    parser.add_argument("--csv", type=Path, default=csv, help="where the rows go")
    parser.add_argument("--work", type=Path, default=WORK, help="where features are kept")
