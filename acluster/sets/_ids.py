"""Check that the stores of several modalities have their items in the same order."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from acluster.sets._feature_sets import FeatureSets


def check_ids(modalities: Mapping[str, FeatureSets]) -> None:
    """Check that stores which know the same items have them at the same positions.

    Parameters
    ----------
    modalities : mapping of str to FeatureSets
        The sets of each modality. Those in memory have no ids. Those of one store may be of
        different items, such as pairs.

    Raises
    ------
    ValueError
        If an id of one store is at another position in the store of another modality.
    """
    stores: dict[Any, tuple[str, FeatureSets]] = {}
    for name, sets in modalities.items():
        if (store := getattr(sets._source, "store", None)) is not None:
            stores.setdefault(store, (name, sets))
    if len(stores) < 2:
        return
    ids = {name: own.tolist() for name, sets in stores.values() if (own := sets.id) is not None}
    for (first, expected), (second, found) in combinations(ids.items(), 2):
        known = set(expected)
        # Different numbers of items are an error of their own.
        for i, (one, other) in enumerate(zip(expected, found, strict=False)):
            if one != other and other in known:
                raise ValueError(
                    f"Item {i} has the id {one!r} in modality {first!r} and {other!r} in "
                    f"{second!r}. Modalities have the same items in the same order: select the "
                    "items of one in the order of the other."
                )
