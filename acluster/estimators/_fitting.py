"""Fit estimators to the same items: prepare each, train them together, record the results."""

from __future__ import annotations

import os
import pickle
import re
import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster.estimators._callbacks import EstimatorCallbacks
from acluster.estimators._items import Items, check_items, check_validation, hold_out, unwrapped
from acluster.estimators._labels import LabelCoding, to_mean_one
from acluster.sets import FeatureSets, MultimodalFeatureSets, warn_of_scale
from acluster.training import (
    Checkpoint,
    FeatureMoments,
    Interrupted,
    Member,
    cached,
    data_digest,
    feature_moments,
    resolve_device,
    train,
)

_T = TypeVar("_T")

# Parameters that do not affect the weights after a given epoch.
_NOT_IN_IDENTITY = ("max_iter", "verbose", "warm_start", "device")

# Parameters that the first checkpoints do not know, with the value that changes nothing.
_LATER_PARAMETERS = {"n_members": 1}


@dataclass(eq=False)
class TrainingData:
    """The checked items of a fit, and what the estimators that are fitted to them share.

    Parameters
    ----------
    items : Items
        The items, with their labels and sample weights.

    coding : LabelCoding
        How labels correspond to logits.

    validation : Items or None
        The validation set that the user has passed.

    is_weighted : bool
        Whether the user has passed sample weights.

    resumes : bool
        Whether the fit continues an earlier one.
    """

    items: Items
    coding: LabelCoding
    validation: Items | None = None
    is_weighted: bool = False
    resumes: bool = False
    _shared: dict[Hashable, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        X_val: Any = None,
        y_val: ArrayLike | None = None,
        *,
        classes: ArrayLike | None = None,
        resumes: bool = False,
    ) -> Self:
        """Check the arguments of `fit` or `partial_fit` of an estimator."""
        seen = estimator._architecture.widths if resumes else None
        items = check_items(estimator, X, y, sample_weight, seen=seen)
        coding = estimator._coding if resumes else LabelCoding.of(items.y, classes)
        validation = check_validation(estimator, X_val, y_val, coding, items.X.n_features)
        if not estimator.standardize and not resumes:
            for name in items.X.names:
                named = f"modality {name!r}" if len(items.X.names) > 1 else "X"
                warn_of_scale(items.X[name], named)
        return cls(items, coding, validation, sample_weight is not None, resumes)

    def share(self, key: Hashable, compute: Callable[[], _T]) -> _T:
        """Return what `compute` returns, from its first call with this key."""
        if key not in self._shared:
            self._shared[key] = compute()
        found: _T = self._shared[key]
        return found


@dataclass(eq=False)
class TrainingSets:
    """The local features that a network is trained on, at the place where it reads them.

    Parameters
    ----------
    data : TrainingData
        The items.

    cache : str
        The estimator's `cache`.

    like : Tensor
        A parameter of the network.

    train : ndarray of int64, or None
        The numbers of the items to train on; None for all.
    """

    data: TrainingData
    cache: str
    like: Any
    train: NDArray[np.int64] | None = None

    @property
    def key(self) -> Hashable:
        """Equal for the same local features at the same place."""
        train = None if self.train is None else self.train.tobytes()
        return train, self.cache, self.like.device, self.like.dtype

    def sets(self) -> dict[str, FeatureSets]:
        """Return the sets of every modality."""

        def move() -> dict[str, FeatureSets]:
            X = self.data.items.X if self.train is None else self.data.items.X[self.train]
            moved = cached([X[name] for name in X.names], self.cache, self.like)
            return dict(zip(X.names, moved, strict=True))

        return self.data.share(("sets", self.key), move)

    def moments(self, with_std: bool) -> dict[str, FeatureMoments]:
        """Return the mean, and if asked for the standard deviation, of every modality."""

        def compute() -> dict[str, FeatureMoments]:
            return {name: feature_moments(one, with_std) for name, one in self.sets().items()}

        return self.data.share(("moments", self.key, with_std), compute)


class _Fitting:
    """The fit of one estimator: prepared, then trained as a `Member`, then recorded."""

    def __init__(
        self, estimator: Any, data: TrainingData, checkpoint_dir: str | os.PathLike[str] | None
    ) -> None:
        self.estimator = estimator
        items, coding = data.items, data.coding
        targets = coding.encode(items.y)
        weights = coding.weigh(targets, items.sample_weight, estimator.class_weight)
        weights = to_mean_one(weights, estimator.class_weight)
        estimator._start(data)
        train, validation = None, data.validation
        if estimator.early_stopping and validation is None:
            fraction, random_state = estimator.validation_fraction, estimator._random_state
            train, held_out = hold_out(items.y, fraction, random_state)
            validation = items[held_out]
        checkpoint = None
        if checkpoint_dir is not None:
            compared = {"data": (items.X, targets, weights)}
            if validation is not None:
                encoded = coding.encode(validation.y)
                compared["validation data"] = (validation.X, encoded, validation.sample_weight)
            checkpoint = Checkpoint(checkpoint_dir, _identity(estimator, compared))
        like = next(estimator.network_.parameters())
        self.sets = TrainingSets(data, estimator.cache, like, train)
        chosen = slice(None) if train is None else train
        fit = estimator._make_fit(self.sets, targets[chosen], weights[chosen], validation)
        metadata = {"sample_weight": items.sample_weight} if data.is_weighted else None
        seen_X = unwrapped(estimator, items.X)
        self.callbacks = EstimatorCallbacks(estimator, X=seen_X, y=items.y, metadata=metadata)
        self.callbacks.begin_fit()
        if checkpoint is not None:
            checkpoint.restore(fit, estimator.max_iter)
            estimator._record(fit)  # callbacks see the epochs of the checkpoint
        self.member = Member(fit, estimator.max_iter, self.callbacks, checkpoint)

    @property
    def batches_key(self) -> Hashable:
        """Equal for fits that draw the same batches."""
        estimator, batches = self.estimator, self.member.fit.batches
        drawn_from = pickle.dumps(batches.random_state.get_state())
        sampling = tuple(batches.n_local_features), batches.modality_dropout
        missing = estimator.missing_modality
        return self.sets.key, batches.batch_size, sampling, missing, drawn_from

    def end(self) -> None:
        """Record the result of the training."""
        self.estimator._record(self.member.fit, keep_optimizer=self.estimator.warm_start)
        self.callbacks.end_fit()

    def end_early(self) -> bool:
        """Record what there is after Ctrl-C; return whether it is worth keeping."""
        is_kept = self.member.fit.end_early()
        if is_kept:
            self.estimator._record(self.member.fit, keep_optimizer=self.estimator.warm_start)
        return is_kept


def fit_together(
    estimators: Sequence[Any],
    data: TrainingData,
    checkpoint_dir: str | os.PathLike[str] | None = None,
) -> list[Member]:
    """Fit estimators to the same items; those that draw the same batches read them once.

    Parameters
    ----------
    estimators : sequence of SetClassifier
        Their results are those that each would have alone.

    data : TrainingData
        The items.

    checkpoint_dir : str or path, optional
        The folder of the checkpoint, for a single estimator.

    Returns
    -------
    list of Member
        The training of each estimator. One that has diverged keeps its error, and leaves its
        estimator unfitted; the error of a single estimator is raised.
    """
    for estimator in estimators[1:]:  # `data` was checked for the first one
        estimator.n_features_in_ = estimators[0].n_features_in_
        if hasattr(estimators[0], "feature_names_in_"):
            estimator.feature_names_in_ = estimators[0].feature_names_in_
    fittings = [_Fitting(estimator, data, checkpoint_dir) for estimator in estimators]
    groups: dict[Hashable, list[Member]] = {}
    for fitting in fittings:
        groups.setdefault(fitting.batches_key, []).append(fitting.member)
    try:
        for members in groups.values():
            train(members)
        for fitting in fittings:
            if fitting.member.error is None:
                fitting.end()
    except KeyboardInterrupt:
        if not all([fitting.end_early() for fitting in fittings]):
            raise
        n_epochs = max(fitting.member.fit.n_epochs for fitting in fittings)
        raise Interrupted(n_epochs, has_checkpoint=checkpoint_dir is not None) from None
    return [fitting.member for fitting in fittings]


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


def can_train_together(estimator: Any) -> bool:
    """Whether an estimator is one of those that `fit_together` takes."""
    is_ours = hasattr(estimator, "_integration_arguments") and hasattr(estimator, "_make_fit")
    return is_ours and not getattr(estimator, "_skl_callbacks", None)


def network_size(estimator: Any, data: TrainingData) -> int:
    """Return the size of the parameters of an estimator's network, in bytes."""
    network = estimator._architecture_for(data).outline(estimator.dropout)
    return sum(parameter.numel() for parameter in network.parameters()) * 4


def fit_key(estimator: Any, data: TrainingData) -> Hashable:
    """Return a value that is equal for fits with the same parameters to the same items."""
    items, coding = data.items, data.coding

    def digest() -> Hashable:
        numbers = _digest(items.X, coding.encode(items.y), items.sample_weight)
        return numbers, coding.kind, tuple(coding.classes.tolist())

    key = data.share("digest", digest)
    return key, estimator.max_iter, estimator.warm_start, *_parameters(estimator).items()


def _identity(classifier: Any, data: dict[str, Any]) -> dict[str, str]:
    """Return everything that affects the weights, as text: parameters, device and data."""
    parameters = _parameters(classifier)
    for name, value in _LATER_PARAMETERS.items():
        if parameters[name] == repr(value):
            del parameters[name]
    return parameters | {name: _digest(*arrays) for name, arrays in data.items()}


def _parameters(classifier: Any) -> dict[str, str]:
    parameters = classifier.get_params(deep=False)
    for name in _NOT_IN_IDENTITY:
        del parameters[name]
    parameters["device"] = resolve_device(classifier.device)
    texts = {"class": type(classifier).__name__}
    for name, value in parameters.items():
        # By default, NumPy rounds arrays to 8 digits and abbreviates long ones.
        with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
            text = repr(value.item() if isinstance(value, np.generic) else value)
        # The address of a function or an object is another one in the process that resumes.
        texts[name] = re.sub(r" at 0x[0-9a-fA-F]+", "", text)
    return texts


def _digest(X: MultimodalFeatureSets, *arrays: NDArray[Any]) -> str:
    return data_digest({modality: X[modality] for modality in X.names}, *arrays)
