"""The kinds of files that hold one item each: a new kind is one row here, and one function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from acluster.formats._hdf5 import read_hdf5
from acluster.formats._item import Item
from acluster.formats._numpy import DAMAGE, read_npy, read_npz
from acluster.formats._torch import read_torch

READERS: dict[str, Callable[[Path], Item]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".h5": read_hdf5,
    ".hdf5": read_hdf5,
    ".pt": read_torch,
    ".pth": read_torch,
}


def read_item(path: str | Path) -> Item:
    """Read the local features of one item, and their coordinates, from a file.

    Parameters
    ----------
    path : str or path
        A file that ends with

        - ``.npy``: an array of shape (L, M);
        - ``.npz``: the array ``features`` of that shape, or a single array under another name;
        - ``.h5`` or ``.hdf5``: the dataset ``features``, as CLAM and TRIDENT write it (with the
          package h5py);
        - ``.pt`` or ``.pth``: a tensor, or a dict with the tensor ``features``.

        All but the first may also have ``coords`` of shape (L, 2). A leading axis of size 1, which
        some extractors keep from their batch, is dropped from HDF5 files and tensors.

    Returns
    -------
    Item
        With the attributes `features`, an array of shape (L, M), and `places`, a dict of axes to
        arrays of shape (L,), which is empty without coordinates.

    Raises
    ------
    FileNotFoundError
        If there is no such file.

    ImportError
        If the package that reads the file is not installed.

    ValueError
        If the file is of another kind, is damaged, or does not hold what is described above.

    Notes
    -----
    No reader can run code from a file: arrays of Python objects are refused, and tensors are
    loaded with ``weights_only=True``.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from acluster.formats import read_item
    >>> folder = tempfile.TemporaryDirectory()
    >>> coords = np.arange(6).reshape(3, 2)
    >>> np.savez(f"{folder.name}/a.npz", features=np.ones((3, 2)), coords=coords)
    >>> item = read_item(f"{folder.name}/a.npz")
    >>> item.features.shape, item.places["x"]
    ((3, 2), array([0, 2, 4]))
    >>> folder.cleanup()
    """
    path = Path(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(
            f"{path} is not of a kind that is read: its name must end with {', '.join(READERS)}."
        )
    # Opening a pipe would wait for another process.
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a folder, a device or a pipe, not a {path.suffix} file.")
    with damage_named(path):
        return read(path)


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn the errors of libraries about a damaged file into a ValueError that names the file."""
    try:
        yield
    except DAMAGE as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        # The libraries raise errors of many classes for damaged files, and do not name them.
        reason = f"{error!s:.300}" or type(error).__name__
        raise ValueError(f"{path} cannot be read as a {path.suffix} file: {reason}") from None
