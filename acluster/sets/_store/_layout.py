"""The layout of files that hold rows in the same form as in memory, and the indices of shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NOT_STORED = 2**64 - 1  # in the index of a shard, both for the offset and the size of a chunk
CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Layout:
    """The layout of files that hold rows in the same form as in memory."""

    rows_per_shard: int
    rows_per_chunk: int
    index_size: int = 0  # in bytes; 0 if every chunk is a file of its own
    has_checksum: bool = False
    index_is_first: bool = False
    has_chunk_checksums: bool = False

    @property
    def chunks_per_shard(self) -> int:
        return self.rows_per_shard // self.rows_per_chunk

    def chunk_bytes(self, row_bytes: int) -> int:
        """Return the size of a stored chunk, with its checksum."""
        return self.rows_per_chunk * row_bytes + CHECKSUM_BYTES * self.has_chunk_checksums

    def entries(self, index: bytes | bytearray | memoryview) -> NDArray[np.uint64] | None:
        """Return the offset and the size of each chunk of a shard, (n, 2).

        None if the index is cut short or does not match its checksum.
        """
        is_whole = len(index) == self.index_size
        if not is_whole or (self.has_checksum and not has_valid_checksum(index)):
            return None
        return np.frombuffer(index, "<u8", 2 * self.chunks_per_shard).reshape(-1, 2)

    def problem(
        self, entries: NDArray[np.uint64], row_bytes: int, first_row: int, low: int, high: int
    ) -> str | None:
        """Return what is wrong with the index of a shard, or None.

        Parameters
        ----------
        entries : ndarray of shape (n, 2)
            The offset and the size of each chunk.

        row_bytes : int
            The size of a row.

        first_row : int
            The first row of the shard.

        low, high : int
            Between which bytes of the file the chunks are.
        """
        expected = self.chunk_bytes(row_bytes)
        starts, sizes = entries.T
        # Without subtraction or addition, which would wrap around.
        is_valid = (sizes == expected) & (starts >= low) & (starts <= max(0, high - expected))
        wrong = np.flatnonzero(~is_valid | (high - low < expected))
        if not len(wrong):
            return None
        chunk = int(wrong[0])
        start, size = entries[chunk].tolist()
        row = first_row + chunk * self.rows_per_chunk
        if start == size == NOT_STORED:
            return (
                f"lacks chunk {chunk} (from row {row} on), which has been lost or was left out "
                "because it equals the fill value; with zarr, write with "
                "config={'write_empty_chunks': True}."
            )
        return (
            f"places chunk {chunk} (from row {row} on) at bytes {start} to {start + size}, but a "
            f"chunk has {expected} bytes, between byte {low} and byte {high} of this file; it is "
            "truncated or damaged."
        )


def plain_layout(array: Any) -> Layout | None:
    """Return the layout of the files of an array, or None if rows have another form there."""
    metadata = array.metadata.to_dict()
    if array.dtype.kind not in "fiub":
        return None
    if metadata["zarr_format"] != 3 or metadata["chunk_grid"]["name"] != "regular":
        return None
    n_rows, width = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    codecs, itemsize = metadata["codecs"], array.dtype.itemsize
    if width != array.shape[1]:  # a row is split between files
        return None
    if _names(codecs) != ["sharding_indexed"]:
        is_plain, has_checksums = _plain(codecs, itemsize)
        return Layout(n_rows, n_rows, has_chunk_checksums=has_checksums) if is_plain else None
    sharding = codecs[0]["configuration"]
    rows_per_chunk, width = sharding["chunk_shape"]
    is_plain_index, has_checksum = _plain(sharding["index_codecs"], 8)
    is_plain, has_checksums = _plain(sharding["codecs"], itemsize)
    if width != array.shape[1] or not (is_plain_index and is_plain):
        return None
    # The index has two 8-byte numbers per chunk, and a checksum.
    index_size = 16 * (n_rows // rows_per_chunk) + CHECKSUM_BYTES * has_checksum
    index_is_first = sharding.get("index_location", "end") == "start"
    return Layout(n_rows, rows_per_chunk, index_size, has_checksum, index_is_first, has_checksums)


def _names(codecs: Any) -> list[str]:
    return [codec["name"] for codec in codecs]


def _plain(codecs: Any, itemsize: int) -> tuple[bool, bool]:
    """Whether the encoded bytes are the values, little-endian, and whether a checksum follows."""
    has_checksum = _names(codecs)[1:] == ["crc32c"]
    is_plain = _names(codecs) in (["bytes"], ["bytes", "crc32c"]) and (
        itemsize == 1 or codecs[0].get("configuration", {}).get("endian") == "little"
    )
    return is_plain, has_checksum


def has_valid_checksum(data: bytes | bytearray | memoryview) -> bool:
    """Whether the last four bytes are the checksum of those before."""
    import google_crc32c  # a dependency of zarr, which has opened the array

    end = len(data) - CHECKSUM_BYTES
    if end < 0:
        return False
    found = google_crc32c.value(np.frombuffer(data, np.uint8, end))
    return int.from_bytes(data[end:], "little") == int(found)
