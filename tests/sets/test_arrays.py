"""Arrays of other libraries as sets: tensors, data frames, other byte orders, list columns."""

import pickle
import tempfile
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from sklearn.impute import SimpleImputer

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    load,
    open_feature_sets,
    save_feature_sets,
)
from acluster.preprocessing import LocalFeatureTransformer
from tests.conftest import make_sets

QUICK = {"cluster_size": 2, "max_iter": 2, "tol": None, "random_state": 0}
X, y = make_sets(n=12, dtype=np.float32)
ARRAYS = list(X)
VALUES, OFFSETS = X.packed()
FRAMES = [pd.DataFrame(x, columns=[*"dacb"]) for x in ARRAYS]


def rows(array):
    """An array of objects, one per row, as pandas reads from list columns."""
    out = np.empty(len(array), dtype=object)
    out[:] = list(array)
    return out


class Endless:
    """A sequence with a length that never raises an IndexError."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        assert i < len(self.items), f"item {i} of {len(self.items)} was read"
        return self.items[i]


class ListOfPyarrow:
    """Like an array of pyarrow, which numpy converts to a one-dimensional array of objects."""

    def __init__(self, arrays):
        self.arrays = arrays

    def __len__(self):
        return len(self.arrays)

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("was converted as a whole")

    def to_pylist(self):
        return [array.tolist() for array in self.arrays]


def probabilities(X_fit, X_predict, y=y, **kwargs):
    return AttentionClusterClassifier(**QUICK).fit(X_fit, y, **kwargs).predict_proba(X_predict)


EXPECTED = probabilities(X, X)

SAME = {
    "big-endian arrays": lambda: [x.astype(">f4") for x in ARRAYS],
    "big-endian FeatureSets": lambda: FeatureSets(VALUES.astype(">f4"), OFFSETS),
    "big-endian memory map": lambda: FeatureSets(memory_map(VALUES.astype(">f4")), OFFSETS),
    "arrays of row objects": lambda: [rows(x) for x in ARRAYS],
    "series of row objects": lambda: pd.Series([rows(x) for x in ARRAYS]),
    "series of series of rows": lambda: pd.Series([pd.Series(list(x)) for x in ARRAYS]),
    "endless sequence": lambda: Endless(ARRAYS),
    "tensors that require gradients": lambda: [torch.tensor(x).requires_grad_() for x in ARRAYS],
    "masked arrays without masked values": lambda: [np.ma.array(x) for x in ARRAYS],
    "matrices": lambda: [np.array(x).view(np.matrix) for x in ARRAYS],
    "frames": lambda: [pd.DataFrame(x) for x in ARRAYS],
    "nullable frames": lambda: [pd.DataFrame(x).astype("Float32") for x in ARRAYS],
}


def memory_map(array):
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, array.dtype, "w+", shape=array.shape)
    mapped[:] = array
    return mapped


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", SAME)
def test_fit_and_predict_equal_those_of_float32_arrays(name):
    given = SAME[name]()
    np.testing.assert_array_equal(probabilities(given, X), EXPECTED)
    np.testing.assert_array_equal(probabilities(X, given), EXPECTED)


def test_fit_of_padded_big_endian_array():
    given = np.ones((12, 3, 4)) * np.arange(12)[:, None, None]
    expected = probabilities(given, given)
    other = given.astype(">f8")
    np.testing.assert_array_equal(probabilities(other, other), expected)
    assert FeatureSets.from_padded(given.astype(">i8")).dtype == np.int64


def test_feature_sets_has_native_byte_order():
    assert FeatureSets(VALUES.astype(">i8"), OFFSETS).dtype == np.dtype("=i8")
    assert FeatureSets.from_arrays([VALUES.astype(">f8"), VALUES.astype("<f8")]).dtype.isnative


def test_feature_sets_does_not_copy_native_arrays():
    assert np.shares_memory(FeatureSets(VALUES, OFFSETS).packed()[0], VALUES)


def test_fit_reads_pyarrow_lists():
    expected = probabilities([x.tolist() for x in ARRAYS], X)
    np.testing.assert_array_equal(probabilities(ListOfPyarrow(ARRAYS), X), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_from_arrays_of_half_precision_tensors(dtype):
    found = FeatureSets.from_arrays([torch.ones(2, 3, dtype=dtype)])
    assert found.dtype == (np.float32 if dtype == torch.bfloat16 else np.float16)


def test_from_arrays_of_lists_of_tensors():
    rows = list(torch.ones(2, 3, requires_grad=True))
    np.testing.assert_array_equal(FeatureSets.from_arrays([rows])[0], np.ones((2, 3)))


def test_fit_accepts_booleans_and_integers():
    for dtype in (bool, np.int8, np.uint64):
        sets = [(x > 0).astype(dtype) for x in ARRAYS]
        as_float = [x.astype(np.float64) for x in sets]
        np.testing.assert_allclose(
            probabilities(sets, sets), probabilities(as_float, as_float), atol=1e-6
        )


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_fit_rejects_strided_nested_tensors():
    nested = torch.nested.nested_tensor([torch.tensor(x) for x in ARRAYS])
    with pytest.raises(TypeError, match=r"unbind\(\)"):
        probabilities(nested, X)


def test_y_and_sample_weight_of_other_libraries():
    weights = np.arange(1.0, 13)
    expected = probabilities(X, X, sample_weight=weights)
    for given in (Endless(weights), torch.tensor(weights).requires_grad_(), pd.Series(weights)):
        np.testing.assert_array_equal(probabilities(X, X, sample_weight=given), expected)
    labels = [Endless(y.tolist()), torch.tensor(y), pd.Index(y), pd.Series(y, dtype="Int64")]
    for given in [*labels, y.astype(">i8"), np.ma.array(y)]:
        np.testing.assert_array_equal(probabilities(X, X, y=given), EXPECTED)


def test_y_is_a_nullable_indicator():
    indicator = np.eye(12, 3, dtype=bool)
    expected = probabilities(X, X, y=indicator)
    for dtype in ("boolean", "Int8"):
        given = pd.DataFrame(indicator).astype(dtype)
        np.testing.assert_array_equal(probabilities(X, X, y=given), expected)


@pytest.mark.parametrize("dtype", ["Int64", "UInt64", "boolean"])
def test_nullable_labels_keep_their_values_and_type(dtype):
    labels = y.astype(bool) if dtype == "boolean" else y % 3 + 2**53  # float64 rounds 2**53 + 1
    clf = AttentionClusterClassifier(**QUICK).fit(X, pd.Series(labels, dtype=dtype))
    assert clf.classes_.dtype.kind == np.dtype(dtype.lower().removesuffix("ean")).kind
    np.testing.assert_array_equal(clf.classes_, np.unique(labels))


# Data frames.


def test_frames_keep_their_dtype():
    assert FeatureSets.from_arrays(FRAMES).dtype == np.float32
    nullable = [frame.astype("Float32") for frame in FRAMES]
    assert FeatureSets.from_arrays(nullable).dtype == np.float32
    assert FeatureSets.from_arrays([frame.astype(int) for frame in FRAMES]).dtype == np.float64


def test_missing_values_of_nullable_frames_are_nan():
    frame = pd.DataFrame({"a": [1, None], "b": [3, 4]}).astype("Int64")
    sets = FeatureSets.from_arrays([frame])
    np.testing.assert_array_equal(sets[0], [[1, 3], [np.nan, 4]])
    filled = LocalFeatureTransformer(SimpleImputer()).fit_transform([frame])
    np.testing.assert_array_equal(filled[0], [[1, 3], [1, 4]])


def test_columns_in_another_order_are_sorted_by_name():
    mixed = [frame[[*"bacd"]] if i % 2 else frame for i, frame in enumerate(FRAMES)]
    ordered = [frame[[*"abcd"]] for frame in FRAMES]
    for sets in (mixed, mixed[::-1]):
        found = FeatureSets.from_arrays(sets)
        np.testing.assert_array_equal(found[0], ordered[0] if sets is mixed else ordered[-1])
    clf = AttentionClusterClassifier(**QUICK).fit(mixed, y)
    assert clf.feature_names_in_.tolist() == [*"abcd"]
    expected = probabilities(ordered, ordered)
    for sets in (
        mixed,
        ordered,
        FRAMES,
        pickle.loads(pickle.dumps(FeatureSets.from_arrays(mixed))),
    ):
        np.testing.assert_array_equal(clf.predict_proba(sets), expected)


def test_frames_in_one_order_keep_it():
    np.testing.assert_array_equal(FeatureSets.from_arrays(FRAMES)[0], ARRAYS[0])
    clf = AttentionClusterClassifier(**QUICK).fit(FRAMES, y)
    assert clf.feature_names_in_.tolist() == [*"dacb"]
    ordered = [frame[[*"abcd"]] for frame in FRAMES]
    np.testing.assert_array_equal(clf.predict_proba(ordered), EXPECTED)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        clf.predict(ARRAYS)


def test_columns_of_modalities_are_matched_by_name():
    both = {"rgb": FRAMES, "audio": ARRAYS}
    clf = MultimodalAttentionClusterClassifier(**QUICK).fit(both, y)
    assert clf.feature_names_in_.tolist() == [*"dacb", "x0", "x1", "x2", "x3"]
    expected = clf.predict_proba(both)
    ordered = {"audio": FRAMES, "rgb": [frame[[*"abcd"]] for frame in FRAMES]}
    np.testing.assert_array_equal(clf.predict_proba(ordered | {"audio": ARRAYS}), expected)
    clf.predict({"rgb": FRAMES})  # a modality may be missing
    with pytest.raises(ValueError, match="In modality 'rgb': X has no column 'd'"):
        clf.predict({"rgb": [frame.rename(columns={"d": "e"}) for frame in FRAMES]})


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
@pytest.mark.parametrize("kind", [list, pd.Series, rows])
def test_missing_sets_of_a_modality(kind, missing):
    audio = kind([missing, *ARRAYS[1:]])
    clf = MultimodalAttentionClusterClassifier(**QUICK).fit({"rgb": X, "audio": audio}, y)
    assert clf.n_features_in_ == 8
    items = [{"rgb": x, "audio": a} for x, a in zip(ARRAYS, [missing, *ARRAYS[1:]], strict=True)]
    for given in (items, Endless(items)):
        np.testing.assert_array_equal(
            clf.predict_proba(given), clf.predict_proba({"rgb": X, "audio": audio})
        )


# Containers and stores.


def test_containers_read_as_many_items_as_the_length_says(tmp_path):
    assert len(FeatureSets.from_arrays(Endless(ARRAYS))) == 12
    items = Endless([{"rgb": x} for x in ARRAYS])
    assert len(MultimodalFeatureSets.from_items(items)) == 12
    save_feature_sets(tmp_path / "a.zarr", Endless(ARRAYS))
    assert len(open_feature_sets(tmp_path / "a.zarr")) == 12


def test_save_feature_sets_of_row_objects_and_other_byte_orders(tmp_path):
    for name, items in {"rows": map(rows, ARRAYS), "big": (x.astype(">f4") for x in X)}.items():
        save_feature_sets(tmp_path / name, items)
        np.testing.assert_array_equal(open_feature_sets(tmp_path / name)[5], ARRAYS[5])


def test_save_feature_sets_rejects_masked_values(tmp_path):
    with pytest.raises(ValueError, match="masked values"):
        save_feature_sets(tmp_path / "a.zarr", [np.ma.masked_less(x, 0) for x in ARRAYS])


def test_save_feature_sets_rejects_a_group_of_groups(tmp_path):
    group = zarr.open_group(tmp_path / "groups.zarr", mode="w")
    for i in range(2):
        group.create_group(f"s{i}").create_array("features", data=ARRAYS[i])
    with pytest.raises(ValueError, match=r"group of groups, such as '.*s\d', without an array"):
        save_feature_sets(tmp_path / "a.zarr", group)


def test_check_for_nan_copies_no_whole_items():
    values = np.ones((1 << 17, 64))
    values[100_000, 5] = np.nan
    sets = FeatureSets(values, [0, 1 << 16, 1 << 17])[::-1]  # 32 MiB each, not adjacent
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"X\[0\] has nan in local feature 34464, column 5"):
            AttentionClusterClassifier(**QUICK).fit(sets, [0, 1])
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()


# Tables where sets are expected.


SINGLE, SEVERAL = AttentionClusterClassifier, MultimodalAttentionClusterClassifier


@pytest.mark.parametrize(
    ("cls", "fit_on"),
    [(SINGLE, X), (SEVERAL, {"rgb": X}), (SEVERAL, X)],
    ids=["one", "named", "unnamed"],
)
def test_predict_warns_of_a_single_set(cls, fit_on, tmp_path):
    is_dict = isinstance(fit_on, dict)
    clf = cls(**QUICK).fit(fit_on, y)
    clf.save(tmp_path / "model")
    for one in (clf, load(tmp_path / "model"), pickle.loads(pickle.dumps(clf))):
        for single in (ARRAYS[0], ARRAYS[0].tolist(), torch.tensor(ARRAYS[0])):
            with pytest.warns(UserWarning, match="has two dimensions: it is taken as") as caught:
                one.predict({"rgb": single} if is_dict else single)
            assert len(caught) == 1
            assert caught[0].filename == __file__
    one.predict({"rgb": ARRAYS[0][:, None]} if is_dict else ARRAYS[0][:, None])
    one.predict(X[:1] if not is_dict else {"rgb": X[:1]})


def test_predict_does_not_warn_of_a_table_after_fit_on_one():
    for table in (VALUES[:12], pd.DataFrame(VALUES[:12]), VALUES[:12][:, None]):
        clf = AttentionClusterClassifier(**QUICK).fit(table, y)
        clf.predict(VALUES[:12])
        assert 0 <= clf.score(VALUES[:12], y) <= 1
