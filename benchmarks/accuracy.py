"""Compare the accuracy of the back ends for pooling and gradients, over the same seeds.

    python benchmarks/accuracy.py [--datasets flash_mnist elephant] [--seeds 3] [--json FILE]

"plain" computes `attend` set by set with torch's autograd, and materializes all gradients. "torch"
and "compiled" use explicit derivatives. "mixed" multiplies in bfloat16, which is emulated on
processors without it. The same seed gives the same initial weights and batches everywhere. The
script prints the mean over seeds, the standard deviation, and the paired difference from "plain".

Flash-MNIST is trained with N = 32 on a quarter of the videos; the set of digits is one of 1,024
classes. elephant uses ten-fold cross-validation. The hyperparameters are fixed. The vowels and
musk1 train the default classifier, whose whole training step is then compiled.
"""

import argparse
import json
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from unittest.mock import patch

import machine
import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acluster import AttentionClusterClassifier
from acluster.datasets import FrameExtractor, fetch_mnist, load_benchmark, make_flash_mnist
from acluster.estimators import _fitting, _precision
from acluster.nn import _compiled, _linear
from acluster.nn.pooling import attend_plainly
from acluster.preprocessing import LocalFeatureTransformer

WAYS = ("plain", "torch", "compiled", "mixed")


def way(name):
    """Return a context in which `fit` and `predict` use the given back end."""
    patches = {
        "plain": [
            patch("acluster.nn._attention_cluster.attend", attend_plainly),
            patch.object(_linear, "_MIN_FACTORED_SIZE", float("inf")),
            patch.object(_compiled, "_INSTALLED", False),
        ],
        "torch": [patch.object(_compiled, "_INSTALLED", False)],
        "compiled": [],
        "mixed": [
            patch.object(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}),
            patch.object(_precision, "bfloat16_gain", lambda trial: float("inf")),
            patch.object(_fitting, "_MAX_OPERATIONS", 0),  # compiled steps are in full precision
        ],
    }[name]
    stack = ExitStack()
    for one in patches:
        stack.enter_context(one)
    return stack


class FlashMNIST:
    """Accuracy on the test videos of Flash-MNIST; the features are extracted once."""

    def __init__(self, n_videos=25_600, n_test_videos=10_240, epochs=15):
        self.epochs = epochs
        mnist = fetch_mnist()
        extractor = FrameExtractor(
            log_softmax=False, n_noisy_copies=1, n_noise_images=6_000, random_state=0
        ).fit(mnist.train_images, mnist.train_labels)
        train = make_flash_mnist(
            mnist.train_images, mnist.train_labels, n_videos=n_videos, random_state=0
        )
        test = make_flash_mnist(
            mnist.test_images, mnist.test_labels, n_videos=n_test_videos, random_state=1
        )
        self.X, self.y = extractor.transform(train.videos), train.target
        self.X_test, self.y_test = extractor.transform(test.videos), test.target

    def accuracy(self, seed, precision):
        """Return the test accuracy of one fit."""
        clf = AttentionClusterClassifier(
            cluster_size=32,
            n_attended=None,
            optimizer="adam",
            learning_rate=0.01,
            learning_rate_schedule="constant",
            batch_size=256,
            max_iter=self.epochs,
            tol=None,
            standardize=False,
            precision=precision,
            random_state=seed,
        )
        return clf.fit(self.X, self.y).score(self.X_test, self.y_test)


class Elephant:
    """Mean accuracy over ten folds, which depend on the seed."""

    def __init__(self):
        elephant = load_benchmark("elephant")
        self.X, self.y = elephant.data, elephant.target

    def accuracy(self, seed, precision):
        """Return the mean accuracy over ten folds."""
        clf = AttentionClusterClassifier(
            cluster_size=64,
            n_attended=None,
            optimizer="adam",
            learning_rate=0.01,
            learning_rate_schedule="constant",
            batch_size=1000,
            max_iter=30,
            tol=None,
            standardize=False,
            dtype="float32",
            precision=precision,
            random_state=seed,
        )
        model = make_pipeline(LocalFeatureTransformer(StandardScaler()), clf)
        folds = StratifiedKFold(10, shuffle=True, random_state=seed)
        return cross_val_score(model, self.X, self.y, cv=folds).mean()


class Defaults:
    """Accuracy of the default classifier on a published split, or on the folds of a repetition."""

    def __init__(self, name):
        self.data = load_benchmark(name)

    def accuracy(self, seed, precision):
        """Return the mean accuracy over the folds."""
        data = self.data
        split = [(data.train_indices, data.test_indices)] if "train_indices" in data else None
        folds = split or data.folds[seed % len(data.folds)]
        clf = AttentionClusterClassifier(precision=precision, random_state=seed)
        return cross_val_score(clf, data.data, data.target, cv=folds).mean()


DATASETS = {
    "flash_mnist": FlashMNIST,
    "elephant": Elephant,
    "japanese_vowels": lambda: Defaults("japanese_vowels"),
    "musk1": lambda: Defaults("musk1"),
}


def study(dataset, n_seeds):
    """Return the accuracy in percent of every back end and seed."""
    found = {name: [] for name in WAYS}
    for seed in range(n_seeds):
        for name in WAYS:
            precision = "mixed" if name == "mixed" else "full"
            with way(name):
                found[name].append(100 * dataset.accuracy(seed, precision))
            print(f"  seed {seed}, {name}: {found[name][-1]:.2f} %", flush=True)
    return found


def show(name, found):
    """Print the mean of every back end, and its difference from "plain"."""
    print(f"\n{name}: accuracy (%), and the paired difference from plain over seeds")
    for label, percent in found.items():
        differences = np.subtract(percent, found["plain"])
        print(
            f"  {label:10} {np.mean(percent):6.2f} ± {np.std(percent, ddof=1):.2f}   "
            f"{differences.mean():+.2f} ({differences.min():+.2f} to {differences.max():+.2f})"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, at least 2")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2 for a standard deviation")
    report = {
        "date": date.today().isoformat(),
        "machine": machine.device_name("cpu"),
        "accuracy": {},
    }
    for name in options.datasets:
        print(f"{name}:")
        report["accuracy"][name] = study(DATASETS[name](), options.seeds)
        show(name, report["accuracy"][name])
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
