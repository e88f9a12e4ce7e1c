"""What scikit-learn asks of a sequence of items: length, shape, and views by any index."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._array_api import get_namespace

__all__ = ["ItemSequence", "as_range"]


class ItemSequence(ABC):
    """A sequence of items of which any selection is a view of the same type.

    A view holds item numbers, never features. Scikit-learn's splitters, searches and
    pipelines index it as they index an array of shape (n_items,).
    """

    _items: NDArray[np.int64]
    _packed = "X.packed()"

    @abstractmethod
    def _item(self, number: int) -> Any:
        """The features of one item, by its number in the whole."""

    @abstractmethod
    def _column(self, name: str) -> NDArray[Any] | None:
        """What is stored beside the whole's features under this name."""

    @property
    def shape(self) -> tuple[int]:
        """``(n_items,)``: without it scikit-learn would build a Python list."""
        return (len(self._items),)

    @property
    def ndim(self) -> int:
        """1: a sequence of items."""
        return 1

    @property
    def device(self) -> str:
        """Where the array API finds the container: always ``"cpu"``."""
        return "cpu"

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the selected items in the whole, (n_items,)."""
        return self._items

    @property
    def label(self) -> NDArray[Any] | None:
        """The labels of a store, (n_items,) or (n_items, n_labels); None where there are none."""
        return self._selected_column("label")

    @property
    def id(self) -> NDArray[Any] | None:
        """The names of a store's items, (n_items,); None where there are none."""
        return self._selected_column("id")

    @property
    def group(self) -> NDArray[Any] | None:
        """The groups of a store's items, (n_items,), for group-wise splitters; or None."""
        return self._selected_column("group")

    @property
    def weight(self) -> NDArray[Any] | None:
        """The sample weights of a store, (n_items,); None where there are none."""
        return self._selected_column("weight")

    def _selected_column(self, name: str) -> NDArray[Any] | None:
        column = self._column(name)
        return None if column is None else column[self._items]

    def take(self, indices: Any, axis: int = 0, out: None = None, mode: str = "raise") -> Self:
        """``self[indices]``, under the name by which the array API asks for it.

        Parameters
        ----------
        indices : array-like of int or bool
            The items, or a mask of them.

        axis, out, mode : 0, None, "raise"
            As numpy has them; nothing else is taken.

        Returns
        -------
        FeatureSets or MultimodalFeatureSets
            A view of these items.

        Raises
        ------
        ValueError
            If `axis`, `out` or `mode` is something else.
        """
        if axis != 0 or out is not None or mode != "raise":
            raise ValueError(
                f"{type(self).__name__}.take selects items only: axis must be 0, out None and "
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
                f"{np.shape(selected)} selects more. Index features after the item: X[i][:, j]."
            )
        return self._view(selected)

    def _view(self, items: NDArray[np.int64]) -> Self:
        view = copy.copy(self)
        view._items = items
        return view

    def __copy__(self) -> Self:
        # By way of pickling, which copy.copy would take, the features would be copied.
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __iter__(self) -> Iterator[Any]:
        return (self._item(number) for number in self._items)

    def __sklearn_clone__(self) -> Self:
        return self

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return get_namespace(self._items)[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        raise TypeError(
            f"{type(self).__name__} does not become one array: its sets differ in size. Use X[i] "
            f"for one item, {self._packed} for all local features end to end, or list(X)."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_items": as_range(self._items)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        items = state["_items"]
        if isinstance(items, range):
            items = np.arange(items.start, items.stop)
        self.__dict__.update(state, _items=items)


def as_range(items: NDArray[np.int64]) -> NDArray[np.int64] | range:
    """Consecutive numbers as a range, which pickles in a few bytes."""
    if len(items) == 0:
        return range(0)
    whole = range(int(items[0]), int(items[0]) + len(items))
    return whole if (np.diff(items) == 1).all() else items
