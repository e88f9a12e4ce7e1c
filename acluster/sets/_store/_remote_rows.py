"""Rows of uncompressed objects in object storage, fetched side by side in large ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acluster.sets._feature_sets import Array, Int64Array
from acluster.sets._store._arrays import file_key
from acluster.sets._store._block_rows import BlockRows
from acluster.sets._store._errors import StoreError
from acluster.sets._store._layout import Layout, has_valid_checksum
from acluster.sets._store._rows import Pieces

_RANGE_BYTES = 2 << 20  # upper limit of a request, unless a chunk is larger
_GAP_BYTES = 1 << 16  # shorter gaps are fetched too: a request costs more than they do
_TOGETHER_BYTES = 48 << 20  # fetched before any of it is used: a window of training
_NO_END = 1 << 62  # the size of an object is not known


class _Part(NamedTuple):
    """A chunk to fetch, or the first rows of one."""

    shard: int
    start: int  # the first byte in the object
    size: int  # in bytes, with the checksum of a whole chunk
    block: int  # where the rows belong
    first: int  # the first row, counted within the block
    n_rows: int

    @property
    def stop(self) -> int:
        return self.start + self.size


class RemoteRows(BlockRows):
    """Rows fetched from object storage in blocks, of which those used most recently are kept.

    A request takes milliseconds however few bytes it fetches. So all blocks that a call needs are
    fetched side by side, neighbours in one request, and each index of a shard once. Rows that are
    read in order are fetched ahead.

    A run of rows that begins near the end of a block ends in the next one, which in shuffled order
    is not needed otherwise. So a block is fetched with the first rows of the next one, as many as
    the longest short run has needed so far.

    Parameters
    ----------
    array : zarr.Array of shape (R, M)
        The array, in a `RemoteStore`.

    layout : Layout
        The layout of its objects.

    verify : bool, default=False
        Whether to fetch those rows as whole chunks, which have checksums. Blocks always are.
    """

    def __init__(self, array: Any, layout: Layout, verify: bool = False) -> None:
        # Little-endian on any machine.
        super().__init__(array, array.dtype.newbyteorder("<"), _TOGETHER_BYTES)
        self._array, self._layout = array, layout
        self._verify = verify and layout.has_chunk_checksums
        self._row_bytes = self.shape[1] * self.dtype.itemsize
        self._chunk_bytes = layout.chunk_bytes(self._row_bytes)
        self._chunks_per_block = self.rows_per_block // layout.rows_per_chunk
        self._n_chunks = -(-self.shape[0] // layout.rows_per_chunk)
        self._starts: dict[int, NDArray[np.int64]] = {}  # of the chunks, by shard
        self._end = 0  # the row after those of the last call
        self._is_in_order = False  # whether this call continues at that row
        self._read_on: set[int] = set()  # the blocks after which this call reads on
        self._n_extra = 0  # the rows after a block that are fetched with it

    def gather(self, starts: Int64Array, lengths: Int64Array, out: Array | None = None) -> Array:
        """Read runs of rows, end to end."""
        short = lengths[lengths <= min(self.rows_per_block // 4, self._layout.rows_per_chunk)]
        ends = starts + lengths
        # These only say how much to fetch, so that a call of another thread may come in between.
        with self._lock:
            self._n_extra = max(self._n_extra, int(short.max(initial=0)) - 1)
            self._is_in_order = np.array_equal(starts, np.append(self._end, ends)[: len(starts)])
            self._end = int(ends[-1]) if len(ends) else self._end
        return super().gather(starts, lengths, out)

    def _check(self) -> None:
        self._load_indices(range(-(-self.shape[0] // self._layout.rows_per_shard)))

    def _joined(self, pieces: Pieces) -> Pieces:
        """Join pieces at the beginning of a block to those before, if that saves the block."""
        block, first, length, target = pieces
        # A piece that begins a run in a block of its own is not at its beginning, but for chance.
        follows = np.zeros(len(block), bool)
        follows[1:] = (block[1:] == block[:-1] + 1) & (first[1:] == 0)
        follows[1:] &= first[:-1] + length[:-1] == self.rows_per_block
        follows[1:] &= ~follows[:-1]  # three blocks in a row are read as such
        needed = {*block[~follows].tolist(), *self._blocks}
        for k in np.flatnonzero(follows).tolist():
            before = int(block[k - 1])
            n_extra = self._n_extra
            if before in self._blocks:
                n_extra = len(self._blocks[before]) - self.rows_per_block
            follows[k] = int(block[k]) not in needed and length[k] <= n_extra
        self._read_on = {*block[np.flatnonzero(follows) - 1].tolist()}
        length = length.copy()
        length[np.flatnonzero(follows) - 1] += length[follows]
        return Pieces(*(values[~follows] for values in (block, first, length, target)))

    def _load(self, blocks: list[int]) -> dict[int, NDArray[Any]]:
        """Fetch blocks, and those after them if rows are read in order."""
        if not blocks:
            return {}
        if self._is_in_order:
            ahead = range(blocks[-1] + 1, min(blocks[0] + self._max_together, self._n_blocks))
            blocks = blocks + [number for number in ahead if number not in self._blocks]
        known = {*blocks, *self._blocks}
        extras = {
            block: self._n_extra if block in self._read_on or block + 1 not in known else 0
            for block in blocks
        }
        self._load_indices(self._shards_of(extras))
        new = {
            block: np.empty((self.rows_per_block + n_extra, self.shape[1]), self.dtype)
            for block, n_extra in extras.items()
        }
        parts = [part for block, n_extra in extras.items() for part in self._parts(block, n_extra)]
        runs = [*_runs(sorted(parts))]
        ranges = [(run[0].shard, run[0].start, max(part.stop for part in run)) for run in runs]
        for run, data in zip(runs, self._requested(ranges), strict=True):
            for part in run:
                first = part.start - run[0].start
                values = self._rows_of(part, data[first : first + part.size])
                new[part.block][part.first : part.first + len(values)] = values
        return new

    def _chunks_of(self, block: int, n_extra: int) -> range:
        """Return the chunks of a block, and the one after it if that is needed."""
        first = block * self._chunks_per_block
        return range(first, min(first + self._chunks_per_block + (n_extra > 0), self._n_chunks))

    def _shards_of(self, extras: dict[int, int]) -> list[int]:
        chunks = (chunk for block in extras.items() for chunk in self._chunks_of(*block))
        return sorted({chunk // self._layout.chunks_per_shard for chunk in chunks})

    def _parts(self, block: int, n_extra: int) -> Iterator[_Part]:
        """Yield what is to be fetched for a block and the rows after it."""
        height = self._layout.rows_per_chunk
        for chunk in self._chunks_of(block, n_extra):
            shard, k = divmod(chunk, self._layout.chunks_per_shard)
            first = (chunk - block * self._chunks_per_block) * height
            n_rows, size = height, self._chunk_bytes
            if first == self.rows_per_block:
                n_rows = n_extra
                size = size if self._verify else n_extra * self._row_bytes
            yield _Part(shard, int(self._starts[shard][k]), size, block, first, n_rows)

    def _rows_of(self, part: _Part, data: Any) -> NDArray[Any]:
        """Return the rows in the bytes of a part; a whole chunk is compared with its checksum."""
        row = part.block * self.rows_per_block + part.first
        if len(data) < part.size:
            problem = f"ends within the chunk from row {row} on; the object was truncated."
            raise self._error(part.shard, problem)
        is_whole = part.size == self._chunk_bytes
        if is_whole and self._layout.has_chunk_checksums and not has_valid_checksum(data):
            problem = (
                f"holds a chunk from row {row} on that does not match its checksum; the object is "
                "damaged."
            )
            raise self._error(part.shard, problem)
        values = np.frombuffer(data, self.dtype, part.n_rows * self.shape[1])
        return values.reshape(part.n_rows, -1)

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


def _runs(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Yield parts, in the order of their bytes, in runs that are one request each."""
    run: list[_Part] = []
    for part in parts:
        if run:
            is_near = part.shard == run[-1].shard and part.start - run[-1].stop <= _GAP_BYTES
            if not is_near or part.stop - run[0].start > _RANGE_BYTES:
                yield run
                run = []
        run.append(part)
    if run:
        yield run
