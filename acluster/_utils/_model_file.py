"""Read and write model files: named tensors and a description in the safetensors format.

The description is JSON text in the metadata of the file, under the key "acluster". Reading such a
file never executes code from it, unlike unpickling.
"""

import errno
import json
import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from acluster._utils._files import replaced_file

FORMAT_VERSION = 1
_O_BINARY = getattr(os, "O_BINARY", 0)  # Windows alone has it
# A file within these limits is read or rejected within seconds and 200 MB. They admit the learning
# curve of a million epochs.
_MAX_HEADER_BYTES, _MAX_VALUES, _MAX_TENSORS = 24_000_000, 1_000_000, 50_000
_DTYPES = {"F32": "float32", "F64": "float64", "I64": "int64"}


class ModelFileError(ValueError):
    """Raised for a file that is not a model, is damaged or has a newer format version."""


def write_model(
    path: str | os.PathLike[str], description: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> None:
    """Write a model file, and replace an existing file only once the new one is complete.

    Raises
    ------
    OSError
        If `path` is a folder or not a regular file, its folder does not exist, or the
        description or the number of tensors exceeds what `open_model` reads.
    """
    text = json.dumps({"format_version": FORMAT_VERSION, **description})
    # A key of its own, which versions without checksums ignore.
    checksums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    checksums_text = json.dumps({"description": zlib.crc32(text.encode()), "tensors": checksums})
    content = save(tensors, metadata={"acluster": text, "acluster_checksums": checksums_text})
    if problem := _excess(content[8 : 8 + int.from_bytes(content[:8], "little")]):
        raise OSError(errno.EFBIG, f"{problem}. Use joblib.dump", str(path))
    with replaced_file(path) as unfinished:
        unfinished.write_bytes(content)


def _checksum(tensor: NDArray[Any]) -> int:
    """Return the CRC-32 of the dtype, the shape and the bytes of a tensor.

    zlib reads an array in place at 4 GB/s. CRC-32C is no faster here: its library takes only
    bytes, and so a copy of the array.
    """
    start = zlib.crc32(f"{tensor.dtype.name} {tensor.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(tensor).data.cast("B") if tensor.size else b"", start)


def _excess(header: bytes) -> str | None:
    """Describe what would take too long or too much memory to read in a header, if anything."""
    for n, what, limit in (
        (len(header), "a header of {} bytes", _MAX_HEADER_BYTES),
        (sum(header.count(sign) for sign in b",[{"), "{} values in its header", _MAX_VALUES),
        (header.count(b'"data_offsets"'), "{} tensors", _MAX_TENSORS),
    ):
        if n > limit:
            return f"it has {what.format(n)}, more than the {limit} of a model file"
    return None


class Tensors(Mapping[str, Any]):
    """The tensors of an open model file by name, each read and verified on access.

    Parameters
    ----------
    file : safetensors.safe_open
        The open file.

    checksums : dict of str to int, or None
        The checksum of every tensor; None for older files, which have none.

    names : dict of str to str, optional
        The name in the file of every tensor, by its name here; by default, all have their own.
    """

    def __init__(
        self, file: Any, checksums: Mapping[str, Any] | None, names: Mapping[str, str] | None = None
    ) -> None:
        self._file, self._checksums = file, checksums
        all_names = file.keys()
        self._names = dict(zip(all_names, all_names, strict=True)) if names is None else names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        self.spec(name)
        full_name = self._names[name]
        tensor: NDArray[Any] = self._file.get_tensor(full_name)
        if self._checksums is not None and self._checksums.get(full_name) != _checksum(tensor):
            raise ModelFileError(
                f"the tensor {name!r:.100} differs from its checksum: the file was damaged after "
                "it was written. Restore it from a copy"
            )
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"the tensor {name!r:.100} has NaN or infinite values")
        return tensor

    def spec(self, name: str) -> tuple[tuple[int, ...], str]:
        """Return the shape and the dtype of a tensor without reading its values."""
        if name not in self._names:
            raise ModelFileError(f"the tensor {name!r:.100} is missing")
        part = self._file.get_slice(self._names[name])
        dtype = part.get_dtype()
        if dtype not in _DTYPES:
            raise ModelFileError(
                f"the tensor {name!r:.100} has the dtype {dtype}; expected {', '.join(_DTYPES)}"
            )
        return tuple(part.get_shape()), _DTYPES[dtype]

    def groups(self) -> dict[str, "Tensors"]:
        """Return the tensors by the part of their names before the last "/", or ""."""
        names: dict[str, dict[str, str]] = {}
        for full_name in self._names:
            group, _, name = full_name.rpartition("/")
            names.setdefault(group, {})[name] = full_name
        return {group: Tensors(self._file, self._checksums, own) for group, own in names.items()}


@contextmanager
def open_model(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], Tensors]]:
    """Open a model file as a context manager that returns its description and its tensors.

    Raises
    ------
    ModelFileError
        If the file is not a model, is damaged or has a newer format version.

    OSError
        If the file cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(
            f"{path} is a folder; a model is a single file. Open a store of feature sets with "
            "acluster.open_feature_sets."
        )
    _check_header(path)
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            description = _parse(path, metadata.get("acluster"))
            checksums = _verified(path, metadata)
            yield description, Tensors(file, checksums)
    except SafetensorError as error:
        raise ModelFileError(f"{_describe_other_file(path)}: {error!s:.500}") from None


def _check_header(path: Path) -> None:
    """Reject what cannot be a model before anything waits for it, or for its header."""
    # Opening a pipe would wait for a writer; without O_NONBLOCK even if it became one just now.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _O_BINARY)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ModelFileError(f"{path} is a device or a pipe; a model is a regular file.")
        n_bytes = int.from_bytes(file.read(8), "little")
        # Of a file in another format, the length is any number; safe_open says what is wrong.
        header = file.read(min(n_bytes, _MAX_HEADER_BYTES + 1))
    if problem := _excess(header) if len(header) == n_bytes else None:
        raise ModelFileError(f"{path} is not a model file, or is damaged: {problem}.")
    if n_bytes > _MAX_HEADER_BYTES:
        raise ModelFileError(
            f"{_describe_other_file(path)}: a header of {n_bytes} bytes is too long."
        )


def _verified(path: Path, metadata: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Verify the description; return the checksums of the tensors, which older files lack."""
    text = metadata.get("acluster_checksums")
    if text is None:
        return None
    try:
        checksums = json.loads(text)
        of_description, of_tensors = checksums["description"], checksums["tensors"]
    except (ValueError, TypeError, KeyError, RecursionError):
        of_description = of_tensors = None
    if not isinstance(of_tensors, dict) or of_description != zlib.crc32(
        metadata["acluster"].encode()
    ):
        raise ModelFileError(
            f"{path} is damaged: its description differs from its checksum. Restore it from a copy."
        )
    return of_tensors


def _describe_other_file(path: Path) -> str:
    """Describe a file that is not in the safetensors format."""
    with path.open("rb") as file:
        start = file.read(2)
    # A zip archive, as torch.save writes it, or a pickle of protocol 1 to 5.
    if start == b"PK" or (start[:1] == b"\x80" and start[1:] <= b"\x05"):
        return (
            f"{path} is a pickle, or an archive with one, which can execute any code when loaded. "
            "If you trust its author, use joblib.load or torch.load; acluster.load reads files "
            "written by the method save of a classifier"
        )
    return f"{path} is not a model file, or is damaged or truncated"


def _parse(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise ModelFileError(
            f"{path} is a safetensors file without a model of acluster: its metadata has no key "
            "'acluster'. Pass a file written by the method save of a classifier."
        )
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(
            f"{path} is damaged: its description is not JSON: {error!s:.200}"
        ) from None
    version = description.get("format_version") if isinstance(description, dict) else None
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{path} is damaged: its format version is {version!r:.50}.")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {version!r:.50}; this version of acluster reads versions "
            f"up to {FORMAT_VERSION}. Upgrade acluster, or save the model with an older version."
        )
    return description
