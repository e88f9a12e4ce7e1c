"""The layout of a map follows from the coordinates: a grid, squares or points."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from acluster.inspection._layouts import Grid, Points, Squares, find_layout


def cells(grid):
    """The left, right, top and bottom edges of the cell of each local feature."""
    left, right, bottom, top = grid.bounds
    n_rows, n_columns = grid.shape
    width, height = (right - left) / n_columns, (bottom - top) / n_rows
    x, y = left + width * grid.columns, top + height * grid.rows
    return x, x + width, y, y + height


def subset_of_a_grid(data, shape):
    """Rows and columns of some cells, with neighbors in both directions."""
    n = shape[0] * shape[1]
    chosen = data.draw(st.sets(st.integers(0, n - 1), min_size=1, max_size=n))
    rows, columns = np.divmod(np.array(sorted(chosen | {0, 1, shape[1]})), shape[1])
    assume(shape[0] * shape[1] <= 50 * len(rows))
    order = data.draw(st.permutations(range(len(rows))))
    return rows[order], columns[order]


@given(
    data=st.data(),
    shape=st.tuples(st.integers(2, 9), st.integers(2, 9)),
    width=st.floats(1e-3, 1e3),
    height=st.floats(1e-3, 1e3),
    origin=st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)),
    anchor=st.sampled_from(["corner", "center"]),
)
def test_find_layout_finds_the_cells_of_any_part_of_a_grid(
    data, shape, width, height, origin, anchor
):
    rows, columns = subset_of_a_grid(data, shape)
    x, y = origin[0] + width * columns, origin[1] + height * rows
    grid = find_layout(x, y, None, anchor)
    assert isinstance(grid, Grid)
    np.testing.assert_array_equal(grid.rows, rows)
    np.testing.assert_array_equal(grid.columns, columns)
    left, right, top, bottom = cells(grid)
    shift = 0 if anchor == "corner" else 0.5
    near = {"rtol": 1e-6, "atol": 1e-6 * max(width, height)}
    np.testing.assert_allclose(left, x - shift * width, **near)
    np.testing.assert_allclose(right - left, width, **near)
    np.testing.assert_allclose(top, y - shift * height, **near)
    np.testing.assert_allclose(bottom - top, height, **near)


@pytest.mark.parametrize("stride", [508.14, 31.6, 224.0])
def test_find_layout_finds_a_grid_of_rounded_coordinates(stride):
    rows, columns = np.divmod(np.arange(40_000), 200)
    grid = find_layout(np.floor(columns * stride), np.floor(rows * stride), None, "corner")
    np.testing.assert_array_equal(grid.rows, rows)
    np.testing.assert_array_equal(grid.columns, columns)
    assert grid.bounds[1] / 200 == pytest.approx(stride, rel=1e-3)


def test_find_layout_finds_a_spacing_that_no_gap_has():
    grid = find_layout(np.array([0.0, 20, 50]), np.array([0.0, 10, 20]), None, "corner")
    assert grid.shape == (3, 6)
    assert grid.columns.tolist() == [0, 2, 5]
    assert grid.bounds == (0, 60, 30, 0)


def test_find_layout_finds_a_checkerboard():
    rows, columns = np.divmod(np.arange(36), 6)
    dark = (rows + columns) % 2 == 0
    grid = find_layout(8.0 * columns[dark], 8.0 * rows[dark], None, "corner")
    assert (grid.shape, grid.bounds) == ((6, 6), (0, 48, 48, 0))


def test_find_layout_takes_the_height_of_one_row_from_its_width():
    x = np.array([48.0, 16, 32])
    grid = find_layout(x, np.full(3, 8.0), None, "corner")
    assert (grid.shape, grid.bounds) == ((1, 3), (16, 64, 24, 8))
    assert grid.columns.tolist() == [2, 0, 1]
    grid = find_layout(np.full(3, 8.0), x, None, "center")
    assert (grid.shape, grid.bounds) == ((3, 1), (0, 16, 56, 8))


def test_find_layout_of_one_local_feature():
    one = np.array([5.0])
    assert isinstance(find_layout(one, one, None, "corner"), Points)
    assert find_layout(one, one, 4.0, "corner").bounds == (5, 9, 9, 5)
    assert find_layout(one, one, 4.0, "center").bounds == (3, 7, 7, 3)
    same = find_layout(np.full(3, 5.0), np.full(3, 5.0), None, "corner")
    assert same.bounds == (4.5, 5.5, 5.5, 4.5)


def test_find_layout_centers_cells_in_tiles_that_overlap():
    rows, columns = np.divmod(np.arange(12), 4)
    grid = find_layout(2.0 * columns, 2.0 * rows, 8.0, "corner")
    left, right, top, bottom = cells(grid)
    np.testing.assert_allclose((left + right) / 2, 2 * columns + 4)
    np.testing.assert_allclose((top + bottom) / 2, 2 * rows + 4)
    np.testing.assert_allclose(right - left, 2)


@pytest.mark.parametrize("anchor", ["corner", "center"])
@pytest.mark.parametrize("offset", [(117, 33), (128, 0), (1.5, 128), (300, 85)])
def test_find_layout_draws_tiles_of_two_grids_as_squares(offset, anchor):
    rows, columns = np.divmod(np.arange(400), 20)
    x = 256.0 * columns + np.where(rows < 10, 0, offset[0])
    y = 256.0 * rows + np.where(rows < 10, 0, offset[1])
    squares = find_layout(x, y, None, anchor)
    assert isinstance(squares, Squares)
    assert squares.size == 256
    shift = 0 if anchor == "corner" else 128
    np.testing.assert_allclose(squares.corners[squares.members], np.column_stack([x, y]) - shift)
    assert find_layout(x, y, 300.0, anchor).size == 300


def test_find_layout_draws_scattered_local_features_as_points():
    x, y = np.random.default_rng(0).uniform(0, 1000, size=(2, 200))
    points = find_layout(x, y, None, "corner")
    assert isinstance(points, Points)
    np.testing.assert_array_equal(points.centers[points.members], np.column_stack([x, y]))
    gaps = np.maximum(abs(x[:, None] - x), abs(y[:, None] - y)) + np.diag(np.full(200, np.inf))
    assert points.diameter == pytest.approx(np.median(gaps.min(axis=1)))


def test_find_layout_draws_few_pixels_of_a_large_image_as_points():
    x, y = np.random.default_rng(0).integers(0, 2000, size=(2, 300)).astype(float)
    assert isinstance(find_layout(x, y, None, "corner"), Points)


def test_grid_adds_up_local_features_in_one_cell():
    grid = find_layout(np.array([0.0, 1, 0]), np.array([0.0, 1, 0]), None, "corner")
    np.testing.assert_array_equal(grid.table(np.array([1.0, 2, 4])), [[5, np.nan], [np.nan, 2]])


def draw(layout, values):
    axes = plt.figure().add_subplot()
    return layout.draw(axes, np.asarray(values, dtype=float), vmin=0, vmax=7, cmap="gray", alpha=1)


@pytest.mark.parametrize("layout_class", [Squares, Points])
def test_layouts_draw_the_largest_values_on_top_and_add_up(layout_class):
    places = np.array([[0.0, 0], [3, 3], [5, 2]])
    artist = draw(layout_class(places, np.array([0, 2, 1, 0]), 1.0), [1, 2, 7, 4])
    np.testing.assert_array_equal(artist.get_array(), [2, 5, 7])
    if layout_class is Points:
        drawn = artist.get_offsets()
    else:
        drawn = [path.vertices.min(axis=0) for path in artist.get_paths()]
        assert [np.ptp(path.vertices, axis=0).tolist() for path in artist.get_paths()] == [
            [1, 1]
        ] * 3
    np.testing.assert_array_equal(drawn, [[5, 2], [0, 0], [3, 3]])
    assert artist.get_clim() == (0, 7)
