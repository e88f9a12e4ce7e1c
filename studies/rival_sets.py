"""Load the data sets of `rivals.py`, `portfolio.py` and `defaults.py`.

Every data set becomes a `Problem`: items, labels and the splits of its protocol. Features that are
slow to extract are saved once, as stores under `output/rivals/`.
"""

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import flash_mnist_features
import numpy as np
import utd_mhad

from acluster import FeatureSets, MultimodalFeatureSets, open_feature_sets, save_feature_sets
from acluster.datasets import fetch_mnist, load_benchmark, load_fsdd

WORK = Path(__file__).resolve().parent / "output" / "rivals"


class Problem(NamedTuple):
    """Items, their labels, and the splits to train and test on."""

    X: Any
    y: np.ndarray
    folds: Callable[[int], list]  # from a seed to a list of (train, test) indices
    seeds: range = range(3)
    max_epochs: int | None = None  # limit for networks whose default takes too long


def benchmark(name):
    """Return a benchmark with its published folds or split."""
    data = load_benchmark(name)
    if "folds" in data:
        given = dict(enumerate(data.folds))  # by repetition
        return Problem(data.data, data.target, lambda seed: given.get(seed, []), range(len(given)))
    return Problem(data.data, data.target, lambda seed: [(data.train_indices, data.test_indices)])


@cache
def actions():
    """Return the local features of the clips of UTD-MHAD, extracted once."""
    store = WORK / "utd_mhad.zarr"
    return open_feature_sets(store) if store.exists() else utd_mhad.local_features(store)


def actions_of(*names):
    """Return UTD-MHAD with the given sensors and the official split by subject."""
    X = actions()
    is_train = X.group % 2 == 1
    split = [(np.flatnonzero(is_train), np.flatnonzero(~is_train))]
    sets = {name: X[name].load() for name in names}
    chosen = MultimodalFeatureSets(sets) if len(names) > 1 else sets[names[0]]
    return Problem(chosen, X.label, lambda seed: split)


def spoken_digits():
    """Return the spoken digits with their published split."""
    store = WORK / "fsdd.zarr"
    if not store.exists():
        digits = load_fsdd()
        is_test = np.isin(np.arange(len(digits.data)), digits.test_indices)
        save_feature_sets(store, digits.data, label=digits.target, group=is_test.astype(int))
    X = open_feature_sets(store)
    split = [(np.flatnonzero(X.group == 0), np.flatnonzero(X.group == 1))]
    return Problem(X.load(), X.label, lambda seed: split)


def flash_mnist():
    """Return Flash-MNIST with the extractor of the authors."""
    size = {"images": None, "videos": 20_480, "test_videos": 10_240}
    options = argparse.Namespace(**size, csv=flash_mnist_features.RESULTS / "rivals.csv")
    parts = flash_mnist_features.make_parts(options)
    folder = WORK / "flash_mnist"
    extractor = flash_mnist_features.authors_extractor(len(parts["train"].images))
    flash_mnist_features.make_features(folder, extractor, parts)
    X, y, X_test, y_test = flash_mnist_features.load_features(folder)
    both = X.from_arrays([*X, *X_test])
    split = [(np.arange(len(y)), np.arange(len(y), len(y) + len(y_test)))]
    return Problem(both, np.concatenate([y, y_test]), lambda seed: split, max_epochs=10)


def bags_of_digits(n_bags=200):
    """Return bags of about ten 14 x 14 MNIST images; every other bag contains a nine."""
    mnist, draw = fetch_mnist(), np.random.default_rng(0)
    pixels = mnist.train_images.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
    is_nine = mnist.train_labels == 9
    y = np.arange(n_bags) % 2
    bags = []
    for has_nine in y:
        size = max(2, round(draw.normal(10, 2)))
        images = draw.choice(np.flatnonzero(~is_nine), size)
        if has_nine:
            images[draw.integers(size)] = draw.choice(np.flatnonzero(is_nine))
        bags.append(pixels[images].astype(np.float32))
    everything = [(np.arange(n_bags), np.arange(0))]
    return Problem(FeatureSets.from_arrays(bags), y, lambda seed: everything)


SETS = {
    "musk1": lambda: benchmark("musk1"),
    "elephant": lambda: benchmark("elephant"),
    "birds": lambda: benchmark("birds_winter_wren"),
    "japanese vowels": lambda: benchmark("japanese_vowels"),
    "skeleton": lambda: actions_of("skeleton"),
    "inertial": lambda: actions_of("inertial"),
    "depth": lambda: actions_of("depth"),
    "three sensors": lambda: actions_of("skeleton", "inertial", "depth"),
    "spoken digits": spoken_digits,
    "flash-mnist": flash_mnist,
    "tiger": lambda: benchmark("tiger"),
    "fox": lambda: benchmark("fox"),
    "newsgroups": lambda: benchmark("newsgroups2"),
    "colon": lambda: benchmark("colon"),
    "MSR-Action3D": lambda: benchmark("msr_action3d"),
}


@cache
def load(name):
    """Return a problem by its name, loaded once per process."""
    return bags_of_digits() if name == "bags of digits" else SETS[name]()
