"""Every accepted form of X becomes FeatureSets here; every error about X comes from here."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from acluster.sets._feature_sets import FeatureSets, to_numpy

__all__ = ["check_sets"]

# Finiteness is checked block by block: one pass, whatever the size of the sets.
_ROWS_PER_CHECK = 1 << 18


def check_sets(
    X: Any, *, estimator: BaseEstimator, reset: bool, ensure_all_finite: bool = True
) -> FeatureSets:
    """Turn X into checked FeatureSets and hold it against what `estimator` has seen.

    Parameters
    ----------
    X : FeatureSets, list or object array of (L_i, M) arrays, (n, L, M) array, \
tensor, or (n, M) array-like
        A two-dimensional X means n sets of one local feature each.

    estimator : estimator instance
        Named in messages; its `n_features_in_` and `feature_names_in_` are set or checked.

    reset : bool
        True in `fit`: `estimator` learns the width of X. False: X must have that width.

    ensure_all_finite : bool, default=True
        Whether NaN and infinity are errors.

    Returns
    -------
    FeatureSets
        Every set non-empty.

    Raises
    ------
    ValueError, TypeError
        Naming the item, the value seen and the remedy.
    """
    if not _is_sequence(X):
        raise TypeError(
            f"X is a {type(X).__name__}; expected FeatureSets, a list of two-dimensional arrays, "
            "or a three-dimensional array."
        )
    if not isinstance(X, FeatureSets):
        if _is_two_dimensional(X):
            return _single_features(
                X, estimator=estimator, reset=reset, ensure_all_finite=ensure_all_finite
            )
        X = _from_arrays(X)
    # Skips the array itself and checks only width and feature names against the estimator.
    validate_data(estimator, np.empty((0, X.n_features)), skip_check_array=True, reset=reset)
    _check_not_empty(X)
    if ensure_all_finite:
        _check_finite(X)
    return X


def _is_sequence(X: Any) -> bool:
    if hasattr(X, "shape") or hasattr(X, "__array__"):
        return True  # sparse matrices may be dicts; scikit-learn's own message on them follows
    is_named = isinstance(X, str | bytes | os.PathLike | dict)
    return hasattr(X, "__len__") and hasattr(X, "__getitem__") and not is_named


def _is_two_dimensional(X: Any) -> bool:
    """Whether X is for scikit-learn's own validation: anything but sets of (L_i, M)."""
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        return len(shape) < 3
    if shape is None and not hasattr(X, "__len__"):
        return True
    # A list of rows is a table; an object array of rows would not become one.
    least_ndim = 1 if shape is not None and X.dtype == object else 2
    return len(X) > 0 and not any(_ndim(item) >= least_ndim for item in X)


def _ndim(item: Any) -> int:
    try:
        return np.ndim(item)
    except ValueError:  # nested lists of differing length
        return 2


def _single_features(X: Any, *, estimator: BaseEstimator, **checks: bool) -> FeatureSets:
    if hasattr(X, "detach"):
        X = to_numpy(X)
    X = validate_data(estimator, X, dtype=[np.float64, np.float32, np.float16], **checks)
    return FeatureSets(X, np.arange(len(X) + 1))


def _from_arrays(X: Any) -> FeatureSets:
    shape = getattr(X, "shape", (0,))
    if len(shape) == 1:
        return FeatureSets.from_arrays(X)
    if len(shape) > 3:
        raise ValueError(
            f"X has shape {tuple(shape)}; expected (items, local features, features). Extract one "
            "feature vector per local feature first."
        )
    X = check_array(to_numpy(X), allow_nd=True, ensure_all_finite=False, input_name="X")
    return FeatureSets.from_padded(X)


def _check_not_empty(X: FeatureSets) -> None:
    if len(X) == 0:
        raise ValueError("X has 0 items; at least one is required.")
    empty = np.flatnonzero(X.lengths == 0)
    if len(empty):
        others = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        raise ValueError(
            f"X[{empty[0]}]{others} has 0 local features; every set needs at least one. "
            "Drop it, or give it one (for example the mean local feature)."
        )


def _check_finite(X: FeatureSets) -> None:
    if X.dtype.kind != "f":
        return
    blocks = np.searchsorted(np.cumsum(X.lengths), np.arange(0, X.lengths.sum(), _ROWS_PER_CHECK))
    for start, stop in zip(blocks, [*blocks[1:], len(X)], strict=True):
        values, offsets = X[start:stop].packed()
        finite = np.isfinite(values)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            item = np.searchsorted(offsets, row, side="right") - 1
            kind = "NaN" if np.isnan(values[row, column]) else "infinity"
            raise ValueError(
                f"Input X contains {kind}.\nX[{start + item}] has {values[row, column]} in local "
                f"feature {row - offsets[item]}, column {column}. Drop that local feature or "
                "impute it (acluster.preprocessing.LocalFeatureTransformer lifts an imputer)."
            )
