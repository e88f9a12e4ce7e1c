"""Bars of one item over time, or in the order of its local features."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

BAR_WIDTH = 0.9  # of the smallest gap
MAX_BARS = 100  # drawn one by one, which takes matplotlib a millisecond each
MAX_BINS = 300  # that can be seen, of a few pixels each


def by_bin(
    x: NDArray[Any], values: NDArray[Any], ufunc: np.ufunc
) -> tuple[NDArray[Any], NDArray[Any], int]:
    """Combine the values in bins of equal width.

    Parameters
    ----------
    x : ndarray of shape (L,)
        The position of each local feature, of one at least.

    values : ndarray of shape (L, N)
        The values to combine. Those of an empty bin are 0.

    ufunc : ufunc
        ``np.maximum``, of values that are not negative, or ``np.add``.

    Returns
    -------
    edges : ndarray of shape (n_bins + 1,)
        The edges of the bins.

    combined : ndarray of shape (n_bins, N)
        The values of the bins.

    n_largest : int
        The number of local features in the fullest bin.
    """
    n_bins = min(len(x), MAX_BINS)
    edges = np.linspace(x.min(), x.max() + (np.ptp(x) == 0), n_bins + 1)
    bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, n_bins - 1)
    order = np.argsort(bins, kind="stable")
    filled, first, counts = np.unique(bins[order], return_index=True, return_counts=True)
    combined = np.zeros((n_bins, values.shape[1]))
    combined[filled] = ufunc.reduceat(values[order], first, axis=0)
    return edges, combined, int(counts.max())


def bar_width(x: NDArray[Any], default_gap: float) -> float:
    """Return the width of bars at the positions x, in their units.

    Bars do not overlap, unless their positions are too close together to be told apart. A single
    bar is as wide as `default_gap` allows.
    """
    gaps = np.diff(np.unique(x))
    width = BAR_WIDTH * (gaps.min() if len(gaps) else default_gap)
    return max(float(width), float(np.ptp(x)) / MAX_BINS)


def smallest_gap(times: Sequence[ArrayLike]) -> float:
    """Return the smallest distance in time within any modality, or 1."""
    gaps = [np.diff(np.unique(np.asarray(own, dtype=float))) for own in times]
    return min((float(own.min()) for own in gaps if len(own)), default=1.0)


def share_range(all_axes: list[Any]) -> None:
    """Give all Axes the union of the horizontal ranges of those that have bars."""
    if limits := [one.get_xlim() for one in all_axes if one.patches]:
        low, high = np.transpose(limits)
        for one in all_axes:
            one.set_xlim(low.min(), high.max())
