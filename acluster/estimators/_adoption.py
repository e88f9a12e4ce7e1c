"""What makes two fits the same, and how one takes over the result of the other."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.estimators._training_data import TrainingData
from acluster.sets import MultimodalFeatureSets
from acluster.training import data_digest, resolve_device, to_numpy_state

# Parameters that do not affect the weights after a given epoch.
_NOT_IN_IDENTITY = ("max_iter", "verbose", "warm_start", "device", "distributed")

# Parameters that the first checkpoints do not know, with the value that changes nothing.
_LATER_PARAMETERS = {"n_members": 1, "hidden_features": 0, "learning_rate_schedule": "constant"}

# Called with an estimator and its items, in every `fit` of the current thread.
_FINDER: ContextVar[Callable[[Any, TrainingData], Any] | None] = ContextVar("finder", default=None)


@contextmanager
def adopting(find: Callable[[Any, TrainingData], Any]) -> Iterator[None]:
    """Let `fit` take over the results of estimators that have been fitted together.

    Parameters
    ----------
    find : callable
        ``find(estimator, data)`` returns an estimator that has been fitted to the same items with
        the same parameters, or None.
    """
    token = _FINDER.set(find)
    try:
        yield
    finally:
        _FINDER.reset(token)


def adopt(estimator: Any, data: TrainingData) -> bool:
    """Take over the fitted attributes of another estimator, if there is one to take."""
    find = _FINDER.get()
    fitted = None if find is None else find(estimator, data)
    if fitted is None:
        return False
    parameters = estimator.get_params(deep=False)
    vars(estimator).update({k: v for k, v in vars(fitted).items() if k not in parameters})
    return True


def fit_key(estimator: Any, data: TrainingData) -> Hashable:
    """Return a value that is equal for fits with the same parameters to the same items."""
    items, coding = data.items, data.coding

    def digest() -> Hashable:
        numbers = _digest(items.X, coding.encode(items.y), items.sample_weight)
        return numbers, coding.kind, tuple(coding.classes.tolist())

    key = data.share("digest", digest)
    # The digest reads a few items of a store; two folds may share those.
    sets = [items.X[name] for name in items.X.names]
    stored = tuple(one.numbers.tobytes() for one in sets if not one.in_memory)
    parameters = estimator.get_params(deep=False).items()
    return key, stored, type(estimator), *((name, _identity(value)) for name, value in parameters)


def _identity(value: Any) -> Hashable:
    """Return what tells a parameter apart from others in this process, where a text may not."""
    if isinstance(value, np.random.RandomState):
        return pickle.dumps(value)
    if isinstance(value, Mapping):
        return tuple((name, _identity(one)) for name, one in value.items())
    return value if isinstance(value, type) else _text(value)


def identity_of(classifier: Any, data: dict[str, Any]) -> dict[str, str]:
    """Return everything that affects the weights, as text: parameters, device and data."""
    parameters = _parameters(classifier)
    for name, value in _LATER_PARAMETERS.items():
        if parameters.get(name) == repr(value):
            del parameters[name]
    return parameters | {name: _digest(*arrays) for name, arrays in data.items()}


def identity_across_ranks(classifier: Any, data: TrainingData) -> dict[str, str]:
    """Return what must be the same in all processes of a distributed fit, as text.

    Of the local features, the digest reads a few items only.
    """
    items, coding = data.items, data.coding
    X, targets = items.X, coding.encode(items.y)
    network = to_numpy_state(classifier.network_.state_dict()) if data.resumes else {}
    parameters = _parameters(classifier)
    del parameters["random_state"]  # that of rank 0 counts
    parameters["device"] = resolve_device(classifier.device).type  # each process has its own GPU
    lengths = (X[name].lengths for name in X.names)
    return {
        "the number of items": str(len(X)),
        **parameters,
        "the list of classes": str(coding.classes.tolist()),
        "the digest of the labels and weights": data_digest({}, targets, items.sample_weight),
        "the digest of the weights so far": data_digest({}, *network.values()),
        "the digest of the sizes of the sets": data_digest({}, *lengths),
        "the digest of the first sets": _digest(X[: classifier.batch_size]),
    }


def _parameters(classifier: Any) -> dict[str, str]:
    parameters = classifier.get_params(deep=False)
    for name in _NOT_IN_IDENTITY:
        if name != "max_iter" or parameters["learning_rate_schedule"] == "constant":
            del parameters[name]
    parameters["device"] = resolve_device(classifier.device)
    texts = {"class": type(classifier).__name__}
    for name, value in parameters.items():
        # The address of a function or an object is another one in the process that resumes.
        texts[name] = re.sub(r" at 0x[0-9a-fA-F]+", "", _text(value))
    return texts


def _text(value: Any) -> str:
    # By default, NumPy rounds arrays to 8 digits and abbreviates long ones.
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(value.item() if isinstance(value, np.generic) else value)


def _digest(X: MultimodalFeatureSets, *arrays: NDArray[Any]) -> str:
    return data_digest({modality: X[modality] for modality in X.names}, *arrays)
