"""The evidence of one item as strips of color: one row per class, over time if it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.inspection._evidence_item import evidence_colors
from acluster.inspection._report._blocks import shortened
from acluster.inspection._report._pictures import new_figure

Floats = NDArray[np.float64]

_MAX_CELLS = 200  # of a strip, about two per millimeter

# Inches: a line of text or a strip, the numbers below, the bar of colors, the margin above, and
# that on the left, into which half of the first number reaches.
_WIDTH, _LINE, _AXIS, _BAR, _MARGIN, _LEFT = 4.2, 0.19, 0.42, 0.75, 0.1, 0.25


@dataclass(frozen=True)
class Strip:
    """The evidence in one modality of an item.

    Attributes
    ----------
    values : ndarray of shape (C, n_cells)
        The sum of the evidence in each cell.

    edges : ndarray of shape (n_cells + 1,)
        Where the cells begin and end.

    unit : str
        What the edges are in.
    """

    values: Floats
    edges: Floats
    unit: str


def strip_of(evidence: Floats, seconds: Floats | None) -> Strip:
    """Sum the evidence in cells: of one local feature each or, of many, of a range of them.

    Parameters
    ----------
    evidence : ndarray of shape (L, C)
        That of L local features, at least one, for or against C classes.

    seconds : ndarray of shape (L,), or None
        Their times, in any order.
    """
    if seconds is None:
        edges = np.arange(len(evidence) + 1.0)
        cells, unit = np.arange(len(evidence)), "local feature"
    else:
        times, cells = np.unique(seconds, return_inverse=True)
        edges, unit = _edges_around(times), "seconds"
    if len(edges) > _MAX_CELLS + 1:
        centers = (edges[1:] + edges[:-1]) / 2
        edges = np.linspace(edges[0], edges[-1], _MAX_CELLS + 1)
        cells = np.clip(np.searchsorted(edges, centers, "right") - 1, 0, _MAX_CELLS - 1)[cells]
    values = [np.bincount(cells, column, len(edges) - 1) for column in evidence.T]
    return Strip(np.array(values), edges, unit)


def _edges_around(times: Floats) -> Floats:
    """Return cells whose borders are halfway between increasing times; none before the start."""
    if len(times) == 1:
        return times[0] + np.array([-0.5, 0.5])
    middles = (times[1:] + times[:-1]) / 2
    first, last = 2 * times[0] - middles[0], 2 * times[-1] - middles[-1]
    if times[0] >= 0:
        first = max(first, 0.0)
    return np.concatenate([[first], middles, [last]])


def draw_strips(strips: Mapping[str, Strip], rows: Sequence[str]) -> Any:
    """Draw the evidence of an item, one pair of axes per modality.

    Parameters
    ----------
    strips : mapping of str to Strip
        By modality; the only one may have the name "".

    rows : sequence of str
        What each row of the strips is the evidence for.
    """
    part = 2 * _LINE * len(rows)
    heights = [part + _AXIS + _LINE * bool(name) for name in strips]
    # Matplotlib would take half a second per figure to find a layout.
    top = sum(heights)
    figure = new_figure(_WIDTH, top + _MARGIN, layout=None)
    limit = max(float(np.abs(strip.values).max()) for strip in strips.values()) or 1.0
    for (name, strip), height in zip(strips.items(), heights, strict=True):
        bottom = top - height + _AXIS
        box = _LEFT, bottom, _WIDTH - _LEFT - _BAR, part
        axes = figure.add_axes(_relative(figure, box))
        image = _draw_rows(axes, strip, rows, limit)
        if name:
            axes.set_title(shortened(name), loc="left", fontsize="small", pad=2, weight="bold")
        top -= height
    bar_box = _WIDTH - _BAR + 0.1, bottom, 0.1, part
    bar = figure.colorbar(image, cax=figure.add_axes(_relative(figure, bar_box)))
    bar.set_ticks([-limit, 0, limit], labels=["against", "0", "for"], fontsize="small")
    return figure


def _relative(figure: Any, box: Sequence[float]) -> list[float]:
    """Return a box of left, bottom, width and height in inches as shares of the figure."""
    width, height = figure.get_size_inches()
    left, bottom, box_width, box_height = box
    return [left / width, bottom / height, box_width / width, box_height / height]


def _draw_rows(axes: Any, strip: Strip, rows: Sequence[str], limit: float) -> Any:
    """Draw each row of a strip with a line of text above it; return an artist with colors."""
    for number, (name, values) in enumerate(zip(rows, strip.values, strict=True)):
        image = axes.pcolormesh(
            strip.edges,
            [2 * number + 1, 2 * number + 2],
            values[None],
            cmap=evidence_colors(),
            vmin=-limit,
            vmax=limit,
            rasterized=True,
        )
        text = f"evidence for {shortened(name)}"
        axes.text(0, 2 * number + 0.8, text, fontsize="small", transform=axes.get_yaxis_transform())
    axes.set(xlim=strip.edges[[0, -1]], ylim=(2 * len(rows), 0), yticks=[])
    axes.spines.left.set_visible(False)
    axes.tick_params(axis="x", labelsize="small", pad=2)
    axes.xaxis.get_major_locator().set_params(integer=strip.unit != "seconds")
    axes.set_xlabel(strip.unit, fontsize="small", labelpad=1)
    return image
