"""MultimodalFeatureSets: several modalities of the same items, indexed together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.sets._arrays import bounded, is_missing
from acluster.sets._feature_sets import FeatureSets, length_range, to_set
from acluster.sets._ids import check_ids
from acluster.sets._names import UNNAMED, check_modality_names
from acluster.sets._places import places_by_modality
from acluster.sets._sequence import ItemSequence


class MultimodalFeatureSets(ItemSequence):
    """A sequence of items with a local feature set in each of several modalities.

    Modalities may differ in width, and an item may have a different number of local features in
    each. An item that lacks a modality has 0 local features there. Each modality has places of its
    own, or none: ``X["rgb"].places``. Selecting items by a slice, an index array or a mask gives a
    view, which holds item numbers and copies no features.

    Parameters
    ----------
    modalities : mapping of str to FeatureSets
        The sets of each modality, for the same items in the same order.

    Attributes
    ----------
    names : list of str
        The names of the modalities.

    lengths : dict of str to ndarray of int64, shape (n_items,)
        The number of local features of each item, per modality; 0 if the item lacks it.

    missing : dict of str to ndarray of bool, shape (n_items,)
        Which items lack each modality.

    n_features : dict of str to int
        The width of a local feature, per modality.

    extraction : dict of str to (dict or None), or None
        How the local features of each modality were extracted; see `FeatureSets`. None if this is
        not known for any of them.

    shape : tuple
        ``(n_items,)``.

    label, id, group, weight : ndarray or None
        The columns of a store for the selected items; None without such a column.

    Raises
    ------
    ValueError
        If there is no modality, a name is invalid, or the numbers of items differ. Also if an id
        of one store is at another position in the store of another modality.

    TypeError
        If a modality is not `FeatureSets`.

    See Also
    --------
    MultimodalFeatureSets.from_items : Build the container from one dict of arrays per item.
    acluster.open_feature_sets : Open a store that may be larger than memory.

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
    def from_items(
        cls, items: Iterable[Mapping[str, Any]], *, places: Iterable[Any] | None = None
    ) -> MultimodalFeatureSets:
        """Build the container from one mapping of modality names to arrays per item.

        Parameters
        ----------
        items : iterable of mappings of str to array-likes of shape (L, M)
            The sets of each item, which are copied. Leave out a modality that an item
            lacks, or pass None for it.

        places : iterable of mappings of str to places, optional
            Where the local features of each item come from, by modality, such as
            ``{"rgb": {"seconds": times}}``. The places of a modality are a mapping of str to
            array-likes of shape (L,), or a data frame, as in `FeatureSets.from_arrays`. A modality
            has places in all items that have it, or in none. Leave out a modality without places,
            and one that an item lacks.

        Returns
        -------
        MultimodalFeatureSets
            With the modalities in the order of their first appearance.

        Raises
        ------
        ValueError
            If no item has any modality, or an array does not match the others of its modality, or
            places do not have one finite number per local feature. The message names the modality
            and the item.

        TypeError
            If the places of an item, or of a modality, are not a mapping.

        Examples
        --------
        >>> import numpy as np
        >>> from acluster import MultimodalFeatureSets
        >>> items = [{"rgb": np.ones((2, 3))}, {"rgb": np.ones((1, 3)), "audio": np.ones((4, 5))}]
        >>> MultimodalFeatureSets.from_items(items).lengths["audio"]
        array([0, 4])
        >>> places = [{"rgb": {"seconds": [0.0, 0.5]}}, {"rgb": {"seconds": [1.5]}}]
        >>> X = MultimodalFeatureSets.from_items(items, places=places)
        >>> X["rgb"].places[1], X["audio"].places
        (array([[1.5]]), None)
        """
        items = list(bounded(items))
        for i, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise ValueError(
                    f"X[{i}] has type {type(item).__name__}; expected a mapping of modality names "
                    "to arrays, like the other items."
                )
        names = [*dict.fromkeys(name for item in items for name in item)]
        named = {} if places is None else places_by_modality(places, len(items), names)
        modalities = {}
        for name in names:
            with in_modality(name):
                arrays = [item.get(name) for item in items]
                modalities[name] = sets_with_missing(arrays, named.get(name))
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
        """Which items lack each modality."""
        return {name: lengths == 0 for name, lengths in self.lengths.items()}

    @property
    def n_features(self) -> dict[str, int]:
        """The width of a local feature, per modality."""
        return {name: sets.n_features for name, sets in self._modalities.items()}

    @property
    def extraction(self) -> dict[str, Any] | None:
        """How the local features of each modality were extracted; None if this is not known."""
        described = {name: sets.extraction for name, sets in self._modalities.items()}
        return None if all(own is None for own in described.values()) else described

    @property
    def in_memory(self) -> bool:
        """Whether the features of every modality are in memory."""
        return all(sets.in_memory for sets in self._modalities.values())

    def __getitem__(self, key: Any) -> Any:
        """Return a modality (by name), several (by a list of names), an item, or a view."""
        if isinstance(key, list) and key and all(isinstance(name, str) for name in key):
            return with_modalities(self, {name: self[name] for name in key})
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self._modalities:
            raise KeyError(f"There is no modality {key!r}; the modalities are {self.names}.")
        return self._modalities[key]._select(self._items)

    def _item(self, number: int) -> dict[str, NDArray[Any]]:
        return {name: sets[number] for name, sets in self._modalities.items()}

    def _column(self, name: str) -> NDArray[Any] | None:
        columns = (getattr(sets, name) for sets in self._modalities.values())
        return next((column for column in columns if column is not None), None)

    def __getstate__(self) -> dict[str, Any]:
        # In memory, each modality is cut down to the rows of the selected items. In a store, the
        # modalities keep all items, and the array of selected numbers is pickled once for all.
        if not self.in_memory:
            return super().__getstate__()
        modalities = {name: self[name] for name in self._modalities}
        return {"_modalities": modalities, "_items": range(len(self))}

    def __repr__(self) -> str:
        parts = [
            f"{name}: {length_range(sets.lengths)} x {sets.n_features} {sets.dtype}"
            + (f" ({absent} missing)" if (absent := int((sets.lengths == 0).sum())) else "")
            for name, sets in ((name, self[name]) for name in self._modalities)
        ]
        return f"{type(self).__name__}(n_items={len(self)}, {', '.join(parts)})"


def with_modalities(
    X: MultimodalFeatureSets, modalities: Mapping[str, FeatureSets]
) -> MultimodalFeatureSets:
    """Return as many items with other modalities, made of those of X.

    Their ids were compared when X was made. Comparing them again, in each prediction of a few
    items, would read the ids of all items of the stores.
    """
    changed = object.__new__(MultimodalFeatureSets)
    changed._modalities, changed._items = dict(modalities), np.arange(len(X))
    return changed


def by_modality(X: Any) -> Mapping[str, Any]:
    """Return the sets of an item, or the containers of many, by modality.

    Sets without named modalities get the name "features".
    """
    if isinstance(X, MultimodalFeatureSets):
        return {name: X[name] for name in X.names}
    return X if isinstance(X, Mapping) else {UNNAMED: X}


@contextmanager
def in_modality(name: str) -> Iterator[None]:
    """Prefix the messages of errors with the name of the modality that they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"In modality {name!r}: {error}") from None


def sets_with_missing(arrays: Sequence[Any], places: Sequence[Any] | None = None) -> FeatureSets:
    """Build one modality from one array per item, or None or NaN for an item that lacks it.

    The places of an item that lacks the modality may be None.

    Raises
    ------
    ValueError
        If all entries are None, or an array is invalid.
    """
    first = next((i for i, array in enumerate(arrays) if not is_missing(array)), None)
    if first is None:
        raise ValueError(
            f"All {len(arrays)} items are None, so the width of the modality is unknown. Leave the "
            "modality out."
        )
    empty = to_set(arrays[first], f"X[{first}]")[:0]
    sets = (empty if is_missing(array) else array for array in arrays)
    return FeatureSets.from_arrays(sets, places=places)


def _check_modalities(modalities: dict[str, FeatureSets]) -> None:
    if not modalities:
        raise ValueError("X has 0 modalities; at least one is required.")
    check_modality_names(modalities)
    for name, sets in modalities.items():
        if not isinstance(sets, FeatureSets):
            raise TypeError(
                f"Modality {name!r} has type {type(sets).__name__}; expected FeatureSets. "
                "Use FeatureSets.from_arrays to convert one array per item."
            )
    counts = {name: len(sets) for name, sets in modalities.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"The modalities have different numbers of items: {counts}. If an item lacks a "
            "modality, give it an empty set there."
        )
    check_ids(modalities)
