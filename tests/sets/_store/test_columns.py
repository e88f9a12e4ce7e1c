"""Columns keep their entries, and reject entries of another type."""

import numpy as np
import pandas as pd
import pytest
import torch

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
    "negative": ({"weight": -1}, "weight=-1.0 is not a finite number of at least 0"),
    "infinite": ({"weight": np.inf}, "weight=inf is not a finite number of at least 0"),
    "label": ({"label": [["a"]]}, "is an array; use a string or a boolean"),
    "strings": ({"label": ["a", "b"]}, "is an array"),
    "no labels": ({"label": []}, "is an array"),
    "beyond": ({"id": 2**63}, "id=9223372036854775808 is beyond the range of int64"),
    "below": ({"group": -(2**63) - 1}, "is beyond the range of int64"),
    "far beyond": ({"label": 2**64}, "is beyond the range of int64"),
    "object": ({"group": {}}, "group={} is of dtype object"),
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


def reused_buffers():
    """What a loop may fill again for the next item, and how it sets element i to 1."""
    array = np.zeros(3)
    yield "array", array, array
    yield "tensor", torch.from_numpy(array := np.zeros(3)), array
    yield "memory view", memoryview(array := np.zeros(3)), array
    yield "view", (array := np.zeros(6))[::2], array[::2]
    yield "list", (row := [0.0, 0.0, 0.0]), row


@pytest.mark.parametrize(
    ("entry", "buffer"), [pytest.param(*rest, id=name) for name, *rest in reused_buffers()]
)
def test_append_copies_label_rows(path, entry, buffer):
    with FeatureSetsWriter(path) as writer:
        for i in range(3):
            for j in range(3):
                buffer[j] = float(i == j)
            writer.append(np.ones((1, 2)), label=entry)
    np.testing.assert_array_equal(open_feature_sets(path).label, np.eye(3))


def test_append_copies_numbers_in_arrays(path):
    entry = np.zeros((), int)
    with FeatureSetsWriter(path) as writer:
        for i in range(3):
            entry[...] = i
            writer.append(np.ones((1, 2)), label=entry, id=entry, group=torch.from_numpy(entry))
    X = open_feature_sets(path)
    for column in (X.label, X.id, X.group):
        assert column.tolist() == [0, 1, 2]


ABSENT = [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT, np.ma.masked]


@pytest.mark.parametrize("name", ["label", "id", "group"])
@pytest.mark.parametrize("absent", ABSENT, ids=repr)
@pytest.mark.parametrize(
    "form", [list, tuple, lambda x: np.array(x, object), lambda x: pd.Series(x, dtype=object)]
)
def test_save_rejects_missing_text(path, name, absent, form):
    with pytest.raises(ValueError, match=rf"{name}\[1\].* is missing"):
        save_feature_sets(path, [np.ones((1, 2))] * 3, **{name: form(["a", absent, "b"])})


MISSING_TEXT = {
    "pandas": pd.Series(["a", None, "b"], dtype="str"),
    "pandas string": pd.Series(["a", None, "b"], dtype="string"),
    "categories": pd.Categorical(["a", None, "b"]),
    "numpy": np.array(["a", np.nan, "b"], np.dtypes.StringDType(na_object=np.nan)),
    "masked": np.ma.array(["a", "b", "b"], mask=[0, 1, 0]),
    "masked numbers": np.ma.array([1, 2, 3], mask=[0, 1, 0]),
    "masked rows": np.ma.array([[1, 2]] * 3, mask=[[0, 0], [0, 1], [0, 0]]),
}


@pytest.mark.parametrize("values", MISSING_TEXT.values(), ids=MISSING_TEXT)
def test_save_rejects_missing_entries(path, values):
    with pytest.raises(ValueError, match=r"label\[1\].* is (missing|masked)"):
        save_feature_sets(path, [np.ones((1, 2))] * 3, label=values)


@pytest.mark.parametrize("absent", [*ABSENT[1:], np.ma.array([1, 2], mask=[0, 1])], ids=repr)
@pytest.mark.parametrize("name", ["label", "id", "group", "weight"])
def test_append_rejects_missing_entries(path, name, absent):
    if name == "label" and isinstance(absent, float | np.floating):
        pytest.skip("a real label stays NaN")
    writer = FeatureSetsWriter(path)
    with pytest.raises(ValueError, match=r"(?s)Item 0: .* is missing"):
        writer.append(np.ones((1, 2)), **{name: absent})
    assert len(writer) == 0


@pytest.mark.parametrize("entry", [1, 1.0, True, b"b"])
def test_save_rejects_text_among_other_types(path, entry):
    with pytest.raises(ValueError, match=r"label\[1\]=.* is not text, but other entries are"):
        save_feature_sets(path, [np.ones((1, 2))] * 3, label=["a", entry, "b"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1], [0, 1], [1]], "label has rows of different lengths"),
        ({0: 1, 1: 1, 2: 0}, r"label has shape \(\); pass one entry per item"),
        ([b"a" * 1000] * 3, r"Item 0: label=.{100} is of dtype \|S1000; use a string"),
    ],
    ids=["ragged", "dict", "long"],
)
def test_save_rejects_what_is_no_column(path, values, message):
    with pytest.raises(ValueError, match=message):
        save_feature_sets(path, [np.ones((1, 2))] * 3, label=values)


@pytest.mark.parametrize("text", ["caf\udce9", "\ud800", "a\0", "\0"])
@pytest.mark.parametrize("name", ["label", "id", "group"])
def test_append_rejects_text_that_cannot_be_stored(path, name, text):
    with FeatureSetsWriter(path) as writer:
        writer.append(np.ones((1, 2)), **{name: "good"})
        with pytest.raises(ValueError, match=f"Item 1: {name}=.*Replace the character"):
            writer.append(np.ones((1, 2)), **{name: text})
        writer.append(np.ones((1, 2)), **{name: "better"})
    assert getattr(open_feature_sets(path), name).tolist() == ["good", "better"]


@pytest.mark.parametrize("name", ["label", "id", "group"])
def test_one_long_text_does_not_widen_the_others(path, name):
    texts = ["a" * 10**5 if i == 5 else f"v{i}" for i in range(500)]
    save_feature_sets(path, [np.ones((1, 1))] * 500, **{name: texts})
    with FeatureSetsWriter(path, resume=True) as writer:
        writer.append(np.ones((1, 1)), **{name: "last"})
    X = open_feature_sets(path)
    assert getattr(X, name).tolist() == [*texts, "last"]
    assert getattr(X[[1, 5]], name).tolist() == [texts[1], texts[5]]
    assert getattr(X, name).dtype == object
