"""Evidence as signed bars: a row per class and modality."""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.inspection._axes import as_axes
from acluster.inspection._bars import MAX_BARS, bar_width, by_bin, share_range, smallest_gap
from acluster.inspection._evidence_item import AGAINST, FOR, LABEL, ItemEvidence, signed

_WIDTH, _ROW_HEIGHT, _MAX_HEIGHT = 10.0, 1.6, 9.0  # of a new figure, in inches
_MAX_ROWS = 12  # in the largest height
_TITLE: dict[str, Any] = {"fontsize": "small", "parse_math": False}  # names may contain "$"
_MARGIN = 0.08  # above and below all bars, as a fraction of their range


def draw_rows(
    evidence: ItemEvidence,
    names: list[str | None],
    seconds: dict[str | None, NDArray[np.float64]],
    ax: Any,
) -> NDArray[Any]:
    """Draw the evidence of modalities for each class, on one scale.

    Parameters
    ----------
    evidence : ItemEvidence
        What to draw.

    names : list of str or None
        The modalities to draw.

    seconds : dict of str or None to ndarray of shape (L,)
        The times of the modalities that have some. They share one range.

    ax : Axes, sequence of Axes or None
        Where to draw; an Axes for each class and modality, the modalities of a class in succession.

    Returns
    -------
    ndarray of Axes, shape (n_classes * n_modalities,)

    Raises
    ------
    ValueError
        If there are too many rows to see, or `ax` has another number of Axes.
    """
    rows = [(c, name) for c in range(len(evidence.classes)) for name in names]
    if len(rows) > _MAX_ROWS:
        raise ValueError(
            f"{len(evidence.classes)} classes and {len(names)} modalities make {len(rows)} rows, "
            f"too many to see; draw at most {_MAX_ROWS}. Name fewer classes, or one modality."
        )
    size = _WIDTH, min(0.6 + _ROW_HEIGHT * len(rows), _MAX_HEIGHT)
    all_axes = as_axes(ax, len(rows), size, part="class and modality")
    gap, low, high = smallest_gap([*seconds.values()]), 0.0, 0.0
    titles = evidence.titles(names[0] if len(names) == 1 else None)
    for axes, (c, name) in zip(all_axes, rows, strict=True):
        own = evidence.by_modality[name][:, c]
        heights, note = _draw_bars(axes, own, seconds.get(name), gap)
        low, high = heights.min(initial=low), heights.max(initial=high)
        axes.set_xlabel(_axis_label(name, name in seconds), parse_math=False)
        described = _describe(name, own, note)
        axes.set_title(described, loc="right", **_TITLE)
        if name == names[0]:  # above the other title, if there is one
            axes.set_title(f"{titles[c]}\n" if described else titles[c], loc="left", **_TITLE)
    margin = _MARGIN * (high - low or 1.0)
    for axes in all_axes:
        axes.set_ylim(low - margin, high + margin)
    on_clock = [a for a, (_, name) in zip(all_axes, rows, strict=True) if name in seconds]
    share_range(on_clock)
    _name_axes(all_axes, is_new=ax is None)
    return all_axes


def _draw_bars(
    axes: Any, evidence: NDArray[np.float64], seconds: NDArray[np.float64] | None, gap: float
) -> tuple[NDArray[np.float64], str]:
    """Draw one row; return the heights of its bars, and what each of them is the sum of."""
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", nbins=4)
    axes.tick_params(labelsize="small")
    if not len(evidence):
        axes.set_xticks([])
        return evidence, ""
    x = np.arange(float(len(evidence))) if seconds is None else seconds
    if len(evidence) <= MAX_BARS:
        times, place = np.unique(x, return_inverse=True)
        heights: NDArray[np.float64] = np.zeros(len(times))
        np.add.at(heights, place, evidence)  # bars at one time would hide each other
        colors = np.where(heights > 0, FOR, AGAINST).tolist()
        axes.bar(times, heights, width=bar_width(x, 1.0 if seconds is None else gap), color=colors)
        return heights, "sum at each time" if len(times) < len(x) else ""
    edges, sums, n_largest = by_bin(x, evidence[:, None], np.add)
    heights = sums[:, 0]
    axes.stairs(np.maximum(heights, 0), edges, fill=True, color=FOR)
    axes.stairs(np.minimum(heights, 0), edges, fill=True, color=AGAINST)
    return heights, f"sum in each of {len(heights)} bins" if n_largest > 1 else ""


def _axis_label(name: str | None, is_time: bool) -> str:
    if is_time:
        return "time (s)"
    return "local feature" if name is None else f"local feature of {name}"


def _describe(name: str | None, evidence: NDArray[np.float64], note: str) -> str:
    """Return the name of a modality, the sum of its evidence, and what the bars are sums of."""
    parts = []
    if name is not None:
        parts.append(
            f"{name}, evidence {signed(evidence.sum())}" if len(evidence) else f"{name}: missing"
        )
    return ", ".join([*parts, *([note] if note else [])])


def _name_axes(all_axes: NDArray[Any], is_new: bool) -> None:
    """Keep each horizontal label below the last of equal rows, and name the vertical axis."""
    for axes, below in pairwise(all_axes):
        if is_new and axes.get_xlabel() == below.get_xlabel():
            axes.set_xlabel("")
            axes.tick_params(labelbottom=False)
    if is_new:  # one label for all rows, which are lower than it is long
        all_axes[0].figure.supylabel(LABEL, fontsize="medium")
    else:
        for axes in all_axes:
            axes.set_ylabel(LABEL)
