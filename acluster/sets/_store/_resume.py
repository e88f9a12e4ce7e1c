"""The check of a store whose writing was interrupted, and the removal of what is unfinished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from acluster.sets._names import places_name
from acluster.sets._store._arrays import check_files, find_array, read_whole
from acluster.sets._store._columns import read_column
from acluster.sets._store._errors import array_error
from acluster.sets._store._format import places_array, stored_names
from acluster.sets._store._reader import open_rows

if TYPE_CHECKING:
    import zarr

    from acluster.sets._store._targets import Target


def committed_array(group: zarr.Group, name: str, n: int, store: str) -> zarr.Array:
    """Return an array of a store, cut to the rows that are committed.

    Raises
    ------
    StoreError
        If the array has fewer rows.
    """
    import zarr

    array = find_array(group, name, store)
    if array is None or array.shape[0] < n:
        raise array_error(name, store, f"is missing some of the {n} rows that were written")
    cut = array.metadata.update_shape((n, *array.shape[1:]))
    return zarr.Array(zarr.AsyncArray(cut, array.store_path))


def check_committed(group: zarr.Group, committed: Mapping[str, Any], store: str) -> None:
    """Check everything that is committed but the values of full files of features and places.

    Checksums are compared in columns, in row sizes and in the last file of features and of places,
    to which a writer adds. Of their other files, the sizes and the indices are checked.

    Raises
    ------
    StoreError
        The message names the array and the place.
    """
    n_items = committed["n_items"]
    for name, n_rows in committed["n_rows"].items():
        _check_features(committed_array(group, name, n_rows, store), store)
        sizes = read_whole(committed_array(group, f"{name}_row_size", n_items, store), store)
        if sizes.sum() != n_rows or (sizes < 0).any():
            problem = f"adds up to {sizes.sum()}, but {name!r} has {n_rows} rows"
            raise array_error(f"{name}_row_size", store, problem)
    for name in committed["places"]:
        places_array(group, name, store)
        n_rows = committed["n_rows"][name]
        _check_features(committed_array(group, places_name(name), n_rows, store), store)
    for name in committed["columns"]:
        read_column(committed_array(group, name, n_items, store), store)


def _check_features(array: zarr.Array, store: str) -> None:
    n_rows, height = array.shape[0], (array.shards or array.chunks)[0]
    check_files(array, store)
    stored_names(array, store)
    open_rows(array).check()
    first = max(0, n_rows - 1) // height * height
    try:
        values = np.asarray(array[first:])
    except Exception as error:  # of a codec or of the disk
        raise array_error(array.basename, store, f"cannot be read: {error}") from error
    # An earlier version of the file has the fill value where rows were added since.
    empty = np.flatnonzero(np.isnan(values).all(axis=1))
    if len(empty):
        problem = f"has lost row {first + empty[0]}"
        raise array_error(array.basename, store, problem)


def discard_uncommitted(group: zarr.Group, attributes: Mapping[str, Any], target: Target) -> None:
    """Remove what an interrupted writer has left: rows, arrays and temporary files.

    Entries of the directory that no writer made are left alone.
    """
    committed = attributes["committed"]
    per_item = [*committed["columns"], *(f"{name}_row_size" for name in committed["n_rows"])]
    places = {places_name(name): committed["n_rows"][name] for name in committed["places"]}
    sizes = committed["n_rows"] | places | dict.fromkeys(per_item, committed["n_items"])
    for name, n in sizes.items():
        array = group[name]
        if array.shape[0] > n:
            array.resize((n, *array.shape[1:]))
    # Offsets are written last, and written anew.
    unfinished = {
        *attributes.get("uncommitted", []),
        *(f"{name}_offsets" for name in committed["n_rows"]),
    }
    for name in unfinished - sizes.keys():
        if isinstance(name, str) and name == Path(name).name and name not in ("", ".", ".."):
            target.remove_array(name)
    target.tidy(sizes)
