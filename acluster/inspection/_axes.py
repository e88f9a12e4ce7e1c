"""Helpers shared by the displays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_axes(given: Any, n: int, size: tuple[float, float]) -> NDArray[Any]:
    """Return `n` Axes: the given ones, or those of a new figure, one below the other.

    Parameters
    ----------
    given : Axes, sequence of Axes or None
        None makes a new figure.

    n : int
        Number of Axes needed.

    size : tuple of float
        Width and height of a new figure in inches.

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
        _, axes = plt.subplots(n, figsize=size, layout="constrained", squeeze=False)
        return axes[:, 0]
    axes = np.atleast_1d(np.asarray(given, dtype=object)).ravel()
    if len(axes) != n:
        raise ValueError(f"ax has {len(axes)} Axes, but {n} are needed, one per modality.")
    return axes
