"""Accuracy of every way to compute, beside the plain one, over the same seeds.

    python benchmarks/accuracy.py [--datasets flash_mnist elephant] [--seeds 3] [--json FILE]

"plain" is `attend` set by set under torch's autograd, with gradients that are formed as a
whole; "torch" and "compiled" have the derivatives written out; "mixed" multiplies in bfloat16,
emulated where the processor has none. All follow the same seeds, so that they start from
the same weights and see the same batches. What is shown: the mean over the seeds, their
standard deviation, and the difference from "plain" seed by seed.

Flash-MNIST: N = 32, a quarter of the videos, the set of digits as one of 1,024 classes. elephant:
ten-fold cross-validation. The hyper-parameters are fixed; nothing is chosen here.
"""

import argparse
import json
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from unittest.mock import patch

import machine
import numpy as np
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acluster import AttentionClusterClassifier
from acluster.datasets import FrameExtractor, fetch_mnist, load_benchmark, make_flash_mnist
from acluster.nn import _compiled, _linear
from acluster.nn.pooling import attend_plainly
from acluster.preprocessing import LocalFeatureTransformer
from acluster.training import _device

WAYS = ("plain", "torch", "compiled", "mixed")


def way(name):
    """A context in which `fit` and `predict` compute in one of the ways."""
    patches = {
        "plain": [
            patch("acluster.nn._attention_cluster.attend", attend_plainly),
            patch.object(_linear, "_MIN_FACTORED_SIZE", float("inf")),
            patch.object(_compiled, "_INSTALLED", False),
        ],
        "torch": [patch.object(_compiled, "_INSTALLED", False)],
        "compiled": [],
        "mixed": [patch.object(_device, "is_faster_in_bfloat16", lambda device: True)],
    }[name]
    stack = ExitStack()
    for one in patches:
        stack.enter_context(one)
    return stack


class FlashMNIST:
    """The share of test videos with all digits right; the features are made once."""

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
        clf = AttentionClusterClassifier(
            cluster_size=32,
            optimizer="adam",
            learning_rate=0.01,
            batch_size=256,
            max_iter=self.epochs,
            tol=None,
            precision=precision,
            random_state=seed,
        )
        return clf.fit(self.X, self.y).score(self.X_test, self.y_test)


class Elephant:
    """The mean accuracy over ten folds, drawn anew for every seed."""

    def __init__(self):
        elephant = load_benchmark("elephant")
        self.X, self.y = elephant.data, elephant.target

    def accuracy(self, seed, precision):
        clf = AttentionClusterClassifier(
            cluster_size=64,
            optimizer="adam",
            learning_rate=0.01,
            batch_size=1000,
            max_iter=30,
            tol=None,
            dtype="float32",
            precision=precision,
            random_state=seed,
        )
        model = make_pipeline(LocalFeatureTransformer(StandardScaler()), clf)
        folds = StratifiedKFold(10, shuffle=True, random_state=seed)
        return cross_val_score(model, self.X, self.y, cv=folds).mean()


DATASETS = {"flash_mnist": FlashMNIST, "elephant": Elephant}


def study(dataset, n_seeds):
    """The accuracy (%) of every way and seed."""
    found = {name: [] for name in WAYS}
    for seed in range(n_seeds):
        for name in WAYS:
            precision = "mixed" if name == "mixed" else "full"
            with way(name):
                found[name].append(100 * dataset.accuracy(seed, precision))
            print(f"  seed {seed}, {name}: {found[name][-1]:.2f} %", flush=True)
    return found


def show(name, found):
    print(f"\n{name}: accuracy (%), and the difference from plain over the same seeds")
    for label, percent in found.items():
        differences = np.subtract(percent, found["plain"])
        print(
            f"  {label:10} {np.mean(percent):6.2f} ± {np.std(percent, ddof=1):.2f}   "
            f"{differences.mean():+.2f} ({differences.min():+.2f} to {differences.max():+.2f})"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--seeds", type=int, default=3, help="2 or more")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("a spread needs two seeds or more")
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
