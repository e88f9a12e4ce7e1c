"""Find the files of a folder that are items."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from acluster.sets import natural_key

VIDEO = [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"]
VIDEO += [".ts", ".webm", ".wmv"]
SOUND = [".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"]
IMAGE = [".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
SLIDE = [".bif", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".vms", ".vmu", ".vsi"]
SUFFIXES = frozenset(VIDEO + SOUND + IMAGE + SLIDE)


def media_files(root: Path) -> dict[str, Path]:
    """Return the videos, sounds, images and slides of a folder and its subfolders.

    Parameters
    ----------
    root : path
        The folder. Hidden files and folders are left out, as are links to folders.

    Returns
    -------
    dict of str to path
        From the id of each file, its path relative to `root` with "/", to the file; in natural
        order, so that 2.mp4 comes before 10.mp4.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no such folder.

    ValueError
        If it has no such files.
    """
    if not root.exists():
        raise FileNotFoundError(
            f"{root} does not exist. Pass a folder of videos, sounds or images."
        )
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is a file. Pass the folder that it is in.")
    found, others = {}, Counter[str]()
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file():  # opening a pipe would wait
                continue
            if path.suffix.lower() in SUFFIXES:
                found[_id_of(path.relative_to(root))] = path
            else:
                others[path.suffix] += 1
    if not found:
        listed = ", ".join(f"{n} of {suffix or 'no suffix'}" for suffix, n in others.most_common(5))
        raise ValueError(
            f"{root} has no videos, sounds, images or slides"
            + (f"; its files are {listed}" if listed else "; it is empty")
            + ". Pass another folder, or rename the files."
        )
    return {id_: found[id_] for id_ in sorted(found, key=natural_key)}


def _id_of(relative: Path) -> str:
    # A name that is not UTF-8 cannot be stored as it is.
    return os.fsencode(relative.as_posix()).decode("utf-8", "backslashreplace")
