"""Read and write model files: named tensors and a description in the safetensors format.

The description is JSON text in the metadata of the file, under the key "acluster". Reading such a
file never executes code from it, unlike unpickling.
"""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT_VERSION = 1
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
        If `path` is a folder or not a regular file, or its folder does not exist.
    """
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.name} cannot be written: the folder {str(path.parent)!r} does not exist. "
            "Create it first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; pass the name of a file.")
    if path.exists() and not path.is_file():
        # os.replace below would replace /dev/null itself.
        raise OSError(f"{path} is a device or a pipe; pass the name of a regular file.")
    text = json.dumps({"format_version": FORMAT_VERSION, **description})
    # A temporary file in the same folder: os.replace is atomic only within one file system.
    unfinished = path.with_name(f".{path.name[:50]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        unfinished.write_bytes(save(tensors, metadata={"acluster": text}))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class Tensors(Mapping[str, Any]):
    """The tensors of an open model file by name, each read on access."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._names = dict.fromkeys(file.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        self.spec(name)
        tensor: NDArray[Any] = self._file.get_tensor(name)
        if not np.isfinite(tensor).all():
            raise ModelFileError(f"the tensor {name!r:.100} has NaN or infinite values")
        return tensor

    def spec(self, name: str) -> tuple[tuple[int, ...], str]:
        """Return the shape and the dtype of a tensor without reading its values."""
        if name not in self._names:
            raise ModelFileError(f"the tensor {name!r:.100} is missing")
        part = self._file.get_slice(name)
        dtype = part.get_dtype()
        if dtype not in _DTYPES:
            raise ModelFileError(
                f"the tensor {name!r:.100} has the dtype {dtype}; expected {', '.join(_DTYPES)}"
            )
        return tuple(part.get_shape()), _DTYPES[dtype]


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
    try:
        with safe_open(path, framework="np") as file:
            description = _parse(path, (file.metadata() or {}).get("acluster"))
            yield description, Tensors(file)
    except SafetensorError as error:
        raise ModelFileError(f"{_describe_other_file(path)}: {error}") from None


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
        raise ModelFileError(f"{path} is damaged: its description is not JSON: {error}") from None
    version = description.get("format_version") if isinstance(description, dict) else None
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{path} is damaged: its format version is {version!r:.50}.")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has format version {version}; this version of acluster reads versions up to "
            f"{FORMAT_VERSION}. Upgrade acluster, or save the model with an older version."
        )
    return description
