"""The base class of the readers that gather runs of rows from a stored array."""

from __future__ import annotations

import os
import threading
import weakref
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from acluster.sets._feature_sets import Array, Int64Array
from acluster.sets._store._errors import StoreError
from acluster.sets._store._files import is_remote

# All readers of this process. A lock that another thread holds during a fork stays locked forever
# in the child, which does not have that thread, so every reader gets a new lock there.
_READERS: weakref.WeakSet[StoredRows] = weakref.WeakSet()


class StoredRows(ABC):
    """Rows of a stored array of shape (R, M), from which runs of rows are gathered.

    Readers keep what they have learned about the files, so the store must not be written
    to while they are in use. Threads may read at the same time; what they share is changed under
    a lock. Forked and unpickled copies are independent.

    Attributes
    ----------
    shape : tuple of int
        ``(R, M)``.

    dtype : numpy.dtype
        The dtype of the rows.

    rows_per_block : int
        The number of rows that are stored, and if necessary decoded, together.

    is_fast : bool
        Whether reading short runs in shuffled order is cheap.
    """

    is_fast: bool

    def __init__(self, array: Any, dtype: np.dtype[Any], rows_per_block: int) -> None:
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = dtype
        self.rows_per_block = rows_per_block
        self._description = describe_array(array)
        self._renew_lock()

    def gather(self, starts: Int64Array, lengths: Int64Array, out: Array | None = None) -> Array:
        """Read runs of rows, end to end.

        Parameters
        ----------
        starts, lengths : ndarray of int64, shape (n_runs,)
            Run i is rows ``starts[i]`` to ``starts[i] + lengths[i] - 1``. Runs may be
            empty, may overlap, and may be in any order.

        out : ndarray of shape (n, M), optional
            Memory for the result: a C-contiguous array of the dtype of the rows, with n at
            least ``lengths.sum()``. Its first rows are overwritten.

        Returns
        -------
        ndarray of shape (lengths.sum(), M)
            A view of the first rows of `out` if that is passed.

        Raises
        ------
        StoreError
            If a run is outside of the array, or the store is damaged where it is read.

        ValueError
            If `out` has the wrong shape, dtype or memory layout.
        """
        starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        self._check_runs(starts, lengths)
        out = self._check_out(out, int(lengths.sum()))
        self._read(_split_runs(starts, lengths, self.rows_per_block), out)
        return out

    def check(self) -> None:
        """Check the files of the array, without reading features.

        Raises
        ------
        StoreError
            If a file is absent, has the wrong size or has a damaged index (`RawRows` only).
        """
        with self._lock:
            self._check()

    @abstractmethod
    def _check(self) -> None:
        """Check the files, and remember what they are."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew_lock()

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()
        _READERS.add(self)

    @abstractmethod
    def _read(self, pieces: Pieces, out: Array) -> None:
        """Read every piece into its rows of `out`; threads may call this at the same time."""

    def _check_runs(self, starts: Int64Array, lengths: Int64Array) -> None:
        wrong = np.flatnonzero((starts < 0) | (lengths < 0) | (starts > self.shape[0] - lengths))
        if len(wrong):
            i = wrong[0]
            raise StoreError(
                f"{self._description} has {self.shape[0]} rows, but run {i} is {lengths[i]} rows "
                f"from row {starts[i]} on; the offsets do not match the array. Write the store "
                "again."
            )

    def _check_out(self, out: Array | None, n_rows: int) -> Array:
        width = self.shape[1]
        if out is None:
            return np.empty((n_rows, width), self.dtype)
        fits = out.ndim == 2 and len(out) >= n_rows and out.shape[1] == width
        if not (fits and out.dtype == self.dtype and out.flags.carray):
            raise ValueError(
                f"out must be a writeable C-contiguous array of {self.dtype}, with at least "
                f"{n_rows} rows of {width}; got shape {out.shape}, dtype {out.dtype}."
            )
        return out[:n_rows]


class Pieces(NamedTuple):
    """Runs of rows split where blocks end, in the order of the output; each of (n_pieces,)."""

    block: Int64Array  # number of the block
    first: Int64Array  # first row, counted within the block
    length: Int64Array  # number of rows
    target: Int64Array  # first row of the output


def _split_runs(starts: Int64Array, lengths: Int64Array, rows_per_block: int) -> Pieces:
    first_block = starts // rows_per_block
    n_pieces = np.where(lengths > 0, (starts + lengths - 1) // rows_per_block - first_block + 1, 0)
    run = np.repeat(np.arange(len(starts)), n_pieces)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    block = first_block[run] + nth
    start = np.maximum(starts[run], block * rows_per_block)
    length = np.minimum((starts + lengths)[run], (block + 1) * rows_per_block) - start
    return Pieces(block, start - block * rows_per_block, length, np.cumsum(length) - length)


def describe_array(array: Any) -> str:
    """Return the name of an array in error messages."""
    root, name = str(array.store), array.path
    if is_remote(array.store):
        return f"array {name!r} of {root}"
    if not name:  # the array is the root of the store, which has the name of its directory
        root, _, name = root.rpartition("/")
    return f"array {name!r} of {root.rpartition('/')[2]}"


def _renew_locks() -> None:
    for reader in list(_READERS):
        reader._renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
