"""Places follow their local features through every selection, copy and pickle."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from acluster import AttentionClusterClassifier, FeatureSets, MultimodalFeatureSets
from acluster.preprocessing import LocalFeatureTransformer
from tests.sets.helpers import keys, numbers_of

lengths_lists = st.lists(st.integers(0, 5), min_size=1, max_size=12)
names_lists = st.lists(st.sampled_from(["seconds", "x", "y", "mpp"]), min_size=1, unique=True)


def make_items(lengths, names=("seconds",)):
    """Features and places per item; no two numbers are alike."""
    n_columns = 2 + len(names)
    numbers = np.arange(sum(lengths) * n_columns, dtype=np.float64).reshape(-1, n_columns)
    tables = np.split(numbers, np.cumsum(lengths)[:-1])
    return [table[:, :2] for table in tables], [
        dict(zip(names, table[:, 2:].T, strict=True)) for table in tables
    ]


def make_sets(lengths, names=("seconds",)):
    arrays, places = make_items(lengths, names)
    return FeatureSets.from_arrays(arrays, places=places)


def assert_places(X, expected):
    """Check the places of a container against one mapping per item."""
    assert X.places.shape == X.shape
    assert X.places.dtype == np.float64
    np.testing.assert_array_equal(X.places.lengths, X.lengths)
    for table, own in zip(X.places, expected, strict=True):
        assert list(X.places.column_names) == list(own)
        np.testing.assert_array_equal(table, np.transpose([*own.values()]))


@st.composite
def cases(draw):
    lengths = draw(lengths_lists)
    key = draw(keys(len(lengths)))
    n_selected = len(numbers_of(key, len(lengths)))
    return lengths, draw(names_lists), key, draw(keys(n_selected))


COPIES = {
    "view": lambda X: X,
    "take": lambda X: X.take(np.arange(len(X))),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda X: pickle.loads(pickle.dumps(X)),
    "load": lambda X: X.load(),
    "modality": lambda X: MultimodalFeatureSets({"a": X, "b": X})["b"],
    "modality of view": lambda X: MultimodalFeatureSets({"a": X})[: len(X)]["a"],
    "pickled modality": lambda X: pickle.loads(pickle.dumps(MultimodalFeatureSets({"a": X})))["a"],
    "packed": lambda X: FeatureSets(*X.packed(), places=X.places),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@given(cases())
@settings(max_examples=40, deadline=None)
def test_places_follow_selections(copied, case):
    lengths, names, key, inner = case
    _, places = make_items(lengths, names)
    numbers = numbers_of(key, len(lengths))
    X = copied(make_sets(lengths, names)[key])
    assert_places(X, [places[i] for i in numbers])
    selected = numbers[numbers_of(inner, len(numbers))]
    assert_places(copied(X[inner]), [places[i] for i in selected])


def test_places_of_multimodal_items_that_lack_a_modality():
    rgb = make_sets([2, 1, 3])
    audio = FeatureSets(np.ones((2, 4)), [0, 2, 2, 2], places={"seconds": [0.5, 1.5]})
    text = FeatureSets.from_arrays([np.ones((1, 1))] * 3)
    X = MultimodalFeatureSets({"rgb": rgb, "audio": audio, "text": text})[[2, 0]]
    assert X["audio"].places[0].shape == (0, 1)
    np.testing.assert_array_equal(X["audio"].places[1], [[0.5], [1.5]])
    np.testing.assert_array_equal(X["rgb"].places.lengths, [3, 2])
    assert X["text"].places is None


def test_selection_of_places_copies_nothing():
    X = make_sets([2, 3, 1])
    view = X[[2, 0]]
    assert view.places._source is X.places._source
    assert view.places._items is view._items


def test_pickle_of_view_keeps_only_places_of_selected_items():
    X = make_sets([2, 300, 1])
    assert len(pickle.dumps(X[[0, 2]])) < len(pickle.dumps(X)) / 4


def test_init_takes_every_form_of_places():
    times = [0.0, 0.5, 1.0]
    for given_places in (times, np.array(times, np.float32), torch.tensor(times)):
        X = FeatureSets(np.ones((3, 2)), [0, 1, 3], places={"seconds": given_places})
        assert_places(X, [{"seconds": times[:1]}, {"seconds": times[1:]}])
    X = FeatureSets(np.ones((3, 2)), [0, 1, 3], places={"x": np.arange(3), "y": [2, 1, 0]})
    assert_places(X, [{"x": [0], "y": [2]}, {"x": [1, 2], "y": [1, 0]}])
    empty = FeatureSets(np.ones((0, 2)), [0, 0], places={"x": []})
    assert empty.places[0].shape == (0, 1)


def test_init_takes_data_frames_of_places():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": [1, 2, 3], "y": [4.0, 5.0, 6.0]})
    X = FeatureSets(np.ones((3, 2)), [0, 1, 3], places=frame)
    assert_places(X, [{"x": [1], "y": [4]}, {"x": [2, 3], "y": [5, 6]}])
    arrays = [np.ones((1, 2)), np.ones((2, 2))]
    X = FeatureSets.from_arrays(arrays, places=[frame[:1], frame[1:][["y", "x"]]])
    assert_places(X, [{"x": [1], "y": [4]}, {"x": [2, 3], "y": [5, 6]}])


def test_init_copies_places():
    times = np.zeros(3)
    X = FeatureSets(np.ones((3, 2)), [0, 1, 3], places={"seconds": times})
    times += 1
    assert not X.places.packed()[0].any()


def test_from_arrays_matches_places_by_name_and_skips_empty_items():
    arrays = [np.ones((0, 1)), np.ones((1, 1)), np.ones((2, 1))]
    places = [None, {"x": [1], "y": [2]}, {"y": [4, 6], "x": [3, 5]}]
    X = FeatureSets.from_arrays(iter(arrays), places=iter(places))
    np.testing.assert_array_equal(X.places.packed()[0], [[1, 2], [3, 4], [5, 6]])


@given(lengths_lists, names_lists, st.booleans())
def test_from_padded_equals_from_arrays(lengths, names, is_by_item):
    arrays, places = make_items(lengths, names)
    longest = max(lengths) + 1
    padded = np.full((len(lengths), longest, 2), np.nan)
    tables = {name: np.full((len(lengths), longest), np.nan) for name in names}
    for i, rows in enumerate(arrays):
        padded[i, : len(rows)] = rows
        for name in names:
            tables[name][i, : len(rows)] = places[i][name]
    X = FeatureSets.from_padded(padded, lengths, places=iter(places) if is_by_item else tables)
    np.testing.assert_array_equal(X.lengths, lengths)
    np.testing.assert_array_equal(X.packed()[0], np.concatenate(arrays))
    assert_places(X, places)
    assert_places(pickle.loads(pickle.dumps(X[::-1])).take([0]), places[-1:])


def test_from_padded_without_padding_takes_places():
    times = np.arange(6.0).reshape(2, 3)
    X = FeatureSets.from_padded(np.ones((2, 3, 4)), places={"seconds": times.tolist()})
    assert_places(X, [{"seconds": row} for row in times])
    X = FeatureSets.from_padded(np.ones((1, 3, 4)), places=[{"seconds": times[1]}])
    assert_places(X, [{"seconds": times[1]}])
    empty = FeatureSets.from_padded(np.ones((0, 3, 4)), places={"seconds": np.ones((0, 3))})
    assert empty.places.shape == (0,)


WRONG_PADDED = {
    "shape": ({"s": [0, 1, 2]}, ValueError, r"\['s'\] has shape \(3,\), .*2 items of 2 .*\(2, 2\)"),
    "NaN": ({"s": [[0, 0], [np.nan, 0]]}, ValueError, r"is nan for local feature 0 of X\[1\]"),
    "masked": ({"s": np.ma.array(np.ones((2, 2)), mask=np.eye(2))}, ValueError, "masked values"),
    "one entry": ([{"s": [0, 1]}], ValueError, "places has 1 entries, but X has 2 items"),
    "padded entry": ([{"s": [0, 1]}, {"s": [0, 1]}], ValueError, r"places\[1\]\['s'\] has shape"),
}


@pytest.mark.parametrize(("places", "error", "message"), WRONG_PADDED.values(), ids=WRONG_PADDED)
def test_from_padded_rejects_wrong_places(places, error, message):
    with pytest.raises(error, match=message):
        FeatureSets.from_padded(np.ones((2, 2, 3)), [2, 1], places=places)


@st.composite
def multimodal_cases(draw):
    """Lengths of three modalities of the same items, the last of them without places."""
    n = draw(st.integers(1, 8))
    lengths = {
        name: draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)) for name in ("a", "b", "c")
    }
    lengths["a"][0] = lengths["b"][-1] = lengths["c"][0] = 2  # no modality is empty
    return lengths, draw(keys(n)), draw(st.booleans())


@given(multimodal_cases())
def test_from_items_equals_from_arrays(case):
    lengths, key, leaves_out = case
    made = {name: make_items(own, ["x", "y"]) for name, own in lengths.items()}
    n = len(lengths["a"])

    def gather(part, names):
        """Collect what each item has, with or without modalities that it lacks."""
        return [
            {name: made[name][part][i] for name in names if lengths[name][i] or not leaves_out}
            for i in range(n)
        ]

    items, places = gather(0, "abc"), [own or None for own in gather(1, "ab")]
    X = MultimodalFeatureSets.from_items(items, places=iter(places))
    assert X["c"].places is None
    for name in "ab":
        expected = FeatureSets.from_arrays(*made[name][:1], places=made[name][1])
        assert_places(X[name], made[name][1])
        np.testing.assert_array_equal(X[name].packed()[0], expected.packed()[0])
    numbers = numbers_of(key, n)
    for view in (X[key], pickle.loads(pickle.dumps(X[key])), X.take(numbers)):
        assert view["c"].places is None
        assert_places(view["b"], [made["b"][1][i] for i in numbers])


S = {"s": [0.5]}
WRONG_BY_MODALITY = {
    "NaN": ([{"a": {"s": [np.nan]}}, {"a": S}], ValueError, r"'a': places\[0\]\['s'\] is nan"),
    "absent": ([{"a": S}, None], TypeError, r"modality 'a': places\[1\] has type NoneType"),
    "lacking": ([{"a": S, "b": S}] * 2, ValueError, r"'b': places\[1\].*there are 0 local"),
    "unknown": (
        [S, None],
        ValueError,
        r"places\[0\] has the key 's', but the modalities are \['a'",
    ),
    "fewer": ([{"a": S}], ValueError, "places has 1 entries, but X has 2 items"),
    "list": ([[0.5], None], TypeError, r"places\[0\] has type list; pass a mapping of modality"),
    "one mapping": ({"a": S}, TypeError, "places has type dict, which is one for all items"),
}


@pytest.mark.parametrize(
    ("places", "error", "message"), WRONG_BY_MODALITY.values(), ids=WRONG_BY_MODALITY
)
def test_from_items_rejects_wrong_places(places, error, message):
    items = [{"a": np.ones((1, 2)), "b": np.ones((1, 3))}, {"a": np.ones((1, 2))}]
    with pytest.raises(error, match=message):
        MultimodalFeatureSets.from_items(items, places=places)


def test_from_items_without_any_places_has_none():
    X = MultimodalFeatureSets.from_items([{"a": np.ones((1, 2))}], places=[None])
    assert X["a"].places is None


WRONG = {
    "length": ({"s": [0, 1]}, r"places\['s'\] has shape \(2,\), but there are 3 local features"),
    "dimensions": ({"s": np.ones((3, 1))}, r"places\['s'\] has shape \(3, 1\)"),
    "NaN": ({"s": [0, 1, np.nan]}, r"places\['s'\] is nan for local feature 1 of X\[1\]. .*finite"),
    "infinity": ({"s": [-np.inf, 1, 2]}, r"is -inf for local feature 0 of X\[0\]"),
    "text": ({"s": ["a", "b", "c"]}, r"places\['s'\] has dtype <U1; a place must be a real number"),
    "dates": ({"s": np.zeros(3, "M8[s]")}, r"dtype datetime64.*Convert times to seconds"),
    "booleans": ({"s": [True, False, True]}, r"has dtype bool"),
    "complex": ({"s": [1j, 0, 0]}, r"has dtype complex128"),
    "masked": ({"s": np.ma.array([0, 1, 2], mask=[0, 1, 0])}, r"places\['s'\] has masked values"),
    "large": ({"s": [0, 1, 2**53 + 1]}, r"has the integer 9007199254740993, which float64 may"),
    "no columns": ({}, r"places has the columns \[\]; it needs at least one"),
    "a number as name": ({0: [0, 1, 2]}, r"places has the columns \[0\]; .*non-empty string"),
    "an empty name": ({"": [0, 1, 2]}, r"places has the columns \[''\]"),
}


@pytest.mark.parametrize(("places", "message"), WRONG.values(), ids=WRONG)
def test_init_rejects_wrong_places(places, message):
    with pytest.raises(ValueError, match=message):
        FeatureSets(np.ones((3, 2)), [0, 1, 3], places=places)


@pytest.mark.parametrize("places", [[0.0, 0.5, 1.0], np.zeros(3), 3])
def test_init_rejects_places_without_names(places):
    with pytest.raises(TypeError, match=r"places has type .*pass a mapping"):
        FeatureSets(np.ones((3, 2)), [0, 1, 3], places=places)


def test_init_rejects_places_of_other_sets():
    values, places = np.ones((3, 2)), make_sets([1, 2]).places
    with pytest.raises(ValueError, match=r"places\[0\] has 1 rows, but X\[0\] has 2 local"):
        FeatureSets(values, [0, 2, 3], places=places)
    with pytest.raises(ValueError, match="places has 2 items, but X has 1"):
        FeatureSets(values, [0, 3], places=places)
    with pytest.raises(ValueError, match="float64 with named columns"):
        FeatureSets(values, [0, 1, 3], places=FeatureSets(values, [0, 1, 3]))


WRONG_ITEMS = {
    "length": ([{"s": [0]}, {"s": [0]}], ValueError, r"places\[1\]\['s'\] has shape \(1,\), but"),
    "NaN": ([{"s": [0]}, {"s": [0, np.nan]}], ValueError, r"\[1\]\['s'\] is nan for local featu"),
    "names": ([{"s": [0]}, {"t": [0, 1]}], ValueError, r"places\[1\] has the .* places\[0\] has"),
    "more names": ([{"s": [0]}, {"s": [0, 1], "t": [0, 1]}], ValueError, r"places\[1\] has the co"),
    "None": ([{"s": [0]}, None], TypeError, r"places\[1\] has type NoneType; pass a mapping"),
    "fewer": ([{"s": [0]}], ValueError, r"places has 1 entries, but X has 2 items"),
    "more": ([{"s": [0]}] * 3, ValueError, r"places has 3 entries, but X has 2 items"),
    "one mapping": ({"s": [0, 1, 2]}, TypeError, r"places has type dict, which is one for all"),
}


@pytest.mark.parametrize(("places", "error", "message"), WRONG_ITEMS.values(), ids=WRONG_ITEMS)
def test_from_arrays_rejects_wrong_places(places, error, message):
    with pytest.raises(error, match=message):
        FeatureSets.from_arrays([np.ones((1, 2)), np.ones((2, 2))], places=places)


def test_from_arrays_rejects_places_that_are_all_none():
    with pytest.raises(ValueError, match="places is None for all items"):
        FeatureSets.from_arrays([np.ones((0, 2))], places=[None])


def test_repr_shows_names_of_places():
    X = make_sets([2, 1], ["x", "y"])
    expected = (
        "FeatureSets(n_items=2, n_features=2, lengths=1..2, dtype=float64, places=['x', 'y'])"
    )
    assert repr(X) == expected


def test_places_do_not_change_predictions():
    y = np.arange(20) % 2
    arrays, places = make_items([1 + i % 4 for i in range(20)])
    options = {"cluster_size": 2, "max_iter": 2, "random_state": 0}
    X = FeatureSets.from_arrays(arrays, places=places)
    clf = AttentionClusterClassifier(**options).fit(X, y)
    expected = AttentionClusterClassifier(**options).fit(arrays, y).predict_proba(arrays)
    np.testing.assert_array_equal(clf.predict_proba(X), expected)


def test_local_feature_transformer_keeps_places():
    X = make_sets([2, 1, 3])
    transformed = LocalFeatureTransformer(StandardScaler()).fit_transform(X[[2, 0]])
    assert transformed.places is not None
    np.testing.assert_array_equal(transformed.places.packed()[0], X[[2, 0]].places.packed()[0])


def test_local_feature_transformer_keeps_places_of_frames_in_another_order():
    pd = pytest.importorskip("pandas")
    frames = [pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 5.0]}) for _ in range(2)]
    transformer = LocalFeatureTransformer(StandardScaler()).fit(FeatureSets.from_arrays(frames))
    places = [{"seconds": [i, i + 0.5]} for i in range(2)]
    X = FeatureSets.from_arrays([frame[["b", "a"]] for frame in frames], places=places)
    transformed = transformer.transform(X)
    np.testing.assert_array_equal(transformed[0], [[-1, -1], [1, 1]])
    assert_places(transformed, places)


def test_containers_of_older_pickles_have_no_places():
    X = FeatureSets.from_arrays([np.ones((2, 3))])
    state = X.__getstate__()
    del state["_source"].__dict__["places"]
    older = object.__new__(FeatureSets)
    older.__setstate__(state)
    assert older.places is None
    assert older[:1].load().places is None
