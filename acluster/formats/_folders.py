"""Find the items in a folder: one file each, perhaps one file per modality."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from acluster.formats._item import Item
from acluster.formats._readers import READERS, read_item
from acluster.formats._source import Source
from acluster.sets import natural_key

Files = dict[str, Path]  # the file of each item, by its id


def find_files(root: Path) -> list[Path]:
    """Return the files below a folder, relative to it, without hidden files and folders.

    Links to folders are followed, each folder once.
    """
    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        inner = Path(folder).relative_to(root)
        found += [inner / name for name in sorted(files) if not name.startswith(".")]
    return found


def describe_files(files: Iterable[Path]) -> str:
    """Return how many files there are of each kind, such as "3 .h5 files and 1 .csv file"."""
    counts = Counter(path.suffix or "(no suffix)" for path in files)
    shown = [f"{n} {suffix} file{'s' * (n > 1)}" for suffix, n in sorted(counts.items())[:10]] or [
        "no files"
    ]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def open_folder(
    root: Path, files: Sequence[Path], subfolders: str | None, known: Collection[str]
) -> Source:
    """Open the items in a folder.

    Parameters
    ----------
    root : path
        The folder.

    files : sequence of path
        The files below it that hold items, relative to it.

    subfolders : {"modalities", "items"}, or None
        What the folders directly in `root` are: modalities, so that the id of an item is its path
        below such a folder, or parts of the ids. None decides it from the files.

    known : collection of str
        The ids in the table of labels, if there is one.

    Returns
    -------
    Source
        The items in the natural order of their ids.

    Raises
    ------
    ValueError
        If a folder has files of several kinds, two files have the same id, or the files do not
        tell what the folders are.
    """
    folders = _by_folder(root, files)
    if _are_modalities(root, folders, subfolders, known):
        return _open_modalities(folders)
    _check_one_kind(root, files)
    items = {
        f"{name}/{item}" if name else item: path
        for name, own in folders.items()
        for item, path in own.items()
    }
    names = sorted(items, key=natural_key)

    def read(numbers: Sequence[int]) -> Iterator[Item]:
        return (read_item(items[names[i]]) for i in numbers)

    return Source(names, read, lambda i: str(items[names[i]]), {"id": names})


def _open_modalities(folders: Mapping[str, Files]) -> Source:
    for name, files in folders.items():
        _check_one_kind(Path(name), files.values())
    names = sorted({item for files in folders.values() for item in files}, key=natural_key)

    def files_of(i: int) -> Files:
        return {name: files[names[i]] for name, files in folders.items() if names[i] in files}

    def read(numbers: Sequence[int]) -> Iterator[Item]:
        for i in numbers:
            yield Item.of_modalities({name: read_item(path) for name, path in files_of(i).items()})

    return Source(names, read, lambda i: ", ".join(map(str, files_of(i).values())), {"id": names})


def _by_folder(root: Path, files: Iterable[Path]) -> dict[str, Files]:
    """Return the files of each folder directly in `root`, and of `root` itself as "", by id."""
    folders: dict[str, Files] = {}
    for path in files:
        top = path.parts[0] if path.parent.name else ""
        item = path.relative_to(top).with_suffix("").as_posix()
        own = folders.setdefault(top, {})
        if item in own:
            raise ValueError(
                f"{own[item]} and {root / path} would both be the item {item!r}. Move one of them "
                "to another folder, or rename it."
            )
        own[item] = root / path
    return folders


def _check_one_kind(root: Path, files: Iterable[Path]) -> None:
    files = list(files)
    if len({READERS[path.suffix.lower()] for path in files}) > 1:
        raise ValueError(
            f"{root} has {describe_files(files)}, but the items of a folder must be of one kind. "
            "Pass the folder of one kind, or move the others away."
        )


def _are_modalities(
    root: Path, folders: Mapping[str, Files], given: str | None, known: Collection[str]
) -> bool:
    """Decide whether the folders in `root` are modalities rather than parts of ids.

    One folder is a modality. Several are parts of ids if no file name occurs twice, and modalities
    if the same names come with different widths. If neither holds, a table of labels may tell.
    """
    if given == "modalities" and "" in folders:
        raise ValueError(
            f"{root} has items beside its subfolders, such as {next(iter(folders[''].values()))}. "
            "Move them into the folder of their modality."
        )
    if given is not None or "" in folders:
        return given == "modalities"
    n_of = Counter(item for files in folders.values() for item in files)
    shared = [item for item, n in n_of.items() if n > 1]
    if len(folders) == 1 or not shared:
        return len(folders) == 1
    if _widths_differ(folders):
        return True
    nested = {f"{name}/{item}" for name, files in folders.items() for item in files}
    fits = [any(name in known for name in names) for names in (n_of, nested)]
    if fits[0] != fits[1]:
        return fits[0]
    both = [str(files[shared[0]]) for files in folders.values() if shared[0] in files]
    raise ValueError(
        f"{both[0]} and {both[1]} have the same name and the same number of columns: are they two "
        "modalities of one item, or two items? Pass --subfolders modalities or --subfolders items, "
        "or one of the folders."
    )


def _widths_differ(folders: Mapping[str, Files]) -> bool:
    """Whether the first files of two folders have different numbers of columns."""
    first = None
    for files in folders.values():
        width = read_item(next(iter(files.values()))).features.shape[1]
        first = width if first is None else first
        if width != first:
            return True
    return False
