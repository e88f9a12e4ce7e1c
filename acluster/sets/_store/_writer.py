"""Writing stores: item by item, so that memory stays bounded and a stop loses little."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from acluster.sets._feature_sets import to_numpy
from acluster.sets._store._reader import (
    COLUMNS,
    FORMAT,
    UNNAMED,
    VERSION,
    check_structure,
    open_group,
    read_array,
    read_attributes,
    read_column,
)
from acluster.sets._store._rows import StoreError

__all__ = ["FeatureSetsWriter"]

_CHUNK_BYTES = 1 << 19
_SHARD_BYTES = 1 << 26
_PENDING_BYTES = 1 << 25
_ITEMS_PER_CHUNK = 1 << 14
_PARTIAL = ".partial"  # how zarr ends the name of a file until it is whole


class FeatureSetsWriter:
    """Write a store of feature sets one item at a time, as a feature extractor's loop does.

    Items gather in memory up to 32 MB, then go to disk together. A process that is killed
    leaves a store that is refused by `open_feature_sets` and that a writer with `resume`
    takes up after the last item on disk.

    Parameters
    ----------
    path : str or path
        A directory that is not there yet; with `resume`, also one that is.

    resume : bool, default=False
        Whether to go on after the items that are already in the store, complete or not. A
        complete store stays complete until more items go to disk.

    dtype : {"float16", "float32"}, default=None
        The type of the stored features. By default float16 features stay as they are and
        all others become float32.

    attributes : dict, default=None
        Anything JSON can hold about the features, such as their extractor; kept in the
        store and shown by `acluster.sets.info`. With `resume`, a store that is there keeps
        its own.

    Raises
    ------
    FileExistsError
        If there is something at `path` and `resume` is False.

    StoreError
        If with `resume` there is something else than a store of feature sets.

    See Also
    --------
    acluster.save_feature_sets : Write what is already there, in memory or in other layouts.

    Notes
    -----
    ``len(writer)`` is the number of items written or pending: with `resume`, the number of
    inputs to skip. As a context manager, the writer completes the store at the end; if an
    exception ends the block, what was appended is kept and the store stays incomplete.
    One process writes a store at a time.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from acluster import FeatureSetsWriter, open_feature_sets
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = f"{folder.name}/videos.zarr"
    >>> with FeatureSetsWriter(path, resume=True) as writer:
    ...     for i in range(len(writer), 3):  # starts at 0, or where it was stopped
    ...         writer.append({"rgb": np.ones((i + 1, 4))}, label=i % 2, id=f"video{i}")
    >>> open_feature_sets(path).id
    array(['video0', 'video1', 'video2'], dtype='<U6')
    >>> folder.cleanup()
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        dtype: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        if dtype not in (None, "float16", "float32"):
            raise ValueError(f"dtype={dtype!r} is not 'float16', 'float32' or None.")
        try:
            json.dumps(dict(attributes or {}))
        except TypeError as error:
            raise TypeError(
                f"attributes={attributes!r} are not what JSON can hold: {error}. Use strings, "
                "Python's numbers, lists and dicts."
            ) from None
        self.path = os.fspath(path)
        self.dtype = dtype
        self._group = self._open(resume, attributes)
        attributes = read_attributes(self._group)
        committed = attributes["committed"]
        self._multimodal: bool | None = attributes["multimodal"]
        self._n_written: int = committed["n_items"]
        self._n_rows: dict[str, int] = dict(committed["n_rows"])
        if attributes["complete"]:
            check_structure(self._group, self.path)
        else:
            self._discard_uncommitted(committed["columns"])
        arrays = {name: self._group[name] for name in self._n_rows}
        self._formats = {name: (array.shape[1], array.dtype) for name, array in arrays.items()}
        self._kinds = {name: _kind(self.column(name)[0]) for name in committed["columns"]}
        self._pending: list[tuple[dict[str, NDArray[Any]], dict[str, Any]]] = []
        self._pending_bytes = 0

    def _open(self, resume: bool, attributes: Mapping[str, Any] | None) -> zarr.Group:
        """The group to write into: a new one, or with `resume` the one that is there."""
        path = Path(self.path)
        if not resume and path.exists():
            raise FileExistsError(
                f"There is already something at {self.path!r}. Choose another path, remove it, or "
                "go on after its items with FeatureSetsWriter(path, resume=True)."
            )
        if (path / "zarr.json").exists():
            read_attributes(open_group(self.path))
            group = zarr.open_group(self.path, mode="r+")
            for name in group.attrs["committed"]["n_rows"]:
                array = read_array(group, name, self.path)
                if array is not None and self.dtype not in (None, array.dtype.name):
                    raise ValueError(
                        f"dtype={self.dtype!r}, but {self.path} holds {name!r} as {array.dtype}. "
                        "Leave dtype out to go on with it."
                    )
            return group
        # Whoever is killed at the very first write leaves a part of zarr.json.
        if path.is_file() or any(entry.suffix != _PARTIAL for entry in path.glob("*")):
            raise StoreError(f"{self.path} is not a store of feature sets; choose another path.")
        return zarr.create_group(
            self.path,
            zarr_format=3,
            attributes={
                "acluster_format": FORMAT,
                "version": VERSION,
                "complete": False,
                "multimodal": None,
                "committed": {"n_items": 0, "n_rows": {}, "columns": []},
                "attributes": dict(attributes or {}),
            },
        )

    def _discard_uncommitted(self, columns: Sequence[str]) -> None:
        """Cut off what was written after the last commit, whole arrays included."""
        per_item = [f"{name}_row_size" for name in self._n_rows] + list(columns)
        n_rows = self._n_rows | dict.fromkeys(per_item, self._n_written)
        for name, n in n_rows.items():
            array = read_array(self._group, name, self.path)
            if array is None or array.shape[0] < n:
                raise StoreError(
                    f"Array {name!r} of {self.path} lacks rows that were written, {n} in all. "
                    "Restore it, or write the store again."
                )
            if array.shape[0] > n:
                array.resize((n, *array.shape[1:]))
        for partial in Path(self.path).rglob(f"*{_PARTIAL}"):
            partial.unlink()
        for entry in Path(self.path).iterdir():  # arrays half made or half removed
            if entry.is_dir() and not (entry / "zarr.json").exists():
                shutil.rmtree(entry)
        for name in set(self._group.array_keys()) - n_rows.keys():
            del self._group[name]

    def column(self, name: str) -> NDArray[Any]:
        """What is on disk of a column.

        Parameters
        ----------
        name : {"label", "id", "group", "weight"}
            Which one.

        Returns
        -------
        ndarray of shape (n_items,)
            An entry for each item that is on disk; of labels, a row where they are indicators.

        Raises
        ------
        KeyError
            If the store has no such column.
        """
        return read_column(self._group[name], self.path)

    def __len__(self) -> int:
        return self._n_written + len(self._pending)

    @property
    def id(self) -> list[Any]:
        """The names of the items so far, to tell what is done; empty without names."""
        is_written = self._n_written and "id" in self._kinds
        written = self.column("id").tolist() if is_written else []
        return written + [columns["id"] for _, columns in self._pending if "id" in columns]

    def append(
        self,
        item: Any,
        *,
        label: Any = None,
        id: str | int | None = None,
        group: str | int | None = None,
        weight: Any = None,
    ) -> None:
        """Add an item.

        Parameters
        ----------
        item : array-like of shape (L, M), or mapping of str to array-likes of shape (L, M)
            The local features; a modality that the item lacks is left out, or None there.

        label : str, number, or array-like of shape (n_labels,), optional
            Its label, or its row of an indicator matrix.

        id, group : str or int, optional
            Its name, and the group that a group-wise splitter keeps together.

        weight : float, optional
            Its sample weight.

        Raises
        ------
        ValueError
            If the item is not usable, does not fit the earlier ones, or comes without what
            they came with. Nothing is added then.
        """
        sets = self._check_item(item)
        if isinstance(weight, Real):
            weight = float(weight)  # 1 and 0.5 are of one kind
        given = {"label": label, "id": id, "group": group, "weight": weight}
        columns = {name: value for name, value in given.items() if value is not None}
        kinds = self._check_columns(columns)
        self._multimodal, self._kinds = isinstance(item, Mapping), kinds
        self._formats |= {name: (x.shape[1], x.dtype) for name, x in sets.items()}
        self._pending.append((sets, columns))
        self._pending_bytes += sum(values.nbytes for values in sets.values())
        if self._pending_bytes >= _PENDING_BYTES:
            self.flush()

    def _check_item(self, item: Any) -> dict[str, NDArray[Any]]:
        """The item's sets as they will be stored; an empty one tells its width and type."""
        i = len(self)
        if self._multimodal not in (None, isinstance(item, Mapping)):
            raise ValueError(
                f"Item {i} is a {type(item).__name__}; the items before it are "
                f"{'mappings of modalities to arrays' if self._multimodal else 'single arrays'}. "
                "Give every item the same form."
            )
        named = item if isinstance(item, Mapping) else {UNNAMED: item}
        sets = {name: self._check_set(x, name) for name, x in named.items() if x is not None}
        if not any(map(len, sets.values())):
            raise ValueError(
                f"Item {i} has 0 local features; every item needs at least one. Leave it out."
            )
        return sets

    def _check_set(self, values: Any, name: str) -> NDArray[Any]:
        what = f"Item {len(self)}, modality {name!r}:"
        if not isinstance(name, str) or _TAKEN.fullmatch(name):
            raise ValueError(
                f"{what} a modality's name is a non-empty string without '/' that does not end in "
                f"_row_size or _offsets, and is not one of {', '.join(COLUMNS)}. Rename it."
            )
        try:
            values = to_numpy(values)
        except ValueError:
            raise ValueError(
                f"{what} has rows of differing length; every local feature of a set needs the "
                "same width."
            ) from None
        if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "fiub":
            raise ValueError(
                f"{what} expected a two-dimensional array of real numbers (local features, "
                f"features); got shape {values.shape}, dtype {values.dtype}."
            )
        default = self.dtype or ("float16" if values.dtype == np.float16 else "float32")
        width, dtype = self._formats.get(name, (values.shape[1], np.dtype(default)))
        if values.shape[1] != width:
            raise ValueError(
                f"{what} has {values.shape[1]} features; earlier items have {width}. Extract them "
                "alike, or keep them as two modalities."
            )
        with np.errstate(over="ignore"):
            stored = values.astype(dtype)  # a copy, also of the right type: items wait in memory
        if dtype != values.dtype and not np.array_equal(np.isfinite(stored), np.isfinite(values)):
            raise ValueError(
                f"{what} has values beyond the range of {dtype}, up to {np.abs(values).max():g}; "
                "scale the features, or start a store with dtype='float32'."
            )
        return stored

    def _check_columns(self, columns: dict[str, Any]) -> dict[str, str]:
        """The kinds of all columns, which are those of the earlier items."""
        kinds = {name: _kind(value) for name, value in columns.items()}
        if len(self) and kinds != self._kinds:
            raise ValueError(
                f"Item {len(self)} comes with {_described(kinds)}; earlier items came with "
                f"{_described(self._kinds)}. Give every item the same."
            )
        for name, kind in kinds.items():
            if not kind.startswith(_KINDS[name]):
                raise ValueError(
                    f"Item {len(self)}: {name}={columns[name]!r} is {kind}; use "
                    f"{' or '.join(_KINDS[name])}."
                )
        return kinds

    def flush(self) -> None:
        """Bring all appended items to disk; a writer that resumes finds them there."""
        if not self._pending:
            return
        self._group.attrs.update({"complete": False})
        self._group.attrs.update({"complete": False})
        n_rows = {}  # of a flush that fails nothing is kept, so that it can be tried again
        for name, (width, dtype) in self._formats.items():
            empty = np.empty((0, width), dtype)
            sets = [item.get(name, empty) for item, _ in self._pending]
            n_before = self._n_rows.get(name, 0)
            self._extend(name, np.concatenate(sets), n_before)
            sizes = np.array([len(x) for x in sets])
            if name in self._n_rows:
                self._extend(f"{name}_row_size", sizes, self._n_written)
            else:  # earlier items lack this modality
                sizes = np.concatenate([np.zeros(self._n_written, np.int64), sizes])
                self._extend(f"{name}_row_size", sizes, 0)
            n_rows[name] = n_before + sum(map(len, sets))
        for name in self._kinds:
            self._extend_column(name, [columns[name] for _, columns in self._pending])
        n_written = self._n_written + len(self._pending)
        committed = {"n_items": n_written, "n_rows": n_rows, "columns": list(self._kinds)}
        self._group.attrs.update({"multimodal": self._multimodal, "committed": committed})
        self._n_written, self._n_rows = n_written, n_rows
        self._pending, self._pending_bytes = [], 0

    def _extend_column(self, name: str, values: list[Any]) -> None:
        array: NDArray[Any] = np.asarray(values, _stored_dtype(self._kinds[name]))
        if self._kinds[name] == "a string" and name != "id":
            known = self._group[name].attrs["classes"] if self._n_written else []
            classes = list(dict.fromkeys([*known, *array.tolist()]))
            numbers = {label: number for number, label in enumerate(classes)}
            codes = np.array([numbers[label] for label in array.tolist()])
            self._extend(name, codes, self._n_written, attributes={"classes": classes})
        else:
            self._extend(name, array, self._n_written)

    def _extend(
        self,
        name: str,
        values: NDArray[Any],
        n_before: int,
        attributes: dict[str, Any] | None = None,
    ) -> None:
        """Write rows behind the first `n_before` of an array, which is created if need be."""
        if name not in self._group:
            layout = _features_layout if name in self._formats else _column_layout
            self._group.create_array(name, overwrite=True, **layout(name, values))
        # A chunk of nothing but the fill value is written too: else it would count as lost.
        array = self._group[name].with_config({"write_empty_chunks": True})
        if attributes:
            array.attrs.update(attributes)
        array.resize((n_before + len(values), *array.shape[1:]))
        array[n_before:] = values

    def close(self) -> None:
        """Bring everything to disk and declare the store complete.

        Raises
        ------
        ValueError
            If there is no item.
        """
        self.flush()
        if self._n_written == 0:
            raise ValueError(f"{self.path} has no items; append at least one before closing it.")
        if self._group.attrs["complete"]:  # and nothing was added
            return
        for name in self._n_rows:
            offsets = np.concatenate([[0], np.cumsum(self._group[f"{name}_row_size"][...])])
            if f"{name}_offsets" in self._group:
                del self._group[f"{name}_offsets"]
            self._extend(f"{name}_offsets", offsets, 0)
        self._group.attrs.update({"complete": True})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error_type is None:
            self.close()
        else:
            self.flush()


# Names that other arrays of a store have, or that no directory can have.
_TAKEN = re.compile(
    rf"|.*[/\\].*|\.+|zarr\.json|{'|'.join(COLUMNS)}|.*_(row_size|offsets)", re.DOTALL
)

# What each column may hold.
_KINDS = {
    "label": ("a string", "a boolean", "an integer", "a real number", "a row of labels"),
    "id": ("a string", "an integer"),
    "group": ("a string", "an integer"),
    "weight": ("a real number",),
}


def _kind(value: Any) -> str:
    array = np.asarray(value)
    names = {"U": "a string", "b": "a boolean", "i": "an integer", "u": "an integer"}
    names["f"] = "a real number"
    name = names.get(array.dtype.kind, f"{array.dtype}")
    if array.dtype.kind == "u" and (array > np.iinfo(np.int64).max).any():
        return "beyond int64"
    if array.ndim == 1 and len(array) and array.dtype.kind in "biuf":
        return f"a row of labels, {len(array)} times {name}"
    return name if array.ndim == 0 else "an array"


def _stored_dtype(kind: str) -> type:
    """One type for all items of a kind: the first ones may be of a narrower type."""
    types = {"string": str, "boolean": np.bool_, "integer": np.int64, "real number": np.float64}
    return next(dtype for name, dtype in types.items() if kind.endswith(name))


def _described(kinds: dict[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in kinds.items()) or "no label, id, …"


def _features_layout(name: str, values: NDArray[Any]) -> dict[str, Any]:
    """Chunks of about half a megabyte of whole rows, shards of 64; nothing compressed.

    The fill value is no feature, so that a lost chunk cannot pass for one.
    """
    rows_per_chunk = max(1, _CHUNK_BYTES // (values.shape[1] * values.itemsize))
    chunk_bytes = rows_per_chunk * values.shape[1] * values.itemsize
    return {
        "shape": (0, values.shape[1]),
        "chunks": (rows_per_chunk, values.shape[1]),
        "shards": (rows_per_chunk * max(1, _SHARD_BYTES // chunk_bytes), values.shape[1]),
        "dtype": values.dtype,
        "compressors": None,
        "fill_value": float("nan"),
        "dimension_names": (f"{name}_obs", f"{name}_feature"),
    }


def _column_layout(name: str, values: NDArray[Any]) -> dict[str, Any]:
    """A row per item, with a checksum; every chunk is written, also one of zeros."""
    dimensions: tuple[str, ...] = ("item_edge" if name.endswith("_offsets") else "item",)
    if values.ndim == 2:
        dimensions = (*dimensions, f"{name}_column")
    modality = name.removesuffix("_row_size")
    attributes = {"sample_dimension": f"{modality}_obs"} if name.endswith("_row_size") else {}
    return {
        "shape": (0, *values.shape[1:]),
        "chunks": (_ITEMS_PER_CHUNK, *values.shape[1:]),
        "dtype": str if values.dtype.kind == "U" else values.dtype,
        "compressors": [Crc32cCodec()],
        "dimension_names": dimensions,
        "attributes": attributes,
    }
