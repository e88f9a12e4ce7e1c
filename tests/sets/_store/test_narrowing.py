"""Writers store features in a narrower dtype only if nothing of value is lost."""

import numpy as np
import pytest
import zarr

from acluster import FeatureSetsWriter, open_feature_sets, save_feature_sets
from acluster.sets import info

SECONDS = np.array([[1_700_000_001, 3]])


@pytest.mark.parametrize("dtype", ["i4", "u4", "i8", "u8", "f8"])
def test_integers_beyond_float32_are_kept(path, dtype):
    values = SECONDS.astype(dtype)
    save_feature_sets(path, [values, values + 1])
    X = open_feature_sets(path)
    assert X.dtype == np.float64
    np.testing.assert_array_equal(X[1], values + 1)


OTHERS = [[2**24, -(2**24)], [2**30], [1e8 + 0.5], [1e20], [2.0**60 + 2**20], [True]]


@pytest.mark.parametrize("row", OTHERS, ids=repr)
def test_other_features_become_float32(path, row):
    save_feature_sets(path, [np.array([row])])
    assert open_feature_sets(path).dtype == np.float32


@pytest.mark.parametrize(
    ("first", "value"),
    [("f4", 2**24 + 1), ("f4", -(2**31) + 1), ("f2", 2049), ("i8", 2**53 + 1), ("i8", 2**63 - 1)],
)
def test_append_rejects_integers_that_would_be_rounded(path, first, value):
    writer = FeatureSetsWriter(path)
    writer.append(SECONDS if first == "i8" else np.ones((1, 2), first))
    with pytest.raises(ValueError, match=rf"Item 1, .* has the integer {value}, .*Subtract"):
        writer.append(np.array([[1, value]]))
    assert len(writer) == 1


def test_append_rejects_integers_beyond_float64_in_first_item(path):
    with pytest.raises(ValueError, match=r"has the integer 9007199254740993, .* float64"):
        FeatureSetsWriter(path).append([[2**53 + 1]])


def test_append_rejects_wider_features_after_float16(path):
    with FeatureSetsWriter(path) as writer:
        writer.append(np.ones((1, 2), "f2"))
        writer.append(np.full((1, 2), 0.5, "f4"))  # float16 represents it
        with pytest.raises(ValueError, match=r"Item 2, .* has dtype float32, but earlier items"):
            writer.append(np.full((1, 2), 1 / 3, "f4"))
    assert open_feature_sets(path)[1].tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_dtype_accepts_its_rounding(path, dtype):
    save_feature_sets(path, [[[2**14 + 1, 1 / 3]], [[2**15 + 1, 1]]], dtype=dtype)
    expected = np.array([[2**14 + 1, 1 / 3]], dtype)
    np.testing.assert_array_equal(open_feature_sets(path)[0], expected)


@pytest.mark.parametrize(
    ("dtype", "value"), [("float16", 1e-9), ("float32", 1e-46), (None, 1e-300), (None, -1e-60)]
)
def test_append_rejects_items_that_would_be_zeros(path, dtype, value):
    writer = FeatureSetsWriter(path, dtype=dtype)
    writer.append(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"Item 1, .* only values that are 0 in float.*Scale"):
        writer.append(np.array([[0, value]]))
    assert len(writer) == 1


def test_append_warns_once_of_many_values_that_become_zero(path, recwarn):
    with FeatureSetsWriter(path, dtype="float16") as writer:
        writer.append(np.append(np.ones(19), 1e-9)[:, None])
        assert len(recwarn) == 0  # one value of twenty
        with pytest.warns(UserWarning, match=r"Item 1, .* many values that become 0 in float16"):
            writer.append(np.array([[1], [1e-9]]))
        writer.append(np.array([[1], [1e-9]]))
    assert len(recwarn) == 0


def test_writer_copies_attributes(path):
    attributes = {"extractor": {"layers": [1, 2]}}
    with FeatureSetsWriter(path, attributes=attributes) as writer:
        attributes["extractor"]["layers"].append(3)
        writer.append(np.ones((1, 2)))
    assert info(path).attributes == {"extractor": {"layers": [1, 2]}}


@pytest.mark.parametrize("attributes", [{1: "a"}, {"a": [{None: 1}]}, {"a": float("nan")}])
def test_writer_rejects_attributes_that_json_would_change(path, attributes):
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        FeatureSetsWriter(path, attributes=attributes)


def test_resume_of_a_store_of_integers_keeps_its_dtype(path):
    save_feature_sets(path, [np.ones((2, 2))])
    group = zarr.open_group(path, mode="r+")
    group.create_array(
        "features", data=np.array([[1, 2], [3, 4]], np.int8), fill_value=0, overwrite=True
    )
    with FeatureSetsWriter(path, resume=True) as writer:
        writer.append(np.array([[5.0, -6.0]]))
        with pytest.raises(
            ValueError, match=r"Item 2, .* int8, the dtype of the store, cannot hold"
        ):
            writer.append(np.array([[0.5, 300.0]]))
    np.testing.assert_array_equal(open_feature_sets(path).packed()[0], [[1, 2], [3, 4], [5, -6]])
