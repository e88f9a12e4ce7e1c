"""Stores of data frames, whose columns have names."""

import pickle

import numpy as np
import pytest
import zarr

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    FeatureSetsWriter,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.sets import StoreError

pd = pytest.importorskip("pandas")

QUICK = {"cluster_size": 2, "max_iter": 2, "tol": None, "random_state": 0}
VALUES = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32)
FRAMES = [pd.DataFrame(x, columns=["b", "a"]) for x in VALUES]
y = [0, 1] * 3


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sets.zarr"


def test_append_matches_columns_of_data_frames_by_name(path):
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 4.0]], columns=["a", "b"])
    writer = FeatureSetsWriter(path)
    writer.append({"rgb": frame})
    writer.append({"rgb": frame[["b", "a"]]})
    writer.append({"rgb": frame.to_numpy()})
    with pytest.raises(ValueError, match="Item 3, modality 'rgb' has no column 'b'"):
        writer.append({"rgb": frame.rename(columns={"b": "c"})})
    writer.close()
    np.testing.assert_array_equal(open_feature_sets(path)["rgb"].packed()[0], [[1, 2], [3, 4]] * 3)


@pytest.mark.parametrize("n_plain", [0, 1])
def test_resumed_writer_matches_columns_by_name(path, n_plain):
    writer = FeatureSetsWriter(path)
    for i, frame in enumerate(FRAMES[:3]):
        writer.append({"rgb": frame.to_numpy() if i < n_plain else frame})
    writer.flush()
    del writer
    with FeatureSetsWriter(path, resume=True) as writer:
        with pytest.raises(ValueError, match="Item 3, modality 'rgb' has no column 'b'"):
            writer.append({"rgb": FRAMES[3].rename(columns={"b": "c"})})
        for frame in FRAMES[3:]:
            writer.append({"rgb": frame[["a", "b"]]})
    np.testing.assert_array_equal(open_feature_sets(path)["rgb"].packed()[0], np.vstack(VALUES))
    assert zarr.open_group(path, mode="r")["rgb"].attrs["column_names"] == ["b", "a"]


SOURCES = {
    "list": FRAMES,
    "iterator": lambda: iter(FRAMES),
    "container": FeatureSets.from_arrays(FRAMES),
    "mapping": {"features": FRAMES},
    "mapping of containers": {"features": FeatureSets.from_arrays(FRAMES)},
    "several modalities": MultimodalFeatureSets({"features": FeatureSets.from_arrays(FRAMES)}),
    "items": lambda: ({"features": frame} for frame in FRAMES),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_fit_on_a_store_of_frames_is_that_on_the_frames(path, source):
    save_feature_sets(path, source() if callable(source) else source)
    X = open_feature_sets(path)
    cls = MultimodalAttentionClusterClassifier
    clf = cls(**QUICK).fit(X, y)
    assert clf.feature_names_in_.tolist() == ["b", "a"]
    expected = cls(**QUICK).fit({"features": FRAMES}, y).predict_proba({"features": FRAMES})
    for given in (X, pickle.loads(pickle.dumps(X)), path):
        np.testing.assert_array_equal(clf.predict_proba(given), expected)
    sorted_frames = {"features": [frame[["a", "b"]] for frame in FRAMES]}
    np.testing.assert_array_equal(clf.predict_proba(sorted_frames), expected)
    save_feature_sets(path.with_name("copy.zarr"), X)
    with FeatureSetsWriter(path.with_name("copy.zarr"), resume=True) as writer:
        assert writer._state.frames == {"features": ("b", "a")}


def test_predict_on_a_store_with_columns_in_another_order(path):
    clf = AttentionClusterClassifier(**QUICK).fit(FRAMES, y)
    save_feature_sets(path, [frame[["a", "b"]] for frame in FRAMES])
    X = open_feature_sets(path)
    with pytest.raises(ValueError, match=r"has the columns \['a', 'b'\], but fit had .*load"):
        clf.predict(X)
    np.testing.assert_array_equal(clf.predict_proba(X.load()), clf.predict_proba(FRAMES))


def test_store_without_names_of_columns(path):
    save_feature_sets(path, [pd.DataFrame(x) for x in VALUES])  # numbers are no names
    assert "column_names" not in zarr.open_group(path, mode="r")["features"].attrs
    clf = AttentionClusterClassifier(**QUICK).fit(open_feature_sets(path), y)
    assert not hasattr(clf, "feature_names_in_")


@pytest.mark.parametrize("names", ["ab", ["a"], ["a", 1], {"a": 0, "b": 1}, 3])
def test_damaged_names_of_columns(path, names):
    save_feature_sets(path, FRAMES)
    zarr.open_group(path, mode="r+")["features"].attrs["column_names"] = names
    for opening in (open_feature_sets, lambda path: FeatureSetsWriter(path, resume=True)):
        with pytest.raises(StoreError, match="column_names that does not fit"):
            opening(path)
