"""Where the loaders look for data."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["get_data_home"]


def get_data_home(data_home: str | os.PathLike[str] | None = None) -> Path:
    """The folder the loaders read from.

    The argument if there is one, else the environment variable ``ACLUSTER_DATA``, else
    ``acluster_data`` in the user's home. The folder is not created.

    Parameters
    ----------
    data_home : str or path-like, default=None
        The folder; a leading ``~`` stands for the user's home.

    Returns
    -------
    data_home : pathlib.Path
        The folder, which need not exist.

    Examples
    --------
    >>> from acluster.datasets import get_data_home
    >>> get_data_home("some_folder").name
    'some_folder'
    """
    if data_home is None:
        data_home = os.environ.get("ACLUSTER_DATA") or Path.home() / "acluster_data"
    return Path(data_home).expanduser()
