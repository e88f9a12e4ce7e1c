"""A directory of zarr in which files replace each other only when they are safely on disk.

This module imports zarr, so it is imported where it is used.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

from zarr.storage import LocalStore

from acluster.sets._store._sync import sync_directory, sync_file

# The names under which zarr and this store write a file before it gets its own name. A process
# that is killed may leave them behind.
TEMPORARY_FILE = re.compile(r"(zarr|zarr\.json|\d+)(\.[0-9a-f]{32}){1,2}\.partial")


class DurableStore(LocalStore):
    """A directory of zarr whose files survive a power failure.

    A file is written under a temporary name, forced to disk and then renamed. After `sync`, the
    new names are on disk too. After `revoke`, no file changes any more: zarr writes in other
    threads, which may still be at work after an error or an interrupt.

    Parameters
    ----------
    root : str or Path
        The directory.

    read_only : bool, default=False
        Whether to refuse to write.
    """

    def __init__(self, root: str | Path, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._renaming = threading.Lock()
        self._is_revoked = False
        self._changed: set[Path] = set()

    async def set(self, key: str, value: Any) -> None:
        """Write a file."""
        temporary = f"{key}.{uuid4().hex}.partial"
        await super().set(temporary, value)
        await asyncio.to_thread(self._publish, temporary, key)

    def set_sync(self, key: str, value: Any) -> None:
        """Write a file."""
        temporary = f"{key}.{uuid4().hex}.partial"
        super().set_sync(temporary, value)
        self._publish(temporary, key)

    async def set_if_not_exists(self, key: str, value: Any) -> None:
        """Write a file unless it exists."""
        if not await self.exists(key):
            await self.set(key, value)

    def _publish(self, temporary: str, key: str) -> None:
        source, target = self.root / temporary, self.root / key
        try:
            sync_file(source)
            with self._renaming:
                if self._is_revoked:
                    raise RuntimeError(f"{target} is written after the end of its transaction.")
                os.replace(source, target)
                # The directories above may be new.
                self._changed |= set(target.relative_to(self.root).parents)
        except BaseException:
            source.unlink(missing_ok=True)
            raise

    def sync(self) -> None:
        """Force the names of all files written so far to disk."""
        with self._renaming:
            changed, self._changed = self._changed, set()
        for directory in sorted(changed, key=lambda path: len(path.parts), reverse=True):
            sync_directory(self.root / directory)

    def revoke(self) -> None:
        """Refuse to write from now on."""
        with self._renaming:
            self._is_revoked = True
