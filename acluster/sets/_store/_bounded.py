"""Codecs of zarr that stop at a limit: a few bytes of a hostile file may decompress to gigabytes.

This module imports zarr and numcodecs, so it is imported where arrays are opened.
"""

from __future__ import annotations

import asyncio
import bz2
import dataclasses
import gzip
import io
import lzma
import math
import zlib
from collections.abc import Callable
from typing import Any

import numcodecs
import zarr
from numcodecs.compat import ensure_contiguous_ndarray_like
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec
from zarr.core.buffer.cpu import as_numpy_array_wrapper

_COMPRESSORS = {"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"}
_TEXT = "vlen-utf8"
# The widest type that a filter may convert to, and what compressors and checksums add.
_MAX_ITEMSIZE, _OVERHEAD_BYTES, _OVERHEAD_PER_CHUNK = 32, 1 << 16, 128
# The size of text is not declared: it is at most this, or so many times what is stored.
_TEXT_BYTES, _TEXT_RATIO = 1 << 25, 16
_ZSTD_MAGIC, _ZSTD_BLOCK_BYTES = 0xFD2FB528, 1 << 17


def bounded(array: zarr.Array) -> zarr.Array:
    """Return an array whose chunks decode to no more than its metadata declare."""
    metadata: Any = array.metadata
    is_text = array.dtype.kind in "OT"
    # Filters may convert to a wider type.
    itemsize = 0 if is_text else _MAX_ITEMSIZE if array.filters else array.dtype.itemsize
    if metadata.zarr_format == 2:
        compressor, filters = metadata.compressor, metadata.filters
        limit = math.prod(array.chunks) * itemsize
        changes = {
            "compressor": compressor and BoundedCodec(compressor, limit),
            "filters": filters and tuple(BoundedCodec(codec, limit) for codec in filters),
        }
    else:
        changes = {
            "codecs": _bounded_codecs(metadata.codecs, array.shards or array.chunks, itemsize)
        }
    metadata = dataclasses.replace(metadata, **changes)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def _bounded_codecs(codecs: Any, chunk: tuple[int, ...], itemsize: int) -> tuple[Any, ...]:
    """Return the codecs of chunks of a shape; `itemsize` is 0 for text."""
    limit, found = math.prod(chunk) * itemsize, []
    for codec in codecs:
        if isinstance(codec, ShardingCodec):
            inner = codec.chunk_shape
            inner_codecs = _bounded_codecs(codec.codecs, inner, itemsize)
            found.append(dataclasses.replace(codec, codecs=inner_codecs))
            # Of what compresses whole shards.
            limit += bool(itemsize) * _OVERHEAD_PER_CHUNK * math.prod(chunk) // math.prod(inner)
        else:
            found.append(_bounded_codec(codec, limit))
    return tuple(found)


def _bounded_codec(codec: Any, limit: int) -> Any:
    description = codec.to_dict()
    name = description["name"].removeprefix("numcodecs.")
    if name == _TEXT:
        return VLenUTF8Codec()
    if name not in _COMPRESSORS:
        return codec
    # How LZMA was used must be known to decode it; the others do not depend on their settings.
    settings = description.get("configuration", {}) if name == "lzma" else {}
    return _BoundedBytes(BoundedCodec(numcodecs.get_codec({"id": name, **settings}), limit))


class BoundedCodec(numcodecs.abc.Codec):
    """A codec of numcodecs that refuses to decode to more than a limit.

    Parameters
    ----------
    codec : numcodecs.abc.Codec
        The codec.

    limit : int
        The largest size in bytes; 0 for text, whose size is not declared.
    """

    codec_id = "bounded"  # zarr looks for it in the class; every instance has that of its codec

    def __init__(self, codec: Any, limit: int) -> None:
        self.codec_id = codec.codec_id
        self._codec, self._limit = codec, limit

    def encode(self, buf: Any) -> Any:
        """Encode bytes, or an array."""
        return self._codec.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode bytes, or an array."""
        if self.codec_id == _TEXT:
            _check_text(_as_bytes(buf))
        if self.codec_id not in _COMPRESSORS:
            decoded = self._codec.decode(buf, out)
            _check(getattr(decoded, "nbytes", 0), self._limit or math.inf)
            return decoded
        data = _as_bytes(buf)
        limit = self._limit or max(_TEXT_BYTES, _TEXT_RATIO * len(data))
        limit += _OVERHEAD_BYTES
        if self.codec_id in _SIZES:
            _check(_SIZES[self.codec_id](data), limit)
            return self._codec.decode(buf, out)
        decoded = _decompress(self._codec, data, limit + 1)
        _check(len(decoded), limit)
        return decoded


class _BoundedBytes(BytesBytesCodec):
    """A compressor of zarr format 3 that is decoded by a `BoundedCodec`."""

    is_fixed_size = False

    def __init__(self, codec: BoundedCodec) -> None:
        self._codec = codec

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        decode, prototype = self._codec.decode, chunk_spec.prototype
        return await asyncio.to_thread(as_numpy_array_wrapper, decode, chunk_data, prototype)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        raise NotImplementedError


class VLenUTF8Codec(zarr.codecs.VLenUTF8Codec):
    """The codec of zarr format 3 for text; zarr insists on this name."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _check_text(_as_bytes(chunk_bytes.as_numpy_array()))
        return super()._decode_sync(chunk_bytes, chunk_spec)


def _as_bytes(buffer: Any) -> memoryview:
    return ensure_contiguous_ndarray_like(buffer).view("u1").data


def _check_text(data: memoryview) -> None:
    """Check the number of strings of a chunk of text, for which memory is reserved."""
    n_strings = int.from_bytes(data[:4], "little")
    if 4 + 4 * n_strings > len(data):  # each string begins with its length
        raise ValueError(f"a chunk of {len(data)} bytes claims to have {n_strings} strings")


def _check(size: float, limit: float) -> None:
    if size > limit:
        raise ValueError(
            f"a chunk decodes to more than {limit} bytes, which is more than its metadata declare"
        )


def _decompress(codec: Any, data: memoryview, n_bytes: int) -> bytes:
    """Return at most the first `n_bytes` of what was compressed."""
    if codec.codec_id == "zlib":
        decompressor = zlib.decompressobj()
        decoded = decompressor.decompress(data, n_bytes)
        if not decompressor.eof and len(decoded) < n_bytes:
            raise EOFError("a compressed chunk is truncated")
        return decoded
    with _STREAMS[codec.codec_id](codec, io.BytesIO(data)) as stream:
        return stream.read(n_bytes)


def _zstd_size(data: memoryview) -> int:
    """Return an upper limit of the size of what zstd compressed, from its headers (RFC 8878)."""

    def number(start: int, n_bytes: int) -> int:
        return int.from_bytes(data[start : start + n_bytes], "little")

    total = start = 0
    while start < len(data):
        if number(start, 4) != _ZSTD_MAGIC:  # a frame to skip; others are an error of the decoder
            start += 8 + number(start + 4, 4)
            continue
        flags = number(start + 4, 1)
        has_window, size_code = not flags & 32, flags >> 6
        start += 5 + has_window + (0, 1, 2, 4)[flags & 3]
        n_size = (0 if has_window else 1, 2, 4, 8)[size_code]
        declared = number(start, n_size) + 256 * (n_size == 2)
        start += n_size
        of_blocks = is_last = 0
        while not is_last and start < len(data):
            block = number(start, 3)
            is_last, kind, size = block & 1, block >> 1 & 3, block >> 3
            of_blocks += _ZSTD_BLOCK_BYTES if kind == 2 else size
            start += 3 + (1 if kind == 1 else size)
        start += 4 * (flags >> 2 & 1)
        total += declared if n_size else of_blocks
    return total


# Streams of the standard library, which decompress no more than is read.
_STREAMS: dict[str, Callable[[Any, io.BytesIO], Any]] = {
    "gzip": lambda codec, file: gzip.GzipFile(fileobj=file),
    "bz2": lambda codec, file: bz2.BZ2File(file),
    "lzma": lambda codec, file: lzma.LZMAFile(  # noqa: SIM115 - the caller closes it
        file, format=codec.format, filters=codec.filters
    ),
}
# How many bytes a codec reserves for a chunk, by its header.
_SIZES = {
    "blosc": lambda data: int.from_bytes(data[4:8], "little"),
    "lz4": lambda data: int.from_bytes(data[:4], "little"),
    "zstd": _zstd_size,
}
