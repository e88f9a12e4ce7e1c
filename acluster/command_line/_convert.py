"""From arrays in files, or from another store, to a store: item by item, going on after a stop."""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from acluster._utils._progress import progress
from acluster.sets import COLUMNS, FeatureSetsWriter, info, natural_key, open_feature_sets

__all__ = ["convert"]


class Source(NamedTuple):
    """Items that can be read one by one."""

    names: list[str]  # for the table of labels
    read: Callable[[int], Any]  # the features of an item
    columns: dict[str, Any]  # what is known of each: ids, labels and the like


def convert(
    source: Path,
    path: str,
    *,
    table: str | None = None,
    dtype: str | None = None,
) -> int:
    """Write the items of `source` to the store at `path`, which may hold the first of them already.

    Parameters
    ----------
    source : path
        A folder of .npy files, a folder of such folders, an .npz file or a store.

    path : str
        The store to be written.

    table : str, optional
        A CSV file with the columns id, and label, group or weight.

    dtype : {"float16", "float32"}, optional
        Of the stored features.

    Returns
    -------
    int
        How many items the store has.

    Raises
    ------
    ValueError
        If the files, the table or what is at `path` do not fit each other.
    """
    names, read, columns = _source(source)
    if table is not None:
        columns = columns | _read_table(table, names)
    with FeatureSetsWriter(path, resume=True, dtype=dtype) as writer:
        _check_begun(writer, path, source, columns)
        missing = range(len(writer), len(names))
        for number in progress(missing, f"{path}: items", len(missing)):
            own = {column: values[number] for column, values in columns.items()}
            writer.append(read(number), **own)
    return len(names)


def _check_begun(
    writer: FeatureSetsWriter, path: str, source: Path, columns: dict[str, Any]
) -> None:
    """What is there has to be the first of the same items, with the same columns."""
    n_done = len(writer)
    if not n_done:
        return
    begun = set(info(path).columns)
    if begun != set(columns) or "id" not in columns:
        raise ValueError(
            f"{path} was begun with the columns {sorted(begun)}, not {sorted(columns)}, or without "
            "ids. Choose another path, or remove it."
        )
    for name, values in columns.items():
        if not np.array_equal(writer.column(name), np.asarray(values[:n_done])):
            raise ValueError(
                f"{path} holds another {name} for some of the items of {source}. Choose another "
                "path, or remove it."
            )


def _source(path: Path) -> Source:
    if path.suffix == ".npz" and path.exists():
        return _archive(path)
    if path.is_file():
        raise ValueError(f"{path} is a file; give a folder of .npy files, an .npz file or a store.")
    if any(path.glob("*.npy")):
        names = _stems([path])
        return Source(names, lambda number: _load(path / f"{names[number]}.npy"), {"id": names})
    folders = {sub.name: sub for sub in sorted(path.iterdir()) if any(sub.glob("*.npy"))}
    if not folders:
        return _store(path)
    names = _stems(folders.values())
    return Source(
        names,
        lambda number: {
            modality: _load(folder / f"{names[number]}.npy")
            for modality, folder in folders.items()
            if (folder / f"{names[number]}.npy").exists()
        },
        {"id": names},
    )


def _stems(folders: Iterable[Path]) -> list[str]:
    found = {path.stem for folder in folders for path in folder.glob("*.npy")}
    return sorted(found, key=natural_key)


def _load(path: Path) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array of numbers: {error}") from None
    return _checked(array, path)


def _checked(array: NDArray[Any], name: Any) -> NDArray[Any]:
    if array.ndim != 2:
        raise ValueError(
            f"{name} has shape {array.shape}; an item is of shape (local features, width)."
        )
    return array


def _archive(path: Path) -> Source:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .npz archive of arrays, as numpy.savez writes it.")
    arrays = np.load(path, allow_pickle=False)
    names = sorted(arrays.files, key=natural_key)

    def read(number: int) -> Any:
        try:
            array = arrays[names[number]]
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
            raise ValueError(f"{path}: {names[number]} is no array of numbers: {error}") from None
        return _checked(array, f"{path}: {names[number]}")

    return Source(names, read, {"id": names})


def _store(path: Path) -> Source:
    X = open_feature_sets(path)
    columns = {name: values for name in COLUMNS if (values := getattr(X, name)) is not None}
    ids = columns.get("id", range(len(X)))
    return Source(list(map(str, ids)), X.__getitem__, columns)


def _read_table(path: str, names: list[str]) -> dict[str, list[Any]]:
    """The columns of a table, in the order of the items."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # as Excel writes it
            given, rows = _rows_by_id(path, csv.DictReader(file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8; save it as that: {error}.") from None
    except csv.Error as error:
        raise ValueError(f"{path} is no table: {error}.") from None
    missing = [name for name in names if name not in rows]
    if missing:
        raise ValueError(f"{path} has no row for {missing[0]!r} ({len(missing)} items have none).")
    columns = [column for column in given if column != "id"]
    return {column: [rows[name][column] for name in names] for column in columns}


def _rows_by_id(
    path: str, reader: csv.DictReader[str]
) -> tuple[Sequence[str], dict[str, dict[str, Any]]]:
    """The names of the columns, and the rows."""
    given = reader.fieldnames or []
    if "id" not in given or not set(given) <= set(COLUMNS):
        raise ValueError(
            f"{path} has the columns {given}; it needs id, and may have label, group and weight."
        )
    rows: dict[str, dict[str, Any]] = {}
    for row in reader:
        _check_row(path, reader.line_num, row, rows)
        rows[row["id"]] = row
    return given, rows


def _check_row(path: str, line: int, row: dict[Any, Any], rows: dict[str, Any]) -> None:
    where = f"{path}, line {line}"
    if None in row or None in row.values() or "" in row.values():
        raise ValueError(f"{where} has not one entry for each column: {list(row.values())}.")
    if row["id"] in rows:
        raise ValueError(f"{where} is a second row for {row['id']!r}.")
    if "weight" in row:
        try:
            row["weight"] = float(row["weight"])
        except ValueError:
            raise ValueError(f"{where}: the weight {row['weight']!r} is no number.") from None
