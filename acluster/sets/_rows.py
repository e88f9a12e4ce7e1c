"""Rows of a stored array, gathered run by run: straight from its files, or decoded."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from io import FileIO
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecodedRows", "RawRows", "StoreError", "StoredRows", "open_rows"]

_MAX_OPEN_FILES = 64
_CACHE_BYTES = 64 << 20  # of decoded blocks
_BLOCK_BYTES = 1 << 20  # decoded together, at least
_READ_BYTES = 8 << 20  # decoded in one call, at most

Integers = NDArray[np.int64]


class StoreError(ValueError):
    """A store of feature sets that cannot be read as it stands.

    The message names the array, the file and the place in it, and the remedy.
    """


def open_rows(array: Any) -> StoredRows:
    """Choose the fastest way to gather rows of a stored array.

    Parameters
    ----------
    array : zarr.Array of shape (R, M)
        The local features of all sets, end to end.

    Returns
    -------
    StoredRows
        `RawRows` where the files of `array` hold its rows as they are in memory,
        else `DecodedRows`.

    Raises
    ------
    StoreError
        If `array` is not two-dimensional.
    """
    if array.ndim != 2:
        raise StoreError(
            f"{_title(array)} has shape {array.shape}; stored features have two dimensions "
            "(local features of all sets, features)."
        )
    layout = _raw_layout(array)
    return RawRows(array, layout) if layout else DecodedRows(array)


class StoredRows(ABC):
    """Rows of a stored array of shape (R, M), gathered run by run.

    What was once read of the store is kept: do not write to it meanwhile. For one
    thread at a time; a forked or unpickled copy may be used beside the first.

    Attributes
    ----------
    shape : tuple of int
        ``(R, M)``.

    dtype : numpy.dtype
        The type of the rows.

    rows_per_block : int
        The rows that are stored, and where need be decoded, together.

    is_fast : bool
        Whether short runs in shuffled order are cheap.
    """

    is_fast: ClassVar[bool]

    def __init__(self, array: Any, dtype: np.dtype[Any], rows_per_block: int) -> None:
        self.shape: tuple[int, int] = (int(array.shape[0]), int(array.shape[1]))
        self.dtype = dtype
        self.rows_per_block = rows_per_block
        self._title = _title(array)
        self._directory = _directory(array)
        grid = (-(-n // m) for n, m in zip(self.shape, array.shards or array.chunks, strict=True))
        self._keys = [array.metadata.encode_chunk_key(place) for place in np.ndindex(*grid)]

    def gather(
        self, starts: Integers, lengths: Integers, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Read runs of rows, end to end.

        Parameters
        ----------
        starts, lengths : ndarray of int64, shape (n_runs,)
            Run i is rows ``starts[i]`` to ``starts[i] + lengths[i] - 1``. Runs may be
            empty, repeat, overlap, and come in any order.

        out : ndarray of shape (n, M), optional
            C-contiguous, of the dtype of the rows, with n at least ``lengths.sum()``:
            its first rows are written.

        Returns
        -------
        ndarray of shape (lengths.sum(), M)
            A view of the first rows of `out` where that is given.

        Raises
        ------
        StoreError
            If a run leaves the array, or the store is damaged where it is read.

        ValueError
            If `out` does not fit.
        """
        starts, lengths = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        self._check_runs(starts, lengths)
        out = self._check_out(out, int(lengths.sum()))
        self._read(_cut(starts, lengths, self.rows_per_block), out)
        return out

    def check(self) -> list[str]:
        """Hold the files against the array, without reading features.

        Returns
        -------
        list of str
            The keys of absent files. Their rows are the fill value, so that a lost
            file looks like one never needed. Empty for a store that is not on a local
            file system.

        Raises
        ------
        StoreError
            If a file has the wrong size or a damaged index (`RawRows` only).
        """
        if self._directory is None:
            return []
        return [key for key in self._keys if not os.path.exists(f"{self._directory}/{key}")]

    @abstractmethod
    def _read(self, pieces: _Pieces, out: NDArray[Any]) -> None:
        """Write every piece to its rows of `out`."""

    def _check_runs(self, starts: Integers, lengths: Integers) -> None:
        wrong = np.flatnonzero((starts < 0) | (lengths < 0) | (starts > self.shape[0] - lengths))
        if len(wrong):
            i = wrong[0]
            raise StoreError(
                f"{self._title} has {self.shape[0]} rows, but run {i} is {lengths[i]} rows from "
                f"row {starts[i]} on; the offsets do not fit the array. Write the store again."
            )

    def _check_out(self, out: NDArray[Any] | None, n_rows: int) -> NDArray[Any]:
        width = self.shape[1]
        if out is None:
            return np.empty((n_rows, width), self.dtype)
        fits = out.ndim == 2 and len(out) >= n_rows and out.shape[1] == width
        if not (fits and out.dtype == self.dtype and out.flags.carray):
            raise ValueError(
                f"out must be a writeable C-contiguous array of {self.dtype}, at least {n_rows} "
                f"rows of {width}; got shape {out.shape}, dtype {out.dtype}."
            )
        return out[:n_rows]


class RawRows(StoredRows):
    """Rows read from local, uncompressed files straight into the output."""

    is_fast = True

    def __init__(self, array: Any, layout: _Layout) -> None:
        # Such files are little-endian, whatever the machine.
        super().__init__(array, array.dtype.newbyteorder("<"), layout.rows_per_chunk)
        self._layout = layout
        self._row_bytes = self.shape[1] * self.dtype.itemsize
        self._fill_value = array.fill_value
        self._files = _OpenFiles()
        self._is_known = np.zeros(len(self._keys), bool)
        # Where each chunk of the array begins in its file; -1 where it is not stored.
        self._begins = np.full(len(self._keys) * layout.chunks_per_shard, -1, np.int64)

    def check(self) -> list[str]:
        self._files.close()  # a file may have been replaced since
        for shard in range(len(self._keys)):
            self._learn(shard)
        return super().check()

    def _read(self, pieces: _Pieces, out: NDArray[Any]) -> None:
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

    def _read_index(self, shard: int, file: FileIO) -> NDArray[np.uint64]:
        """Byte and size of every chunk of a shard, checked."""
        size, layout = os.fstat(file.fileno()).st_size, self._layout
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

    def _file(self, shard: int) -> FileIO:
        return self._files.get(f"{self._directory}/{self._keys[shard]}")

    def _error(self, shard: int, problem: str) -> StoreError:
        return StoreError(
            f"{self._title}: shard {self._keys[shard]} {problem} Restore the file, or write the "
            "store again."
        )


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

    def _read(self, pieces: _Pieces, out: NDArray[Any]) -> None:
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


class _OpenFiles:
    """The files used most recently, open; the others are closed."""

    def __init__(self) -> None:
        self._files: dict[str, FileIO] = {}  # the least recently used first

    def get(self, path: str) -> FileIO:
        file = self._files.pop(path, None) or FileIO(path)
        self._files[path] = file
        if len(self._files) > _MAX_OPEN_FILES:
            self._files.pop(next(iter(self._files))).close()
        return file

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def __del__(self) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[_OpenFiles], tuple[()]]:
        return _OpenFiles, ()


@dataclass(frozen=True)
class _Layout:
    """How files hold rows as they are in memory."""

    rows_per_shard: int
    rows_per_chunk: int
    index_size: int = 0  # bytes; 0 where every chunk is a file of its own
    has_checksum: bool = False
    index_is_first: bool = False

    @property
    def chunks_per_shard(self) -> int:
        return self.rows_per_shard // self.rows_per_chunk


def _raw_layout(array: Any) -> _Layout | None:
    """The layout of an array that `RawRows` can read, None of any other."""
    metadata = array.metadata.to_dict()
    if _directory(array) is None or array.dtype.kind not in "fiub" or metadata["zarr_format"] != 3:
        return None
    if metadata["chunk_grid"]["name"] != "regular":
        return None
    n_rows, width = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    codecs, itemsize = metadata["codecs"], array.dtype.itemsize
    if width != array.shape[1]:
        return None
    if _names(codecs) != ["sharding_indexed"]:
        return _Layout(n_rows, n_rows) if _is_plain(codecs, itemsize) else None
    sharding = codecs[0]["configuration"]
    rows_per_chunk, width = sharding["chunk_shape"]
    index_codecs = sharding["index_codecs"]
    has_checksum = _names(index_codecs)[1:] == ["crc32c"]
    is_plain_index = _is_plain(index_codecs[:1] if has_checksum else index_codecs, 8)
    if width != array.shape[1] or not (is_plain_index and _is_plain(sharding["codecs"], itemsize)):
        return None
    index_size = 16 * (n_rows // rows_per_chunk) + 4 * has_checksum
    index_is_first = sharding.get("index_location", "end") == "start"
    return _Layout(n_rows, rows_per_chunk, index_size, has_checksum, index_is_first)


def _names(codecs: Any) -> list[str]:
    return [codec["name"] for codec in codecs]


def _is_plain(codecs: Any, itemsize: int) -> bool:
    """Whether encoded values are the values themselves, little-endian."""
    if _names(codecs) != ["bytes"]:
        return False
    return itemsize == 1 or codecs[0].get("configuration", {}).get("endian") == "little"


def _directory(array: Any) -> str | None:
    # Not isinstance: a store derived from LocalStore may hold other bytes than it gives.
    if type(array.store).__name__ != "LocalStore":
        return None
    return os.path.abspath(os.path.join(array.store.root, array.path))


def _title(array: Any) -> str:
    root, name = str(array.store), array.path
    if not name:  # the array is the whole store; its folder is the one to name
        root, _, name = root.rpartition("/")
    return f"array {name!r} of {root.rpartition('/')[2]}"


class _Pieces(NamedTuple):
    """Runs of rows cut at the edges of blocks, in the order of the output."""

    block: Integers
    first: Integers  # row within the block
    length: Integers
    target: Integers  # row of the output


def _cut(starts: Integers, lengths: Integers, rows_per_block: int) -> _Pieces:
    first_block = starts // rows_per_block
    n_pieces = np.where(lengths > 0, (starts + lengths - 1) // rows_per_block - first_block + 1, 0)
    run = np.repeat(np.arange(len(starts)), n_pieces)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(n_pieces) - n_pieces, n_pieces)
    block = first_block[run] + nth
    start = np.maximum(starts[run], block * rows_per_block)
    length = np.minimum((starts + lengths)[run], (block + 1) * rows_per_block) - start
    return _Pieces(block, start - block * rows_per_block, length, np.cumsum(length) - length)


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


def _read_bytes(file: FileIO, begin: int, buffer: memoryview) -> int:
    """Fill `buffer` from byte `begin` on; fewer bytes than asked only at the file's end."""
    done = 0
    while done < len(buffer):
        if hasattr(os, "preadv"):  # one system call, and no position to share with a fork
            n_bytes = os.preadv(file.fileno(), [buffer[done:]], begin + done)
        else:
            file.seek(begin + done)
            n_bytes = file.readinto(buffer[done:]) or 0
        if not n_bytes:
            break
        done += n_bytes
    return done


def _has_valid_checksum(index: bytearray) -> bool:
    import google_crc32c  # comes with zarr, without which there is no array to read

    return int.from_bytes(index[-4:], "little") == google_crc32c.value(bytes(index[:-4]))
