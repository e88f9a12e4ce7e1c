"""save_feature_sets accepts many layouts, and leaves nothing behind after an error."""

import itertools
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster import FeatureSets, MultimodalFeatureSets, open_feature_sets, save_feature_sets
from acluster.sets import StoreError, info, natural_key, validate
from tests.sets._store.helpers import (
    ARRAYS,
    AUDIO,
    COLUMNS,
    LENGTHS,
    assert_same_columns,
    shrink,
    zarr_array,
)
from tests.sets.helpers import (
    all_lengths,
    assert_same_items,
    keys,
    make_items,
    make_sets,
    numbers_of,
)


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


def _stored(dtype):
    return "float16" if dtype == "f2" else "float32"


@given(all_lengths, st.sampled_from(["f2", "f4", "f8", "i2"]), st.data())
@settings(max_examples=6, deadline=None)
def test_save_feature_sets_round_trip(lengths, dtype, data):
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
            assert_same_columns(view, columns, selection)
        assert validate(f"{folder}/a.zarr").columns == [c for c in COLUMNS if c in columns]


def test_save_keeps_empty_modalities_and_their_order(path):
    """Also where no item, or not the first, has one of them."""
    a = FeatureSets(np.ones((1, 2)), [0, 0, 1])
    none = FeatureSets(np.ones((0, 5), "f2"), [0, 0, 0])
    b = FeatureSets(np.ones((2, 3)), [0, 1, 2])
    X = MultimodalFeatureSets({"a": a, "none": none, "b": b})
    save_feature_sets(path, X)
    assert repr(open_feature_sets(path)) == repr(X).replace("float64", "float32")
    validate(path)


def test_save_keeps_attributes(path):
    save_feature_sets(path, [np.ones((2, 3))], attributes={"extractor": "r18"})
    assert info(path).attributes == {"extractor": "r18"}


def test_save_converts_to_dtype(path):
    save_feature_sets(path, [np.full((2, 3), 1 / 3)], dtype="float16")
    assert open_feature_sets(path)[0].dtype == np.float16


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


SINGLE_MODALITY_FORMS = {
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


@pytest.mark.parametrize("form", SINGLE_MODALITY_FORMS.values(), ids=SINGLE_MODALITY_FORMS)
def test_save_accepts_single_modality_forms(tmp_path, path, form):
    given = form(str(tmp_path / "source"))
    save_feature_sets(path, **given)
    X = open_feature_sets(path)
    assert [x.tolist() for x in X] == [x.tolist() for x in ARRAYS]
    expected = [f"item{i}" for i in range(11)] if isinstance(given["X"], zarr.Group) else None
    assert (X.id if X.id is None else X.id.tolist()) == expected


@pytest.mark.parametrize("make", [lambda folder, x: x, zarr_array])
def test_save_accepts_3d_array_without_lengths(tmp_path, path, make):
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


MULTIMODAL_FORMS = {
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


@pytest.mark.parametrize("form", MULTIMODAL_FORMS.values(), ids=MULTIMODAL_FORMS)
def test_save_accepts_multimodal_forms(tmp_path, path, form):
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
def test_save_copies_store_group_and_its_columns(tmp_path, path, several):
    X = {"rgb": ARRAYS, "audio": AUDIO} if several else ARRAYS
    columns = {"label": [f"c{i % 3}" for i in range(11)], "weight": np.linspace(0, 1, 11)}
    save_feature_sets(path, X, **columns)
    save_feature_sets(tmp_path / "b.zarr", zarr.open_group(path), weight=np.ones(11))
    stored = open_feature_sets(zarr.open_group(tmp_path / "b.zarr"))
    assert repr(stored) == repr(open_feature_sets(path))
    assert_same_columns(stored, columns | {"weight": np.ones(11)})


def test_save_copies_store_at_path(path):
    save_feature_sets(path, [np.ones((2, 3)), np.zeros((1, 3))], label=["a", "b"])
    save_feature_sets(f"{path}.copy", str(path))
    copy = open_feature_sets(f"{path}.copy")
    assert copy.label.tolist() == ["a", "b"]
    assert copy.lengths.tolist() == [2, 1]


INVALID_SAVES = {
    "label short": ({"label": [0]}, "label has 1 entries, but X has more items"),
    "id long": ({"id": range(12)}, "id has 12 entries for 11 items"),
    "weight shape": ({"weight": np.ones((11, 2))}, "weight has shape (11, 2)"),
    "lengths": ({"lengths": [1] * 11}, "X has type list and shape None"),
    "negative": ({"X": padded(), "lengths": [1] * 10 + [-1]}, "lengths[10] is -1"),
    "long": ({"X": padded(), "lengths": [5] + [1] * 10}, "lengths[0] is 5"),
    "few lengths": ({"X": padded(), "lengths": [1]}, "lengths must be 11 integers"),
    "no items": ({"X": []}, "has no items"),
    "short modality": ({"X": {"a": ARRAYS, "b": ARRAYS[1:]}}, "Modality 'b' has fewer items"),
    "bad item": ({"X": [*ARRAYS[:4], np.ones(3)]}, "Item 4, modality 'features'"),
}


@pytest.mark.parametrize(("given", "message"), INVALID_SAVES.values(), ids=INVALID_SAVES)
def test_save_removes_store_after_invalid_input(path, given, message):
    with pytest.raises(ValueError) as caught:
        save_feature_sets(path, **{"X": ARRAYS, **given})
    assert message in str(caught.value)
    assert not os.path.exists(path)


def test_save_rejects_attributes_that_are_not_json(path):
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        save_feature_sets(path, [np.ones((1, 1))], attributes={"fps": np.float32(25)})
    assert not Path(path).exists()


def test_save_rejects_existing_path(path):
    save_feature_sets(path, ARRAYS)
    with pytest.raises(FileExistsError, match=r"already something at .*resume=True"):
        save_feature_sets(path, ARRAYS[:2])
    assert len(open_feature_sets(path)) == 11


@pytest.mark.parametrize(
    "names",
    [
        ["item2", "item10"],
        ["001", "01", "1", "2"],  # equal numbers: by the names themselves
        ["a1b01", "a1b1", "a01b2"],
        ["5²", "10²3", "②"],  # isdigit() is true of characters that int() rejects
        ["\u0662", "\u0661\u0660"],  # 2 and 10 in Arabic digits
        ["9" * 5000, "1" + "0" * 5000],  # more digits than int() reads
    ],
)
def test_natural_key_is_a_total_order(names):
    for order in itertools.permutations(names):
        assert sorted(order, key=natural_key) == names


def test_save_group_whose_names_have_superscripts_and_leading_zeros(tmp_path):
    group = zarr.open_group(tmp_path / "group", mode="w")
    for value, name in enumerate(["1", "001", "x²", "01"], 1):
        group.create_array(name, data=np.full((1, 2), value, np.float32))
    save_feature_sets(tmp_path / "store", group)
    stored = open_feature_sets(tmp_path / "store")
    assert stored.id.tolist() == ["001", "01", "1", "x²"]
    assert [rows[0, 0] for rows in stored] == [2, 4, 1, 3]


def without_file(group, name):
    """Remove one of the files of an array, in zarr format 2 or 3."""
    folder = Path(group.store.root, group.path, name)
    files = sorted(
        file for file in folder.rglob("*") if file.is_file() and file.name[0] not in ".z"
    )
    files[len(files) // 2].unlink()


ABSENT = {
    "group": lambda group: group,
    "sequence": lambda group: [group["a"], group["b"]],
    "mapping": lambda group: {"features": group},
    "items": lambda group: [{"features": group["a"]}, {"features": group["b"]}],
    "padded": lambda group: group["padded"],
}


@pytest.mark.parametrize("options", [{}, {"zarr_format": 2}, {"shards": True}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "int16", "bool"])
@pytest.mark.parametrize("form", ABSENT.values(), ids=ABSENT)
def test_save_rejects_absent_chunks_of_arrays_of_others(tmp_path, path, form, dtype, options):
    group = zarr.open_group(tmp_path / "group", mode="w", zarr_format=options.get("zarr_format", 3))
    shapes = {"padded": (5, 9, 4)} if form is ABSENT["padded"] else {"a": (9, 4), "b": (9, 4)}
    for name, shape in shapes.items():
        chunks = (2, 2) if len(shape) == 2 else (2, 3, 2)
        shards = {"shards": tuple(2 * n for n in chunks)} if "shards" in options else {}
        array = group.create_array(name, shape=shape, dtype=dtype, chunks=chunks, **shards)
        array[:] = np.ones(shape)
    save_feature_sets(path, form(group))
    X = open_feature_sets(path)
    values, _ = (X if isinstance(X, FeatureSets) else X["features"]).packed()
    assert (values == 1).all()
    without_file(group, name)
    with pytest.raises(StoreError, match=r"Item \d.*, array .*is not there.*pass the values"):
        save_feature_sets(tmp_path / "other", form(group))
    assert not (tmp_path / "other").exists()


def test_save_of_chunks_that_zarr_leaves_out(tmp_path, path):
    group = zarr.open_group(tmp_path / "group", mode="w")
    group.create_array("a", data=np.pad(np.ones((4, 3)), [(0, 4), (0, 0)]), chunks=(4, 3))
    with pytest.raises(StoreError, match="If it was left out, pass the values"):
        save_feature_sets(path, group)
    save_feature_sets(path, [group["a"][...]])
    np.testing.assert_array_equal(open_feature_sets(path)[0], group["a"][...])
