"""Convert items in files, or another store, to a store, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from acluster._utils._progress import progress
from acluster.command_line._labels import LabelTable
from acluster.formats import Item, Source, open_source
from acluster.sets import UNNAMED, FeatureSetsWriter, check_resumable, info, keep_column_names

Axes = dict[str, set[str]]  # the names of the coordinates of each modality


def convert(
    path: str,
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
    path : str
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
        If a file or the table is not valid, or `out` has other items or columns. The items before
        an invalid file stay in `out`, and the message says how to continue; without any, a new
        store is removed.
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
    columns = _complete(columns, source, numbers)
    options: dict[str, Any] = {"attributes": source.attributes} if source.attributes else {}
    if label_names:
        options["label_names"] = label_names
    with FeatureSetsWriter(out, resume=True, dtype=dtype, **options) as writer:
        if len(writer):
            check_resumable(writer, columns, path)
        if source.container is not None:
            keep_column_names(writer, source.container)
        try:
            _append_missing(writer, source, numbers, columns)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{error}{_how_to_continue(writer)}") from None
    return len(numbers), len(source.names) - len(numbers)


def _complete(columns: Mapping[str, Any], source: Source, numbers: Sequence[int]) -> dict[str, Any]:
    """Return the columns that have entries, after a check that each has one for every item."""
    complete = {}
    for name, values in columns.items():
        is_missing = [value is None for value in values]
        if all(is_missing):
            continue
        if any(is_missing):
            raise ValueError(
                f"{source.where(numbers[is_missing.index(True)])}: its {name} is missing, and so "
                f"are {sum(is_missing)} of {len(values)}. Fill them in, or pass a table of the "
                "items to convert: --labels table.csv --only-matching."
            )
        complete[name] = values
    return complete


def _how_to_continue(writer: FeatureSetsWriter) -> str:
    """Return what to do about the items before one that is invalid; empty if there are none."""
    if not len(writer):
        return ""
    items = "1 item before it stays" if len(writer) == 1 else f"{len(writer)} items before it stay"
    return (
        f" The {items} in {writer.path}: run the same command again to continue "
        "after them, or remove this store."
    )


def _append_missing(
    writer: FeatureSetsWriter, source: Source, numbers: list[int], columns: Mapping[str, Any]
) -> None:
    """Append the items that the store does not have yet."""
    n_done = len(writer)
    missing = numbers[n_done:]
    known = _stored_axes(writer)
    items = progress(source.read(missing), f"{writer.path}: items", len(missing))
    for k, item in enumerate(items, n_done):
        where = source.where(numbers[k])
        _check_same_axes(item, known, where)
        entries = {name: values[k] for name, values in columns.items()}
        try:
            writer.append(item.features, places=item.places or None, **entries)
        except (ValueError, TypeError) as error:
            # The writer knows the number of the item, not its file.
            raise ValueError(f"{where}: {error}") from None


def _stored_axes(writer: FeatureSetsWriter) -> Axes:
    """Return the names of the coordinates that are in a store, by modality."""
    if not len(writer):
        return {}
    found = info(writer.path).modalities
    return {name: {*one.places} for name, one in found.items() if one.n_local_features}


def _check_same_axes(item: Item, known: Axes, where: str) -> None:
    """Check that an item has the coordinates of those before it; add new modalities to `known`."""
    is_multimodal = isinstance(item.features, Mapping)
    features = item.features if is_multimodal else {UNNAMED: item.features}
    places = item.places if is_multimodal else {UNNAMED: item.places}
    for name in (name for name, x in features.items() if len(x)):
        own = {*places.get(name, ())}
        expected = known.setdefault(name, own)
        if own != expected:
            raise ValueError(
                f"{where}: its local features{f' of {name!r:.80}' if is_multimodal else ''} have "
                f"{_listed(own)}, but those of the items before it have {_listed(expected)}. Give "
                "all items the same coordinates (coords, with or without the attribute mpp), or "
                "convert them to separate stores."
            )


def _listed(axes: set[str]) -> str:
    return f"the coordinates {', '.join(sorted(axes))}" if axes else "no coordinates"
