"""The check of the places of an item against its sets and the places of earlier items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from acluster.sets._arrays import Array
from acluster.sets._names import UNNAMED
from acluster.sets._places import in_expected_order, place_columns

PlaceNames = dict[str, tuple[str, ...] | None]


def check_item_places(
    given: Any, item: Any, sets: Mapping[str, Array], known: PlaceNames, name: str
) -> tuple[dict[str, Array], PlaceNames]:
    """Convert the places of an item to columns.

    Parameters
    ----------
    given : object
        The places as the user passes them, or None.

    item : object
        The item as the user passes it.

    sets : mapping of str to ndarray of shape (L, M)
        Its checked sets.

    known : dict of str to tuple of str or None
        The names of the places of earlier items.

    name : str
        The name of the item in error messages.

    Returns
    -------
    places : dict of str to ndarray of float64, shape (L, P)
        The places of the modalities that have some.

    known : dict of str to tuple of str or None
        The names of the places of this item and the earlier ones.

    Raises
    ------
    ValueError, TypeError
        If the places do not fit the item, or the earlier ones.
    """
    by_modality, places, names = _places_by_modality(given, item, sets, name), {}, dict(known)
    for modality, values in sets.items():
        title = f"{name}, modality {modality!r}"
        own, expected = by_modality.get(modality), names.get(modality)
        if own is None:
            if expected is not None and len(values):
                raise ValueError(
                    f"{title} has no places, but earlier items have {list(expected)!s:.200}. Pass "
                    "them for every item with local features."
                )
            if len(values):
                names[modality] = None
            continue
        if modality in names and expected is None:
            raise ValueError(
                f"{title} has places, but earlier items have none. Leave them out, or write a new "
                "store."
            )
        found, columns = place_columns(own, len(values), f"{title}: places")
        names[modality] = expected = expected or found
        places[modality] = in_expected_order(
            columns, found, expected, f"{title}: places", "those of earlier items have"
        )
    return places, names


def _places_by_modality(
    given: Any, item: Any, sets: Mapping[str, Array], name: str
) -> Mapping[str, Any]:
    """Return the places of an item by modality, without the modalities that have none."""
    if given is None:
        return {}
    if not isinstance(item, Mapping):
        return {UNNAMED: given}
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{name}: places has type {type(given).__name__}; pass a mapping of modality names to "
            "places, since the item is a mapping of modality names to sets."
        )
    named = {modality: places for modality, places in given.items() if places is not None}
    lacking = next((modality for modality in named if modality not in sets), None)
    if lacking is not None:
        raise ValueError(
            f"{name}: places has {lacking!r:.80}, which is no modality of the item; those are "
            f"{list(sets)!s:.200}. Pass a mapping of modality names to places."
        )
    return named
