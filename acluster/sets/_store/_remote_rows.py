"""Rows of uncompressed objects in object storage, fetched side by side in large ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acluster.sets._store._arrays import file_key
from acluster.sets._store._block_rows import BlockRows
from acluster.sets._store._errors import StoreError
from acluster.sets._store._layout import Layout, has_valid_checksum

_RANGE_BYTES = 2 << 20  # upper limit of a request, unless a chunk is larger
_GAP_BYTES = 1 << 16  # shorter gaps are fetched too: a request costs more than they do
_TOGETHER_BYTES = 32 << 20  # fetched before any of it is used
_NO_END = 1 << 62  # the size of an object is not known


class _Chunk(NamedTuple):
    """A chunk to fetch."""

    shard: int
    start: int  # the byte of the object
    number: int  # of the chunk in the array


class RemoteRows(BlockRows):
    """Rows fetched from object storage in blocks, of which those used most recently are kept.

    A request takes milliseconds however few bytes it fetches. So all blocks that a call needs are
    fetched side by side, neighbours in one request, and each index of a shard once. Rows that are
    read in order are fetched ahead.

    Parameters
    ----------
    array : zarr.Array of shape (R, M)
        The array, in a `RemoteStore`.

    layout : Layout
        The layout of its objects.
    """

    def __init__(self, array: Any, layout: Layout) -> None:
        # Little-endian on any machine.
        super().__init__(array, array.dtype.newbyteorder("<"), _TOGETHER_BYTES)
        self._array, self._layout = array, layout
        self._row_bytes = self.shape[1] * self.dtype.itemsize
        self._chunk_bytes = layout.chunk_bytes(self._row_bytes)
        self._chunks_per_block = self.rows_per_block // layout.rows_per_chunk
        self._n_chunks = -(-self.shape[0] // layout.rows_per_chunk)
        self._starts: dict[int, NDArray[np.int64]] = {}  # of the chunks, by shard
        self._next = 0  # the block after those that were fetched last

    def _check(self) -> None:
        self._load_indices(range(-(-self.shape[0] // self._layout.rows_per_shard)))

    def _load(self, blocks: list[int]) -> dict[int, NDArray[Any]]:
        """Fetch blocks, and those after them if rows are read in order."""
        if not blocks:
            return {}
        is_run = blocks == [*range(blocks[0], blocks[0] + len(blocks))]
        if is_run and blocks[0] == self._next:
            ahead = range(blocks[-1] + 1, min(blocks[0] + self._max_together, self._n_blocks))
            blocks = blocks + [number for number in ahead if number not in self._blocks]
        self._next = blocks[-1] + 1
        per_shard = self._layout.chunks_per_shard
        places = [divmod(chunk, per_shard) for block in blocks for chunk in self._chunks_of(block)]
        self._load_indices(sorted({shard for shard, _ in places}))
        wanted = [
            _Chunk(shard, int(self._starts[shard][k]), shard * per_shard + k) for shard, k in places
        ]
        shape = (self.rows_per_block, self.shape[1])
        new = {block: np.empty(shape, self.dtype) for block in blocks}
        self._fetch_chunks(sorted(wanted), new)
        return new

    def _chunks_of(self, block: int) -> range:
        first = block * self._chunks_per_block
        return range(first, min(first + self._chunks_per_block, self._n_chunks))

    def _fetch_chunks(self, wanted: list[_Chunk], blocks: dict[int, NDArray[Any]]) -> None:
        """Fetch chunks, check them, and copy them to their places in blocks."""
        runs = [*self._runs(wanted)]
        ranges = [(run[0].shard, run[0].start, run[-1].start + self._chunk_bytes) for run in runs]
        n_rows = self._layout.rows_per_chunk
        for run, data in zip(runs, self._requested(ranges), strict=True):
            for shard, start, number in run:
                first = start - run[0].start
                chunk = data[first : first + self._chunk_bytes]
                self._check_chunk(shard, number, chunk)
                block, k = divmod(number, self._chunks_per_block)
                values = np.frombuffer(chunk, self.dtype, n_rows * self.shape[1])
                blocks[block][k * n_rows : (k + 1) * n_rows] = values.reshape(n_rows, -1)

    def _runs(self, wanted: Sequence[_Chunk]) -> Iterator[list[_Chunk]]:
        """Yield the chunks, in the order of their bytes, in runs that are one request each."""
        run: list[_Chunk] = []
        for chunk in wanted:
            if run:
                end = run[-1].start + self._chunk_bytes
                is_near = chunk.shard == run[-1].shard and chunk.start - end <= _GAP_BYTES
                if not is_near or chunk.start + self._chunk_bytes - run[0].start > _RANGE_BYTES:
                    yield run
                    run = []
            run.append(chunk)
        if run:
            yield run

    def _check_chunk(self, shard: int, number: int, data: Any) -> None:
        row = number * self._layout.rows_per_chunk
        if len(data) < self._chunk_bytes:
            raise self._error(
                shard, f"ends within the chunk from row {row} on; the object was truncated."
            )
        if self._layout.has_chunk_checksums and not has_valid_checksum(data):
            raise self._error(
                shard,
                f"holds a chunk from row {row} on that does not match its checksum; the object is "
                "damaged.",
            )

    def _load_indices(self, shards: Sequence[int]) -> None:
        """Find where the chunks of shards start, of those for which this is not known yet."""
        unknown = [shard for shard in shards if shard not in self._starts]
        layout, size = self._layout, self._layout.index_size
        if not size:  # an object is one chunk
            self._starts |= {shard: np.zeros(1, np.int64) for shard in unknown}
            return
        place = (0, size) if layout.index_is_first else (-size, 0)
        for shard, index in zip(
            unknown, self._requested([(shard, *place) for shard in unknown]), strict=True
        ):
            entries = layout.entries(index)
            if entries is None:
                raise self._error(
                    shard,
                    f"has an index of {size} bytes that is truncated or does not match its "
                    "checksum; the object is damaged.",
                )
            # The last shard has chunks beyond the end of the array, which need not be there.
            entries = entries[: self._n_chunks - shard * layout.chunks_per_shard]
            low = size if layout.index_is_first else 0
            first_row = shard * layout.rows_per_shard
            problem = layout.problem(entries, self._row_bytes, first_row, low, _NO_END)
            if problem:
                raise self._error(shard, problem)
            self._starts[shard] = entries[:, 0].astype(np.int64)

    def _requested(self, ranges: Sequence[tuple[int, int, int]]) -> list[Any]:
        """Return ranges of shards, which must be there."""
        from acluster.sets._store._remote import fetched

        found = fetched(
            self._array.store, [(self._key(shard), start, stop) for shard, start, stop in ranges]
        )
        for (shard, *_), data in zip(ranges, found, strict=True):
            if data is None:
                raise self._error(shard, "does not exist.")
        return found

    def _key(self, shard: int) -> str:
        return f"{self._array.path}/{file_key(self._array, shard)}".lstrip("/")

    def _error(self, shard: int, problem: str) -> StoreError:
        self._array.store.forget(self._key(shard))  # what was fetched may be what is damaged
        return StoreError(
            f"{self._description}: {self._array.store}/{self._key(shard)} {problem} Restore the "
            "object, or write the store again."
        )
