"""The items of a fit, checked, and their local features where the networks read them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster.estimators._items import Items, check_items, check_validation, finite_first
from acluster.estimators._labels import LabelCoding
from acluster.sets import AllFinite, FeatureSets, MultimodalFeatureSets, warn_of_scale
from acluster.training import (
    ALONE,
    FeatureMoments,
    Ranks,
    cached,
    checks_while_copying,
    feature_moments,
    resolve_device,
)

_T = TypeVar("_T")


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

    is_partial : bool
        Whether these are only some of the items that there are to learn from.

    ranks : Ranks
        The processes that train together.

    is_checked : bool
        Whether the local features in memory are known to be finite.
    """

    items: Items
    coding: LabelCoding
    validation: Items | None = None
    is_weighted: bool = False
    resumes: bool = False
    is_partial: bool = False
    ranks: Ranks = ALONE
    is_checked: bool = True
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
        ranks: Ranks = ALONE,
        may_defer: bool = False,
    ) -> Self:
        """Check the arguments of `fit` or `partial_fit` of an estimator.

        With `may_defer`, local features that are copied to a GPU are only checked there. The
        caller then uses `finite_first` until they have been copied.
        """
        seen = estimator._architecture.widths if resumes else None
        # Those held out for early stopping do not come by the same copy.
        is_whole = X_val is not None or not estimator.early_stopping
        is_deferred = may_defer and is_whole and ranks.size == 1 and _is_for_gpu(estimator)
        ensure_all_finite: AllFinite = "deferred" if is_deferred else True
        items = check_items(
            estimator, X, y, sample_weight, seen=seen, ensure_all_finite=ensure_all_finite
        )
        with finite_first(lambda: items.X if is_deferred else None):
            coding = estimator._coding if resumes else LabelCoding.of(items.y, classes)
            validation = check_validation(estimator, X_val, y_val, coding, items.X.n_features)
            is_weighted, is_partial = sample_weight is not None, classes is not None
            data = cls(
                items, coding, validation, is_weighted, resumes, is_partial, ranks, not is_deferred
            )
            if not resumes and not data.is_standardized_for(estimator):
                for name in items.X.names:
                    named = f"modality {name!r}" if len(items.X.names) > 1 else "X"
                    warn_of_scale(items.X[name], named)
        return data

    @property
    def unchecked(self) -> MultimodalFeatureSets | None:
        """The sets that are not known to be finite; None if all are."""
        return None if self.is_checked else self.items.X

    def is_standardized_for(self, estimator: Any) -> bool:
        """Whether the network of an estimator standardizes the local features."""
        if estimator.standardize != "auto":
            return bool(estimator.standardize)
        if self.resumes:
            return bool(estimator._architecture.standardize)
        return not self.is_partial

    def share(self, key: Hashable, compute: Callable[[], _T]) -> _T:
        """Return what `compute` returns, from its first call with this key."""
        if key not in self._shared:
            self._shared[key] = compute()
        return self._shared[key]


def _is_for_gpu(estimator: Any) -> bool:
    """Whether the local features may be copied to a device that checks them at the same time."""
    try:
        device = resolve_device(estimator.device)
    except ValueError:  # which `fit` raises after the errors of X
        return False
    return estimator.cache in ("auto", "device") and checks_while_copying(device)


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

    def given(self) -> dict[str, FeatureSets]:
        """Return the sets of every modality, where the user has them."""
        X = self.data.items.X if self.train is None else self.data.items.X[self.train]
        return {name: X[name] for name in X.names}

    def sets(self) -> dict[str, FeatureSets]:
        """Return the sets of every modality."""

        def move() -> dict[str, FeatureSets]:
            given, is_shared = self.given(), self.data.ranks.size > 1
            moved = cached(
                [*given.values()],
                self.cache,
                self.like,
                is_shared=is_shared,
                is_checked=self.data.is_checked,
            )
            self.data.is_checked = True
            return dict(zip(given, moved, strict=True))

        return self.data.share(("sets", self.key), move)

    def moments(self, with_std: bool) -> dict[str, FeatureMoments]:
        """Return the mean, and if asked for the standard deviation, of every modality."""

        def compute() -> dict[str, FeatureMoments]:
            items = slice(None) if self.train is None else self.train
            given = self.data.items.sample_weight[items]
            weights = None if np.all(given == given[0]) else given / given.max()
            ranks = self.data.ranks
            return {
                name: feature_moments(sets, with_std, weights, ranks)
                for name, sets in self.sets().items()
            }

        return self.data.share(("moments", self.key, with_std), compute)
