"""Transformers of single features, lifted onto sets: each local feature is one sample."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted

from acluster.sets import FeatureSets, check_sets

__all__ = ["LocalFeatureTransformer"]


class LocalFeatureTransformer(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Fit a scikit-learn transformer on all local features, and apply it to each.

    Parameters
    ----------
    transformer : transformer
        For example a ``StandardScaler()`` or a ``PCA(50)``; cloned in `fit`. It must
        give one row per row.

    Attributes
    ----------
    transformer_ : transformer
        The fitted clone.

    n_features_in_ : int
        The width M of a local feature.

    Notes
    -----
    Every local feature counts once, so large sets weigh more in the fit than small ones.
    Missing values go through to the transformer, which may be an imputer.

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
        X : FeatureSets, list of (L_i, M) arrays, (n, L, M) array, or (n, M) array
            The items.

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
        labels = None if y is None else np.repeat(np.asarray(y), sets.lengths, axis=0)
        self.transformer_ = clone(self.transformer).fit(sets.packed()[0], labels)
        return self

    def transform(self, X: Any) -> FeatureSets:
        """Transform every local feature.

        Parameters
        ----------
        X : FeatureSets, list of (L_i, M) arrays, (n, L, M) array, or (n, M) array
            The items.

        Returns
        -------
        FeatureSets
            The same items with sets of the same sizes.

        Raises
        ------
        ValueError
            If the width of X is not that of `fit`, or the transformer drops rows.
        """
        check_is_fitted(self, "transformer_")
        values, offsets = self._check(X, reset=False).packed()
        with sklearn.config_context(transform_output="default"):
            transformed = self.transformer_.transform(values)
        if hasattr(transformed, "toarray"):
            transformed = transformed.toarray()
        if len(transformed) != len(values):
            raise ValueError(
                f"{type(self.transformer_).__name__} gave {len(transformed)} rows for "
                f"{len(values)} local features; a transformer of local features keeps every row."
            )
        return FeatureSets(transformed, offsets)

    def _check(self, X: Any, reset: bool) -> FeatureSets:
        # Missing values are the transformer's to judge: it may be an imputer.
        return check_sets(X, estimator=self, reset=reset, ensure_all_finite=False)

    def set_output(self, *, transform: str | None = None) -> Self:
        """Accept a pipeline's choice of output container and change nothing.

        Sets stay `FeatureSets`: no data frame holds them. The choice takes effect in the
        steps after this one.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None
            Not used.

        Returns
        -------
        self
        """
        return self

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """The transformer's own names of a local feature's columns."""
        check_is_fitted(self, "transformer_")
        return self.transformer_.get_feature_names_out(
            _check_feature_names_in(self, input_features)
        )
