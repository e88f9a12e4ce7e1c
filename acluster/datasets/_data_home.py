"""The folder that the loaders read from."""

import os
from pathlib import Path


def get_data_home(data_home: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that the loaders read from.

    It is the argument if given, otherwise the environment variable ``ACLUSTER_DATA`` if set, and
    otherwise the folder ``acluster_data`` in the home directory. The folder is not created.

    Parameters
    ----------
    data_home : str or path-like, default=None
        The folder; a leading ``~`` means the home directory.

    Returns
    -------
    data_home : pathlib.Path
        The folder, which may not exist.

    Examples
    --------
    >>> from acluster.datasets import get_data_home
    >>> get_data_home("some_folder").name
    'some_folder'
    """
    if data_home is None:
        data_home = os.environ.get("ACLUSTER_DATA") or Path.home() / "acluster_data"
    return Path(data_home).expanduser()


def invalid_file(path: Path, problem: str) -> ValueError:
    """Return the error about a file that is not the original one."""
    return ValueError(f"{path} {problem}. Replace it with the original file.")
