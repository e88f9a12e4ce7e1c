"""Read arrays of numbers from .npy files and .npz archives of unknown origin.

The sizes that headers claim are compared with those of the files before memory is reserved, and
pickled arrays, which could run code, are never loaded.
"""

from __future__ import annotations

import io
import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from acluster.formats._item import COORDS, FEATURES, Item, as_places, check_features, is_too_large

_MAX_HEADER_BYTES = 10_000  # as in NumPy
# What zipfile, zlib and the parser of .npy headers raise for damaged files.
DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, ValueError, TypeError, LookupError, SyntaxError,
    OverflowError, AttributeError, RuntimeError, MemoryError, AssertionError,
    tokenize.TokenError, NotImplementedError,
)  # fmt: skip


def read_npy(path: Path) -> Item:
    """Read the features of an item from a .npy file.

    Parameters
    ----------
    path : path
        A file with one array of shape (L, M).

    Returns
    -------
    Item
        Without places.

    Raises
    ------
    ValueError
        If the file does not hold exactly one array of numbers with two dimensions.
    """
    with path.open("rb") as file:
        return Item(_read_array(file, path.stat().st_size, str(path)))


def read_npz(path: Path) -> Item:
    """Read the features and the coordinates of one item from an .npz archive.

    Parameters
    ----------
    path : path
        An archive with the array ``features`` of shape (L, M), or with one array under another
        name, and perhaps ``coords`` of shape (L, 2).

    Returns
    -------
    Item
        With the places x and y if there are coordinates.

    Raises
    ------
    ValueError
        If the archive has no or several arrays of features, or one that is not valid.
    """
    archive = Archive(path)
    names = [name for name in archive.names if name != COORDS]
    if FEATURES not in names and len(names) != 1:
        raise ValueError(
            f"{path} has the arrays {names!s:.200}; the archive of one item needs the array "
            f"{FEATURES!r}, or exactly one. If each array is an item, pass the archive instead of "
            "its folder."
        )
    return archive.read_item(FEATURES if FEATURES in names else names[0], COORDS)


class Archive:
    """The arrays in an .npz archive, which are read one by one and never extracted to files.

    Parameters
    ----------
    path : path
        The archive.

    Attributes
    ----------
    names : list of str
        The names of the arrays, in the order of the archive.

    Raises
    ------
    ValueError
        If the file is not an archive, or has other members than arrays with different names.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = zipfile.ZipFile(path)
        except DAMAGE as error:
            raise ValueError(
                f"{path} is not an .npz archive, as numpy.savez writes it: {error}"
            ) from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in self._file.infolist():
            if not member.is_dir():
                self._add(member)
        self._check_size()

    def _add(self, member: zipfile.ZipInfo) -> None:
        name = member.filename.removesuffix(".npy")
        problem = None
        if name in self._members:
            problem = "is in it twice; rename or remove one"
        elif name == member.filename:
            problem = "is not a .npy file; remove it"
        elif member.flag_bits & 1:
            problem = "is encrypted; write it without a password"
        elif member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = "is not compressed as numpy.savez does it; use numpy.savez_compressed"
        if problem:
            raise ValueError(f"{self._path}: the member {member.filename!r:.100} {problem}.")
        self._members[name] = member

    def _check_size(self) -> None:
        total, size = sum(m.file_size for m in self._members.values()), self._path.stat().st_size
        if is_too_large(total, size):
            raise ValueError(
                f"{self._path} has {size} bytes, but its members claim to have {total}: it is "
                "damaged or harmful. If its arrays are genuine, save them as .npy files."
            )

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return [*self._members]

    def load(self, name: str) -> NDArray[Any]:
        """Load the array of this name."""
        member = self._members[name]
        try:
            file = self._file.open(member)
        except DAMAGE as error:
            raise _not_an_array(f"{self._path}: {name:.100}", error) from None
        with file:
            return _read_array(file, member.file_size, f"{self._path}: {name:.100}")

    def read_item(self, features: str, coords: str) -> Item:
        """Read an item from the arrays of these names; it has no places without coordinates."""
        values = self.load(features)
        if coords not in self._members:
            return Item(values)
        title = f"{self._path}: {coords:.100}"
        return Item(values, as_places(self.load(coords), len(values), title))


def _read_array(file: IO[bytes], size: int, name: str) -> NDArray[Any]:
    """Read the array in a .npy file of `size` bytes; `name` begins the error messages."""
    try:
        shape, dtype, n_header = _read_header(file)
    except DAMAGE as error:
        raise _not_an_array(name, error) from None
    check_features(shape, dtype, name, allows_batch_axis=False)
    expected = math.prod(shape) * dtype.itemsize
    if min(shape) < 0 or n_header + expected != size:
        raise ValueError(
            f"{name} is not an array of numbers: its header claims the shape {shape}, which takes "
            f"{expected} bytes, but it has {size - n_header}. Save the array again."
        )
    try:
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)
    except DAMAGE as error:
        raise _not_an_array(name, error) from None


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return the shape, the dtype and the number of bytes of a header."""
    head = io.BytesIO(file.read(_MAX_HEADER_BYTES))
    # Version 3 is for names of columns, which arrays of numbers do not have.
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(head)
    if version not in read:
        raise ValueError(f"its format version is {version}")
    shape, _, dtype = read[version](head)
    return shape, dtype, head.tell()


def _not_an_array(name: str, error: BaseException) -> ValueError:
    # NumPy quotes the header in full, and advises to load pickles.
    reason = f"{error!s:.200}" or type(error).__name__
    return ValueError(f"{name} is not an array of numbers: {reason}")
