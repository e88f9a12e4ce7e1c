"""Rows of any array that zarr can read, decoded block by block."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import starmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._store._arrays import CompleteArray
from acluster.sets._store._block_rows import BlockRows
from acluster.sets._store._errors import RemoteError, StoreError
from acluster.sets._store._files import file_status, is_remote, local_root

_READ_BYTES = 8 << 20  # upper limit of one call of zarr
_CALLS_AT_ONCE = 32  # to object storage, where each makes some requests one after the other
_BYTES_AT_ONCE = 48 << 20


class DecodedRows(BlockRows):
    """Rows of any array that zarr can read, decoded block by block.

    The blocks used most recently are cached. In object storage, a block takes as long to come as
    many blocks, so that they are fetched side by side.
    """

    def __init__(self, array: Any) -> None:
        self._is_remote = is_remote(array.store)
        most = _BYTES_AT_ONCE if self._is_remote else _READ_BYTES
        super().__init__(array, array.dtype.newbyteorder("="), most)
        self._array = CompleteArray(array)
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

    def _load(self, blocks: list[int]) -> dict[int, NDArray[Any]]:
        if self._is_remote:
            runs = [(number, number + 1) for number in blocks]
            with ThreadPoolExecutor(_CALLS_AT_ONCE, thread_name_prefix="acluster-fetch") as pool:
                decoded = [*pool.map(self._rows, *zip(*runs, strict=True))] if runs else []
        else:
            # One call for adjacent blocks: zarr decodes them concurrently.
            cuts = np.flatnonzero(np.diff(blocks) != 1) + 1
            runs = [(part[0], part[-1] + 1) for part in np.split(blocks, cuts) if len(part)]
            decoded = [*starmap(self._rows, runs)]
        height = self.rows_per_block
        # Copies, because views would keep all blocks of a call in memory.
        return {
            int(number): rows[(number - first) * height : (number - first + 1) * height].copy()
            for (first, end), rows in zip(runs, decoded, strict=True)
            for number in range(first, end)
        }

    def _rows(self, first: int, end: int) -> NDArray[Any]:
        """Decode adjacent blocks, as one array."""
        if self._metadata_identity() != self._identity:
            raise StoreError(
                f"{self._description} has been removed or changed since the store was opened. "
                "Restore it, or open the store again."
            )
        row, stop = first * self.rows_per_block, min(end * self.rows_per_block, self.shape[0])
        try:
            return self._array[row:stop]
        except RemoteError:
            raise
        except StoreError as error:
            raise StoreError(f"{self._description} is incomplete. {error}") from error
        except Exception as error:  # of the codec, the store or the network
            raise StoreError(
                f"{self._description}: rows {row} to {stop - 1} (blocks {first} to {end - 1} of "
                f"{self.rows_per_block} rows) cannot be read: {str(error).rstrip('.')}. "
                "Restore the files, or write the store again."
            ) from error
