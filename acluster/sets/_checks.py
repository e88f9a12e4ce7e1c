"""Every accepted form of X becomes FeatureSets here; every error about X comes from here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from acluster.sets._feature_sets import FeatureSets, to_numpy
from acluster.sets._multimodal import MultimodalFeatureSets, sets_or_none
from acluster.sets._store._reader import UNNAMED, open_feature_sets

__all__ = [
    "check_multimodal_sets",
    "check_sets",
    "check_streamed",
    "is_multimodal",
    "opened",
    "warn_of_scale",
]

_T = TypeVar("_T")

# Finiteness is checked block by block: one pass, whatever the size of the sets.
_ROWS_PER_CHECK = 1 << 18

# Spreads of local features that initial weights and step sizes suit, well or badly; and how many
# items tell it.
_SPREADS = (0.01, 20.0)
_ITEMS_FOR_SPREAD = 64


def check_sets(
    X: Any, *, estimator: BaseEstimator, reset: bool, ensure_all_finite: bool = True
) -> FeatureSets:
    """Turn X into checked FeatureSets and hold it against what `estimator` has seen.

    Parameters
    ----------
    X : FeatureSets, list or object array of (L_i, M) arrays, (n, L, M) array, \
tensor, (n, M) array-like, path of a store, or zarr group
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
    X = opened(X)
    if is_multimodal(X):
        raise TypeError(
            f"X is a {type(X).__name__} of several modalities; {type(estimator).__name__} takes "
            "one. Pass X[name], or use MultimodalAttentionClusterClassifier."
        )
    if not _is_sequence(X):
        raise TypeError(
            f"X is a {type(X).__name__}; expected FeatureSets, a list of two-dimensional arrays, "
            "a three-dimensional array, or the path of a store."
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


def check_multimodal_sets(
    X: Any,
    *,
    estimator: BaseEstimator,
    seen: dict[str, int] | None,
    ensure_all_finite: bool = True,
) -> MultimodalFeatureSets:
    """Turn X into checked MultimodalFeatureSets and hold it against what was seen in `fit`.

    Parameters
    ----------
    X : MultimodalFeatureSets, dict of str to sets, list of dicts, or anything of `check_sets`
        Sets without a name are the one modality "features".

    estimator : estimator instance
        Named in messages; its `n_features_in_` is set or checked, the sum of all widths.

    seen : dict of str to int, or None
        The modalities of `fit` and their widths; None in `fit`.

    ensure_all_finite : bool, default=True
        Whether NaN and infinity are errors.

    Returns
    -------
    MultimodalFeatureSets
        Every item with at least one modality; the modalities of `seen`, in its order. One
        that X lacks is missing from every item.

    Raises
    ------
    ValueError, TypeError
        Naming the item, the modality, the value seen and the remedy.
    """
    X = opened(X)
    if is_multimodal(X) and isinstance(X, list | tuple | np.ndarray):
        X = MultimodalFeatureSets.from_items(X)
    if not is_multimodal(X):
        if seen is not None and list(seen) != [UNNAMED]:
            raise ValueError(
                f"X is one modality without a name, but {type(estimator).__name__} was fitted on "
                f"{[*seen]}. Pass a dict of sets by these names."
            )
        checks = {"reset": seen is None, "ensure_all_finite": ensure_all_finite}
        return MultimodalFeatureSets({UNNAMED: check_sets(X, estimator=estimator, **checks)})
    sets = {name: _about_modality(name, _modality_sets, X[name]) for name in _names(X)}
    if seen is not None:
        sets = _like_seen(sets, seen, type(estimator).__name__)
    checked = MultimodalFeatureSets(sets)
    total = np.empty((0, sum(checked.n_features.values())))
    validate_data(estimator, total, skip_check_array=True, reset=seen is None)
    _check_some_modality(checked, of_all_items=seen is None)
    for name in checked.names if ensure_all_finite else ():
        _about_modality(name, _check_finite, checked[name])
    return checked


def opened(X: Any) -> Any:
    """What a path or a zarr group holds; anything else as it is."""
    is_group = hasattr(X, "store_path") and hasattr(X, "group_keys")
    return open_feature_sets(X) if isinstance(X, str | os.PathLike) or is_group else X


def is_multimodal(X: Any) -> bool:
    """Whether X has named modalities: the container, a mapping, or a list of mappings."""
    if isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object):
        return any(isinstance(item, Mapping) and not hasattr(item, "shape") for item in X)
    # Some sparse matrices are mappings; scikit-learn has a message of its own for them.
    is_mapping = isinstance(X, Mapping) and not hasattr(X, "shape")
    return is_mapping or isinstance(X, MultimodalFeatureSets)


def _names(X: Any) -> list[str]:
    return X.names if isinstance(X, MultimodalFeatureSets) else list(X)


def _about_modality(name: str, function: Callable[[Any], _T], argument: Any) -> _T:
    """``function(argument)``; errors say which modality they are about."""
    try:
        return function(argument)
    except (TypeError, ValueError) as error:
        raise type(error)(f"In modality {name!r}: {error}") from None


def _modality_sets(X: Any) -> FeatureSets:
    """One modality of a mapping, in any form; empty sets and None are missing."""
    X = opened(X)
    if isinstance(X, FeatureSets):
        return X
    if not _is_sequence(X):
        raise TypeError(
            f"X is a {type(X).__name__}; expected FeatureSets, a list of two-dimensional arrays, "
            "a three-dimensional array, or the path of a store."
        )
    if isinstance(X, list | tuple) and any(item is None for item in X):
        return sets_or_none(X)
    if _is_two_dimensional(X):
        return FeatureSets(to_numpy(X), np.arange(len(X) + 1))
    return _from_arrays(X)


def _like_seen(
    sets: dict[str, FeatureSets], seen: dict[str, int], estimator_name: str
) -> dict[str, FeatureSets]:
    """The modalities of `fit`, in its order; those that are not there are empty."""
    for name, modality in sets.items():
        if name not in seen:
            raise ValueError(
                f"X has the modality {name!r}, which {estimator_name} has not seen in fit; it was "
                f"fitted on {[*seen]}. Leave it out, or fit anew with it."
            )
        if modality.n_features != seen[name]:
            raise ValueError(
                f"X[{name!r}] has {modality.n_features} features, but {estimator_name} is "
                f"expecting {seen[name]} features as input."
            )
    n_items = len(next(iter(sets.values()), ()))
    return {
        name: sets[name]
        if name in sets
        else FeatureSets(np.empty((0, width), np.float32), np.zeros(n_items + 1, int))
        for name, width in seen.items()
    }


def _check_some_modality(X: MultimodalFeatureSets, of_all_items: bool) -> None:
    """Every item has a modality; with `of_all_items`, every modality has an item."""
    if len(X) == 0:
        raise ValueError("X has 0 items; at least one is required.")
    missing = X.missing
    nothing = np.flatnonzero(np.all(list(missing.values()), axis=0))
    if len(nothing):
        others = f" (and {len(nothing) - 1} more)" if len(nothing) > 1 else ""
        raise ValueError(
            f"X[{nothing[0]}]{others} has no local features in any modality "
            f"({', '.join(X.names)}); every item needs at least one. Drop it."
        )
    absent = [name for name in X.names if missing[name].all()]
    if of_all_items and absent:
        raise ValueError(
            f"Modality {absent[0]!r} is missing from every item; the first items to be fitted need "
            "some of it. Add items that have it, or leave the modality out for good."
        )


def _is_sequence(X: Any) -> bool:
    if hasattr(X, "shape") or hasattr(X, "__array__"):
        return True
    return (
        hasattr(X, "__len__") and hasattr(X, "__getitem__") and not isinstance(X, bytes | Mapping)
    )


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
    """Features in memory only: what streams from a store is checked as it comes."""
    if X.dtype.kind == "f" and X.in_memory:
        _refuse_not_finite(X, lambda i: f"X[{i}]")


def check_streamed(X: FeatureSets, origin: FeatureSets | None = None) -> None:
    """Refuse NaN and infinity in what was read from a store.

    Parameters
    ----------
    X : FeatureSets
        A view of a store, or what was read of it.

    origin : FeatureSets, optional
        The view of the store that X was read from, if X is in memory.

    Raises
    ------
    ValueError
        Naming the item, by its number in the store, and the local feature.
    """
    origin = X if origin is None else origin
    _refuse_not_finite(X, lambda i: f"Item {origin.numbers[i]} of {origin.place}")


def _refuse_not_finite(X: FeatureSets, name: Callable[[int], str]) -> None:
    n_rows = max(1, int(X.lengths.sum()))
    blocks = np.searchsorted(np.cumsum(X.lengths), np.arange(0, n_rows, _ROWS_PER_CHECK))
    for start, stop in zip(blocks, [*blocks[1:], len(X)], strict=True):
        values, offsets = X[start:stop].packed()
        with np.errstate(over="ignore", invalid="ignore"):
            if np.isfinite(values.sum()):  # sooner known; it may overflow
                continue
        finite = np.isfinite(values)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            item = np.searchsorted(offsets, row, side="right") - 1
            kind = "NaN" if np.isnan(values[row, column]) else "infinity"
            raise ValueError(
                f"Input X contains {kind}.\n{name(start + item)} has {values[row, column]} in "
                f"local feature {row - offsets[item]}, column {column}. Drop that local feature or "
                "impute it (acluster.preprocessing.LocalFeatureTransformer lifts an imputer)."
            )


def warn_of_scale(X: FeatureSets, name: str) -> None:
    """Warn of local features that a network learns badly from because of their scale.

    Parameters
    ----------
    X : FeatureSets
        Those to be fitted; a few items, evenly apart, are looked at.

    name : str
        What to call them.

    Warns
    -----
    UserWarning
        If their spread, the root mean square of their deviations from the mean local feature, is
        beyond bounds that are far apart. Features that are all alike have none.
    """
    some = X[np.linspace(0, len(X) - 1, min(len(X), _ITEMS_FOR_SPREAD)).astype(np.int64)]
    values, _ = some.packed()
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is not for us to refuse
        spread = np.sqrt(values.var(axis=0, dtype=np.float64).mean()) if len(values) else 0.0
    if 0 < spread < _SPREADS[0] or _SPREADS[1] < spread < np.inf:
        warnings.warn(
            f"The local features of {name} have a spread of {spread:.2g}, and networks learn best "
            "with one of about 1. Standardise them: standardize=True.",
            stacklevel=6,  # where `fit` is called
        )
