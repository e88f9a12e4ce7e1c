"""Locks that keep two processes from writing to one path."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import weakref
from typing import Any, BinaryIO

from acluster.sets._store._errors import StoreError

_IS_LOCKED = {errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_LOCKS: weakref.WeakSet[WriteLock] = weakref.WeakSet()


class WriteLock:
    """A file that one process at a time holds locked.

    The operating system releases the lock when the process ends, however it ends, so a file that
    is left behind locks nothing. On a file system without locks, nothing is locked.

    Parameters
    ----------
    path : str
        The lock file, which `release` removes.

    target : str
        What is locked, in error messages.

    Raises
    ------
    StoreError
        If another process, or another lock of this process, holds the file.

    Attributes
    ----------
    left : dict
        What `note` was last called with by a process that ended without releasing the lock.
    """

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self.left: dict[str, Any] = {}
        # A file object, unlike a descriptor, is closed even if an interrupt comes right here.
        self._file: BinaryIO | None = None
        self._process = os.getpid()
        while self._file is None:
            file = open(path, "a+b", buffering=0)  # noqa: SIM115
            try:
                self._lock(file, target)
                # The process that held the lock may have removed the file meanwhile.
                if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                    self._file = file
            except FileNotFoundError:
                pass
            finally:
                if self._file is None:
                    file.close()
        try:
            self.left = _read(self._file)
            self.note()
        except BaseException:
            # On a full disk, the traceback of the error would keep the file open, and locked.
            self.release()
            raise
        _LOCKS.add(self)

    def _lock(self, file: BinaryIO, target: str) -> None:
        try:
            _lock_file(file)
        except OSError as error:
            if error.errno not in _IS_LOCKED:
                return  # a file system without locks
            holder = _read(file)
            known = f" (process {holder['pid']} on {holder['host']})" if "pid" in holder else ""
            raise StoreError(
                f"Another writer{known} is writing to {target}. Wait until it has finished, stop "
                "it, or choose another path."
            ) from None

    def note(self, **notes: Any) -> None:
        """Write into the file who holds the lock, and notes for those who find it abandoned."""
        assert self._file is not None
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **notes})
        self._file.truncate(0)
        self._file.write(text.encode())

    def release(self) -> None:
        """Remove the file and release the lock; in a forked process, only close the file."""
        file, self._file = self._file, None
        if file is None:
            return
        if self._process == os.getpid():
            # Windows cannot remove a file that is open. Elsewhere it is removed while it is locked.
            if os.name == "nt":
                file.close()
            with contextlib.suppress(OSError):
                os.remove(self.path)
        file.close()


def _release_all() -> None:
    for lock in list(_LOCKS):
        lock.release()


if hasattr(os, "register_at_fork"):
    # The child would keep the locks after its parent ends.
    os.register_at_fork(after_in_child=_release_all)


def _lock_file(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        # A byte far beyond the text: others may read the text while the file is locked.
        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(file: BinaryIO) -> dict[str, Any]:
    file.seek(0)
    try:
        found = json.loads(file.read(1 << 16))
    except ValueError:  # empty, or written just now
        return {}
    return found if isinstance(found, dict) else {}
