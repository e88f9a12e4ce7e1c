"""How local features lie in an image: on a grid, as squares of one size, or scattered."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MAX_CELLS = 50  # of a grid per local feature, so that cells are not too small to see
_MAX_DIVISOR = 4  # of the smallest gap, which is several cells if columns are absent
_TOLERANCE = 0.01  # of a cell, by which a coordinate may differ from the grid
_ROUNDING = 0.25  # of a cell, if the coordinates are whole numbers, and at most 1
_REGULAR = 0.9  # the share of squares that have a neighbor at a distance of their size
_MARKERS = (2.0, 14.0)  # the smallest and the largest diameter of a point, in 1/72 inch


@dataclass(frozen=True)
class Grid:
    """Cells of one size without gaps and overlaps.

    Every layout has the edges of all its shapes, `bounds`: left, right, bottom and top, where the
    bottom has the largest y. Every layout can `draw` one map, with the arguments of this one.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    shape: tuple[int, int]
    bounds: tuple[float, float, float, float]

    @property
    def cell(self) -> tuple[float, float]:
        """The width and the height of a cell."""
        left, right, bottom, top = self.bounds
        return (right - left) / self.shape[1], (bottom - top) / self.shape[0]

    def table(self, values: Floats) -> Floats:
        """Return the value of each cell; NaN without a local feature."""
        n_rows, n_columns = self.shape
        cells = self.rows * n_columns + self.columns
        table = np.full(n_rows * n_columns, np.nan)
        table[cells] = 0
        np.add.at(table, cells, values)
        return table.reshape(self.shape)

    def draw(self, axes: Any, values: Floats, **style: Any) -> Any:
        """Draw one map as an image.

        Parameters
        ----------
        axes : matplotlib Axes
            The Axes to draw in.

        values : ndarray of shape (L,)
            The values to show as colors. Those of local features at the same place are added up.

        **style
            ``cmap``, ``alpha``, ``vmin`` and ``vmax``, as in matplotlib.

        Returns
        -------
        matplotlib artist
            An artist with colors, for a color bar.
        """
        # The first row is at the top, where bounds has the smallest y.
        table, extent = self.table(values), self.bounds
        return axes.imshow(table, extent=extent, origin="upper", interpolation="nearest", **style)


@dataclass(frozen=True)
class Squares:
    """Squares of one size, such as tiles from grids that do not fit each other."""

    corners: Floats  # the smallest x and y of each, (n_squares, 2)
    members: NDArray[np.int64]  # the shape of each local feature, (L,)
    size: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The edges of all squares."""
        return _bounds(self.corners, self.corners + self.size)

    def draw(self, axes: Any, values: Floats, **style: Any) -> Any:
        """Draw one map as polygons, those with the largest absolute values on top."""
        from matplotlib.collections import PolyCollection

        limits = style.pop("vmin"), style.pop("vmax")
        order, values = _added_up(self.members, values)
        outline = self.size * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        outlines: Any = self.corners[order, None] + outline  # matplotlib is fast on one array only
        # Smoothed edges would leave lines between neighbors.
        polygons = PolyCollection(outlines, antialiased=False, lw=0, **style)
        polygons.set_array(values)
        polygons.set_clim(*limits)
        return axes.add_collection(polygons, autolim=False)


@dataclass(frozen=True)
class Points:
    """Round marks of one size, for scattered local features."""

    centers: Floats  # (n_points, 2)
    members: NDArray[np.int64]  # the shape of each local feature, (L,)
    diameter: float

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The edges of all marks, in the units of x and y."""
        return _bounds(self.centers - self.diameter / 2, self.centers + self.diameter / 2)

    def draw(self, axes: Any, values: Floats, **style: Any) -> Any:
        """Draw one map as a scatter plot, with the largest absolute values on top."""
        left, right, bottom, top = self.bounds
        box = axes.get_window_extent()
        pixels = min(box.width / (right - left), box.height / (bottom - top)) * self.diameter
        marker = float(np.clip(pixels * 72 / axes.figure.dpi, *_MARKERS))
        order, values = _added_up(self.members, values)
        return axes.scatter(*self.centers[order].T, c=values, s=marker**2, linewidths=0, **style)


Layout = Grid | Squares | Points  # the shapes that stand for the local features of one item


def find_layout(x: Floats, y: Floats, tile_size: float | None, anchor: str) -> Layout:
    """Choose how to draw the local features, from their coordinates.

    Parameters
    ----------
    x, y : ndarray of shape (L,)
        The coordinates, of at least one local feature.

    tile_size : float or None
        The width of a tile, in the units of x and y; None if it is not known.

    anchor : {"corner", "center"}
        The point of a tile that the coordinates are of.

    Returns
    -------
    Layout
        A `Grid` if the coordinates are regular. Else `Squares` if the size is known, or most
        neighbors have the same distance. Else `Points`.
    """
    # Complex numbers are sorted as pairs, and much faster than rows.
    distinct, members = np.unique(x + 1j * y, return_inverse=True)
    centers = np.column_stack([distinct.real, distinct.imag])
    distance, is_regular = _neighbors(centers)
    grid = _find_grid(x, y, tile_size, anchor)
    # Two grids that differ by half a tile fit on one with smaller cells, most of them empty.
    if grid is not None and not (is_regular and distance > 1.1 * min(grid.cell)):
        return grid
    if tile_size is None and not is_regular:
        return Points(centers, members, distance)
    size = distance if tile_size is None else tile_size
    return Squares(centers if anchor == "corner" else centers - size / 2, members, size)


def _find_grid(x: Floats, y: Floats, tile_size: float | None, anchor: str) -> Grid | None:
    on_x, on_y = _find_spacing(x), _find_spacing(y)
    if on_x is None or on_y is None:
        return None
    (columns, width), (rows, height) = on_x, on_y
    # A single column has no spacing of its own.
    width, height = width or tile_size or height, height or tile_size or width
    shape = int(rows.max()) + 1, int(columns.max()) + 1
    if width is None or height is None or shape[0] * shape[1] > _MAX_CELLS * len(x):
        return None
    # Tiles that overlap get the cells around their centers.
    left, top = x.min() - width / 2, y.min() - height / 2
    if anchor == "corner":
        left, top = left + (tile_size or width) / 2, top + (tile_size or height) / 2
    right, bottom = left + shape[1] * width, top + shape[0] * height
    return Grid(rows, columns, shape, (float(left), float(right), float(bottom), float(top)))


def _find_spacing(values: Floats) -> tuple[NDArray[np.int64], float | None] | None:
    """Return the number of the cell of each coordinate, and the spacing of the cells.

    The spacing is None if all coordinates are equal. Without regular spacing, nothing is returned.
    """
    distinct, inverse = np.unique(values, return_inverse=True)
    gaps, span = np.diff(distinct), distinct[-1] - distinct[0]
    larger = gaps[gaps > 1e-6 * span]  # than the rounding of the coordinates
    if not len(larger):
        return np.zeros(len(values), dtype=np.int64), None
    is_whole = np.array_equal(distinct, np.round(distinct))
    for divisor in range(1, _MAX_DIVISOR + 1):
        cells = np.concatenate([[0], np.cumsum(np.round(gaps * (divisor / larger.min())))])
        spacing = span / cells[-1]
        tolerance = _TOLERANCE * spacing
        if is_whole:
            tolerance = max(tolerance, min(1, _ROUNDING * spacing))
        if np.abs(distinct - distinct[0] - spacing * cells).max() <= tolerance:
            return cells.astype(np.int64)[inverse], float(spacing)
    return None


def _neighbors(centers: Floats) -> tuple[float, bool]:
    """Return the median distance of distinct points to their neighbors, and whether most have it.

    The distance is the larger of those in x and y: neighbors across a corner of a tile count.
    """
    from scipy.spatial import KDTree

    if len(centers) == 1:
        return 1.0, False
    distances = KDTree(centers).query(centers, k=2, p=np.inf)[0][:, 1]
    median = float(np.median(distances))
    return median, bool(np.mean(np.abs(distances - median) <= 0.01 * median) >= _REGULAR)


def _added_up(shapes: NDArray[np.int64], values: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Add up the values of each shape; return the shapes and the sums by ascending absolute sum."""
    sums: Floats = np.zeros(shapes.max() + 1)
    np.add.at(sums, shapes, values)
    order = np.argsort(np.abs(sums), kind="stable")
    return order, sums[order]


def _bounds(low: Floats, high: Floats) -> tuple[float, float, float, float]:
    (left, top), (right, bottom) = low.min(axis=0), high.max(axis=0)
    return float(left), float(right), float(bottom), float(top)
