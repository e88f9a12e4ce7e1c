"""Rows of any array that zarr can read, decoded block by block."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._store._arrays import CompleteArray
from acluster.sets._store._errors import StoreError
from acluster.sets._store._files import file_status, local_root
from acluster.sets._store._rows import Pieces, StoredRows

_CACHE_BYTES = 64 << 20  # upper limit of all cached blocks
_BLOCK_BYTES = 1 << 20  # lower limit of a block
_READ_BYTES = 8 << 20  # upper limit of one call of zarr


class DecodedRows(StoredRows):
    """Rows of any array that zarr can read, decoded block by block.

    The blocks used most recently are cached.
    """

    is_fast = False

    def __init__(self, array: Any) -> None:
        row_bytes = max(1, array.shape[1] * array.dtype.itemsize)
        chunk_bytes = array.chunks[0] * row_bytes
        # Small chunks are decoded together, because each call of zarr costs a constant time.
        rows_per_block = array.chunks[0] * -(-_BLOCK_BYTES // chunk_bytes)
        super().__init__(array, array.dtype.newbyteorder("="), rows_per_block)
        self._array = CompleteArray(array)
        self._max_blocks = max(1, _CACHE_BYTES // (rows_per_block * row_bytes))
        self._max_blocks_read = max(1, _READ_BYTES // (rows_per_block * row_bytes))
        self._blocks: dict[int, NDArray[Any]] = {}  # ordered from least to most recently used
        self._root, self._metadata_key = local_root(array.store), f"{array.path}/zarr.json"
        self._check()

    def _check(self) -> None:
        self._identity = self._metadata_identity()

    def _metadata_identity(self) -> tuple[int, ...] | None:
        """Return what changes if the array is removed or replaced; None if it is not local."""
        if self._root is None:
            return None
        status = file_status(self._root, self._metadata_key.lstrip("/"))
        return (status.st_dev, status.st_ino, status.st_mtime_ns) if status else ()

    def _read(self, pieces: Pieces, out: NDArray[Any]) -> None:
        # Pieces are read in the order of the blocks, so that each block is decoded once even if
        # the cache cannot hold them all.
        order = np.argsort(pieces.block, kind="stable")
        wanted = set(pieces.block.tolist())
        for block, first, length, target in np.stack(pieces, axis=1)[order].tolist():
            rows = self._cached_block(block, wanted)
            out[target : target + length] = rows[first : first + length]

    def _cached_block(self, number: int, wanted: set[int]) -> NDArray[Any]:
        if number not in self._blocks:
            end = number + 1  # one call for adjacent blocks: zarr decodes them concurrently
            while end in wanted - self._blocks.keys() and end - number < self._max_blocks_read:
                end += 1
            self._decode(number, end)
        block = self._blocks[number] = self._blocks.pop(number)  # now the most recently used
        return block

    def _decode(self, first: int, end: int) -> None:
        if self._metadata_identity() != self._identity:
            raise StoreError(
                f"{self._description} has been removed or changed since the store was opened. "
                "Restore it, or open the store again."
            )
        row, stop = first * self.rows_per_block, min(end * self.rows_per_block, self.shape[0])
        try:
            rows = self._array[row:stop]
        except StoreError as error:
            raise StoreError(f"{self._description} is incomplete. {error}") from error
        except Exception as error:  # of the codec, the store or the network
            raise StoreError(
                f"{self._description}: rows {row} to {stop - 1} (blocks {first} to {end - 1} of "
                f"{self.rows_per_block} rows) cannot be read: {str(error).rstrip('.')}. "
                "Restore the files, or write the store again."
            ) from error
        for number in range(first, end):
            start = (number - first) * self.rows_per_block
            # A copy, because a view would keep all blocks of this call in memory.
            self._blocks[number] = rows[start : start + self.rows_per_block].copy()
        while len(self._blocks) > self._max_blocks:
            del self._blocks[next(iter(self._blocks))]
