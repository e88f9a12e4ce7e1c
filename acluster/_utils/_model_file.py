"""One file with a model: tensors and a description, in the safetensors format.

Nothing in such a file is a program: the tensors are bytes with a shape, the description is JSON,
in the metadata of the file under "acluster".
"""

from __future__ import annotations

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

__all__ = ["FORMAT_VERSION", "ModelFileError", "Tensors", "open_model", "write_model"]

FORMAT_VERSION = 1
_DTYPES = {"F32": "float32", "F64": "float64", "I64": "int64"}


class ModelFileError(ValueError):
    """A file is no model, or a damaged one, or one of a later version."""


def write_model(
    path: str | os.PathLike[str], description: dict[str, Any], tensors: dict[str, NDArray[Any]]
) -> None:
    """Write the file; what was there before is replaced once the new one is whole."""
    path = Path(os.path.realpath(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to write {path.name} to.")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is a device or a pipe, which a model file would replace.")
    text = json.dumps({"format_version": FORMAT_VERSION, **description})
    unfinished = path.with_name(f".{path.name[:50]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        unfinished.write_bytes(save(tensors, metadata={"acluster": text}))
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class Tensors(Mapping[str, Any]):
    """The tensors of an open file, by name; each is read when it is asked for."""

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
            raise ModelFileError(f"tensor {name!r:.100} is not finite")
        return tensor

    def spec(self, name: str) -> tuple[tuple[int, ...], str]:
        """The shape and the dtype of a tensor, without reading it."""
        if name not in self._names:
            raise ModelFileError(f"it lacks the tensor {name!r:.100}")
        part = self._file.get_slice(name)
        dtype = part.get_dtype()
        if dtype not in _DTYPES:
            raise ModelFileError(
                f"tensor {name!r:.100} is of type {dtype}; a model has {', '.join(_DTYPES)}"
            )
        return tuple(part.get_shape()), _DTYPES[dtype]


@contextmanager
def open_model(path: str | os.PathLike[str]) -> Iterator[tuple[dict[str, Any], Tensors]]:
    """The description and the tensors of a file.

    Raises
    ------
    ModelFileError
        If the file is no model, is damaged, or has a later format.

    OSError
        If it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(
            f"{path} is a folder, and a model is one file. A store of feature sets is opened by "
            "acluster.open_feature_sets."
        )
    try:
        with safe_open(path, framework="np") as file:
            description = _parse(path, (file.metadata() or {}).get("acluster"))
            yield description, Tensors(file)
    except SafetensorError as error:
        raise ModelFileError(f"{_kind(path)}: {error}") from None


def _kind(path: Path) -> str:
    """What a file seems to be that is no safetensors file."""
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or (start[:1] == b"\x80" and start[1:] <= b"\x05"):
        return (
            f"{path} is a pickle, or an archive of one, which could run any program when loaded; "
            "if you know who wrote it, use joblib.load, or torch.load. Model files are what "
            "save(path) of a classifier writes"
        )
    return f"{path} is no model file, or is damaged or cut short"


def _parse(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise ModelFileError(
            f"{path} is a safetensors file of something else: it has no 'acluster' in its "
            "metadata. save(path) of a classifier writes model files."
        )
    try:
        description = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: its description is no JSON: {error}") from None
    version = description.get("format_version") if isinstance(description, dict) else None
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{path} is damaged: its format version is {version!r:.50}.")
    if version > FORMAT_VERSION:
        raise ModelFileError(
            f"{path} has the format version {version}, and this acluster reads versions up to "
            f"{FORMAT_VERSION}. Upgrade acluster, or save the model with an older one."
        )
    return description
