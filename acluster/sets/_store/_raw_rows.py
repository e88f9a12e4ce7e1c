"""Rows of uncompressed local files, read directly into the output instead of through zarr."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._feature_sets import Int64Array
from acluster.sets._store._arrays import file_grid, file_key
from acluster.sets._store._errors import StoreError
from acluster.sets._store._files import local_root
from acluster.sets._store._layout import CHECKSUM_BYTES, Layout, has_valid_checksum
from acluster.sets._store._open_files import OPEN_FILES, Identity, OpenFile
from acluster.sets._store._rows import Pieces, StoredRows

_MAX_PARTS = 500  # of one system call; the limit of Linux is 1024


class RawRows(StoredRows):
    """Rows read from local, uncompressed files directly into the output.

    zarr would read and copy whole chunks; here one system call reads a run of rows into its
    place. The reader follows the format of zarr 3: a file is a chunk, or a shard of chunks with
    an index of their offsets and sizes. A chunk may end with a checksum.

    Parameters
    ----------
    array : zarr.Array of shape (R, M)
        The array.

    layout : Layout
        The layout of its files.

    verify : bool, default=False
        Whether to compare every chunk with its checksum when it is first read.
    """

    is_fast = True

    def __init__(self, array: Any, layout: Layout, verify: bool = False) -> None:
        # `plain_layout` accepts little-endian files only, on any machine.
        super().__init__(array, array.dtype.newbyteorder("<"), layout.rows_per_chunk)
        self._layout = layout
        self._row_bytes = self.shape[1] * self.dtype.itemsize
        self._root = os.path.abspath(str(local_root(array.store)))
        keys = (file_key(array, shard) for shard in range(file_grid(array)[0]))
        self._keys = [f"{array.path}/{key}".lstrip("/") for key in keys]
        self._prefix = len(self._keys[0]) - len(file_key(array, 0)) if self._keys else 0
        self._owner = OPEN_FILES.new_owner()
        # What each file was when its index was read.
        self._identities: dict[int, Identity] = {}
        n_chunks = len(self._keys), layout.chunks_per_shard
        # The byte of its file at which each chunk of the array starts.
        self._chunk_starts = np.zeros(n_chunks, np.int64)
        self._is_indexed = np.zeros(len(self._keys), bool)
        self._is_unverified = np.full(n_chunks, verify and layout.has_chunk_checksums)

    def __del__(self) -> None:
        if hasattr(self, "_owner"):
            OPEN_FILES.forget(self._owner)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._owner = OPEN_FILES.new_owner()

    def _check(self) -> None:
        # An open file would hide that it has been replaced.
        OPEN_FILES.forget(self._owner)
        self._identities.clear()
        for shard in range(len(self._keys)):
            self._load_index(shard)

    def _read(self, pieces: Pieces, out: NDArray[Any]) -> None:
        try:
            self._read_pieces(pieces, out)
        except OSError as error:
            raise StoreError(
                f"{self._description} cannot be read: {error}. Check that its disk is there, and "
                "open the store again."
            ) from error

    def _read_pieces(self, pieces: Pieces, out: NDArray[Any]) -> None:
        shards = pieces.block // self._layout.chunks_per_shard
        # A thread that came in between would learn the same. The lock only avoids that work.
        with self._lock:
            for shard in set(shards[~self._is_indexed[shards]].tolist()):
                self._load_index(shard)
            unverified = pieces.block[self._is_unverified.ravel()[pieces.block]]
            for chunk in np.unique(unverified).tolist():
                self._verify(*divmod(chunk, self._layout.chunks_per_shard))
        # Without preadv, threads would move the position of a file for each other.
        with nullcontext() if hasattr(os, "preadv") else self._lock:
            self._read_runs(pieces, shards, out)

    def _read_runs(self, pieces: Pieces, shards: Int64Array, out: NDArray[Any]) -> None:
        firsts, sizes, targets = np.stack(pieces[1:]) * self._row_bytes
        starts = self._chunk_starts.ravel()[pieces.block] + firsts
        buffer = out.reshape(-1).view(np.uint8).data
        # Runs that go on in the next chunk of a file skip the checksum between the two.
        checksum = memoryview(bytearray(CHECKSUM_BYTES))
        parts: list[memoryview] = []
        file, of, first, end, filled = None, -1, 0, 0, 0
        for shard, start, size, target in _merge(np.stack([shards, starts, sizes, targets])):
            goes_on = start == end + CHECKSUM_BYTES and target == filled and shard == of
            if goes_on and len(parts) < _MAX_PARTS:
                parts += [checksum, buffer[target : target + size]]
            else:
                self._read_parts(of, file, first, parts)
                file = self._file(shard) if shard != of else file
                parts, of, first = [buffer[target : target + size]], shard, start
            end, filled = start + size, target + size
        self._read_parts(of, file, first, parts)

    def _read_parts(
        self, shard: int, file: OpenFile | None, start: int, parts: list[memoryview]
    ) -> None:
        """Read consecutive bytes of a file into several places."""
        if file is None:
            return
        if len(parts) > 1 and hasattr(os, "preadv"):
            done = os.preadv(file.descriptor, parts, start)
            if done == sum(map(len, parts)):
                return
        for part in parts:
            self._read_bytes(shard, file, start, part)
            start += len(part)

    def _read_bytes(self, shard: int, file: OpenFile, start: int, buffer: memoryview) -> None:
        done = _read_bytes(file.descriptor, start, buffer)
        if done < len(buffer):
            raise self._error(
                shard,
                f"ends at byte {start + done}, but its index places rows at bytes {start} to "
                f"{start + len(buffer)}; the file was truncated.",
            )

    def _verify(self, shard: int, chunk: int) -> None:
        """Compare a chunk with its checksum."""
        data = bytearray(self._layout.rows_per_chunk * self._row_bytes + CHECKSUM_BYTES)
        start = int(self._chunk_starts[shard, chunk])
        self._read_bytes(shard, self._file(shard), start, memoryview(data))
        if not has_valid_checksum(data):
            row = (shard * self._layout.chunks_per_shard + chunk) * self._layout.rows_per_chunk
            raise self._error(
                shard,
                f"holds a chunk {chunk} (from row {row} on) that does not match its checksum; "
                "the file is damaged.",
            )
        self._is_unverified[shard, chunk] = False

    def _load_index(self, shard: int) -> None:
        """Find where the chunks of a shard start, and check that they are within its file."""
        self._is_indexed[shard] = False
        entries, low, high = self._read_index(shard, self._file(shard))
        n_chunks = -(-self.shape[0] // self._layout.rows_per_chunk)
        # The last shard has chunks beyond the end of the array, which need not be there.
        entries = entries[: n_chunks - shard * self._layout.chunks_per_shard]
        first_row = shard * self._layout.rows_per_shard
        problem = self._layout.problem(entries, self._row_bytes, first_row, low, high)
        if problem:
            raise self._error(shard, problem)
        self._chunk_starts[shard, : len(entries)] = entries[:, 0]
        self._is_indexed[shard] = True

    def _read_index(self, shard: int, file: OpenFile) -> tuple[NDArray[np.uint64], int, int]:
        """Return the index of a shard, and between which bytes of its file the chunks are.

        The index has the offset and the size of each chunk in bytes, (n, 2).
        """
        size, layout = file.status.st_size, self._layout
        if not layout.index_size:  # the file is one chunk
            return np.array([[0, size]], np.uint64), 0, size
        start = 0 if layout.index_is_first else max(0, size - layout.index_size)
        index = bytearray(min(size, layout.index_size))
        done = _read_bytes(file.descriptor, start, memoryview(index))
        entries = layout.entries(index[:done])
        if entries is None:
            raise self._error(
                shard,
                f"ends at byte {size}, and its index of {layout.index_size} bytes at byte {start} "
                "is truncated or does not match its checksum; the file is damaged.",
            )
        return (entries, len(index), size) if layout.index_is_first else (entries, 0, start)

    def _file(self, shard: int) -> OpenFile:
        try:
            file = OPEN_FILES.get(self._owner, self._root, self._keys[shard])
        except FileNotFoundError as error:
            gone = "has been removed since" if shard in self._identities else "was not there when"
            problem = f"{gone} the store was opened."
            raise self._error(shard, problem) from error
        if self._identities.setdefault(shard, file.identity) != file.identity:
            raise StoreError(
                f"{self._description}: shard {self._keys[shard][self._prefix :]} has changed since "
                "the store was opened. Open the store again."
            )
        return file

    def _error(self, shard: int, problem: str) -> StoreError:
        return StoreError(
            f"{self._description}: shard {self._keys[shard][self._prefix :]} {problem} Restore the "
            "file, or write the store again."
        )


def _merge(reads: Int64Array) -> list[list[int]]:
    """Merge reads that are adjacent both in a file and in memory, and sort them.

    The rows of `reads` are the file, the offset in it, the size, and the offset in memory, all in
    bytes. Sorted by file and offset, each file is opened once and read forwards.
    """
    file, start, size, target = reads
    is_head = np.ones(len(file), bool)
    is_head[1:] = (file[1:] != file[:-1]) | (np.diff(start) != size[:-1])
    is_head[1:] |= np.diff(target) != size[:-1]
    heads = np.flatnonzero(is_head)
    merged = reads[:, heads]
    merged[2] = np.add.reduceat(size, heads)
    merged = merged[:, np.lexsort((merged[1], merged[0]))]
    return merged.T.tolist()


def _read_bytes(descriptor: int, start: int, buffer: memoryview) -> int:
    """Fill `buffer` from byte `start` on; return the number of bytes before the file's end."""
    done = 0
    while done < len(buffer):
        # preadv does not move the file position, which forked processes share.
        if hasattr(os, "preadv"):
            n_bytes = os.preadv(descriptor, [buffer[done:]], start + done)
        else:
            os.lseek(descriptor, start + done, os.SEEK_SET)
            read = os.read(descriptor, len(buffer) - done)
            n_bytes = len(read)
            buffer[done : done + n_bytes] = read
        if not n_bytes:
            break
        done += n_bytes
    return done
