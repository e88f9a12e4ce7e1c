"""Read items from HDF5, in the layouts of CLAM and TRIDENT."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.formats._item import (
    COORDS,
    FEATURES,
    Item,
    as_places,
    check_features,
    is_too_large,
    missing_package,
    without_batch_axis,
)

_MPP = ("mpp", "level0_mpp")  # attributes of coords, in micrometers per pixel


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
    with opened_hdf5(path) as file:
        return read_group(file, str(path))


@contextmanager
def opened_hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; errors of the library about it are ValueErrors.

    Raises
    ------
    ImportError
        If h5py is not installed.

    ValueError
        If the file is not in HDF5, or is damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise missing_package("h5py", path.suffix) from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # of the HDF5 library, for damaged files
        raise ValueError(f"{path} cannot be read as an HDF5 file: {error!s:.300}") from None


def read_group(group: Any, title: str) -> Item:
    """Read the datasets ``features`` and, if there is one, ``coords`` of a group or a file.

    `title` names the group in error messages.
    """
    dataset = find_dataset(group, FEATURES, title)
    if dataset is None:
        raise ValueError(
            f"{title} has no dataset {FEATURES!r}; it has {names_in(group, title)[:10]}. Write the "
            "local features of one item to it, of shape (number of local features, number of "
            "columns)."
        )
    features = read_features(dataset, f"{title}: {FEATURES}")
    coords = find_dataset(group, COORDS, title)
    if coords is None:
        return Item(features)
    places = as_places(coords[...], len(features), f"{title}: {COORDS}")
    mpp = next((coords.attrs[name] for name in _MPP if name in coords.attrs), None)
    if mpp is not None:
        places["mpp"] = np.full(len(features), float(mpp))
    return Item(features, places)


def names_in(group: Any, title: str) -> list[str]:
    """Return the names in a group.

    Raises
    ------
    ValueError
        If one is not encoded in UTF-8, as ids are.
    """
    names = [*group]
    # h5py gives them as bytes.
    undecoded = next((name for name in names if isinstance(name, bytes)), None)
    if undecoded is not None:
        raise ValueError(
            f"{title} has the name {undecoded!r:.100}, which is not encoded in UTF-8. Rename it "
            "with h5py: file.move(old, new), where old is its path in bytes."
        )
    return names


def read_features(dataset: Any, title: str) -> NDArray[Any]:
    """Read a dataset of local features, of shape (L, M) or (1, L, M)."""
    check_features(dataset.shape or (), dataset.dtype, title)
    return without_batch_axis(dataset[...])


def find_dataset(group: Any, name: str, title: str) -> Any:
    """Return a dataset whose data lie in this file and have a plausible size, or None."""
    import h5py

    if name not in group:
        return None
    is_elsewhere = isinstance(group.get(name, getlink=True), h5py.ExternalLink)
    dataset: Any = None if is_elsewhere else group[name]
    # A file of unknown origin must not make us read other files, also not by a link to a link.
    is_own = isinstance(dataset, h5py.Dataset) and dataset.file.filename == group.file.filename
    if not is_own or dataset.is_virtual or dataset.external:
        raise ValueError(
            f"{title}: {name} is not a dataset in this file, but a group, or a link to another "
            "file. Write the array itself."
        )
    n_bytes = math.prod(dataset.shape or ()) * dataset.dtype.itemsize
    n_stored = dataset.id.get_storage_size()
    if is_too_large(n_bytes, n_stored):
        raise ValueError(
            f"{title}: {name} claims the shape {dataset.shape}, which takes {n_bytes} bytes, but "
            f"the file has {n_stored} bytes of it: it is damaged or harmful."
        )
    return dataset
