"""Open stores: feature sets that are read on access, and the checks of a whole store."""

from __future__ import annotations

import contextlib
import os
import weakref
import zipfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._extraction import is_description
from acluster.sets._feature_sets import FeatureSets
from acluster.sets._multimodal import MultimodalFeatureSets
from acluster.sets._names import places_name
from acluster.sets._store._addresses import Address, is_address, local_or_address
from acluster.sets._store._arrays import check_files, has_checksums, read_whole
from acluster.sets._store._columns import read_column
from acluster.sets._store._decoded_rows import DecodedRows
from acluster.sets._store._errors import RemoteError, StoreError
from acluster.sets._store._files import bound_archive, is_remote, local_root, read_json
from acluster.sets._store._format import (
    UNNAMED,
    check_structure,
    features_array,
    member,
    places_array,
    read_attributes,
    stored_names,
)
from acluster.sets._store._layout import plain_layout
from acluster.sets._store._raw_rows import RawRows
from acluster.sets._store._remote_rows import RemoteRows
from acluster.sets._store._rows import StoredRows, describe_array

if TYPE_CHECKING:
    import zarr
    from sklearn.utils import Bunch

_BYTES_PER_CHECK = 1 << 25


def open_feature_sets(store: Any, *, verify: bool = False) -> Any:
    """Open the feature sets in a store; features are read on access.

    Parameters
    ----------
    store : str, path, zarr.Group, object of zarr.storage or icechunk session
        A store written by :func:`save_feature_sets` or :class:`FeatureSetsWriter`, or a zip
        archive of one. Text that begins with s3://, gs://, https:// or http:// is the address of
        a store in object storage, which is read through obstore (the extra ``cloud``) with
        credentials from the environment.

    verify : bool, default=False
        Whether to compare each chunk of local features with its checksum when it is first read
        in this process. The first pass over the store then takes longer.
        :func:`acluster.sets.validate` compares all of them at once.

    Returns
    -------
    FeatureSets or MultimodalFeatureSets
        The sets as they were saved, with the attributes `label`, `id`, `group` and `weight`, and
        with `places` if they have some, and with `extraction` if
        :func:`acluster.extraction.extract` wrote the store.
        Pickling keeps the path or the address, and the numbers of the selected items; the
        unpickled copy opens the store again.

    Raises
    ------
    FileNotFoundError
        If there is nothing at this path.

    ValueError
        If an address holds credentials, or its scheme is not known.

    StoreError
        If the store is incomplete or of another version, or its arrays are truncated or
        contradict each other. The message names the array and the place. Also if a request to
        object storage fails after all attempts; the message names the object.

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
    opened = FeatureStore(_location(store), verify)
    sets = {}
    for name in opened.modalities:
        sets[name] = FeatureSets.from_source(StoredSets(opened, name))
        array = features_array(opened.group, name, opened.name)
        sets[name]._feature_names = stored_names(array, opened.name)
    return MultimodalFeatureSets(sets) if opened.attributes["multimodal"] else sets[UNNAMED]


def open_if_store(X: Any) -> Any:
    """Open a path, an address or an object of zarr or icechunk; return the rest unchanged."""
    is_path = isinstance(X, str | os.PathLike)
    return open_feature_sets(X) if is_path or is_zarr_group(X) or is_zarr_store(X) else X


def is_zarr_store(X: Any) -> bool:
    """Whether X is a store of zarr, or a session of icechunk, judged without importing either."""
    # Arrays and groups of zarr have a store as well. Tables may have a column of this name.
    has_store = hasattr(type(X), "store") and not hasattr(X, "store_path")
    return _is_store(X) or (has_store and _is_store(X.store))


def _is_store(X: Any) -> bool:
    names = {(base.__module__, base.__name__) for base in type(X).__mro__}
    return ("zarr.abc.store", "Store") in names


def store_of(X: Any) -> Any:
    """Return a store of zarr, or that of a session of icechunk."""
    return X if _is_store(X) else X.store


def is_zarr_group(X: Any) -> bool:
    """Whether X is a zarr group, judged by its attributes to avoid importing zarr."""
    return hasattr(X, "store_path") and hasattr(X, "group_keys")


def info(store: Any) -> Bunch:
    """Describe the contents of a store, which may be incomplete.

    Parameters
    ----------
    store : str, path, zarr.Group, object of zarr.storage or icechunk session
        A store of feature sets, as in :func:`~acluster.open_feature_sets`.

    Returns
    -------
    Bunch
        With `complete`, `version`, `n_items`, `modalities` (a dict of their `n_features`,
        `n_local_features`, `dtype`, `bytes`, `has_checksums` and `places`, the names of their
        places), `columns` (which of label, id, group and weight the store has), `attributes`
        (those passed to the writer) and `label_names` (the column names of labels from a data
        frame, or None).

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
    from sklearn.utils import Bunch

    group = open_group(_location(store))
    found = read_attributes(group)
    found |= found["committed"]
    path = str(group.store_path)
    arrays = {name: features_array(group, name, path) for name in found["n_rows"]}
    places = {name: places_array(group, name, path)[1] for name in found["places"]}
    modalities = {
        name: Bunch(
            n_features=array.shape[1],
            n_local_features=found["n_rows"][name],
            dtype=array.dtype,
            bytes=found["n_rows"][name] * array.shape[1] * array.dtype.itemsize,
            has_checksums=has_checksums(array),
            places=list(places.get(name, ())),
        )
        for name, array in arrays.items()
    }
    has_labels = "label" in found["columns"]
    found["label_names"] = stored_names(member(group, "label", path), path) if has_labels else None
    keys = ("complete", "version", "n_items", "columns", "attributes", "label_names")
    return Bunch(modalities=modalities, **{key: found[key] for key in keys})


def label_names_of(X: FeatureSets | MultimodalFeatureSets) -> list[str]:
    """Return the names of the label columns of the store that sets are from; else none.

    Parameters
    ----------
    X : FeatureSets or MultimodalFeatureSets
        Sets of a store or in memory.

    Raises
    ------
    StoreError
        If the names do not fit the labels.
    """
    source = (X[X.names[0]] if isinstance(X, MultimodalFeatureSets) else X)._source
    if not isinstance(source, StoredSets) or "label" not in source.store.columns:
        return []
    path = source.store.name
    return list(stored_names(member(source.store.group, "label", path), path) or ())


def validate(store: Any) -> Bunch:
    """Read a whole store, including all features, and raise an error if it is damaged.

    Opening a store checks only its structure and the sizes of its files. This function also
    decodes all features, places, labels and names, compares them with their checksums, and checks
    that no feature or place is NaN or infinite. Memory use is bounded.

    Parameters
    ----------
    store : str, path, zarr.Group, object of zarr.storage or icechunk session
        A store of feature sets, as in :func:`~acluster.open_feature_sets`.

    Returns
    -------
    Bunch
        The result of :func:`info`. Its ``modalities[name].has_checksums`` says whether the
        features have checksums; without them, a change of a few bits may remain unnoticed.

    Raises
    ------
    FileNotFoundError, StoreError
        As in :func:`~acluster.open_feature_sets`; also if a feature or a place is not finite. The
        message names the array and the row.

    Examples
    --------
    >>> from acluster.sets import validate
    >>> validate("train.zarr").complete  # doctest: +SKIP
    True
    """
    opened = FeatureStore(_location(store), verify=True)
    for name in opened.modalities:
        source = StoredSets(opened, name)
        _check_finite(source, "local feature")
        if name in opened.places:
            _check_finite(StoredPlaces(source), "place")
    for name in opened.columns:
        opened.column(name)
    return info(store)


def _check_finite(source: StoredSets, kind: str) -> None:
    """Read all rows of a modality or of its places, and check that they are finite."""
    n_rows, width = source.rows.shape
    height = max(1, _BYTES_PER_CHECK // (width * source.rows.dtype.itemsize))
    for first in range(0, n_rows, height):
        count = min(height, n_rows - first)
        values = source.rows.gather(np.array([first]), np.array([count]))
        finite = np.isfinite(values)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            item = np.searchsorted(source.offsets, first + row, side="right") - 1
            raise StoreError(
                f"Array {source.array!r} of {source.store.name} holds {values[row, column]} in row "
                f"{first + row}, column {column} (item {item}). Write the store again, with finite "
                f"{kind}s or without that local feature."
            )


class FeatureStore:
    """An open store, which pickles as its location.

    An unpickled copy opens and checks the store when it is first used.

    Parameters
    ----------
    location : str or zarr.Group
        The path or URL of a store, or a group that has neither.

    verify : bool, default=False
        Whether to compare chunks with their checksums when they are first read.
    """

    def __init__(self, location: str | zarr.Group, verify: bool = False) -> None:
        self.location, self.verify = location, verify
        self.n_items: int | None = None
        self.n_items = int(self.attributes["committed"]["n_items"])
        if isinstance(location, str) and not is_address(location):
            # A pickle may be opened from another working directory. Until here, error messages
            # show the path as the user wrote it.
            self.location = os.path.abspath(location)

    @property
    def name(self) -> str:
        """The name of the store in error messages."""
        return self.location if isinstance(self.location, str) else str(self.location.store_path)

    @cached_property
    def group(self) -> zarr.Group:
        """The group, open for reading and checked."""
        group = open_group(self.location)
        check_store(group, self.name)
        n_items = read_attributes(group)["committed"]["n_items"]
        # Item numbers in a pickle are meaningless in a store that was written anew.
        if self.n_items not in (None, n_items):
            raise StoreError(
                f"{self.name} has {n_items} items, but had {self.n_items} when it was opened. "
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
        """The names of the columns stored with the features."""
        return list(self.attributes["committed"]["columns"])

    @property
    def places(self) -> list[str]:
        """The names of the modalities that have places."""
        return list(self.attributes["committed"]["places"])

    def column(self, name: str) -> NDArray[Any] | None:
        """Read a column, with one row per item; None if the store has no such column."""
        if name not in self.columns:
            return None
        return read_column(member(self.group, name, self.name), self.name)

    def __getstate__(self) -> dict[str, Any]:
        return {"location": self.location, "n_items": self.n_items, "verify": self.verify}


class StoredSets:
    """One modality of a store, as the source of `FeatureSets`. It is opened when first used."""

    in_memory = False

    def __init__(self, store: FeatureStore, modality: str) -> None:
        self.store = store
        self.modality = modality

    @property
    def array(self) -> str:
        """The name of the array of the rows."""
        return self.modality

    @property
    def description(self) -> str:
        """The name of the source in error messages."""
        return f"array {self.array!r} of {self.store.name}"

    @cached_property
    def rows(self) -> StoredRows:
        """The local features of all items, on disk."""
        array = features_array(self.store.group, self.array, self.store.name)
        return open_rows(array, self.store.verify)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """The row at which each item starts, and the number of rows, (n_items + 1,)."""
        array = member(self.store.group, f"{self.modality}_offsets", self.store.name)
        return read_whole(array, self.store.name).astype(np.int64, copy=False)

    @cached_property
    def places(self) -> FeatureSets | None:
        """The places of all items, read on access; None if the modality has none."""
        if self.modality not in self.store.places:
            return None
        places = FeatureSets.from_source(StoredPlaces(self))
        places._feature_names = places_array(self.store.group, self.modality, self.store.name)[1]
        return places

    @property
    def extraction(self) -> dict[str, Any] | None:
        """The description that `acluster.extraction` wrote; None if there is none."""
        # Users write attributes of any form.
        described = self.store.attributes["attributes"].get("extraction")
        own = described.get(self.modality) if isinstance(described, dict) else None
        return own if is_description(own) else None

    def column(self, name: str) -> NDArray[Any] | None:
        """Read a column of the store, with one row per item, or return None."""
        return self.store.column(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store, "modality": self.modality}


class StoredPlaces(StoredSets):
    """The places of one modality of a store, as the source of `FeatureSets`."""

    places = None
    extraction = None

    def __init__(self, sets: StoredSets) -> None:
        super().__init__(sets.store, sets.modality)
        self._sets = sets

    @property
    def array(self) -> str:
        """The name of the array of the rows."""
        return places_name(self.modality)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Those of the local features, which are read and kept once."""
        return self._sets.offsets

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_sets": self._sets}


def _location(store: Any) -> str | zarr.Group:
    """Return the path or the address of a store, which can be pickled; else the group itself."""
    if not is_zarr_group(store) and not is_zarr_store(store):
        return local_or_address(store)
    import zarr
    from zarr.storage import LocalStore, MemoryStore, StorePath, ZipStore

    from acluster.sets._store._remote import wrapped

    if is_zarr_group(store):
        base, path = store.store, store.path
    else:
        base, path = store_of(store), ""
    if isinstance(base, LocalStore):
        return str(Path(base.root) / path)
    if not isinstance(base, MemoryStore | ZipStore):
        base = wrapped(base)
    if is_zarr_group(store):
        return zarr.Group(zarr.AsyncGroup(store.metadata, StorePath(base, path)))
    return _open_remote(base) if is_remote(base) else zarr.open_group(base, mode="r")


def open_group(location: str | zarr.Group) -> zarr.Group:
    """Open the group of a store for reading; consolidated metadata are ignored.

    Raises
    ------
    FileNotFoundError
        If there is nothing at this path.

    StoreError
        If it is not a group of zarr format 3. In format 2, metadata may name programs that zarr
        runs in order to decode an array.

    ImportError
        If this is an address, and obstore is not installed.
    """
    if not isinstance(location, str):
        if location.metadata.zarr_format != 3:
            raise StoreError(_not_a_store(str(location.store_path), "it has zarr format 2"))
        if type(location.store).__name__ == "ZipStore":
            _ARCHIVES[id(location.store)] = location.store
            bound_archive(location.store)
        return location
    if is_address(location):
        from acluster.sets._store._remote import connected

        return _open_remote(connected(Address(location)))
    if not Path(location).exists():
        raise FileNotFoundError(
            f"There is no store at {location!r}. Write one with acluster.save_feature_sets."
        )
    import zarr

    path = os.path.abspath(location)
    try:
        if os.path.isfile(path):
            return _open_archive(path)
        _check_group_file(path)
        return zarr.open_group(path, mode="r", zarr_format=3, use_consolidated=False)
    except Exception as error:  # damaged metadata raise errors of many types
        raise StoreError(_not_a_store(location, str(error).rstrip("."))) from error


def _open_remote(store: Any) -> zarr.Group:
    """Open the group at the root of a `RemoteStore`."""
    import zarr
    from zarr.storage import StorePath

    try:
        if read_json(StorePath(store, "")) is None:
            raise FileNotFoundError(
                f"There is no store at {store}: {store}/zarr.json does not exist. Check the "
                "address, or write a store with acluster.save_feature_sets."
            )
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)
    except (RemoteError, FileNotFoundError):
        raise
    except Exception as error:  # damaged metadata raise errors of many types
        raise StoreError(_not_a_store(str(store), str(error).rstrip("."))) from error


def _open_archive(path: str) -> zarr.Group:
    """Open the store in a zip archive, at its top or in the only folder there."""
    import zarr
    from zarr.storage import ZipStore

    if not zipfile.is_zipfile(path):
        raise StoreError("it is a file, but not a zip archive")
    store = ZipStore(path, mode="r", read_only=True)
    names = bound_archive(store)
    folders = [name[:-10] for name in names if name.count("/") == 1 and name.endswith("/zarr.json")]
    if "zarr.json" in names:
        folders = [""]
    if len(folders) > 1:
        raise StoreError(f"the archive has several stores, such as {folders[0]!r}; unpack it")
    _ARCHIVES[id(store)] = store
    folder = folders[0] if folders else ""
    return zarr.open_group(store, path=folder, mode="r", zarr_format=3, use_consolidated=False)


# All open archives of this process. A forked child would share their positions with its parent.
_ARCHIVES: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def _reopen_archives() -> None:
    for store in list(_ARCHIVES.values()):
        store._is_open, store._zf = False, None  # reading fails if the archive is gone
        with contextlib.suppress(OSError, zipfile.BadZipFile):
            bound_archive(store)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reopen_archives)


def _check_group_file(path: str) -> None:
    """Check zarr.json of a local group, before zarr reads it."""
    from zarr.storage import LocalStore, StorePath

    if not os.path.isdir(path):
        raise StoreError("it is neither a directory nor a zip archive")
    if read_json(StorePath(LocalStore(path, read_only=True), "")) is None:
        is_old = os.path.lexists(f"{path}/.zgroup") or os.path.lexists(f"{path}/.zarray")
        raise StoreError("it has zarr format 2" if is_old else "there is no zarr.json")


def _not_a_store(location: str, problem: str) -> str:
    return (
        f"{location} is not a zarr group of format 3 ({problem}). Expected a store written by "
        "acluster.save_feature_sets."
    )


def check_store(group: zarr.Group, name: str) -> None:
    """Check the structure of a store and the sizes of its files, without reading features.

    Raises
    ------
    StoreError
        The message names the array and the place.
    """
    check_structure(group, name)
    committed = read_attributes(group)["committed"]
    for array_name in [*committed["n_rows"], *map(places_name, committed["places"])]:
        array = features_array(group, array_name, name)
        check_files(array, name)
        # In object storage, the indices of shards are checked when they are first needed: a large
        # store has many, and each is a request.
        if not is_remote(array.store):
            open_rows(array).check()


def open_rows(array: Any, verify: bool = False) -> StoredRows:
    """Choose the fastest way to gather rows of a stored array.

    Parameters
    ----------
    array : zarr.Array of shape (R, M)
        The local features of all sets, end to end.

    verify : bool, default=False
        Whether `RawRows` compares chunks with their checksums, and `RemoteRows` those of which it
        needs few rows. zarr always does.

    Returns
    -------
    StoredRows
        `RawRows`, or `RemoteRows` in object storage, if the files hold the rows in the same form as
        in memory, else `DecodedRows`.

    Raises
    ------
    StoreError
        If `array` is not two-dimensional.
    """
    if array.ndim != 2:
        raise StoreError(
            f"{describe_array(array)} has shape {array.shape}; stored features must have two "
            "dimensions (local features of all sets, features)."
        )
    layout = plain_layout(array)
    if layout and local_root(array.store):
        return RawRows(array, layout, verify)
    if layout and is_remote(array.store):
        return RemoteRows(array, layout, verify)
    return DecodedRows(array)
