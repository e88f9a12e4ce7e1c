"""Convert every accepted form of X to checked feature sets; all errors about X are raised here."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from acluster.sets._arrays import (
    bounded,
    check_not_masked,
    in_order,
    is_missing,
    ndim_of,
    text_columns,
    to_numpy,
)
from acluster.sets._extraction import first_difference
from acluster.sets._feature_sets import FeatureSets, pieces, spaced_rows, with_extraction
from acluster.sets._multimodal import (
    MultimodalFeatureSets,
    in_modality,
    sets_with_missing,
    with_modalities,
)
from acluster.sets._names import UNNAMED
from acluster.sets._store._reader import open_if_store

# Importing scikit-learn takes as long as importing torch, and programs that only read or write sets
# need neither. The functions of this module that check against an estimator import it.
if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

AllFinite: TypeAlias = bool | Literal["deferred"]

# Features are checked for NaN and infinity in pieces of about this many numbers, so that the memory
# for the check is bounded.
_NUMBERS_PER_CHECK = 1 << 21

# Initial weights and learning rates suit a spread of about 1; outside these bounds `fit` warns.
_SPREAD_BOUNDS = (0.01, 20.0)
_ITEMS_FOR_SPREAD = 64  # the spread is estimated from this many items, and
_NUMBERS_FOR_SPREAD = 1 << 21  # this many numbers of them


def check_sets(
    X: Any, *, estimator: BaseEstimator, reset: bool, ensure_all_finite: AllFinite = True
) -> FeatureSets:
    """Convert X to FeatureSets, and check it against what `estimator` was fitted on.

    Parameters
    ----------
    X : FeatureSets, list or object array of (L_i, M) arrays, (n, L, M) array, \
tensor, (n, M) array-like, path of a store, or zarr group
        A two-dimensional X means n sets of one local feature each.

    estimator : estimator instance
        Named in messages; its `n_features_in_` and `feature_names_in_` are set or checked.

    reset : bool
        True in `fit`: `estimator` learns the width of X. False: X must have that width.

    ensure_all_finite : bool or "deferred", default=True
        Whether NaN and infinity raise an error. "deferred": only in tables; the caller checks the
        other sets later, with `check_finite` or while they are copied to a device.

    Returns
    -------
    FeatureSets
        Without empty sets.

    Raises
    ------
    ValueError, TypeError
        If X is invalid. The message names the item, the value and the remedy.
    """
    X = normalized(X)
    if is_multimodal(X):
        raise TypeError(
            f"X has type {type(X).__name__}, with several modalities; {type(estimator).__name__} "
            "takes one. Pass X[name], or use MultimodalAttentionClusterClassifier."
        )
    checked, tables = _check_unnamed(X, estimator, reset, ensure_all_finite)
    _compare_with_fit(checked, estimator, tables=tables, reset=reset)
    return checked[UNNAMED]


def check_multimodal_sets(
    X: Any,
    *,
    estimator: BaseEstimator,
    seen: dict[str, int] | None,
    ensure_all_finite: AllFinite = True,
) -> MultimodalFeatureSets:
    """Convert X to MultimodalFeatureSets, and check it against what was seen in `fit`.

    Parameters
    ----------
    X : MultimodalFeatureSets, dict of str to sets, list of dicts, or any X of `check_sets`
        Sets without a name become the only modality, "features".

    estimator : estimator instance
        Named in messages; its `n_features_in_`, the sum of all widths, is set or checked.

    seen : dict of str to int, or None
        The modalities of `fit` and their widths; None in `fit`.

    ensure_all_finite : bool or "deferred", default=True
        Whether NaN and infinity raise an error. "deferred": only in tables; the caller checks the
        other sets later, with `check_finite` or while they are copied to a device.

    Returns
    -------
    MultimodalFeatureSets
        The modalities of `seen`, in its order. A modality that X lacks is missing from every
        item, but every item has at least one modality.

    Raises
    ------
    ValueError, TypeError
        If X is invalid. The message names the item, the modality, the value and the remedy.
    """
    X, reset = normalized(X), seen is None
    if not is_multimodal(X):
        if seen is not None and list(seen) != [UNNAMED]:
            raise ValueError(
                f"X is one modality without a name, but {type(estimator).__name__} was fitted on "
                f"{[*seen]}. Pass a dict of sets with these names."
            )
        checked, tables = _check_unnamed(X, estimator, reset, ensure_all_finite)
        _compare_with_fit(checked, estimator, tables=tables, reset=reset)
        return checked
    widths = seen or {}  # of modalities that all items may lack
    if isinstance(X, list | tuple | np.ndarray):
        X = MultimodalFeatureSets.from_items(_without_absent(X, widths))
    modalities, tables = {}, []
    for name in X.names if isinstance(X, MultimodalFeatureSets) else X:
        with in_modality(name):
            one = normalized(X[name])
            if name in widths and _is_absent(one):
                one = _no_features(len(one), widths[name])
            modalities[name] = _to_modality(one)
            if not isinstance(one, FeatureSets) and _is_table(one):
                tables.append(name)
    if seen is not None:
        modalities = _align_with_fit(modalities, seen, type(estimator).__name__)
    is_joined = isinstance(X, MultimodalFeatureSets)
    joined = with_modalities(X, modalities) if is_joined else MultimodalFeatureSets(modalities)
    checked = _check_features(joined, estimator, reset, ensure_all_finite)
    _compare_with_fit(checked, estimator, tables=tables, reset=reset)
    return checked


def is_multimodal(X: Any) -> bool:
    """Whether X has named modalities: the container, a mapping, or a list of mappings."""
    if isinstance(X, MultimodalFeatureSets):
        return True
    is_list = isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object)
    # Some sparse matrices are mappings; scikit-learn has its own message for them.
    return any(isinstance(x, Mapping) and not hasattr(x, "shape") for x in (X if is_list else [X]))


def normalized(X: Any) -> Any:
    """Open a store, and convert tensors and lists of other libraries; return the rest unchanged."""
    X = open_if_store(X)
    check_not_masked(X, "X")
    if hasattr(X, "detach"):
        return to_numpy(X)
    if hasattr(X, "to_pylist"):  # of pyarrow
        return X.to_pylist()
    if hasattr(X, "columns") and hasattr(X, "dtypes"):
        _check_frame(X)
    is_other = hasattr(X, "shape") or hasattr(X, "__array__") or isinstance(X, Mapping | bytes)
    if is_other or not hasattr(X, "__len__") or not hasattr(X, "__getitem__"):
        return X
    return X if isinstance(X, list | tuple) else list(bounded(X))


def as_container(X: Any) -> FeatureSets | MultimodalFeatureSets:
    """Convert X to a container, without comparing it with an estimator.

    Parameters
    ----------
    X : FeatureSets or MultimodalFeatureSets, arrays, or the path or URL of a store
        In any form that a classifier takes.

    Returns
    -------
    FeatureSets or MultimodalFeatureSets
        With named modalities if X has them.

    Raises
    ------
    ValueError, TypeError
        If X is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.sets._checks import as_container
    >>> as_container({"rgb": [np.ones((2, 3)), None]}).lengths["rgb"]
    array([2, 0])
    """
    X = normalized(X)
    if not is_multimodal(X):
        return _to_modality(X)
    if isinstance(X, list | tuple | np.ndarray):
        X = MultimodalFeatureSets.from_items(X)
    if isinstance(X, MultimodalFeatureSets):
        return X
    modalities = {}
    for name in X:
        with in_modality(name):
            modalities[name] = _to_modality(normalized(X[name]))
    return MultimodalFeatureSets(modalities)


def _check_unnamed(
    X: Any, estimator: BaseEstimator, reset: bool, ensure_all_finite: AllFinite
) -> tuple[MultimodalFeatureSets, list[str]]:
    """Convert and check one modality without a name; also return [UNNAMED] if X is a table."""
    _check_is_sequence(X)
    if not _is_table(X):
        named = MultimodalFeatureSets({UNNAMED: _to_sets(X)})
        return _check_features(named, estimator, reset, ensure_all_finite), []
    from sklearn.utils.validation import validate_data

    dtypes = [np.float64, np.float32, np.float16]
    checks = {"reset": reset, "ensure_all_finite": bool(ensure_all_finite)}
    table = validate_data(estimator, X, dtype=dtypes, **checks)
    return MultimodalFeatureSets({UNNAMED: _one_row_per_set(table)}), [UNNAMED]


def _check_frame(X: Any) -> None:
    """Raise a TypeError for a data frame whose cells are sets or parts of sets."""
    for name in X.columns if len(X) else ():
        cell = next(iter(X[name]))
        if not isinstance(cell, str | bytes) and np.ndim(cell) > 0:
            raise TypeError(
                f"X is a data frame whose column {name!r} has the type {type(cell).__name__} in "
                f"each cell. If a cell is a whole set, pass the column X[{name!r}]. If the columns "
                "are the features of nested series, pass "
                "[numpy.column_stack(list(row)) for row in X.to_numpy()]."
            )


def _to_modality(X: Any) -> FeatureSets:
    """Convert one modality of a mapping; an item may lack it, as None or as an empty set."""
    _check_is_sequence(X)
    if _is_listed(X) and any(map(is_missing, X)):
        return sets_with_missing(list(X))
    return _one_row_per_set(X) if _is_table(X) else _to_sets(X)


def _to_sets(X: Any) -> FeatureSets:
    """Convert a list, an object array or a three-dimensional array."""
    if isinstance(X, FeatureSets):
        return X
    shape = getattr(X, "shape", (0,))
    if len(shape) == 1:
        return FeatureSets.from_arrays(X)
    if len(shape) > 3:
        raise ValueError(
            f"X has shape {tuple(shape)}; expected (items, local features, features). Extract one "
            "feature vector per local feature first."
        )
    from sklearn.utils import check_array

    X = check_array(to_numpy(X), allow_nd=True, ensure_all_finite=False, input_name="X")
    return FeatureSets.from_padded(X)


def _one_row_per_set(X: Any) -> FeatureSets:
    return FeatureSets(X, np.arange(len(X) + 1))


def _without_absent(items: Iterable[Any], names: Collection[str]) -> list[Any]:
    """Return items without those of the modalities `names` that none of them has."""
    items = list(items)
    found = [item for item in items if isinstance(item, Mapping)]
    absent = {name for name in names if all(is_missing(item.get(name)) for item in found)}
    return [
        {name: x for name, x in item.items() if name not in absent}
        if isinstance(item, Mapping)
        else item
        for item in items
    ]


def _is_absent(X: Any) -> bool:
    """Whether all items lack a modality, as None."""
    return _is_listed(X) and len(X) > 0 and all(map(is_missing, X))


def _is_listed(X: Any) -> bool:
    """Whether X has an object per item, so that some may be missing."""
    return isinstance(X, list | tuple) or getattr(X, "dtype", None) == np.dtype(object)


def _no_features(n_items: int, width: int) -> FeatureSets:
    return FeatureSets(np.empty((0, width), np.float32), np.zeros(n_items + 1, int))


def _align_with_fit(
    modalities: dict[str, FeatureSets], seen: dict[str, int], estimator_name: str
) -> dict[str, FeatureSets]:
    """Put the modalities in the order of `fit`; one that X lacks gets empty sets."""
    for name, sets in modalities.items():
        if name not in seen:
            raise ValueError(
                f"X has the modality {name!r}, which {estimator_name} has not seen in fit; it was "
                f"fitted on {[*seen]}. Leave it out, or fit again with it."
            )
        if sets.n_features != seen[name]:
            raise ValueError(
                f"X[{name!r}] has {sets.n_features} features, but {estimator_name} is "
                f"expecting {seen[name]} features as input."
            )
    n_items = len(next(iter(modalities.values()), ()))
    return {name: _no_features(n_items, width) for name, width in seen.items()} | modalities


def _check_is_sequence(X: Any) -> None:
    is_array = hasattr(X, "shape") or hasattr(X, "__array__")
    is_list = hasattr(X, "__len__") and hasattr(X, "__getitem__")
    if not is_array and (not is_list or isinstance(X, bytes | Mapping)):
        raise TypeError(
            f"X has type {type(X).__name__}; expected FeatureSets, a list of two-dimensional "
            "arrays, a three-dimensional array, or the path or URL of a store."
        )


def _is_table(X: Any) -> bool:
    """Whether scikit-learn's own validation applies to X: anything but sets of shape (L_i, M)."""
    if isinstance(X, FeatureSets):
        return False
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) != 1:
        return len(shape) < 3
    if shape is None and not hasattr(X, "__len__"):
        return True
    # A list of rows is a table. numpy would not convert an object array of rows to one.
    least_ndim = 1 if shape is not None and X.dtype == object else 2
    others = (str, bytes, os.PathLike, type(None))  # for which our messages are clearer
    return len(X) > 0 and not any(
        ndim_of(item) >= least_ndim or isinstance(item, others) for item in X
    )


def _check_features(
    X: MultimodalFeatureSets, estimator: BaseEstimator, reset: bool, ensure_all_finite: AllFinite
) -> MultimodalFeatureSets:
    """Check the widths, that no item is empty, and that the features in memory are finite.

    Return the sets with the columns of data frames in the order of `fit`.
    """
    X = _check_columns(X, estimator, reset)
    _check_not_empty(X, in_fit=reset)
    if ensure_all_finite is True:
        check_finite(X)
    return X


def check_finite(X: MultimodalFeatureSets) -> None:
    """Raise an error if local features in memory contain NaN or infinity.

    Parameters
    ----------
    X : MultimodalFeatureSets
        The sets. Those in a store are checked while they are read.

    Raises
    ------
    ValueError
        The message names the modality, the item and the local feature.
    """
    for name in X.names:
        with nullcontext() if name == UNNAMED else in_modality(name):
            sets = X[name]
            if sets.dtype.kind == "f" and sets.in_memory:
                _raise_if_not_finite(sets, lambda i: f"X[{i}]")


def _check_columns(X: MultimodalFeatureSets, estimator: Any, reset: bool) -> MultimodalFeatureSets:
    """Compare the widths and column names with those of `fit`, or set them on the estimator.

    The columns of modalities that are not data frames have the names x0, x1, ...
    """
    from sklearn.utils.validation import _check_n_features, validate_data

    widths = X.n_features
    numbered = {name: [f"x{i}" for i in range(width)] for name, width in widths.items()}
    named = {name: own for name in X.names if (own := text_columns(X[name]))}
    no_rows = np.empty((0, sum(widths.values())))
    if reset or not named:
        # With skip_check_array, only width and feature names are checked against the estimator.
        validate_data(estimator, no_rows, skip_check_array=True, reset=reset)
        if named:
            estimator.feature_names_in_ = np.concatenate(
                [np.array(own, dtype=object) for own in (numbered | named).values()]
            )
        return X
    _check_n_features(estimator, no_rows, reset=False)
    seen = getattr(estimator, "feature_names_in_", [])
    of_fit = dict(zip(X.names, np.split(seen, np.cumsum([*widths.values()])[:-1]), strict=True))
    ordered = {}
    for name in X.names:
        ordered[name] = X[name]
        if name in named and list(of_fit[name]) not in ([], named[name], numbered[name]):
            with nullcontext() if name == UNNAMED else in_modality(name):
                ordered[name] = _with_columns(X[name], named[name], list(of_fit[name]))
    return with_modalities(X, ordered)


def _with_columns(X: FeatureSets, names: list[str], of_fit: list[str]) -> FeatureSets:
    """Return the sets with their columns, of some names, in the order of `fit`."""
    if not X.in_memory:
        raise ValueError(
            f"X, {X.description}, has the columns {names!s:.200}, but fit had {of_fit!s:.200}. "
            "Only columns in memory are sorted: call its method load, or write the store with the "
            "columns in the order of fit."
        )
    values, offsets = X.packed()
    ordered = FeatureSets(in_order(values, names, of_fit, "X"), offsets, places=X.places)
    return with_extraction(ordered, X.extraction)


def _compare_with_fit(
    X: MultimodalFeatureSets, estimator: Any, *, tables: list[str], reset: bool
) -> None:
    """Record which modalities of `fit` have one row per item; warn of tables for the others.

    Also record how its local features were extracted, and reject others.
    """
    if reset:
        estimator._one_row = [name for name, sizes in X.lengths.items() if (sizes <= 1).all()]
        estimator.extraction_ = copy.deepcopy(X.extraction)
        return
    _check_same_extraction(X, estimator)
    for name in tables:
        if name not in getattr(estimator, "_one_row", tables):
            warnings.warn(
                f"{'X' if name == UNNAMED else f'X[{name!r}]'} has two dimensions: it is taken as "
                f"{len(X)} sets of one local feature each, but {type(estimator).__name__} was "
                "fitted on larger sets. Pass one set as [X]. If one local feature each is meant, "
                "X[:, None] raises no warning.",
                stacklevel=6,  # the caller of `predict`
            )


def _check_same_extraction(X: MultimodalFeatureSets, estimator: Any) -> None:
    """Check that what is known of the extraction of X is the same as in `fit`."""
    found, fitted = X.extraction or {}, getattr(estimator, "extraction_", None) or {}
    for name in X.names:
        own, of_fit = found.get(name), fitted.get(name)
        if own is None or of_fit is None or own == of_fit:
            continue
        entry, value, expected = first_difference(own, of_fit)
        with nullcontext() if name == UNNAMED else in_modality(name):
            raise ValueError(
                f"X was extracted in another way than the items of fit: {entry:.100} is "
                f"{value!r:.200}, but in fit it was {expected!r:.200}. Extract X with the view and "
                "the backbone of fit: acluster.extraction.extract_features(paths, extraction_) "
                f"does so, with the attribute extraction_ of {type(estimator).__name__}. Or fit "
                "again."
            )


def _check_not_empty(X: MultimodalFeatureSets, in_fit: bool) -> None:
    """Check that every item has a modality and, in `fit`, that every modality has an item."""
    if len(X) == 0:
        raise ValueError("X has 0 items; at least one is required.")
    missing = X.missing
    empty = np.flatnonzero(np.all(list(missing.values()), axis=0))
    if len(empty):
        others = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
        scope = "" if X.names == [UNNAMED] else f" in any modality ({', '.join(X.names)})"
        raise ValueError(
            f"X[{empty[0]}]{others} has 0 local features{scope}; every item needs at least one. "
            "Drop it, or give it one (for example the mean local feature)."
        )
    absent = [name for name in X.names if missing[name].all()]
    if in_fit and absent:
        raise ValueError(
            f"Modality {absent[0]!r} is missing from every item; the first fit needs some local "
            "features of it. Add items that have the modality, or leave the modality out."
        )


def check_streamed(X: FeatureSets, origin: FeatureSets | None = None) -> None:
    """Raise an error if features read from a store contain NaN or infinity.

    Parameters
    ----------
    X : FeatureSets
        A view of a store, or the features read from one.

    origin : FeatureSets, optional
        The view of the store that X was read from, if X is in memory.

    Raises
    ------
    ValueError
        The message names the item, by its number in the store, and the local feature.
    """
    origin = X if origin is None else origin
    _raise_if_not_finite(X, lambda i: f"Item {origin.numbers[i]} of {origin.description}")


def _raise_if_not_finite(X: FeatureSets, item_name: Callable[[int], str]) -> None:
    first = 0
    for values in pieces(X, max(1, _NUMBERS_PER_CHECK // X.n_features)):
        if not _are_finite(values):
            row, column = np.argwhere(~np.isfinite(values))[0]
            ends = np.cumsum(X.lengths)
            item = np.searchsorted(ends, first + row, side="right")
            local_feature = first + row - ends[item] + X.lengths[item]
            kind = "NaN" if np.isnan(values[row, column]) else "infinity"
            raise ValueError(
                f"Input X contains {kind}.\n{item_name(item)} has {values[row, column]} in "
                f"local feature {local_feature}, column {column}. Drop that local feature or "
                "impute it (acluster.preprocessing.LocalFeatureTransformer can wrap an imputer)."
            )
        first += len(values)


def _are_finite(values: Any) -> bool:
    if values.dtype == np.float16:
        # numpy adds float16 slowly. As integers, infinity and NaN are the largest of their sign:
        # positive ones among signed integers, negative ones among unsigned integers.
        is_positive_finite = values.view(np.int16).max(initial=0) < 0x7C00
        return bool(is_positive_finite and values.view(np.uint16).max(initial=0) < 0xFC00)
    with np.errstate(over="ignore", invalid="ignore"):
        # A finite sum is a quick proof. A sum may also overflow, which proves nothing.
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def warn_of_scale(X: FeatureSets, name: str) -> None:
    """Warn if the scale of the local features is unsuitable for training a network.

    Parameters
    ----------
    X : FeatureSets
        The training sets. Evenly spaced local features of evenly spaced items are read.

    name : str
        The name of the sets in the message.

    Warns
    -----
    UserWarning
        If the spread, the root mean square deviation from the mean local feature, is outside of
        generous bounds. Constant features raise no warning.
    """
    sample = X[np.linspace(0, len(X) - 1, min(len(X), _ITEMS_FOR_SPREAD)).astype(np.int64)]
    values = spaced_rows(sample, max(1, _NUMBERS_FOR_SPREAD // X.n_features))
    with np.errstate(over="ignore", invalid="ignore"):  # NaN and infinity are reported elsewhere
        spread = np.sqrt(values.var(axis=0, dtype=np.float64).mean()) if len(values) else 0.0
    lowest, highest = _SPREAD_BOUNDS
    if 0 < spread < lowest or highest < spread < np.inf:
        warnings.warn(
            f"The local features of {name} have a spread of {spread:.2g}, but networks learn best "
            "with a spread of about 1. Set standardize=True to standardize them.",
            stacklevel=7,  # the caller of `fit`
        )
