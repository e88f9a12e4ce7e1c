"""FeatureSets, the ragged container: many sets of local features, indexed like one array."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from acluster.sets._arrays import (
    Array,
    bounded,
    check_not_masked,
    column_names,
    in_order,
    ndim_of,
    text_columns,
    to_numpy,
)
from acluster.sets._places import joined_places, padded_places, place_columns
from acluster.sets._sequence import ItemSequence

Int64Array = NDArray[np.int64]

_DTYPE_MESSAGE = (
    "{} has dtype {}; local features must be real numbers{}. Convert it to a real dtype, such as "
    "float32."
)


class Rows(Protocol):
    """Local features of all items end to end, (R, M), in memory, on a device or in a store."""

    shape: tuple[int, int]  # (R, M)
    dtype: np.dtype[Any]
    is_fast: bool  # whether reading short runs in shuffled order is cheap
    rows_per_block: int  # the number of rows decoded together, if they have to be decoded

    def gather(self, starts: Int64Array, lengths: Int64Array, out: Array | None = None) -> Array:
        """Return the runs of rows ``starts[i]`` to ``starts[i] + lengths[i]``, end to end.

        `out`, of the shape and dtype of the result, may be used as its memory.
        """


class Source(Protocol):
    """All items behind `FeatureSets`, which select some of them."""

    in_memory: bool  # whether the rows are in memory, in their attribute `values`

    @property
    def rows(self) -> Rows:
        """The local features of all items."""

    @property
    def offsets(self) -> Int64Array:
        """The row at which each item starts, and the number of rows, (n_items + 1,)."""

    @property
    def description(self) -> str:
        """The name of the source in error messages."""

    @property
    def places(self) -> FeatureSets | None:
        """The places of the local features of all items, or None."""

    @property
    def extraction(self) -> Mapping[str, Any] | None:
        """The description of the view and the backbone, or None."""

    def column(self, name: str) -> Array | None:
        """Return a column stored with the features, one row per item, or None."""


class RowsInMemory:
    """Local features in one numpy array.

    Parameters
    ----------
    values : ndarray of shape (R, M)
        Not copied.
    """

    is_fast = True
    rows_per_block = 1

    def __init__(self, values: Array) -> None:
        self.values = values
        self.shape: tuple[int, int] = values.shape
        self.dtype = values.dtype

    def gather(self, starts: Int64Array, lengths: Int64Array, out: Array | None = None) -> Array:
        """Return the runs end to end: a view if they are adjacent in memory, else a copy."""
        rows = rows_of_runs(starts, lengths)
        if isinstance(rows, slice):
            return self.values[rows]
        # With the default mode="raise", numpy would buffer `out`.
        return self.values.take(rows, axis=0, out=out, mode="clip")


def rows_of_runs(starts: Int64Array, lengths: Int64Array) -> Int64Array | slice:
    """Return the row numbers of all runs end to end, as a slice if the runs are adjacent."""
    ends = np.cumsum(lengths)
    n_rows = int(ends[-1]) if len(ends) else 0
    if np.array_equal(starts[1:], starts[:-1] + lengths[:-1]):
        first = int(starts[0]) if len(starts) else 0
        return slice(first, first + n_rows)
    return np.arange(n_rows) + np.repeat(starts - (ends - lengths), lengths)


class SetsInMemory:
    """Rows in memory or on a device, and the offsets of the items in them, without columns."""

    in_memory = True
    description = "X"
    places: FeatureSets | None = None  # older pickles have none
    extraction: Mapping[str, Any] | None = None  # nor this

    def __init__(
        self,
        rows: Rows,
        offsets: Int64Array,
        places: FeatureSets | None = None,
        extraction: Mapping[str, Any] | None = None,
    ) -> None:
        self.rows = rows
        self.offsets = offsets
        self.places = places
        self.extraction = extraction

    def column(self, name: str) -> None:
        """Return None: in memory, users keep labels in arrays of their own."""
        return None


class FeatureSets(ItemSequence):
    """A sequence of local feature sets, one set of shape (L_i, M) per item.

    The local features of all items lie end to end in one array, in memory or in a store,
    and `offsets` splits it into sets. Selecting items by a slice, an index array or a mask
    gives a view, which holds item numbers and copies no features. The splitters, searches
    and pipelines of scikit-learn index it like an array of shape (n_items,).

    Parameters
    ----------
    values : ndarray of shape (R, M)
        The local features of all sets, end to end; R is the sum of the set sizes.
        The array is not copied, so that changes to it are seen here. It is copied only if it is
        not in the byte order of the machine.

    offsets : array-like of int, shape (n_items + 1,)
        Set i is ``values[offsets[i]:offsets[i + 1]]``.

    places : mapping of str to array-like of shape (R,), data frame or FeatureSets, optional
        Where each local feature comes from, as finite numbers with names of your choice, such as
        ``{"seconds": times}`` or ``{"x": x, "y": y, "mpp": mpp}``. They are copied to float64. The
        `places` of other sets with the same lengths are taken as they are.

    Attributes
    ----------
    lengths : ndarray of int64, shape (n_items,)
        The number L_i of local features of each item.

    n_features : int
        The width M of a local feature.

    dtype : numpy.dtype
        The dtype of the features.

    column_names : tuple or None
        The names of the columns, if the sets are from data frames or are places.

    places : FeatureSets or None
        The places of the local features of the selected items, with one column per name. None
        without places.

    extraction : dict or None
        How the local features were extracted: "view" describes what was read of each file, and
        "backbone" the feature extractor. None if this is not known. `acluster.extraction` writes
        it, and classifiers compare it with that of `fit`.

    in_memory : bool
        Whether the features are in memory. If not, they are read from a store on access.

    shape : tuple
        ``(n_items,)``.

    label, id, group, weight : ndarray or None
        The columns of a store for the selected items; None without such a column.

    Raises
    ------
    ValueError
        If `values` is not a two-dimensional array of real numbers, or `offsets` do not
        split it into sets, or `places` do not have one finite number per local feature.

    See Also
    --------
    FeatureSets.from_arrays : Build the container from one array per item.
    FeatureSets.from_padded : Build it from a three-dimensional array.
    acluster.open_feature_sets : Open a store that may be larger than memory.
    acluster.MultimodalFeatureSets : Several modalities of the same items.

    Notes
    -----
    Classifiers ignore the order of the local features within a set, unless they use
    `pyramid_levels`; the container keeps it. An item may be empty here, but the estimators
    raise an error that names it.

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

    With the time of each local feature:

    >>> times = [0.0, 0.5, 1.0, 0.0, 0.5]
    >>> X = FeatureSets(np.arange(10.0).reshape(5, 2), [0, 3, 5], places={"seconds": times})
    >>> X.places.column_names
    ('seconds',)
    >>> X[1:].places[0].ravel()
    array([0. , 0.5])
    """

    _feature_names: tuple[Any, ...] | None = None
    column_names = property(
        attrgetter("_feature_names"),
        doc="The names of the columns, if the sets are from data frames or are places; else None.",
    )
    extraction = property(
        attrgetter("_source.extraction"),
        doc="How the local features were extracted, as a dict; None if this is not known.",
    )

    def __init__(
        self,
        values: Array,
        offsets: ArrayLike,
        *,
        places: Mapping[str, ArrayLike] | FeatureSets | None = None,
    ) -> None:
        self._feature_names = column_names(values)
        values = check_set(values, "The array of local features")
        offsets = _check_offsets(offsets, len(values))
        checked = None if places is None else _check_places(places, offsets)
        self._source: Source = SetsInMemory(RowsInMemory(values), offsets, checked)
        self._items = np.arange(len(offsets) - 1)

    @classmethod
    def from_source(cls, source: Source) -> FeatureSets:
        """Select all items of a source, such as a store, that has been checked already."""
        sets = object.__new__(cls)
        sets._source = source
        sets._items = np.arange(len(source.offsets) - 1)
        return sets

    @classmethod
    def from_arrays(
        cls, arrays: Iterable[Any], *, places: Iterable[Any] | None = None
    ) -> FeatureSets:
        """Build the container from one two-dimensional array or tensor per item.

        Parameters
        ----------
        arrays : iterable of array-likes, each of shape (L_i, M)
            The sets, all of the same width M and the same dtype. They are copied; tensors
            may be on any device. Of a sequence, ``len(arrays)`` items are read. The columns of
            data frames are matched by name: if their order differs, they are sorted by name.

        places : iterable of mappings of str to array-likes of shape (L_i,), optional
            Where the local features of each item come from, such as ``{"seconds": times}``. An
            entry may be a data frame instead, or None for an item without local features.

        Returns
        -------
        FeatureSets
            One item per array.

        Raises
        ------
        ValueError
            If an item is not a two-dimensional array of real numbers, or the items differ
            in width, in dtype or in the names of their places, or places do not have one finite
            number per local feature. The message names the item and the remedy.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import FeatureSets
        >>> FeatureSets.from_arrays([np.ones((2, 3)), np.zeros((1, 3))]).lengths
        array([2, 1])
        >>> times = [{"seconds": [0.0, 0.5]}, {"seconds": [1.5]}]
        >>> X = FeatureSets.from_arrays([np.ones((2, 3)), np.zeros((1, 3))], places=times)
        >>> X.places[1]
        array([[1.5]])
        """
        sets, names = [], []
        distinct: dict[Any, Any] = {}  # column names, each kept once
        for i, item in enumerate(bounded(arrays)):
            sets.append(to_set(item, f"X[{i}]"))
            own = column_names(item)
            names.append(distinct.setdefault(own, own))
        if not sets:
            raise ValueError("X has 0 items; at least one is required.")
        _check_same_width(sets)
        _check_same_dtype(sets)
        distinct.pop(None, None)
        common = next(iter(distinct), None)
        if len(distinct) > 1:  # take an order that does not depend on that of the items
            common = tuple(sorted(next(iter(distinct)), key=str))
            for i, own in enumerate(names):
                if own is not None:
                    sets[i] = in_order(sets[i], own, common, f"X[{i}]")
        joined = None if places is None else joined_places(places, sets)
        container = cls(np.concatenate(sets), np.cumsum([0, *map(len, sets)]), places=joined)
        container._feature_names = common
        return container

    @classmethod
    def from_padded(
        cls,
        array: Any,
        lengths: ArrayLike | None = None,
        *,
        places: Mapping[str, ArrayLike] | Iterable[Any] | None = None,
    ) -> FeatureSets:
        """Build the container from one padded three-dimensional array.

        Parameters
        ----------
        array : array-like of shape (n_items, L, M)
            One set per item. Rows from ``lengths[i]`` on are padding and are dropped.

        lengths : array-like of int, shape (n_items,), optional
            The number of local features of each item, without the padding. By default
            there is no padding, and nothing is copied.

        places : mapping of str to array-like of shape (n_items, L), optional
            Where the local features come from, such as ``{"seconds": times}``, with the same
            padding. Or an iterable with the places of each item, as `from_arrays` takes it:
            mappings of str to array-likes of shape ``(lengths[i],)``.

        Returns
        -------
        FeatureSets
            One item per set.

        Raises
        ------
        ValueError
            If `array` is not three-dimensional, a length is not in 0..L, or places do not have one
            finite number per local feature.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import FeatureSets
        >>> array, times = np.zeros((2, 4, 3)), [[0.0, 0.5, 1.0, 1.5], [0.0, 0.0, 0.0, 0.0]]
        >>> X = FeatureSets.from_padded(array, lengths=[4, 1], places={"seconds": times})
        >>> X[1].shape
        (1, 3)
        >>> X.places.lengths
        array([4, 1])
        """
        check_not_masked(array, "The padded array")
        array = to_numpy(array)
        if array.ndim != 3 and not len(np.atleast_1d(array)):
            raise ValueError(
                f"The padded array has 0 items and the shape {array.shape}, so the number of "
                "features is unknown. Pass at least one item, or an array of shape (0, L, M)."
            )
        if array.ndim != 3:
            raise ValueError(
                "A padded array must have three dimensions (items, local features, features); "
                f"got shape {array.shape}."
            )
        n_items, longest, width = array.shape
        if lengths is None:
            counts = np.full(n_items, longest, np.int64)
            rows = array.reshape(n_items * longest, width)
        else:
            counts = check_lengths(lengths, n_items, longest)
            rows = array[np.arange(longest) < counts[:, None]]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        if isinstance(places, Mapping):
            places = padded_places(places, counts, longest)
        elif places is not None:
            places = joined_places(places, np.split(rows, offsets[1:-1])[:n_items])
        return cls(rows, offsets, places=places)

    @property
    def lengths(self) -> Int64Array:
        """The number of local features of each item, shape (n_items,)."""
        offsets = self._source.offsets
        return offsets[self._items + 1] - offsets[self._items]

    @property
    def n_features(self) -> int:
        """The width M of a local feature."""
        return int(self._source.rows.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the features."""
        return self._source.rows.dtype

    @property
    def places(self) -> FeatureSets | None:
        """Where each local feature of the selected items comes from; None without places."""
        places = self._source.places
        return None if places is None else places._select(self._items)

    @property
    def in_memory(self) -> bool:
        """Whether the features are in memory rather than in a store."""
        return self._source.in_memory

    @property
    def nbytes(self) -> int:
        """The size in bytes of the selected items' features, in their stored form."""
        return int(self.lengths.sum()) * self.n_features * self.dtype.itemsize

    @property
    def description(self) -> str:
        """The name of the source in error messages."""
        return self._source.description

    @property
    def blocks(self) -> Int64Array | None:
        """The block of the store in which each item begins, if reading in order is faster.

        None if items can be read in any order: in memory, and from uncompressed local stores.
        """
        rows = self._source.rows
        return None if rows.is_fast else self._source.offsets[self._items] // rows.rows_per_block

    def packed(self, out: Array | None = None) -> tuple[Array, Int64Array]:
        """Return the selected sets end to end, in the order of the selection.

        Parameters
        ----------
        out : ndarray of shape (R, M), optional
            Memory for the result, of the same dtype. It is used only if features have to be
            copied or read.

        Returns
        -------
        values : ndarray of shape (R, M)
            A view if the selected sets are adjacent in memory, else a copy.

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

    def locate(self) -> tuple[Any, Int64Array | slice] | None:
        """Return where the selected sets are in memory, without copying them.

        Returns
        -------
        values : array of shape (R', M)
            The features of all items, including those not selected. Do not write to it.

        rows : slice or ndarray of int64, shape (R,)
            ``values[rows]`` are the selected sets, end to end.

            If the features are in a store, None is returned instead of both.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import FeatureSets
        >>> X = FeatureSets(np.array([[1.0], [2.0], [3.0]]), offsets=[0, 2, 3])
        >>> X[[1, 0]].locate()[1]
        array([2, 0, 1])
        """
        if not self.in_memory:
            return None
        rows: Any = self._source.rows
        return rows.values, rows_of_runs(self._source.offsets[self._items], self.lengths)

    def located(self) -> tuple[Any, Int64Array | slice] | None:
        """DEPRECATED: Use FeatureSets.locate instead."""
        warnings.warn(
            "FeatureSets.located is deprecated; use FeatureSets.locate.",
            category=FutureWarning,
            stacklevel=2,
        )
        return self.locate()

    def load(self) -> FeatureSets:
        """Return the selected items with their features, and their places, in memory.

        Returns
        -------
        FeatureSets
            The container itself if its features are in memory already.
        """
        if self.in_memory:
            return self
        places = None if self.places is None else self.places.load()
        loaded = FeatureSets(*self.packed(), places=places)
        loaded._feature_names = self._feature_names
        return with_extraction(loaded, self.extraction)

    def _item(self, number: int) -> Array:
        bounds = self._source.offsets[number : number + 2]
        return self._source.rows.gather(bounds[:1], np.diff(bounds))

    def _column(self, name: str) -> Array | None:
        return self._source.column(name)

    def __getstate__(self) -> dict[str, Any]:
        # A worker process gets the rows of the selected items only, or the path of the store.
        if self.in_memory:
            values, offsets = self.packed()
            rows = RowsInMemory(values)
            source = SetsInMemory(rows, offsets, self.places, self.extraction)
            return {**self.__dict__, "_source": source, "_items": range(len(self))}
        return super().__getstate__()

    def __repr__(self) -> str:
        places = f", places={[*self.places.column_names]}" if self.places is not None else ""
        return (
            f"FeatureSets(n_items={len(self)}, n_features={self.n_features}, "
            f"lengths={length_range(self.lengths)}, dtype={self.dtype}{places})"
        )


def with_column_names(X: FeatureSets, names: tuple[Any, ...] | None) -> FeatureSets:
    """Return the same sets with other names of their columns, or with none."""
    named = copy.copy(X)
    named._feature_names = names
    return named


def with_extraction(X: FeatureSets, extraction: Mapping[str, Any] | None) -> FeatureSets:
    """Return sets in memory with a description of how they were extracted.

    Parameters
    ----------
    X : FeatureSets
        The sets, which are not copied.

    extraction : dict or None
        The description.

    Returns
    -------
    FeatureSets
    """
    described, source = copy.copy(X), X._source
    described._source = SetsInMemory(source.rows, source.offsets, source.places, extraction)
    return described


def length_range(lengths: Int64Array) -> str:
    """Format the smallest and largest set size for a repr."""
    return f"{lengths.min()}..{lengths.max()}" if len(lengths) else "none"


def pieces(X: FeatureSets, max_rows: int, out: Array | None = None) -> Iterator[Array]:
    """Yield the rows of `FeatureSets.packed` in pieces, which may divide a set.

    Parameters
    ----------
    X : FeatureSets
        The sets.

    max_rows : int
        The number of rows of every piece but the last.

    out : ndarray of shape (max_rows, M), optional
        Memory for each piece in turn, of the same dtype. It is used only if features have to be
        copied or read.

    Yields
    ------
    ndarray of shape (at most max_rows, M)
        A view if the rows are adjacent in memory.
    """
    read = row_reader(X)
    for first in range(0, int(X.lengths.sum()), max_rows):
        yield read(first, first + max_rows, out)


def row_reader(X: FeatureSets) -> Callable[[int, int, Array | None], Array]:
    """Return a function that reads some of the rows of `FeatureSets.packed`.

    Threads may call it at the same time.

    Parameters
    ----------
    X : FeatureSets
        The sets.

    Returns
    -------
    callable
        ``read(first, last, out)`` returns the rows from number `first` to before number `last`,
        or to the end if there are fewer. `out` is None or an array with at least as many rows, of
        the same dtype; it is used as in `pieces`.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import FeatureSets
    >>> X = FeatureSets(np.array([[1.0], [2.0], [3.0]]), offsets=[0, 2, 3])
    >>> row_reader(X[[1, 0]])(1, 3, None).ravel()
    array([1., 2.])
    """
    starts, lengths = X._source.offsets[X._items], X.lengths
    ends = np.cumsum(lengths)

    def read(first: int, last: int, out: Array | None) -> Array:
        begin, end = np.searchsorted(ends, (first, last - 1), side="right")
        runs = slice(begin, end + 1)
        skipped = np.maximum(first - (ends - lengths)[runs], 0)
        beyond = np.maximum(ends[runs] - last, 0)
        taken = lengths[runs] - skipped - beyond
        room = None if out is None else out[: int(taken.sum())]
        return X._source.rows.gather(starts[runs] + skipped, taken, room)

    return read


def spaced_rows(X: FeatureSets, max_rows: int) -> Array:
    """Return evenly spaced rows of `FeatureSets.packed`; all, if there are at most `max_rows`."""
    lengths = X.lengths
    n_rows = int(lengths.sum())
    if n_rows <= max_rows:
        return X.packed()[0]
    rows = np.linspace(0, n_rows - 1, max_rows).astype(np.int64)
    ends = np.cumsum(lengths)
    item = np.searchsorted(ends, rows, side="right")
    firsts = X._source.offsets[X._items] - (ends - lengths)
    return X._source.rows.gather(firsts[item] + rows, np.ones_like(rows))


def to_set(item: Any, name: str) -> Array:
    """Convert one set like `check_set`; sets without a dtype of their own become float64."""
    array = check_set(item, name)
    if hasattr(item, "dtype") and item.dtype != np.dtype(object):
        return array
    # The columns of a data frame, and the rows in an array of objects, have dtypes.
    is_typed = array.dtype.kind == "f" and (hasattr(item, "dtype") or hasattr(item, "dtypes"))
    # Otherwise [[1, 2]] would be integers, and would not match the dtype of [[1.5, 2]].
    return array if is_typed else array.astype(np.float64)


def check_set(item: Any, name: str) -> Array:
    """Convert one set to a numpy array, and check that it holds local features.

    Parameters
    ----------
    item : array-like of shape (L, M), or array of L objects of shape (M,)
        The set.

    name : str
        The name of the set in error messages, such as "X[3]".

    Returns
    -------
    ndarray of shape (L, M)
        The set, with a real dtype in the byte order of the machine.

    Raises
    ------
    ValueError, TypeError
        If the set is not a dense two-dimensional array of real numbers with at least one column,
        or has masked values.
    """
    if type(item) is not np.ndarray:  # which saves time if there are many small sets
        _check_is_array(item, name)
        check_not_masked(item, name)
    try:
        array = to_numpy(item)
        if array.dtype.kind == "O" and array.ndim == 1 and ndim_of(array) == 2:
            check_not_masked(list(array), name)
            array = np.stack([to_numpy(row) for row in array])
    except ValueError:
        raise ValueError(
            f"{name} has rows of different lengths; all local features of a set need the same "
            "width."
        ) from None
    if array.dtype.kind in "mMV":  # before the shape: a structured array has one dimension
        raise ValueError(_DTYPE_MESSAGE.format(name, array.dtype, ""))
    if array.ndim != 2:
        raise ValueError(
            f"{name} has shape {array.shape}; expected a two-dimensional array (local features, "
            "features). Reshape a single local feature to (1, n_features)."
        )
    if array.dtype.kind not in "fiub" or array.dtype.char == "g":
        limit = " of at most 64 bits (not longdouble)" if array.dtype.char == "g" else ""
        raise ValueError(_DTYPE_MESSAGE.format(name, array.dtype, limit))
    if array.shape[1] == 0:
        raise ValueError(f"{name} has 0 features; local features need at least one.")
    return array


def _check_is_array(item: Any, name: str) -> None:
    """Raise an error for objects that numpy would convert, but that cannot be sets."""
    if hasattr(item, "toarray"):
        raise TypeError(
            f"{name} is sparse; local features must be dense. Convert it with .toarray()."
        )
    if item is None:
        raise ValueError(f"{name} is None; every item needs a set. Drop the item, also from y.")
    if isinstance(item, str | bytes | os.PathLike):
        raise TypeError(
            f"{name} is {item!r:.80}; expected an array of local features. Load the file first, "
            "for example with numpy.load."
        )
    if isinstance(item, tuple) and len({ndim_of(part) for part in item}) > 1:
        raise TypeError(
            f"{name} is a tuple ({', '.join(type(part).__name__ for part in item)}); expected an "
            "array of local features. Of (set, label) pairs, pass the sets as X and the labels "
            "as y."
        )


def _check_offsets(offsets: ArrayLike, n_rows: int) -> Int64Array:
    array = to_numpy(offsets)
    if array.ndim != 1 or len(array) == 0 or array.dtype.kind not in "iu":
        raise ValueError(
            "offsets must be a one-dimensional array of n_items + 1 integers; "
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
            f"offsets must not decrease: offsets[{i}] = {array[i]} is followed by {array[i + 1]}."
        )
    return array


def _check_places(places: Any, offsets: Int64Array) -> FeatureSets:
    """Check the places of all items, and return them as a container of the same lengths."""
    if not isinstance(places, FeatureSets):
        names, columns = place_columns(places, int(offsets[-1]), "places", offsets)
        checked = FeatureSets(columns, offsets)
        checked._feature_names = names
        return checked
    if places.dtype != np.float64 or not text_columns(places):
        raise ValueError(
            f"places is {places}, with the column names {places.column_names}; places are float64 "
            "with named columns. Pass the attribute places of other sets, or a mapping."
        )
    if len(places) != len(offsets) - 1:
        raise ValueError(f"places has {len(places)} items, but X has {len(offsets) - 1}.")
    lengths = np.diff(offsets)
    wrong = np.flatnonzero(places.lengths != lengths)
    if len(wrong):
        i = wrong[0]
        raise ValueError(
            f"places[{i}] has {places.lengths[i]} rows, but X[{i}] has {lengths[i]} local "
            "features. Pass the places of the same local features."
        )
    return places


def check_lengths(lengths: ArrayLike, n_items: int, longest: int) -> Int64Array:
    """Check the number of local features of each item of a padded array."""
    array = to_numpy(lengths)
    # An empty list has no dtype of its own.
    if array.shape != (n_items,) or (n_items and array.dtype.kind not in "iu"):
        raise ValueError(
            f"lengths must be {n_items} integers, one per item; "
            f"got shape {array.shape}, dtype {array.dtype}."
        )
    wrong = np.flatnonzero((array < 0) | (array > longest))
    if len(wrong):
        i = wrong[0]
        raise ValueError(
            f"lengths[{i}] is {array[i]}; the padded array has room for 0 to {longest} "
            "local features per item."
        )
    return array.astype(np.int64)


def _check_same_width(sets: Sequence[Array]) -> None:
    widths = [item.shape[1] for item in sets]
    odd = next((i for i, width in enumerate(widths) if width != widths[0]), None)
    if odd is None:
        return
    if len({len(item) for item in sets}) == 1:
        raise ValueError(
            f"X looks transposed: every set has {len(sets[0])} rows, and {min(widths)} to "
            f"{max(widths)} columns. Local features are rows: pass [x.T for x in X]."
        )
    raise ValueError(
        f"X[{odd}] has {widths[odd]} features, but X[0] has {widths[0]}; all local features "
        "need the same width. Use the same extractor for all items, or two modalities."
    )


def _check_same_dtype(sets: Sequence[Array]) -> None:
    odd = next((i for i, item in enumerate(sets) if item.dtype != sets[0].dtype), None)
    if odd is not None:
        raise ValueError(
            f"X[{odd}] has dtype {sets[odd].dtype}, but X[0] has {sets[0].dtype}. Convert all "
            "sets to one dtype, for example [x.astype(np.float32) for x in X]."
        )
