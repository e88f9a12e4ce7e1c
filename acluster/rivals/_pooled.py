"""Fixed pooling and logistic regression: no network."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from acluster._labels import check_labels
from acluster.sets import FeatureSets, MultimodalFeatureSets, check_multimodal_sets

__all__ = ["PooledClassifier", "pooled_statistics"]

_ROWS_PER_BLOCK = 1 << 16


class PooledClassifier(ClassifierMixin, BaseEstimator):
    """Statistics of each item's local features, and logistic regression on them.

    The statistics of all modalities stand side by side, standardised; a modality that an item
    lacks counts as the mean over the training items.

    Parameters
    ----------
    statistics : sequence of {"mean", "std", "min", "max"}, default=("mean", "max")
        What is taken of each feature over an item.

    C : float, default=1.0
        The inverse of the strength of the l2 penalty.

    max_iter : int, default=1000
        Iterations of the solver at most.

    class_weight : dict or "balanced", default=None
        Weights of the classes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted; with an indicator y, the numbers of its columns.

    n_features_in_ : int
        The width of a local feature, summed over the modalities.

    n_iter_ : int
        Iterations of the solver.

    model_ : sklearn.pipeline.Pipeline
        What was fitted on the statistics.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import PooledClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> PooledClassifier().fit(X, y).score(X, y)
    1.0
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        "statistics": ["array-like"],
        "C": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    def __init__(
        self,
        *,
        statistics: Sequence[str] = ("mean", "max"),
        C: float = 1.0,
        max_iter: int = 1000,
        class_weight: dict[Any, float] | str | None = None,
    ) -> None:
        self.statistics = statistics
        self.C = C
        self.max_iter = max_iter
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to items X with labels y.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        y : array-like of shape (n,), or indicator of shape (n, n_labels)
            Their labels.

        sample_weight : array-like of shape (n,), optional
            Weight of each item.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If X, y or a parameter is not usable.
        """
        unknown = [name for name in self.statistics if name not in STATISTICS]
        if unknown or not len(self.statistics):
            raise ValueError(
                f"statistics={self.statistics!r} must be some of {sorted(STATISTICS)}; "
                f"{unknown or 'nothing'} is given."
            )
        y = check_labels(y, type(self).__name__)
        X = check_multimodal_sets(X, estimator=self, seen=None)
        regression = LogisticRegression(
            C=self.C, max_iter=self.max_iter, class_weight=self.class_weight
        )
        last = regression if y.ndim == 1 else OneVsRestClassifier(regression)
        model = make_pipeline(SimpleImputer(), StandardScaler(), last)
        weights = {}
        if sample_weight is not None:
            weighed = [name for name, _ in model.steps[1:]]
            weights = {f"{name}__sample_weight": sample_weight for name in weighed}
        self.model_: Pipeline = model.fit(self._pooled(X), y, **weights)
        self.classes_ = model.classes_
        parts = getattr(model[-1], "estimators_", [model[-1]])
        self.n_iter_ = max(int(np.max(part.n_iter_)) for part in parts)
        self._widths = X.n_features
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The most probable label of every item.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        Returns
        -------
        ndarray of shape (n,) or (n, n_labels)
        """
        X = self._checked(X)
        return self.model_.predict(X)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """The probability of every class.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        Returns
        -------
        ndarray of shape (n, n_classes) or (n, n_labels)
        """
        X = self._checked(X)
        return self.model_.predict_proba(X)

    def decision_function(self, X: Any) -> NDArray[Any]:
        """The logit of every class.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items.

        Returns
        -------
        ndarray of shape (n,), (n, n_classes) or (n, n_labels)
        """
        X = self._checked(X)
        return self.model_.decision_function(X)

    def _checked(self, X: Any) -> NDArray[np.float64]:
        check_is_fitted(self)
        return self._pooled(check_multimodal_sets(X, estimator=self, seen=self._widths))

    def _pooled(self, X: MultimodalFeatureSets) -> NDArray[np.float64]:
        return np.hstack([pooled_statistics(X[name], self.statistics) for name in X.names])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.classifier_tags.multi_label = True
        return tags


def pooled_statistics(X: FeatureSets, statistics: Sequence[str]) -> NDArray[np.float64]:
    """Statistics of the local features of every set, side by side.

    Parameters
    ----------
    X : FeatureSets
        n sets of local features of width M, in memory or in a store.

    statistics : sequence of {"mean", "std", "min", "max"}
        What is taken of each feature.

    Returns
    -------
    ndarray of shape (n, len(statistics)·M)
        One statistic after the other; NaN for a set without local features.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import FeatureSets
    >>> from acluster.rivals import pooled_statistics
    >>> X = FeatureSets.from_arrays([np.array([[1.0], [3.0]]), np.array([[5.0]])])
    >>> pooled_statistics(X, ["mean", "max"])
    array([[2., 3.],
           [5., 5.]])
    """
    table = np.full((len(X), len(statistics) * X.n_features), np.nan)
    n_items = max(1, _ROWS_PER_BLOCK * len(X) // max(1, int(X.lengths.sum())))
    for first in range(0, len(X), n_items):
        values, offsets = X[first : first + n_items].packed()
        there = np.flatnonzero(np.diff(offsets) > 0)
        if len(there):
            starts, lengths = offsets[there], np.diff(offsets)[there]
            found = [STATISTICS[name](values, starts, lengths) for name in statistics]
            table[first + there] = np.hstack(found)
    return table


def _mean(values: NDArray[Any], starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    return np.add.reduceat(values, starts, dtype=np.float64) / lengths[:, None]


def _std(values: NDArray[Any], starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    deviations = values - np.repeat(_mean(values, starts, lengths), lengths, axis=0)
    return np.sqrt(_mean(deviations**2, starts, lengths))


STATISTICS = {
    "mean": _mean,
    "std": _std,
    "min": lambda values, starts, _: np.minimum.reduceat(values, starts),
    "max": lambda values, starts, _: np.maximum.reduceat(values, starts),
}
