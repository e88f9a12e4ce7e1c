"""MultimodalFeatureSets indexes like a list of dicts, copies nothing, and travels small."""

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

from acluster import FeatureSets, MultimodalAttentionClusterClassifier, MultimodalFeatureSets

WIDTHS = {"rgb": 3, "audio": 2, "text": 1}
INDICES = [[0, 2], np.array([2, 0]), np.array([True, False, True]), slice(0, 2), [True] * 3]


def make_items(lengths):
    """A dict of arrays per item; no two rows are alike. Missing modalities have 0 rows."""
    rng = np.random.default_rng(len(lengths))
    return [
        {
            name: rng.permutation(2000)[: n * WIDTHS[name]].reshape(n, -1).astype(float)
            if n
            else np.empty((0, WIDTHS[name]))
            for name, n in zip(WIDTHS, item, strict=False)
        }
        for item in lengths
    ]


def make_sets(items):
    names = list(items[0])
    return MultimodalFeatureSets(
        {name: FeatureSets.from_arrays([item[name] for item in items]) for name in names}
    )


def assert_same_items(X, items):
    assert len(X) == len(items)
    for item, expected in zip(X, items, strict=True):
        assert list(item) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(item[name], values)


def keys(n):
    """Every form in which `n` items are indexed."""
    numbers = st.lists(st.integers(-n, n - 1), max_size=20) if n else st.just([])
    mask = st.lists(st.booleans(), min_size=n, max_size=n)
    arrays = numbers.map(lambda key: np.array(key, int)) | mask.map(lambda key: np.array(key, bool))
    return st.slices(n) | numbers | mask | arrays


def numbers_of(key, n):
    return np.arange(n)[np.array(key, int) if isinstance(key, list) and not key else key]


all_lengths = st.integers(1, 3).flatmap(
    lambda n_modalities: st.lists(
        st.tuples(*[st.integers(0, 4)] * n_modalities).filter(any), min_size=1, max_size=10
    )
)
three = make_items([(2, 1), (3, 0), (1, 4)])


@given(all_lengths, st.data())
@settings(max_examples=80, deadline=None)
def test_chains_of_selections_are_those_of_a_list(lengths, data):
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
@settings(max_examples=50, deadline=None)
def test_pickling_keeps_the_items_and_only_their_rows(lengths, data):
    X = make_sets(make_items(lengths))
    view = X[data.draw(keys(len(X)))]
    twin = pickle.loads(pickle.dumps(view))
    assert_same_items(twin, list(view))
    assert (twin.names, twin.n_features, twin.shape) == (view.names, view.n_features, view.shape)
    for name in view.names:
        assert twin._modalities[name]._source.rows.shape[0] == view.lengths[name].sum()


@given(all_lengths)
@settings(max_examples=50, deadline=None)
def test_from_items(lengths):
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
        with pytest.raises(ValueError, match="leave the modality out"):
            MultimodalFeatureSets.from_items(given)


def test_modalities_come_in_the_order_in_which_they_turn_up():
    items = [{"b": np.ones((1, 2))}, {"a": np.ones((1, 3)), "b": None}]
    X = MultimodalFeatureSets.from_items(items)
    assert X.names == ["b", "a"]
    assert X.n_features == {"b": 2, "a": 3}


def test_protocol_of_scikit_learn():
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
def test_safe_indexing_keeps_the_type(indices, dispatch):
    X = make_sets(three)
    with sklearn.config_context(array_api_dispatch=dispatch, skip_parameter_validation=True):
        selected = _safe_indexing(X, indices)
        if dispatch:
            assert get_namespace_and_device(X)[1:] == (True, "cpu")
    assert type(selected) is MultimodalFeatureSets
    assert_same_items(selected, [three[i] for i in np.arange(3)[indices]])


def test_an_item_is_a_dict_and_a_name_gives_a_modality():
    X = make_sets(three)
    for i in (1, -2, np.int64(1)):
        np.testing.assert_array_equal(X[i]["rgb"], three[1]["rgb"])
    assert X[1]["audio"].shape == (0, 2)
    assert type(X["audio"]) is FeatureSets
    np.testing.assert_array_equal(X[[2, 0]]["audio"].lengths, [4, 1])


def test_a_view_copies_no_features():
    X = make_sets(three)
    assert X[[2, 0]]["rgb"]._source is X["rgb"]._source
    assert np.shares_memory(X[1:]["rgb"].packed()[0], X["rgb"].packed()[0])


def test_modalities_that_are_views():
    X = make_sets(three)
    mixed = MultimodalFeatureSets({"rgb": X["rgb"][[2, 1]], "audio": X["audio"][:2]})
    expected = [
        {"rgb": three[1]["rgb"], "audio": three[1]["audio"]},
        {"rgb": three[2]["rgb"], "audio": three[0]["audio"]},
    ]
    assert_same_items(mixed[::-1], expected)
    assert_same_items(pickle.loads(pickle.dumps(mixed[[1, 0]])), expected)


RGB = FeatureSets.from_arrays([np.ones((2, 3))] * 2)
WRONG = {
    "none": ({}, ValueError, "There is no modality"),
    "slash": ({"a/b": RGB}, ValueError, "'a/b' is not the name of a modality"),
    "empty name": ({"": RGB}, ValueError, "'' is not the name of a modality"),
    "number": ({1: RGB}, ValueError, "1 is not the name of a modality"),
    "list": ({"rgb": [np.ones((2, 3))]}, TypeError, "'rgb' is a list; expected FeatureSets"),
    "counts": ({"rgb": RGB, "audio": RGB[:1]}, ValueError, "{'rgb': 2, 'audio': 1}"),
}


@pytest.mark.parametrize(("modalities", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_modalities(modalities, error, message):
    with pytest.raises(error) as caught:
        MultimodalFeatureSets(modalities)
    assert message in str(caught.value)


WRONG_ITEMS = {
    "width": ([{"a": np.ones((1, 2))}, {"a": np.ones((3, 4))}], "X[1] has 4 features"),
    "shape": ([{"a": np.ones(2)}, {}], "X[0] has shape (2,)"),
    "ragged": ([{"a": [[1], [1, 2]]}, {"a": None}], "X[0] has rows of differing length"),
    "dtype": ([{"a": np.ones((1, 2))}, {"a": np.ones((1, 2), "f4")}], "X[1] has dtype float32"),
    "all none": ([{"a": None}, {}], "All 2 items are None"),
}


@pytest.mark.parametrize(("items", "message"), WRONG_ITEMS.values(), ids=WRONG_ITEMS)
def test_wrong_items_are_named_with_their_modality(items, message):
    with pytest.raises(ValueError) as caught:
        MultimodalFeatureSets.from_items(items)
    assert str(caught.value).startswith(f"In modality 'a': {message}")


def test_wrong_indices():
    X = make_sets(three)
    with pytest.raises(KeyError, match=r"no modality 'depth'; there are \['rgb', 'audio'\]"):
        X["depth"]
    with pytest.raises(IndexError, match="out of bounds"):
        X[3]
    with pytest.raises(IndexError, match=r"MultimodalFeatureSets has one dimension"):
        X[np.zeros((2, 2), int)]
    with pytest.raises(ValueError, match="axis must be 0"):
        X.take([0], axis=1)


def test_it_does_not_become_an_array():
    message = r"MultimodalFeatureSets does not become one array.*X\[name\]\.packed\(\)"
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


def test_splitters(learnable):
    X, y = learnable
    train, test, y_train, _ = train_test_split(X, y, stratify=y, random_state=0)
    assert type(train) is type(test) is MultimodalFeatureSets
    assert sorted([*train.numbers, *test.numbers]) == list(range(24))
    assert small_classifier().fit(train, y_train).predict(test).shape == (6,)
    for train_numbers, test_numbers in KFold(4).split(X):
        assert len(X[train_numbers]) == 18
        assert_same_items(X[test_numbers], [X[i] for i in test_numbers])


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_grid_search(learnable, n_jobs):
    X, y = learnable
    search = GridSearchCV(
        small_classifier(), {"cluster_size": [1, 2]}, cv=2, n_jobs=n_jobs, error_score="raise"
    )
    with parallel_config(backend="multiprocessing"):  # its processes start in no time
        search.fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.predict(X).shape == y.shape
