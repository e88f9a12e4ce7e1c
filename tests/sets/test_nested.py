"""Sets in the tables and arrays of other libraries."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acluster import AttentionClusterClassifier, FeatureSets, MultimodalFeatureSets
from acluster.sets import as_feature_sets, group_rows

RNG = np.random.default_rng(0)
SETS = [RNG.normal(size=(n, 3)) for n in (2, 1, 4, 3)]
OTHERS = [RNG.normal(size=(n, 2)) if n else None for n in (1, 0, 2, 5)]
LISTS = [x.tolist() for x in SETS]
OTHER_LISTS = [None if x is None else x.tolist() for x in OTHERS]


def assert_same(X, sets):
    assert isinstance(X, FeatureSets)
    assert len(X) == len(sets)
    for own, expected in zip(X, sets, strict=True):
        np.testing.assert_array_equal(
            own, np.empty((0, own.shape[1])) if expected is None else expected
        )


def pandas_table(**columns):
    return pd.DataFrame(columns)


def pandas_arrow_table(**columns):
    pa = pytest.importorskip("pyarrow")
    table = pa.table(columns)
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def polars_table(**columns):
    return pytest.importorskip("polars").DataFrame(columns)


def pyarrow_table(**columns):
    return pytest.importorskip("pyarrow").table(columns)


def chunked_table(**columns):
    pa, table = pytest.importorskip("pyarrow"), pyarrow_table(**columns)
    return pa.concat_tables([table[:1], table[1:]])


def dataset(**columns):
    return pytest.importorskip("datasets").Dataset.from_dict(columns)


TABLES = [
    pandas_table, pandas_arrow_table, polars_table, pyarrow_table, chunked_table, dataset
]  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_as_feature_sets_of_a_column_of_lists(table):
    data = table(id=list("abcd"), x=LISTS, y=[0, 1, 0, 1])
    assert_same(as_feature_sets(data, "x"), SETS)
    assert_same(as_feature_sets(table(x=LISTS)), SETS)
    if table is not dataset:
        assert_same(as_feature_sets(data["x"]), SETS)


@pytest.mark.parametrize("table", TABLES)
def test_as_feature_sets_of_several_columns(table):
    X = as_feature_sets(table(id=list("abcd"), x=LISTS, z=OTHER_LISTS), ["z", "x"])
    assert isinstance(X, MultimodalFeatureSets)
    assert X.names == ["z", "x"]
    assert X.missing["z"].tolist() == [False, True, False, False]
    assert_same(X["x"], SETS)
    assert_same(X["z"], OTHERS)


def test_as_feature_sets_of_hugging_face_datasets_follows_its_selection():
    selected = dataset(x=LISTS).select([3, 0])
    assert_same(as_feature_sets(selected, "x"), [SETS[3], SETS[0]])
    assert_same(as_feature_sets(selected["x"]), [SETS[3], SETS[0]])


def test_as_feature_sets_of_polars_arrays_of_fixed_size():
    pl = pytest.importorskip("polars")
    column = pl.Series("x", LISTS, dtype=pl.List(pl.Array(pl.Float32, 3)))
    X = as_feature_sets(column)
    assert X.dtype == np.float32
    assert_same(X, [x.astype(np.float32) for x in SETS])


def test_as_feature_sets_of_cells_that_are_arrays():
    assert_same(as_feature_sets(pd.DataFrame({"x": SETS}), "x"), SETS)
    assert_same(as_feature_sets(pd.DataFrame({"x": [torch.tensor(x) for x in SETS]}), "x"), SETS)
    assert_same(as_feature_sets(SETS), SETS)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.integers(1, 5))
def test_as_feature_sets_of_awkward_arrays(lengths, width):
    ak = pytest.importorskip("awkward")
    flat = np.arange(sum(lengths) * width, dtype=np.float32).reshape(-1, width)
    array = ak.unflatten(ak.from_numpy(flat), lengths)
    expected = np.split(flat, np.cumsum(lengths)[:-1])
    assert_same(as_feature_sets(array), expected)
    assert_same(as_feature_sets(ak.from_iter([x.tolist() for x in expected])), expected)


def test_as_feature_sets_of_nested_series():
    # As sktime and aeon keep them: a series of varying length in each cell, a column per channel.
    frame = pd.DataFrame({f"dim_{k}": [pd.Series(x[:, k]) for x in SETS] for k in range(3)})
    assert_same(as_feature_sets(frame, layout="channels"), SETS)
    expected = [x[:, [2, 0]] for x in SETS]
    assert_same(as_feature_sets(frame, ["dim_2", "dim_0"], layout="channels"), expected)
    assert_same(as_feature_sets(frame, "dim_1", layout="channels"), [x[:, [1]] for x in SETS])
    with pytest.raises(ValueError, match="has shape"):
        as_feature_sets(frame, "dim_1")
    frame.at[2, "dim_1"] = pd.Series([1.0])
    with pytest.raises(
        ValueError, match=r"Item 2 has channels of the shapes \[\(4,\), \(1,\), \(4,\)\]"
    ):
        as_feature_sets(frame, layout="channels")


def test_as_feature_sets_of_the_data_of_sktime():
    datasets = pytest.importorskip("sktime.datasets")
    nested, _ = datasets.load_basic_motions(return_type="nested_univ")
    array, _ = datasets.load_basic_motions(return_type="numpy3D")
    assert_same(as_feature_sets(nested, layout="channels"), [x.T for x in array])


def test_as_feature_sets_of_the_data_of_aeon():
    datasets = pytest.importorskip("aeon.datasets")
    array, _ = datasets.load_basic_motions()
    assert_same(as_feature_sets(array, layout="channels"), [x.T for x in array])
    series, _ = datasets.load_japanese_vowels()  # of different lengths: a list
    assert_same(as_feature_sets(series, layout="channels"), [x.T for x in series])


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_as_feature_sets_of_collections_of_series(convert):
    series = RNG.normal(size=(5, 2, 7))
    X = as_feature_sets(convert(series), layout="channels")
    assert_same(X, [one.T for one in series])
    assert_same(as_feature_sets(convert(series)), [*series])
    assert_same(as_feature_sets([x.T for x in SETS], layout="channels"), SETS)


def test_as_feature_sets_of_a_mapping_of_modalities():
    series = RNG.normal(size=(4, 2, 7))
    X = as_feature_sets({"a": series, "b": [x.T for x in SETS]}, layout="channels")
    assert X.names == ["a", "b"]
    assert_same(X["a"], [x.T for x in series])
    assert_same(X["b"], SETS)


def test_as_feature_sets_returns_containers():
    X = FeatureSets.from_arrays(SETS)
    assert as_feature_sets(X) is X


def test_as_feature_sets_is_what_a_classifier_takes():
    X = as_feature_sets(pandas_table(x=LISTS), "x")
    clf = AttentionClusterClassifier(max_iter=2, random_state=0)
    expected = clf.fit(SETS, [0, 1, 0, 1]).predict_proba(SETS)
    assert np.array_equal(clf.fit(X, [0, 1, 0, 1]).predict_proba(X), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((pandas_table(x=LISTS, y=[1, 2, 3, 4]),), r"a table with the columns \['x', 'y'\]"),
        ((pandas_table(x=LISTS), "y"), "no column 'y'"),
        ((SETS, "x"), "columns='x' needs a table"),
        ((pandas_table(x=[[1.0], [2.0]]), "x"), r"X\[0\] has shape \(1,\)"),
        ((pandas_table(x=[LISTS[0], None]), "x"), r"X\[1\]"),
    ],
)
def test_as_feature_sets_rejects(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        as_feature_sets(*arguments)


def test_as_feature_sets_rejects_layout():
    with pytest.raises(ValueError, match="layout='time' is not one of rows, channels"):
        as_feature_sets(SETS, layout="time")


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([[[1.0], [2.0, 3.0]]], "have 1..2 numbers"),
        ([[[1.0, None]]], "1 missing numbers"),
        ([[1.0]], "expected lists of lists of numbers"),
    ],
)
def test_as_feature_sets_rejects_columns_of_arrow(cells, message):
    with pytest.raises(ValueError, match=message):
        as_feature_sets(pyarrow_table(x=cells), "x")


def test_as_feature_sets_imports_no_other_library(monkeypatch):
    for name in ("pandas", "polars", "pyarrow", "awkward", "datasets"):
        monkeypatch.setitem(sys.modules, name, None)
    assert_same(as_feature_sets({"x": SETS}["x"]), SETS)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_group_rows_is_a_mask_per_key(by):
    rows = np.arange(2.0 * len(by)).reshape(-1, 2)
    X, keys = group_rows(rows, by)
    assert keys.tolist() == sorted({*by})
    for key, own in zip(keys, X, strict=True):
        np.testing.assert_array_equal(own, rows[np.array(by) == key])


def test_group_rows_of_a_data_frame_keeps_the_column_names():
    frame = pd.DataFrame({"u": [1.0, 2.0, 3.0], "v": 0.0, "video": ["b", "a", "b"]})
    X, keys = group_rows(frame[["u", "v"]], frame["video"].astype("category"))
    assert keys.tolist() == ["a", "b"]
    clf = AttentionClusterClassifier(max_iter=1).fit(X, [0, 1])
    assert clf.feature_names_in_.tolist() == ["u", "v"]


@pytest.mark.filterwarnings("ignore")
def test_group_rows_of_the_cells_of_donors():
    anndata = pytest.importorskip("anndata")
    sparse = pytest.importorskip("scipy.sparse")
    counts = RNG.poisson(1.0, size=(30, 6)).astype(np.float32)
    obs = pd.DataFrame({"donor": pd.Categorical(RNG.choice(["d1", "d2", "d3"], 30))})
    obs.index = obs.index.astype(str)
    cells = anndata.AnnData(sparse.csr_matrix(counts), obs=obs, obsm={"X_pca": counts[:, :2]})
    X, donors = group_rows(cells.obsm["X_pca"], cells.obs["donor"])
    for donor, own in zip(donors, X, strict=True):
        np.testing.assert_array_equal(own, counts[(obs["donor"] == donor).to_numpy(), :2])
    with pytest.raises(TypeError, match=r"which is sparse.*rows\.toarray\(\)"):
        group_rows(cells.X, cells.obs["donor"])
    assert len(group_rows(cells.X.toarray(), cells.obs["donor"])[0]) == 3


@pytest.mark.parametrize(
    ("rows", "by", "message"),
    [
        (np.ones((3, 2)), [1, 2], "by has 2 entries for 3 rows"),
        (np.ones((2, 2)), ["a", None], r"by\[1\]=None is missing"),
        (np.ones((2, 2)), [1.0, np.nan], r"by\[1\]=nan is missing"),
        (np.ones(2), [1, 2], "shape"),
    ],
)
def test_group_rows_rejects(rows, by, message):
    with pytest.raises(ValueError, match=message):
        group_rows(rows, by)
