"""Sets inside the tables and arrays of other libraries, which are never imported here.

The libraries are recognized by the methods of their objects: columns of lists (pandas, polars,
pyarrow, Hugging Face datasets), nested series (sktime, aeon), ragged arrays (awkward).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._arrays import bounded, is_missing, to_numpy
from acluster.sets._feature_sets import FeatureSets, check_set, length_range
from acluster.sets._multimodal import MultimodalFeatureSets, in_modality, sets_with_missing
from acluster.sets._store._reader import open_if_store

Array = NDArray[Any]

_LAYOUTS = ("rows", "channels")


def as_feature_sets(
    data: Any, columns: str | Sequence[str] | None = None, *, layout: str = "rows"
) -> FeatureSets | MultimodalFeatureSets:
    """Convert sets in a table or an array of another library to a container.

    Parameters
    ----------
    data : table, column, or array of n items
        One of

        - a column (pandas, polars, pyarrow, Hugging Face datasets) whose cells are sets: lists of
          rows, or arrays of shape (L_i, M);
        - a table with such columns;
        - a table of nested series, as sktime and aeon use it: one column per channel, whose cells
          are series of length L_i; it needs ``layout="channels"``;
        - an awkward array of shape (n, var, M);
        - an array or tensor of shape (n, L, M), or (n, M, L) with ``layout="channels"``;
        - a list of arrays, or a container;
        - a mapping of modality names to any of these.

    columns : str or sequence of str, optional
        The columns of a table: a name, for one modality, or a list of names, for one modality
        each. With nested series, the channels. By default, all columns of nested series; another
        table must have a single column.

    layout : {"rows", "channels"}, default="rows"
        Whether the local features are the rows of an item, (L, M), or its columns, (M, L), as in
        collections of time series, whose arrays are (items, channels, time). The shape does not
        tell, so it is never guessed.

    Returns
    -------
    FeatureSets or MultimodalFeatureSets
        The items, in memory. With a list of columns, an item with an empty cell (None, NaN or an
        empty list) lacks that modality.

    Raises
    ------
    ValueError, TypeError
        If the data have another form. The message names the item, the value and the remedy.

    See Also
    --------
    group_rows : Build sets from a table with one local feature per row.

    Examples
    --------
    >>> import pandas as pd
    >>> from acluster.sets import as_feature_sets
    >>> table = pd.DataFrame({"frames": [[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]], "y": ["a", "b"]})
    >>> as_feature_sets(table, "frames").lengths
    array([1, 2])

    Two channels of 5 time steps, for each of 3 items:

    >>> import numpy as np
    >>> as_feature_sets(np.zeros((3, 2, 5)), layout="channels")[0].shape
    (5, 2)
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout={layout!r} is not one of {', '.join(_LAYOUTS)}.")
    data = open_if_store(data)
    if isinstance(data, FeatureSets | MultimodalFeatureSets):
        return data
    if isinstance(data, Mapping):
        named: dict[str, Any] = {k: as_feature_sets(x, layout=layout) for k, x in data.items()}
        return MultimodalFeatureSets(named)
    data = _loaded(data)
    if not _is_table(data):
        if columns is not None:
            raise ValueError(
                f"columns={columns!r} needs a table, but data has type {type(data).__name__}. "
                "Leave columns out."
            )
        return _from_items(data, layout)
    if layout == "channels":
        names = _names_of(data) if columns is None else columns
        return _from_channels(data, [names] if isinstance(names, str) else list(names))
    return _from_table(data, columns)


def _loaded(data: Any) -> Any:
    """Return a dataset of Hugging Face as a table of Arrow; return other data unchanged."""
    is_dataset = hasattr(data, "with_format") and hasattr(data, "column_names")
    return data.with_format("arrow")[:] if is_dataset else data


def _is_table(data: Any) -> bool:
    return hasattr(data, "columns") and hasattr(data, "__getitem__")


def _names_of(table: Any) -> list[str]:
    # The attribute `columns` of a table of pyarrow has the columns themselves.
    return list(getattr(table, "column_names", None) or table.columns)


def _from_table(table: Any, columns: Any) -> FeatureSets | MultimodalFeatureSets:
    names = _names_of(table)
    if columns is None:
        if len(names) != 1:
            raise ValueError(
                f"data is a table with the columns {names!s:.200}. Pass columns, the name of the "
                "one whose cells are sets, or a list of names, one for each modality."
            )
        columns = names[0]
    single = isinstance(columns, str)
    chosen = [columns] if single else list(columns)
    if lacking := [name for name in chosen if name not in names]:
        raise ValueError(f"data has no column {lacking[0]!r}; it has {names!s:.200}.")
    if single:
        return FeatureSets.from_arrays(_cells(table[columns]))
    modalities = {}
    for name in chosen:
        with in_modality(name):
            cells = [x if x is not None and len(x) else None for x in _cells(table[name])]
            modalities[name] = sets_with_missing(cells)
    return MultimodalFeatureSets(modalities)


def _from_items(data: Any, layout: str) -> FeatureSets:
    is_padded = getattr(data, "ndim", None) == 3 and hasattr(data, "shape")
    if layout == "rows":
        return FeatureSets.from_padded(data) if is_padded else FeatureSets.from_arrays(_cells(data))
    if is_padded:
        return FeatureSets.from_padded(to_numpy(data).swapaxes(1, 2))
    return FeatureSets.from_arrays(
        check_set(item, f"data[{i}]").T for i, item in enumerate(_cells(data))
    )


def _from_channels(table: Any, names: list[str]) -> FeatureSets:
    """Stack the channels of nested series, whose cells are the values of one channel over time."""
    channels = [bounded(table[name]) for name in names]

    def items() -> Iterator[Array]:
        for i, cells in enumerate(zip(*channels, strict=True)):
            series = [to_numpy(cell) for cell in cells]
            shapes = {one.shape for one in series}
            if len(shapes) > 1 or any(one.ndim != 1 for one in series):
                raise ValueError(
                    f"Item {i} has channels of the shapes {[one.shape for one in series]}; all "
                    "need the same number of time steps, (L,). Resample them, or pass them as "
                    "modalities: one set of shape (L, 1) for each."
                )
            yield np.column_stack(series)

    return FeatureSets.from_arrays(items())


def _cells(column: Any) -> Iterable[Any]:
    """Iterate over the sets in a column; None where a cell is empty."""
    if hasattr(column, "value_lengths") or hasattr(column, "chunks"):  # of pyarrow
        return [x for part in getattr(column, "chunks", [column]) for x in list_arrays(part)]
    return (None if is_missing(cell) else _as_rows(cell) for cell in bounded(column))


def _as_rows(cell: Any) -> Any:
    """Return a cell that is a series of lists (polars) as an array; return others unchanged."""
    is_series = hasattr(cell, "to_numpy") and hasattr(cell, "explode") and not _is_table(cell)
    if not is_series or isinstance(cell, np.ndarray):
        return cell
    rows = [to_numpy(row) for row in cell]
    return np.stack(rows) if rows else None


def list_arrays(column: Any) -> list[Array | None]:
    """Convert a pyarrow array of lists of lists of numbers to one array per item.

    Parameters
    ----------
    column : pyarrow array of type list<list<number>>
        Each of the two lists may be large or of fixed size.

    Returns
    -------
    list of ndarray of shape (L_i, M), or None
        None where a cell is null. An item without rows has the shape (0, M).

    Raises
    ------
    ValueError
        If the lists have another depth, the rows differ in length, or numbers are missing.
    """
    depth: list[Any] = [column]
    while hasattr(depth[-1], "value_lengths"):
        depth.append(depth[-1].flatten())
    packed = depth[-1].to_numpy(zero_copy_only=False)
    if len(depth) != 3 or packed.dtype.kind not in "biuf":
        raise ValueError(
            f"A column has the type {column.type}; expected lists of lists of numbers, one inner "
            "list for each local feature of an item."
        )
    _, rows, values = depth
    if rows.null_count or values.null_count:
        raise ValueError(
            f"A column of sets has {rows.null_count} missing local features and "
            f"{values.null_count} missing numbers. Drop or fill them."
        )
    found = np.unique(rows.value_lengths().to_numpy())
    if len(found) > 1:
        raise ValueError(
            f"The local features in a column have {length_range(found)} numbers; all need the same."
        )
    width = int(found[0]) if len(found) else 1
    packed = packed.reshape(-1, width)
    sizes = column.value_lengths().to_pylist()
    ends = np.cumsum([size or 0 for size in sizes])
    return [
        None if size is None else packed[end - size : end]
        for size, end in zip(sizes, ends, strict=True)
    ]


def group_rows(rows: Any, by: Any) -> tuple[FeatureSets, Array]:
    """Build sets from a table with one local feature per row, such as cells with their donor.

    Parameters
    ----------
    rows : array-like or data frame of shape (R, M)
        The local features of all items, in any order.

    by : array-like of shape (R,)
        The item that each row belongs to.

    Returns
    -------
    X : FeatureSets of n items
        One item for each distinct value in `by`. The rows of an item keep their order.

    keys : ndarray of shape (n,)
        The value in `by` of each item, sorted.

    Raises
    ------
    ValueError, TypeError
        If `rows` is not a dense table of real numbers, or `by` does not have one value per row, or
        has missing values.

    See Also
    --------
    as_feature_sets : Convert tables with one item per row.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.sets import group_rows
    >>> X, keys = group_rows(np.arange(8.0).reshape(4, 2), ["b", "a", "b", "b"])
    >>> keys, X.lengths
    (array(['a', 'b'], dtype='<U1'), array([1, 3]))

    With AnnData, cells are rows: ``group_rows(adata.obsm["X_pca"], adata.obs["donor"])``.
    """
    if hasattr(rows, "tocsr"):
        raise TypeError(
            f"rows has type {type(rows).__name__}, which is sparse. Pass a dense representation, "
            "such as principal components, or rows.toarray()."
        )
    values, keys = FeatureSets(rows, [0, len(rows)]), list(by)
    n_rows = int(values.lengths[0])
    if len(keys) != n_rows:
        raise ValueError(f"by has {len(keys)} entries for {n_rows} rows. Pass one entry per row.")
    missing = next((i for i, key in enumerate(keys) if is_missing(key)), None)
    if missing is not None:
        raise ValueError(
            f"by[{missing}]={keys[missing]!r} is missing. Drop the row, or fill it in."
        )
    found, codes = np.unique(np.asarray(keys), return_inverse=True)
    order = np.argsort(codes, kind="stable")
    packed, _ = values.packed()
    offsets = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(found)))])
    sets = FeatureSets(packed[order], offsets)
    sets._feature_names = values._feature_names
    return sets, found
