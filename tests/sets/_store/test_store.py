"""A store gives back what was written, whatever stopped the writer, or refuses and says where."""

import gc
import os
import pickle
import shutil
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster import (
    FeatureSets,
    FeatureSetsWriter,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.sets import StoreError, info, validate
from acluster.sets._store import _format, _writer
from tests.sets.test_multimodal import (
    all_lengths,
    assert_same_items,
    keys,
    make_items,
    make_sets,
    numbers_of,
)

COLUMNS = ("label", "id", "group", "weight")
ENDINGS = ("", "_row_size", "_offsets")


def shrink(monkeypatch):
    """Sizes of a few rows, so that a small store has many shards and flushes."""
    monkeypatch.setattr(_format, "_CHUNK_BYTES", 48)
    monkeypatch.setattr(_format, "_SHARD_BYTES", 96)
    monkeypatch.setattr(_writer, "_PENDING_BYTES", 300)
    monkeypatch.setattr(_format, "_ITEMS_PER_CHUNK", 4)


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store.zarr")


def same_columns(X, columns, selection=slice(None)):
    for name in COLUMNS:
        stored = getattr(X, name)
        if name not in columns:
            assert stored is None
        else:
            expected = np.asarray(columns[name])[selection]
            assert stored.dtype.kind == ("f" if name == "weight" else expected.dtype.kind)
            np.testing.assert_array_equal(stored, expected)


@st.composite
def columns_of(draw, n):
    """Any of label, id, group and weight for `n` items."""
    words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3)
    kinds = {
        "label": st.sampled_from([words, st.booleans(), st.integers(0, 2), st.floats(width=32)])
        | st.integers(1, 3).map(lambda k: st.lists(st.integers(0, 1), min_size=k, max_size=k)),
        "id": st.sampled_from([words, st.integers(-(2**63), 2**63 - 1)]),
        "group": st.sampled_from([words, st.integers(0, 1)]),
        "weight": st.sampled_from([st.floats(0, 1), st.integers(0, 3)]),
    }
    names = draw(st.lists(st.sampled_from(COLUMNS), unique=True))
    return {
        name: draw(st.lists(draw(kinds[name]), min_size=n, max_size=n)) for name in sorted(names)
    }


# What is read is what was written.


@given(all_lengths, st.sampled_from(["f2", "f4", "f8", "i2"]), st.data())
@settings(max_examples=8, deadline=None)
def test_round_trip(lengths, dtype, data):
    items = [{k: x.astype(dtype) for k, x in i.items()} for i in make_items(lengths)]
    X = make_sets(items)
    if len(X.names) == 1:
        X, items = X["rgb"], [item["rgb"] for item in items]
    columns = data.draw(columns_of(len(X)))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        shrink(patch)
        save_feature_sets(f"{folder}/a.zarr", X, **columns)
        stored = open_feature_sets(f"{folder}/a.zarr")
        assert type(stored) is type(X)
        assert repr(stored) == repr(X).replace(str(np.dtype(dtype)), _stored(dtype))
        assert not stored.in_memory
        key = data.draw(keys(len(X)))
        chosen = numbers_of(key, len(X))
        for selection, view in [(slice(None), stored), (chosen, stored[key])]:
            expected = [items[i] for i in np.arange(len(X))[selection]]
            if isinstance(X, FeatureSets):
                assert [x.tolist() for x in view] == [x.tolist() for x in expected]
                values, offsets = view.packed()
                assert view.locate() is None
                assert values.dtype == _stored(dtype)
                assert FeatureSets(values, offsets).lengths.tolist() == [len(x) for x in expected]
            else:
                assert_same_items(view, expected)
                assert all(x.dtype == _stored(dtype) for item in view for x in item.values())
            same_columns(view, columns, selection)
        assert validate(f"{folder}/a.zarr").columns == [c for c in COLUMNS if c in columns]


def _stored(dtype):
    return "float16" if dtype == "f2" else "float32"


def test_modalities_keep_their_order_and_number(path):
    """Also where no item, or not the first, has one of them."""
    a = FeatureSets(np.ones((1, 2)), [0, 0, 1])
    none = FeatureSets(np.ones((0, 5), "f2"), [0, 0, 0])
    b = FeatureSets(np.ones((2, 3)), [0, 1, 2])
    X = MultimodalFeatureSets({"a": a, "none": none, "b": b})
    save_feature_sets(path, X)
    assert repr(open_feature_sets(path)) == repr(X).replace("float64", "float32")
    validate(path)


def test_scalars_of_numpy_are_labels(path):
    with FeatureSetsWriter(path) as writer:
        for i, label in enumerate(np.array(["cat", "tiger"])):
            writer.append(np.ones((1, 2)), label=label, id=np.int8(i), weight=np.float32(i))
            writer.flush()
    X = open_feature_sets(path)
    np.testing.assert_array_equal(X.label, ["cat", "tiger"])
    np.testing.assert_array_equal(X.id, [0, 1])


def test_integers_of_a_narrow_type_leave_room_for_wide_ones(path):
    with FeatureSetsWriter(path) as writer:
        for label, row in [(np.uint8(1), 0.5), (300, 1e300), (np.uint64(2**40), 2.0)]:
            writer.append(np.ones((1, 2)), label=label, weight=np.float64(row))
            writer.flush()
    np.testing.assert_array_equal(open_feature_sets(path).label, [1, 300, 2**40])


@pytest.mark.parametrize("zero", [0, 0.0, False, ""])
def test_columns_of_nothing_but_the_fill_value(path, zero, small):
    columns = {"label": [zero] * 9, "weight": [0.0] * 9, "id": [0] * 9}
    save_feature_sets(path, [np.zeros((1, 3))] * 9, **columns)
    same_columns(open_feature_sets(path), columns)


def test_attributes_are_kept(path):
    save_feature_sets(path, [np.ones((2, 3))], attributes={"extractor": "r18"})
    assert info(path).attributes == {"extractor": "r18"}


def test_a_dtype_can_be_asked_for(path):
    save_feature_sets(path, [np.full((2, 3), 1 / 3)], dtype="float16")
    assert open_feature_sets(path)[0].dtype == np.float16


# Every form of the sets.

LENGTHS = (3, 1, 2, 4, 2, 1, 1, 2, 3, 1, 2)
ARRAYS = [np.arange(n * 2.0).reshape(n, 2) + 10 * i for i, n in enumerate(LENGTHS)]
AUDIO = [np.full((1 + i % 2, 3), i) if i % 3 else None for i in range(11)]


def padded():
    array = np.full((11, 4, 2), np.nan)
    for row, values in zip(array, ARRAYS, strict=True):
        row[: len(values)] = values
    return array


def group_of(folder, arrays):
    """A zarr group of one array per item; those that are None are left out."""
    group = zarr.create_group(folder)
    for i in reversed(range(len(arrays))):
        if arrays[i] is not None:
            group.create_array(f"item{i}", data=np.asarray(arrays[i]))
    return group


def zarr_array(folder, values):
    return zarr.create_array(folder, data=values)


SINGLE = {
    "list": lambda folder: {"X": ARRAYS},
    "tuple": lambda folder: {"X": tuple(ARRAYS)},
    "generator": lambda folder: {"X": (x for x in ARRAYS)},
    "nested lists": lambda folder: {"X": [x.tolist() for x in ARRAYS]},
    "container": lambda folder: {"X": FeatureSets.from_arrays(ARRAYS)},
    "padded": lambda folder: {"X": padded(), "lengths": LENGTHS},
    "padded zarr": lambda folder: {"X": zarr_array(folder, padded()), "lengths": LENGTHS},
    "zarr arrays": lambda folder: {
        "X": [zarr_array(f"{folder}/{i}", x) for i, x in enumerate(ARRAYS)]
    },
    "group": lambda folder: {"X": group_of(folder, ARRAYS)},
}


@pytest.mark.parametrize("form", SINGLE.values(), ids=SINGLE)
def test_forms_of_one_modality(tmp_path, path, form):
    given = form(str(tmp_path / "source"))
    save_feature_sets(path, **given)
    X = open_feature_sets(path)
    assert [x.tolist() for x in X] == [x.tolist() for x in ARRAYS]
    expected = [f"item{i}" for i in range(11)] if isinstance(given["X"], zarr.Group) else None
    assert (X.id if X.id is None else X.id.tolist()) == expected


@pytest.mark.parametrize("make", [lambda folder, x: x, zarr_array])
def test_padded_without_lengths(tmp_path, path, make):
    array = np.arange(24.0).reshape(2, 4, 3)
    save_feature_sets(path, make(str(tmp_path / "a"), array))
    np.testing.assert_array_equal(list(open_feature_sets(path)), array)


def dicts(rgb, audio):
    items = [{"rgb": x, "audio": y} for x, y in zip(rgb, audio, strict=True)]
    del items[0]["audio"]  # left out, where the others have None
    return items


def stores(folder):
    save_feature_sets(f"{folder}/rgb", ARRAYS)
    audio = [x if x is not None else np.empty((0, 3)) for x in AUDIO]
    return {"rgb": zarr.open_group(f"{folder}/rgb"), "audio": audio}


SEVERAL = {
    "dicts": lambda folder: dicts(ARRAYS, AUDIO),
    "generator of dicts": lambda folder: (item for item in dicts(ARRAYS, AUDIO)),
    "dict of lists": lambda folder: {"rgb": ARRAYS, "audio": AUDIO},
    "dict of groups": lambda folder: {
        "rgb": group_of(f"{folder}/rgb", ARRAYS),
        "audio": group_of(f"{folder}/audio", AUDIO),
    },
    "dict of a group and a list": lambda folder: {
        "rgb": group_of(f"{folder}/rgb", ARRAYS),
        "audio": AUDIO,
    },
    "dict of a store and a list": stores,
    "dict of containers": lambda folder: {
        "rgb": FeatureSets.from_arrays(ARRAYS),
        "audio": MultimodalFeatureSets.from_items({"a": x} for x in AUDIO)["a"],
    },
}


@pytest.mark.parametrize("form", SEVERAL.values(), ids=SEVERAL)
def test_forms_of_several_modalities(tmp_path, path, form):
    X = form(str(tmp_path / "source"))
    are_groups = isinstance(X, dict) and all(isinstance(x, zarr.Group) for x in X.values())
    save_feature_sets(path, X)
    stored = open_feature_sets(path)
    empty = np.empty((0, 3))
    expected = [
        {"rgb": x, "audio": empty if y is None else y} for x, y in zip(ARRAYS, AUDIO, strict=True)
    ]
    assert_same_items(stored, expected)
    assert (stored.id is not None) == are_groups
    if are_groups:
        assert stored.id.tolist() == [f"item{i}" for i in range(11)]


@pytest.mark.parametrize("several", [False, True])
def test_a_group_that_is_a_store_and_the_columns_it_has(tmp_path, path, several):
    X = {"rgb": ARRAYS, "audio": AUDIO} if several else ARRAYS
    columns = {"label": [f"c{i % 3}" for i in range(11)], "weight": np.linspace(0, 1, 11)}
    save_feature_sets(path, X, **columns)
    save_feature_sets(tmp_path / "b.zarr", zarr.open_group(path), weight=np.ones(11))
    stored = open_feature_sets(zarr.open_group(tmp_path / "b.zarr"))
    assert repr(stored) == repr(open_feature_sets(path))
    same_columns(stored, columns | {"weight": np.ones(11)})


WRONG_SAVES = {
    "label short": ({"label": [0]}, "label has 1 entries, but X has more items"),
    "id long": ({"id": range(12)}, "id has 12 entries for 11 items"),
    "weight shape": ({"weight": np.ones((11, 2))}, "weight has shape (11, 2)"),
    "lengths": ({"lengths": [1] * 11}, "X is a list of shape None"),
    "negative": ({"X": padded(), "lengths": [1] * 10 + [-1]}, "lengths[10] is -1"),
    "long": ({"X": padded(), "lengths": [5] + [1] * 10}, "lengths[0] is 5"),
    "few lengths": ({"X": padded(), "lengths": [1]}, "lengths must be 11 integers"),
    "no items": ({"X": []}, "has no items"),
    "short modality": ({"X": {"a": ARRAYS, "b": ARRAYS[1:]}}, "Modality 'b' has fewer items"),
    "bad item": ({"X": [*ARRAYS[:4], np.ones(3)]}, "Item 4, modality 'features'"),
}


@pytest.mark.parametrize(("given", "message"), WRONG_SAVES.values(), ids=WRONG_SAVES)
def test_wrong_saves_leave_nothing(path, given, message):
    with pytest.raises(ValueError) as caught:
        save_feature_sets(path, **{"X": ARRAYS, **given})
    assert message in str(caught.value)
    assert not os.path.exists(path)


def test_what_is_there_is_not_written_over(path):
    save_feature_sets(path, ARRAYS)
    with pytest.raises(FileExistsError, match=r"already something at .*resume=True"):
        save_feature_sets(path, ARRAYS[:2])
    assert len(open_feature_sets(path)) == 11


# The writer. What item i is depends on i alone.


def item_of(i):
    item = {"rgb": np.full((1 + i % 4, 3), i) + np.arange(3), "audio": np.full((i % 3, 2), -i)}
    if i >= 7:  # a modality that turns up late
        item["text"] = np.full((1 + i % 2, 1), i, "f2")
    return item


def columns_at(i):
    return {"label": f"class{i // 4}", "id": f"item{i}", "group": i % 3 - 1, "weight": i % 2 / 4}


def write_items(writer, stop):
    for i in range(len(writer), stop):
        writer.append(item_of(i), **columns_at(i))


def assert_holds(path, n):
    X = open_feature_sets(path)
    assert len(X) == n
    items = [item_of(i) for i in range(n)]
    for name in X.names:
        sets = [item.get(name, np.empty((0, 1))) for item in items]
        values, offsets = X[name].packed()
        assert values.tolist() == [row.tolist() for x in sets for row in x]
        np.testing.assert_array_equal(np.diff(offsets), [len(x) for x in sets])
    assert X.names == (["rgb", "audio", "text"] if n > 7 else ["rgb", "audio"])
    same_columns(X, {name: [columns_at(i)[name] for i in range(n)] for name in COLUMNS})


def assert_tidy(path):
    """No array of another writer, and no part of a file, is left."""
    assert [p for p in Path(path).rglob("*") if p.name.endswith(".partial")] == []
    arrays = [f"{name}{end}" for name in open_feature_sets(path).names for end in ENDINGS]
    assert sorted(zarr.open_group(path, mode="r").array_keys()) == sorted([*arrays, *COLUMNS])


@given(st.lists(st.sampled_from(["", "", "flush", "close", "resume", "raise"]), max_size=9))
@settings(max_examples=6, deadline=None)
def test_however_items_are_written(actions):
    n = len(actions) + 1
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        shrink(patch)
        path = f"{folder}/a.zarr"
        writer = FeatureSetsWriter(path)
        for i, action in enumerate([*actions, "close"]):
            writer.append(item_of(i), **columns_at(i))
            assert len(writer) == i + 1
            assert writer.id == [f"item{j}" for j in range(i + 1)]
            if action in ("flush", "close"):
                getattr(writer, action)()
            elif action in ("resume", "raise"):
                error = KeyboardInterrupt() if action == "raise" else None
                writer.__exit__(error and type(error), error, None)
                assert info(path).complete == (error is None)
                writer = FeatureSetsWriter(path, resume=True)
                assert len(writer) == i + 1
                assert info(path).complete == (error is None), "a look at it changed the store"
        assert_holds(path, n)
        assert_tidy(path)


def test_item_by_item_is_all_at_once(tmp_path, path):
    with FeatureSetsWriter(path) as writer:
        write_items(writer, 20)
    columns = {name: [columns_at(i)[name] for i in range(20)] for name in COLUMNS}
    save_feature_sets(tmp_path / "b.zarr", [item_of(i) for i in range(20)], **columns)
    for name in [p.relative_to(path) for p in Path(path).rglob("*") if p.is_file()]:
        assert (tmp_path / "b.zarr" / name).read_bytes() == (path / name).read_bytes()


def test_many_flushes_make_many_shards(path, small):
    with FeatureSetsWriter(path) as writer:
        write_items(writer, 30)
    assert_holds(path, 30)
    rgb = zarr.open_array(path, path="rgb")
    assert rgb.shape[0] / rgb.shards[0] > 4
    assert zarr.open_array(path, path="label").nchunks > 4


def test_what_is_pending_is_bounded(path, small, monkeypatch):
    flushed, flush = [], FeatureSetsWriter.flush

    def recorded(writer):
        flushed.append(sum(x.nbytes for sets, _ in writer._pending for x in sets.values()))
        flush(writer)

    monkeypatch.setattr(FeatureSetsWriter, "flush", recorded)
    writer = FeatureSetsWriter(path)
    write_items(writer, 40)
    largest = max(sum(x.size * 4 for x in item_of(i).values()) for i in range(40))
    assert len(flushed) > 3
    assert 300 <= min(flushed) <= max(flushed) < 300 + largest


@pytest.mark.parametrize("fails_at", [5, 8])
def test_a_flush_that_fails_can_be_tried_again(path, monkeypatch, fails_at):
    writer = FeatureSetsWriter(path)
    write_items(writer, 6)
    writer.flush()
    write_items(writer, 12)
    calls, extend = [], FeatureSetsWriter._extend

    def failing(self, *args, **kwargs):
        calls.append(args[0])
        if len(calls) == fails_at // 2 + 1:
            if fails_at % 2:
                extend(self, *args, **kwargs)
            raise OSError("No space left on device")
        extend(self, *args, **kwargs)

    monkeypatch.setattr(FeatureSetsWriter, "_extend", failing)
    with pytest.raises(OSError, match="No space"), writer:
        pass
    assert len(writer) == 12
    writer.close()
    assert_holds(path, 12)


def test_resume_of_a_store_that_is_not_there_and_of_an_empty_one(path):
    FeatureSetsWriter(path, resume=True)
    assert info(path).n_items == 0
    with pytest.raises(ValueError, match="has no items; append at least one"):
        FeatureSetsWriter(path, resume=True).close()
    with FeatureSetsWriter(path, resume=True) as writer:
        write_items(writer, 3)
    assert_holds(path, 3)


def test_first_item_refused_then_another_kind(path):
    with FeatureSetsWriter(path) as writer:
        with pytest.raises(ValueError):
            writer.append({"rgb": np.ones(3)}, label=1)
        writer.append(np.ones((1, 2)), label="cat")
    assert open_feature_sets(path).label.tolist() == ["cat"]


def test_a_refusal_ends_the_block_and_loses_nothing(path):
    writer = FeatureSetsWriter(path)
    write_items(writer, 5)
    with pytest.raises(ValueError, match="Item 5"), writer:
        writer.append({"rgb": np.ones(3)}, **columns_at(5))
    writer = FeatureSetsWriter(path, resume=True)
    assert len(writer) == 5


FIRST = {**item_of(0), "audio": np.ones((2, 2)), "half": np.ones((1, 1), "f2")}
REFUSED = {
    "form": ([[1.0, 2]], {}, ["is a list", "mappings of modalities", "same form"]),
    "nothing": ({}, {}, ["has 0 local features", "Leave it out"]),
    "all none": ({"rgb": None}, {}, ["has 0 local features", "Leave it out"]),
    "empty": ({"rgb": np.empty((0, 3))}, {}, ["has 0 local features", "Leave it out"]),
    "1d": ({"rgb": np.ones(3)}, {}, ["'rgb'", "two-dimensional", "shape (3,)"]),
    "text": ({"rgb": [["a", "b"]]}, {}, ["'rgb'", "real numbers", "dtype <U1"]),
    "complex": ({"rgb": [[1j] * 3]}, {}, ["'rgb'", "real numbers", "complex128"]),
    "no columns": ({"rgb": np.ones((2, 0))}, {}, ["'rgb'", "shape (2, 0)"]),
    "ragged": ({"rgb": [[1], [1, 2]]}, {}, ["'rgb'", "differing length", "same width"]),
    "width": ({"rgb": np.ones((2, 4))}, {}, ["4 features; earlier items have 3", "alike"]),
    "empty of another width": (
        {"rgb": np.ones((1, 3)), "audio": np.empty((0, 9))},
        {},
        ["'audio'", "9 features; earlier items have 2"],
    ),
    "range": ({"half": np.ones((1, 1)) * 1e6}, {}, ["'half'", "float16", "1e+06", "scale"]),
    "range of float32": ({"rgb": np.full((1, 3), 1e300)}, {}, ["'rgb'", "float32", "1e+300"]),
    "label kind": (FIRST, {"label": 3}, ["label (an integer)", "label (a string)", "the same"]),
    "no label": (FIRST, {"label": None}, ["earlier items came with label", "the same"]),
    "bytes": (FIRST, {"id": b"x"}, ["id (|S1)", "the same"]),
}
NAMES = ["a/b", "a\\b", "", ".", "..", "zarr.json", "id", "label", "rgb_offsets", "rgb_row_size", 3]
for name in NAMES:
    REFUSED[f"name {name!r}"] = (
        {name: np.ones((1, 3))},
        {},
        [f"modality {name!r}", "without '/'", "Rename"],
    )


@pytest.mark.parametrize(("item", "columns", "parts"), REFUSED.values(), ids=REFUSED)
def test_a_refused_item_is_named(path, item, columns, parts):
    writer = FeatureSetsWriter(path)
    writer.append(FIRST, **columns_at(0))
    writer.append(FIRST, **columns_at(1))
    with pytest.raises(ValueError) as caught:
        writer.append(item, **columns_at(2) | columns)
    assert str(caught.value).startswith("Item 2")
    for part in parts:
        assert part in str(caught.value)


def test_refused_items_add_nothing(path):
    with FeatureSetsWriter(path) as writer:
        for i in range(3):
            writer.append(FIRST, **columns_at(i))
            for item, columns, _ in REFUSED.values():
                with pytest.raises(ValueError):
                    writer.append(item, **columns_at(i + 1) | columns)
            assert len(writer) == i + 1
    X = open_feature_sets(path)
    assert_same_items(X, [FIRST] * 3)
    same_columns(X, {name: [columns_at(i)[name] for i in range(3)] for name in COLUMNS})


WRONG_FIRST = {
    "id": ({"id": 1.5}, "id=1.5 is a real number; use a string or an integer"),
    "weight": ({"weight": "much"}, "weight='much' is a string"),
    "label": ({"label": [["a"]]}, "is an array; use a string or a boolean"),
    "strings": ({"label": ["a", "b"]}, "is an array"),
    "no labels": ({"label": []}, "is an array"),
    "beyond": ({"id": 2**63}, "id=9223372036854775808 is beyond int64"),
    "object": ({"group": {}}, "group={} is object"),
}


@pytest.mark.parametrize(("columns", "message"), WRONG_FIRST.values(), ids=WRONG_FIRST)
def test_columns_of_the_first_item(path, columns, message):
    writer = FeatureSetsWriter(path)
    with pytest.raises(ValueError) as caught:
        writer.append(np.ones((1, 2)), **columns)
    assert str(caught.value).startswith("Item 0: ")
    assert message in str(caught.value)
    assert len(writer) == 0


OTHER_LABELS = [("cat", 1), (1, 1.5), (True, 1), ([1, 0], [1]), ([1, 0], [1.5, 0]), ([1], 1)]


@pytest.mark.parametrize(("label", "other"), OTHER_LABELS)
def test_kinds_of_labels_are_those_before(path, label, other):
    with FeatureSetsWriter(path) as writer:
        writer.append(np.ones((1, 2)), label=label)
        with pytest.raises(ValueError, match=r"Item 1 comes with label \(a.* earlier items"):
            writer.append(np.ones((1, 2)), label=other)
    writer = FeatureSetsWriter(path, resume=True)
    with pytest.raises(ValueError, match=r"Item 1 comes with label \(a.* earlier items"):
        writer.append(np.ones((1, 2)), label=other)
    writer.append(np.ones((1, 2)), label=label)
    writer.close()
    assert open_feature_sets(path).label.tolist() == [label, label]


def test_dtype_of_a_writer(path):
    with pytest.raises(ValueError, match="dtype='float64' is not 'float16', 'float32' or None"):
        FeatureSetsWriter(path, dtype="float64")
    assert not os.path.exists(path)


# The format, to those who do not know it.


@pytest.fixture
def written(sound_store, path):
    shutil.copytree(sound_store, path)
    return path


def test_format(written):
    group = zarr.open_group(written, mode="r")
    attributes = dict(group.attrs)
    assert attributes["acluster_format"] == "ragged-sets"
    assert attributes["version"] == 1
    assert attributes["complete"] is True
    assert attributes["attributes"] == {"extractor": "r18"}
    items = [item_of(i) for i in range(12)]
    for name, width, dtype in [("rgb", 3, "f4"), ("audio", 2, "f4"), ("text", 1, "f2")]:
        sizes = [len(item.get(name, ())) for item in items]
        features = group[name]
        assert (features.shape, features.dtype) == ((sum(sizes), width), dtype)
        assert features.metadata.dimension_names == (f"{name}_obs", f"{name}_feature")
        assert features.compressors == ()
        expected = np.concatenate([item[name] for item in items if name in item])
        np.testing.assert_array_equal(features[:], expected)
        row_size, offsets = group[f"{name}_row_size"], group[f"{name}_offsets"]
        assert row_size.attrs["sample_dimension"] == f"{name}_obs"
        assert row_size.metadata.dimension_names == ("item",)
        assert offsets.metadata.dimension_names == ("item_edge",)
        assert (row_size.dtype, offsets.dtype) == ("i8", "i8")
        np.testing.assert_array_equal(row_size[:], sizes)
        np.testing.assert_array_equal(offsets[:], np.cumsum([0, *sizes]))
    for name in COLUMNS:
        assert group[name].metadata.dimension_names == ("item",)
        assert group[name].shape == (12,)
    assert group["label"].attrs["classes"] == ["class0", "class1", "class2"]
    np.testing.assert_array_equal(group["label"][:], np.arange(12) // 4)
    assert group["id"][:].tolist() == [f"item{i}" for i in range(12)]


def test_indicator_rows_have_two_dimensions(path):
    save_feature_sets(path, ARRAYS, label=np.eye(11, dtype=int))
    label = zarr.open_array(path, path="label")
    assert label.shape == (11, 11)
    assert label.metadata.dimension_names == ("item", "label_column")


def test_xarray_reads_it(written):
    xarray = pytest.importorskip("xarray")
    X = open_feature_sets(written)
    with xarray.open_zarr(written, consolidated=False) as data:
        assert data["rgb"].dims == ("rgb_obs", "rgb_feature")
        assert data["rgb_row_size"].attrs["sample_dimension"] == "rgb_obs"
        for name in X.names:
            np.testing.assert_array_equal(data[name].values, X[name].packed()[0])
            np.testing.assert_array_equal(data[f"{name}_row_size"].values, X.lengths[name])
        labels = np.array(data["label"].attrs["classes"])[data["label"].values]
        np.testing.assert_array_equal(labels, X.label)
        assert data["id"].values.tolist() == X.id.tolist()
        np.testing.assert_array_equal(data["weight"].values, X.weight)


def test_info(written):
    X, found = open_feature_sets(written), info(written)
    assert (found.complete, found.version, found.n_items) == (True, 1, 12)
    assert found.columns == list(COLUMNS)
    assert list(found.modalities) == ["rgb", "audio", "text"]
    rows = X.lengths["rgb"].sum()
    expected = {"n_features": 3, "n_local_features": rows, "dtype": np.float32, "bytes": rows * 12}
    assert found.modalities["rgb"] == expected


def test_info_of_a_store_that_is_not_complete(path, small):
    writer = FeatureSetsWriter(path)
    write_items(writer, 9)
    found = info(path)
    assert not found.complete
    assert 0 < found.n_items < 9
    rows = sum(len(item_of(i)["rgb"]) for i in range(found.n_items))
    assert found.modalities["rgb"].n_local_features == rows


# Damage.


def use_everything(path):
    X = open_feature_sets(path)
    return [X.label, X.id, list(X)]


def refusal(use, path):
    """The message; the exception, and the open files in its frames, are let go."""
    try:
        use(path)
    except StoreError as error:
        return str(error)
    pytest.fail("not refused")


def set_attribute(name, value):
    return lambda path: zarr.open_group(path).attrs.update({name: value})


def set_value(array, place, value):
    def damage(path):
        zarr.open_array(path, path=array, mode="r+")[place] = value

    return damage


def resize(array, n_rows):
    def damage(path):
        opened = zarr.open_array(path, path=array, mode="r+")
        opened.resize((n_rows, *opened.shape[1:]))

    return damage


def remove(name):
    def damage(path):
        target = Path(path, name)
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return damage


def truncate(name, n_bytes):
    return lambda path: os.truncate(Path(path, name), os.path.getsize(Path(path, name)) - n_bytes)


def flip(name, place):
    def damage(path):
        data = bytearray(Path(path, name).read_bytes())
        data[place] ^= 1
        Path(path, name).write_bytes(data)

    return damage


DAMAGE = {
    "not complete": (
        set_attribute("complete", False),
        ["store.zarr is not complete", "after 12 items", "resume=True"],
    ),
    "version": (set_attribute("version", 2), ["store.zarr has version 2", "reads version 1"]),
    "foreign": (set_attribute("acluster_format", "x"), ["without acluster_format='ragged-sets'"]),
    "attributes": (truncate("zarr.json", 9), ["store.zarr is not a zarr group"]),
    "no attributes": (remove("zarr.json"), ["store.zarr is not a zarr group"]),
    "shard": (remove("rgb/c/1/0"), ["Array 'rgb'", "lacks the files c/1/0"]),
    "short shard": (truncate("rgb/c/1/0", 1), ["'rgb'", "shard c/1/0", "truncated"]),
    "shard index": (flip("rgb/c/1/0", -7), ["'rgb'", "shard c/1/0", "checksum"]),
    "offsets": (set_value("rgb_offsets", 5, 12), ["'rgb_offsets'", "holds 12 at 5", "to 11"]),
    "row size": (set_value("audio_row_size", 5, 1), ["'audio_row_size' before it", " at 6,"]),
    "row below 0": (set_value("audio_row_size", 5, -1), ["'audio_row_size' before it", " at 6,"]),
    "short row size": (truncate("rgb_row_size/c/1", 1), ["'rgb_row_size'", "cannot be read"]),
    "flipped offsets": (flip("rgb_offsets/c/1", 8), ["'rgb_offsets'", "cannot be read"]),
    "flipped label": (flip("label/c/2", 8), ["'label'", "cannot be read"]),
    "flipped id": (flip("id/c/0", 9), ["'id'", "cannot be read"]),
    "label chunk": (remove("label/c/1"), ["'label'", "2 of its 3 chunks"]),
    "short label": (resize("label", 11), ["'label'", "11 rows; 12 were written"]),
    "short id": (resize("id", 11), ["'id'", "11 rows; 12 were written"]),
    "long label": (resize("label", 13), ["'label'", "13 rows; 12 were written"]),
    "rows": (resize("audio", 11), ["'audio'", "11 rows; 12 were written"]),
    "row sizes": (resize("audio_row_size", 3), ["'audio_row_size'", "3 rows; 12 were written"]),
    "fewer offsets": (resize("audio_offsets", 12), ["'audio_offsets'", "12 rows; 13"]),
}
for name in ["rgb", "rgb_row_size", "audio_offsets", "label", "id", "group", "weight"]:
    DAMAGE[f"no {name}"] = (remove(name), [f"Array '{name}' of ", "is missing"])
    DAMAGE[f"no attributes of {name}"] = (
        truncate(f"{name}/zarr.json", 3),
        [f"Array '{name}' of ", "cannot be opened"],
    )


@pytest.fixture(scope="module")
def sound_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "store.zarr"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        with FeatureSetsWriter(path, attributes={"extractor": "r18"}) as writer:
            write_items(writer, 12)
    use_everything(path)
    return path


@pytest.mark.parametrize(("damage", "parts"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_refused(sound_store, path, damage, parts):
    shutil.copytree(sound_store, path)
    damage(path)
    for use in (use_everything, validate):
        message = refusal(use, path)
        for part in parts:
            assert part in message


RESUME_DAMAGE = ["version", "foreign", "attributes", "no rgb", "no attributes of rgb", "no label"]


@pytest.mark.parametrize("name", [*RESUME_DAMAGE, "short label", "rows", "row sizes"])
def test_a_damaged_store_is_not_resumed(sound_store, path, name):
    shutil.copytree(sound_store, path)
    DAMAGE[name][0](path)
    with pytest.raises(StoreError):
        FeatureSetsWriter(path, resume=True)


def test_nothing_there(path):
    for use in (open_feature_sets, info, validate):
        with pytest.raises(FileNotFoundError, match=r"There is no store at .*store\.zarr"):
            use(path)


def a_file(path):
    Path(path).write_text("text")


def a_folder(path):
    os.mkdir(path)
    Path(path, "notes.txt").write_text("text")


@pytest.mark.parametrize("make", [a_file, a_folder, lambda path: zarr_array(path, np.ones(3))])
def test_what_is_no_store(path, make):
    make(path)
    for use in (open_feature_sets, info, validate):
        with pytest.raises(StoreError, match=r"store\.zarr is not a zarr group"):
            use(path)
    with pytest.raises(StoreError, match=r"store\.zarr is not a"):
        FeatureSetsWriter(path, resume=True)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("item", [0, 5, 11])
def test_validate_finds_what_is_not_finite(sound_store, path, item, value, monkeypatch):
    shutil.copytree(sound_store, path)
    row = int(open_feature_sets(path)["rgb"].lengths[:item].sum())
    set_value("rgb", (row, 2), value)(path)
    monkeypatch.setattr("acluster.sets._store._reader._BYTES_PER_CHECK", 40)
    open_feature_sets(path)
    message = refusal(validate, path)
    assert f"Array 'rgb' of {path} holds {value} in row {row}, column 2" in message
    assert f"(item {item})" in message


# Killed at any moment.

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
N_KILLED = 12
N_BEFORE = 6


def fork(path, work):
    """Start a process that does the work of a phase, and return when it has begun."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        gc.disable()  # it would copy the memory that the processes share
        code = 1
        try:
            work(path, lambda: os.write(writing, b"!"))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    assert os.read(reading, 1) == b"!"
    os.close(reading)
    return child


def write_all(path, begin):
    begin()
    with FeatureSetsWriter(path) as writer:
        write_items(writer, N_KILLED)


def close(path, begin):
    writer = FeatureSetsWriter(path)
    write_items(writer, N_KILLED)
    begin()
    writer.close()


def reopen(path, begin):
    begin()
    with FeatureSetsWriter(path, resume=True) as writer:
        write_items(writer, N_KILLED)


PHASES = {"write": write_all, "close": close, "reopen": reopen}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete store of N_BEFORE items, and the seconds that every phase takes."""
    folder = tmp_path_factory.mktemp("killed")
    seconds = {}
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        with FeatureSetsWriter(folder / "before.zarr") as writer:
            write_items(writer, N_BEFORE)
        for name, work in PHASES.items():
            path = str(folder / name)
            if name == "reopen":
                shutil.copytree(folder / "before.zarr", path)
            child = fork(path, work)
            begun = time.perf_counter()
            assert os.waitpid(child, 0)[1] == 0
            seconds[name] = time.perf_counter() - begun
            assert_holds(path, N_KILLED)
    return folder / "before.zarr", seconds


def assert_survives(path):
    """Refused or whole; taken up after the last committed item; then complete."""
    try:
        X = open_feature_sets(path)
    except (StoreError, FileNotFoundError):
        pass
    else:
        assert len(X) in (N_BEFORE, N_KILLED)
        assert_holds(path, len(X))
    with FeatureSetsWriter(path, resume=True) as writer:
        assert writer.id == [f"item{i}" for i in range(len(writer))]
        write_items(writer, N_KILLED)
    assert_holds(path, N_KILLED)
    assert_tidy(path)


@needs_fork
@pytest.mark.parametrize(
    ("phase", "seed"),
    [("write", seed) for seed in range(14)]
    + [(phase, seed) for phase in ("close", "reopen") for seed in range(3)],
)
def test_killed_at_a_random_moment(path, finished, small, phase, seed):
    before, seconds = finished
    if phase == "reopen":
        shutil.copytree(before, path)
    delay = np.random.default_rng(seed).uniform(0, seconds[phase])
    child = fork(path, PHASES[phase])
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert_survives(path)


def dies_at(n, work):
    """The work of a process that is killed at its n-th change of the disk."""
    changes = ["replace", "unlink", "mkdir"]

    def mortal(path, begin):
        count = [0]

        def counted(function):
            def call(*args, **kwargs):
                count[0] += 1
                if count[0] == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for name in changes:
            setattr(os, name, counted(getattr(os, name)))
        work(path, begin)

    return mortal


@needs_fork
@pytest.mark.parametrize("phase", ["write", "reopen"])
def test_killed_at_every_so_many_changes_of_the_disk(tmp_path, finished, small, phase):
    for n in [1, 50]:
        path = str(tmp_path / f"{n}.zarr")
        if phase == "reopen":
            shutil.copytree(finished[0], path)
        _, status = os.waitpid(fork(path, dies_at(n, PHASES[phase])), 0)
        assert status == signal.SIGKILL
        assert_survives(path)


# Travelling.


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("large") / "store.zarr")
    n = 10_001
    values = np.arange(n * 2, dtype="f4").reshape(n, 2)
    sets = {name: FeatureSets(values + k, np.arange(n + 1)) for k, name in enumerate("abc")}
    save_feature_sets(path, MultimodalFeatureSets(sets), id=np.arange(n))
    return path


def random_view(X):
    return X[np.random.default_rng(0).permutation(len(X))[:10_000]]


def test_a_view_pickles_as_its_numbers(large_store):
    X = open_feature_sets(large_store)
    for view in (random_view(X), random_view(X)["b"], random_view(X["b"])):
        assert len(view) == 10_000
        pickled = pickle.dumps(view)
        assert len(pickled) <= 8 * 10_000 + 4096
        twin = pickle.loads(pickled)
        assert type(twin) is type(view)
        np.testing.assert_array_equal(twin.id, view.id)
        one, other = (v if isinstance(v, FeatureSets) else v["c"] for v in (twin, view))
        np.testing.assert_array_equal(one.packed()[0], other.packed()[0])
    assert len(pickle.dumps(X)) < 4096
    assert len(pickle.dumps(X[5:9000])) < 4096


@pytest.mark.parametrize("several", [False, True])
def test_a_pickle_opens_the_store_when_it_is_used(tmp_path, path, several, monkeypatch):
    save_feature_sets(path, {"a": ARRAYS, "b": AUDIO} if several else ARRAYS, id=range(11))
    monkeypatch.chdir(tmp_path)
    X = open_feature_sets("store.zarr")
    pickled = pickle.dumps(X[[4, 2]])
    monkeypatch.chdir("/")
    os.rename(path, tmp_path / "away")
    view = pickle.loads(pickled)
    assert (len(view), view.shape) == (2, (2,))
    for use in (lambda: view[0], lambda: view.lengths, lambda: view.id, lambda: list(view)):
        with pytest.raises(FileNotFoundError, match=r"There is no store at .*store\.zarr"):
            use()
    os.rename(tmp_path / "away", path)
    assert repr(list(view)) == repr([X[4], X[2]])
    assert view.id.tolist() == [4, 2]


def test_a_pickle_of_another_store_is_refused(path):
    save_feature_sets(path, ARRAYS)
    pickled = pickle.dumps(open_feature_sets(path)[2:4])
    shutil.rmtree(path)
    save_feature_sets(path, ARRAYS[:5])
    with pytest.raises(StoreError, match=r"store\.zarr has 5 items, and had 11 .* Open it again"):
        pickle.loads(pickled)[0]


def test_resuming_with_another_dtype_is_refused_and_leaves_the_store_complete(path):
    save_feature_sets(path, [np.ones((2, 3), np.float16)])
    with pytest.raises(ValueError, match=r"dtype='float32', but .* holds 'features' as float16"):
        FeatureSetsWriter(path, resume=True, dtype="float32")
    assert open_feature_sets(path).dtype == np.float16


def test_weights_may_be_whole_or_not(path):
    with FeatureSetsWriter(path) as writer:
        writer.append(np.ones((1, 1)), weight=1)
        writer.append(np.ones((1, 1)), weight=0.5)
    assert open_feature_sets(path).weight.tolist() == [1, 0.5]


def test_attributes_that_json_cannot_hold_leave_nothing_behind(path):
    with pytest.raises(TypeError, match="are not what JSON can hold"):
        save_feature_sets(path, [np.ones((1, 1))], attributes={"fps": np.float32(25)})
    assert not Path(path).exists()


def test_a_path_is_a_store_to_save_from(path):
    save_feature_sets(path, [np.ones((2, 3)), np.zeros((1, 3))], label=["a", "b"])
    save_feature_sets(f"{path}.copy", str(path))
    copy = open_feature_sets(f"{path}.copy")
    assert copy.label.tolist() == ["a", "b"]
    assert copy.lengths.tolist() == [2, 1]
