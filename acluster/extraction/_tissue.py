"""Find the tissue of a slide by its color: glass is white, and marks of its scanner are black."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_N_VALUES = 256
# Otsu's threshold divides any picture in two: the noise of glass, and strong from weak stain where
# there is no glass. The limits keep both together.
_LOWEST, _HIGHEST = 10, 20


def otsu_threshold(values: NDArray[np.uint8]) -> int:
    """Return the threshold of Otsu (1979), which separates dark and bright values best.

    Parameters
    ----------
    values : ndarray of uint8
        The values of pixels, of any shape.

    Returns
    -------
    int
        The largest of the dark values. The variance between both classes is highest.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction._tissue import otsu_threshold
    >>> otsu_threshold(np.array([2, 3, 2, 90, 95], np.uint8))
    3
    """
    counts = np.bincount(values.ravel(), minlength=_N_VALUES).astype(np.float64)
    n_dark, sums = np.cumsum(counts), np.cumsum(counts * np.arange(_N_VALUES))
    n_bright = n_dark[-1] - n_dark
    with np.errstate(divide="ignore", invalid="ignore"):
        means_apart = sums / n_dark - (sums[-1] - sums) / n_bright
        between = n_dark * n_bright * means_apart**2
    return int(np.nanargmax(between)) if np.isfinite(between).any() else int(values.flat[0])


def find_tissue(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which pixels of a slide show tissue.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
        A thumbnail of the slide.

    Returns
    -------
    ndarray of bool, shape (height, width)
        Where the largest of the three colors exceeds the smallest by more than Otsu's threshold of
        this difference, or than the nearest of 10 and 20 if the threshold is not between them.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction._tissue import find_tissue
    >>> find_tissue(np.array([[(250, 249, 251), (200, 120, 180), (9, 9, 9)]], np.uint8))
    array([[False,  True, False]])
    """
    colorfulness = pixels.max(axis=2) - pixels.min(axis=2)
    return colorfulness > np.clip(otsu_threshold(colorfulness), _LOWEST, _HIGHEST)


class TissueMap:
    """The share of tissue in any square of a slide.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
        A thumbnail of the slide.

    scale : float
        The width of a pixel of the thumbnail, in pixels of the slide.

    Examples
    --------
    >>> import numpy as np
    >>> from acluster.extraction._tissue import TissueMap
    >>> pixels = np.full((4, 4, 3), 255, np.uint8)
    >>> pixels[:, 2:] = (200, 120, 180)  # tissue in the right half
    >>> TissueMap(pixels, 10.0).shares(np.array([0, 15, 20]), 0, 10)
    array([0. , 0.5, 1. ])
    """

    def __init__(self, pixels: NDArray[np.uint8], scale: float) -> None:
        tissue = find_tissue(pixels)
        # Between the corners of pixels, the sum over all that is above and left is bilinear.
        self._sums = np.zeros((tissue.shape[0] + 1, tissue.shape[1] + 1))
        np.cumsum(tissue, axis=0, out=self._sums[1:, 1:])
        np.cumsum(self._sums, axis=1, out=self._sums)
        self._scale = scale

    def shares(self, x: NDArray[np.int64], y: float, side: float) -> NDArray[np.float64]:
        """Return the share of tissue in squares next to each other.

        Parameters
        ----------
        x : ndarray of shape (n,)
            Their left edges, in pixels of the slide.

        y, side : float
            Their top edge and their width.

        Returns
        -------
        ndarray of shape (n,)
            From 0 to 1. The area outside the slide counts as background.
        """
        columns = np.arange(self._sums.shape[1]) * self._scale
        strip = self._row(y + side) - self._row(y)
        sums = np.interp(x + side, columns, strip) - np.interp(x, columns, strip)
        return sums * (self._scale / side) ** 2

    def _row(self, y: float) -> NDArray[np.float64]:
        """Return the sums above a position, for the left edges of all columns."""
        above = min(max(y / self._scale, 0), len(self._sums) - 1)
        first = min(int(above), len(self._sums) - 2)
        part = above - first
        row: NDArray[np.float64] = (1 - part) * self._sums[first] + part * self._sums[first + 1]
        return row
