"""Names of stores and modalities: directories that every operating system can have."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from acluster.sets._store._format import COLUMNS

ENDINGS = ("", "_row_size", "_offsets")
_MAX_BYTES = 200  # with the ending, a directory of most file systems may have 255
_NO_NAME = rf"|[.].*|__.*|zarr\.json|{'|'.join(COLUMNS)}|.*_(row_size|offsets)|.*[/\\\0].*"
if os.name == "nt":
    _NO_NAME += r"|(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[. ]|.*[\x01-\x1f:*?\"<>|].*"
_UNUSABLE = re.compile(_NO_NAME, re.DOTALL | re.IGNORECASE)


def portable(name: str) -> str:
    """Return what a file system that ignores case takes a name for."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_names(names: Iterable[Any], item: str, taken: Iterable[str]) -> None:
    """Check that a store can have new modalities of these names.

    Parameters
    ----------
    names : iterable of object
        The names.

    item : str
        The name of the item in error messages.

    taken : iterable of str
        The names that are in the store already, of modalities, columns, files and so on.

    Raises
    ------
    ValueError
        If some operating system cannot have a directory of this name, or not beside the others.
    """
    known = {portable(other): other for other in taken}
    for name in names:
        if not isinstance(name, str) or _UNUSABLE.fullmatch(name) or not _fits(name):
            raise ValueError(
                f"{item}, modality {name!r}: the name of a modality must be a non-empty string "
                f"that can name a directory, of at most {_MAX_BYTES} bytes of UTF-8, without '/' "
                "and '\\'. It must not begin with '.' or '__', end with _row_size or _offsets, or "
                f"be one of {', '.join(COLUMNS)}. Rename it."
            )
        for ending in ENDINGS:
            clash = known.get(portable(f"{name}{ending}"))
            if clash is not None:
                raise ValueError(
                    f"{item}, modality {name!r}: its name clashes with {clash!r}, which is in the "
                    "store. Names must differ in more than case. Rename the modality, or remove "
                    "the other if it is not needed."
                )
        known[portable(name)] = name


def _fits(name: str) -> bool:
    try:
        return len(name.encode()) <= _MAX_BYTES
    except UnicodeEncodeError:  # a part of a name that is not UTF-8
        return False


def local_path(path: str) -> str:
    """Return the absolute path of the directory of a store."""
    if "://" in path:
        raise ValueError(
            f"{path!r} is an address, but this is written to local directories. Write to one, "
            "and copy it."
        )
    if path.lower().endswith(".zip"):
        raise ValueError(
            f"{path!r} is the name of an archive, but a directory is written. Write to "
            f"{path[:-4] + '.zarr'!r}, and pack it afterwards if you need one file."
        )
    return os.path.realpath(path)
