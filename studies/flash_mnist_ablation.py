"""Ablate the shifting operation on Flash-MNIST.

The shifting operation is an affine map with two learned scalars per unit, followed by a
normalization. This study replaces it by each of its parts. It uses the features of
`flash_mnist_table1.py`, and those of an extractor without the authors' log-softmax:

- none: v, the weighted average of a unit;
- norm: v / (√N ‖v‖);
- affine: αv + β;
- shifting: both (equation 7);
- per dimension: both, with a separate α and β for every component of every unit.

    python studies/flash_mnist_ablation.py [--cluster-size 8] [--epochs 40] [--seeds 0 1]

The networks consist of the modules of `acluster.nn`. A plain torch loop trains them with Adam,
batch size 256, learning rate 0.002 and dropout 0.5. Finished runs are rows of the CSV file and are
not repeated.
"""

import argparse
import os
import time
from itertools import product
from typing import NamedTuple

import flash_mnist_features as features
import numpy as np
import torch
from joblib import delayed
from result_rows import environment, percent, positive, read_rows, run_all, stop_if_orphaned
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from acluster.inspection import unit_similarity
from acluster.nn import DropoutLinear, FC1Weighting, attend, attention_weights

CSV = features.RESULTS / "flash_mnist_ablation.csv"
FEATURES = {"log-softmax": True, "plain": False}
BATCH_SIZE, LEARNING_RATE, DROPOUT = 256, 0.002, 0.5


class Run(NamedTuple):
    """A network and its training settings."""

    features: str
    variant: str
    cluster_size: int
    seed: int
    epochs: int
    videos: int


class Variant(nn.Module):
    """A part of the shifting operation, or all of it, for units of shape (n, N, M)."""

    def __init__(self, name, n_units, n_features):
        super().__init__()
        width = n_features if name == "per dimension" else 1
        std = n_units**-0.25  # the initialization of the authors' code
        self.is_affine = name in ("affine", "shifting", "per dimension")
        self.is_normal = name in ("norm", "shifting", "per dimension")
        if self.is_affine:
            self.alpha = nn.Parameter(std * torch.randn(n_units, 1).expand(-1, width).clone())
            self.beta = nn.Parameter(std * torch.randn(n_units, 1).expand(-1, width).clone())

    def forward(self, v):
        if self.is_affine:
            v = torch.addcmul(self.beta, self.alpha, v)
        return normalize(v, dim=-1) * v.shape[1] ** -0.5 if self.is_normal else v


VARIANTS = ("none", "norm", "affine", "shifting", "per dimension")


class Network(nn.Module):
    """An attention cluster with FC1 weighting, a variant of shifting, and a linear layer."""

    def __init__(self, variant, n_units, n_features, n_classes):
        super().__init__()
        self.weighting = FC1Weighting(n_features, n_units)
        self.variant = Variant(variant, n_units, n_features)
        self.linear = DropoutLinear(n_units * n_features, n_classes, DROPOUT)

    def forward(self, values, offsets):
        pooled = attend(values, offsets, self.weighting(values))
        return self.linear(self.variant(pooled).flatten(1))


def packed(X, items):
    """Return the packed values and offsets of the sets, as tensors."""
    values, offsets = X[items].packed()
    return torch.from_numpy(values.copy()), torch.from_numpy(offsets)


def perform(run, folder, parent):
    """Train and score the network of a run, and return its row."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    X, y, X_test, y_test = features.load_features(folder)
    network = Network(run.variant, run.cluster_size, X.n_features, 1024)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    classes = torch.from_numpy(y)
    for epoch in range(run.epochs):
        stop_if_orphaned(parent)
        network.train()
        started = time.perf_counter()
        for items in torch.randperm(len(X)).split(BATCH_SIZE):
            optimizer.zero_grad()
            cross_entropy(network(*packed(X, items.numpy())), classes[items]).backward()
            optimizer.step()
        seconds = time.perf_counter() - started
        print(
            f"{run.features}, {run.variant}, seed {run.seed}: epoch {epoch + 1} of {run.epochs}, "
            f"{seconds:.1f} s",
            flush=True,
        )
    accuracy, similarity = evaluate(network.eval(), X_test, y_test)
    return {
        **run._asdict(),
        "accuracy": accuracy,
        "similarity": similarity,
        "extractor_accuracy": features.read_about(folder)["extractor_accuracy"],
        **environment(),
    }


@torch.inference_mode()
def evaluate(network, X, y):
    """Return the accuracy in percent and the mean cosine similarity of two units' attention."""
    values, offsets = packed(X, slice(None))
    accuracy = percent(network(values, offsets).argmax(dim=1).numpy() == y)
    a = attention_weights(offsets, network.weighting(values)).numpy()
    similarity = unit_similarity(np.split(a, offsets.numpy()[1:-1]))
    pairs = ~np.eye(len(similarity), dtype=bool)
    return accuracy, round(similarity[pairs].mean(), 3) if pairs.any() else np.nan


def share_of_ones(X):
    """Return the share of the local features' squared norm along the vector (1, …, 1)."""
    values = X[:2000].packed()[0].astype(float)
    return (values.sum(axis=1) ** 2).sum() / values.shape[1] / (values**2).sum()


def show(rows):
    """Print accuracy and similarity by features and variant."""
    print(f"\n{'features':14}{'variant':16}{'accuracy (%)':>14}{'similarity':>12}   by seed")
    for kind in FEATURES:
        for variant in VARIANTS:
            own = [row for run, row in rows.items() if run[:2] == (kind, variant)]
            if own:
                accuracy, similarity = (
                    [float(row[name]) for row in own] for name in ("accuracy", "similarity")
                )
                print(
                    f"{kind:14}{variant:16}{np.mean(accuracy):14.1f}{np.mean(similarity):12.2f}   "
                    + ", ".join(f"{percent:.1f}" for percent in accuracy)
                )


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--cluster-size", type=positive, default=8)
    parser.add_argument("--epochs", type=positive, default=40)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--features", nargs="+", choices=FEATURES, default=list(FEATURES))
    features.add_options(parser, CSV)
    options = parser.parse_args(arguments)

    parts = features.make_parts(options)
    tasks, asked, shares = {}, [], {}
    training = (options.epochs, options.videos)
    for kind in options.features:
        suffix = "" if FEATURES[kind] else f"_{kind}"
        folder = options.work / f"features_{options.videos}{suffix}"
        extractor = features.authors_extractor(
            len(parts["train"].images), log_softmax=FEATURES[kind]
        )
        features.make_features(folder, extractor, parts)
        shares[kind] = share_of_ones(features.load_features(folder)[2])
        done = features.read_rows_of(folder, options.csv, Run)
        for variant, seed in product(options.variants, options.seeds):
            run = Run(kind, variant, options.cluster_size, seed, *training)
            asked.append(run)
            if run not in done:
                tasks[run] = delayed(perform)(run, folder, os.getpid())
    for run, row in run_all(tasks.values(), options.csv, options.n_jobs, Run):
        print(f"{run}: {row['accuracy']} %", flush=True)
    rows = read_rows(options.csv, Run)
    show({run: rows[run] for run in asked})
    for kind, share in shares.items():
        print(f"{kind}: {share:.0%} of the squared norm lies along (1, …, 1)")


if __name__ == "__main__":
    main()
