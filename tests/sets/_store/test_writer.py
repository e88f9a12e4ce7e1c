"""FeatureSetsWriter stores the same items however it is used, and rejects invalid ones."""

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster import FeatureSetsWriter, open_feature_sets, save_feature_sets
from acluster.sets import StoreError, info
from acluster.sets._store import _writer
from tests.sets._store.helpers import (
    COLUMNS,
    assert_holds,
    assert_same_columns,
    assert_tidy,
    columns_at,
    item_of,
    places_of,
    shrink,
    write_items,
)
from tests.sets.helpers import assert_same_items


@given(st.lists(st.sampled_from(["", "", "flush", "close", "resume", "raise"]), max_size=5))
@settings(max_examples=5, deadline=None)
def test_writer_stores_same_items_after_any_actions(actions):
    n = len(actions) + 1
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        shrink(patch)
        path = f"{folder}/a.zarr"
        writer = FeatureSetsWriter(path)
        for i, action in enumerate([*actions, "close"]):
            writer.append(item_of(i), places=places_of(i), **columns_at(i))
            assert len(writer) == i + 1
            assert writer.id == [f"item{j}" for j in range(i + 1)]
            if action == "flush":
                writer.flush()
            elif action == "close":
                writer.close()
                if i < len(actions):
                    writer = FeatureSetsWriter(path, resume=True)
            elif action in ("resume", "raise"):
                error = KeyboardInterrupt() if action == "raise" else None
                writer.__exit__(error and type(error), error, None)
                assert info(path).complete == (error is None)
                writer = FeatureSetsWriter(path, resume=True)
                assert len(writer) == i + 1
                assert info(path).complete == (error is None), "resuming changed the store"
        assert_holds(path, n)
        assert_tidy(path)


def test_writer_writes_same_files_as_save(tmp_path, path):
    with FeatureSetsWriter(path) as writer:
        write_items(writer, 8, with_places=False)
    columns = {name: [columns_at(i)[name] for i in range(8)] for name in COLUMNS}
    save_feature_sets(tmp_path / "b.zarr", [item_of(i) for i in range(8)], **columns)
    for name in [p.relative_to(path) for p in Path(path).rglob("*") if p.is_file()]:
        assert (tmp_path / "b.zarr" / name).read_bytes() == (path / name).read_bytes()


def test_writer_flushes_into_several_shards(path, small):
    with FeatureSetsWriter(path) as writer:
        write_items(writer, 20)
    assert_holds(path, 20)
    rgb = zarr.open_array(path, path="rgb")
    assert rgb.shape[0] / rgb.shards[0] > 4
    assert zarr.open_array(path, path="label").nchunks > 4


def test_append_bounds_pending_bytes(path, small, monkeypatch):
    flushed, flush = [], FeatureSetsWriter.flush

    def recorded(writer):
        flushed.append(writer._state.pending_bytes)
        flush(writer)

    monkeypatch.setattr(FeatureSetsWriter, "flush", recorded)
    writer = FeatureSetsWriter(path)
    write_items(writer, 40)
    assert len(flushed) > 3
    assert 150 < min(flushed) <= max(flushed) <= 300


def test_append_bounds_pending_items(path, small, monkeypatch):
    monkeypatch.setattr(_writer, "_PENDING_BYTES", 10**9)
    writer = FeatureSetsWriter(path)
    for i in range(50):
        writer.append(np.ones((1, 1)))
        assert i < writer._state.n_written + 4 * 4


@pytest.mark.parametrize("fails_at", [5, 8])
def test_flush_can_be_repeated_after_an_error(path, monkeypatch, fails_at):
    writer = FeatureSetsWriter(path)
    write_items(writer, 6)
    writer.flush()
    write_items(writer, 12)
    calls, extend = [], _writer._extend

    def failing(*args, **kwargs):
        calls.append(args)
        if len(calls) == fails_at // 2 + 1:
            if fails_at % 2:
                extend(*args, **kwargs)
            raise OSError("No space left on device")
        extend(*args, **kwargs)

    monkeypatch.setattr(_writer, "_extend", failing)
    with pytest.raises(OSError, match="No space"):
        writer.close()
    assert len(writer) == 12
    writer.close()
    assert_holds(path, 12)


@pytest.fixture
def is_full(monkeypatch):
    """A list; the disk is full while there is something in it."""
    put, is_full = zarr.storage._local._put, []

    def put_unless_full(*args, **kwargs):
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return put(*args, **kwargs)

    monkeypatch.setattr(zarr.storage._local, "_put", put_unless_full)
    return is_full


@pytest.mark.parametrize("fails_in", ["append", "close"])
def test_writer_resumes_in_the_same_process_after_a_full_disk(path, small, is_full, fails_in):
    def write_until_full(writer):
        with writer:
            write_items(writer, 8)
            writer.flush()
            is_full.append(True)
            write_items(writer, 9 if fails_in == "close" else 20)

    writer = FeatureSetsWriter(path)
    with pytest.raises(OSError, match="No space") as error:
        write_until_full(writer)
    is_full.clear()
    # As in an interactive session, the error and the writer are still there.
    assert len(writer) == info(path).n_items == 8
    with FeatureSetsWriter(path, resume=True) as second:
        assert len(second) == 8
        write_items(second, 20)
    assert_holds(path, 20)
    assert_tidy(path)
    assert error.value.errno == errno.ENOSPC
    with pytest.raises(ValueError, match=r"takes no more items: it is closed.*resume=True"):
        writer.append(item_of(8), places=places_of(8), **columns_at(8))


def test_append_that_raises_has_not_added_the_item(path, small, is_full):
    n_errors = 0
    writer = FeatureSetsWriter(path)
    with writer:
        for i in range(20):
            is_full[:] = [True]  # every flush fails once
            try:
                writer.append(item_of(i), places=places_of(i), **columns_at(i))
            except OSError:
                n_errors += 1
                assert len(writer) == i
                is_full.clear()
                writer.append(item_of(i), places=places_of(i), **columns_at(i))
        is_full.clear()
    assert n_errors > 2
    assert_holds(path, 20)


def test_resume_accepts_missing_and_empty_stores(path):
    FeatureSetsWriter(path, resume=True)
    assert info(path).n_items == 0
    with pytest.raises(ValueError, match="has no items; append at least one"):
        FeatureSetsWriter(path, resume=True).close()
    with FeatureSetsWriter(path, resume=True) as writer:
        write_items(writer, 3)
    assert_holds(path, 3)


def test_resume_rejects_incomplete_store_without_its_rows(path):
    writer = FeatureSetsWriter(path)
    write_items(writer, 3)
    writer.flush()
    zarr.open_array(path, path="rgb", mode="r+").resize((1, 3))
    with pytest.raises(StoreError, match=r"Array 'rgb' of .* is missing some of the 6 rows"):
        FeatureSetsWriter(path, resume=True)


def test_append_forgets_types_of_rejected_first_item(path):
    with FeatureSetsWriter(path) as writer:
        with pytest.raises(ValueError):
            writer.append({"rgb": np.ones(3)}, label=1)
        writer.append(np.ones((1, 2)), label="cat")
    assert open_feature_sets(path).label.tolist() == ["cat"]


def test_context_manager_keeps_items_before_an_error(path):
    writer = FeatureSetsWriter(path)
    write_items(writer, 5)
    with pytest.raises(ValueError, match="Item 5"), writer:
        writer.append({"rgb": np.ones(3)}, **columns_at(5))
    writer = FeatureSetsWriter(path, resume=True)
    assert len(writer) == 5


FIRST_ITEM = {**item_of(0), "audio": np.ones((2, 2)), "half": np.ones((1, 1), "f2")}
INVALID_ITEMS = {
    "form": ([[1.0, 2]], {}, ["has type list", "mappings of modalities", "same form"]),
    "nothing": ({}, {}, ["has 0 local features", "Leave it out"]),
    "all none": ({"rgb": None}, {}, ["has 0 local features", "Leave it out"]),
    "empty": ({"rgb": np.empty((0, 3))}, {}, ["has 0 local features", "Leave it out"]),
    "1d": ({"rgb": np.ones(3)}, {}, ["'rgb'", "two-dimensional", "shape (3,)"]),
    "text": ({"rgb": [["a", "b"]]}, {}, ["'rgb'", "real numbers", "dtype <U1"]),
    "complex": ({"rgb": [[1j] * 3]}, {}, ["'rgb'", "real numbers", "complex128"]),
    "no columns": ({"rgb": np.ones((2, 0))}, {}, ["'rgb'", "has 0 features"]),
    "ragged": ({"rgb": [[1], [1, 2]]}, {}, ["'rgb'", "different lengths", "same width"]),
    "width": ({"rgb": np.ones((2, 4))}, {}, ["4 features, but earlier items have 3", "extractor"]),
    "empty of another width": (
        {"rgb": np.ones((1, 3)), "audio": np.empty((0, 9))},
        {},
        ["'audio'", "9 features, but earlier items have 2"],
    ),
    "range": ({"half": np.ones((1, 1)) * 1e6}, {}, ["'half'", "float16", "1e+06", "Scale"]),
    "range of float32": ({"rgb": np.full((1, 3), 1e300)}, {}, ["'rgb'", "float32", "1e+300"]),
    "label kind": (
        FIRST_ITEM,
        {"label": 3},
        ["label (an integer)", "label (a string)", "the same"],
    ),
    "no label": (FIRST_ITEM, {"label": None}, ["earlier items came with label", "the same"]),
    "bytes": (FIRST_ITEM, {"id": b"x"}, ["id (of dtype |S1)", "the same"]),
}
INVALID_NAMES = [
    "a/b",
    "a\\b",
    "",
    ".",
    "..",
    "zarr.json",
    "id",
    "label",
    "rgb_offsets",
    "rgb_row_size",
    "rgb_places",
    "X_Places",
    3,
    "a\0b",
    "a" * 201,
    "\u00e9" * 101,
    "\ud800",
    "__x",
    ".x",
    "LABEL",
    "x_Offsets",
    "zarr.JSON",
    "ZARR.json",
]
for name in INVALID_NAMES:
    INVALID_ITEMS[f"name {name!r}"] = (
        {name: np.ones((1, 3))},
        {},
        [f"modality {name!r}", "without '/'", "Rename"],
    )


CLASHES = {"case": "RGB", "unicode": "Caf\u00c9", "file": "Notes", "array": "pooled"}


@pytest.mark.parametrize("name", CLASHES.values(), ids=CLASHES)
def test_append_rejects_names_that_clash_on_some_systems(path, name):
    writer = FeatureSetsWriter(path)
    Path(path, "notes").mkdir()
    Path(path, "pooled_row_size").mkdir()
    writer.append({"rgb": np.ones((1, 3)), "cafe\u0301": np.ones((1, 1))})
    with pytest.raises(ValueError, match=r"Item 1, modality .* clashes with"):
        writer.append({name: np.ones((1, 3))})
    with pytest.raises(ValueError, match=r"Item 1, modality 'B'.* clashes with 'b'"):
        writer.append({"b": np.ones((1, 1)), "B": np.ones((1, 1))})
    writer.close()
    assert open_feature_sets(path).names == ["rgb", "cafe\u0301"]


ON_POSIX = ["con", "a:b", "what?", "ends.", "ends ", "a\nb", "\x1b[2J"]


@pytest.mark.parametrize(
    "name",
    ["a" * 200, "x.partial", "a b", "0", "c", "\u00e9t\u00e9", "rgb.v2", "_x"]
    + ([] if os.name == "nt" else ON_POSIX),
    ids=ascii,
)
def test_names_that_append_accepts_can_be_resumed(path, name):
    for stop in (1, 2, 3):
        writer = FeatureSetsWriter(path, resume=True)
        writer.append({name: np.ones((2, 2))})
        writer.flush()
        assert len(writer) == stop
    writer.close()
    assert open_feature_sets(path).names == [name]


@pytest.mark.parametrize(("item", "columns", "parts"), INVALID_ITEMS.values(), ids=INVALID_ITEMS)
def test_append_rejects_invalid_item(path, item, columns, parts):
    writer = FeatureSetsWriter(path)
    writer.append(FIRST_ITEM, **columns_at(0))
    writer.append(FIRST_ITEM, **columns_at(1))
    with pytest.raises(ValueError) as caught:
        writer.append(item, **columns_at(2) | columns)
    assert str(caught.value).startswith("Item 2")
    for part in parts:
        assert part in str(caught.value)


def test_append_adds_nothing_for_rejected_items(path):
    with FeatureSetsWriter(path) as writer:
        for i in range(3):
            writer.append(FIRST_ITEM, **columns_at(i))
            for item, columns, _ in INVALID_ITEMS.values():
                with pytest.raises(ValueError):
                    writer.append(item, **columns_at(i + 1) | columns)
            assert len(writer) == i + 1
    X = open_feature_sets(path)
    assert_same_items(X, [FIRST_ITEM] * 3)
    assert_same_columns(X, {name: [columns_at(i)[name] for i in range(3)] for name in COLUMNS})


def test_writer_rejects_unknown_dtype(path):
    with pytest.raises(ValueError, match="dtype='float64' is not 'float16', 'float32' or None"):
        FeatureSetsWriter(path, dtype="float64")
    assert not os.path.exists(path)


def test_writer_rejects_resuming_with_another_dtype(path):
    save_feature_sets(path, [np.ones((2, 3), np.float16)])
    with pytest.raises(ValueError, match=r"dtype='float32', but .* holds 'features' as float16"):
        FeatureSetsWriter(path, resume=True, dtype="float32")
    assert open_feature_sets(path).dtype == np.float16


def test_writer_keeps_label_names_when_it_resumes(path):
    with FeatureSetsWriter(path, label_names=["cat", "dog"]) as writer:
        writer.append([[1.0]], label=[1, 0])
    assert info(path).label_names == ("cat", "dog")
    for names in (None, ("cat", "dog")):
        with FeatureSetsWriter(path, resume=True, label_names=names) as writer:
            writer.append([[1.0]], label=[0, 1])
    assert info(path).label_names == ("cat", "dog")
    assert open_feature_sets(path).label.tolist() == [[1, 0], [0, 1], [0, 1]]
    with pytest.raises(ValueError, match=r"label_names=\['a', 'b'\], but .* has \('cat', 'dog'\)"):
        FeatureSetsWriter(path, resume=True, label_names=["a", "b"])


def test_writer_rejects_label_names_of_a_store_without(path):
    with FeatureSetsWriter(path) as writer:
        writer.append([[1.0]], label=[1, 0])
    with pytest.raises(ValueError, match=r"label_names=\['a', 'b'\], but .* has None"):
        FeatureSetsWriter(path, resume=True, label_names=["a", "b"])


@pytest.mark.parametrize("names", ["ab", ["a", "a"], ["a", ""], ["a", 1]])
def test_writer_rejects_label_names_that_are_not_distinct_texts(path, names):
    with pytest.raises(ValueError, match="are not distinct texts"):
        FeatureSetsWriter(path, label_names=names)
    assert not os.path.exists(path)


@pytest.mark.parametrize("label", [1, "a", [1], [1, 0, 1]])
def test_append_rejects_labels_without_one_number_per_name(path, label):
    with FeatureSetsWriter(path, label_names=["a", "b"]) as writer:
        with pytest.raises(ValueError, match="but there are 2 label_names"):
            writer.append([[1.0]], label=label)
        writer.append([[1.0]], label=[1, 0])
    assert len(open_feature_sets(path)) == 1


@pytest.mark.parametrize("n_items", [0, 1])
@pytest.mark.parametrize("is_new", [True, False])
def test_an_exception_keeps_items_and_removes_a_new_store_without_any(tmp_path, n_items, is_new):
    path = tmp_path / "sets.zarr"
    if not is_new:
        FeatureSetsWriter(path)._end()  # as a process leaves it that is killed at once

    def write_and_fail():
        with FeatureSetsWriter(path, resume=True) as writer:
            for _ in range(n_items):
                writer.append(np.ones((2, 3)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert path.exists() == (n_items > 0 or not is_new)
    with FeatureSetsWriter(path, resume=True) as writer:
        assert len(writer) == n_items
        writer.append(np.ones((1, 3)))
    assert len(open_feature_sets(path)) == n_items + 1
