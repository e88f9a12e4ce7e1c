"""The base class of the containers: a sequence of items that scikit-learn can index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


def _stored_column(name: str, doc: str) -> property:
    """Return a property that selects the entries of the selected items from a stored column."""

    def entries(self: ItemSequence) -> NDArray[Any] | None:
        column = self._column(name)
        return None if column is None else column[self._items]

    return property(entries, doc=doc)


class ItemSequence(ABC):
    """A sequence of items whose selections are views of the same type.

    A view holds item numbers and copies no features. The splitters, searches and
    pipelines of scikit-learn index it like an array of shape (n_items,).
    """

    _items: NDArray[np.int64]
    _packed = "X.packed()"  # in an error message: how to get all local features as one array

    label = _stored_column(
        "label", doc="Labels of a store, (n_items,) or (n_items, n_labels); None without labels."
    )
    id = _stored_column("id", doc="Item names of a store, (n_items,); None without names.")
    group = _stored_column(
        "group", doc="Groups of a store for group-wise splitters, (n_items,); None without groups."
    )
    weight = _stored_column(
        "weight", doc="Sample weights of a store, (n_items,); None without weights."
    )

    @abstractmethod
    def _item(self, number: int) -> Any:
        """Return the features of one item, given its number among all items."""

    @abstractmethod
    def _column(self, name: str) -> NDArray[Any] | None:
        """Return a stored column for all items, selected or not; None if there is none."""

    @property
    def shape(self) -> tuple[int]:
        """``(n_items,)``. Without a shape, scikit-learn would build a Python list."""
        return (len(self._items),)

    @property
    def ndim(self) -> int:
        """1, the dimension of the items."""
        return 1

    @property
    def device(self) -> str:
        """The device of the container in the array API, always ``"cpu"``."""
        return "cpu"

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the selected items among all items, (n_items,)."""
        return self._items

    def take(self, indices: Any, axis: int = 0, out: None = None, mode: str = "raise") -> Self:
        """Select items, like ``self[indices]``. The array API uses this name.

        Parameters
        ----------
        indices : array-like of int or bool
            The item numbers, or a mask over the items.

        axis, out, mode : 0, None, "raise"
            For compatibility with numpy; other values raise an error.

        Returns
        -------
        FeatureSets or MultimodalFeatureSets
            A view of the selected items.

        Raises
        ------
        ValueError
            If `axis`, `out` or `mode` has another value.
        """
        if axis != 0 or out is not None or mode != "raise":
            raise ValueError(
                f"{type(self).__name__}.take only selects items: axis must be 0, out None and "
                f"mode 'raise'; got axis={axis!r}, out={out!r}, mode={mode!r}."
            )
        return self[np.asarray(indices) if np.size(indices) else slice(0)]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]  # scikit-learn indexes rows as X[key, ...]
        if isinstance(key, list) and not key:
            key = slice(0)
        selected = self._items[key]
        if np.ndim(selected) == 0:
            return self._item(int(selected))
        if np.ndim(selected) != 1:
            raise IndexError(
                f"{type(self).__name__} has one dimension, the items; an index of shape "
                f"{np.shape(selected)} has more. Index the features of an item instead: X[i][:, j]."
            )
        return self._view(selected)

    def _view(self, items: NDArray[np.int64]) -> Self:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__, _items=items)
        return view

    def _select(self, items: NDArray[np.int64]) -> Self:
        """Return ``self[items]``, keeping the very array `items` if it has the same numbers.

        Containers of the same items then share one array, which is pickled once.
        """
        is_same = np.array_equal(self._items, np.arange(len(self)))
        return self._view(items if is_same else self._items[items])

    def __copy__(self) -> Self:
        # By default copy.copy goes through __getstate__, which would copy the features.
        return self._view(self._items)

    def __iter__(self) -> Iterator[Any]:
        return (self._item(number) for number in self._items)

    def __sklearn_clone__(self) -> Self:
        return self

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        from sklearn.utils._array_api import get_namespace

        return get_namespace(self._items)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        raise TypeError(
            f"{type(self).__name__} cannot be converted to one array, because its sets differ in "
            f"size. Use X[i] for one item, {self._packed} for all local features end to end, or "
            "list(X)."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_items": _as_range(self._items)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        items = state["_items"]
        if isinstance(items, range):
            items = np.arange(items.start, items.stop)
        self.__dict__.update(state, _items=items)


def _as_range(items: NDArray[np.int64]) -> NDArray[np.int64] | range:
    """Return consecutive numbers as a range, which pickles in a few bytes."""
    if len(items) == 0:
        return range(0)
    consecutive = range(int(items[0]), int(items[0]) + len(items))
    return consecutive if (np.diff(items) == 1).all() else items
