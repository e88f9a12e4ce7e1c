"""What a reader of files returns for one item."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Item:
    """The local features of an item, and where they lie in it.

    Parameters
    ----------
    features : ndarray of shape (L, M), or dict of str to such arrays
        The local features, by modality if there are several. A modality that the item lacks is
        left out.

    places : dict of str to ndarray of shape (L,), or dict of str to such dicts
        One number per local feature and axis, by modality if there are several: ``"x"`` and
        ``"y"``, in pixels of the full resolution, and ``"mpp"``, micrometers per pixel, if the
        file tells it. Empty if the file has no coordinates.
    """

    features: Any
    places: dict[str, Any] = field(default_factory=dict)


def check_features(shape: tuple[int, ...], dtype: Any, name: str) -> None:
    """Check that an array can hold the local features of an item, before it is read.

    Parameters
    ----------
    shape, dtype : tuple of int, and dtype
        What the file says about the array. A first axis of size 1 before two others is allowed:
        some extractors keep the axis of their batch.

    name : str
        The name of the array in error messages.

    Raises
    ------
    ValueError
        If the array does not have two dimensions, or is not made of real numbers.
    """
    if getattr(dtype, "kind", "") not in "biuf" or getattr(dtype, "names", None):
        raise ValueError(
            f"{name} is not an array of numbers: its dtype is {dtype}. Convert it to float32."
        )
    if len(shape) != 2 and not (len(shape) == 3 and shape[0] == 1):
        raise ValueError(
            f"{name} has shape {tuple(shape)}; an item needs two dimensions, (number of local "
            "features, number of columns)."
        )


def as_places(coords: NDArray[Any], n_rows: int, name: str) -> dict[str, NDArray[Any]]:
    """Convert coordinates of shape (L, 2) or (1, L, 2) to places, without changing their dtype.

    Raises
    ------
    ValueError
        If there is not one pair of numbers per local feature.
    """
    coords = coords[0] if coords.ndim == 3 and len(coords) == 1 else coords
    if coords.shape != (n_rows, 2) or coords.dtype.kind not in "iuf":
        raise ValueError(
            f"{name} has shape {coords.shape} and dtype {coords.dtype}; coordinates need the shape "
            f"({n_rows}, 2), a pair of numbers (x, y) per local feature."
        )
    x, y = np.ascontiguousarray(coords.T)
    return {"x": x, "y": y}


def without_batch_axis(features: NDArray[Any]) -> NDArray[Any]:
    """Return features of shape (L, M) from (L, M) or (1, L, M)."""
    return features[0] if features.ndim == 3 else features


def missing_package(package: str, suffix: str) -> ImportError:
    """Return the error about a package that reading a kind of file needs."""
    return ImportError(
        f"Reading {suffix} files needs the package {package}. Install it with "
        "pip install 'acluster[formats]'."
    )
