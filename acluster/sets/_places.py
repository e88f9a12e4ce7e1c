"""Places: where each local feature comes from, such as a time or a position in an image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._arrays import Array, bounded, check_not_masked, column_names, to_numpy

_INTEGER_LIMIT = 2.0**53  # up to which float64 has all integers

Names = tuple[str, ...]


def place_columns(
    places: Any, n_rows: int, name: str, offsets: NDArray[np.int64] | None = None
) -> tuple[Names, Array]:
    """Convert places to one array with named columns.

    Parameters
    ----------
    places : mapping of str to array-like of shape (R,), or data frame with R rows
        The places, such as ``{"seconds": [0.0, 0.5]}``.

    n_rows : int
        The number R of local features.

    name : str
        The name of the places in error messages.

    offsets : ndarray of int64, shape (n_items + 1,), optional
        The first local feature of each item, if there are several items.

    Returns
    -------
    names : tuple of str
        The names of the columns.

    columns : ndarray of float64, shape (R, P)
        Always a copy.

    Raises
    ------
    ValueError
        If there is no column, a name is not text, or a column is not R finite numbers. The message
        names the column and the local feature.

    TypeError
        If `places` is neither a mapping nor a data frame.
    """
    if not isinstance(places, Mapping) and column_names(places) is None:
        raise TypeError(
            f"{name} has type {type(places).__name__}; pass a mapping of names to one number per "
            "local feature, such as {'seconds': times}, or a data frame."
        )
    names = tuple(places if isinstance(places, Mapping) else places.columns)
    if not names or len(set(names)) < len(names) or not all(map(_is_name, names)):
        raise ValueError(
            f"{name} has the columns {list(names)!s:.200}; it needs at least one, each with a name "
            "of its own that is a non-empty string, such as 'seconds'."
        )
    columns = [_column(places[one], n_rows, f"{name}[{one!r}]") for one in names]
    for one, values in zip(names, columns, strict=True):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ValueError(
                f"{name}[{one!r}] is {values[wrong[0]]} for {_local_feature(wrong[0], offsets)}. "
                "A place must be finite: correct it, or drop the local feature."
            )
    return names, np.column_stack(columns)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name != ""


def _local_feature(row: int, offsets: NDArray[np.int64] | None) -> str:
    if offsets is None:
        return f"local feature {row}"
    item = np.searchsorted(offsets, row, side="right") - 1
    return f"local feature {row - offsets[item]} of X[{item}]"


def _column(values: Any, n_rows: int, name: str) -> Array:
    """Convert a place of all local features to float64, without rounding integers."""
    check_not_masked(values, name)
    array = to_numpy(values)
    if array.shape != (n_rows,):
        raise ValueError(
            f"{name} has shape {array.shape}, but there are {n_rows} local features. Pass one "
            "number for each."
        )
    # An empty list has no dtype of its own.
    if array.dtype.kind not in "fiu" and len(array):
        raise ValueError(
            f"{name} has dtype {array.dtype}; a place must be a real number. Convert times to "
            "seconds."
        )
    column = array.astype(np.float64)
    large = array[(np.abs(column) >= _INTEGER_LIMIT) & (array.dtype.kind in "iu")]
    if len(large):
        raise ValueError(
            f"{name} has the integer {large[0]}, which float64 may round. Subtract an offset, or "
            "use a larger unit."
        )
    return column


def in_expected_order(columns: Array, names: Names, expected: Names, name: str, of: str) -> Array:
    """Return the columns in the order of `expected`.

    Raises
    ------
    ValueError
        If the names are not the same. `of` says in the message whose names are expected.
    """
    if names == expected:  # which saves time if there are many small items
        return columns
    if set(names) != set(expected):
        raise ValueError(
            f"{name} has the columns {list(names)!s:.200}, but {of} {list(expected)!s:.200}. Pass "
            "the same places for all items."
        )
    return columns[:, [names.index(one) for one in expected]]


def _one_per_item(places: Iterable[Any], n_items: int, entries: str) -> list[Any]:
    """Return the entries of a list with one per item; an error says what they are."""
    if isinstance(places, Mapping) or column_names(places) is not None:
        raise TypeError(
            f"places has type {type(places).__name__}, which is one for all items; pass a list "
            f"with {entries}."
        )
    given = list(bounded(places))
    if len(given) != n_items:
        raise ValueError(
            f"places has {len(given)} entries, but X has {n_items} items. Pass one entry per item."
        )
    return given


def joined_places(places: Iterable[Any], sets: Sequence[Array]) -> dict[str, Array]:
    """Join the places of single items end to end.

    Parameters
    ----------
    places : iterable of mappings of str to array-likes of shape (L_i,), or of data frames
        The places of each item, which may be None for one without local features.

    sets : sequence of ndarrays of shape (L_i, M)
        The local features of each item.

    Returns
    -------
    dict of str to ndarray of shape (R,)
        The columns by name, in the order of the first item.

    Raises
    ------
    ValueError, TypeError
        If there is not one entry per item, or an entry does not fit its item or the other entries.
        The message names the item.
    """
    given = _one_per_item(places, len(sets), "the places of each item")
    if not given:
        raise ValueError(
            "places is a list for 0 items, so its columns are unknown. Leave it out, or pass a "
            "mapping of names to empty arrays."
        )
    first, expected, tables = 0, None, []
    for i, (own, item) in enumerate(zip(given, sets, strict=True)):
        if own is None and not len(item):
            continue
        names, columns = place_columns(own, len(item), f"places[{i}]")
        if expected is None:
            first, expected = i, names
        tables.append(
            in_expected_order(columns, names, expected, f"places[{i}]", f"places[{first}] has")
        )
    if expected is None:
        raise ValueError("places is None for all items, so its columns are unknown. Leave it out.")
    return dict(zip(expected, np.concatenate(tables).T, strict=True))


def padded_places(
    places: Mapping[str, Any], lengths: NDArray[np.int64], longest: int
) -> dict[str, Array]:
    """Drop the padding of places that are padded like their local features.

    Parameters
    ----------
    places : mapping of str to array-like of shape (n_items, longest)
        The places of all items. What is in the padding does not matter.

    lengths : ndarray of int64, shape (n_items,)
        The number of local features of each item.

    longest : int
        The number of rows of each item, with the padding.

    Returns
    -------
    dict of str to ndarray of shape (R,)
        The columns by name.

    Raises
    ------
    ValueError
        If an array has another shape, or masked values.
    """
    is_row = np.arange(longest) < lengths[:, None]
    columns = {}
    for key, values in places.items():
        check_not_masked(values, f"places[{key!r}]")
        array = to_numpy(values)
        if array.shape != is_row.shape:
            raise ValueError(
                f"places[{key!r}] has shape {array.shape}, but the padded array has room for "
                f"{is_row.shape[0]} items of {longest} local features. Pass one number for each, "
                f"of shape {is_row.shape}."
            )
        columns[key] = array[is_row]
    return columns


def places_by_modality(
    places: Iterable[Any], n_items: int, modalities: Sequence[str]
) -> dict[str, list[Any]]:
    """Return the places of single items by modality, without modalities that have none.

    Parameters
    ----------
    places : iterable of mappings of str to places, or None
        One per item: the places of each modality that has some.

    n_items : int
        The number of items.

    modalities : sequence of str
        The names of the modalities.

    Returns
    -------
    dict of str to list
        For each modality with places, one entry per item, which may be None.

    Raises
    ------
    ValueError, TypeError
        If there is not one entry per item, an entry is not a mapping, or a modality is unknown.
    """
    given = _one_per_item(places, n_items, "one mapping of modality names to places per item")
    for i, own in enumerate(given):
        if own is not None and not isinstance(own, Mapping):
            raise TypeError(
                f"places[{i}] has type {type(own).__name__}; pass a mapping of modality names to "
                "places, such as {'rgb': {'seconds': times}}."
            )
        unknown = [name for name in own or () if name not in modalities]
        if unknown:
            raise ValueError(
                f"places[{i}] has the key {unknown[0]!r}, but the modalities are "
                f"{[*modalities]!s:.200}. Pass a mapping of modality names to places."
            )
    by_name = {name: [(own or {}).get(name) for own in given] for name in modalities}
    return {name: own for name, own in by_name.items() if any(entry is not None for entry in own)}
