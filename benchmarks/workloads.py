"""Define the workloads: three generated and two real data sets, and the training recipe."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from acluster.datasets import load_benchmark
from acluster.preprocessing import LocalFeatureTransformer

# The training recipe of all peers that allow it, with RMSprop as in the paper's video experiments.
LEARNING_RATE, MAX_GRAD_NORM, DROPOUT = 1e-3, 5.0, 0.5


@dataclass(frozen=True)
class Task:
    """Training sets, network size and schedule, the same for all methods."""

    arrays: list[NDArray[np.float32]]  # (L_i, M) each
    y: NDArray[np.int64]  # 0 to n_classes - 1
    cluster_size: int
    batch_size: int
    epochs: int
    device: str = "cpu"

    def __len__(self) -> int:
        return len(self.arrays)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([len(array) for array in self.arrays])

    @property
    def has_equal_lengths(self) -> bool:
        return len(set(self.lengths.tolist())) == 1

    @property
    def n_features(self) -> int:
        return self.arrays[0].shape[1]

    @property
    def n_classes(self) -> int:
        return int(self.y.max()) + 1

    @property
    def n_outputs(self) -> int:
        """Number of logits per item: two classes need only one, with a sigmoid."""
        return 1 if self.n_classes == 2 else self.n_classes

    def tiny(self) -> "Task":
        """Return a tiny task, to load all code that a fit needs."""
        y = np.arange(8) % 2
        return replace(self, arrays=self.arrays[:8], y=y, cluster_size=2, batch_size=4, epochs=1)


def generated(n_sets, shortest, longest, n_features, n_classes):
    """Return noise, as content does not affect speed, and classes of at least two sets each."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(shortest, longest + 1, size=n_sets)
    arrays = [rng.standard_normal((length, n_features), dtype=np.float32) for length in lengths]
    return arrays, np.arange(n_sets) % min(n_classes, n_sets // 2)


def real(n_sets, name):
    """Return a real data set, standardized and shuffled, because it is stored class by class."""
    data = load_benchmark(name)
    X = LocalFeatureTransformer(StandardScaler()).fit_transform(data.data)
    order = np.random.default_rng(0).permutation(len(X))[:n_sets]
    _, y = np.unique(data.target[order], return_inverse=True)
    return [X[i].astype(np.float32) for i in order], y


WORKLOADS = {
    # name: (function that makes the sets, its arguments, network size and schedule)
    "A": (
        generated,
        {"n_sets": 2048, "shortest": 25, "longest": 25, "n_features": 50, "n_classes": 1024},
        {"cluster_size": 128, "batch_size": 256, "epochs": 3},
    ),
    "B": (
        generated,
        {"n_sets": 800, "shortest": 25, "longest": 25, "n_features": 1536, "n_classes": 400},
        {"cluster_size": 64, "batch_size": 128, "epochs": 2},
    ),
    "C": (
        generated,
        {"n_sets": 1024, "shortest": 5, "longest": 300, "n_features": 128, "n_classes": 50},
        {"cluster_size": 32, "batch_size": 128, "epochs": 3},
    ),
    "musk1": (
        real,
        {"n_sets": None, "name": "musk1"},
        {"cluster_size": 16, "batch_size": 128, "epochs": 20},
    ),
    "vowels": (
        real,
        {"n_sets": None, "name": "japanese_vowels"},
        {"cluster_size": 128, "batch_size": 128, "epochs": 20},
    ),
}


def make_task(name, n_sets=None, epochs=None, device="cpu"):
    """Return a workload, optionally with another number of sets or epochs."""
    make_sets, shape, network = WORKLOADS[name]
    arrays, y = make_sets(**{**shape, "n_sets": n_sets or shape["n_sets"]})
    task = Task(arrays, y, **network, device=device)
    return task if epochs is None else replace(task, epochs=epochs)
