"""Speed of the public `fit` and `predict_proba` beside padded autograd, in one process.

The peer is what a skilled user would write: batches padded to their longest set, a masked
softmax, RMSprop and clipping. Both train the same network on the same sets for as many
epochs; runs are interleaved, and the ratio of medians is what counts.

    python tests/benchmarks/speed.py [--repeats 5] [--json FILE]
"""

import argparse
import json
import platform
import statistics
import time
from datetime import date

import numpy as np
import sklearn
import torch
from torch import nn
from torch.nn import functional

from acluster import AttentionClusterClassifier, FeatureSets

EPOCHS = 3
WORKLOADS = {
    # name: sets, shortest, longest, features, cluster size, classes
    "equal": (1024, 25, 25, 50, 32, 100),
    "ragged": (512, 5, 300, 128, 32, 50),
    "small": (256, 7, 29, 12, 64, 9),
}


class PaddedNetwork(nn.Module):
    def __init__(self, n_features, cluster_size, n_classes):
        super().__init__()
        self.score = nn.Linear(n_features, cluster_size, bias=False)
        self.alpha = nn.Parameter(torch.randn(cluster_size, 1))
        self.beta = nn.Parameter(torch.randn(cluster_size, 1))
        self.linear = nn.Linear(cluster_size * n_features, n_classes)

    def forward(self, padded, mask):
        a = self.score(padded).masked_fill(~mask[..., None], -torch.inf).softmax(dim=1)
        v = functional.normalize(self.alpha * (a.mT @ padded) + self.beta, dim=-1)
        g = v.flatten(1) / len(self.alpha) ** 0.5
        return self.linear(functional.dropout(g, 0.5, self.training))


def padded_batches(sets, y, order, batch_size=128):
    for start in range(0, len(order), batch_size):
        items = order[start : start + batch_size]
        batch = [torch.from_numpy(sets[i]) for i in items]
        lengths = torch.tensor([len(item) for item in batch])
        padded = nn.utils.rnn.pad_sequence(batch, batch_first=True)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        yield padded, mask, torch.from_numpy(y[items])


def fit_padded(sets, y, cluster_size, n_classes):
    network = PaddedNetwork(sets[0].shape[1], cluster_size, n_classes)
    optimizer = torch.optim.RMSprop(network.parameters(), lr=1e-3, foreach=True)
    for _ in range(EPOCHS):
        for padded, mask, target in padded_batches(sets, y, np.random.permutation(len(y))):  # noqa: NPY002
            optimizer.zero_grad()
            functional.cross_entropy(network(padded, mask), target).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
    return network.eval()


@torch.inference_mode()
def predict_padded(network, sets, y):
    batches = padded_batches(sets, y, np.arange(len(y)))
    return torch.cat([network(padded, mask).softmax(dim=1) for padded, mask, _ in batches])


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def run(workload, repeats):
    n, shortest, longest, n_features, cluster_size, n_classes = WORKLOADS[workload]
    rng = np.random.default_rng(0)
    arrays = [
        rng.normal(size=(length, n_features)).astype(np.float32)
        for length in rng.integers(shortest, longest + 1, size=n)
    ]
    X, y = FeatureSets.from_arrays(arrays), np.arange(n) % n_classes
    clf = AttentionClusterClassifier(
        cluster_size=cluster_size, max_iter=EPOCHS, tol=None, device="cpu"
    )
    seconds = {"fit": [], "fit_padded": [], "predict": [], "predict_padded": []}
    for repeat in range(repeats + 1):
        times = {}
        times["fit"], _ = timed(clf.fit, X, y)
        times["fit_padded"], network = timed(fit_padded, arrays, y, cluster_size, n_classes)
        times["predict"], _ = timed(clf.predict_proba, X)
        times["predict_padded"], _ = timed(predict_padded, network, arrays, y)
        if repeat > 0:  # the first is a warm-up
            for name, value in times.items():
                seconds[name].append(value)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "fit_sets_per_second": n * EPOCHS / median["fit"],
        "fit_ratio": median["fit_padded"] / median["fit"],
        "fit_ratio_range": ratio_range(seconds["fit_padded"], seconds["fit"]),
        "predict_sets_per_second": n / median["predict"],
        "predict_ratio": median["predict_padded"] / median["predict"],
        "predict_ratio_range": ratio_range(seconds["predict_padded"], seconds["predict"]),
    }


def ratio_range(peer, ours):
    ratios = [a / b for a, b in zip(peer, ours, strict=True)]
    return [min(ratios), max(ratios)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each")
    parser.add_argument("--json", help="also write the figures to this file")
    options = parser.parse_args()
    report = {
        "date": date.today().isoformat(),
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (np, sklearn, torch)},
        "workloads": {name: run(name, options.repeats) for name in WORKLOADS},
    }
    for name, figures in report["workloads"].items():
        low, high = figures["fit_ratio_range"]
        print(
            f"{name:8} fit {figures['fit_sets_per_second']:8.0f} sets/s, "
            f"{figures['fit_ratio']:.2f}x padded ({low:.2f} to {high:.2f}); "
            f"predict {figures['predict_sets_per_second']:8.0f} sets/s, "
            f"{figures['predict_ratio']:.2f}x padded"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
