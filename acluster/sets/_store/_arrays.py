"""Arrays of zarr, opened and read with care.

Every array that this package reads passes through here. Its metadata are checked before zarr acts
on them, and what zarr would replace by the fill value is an error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._store._errors import RemoteError, StoreError, array_error
from acluster.sets._store._files import file_size, knows_sizes, read_json

if TYPE_CHECKING:
    import zarr

# Codecs that do nothing but transform bytes. Others may run code: "pickle" does, and so may any
# that an installed package adds.
_NUMCODECS = {"adler32", "astype", "bitround", "blosc", "bz2", "crc32", "crc32c", "delta"}
_NUMCODECS |= {"fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma"}
_NUMCODECS |= {"packbits", "quantize", "shuffle", "zlib", "zstd"}
_CODECS_V2 = _NUMCODECS | {"vlen-utf8"}
_CODECS_V3 = {"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose", "vlen-utf8"}
_CODECS_V3 |= {"zstd", *(f"numcodecs.{name}" for name in _NUMCODECS)}

_FILTER_TYPES = {"dtype", "astype", "encode_dtype", "decode_dtype"}
_CHECKSUMS = {"adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3"}
_DATA_TYPES = {"bool", "float16", "float32", "float64", "string", "fixed_length_utf32"}
_DATA_TYPES |= {f"{sign}int{n_bits}" for sign in ("", "u") for n_bits in (8, 16, 32, 64)}
_MAX_COUNT = 1 << 60  # so that a sum of a few sizes in bytes is within int64
_MAX_INNER_CHUNKS = 1 << 22  # of a shard; its index has 16 bytes for each
# A file that claims to have more bytes in memory than this must have a part of them on disk. Zeros
# compress to a thousandth.
_UNQUESTIONED_BYTES, _MAX_COMPRESSION = 1 << 27, 2000
# A file that is much larger than its values is not read; it may have holes.
_FREE_FILE_BYTES, _MAX_MEAN_TEXT_BYTES = 1 << 24, 1 << 10

_NOT_WRITTEN = (
    "It has been lost, or the program that wrote the store left it out because it equals the fill "
    "value. Restore it, or write the store again; with zarr, pass "
    "config={'write_empty_chunks': True}."
)


def find_array(group: zarr.Group, name: str, store: str) -> zarr.Array | None:
    """Return an array of a group, or None if there is no such array.

    Parameters
    ----------
    group : zarr.Group
        The store. What its consolidated metadata say about the array is ignored.

    name : str
        The name of the array.

    store : str
        The name of the store in error messages.

    Raises
    ------
    StoreError
        If the metadata of the array are damaged, or name a codec that is not known to be safe.
    """
    import zarr

    remedy = "Restore its zarr.json, or write the store again."
    path = group.store_path / name
    try:
        metadata = read_json(path)
        if metadata is None:
            return None
        _check_metadata(metadata)
        return zarr.Array(zarr.AsyncArray.from_dict(path, metadata))
    except RemoteError:
        raise
    except Exception as error:  # damaged metadata raise errors of many types
        problem = f"cannot be opened: {str(error).rstrip('.')}"
        raise array_error(name, store, problem, remedy) from error


def safe_array(array: zarr.Array) -> zarr.Array:
    """Return an array, in zarr format 2 or 3, that runs no code and decodes what it declares.

    Raises
    ------
    StoreError
        If a codec is not known to be safe, or the array claims far more bytes than it has.
    """
    from acluster.sets._store._bounded import bounded

    metadata, known = array.metadata, _CODECS_V3
    if metadata.zarr_format == 2:
        used = [metadata.compressor, *(metadata.filters or ())]
        codecs = [(codec.codec_id, codec.get_config()) for codec in used if codec is not None]
        known = _CODECS_V2
    else:
        codecs = [*_all_codecs(metadata.to_dict()["codecs"])]
    try:
        for name, configuration in codecs:
            _check_codec(name, configuration, known)
    except Exception as error:
        raise StoreError(f"Array {array.basename!r} of {array.store} {error}") from error
    return bounded(array)


def _check_size(array: zarr.Array) -> None:
    """Raise a StoreError if an array of a group that is no store claims far more than it has."""
    if array.nbytes > _UNQUESTIONED_BYTES:
        stored = array.nbytes_stored()
        if array.nbytes > _MAX_COMPRESSION * stored:
            problem = f"has {stored} bytes, but claims to hold {array.nbytes}"
            raise array_error(array.basename, str(array.store), problem)


def _check_codec(name: str, configuration: Any, known: set[str]) -> None:
    """Check that a codec is safe, and that a filter converts between numbers."""
    if name not in known:
        raise ValueError(
            f"needs the codec {name!r}, which is not known to be safe: a codec may run code. "
            "Write the array again with one of bytes, crc32c, blosc, gzip and zstd."
        )
    # A filter that converted to text could take megabytes for each.
    for key in _FILTER_TYPES & configuration.keys():
        dtype = np.dtype(configuration[key])
        if dtype.kind not in "biufc":
            raise ValueError(f"its filter {name!r} converts to {dtype}, not to numbers")


def _all_codecs(codecs: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and configurations of codecs, and of those inside shards."""
    for codec in codecs:
        configuration = codec.get("configuration") or {}
        yield codec["name"], configuration
        for key in ("codecs", "index_codecs"):
            yield from _all_codecs(configuration.get(key, ()))


def has_checksums(array: zarr.Array) -> bool:
    """Whether reading the chunks of an array reveals that bits have changed."""
    codecs = array.metadata.to_dict()["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        codecs = codecs[0]["configuration"]["codecs"]
    return any(codec["name"].removeprefix("numcodecs.") in _CHECKSUMS for codec in codecs)


def _check_metadata(metadata: Any) -> None:
    """Check the metadata of an array; damaged ones raise an error of any type."""
    if (metadata["zarr_format"], metadata["node_type"]) != (3, "array"):
        raise ValueError("it is not an array of zarr format 3")
    shape, grid = metadata["shape"], metadata["chunk_grid"]
    chunk = grid["configuration"]["chunk_shape"]
    data_type = metadata["data_type"]
    data_type = data_type["name"] if isinstance(data_type, dict) else data_type
    if data_type not in _DATA_TYPES:
        raise ValueError(f"its data type {data_type!r} is not one of numbers or strings")
    if not isinstance(metadata.get("attributes", {}), dict):
        raise ValueError("its attributes are not an object")
    if len(shape) not in (1, 2) or not all(map(_is_count, shape)):
        raise ValueError(f"its shape {shape!r} is not one or two numbers")
    if math.prod(shape) > _MAX_COUNT:
        raise ValueError(f"its shape {shape!r} is beyond what can be stored")
    _check_chunk_shape(chunk, len(shape))
    _check_codecs(metadata["codecs"], chunk)


def _check_codecs(codecs: Any, chunk: Any) -> None:
    """Check the codecs of chunks of a shape, and the shapes of the chunks inside shards."""
    for name, configuration in _all_codecs(codecs):
        _check_codec(name, configuration, _CODECS_V3)
        if name == "sharding_indexed":
            inner = configuration["chunk_shape"]
            _check_chunk_shape(inner, len(chunk))
            if any(n % m for n, m in zip(chunk, inner, strict=True)):
                raise ValueError(f"its chunks {inner!r} do not divide its shards {chunk!r}")
            if math.prod(chunk) // math.prod(inner) > _MAX_INNER_CHUNKS:
                raise ValueError(f"its shards have more than {_MAX_INNER_CHUNKS} chunks")
            chunk = inner


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _check_chunk_shape(shape: Any, n_dimensions: int) -> None:
    is_valid = len(shape) == n_dimensions and all(map(_is_count, shape)) and all(shape)
    if not is_valid or math.prod(shape) > _MAX_COUNT:
        raise ValueError(f"its chunk shape {shape!r} is not {n_dimensions} positive numbers")


def file_grid(array: zarr.Array) -> tuple[int, ...]:
    """Return how many files an array has along each dimension."""
    sizes = zip(array.shape, array.shards or array.chunks, strict=True)
    return tuple(-(-n // m) for n, m in sizes)


def file_key(array: zarr.Array, number: int) -> str:
    """Return the path of a file of an array; files are numbered row by row."""
    *_, width = file_grid(array)
    index = divmod(number, width) if array.ndim == 2 else (number,)
    return str(array.metadata.encode_chunk_key(index))


def check_files(array: zarr.Array, store: str) -> None:
    """Check the files of an array without reading them, if its store can tell.

    Parameters
    ----------
    array : zarr.Array
        The array.

    store : str
        The name of the store in error messages.

    Raises
    ------
    StoreError
        If files are absent, are not regular files, or are far too small or too large for what they
        claim to hold.
    """
    grid = file_grid(array)
    if not knows_sizes(array.store):
        return
    n_values = math.prod(array.shards or array.chunks)
    n_bytes = n_values * array.dtype.itemsize
    # Checksums and indexes take a few bytes for each chunk of a shard.
    itemsize = array.dtype.itemsize if array.dtype.kind in "biuf" else _MAX_MEAN_TEXT_BYTES
    most = max(_FREE_FILE_BYTES, 4 * n_values * itemsize + 64 * n_values // math.prod(array.chunks))

    def absent() -> Iterator[str]:
        # One by one, since the metadata may claim any number of files.
        for number in range(math.prod(grid)):
            key = file_key(array, number)
            size = file_size(array.store, f"{array.path}/{key}".lstrip("/"))
            if size is None:
                yield key
            elif size > most or n_bytes > max(_UNQUESTIONED_BYTES, _MAX_COMPRESSION * size):
                problem = f"has {size} bytes in {key}, but claims to hold {n_bytes} bytes there"
                raise array_error(array.basename, store, problem)

    lost = list(islice(absent(), 4))
    if lost:
        more = " and more" if len(lost) > 3 else ""
        problem = f"lacks the files {', '.join(lost[:3])}{more}"
        raise array_error(array.basename, store, problem, _NOT_WRITTEN)


class CompleteArray:
    """An array without the fill value: reading a chunk that is not there is an error.

    Parameters
    ----------
    array : zarr.Array
        The array to read.
    """

    def __init__(self, array: zarr.Array) -> None:
        self._array = array
        safe = safe_array(array)
        self._first, self._second = (_with_fill(safe, fill) for fill in _fill_values(array.dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        return CompleteArray, (self._array,)  # pickling would replace the codecs of `safe_array`

    def __getitem__(self, rows: slice | tuple[slice, slice]) -> NDArray[Any]:
        """Read some rows from the first row of a chunk on, or the first columns of one row."""
        values = np.asarray(self._first[rows])
        # A lost chunk is all fill value, so that the first value of every chunk tells. If it is
        # the fill value, reading with another one shows whether it was stored.
        corners = tuple(slice(None, None, n) for n in self._array.chunks)
        unsure = _equals(values[corners], self._first.fill_value)
        if unsure.any():
            others = np.asarray(self._second[rows])[corners]
            lost = np.argwhere(unsure & _equals(others, self._second.fill_value))
            if len(lost):
                first = rows if isinstance(rows, slice) else rows[0]
                raise self._error(first.start or 0, lost[0])
        return values

    def _error(self, first_row: int, chunk: NDArray[Any]) -> StoreError:
        array = self._array
        start = np.array(chunk) * array.chunks
        start[0] += first_row - first_row % array.chunks[0]
        stop = min(start[0] + array.chunks[0], array.shape[0])
        key = array.metadata.encode_chunk_key(tuple(start // (array.shards or array.chunks)))
        return StoreError(
            f"The chunk of rows {start[0]} to {stop - 1}, in the file {key}, is not there. "
            f"{_NOT_WRITTEN}"
        )


def read_foreign(array: zarr.Array, name: str, rows: Any = slice(None)) -> NDArray[Any]:
    """Read features from an array that another program wrote, in zarr format 2 or 3.

    Parameters
    ----------
    array : zarr.Array
        The array.

    name : str
        The name of the item in error messages.

    rows : slice or tuple of slice
        What to read, as for `CompleteArray`.

    Raises
    ------
    StoreError
        If a chunk is absent or cannot be decoded, or a codec is not known to be safe.
    """
    _check_size(array)
    try:
        if not array.ndim or array.dtype.kind not in "fiub":
            values = safe_array(array)[rows if array.ndim else ...]
            return np.asarray(values)  # for the caller to reject
        return CompleteArray(array)[rows]
    except StoreError as error:
        raise StoreError(
            f"{name}, array {array.path!r}: {error} If it was left out, pass the values instead "
            "of the array: array[...] has the fill value there."
        ) from error
    except Exception as error:  # of the codec, the store or the network
        problem = f"cannot be read: {str(error).rstrip('.')}"
        raise array_error(array.basename, str(array.store), problem) from error


def _fill_values(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Return two different values, the first of which is rare."""
    if dtype.kind == "f":
        return dtype.type(np.nan), dtype.type(0)
    if dtype.kind == "b":
        return np.True_, np.False_
    if dtype.kind in "iu":
        return dtype.type(np.iinfo(dtype).max), dtype.type(0)
    return "\x01", "\x02"


def _with_fill(array: zarr.Array, value: Any) -> zarr.Array:
    import zarr

    metadata = dataclasses.replace(array.metadata, fill_value=value)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def _equals(values: NDArray[Any], fill: Any) -> NDArray[np.bool_]:
    return np.isnan(values) if fill != fill else values == fill


def read_whole(array: zarr.Array, store: str) -> NDArray[Any]:
    """Read a small array; its checksums reveal damage."""
    check_files(array, store)
    try:
        return CompleteArray(array)[:]
    except RemoteError:
        raise
    except StoreError as error:
        raise array_error(array.basename, store, "is incomplete", str(error)) from error
    except Exception as error:  # of the codec, the store or the network
        problem = f"cannot be read: {str(error).rstrip('.')}"
        raise array_error(array.basename, store, problem) from error
