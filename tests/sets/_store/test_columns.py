"""Columns keep their entries, and reject entries of another type."""

import numpy as np
import pytest

from acluster import FeatureSetsWriter, open_feature_sets, save_feature_sets
from tests.sets._store.helpers import assert_same_columns


def test_append_accepts_numpy_scalars(path):
    with FeatureSetsWriter(path) as writer:
        for i, label in enumerate(np.array(["cat", "tiger"])):
            writer.append(np.ones((1, 2)), label=label, id=np.int8(i), weight=np.float32(i))
            writer.flush()
    X = open_feature_sets(path)
    np.testing.assert_array_equal(X.label, ["cat", "tiger"])
    np.testing.assert_array_equal(X.id, [0, 1])


def test_append_stores_narrow_integers_as_int64(path):
    with FeatureSetsWriter(path) as writer:
        for label, row in [(np.uint8(1), 0.5), (300, 1e300), (np.uint64(2**40), 2.0)]:
            writer.append(np.ones((1, 2)), label=label, weight=np.float64(row))
            writer.flush()
    np.testing.assert_array_equal(open_feature_sets(path).label, [1, 300, 2**40])


@pytest.mark.parametrize("zero", [0, 0.0, False, ""])
def test_columns_equal_to_the_fill_value_are_stored(path, zero, small):
    columns = {"label": [zero] * 9, "weight": [0.0] * 9, "id": [0] * 9}
    save_feature_sets(path, [np.zeros((1, 3))] * 9, **columns)
    assert_same_columns(open_feature_sets(path), columns)


def test_append_accepts_integer_and_float_weights(path):
    with FeatureSetsWriter(path) as writer:
        writer.append(np.ones((1, 1)), weight=1)
        writer.append(np.ones((1, 1)), weight=0.5)
    assert open_feature_sets(path).weight.tolist() == [1, 0.5]


INVALID_ENTRIES = {
    "id": ({"id": 1.5}, "id=1.5 is a real number; use a string or an integer"),
    "weight": ({"weight": "much"}, "weight='much' is a string"),
    "label": ({"label": [["a"]]}, "is an array; use a string or a boolean"),
    "strings": ({"label": ["a", "b"]}, "is an array"),
    "no labels": ({"label": []}, "is an array"),
    "beyond": ({"id": 2**63}, "id=9223372036854775808 is beyond int64"),
    "object": ({"group": {}}, "group={} is object"),
}


@pytest.mark.parametrize(("columns", "message"), INVALID_ENTRIES.values(), ids=INVALID_ENTRIES)
def test_append_rejects_invalid_column_entry(path, columns, message):
    writer = FeatureSetsWriter(path)
    with pytest.raises(ValueError) as caught:
        writer.append(np.ones((1, 2)), **columns)
    assert str(caught.value).startswith("Item 0: ")
    assert message in str(caught.value)
    assert len(writer) == 0


OTHER_LABELS = [("cat", 1), (1, 1.5), (True, 1), ([1, 0], [1]), ([1, 0], [1.5, 0]), ([1], 1)]


@pytest.mark.parametrize(("label", "other"), OTHER_LABELS)
def test_append_rejects_label_of_another_type(path, label, other):
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
