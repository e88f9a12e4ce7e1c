"""The store on disk: its arrays and attributes, how it is opened, and what makes it sound.

A store is a group of zarr format 3. For every modality m it has the arrays

- ``{m}``: the local features of all items end to end, (R_m, M_m);
- ``{m}_row_size``: the number of local features of every item, (n,), 0 where it is missing;
- ``{m}_offsets``: where every item begins, (n + 1,);

and beside them any of ``label``, ``id``, ``group`` and ``weight``, one row per item. Features
lie in chunks of whole rows, many to a file (a shard), as they are in memory: runs of rows are
read without decoding. The attribute ``complete`` is written last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from sklearn.utils import Bunch

from acluster.sets._feature_sets import FeatureSets
from acluster.sets._multimodal import MultimodalFeatureSets
from acluster.sets._store._decoded_rows import DecodedRows
from acluster.sets._store._raw_rows import RawRows, raw_layout
from acluster.sets._store._rows import StoredRows, StoreError, title

__all__ = ["COLUMNS", "FORMAT", "UNNAMED", "VERSION", "info", "open_feature_sets", "validate"]

FORMAT, VERSION = "ragged-sets", 1
COLUMNS = ("label", "id", "group", "weight")
UNNAMED = "features"  # the one modality of sets that have no name
_BYTES_PER_CHECK = 1 << 25


def open_feature_sets(store: str | os.PathLike[str] | zarr.Group) -> Any:
    """The sets in a store; features are read when they are asked for.

    Parameters
    ----------
    store : str, path or zarr.Group
        What :func:`save_feature_sets` or :class:`FeatureSetsWriter` wrote.

    Returns
    -------
    FeatureSets or MultimodalFeatureSets
        As it was saved. `label`, `id`, `group` and `weight` are attributes. A pickle holds
        the path and the numbers of the selected items, and opens the store again.

    Raises
    ------
    FileNotFoundError
        If there is nothing at this path.

    StoreError
        If the store is not whole: half written, of another version, or with arrays that
        are truncated or contradict each other. The message names the array and the place.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from acluster import FeatureSets, open_feature_sets, save_feature_sets
    >>> folder = tempfile.TemporaryDirectory()
    >>> X = FeatureSets.from_arrays([np.ones((2, 3)), np.zeros((4, 3))])
    >>> save_feature_sets(f"{folder.name}/train.zarr", X, label=["cat", "dog"])
    >>> X = open_feature_sets(f"{folder.name}/train.zarr")
    >>> X
    FeatureSets(n_items=2, n_features=3, lengths=2..4, dtype=float32)
    >>> X[1:].label
    array(['dog'], dtype='<U3')
    >>> folder.cleanup()
    """
    opened = FeatureStore(_location(store))
    sets = {name: FeatureSets.from_source(StoredSets(opened, name)) for name in opened.modalities}
    return MultimodalFeatureSets(sets) if opened.attributes["multimodal"] else sets[UNNAMED]


def info(store: str | os.PathLike[str] | zarr.Group) -> Bunch:
    """What a store holds, also one that is not complete.

    Parameters
    ----------
    store : str, path or zarr.Group
        A store of feature sets.

    Returns
    -------
    Bunch
        With `complete`, `version`, `n_items`, `modalities` (a dict of their `n_features`,
        `n_local_features`, `dtype` and `bytes`), `columns` (which of label, id, group and
        weight are there) and `attributes` (what the writer was told to keep).

    Raises
    ------
    FileNotFoundError, StoreError
        If there is no store of feature sets.

    Examples
    --------
    >>> from acluster.sets import info
    >>> info("train.zarr").n_items  # doctest: +SKIP
    2
    """
    group = open_group(_location(store))
    attributes = read_attributes(group)
    written = attributes["committed"]
    modalities = {
        name: Bunch(
            n_features=group[name].shape[1],
            n_local_features=n_rows,
            dtype=group[name].dtype,
            bytes=n_rows * group[name].shape[1] * group[name].dtype.itemsize,
        )
        for name, n_rows in written["n_rows"].items()
    }
    return Bunch(
        complete=attributes["complete"],
        version=attributes["version"],
        n_items=written["n_items"],
        modalities=modalities,
        columns=written["columns"],
        attributes=attributes["attributes"],
    )


def validate(store: str | os.PathLike[str] | zarr.Group) -> Bunch:
    """Read a whole store, features included, and refuse what is wrong with it.

    Opening a store checks its structure, and that no file lacks bytes; this also decodes every
    feature, label and id, and refuses NaN and infinity. Memory stays bounded.

    Parameters
    ----------
    store : str, path or zarr.Group
        A store of feature sets.

    Returns
    -------
    Bunch
        As :func:`info`.

    Raises
    ------
    FileNotFoundError, StoreError
        As :func:`~acluster.open_feature_sets`; also for a feature that is not finite. The message
        names the array and the place.

    Examples
    --------
    >>> from acluster.sets import validate
    >>> validate("train.zarr").complete  # doctest: +SKIP
    True
    """
    opened = FeatureStore(_location(store))
    for name in opened.modalities:
        source = StoredSets(opened, name)
        for first, values in _row_blocks(source.rows):
            finite = np.isfinite(values)
            if not finite.all():
                row, column = np.argwhere(~finite)[0]
                item = np.searchsorted(source.offsets, first + row, side="right") - 1
                raise StoreError(
                    f"Array {name!r} of {opened.name} holds {values[row, column]} in row "
                    f"{first + row}, column {column} (item {item}). Write the store again "
                    "without that local feature, or from sound features."
                )
    for name in opened.columns:
        opened.column(name)
    return info(store)


def _row_blocks(rows: StoredRows) -> Iterator[tuple[int, NDArray[Any]]]:
    n_rows, n_features = rows.shape
    height = max(1, _BYTES_PER_CHECK // (n_features * rows.dtype.itemsize))
    for first in range(0, n_rows, height):
        count = min(height, n_rows - first)
        yield first, rows.gather(np.array([first]), np.array([count]))


class FeatureStore:
    """An opened store. It is checked when it is first used, and pickles as its location.

    Parameters
    ----------
    location : str or zarr.Group
        The path of a local store; a group that lies elsewhere.
    """

    def __init__(self, location: str | zarr.Group) -> None:
        self.location = location
        self.n_items = int(self.attributes["committed"]["n_items"])
        if isinstance(location, str) and "://" not in location:
            self.location = os.path.abspath(location)  # a pickle may be opened elsewhere

    @property
    def name(self) -> str:
        """How messages call the store."""
        return str(self.location)

    @cached_property
    def group(self) -> zarr.Group:
        """The group, opened for reading and found sound."""
        group = open_group(self.location)
        check_structure(group, self.name)
        n_items = read_attributes(group)["committed"]["n_items"]
        if n_items != self.__dict__.get("n_items", n_items):
            raise StoreError(
                f"{self.name} has {n_items} items, and had {self.n_items} when it was opened. "
                "Open it again."
            )
        return group

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the group."""
        return read_attributes(self.group)

    @property
    def modalities(self) -> list[str]:
        """The names of the modalities."""
        return list(self.attributes["committed"]["n_rows"])

    @property
    def columns(self) -> list[str]:
        """The names of what is stored beside the features."""
        return list(self.attributes["committed"]["columns"])

    def column(self, name: str) -> NDArray[Any] | None:
        """What is stored beside the features under this name, a row per item."""
        if name not in self.columns:
            return None
        return read_column(self.group[name], self.name)

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "n_items": self.n_items}


class StoredSets:
    """One modality of a store, as `FeatureSets` want it; opened when first used."""

    in_memory = False

    def __init__(self, store: FeatureStore, modality: str) -> None:
        self.store = store
        self.modality = modality

    @property
    def place(self) -> str:
        """How messages call it."""
        return f"array {self.modality!r} of {self.store.name}"

    @cached_property
    def rows(self) -> StoredRows:
        """The local features, on disk."""
        return open_rows(self.store.group[self.modality])

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where every item begins, and where the last one ends."""
        return _read(self.store.group[f"{self.modality}_offsets"], self.store.name)

    def column(self, name: str) -> NDArray[Any] | None:
        """What is stored beside the features under this name, a row per item."""
        return self.store.column(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "modality": self.modality}


def _location(store: Any) -> str | zarr.Group:
    """The path of a local store, by which it pickles; else the group itself."""
    if not isinstance(store, zarr.Group):
        return os.fspath(store)
    if isinstance(store.store, zarr.storage.LocalStore):
        return str(Path(store.store.root) / store.path)
    return store


def open_group(location: str | zarr.Group) -> zarr.Group:
    """The group of a store, for reading."""
    if isinstance(location, zarr.Group):
        return location
    is_local = "://" not in location
    if is_local and not Path(location).exists():
        raise FileNotFoundError(
            f"There is no store at {location!r}. acluster.save_feature_sets writes one."
        )
    try:
        return zarr.open_group(os.path.abspath(location) if is_local else location, mode="r")
    except (FileNotFoundError, ValueError) as error:
        raise StoreError(
            f"{location} is not a zarr group ({error}). Expected a store that "
            "acluster.save_feature_sets wrote."
        ) from error


def read_attributes(group: zarr.Group) -> dict[str, Any]:
    """The attributes, of this format and version."""
    attributes = dict(group.attrs)
    if attributes.get("acluster_format") != FORMAT:
        raise StoreError(
            f"{group.store_path} is a zarr group without acluster_format={FORMAT!r} among its "
            "attributes. acluster.save_feature_sets writes other layouts as a store."
        )
    if attributes.get("version") != VERSION:
        raise StoreError(
            f"{group.store_path} has version {attributes.get('version')!r} of the format; this "
            f"acluster reads version {VERSION}. Install the acluster that wrote it, or write it "
            "again."
        )
    return attributes


def check_structure(group: zarr.Group, name: str) -> None:
    """Everything but the features: completeness, shapes, offsets, shards, columns.

    Raises
    ------
    StoreError
        Naming the array and the place.
    """
    attributes = read_attributes(group)
    written = attributes["committed"]
    if attributes.get("complete") is not True:
        raise StoreError(
            f"{name} is not complete: writing stopped after {written['n_items']} items. Go on "
            "with FeatureSetsWriter(path, resume=True); its close() completes the store."
        )
    for modality, n_rows in written["n_rows"].items():
        _check_modality(group, modality, n_rows, written["n_items"], name)
    for column in written["columns"]:
        _check_chunks(_checked_array(group, column, written["n_items"], name), name)


def _checked_array(group: zarr.Group, key: str, n_rows: int, name: str) -> zarr.Array:
    array = read_array(group, key, name)
    if array is None:
        raise StoreError(
            f"Array {key!r} of {name} is missing. Restore it, or write the store again."
        )
    if array.shape[:1] != (n_rows,):
        raise StoreError(
            f"Array {key!r} of {name} has {array.shape[0]} rows; {n_rows} were written. Restore "
            "it, or write the store again."
        )
    return array


def _check_modality(group: zarr.Group, modality: str, n_rows: int, n_items: int, name: str) -> None:
    features = _checked_array(group, modality, n_rows, name)
    row_size = _read(_checked_array(group, f"{modality}_row_size", n_items, name), name)
    offsets = _read(_checked_array(group, f"{modality}_offsets", n_items + 1, name), name)
    expected = np.concatenate([[0], np.cumsum(row_size)])
    wrong = np.flatnonzero((offsets != expected) | (np.append(0, row_size) < 0))
    if len(wrong):
        i = wrong[0]
        raise StoreError(
            f"Array '{modality}_offsets' of {name} holds {offsets[i]} at {i}, but the entries of "
            f"'{modality}_row_size' before it add up to {expected[i]}. One of the two is "
            "corrupted; restore it, or write the store again."
        )
    if offsets[-1] != n_rows:
        raise StoreError(
            f"Array '{modality}_offsets' of {name} ends at {offsets[-1]}, but {modality!r} has "
            f"{n_rows} rows. Restore it, or write the store again."
        )
    _check_features(features, name)


def _check_features(array: zarr.Array, name: str) -> None:
    absent = open_rows(array).check()
    # Our writer fills with NaN, which is no feature: what is not there has been lost. Other
    # writers may leave out what equals their fill value.
    if absent and np.isnan(array.fill_value):
        raise StoreError(
            f"Array {array.basename!r} of {name} lacks the files {', '.join(absent[:3])}"
            f"{' and more' if len(absent) > 3 else ''}. Restore them, or write the store again."
        )


def _check_chunks(array: zarr.Array, name: str) -> None:
    if array.nchunks_initialized != array.nchunks:
        raise StoreError(
            f"Array {array.basename!r} of {name} has {array.nchunks_initialized} of its "
            f"{array.nchunks} chunks. Restore the others, or write the store again."
        )


def _read(array: zarr.Array, name: str) -> NDArray[Any]:
    """The whole of a small array; its checksums tell what is corrupted."""
    _check_chunks(array, name)
    try:
        return np.asarray(array[...])
    except Exception as error:
        raise StoreError(
            f"Array {array.basename!r} of {name} cannot be read: {error}. Restore it, or write "
            "the store again."
        ) from error


def read_array(group: zarr.Group, key: str, name: str) -> zarr.Array | None:
    """An array of the group, None where it is not there."""
    try:
        return group.get(key)
    except Exception as error:
        raise StoreError(
            f"Array {key!r} of {name} cannot be opened: {error}. Restore its zarr.json, or write "
            "the store again."
        ) from error


def read_column(array: zarr.Array, name: str) -> NDArray[Any]:
    """The entries of a column; strings that were stored as numbers are strings again."""
    values = _read(array, name)
    if "classes" in array.attrs:
        return np.asarray(array.attrs["classes"])[values]
    return np.array(values.tolist()) if values.dtype.kind == "T" else values


def open_rows(array: Any) -> StoredRows:
    """Choose the fastest way to gather rows of a stored array.

    Parameters
    ----------
    array : zarr.Array of shape (R, M)
        The local features of all sets, end to end.

    Returns
    -------
    StoredRows
        `RawRows` where the files of `array` hold its rows as they are in memory,
        else `DecodedRows`.

    Raises
    ------
    StoreError
        If `array` is not two-dimensional.
    """
    if array.ndim != 2:
        raise StoreError(
            f"{title(array)} has shape {array.shape}; stored features have two dimensions "
            "(local features of all sets, features)."
        )
    layout = raw_layout(array)
    return RawRows(array, layout) if layout else DecodedRows(array)
