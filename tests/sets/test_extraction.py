"""Containers keep the description of how their features were extracted."""

import copy
import pickle

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from acluster import (
    FeatureSets,
    FeatureSetsWriter,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.sets import with_extraction
from acluster.sets._extraction import first_difference, is_description

RGB = {"view": {"kind": "Frames", "n": 25, "fps": None}, "backbone": "package:rgb"}
AUDIO = {"view": {"kind": "LogMel", "hop": 96}, "backbone": {"module": "a:B", "weights": "0f"}}
BOTH = {"rgb": RGB, "audio": AUDIO}


@pytest.fixture
def store(tmp_path):
    """A store of two modalities, with a description of both."""
    path = tmp_path / "s.zarr"
    with FeatureSetsWriter(path, attributes={"extraction": BOTH}) as writer:
        for i in range(6):
            writer.append({"rgb": np.full((i + 1, 3), i), "audio": np.full((2, 2), i)})
    return path


def test_extraction_of_a_store_is_kept_by_views_pickles_and_load(store):
    X = open_feature_sets(store)
    assert X.extraction == BOTH
    for same in (X[2:], X.take([1, 0]), copy.copy(X), pickle.loads(pickle.dumps(X[[3]]))):
        assert same.extraction == BOTH
    assert X["rgb"].extraction == X[1:]["rgb"].extraction == RGB
    assert X[["audio"]].extraction == {"audio": AUDIO}
    loaded = X["rgb"][1:].load()
    assert loaded.in_memory
    assert loaded.extraction == RGB
    assert pickle.loads(pickle.dumps(loaded[:2])).extraction == RGB
    assert MultimodalFeatureSets({"rgb": loaded}).extraction == {"rgb": RGB}


def test_extraction_is_none_without_a_description(tmp_path):
    X = FeatureSets(np.ones((3, 2)), [0, 3])
    assert X.extraction is None
    both = MultimodalFeatureSets({"a": X, "b": with_extraction(X, RGB)})
    assert both.extraction == {"a": None, "b": RGB}
    assert both[["a"]].extraction is None
    save_feature_sets(tmp_path / "s.zarr", X)
    assert open_feature_sets(tmp_path / "s.zarr").extraction is None


def test_with_extraction_leaves_the_given_sets_as_they_are():
    X = FeatureSets(np.ones((3, 2)), [0, 1, 3], places={"seconds": [0.0, 0.0, 1.0]})
    described = with_extraction(X[1:], RGB)
    assert X.extraction is None
    assert described.extraction == RGB
    assert described.places[0].tolist() == [[0.0], [1.0]]
    assert described.locate()[0] is X.locate()[0]


def test_extraction_of_places_is_none(tmp_path):
    with FeatureSetsWriter(tmp_path / "s", attributes={"extraction": BOTH}) as writer:
        writer.append({"rgb": np.ones((1, 3))}, places={"rgb": {"seconds": [0.0]}})
    X = open_feature_sets(tmp_path / "s")
    assert X["rgb"].places.extraction is None
    assert X["rgb"].load().places.extraction is None


def test_save_feature_sets_keeps_the_extraction(store, tmp_path):
    X = open_feature_sets(store)
    save_feature_sets(tmp_path / "both.zarr", X[1:], label=list("aabbb"), attributes={"by": "me"})
    again = open_feature_sets(tmp_path / "both.zarr")
    assert again.extraction == BOTH
    assert zarr.open_group(tmp_path / "both.zarr", mode="r").attrs["attributes"]["by"] == "me"
    save_feature_sets(tmp_path / "one.zarr", X["rgb"])
    assert open_feature_sets(tmp_path / "one.zarr").extraction == RGB
    save_feature_sets(tmp_path / "other.zarr", X, attributes={"extraction": {"rgb": AUDIO}})
    assert open_feature_sets(tmp_path / "other.zarr").extraction == {"rgb": AUDIO, "audio": None}


@pytest.mark.parametrize(
    "attribute",
    [
        "VGG-16",
        ["rgb"],
        {"rgb": "VGG-16"},
        {"rgb": {"view": {"kind": 3}, "backbone": "a:b"}},
        {"rgb": {"view": {"kind": "Frames"}}},
        {"rgb": {"view": {"kind": "Frames"}, "backbone": 3}},
        {"other": RGB},
    ],
)
def test_extraction_is_none_for_attributes_of_another_form(tmp_path, attribute):
    with FeatureSetsWriter(tmp_path / "s", attributes={"extraction": attribute}) as writer:
        writer.append({"rgb": np.ones((1, 3))})
    assert open_feature_sets(tmp_path / "s").extraction is None


def test_is_description_rejects_deep_and_infinite_values():
    deep = {"kind": "Frames"}
    for _ in range(50):
        deep = {"kind": "Frames", "of": [deep]}
    assert not is_description({"view": deep, "backbone": "a:b"})
    assert not is_description({**RGB, "more": float("nan")})
    assert not is_description({**RGB, "more": object()})
    assert is_description({**RGB, "more": [1, {"a": None}]})


NAMES = st.text("abc", min_size=1, max_size=2)
ENTRIES = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
NESTED = st.recursive(ENTRIES, lambda inner: st.dictionaries(NAMES, inner, max_size=3))
DESCRIPTIONS = st.dictionaries(NAMES, NESTED, max_size=3)


@given(DESCRIPTIONS, DESCRIPTIONS)
def test_first_difference_names_an_entry_that_differs(first, second):
    if first == second:
        return
    name, *values = first_difference(first, second)
    for part, value in zip((first, second), values, strict=True):
        for key in name.split("."):
            part = part.get(key, "not given") if isinstance(part, dict) else "not given"
        assert part == value
    assert values[0] != values[1]
