"""Convert arrays in files, or another store, to a store, item by item."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from acluster._utils._progress import progress
from acluster.command_line._arrays import Archive, load_file
from acluster.sets import (
    COLUMNS,
    FeatureSetsWriter,
    info,
    natural_key,
    open_feature_sets,
    places_reader,
)

_SOURCES = "a folder of .npy files, a folder of such folders, an .npz file or a store"
_MAX_LINE = 1 << 20  # of a table; reading stops there in a file that is none


class Source(NamedTuple):
    """Items that can be read one by one.

    Attributes
    ----------
    names : list of str
        The key of each item in the table of labels.

    read : callable
        ``read(i)`` returns the features of item i: an array, or a dict by modality.

    columns : dict of str to sequence
        The columns that are known without a table, such as the ids.

    places : callable or None
        ``places(i)`` returns where the local features of item i come from, as
        ``FeatureSetsWriter.append`` takes it. None if that is not known.
    """

    names: list[str]
    read: Callable[[int], Any]
    columns: dict[str, Any]
    places: Callable[[int], Any] | None = None


def convert(source: Path, path: str, *, table: str | None = None, dtype: str | None = None) -> int:
    """Write the items of `source` to the store at `path`, or resume doing so.

    Parameters
    ----------
    source : path
        A folder of .npy files, a folder of such folders, an .npz file or a store.

    path : str
        The store to write. It may already contain the first items of `source`.

    table : str, optional
        A CSV file with the column id and any of the columns label, group and weight.

    dtype : {"float16", "float32"}, optional
        The dtype of the stored features.

    Returns
    -------
    int
        The number of items in the store.

    Raises
    ------
    ValueError
        If a file or the table is not valid, or the store at `path` has other items or columns.
    """
    names, read, columns, places = _open_source(source)
    if not names:
        raise ValueError(f"{source} has no items. Pass {_SOURCES}.")
    if table is not None:
        columns = columns | _read_table(table, names)
    with FeatureSetsWriter(path, resume=True, dtype=dtype) as writer:
        if len(writer):
            _check_resumable(writer, source, columns)
        missing = range(len(writer), len(names))
        for i in progress(missing, f"{path}: items", len(missing)):
            item, entries = read(i), {column: values[i] for column, values in columns.items()}
            try:
                writer.append(item, places=places(i) if places else None, **entries)
            except (ValueError, TypeError) as error:
                # The writer knows the number of the item, not its name.
                raise ValueError(f"{source}, item {names[i]!r}: {error}") from None
    return len(names)


def _check_resumable(writer: FeatureSetsWriter, source: Path, columns: dict[str, Any]) -> None:
    """Check that the items already written are the first ones of `source`, by their columns."""
    written = set(info(writer.path).columns)
    if written != set(columns) or "id" not in columns:
        raise ValueError(
            f"{writer.path} cannot be resumed: it has the columns {sorted(written)}, but the "
            f"conversion writes {sorted(columns)}, and both need the column id. Choose another "
            "path, or remove it."
        )
    for name, values in columns.items():
        if not np.array_equal(writer.column(name), np.asarray(values[: len(writer)])):
            raise ValueError(
                f"{writer.path} cannot be resumed: its column {name} differs from that of "
                f"{source}. Choose another path, or remove it."
            )


def _open_source(path: Path) -> Source:
    if path.exists() and not path.is_dir():
        return _open_file(path)
    if any(path.glob("*.npy")):
        names = _item_names([path])
        return Source(names, lambda i: load_file(path / f"{names[i]}.npy"), {"id": names})
    folders = {sub.name: sub for sub in sorted(path.iterdir()) if any(sub.glob("*.npy"))}
    if not folders:
        _check_is_store(path)
        return _open_store(path)
    names = _item_names(folders.values())
    return Source(
        names,
        lambda i: {
            modality: load_file(folder / f"{names[i]}.npy")
            for modality, folder in folders.items()
            if (folder / f"{names[i]}.npy").exists()
        },
        {"id": names},
    )


def _open_file(path: Path) -> Source:
    # Opening a pipe would wait for another process.
    if path.is_file() and (path.suffix == ".npz" or zipfile.is_zipfile(path)):
        archive = Archive(path)
        names = sorted(archive.names, key=natural_key)
        return Source(names, lambda i: archive.load(names[i]), {"id": names})
    raise ValueError(f"{path} is a file; pass {_SOURCES}.")


def _check_is_store(path: Path) -> None:
    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        return
    files = islice(chain(path.glob("*.*"), path.glob("*/*.*")), 1000)
    suffixes = sorted({file.suffix for file in files if file.suffix})
    raise ValueError(
        f"{path} has no .npy files, and is not a store"
        + (f"; its files are {', '.join(suffixes)}" if suffixes else "")
        + f". Pass {_SOURCES}. In Python, FeatureSetsWriter writes arrays from any other format."
    )


def _item_names(folders: Iterable[Path]) -> list[str]:
    found = {path.stem for folder in folders for path in folder.glob("*.npy")}
    return sorted(found, key=natural_key)


def _open_store(path: Path) -> Source:
    X = open_feature_sets(path)
    columns = {name: values for name in COLUMNS if (values := getattr(X, name)) is not None}
    ids = columns.get("id", range(len(X)))
    return Source(list(map(str, ids)), X.__getitem__, columns, places_reader(X))


def _read_table(path: str, names: list[str]) -> dict[str, list[Any]]:
    """Read the columns of a table, in the order of the items."""
    try:
        # Excel starts its UTF-8 files with a byte order mark, which utf-8-sig skips.
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = _read_lines(path, file)
            header = next(lines, "")
            # Excel separates columns by semicolons where numbers have a decimal comma.
            delimiter = next((sign for sign in ",;\t" if sign in header), ",")
            lines = chain([header], lines)
            given, rows = _rows_by_id(path, csv.DictReader(lines, delimiter=delimiter, strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not encoded in UTF-8; save it as UTF-8: {error}.") from None
    except csv.Error as error:
        raise ValueError(f"{path} is not a CSV table: {error}.") from None
    missing = [name for name in names if name not in rows]
    if missing:
        raise ValueError(
            f"{path} has no row for the item {missing[0]!r}, and for {len(missing)} items in all. "
            f"Add a row for each. The first ids of the table are {[*islice(rows, 3)]}."
        )
    columns = [column for column in given if column != "id"]
    return {column: [rows[name][column] for name in names] for column in columns}


def _read_lines(path: str, file: TextIO) -> Iterator[str]:
    while line := file.readline(_MAX_LINE):
        if len(line) == _MAX_LINE:
            raise ValueError(f"{path} is not a CSV table: it has a line of over {_MAX_LINE} bytes.")
        yield line


def _rows_by_id(path: str, reader: csv.DictReader[str]) -> tuple[Sequence[str], dict[str, Any]]:
    """Return the names of the columns, and the rows by their id."""
    given = [*(reader.fieldnames or [])]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise ValueError(f"{path} has two columns of the name {twice[0]!r}; remove one.")
    if "id" not in given or not set(given) <= set(COLUMNS):
        shown = given[:10] + ["..."] * (len(given) > 10)
        raise ValueError(
            f"{path} has the columns {shown}; it needs the column id, and may have label, group "
            "and weight. Rename or remove the others. For several labels per item, write the store "
            "in Python: FeatureSetsWriter takes rows of 0 and 1 as labels, and save_feature_sets a "
            "data frame, whose column names are kept."
        )
    rows: dict[str, Any] = {}
    for row in reader:
        line, entries = f"{path}, line {reader.line_num}", list(row.values())
        if None in row or None in entries or "" in entries:
            raise ValueError(
                f"{line} has the entries {entries!s:.300}; it needs exactly one per column."
            )
        if row["id"] in rows:
            raise ValueError(f"{line} is a second row for the item {row['id']!r}; remove one.")
        rows[row["id"]] = row
        if "weight" in row:
            try:
                row["weight"] = float(row["weight"])
            except ValueError:
                raise ValueError(f"{line}: the weight {row['weight']!r} is not a number.") from None
    return given, rows
