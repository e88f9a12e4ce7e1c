"""Rows of any array that zarr reads, decoded block by block."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._store._rows import Pieces, StoredRows, StoreError

__all__ = ["DecodedRows"]

_CACHE_BYTES = 64 << 20  # of decoded blocks
_BLOCK_BYTES = 1 << 20  # decoded together, at least
_READ_BYTES = 8 << 20  # decoded in one call, at most


class DecodedRows(StoredRows):
    """Rows of any array that zarr reads, decoded block by block; recent blocks are kept."""

    is_fast = False

    def __init__(self, array: Any) -> None:
        row_bytes = max(1, array.shape[1] * array.dtype.itemsize)
        chunk_bytes = array.chunks[0] * row_bytes
        rows_per_block = array.chunks[0] * -(-_BLOCK_BYTES // chunk_bytes)
        super().__init__(array, array.dtype.newbyteorder("="), rows_per_block)
        self._array = array
        self._max_blocks = max(1, _CACHE_BYTES // (rows_per_block * row_bytes))
        self._max_blocks_read = max(1, _READ_BYTES // (rows_per_block * row_bytes))
        self._blocks: dict[int, NDArray[Any]] = {}  # the least recently used first

    def _read(self, pieces: Pieces, out: NDArray[Any]) -> None:
        # Block by block: each is decoded once, even where the cache holds fewer.
        order = np.argsort(pieces.block, kind="stable")
        wanted = set(pieces.block.tolist())
        for block, first, length, target in np.stack(pieces, axis=1)[order].tolist():
            rows = self._block(block, wanted)
            out[target : target + length] = rows[first : first + length]

    def _block(self, number: int, wanted: set[int]) -> NDArray[Any]:
        if number not in self._blocks:
            end = number + 1  # one call for neighbours: zarr decodes them side by side
            while end in wanted - self._blocks.keys() and end - number < self._max_blocks_read:
                end += 1
            self._decode(number, end)
        block = self._blocks[number] = self._blocks.pop(number)
        return block

    def _decode(self, first: int, end: int) -> None:
        row, stop = first * self.rows_per_block, min(end * self.rows_per_block, self.shape[0])
        try:
            rows = np.asarray(self._array[row:stop])
        except Exception as error:  # of the codec, the store or the network
            raise StoreError(
                f"{self._title}: rows {row} to {stop - 1} (blocks {first} to {end - 1} of "
                f"{self.rows_per_block} rows) cannot be read: {str(error).rstrip('.')}. "
                "Restore the files, or write the store again."
            ) from error
        for number in range(first, end):
            at = (number - first) * self.rows_per_block
            # A copy: a view would keep its neighbours in memory after they have left.
            self._blocks[number] = rows[at : at + self.rows_per_block].copy()
        while len(self._blocks) > self._max_blocks:
            del self._blocks[next(iter(self._blocks))]
