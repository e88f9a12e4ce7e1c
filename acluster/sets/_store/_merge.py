"""Write the items of several stores to one, with bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from acluster._utils._progress import progress
from acluster.sets._arrays import column_names, equal_arrays
from acluster.sets._multimodal import by_modality
from acluster.sets._store._reader import info, open_feature_sets
from acluster.sets._store._save import places_reader
from acluster.sets._store._writer import FeatureSetsWriter


def merge_stores(
    stores: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str], *, verbose: bool = False
) -> int:
    """Write the items of several stores to one store, in their order, with bounded memory.

    If the process is killed, the same call continues after the last item on disk.

    Parameters
    ----------
    stores : sequence of str or path
        The stores. They need the same modalities, of the same widths, dtypes and column names, the
        same columns (the ids among them), label names and attributes. No id may occur twice.

    path : str or path
        The store to write, or to resume.

    verbose : bool, default=False
        Whether to show the progress on a terminal.

    Returns
    -------
    int
        The number of items in the merged store.

    Raises
    ------
    ValueError
        If the stores do not match, which the message says with the names of both, or if the store
        at `path` has other items.

    FileNotFoundError, StoreError
        If a store cannot be read.

    See Also
    --------
    acluster.save_feature_sets : Write sets from memory or other layouts.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from acluster import open_feature_sets, save_feature_sets
    >>> from acluster.sets import merge_stores
    >>> folder = tempfile.TemporaryDirectory()
    >>> X = np.ones((2, 5, 3))
    >>> save_feature_sets(f"{folder.name}/a", X, id=["a0", "a1"])
    >>> save_feature_sets(f"{folder.name}/b", X, id=["b0", "b1"])
    >>> merge_stores([f"{folder.name}/a", f"{folder.name}/b"], f"{folder.name}/both")
    4
    >>> open_feature_sets(f"{folder.name}/both").id
    array(['a0', 'a1', 'b0', 'b1'], dtype='<U2')
    >>> folder.cleanup()
    """
    names = [os.fspath(store) for store in stores]
    if not names:
        raise ValueError("there are no stores to merge; pass at least one.")
    if len({os.path.realpath(name) for name in [*names, os.fspath(path)]}) <= len(names):
        raise ValueError(f"a store is named twice in {[*names, os.fspath(path)]!s:.300}.")
    sets = [open_feature_sets(name) for name in names]
    described = [_describe(x, name) for x, name in zip(sets, names, strict=True)]
    for own, name in zip(described[1:], names[1:], strict=True):
        _check_same(described[0], own, names[0], name)
    _check_distinct(sets, names)
    columns = {
        column: [*chain.from_iterable(getattr(x, column) for x in sets)]
        for column in described[0]["columns"]
    }
    first = described[0]
    options = {"attributes": first["attributes"], "label_names": first["label names"]}
    with FeatureSetsWriter(path, resume=True, **options) as writer:
        if len(writer):
            check_resumable(writer, columns, " and ".join(names))
        keep_column_names(writer, sets[0])
        _append_missing(writer, sets, columns, verbose)
    return len(columns["id"])


def _append_missing(
    writer: FeatureSetsWriter, sets: Sequence[Any], columns: Mapping[str, Any], verbose: bool
) -> None:
    n_done, n_items = len(writer), len(columns["id"])
    numbers: Iterable[int] = range(n_done, n_items)
    if verbose:
        numbers = progress(numbers, f"{writer.path}: items", n_items - n_done)
    pairs = [(x, places_reader(x)) for x in sets]
    items = ((x, read, i) for x, read in pairs for i in range(len(x)))
    for k, (x, read, i) in zip(numbers, islice(items, n_done, None), strict=False):
        entries = {column: values[k] for column, values in columns.items()}
        writer.append(x[i], places=read(i) if read else None, **entries)


def _describe(X: Any, store: str) -> dict[str, Any]:
    """Return what stores must have in common, each with its name in messages."""
    found, sets = info(store), by_modality(X)
    if "id" not in found.columns:
        raise ValueError(
            f"{store} has no ids, by which the items of a merged store are told apart. Add them: "
            "acluster.save_feature_sets(path, store, id=...)."
        )
    return {
        "modalities": [*sets],
        "numbers of features": {name: x.n_features for name, x in sets.items()},
        "dtypes": {name: str(x.dtype) for name, x in sets.items()},
        "feature names": {name: column_names(x) for name, x in sets.items()},
        "names of places": {name: x.places and x.places.column_names for name, x in sets.items()},
        "columns": sorted(found.columns),
        "kinds of labels": None if X.label is None else _kind(X.label),
        "label names": found.label_names and list(found.label_names),
        "attributes": found.attributes,
    }


def _kind(labels: Any) -> str:
    kind = "text" if labels.dtype.kind in "UO" else str(labels.dtype)
    return kind if labels.ndim == 1 else f"{labels.shape[1]} times {kind}"


def _check_same(
    first: Mapping[str, Any], own: Mapping[str, Any], first_name: str, name: str
) -> None:
    for what, expected in first.items():
        same = (
            sorted(own[what]) == sorted(expected) if what == "modalities" else own[what] == expected
        )
        if not same:
            raise ValueError(
                f"{first_name} and {name} cannot be merged, because they differ in their {what}: "
                f"{expected!s:.300} and {own[what]!s:.300}. Make them the same, for example with "
                "acluster convert or acluster.save_feature_sets."
            )


def _check_distinct(sets: Sequence[Any], names: Sequence[str]) -> None:
    of_id: dict[Any, str] = {}
    for x, name in zip(sets, names, strict=True):
        for one in x.id.tolist():
            if one in of_id:
                raise ValueError(
                    f"{of_id[one]} and {name} both have an item with the id {one!r}. Ids must be "
                    "distinct; leave the item out of one of them."
                    if of_id[one] != name
                    else f"{name} has two items with the id {one!r}. Ids must be distinct."
                )
            of_id[one] = name


def keep_column_names(writer: FeatureSetsWriter, X: Any) -> None:
    """Let a store that is copied from containers keep the names of their columns, if any."""
    writer._name_columns(X, None)


def check_resumable(writer: FeatureSetsWriter, columns: Mapping[str, Any], source: str) -> None:
    """Check by their columns that the items of a writer are the first ones of a source.

    Parameters
    ----------
    writer : FeatureSetsWriter
        A writer that resumes a store, and has appended nothing yet.

    columns : dict of str to sequence
        The columns of all items of the source.

    source : str
        The name of the source in error messages.

    Raises
    ------
    ValueError
        If the columns differ, or there are no ids to compare.
    """
    written = set(info(writer.path).columns)
    if written != set(columns) or "id" not in columns:
        raise ValueError(
            f"{writer.path} cannot be resumed: it has the columns {sorted(written)}, but "
            f"{source} has {sorted(columns)}, and both need the column id. Choose another "
            "path, or remove it."
        )
    for name, values in columns.items():
        if not equal_arrays(writer.column(name), values[: len(writer)]):  # labels may be NaN
            raise ValueError(
                f"{writer.path} cannot be resumed: its column {name} differs from that of "
                f"{source}. Choose another path, or remove it."
            )
