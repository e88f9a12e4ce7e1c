"""Transformers between tables and sets: of local features, and of row numbers."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

from acluster.sets import (
    FeatureSets,
    MultimodalFeatureSets,
    check_multimodal_sets,
    check_sets,
    is_multimodal,
    opened,
)

__all__ = ["LocalFeatureTransformer", "SetLookup"]


class _SetsOut(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):  # type: ignore[call-arg]
    """A transformer that gives sets, which no data frame holds."""

    def set_output(self, *, transform: str | None = None) -> Self:
        """Accept a pipeline's choice of output container and change nothing.

        Sets stay sets: no data frame holds them. The choice takes effect in the steps
        after this one.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None
            Not used.

        Returns
        -------
        self
        """
        return self


class LocalFeatureTransformer(_SetsOut):
    """Fit a scikit-learn transformer on all local features, and apply it to each.

    Parameters
    ----------
    transformer : transformer, or dict of str to transformer
        For example a ``StandardScaler()`` or a ``PCA(50)``; cloned in `fit`. It must
        give one row per row. With several modalities, each has a clone of its own; a dict
        says which, and "passthrough" leaves a modality as it is.

    Attributes
    ----------
    transformer_ : transformer, or dict of str to transformer
        The fitted clone, or those of the modalities.

    n_features_in_ : int
        The width M of a local feature; the sum over modalities.

    Notes
    -----
    Every local feature counts once, so large sets weigh more in the fit than small ones.
    Missing values go through to the transformer, which may be an imputer. Items may lack
    modalities, and lack them afterwards.

    The result is in memory, and so are the features of a store while they are transformed.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import StandardScaler
    >>> from acluster.preprocessing import LocalFeatureTransformer
    >>> X = [np.array([[1.0], [3.0]]), np.array([[5.0]])]
    >>> scaled = LocalFeatureTransformer(StandardScaler()).fit_transform(X)
    >>> scaled.lengths
    array([2, 1])
    >>> scaled[1].round(3)
    array([[1.225]])
    """

    def __init__(self, transformer: Any) -> None:
        self.transformer = transformer

    def fit(self, X: Any, y: ArrayLike | None = None) -> Self:
        """Fit a clone of the transformer on the local features of all sets.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items, in any form that the classifiers take.

        y : array-like of shape (n,), optional
            A label per item, given to the transformer once for each local feature.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If X is not usable; the message names the item, the value and the remedy.
        """
        sets = self._check(X, reset=True)
        if y is not None:
            check_consistent_length(sets, y)
        if isinstance(sets, FeatureSets):
            self.transformer_ = _fitted(self.transformer, sets, y)
            self._widths: dict[str, int] | None = None
            return self
        transformers = self.transformer
        if not isinstance(transformers, dict):
            transformers = dict.fromkeys(sets.names, self.transformer)
        if set(transformers) != set(sets.names):
            raise ValueError(
                f"transformer names the modalities {[*transformers]}, but X has {sets.names}. Give "
                "each of these a transformer or 'passthrough', or one transformer for all."
            )
        self.transformer_ = {
            name: _fitted(transformers[name], sets[name], y) for name in sets.names
        }
        self._widths = sets.n_features
        return self

    def transform(self, X: Any) -> FeatureSets | MultimodalFeatureSets:
        """Transform every local feature.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path of a store
            The items, in any form that the classifiers take.

        Returns
        -------
        FeatureSets or MultimodalFeatureSets
            The same items with sets of the same sizes.

        Raises
        ------
        ValueError
            If the width of X is not that of `fit`, or the transformer drops rows.
        """
        check_is_fitted(self, "transformer_")
        sets = self._check(X, reset=False)
        if isinstance(sets, FeatureSets):
            return _transformed(self.transformer_, sets)
        return MultimodalFeatureSets(
            {name: _transformed(self.transformer_[name], sets[name]) for name in sets.names}
        )

    def _check(self, X: Any, reset: bool) -> FeatureSets | MultimodalFeatureSets:
        # Missing values are the transformer's to judge: it may be an imputer.
        X, seen = opened(X), None if reset else self._widths
        if seen is not None or (reset and is_multimodal(X)):
            return check_multimodal_sets(X, estimator=self, seen=seen, ensure_all_finite=False)
        return check_sets(X, estimator=self, reset=reset, ensure_all_finite=False)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """The transformer's own names of a local feature's columns, modality after modality.

        Parameters
        ----------
        input_features : array-like of str, optional
            The names of the columns that go in.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self, "transformer_")
        names = _check_feature_names_in(self, input_features)
        if self._widths is None:
            return _names_out(self.transformer_, names)
        first, parts = 0, []
        for modality, width in self._widths.items():
            own = names[first : first + width]
            if input_features is None:
                own = np.array([f"x{i}" for i in range(width)], dtype=object)
            parts.append(_names_out(self.transformer_[modality], own))
            first += width
        return np.concatenate(parts)


def _fitted(transformer: Any, sets: FeatureSets, y: ArrayLike | None) -> Any:
    if isinstance(transformer, str) and transformer == "passthrough":
        return transformer
    labels = None if y is None else np.repeat(np.asarray(y), sets.lengths, axis=0)
    return clone(transformer).fit(sets.packed()[0], labels)


def _transformed(transformer: Any, sets: FeatureSets) -> FeatureSets:
    if isinstance(transformer, str):
        return sets
    values, offsets = sets.packed()
    # A modality that all items lack has a width all the same: that of one row's result.
    given = values if len(values) else np.zeros((1, sets.n_features), values.dtype)
    with sklearn.config_context(transform_output="default"):
        transformed = transformer.transform(given)
    if hasattr(transformed, "toarray"):
        transformed = transformed.toarray()
    if len(transformed) != len(given):
        raise ValueError(
            f"{type(transformer).__name__} gave {len(transformed)} rows for "
            f"{len(given)} local features; a transformer of local features keeps every row."
        )
    return FeatureSets(transformed[: len(values)], offsets)


def _names_out(transformer: Any, names: NDArray[np.object_]) -> NDArray[np.object_]:
    return names if isinstance(transformer, str) else transformer.get_feature_names_out(names)


class SetLookup(_SetsOut):
    """Turn a column of row numbers into the sets in those rows.

    Scikit-learn's tools that insist on a table (``ColumnTransformer``,
    ``BaggingClassifier``, ``permutation_importance``, ``SelfTrainingClassifier``) take the row
    numbers as their X; a pipeline of this transformer and a classifier sees the sets.

    Parameters
    ----------
    sets : FeatureSets, MultimodalFeatureSets, or path of a store
        Where row i is item i. Not copied by ``clone``.

    Attributes
    ----------
    n_features_in_ : int
        1.

    Notes
    -----
    `fit` learns nothing. With the sets in a store, a fitted pipeline pickles its path.

    Examples
    --------
    A classifier of videos beside columns of a table:

    >>> import numpy as np
    >>> from sklearn.compose import ColumnTransformer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from acluster import AttentionClusterClassifier, FeatureSets
    >>> from acluster.preprocessing import SetLookup
    >>> rng = np.random.default_rng(0)
    >>> videos = FeatureSets.from_arrays(rng.normal(size=(20, 5, 3)))
    >>> table = np.column_stack([np.arange(20), rng.normal(size=20)])  # row numbers first
    >>> clf = AttentionClusterClassifier(cluster_size=2, max_iter=5, tol=None)
    >>> columns = ColumnTransformer(
    ...     [("video", make_pipeline(SetLookup(videos), clf), [0]), ("rest", "passthrough", [1])]
    ... )
    >>> model = make_pipeline(columns, LogisticRegression()).fit(table, np.arange(20) % 2)
    >>> model.predict(table[:3]).shape
    (3,)
    """

    def __init__(self, sets: Any) -> None:
        self.sets = sets

    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Check the row numbers; nothing is learnt.

        Parameters
        ----------
        X : array-like of shape (n, 1)
            Row numbers.

        y : None
            Not used.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not one column of whole numbers that are rows of the sets.
        """
        self._look_up(X, reset=True)
        return self

    def transform(self, X: ArrayLike) -> FeatureSets | MultimodalFeatureSets:
        """The sets in these rows.

        Parameters
        ----------
        X : array-like of shape (n, 1)
            Row numbers, in any order, with repetitions.

        Returns
        -------
        FeatureSets or MultimodalFeatureSets
            A view of n items.

        Raises
        ------
        ValueError
            As `fit`.
        """
        check_is_fitted(self, "n_features_in_")
        return self._look_up(X, reset=False)

    def _look_up(self, X: ArrayLike, reset: bool) -> FeatureSets | MultimodalFeatureSets:
        sets = opened(self.sets)
        if not isinstance(sets, FeatureSets | MultimodalFeatureSets):
            raise TypeError(
                f"sets is a {type(sets).__name__}; expected FeatureSets, MultimodalFeatureSets or "
                "the path of a store."
            )
        column = validate_data(self, X, reset=reset)
        if column.shape[1] != 1:
            raise ValueError(
                f"X has {column.shape[1]} columns; SetLookup takes one, of row numbers. Choose it "
                "with a ColumnTransformer."
            )
        rows = column[:, 0].astype(np.int64)
        wrong = np.flatnonzero((rows != column[:, 0]) | (rows < 0) | (rows >= len(sets)))
        if len(wrong):
            raise ValueError(
                f"X[{wrong[0]}] is {column[wrong[0], 0]}, which is no row number of {len(sets)} "
                f"items; row numbers are 0 to {len(sets) - 1}."
            )
        return sets[rows]

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Names of a local feature's columns: x0 and so on, modality after modality.

        Parameters
        ----------
        input_features : array-like of str, optional
            Not used; there because scikit-learn passes it.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self, "n_features_in_")
        sets = opened(self.sets)
        if isinstance(sets, FeatureSets):
            return np.array([f"x{i}" for i in range(sets.n_features)], dtype=object)
        widths = sets.n_features.values()
        return np.array([f"x{i}" for width in widths for i in range(width)], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")
