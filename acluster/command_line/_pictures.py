"""Draw the attention weights or the evidence of one item, over its picture if there is one."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import acluster
from acluster._utils._files import replaced_file
from acluster.command_line._output import check_path, show
from acluster.extraction import Tiles, find_media, read_thumbnail

Positions = dict[str, NDArray[np.float64]]

_SMALL = 0.02  # of the width and height of a picture, which the tiles of a slide exceed


def check_options(options: argparse.Namespace) -> None:
    """Raise a ValueError for options of a picture that contradict each other."""
    check_path(options.png, options.model, options.store, *filter(None, [options.thumbnail]))
    if options.png and Path(options.png).suffix not in ("", ".png"):
        raise ValueError(
            f"--png writes PNG files only, got {options.png!r}; name the file "
            f"{Path(options.png).stem}.png."
        )
    if options.thumbnail and not options.png:
        raise ValueError("--thumbnail is drawn below a map. Name its file too: --png map.png.")
    if options.scale is not None and not options.thumbnail:
        raise ValueError("--scale is about a picture below the map. Pass it too: --thumbnail PATH.")


def draw_attention(classifier: Any, item: Any, options: argparse.Namespace) -> None:
    """Write the figure of the attention weights that the options ask for.

    Parameters
    ----------
    classifier : fitted classifier
        What attends.

    item : FeatureSets or MultimodalFeatureSets of one item
        The local features.

    options : argparse.Namespace
        The options of the command.

    Raises
    ------
    ValueError
        If a thumbnail is given and there is no map, or it does not fit the positions.
    """
    from acluster.inspection import AttentionDisplay, AttentionMapDisplay

    arguments = _map_arguments(item, options)
    display: Any
    if arguments is None:
        display = AttentionDisplay.from_estimator(classifier, item)
    else:
        display = AttentionMapDisplay.from_estimator(classifier, item, **arguments)
        _warn_of_few(classifier)
    _save(display, options.png)


def draw_evidence(
    classifier: Any, item: Any, classes: list[Any] | None, options: argparse.Namespace
) -> None:
    """Write the figure of the evidence for some classes; parameters as for `draw_attention`."""
    from acluster.inspection import EvidenceDisplay

    arguments = _map_arguments(item, options)
    kind = "rows" if arguments is None else "map"
    display = EvidenceDisplay.from_estimator(
        classifier, item, classes=classes, kind=kind, **(arguments or {})
    )
    if arguments is not None:
        _warn_of_few(classifier)
    _save(display, options.png)


def _map_arguments(item: Any, options: argparse.Namespace) -> dict[str, Any] | None:
    """Return the arguments of a display that draws a map; None if there is none to draw."""
    located = _located(item)
    is_only = isinstance(item, acluster.FeatureSets) or len(item.names) == 1
    if options.thumbnail and len(located) != 1:
        raise ValueError(
            f"--thumbnail is drawn below a map, but {options.store} has the places x and y in "
            f"{len(located)} modalities. A map needs exactly one that has them."
        )
    if len(located) != 1 or not (is_only or options.thumbnail):
        return None
    [(name, positions)] = located.items()
    below = _below(item, positions, options) if options.thumbnail else {}
    size = _tile_size(item if name is None else item[name], positions)
    return {"modality": name, "tile_size": size, **below}


def _warn_of_few(classifier: Any) -> None:
    """Warn if no network gives weights to all local features."""
    several = [one for own in getattr(classifier, "estimators_", []) for one in own]
    limits: list[int | None] = []
    for one in several or [classifier]:
        own = getattr(one, "n_attended", None)
        limits += own.values() if isinstance(own, Mapping) else [own]
    numbers = [limit for limit in limits if limit is not None]
    if len(numbers) == len(limits):
        show(
            f"warning: each unit attends to {max(numbers)} local features at most, so that the map "
            "is nearly empty. For a map, fit one classifier with --set n_attended=null.",
            error=True,
        )


def _save(display: Any, path: str) -> None:
    with replaced_file(path) as unfinished:
        display.figure_.savefig(unfinished, dpi=150, format="png")


def _located(item: Any) -> dict[str | None, Positions]:
    """Return the places of the modalities that have x and y; None is the name of a single one."""
    sets: dict[str | None, Any] = {None: item}
    if isinstance(item, acluster.MultimodalFeatureSets):
        sets = {name: item[name] for name in item.names}
    located: dict[str | None, Positions] = {}
    for name, own in sets.items():
        places: Any = own.places
        if places is not None and own.lengths[0] and {"x", "y"} <= set(places.column_names):
            located[name] = dict(zip(places.column_names, places[0].T, strict=True))
    return located


def _tile_size(sets: acluster.FeatureSets, positions: Positions) -> float | None:
    """Return the width of the tiles in the units of x, if the store says how they were read."""
    extraction = sets.extraction
    view = extraction.get("view") if isinstance(extraction, Mapping) else None
    if not isinstance(view, Mapping) or view.get("kind") != "Tiles":
        return None
    tiles = Tiles(**{name: value for name, value in view.items() if name != "kind"})
    scale = tiles.mpp / positions["mpp"][0] if tiles.mpp and "mpp" in positions else 1.0
    return float(tiles.size * scale)


def _below(item: Any, positions: Positions, options: argparse.Namespace) -> dict[str, Any]:
    """Return the thumbnail and its scale, as a display takes them."""
    if options.scale is not None and not 0 < options.scale < np.inf:
        raise ValueError(f"--scale takes a positive number, such as 16; got {options.scale}.")
    id_ = options.item if item.id is None else str(item.id[0])
    path = _find_picture(Path(options.thumbnail), id_)
    check_path(options.png, path)
    pixels, scale = read_thumbnail(path)
    scale *= options.scale or 1
    for name, n_pixels in (("x", pixels.shape[1]), ("y", pixels.shape[0])):
        highest = positions[name].max()
        if highest >= n_pixels * scale:
            raise ValueError(
                f"{path} is {n_pixels * scale:,.0f} pixels of {name} wide, but {name} goes up to "
                f"{highest:,.0f}. Pass the image or the slide itself, or how many of its pixels "
                "a pixel of this picture is: --scale FACTOR."
            )
    covered = [positions[n].max() / pixels.shape[axis] for n, axis in (("x", 1), ("y", 0))]
    if len(positions["x"]) > 1 and max(covered) < _SMALL * scale:
        show(
            f"warning: x and y are within the first {_SMALL:.0%} of {path}. If they count tiles "
            "and not pixels, or if the picture is larger than that of x and y, pass --scale.",
            error=True,
        )
    return {"thumbnail": pixels, "scale": scale}


def _find_picture(path: Path, id_: str) -> Path:
    """Return a file, or the file in a folder whose name is an id, with or without suffix."""
    if not path.is_dir():
        return path
    found = find_media([path])
    if id_ in found:
        return found[id_]
    named = [own for name, own in found.items() if str(Path(name).with_suffix("")) == id_]
    if len(named) == 1:
        return named[0]
    what = "none" if not named else f"{len(named)}, such as {named[0]} and {named[1]}"
    raise ValueError(
        f"Of the {len(found)} media files in {path}, {what} have the name {id_!r}. Pass the file "
        "of the item."
    )
