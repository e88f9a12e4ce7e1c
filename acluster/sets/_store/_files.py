"""The files of a store, checked before zarr reads them.

A store may come from a stranger. A pipe or a device in place of a file would be waited for without
end, a link may point to any file of the machine, and a few bytes may claim to be gigabytes.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections import Counter
from typing import Any

from acluster.sets._store._errors import RemoteError, StoreError

_MAX_JSON_BYTES = 1 << 26
_BYTES_PER_STEP = 1 << 24  # of a member of an archive
# A member that has more bytes than this, and so many times what is stored, is no data of numbers.
_FREE_BYTES, _FREE_JSON_BYTES, _MAX_RATIO = 1 << 27, 1 << 23, 200


def local_root(store: Any) -> str | None:
    """Return the directory of a zarr store if its files are plain local files, else None."""
    # Not isinstance: a class derived from LocalStore may transform the bytes of its files.
    return str(store.root) if type(store).__name__ == "LocalStore" else None


def is_remote(store: Any) -> bool:
    """Whether a store of zarr is the wrapper of object storage, judged without importing zarr."""
    return type(store).__name__ == "RemoteStore"


def file_status(root: str, key: str) -> os.stat_result | None:
    """Return the status of a file, or None if there is none.

    Parameters
    ----------
    root : str
        The directory of the store.

    key : str
        The path of the file in it.

    Raises
    ------
    StoreError
        If this is not a regular file, or a symbolic link leads out of the store.
    """
    path = root
    try:
        for part in key.split("/"):
            path = f"{path}/{part}"
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                _check_link(root, path)
                status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # a ValueError for a name with a null character
        raise StoreError(f"{path!r} cannot be read: {error}. Restore it.") from error
    check_regular(status, path)
    return status


def check_regular(status: os.stat_result, path: str) -> None:
    """Check that what was found at a path is a regular file."""
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(
            f"{path} is not a regular file, but a directory, a pipe or a device. Restore the file, "
            "or write the store again."
        )


def _check_link(root: str, path: str) -> None:
    target, inside = os.path.realpath(path), os.path.realpath(root)
    if os.path.commonpath([target, inside]) != inside:
        raise StoreError(
            f"{path} is a symbolic link to {target}, outside of the store. Links that lead out of "
            "a store are not followed; copy the file into it."
        )


def knows_sizes(store: Any) -> bool:
    """Whether the sizes of files are known without reading them: of local ones and archives."""
    return local_root(store) is not None or (type(store).__name__ == "ZipStore" and store._is_open)


def file_size(store: Any, key: str) -> int | None:
    """Return the size of a file in bytes, or None if there is no such file.

    Parameters
    ----------
    store : zarr.abc.store.Store
        A store for which `knows_sizes` is true.

    key : str
        The path of the file in it.
    """
    root = local_root(store)
    if root is not None:
        status = file_status(root, key)
        return None if status is None else status.st_size
    try:
        return int(store._zf.getinfo(key).file_size)
    except KeyError:
        return None


class _Archive(zipfile.ZipFile):
    """An archive whose members are decompressed up to the sizes that its directory declares."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        file = super().open(*args, **kwargs)
        file.MAX_N = _BYTES_PER_STEP  # type: ignore[attr-defined]  # else all in one step
        return file


def bound_archive(store: Any) -> list[str]:
    """Bound the memory that reading from an open ZipStore takes; return the names of its members.

    Raises
    ------
    StoreError
        If members have the same name, claim far more bytes than are stored, or are compressed in
        a way that cannot be bounded.
    """
    if not store._is_open:
        store._sync_open()
    members = store._zf.infolist()
    for info in members:
        is_json = info.filename.endswith(".json")
        most = max(_FREE_JSON_BYTES if is_json else _FREE_BYTES, _MAX_RATIO * info.compress_size)
        if info.file_size > most:
            raise StoreError(
                f"the archive has a member {info.filename!r} of {info.compress_size} bytes that "
                f"claims to hold {info.file_size}"
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise StoreError(
                f"the archive has a member {info.filename!r} that is neither stored nor deflated"
            )
    names = [info.filename for info in members]
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise StoreError(f"the archive has several members {twice[0]!r}")
    store._zf.__class__ = _Archive
    return names


def read_json(store_path: Any) -> Any:
    """Read zarr.json below a path of a zarr store.

    Parameters
    ----------
    store_path : zarr.storage.StorePath
        The path of an array or a group.

    Returns
    -------
    object
        None if there is no such file.

    Raises
    ------
    StoreError
        If it is not a file of JSON.
    """
    from zarr.core.sync import sync

    key = f"{store_path.path}/zarr.json".lstrip("/")
    size = file_size(store_path.store, key) if knows_sizes(store_path.store) else 0
    if size is None:
        return None
    if size > _MAX_JSON_BYTES:
        raise StoreError(f"{key} has {size} bytes, but metadata have {_MAX_JSON_BYTES} at most.")
    try:
        root = local_root(store_path.store)
        if root is None:
            buffer = sync((store_path / "zarr.json").get())
            return None if buffer is None else json.loads(buffer.to_bytes())
        with open(f"{root}/{key}", "rb") as file:
            return json.load(file)
    except RemoteError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{key} cannot be read: {error}. Restore it.") from error


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
