"""Save sets that exist already, in memory or in other layouts, as a store."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from numpy.typing import ArrayLike

from acluster._utils._progress import progress
from acluster.sets._arrays import Array, bounded
from acluster.sets._feature_sets import FeatureSets, check_lengths
from acluster.sets._ids import check_ids
from acluster.sets._multimodal import MultimodalFeatureSets, by_modality
from acluster.sets._names import COLUMNS
from acluster.sets._sequence import ItemSequence
from acluster.sets._store._addresses import redacted
from acluster.sets._store._arrays import read_foreign
from acluster.sets._store._columns import column_array
from acluster.sets._store._reader import is_zarr_group, open_if_store
from acluster.sets._store._writer import FeatureSetsWriter


def save_feature_sets(
    path: Any,
    X: Any,
    *,
    lengths: ArrayLike | None = None,
    label: ArrayLike | None = None,
    id: ArrayLike | None = None,
    group: ArrayLike | None = None,
    weight: ArrayLike | None = None,
    dtype: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    verbose: bool = False,
) -> None:
    """Write sets to a new store, from memory or from another layout, with bounded memory.

    Parameters
    ----------
    path : str, path, object of zarr.storage or icechunk session
        The directory of the store, or an address in object storage that begins with s3:// or
        gs://; there must be nothing, as for :class:`FeatureSetsWriter`.

    X : FeatureSets, MultimodalFeatureSets, sequence, array or zarr.Group
        One of

        - a container, in memory or opened from another store, or the path or URL of one; its places
          are kept;
        - a sequence or an iterator of items, each an array (or zarr array) of shape (L_i, M),
          or a mapping of modality names to such arrays;
        - a mapping of modality names to any of the other forms. With zarr groups, an item that is
          absent from one of them lacks that modality;
        - an array, or zarr array, of shape (n, L, M); pass `lengths` if it is padded;
        - a zarr group with one array of shape (L_i, M) per item. The items are sorted by
          their names in natural order (item2 before item10), which become their `id`.

        If a zarr array lacks chunks, an error is raised: they may have been lost. If they were
        left out because they equal the fill value, pass the values, ``array[...]``.

    lengths : array-like of int, shape (n,), optional
        The number of local features of each item of a padded array, without the padding.

    label : array-like of shape (n,) or (n, n_labels), optional
        The labels. By default, the labels of X if it comes from a store. The same holds for
        `id`, `group` and `weight`. The column names of a data frame are kept for the command line.

    id, group : array-like of str or int, shape (n,), optional
        The names of the items, and the groups that a group-wise splitter keeps together.

    weight : array-like of shape (n,), optional
        The sample weights.

    dtype : {"float16", "float32"}, default=None
        The dtype of the stored features. By default, float16 features stay float16 and all
        others become float32, except for integers that float32 would round: the first item with
        them decides for float64. Pass a dtype to accept its rounding.

    attributes : dict, default=None
        Metadata about the features that JSON can represent, such as their extractor. The
        `extraction` of a container is kept.

    verbose : bool, default=False
        Whether to show the progress on a terminal.

    Raises
    ------
    FileExistsError
        If there is something at `path`.

    ValueError, TypeError
        If an item is invalid, the numbers of items differ, or stores have the same ids in
        different orders. The message names the item, and the incomplete store is removed.

    See Also
    --------
    acluster.FeatureSetsWriter : Write items while they are extracted.
    acluster.open_feature_sets : Open a store.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from acluster import open_feature_sets, save_feature_sets
    >>> folder = tempfile.TemporaryDirectory()
    >>> save_feature_sets(f"{folder.name}/a.zarr", np.ones((2, 5, 3)), lengths=[5, 1], label=[0, 1])
    >>> open_feature_sets(f"{folder.name}/a.zarr").lengths
    array([5, 1])
    >>> folder.cleanup()
    """
    given = {"label": label, "id": id, "group": group, "weight": weight}
    columns = {k: column_array(v, k) for k, v in given.items() if v is not None}
    X = _open_stores(X)
    if isinstance(X, Mapping):
        check_ids({name: x for name, x in X.items() if isinstance(x, FeatureSets)})
    if isinstance(X, ItemSequence):
        columns = {k: v for k in COLUMNS if (v := getattr(X, k)) is not None} | columns
    names = _item_names(X)
    if names is not None and "id" not in columns:
        columns["id"] = column_array(names, "id")
    items = _items(X, names, lengths)
    if verbose:
        items = progress(items, f"{redacted(str(path))}: items")
    attributes = _described(X) | dict(attributes or {})
    writer = FeatureSetsWriter(path, dtype=dtype, attributes=attributes)
    writer._name_columns(X, label)
    try:
        with closing(items):  # clears the progress line before an error is shown
            _append_all(writer, items, columns, places_reader(X))
        writer.close()
    except BaseException:
        writer._remove()
        raise


def _open_stores(X: Any) -> Any:
    """Open X, or the values of a mapping, where they are stores; return the rest unchanged."""
    if isinstance(X, Mapping):
        return {name: _open_stores(x) for name, x in X.items()}
    if is_zarr_group(X) and "acluster_format" not in X.attrs:
        return X  # a group of one array per item
    return open_if_store(X)


def _described(X: Any) -> dict[str, Any]:
    """Return the attributes that say how the features of a container were extracted."""
    modalities = by_modality(X) if isinstance(X, ItemSequence) else {}
    known = {name: own for name, x in modalities.items() if (own := x.extraction) is not None}
    return {"extraction": known} if known else {}


def places_reader(X: Any) -> Callable[[int], dict[str, Any]] | None:
    """Return a function that reads the places of item i, as `FeatureSetsWriter.append` takes them.

    Parameters
    ----------
    X : object
        Any form of X; only containers, and mappings of them, may have places.

    Returns
    -------
    callable or None
        None if X has no places.
    """
    if isinstance(X, FeatureSets):
        places = X.places
        if places is None:
            return None
        return lambda i: dict(zip(places.column_names, places[i].T, strict=True))
    if not isinstance(X, MultimodalFeatureSets | Mapping):
        return None
    readers = {name: read for name, x in by_modality(X).items() if (read := places_reader(x))}
    return (lambda i: {name: read(i) for name, read in readers.items()}) if readers else None


def _append_all(
    writer: FeatureSetsWriter,
    items: Iterable[Any],
    columns: dict[str, Array],
    read_places: Callable[[int], Any] | None,
) -> None:
    for number, item in enumerate(items):
        short = [name for name, values in columns.items() if len(values) <= number]
        if short:
            raise ValueError(
                f"{short[0]} has {len(columns[short[0]])} entries, but X has more items. Pass one "
                "entry per item."
            )
        places = None if read_places is None else read_places(number)
        entries = {name: values[number] for name, values in columns.items()}
        writer.append(item, places=places, **entries)
    for name, values in columns.items():
        if len(values) != len(writer):
            raise ValueError(
                f"{name} has {len(values)} entries for {len(writer)} items. Pass one entry per "
                "item."
            )


def _items(X: Any, names: Sequence[str] | None, lengths: ArrayLike | None) -> Generator[Any]:
    """Iterate over the items of X, in any form that `save_feature_sets` accepts."""
    if lengths is not None or getattr(X, "ndim", None) == 3:
        yield from _padded_items(X, lengths)
    elif isinstance(X, Mapping):
        items = {name: _items(x, names or _item_names(x), None) for name, x in X.items()}
        yield from _multimodal_items(items)
    elif names is not None:
        yield from (X.get(name) for name in names)
    else:
        yield from bounded(X)


def _item_names(X: Any) -> Sequence[str] | None:
    """Return the sorted names of the items, if X is a zarr group or a mapping to zarr groups."""
    groups = list(X.values()) if isinstance(X, Mapping) else [X]
    if not groups or not all(map(is_zarr_group, groups)):
        return None
    names = sorted({name for group in groups for name in group.array_keys()}, key=natural_key)
    inner = next((f"{g.basename}/{name}" for g in groups for name in g.group_keys()), None)
    if inner is not None and not names:
        raise ValueError(
            f"X is a zarr group of groups, such as {inner!r}, without an array. Pass the array of "
            "each item, [X[name]['features'] for name in X.group_keys()] if that is its name."
        )
    return names


def natural_key(name: str) -> tuple[list[tuple[Decimal, str]], str]:
    """Return a sorting key that puts item2 before item10, and is equal for equal names only."""
    parts = re.split(r"(\d+)", name)  # the digits are at the odd positions
    # Unlike int, Decimal accepts any number of digits.
    key = [(Decimal(part), "") if i % 2 else (Decimal(-1), part) for i, part in enumerate(parts)]
    return key, name


def _padded_items(X: Any, lengths: ArrayLike | None) -> Iterator[Any]:
    if getattr(X, "ndim", None) != 3:
        raise ValueError(
            "lengths can only be passed with a padded array (items, local features, features); X "
            f"has type {type(X).__name__} and shape {getattr(X, 'shape', None)}. Leave lengths out."
        )
    n_items, longest = X.shape[:2]
    sizes = [longest] * n_items if lengths is None else check_lengths(lengths, n_items, longest)
    for i, size in enumerate(sizes):
        key = slice(i, i + 1), slice(int(size))
        yield (read_foreign(X, f"Item {i}", key) if hasattr(X, "store_path") else X[key])[0]


def _multimodal_items(modalities: Mapping[str, Iterator[Any]]) -> Iterator[dict[str, Any]]:
    ended = object()
    for sets in zip_longest(*modalities.values(), fillvalue=ended):
        item = dict(zip(modalities, sets, strict=True))
        short = [name for name, values in item.items() if values is ended]
        if short:
            raise ValueError(
                f"Modality {short[0]!r} has fewer items than the others. Pass None for an item "
                "that lacks it."
            )
        yield item
