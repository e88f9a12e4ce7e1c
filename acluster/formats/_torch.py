"""Read files of torch.save with one item each; they cannot run code."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acluster.formats._item import (
    COORDS,
    FEATURES,
    MAX_FREE_BYTES,
    Item,
    as_places,
    check_features,
    is_too_large,
    without_batch_axis,
)
from acluster.sets import to_numpy


def read_torch(path: Path) -> Item:
    """Read the features and the coordinates of an item.

    Parameters
    ----------
    path : path
        A file that ``torch.save`` wrote, with a tensor of shape (L, M), or a dict with the tensor
        ``features``, or with one tensor of that shape, and perhaps ``coords`` of shape (L, 2).

    Returns
    -------
    Item
        With the places x and y if there are coordinates.

    Raises
    ------
    ValueError
        If the file is damaged, holds other objects, or has no or several such tensors.

    Notes
    -----
    Files are loaded with ``weights_only=True``, which creates nothing but tensors, numbers, texts
    and containers of them.
    """
    import torch

    _check_size(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        # The unpickler of torch raises errors of any class for damaged files. Its advice to load
        # without weights_only, which may run code, is left out.
        reason = f"{error!s}".split("\n")[0]
        raise ValueError(
            f"{path} cannot be read as a file of torch.save with tensors alone: {reason:.200} "
            "Save the tensor itself, torch.save(features, path)."
        ) from None
    name, tensor, coords = _find_tensors(loaded, path)
    _check_strides(tensor, name)
    features = to_numpy(tensor)
    check_features(features.shape, features.dtype, name)
    features = without_batch_axis(features)
    if coords is None:
        return Item(features)
    return Item(features, as_places(to_numpy(coords), len(features), f"{path}: {COORDS}"))


def _check_size(path: Path) -> None:
    """Check what the members of the archive claim to have, before they fill memory."""
    if not zipfile.is_zipfile(path):
        return  # the format before torch 1.6, which is not compressed
    with zipfile.ZipFile(path) as file:
        total = sum(member.file_size for member in file.infolist())
    if is_too_large(total, path.stat().st_size):
        raise ValueError(
            f"{path} has {path.stat().st_size} bytes, but claims to have {total}: it is damaged or "
            "harmful."
        )


def _check_strides(tensor: Any, name: str) -> None:
    """Check that a tensor has its own numbers: one number may stand for any number of rows."""
    if str(tensor.layout) != "torch.strided" or tensor.is_nested:
        return  # the conversion to numpy rejects it
    n_bytes = tensor.numel() * tensor.element_size()
    if n_bytes > max(MAX_FREE_BYTES, tensor.untyped_storage().nbytes()):
        raise ValueError(
            f"{name} claims the shape {tuple(tensor.shape)}, but the file has fewer numbers. Save "
            "tensor.contiguous()."
        )


def _find_tensors(loaded: Any, path: Path) -> tuple[str, Any, Any]:
    """Return the name of the features in messages, the features, and the coordinates or None."""
    if hasattr(loaded, "detach"):
        return str(path), loaded, None
    if not isinstance(loaded, Mapping):
        raise ValueError(
            f"{path} holds a {type(loaded).__name__}; expected a tensor of shape (number of local "
            "features, number of columns), or a dict with it."
        )
    tensors = {name: value for name, value in loaded.items() if hasattr(value, "detach")}
    coords = tensors.pop(COORDS, None)
    if FEATURES not in tensors:
        tensors = {name: value for name, value in tensors.items() if value.ndim in (2, 3)}
        if len(tensors) != 1:
            raise ValueError(
                f"{path} holds a dict with the keys {[*loaded]!s:.200}; it needs the tensor "
                f"{FEATURES!r}, or exactly one tensor with two dimensions."
            )
    name = FEATURES if FEATURES in tensors else next(iter(tensors))
    return f"{path}: {name!s:.80}", tensors[name], coords
