"""What displays have in common: where to draw, and of whom."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_axes", "check_attends"]


def as_axes(given: Any, n: int, size: tuple[float, float]) -> NDArray[Any]:
    """N axes below each other: those given, or of a new figure of this size in inches.

    Raises
    ------
    ValueError
        If so many were not given.

    ImportError
        Without matplotlib.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("Displays need matplotlib: install the extra 'plot'.") from None
    if given is None:
        _, axes = plt.subplots(n, figsize=size, layout="constrained", squeeze=False)
        return axes[:, 0]
    axes = np.atleast_1d(np.asarray(given, dtype=object)).ravel()
    if len(axes) != n:
        raise ValueError(f"ax holds {len(axes)} Axes, and {n} are needed, one for each modality.")
    return axes


def check_attends(estimator: Any) -> None:
    """Raise a TypeError for an estimator without attention units."""
    if not hasattr(estimator, "attention_weights"):
        raise TypeError(
            f"{type(estimator).__name__} has no attention_weights. Pass a classifier with "
            "attention units; of a search its best_estimator_; of a pipeline its last step, and "
            "the items as the steps before leave them: from_estimator(pipe[-1], "
            "pipe[:-1].transform([x])[0])."
        )
