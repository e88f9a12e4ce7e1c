"""Rows of uncompressed local files, read directly into the output instead of through zarr."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._feature_sets import Int64Array
from acluster.sets._store._format import StoreError
from acluster.sets._store._rows import Pieces, StoredRows, local_directory

_MAX_OPEN_FILES = 64  # per array; the usual limit of a process is 1024
_NOT_STORED = 2**64 - 1  # in the index of a shard, both for the offset and the size of a chunk


class RawRows(StoredRows):
    """Rows read from local, uncompressed files directly into the output.

    zarr would read and copy whole chunks; here one system call reads a run of rows into its
    place. The reader follows the format of zarr 3: a file is a chunk, or a shard of chunks with
    an index of their offsets and sizes.
    """

    is_fast = True

    def __init__(self, array: Any, layout: Layout) -> None:
        # `raw_layout` accepts little-endian files only, on any machine.
        super().__init__(array, array.dtype.newbyteorder("<"), layout.rows_per_chunk)
        self._layout = layout
        self._row_bytes = self.shape[1] * self.dtype.itemsize
        self._fill_value = array.fill_value
        self._files = _OpenFiles()
        self._is_indexed = np.zeros(len(self._keys), bool)
        # The byte of its file at which each chunk of the array starts; -1 if it is not stored.
        self._chunk_starts = np.full((len(self._keys), layout.chunks_per_shard), -1, np.int64)

    def _check(self) -> list[str]:
        self._files.close()  # an open descriptor would hide that a file has been replaced
        for shard in range(len(self._keys)):
            self._load_index(shard)
        return super()._check()

    def _read(self, pieces: Pieces, out: NDArray[Any]) -> None:
        shards = pieces.block // self._layout.chunks_per_shard
        for shard in set(shards[~self._is_indexed[shards]].tolist()):
            self._load_index(shard)
        chunk_starts = self._chunk_starts.ravel()[pieces.block]
        is_stored = chunk_starts >= 0
        for i in np.flatnonzero(~is_stored):
            out[pieces.target[i] : pieces.target[i] + pieces.length[i]] = self._fill_value
        firsts, sizes, targets = np.stack(pieces[1:]) * self._row_bytes
        reads = np.stack([shards, chunk_starts + firsts, sizes, targets])[:, is_stored]
        buffer = out.reshape(-1).view(np.uint8).data
        opened = -1
        for shard, start, size, target in _merge(reads).T.tolist():
            if shard != opened:
                file, opened = self._file(shard), shard
            done = _read_bytes(file, start, buffer[target : target + size])
            if done < size:
                raise self._error(
                    shard,
                    f"ends at byte {start + done}, but its index places rows at bytes {start} to "
                    f"{start + size}; the file was truncated.",
                )

    def _load_index(self, shard: int) -> None:
        """Find where the chunks of a shard start, and check that they are within its file."""
        chunk_starts = self._chunk_starts[shard]
        chunk_starts[:], self._is_indexed[shard] = -1, False
        # The format allows a file to be absent: all its values are the fill value.
        with contextlib.suppress(FileNotFoundError):
            entries, *bounds = self._read_index(shard, self._file(shard))
            self._check_entries(shard, entries, *bounds)
            is_stored = (entries != _NOT_STORED).any(axis=1)
            chunk_starts[is_stored] = entries[is_stored, 0]
        self._is_indexed[shard] = True

    def _read_index(self, shard: int, file: int) -> tuple[NDArray[np.uint64], int, int]:
        """Return the index of a shard, and between which bytes of its file the chunks are.

        The index has the offset and the size of each chunk in bytes, (n, 2).
        """
        size, layout = os.fstat(file).st_size, self._layout
        if not layout.index_size:  # the file is one chunk
            return np.array([[0, size]], np.uint64), 0, size
        start = 0 if layout.index_is_first else max(0, size - layout.index_size)
        index = bytearray(layout.index_size)
        done = _read_bytes(file, start, memoryview(index))
        if done < len(index) or (layout.has_checksum and not _has_valid_checksum(index)):
            raise self._error(
                shard,
                f"ends at byte {size}, and its index of {len(index)} bytes at byte {start} is "
                "truncated or does not match its checksum; the file is damaged.",
            )
        entries = np.frombuffer(index, "<u8", 2 * layout.chunks_per_shard).reshape(-1, 2)
        return (entries, len(index), size) if layout.index_is_first else (entries, 0, start)

    def _check_entries(self, shard: int, entries: NDArray[np.uint64], low: int, high: int) -> None:
        n_rows = self._layout.rows_per_chunk
        expected = n_rows * self._row_bytes
        # Python integers, because the sum of two damaged entries may exceed 64 bits.
        for chunk, (start, size) in enumerate(entries.tolist()):
            if start == size == _NOT_STORED:
                continue
            if size != expected or not low <= start <= high - expected:
                row = (shard * len(entries) + chunk) * n_rows
                raise self._error(
                    shard,
                    f"places chunk {chunk} (from row {row} on) at bytes {start} to "
                    f"{start + size}, but a chunk has {expected} bytes, between byte {low} and "
                    f"byte {high} of this file; it is truncated or damaged.",
                )

    def _file(self, shard: int) -> int:
        return self._files.get(f"{self._directory}/{self._keys[shard]}")

    def _error(self, shard: int, problem: str) -> StoreError:
        return StoreError(
            f"{self._description}: shard {self._keys[shard]} {problem} Restore the file, or write "
            "the store again."
        )


class _OpenFiles:
    """A cache of file descriptors, which closes those used least recently."""

    def __init__(self) -> None:
        # Ordered from least to most recently used.
        self._descriptors: dict[str, int] = {}

    def get(self, path: str) -> int:
        descriptor = self._descriptors.pop(path, None)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._descriptors[path] = descriptor
        if len(self._descriptors) > _MAX_OPEN_FILES:
            os.close(self._descriptors.pop(next(iter(self._descriptors))))
        return descriptor

    def close(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[()]]:
        return _OpenFiles, ()  # descriptors mean nothing in another process


@dataclass(frozen=True)
class Layout:
    """The layout of files that hold rows in the same form as in memory."""

    rows_per_shard: int
    rows_per_chunk: int
    index_size: int = 0  # in bytes; 0 if every chunk is a file of its own
    has_checksum: bool = False
    index_is_first: bool = False

    @property
    def chunks_per_shard(self) -> int:
        return self.rows_per_shard // self.rows_per_chunk


def raw_layout(array: Any) -> Layout | None:
    """Return the layout of an array if `RawRows` can read it, else None."""
    metadata = array.metadata.to_dict()
    if local_directory(array) is None or array.dtype.kind not in "fiub":
        return None
    if metadata["zarr_format"] != 3 or metadata["chunk_grid"]["name"] != "regular":
        return None
    n_rows, width = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    codecs, itemsize = metadata["codecs"], array.dtype.itemsize
    if width != array.shape[1]:  # a row is split between files
        return None
    if _names(codecs) != ["sharding_indexed"]:
        return Layout(n_rows, n_rows) if _is_plain(codecs, itemsize) else None
    sharding = codecs[0]["configuration"]
    rows_per_chunk, width = sharding["chunk_shape"]
    index_codecs = sharding["index_codecs"]
    has_checksum = _names(index_codecs)[1:] == ["crc32c"]
    is_plain_index = _is_plain(index_codecs[:1] if has_checksum else index_codecs, 8)
    if width != array.shape[1] or not (is_plain_index and _is_plain(sharding["codecs"], itemsize)):
        return None
    # The index has two 8-byte numbers per chunk, and a checksum of 4 bytes.
    index_size = 16 * (n_rows // rows_per_chunk) + 4 * has_checksum
    index_is_first = sharding.get("index_location", "end") == "start"
    return Layout(n_rows, rows_per_chunk, index_size, has_checksum, index_is_first)


def _names(codecs: Any) -> list[str]:
    return [codec["name"] for codec in codecs]


def _is_plain(codecs: Any, itemsize: int) -> bool:
    """Whether the encoded bytes are the values themselves, little-endian."""
    if _names(codecs) != ["bytes"]:
        return False
    return itemsize == 1 or codecs[0].get("configuration", {}).get("endian") == "little"


def _merge(reads: Int64Array) -> Int64Array:
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
    return merged[:, np.lexsort((merged[1], merged[0]))]


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


def _has_valid_checksum(index: bytearray) -> bool:
    import google_crc32c  # a dependency of zarr, which has opened the array

    return int.from_bytes(index[-4:], "little") == google_crc32c.value(bytes(index[:-4]))
