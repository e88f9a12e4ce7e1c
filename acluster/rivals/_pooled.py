"""The rivals without a network: pooled statistics with logistic regression or an SVM."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn import config_context
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from acluster.estimators import (
    LabelledClassifierMixin,
    boolean,
    check_finite_rows,
    check_items,
    choice,
    estimator,
    integer,
    parameter,
    real,
    restore_on_error,
)
from acluster.sets import (
    FeatureSets,
    MultimodalFeatureSets,
    check_multimodal_sets,
    relative_rounding,
)

_ROWS_PER_BLOCK = 1 << 16


@estimator
class _Pooled(LabelledClassifierMixin, BaseEstimator, ABC):
    """A classifier of scikit-learn on pooled statistics; a subclass names it in `_model`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The class labels, sorted; for an indicator y, the column numbers.

    label_names_ : list of str
        The column names of an indicator y that is a data frame with text as column names; else
        empty. Columns of later data frames are matched by name.

    n_features_in_ : int
        The width of a local feature, summed over the modalities.

    extraction_ : dict of str to (dict or None), or None
        How the local features of each modality were extracted, if X came from a store of
        `acluster.extraction.extract`. An X that was extracted in another way is an error later.

    n_iter_ : int
        Solver iterations.

    model_ : sklearn.pipeline.Pipeline
        Imputation, scaling and the classifier, fitted on the statistics.
    """

    statistics: Sequence[str] = parameter(
        default=("mean", "max"),
        type='list or tuple of {"mean", "std", "min", "max"}',
        constraints=[list, tuple],
        doc="The statistics of each feature over the local features of an item.",
    )
    C: float = real(
        default=1.0,
        within=Interval(Real, 0, None, closed="neither"),
        doc="Inverse strength of the l2 penalty.",
    )
    standardize: bool = boolean(
        default=True,
        doc="""
        Whether to center and scale every statistic by its mean and standard deviation over the
        training items.
        """,
    )
    class_weight: dict[Any, float] | str | None = parameter(
        default=None,
        type='dict or "balanced"',
        constraints=[StrOptions({"balanced"}), dict, None],
        doc="Weights of the classes.",
    )
    random_state: int | np.random.RandomState | None = parameter(
        default=None,
        type="int, RandomState instance or None",
        constraints=["random_state"],
        doc="Ignored: the result does not depend on chance. All rivals have this parameter.",
    )

    _is_multimodal = True

    @abstractmethod
    def _model(self) -> Any:
        """Return the unfitted classifier of a table of statistics."""

    @restore_on_error
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the model on items X with labels y.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items, in any form listed in the notes of `AttentionClusterClassifier`.

        y : array-like of shape (n,), or indicator of shape (n, n_labels)
            Their labels.

        sample_weight : array-like of shape (n,), optional
            Weight of each item; items of weight 0 are left out.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If X, y, a weight or a parameter is invalid.
        """
        from sklearn.impute import SimpleImputer
        from sklearn.multiclass import OneVsRestClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        _check_statistics(self.statistics)
        items = check_items(self, X, y, sample_weight, seen=None)
        weights = items.sample_weight
        self._widths, self._statistics = items.X.n_features, tuple(self.statistics)
        table = self._pooled(items.X)
        steps = [SimpleImputer(keep_empty_features=True)]
        steps += [StandardScaler()] if self.standardize else []
        prepare = make_pipeline(*steps)
        scaling = {"standardscaler__sample_weight": weights} if self.standardize else {}
        prepare.fit(table, **scaling)
        if self.standardize:
            _leave_rounding(prepare[-1], items.X, len(self.statistics))
        model = self._model()
        if items.y.ndim == 2:
            with config_context(enable_metadata_routing=True):
                model = OneVsRestClassifier(model.set_fit_request(sample_weight=True))
        with warnings.catch_warnings(), config_context(enable_metadata_routing=True):
            warnings.filterwarnings("ignore", "Label .* is present in all training examples")
            model.fit(prepare.transform(table), items.y, sample_weight=weights)
        self.model_ = make_pipeline(*prepare, model)
        self.classes_ = model.classes_
        parts = getattr(model, "estimators_", [model])
        self.n_iter_ = max(int(np.max(getattr(part, "n_iter_", 1))) for part in parts)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of every item.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        Returns
        -------
        ndarray of shape (n,) or (n, n_labels)
        """
        return self._call_model("predict", X)

    def decision_function(self, X: Any) -> NDArray[Any]:
        """Return the logit of every class.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        Returns
        -------
        ndarray of shape (n,), (n, n_classes) or (n, n_labels)
        """
        return self._call_model("decision_function", X)

    def _call_model(self, method: str, X: Any) -> NDArray[Any]:
        check_is_fitted(self)
        X = check_multimodal_sets(X, estimator=self, seen=self._widths)
        table = self._pooled(X)
        output: NDArray[Any] = getattr(self.model_, method)(table)
        checked = self.model_.decision_function(table) if method == "predict" else output
        check_finite_rows(checked.reshape(len(checked), -1))
        return output

    def _pooled(self, X: MultimodalFeatureSets) -> NDArray[np.float64]:
        tables = [pooled_statistics(X[name], self._statistics) for name in X.names]
        for name, table in zip(X.names, tables, strict=True):
            # The mean or the deviation of large numbers overflows; NaN would be imputed.
            check_finite_rows(np.where(X[name].lengths[:, None] > 0, table, 0))
        return np.hstack(tables)


@estimator
class PooledClassifier(_Pooled):
    """Classify pooled statistics of the local features by logistic regression.

    The statistics of all modalities are concatenated. Those of a modality that an item lacks are
    replaced by their mean over the training items.

    See Also
    --------
    PooledSVMClassifier : A support vector machine on the statistics.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import PooledClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> PooledClassifier().fit(X, y).score(X, y)
    1.0
    """

    max_iter: int = integer(default=1000, doc="The maximum number of solver iterations.")

    def _model(self) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=self.C, max_iter=self.max_iter, class_weight=self.class_weight)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return the class probabilities.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items.

        Returns
        -------
        ndarray of shape (n, n_classes) or (n, n_labels)
        """
        return self._call_model("predict_proba", X)


@estimator
class PooledSVMClassifier(_Pooled):
    """Classify pooled statistics of the local features by a support vector machine.

    The statistics of all modalities are concatenated. Those of a modality that an item lacks are
    replaced by their mean over the training items.

    There is no `predict_proba`. For probabilities, wrap the classifier in
    :class:`sklearn.calibration.CalibratedClassifierCV`.

    See Also
    --------
    PooledClassifier : Logistic regression on the statistics.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.rivals import PooledSVMClassifier
    >>> X, y = [np.eye(3)[[i % 3, 0]] for i in range(30)], np.arange(30) % 3
    >>> PooledSVMClassifier().fit(X, y).score(X, y)
    1.0
    """

    statistics: Sequence[str] = ("mean", "std", "min", "max")
    C: float = 10.0
    kernel: str = choice(
        default="rbf", options=("linear", "poly", "rbf", "sigmoid"), doc="The kernel."
    )
    gamma: float | str = parameter(
        default="scale",
        type='{"scale", "auto"} or float',
        constraints=[StrOptions({"scale", "auto"}), Interval(Real, 0, None, closed="left")],
        doc="The coefficient of the kernel, as in :class:`sklearn.svm.SVC`.",
    )

    def _model(self) -> Any:
        from sklearn.svm import SVC

        return SVC(C=self.C, kernel=self.kernel, gamma=self.gamma, class_weight=self.class_weight)


def _leave_rounding(scaler: Any, X: MultimodalFeatureSets, n_statistics: int) -> None:
    """Do not scale statistics that vary by no more than the rounding of the local features."""
    roundings = [relative_rounding(X[name].dtype) for name in X.names]
    widths = [n_statistics * X[name].n_features for name in X.names]
    rounding = np.repeat(roundings, widths) * np.abs(scaler.mean_)
    scaler.scale_[np.sqrt(scaler.var_) <= rounding] = 1


def pooled_statistics(X: FeatureSets, statistics: Sequence[str]) -> NDArray[np.float64]:
    """Return statistics of the local features of every set.

    Parameters
    ----------
    X : FeatureSets
        n sets of local features of width M, in memory or in a store.

    statistics : list or tuple of {"mean", "std", "min", "max"}
        The statistics of each feature.

    Returns
    -------
    ndarray of shape (n, len(statistics)·M)
        One statistic after the other; NaN for an empty set.

    Raises
    ------
    ValueError, TypeError
        If a statistic is unknown, or X is not `FeatureSets`.

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
    _check_statistics(statistics)
    if not isinstance(X, FeatureSets):
        raise TypeError(
            f"X has type {type(X).__name__}; expected FeatureSets. Convert a list of arrays by "
            "FeatureSets.from_arrays; of several modalities, pass one."
        )
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


def _check_statistics(statistics: Any) -> None:
    is_sequence = isinstance(statistics, list | tuple) and len(statistics) > 0
    if not is_sequence or any(name not in list(STATISTICS) for name in statistics):
        raise ValueError(
            f"statistics={statistics!r} must be a list or tuple of some of {[*STATISTICS]}."
        )


def _mean(values: NDArray[Any], starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    mean = np.add.reduceat(values, starts, dtype=np.float64) / lengths[:, None]
    # The rounding of a sum grows with its length. A scaler would scale it up in a feature that has
    # the same value everywhere, and a classifier would see the sizes of the sets.
    least, most = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    return np.where(least == most, least, mean)


def _std(values: NDArray[Any], starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    mean = _mean(values, starts, lengths)
    deviations = values - np.repeat(mean, lengths, axis=0)
    std = np.sqrt(_mean(deviations**2, starts, lengths))
    is_rounding = std <= relative_rounding(values.dtype) * np.abs(mean)
    return np.where(is_rounding & np.isfinite(mean), 0, std)  # sums that overflow stay visible


STATISTICS = {
    "mean": _mean,
    "std": _std,
    "min": lambda values, starts, _: np.minimum.reduceat(values, starts),
    "max": lambda values, starts, _: np.maximum.reduceat(values, starts),
}
