"""Rows of a stored array, gathered run by run: what every reader of them shares."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Integers", "Pieces", "StoreError", "StoredRows", "local_directory", "title"]

Integers = NDArray[np.int64]


# Those whose locks a forked process finds locked, perhaps, by a thread it does not have.
_ALL: weakref.WeakSet[StoredRows] = weakref.WeakSet()


class StoreError(ValueError):
    """A store of feature sets that cannot be read as it stands.

    The message names the array, the file and the place in it, and the remedy.
    """


class StoredRows(ABC):
    """Rows of a stored array of shape (R, M), gathered run by run.

    What was once read of the store is kept: do not write to it meanwhile. Threads take
    turns; a forked or unpickled copy may be used beside the first.

    Attributes
    ----------
    shape : tuple of int
        ``(R, M)``.

    dtype : numpy.dtype
        The type of the rows.

    rows_per_block : int
        The rows that are stored, and where need be decoded, together.

    is_fast : bool
        Whether short runs in shuffled order are cheap.
    """

    is_fast: ClassVar[bool]

    def __init__(self, array: Any, dtype: np.dtype[Any], rows_per_block: int) -> None:
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = dtype
        self.rows_per_block = rows_per_block
        self._title = title(array)
        self._directory = local_directory(array)
        grid = (-(-n // m) for n, m in zip(self.shape, array.shards or array.chunks, strict=True))
        self._renew_lock()
        self._keys = [array.metadata.encode_chunk_key(place) for place in np.ndindex(*grid)]

    def gather(
        self, starts: Integers, lengths: Integers, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Read runs of rows, end to end.

        Parameters
        ----------
        starts, lengths : ndarray of int64, shape (n_runs,)
            Run i is rows ``starts[i]`` to ``starts[i] + lengths[i] - 1``. Runs may be
            empty, repeat, overlap, and come in any order.

        out : ndarray of shape (n, M), optional
            C-contiguous, of the dtype of the rows, with n at least ``lengths.sum()``:
            its first rows are written.

        Returns
        -------
        ndarray of shape (lengths.sum(), M)
            A view of the first rows of `out` where that is given.

        Raises
        ------
        StoreError
            If a run leaves the array, or the store is damaged where it is read.

        ValueError
            If `out` does not fit.
        """
        starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        self._check_runs(starts, lengths)
        out = self._check_out(out, int(lengths.sum()))
        with self._lock:
            self._read(_cut(starts, lengths, self.rows_per_block), out)
        return out

    def check(self) -> list[str]:
        """Hold the files against the array, without reading features.

        Returns
        -------
        list of str
            The keys of absent files. Their rows are the fill value, so that a lost
            file looks like one never needed. Empty for a store that is not on a local
            file system.

        Raises
        ------
        StoreError
            If a file has the wrong size or a damaged index (`RawRows` only).
        """
        with self._lock:
            return self._check()

    def _check(self) -> list[str]:
        if self._directory is None:
            return []
        return [key for key in self._keys if not os.path.exists(f"{self._directory}/{key}")]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew_lock()

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()
        _ALL.add(self)

    @abstractmethod
    def _read(self, pieces: Pieces, out: NDArray[Any]) -> None:
        """Write every piece to its rows of `out`."""

    def _check_runs(self, starts: Integers, lengths: Integers) -> None:
        wrong = np.flatnonzero((starts < 0) | (lengths < 0) | (starts > self.shape[0] - lengths))
        if len(wrong):
            i = wrong[0]
            raise StoreError(
                f"{self._title} has {self.shape[0]} rows, but run {i} is {lengths[i]} rows from "
                f"row {starts[i]} on; the offsets do not fit the array. Write the store again."
            )

    def _check_out(self, out: NDArray[Any] | None, n_rows: int) -> NDArray[Any]:
        width = self.shape[1]
        if out is None:
            return np.empty((n_rows, width), self.dtype)
        fits = out.ndim == 2 and len(out) >= n_rows and out.shape[1] == width
        if not (fits and out.dtype == self.dtype and out.flags.carray):
            raise ValueError(
                f"out must be a writeable C-contiguous array of {self.dtype}, at least {n_rows} "
                f"rows of {width}; got shape {out.shape}, dtype {out.dtype}."
            )
        return out[:n_rows]


class Pieces(NamedTuple):
    """Runs of rows cut at the edges of blocks, in the order of the output."""

    block: Integers
    first: Integers  # row within the block
    length: Integers
    target: Integers  # row of the output


def _cut(starts: Integers, lengths: Integers, rows_per_block: int) -> Pieces:
    first_block = starts // rows_per_block
    n_pieces = np.where(lengths > 0, (starts + lengths - 1) // rows_per_block - first_block + 1, 0)
    run = np.repeat(np.arange(len(starts)), n_pieces)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    block = first_block[run] + nth
    start = np.maximum(starts[run], block * rows_per_block)
    length = np.minimum((starts + lengths)[run], (block + 1) * rows_per_block) - start
    return Pieces(block, start - block * rows_per_block, length, np.cumsum(length) - length)


def local_directory(array: Any) -> str | None:
    # Not isinstance: a store derived from LocalStore may hold other bytes than it gives.
    if type(array.store).__name__ != "LocalStore":
        return None
    return os.path.abspath(os.path.join(array.store.root, array.path))


def title(array: Any) -> str:
    root, name = str(array.store), array.path
    if not name:  # the array is the whole store; its folder is the one to name
        root, _, name = root.rpartition("/")
    return f"array {name!r} of {root.rpartition('/')[2]}"


def _renew_locks() -> None:
    for rows in list(_ALL):
        rows._renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
