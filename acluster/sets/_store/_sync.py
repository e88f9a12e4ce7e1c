"""Wait until files and directories are on disk."""

import os
from pathlib import Path


def sync_file(path: str | Path, flags: int = os.O_RDWR) -> None:
    """Wait until the content of a file is on disk."""
    file = os.open(path, flags)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sync_directory(path: str | Path) -> None:
    """Wait until the names in a directory are on disk, where the system can do that."""
    if os.name != "nt":
        sync_file(path, os.O_RDONLY)
