"""MultimodalFeatureSets indexes like a list of dicts, copies no features, and pickles small."""

import pickle

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.utils import _safe_indexing
from sklearn.utils._array_api import get_namespace_and_device

from acluster import (
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.preprocessing import LocalFeatureTransformer
from acluster.sets._store import _reader
from tests.sets.helpers import (
    all_lengths,
    assert_same_items,
    keys,
    make_items,
    make_sets,
    numbers_of,
)

INDICES = [[0, 2], np.array([2, 0]), np.array([True, False, True]), slice(0, 2), [True] * 3]


three = make_items([(2, 1), (3, 0), (1, 4)])


@given(all_lengths, st.data())
@settings(max_examples=50, deadline=None)
def test_getitem_selects_like_a_list(lengths, data):
    items = make_items(lengths)
    X, expected = make_sets(items), items
    for _ in range(data.draw(st.integers(1, 3))):
        key = data.draw(keys(len(X)))
        expected = [expected[i] for i in numbers_of(key, len(X))]
        X = X[(key, Ellipsis)] if data.draw(st.booleans()) else X[key]
        assert type(X) is MultimodalFeatureSets
        assert_same_items(X, expected)
        for name in X.names:
            sizes = np.array([len(item[name]) for item in expected], int)
            np.testing.assert_array_equal(X.lengths[name], sizes)
            np.testing.assert_array_equal(X.missing[name], sizes == 0)
            assert [x.tolist() for x in X[name]] == [item[name].tolist() for item in expected]


@given(all_lengths, st.data())
@settings(max_examples=30, deadline=None)
def test_pickle_keeps_only_rows_of_selected_items(lengths, data):
    X = make_sets(make_items(lengths))
    view = X[data.draw(keys(len(X)))]
    twin = pickle.loads(pickle.dumps(view))
    assert_same_items(twin, list(view))
    assert (twin.names, twin.n_features, twin.shape) == (view.names, view.n_features, view.shape)
    for name in view.names:
        assert twin._modalities[name]._source.rows.shape[0] == view.lengths[name].sum()


@given(all_lengths)
@settings(max_examples=30, deadline=None)
def test_from_items_builds_same_items(lengths):
    items = make_items(lengths)
    given = [
        {name: x if len(x) else None for name, x in item.items() if len(x) or i % 2}
        for i, item in enumerate(items)
    ]
    present = [name for name in items[0] if any(len(item[name]) for item in items)]
    if all(any(name in item for item in given) == (name in present) for name in items[0]):
        X = MultimodalFeatureSets.from_items(iter(given))
        assert sorted(X.names) == sorted(present)
        assert_same_items(X, [{name: item[name] for name in X.names} for item in items])
    else:
        with pytest.raises(ValueError, match="Leave the modality out"):
            MultimodalFeatureSets.from_items(given)


def test_from_items_orders_modalities_by_first_appearance():
    items = [{"b": np.ones((1, 2))}, {"a": np.ones((1, 3)), "b": None}]
    X = MultimodalFeatureSets.from_items(items)
    assert X.names == ["b", "a"]
    assert X.n_features == {"b": 2, "a": 3}


def test_container_follows_scikit_learn_protocol():
    X = make_sets(three)
    assert (X.shape, X.ndim, X.device, X.names) == ((3,), 1, "cpu", ["rgb", "audio"])
    assert X.n_features == {"rgb": 3, "audio": 2}
    assert X.in_memory
    assert not hasattr(X, "fit")
    assert not hasattr(X, "iloc")
    assert (X.label, X.id, X.group, X.weight) == (None,) * 4
    assert clone(X, safe=False) is X
    assert_same_items(X.take(np.array([2, 0])), [three[2], three[0]])
    assert_same_items(X.take([]), [])
    span = "rgb: 1..3 x 3 float64, audio: 0..4 x 2 float64 (1 missing)"
    assert repr(X) == f"MultimodalFeatureSets(n_items=3, {span})"
    none = "rgb: none x 3 float64, audio: none x 2 float64"
    assert repr(X[[]]) == f"MultimodalFeatureSets(n_items=0, {none})"


@pytest.mark.parametrize("dispatch", [False, True])
@pytest.mark.parametrize("indices", INDICES)
def test_safe_indexing_keeps_type(indices, dispatch):
    X = make_sets(three)
    with sklearn.config_context(array_api_dispatch=dispatch, skip_parameter_validation=True):
        selected = _safe_indexing(X, indices)
        if dispatch:
            assert get_namespace_and_device(X)[1:] == (True, "cpu")
    assert type(selected) is MultimodalFeatureSets
    assert_same_items(selected, [three[i] for i in np.arange(3)[indices]])


def test_getitem_returns_item_as_dict_and_modality_by_name():
    X = make_sets(three)
    for i in (1, -2, np.int64(1)):
        np.testing.assert_array_equal(X[i]["rgb"], three[1]["rgb"])
    assert X[1]["audio"].shape == (0, 2)
    assert type(X["audio"]) is FeatureSets
    np.testing.assert_array_equal(X[[2, 0]]["audio"].lengths, [4, 1])


def test_getitem_copies_no_features():
    X = make_sets(three)
    assert X[[2, 0]]["rgb"]._source is X["rgb"]._source
    assert np.shares_memory(X[1:]["rgb"].packed()[0], X["rgb"].packed()[0])


def test_init_accepts_views():
    X = make_sets(three)
    mixed = MultimodalFeatureSets({"rgb": X["rgb"][[2, 1]], "audio": X["audio"][:2]})
    expected = [
        {"rgb": three[1]["rgb"], "audio": three[1]["audio"]},
        {"rgb": three[2]["rgb"], "audio": three[0]["audio"]},
    ]
    assert_same_items(mixed[::-1], expected)
    assert_same_items(pickle.loads(pickle.dumps(mixed[[1, 0]])), expected)


RGB = FeatureSets.from_arrays([np.ones((2, 3))] * 2)
INVALID_MODALITIES = {
    "none": ({}, ValueError, "X has 0 modalities"),
    "slash": ({"a/b": RGB}, ValueError, "'a/b' is not a valid name of a modality"),
    "empty name": ({"": RGB}, ValueError, "'' is not a valid name of a modality"),
    "number": ({1: RGB}, ValueError, "1 is not a valid name of a modality"),
    "list": ({"rgb": [np.ones((2, 3))]}, TypeError, "'rgb' has type list; expected FeatureSets"),
    "counts": ({"rgb": RGB, "audio": RGB[:1]}, ValueError, "{'rgb': 2, 'audio': 1}"),
}


@pytest.mark.parametrize(
    ("modalities", "error", "message"), INVALID_MODALITIES.values(), ids=INVALID_MODALITIES
)
def test_init_rejects_invalid_modalities(modalities, error, message):
    with pytest.raises(error) as caught:
        MultimodalFeatureSets(modalities)
    assert message in str(caught.value)


INVALID_ITEMS = {
    "width": ([{"a": np.ones((1, 2))}, {"a": np.ones((3, 4))}], "X[1] has 4 features"),
    "shape": ([{"a": np.ones(2)}, {}], "X[0] has shape (2,)"),
    "ragged": ([{"a": [[1], [1, 2]]}, {"a": None}], "X[0] has rows of different lengths"),
    "dtype": ([{"a": np.ones((1, 2))}, {"a": np.ones((1, 2), "f4")}], "X[1] has dtype float32"),
    "all none": ([{"a": None}, {}], "All 2 items are None"),
}


@pytest.mark.parametrize(("items", "message"), INVALID_ITEMS.values(), ids=INVALID_ITEMS)
def test_from_items_names_modality_of_invalid_item(items, message):
    with pytest.raises(ValueError) as caught:
        MultimodalFeatureSets.from_items(items)
    assert str(caught.value).startswith(f"In modality 'a': {message}")


def test_getitem_and_take_reject_invalid_index():
    X = make_sets(three)
    with pytest.raises(KeyError, match=r"no modality 'depth'; the modalities are \['rgb'"):
        X["depth"]
    with pytest.raises(IndexError, match="out of bounds"):
        X[3]
    with pytest.raises(IndexError, match=r"MultimodalFeatureSets has one dimension"):
        X[np.zeros((2, 2), int)]
    with pytest.raises(ValueError, match="axis must be 0"):
        X.take([0], axis=1)


def test_asarray_raises_type_error():
    message = r"MultimodalFeatureSets cannot be converted to one array.*X\[name\]\.packed\(\)"
    with pytest.raises(TypeError, match=message):
        np.asarray(make_sets(three))


@pytest.fixture
def learnable():
    y = np.arange(24) % 2
    rng = np.random.default_rng(0)
    items = [
        {"rgb": rng.normal(size=(1 + i % 3, 3)) + 4 * y[i], "audio": rng.normal(size=(i % 4, 2))}
        for i in range(24)
    ]
    return make_sets(items), y


def small_classifier():
    return MultimodalAttentionClusterClassifier(
        cluster_size=2, max_iter=2, tol=None, random_state=0
    )


def test_splitters_give_views(learnable):
    X, y = learnable
    train, test, y_train, _ = train_test_split(X, y, stratify=y, random_state=0)
    assert type(train) is type(test) is MultimodalFeatureSets
    assert sorted([*train.numbers, *test.numbers]) == list(range(24))
    assert small_classifier().fit(train, y_train).predict(test).shape == (6,)
    for train_numbers, test_numbers in KFold(4).split(X):
        assert len(X[train_numbers]) == 18
        assert_same_items(X[test_numbers], [X[i] for i in test_numbers])


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_grid_search_fits_views(learnable, n_jobs):
    X, y = learnable
    search = GridSearchCV(
        small_classifier(), {"cluster_size": [1, 2]}, cv=2, n_jobs=n_jobs, error_score="raise"
    )
    with parallel_config(backend="multiprocessing"):  # its processes start in no time
        search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == y.shape


def stored(folder, ids, width=3):
    X = FeatureSets.from_arrays([np.full((2, width), i) for i in range(len(ids))])
    save_feature_sets(folder, X, id=ids)
    return open_feature_sets(folder)


class TestItemsOfSeveralStores:
    def test_one_id_at_two_positions_is_an_error(self, tmp_path):
        rgb = stored(tmp_path / "rgb.zarr", ["a", "b", "c"])
        audio = stored(tmp_path / "audio.zarr", ["c", "b", "a"], width=2)
        expected = "^Item 0 has the id 'a' in modality 'rgb' and 'c' in 'audio'. Modalities have"
        in_memory = FeatureSets.from_arrays([np.ones((1, 4))] * 3)
        for sets in ({"rgb": rgb, "audio": audio}, {"x": in_memory, "rgb": rgb, "audio": audio}):
            with pytest.raises(ValueError, match=expected):
                MultimodalFeatureSets(sets)
        paths = {"rgb": str(tmp_path / "rgb.zarr"), "audio": str(tmp_path / "audio.zarr")}
        with pytest.raises(ValueError, match=expected):
            MultimodalAttentionClusterClassifier().fit(paths, [0, 1, 0])
        X = MultimodalFeatureSets({"rgb": rgb, "audio": audio[::-1]})
        assert X.id.tolist() == ["a", "b", "c"]

    def test_save_feature_sets_compares_the_ids_of_several_stores(self, tmp_path):
        rgb = stored(tmp_path / "rgb.zarr", ["a", "b"])
        audio = stored(tmp_path / "audio.zarr", ["b", "a"])
        path = tmp_path / "both.zarr"
        for one in (audio, str(tmp_path / "audio.zarr"), audio[[0, 1, 1]]):
            with pytest.raises(ValueError, match="Item 0 has the id 'a' in modality 'rgb' and 'b'"):
                save_feature_sets(path, {"rgb": rgb, "audio": one})
            assert not path.exists()
        save_feature_sets(path, {"rgb": rgb, "audio": audio[::-1]})
        assert open_feature_sets(path)["audio"][0].max() == 1

    def test_items_of_one_store_may_be_paired(self, tmp_path):
        X = stored(tmp_path / "X.zarr", ["a", "b", "c"])
        pairs = MultimodalFeatureSets({"current": X[1:], "previous": X[:-1]})
        assert pairs.id.tolist() == ["b", "c"]
        assert [int(one["previous"][0, 0]) for one in pairs] == [0, 1]

    def test_other_ids_and_no_ids_are_taken_in_their_order(self, tmp_path):
        rgb = stored(tmp_path / "rgb.zarr", ["a.avi", "b.avi"])
        audio = stored(tmp_path / "audio.zarr", ["b.wav", "a.wav"])
        save_feature_sets(tmp_path / "unnamed.zarr", rgb.load())
        unnamed = open_feature_sets(tmp_path / "unnamed.zarr")
        X = MultimodalFeatureSets({"rgb": rgb, "audio": audio, "unnamed": unnamed})
        assert X.id.tolist() == ["a.avi", "b.avi"]

    def test_all_stores_are_compared_with_each_other(self, tmp_path):
        videos = stored(tmp_path / "videos.zarr", ["a.avi", "b.avi"])
        rgb = stored(tmp_path / "rgb.zarr", ["a", "b"])
        audio = stored(tmp_path / "audio.zarr", ["b", "a"])
        save_feature_sets(tmp_path / "unnamed.zarr", rgb.load())
        unnamed = open_feature_sets(tmp_path / "unnamed.zarr")
        for first in (videos, unnamed):
            with pytest.raises(ValueError, match="Item 0 has the id 'a' in modality 'rgb' and 'b'"):
                MultimodalFeatureSets({"first": first, "rgb": rgb, "audio": audio})

    def test_ids_are_read_once_for_a_container(self, tmp_path, monkeypatch):
        ids, read = [f"item{i}" for i in range(12)], []
        X = MultimodalFeatureSets(
            {name: stored(tmp_path / name, ids)[::-1] for name in ("rgb", "audio")}
        )
        monkeypatch.setattr(_reader, "read_column", lambda array, path: read.append(path))
        clf = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=1, tol=None)
        clf.fit(X, np.arange(12) % 2)
        assert len(clf.predict(X[:2])) == 2
        assert LocalFeatureTransformer("passthrough").fit_transform(X).names == X.names
        assert X[["rgb", "audio"]].names == X.names
        assert not read  # they may be those of a million items
