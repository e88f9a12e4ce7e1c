"""Rows of uncompressed local files, read past zarr straight into the output."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._store._rows import Integers, Pieces, StoredRows, StoreError, local_directory

__all__ = ["RawRows", "raw_layout"]

_MAX_OPEN_FILES = 64


class RawRows(StoredRows):
    """Rows read from local, uncompressed files straight into the output."""

    is_fast = True

    def __init__(self, array: Any, layout: Layout) -> None:
        # Such files are little-endian, whatever the machine.
        super().__init__(array, array.dtype.newbyteorder("<"), layout.rows_per_chunk)
        self._layout = layout
        self._row_bytes = self.shape[1] * self.dtype.itemsize
        self._fill_value = array.fill_value
        self._files = _OpenFiles()
        self._is_known = np.zeros(len(self._keys), bool)
        # Where each chunk of the array begins in its file; -1 where it is not stored.
        self._begins = np.full(len(self._keys) * layout.chunks_per_shard, -1, np.int64)

    def _check(self) -> list[str]:
        self._files.close()  # a file may have been replaced since
        for shard in range(len(self._keys)):
            self._learn(shard)
        return super()._check()

    def _read(self, pieces: Pieces, out: NDArray[Any]) -> None:
        shards = pieces.block // self._layout.chunks_per_shard
        for shard in set(shards[~self._is_known[shards]].tolist()):
            self._learn(shard)
        begins = self._begins[pieces.block]
        is_stored = begins >= 0
        for i in np.flatnonzero(~is_stored):
            out[pieces.target[i] : pieces.target[i] + pieces.length[i]] = self._fill_value
        begins, sizes, targets = (
            begins + pieces.first * self._row_bytes,
            pieces.length * self._row_bytes,
            pieces.target * self._row_bytes,
        )
        reads = np.stack([shards, begins, sizes, targets])[:, is_stored]
        buffer = out.reshape(-1).view(np.uint8).data
        opened = -1
        for shard, begin, size, target in _merge(reads).T.tolist():
            if shard != opened:
                file, opened = self._file(shard), shard
            done = _read_bytes(file, begin, buffer[target : target + size])
            if done < size:
                raise self._error(
                    shard,
                    f"ends at byte {begin + done}, but holds rows at bytes {begin} to "
                    f"{begin + size} by its index; the file was truncated.",
                )

    def _learn(self, shard: int) -> None:
        """Find where the chunks of a shard begin, and hold that against its file."""
        n_chunks = self._layout.chunks_per_shard
        begins = self._begins[shard * n_chunks : (shard + 1) * n_chunks]
        begins[:], self._is_known[shard] = -1, False
        try:
            file = self._file(shard)
        except FileNotFoundError:
            pass  # legal: every value is the fill value
        else:
            entries = self._read_index(shard, file)
            is_stored = (entries != np.iinfo(np.uint64).max).any(axis=1)
            begins[is_stored] = entries[is_stored, 0]
        self._is_known[shard] = True

    def _read_index(self, shard: int, file: int) -> NDArray[np.uint64]:
        """Byte and size of every chunk of a shard, checked."""
        size, layout = os.fstat(file).st_size, self._layout
        if not layout.index_size:  # one chunk, the whole file
            entries = np.array([[0, size]], np.uint64)
            self._check_entries(shard, entries, 0, size)
            return entries
        at = 0 if layout.index_is_first else max(0, size - layout.index_size)
        index = bytearray(layout.index_size)
        done = _read_bytes(file, at, memoryview(index))
        if done < len(index) or (layout.has_checksum and not _has_valid_checksum(index)):
            raise self._error(
                shard,
                f"ends at byte {size}, and its index of {len(index)} bytes at byte {at} is cut "
                "short or does not match its checksum; the file is truncated or damaged.",
            )
        entries = np.frombuffer(index, "<u8", 2 * layout.chunks_per_shard).reshape(-1, 2)
        bounds = (len(index), size) if layout.index_is_first else (0, at)
        self._check_entries(shard, entries, *bounds)
        return entries

    def _check_entries(self, shard: int, entries: NDArray[np.uint64], low: int, high: int) -> None:
        n_rows, missing = self._layout.rows_per_chunk, 2**64 - 1
        needed = n_rows * self._row_bytes
        # Python's integers: the sum of two damaged entries may pass 64 bits.
        for chunk, (begin, n_bytes) in enumerate(entries.tolist()):
            if begin == n_bytes == missing:
                continue
            if n_bytes != needed or not low <= begin <= high - needed:
                row = (shard * len(entries) + chunk) * n_rows
                raise self._error(
                    shard,
                    f"places chunk {chunk} (from row {row} on) at bytes {begin} to "
                    f"{begin + n_bytes}, but a chunk takes {needed} bytes, between byte {low} and "
                    f"byte {high} of this file; it is truncated or damaged.",
                )

    def _file(self, shard: int) -> int:
        return self._files.get(f"{self._directory}/{self._keys[shard]}")

    def _error(self, shard: int, problem: str) -> StoreError:
        return StoreError(
            f"{self._title}: shard {self._keys[shard]} {problem} Restore the file, or write the "
            "store again."
        )


class _OpenFiles:
    """The descriptors of the files used most recently; the others are closed."""

    def __init__(self) -> None:
        self._descriptors: dict[str, int] = {}  # the least recently used first

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
        return _OpenFiles, ()


@dataclass(frozen=True)
class Layout:
    """How files hold rows as they are in memory."""

    rows_per_shard: int
    rows_per_chunk: int
    index_size: int = 0  # bytes; 0 where every chunk is a file of its own
    has_checksum: bool = False
    index_is_first: bool = False

    @property
    def chunks_per_shard(self) -> int:
        return self.rows_per_shard // self.rows_per_chunk


def raw_layout(array: Any) -> Layout | None:
    """The layout of an array that `RawRows` can read, None of any other."""
    metadata = array.metadata.to_dict()
    if (
        local_directory(array) is None
        or array.dtype.kind not in "fiub"
        or metadata["zarr_format"] != 3
    ):
        return None
    if metadata["chunk_grid"]["name"] != "regular":
        return None
    n_rows, width = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    codecs, itemsize = metadata["codecs"], array.dtype.itemsize
    if width != array.shape[1]:
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
    index_size = 16 * (n_rows // rows_per_chunk) + 4 * has_checksum
    index_is_first = sharding.get("index_location", "end") == "start"
    return Layout(n_rows, rows_per_chunk, index_size, has_checksum, index_is_first)


def _names(codecs: Any) -> list[str]:
    return [codec["name"] for codec in codecs]


def _is_plain(codecs: Any, itemsize: int) -> bool:
    """Whether encoded values are the values themselves, little-endian."""
    if _names(codecs) != ["bytes"]:
        return False
    return itemsize == 1 or codecs[0].get("configuration", {}).get("endian") == "little"


def _merge(reads: Integers) -> Integers:
    """Join reads that follow each other both in a file and in memory; order by file.

    The rows of `reads` are file, place in it, size, and place in memory. Sorted, each
    file is opened once, and a disk seeks forwards.
    """
    file, begin, size, target = reads
    is_head = np.ones(len(file), bool)
    is_head[1:] = (file[1:] != file[:-1]) | (np.diff(begin) != size[:-1])
    is_head[1:] |= np.diff(target) != size[:-1]
    heads = np.flatnonzero(is_head)
    merged = reads[:, heads]
    merged[2] = np.add.reduceat(size, heads)
    return merged[:, np.lexsort((merged[1], merged[0]))]


def _read_bytes(descriptor: int, begin: int, buffer: memoryview) -> int:
    """Fill `buffer` from byte `begin` on; fewer bytes than asked only at the file's end."""
    done = 0
    while done < len(buffer):
        if hasattr(os, "preadv"):  # one system call, and no position to share with a fork
            n_bytes = os.preadv(descriptor, [buffer[done:]], begin + done)
        else:
            os.lseek(descriptor, begin + done, os.SEEK_SET)
            read = os.read(descriptor, len(buffer) - done)
            n_bytes = len(read)
            buffer[done : done + n_bytes] = read
        if not n_bytes:
            break
        done += n_bytes
    return done


def _has_valid_checksum(index: bytearray) -> bool:
    import google_crc32c  # comes with zarr, without which there is no array to read

    return int.from_bytes(index[-4:], "little") == google_crc32c.value(bytes(index[:-4]))
