"""Transformers that return sets: of transformed local features, or looked up by row number."""

from collections.abc import Iterable
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
    by_modality,
    check_multimodal_sets,
    check_sets,
    is_multimodal,
    normalized,
    open_if_store,
    with_modalities,
)

__all__ = ["LocalFeatureTransformer", "SetLookup"]


class _SetsOut(TransformerMixin, BaseEstimator):
    """A transformer whose output is sets, which do not fit into a data frame."""

    def __init_subclass__(cls, auto_wrap_output_keys: Any = None, **kwargs: Any) -> None:
        # Not inherited: each subclass would wrap its output again.
        super().__init_subclass__(auto_wrap_output_keys=auto_wrap_output_keys, **kwargs)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Accept the output container of a pipeline, and ignore it.

        The output of this step is always sets. The steps after it use the container.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None
            Ignored.

        Returns
        -------
        self
        """
        return self


class LocalFeatureTransformer(_SetsOut):
    """Apply a scikit-learn transformer to every local feature.

    Parameters
    ----------
    transformer : transformer, or dict of str to transformer
        For example ``StandardScaler()`` or ``PCA(50)``. It must keep the number of rows, and is
        cloned in `fit`. With several modalities, each gets its own clone; pass a dict to give each
        modality its own transformer, or "passthrough" to leave a modality unchanged.

    Attributes
    ----------
    transformer_ : transformer, or dict of str to transformer
        The fitted clone, or one per modality.

    n_features_in_ : int
        Number M of columns of a local feature, summed over the modalities.

    extraction_ : dict of str to (dict or None), or None
        How the local features of each modality were extracted, if X came from a store of
        `acluster.extraction.extract`. An X that was extracted in another way is an error later.

    Notes
    -----
    Every local feature is one sample of the fit, so large sets have more influence than small
    ones. Missing values are passed to the transformer, which may be an imputer. A modality that
    is missing from an item stays missing.

    The whole output is held in memory, and so are all features of a store during `fit` and
    `transform`.

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
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items, in any form that the classifiers take.

        y : array-like of shape (n,), optional
            The label of each item, repeated for each of its local features.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If X or `transformer` is not valid, or their modalities differ.
        """
        sets = self._check(X, reset=True)
        if y is not None:
            check_consistent_length(sets, y)
        given = self.transformer
        if isinstance(sets, FeatureSets):
            if isinstance(given, dict):
                raise ValueError(
                    f"transformer has the modalities {[*given]}, but X is one modality without a "
                    "name. Pass one transformer, or a dict of sets."
                )
            self.transformer_ = _fitted(given, sets, y)
            self._widths: dict[str, int] | None = None
            return self
        if not isinstance(given, dict):
            given = dict.fromkeys(sets.names, given)
        if set(given) != set(sets.names):
            raise ValueError(
                f"transformer has the modalities {[*given]}, but X has {sets.names}. Pass a "
                "transformer or 'passthrough' for each, or one transformer for all."
            )
        self.transformer_ = {name: _fitted(given[name], sets[name], y) for name in sets.names}
        self._widths = sets.n_features
        return self

    def transform(self, X: Any) -> FeatureSets | MultimodalFeatureSets:
        """Transform every local feature.

        Parameters
        ----------
        X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
            The items, in any form that the classifiers take.

        Returns
        -------
        FeatureSets or MultimodalFeatureSets
            The same items, with the same number of local features each, and their places.

        Raises
        ------
        ValueError
            If X has a different number of columns than in `fit`, or the transformer drops rows.
        """
        check_is_fitted(self, "transformer_")
        sets = self._check(X, reset=False)
        if isinstance(sets, FeatureSets):
            return _transformed(self.transformer_, sets)
        parts = {name: _transformed(self.transformer_[name], sets[name]) for name in sets.names}
        return with_modalities(sets, parts)

    def _check(self, X: Any, reset: bool) -> FeatureSets | MultimodalFeatureSets:
        # NaN is left to the transformer, which may be an imputer.
        X, seen = normalized(X), None if reset else self._widths
        if seen is not None or (reset and is_multimodal(X)):
            return check_multimodal_sets(X, estimator=self, seen=seen, ensure_all_finite=False)
        return check_sets(X, estimator=self, reset=reset, ensure_all_finite=False)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the output columns, modality after modality.

        Parameters
        ----------
        input_features : array-like of str, optional
            The names of the input columns.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self, "transformer_")
        names = _check_feature_names_in(self, input_features)
        if self._widths is None:
            return _names_out(self.transformer_, names)
        widths = [*self._widths.values()]
        if input_features is None:
            names = _numbered_names(widths)
        parts = np.split(names, np.cumsum(widths)[:-1])
        return np.concatenate([*map(_names_out, self.transformer_.values(), parts)])


def _fitted(transformer: Any, sets: FeatureSets, y: ArrayLike | None) -> Any:
    if isinstance(transformer, str) and transformer == "passthrough":
        return transformer
    if isinstance(transformer, type) or not hasattr(transformer, "fit"):
        raise TypeError(
            f"transformer={transformer!r} is neither a transformer, such as StandardScaler(), nor "
            "'passthrough'."
        )
    labels = None if y is None else np.repeat(np.asarray(y), sets.lengths, axis=0)
    return clone(transformer).fit(sets.packed()[0], labels)


def _transformed(transformer: Any, sets: FeatureSets) -> FeatureSets:
    if isinstance(transformer, str):
        return sets
    values, offsets = sets.packed()
    # If no item has this modality, transforming one row of zeros still gives the output's width
    # and dtype.
    given = values if len(values) else np.zeros((1, sets.n_features), values.dtype)
    with sklearn.config_context(transform_output="default"):
        transformed = transformer.transform(given)
    if hasattr(transformed, "toarray"):
        transformed = transformed.toarray()
    if len(transformed) != len(given):
        raise ValueError(
            f"{type(transformer).__name__} returned {len(transformed)} rows for {len(given)} local "
            "features. Use a transformer that keeps the number of rows."
        )
    return FeatureSets(transformed[: len(values)], offsets, places=sets.places)


def _numbered_names(widths: Iterable[int]) -> NDArray[np.object_]:
    """Return x0, x1, ... for each modality, given their widths."""
    return np.array([f"x{i}" for width in widths for i in range(width)], dtype=object)


def _names_out(transformer: Any, names: NDArray[np.object_]) -> NDArray[np.object_]:
    return names if isinstance(transformer, str) else transformer.get_feature_names_out(names)


class SetLookup(_SetsOut):
    """Replace a column of row numbers by the sets in those rows.

    Some scikit-learn tools accept only tables as X: ``ColumnTransformer``,
    ``BaggingClassifier``, ``permutation_importance`` and ``SelfTrainingClassifier``. Pass them
    row numbers instead of sets, and put this transformer in a pipeline before the classifier.

    Parameters
    ----------
    sets : FeatureSets, MultimodalFeatureSets, or path of a store
        Row number i refers to item i. ``clone`` does not copy the sets.

    Attributes
    ----------
    n_features_in_ : int
        Always 1.

    Notes
    -----
    `fit` only checks its input. If the sets are in a store, a pickled pipeline contains the path
    of the store, not the features.

    Examples
    --------
    Combine a classifier of videos with the columns of a table:

    >>> import numpy as np
    >>> from sklearn.compose import ColumnTransformer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from acluster import AttentionClusterClassifier, FeatureSets
    >>> from acluster.preprocessing import SetLookup
    >>> rng = np.random.default_rng(0)
    >>> videos = FeatureSets.from_arrays(rng.normal(size=(20, 5, 3)))
    >>> table = np.column_stack([np.arange(20), rng.normal(size=20)])  # row numbers first
    >>> clf = AttentionClusterClassifier(cluster_size=2, max_iter=5)
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
        """Check the row numbers.

        Parameters
        ----------
        X : array-like of shape (n, 1)
            Row numbers.

        y : None
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is not one column of integers from 0 to n_items - 1.
        """
        self._look_up(X, reset=True)
        return self

    def transform(self, X: ArrayLike) -> FeatureSets | MultimodalFeatureSets:
        """Return the sets in the given rows.

        Parameters
        ----------
        X : array-like of shape (n, 1)
            Row numbers, in any order. They may repeat.

        Returns
        -------
        FeatureSets or MultimodalFeatureSets
            The n items, as a view.

        Raises
        ------
        ValueError
            If X is not one column of integers from 0 to n_items - 1.
        """
        check_is_fitted(self, "n_features_in_")
        return self._look_up(X, reset=False)

    def _look_up(self, X: ArrayLike, reset: bool) -> FeatureSets | MultimodalFeatureSets:
        sets = open_if_store(self.sets)
        if not isinstance(sets, FeatureSets | MultimodalFeatureSets):
            raise TypeError(
                f"sets has type {type(sets).__name__}; expected FeatureSets, MultimodalFeatureSets "
                "or the path or URL of a store. Convert arrays with FeatureSets.from_arrays."
            )
        column = validate_data(self, X, reset=reset)
        if column.shape[1] != 1:
            raise ValueError(
                f"X has {column.shape[1]} columns; SetLookup expects one column of row numbers. "
                "Select it with a ColumnTransformer."
            )
        rows = column[:, 0]
        wrong = np.flatnonzero((rows % 1 != 0) | (rows < 0) | (rows >= len(sets)))
        if len(wrong):
            raise ValueError(
                f"X[{wrong[0]}] is {rows[wrong[0]]}, which is not a row number; sets has "
                f"{len(sets)} items, with row numbers from 0 to {len(sets) - 1}."
            )
        return sets[rows.astype(np.int64)]

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the columns of the sets: x0, x1, ..., modality after modality.

        Parameters
        ----------
        input_features : array-like of str, optional
            Ignored.

        Returns
        -------
        ndarray of str
        """
        check_is_fitted(self, "n_features_in_")
        sets = by_modality(open_if_store(self.sets))
        return _numbered_names(one.n_features for one in sets.values())
