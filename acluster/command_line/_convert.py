"""Convert items in files, or another store, to a store, item by item."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acluster._utils._progress import progress
from acluster.command_line._labels import LabelTable
from acluster.formats import Item, Source, open_source
from acluster.sets import FeatureSetsWriter, check_resumable


def convert(
    path: Path,
    out: str,
    *,
    table: LabelTable | None = None,
    only_matching: bool = False,
    subfolders: str | None = None,
    dtype: str | None = None,
) -> tuple[int, int]:
    """Write the items at `path` to the store `out`, or resume doing so.

    Parameters
    ----------
    path : path
        A folder, an archive, a table or a store; see `open_source`.

    out : str
        The store to write. It may already contain the first items.

    table : LabelTable, optional
        Labels, groups and weights of the items.

    only_matching : bool, default=False
        Whether items without a row in the table, and rows without an item, are left out.

    subfolders : {"modalities", "items"}, optional
        What the folders in a folder are.

    dtype : {"float16", "float32"}, optional
        The dtype of the stored features.

    Returns
    -------
    n_items, n_left_out : int
        The number of items in the store, and of those at `path` that are not in it.

    Raises
    ------
    ValueError
        If a file or the table is not valid, or `out` has other items or columns.
    """
    known = () if table is None else table.rows.keys() | table.others
    source = open_source(path, subfolders=subfolders, known=known)
    numbers = list(range(len(source.names)))
    if table is not None:
        numbers = table.select(source.names, only_matching)
    columns = {name: [x[i] for i in numbers] for name, x in source.columns.items()}
    label_names = source.label_names
    if table is not None:
        columns |= table.columns([source.names[i] for i in numbers])
        label_names = (
            table.label_names if "label" in next(iter(table.rows.values())) else label_names
        )
    options: dict[str, Any] = {"attributes": source.attributes} if source.attributes else {}
    if label_names:
        options["label_names"] = label_names
    with FeatureSetsWriter(out, resume=True, dtype=dtype, **options) as writer:
        if len(writer):
            check_resumable(writer, columns, str(path))
        _append_missing(writer, source, numbers, columns)
    return len(numbers), len(source.names) - len(numbers)


def _append_missing(
    writer: FeatureSetsWriter, source: Source, numbers: list[int], columns: Mapping[str, Any]
) -> None:
    """Append the items that the store does not have yet."""
    n_done = len(writer)
    missing = numbers[n_done:]
    items = progress(source.read(missing), f"{writer.path}: items", len(missing))
    for k, item in enumerate(items, n_done):
        try:
            _append(writer, item, {name: values[k] for name, values in columns.items()})
        except (ValueError, TypeError) as error:
            # The writer knows the number of the item, not its file.
            raise ValueError(f"{source.where(numbers[k])}: {error}") from None


def _append(writer: FeatureSetsWriter, item: Item, entries: Mapping[str, Any]) -> None:
    writer.append(item.features, places=item.places or None, **entries)
