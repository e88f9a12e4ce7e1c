"""Saving what is already there, in memory or in other layouts, as a store."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import ArrayLike, NDArray

from acluster._utils._progress import progress
from acluster.sets._feature_sets import check_lengths, to_numpy
from acluster.sets._sequence import ItemSequence
from acluster.sets._store._reader import COLUMNS, open_feature_sets
from acluster.sets._store._writer import FeatureSetsWriter

__all__ = ["natural_key", "save_feature_sets", "save_rows"]

_CHUNK_BYTES = 1 << 22


def save_feature_sets(
    path: str | os.PathLike[str],
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
    """Write sets as a store, from memory or from other layouts, with bounded memory.

    Parameters
    ----------
    path : str or path
        A directory that is not there yet.

    X : FeatureSets, MultimodalFeatureSets, sequence, array or zarr.Group
        - the containers, in memory or from another store, whose path will do;
        - a sequence or an iterator of items: arrays (zarr arrays too) of shape (L_i, M), or
          mappings of modality names to such;
        - a mapping of modality names to any of the other forms; an item that is not in one of
          several groups lacks that modality;
        - an array, or zarr array, of shape (n, L, M); `lengths` cuts off its padding;
        - a zarr group with one array of shape (L_i, M) per item. The items come in the
          natural order of their names (item2 before item10), which become their `id`.

    lengths : array-like of int, shape (n,), optional
        The number of true local features of each item of a padded array.

    label : array-like of shape (n,) or (n, n_labels), optional
        By default what a container has, if it comes from a store; so also the next three.

    id, group : array-like of str or int, shape (n,), optional
        Names of the items, and groups that belong together.

    weight : array-like of shape (n,), optional
        Sample weights.

    dtype : {"float16", "float32"}, default=None
        The type of the stored features. By default float16 features stay as they are and
        all others become float32.

    attributes : dict, default=None
        Anything JSON can hold about the features, such as their extractor.

    verbose : bool, default=False
        Whether a terminal is told how many items are written.

    Raises
    ------
    FileExistsError
        If there is something at `path`.

    ValueError, TypeError
        If an item is not usable or the numbers of items differ. The started store is
        removed then, and the message names the item.

    See Also
    --------
    acluster.FeatureSetsWriter : Write items as they are extracted.
    acluster.open_feature_sets : Read them.

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
    columns = {k: _checked_column(v, k) for k, v in given.items() if v is not None}
    X = _opened(X)
    if isinstance(X, ItemSequence):
        columns = {k: v for k in COLUMNS if (v := getattr(X, k)) is not None} | columns
    names = _item_names(X)
    if names is not None and "id" not in columns:
        columns["id"] = np.array(names)
    items = _items(X, names, lengths)
    if verbose:
        items = progress(items, f"{path}: items")
    writer = FeatureSetsWriter(path, dtype=dtype, attributes=attributes)
    try:
        with closing(items):  # an error is shown after the line of progress is gone
            _append_all(writer, items, columns)
        writer.close()
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _opened(X: Any) -> Any:
    """The sets of a path or a zarr group that is a store; anything else as it is."""
    if isinstance(X, Mapping):
        return {name: _opened(x) for name, x in X.items()}
    is_group = isinstance(X, zarr.Group) and "acluster_format" in X.attrs
    return open_feature_sets(X) if is_group or isinstance(X, str | os.PathLike) else X


def _checked_column(values: Any, name: str) -> NDArray[Any]:
    array = to_numpy(values)
    if array.dtype == object:  # a column of a data frame
        array = np.array(array.tolist())
    if array.ndim not in ((1, 2) if name == "label" else (1,)):
        raise ValueError(f"{name} has shape {array.shape}; expected one entry per item.")
    return array


def _append_all(
    writer: FeatureSetsWriter, items: Iterable[Any], columns: dict[str, NDArray[Any]]
) -> None:
    for number, item in enumerate(items):
        short = [name for name, values in columns.items() if len(values) <= number]
        if short:
            raise ValueError(
                f"{short[0]} has {len(columns[short[0]])} entries, but X has more items. Pass one "
                "entry per item."
            )
        writer.append(item, **{name: values[number] for name, values in columns.items()})
    for name, values in columns.items():
        if len(values) != len(writer):
            raise ValueError(
                f"{name} has {len(values)} entries for {len(writer)} items. Pass one per item."
            )


def _items(
    X: Any, names: Sequence[str] | None, lengths: ArrayLike | None
) -> Generator[Any, None, None]:
    """The items of every form that `save_feature_sets` takes, one after the other."""
    if lengths is not None or getattr(X, "ndim", None) == 3:
        yield from _padded_items(X, lengths)
    elif isinstance(X, Mapping):
        items = {name: _items(x, names or _item_names(x), None) for name, x in X.items()}
        yield from _multimodal_items(items)
    elif names is not None:
        yield from (X[name][...] if name in X else None for name in names)
    else:
        yield from (x[...] if isinstance(x, zarr.Array) else x for x in X)


def _item_names(X: Any) -> Sequence[str] | None:
    """The names of the items in a zarr group of one array each, or in groups by modality."""
    groups = list(X.values()) if isinstance(X, Mapping) else [X]
    if not groups or not all(isinstance(group, zarr.Group) for group in groups):
        return None
    return sorted({name for group in groups for name in group.array_keys()}, key=natural_key)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorts item2 before item10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _padded_items(X: Any, lengths: ArrayLike | None) -> Iterator[Any]:
    if getattr(X, "ndim", None) != 3:
        raise ValueError(
            "lengths belong to a padded array (items, local features, features); X is "
            f"a {type(X).__name__} of shape {getattr(X, 'shape', None)}."
        )
    n_items, longest = X.shape[:2]
    sizes = [longest] * n_items if lengths is None else check_lengths(lengths, n_items, longest)
    for i, size in enumerate(sizes):
        yield X[i, :size]


def _multimodal_items(modalities: Mapping[str, Iterator[Any]]) -> Iterator[dict[str, Any]]:
    ended = object()
    while True:
        row = [next(x, ended) for x in modalities.values()]
        if all(x is ended for x in row):
            return
        if any(x is ended for x in row):
            short = [name for name, x in zip(modalities, row, strict=True) if x is ended]
            raise ValueError(f"Modality {short[0]!r} has fewer items than the others.")
        yield dict(zip(modalities, row, strict=True))


def save_rows(
    path: str | os.PathLike[str], blocks: Iterable[NDArray[Any]], n_rows: int
) -> zarr.Array:
    """Write blocks of rows as one zarr array that appears at `path` when it is whole.

    Parameters
    ----------
    path : str or path
        Where nothing is yet.

    blocks : iterable of ndarray of shape (k, width)
        The rows, block by block.

    n_rows : int
        How many there will be.

    Returns
    -------
    zarr.Array of shape (n_rows, width)
        Opened for reading.

    Raises
    ------
    FileExistsError
        If there is something at `path`.
    """
    target = Path(path)
    partial = target.with_name(f"{target.name}.partial")
    if target.exists():
        raise FileExistsError(
            f"There is already something at {str(target)!r}. Choose another path, or remove it."
        )
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was stopped
    array, pending, written = None, [], 0
    for block in blocks:
        if array is None:
            array = _create_rows(partial, n_rows, block)
        pending.append(block)
        whole = np.concatenate(pending)
        n_ready = len(whole) // array.chunks[0] * array.chunks[0]
        array[written : written + n_ready] = whole[:n_ready]
        pending, written = [whole[n_ready:]], written + n_ready
    if array is not None:
        array[written:] = pending[0]
    partial.rename(target)
    return zarr.open_array(str(target), mode="r")


def _create_rows(path: Path, n_rows: int, like: NDArray[Any]) -> zarr.Array:
    row_bytes = like.shape[1] * like.itemsize
    return zarr.create_array(
        str(path),
        shape=(n_rows, like.shape[1]),
        chunks=(min(n_rows, max(1, _CHUNK_BYTES // row_bytes)), like.shape[1]),
        dtype=like.dtype,
        compressors=None,
        dimension_names=("item", "global_feature"),
    )
