"""Rows that are loaded in blocks, of which those used most recently are kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._store._rows import Pieces, StoredRows

CACHE_BYTES = 64 << 20  # upper limit of all cached blocks
_BLOCK_BYTES = 1 << 20  # lower limit of a block


class BlockRows(StoredRows):
    """Rows that are loaded in blocks, of which those used most recently are kept.

    Parameters
    ----------
    array : zarr.Array of shape (R, M)
        The array.

    dtype : numpy.dtype
        The dtype of the rows.

    together_bytes : int
        The upper limit of the blocks that are loaded before any of them is used.
    """

    is_fast = False

    def __init__(self, array: Any, dtype: np.dtype[Any], together_bytes: int) -> None:
        row_bytes = max(1, array.shape[1] * array.dtype.itemsize)
        # Small chunks are loaded together, because each call of zarr, and each request, costs a
        # constant time.
        n_chunks = -(-_BLOCK_BYTES // (array.chunks[0] * row_bytes))
        super().__init__(array, dtype, int(array.chunks[0]) * n_chunks)
        self._n_blocks = -(-self.shape[0] // self.rows_per_block)
        self._max_blocks = max(1, CACHE_BYTES // (self.rows_per_block * row_bytes))
        most = max(1, together_bytes // (self.rows_per_block * row_bytes))
        self._max_together = min(most, self._max_blocks)
        self._blocks: dict[int, NDArray[Any]] = {}  # ordered from least to most recently used

    def __getstate__(self) -> dict[str, Any]:
        # Blocks are large, and in part memory that was never filled: it may hold anything, such as
        # the credentials of a store.
        return {**super().__getstate__(), "_blocks": {}}

    @abstractmethod
    def _load(self, blocks: list[int]) -> dict[int, NDArray[Any]]:
        """Return blocks, given in ascending order, and maybe more."""

    def _joined(self, pieces: Pieces) -> Pieces:
        """Return the pieces to read; a subclass may read on in the rows after a block."""
        return pieces

    def _read(self, pieces: Pieces, out: NDArray[Any]) -> None:
        if not len(pieces.block):
            return
        with self._lock:  # threads would load the same blocks
            self._read_blocks(self._joined(pieces), out)

    def _read_blocks(self, pieces: Pieces, out: NDArray[Any]) -> None:
        # Pieces are read block by block, so that each block is loaded once even if the cache
        # cannot hold them all.
        ordered = np.stack(pieces, axis=1)[np.argsort(pieces.block, kind="stable")]
        blocks, firsts = np.unique(ordered[:, 0], return_index=True)
        parts = dict(zip(blocks.tolist(), np.split(ordered, firsts[1:]), strict=True))
        for numbers in self._groups([*parts]):
            self._keep(self._load([n for n in numbers if n not in self._blocks]), numbers)
            for number in numbers:
                rows = self._blocks[number] = self._blocks.pop(number)  # the most recently used
                for _, first, length, target in parts[number].tolist():
                    out[target : target + length] = rows[first : first + length]

    def _groups(self, blocks: list[int]) -> Iterator[list[int]]:
        """Yield the blocks in groups that are loaded together, after those that are kept."""
        kept = [number for number in blocks if number in self._blocks]
        missing = [number for number in blocks if number not in self._blocks]
        if kept:
            yield kept
        for k in range(0, len(missing), self._max_together):
            yield missing[k : k + self._max_together]

    def _keep(self, new: dict[int, NDArray[Any]], wanted: list[int]) -> None:
        """Add blocks to the cache, in place of those that were not used for longest."""
        for number in [*self._blocks]:
            if len(self._blocks) + len(new) <= self._max_blocks:
                break
            if number not in wanted:
                del self._blocks[number]
        self._blocks |= new
