"""A zarr array of rows that is written range by range, by any number of processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from acluster._utils._files import check_parent
from acluster.sets._arrays import Array
from acluster.sets._store._files import local_path
from acluster.sets._store._lock import WriteLock
from acluster.sets._store._sync import sync_directory, sync_file

if TYPE_CHECKING:
    import zarr

_CHUNK_BYTES = 1 << 22
# A prime batch size above what fits in a chunk has no useful divisor. Then a chunk is a batch.
_SMALLEST_SHARE = 8


@dataclass(frozen=True)
class RowLayout:
    """The shape of an array of rows, and its division into ranges and chunks.

    Attributes
    ----------
    n_rows, width : int
        The shape.

    dtype : str
        The name of the dtype.

    rows_per_chunk, rows_per_range : int
        A range has whole chunks: two processes that write to one chunk would each replace the
        rows of the other, and zarr reports nothing.
    """

    n_rows: int
    width: int
    dtype: str
    rows_per_chunk: int
    rows_per_range: int

    @classmethod
    def of(
        cls, shape: tuple[int, int], dtype: np.dtype, batch_size: int, rows_wanted: int
    ) -> RowLayout:
        """Return the layout of an array that is computed batch by batch.

        Parameters
        ----------
        shape : (int, int)
            The shape of the array.

        dtype : numpy.dtype
            Its dtype.

        batch_size : int
            Ranges begin where batches begin. The rows of a batch depend on its composition, by
            rounding.

        rows_wanted : int
            About how many rows a range has.
        """
        n_rows, width = shape
        rows_per_chunk = _rows_per_chunk(batch_size, width * dtype.itemsize)
        unit = max(batch_size, rows_per_chunk)  # a multiple of both
        rows_per_range = unit * max(1, rows_wanted // unit)
        return cls(n_rows, width, dtype.name, min(rows_per_chunk, n_rows), rows_per_range)

    def ranges(self) -> list[slice]:
        """Return the ranges of rows, in order."""
        return ranges_of(self.n_rows, self.rows_per_range)


def _rows_per_chunk(batch_size: int, row_bytes: int) -> int:
    """Return a multiple or a divisor of the batch size, of about 4 MB."""
    fitting = max(1, _CHUNK_BYTES // row_bytes)
    if batch_size <= fitting:
        return fitting // batch_size * batch_size
    divisor = next(n for n in range(fitting, 0, -1) if batch_size % n == 0)
    return divisor if divisor * _SMALLEST_SHARE > fitting else batch_size


def ranges_of(n_rows: int, rows_per_range: int) -> list[slice]:
    """Return slices of `rows_per_range` rows, of which the last may be shorter."""
    firsts = range(0, n_rows, rows_per_range)
    return [slice(first, min(first + rows_per_range, n_rows)) for first in firsts]


# The folders that threads of this process write to, once per thread.
_WRITTEN: list[str] = []
_CHANGED = threading.Condition()


def _forget_threads() -> None:
    """Renew the lock in a forked child, which has none of the threads that may hold it."""
    global _CHANGED
    _CHANGED = threading.Condition()
    _WRITTEN.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


@contextmanager
def _writing(folder: str) -> Iterator[None]:
    with _CHANGED:
        _WRITTEN.append(folder)
    try:
        yield
    finally:
        with _CHANGED:
            _WRITTEN.remove(folder)
            _CHANGED.notify_all()


@dataclass(frozen=True)
class RangeOutput:
    """An unfinished array on disk, to which processes write ranges. It pickles as its path.

    Parameters
    ----------
    folder : str
        The directory with the array and the records of the complete ranges.

    layout : RowLayout
        The shape and the ranges of the array.
    """

    folder: str
    layout: RowLayout

    @property
    def array(self) -> Path:
        """The directory of the array."""
        return Path(self.folder) / "array"

    def missing(self) -> list[slice]:
        """Return the ranges that are not complete, in order."""
        return [rows for rows in self.layout.ranges() if not self._record(rows).exists()]

    def has_progress(self) -> bool:
        """Whether a range is complete."""
        return any((Path(self.folder) / "done").glob("*"))

    def write(self, rows: slice, blocks: Iterable[Array]) -> None:
        """Write a range, and record that it is complete once it is safely on disk.

        Parameters
        ----------
        rows : slice
            One of the ranges of the layout.

        blocks : iterable of ndarray of shape (k, width)
            Its rows, block by block.

        Raises
        ------
        ValueError
            If `rows` is another range, or the blocks have another shape or dtype.

        RuntimeError
            If the context of the output has ended.
        """
        import zarr

        from acluster.sets._store._durable import DurableStore

        self._check_range(rows)
        with _writing(self.folder):
            self._check_exists()
            store = DurableStore(self.array)
            array = zarr.open_array(store, mode="r+", zarr_format=3)
            first = rows.start
            for block in self._chunks(rows, blocks):
                self._check_exists()
                array[first : first + len(block)] = block
                first += len(block)
            store.sync()
            record = self._record(rows)
            record.touch()
            sync_file(record)
            sync_directory(record.parent)

    def _record(self, rows: slice) -> Path:
        return Path(self.folder) / "done" / str(rows.start // self.layout.rows_per_range)

    def _check_range(self, rows: slice) -> None:
        size = self.layout.rows_per_range
        number = rows.start // size
        if rows not in self.layout.ranges()[number : number + 1]:
            raise ValueError(
                f"Rows {rows.start} to {rows.stop - 1} are not a range of {self.array}, whose "
                f"{self.layout.n_rows} rows are written {size} at a time. Another writer of the "
                "same chunks would remove rows in silence. Pass one of layout.ranges()."
            )

    def _check_exists(self) -> None:
        # A call that has failed does not wait for its workers, and zarr would create the directory.
        if not (Path(self.folder) / "identity.json").exists():
            raise RuntimeError(f"{self.folder} was removed while a range was written to it.")

    def _chunks(self, rows: slice, blocks: Iterable[Array]) -> Iterator[Array]:
        """Yield the blocks as whole chunks: zarr would read a partly written one again."""
        size, dtype = self.layout.rows_per_chunk, np.dtype(self.layout.dtype)
        rest, n_yielded = np.empty((0, self.layout.width), dtype), 0
        for block in blocks:
            if block.shape[1:] != rest.shape[1:] or block.dtype != dtype:
                raise ValueError(
                    f"A block of rows {rows.start} to {rows.stop - 1} has shape {block.shape} and "
                    f"dtype {block.dtype}; expected {self.layout.width} columns of {dtype}."
                )
            together = np.concatenate([rest, block])
            n_ready = len(together) // size * size
            yield together[:n_ready]
            rest, n_yielded = together[n_ready:], n_yielded + n_ready
        if n_yielded + len(rest) != rows.stop - rows.start:
            raise ValueError(
                f"Rows {rows.start} to {rows.stop - 1} are {rows.stop - rows.start}, but the "
                f"blocks have {n_yielded + len(rest)}."
            )
        if len(rest):
            yield rest

    def _remove(self) -> None:
        """Remove the directory, once the threads of this process have stopped writing to it."""
        (Path(self.folder) / "identity.json").unlink(missing_ok=True)
        with _CHANGED:
            _CHANGED.wait_for(lambda: self.folder not in _WRITTEN)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _begin(self, identity: Mapping[str, str]) -> None:
        """Create the directory, the identity last: without it, nothing is continued."""
        import zarr

        from acluster.sets._store._durable import DurableStore

        folder, layout = Path(self.folder), self.layout
        if (folder / "identity.json").exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "done").mkdir(parents=True)
        store = DurableStore(self.array)
        zarr.create_array(
            store,
            shape=(layout.n_rows, layout.width),
            chunks=(layout.rows_per_chunk, layout.width),
            dtype=layout.dtype,
            compressors=None,
            dimension_names=("item", "global_feature"),
        )
        store.sync()
        written = folder / "identity.json.partial"
        written.write_text(json.dumps(dict(identity)))
        sync_file(written)
        written.rename(folder / "identity.json")
        sync_directory(folder)


@contextmanager
def range_output(
    path: str | os.PathLike[str], layout: RowLayout, identity: Mapping[str, str]
) -> Iterator[RangeOutput]:
    """Write a zarr array in a context; it appears at `path` if all its ranges are complete.

    After an interrupt or a crash, the complete ranges stay beside `path`, in a hidden directory.
    A context with the same layout and identity continues from them. One with another identity
    removes them, with a warning. After a ValueError or a TypeError, which the same call would
    raise again, nothing stays.

    Parameters
    ----------
    path : str or path
        The directory of the array, which must not exist.

    layout : RowLayout
        The shape of the array and its ranges.

    identity : mapping of str to str
        All that the rows depend on.

    Yields
    ------
    RangeOutput
        Write its `missing` ranges.

    Raises
    ------
    FileExistsError
        If there is something at `path`.

    FileNotFoundError
        If the folder of `path` does not exist.

    StoreError
        If another process is writing to `path`.

    ValueError
        If `path` is an address or the name of an archive, or a range was not written.
    """
    target = Path(local_path(os.fspath(path)))
    check_parent(target)
    lock = WriteLock(str(target.with_name(f".{target.name}.acluster-lock")), str(path))
    identity = {**identity, **{name: str(value) for name, value in asdict(layout).items()}}
    digest = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    output = RangeOutput(str(target.with_name(f".{target.name}.{digest}.partial")), layout)
    try:
        _remove_others(target, output, identity)
        if target.exists():
            raise FileExistsError(
                f"There is already something at {os.fspath(path)!r}. Choose another path, or "
                "remove it."
            )
        output._begin(identity)
        yield output
        if missing := output.missing():
            raise ValueError(f"{len(missing)} ranges of rows were not written: {missing[0]}.")
        output.array.rename(target)
        sync_directory(target.parent)
        shutil.rmtree(output.folder, ignore_errors=True)
    except BaseException as error:
        if isinstance(error, ValueError | TypeError) or not output.has_progress():
            output._remove()
        raise
    finally:
        lock.release()


def open_rows_array(path: str | os.PathLike[str]) -> zarr.Array:
    """Open a finished array of rows for reading."""
    import zarr

    return zarr.open_array(local_path(os.fspath(path)), mode="r")


def _remove_others(target: Path, output: RangeOutput, identity: Mapping[str, str]) -> None:
    """Remove what other calls have left, with a warning if it could have been continued."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.partial")
    others = [one for one in target.parent.iterdir() if pattern.fullmatch(one.name)]
    for folder in others:
        if folder == Path(output.folder) and not target.exists():
            continue
        if RangeOutput(str(folder), output.layout).has_progress() and not target.exists():
            warnings.warn(
                f"An unfinished result for {str(target)!r} is removed, because it differs in "
                f"{_differences(folder, identity)}. All rows are computed anew.",
                stacklevel=7,
            )
        shutil.rmtree(folder, ignore_errors=True)


def _differences(folder: Path, identity: Mapping[str, str]) -> str:
    try:
        found = json.loads((folder / "identity.json").read_text())
        names = [name for name in identity if found.get(name) != identity[name]]
    except (OSError, ValueError, AttributeError):
        names = []
    return ", ".join(names) or "its format"
