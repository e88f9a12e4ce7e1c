"""Where a writer writes to: a directory, or object storage, which has neither locks nor renames."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acluster.sets._store._addresses import Address, is_address, local_or_address
from acluster.sets._store._errors import StoreError
from acluster.sets._store._files import local_path
from acluster.sets._store._lock import WriteLock
from acluster.sets._store._reader import is_zarr_store, open_group, store_of
from acluster.sets._store._sync import sync_directory

if TYPE_CHECKING:
    import zarr

_LOCK_FILE = ".writer.lock"


def target_of(path: Any) -> Target:
    """Return the target for a path, an address, a store of zarr or a session of icechunk.

    Raises
    ------
    ValueError
        If an address holds credentials, is read-only, or names an archive.
    """
    if not is_zarr_store(path):
        found = local_or_address(path)
        if not is_address(found):
            return LocalTarget(found if is_address(path) else os.fspath(path))
        if found.startswith("http"):
            raise ValueError(
                f"{found!r} is the address of a web server, which is only read. Write to a "
                "directory, or to an address that begins with s3:// or gs://."
            )
        from acluster.sets._store._remote import connected

        return RemoteTarget(connected(Address(found), read_only=False))
    from zarr.storage import LocalStore

    from acluster.sets._store._remote import wrapped

    store = store_of(path)
    if type(store) is LocalStore:
        return LocalTarget(str(store.root))
    return RemoteTarget(wrapped(store, read_only=False))


@contextmanager
def transaction(target: Target) -> Iterator[tuple[Any, zarr.Group]]:
    """Open the group of a store for writing; nothing is written to it after the block."""
    import zarr

    if not target.has_group():
        raise FileNotFoundError(f"The store {target.name} has been removed or renamed.")
    store = target.store()
    try:
        # Consolidated metadata, which other programs may have added, would be out of date
        # after the first change. zarr leaves them out when it writes the group's attributes.
        yield store, zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
    finally:
        store.revoke()


class LocalTarget:
    """A directory.

    Parameters
    ----------
    path : str
        The directory, as the user wrote it.
    """

    def __init__(self, path: str) -> None:
        self.name = path  # in messages
        # The working directory may change before the next item.
        self._root = Path(local_path(path))
        self.key = str(self._root)  # the same for all writers of this directory

    def make(self, resume: bool) -> bool:
        """Make the directory, and return whether it is new."""
        self._root.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._root.mkdir()
        except FileExistsError:
            if not resume:
                raise _exists(self.name) from None
            if not self._root.is_dir():
                raise StoreError(
                    f"{self.name} is not a store of feature sets. Choose another path."
                ) from None
            return False
        return True

    def unmake(self) -> None:
        """Remove the directory again, unless another process has made a store in it."""
        with suppress(OSError):
            self._root.rmdir()

    def lock(self) -> WriteLock:
        """Lock the directory."""
        return WriteLock(str(self._root / _LOCK_FILE), self.name)

    def has_group(self) -> bool:
        """Whether the store has been begun."""
        return (self._root / "zarr.json").exists()

    def check_begin(self) -> None:
        """Check that there is nothing but what an interrupted writer may have left."""
        from acluster.sets._store._durable import TEMPORARY_FILE

        for name in self.entries():
            if name != _LOCK_FILE and not TEMPORARY_FILE.fullmatch(name):
                raise StoreError(
                    f"{self.name} is not a store of feature sets; it contains {name!r}. Choose "
                    "another path."
                )

    def entries(self) -> list[str]:
        """Return the names in the directory."""
        return os.listdir(self._root)

    def begin(self, attributes: dict[str, Any]) -> None:
        """Write an empty store."""
        import zarr

        store = self.store()
        zarr.create_group(store, zarr_format=3, attributes=attributes)
        store.sync()
        sync_directory(self._root.parent)

    def open(self) -> zarr.Group:
        """Open the store for reading."""
        return open_group(str(self._root))

    def store(self) -> Any:
        """Return a store whose files survive a power failure."""
        from acluster.sets._store._durable import DurableStore

        return DurableStore(self._root)

    def remove_array(self, name: str) -> None:
        """Remove an array of this name, if there is one."""
        shutil.rmtree(self._root / name, ignore_errors=True)

    def tidy(self, arrays: Iterable[str]) -> None:
        """Remove the files, also in these arrays, that were not written to the end."""
        from acluster.sets._store._durable import TEMPORARY_FILE

        of_arrays = (file for name in arrays for file in (self._root / name).rglob("*"))
        for file in [*self._root.iterdir(), *of_arrays]:
            if TEMPORARY_FILE.fullmatch(file.name) and file.is_file():
                file.unlink()

    def remove(self) -> None:
        """Remove a new store without arrays, and nothing else."""
        self.tidy([])
        for name in ("zarr.json", _LOCK_FILE):
            (self._root / name).unlink(missing_ok=True)
        if not self.entries():
            self._root.rmdir()


class RemoteTarget:
    """Object storage, or another store of zarr.

    An object is written as a whole, so that nothing is left half written, and there is nothing to
    rename. There are no locks either: that one process writes at a time is up to the user.

    Parameters
    ----------
    store : RemoteStore
        The store, open for writing.
    """

    def __init__(self, store: Any) -> None:
        self.name = self.key = str(store)
        self._store = store

    def make(self, resume: bool) -> bool:
        """Return whether there is nothing at the address."""
        if self._store.read_only:
            raise ValueError(f"{self.name} is open for reading only. Open it for writing.")
        is_new = not self.entries()
        if not is_new and not resume:
            raise _exists(self.name)
        return is_new

    def unmake(self) -> None:
        """Do nothing: object storage has no empty directories."""

    def lock(self) -> NoLock:
        """Return a lock that keeps nobody away."""
        return NoLock()

    def has_group(self) -> bool:
        """Whether the store has been begun."""
        from zarr.core.sync import sync

        return bool(sync(self._store.exists("zarr.json")))

    def check_begin(self) -> None:
        """Check that there is nothing: the first object of a store is its group."""
        found = self.entries()
        if found:
            raise StoreError(
                f"{self.name} is not a store of feature sets; it contains {sorted(found)[0]!r}. "
                "Choose another address."
            )

    def entries(self) -> list[str]:
        """Return the names below the address."""
        from zarr.core.sync import sync

        async def names() -> list[str]:
            return [name async for name in self._store.list_dir("")]

        return sync(names())

    def begin(self, attributes: dict[str, Any]) -> None:
        """Write an empty store."""
        import zarr

        zarr.create_group(self.store(), zarr_format=3, attributes=attributes)

    def open(self) -> zarr.Group:
        """Open the store for reading, as it is now."""
        import zarr

        # Not through a reading copy, which would keep metadata.
        return zarr.open_group(self._store, mode="r+", zarr_format=3, use_consolidated=False)

    def store(self) -> Any:
        """Return a store that can be revoked without revoking later ones."""
        return type(self._store)(self._store._store, self._store.address)

    def remove_array(self, name: str) -> None:
        """Remove an array of this name, if there is one."""
        from zarr.core.sync import sync

        sync(self._store.delete_dir(name))

    def tidy(self, arrays: Iterable[str]) -> None:
        """Return: object storage has no half-written objects."""

    def remove(self) -> None:
        """Remove a new store without arrays, and nothing else."""
        from zarr.core.sync import sync

        sync(self._store.delete("zarr.json"))


class NoLock:
    """A lock that keeps nobody away."""

    def release(self) -> None:
        """Return."""


Lock = WriteLock | NoLock
Target = LocalTarget | RemoteTarget


def _exists(name: str) -> FileExistsError:
    return FileExistsError(
        f"There is already something at {name!r}. Choose another path, remove it, or continue "
        "after its items with FeatureSetsWriter(path, resume=True)."
    )
