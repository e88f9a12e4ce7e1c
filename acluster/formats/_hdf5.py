"""Read HDF5 files with one item each, in the layouts of CLAM and TRIDENT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from acluster.formats._item import (
    Item,
    as_places,
    check_features,
    missing_package,
    without_batch_axis,
)

_FEATURES, _COORDS = "features", "coords"
_MPP = ("mpp", "level0_mpp")  # attributes of coords, in micrometers per pixel
# A dataset that would fill more than this, and so many times what it takes in the file, is no data
# of numbers: chunks that are absent or compressed may claim any size.
_MAX_FREE_BYTES, _MAX_RATIO = 1 << 27, 200


def read_hdf5(path: Path) -> Item:
    """Read the features and the coordinates of an item.

    Parameters
    ----------
    path : path
        A file with the dataset ``features`` of shape (L, M), and perhaps ``coords`` of shape
        (L, 2). A leading axis of size 1 is dropped from both.

    Returns
    -------
    Item
        With the places x and y if there are coordinates.

    Raises
    ------
    ImportError
        If h5py is not installed.

    ValueError
        If the file is not in HDF5, or a dataset is not as described.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing_package("h5py", path.suffix) from error
    try:
        with h5py.File(path, "r") as file:
            return _read_item(file, path)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # of the HDF5 library, for damaged files
        raise ValueError(f"{path} cannot be read as an HDF5 file: {error!s:.300}") from None


def _read_item(file: Any, path: Path) -> Item:
    dataset = _dataset(file, _FEATURES, path)
    if dataset is None:
        raise ValueError(
            f"{path} has no dataset {_FEATURES!r}; it has {[*file][:10]}. Write the local features "
            "of one item to it, of shape (number of local features, number of columns)."
        )
    check_features(dataset.shape or (), dataset.dtype, f"{path}: {_FEATURES}")
    features = without_batch_axis(dataset[...])
    coords = _dataset(file, _COORDS, path)
    if coords is None:
        return Item(features)
    places = as_places(coords[...], len(features), f"{path}: {_COORDS}")
    mpp = next((coords.attrs[name] for name in _MPP if name in coords.attrs), None)
    if mpp is not None:
        places["mpp"] = np.full(len(features), float(mpp))
    return Item(features, places)


def _dataset(file: Any, name: str, path: Path) -> Any:
    """Return a dataset whose data lie in this file and have a plausible size, or None."""
    import h5py

    if name not in file:
        return None
    link = file.get(name, getlink=True)
    dataset = None if isinstance(link, h5py.ExternalLink) else file[name]
    # A file of unknown origin must not make us read other files.
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(
            f"{path}: {name} is not a dataset in this file, but a group, or a link to another "
            "file. Write the array itself."
        )
    n_bytes = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    n_stored = dataset.id.get_storage_size()
    if n_bytes > max(_MAX_FREE_BYTES, _MAX_RATIO * n_stored):
        raise ValueError(
            f"{path}: {name} claims the shape {dataset.shape}, which takes {n_bytes} bytes, but "
            f"the file has {n_stored} bytes of it: it is damaged or harmful."
        )
    return dataset
