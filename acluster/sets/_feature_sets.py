"""The ragged container: many sets of local features, indexed like one array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster.sets._sequence import ItemSequence, as_range

__all__ = [
    "FeatureSets",
    "Rows",
    "RowsInMemory",
    "Source",
    "check_lengths",
    "rows_of_runs",
    "to_numpy",
]


class Rows(Protocol):
    """Local features end to end, (R, M), wherever they lie."""

    @property
    def shape(self) -> tuple[int, int]:
        """``(R, M)``."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the features."""

    @property
    def is_fast(self) -> bool:
        """Whether short runs in shuffled order are cheap."""

    @property
    def rows_per_block(self) -> int:
        """The rows that are decoded together where they are not."""

    def gather(
        self,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """The runs of rows ``starts[i]`` to ``starts[i] + lengths[i]``, end to end.

        `out`, of that shape and type, may be written to and returned.
        """


class Source(Protocol):
    """The whole that `FeatureSets` show items of."""

    @property
    def rows(self) -> Rows:
        """The local features of all items."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """What cuts them, (n_items + 1,)."""

    @property
    def in_memory(self) -> bool:
        """Whether the rows are in memory, as their attribute ``values``."""

    @property
    def place(self) -> str:
        """How messages call it."""

    def column(self, name: str) -> NDArray[Any] | None:
        """What is stored beside the features, a row per item."""


class RowsInMemory:
    """Local features that are one numpy array.

    Parameters
    ----------
    values : ndarray of shape (R, M)
        Not copied.
    """

    is_fast = True
    rows_per_block = 1

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values
        self.shape: tuple[int, int] = values.shape
        self.dtype = values.dtype

    def gather(
        self,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        out: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """The runs end to end: a view when they already lie so, else a copy."""
        rows = rows_of_runs(starts, lengths)
        if isinstance(rows, slice):
            return self.values[rows]
        return self.values.take(rows, axis=0, out=out, mode="clip")  # else numpy buffers `out`


def rows_of_runs(
    starts: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64] | slice:
    """The numbers of all rows of the runs, end to end; a slice when they follow each other."""
    ends = np.cumsum(lengths)
    n_rows = int(ends[-1]) if len(ends) else 0
    if np.array_equal(starts[1:], starts[:-1] + lengths[:-1]):
        first = int(starts[0]) if len(starts) else 0
        return slice(first, first + n_rows)
    return np.arange(n_rows) + np.repeat(starts - (ends - lengths), lengths)


class SetsInMemory:
    """Rows in memory and the offsets that cut them; nothing beside them."""

    in_memory = True
    place = "X"

    def __init__(self, values: NDArray[Any], offsets: NDArray[np.int64]) -> None:
        self.rows = RowsInMemory(values)
        self.offsets = offsets

    def column(self, name: str) -> None:
        """None: in memory, labels and the like are arrays of the user's own."""
        return None


class FeatureSets(ItemSequence):
    """A sequence of local feature sets, one set of shape (L_i, M) per item.

    All local features lie end to end in one array, in memory or in a store, and `offsets`
    cuts it into sets. A selection of items (a slice, an index array, a mask) is a view: it
    holds item numbers and copies no features. Scikit-learn's splitters, searches and
    pipelines index it as they index an array of shape (n_items,).

    Parameters
    ----------
    values : ndarray of shape (R, M)
        The local features of all sets, end to end; R is the sum of the set sizes.
        Kept as it is, not copied.

    offsets : array-like of int, shape (n_items + 1,)
        Set i is ``values[offsets[i]:offsets[i + 1]]``.

    Attributes
    ----------
    lengths : ndarray of int64, shape (n_items,)
        The number L_i of local features of each item.

    n_features : int
        The width M of a local feature.

    dtype : numpy.dtype
        The type of the features.

    in_memory : bool
        Whether the features are in memory; else they are read from a store when asked for.

    shape : tuple
        ``(n_items,)``.

    label, id, group, weight : ndarray or None
        What a store holds beside the features, for the selected items.

    Raises
    ------
    ValueError
        If `values` is not two-dimensional and numeric, or `offsets` do not cut it.

    See Also
    --------
    FeatureSets.from_arrays : From one array per item.
    FeatureSets.from_padded : From a three-dimensional array.
    acluster.open_feature_sets : From a store that memory need not hold.
    acluster.MultimodalFeatureSets : Several of them for the same items.

    Notes
    -----
    The sets are unordered to the classifiers, but for `pyramid_levels`; the container keeps
    the order it was given. An item may be empty here; the estimators refuse it and name it.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import FeatureSets
    >>> X = FeatureSets(np.arange(10.0).reshape(5, 2), offsets=[0, 3, 5])
    >>> X
    FeatureSets(n_items=2, n_features=2, lengths=2..3, dtype=float64)
    >>> X[1]
    array([[6., 7.],
           [8., 9.]])
    >>> X[[1, 0]].lengths
    array([2, 3])
    """

    def __init__(self, values: NDArray[Any], offsets: ArrayLike) -> None:
        values = _check_values(values)
        self._source: Source = SetsInMemory(values, _check_offsets(offsets, len(values)))
        self._items = np.arange(len(self._source.offsets) - 1)

    @classmethod
    def from_source(cls, source: Source) -> FeatureSets:
        """All items of a source that is already known to be sound; for stores."""
        sets = object.__new__(cls)
        sets._source = source
        sets._items = np.arange(len(source.offsets) - 1)
        return sets

    @classmethod
    def from_arrays(cls, arrays: Iterable[Any]) -> FeatureSets:
        """Copy one two-dimensional array (or CPU or GPU tensor) per item.

        Parameters
        ----------
        arrays : iterable of array-likes, each of shape (L_i, M)
            All of one width M and one dtype.

        Returns
        -------
        FeatureSets
            With one item per array.

        Raises
        ------
        ValueError
            If an item is not a numeric two-dimensional array, or the items differ in
            width or in dtype. The message names the item and the remedy.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import FeatureSets
        >>> FeatureSets.from_arrays([np.ones((2, 3)), np.zeros((1, 3))]).lengths
        array([2, 1])
        """
        sets = [_check_item(item, i) for i, item in enumerate(arrays)]
        if not sets:
            raise ValueError("X has 0 items; at least one is required.")
        _check_same_width(sets)
        _check_same_dtype(sets)
        lengths = [len(item) for item in sets]
        return cls(np.concatenate(sets), np.cumsum([0, *lengths]))

    @classmethod
    def from_padded(cls, array: Any, lengths: ArrayLike | None = None) -> FeatureSets:
        """Take the sets out of one three-dimensional array.

        Parameters
        ----------
        array : array-like of shape (n_items, L, M)
            One set per item; rows from ``lengths[i]`` on are padding and are left out.

        lengths : array-like of int, shape (n_items,), optional
            The number of true local features of each item. By default all L, and
            then nothing is copied.

        Returns
        -------
        FeatureSets
            With n_items items.

        Raises
        ------
        ValueError
            If `array` is not three-dimensional, or a length is not in 0..L.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import FeatureSets
        >>> X = FeatureSets.from_padded(np.zeros((2, 4, 3)), lengths=[4, 1])
        >>> X[1].shape
        (1, 3)
        """
        array = to_numpy(array)
        if array.ndim != 3:
            raise ValueError(
                "A padded array has three dimensions (items, local features, features); "
                f"got shape {array.shape}."
            )
        n_items, longest, n_features = array.shape
        rows = array.reshape(n_items * longest, n_features)
        if lengths is None:
            return cls(rows, np.arange(n_items + 1) * longest)
        lengths = check_lengths(lengths, n_items, longest)
        kept = np.arange(longest) < lengths[:, None]
        return cls(rows[kept.ravel()], np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of local features of each item, shape (n_items,)."""
        offsets = self._source.offsets
        return offsets[self._items + 1] - offsets[self._items]

    @property
    def n_features(self) -> int:
        """The width M of a local feature."""
        return int(self._source.rows.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the features."""
        return self._source.rows.dtype

    @property
    def in_memory(self) -> bool:
        """Whether the features are in memory, not in a store."""
        return self._source.in_memory

    @property
    def nbytes(self) -> int:
        """The size of the selected items' features, as they are stored."""
        return int(self.lengths.sum()) * self.n_features * self.dtype.itemsize

    @property
    def place(self) -> str:
        """Where the whole is, as messages call it."""
        return self._source.place

    @property
    def blocks(self) -> NDArray[np.int64] | None:
        """For every item, the block of the store it begins in, where reading in order pays.

        None where any order is as good: in memory, and in uncompressed local stores.
        """
        rows = self._source.rows
        return None if rows.is_fast else self._source.offsets[self._items] // rows.rows_per_block

    def packed(self, out: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The selected sets end to end, in the order of the selection.

        Parameters
        ----------
        out : ndarray of shape (R, M), optional
            Memory for the result, of the sets' dtype; used where something must be copied.

        Returns
        -------
        values : ndarray of shape (R, M)
            A view of the stored features when they already lie so, else a copy.

        offsets : ndarray of int64, shape (n_items + 1,)
            Set i is ``values[offsets[i]:offsets[i + 1]]``.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import FeatureSets
        >>> X = FeatureSets(np.array([[1.0], [2.0], [3.0]]), offsets=[0, 2, 3])
        >>> X[[1, 0]].packed()[0].ravel()
        array([3., 1., 2.])
        """
        lengths = self.lengths
        values = self._source.rows.gather(self._source.offsets[self._items], lengths, out)
        return values, np.concatenate([[0], np.cumsum(lengths)])

    def located(self) -> tuple[Any, NDArray[np.int64] | slice] | None:
        """Where the selected sets lie in memory, for one who copies them by other means.

        Returns
        -------
        values : array of shape (R', M)
            Features of all items, those that are not selected too. Not to be written to.

        rows : slice or ndarray of int64, shape (R,)
            ``values[rows]`` are the selected sets, end to end. In the place of both, None
            where features have to be read.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import FeatureSets
        >>> X = FeatureSets(np.array([[1.0], [2.0], [3.0]]), offsets=[0, 2, 3])
        >>> X[[1, 0]].located()[1]
        array([2, 0, 1])
        """
        if not self.in_memory:
            return None
        rows: Any = self._source.rows
        return rows.values, rows_of_runs(self._source.offsets[self._items], self.lengths)

    def load(self) -> FeatureSets:
        """The selected items with their features in memory.

        Returns
        -------
        FeatureSets
            These very sets, when they are in memory already.
        """
        return self if self.in_memory else FeatureSets(*self.packed())

    def _item(self, number: int) -> NDArray[Any]:
        bounds = self._source.offsets[number : number + 2]
        return self._source.rows.gather(bounds[:1], np.diff(bounds))

    def _column(self, name: str) -> NDArray[Any] | None:
        return self._source.column(name)

    def _select(self, items: NDArray[np.int64]) -> FeatureSets:
        """``self[items]``, sharing the array `items` itself where all items are there.

        What shares an array is pickled once.
        """
        is_whole = len(self) == len(self._source.offsets) - 1 and isinstance(
            as_range(self._items), range
        )
        return self._view(items if is_whole else self._items[items])

    def __getstate__(self) -> dict[str, Any]:
        # A selection travels to a worker with its own rows, or with the path of its store.
        if self.in_memory:
            source = SetsInMemory(*self.packed())
            return {"_source": source, "_items": range(len(self))}
        return super().__getstate__()

    def __repr__(self) -> str:
        lengths = self.lengths
        sizes = f"{lengths.min()}..{lengths.max()}" if len(lengths) else "none"
        return (
            f"FeatureSets(n_items={len(self)}, n_features={self.n_features}, "
            f"lengths={sizes}, dtype={self.dtype})"
        )


def to_numpy(array: Any) -> NDArray[Any]:
    """An array-like or a tensor on any device, as a numpy array.

    Tensors are known by their methods, so that this package never imports torch.
    """
    if hasattr(array, "detach"):
        if array.is_nested or str(array.layout) != "torch.strided":
            raise TypeError(
                "A nested or sparse tensor is not one array; pass its parts as a list "
                "(tensor.unbind()), or tensor.to_dense()."
            )
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()  # numpy has no bfloat16; float32 holds it exactly
        return np.asarray(array.resolve_conj().resolve_neg().numpy())
    return np.asarray(array)


def _check_values(values: Any) -> NDArray[Any]:
    values = to_numpy(values)
    if values.ndim != 2:
        raise ValueError(
            "values must have two dimensions (local features of all sets, features); "
            f"got shape {values.shape}."
        )
    if values.dtype.kind not in "fiub":
        raise ValueError(
            f"Local features must be real numbers; got dtype {values.dtype}. Convert them first."
        )
    if values.shape[1] == 0:
        raise ValueError("Local features need at least one column; got 0 features.")
    return values


def _check_offsets(offsets: ArrayLike, n_rows: int) -> NDArray[np.int64]:
    array = to_numpy(offsets)
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iu":
        raise ValueError(
            "offsets must be a one-dimensional array of integers, one more than there are items; "
            f"got shape {array.shape}, dtype {array.dtype}."
        )
    array = array.astype(np.int64)
    if array[0] != 0 or array[-1] != n_rows:
        raise ValueError(
            f"offsets must run from 0 to the number of rows, {n_rows}; "
            f"they run from {array[0]} to {array[-1]}."
        )
    falls = np.flatnonzero(np.diff(array) < 0)
    if len(falls):
        i = falls[0]
        raise ValueError(
            f"offsets must not fall: offsets[{i}] = {array[i]} is followed by {array[i + 1]}."
        )
    return array


def check_lengths(lengths: ArrayLike, n_items: int, longest: int) -> NDArray[np.int64]:
    """The numbers of true local features of a padded array's items."""
    array = to_numpy(lengths)
    if array.shape != (n_items,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"lengths must be {n_items} integers, one per item; "
            f"got shape {array.shape}, dtype {array.dtype}."
        )
    wrong = np.flatnonzero((array < 0) | (array > longest))
    if len(wrong):
        i = wrong[0]
        raise ValueError(
            f"lengths[{i}] is {array[i]}; the padded array holds 0 to {longest} "
            "local features per item."
        )
    return array.astype(np.int64)


def _check_item(item: Any, i: int) -> NDArray[Any]:
    if hasattr(item, "toarray"):
        raise TypeError(f"X[{i}] is sparse; local features are dense. Pass X[{i}].toarray().")
    try:
        array = to_numpy(item)
    except ValueError:
        raise ValueError(
            f"X[{i}] has rows of differing length; every local feature of a set needs the "
            "same width."
        ) from None
    if item is None:
        raise ValueError(f"X[{i}] is None; every item needs a set. Drop it, also from y.")
    if array.ndim != 2:
        raise ValueError(
            f"X[{i}] has shape {array.shape}; every set is a two-dimensional array "
            "(local features, features). Reshape a single local feature to (1, n_features)."
        )
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"X[{i}] has dtype {array.dtype}; local features are real numbers. Convert them first."
        )
    # Nested lists have no dtype of their own: [[1, 2]] and [[1.5, 2]] belong together.
    return array if hasattr(item, "dtype") else array.astype(np.float64)


def _check_same_width(sets: Sequence[NDArray[Any]]) -> None:
    widths = [item.shape[1] for item in sets]
    odd = next((i for i, width in enumerate(widths) if width != widths[0]), None)
    if odd is None:
        return
    if len({len(item) for item in sets}) == 1:
        raise ValueError(
            f"X looks transposed: every set has {len(sets[0])} rows, and their columns vary from "
            f"{min(widths)} to {max(widths)}. Local features are rows: pass [x.T for x in X]."
        )
    raise ValueError(
        f"X[{odd}] has {widths[odd]} features, but X[0] has {widths[0]}; all local features "
        "need the same width. Extract them alike, or keep them as two modalities."
    )


def _check_same_dtype(sets: Sequence[NDArray[Any]]) -> None:
    odd = next((i for i, item in enumerate(sets) if item.dtype != sets[0].dtype), None)
    if odd is not None:
        raise ValueError(
            f"X[{odd}] has dtype {sets[odd].dtype}, but X[0] has {sets[0].dtype}; convert all "
            f"sets to one dtype, for example [x.astype(np.float32) for x in X]."
        )
