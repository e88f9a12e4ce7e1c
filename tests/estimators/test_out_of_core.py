"""Estimators on stores: the same results as in memory, without loading the features."""

import pickle

import numpy as np
import pytest
import sklearn
import zarr
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import BaggingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.semi_supervised import SelfTrainingClassifier

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.preprocessing import LocalFeatureTransformer, SetLookup
from acluster.sets._store._rows import StoredRows
from tests.conftest import make_sets

OPTIONS = {"cluster_size": 4, "max_iter": 4, "tol": None, "batch_size": 16, "random_state": 0}
X, y = make_sets(dtype=np.float32)
AUDIO = FeatureSets.from_arrays([x[: i % 3, :2] for i, x in enumerate(X)])  # a third lack it
BOTH = MultimodalFeatureSets({"rgb": X, "audio": AUDIO})


@pytest.fixture
def path(tmp_path):
    save_feature_sets(tmp_path / "one.zarr", X, label=y, group=np.arange(60) // 6)
    return tmp_path / "one.zarr"


@pytest.fixture
def both_path(tmp_path):
    save_feature_sets(tmp_path / "both.zarr", BOTH, label=y)
    return tmp_path / "both.zarr"


class TestStoreAsX:
    def test_fit_accepts_an_opened_store_a_path_and_a_group(self, path):
        expected = AttentionClusterClassifier(**OPTIONS).fit(X, y).predict_proba(X)
        for stored in (open_feature_sets(path), str(path), path, zarr.open_group(path, mode="r")):
            clf = AttentionClusterClassifier(**OPTIONS).fit(stored, y)
            np.testing.assert_array_equal(clf.predict_proba(stored), expected)

    def test_fit_accepts_a_store_of_several_modalities(self, both_path):
        expected = MultimodalAttentionClusterClassifier(**OPTIONS).fit(BOTH, y)
        for stored in (open_feature_sets(both_path), str(both_path)):
            clf = MultimodalAttentionClusterClassifier(**OPTIONS, cache="stream").fit(stored, y)
            np.testing.assert_array_equal(clf.predict_proba(stored), expected.predict_proba(BOTH))
            np.testing.assert_allclose(
                clf.feature_means_["audio"], expected.feature_means_["audio"]
            )

    def test_fit_accepts_a_store_beside_an_array(self, path):
        # The batches of the array are also prepared in the background thread.
        expected = MultimodalAttentionClusterClassifier(**OPTIONS).fit({"a": X, "b": X}, y)
        mixed = {"a": open_feature_sets(path), "b": X}
        clf = MultimodalAttentionClusterClassifier(**OPTIONS, cache="stream").fit(mixed, y)
        proba = expected.predict_proba({"a": X, "b": X})
        np.testing.assert_array_equal(clf.predict_proba(mixed), proba)

    def test_predict_accepts_a_dict_of_stores(self, path, both_path):
        clf = MultimodalAttentionClusterClassifier(**OPTIONS).fit(BOTH, y)
        stores = {"rgb": str(path), "audio": open_feature_sets(both_path)["audio"]}
        np.testing.assert_array_equal(clf.predict_proba(stores), clf.predict_proba(BOTH))

    def test_fit_rejects_several_modalities_as_one(self, both_path):
        with pytest.raises(TypeError, match="takes one"):
            AttentionClusterClassifier().fit(both_path, y)
        stored = open_feature_sets(both_path)
        AttentionClusterClassifier(**OPTIONS).fit(stored["rgb"], stored.label)

    def test_fit_rejects_a_zarr_group_that_is_not_a_store(self):
        group = zarr.create_group(zarr.storage.MemoryStore())
        with pytest.raises(ValueError, match="acluster_format"):
            AttentionClusterClassifier().fit(group, y)


class TestCache:
    @pytest.mark.parametrize("n_local_features", [None, 2])
    @pytest.mark.parametrize("cache", ["auto", "memory", "device", "stream"])
    def test_cache_does_not_change_the_bits(self, path, cache, n_local_features):
        options = {**OPTIONS, "n_local_features": n_local_features}
        expected = AttentionClusterClassifier(**options).fit(X, y)
        clf = AttentionClusterClassifier(**options, cache=cache).fit(path, y)
        np.testing.assert_array_equal(clf.transform(path), expected.transform(X))
        assert clf.loss_curve_ == expected.loss_curve_

    def test_cache_does_not_change_modality_dropout(self, both_path):
        options = {**OPTIONS, "modality_dropout": 0.5, "missing_modality": "mask"}
        expected = MultimodalAttentionClusterClassifier(**options).fit(BOTH, y)
        clf = MultimodalAttentionClusterClassifier(**options, cache="stream").fit(both_path, y)
        assert clf.loss_curve_ == expected.loss_curve_

    def test_stream_gives_the_same_early_stopping_and_partial_fit(self, path):
        options = {**OPTIONS, "early_stopping": True, "cache": "stream"}
        stored = open_feature_sets(path)
        clf = AttentionClusterClassifier(**options).fit(stored, y)
        expected = AttentionClusterClassifier(**options).fit(X, y)
        assert clf.validation_scores_ == expected.validation_scores_
        halves = [slice(0, 30), slice(30, 60)]
        clf, expected = (AttentionClusterClassifier(**OPTIONS) for _ in range(2))
        for half in halves:
            clf.partial_fit(stored[half], y[half], classes=[0, 1])
            expected.partial_fit(X[half], y[half], classes=[0, 1])
        assert clf.loss_curve_ == expected.loss_curve_

    @pytest.mark.parametrize(("cache", "reads"), [("memory", 2), ("stream", 13)])
    def test_cache_covers_the_validation_set(self, path, monkeypatch, cache, reads):
        counted, gather = [], StoredRows.gather
        monkeypatch.setattr(
            StoredRows, "gather", lambda *given: counted.append(1) or gather(*given)
        )
        options = {**OPTIONS, "batch_size": 100, "max_iter": 6, "early_stopping": True}
        AttentionClusterClassifier(**options, cache=cache).fit(path, y)
        assert len(counted) == reads  # A stream is first read for its mean and standard deviation.

    def test_stream_reads_compressed_stores_in_blocks(self, tmp_path, path):
        """The store has the same format, compressed, as another writer may produce it."""
        source = zarr.open_group(path, mode="r")
        target = zarr.create_group(tmp_path / "small.zarr", attributes=dict(source.attrs))
        for name, array in source.arrays():
            copy = target.create_array(name, data=array[...], chunks="auto", fill_value=0)
            copy.attrs.update(array.attrs)
        stored = open_feature_sets(tmp_path / "small.zarr")
        assert stored.blocks is not None
        clf = AttentionClusterClassifier(**{**OPTIONS, "max_iter": 40}, cache="stream")
        assert clf.fit(stored, y).score(stored, y) > 0.9
        memory = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        np.testing.assert_array_equal(memory.predict_proba(stored), memory.predict_proba(X))

    @pytest.mark.parametrize("cache", ["auto", "memory", "device", "stream"])
    def test_fit_names_the_item_with_nan_and_keeps_the_earlier_model(self, tmp_path, cache):
        arrays = [x.copy() for x in X]
        arrays[17][0, 2] = np.nan
        save_feature_sets(tmp_path / "nan.zarr", arrays)
        clf = AttentionClusterClassifier(**OPTIONS, cache=cache).fit(X, y)
        before = clf.predict_proba(X)
        with pytest.raises(
            ValueError, match=r"Item 17 of array 'features' of .* has nan in local feature 0, c"
        ):
            clf.fit(open_feature_sets(tmp_path / "nan.zarr")[10:], y[10:])
        np.testing.assert_array_equal(clf.predict_proba(X), before)
        with pytest.raises(ValueError, match="Item 17 of array"):
            clf.predict(tmp_path / "nan.zarr")

    def test_grid_search_streams_from_a_store(self, path, monkeypatch):
        monkeypatch.setattr(FeatureSets, "load", lambda self: pytest.fail("loaded a store"))
        stored = open_feature_sets(path)
        clf = AttentionClusterClassifier(**OPTIONS, cache="stream")
        search = GridSearchCV(clf, {"cluster_size": [1, 4]}, cv=GroupKFold(2))
        search.fit(stored, stored.label, groups=stored.group)
        in_memory = clone(search).fit(X, y, groups=np.arange(60) // 6)
        scores = [s.cv_results_["mean_test_score"].tolist() for s in (search, in_memory)]
        assert scores[0] == scores[1]

    def test_local_feature_transformer_reads_a_store(self, path):
        scaler = LocalFeatureTransformer(sklearn.preprocessing.StandardScaler())
        np.testing.assert_array_equal(
            scaler.fit_transform(open_feature_sets(path)).packed()[0],
            scaler.fit_transform(X).packed()[0],
        )


class TestTransformOut:
    @pytest.mark.parametrize("chunk_bytes", [1 << 22, 500])
    def test_transform_out_writes_the_transform_to_zarr(
        self, tmp_path, path, monkeypatch, chunk_bytes
    ):
        monkeypatch.setattr("acluster.sets._store._range_output._CHUNK_BYTES", chunk_bytes)
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        written = clf.transform(path, out=tmp_path / "global.zarr")
        np.testing.assert_array_equal(written[...], clf.transform(X))
        again = zarr.open_array(tmp_path / "global.zarr", mode="r")
        assert again.shape == (60, 16)
        assert again.metadata.dimension_names == ("item", "global_feature")

    def test_transform_out_rejects_an_existing_path(self, tmp_path, path):
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        with pytest.raises(FileExistsError, match=r"already something at .*one\.zarr"):
            clf.transform(X, out=path)
        assert len(open_feature_sets(path)) == 60

    def test_transform_out_accepts_a_trailing_slash_but_not_set_output(self, tmp_path):
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        clf.transform(X, out=f"{tmp_path}/global.zarr/")
        assert zarr.open_array(tmp_path / "global.zarr", mode="r").shape == (60, 16)
        clf.set_output(transform="pandas")
        with pytest.raises(ValueError, match="set_output asks for another container"):
            clf.transform(X, out=tmp_path / "frame.zarr")

    def test_transform_out_removes_a_partial_result(self, tmp_path):
        arrays = [x.copy() for x in X]
        arrays[50][0, 2] = np.inf
        save_feature_sets(tmp_path / "inf.zarr", arrays)
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        with pytest.raises(ValueError, match="Item 50"):
            clf.transform(tmp_path / "inf.zarr", out=tmp_path / "global.zarr")
        assert not (tmp_path / "global.zarr").exists()
        clf.transform(X, out=tmp_path / "global.zarr")  # Writes where the failed call left off.


class TestSetLookup:
    rows = np.arange(60)[:, None]

    @pytest.fixture
    def model(self, path):
        clf = AttentionClusterClassifier(**{**OPTIONS, "max_iter": 30})
        return make_pipeline(SetLookup(open_feature_sets(path)), clf)

    def test_transform_returns_the_sets_of_row_numbers(self, both_path):
        found = SetLookup(BOTH).fit(self.rows).transform([[3], [1], [3]])
        assert found["rgb"].lengths.tolist() == [len(X[3]), len(X[1]), len(X[3])]
        assert SetLookup(str(both_path)).fit(self.rows).get_feature_names_out().tolist() == [
            *("x0", "x1", "x2", "x3"),
            *("x0", "x1"),
        ]

    def test_lookup_in_a_column_transformer(self, model):
        table = np.column_stack([np.arange(60), np.random.default_rng(0).normal(size=60)])
        columns = ColumnTransformer([("video", model, [0]), ("rest", "passthrough", [1])])
        columns.set_output(transform="pandas")
        whole = make_pipeline(columns, LogisticRegression()).fit(table, y)
        assert whole.score(table, y) > 0.9
        names = columns.fit(table, y).get_feature_names_out()
        assert [*names[[0, 15, 16]]] == ["video__unit0_x0", "video__unit3_x3", "rest__x1"]

    def test_lookup_in_bagging(self, model):
        bag = BaggingClassifier(model, n_estimators=3, random_state=0).fit(self.rows, y)
        assert bag.score(self.rows, y) > 0.8

    def test_lookup_in_permutation_importance(self, model):
        model.fit(self.rows, y)
        assert permutation_importance(model, self.rows, y, random_state=0).importances_mean[0] > 0.2

    def test_lookup_in_self_training(self, model):
        some = np.where(np.arange(60) % 4 < 2, y, -1)
        fitted = SelfTrainingClassifier(model, threshold=0.6).fit(self.rows, some)
        assert fitted.score(self.rows, y) > 0.7

    def test_clone_and_pickle_do_not_copy_the_sets(self, path):
        lookup = SetLookup(open_feature_sets(path))
        assert clone(lookup).sets is lookup.sets
        assert len(pickle.dumps(lookup)) < 4096

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([[60]], r"X\[0\] is 60, which is not a row number; sets has 60 items"),
            ([[0], [-1]], r"X\[1\] is -1"),
            ([[0.5]], r"X\[0\] is 0.5"),
            ([[0, 1]], "X has 2 columns; SetLookup expects one"),
        ],
    )
    def test_fit_rejects_invalid_row_numbers(self, rows, message):
        with pytest.raises(ValueError, match=message):
            SetLookup(X).fit(rows)

    def test_fit_rejects_sets_of_another_type(self):
        with pytest.raises(TypeError, match="sets has type list; expected FeatureSets"):
            SetLookup(list(X)).fit(self.rows)
