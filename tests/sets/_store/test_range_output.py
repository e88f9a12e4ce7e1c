"""An array that is written range by range: alignment, resuming, and what is left behind."""

import os
import pickle
from itertools import pairwise

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from acluster.sets import RowLayout, open_rows_array, range_output
from acluster.sets._store._range_output import _CHUNK_BYTES

LAYOUT = RowLayout(n_rows=10, width=3, dtype="float32", rows_per_chunk=2, rows_per_range=4)
ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)


def write(path, identity=None, stop_after=None, layout=LAYOUT):
    """Write the missing ranges, one row per block; return which were written."""
    with range_output(path, layout, identity or {"model": "a"}) as output:
        written = output.missing()
        for rows in written[:stop_after]:
            output.write(rows, np.split(ROWS[rows], rows.stop - rows.start))
        if stop_after is not None:
            raise KeyboardInterrupt
    return [rows.start for rows in written]


def interrupted(path, stop_after, **options):
    with pytest.raises(KeyboardInterrupt):
        write(path, stop_after=stop_after, **options)


@given(
    n_rows=st.integers(1, 10**6),
    width=st.integers(1, 10**6),
    batch_size=st.integers(1, 5000),
    rows_wanted=st.integers(1, 10**5),
)
def test_layout_has_ranges_of_whole_chunks_and_whole_batches(
    n_rows, width, batch_size, rows_wanted
):
    layout = RowLayout.of((n_rows, width), np.dtype("f4"), batch_size, rows_wanted)
    ranges = layout.ranges()
    assert ranges[0].start == 0
    assert ranges[-1].stop == n_rows
    assert all(a.stop == b.start for a, b in pairwise(ranges))
    for rows in ranges[1:]:
        assert rows.start % layout.rows_per_chunk == 0
        assert rows.start % batch_size == 0
    limit = max(_CHUNK_BYTES, 4 * width * batch_size)
    assert layout.rows_per_chunk * width * 4 <= limit


def test_range_output_writes_the_rows(tmp_path):
    assert write(tmp_path / "a.zarr") == [0, 4, 8]
    array = open_rows_array(tmp_path / "a.zarr")
    np.testing.assert_array_equal(array[...], ROWS)
    assert array.chunks == (2, 3)
    assert array.metadata.dimension_names == ("item", "global_feature")
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_range_output_continues_after_an_interrupt(tmp_path):
    interrupted(tmp_path / "a.zarr", 2)
    assert not (tmp_path / "a.zarr").exists()
    assert write(tmp_path / "a.zarr") == [8]
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr")[...], ROWS)
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_range_output_writes_again_what_is_not_recorded(tmp_path):
    """Chunks without a record may be torn; here one was written and holds other values."""
    interrupted(tmp_path / "a.zarr", 1)
    [folder] = tmp_path.glob(".a.zarr.*.partial")
    zarr.open_array(folder / "array", mode="r+")[4:6] = -1
    assert write(tmp_path / "a.zarr") == [4, 8]
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr")[...], ROWS)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"identity": {"model": "b"}}, "model"),
        ({"layout": RowLayout(10, 3, "float32", 5, 5)}, "rows_per_chunk, rows_per_range"),
    ],
)
def test_range_output_starts_over_with_another_identity(tmp_path, options, named):
    interrupted(tmp_path / "a.zarr", 2)
    with pytest.warns(UserWarning, match=rf"differs in {named}\. All rows"):
        written = write(tmp_path / "a.zarr", **options)
    assert written[0] == 0
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr")[...], ROWS)
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("rows", [slice(0, 3), slice(2, 6), slice(4, 9), slice(0, 8), slice(8, 12)])
def test_write_refuses_ranges_that_share_chunks(tmp_path, rows):
    with (
        pytest.raises(ValueError, match=r"are not a range of .*remove rows in silence"),
        range_output(tmp_path / "a.zarr", LAYOUT, {}) as output,
    ):
        output.write(rows, [np.zeros((rows.stop - rows.start, 3), np.float32)])


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros((3, 3), np.float32), "are 4, but the blocks have 3"),
        (np.zeros((5, 3), np.float32), "are 4, but the blocks have 5"),
        (np.zeros((4, 2), np.float32), r"has shape \(4, 2\)"),
        (np.zeros((4, 3)), "dtype float64"),
    ],
)
def test_write_refuses_other_blocks(tmp_path, block, message):
    with (
        pytest.raises(ValueError, match=message),
        range_output(tmp_path / "a.zarr", LAYOUT, {}) as output,
    ):
        output.write(slice(0, 4), [block])
    assert os.listdir(tmp_path) == []


def test_range_output_refuses_to_finish_with_missing_ranges(tmp_path):
    with (
        pytest.raises(ValueError, match="2 ranges of rows were not written"),
        range_output(tmp_path / "a.zarr", LAYOUT, {}) as output,
    ):
        output.write(slice(0, 4), [ROWS[:4]])
    assert os.listdir(tmp_path) == []


def test_range_output_pickles_as_its_path(tmp_path):
    with range_output(tmp_path / "a.zarr", LAYOUT, {}) as output:
        pickled = pickle.dumps(output)
        for rows in output.missing():
            pickle.loads(pickled).write(rows, [ROWS[rows]])
    assert len(pickled) < 1000
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a.zarr")[...], ROWS)


def test_write_after_the_end_of_the_context_leaves_nothing(tmp_path):
    """A worker may still be at work when the call has failed."""
    with (
        pytest.raises(ValueError, match="first"),
        range_output(tmp_path / "a.zarr", LAYOUT, {}) as output,
    ):
        raise ValueError("first")
    with pytest.raises((RuntimeError, FileNotFoundError)):
        output.write(slice(0, 4), [ROWS[:4]])
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a.zarr.partial", ".a.zarr.partial", ".a.zarr.x.partial"])
def test_range_output_keeps_folders_of_the_user(tmp_path, name):
    (tmp_path / name).mkdir()
    write(tmp_path / "a.zarr")
    assert (tmp_path / name).exists()


def test_range_output_refuses_an_existing_path_and_removes_what_is_left_beside_it(tmp_path):
    interrupted(tmp_path / "a.zarr", 1)
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(FileExistsError, match="already something"):
        write(tmp_path / "a.zarr")
    assert os.listdir(tmp_path) == ["a.zarr"]


def test_range_output_leaves_nothing_after_an_interrupt_before_the_first_range(tmp_path):
    interrupted(tmp_path / "a.zarr", 0)
    assert os.listdir(tmp_path) == []


def test_output_needs_an_existing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"rows cannot be written: the folder .*gone"):
        write(tmp_path / "gone" / "rows")
    assert not any(tmp_path.iterdir())
