"""The format of a store: its attributes, its arrays, and what makes it sound.

A store is a zarr group of format 3. For each modality m it has the arrays

- ``{m}``: the local features of all items end to end, (R_m, M_m); the attribute
  ``column_names`` has the column names if items were data frames;
- ``{m}_row_size``: the number of local features of each item, (n,), 0 if the item lacks m;
- ``{m}_offsets``: the row at which each item starts, and R_m, (n + 1,);
- ``{m}_places``, if it has places: where each local feature comes from, (R_m, P_m), with the names
  of the places in ``column_names``;

and optionally the columns ``label``, ``id``, ``group`` and ``weight``, with one row per item.
Features have the same layout on disk as in memory, so that runs of rows are read without decoding.
A chunk has whole rows, and a file (a shard) has many chunks. The attribute ``complete`` is written
last. A store with places has version 2. One without has version 1, which older releases read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._names import COLUMNS, UNNAMED, can_name_array, places_name
from acluster.sets._store._arrays import check_files, find_array, read_whole
from acluster.sets._store._errors import StoreError, array_error

if TYPE_CHECKING:
    import zarr

FORMAT = "ragged-sets"

_VERSION, _VERSION_WITH_PLACES = 1, 2
_MAX_ROWS = 1 << 60
_CHUNK_BYTES = 1 << 19
_SHARD_BYTES = 1 << 26
_ITEMS_PER_CHUNK = 1 << 14


def new_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the attributes of a new store, with those of the user under "attributes"."""
    return {
        "acluster_format": FORMAT,
        "complete": False,
        "multimodal": None,  # known from the first item on
        **commit(0, {}, [], []),
        "attributes": dict(attributes or {}),
    }


def commit(
    n_items: int, n_rows: Mapping[str, int], columns: Iterable[str], places: Sequence[str]
) -> dict[str, Any]:
    """Return the attributes that tell a reader what it may rely on.

    A writer changes the arrays first and then these entries, so that rows beyond them belong to a
    write that was interrupted. The version changes with the first commit of places: before, an
    older release may take over, and it removes the places that are not committed.

    Parameters
    ----------
    n_items : int
        The number of items.

    n_rows : mapping of str to int
        The number of local features of each modality.

    columns : iterable of str
        The names of the columns.

    places : sequence of str
        The modalities with places.
    """
    committed = {"n_items": n_items, "n_rows": dict(n_rows), "columns": list(columns)}
    if not places:
        return {"version": _VERSION, "committed": committed}
    return {"version": _VERSION_WITH_PLACES, "committed": committed | {"places": list(places)}}


def read_attributes(group: zarr.Group) -> dict[str, Any]:
    """Return the attributes of a store, and check its format, its version and their structure."""
    attributes = dict(group.attrs)
    if attributes.get("acluster_format") != FORMAT:
        raise StoreError(
            f"{group.store_path} is a zarr group without the attribute acluster_format={FORMAT!r}. "
            "Convert other layouts to a store with acluster.save_feature_sets."
        )
    if attributes.get("version") not in (_VERSION, _VERSION_WITH_PLACES):
        raise StoreError(
            f"{group.store_path} has version {attributes.get('version')!r} of the format, but this "
            f"acluster reads versions {_VERSION} and {_VERSION_WITH_PLACES}. Use the acluster that "
            "wrote the store, or write it again."
        )
    problem = next(_problems(attributes), None)
    if problem:
        raise StoreError(
            f"The attributes of {group.store_path} are damaged: {problem}. Restore its zarr.json, "
            "or write the store again."
        )
    attributes["committed"] = {"places": [], **attributes["committed"]}
    return attributes


def _problems(attributes: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the attributes of a store."""
    if type(attributes.get("complete")) is not bool:
        yield f"complete is {attributes.get('complete')!r}, not true or false"
    # Not by a comparison: 0 and 1 are equal to False and True.
    if type(attributes.get("multimodal", 0)) not in (bool, type(None)):
        yield f"multimodal is {attributes.get('multimodal')!r}, not true, false or null"
    if not isinstance(attributes.get("attributes"), dict):
        yield f"attributes is {attributes.get('attributes')!r}, not an object"
    committed = attributes.get("committed")
    if not isinstance(committed, dict) or not {"n_items", "n_rows", "columns"} <= committed.keys():
        yield f"committed is {committed!r}, not an object with n_items, n_rows and columns"
        return
    n_rows = committed["n_rows"]
    yield from _problems_of_committed(**committed)
    if attributes["version"] == _VERSION and committed.get("places"):
        yield f"version {_VERSION} has no places, but committed names {committed['places']!r:.200}"
    if attributes["version"] == _VERSION_WITH_PLACES and "places" not in committed:
        yield f"committed has no places, which version {_VERSION_WITH_PLACES} needs"
    if attributes["complete"] is True and not (n_rows and committed["n_items"]):
        yield "a complete store has items and modalities"
    if not attributes.get("multimodal") and n_rows and list(n_rows) != [UNNAMED]:
        yield f"a store without modality names has {list(n_rows)}, not {[UNNAMED]}"


def _problems_of_committed(
    n_items: Any, n_rows: Any, columns: Any, places: Any = (), **_: Any
) -> Iterator[str]:
    if not isinstance(n_rows, dict):
        yield f"n_rows is {n_rows!r}, not an object"
        return
    for name, count in [("n_items", n_items), *n_rows.items()]:
        if type(count) is not int or not 0 <= count < _MAX_ROWS:
            yield f"the number of {name!r} is {count!r}"
    for name in n_rows:
        if not can_name_array(name):
            yield f"{name!r} cannot be the name of a modality"
    is_known = isinstance(columns, list) and all(column in COLUMNS for column in columns)
    if not is_known or len(set(columns)) < len(columns):
        yield f"columns is {columns!r}, but may only have {', '.join(COLUMNS)}, once each"
    is_known = isinstance(places, list | tuple) and all(name in [*n_rows] for name in places)
    if not is_known or len(set(places)) < len(places):
        yield f"places is {places!r}, but may only have {', '.join(n_rows)}, once each"
        return
    yield from (
        f"{places_name(name)!r} is a modality and the places of {name!r}"
        for name in places
        if places_name(name) in n_rows
    )


def features_layout(
    name: str, values: NDArray[Any], rows_per_file: int = _MAX_ROWS
) -> dict[str, Any]:
    """Return the parameters of the zarr array of a modality's features.

    Chunks are whole rows of about half a megabyte, and a shard has up to 64 MB of them, and about
    `rows_per_file` rows at most. They are not compressed: that would save little and make reading
    many times slower. A checksum follows each chunk.
    """
    from zarr.codecs import Crc32cCodec

    row_bytes = values.shape[1] * values.itemsize
    rows_per_chunk = max(1, min(_CHUNK_BYTES // row_bytes, rows_per_file))
    rows_per_shard = min(_SHARD_BYTES // row_bytes, rows_per_file)
    chunks_per_shard = max(1, rows_per_shard // rows_per_chunk)
    return {
        "shape": (0, values.shape[1]),
        "chunks": (rows_per_chunk, values.shape[1]),
        "shards": (rows_per_chunk * chunks_per_shard, values.shape[1]),
        "dtype": values.dtype,
        "compressors": [Crc32cCodec()],
        # zarr reads a missing file as the fill value. NaN is never a feature, so a lost file
        # cannot be mistaken for data.
        "fill_value": float("nan"),
        "dimension_names": (f"{name}_obs", f"{name}_feature"),
    }


def places_layout(
    name: str, values: NDArray[Any], *, features: zarr.Array, names: Sequence[str]
) -> dict[str, Any]:
    """Return the parameters of the zarr array of a modality's places.

    Its files have about as many rows as those of the features. Adding rows rewrites the last file,
    which would otherwise hold many more rows than are added, because places are narrow.
    """
    layout = features_layout(name, values, (features.shards or features.chunks)[0])
    dimensions = (f"{features.basename}_obs", f"{features.basename}_place")
    return layout | {"dimension_names": dimensions, "attributes": {"column_names": list(names)}}


def column_layout(name: str, values: NDArray[Any]) -> dict[str, Any]:
    """Return the parameters of the zarr array of a column, of row sizes or of offsets."""
    from zarr.codecs import Crc32cCodec

    dimensions = ["item_edge" if name.endswith("_offsets") else "item", f"{name}_column"]
    modality = name.removesuffix("_row_size")
    # The contiguous ragged array of the CF conventions.
    attributes = {"sample_dimension": f"{modality}_obs"} if modality != name else {}
    return {
        "shape": (0, *values.shape[1:]),
        "chunks": (_ITEMS_PER_CHUNK, *values.shape[1:]),
        "dtype": str if values.dtype.kind == "T" else values.dtype,
        "compressors": [Crc32cCodec()],  # no compression, but a checksum that reveals damage
        "dimension_names": dimensions[: values.ndim],
        "attributes": attributes,
    }


def check_structure(group: zarr.Group, store: str) -> None:
    """Check all but the features: completeness, shapes, offsets and columns.

    Parameters
    ----------
    group : zarr.Group
        The store.

    store : str
        The name of the store in error messages.

    Raises
    ------
    StoreError
        The message names the array and the place.
    """
    attributes = read_attributes(group)
    committed = attributes["committed"]
    n_items = committed["n_items"]
    if attributes.get("complete") is not True:
        raise StoreError(
            f"{store} is not complete: writing stopped after {n_items} items. Continue with "
            "FeatureSetsWriter(path, resume=True); its close() completes the store."
        )
    for name, n_rows in committed["n_rows"].items():
        _check_offsets(group, name, n_rows, n_items, store)
    for name in committed["places"]:
        places_array(group, name, store)
        n_rows = committed["n_rows"][name]
        _array_of_length(group, places_name(name), n_rows, store, "f", (2,))
    for name in committed["columns"]:
        dimensions = (1, 2) if name == "label" else (1,)
        array = _array_of_length(group, name, n_items, store, "biufTU", dimensions)
        check_files(array, store)


def member(
    group: zarr.Group, name: str, store: str, kinds: str = "biufTU", dimensions: Any = (1, 2)
) -> zarr.Array:
    """Return an array of a store, with one of some kinds of data types and dimensions."""
    array = find_array(group, name, store)
    if array is None:
        raise array_error(name, store, "is missing")
    is_known = array.ndim in dimensions and array.dtype.kind in kinds
    if not is_known or 0 in array.shape[1:]:
        problem = f"has shape {array.shape} and data type {array.dtype}"
        raise array_error(name, store, problem)
    return array


def features_array(group: zarr.Group, name: str, store: str) -> zarr.Array:
    """Return the array of the features of a modality."""
    return member(group, name, store, "fiub", (2,))


def places_array(
    group: zarr.Group, modality: str, store: str
) -> tuple[zarr.Array, tuple[str, ...]]:
    """Return the array of the places of a modality, and their names."""
    array = member(group, places_name(modality), store, "f", (2,))
    names = stored_names(array, store) or ()
    if array.dtype != np.float64 or not names or len(set(names)) < len(names):
        problem = f"has data type {array.dtype} and the column names {names!s:.200}"
        remedy = "Places are float64, and each has a name of its own. Write the store again."
        raise array_error(array.basename, store, problem, remedy)
    return array, names


def stored_names(array: zarr.Array, store: str) -> tuple[str, ...] | None:
    """Return the column names of the data frames that an array is from, or None."""
    names: Any = array.attrs.get("column_names", [])
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_list or len(names) not in (0, *array.shape[1:]):
        problem = f"has an attribute column_names that does not fit its shape {array.shape}"
        raise array_error(array.basename, store, problem)
    return tuple(names) or None


def _array_of_length(
    group: zarr.Group, name: str, n_rows: int, store: str, kinds: str = "iu", dimensions: Any = (1,)
) -> zarr.Array:
    array = member(group, name, store, kinds, dimensions)
    if array.shape[0] != n_rows:
        raise array_error(name, store, f"has {array.shape[0]} rows, but {n_rows} were written")
    return array


def _check_offsets(group: zarr.Group, name: str, n_rows: int, n_items: int, store: str) -> None:
    """Check that row sizes, offsets and the number of rows of a modality agree."""
    _array_of_length(group, name, n_rows, store, "fiub", (2,))
    row_size = read_whole(_array_of_length(group, f"{name}_row_size", n_items, store), store)
    offsets = read_whole(_array_of_length(group, f"{name}_offsets", n_items + 1, store), store)
    expected = np.concatenate([[0], np.cumsum(row_size, dtype=np.int64)])
    # Sizes that add up to more than int64 holds have a negative sum somewhere.
    wrong = np.flatnonzero((offsets != expected) | (expected < 0) | (np.append(0, row_size) < 0))
    if len(wrong):
        i = wrong[0]
        raise StoreError(
            f"Array '{name}_offsets' of {store} holds {offsets[i]} at index {i}, but the entries "
            f"of '{name}_row_size' before it add up to {expected[i]}. One of the two is damaged; "
            "restore it, or write the store again."
        )
    if offsets[-1] != n_rows:
        problem = f"ends at {offsets[-1]}, but {name!r} has {n_rows} rows"
        raise array_error(f"{name}_offsets", store, problem)
