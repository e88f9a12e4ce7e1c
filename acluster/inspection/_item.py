"""One item of a display: its attention weights, and the places of its local features."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster import FeatureSets, MultimodalFeatureSets

Columns = dict[str, NDArray[np.float64]]


def attend(
    estimator: Any, item: Any
) -> tuple[dict[str | None, NDArray[Any]], dict[str | None, Columns]]:
    """Return the attention weights of one item, and the places of its local features.

    Parameters
    ----------
    estimator : fitted classifier with ``attention_weights``
        The classifier to inspect.

    item : FeatureSets or MultimodalFeatureSets of one item, array-like, or dict of array-likes
        The local features. Only containers have places.

    Returns
    -------
    attention : dict of str or None to ndarray of shape (L, N)
        By modality, which is None if `item` has no named modalities.

    places : dict of str or None to dict of str to ndarray of shape (L,)
        The columns of the places, for each modality of a container; empty without places.

    Raises
    ------
    TypeError
        If the estimator has no attention units.

    ValueError
        If `item` is a container of several items, or of none.
    """
    check_attends(estimator)
    if not isinstance(item, FeatureSets | MultimodalFeatureSets):
        return arrays_by_modality(estimator.attention_weights([item])[0]), {}
    check_one_item(item, "item")
    attention = arrays_by_modality(estimator.attention_weights(item)[0])
    return attention, places_of(item)


def places_of(item: FeatureSets | MultimodalFeatureSets) -> dict[str | None, Columns]:
    """Return the columns of the places of one item, for each modality of a container."""
    if isinstance(item, FeatureSets):
        return {None: columns_of(item.places)}
    return {name: columns_of(item[name].places) for name in item.names}


def columns_of(places: FeatureSets | None) -> Columns:
    """Return the places of one item by column; no columns without places."""
    if places is None or places.column_names is None:
        return {}
    return dict(zip(places.column_names, places[0].T, strict=True))


def as_columns(places: Any) -> Any:
    """Return the places of one item as a mapping or data frame of columns.

    Raises
    ------
    TypeError
        If the places have no columns.

    ValueError
        If `places` is a container of several items, or of none.
    """
    if isinstance(places, FeatureSets):
        check_one_item(places, "places")
        return columns_of(places)
    if places is None or isinstance(places, np.ndarray | list | tuple):
        raise TypeError(
            f"places has type {type(places).__name__}; pass a mapping with columns, such as 'x' "
            "and 'y' or 'seconds', a data frame, or the places of a container of one item, "
            "X.places[[i]]."
        )
    return places


def check_positions(given: Any, parameter: str, n_features: int) -> NDArray[np.float64]:
    """Return positions of the local features of one item, a finite number for each.

    Raises
    ------
    ValueError
        If their number is another one, or a value is not a finite number.
    """
    try:
        positions = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{parameter} must hold numbers: {error}.") from None
    if positions.shape != (n_features,):
        raise ValueError(
            f"{parameter} has shape {positions.shape}, but the item has {n_features} local "
            "features. Pass one number per local feature, in their order."
        )
    if not np.isfinite(positions).all():
        i = int(np.flatnonzero(~np.isfinite(positions))[0])
        raise ValueError(
            f"{parameter} is {positions[i]} for local feature {i}; a position must be finite."
        )
    return positions


def check_one_item(container: Any, parameter: str) -> None:
    """Raise a ValueError that says how to choose one item, unless there is one."""
    if len(container) != 1:
        raise ValueError(
            f"{parameter} is a {type(container).__name__} of {len(container)} items, but a display "
            "shows one. Choose it by its number, X[[i]], or by its id, X[X.id == name]."
        )


def check_attends(estimator: Any) -> None:
    """Raise a TypeError if the estimator has no attention units."""
    if not hasattr(estimator, "attention_weights"):
        raise TypeError(
            f"{type(estimator).__name__} has no attention_weights. Pass a classifier with "
            "attention units. For a search, pass best_estimator_. For a pipeline, pass the last "
            "step and items transformed by the other steps: from_estimator(pipe[-1], "
            "pipe[:-1].transform(X[[i]]))."
        )


def check_units(units: Sequence[int] | None, n_units: int, modality: str | None) -> NDArray[Any]:
    """Return the numbers of the units to draw: those given, or all.

    Raises
    ------
    ValueError
        If `units` is not a list of numbers of units.
    """
    if units is None:
        return np.arange(n_units)
    chosen = np.asarray(units)
    is_list = chosen.ndim == 1 and chosen.dtype.kind in "iu" and len(chosen)
    if not is_list or chosen.min() < 0 or chosen.max() >= n_units:
        raise ValueError(
            f"units={units!r} must be a list of ints from 0 to {n_units - 1}, the units of "
            f"attention{index(modality)}."
        )
    return chosen


def arrays_by_modality(
    values: Any,
    parameter: str = "attention",
    shape: str = "(L, N), the weights",
    method: str = "attention_weights",
) -> dict[str | None, NDArray[Any]]:
    """Return the values of one item by modality, which is None for a single array.

    Parameters
    ----------
    values : array-like of shape (L, N), or dict of str to array-like
        The attention weights or the evidence of one item.

    parameter, shape, method : str
        The name, the meaning and the source of `values`, in the error messages.

    Raises
    ------
    ValueError
        If there is no modality, or the values do not have two dimensions or are not finite.
    """
    if isinstance(values, Mapping):
        found: dict[str | None, NDArray[Any]] = {k: np.asarray(a) for k, a in values.items()}
    else:
        found = {None: np.asarray(values)}
    if not found:
        raise ValueError(f"{parameter} is an empty dict; pass one with at least one modality.")
    for name, a in found.items():
        if a.ndim != 2:
            raise ValueError(
                f"{parameter}{index(name)} has shape {a.shape}; expected {shape} of one item. Pass "
                f"one item of the result: {method}(X)[0]."
            )
        if a.dtype.kind not in "buif":
            raise ValueError(f"{parameter}{index(name)} has dtype {a.dtype}; pass real numbers.")
        if not np.isfinite(a).all():
            raise ValueError(f"{parameter}{index(name)} has a value that is not finite.")
    return found


def index(name: str | None) -> str:
    """Return the index of a modality in a message: nothing, if it has no name."""
    return "" if name is None else f"[{name!r}]"


def match_modalities(names: list[str | None], given: Any, parameter: str) -> dict[str | None, Any]:
    """Return the value given for each modality, or None."""
    if names == [None] or given is None:
        return dict.fromkeys(names, given)
    if len(names) == 1 and not isinstance(given, Mapping):
        return {names[0]: given}
    if not isinstance(given, Mapping) or not set(given) <= set(names):
        shown = [*given] if isinstance(given, Mapping) else type(given).__name__
        raise ValueError(
            f"{parameter} is given for {shown}, but the item has the modalities {names}. Pass a "
            "dict by modality."
        )
    return {name: given.get(name) for name in names}


def match_thumbnails(
    values: Mapping[str | None, NDArray[Any]], given: Any
) -> dict[str | None, Any]:
    """Return the thumbnails of each modality, which are as many as its rows of values.

    Raises
    ------
    ValueError
        If they do not fit the modalities or their numbers of local features.
    """
    thumbnails = match_modalities([*values], given, "thumbnails")
    for name, images in thumbnails.items():
        n_features = len(values[name])
        if images is not None and len(images) != n_features:
            raise ValueError(
                f"thumbnails{index(name)} has {len(images)} entries, but the item has {n_features} "
                "local features. Pass one per local feature, in their order."
            )
    return thumbnails
