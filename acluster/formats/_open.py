"""Open what people have as a source of items: folders, archives, tables and stores."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from acluster.formats._folders import describe_files, find_files, open_folder
from acluster.formats._hdf5_items import open_hdf5
from acluster.formats._item import COORDS, FEATURES, Item
from acluster.formats._numpy import DAMAGE, Archive
from acluster.formats._readers import READERS
from acluster.formats._source import Source
from acluster.formats._tables import SUFFIXES, open_tables
from acluster.sets import COLUMNS, info, natural_key, open_feature_sets, places_reader

_TAKEN = (
    f"a folder of {', '.join(READERS)} files with one item each (of one kind), a folder of such "
    "folders, an .npz archive with one array per item, an .h5 or .hdf5 file with one group or "
    f"dataset per item, a {', '.join(SUFFIXES)} table with one row per item, a folder of such "
    "tables, or a store"
)

_IN_ITEM = f"/{FEATURES}"  # how the name of an array ends that is the features of an item


def open_source(
    path: str | Path, *, subfolders: str | None = None, known: Collection[str] = ()
) -> Source:
    """Open the items in a folder, an archive, a table or a store.

    Parameters
    ----------
    path : str or path
        What to open. A store may be at an address, such as s3://bucket/name.

    subfolders : {"modalities", "items"}, optional
        What the folders in a folder are; by default, the files decide.

    known : collection of str
        The ids in the table of labels, if there is one.

    Returns
    -------
    Source
        At least one item.

    Raises
    ------
    ValueError
        If there are no items, or it is none of these. The message says what was found and what
        is taken.
    """
    is_address = "://" in str(path)  # a path would lose one of the slashes
    source = _open_store(path) if is_address else _open(Path(path), subfolders, known)
    if not source.names:
        raise ValueError(f"{path} has no items. Pass {_TAKEN}.")
    return source


def _open(path: Path, subfolders: str | None, known: Collection[str]) -> Source:
    if path.exists() and not path.is_dir():
        return _open_file(path, subfolders, known)
    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        return _open_store(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}. Pass {_TAKEN}.")
    files = find_files(path)
    items = [file for file in files if file.suffix.lower() in READERS]
    tables = [file for file in files if file.suffix.lower() in SUFFIXES]
    if items and tables:
        raise ValueError(
            f"{path} has {describe_files([*items, *tables])}, but a folder must be of one kind. "
            "Pass the folder of one kind, or move the others away."
        )
    if tables:
        tables.sort(key=lambda file: natural_key(file.as_posix()))
        return open_tables([path / file for file in tables])
    if not items:
        raise ValueError(
            f"{path} has {describe_files(files)}, which cannot be read. Pass {_TAKEN}."
        )
    return open_folder(path, items, subfolders, known)


def _open_file(path: Path, subfolders: str | None, known: Collection[str]) -> Source:
    suffix = path.suffix.lower()
    is_file = path.is_file()  # opening a pipe would wait for another process
    if is_file and suffix in (".h5", ".hdf5"):
        return open_hdf5(path, subfolders, known)
    if suffix in READERS and suffix != ".npz":
        raise ValueError(f"{path} is a file with one item; pass {_TAKEN}.")
    if is_file and (suffix == ".npz" or zipfile.is_zipfile(path)):
        return _open_store(path) if _is_zipped_store(path) else _open_archive(path)
    if is_file and suffix in SUFFIXES:
        return open_tables([path])
    raise ValueError(f"{path} is a file; pass {_TAKEN}.")


def _is_zipped_store(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return "zarr.json" in file.namelist()
    except DAMAGE:  # `Archive` says what is wrong
        return False


def _open_archive(path: Path) -> Source:
    """Open an archive with one array per item, or with ``ID/features`` and ``ID/coords``."""
    archive = Archive(path)
    ids = [name.removesuffix(_IN_ITEM) for name in archive.names if name.endswith(_IN_ITEM)]
    arrays = {id_: (f"{id_}{_IN_ITEM}", f"{id_}/{COORDS}") for id_ in ids}
    others = {*archive.names} - {name for own in arrays.values() for name in own}
    if arrays and others:
        raise ValueError(
            f"{path} has items such as {ids[0]!r:.100}, with the array {ids[0] + _IN_ITEM!r:.100}, "
            f"but {len(others)} other arrays are neither features nor coords of an item, for "
            f"example {min(others)!r:.100}. Write one array per item, or these two."
        )
    names = sorted(arrays or archive.names, key=natural_key)
    if "" in names:
        raise ValueError(
            f"{path}: the array {arrays.get('', ('',))[0]!r} has no name of an item; rename it."
        )

    def read(numbers: Sequence[int]) -> Iterator[Item]:
        # Without pairs, no array is the coordinates of another.
        return (archive.read_item(*arrays.get(names[i], (names[i], ""))) for i in numbers)

    return Source(names, read, lambda i: f"{path}: {names[i]:.100}", {"id": names})


def _open_store(path: str | Path) -> Source:
    X = open_feature_sets(path)
    columns = {name: values for name in COLUMNS if (values := getattr(X, name)) is not None}
    names = [str(one) for one in columns.get("id", range(len(X)))]
    found, places = info(path), places_reader(X)

    def read(numbers: Sequence[int]) -> Iterator[Item]:
        return (Item(X[i], {} if places is None else places(i)) for i in numbers)

    return Source(
        names,
        read,
        lambda i: f"{path}, item {names[i]!r}",
        columns,
        found.label_names and list(found.label_names),
        found.attributes,
        X,
    )
