"""Write stores item by item, with bounded memory and little loss if the process stops."""

from __future__ import annotations

import gc
import json
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from acluster.sets._arrays import Array, column_names, in_order
from acluster.sets._feature_sets import check_set
from acluster.sets._multimodal import by_modality
from acluster.sets._names import ENDINGS, check_new_names, places_name
from acluster.sets._store import _format
from acluster.sets._store._arrays import find_array, read_foreign
from acluster.sets._store._columns import (
    check_entries,
    encode_column,
    entry_type,
    own_entry,
    read_column,
)
from acluster.sets._store._errors import StoreError
from acluster.sets._store._format import places_array, read_attributes, stored_names
from acluster.sets._store._item_places import PlaceNames, check_item_places
from acluster.sets._store._narrowing import default_dtype, narrowed, underflow_warning
from acluster.sets._store._reader import check_store
from acluster.sets._store._resume import check_committed, committed_array, discard_uncommitted
from acluster.sets._store._targets import Lock, Target, target_of, transaction

if TYPE_CHECKING:
    import zarr

_PENDING_BYTES = 1 << 25
_GROWING = ("", "_row_size")  # the endings of the arrays of a modality that grow
_PENDING_CHUNKS = 4  # of items, which bounds the memory of tiny items

_WRITERS: weakref.WeakValueDictionary[str, FeatureSetsWriter] = weakref.WeakValueDictionary()
# Reentrant: Ctrl-C at the end of a block may leave it locked, which must not block this thread.
_OPENING = threading.RLock()


def _renew_lock() -> None:
    """Let go of a lock that another thread held during a fork, and that is not in the child."""
    global _OPENING
    _OPENING = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Pending(NamedTuple):
    """An item that is not on disk yet."""

    sets: dict[str, Array]
    columns: dict[str, Any]
    places: dict[str, Array]  # by modality, each of shape (L, P)


@dataclass(frozen=True)
class _State:
    """What a writer has on disk and in memory. It is replaced as a whole."""

    n_written: int = 0
    n_rows: dict[str, int] = field(default_factory=dict)
    multimodal: bool | None = None  # known from the first item on
    formats: dict[str, tuple[int, np.dtype[Any]]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    # The column names of modalities whose items are data frames, in the order of the first one.
    frames: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    # The names of the places of each modality; None if its local features have none. A modality
    # without local features so far may not be in it.
    places: PlaceNames = field(default_factory=dict)
    # The list is shared by later states: only its first `n_pending` items count.
    pending: list[Pending] = field(default_factory=list)
    n_pending: int = 0
    pending_bytes: int = 0

    def is_full(self, n_bytes: int) -> bool:
        """Whether the pending items are to be written before one of `n_bytes` is added."""
        is_large = self.pending_bytes + n_bytes > _PENDING_BYTES
        is_long = self.n_pending >= _PENDING_CHUNKS * _format._ITEMS_PER_CHUNK
        return self.n_pending > 0 and (is_large or is_long)


class FeatureSetsWriter:
    """Write a store of feature sets item by item, for example while features are extracted.

    Items are collected in memory up to 32 MB and then written together. If the process is
    killed, or the power fails, `open_feature_sets` rejects the incomplete store, and a writer
    with ``resume=True`` continues after the last item on disk.

    Parameters
    ----------
    path : str, path, object of zarr.storage or icechunk session
        The directory of the store, or an address in object storage that begins with s3:// or
        gs:// (the extra ``cloud``; credentials come from the environment). There must be nothing,
        unless `resume` is True.

    resume : bool, default=False
        Whether to continue after the items that are already in the store. A complete
        store stays complete until more items are written.

    dtype : {"float16", "float32"}, default=None
        The dtype of the stored features. By default, float16 features stay float16 and all
        others become float32, except for integers that float32 would round: the first item with
        them decides for float64. Pass a dtype to accept its rounding.

    attributes : dict, default=None
        Metadata about the features that JSON can represent, such as their extractor. It is
        kept in the store and returned by `acluster.sets.info`. A store that is resumed keeps
        its own.

    label_names : sequence of str, optional
        The names of the labels, if `label` is a row of 0 and 1 for each item. The command line
        prints them, and `acluster.sets.info` returns them.

    Raises
    ------
    FileExistsError
        If there is something at `path` and `resume` is False.

    StoreError
        If another process is writing to `path`. If `resume` is True, also if there is something
        other than a store of feature sets, or the store is damaged; it is not changed then.

    See Also
    --------
    acluster.save_feature_sets : Write sets that exist already, in memory or in other layouts.

    Notes
    -----
    ``len(writer)`` is the number of items written or pending. With `resume`, skip that many
    inputs. As a context manager, the writer completes the store at the end of the block. If an
    exception ends the block, the appended items are kept and the store stays incomplete; a new
    store without items is removed. If the items cannot be written, for example to a full disk,
    those in memory are lost; free space, and resume. Threads may share a writer. Only one process
    at a time can write to a store: the writer locks it until it is closed or its process ends.
    Resuming checks that all files of the committed items are there, and the checksums of those that
    will be added to. Object storage has no locks: make sure yourself that one process at a time
    writes to an address. A session of icechunk is committed by you, after the writer is closed.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from acluster import FeatureSetsWriter, open_feature_sets
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = f"{folder.name}/videos.zarr"
    >>> with FeatureSetsWriter(path, resume=True) as writer:
    ...     for i in range(len(writer), 3):  # from 0, or from where writing stopped
    ...         writer.append({"rgb": np.ones((i + 1, 4))}, label=i % 2, id=f"video{i}")
    >>> open_feature_sets(path).id
    array(['video0', 'video1', 'video2'], dtype='<U6')
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: Any,
        *,
        resume: bool = False,
        dtype: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        label_names: Sequence[str] | None = None,
    ) -> None:
        if dtype not in (None, "float16", "float32"):
            raise ValueError(f"dtype={dtype!r} is not 'float16', 'float32' or None.")
        attributes = _as_json(attributes or {})
        self._target = target_of(path)
        self.path = self._target.name
        self.dtype = dtype
        self._has_warned = False
        self._mutex = threading.RLock()
        self._process = os.getpid()
        self._closed: str | None = None  # why
        self._state = _State()
        with self._mutex:
            self._is_new = is_new = self._target.make(resume)
            try:
                self._lock = self._acquire()
            except BaseException:
                if is_new:
                    self._target.unmake()
                raise
            weakref.finalize(self, self._lock.release)
            try:
                self._state = _named(self._open(attributes), label_names, self.path)
            except BaseException:
                if is_new:
                    self._target.remove()
                self._end()
                raise

    def _acquire(self) -> Lock:
        """Lock the store; a writer of this process that has nothing left to write gives way."""
        with _OPENING:
            other = _WRITERS.get(self._target.key)
            if other is not None and other._state.n_pending:
                # It may have been deleted, and be kept by a cycle of references only.
                del other
                gc.collect()
                other = _WRITERS.get(self._target.key)
            if other is not None:
                other._give_way()
            lock = self._target.lock()
            _WRITERS[self._target.key] = self
        return lock

    def _give_way(self) -> None:
        with self._mutex:
            if self._closed is None and self._process == os.getpid():
                if self._state.n_pending:
                    raise StoreError(
                        f"Another writer of this process has {self._state.n_pending} items for "
                        f"{self.path} that are not written yet. Close it, or delete it."
                    )
                self._closed = "another writer has been opened for the store"
                self._lock.release()

    def _open(self, new: Mapping[str, Any]) -> _State:
        """Open the group of the store, or create it, and return what it holds."""
        if not self._target.has_group():
            # A process killed while it created the group leaves no more than temporary files.
            self._target.check_begin()
            self._target.begin(_format.new_attributes(new))
            return _State()
        existing = self._target.open()
        attributes = read_attributes(existing)
        committed = attributes["committed"]
        _check_dtype(existing, committed["n_rows"], self.dtype, self.path)
        # Nothing is changed before all that is committed has been checked.
        if attributes["complete"]:
            check_store(existing, self.path)
        else:
            check_committed(existing, committed, self.path)
            with transaction(self._target) as (_, group):
                discard_uncommitted(group, attributes, self._target)
        arrays = {name: existing[name] for name in committed["n_rows"]}
        named = [*arrays, *({"label"} & {*committed["columns"]})]
        return _State(
            n_written=committed["n_items"],
            n_rows=dict(committed["n_rows"]),
            multimodal=attributes["multimodal"],
            formats={name: (array.shape[1], array.dtype) for name, array in arrays.items()},
            frames={
                name: names for name in named if (names := stored_names(existing[name], self.path))
            },
            types={name: entry_type(self.column(name)[0]) for name in committed["columns"]},
            places=dict.fromkeys(name for name, n_rows in committed["n_rows"].items() if n_rows)
            | {name: places_array(existing, name, self.path)[1] for name in committed["places"]},
        )

    def _check_usable(self) -> None:
        if self._closed is not None:
            raise ValueError(
                f"The writer of {self.path} takes no more items: {self._closed}. Continue with "
                "FeatureSetsWriter(path, resume=True)."
            )

    def _check_process(self) -> None:
        # Before the mutex, which another thread may have held when this process was forked.
        if self._process != os.getpid():
            raise ValueError(
                f"The writer of {self.path} belongs to process {self._process}, not to its fork "
                f"{os.getpid()}. Send the features to that process, or write to another store."
            )

    def column(self, name: str) -> Array:
        """Read a column for the items that are on disk.

        Parameters
        ----------
        name : {"label", "id", "group", "weight"}
            The name of the column.

        Returns
        -------
        ndarray of shape (n_items,) or (n_items, n_labels)
            One entry per item; a row per item if the labels are an indicator matrix.

        Raises
        ------
        KeyError
            If the store has no such column.
        """
        group = self._target.open()
        committed = read_attributes(group)["committed"]
        if name not in committed["columns"]:
            raise KeyError(name)
        return read_column(committed_array(group, name, committed["n_items"], self.path), self.path)

    def __len__(self) -> int:
        state = self._state
        return state.n_written + state.n_pending

    @property
    def id(self) -> list[Any]:
        """The names of the items written so far; empty without names."""
        with self._mutex:
            state = self._state
            if "id" not in state.types:
                return []
            written = self.column("id").tolist() if state.n_written else []
            return written + [item.columns["id"] for item in state.pending[: state.n_pending]]

    def append(
        self,
        item: Any,
        *,
        label: Any = None,
        id: str | int | None = None,
        group: str | int | None = None,
        weight: Any = None,
        places: Any = None,
    ) -> None:
        """Add an item.

        Parameters
        ----------
        item : array-like of shape (L, M), or mapping of str to array-likes of shape (L, M)
            The local features. Leave out a modality that the item lacks, or pass None for it.

        label : str, number, or array-like of shape (n_labels,), optional
            The label of the item, or its row of an indicator matrix.

        id, group : str or int, optional
            The name of the item, and the group that a group-wise splitter keeps together.

        weight : float, optional
            The sample weight of the item.

        places : mapping of str to array-like of shape (L,), or data frame, optional
            Where the local features come from, as finite numbers with names of your choice, such
            as ``{"seconds": times}``. If the item has modalities, a mapping of modality names to
            such places. A modality has places for all of its local features, or for none.

        Raises
        ------
        ValueError
            If the item is invalid, does not match the earlier ones, or lacks a column or places
            that they have, or if the writer is closed.

        TypeError
            If `places` is neither a mapping nor a data frame.

        OSError
            If earlier items cannot be written. They stay pending.

        Notes
        -----
        If an error is raised, the item is not added.
        """
        if isinstance(weight, Real):
            weight = float(weight)  # so that 1 and 0.5 have the same type
        given = {"label": label, "id": id, "group": group, "weight": weight}
        self._check_process()
        with self._mutex:
            self._check_usable()
            name = f"Item {len(self)}"
            sets = self._check_item(item)
            columns = {
                column: own_entry(value, column, name)
                for column, value in given.items()
                if value is not None
            }
            types = check_entries(columns, self._state.types if len(self) else None, name)
            _check_n_labels(columns.get("label"), self._state.frames.get("label"), name)
            if not len(self):
                _check_new_arrays(self._target, columns)
            origins, named = check_item_places(places, item, sets, self._state.places, name)
            begun = [places_name(key) for key in origins if key not in self._state.places]
            _check_new_arrays(self._target, begun)
            n_bytes = sum(values.nbytes for values in (*sets.values(), *origins.values()))
            n_bytes += sum(len(entry) for entry in columns.values() if hasattr(entry, "__len__"))
            # Earlier items are written before this one is added, so that an error concerns only
            # those.
            if self._state.is_full(n_bytes):
                self.flush()
            state = self._state
            del state.pending[state.n_pending :]  # of an append that was interrupted
            state.pending.append(Pending(sets, columns, origins))
            self._state = replace(
                state,
                multimodal=isinstance(item, Mapping),
                formats=state.formats | {name: (x.shape[1], x.dtype) for name, x in sets.items()},
                types=types,
                frames=_frames(item) | state.frames,
                places=named,
                n_pending=state.n_pending + 1,
                pending_bytes=state.pending_bytes + n_bytes,
            )

    def _check_item(self, item: Any) -> dict[str, Array]:
        """Return the sets of an item in their stored form; an empty set still defines a width."""
        i, multimodal = len(self), self._state.multimodal
        if multimodal not in (None, isinstance(item, Mapping)):
            earlier = "mappings of modalities to arrays" if multimodal else "single arrays"
            raise ValueError(
                f"Item {i} has type {type(item).__name__}, but earlier items are {earlier}. Pass "
                "all items in the same form."
            )
        named = by_modality(item)
        new = [name for name in named if name not in self._state.formats]
        if new:
            check_new_names(new, f"Item {i}", [*self._target.entries(), *self._state.formats])
        sets = {name: self._check_set(x, name) for name, x in named.items() if x is not None}
        if not any(map(len, sets.values())):
            raise ValueError(
                f"Item {i} has 0 local features; every item needs at least one. Leave it out."
            )
        return sets

    def _check_set(self, item: Any, modality: str) -> Array:
        name = f"Item {len(self)}, modality {modality!r}"
        if hasattr(item, "store_path"):
            item = read_foreign(item, name)
        values = check_set(item, name)
        own, expected = column_names(item), self._state.frames.get(modality)
        if own is not None and expected is not None:
            values = in_order(values, own, expected, name)
        if modality in self._state.formats:
            width, dtype = self._state.formats[modality]
        else:
            width = values.shape[1]
            dtype = np.dtype(self.dtype) if self.dtype else default_dtype(values)
        if values.shape[1] != width:
            raise ValueError(
                f"{name} has {values.shape[1]} features, but earlier items have {width}. Use the "
                "same extractor for all items, or two modalities."
            )
        stored = narrowed(values, dtype, name, self.dtype is not None)
        warning = None if self._has_warned else underflow_warning(values, stored, name)
        if warning:
            self._has_warned = True
            warnings.warn(warning, UserWarning, stacklevel=5)
        return stored

    def flush(self) -> None:
        """Write all pending items to disk, where a writer that resumes finds them."""
        self._check_process()
        with self._mutex:
            self._check_usable()
            if self._state.n_pending:
                # One assignment: an interrupt comes before it or after it. Before it, the items
                # are still pending, and writing them again to the same rows changes nothing.
                self._state = self._flushed(self._state)

    def _flushed(self, state: _State) -> _State:
        """Write and commit the pending items of a state, and return the state after that.

        The order makes the store safe to kill at any moment, power failures included: first it
        is marked incomplete, then rows are appended, and only when those are on disk, they are
        committed.
        """
        pending = state.pending[: state.n_pending]
        n_written = state.n_written + len(pending)
        with transaction(self._target) as (store, group):
            attributes = read_attributes(group)
            committed = attributes["committed"]
            places = [name for name, names in state.places.items() if names is not None]
            names = _growing_arrays(state.formats, state.types, places)
            known = _growing_arrays(*(committed[key] for key in ("n_rows", "columns", "places")))
            uncommitted = sorted(names - known)
            if attributes["complete"] or uncommitted != attributes.get("uncommitted", []):
                group.update_attributes({"complete": False, "uncommitted": uncommitted})
                store.sync()
            n_rows = {name: _append_sets(group, name, state, pending) for name in state.formats}
            for name, type_name in state.types.items():
                _append_entries(group, name, type_name, state, pending)
            for name in places:
                _append_places(group, name, state, pending)
            store.sync()
            committed = _format.commit(n_written, n_rows, state.types, places)
            # All in one file, unlike `group.attrs.update`, which writes it anew for each entry.
            group.update_attributes(
                {"multimodal": state.multimodal, "uncommitted": [], **committed}
            )
            store.sync()
        return replace(
            state, n_written=n_written, n_rows=n_rows, pending=[], n_pending=0, pending_bytes=0
        )

    def close(self) -> None:
        """Write all pending items and mark the store complete.

        Raises
        ------
        ValueError
            If the store has no items.
        """
        self._check_process()
        with self._mutex:
            if self._closed is not None:
                return
            self.flush()
            state = self._state
            if state.n_written == 0:
                raise ValueError(
                    f"{self.path} has no items; append at least one before closing it."
                )
            with transaction(self._target) as (store, group):
                if not group.attrs["complete"]:  # else nothing was appended
                    for name in state.n_rows:
                        sizes = group[f"{name}_row_size"][: state.n_written]
                        offsets = np.concatenate([[0], np.cumsum(sizes)])
                        _extend(group, f"{name}_offsets", offsets, 0)
                    store.sync()
                    group.update_attributes({"complete": True})
                    store.sync()
            self._end()

    def _end(self) -> None:
        """Let others write to the store; items that are not on disk yet are dropped."""
        self._closed = "it is closed"
        self._state = replace(self._state, pending=[], n_pending=0, pending_bytes=0)
        self._lock.release()

    def _name_columns(self, X: Any, label: Any) -> None:
        """Take over the column names of labels and of containers, if they are from data frames."""
        frames = _frames({**by_modality(X), "label": label})
        self._state = replace(self._state, frames={**self._state.frames, **frames})

    def _remove(self) -> None:
        """Remove the store, which this writer has made, and nothing else in its directory."""
        with self._mutex:
            for name in [*self._state.formats, *self._state.types]:
                for ending in ENDINGS:
                    self._target.remove_array(f"{name}{ending}")
            self._target.remove()
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            if error_type is None:
                self.close()
            elif self._closed is None:
                try:
                    self.flush()
                finally:
                    if self._is_new and not self._state.n_written:
                        self._remove()
        finally:
            # What cannot be written, as on a full disk, must not keep other writers out for as
            # long as the traceback of the error refers to this one.
            if self._closed is None and self._process == os.getpid():
                with self._mutex:
                    self._end()


def _named(state: _State, label_names: Sequence[str] | None, path: str) -> _State:
    """Return the state with the names of the labels, which must be those of a resumed store."""
    if label_names is None:
        return state
    names = tuple(label_names)
    are_texts = all(isinstance(name, str) and name for name in names)
    if isinstance(label_names, str) or not are_texts or len({*names}) < len(names):
        raise ValueError(
            f"label_names={label_names!r:.200} are not distinct texts. Pass one name per label."
        )
    known = state.frames.get("label", names if not state.n_written else None)
    if known != names:
        raise ValueError(
            f"label_names={label_names!r:.200}, but {path} has {known!r:.200}. Leave them out to "
            "continue with those."
        )
    return replace(state, frames={**state.frames, "label": names})


def _check_n_labels(label: Any, names: tuple[Any, ...] | None, item: str) -> None:
    if names is not None and label is not None and np.shape(label) != (len(names),):
        raise ValueError(
            f"{item}: label={label!r:.100} has the shape {np.shape(label)}, but there are "
            f"{len(names)} label_names. Pass one 0 or 1 for each."
        )


def _check_dtype(group: zarr.Group, names: Iterable[str], dtype: str | None, path: str) -> None:
    for name in names:
        array = find_array(group, name, path)
        if array is not None and dtype not in (None, array.dtype.name):
            raise ValueError(
                f"dtype={dtype!r}, but {path} holds {name!r} as {array.dtype}. "
                "Leave dtype out to continue with it."
            )


def _growing_arrays(
    modalities: Iterable[str], columns: Iterable[str], places: Iterable[str]
) -> set[str]:
    """Return the names of the arrays to which items add rows."""
    of_modalities = {f"{name}{end}" for name in modalities for end in _GROWING}
    return of_modalities | {*columns} | {*map(places_name, places)}


def _check_new_arrays(target: Target, names: Iterable[str]) -> None:
    names = [*names]
    taken = {*target.entries()} if names else set()
    for name in names:
        if name in taken:
            raise StoreError(
                f"{target.name} already contains {name!r}, which no writer of it made. Remove "
                "it, or choose another path."
            )


def _frames(item: Any) -> dict[str, tuple[Any, ...]]:
    """Return the column names of the sets that are data frames, or containers made of some."""
    names = {name: column_names(x) for name, x in by_modality(item).items()}
    return {name: own for name, own in names.items() if own is not None}


def _append_sets(
    group: zarr.Group, modality: str, state: _State, pending: Sequence[Pending]
) -> int:
    """Write the pending sets of a modality; return its new number of rows."""
    width, dtype = state.formats[modality]
    empty = np.empty((0, width), dtype)
    sets = [item.sets.get(modality, empty) for item in pending]
    n_before = state.n_rows.get(modality, 0)
    values = np.concatenate(sets)
    _extend(group, modality, values, n_before, _format.features_layout)
    _write_names(group, modality, state)
    # All items on disk lack a new modality.
    n_lacking = 0 if modality in state.n_rows else state.n_written
    sizes = [0] * n_lacking + [len(x) for x in sets]
    _extend(group, f"{modality}_row_size", np.array(sizes), state.n_written - n_lacking)
    return n_before + sum(sizes)


def _append_places(
    group: zarr.Group, modality: str, state: _State, pending: Sequence[Pending]
) -> None:
    """Write the places of the pending sets of a modality."""
    names = state.places[modality] or ()
    empty = np.empty((0, len(names)))
    values = np.concatenate([item.places.get(modality, empty) for item in pending])
    layout = partial(_format.places_layout, features=group[modality], names=names)
    _extend(group, places_name(modality), values, state.n_rows.get(modality, 0), layout)


def _write_names(group: zarr.Group, name: str, state: _State) -> None:
    """Write the column names of an array, if they are known and are text."""
    names, attributes = [*state.frames.get(name, ())], group[name].attrs
    are_texts = all(isinstance(one, str) for one in names)
    if are_texts and names not in ([], attributes.get("column_names")):
        attributes["column_names"] = names


def _append_entries(
    group: zarr.Group, name: str, type_name: str, state: _State, pending: Sequence[Pending]
) -> None:
    """Write the pending entries of a column."""
    entries = [item.columns[name] for item in pending]
    known = group[name].attrs.get("classes", []) if state.n_written else []
    values, attributes = encode_column(name, entries, type_name, known)
    _extend(group, name, values, state.n_written)
    _write_names(group, name, state)
    if attributes:
        group[name].attrs.update(attributes)


def _extend(
    group: zarr.Group,
    name: str,
    values: Array,
    n_before: int,
    layout: Callable[[str, Array], dict[str, Any]] = _format.column_layout,
) -> None:
    """Write rows after the first `n_before` of an array, which is created if necessary."""
    if name not in group:
        group.create_array(name, **layout(name, values))
    # By default zarr does not write chunks that equal the fill value. Here they are written,
    # because a missing chunk counts as lost.
    array = group[name].with_config({"write_empty_chunks": True})
    array.resize((n_before + len(values), *array.shape[1:]))
    array[n_before:] = values


def _as_json(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the attributes as JSON represents them."""
    try:
        text = json.dumps(dict(attributes), allow_nan=False)
        if _has_other_keys(attributes):
            raise TypeError("not all keys are strings")
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"attributes={attributes!r} cannot be written as JSON: {error}. Use strings, finite "
            "Python numbers, lists and dicts."
        ) from None
    return json.loads(text)


def _has_other_keys(value: Any) -> bool:
    """Whether a mapping in a value has keys other than strings, which JSON would turn into some."""
    if isinstance(value, Mapping):
        return not all(isinstance(key, str) for key in value) or _has_other_keys(
            list(value.values())
        )
    return isinstance(value, list | tuple) and any(map(_has_other_keys, value))
