"""Several modalities of the same items, indexed together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._feature_sets import FeatureSets, to_numpy
from acluster.sets._sequence import ItemSequence

__all__ = ["MultimodalFeatureSets", "check_modality_names"]


class MultimodalFeatureSets(ItemSequence):
    """A sequence of items that have a local feature set in each of several modalities.

    The modalities differ in width, in the number of local features and in rate. An item
    that lacks a modality has 0 local features there. A selection of items (a slice, an
    index array, a mask) is a view: it holds item numbers and copies no features.

    Parameters
    ----------
    modalities : mapping of str to FeatureSets
        All of the same number of items, in the same order.

    Attributes
    ----------
    names : list of str
        The names of the modalities.

    lengths : dict of str to ndarray of int64, shape (n_items,)
        The number of local features of each item, per modality; 0 where it is missing.

    missing : dict of str to ndarray of bool, shape (n_items,)
        Which items lack the modality.

    n_features : dict of str to int
        The width of a local feature, per modality.

    shape : tuple
        ``(n_items,)``.

    label, id, group, weight : ndarray or None
        What a store holds beside the features, for the selected items.

    Raises
    ------
    ValueError
        If there is no modality, a name is not usable, or the numbers of items differ.

    TypeError
        If a modality is not `FeatureSets`.

    See Also
    --------
    MultimodalFeatureSets.from_items : From one dict of arrays per item.
    acluster.open_feature_sets : From a store that memory need not hold.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster import FeatureSets, MultimodalFeatureSets
    >>> rgb = FeatureSets.from_arrays([np.ones((3, 4)), np.ones((5, 4))])
    >>> audio = FeatureSets(np.ones((2, 6)), offsets=[0, 2, 2])
    >>> X = MultimodalFeatureSets({"rgb": rgb, "audio": audio})
    >>> X
    MultimodalFeatureSets(n_items=2, rgb: 3..5 x 4 float64, audio: 0..2 x 6 float64 (1 missing))
    >>> X["audio"].lengths
    array([2, 0])
    >>> X[["audio"]].names
    ['audio']
    >>> X[1]["rgb"].shape
    (5, 4)
    """

    _packed = "X[name].packed()"

    def __init__(self, modalities: Mapping[str, FeatureSets]) -> None:
        self._modalities = dict(modalities)
        _check_modalities(self._modalities)
        self._items = np.arange(len(next(iter(self._modalities.values()))))

    @classmethod
    def from_items(cls, items: Iterable[Mapping[str, Any]]) -> MultimodalFeatureSets:
        """Copy one mapping of modality names to two-dimensional arrays per item.

        Parameters
        ----------
        items : iterable of mappings of str to array-likes of shape (L, M)
            A modality that an item lacks is left out of its mapping, or None there.

        Returns
        -------
        MultimodalFeatureSets
            With the modalities in the order in which they turn up.

        Raises
        ------
        ValueError
            If no item has any modality, or an array does not fit the others of its modality.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import MultimodalFeatureSets
        >>> items = [{"rgb": np.ones((2, 3))}, {"rgb": np.ones((1, 3)), "audio": np.ones((4, 5))}]
        >>> MultimodalFeatureSets.from_items(items).lengths["audio"]
        array([0, 4])
        """
        items = list(items)
        for i, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise ValueError(
                    f"X[{i}] is a {type(item).__name__}; expected a mapping of modality names to "
                    "arrays, as the other items are."
                )
        names = list(dict.fromkeys(name for item in items for name in item))
        modalities = {}
        for name in names:
            try:
                modalities[name] = sets_or_none([item.get(name) for item in items])
            except (TypeError, ValueError) as error:
                raise type(error)(f"In modality {name!r}: {error}") from None
        return cls(modalities)

    @property
    def names(self) -> list[str]:
        """The names of the modalities."""
        return list(self._modalities)

    @property
    def lengths(self) -> dict[str, NDArray[np.int64]]:
        """The number of local features of each item, per modality."""
        return {name: self[name].lengths for name in self._modalities}

    @property
    def missing(self) -> dict[str, NDArray[np.bool_]]:
        """Which items lack the modality, per modality."""
        return {name: lengths == 0 for name, lengths in self.lengths.items()}

    @property
    def n_features(self) -> dict[str, int]:
        """The width of a local feature, per modality."""
        return {name: sets.n_features for name, sets in self._modalities.items()}

    @property
    def in_memory(self) -> bool:
        """Whether the features of every modality are in memory."""
        return all(sets.in_memory for sets in self._modalities.values())

    def __getitem__(self, key: Any) -> Any:
        """One modality, or several by a list of names; one item, or a view of several."""
        if isinstance(key, list) and key and all(isinstance(name, str) for name in key):
            return MultimodalFeatureSets({name: self[name] for name in key})
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self._modalities:
            raise KeyError(f"There is no modality {key!r}; there are {self.names}.")
        return self._modalities[key]._select(self._items)

    def _item(self, number: int) -> dict[str, NDArray[Any]]:
        return {name: sets[number] for name, sets in self._modalities.items()}

    def _column(self, name: str) -> NDArray[Any] | None:
        columns = (sets._selected_column(name) for sets in self._modalities.values())
        return next((column for column in columns if column is not None), None)

    def __getstate__(self) -> dict[str, Any]:
        # Modalities in memory give up the rows that are not selected; those in a store keep
        # all their items, and share one array of selected numbers.
        if not self.in_memory:
            return super().__getstate__()
        modalities = {name: self[name] for name in self._modalities}
        return {"_modalities": modalities, "_items": range(len(self))}

    def __repr__(self) -> str:
        parts = [
            f"{name}: {_span(sets.lengths)} x {sets.n_features} {sets.dtype}"
            + (f" ({absent} missing)" if (absent := int((sets.lengths == 0).sum())) else "")
            for name, sets in ((name, self[name]) for name in self._modalities)
        ]
        return f"{type(self).__name__}(n_items={len(self)}, {', '.join(parts)})"


def sets_or_none(arrays: Sequence[Any]) -> FeatureSets:
    """One modality out of an array or None per item; None has no local features.

    Raises
    ------
    ValueError
        If all are None, or an array is not usable.
    """
    first = next((array for array in arrays if array is not None), None)
    if first is None:
        raise ValueError(
            f"All {len(arrays)} items are None, so that their width is not known; leave the "
            "modality out."
        )
    empty = _empty_like(first)
    return FeatureSets.from_arrays(empty if array is None else array for array in arrays)


def _empty_like(array: Any) -> NDArray[Any]:
    """An empty set that fits beside `array`; what is no set is left for others to refuse."""
    try:
        values = to_numpy(array)
    except ValueError:
        return np.empty((0, 1))
    dtype = values.dtype if hasattr(array, "dtype") else np.float64
    return np.empty((0, values.shape[-1] if values.ndim else 1), dtype)


def check_modality_names(names: Iterable[Any]) -> None:
    """Raise a ValueError for what is no name of a modality."""
    for name in names:
        if not isinstance(name, str) or not name or "/" in name:
            raise ValueError(
                f"{name!r:.80} is not the name of a modality; use non-empty strings without '/'."
            )


def _check_modalities(modalities: dict[str, FeatureSets]) -> None:
    if not modalities:
        raise ValueError("There is no modality; at least one is required.")
    check_modality_names(modalities)
    for name, sets in modalities.items():
        if not isinstance(sets, FeatureSets):
            raise TypeError(
                f"Modality {name!r} is a {type(sets).__name__}; expected FeatureSets. "
                "FeatureSets.from_arrays takes one array per item."
            )
    counts = {name: len(sets) for name, sets in modalities.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"The modalities have different numbers of items: {counts}. Give an item that lacks "
            "a modality an empty set there."
        )


def _span(lengths: NDArray[np.int64]) -> str:
    return f"{lengths.min()}..{lengths.max()}" if len(lengths) else "none"
