"""Find the files of a folder that are items."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from acluster.sets import natural_key

VIDEO = [".3gp", ".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv"]
VIDEO += [".ts", ".webm", ".wmv"]
SOUND = [".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wav", ".wma"]
IMAGE = [".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"]
SLIDE = [".bif", ".czi", ".dcm", ".mrxs", ".ndpi", ".scn", ".svs", ".svslide", ".vms", ".vmu"]
SLIDE += [".vsi"]
_NAMING_OTHERS = (".vms", ".vmu")  # text files that name the files with the pixels of the slide
_MOST_CHARACTERS = 1 << 20  # of such a file
SUFFIXES = frozenset(VIDEO + SOUND + IMAGE + SLIDE)


def find_media(paths: Sequence[str | os.PathLike[str]]) -> dict[str, Path]:
    """Return the media files among some paths and in their folders.

    Parameters
    ----------
    paths : sequence of str or path
        Files and folders.

    Returns
    -------
    dict of str to path
        From the id of each file to the file. The id is the path as it was given; below a folder,
        it ends with the path relative to the folder. In a single folder, it is this relative path,
        as for `acluster.extraction.extract`.

        It is empty if the only path has another suffix, or is a folder without media files.

    Raises
    ------
    FileNotFoundError
        If one of several paths does not exist.

    ValueError
        If one of several folders has no such files.
    """
    if len(paths) == 1:
        only = Path(paths[0])
        if not only.is_dir():
            is_media = only.suffix.lower() in SUFFIXES
            return {_id_of(only): only} if is_media else {}
        return {} if (only / "zarr.json").exists() else _files_below(only)[0]
    files: dict[str, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files |= {f"{_id_of(path)}/{id_}": own for id_, own in media_files(path).items()}
        elif path.exists():
            files[_id_of(path)] = path
        else:
            raise FileNotFoundError(f"There is no file at {str(path)!r}.")
    return files


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
        order, so that 2.mp4 comes before 10.mp4. Images that a .vms or .vmu file names are
        parts of that slide, and left out.

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
    found, others = _files_below(root)
    if not found:
        listed = ", ".join(f"{n} of {suffix or 'no suffix'}" for suffix, n in others.most_common(5))
        raise ValueError(
            f"{root} has no videos, sounds, images or slides"
            + (f"; its files are {listed}" if listed else "; it is empty")
            + ". Pass another folder, or rename the files."
        )
    return found


def _files_below(root: Path) -> tuple[dict[str, Path], Counter[str]]:
    """Return the media files of a folder by their ids, in natural order, and other suffixes."""
    found: dict[str, Path] = {}
    others = Counter[str]()
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if name.startswith(".") or not path.is_file():  # opening a pipe would wait
                continue
            if path.suffix.lower() in SUFFIXES:
                id_ = _id_of(path.relative_to(root))
                if id_ in found:
                    raise ValueError(f"{found[id_]} and {path} have the same id. Rename one.")
                found[id_] = path
            else:
                others[path.suffix] += 1
    slides = [path for path in found.values() if path.suffix.lower() in _NAMING_OTHERS]
    parts = {part for slide in slides for part in _named_files(slide)}
    ordered = sorted(found, key=natural_key)
    return {id_: found[id_] for id_ in ordered if found[id_] not in parts}, others


def _named_files(slide: Path) -> set[Path]:
    """Return the paths that a slide of lines KEY=NAME may name, without its own."""
    try:
        with slide.open(encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(_MOST_CHARACTERS).splitlines()
    except OSError:  # named when the slide is read
        return set()
    return {slide.parent / line.partition("=")[2].strip() for line in lines} - {slide}


def _id_of(path: Path) -> str:
    # A name that is not UTF-8 cannot be stored as it is.
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")
