"""FeatureSets indexes like an array of items, copies no features, and pickles small."""

import pickle

import numpy as np
import pytest
import sklearn
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.utils import _safe_indexing

from acluster import FeatureSets
from acluster.sets._feature_sets import pieces, spaced_rows


def arrays_of(lengths, n_features=3, dtype=np.float64):
    rng = np.random.default_rng(len(lengths))
    return [rng.normal(size=(length, n_features)).astype(dtype) for length in lengths]


def assert_same_items(X, arrays):
    assert len(X) == len(arrays)
    for item, array in zip(X, arrays, strict=True):
        np.testing.assert_array_equal(item, array)


lengths_lists = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@st.composite
def sets_and_key(draw):
    lengths = draw(lengths_lists)
    n = len(lengths)
    key = draw(
        st.one_of(
            st.slices(n),
            st.lists(st.integers(-n, n - 1), max_size=20),
            st.lists(st.booleans(), min_size=n, max_size=n),
            st.lists(st.integers(-n, n - 1), max_size=20).map(lambda k: np.array(k, dtype=int)),
            st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
        )
    )
    return lengths, key


@given(sets_and_key(), st.integers(1, 20), st.booleans())
@settings(deadline=None)
def test_pieces_are_the_packed_rows(case, max_rows, has_room):
    lengths, key = case
    X = FeatureSets.from_arrays(arrays_of(lengths))[key]
    room = np.empty((max_rows, 3)) if has_room else None
    found = [piece.copy() for piece in pieces(X, max_rows, room)]
    assert all(len(piece) == max_rows for piece in found[:-1])
    np.testing.assert_array_equal(np.concatenate([np.empty((0, 3)), *found]), X.packed()[0])


@given(sets_and_key(), st.integers(1, 80))
@settings(deadline=None)
def test_spaced_rows_are_rows_of_the_selected_sets(case, max_rows):
    lengths, key = case
    X = FeatureSets.from_arrays(arrays_of(lengths))[key]
    rows, (packed, _) = spaced_rows(X, max_rows), X.packed()
    assert len(rows) == min(len(packed), max_rows)
    places = [np.flatnonzero((packed == row).all(axis=1)) for row in rows]
    assert all(map(len, places))
    if len(rows) > 1:  # from the first to the last
        np.testing.assert_array_equal(rows[[0, -1]], packed[[0, -1]])


@given(sets_and_key())
@settings(max_examples=100, deadline=None)
def test_getitem_selects_like_object_array(case):
    lengths, key = case
    arrays = arrays_of(lengths)
    as_objects = np.empty(len(arrays), dtype=object)
    as_objects[:] = arrays
    expected = (
        as_objects[np.array(key, dtype=int) if key == [] else key]
        if isinstance(key, list)
        else as_objects[key]
    )
    X = FeatureSets.from_arrays(arrays)
    assert_same_items(X[key], list(expected))
    assert_same_items(X[(key, Ellipsis)], list(expected))


@given(sets_and_key(), st.data())
@settings(max_examples=60, deadline=None)
def test_getitem_of_view_selects_from_view(case, data):
    lengths, key = case
    X = FeatureSets.from_arrays(arrays_of(lengths))
    first = X[key]
    inner = data.draw(
        st.lists(st.integers(0, len(first) - 1), max_size=8) if len(first) else st.just([])
    )
    numbers = np.arange(len(X))[
        np.array(key, dtype=int) if isinstance(key, list) and not key else key
    ]
    assert_same_items(first[inner], [X[i] for i in numbers[np.array(inner, dtype=int)]])


@given(sets_and_key())
@settings(max_examples=50, deadline=None)
def test_packed_and_locate_return_items_end_to_end(case):
    lengths, key = case
    view = FeatureSets.from_arrays(arrays_of(lengths))[key]
    values, offsets = view.packed()
    assert offsets[0] == 0
    assert offsets[-1] == len(values)
    assert_same_items(FeatureSets(values, offsets), list(view))
    np.testing.assert_array_equal(view.lengths, [len(item) for item in view])
    everything, rows = view.locate()
    np.testing.assert_array_equal(everything[rows], values)


@given(sets_and_key())
@settings(max_examples=30, deadline=None)
def test_pickle_keeps_only_rows_of_selected_items(case):
    lengths, key = case
    view = FeatureSets.from_arrays(arrays_of(lengths))[key]
    copy = pickle.loads(pickle.dumps(view))
    assert_same_items(copy, list(view))
    assert copy.n_features == view.n_features
    assert copy._source.rows.shape[0] == view.lengths.sum()


def test_getitem_int_returns_view_of_array():
    arrays = arrays_of([2, 3])
    X = FeatureSets.from_arrays(arrays)
    np.testing.assert_array_equal(X[1], arrays[1])
    np.testing.assert_array_equal(X[-2], arrays[0])
    np.testing.assert_array_equal(X[np.int64(0)], arrays[0])
    assert X[0].base is not None


def test_getitem_copies_no_features():
    X = FeatureSets.from_arrays(arrays_of([2, 3, 1]))
    assert X[[2, 0]]._source is X._source
    assert np.shares_memory(X[1:].packed()[0], X._source.rows.values)
    assert np.shares_memory(X.packed()[0], X._source.rows.values)


def test_container_follows_scikit_learn_protocol():
    X = FeatureSets.from_arrays(arrays_of([2, 3, 1]))
    assert X.shape == (3,)
    assert X.ndim == 1
    assert X.device == "cpu"
    assert not hasattr(X, "fit")
    assert not hasattr(X, "iloc")
    assert clone(X, safe=False) is X
    assert_same_items(X.take(np.array([2, 0])), [X[2], X[0]])
    assert repr(X) == "FeatureSets(n_items=3, n_features=3, lengths=1..3, dtype=float64)"
    assert repr(X[[]]) == "FeatureSets(n_items=0, n_features=3, lengths=none, dtype=float64)"


@pytest.mark.parametrize("dispatch", [False, True])
@pytest.mark.parametrize(
    "indices", [[0, 2], np.array([2, 0]), np.array([True, False, True]), slice(0, 2), [True] * 3]
)
def test_safe_indexing_keeps_type(indices, dispatch):
    X = FeatureSets.from_arrays(arrays_of([2, 3, 1]))
    with sklearn.config_context(array_api_dispatch=dispatch, skip_parameter_validation=True):
        selected = _safe_indexing(X, indices)
    assert type(selected) is FeatureSets
    assert_same_items(selected, list(X[indices]))


class TestConstructors:
    def test_from_padded_without_lengths_copies_nothing(self):
        array = np.random.default_rng(0).normal(size=(4, 5, 2))
        X = FeatureSets.from_padded(array)
        assert np.shares_memory(X.packed()[0], array)
        assert_same_items(X, list(array))

    @given(st.lists(st.integers(0, 6), min_size=1, max_size=8))
    @settings(max_examples=50, deadline=None)
    def test_from_padded_drops_padding(self, lengths):
        array = np.random.default_rng(0).normal(size=(len(lengths), 6, 2))
        X = FeatureSets.from_padded(array, lengths)
        assert_same_items(X, [a[:n] for a, n in zip(array, lengths, strict=True)])

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int32])
    def test_from_arrays_accepts_tensors(self, dtype):
        tensors = [torch.ones(2, 3, dtype=dtype), torch.zeros(1, 3, dtype=dtype)]
        X = FeatureSets.from_arrays(tensors)
        assert str(X.dtype) == str(dtype).removeprefix("torch.")
        assert_same_items(X, [t.numpy() for t in tensors])

    def test_from_arrays_accepts_bfloat16_and_requires_grad(self):
        X = FeatureSets.from_arrays([torch.ones(2, 3, requires_grad=True)])
        assert X.dtype == np.float32
        X = FeatureSets.from_arrays([torch.full((2, 3), 1.5, dtype=torch.bfloat16)])
        assert X.dtype == np.float32
        assert (X[0] == 1.5).all()

    def test_init_accepts_tensors(self):
        X = FeatureSets(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 3]))
        np.testing.assert_array_equal(X[1], [[2, 3], [4, 5]])

    def test_from_arrays_accepts_object_array_and_nested_lists(self):
        objects = np.empty(2, dtype=object)
        objects[:] = arrays_of([2, 3])
        assert_same_items(FeatureSets.from_arrays(objects), list(objects))
        X = FeatureSets.from_arrays([[[1, 2]], [[3.5, 4], [5, 6]]])
        assert X.dtype == np.float64
        np.testing.assert_array_equal(X.lengths, [1, 2])

    def test_from_arrays_accepts_generator(self):
        assert len(FeatureSets.from_arrays(array for array in arrays_of([1, 2, 3]))) == 3


def test_located_warns_and_returns_locate():
    X = FeatureSets.from_arrays(arrays_of([2, 3]))
    with pytest.warns(FutureWarning, match="locate"):
        values, rows = X[1:].located()
    np.testing.assert_array_equal(values[rows], X[1])


def test_from_padded_of_no_items():
    empty = np.zeros((0, 3, 2))
    for options in ({}, {"lengths": []}, {"lengths": np.zeros(0, int)}):
        X = FeatureSets.from_padded(empty, **options)
        assert (len(X), X.n_features) == (0, 2)
    for nothing in ([], np.zeros((0, 3))):
        with pytest.raises(
            ValueError, match=r"has 0 items and the shape .* Pass at least one item"
        ):
            FeatureSets.from_padded(nothing)
    with pytest.raises(ValueError, match=r"places is a list for 0 items.* Leave it out"):
        FeatureSets.from_padded(empty, places=[])
    X = FeatureSets.from_padded(empty, places={"seconds": np.zeros((0, 3))})
    assert X.places.column_names == ("seconds",)
    with pytest.raises(ValueError, match=r"dimensions .* got shape \(\)"):
        FeatureSets.from_padded(3.0)
