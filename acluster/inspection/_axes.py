"""Helpers shared by the displays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LABEL_HEIGHT = 0.16  # of a small tick label and the space around it, in inches


def as_axes(
    given: Any, n: int, size: tuple[float, float], n_columns: int = 1, part: str = "modality"
) -> NDArray[Any]:
    """Return `n` Axes: the given ones, or those of a new figure, row by row.

    Parameters
    ----------
    given : Axes, sequence of Axes or None
        None makes a new figure.

    n : int
        Number of Axes needed.

    size : tuple of float
        Width and height of a new figure in inches.

    n_columns : int, default=1
        Number of Axes side by side in a new figure.

    part : str, default="modality"
        What there is one Axes for, in the error message.

    Raises
    ------
    ValueError
        If `given` has another number of Axes.

    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError(
            "Displays need matplotlib; install acluster with its extra 'plot'."
        ) from None
    if given is None:
        n_rows = -(-n // n_columns)
        figure, grid = plt.subplots(
            n_rows, n_columns, figsize=size, layout="constrained", squeeze=False
        )
        for unused in grid.ravel()[n:]:
            figure.delaxes(unused)
        return grid.ravel()[:n]
    axes = np.atleast_1d(np.asarray(given, dtype=object)).ravel()
    if len(axes) != n:
        raise ValueError(f"ax has {len(axes)} Axes, but {n} are needed, one per {part}.")
    return axes


def label_rows(axes: Any, rows: NDArray[Any], names: Sequence[str]) -> None:
    """Label rows of the vertical axis; if they lie too close together, only some of them.

    Parameters
    ----------
    axes : matplotlib Axes
        Its limits must be set.

    rows : ndarray of shape (n,)
        The positions of the rows, at equal distances.

    names : sequence of str
        A label per row.
    """
    box = axes.get_window_extent()
    inches = box.height / axes.figure.dpi / np.ptp(axes.get_ylim())
    if axes.get_aspect() != "auto":
        inches = min(inches, box.width / axes.figure.dpi / np.ptp(axes.get_xlim()))
    step = max(1, int(np.ceil(_LABEL_HEIGHT / inches)))
    axes.set_yticks(rows[::step], names[::step], fontsize="small")
