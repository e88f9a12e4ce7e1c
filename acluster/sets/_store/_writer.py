"""Write stores item by item, with bounded memory and little loss if the process stops."""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from acluster.sets._feature_sets import Array, check_set
from acluster.sets._store import _format
from acluster.sets._store._columns import (
    check_entries,
    encode_column,
    entry_type,
    own_entry,
    read_column,
)
from acluster.sets._store._format import COLUMNS, UNNAMED, StoreError, find_array, read_attributes
from acluster.sets._store._narrowing import default_dtype, narrowed, underflow_warning
from acluster.sets._store._reader import check_store, open_group

if TYPE_CHECKING:
    import zarr

_PENDING_BYTES = 1 << 25

# zarr writes a file under a temporary name with this suffix, and renames it when it is complete. A
# process that is killed therefore leaves every file either old or new, and perhaps a temporary
# one. There is no fsync: a power failure may lose more than the process had pending.
_PARTIAL = ".partial"

# Names that other arrays of the store have, or that no directory can have.
_RESERVED_NAMES = re.compile(
    rf"|.*[/\\].*|\.+|zarr\.json|{'|'.join(COLUMNS)}|.*_(row_size|offsets)", re.DOTALL
)


class FeatureSetsWriter:
    """Write a store of feature sets item by item, for example while features are extracted.

    Items are collected in memory up to 32 MB and then written together. If the process is
    killed, `open_feature_sets` rejects the incomplete store, and a writer with
    ``resume=True`` continues after the last item on disk.

    Parameters
    ----------
    path : str or path
        The directory of the store. It must not exist, unless `resume` is True.

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

    Raises
    ------
    FileExistsError
        If there is something at `path` and `resume` is False.

    StoreError
        If `resume` is True and there is something other than a store of feature sets.

    See Also
    --------
    acluster.save_feature_sets : Write sets that exist already, in memory or in other layouts.

    Notes
    -----
    ``len(writer)`` is the number of items written or pending. With `resume`, skip that many
    inputs. As a context manager, the writer completes the store at the end of the block. If an
    exception ends the block, the appended items are kept and the store stays incomplete.
    Only one process may write to a store at a time.

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
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        dtype: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        if dtype not in (None, "float16", "float32"):
            raise ValueError(f"dtype={dtype!r} is not 'float16', 'float32' or None.")
        attributes = _as_json(attributes or {})
        self.path = os.fspath(path)
        self.dtype = dtype
        self._has_warned = False
        self._group = self._open_group(resume, attributes)
        attributes = read_attributes(self._group)
        committed = attributes["committed"]
        self._multimodal: bool | None = attributes["multimodal"]
        self._n_written: int = committed["n_items"]
        self._n_rows: dict[str, int] = dict(committed["n_rows"])
        if attributes["complete"]:
            check_store(self._group, self.path)
        else:
            self._discard_uncommitted(committed["columns"])
        arrays = {name: self._group[name] for name in self._n_rows}
        self._formats = {name: (array.shape[1], array.dtype) for name, array in arrays.items()}
        self._types = {name: entry_type(self.column(name)[0]) for name in committed["columns"]}
        self._pending: list[tuple[dict[str, Array], dict[str, Any]]] = []
        self._pending_bytes = 0

    def _open_group(self, resume: bool, attributes: Mapping[str, Any] | None) -> zarr.Group:
        """Create the group of the store, or open the existing one if `resume` is True."""
        import zarr

        path = Path(self.path)
        if not resume and path.exists():
            raise FileExistsError(
                f"There is already something at {self.path!r}. Choose another path, remove it, or "
                "continue after its items with FeatureSetsWriter(path, resume=True)."
            )
        if (path / "zarr.json").exists():
            read_attributes(open_group(self.path))
            group = zarr.open_group(self.path, mode="r+")
            for name in group.attrs["committed"]["n_rows"]:
                array = find_array(group, name, self.path)
                if array is not None and self.dtype not in (None, array.dtype.name):
                    raise ValueError(
                        f"dtype={self.dtype!r}, but {self.path} holds {name!r} as {array.dtype}. "
                        "Leave dtype out to continue with it."
                    )
            return group
        # A process killed while it created the group leaves a temporary zarr.json at most.
        if path.is_file() or any(entry.suffix != _PARTIAL for entry in path.glob("*")):
            raise StoreError(f"{self.path} is not a store of feature sets. Choose another path.")
        new = _format.new_attributes(attributes)
        return zarr.create_group(self.path, zarr_format=3, attributes=new)

    def _discard_uncommitted(self, columns: Sequence[str]) -> None:
        """Remove everything written after the last commit: rows, arrays and temporary files."""
        per_item = [f"{name}_row_size" for name in self._n_rows] + list(columns)
        n_rows = self._n_rows | dict.fromkeys(per_item, self._n_written)
        for name, n in n_rows.items():
            array = find_array(self._group, name, self.path)
            if array is None or array.shape[0] < n:
                problem = f"is missing some of the {n} rows that were written"
                raise _format.array_error(name, self.path, problem)
            if array.shape[0] > n:
                array.resize((n, *array.shape[1:]))
        for partial in Path(self.path).rglob(f"*{_PARTIAL}"):
            partial.unlink()
        # zarr cannot delete an array without metadata, which a killed process leaves if it was
        # just creating or deleting that array.
        for entry in Path(self.path).iterdir():
            if entry.is_dir() and not (entry / "zarr.json").exists():
                shutil.rmtree(entry)
        for name in set(self._group.array_keys()) - n_rows.keys():
            del self._group[name]

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
        return read_column(self._group[name], self.path)

    def __len__(self) -> int:
        return self._n_written + len(self._pending)

    @property
    def id(self) -> list[Any]:
        """The names of the items written so far; empty without names."""
        is_written = self._n_written and "id" in self._types
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
            The local features. Leave out a modality that the item lacks, or pass None for it.

        label : str, number, or array-like of shape (n_labels,), optional
            The label of the item, or its row of an indicator matrix.

        id, group : str or int, optional
            The name of the item, and the group that a group-wise splitter keeps together.

        weight : float, optional
            The sample weight of the item.

        Raises
        ------
        ValueError
            If the item is invalid, does not match the earlier ones, or lacks a column that
            they have. The item is then not added.
        """
        sets = self._check_item(item)
        if isinstance(weight, Real):
            weight = float(weight)  # so that 1 and 0.5 have the same type
        given = {"label": label, "id": id, "group": group, "weight": weight}
        columns = {
            name: own_entry(value, name, f"Item {len(self)}")
            for name, value in given.items()
            if value is not None
        }
        types = check_entries(columns, self._types if len(self) else None, f"Item {len(self)}")
        self._multimodal, self._types = isinstance(item, Mapping), types
        self._formats |= {name: (x.shape[1], x.dtype) for name, x in sets.items()}
        self._pending.append((sets, columns))
        self._pending_bytes += sum(values.nbytes for values in sets.values())
        if self._pending_bytes >= _PENDING_BYTES:
            self.flush()

    def _check_item(self, item: Any) -> dict[str, Array]:
        """Return the sets of an item in their stored form; an empty set still defines a width."""
        i = len(self)
        if self._multimodal not in (None, isinstance(item, Mapping)):
            earlier = "mappings of modalities to arrays" if self._multimodal else "single arrays"
            raise ValueError(
                f"Item {i} is a {type(item).__name__}, but earlier items are {earlier}. Pass all "
                "items in the same form."
            )
        named = item if isinstance(item, Mapping) else {UNNAMED: item}
        sets = {name: self._check_set(x, name) for name, x in named.items() if x is not None}
        if not any(map(len, sets.values())):
            raise ValueError(
                f"Item {i} has 0 local features; every item needs at least one. Leave it out."
            )
        return sets

    def _check_set(self, item: Any, modality: str) -> Array:
        name = f"Item {len(self)}, modality {modality!r}"
        if not isinstance(modality, str) or _RESERVED_NAMES.fullmatch(modality):
            raise ValueError(
                f"{name}: the name of a modality must be a non-empty string without '/', must not "
                f"end in _row_size or _offsets, and must not be one of {', '.join(COLUMNS)}. "
                "Rename it."
            )
        values = check_set(item, name)
        if modality in self._formats:
            width, dtype = self._formats[modality]
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
        if not self._pending:
            return
        # The order makes the store safe to kill at any moment: first it is marked incomplete, then
        # rows are appended, and only then are they committed. Fields of the writer change last, so
        # that a flush that failed, for example on a full disk, can be repeated.
        self._group.attrs.update({"complete": False})
        n_rows = {name: self._append_sets(name) for name in self._formats}
        for name, type_name in self._types.items():
            entries = [columns[name] for _, columns in self._pending]
            known = self._group[name].attrs.get("classes", []) if self._n_written else []
            values, array_attributes = encode_column(name, entries, type_name, known)
            self._extend(name, values, self._n_written)
            if array_attributes:
                self._group[name].attrs.update(array_attributes)
        n_written = self._n_written + len(self._pending)
        committed = {"n_items": n_written, "n_rows": n_rows, "columns": list(self._types)}
        self._group.attrs.update({"multimodal": self._multimodal, "committed": committed})
        self._n_written, self._n_rows = n_written, n_rows
        self._pending, self._pending_bytes = [], 0

    def _append_sets(self, modality: str) -> int:
        """Write the pending sets of a modality; return its new number of rows."""
        width, dtype = self._formats[modality]
        empty = np.empty((0, width), dtype)
        sets = [item.get(modality, empty) for item, _ in self._pending]
        n_before = self._n_rows.get(modality, 0)
        self._extend(modality, np.concatenate(sets), n_before)
        # All items on disk lack a new modality.
        n_lacking = 0 if modality in self._n_rows else self._n_written
        sizes = [0] * n_lacking + [len(x) for x in sets]
        self._extend(f"{modality}_row_size", np.array(sizes), self._n_written - n_lacking)
        return n_before + sum(sizes)

    def _extend(self, name: str, values: Array, n_before: int) -> None:
        """Write rows after the first `n_before` of an array, which is created if necessary."""
        if name not in self._group:
            is_modality = name in self._formats
            layout = _format.features_layout if is_modality else _format.column_layout
            self._group.create_array(name, overwrite=True, **layout(name, values))
        # By default zarr does not write chunks that equal the fill value. Here they are written,
        # because a missing chunk counts as lost.
        array = self._group[name].with_config({"write_empty_chunks": True})
        array.resize((n_before + len(values), *array.shape[1:]))
        array[n_before:] = values

    def close(self) -> None:
        """Write all pending items and mark the store complete.

        Raises
        ------
        ValueError
            If the store has no items.
        """
        self.flush()
        if self._n_written == 0:
            raise ValueError(f"{self.path} has no items; append at least one before closing it.")
        if self._group.attrs["complete"]:  # nothing was appended to a complete store
            return
        for name in self._n_rows:
            offsets = np.concatenate([[0], np.cumsum(self._group[f"{name}_row_size"][...])])
            self._extend(f"{name}_offsets", offsets, 0)
        self._group.attrs.update({"complete": True})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self.close()
        else:
            self.flush()


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
    copy: dict[str, Any] = json.loads(text)
    return copy


def _has_other_keys(value: Any) -> bool:
    """Whether a mapping in a value has keys other than strings, which JSON would turn into some."""
    if isinstance(value, Mapping):
        return not all(isinstance(key, str) for key in value) or _has_other_keys(
            list(value.values())
        )
    return isinstance(value, list | tuple) and any(map(_has_other_keys, value))
