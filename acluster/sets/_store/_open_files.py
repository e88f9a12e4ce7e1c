"""The open files of this process's stores: one cache, within the limit of the process."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from itertools import count
from typing import TypeAlias

from acluster.sets._store._files import check_regular, file_status

_MAX_OPEN_FILES = 256
# Not to wait for the other end of a pipe that takes the place of a file.
_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)

Identity: TypeAlias = tuple[int, ...]


class OpenFile:
    """A file open for reading, which is closed when it is no longer used.

    A thread that reads holds a reference to it, so that a file that leaves the cache meanwhile
    stays open until the thread is done.
    """

    def __init__(self, root: str, key: str) -> None:
        self.descriptor = -1
        path = f"{root}/{key}"
        if file_status(root, key) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.descriptor = os.open(path, _FLAGS)
        self.status = os.fstat(self.descriptor)
        check_regular(self.status, path)

    @property
    def identity(self) -> Identity:
        """What changes if a file is replaced or written to."""
        status = self.status
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class OpenFiles:
    """A cache of open files, which lets go of those used least recently."""

    def __init__(self) -> None:
        # By owner and path, ordered from least to most recently used.
        self._files: dict[tuple[int, str], OpenFile] = {}
        self._numbers = count()
        self._gone: deque[int] = deque()
        self.renew_lock()

    def renew_lock(self) -> None:
        self._lock = threading.Lock()

    def new_owner(self) -> int:
        """Return a number under which to open files."""
        return next(self._numbers)

    def get(self, owner: int, root: str, key: str) -> OpenFile:
        """Return an open file; it is opened if it is not in the cache."""
        with self._lock:
            self._forget_gone()
            name = owner, f"{root}/{key}"
            file = self._files.pop(name, None) or self._open(root, key)
            self._files[name] = file
            return file

    def _open(self, root: str, key: str) -> OpenFile:
        limit = _limit()
        while len(self._files) >= limit:
            del self._files[next(iter(self._files))]
        try:
            return OpenFile(root, key)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self._files.clear()  # others have opened more files than we left room for
        return OpenFile(root, key)

    def forget(self, owner: int) -> None:
        """Close the files of an owner, at the latest when another file is opened."""
        # This is called by destructors, which may run in a thread that holds the lock.
        self._gone.append(owner)
        if self._lock.acquire(blocking=False):
            try:
                self._forget_gone()
            finally:
                self._lock.release()

    def _forget_gone(self) -> None:
        gone = set()
        while self._gone:
            gone.add(self._gone.popleft())
        if gone:
            for name in [name for name in self._files if name[0] in gone]:
                del self._files[name]


def _limit() -> int:
    """Return how many files to keep open: a part of what the process may."""
    try:
        import resource
    except ImportError:  # on Windows
        return _MAX_OPEN_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return _MAX_OPEN_FILES
    return max(1, min(_MAX_OPEN_FILES, allowed // 4))


OPEN_FILES = OpenFiles()

if hasattr(os, "register_at_fork"):
    # A lock that another thread holds during a fork would stay locked in the child.
    os.register_at_fork(after_in_child=OPEN_FILES.renew_lock)
