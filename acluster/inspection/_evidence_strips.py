"""Evidence as strips of thumbnails: the most supporting and the most opposing local features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.inspection._axes import as_axes
from acluster.inspection._evidence_item import AGAINST, FOR, LABEL, signed
from acluster.inspection._thumbnails import check_image, gray_limits

_WIDTHS, _MAX_HEIGHT = (7.0, 14.0), 9.0  # of a new figure, in inches
_CELL = 0.85  # the width of an image in inches, if there is room
_MAX_STRIPS = 8  # in the largest height
_GAP = 0.4  # between the groups, in cells
_FRAME = 3.0  # the width of the frame of an image, in points


def draw_strips(
    values: NDArray[np.float64],
    titles: list[str],
    thumbnails: Sequence[Any],
    seconds: NDArray[np.float64] | None,
    n_shown: int,
    ax: Any,
) -> NDArray[Any]:
    """Draw a strip per class.

    Parameters
    ----------
    values : ndarray of shape (L, C)
        The evidence.

    titles : list of str
        A title per class.

    thumbnails : sequence of L images
        Only those to draw are read.

    seconds : ndarray of shape (L,) or None
        The times of the local features, to name them by. None: their numbers.

    n_shown : int
        The number of local features on either side.

    ax : Axes, sequence of Axes or None
        Where to draw.

    Returns
    -------
    ndarray of Axes, shape (C,)

    Raises
    ------
    ValueError
        If there are too many classes to see, a thumbnail is not an image, or `ax` has another
        number of Axes.
    """
    if len(titles) > _MAX_STRIPS:
        raise ValueError(
            f"{len(titles)} classes are too many strips to see; draw at most {_MAX_STRIPS}. Name "
            "fewer classes."
        )
    ranked = [_most(own, n_shown) for own in values.T]
    chosen = np.unique(np.concatenate([rows for pair in ranked for rows in pair]))
    images = {int(i): np.asarray(thumbnails[i]) for i in chosen}
    for image in images.values():
        check_image(image)
    n_shown = max((len(rows) for pair in ranked for rows in pair), default=0) or 1
    limits = gray_limits([*images.values()])
    tallest = max((image.shape[0] / image.shape[1] for image in images.values()), default=1.0)
    width = float(np.clip(2 * n_shown * _CELL + 0.8, *_WIDTHS))
    height = min(len(titles) * (_CELL * tallest + 0.95) + 0.2, _MAX_HEIGHT)
    all_axes = as_axes(ax, len(titles), (width, height), part="class")
    kind = "number" if seconds is None else "time"
    for axes, own, pair, title in zip(all_axes, values.T, ranked, titles, strict=True):
        names = {i: f"#{i}" if seconds is None else f"{seconds[i]:.2f} s" for i in images}
        _draw_strip(axes, own, pair, images, names, n_shown, limits)
        axes.set_ylim(tallest + 0.06, -0.06)
        axes.set_title(f"{title}\n", loc="left", fontsize="small", parse_math=False)
    all_axes[-1].set_xlabel(f"{LABEL} and {kind} of the local feature", fontsize="small")
    return all_axes


def _most(evidence: NDArray[np.float64], n_shown: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the local features with the most positive and the most negative evidence."""
    order = np.argsort(-evidence, kind="stable")
    supporting, opposing = order[:n_shown], order[::-1][:n_shown]
    return supporting[evidence[supporting] > 0], opposing[evidence[opposing] < 0]


def _draw_strip(
    axes: Any,
    evidence: NDArray[np.float64],
    ranked: tuple[NDArray[Any], NDArray[Any]],
    images: dict[int, NDArray[Any]],
    names: dict[int, str],
    n_shown: int,
    limits: dict[str, float],
) -> None:
    """Draw the supporting local features on the left and the opposing ones on the right."""
    places, labels = [], []
    groups = ("supporting", FOR, 0.0), ("opposing", AGAINST, n_shown + _GAP)
    for rows, (group, color, first) in zip(ranked, groups, strict=True):
        text = group if len(rows) else f"{group}: none"
        above = axes.get_xaxis_transform()
        axes.text(first, 1.02, text, transform=above, fontsize="small", va="bottom", weight="bold")
        for place, i in enumerate(rows.tolist(), start=1):
            image, left = images[i], first + place - 1
            box = left + 0.04, left + 0.96, 0.92 * image.shape[0] / image.shape[1], 0.0
            # Given limits of colors are ignored for images that have colors.
            axes.imshow(image, extent=box, cmap="gray", aspect="equal", **limits)
            _draw_frame(axes, box, color)
            places.append(left + 0.5)
            labels.append(f"{signed(evidence[i])}\n{names[i]}")
    axes.set_xticks(places, labels, fontsize="small")
    axes.set(xlim=(-0.06, 2 * n_shown + _GAP + 0.06), yticks=[])
    axes.set_anchor("W")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _draw_frame(axes: Any, box: tuple[float, float, float, float], color: str) -> None:
    left, right, bottom, top = box
    x, y = [left, right, right, left, left], [bottom, bottom, top, top, bottom]
    axes.plot(x, y, color=color, linewidth=_FRAME, solid_joinstyle="miter")
