"""Names of modalities: of those in memory, in a store, and in a new store.

Each rule is stricter than the one before. A name in memory need not suit a store; one in a store
must not be that of another array; and one that is written must suit every operating system.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

COLUMNS = ("label", "id", "group", "weight")
UNNAMED = "features"  # the name of the modality of sets that have only one
_PLACES = "_places"
ENDINGS = ("", "_row_size", "_offsets", _PLACES)
_MAX_BYTES = 200  # with the ending, a directory of most file systems may have 255
_NO_ARRAY = re.compile(rf"[\\\0]|^\.+\Z|^__|_(row_size|offsets)\Z|^({'|'.join(COLUMNS)})\Z")
_NO_DIRECTORY = r"\..*|zarr\.json"
if os.name == "nt":
    _NO_DIRECTORY += r"|(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[. ]|.*[\x01-\x1f:*?\"<>|].*"
_UNPORTABLE = re.compile(_NO_DIRECTORY, re.DOTALL | re.IGNORECASE)


def check_modality_names(names: Iterable[Any]) -> None:
    """Raise a ValueError if a name cannot be the name of a modality."""
    for name in names:
        if not _is_name(name):
            raise ValueError(
                f"{name!r:.80} is not a valid name of a modality; use non-empty strings without "
                "'/'."
            )


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name != "" and "/" not in name


def places_name(modality: str) -> str:
    """Return the name of the array of a modality's places."""
    return f"{modality}{_PLACES}"


def can_name_array(name: str) -> bool:
    """Whether a modality of this name can be in a store: no other array may have it.

    The ending of places is allowed, since stores of version 1 may have such modalities.
    """
    return _is_name(name) and not _NO_ARRAY.search(name)


def portable(name: str) -> str:
    """Return what a file system that ignores case takes a name for."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def check_new_names(names: Iterable[Any], item: str, taken: Iterable[str]) -> None:
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
        if not _is_name(name) or not _is_portable(name):
            raise ValueError(
                f"{item}, modality {name!r}: the name of a modality must be a non-empty string "
                f"that can name a directory, of at most {_MAX_BYTES} bytes of UTF-8, without '/' "
                "and '\\'. It must not begin with '.' or '__', end with _row_size, _offsets or "
                f"_places, or be one of {', '.join(COLUMNS)}. Rename it."
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


def _is_portable(name: str) -> bool:
    known = portable(name)
    if not can_name_array(known) or known.endswith(_PLACES) or _UNPORTABLE.fullmatch(name):
        return False
    try:
        return len(name.encode()) <= _MAX_BYTES
    except UnicodeEncodeError:  # a part of a name that is not UTF-8
        return False
