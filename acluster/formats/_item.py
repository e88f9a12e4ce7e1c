"""What a reader of files returns for one item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

FEATURES, COORDS = "features", "coords"  # the names of an item's arrays in its file
# A file whose parts are absent or compressed may claim any size. Numbers that take more bytes than
# the first limit do not compress by more than the second.
MAX_FREE_BYTES, _MAX_RATIO = 1 << 27, 200


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

    @classmethod
    def of_modalities(cls, items: Mapping[str, Item]) -> Self:
        """Return the item whose modalities have been read as items of their own.

        Parameters
        ----------
        items : mapping of str to Item
            Each modality as an item, by the name of the modality.

        Returns
        -------
        Item
        """
        return cls(
            {name: item.features for name, item in items.items()},
            {name: item.places for name, item in items.items() if item.places},
        )


def is_too_large(n_bytes: int, n_stored: int) -> bool:
    """Whether a file of `n_stored` bytes claims to hold more than data of numbers can."""
    return n_bytes > max(MAX_FREE_BYTES, _MAX_RATIO * n_stored)


def check_features(
    shape: tuple[int, ...], dtype: Any, name: str, *, allows_batch_axis: bool = True
) -> None:
    """Check that an array can hold the local features of an item, before it is read.

    Parameters
    ----------
    shape, dtype : tuple of int, and dtype
        What the file says about the array.

    name : str
        The name of the array in error messages.

    allows_batch_axis : bool, default=True
        Whether a first axis of size 1 before two others is allowed: some extractors keep the axis
        of their batch.

    Raises
    ------
    ValueError
        If the array does not have two dimensions, or is not made of real numbers.
    """
    if getattr(dtype, "kind", "") not in "biuf" or getattr(dtype, "names", None):
        raise ValueError(
            f"{name} is not an array of numbers: its dtype is {dtype}. Convert it to float32."
        )
    is_batch = allows_batch_axis and len(shape) == 3 and shape[0] == 1
    if len(shape) != 2 and not is_batch:
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
