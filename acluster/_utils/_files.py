"""Write a file so that an error, a kill or a full disk leaves the earlier file in place."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_parent(path: Path) -> None:
    """Raise a FileNotFoundError if the folder that is to hold a path does not exist."""
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"{path.name} cannot be written: the folder {str(path.parent)!r} does not exist. "
            "Create it first."
        )


def check_target(path: str | os.PathLike[str]) -> Path:
    """Check that a file can be written to a path, and return the path with links followed.

    Raises
    ------
    OSError
        If the path is a folder or not a regular file, or its folder does not exist.
    """
    path = Path(os.path.realpath(path))
    check_parent(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; pass the name of a file.")
    if path.is_symlink():  # a loop; os.replace below would replace the link
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if path.exists() and not path.is_file():
        # os.replace below would replace /dev/null itself.
        raise OSError(f"{path} is a device or a pipe; pass the name of a regular file.")
    return path


@contextmanager
def replaced_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path to write to, whose file replaces that at `path` once the context ends.

    A symbolic link is followed: it stays, and the file that it points to is replaced. The new
    file has the mode of the one it replaces, or the mode that the umask gives. After an error, the
    earlier file is unchanged.

    Raises
    ------
    OSError
        As `check_target`, and if the file cannot be written.
    """
    path = check_target(path)
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    # A temporary file in the same folder: os.replace is atomic only within one file system.
    unfinished = path.with_name(f".{path.name[:50]}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        # Nobody else may read what replaces a private file, not even while it is written.
        created = os.O_CREAT | os.O_EXCL | os.O_RDWR
        os.close(os.open(unfinished, created, 0o666 if mode is None else 0o600))
        yield unfinished
        with unfinished.open("r+b") as file:
            # Otherwise a power cut soon after could leave an empty file under the name.
            os.fsync(file.fileno())
        if mode is not None:
            unfinished.chmod(mode)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
