"""Check that the stores of several modalities have their items in the same order."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np

from acluster.sets._feature_sets import FeatureSets


def check_ids(modalities: Mapping[str, FeatureSets]) -> None:
    """Check that stores which know the same items have them at the same positions.

    Parameters
    ----------
    modalities : mapping of str to FeatureSets
        The sets of each modality. Those in memory have no ids.

    Raises
    ------
    ValueError
        If an id of one store is at another position in the store of another modality.
    """
    stored: dict[str, FeatureSets] = {}
    for name, sets in modalities.items():
        is_stored = hasattr(sets._source, "store")
        if is_stored and not any(_have_same_items(sets, other) for other in stored.values()):
            stored[name] = sets
    if len(stored) < 2:
        return
    ids = {name: own.tolist() for name, sets in stored.items() if (own := sets.id) is not None}
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


def _have_same_items(one: Any, other: Any) -> bool:
    """Whether sets are of the same items of one store, whose ids need not be read."""
    is_same_store = one._source.store is other._source.store
    return is_same_store and np.array_equal(one.numbers, other.numbers)
