"""Estimators on stores: the same results as in memory, without holding the features."""

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
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
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


class TestStoresAreX:
    def test_opened_path_and_group(self, path):
        expected = AttentionClusterClassifier(**OPTIONS).fit(X, y).predict_proba(X)
        for stored in (
            open_feature_sets(path),
            str(path),
            path,
            zarr.open_group(path, mode="r"),
        ):
            clf = AttentionClusterClassifier(**OPTIONS).fit(stored, y)
            np.testing.assert_array_equal(clf.predict_proba(stored), expected)

    def test_several_modalities(self, both_path):
        expected = MultimodalAttentionClusterClassifier(**OPTIONS).fit(BOTH, y)
        for stored in (open_feature_sets(both_path), str(both_path)):
            clf = MultimodalAttentionClusterClassifier(**OPTIONS, cache="stream").fit(stored, y)
            np.testing.assert_array_equal(clf.predict_proba(stored), expected.predict_proba(BOTH))
            np.testing.assert_allclose(
                clf.feature_means_["audio"], expected.feature_means_["audio"]
            )

    def test_a_store_beside_an_array(self, path):
        # The array's batches too are made ahead, in a thread.
        expected = MultimodalAttentionClusterClassifier(**OPTIONS).fit({"a": X, "b": X}, y)
        mixed = {"a": open_feature_sets(path), "b": X}
        clf = MultimodalAttentionClusterClassifier(**OPTIONS, cache="stream").fit(mixed, y)
        proba = expected.predict_proba({"a": X, "b": X})
        np.testing.assert_array_equal(clf.predict_proba(mixed), proba)

    def test_a_dict_of_stores(self, path, both_path):
        clf = MultimodalAttentionClusterClassifier(**OPTIONS).fit(BOTH, y)
        stores = {"rgb": str(path), "audio": open_feature_sets(both_path)["audio"]}
        np.testing.assert_array_equal(clf.predict_proba(stores), clf.predict_proba(BOTH))

    def test_several_modalities_are_not_one(self, both_path):
        with pytest.raises(TypeError, match="takes one"):
            AttentionClusterClassifier().fit(both_path, y)
        stored = open_feature_sets(both_path)
        AttentionClusterClassifier(**OPTIONS).fit(stored["rgb"], stored.label)

    def test_a_store_in_a_memory_of_zarr(self):
        group = zarr.create_group(zarr.storage.MemoryStore())
        with pytest.raises(ValueError, match="acluster_format"):
            AttentionClusterClassifier().fit(group, y)


class TestStreaming:
    @pytest.mark.parametrize("n_local_features", [None, 2])
    @pytest.mark.parametrize("cache", ["auto", "memory", "device", "stream"])
    def test_the_model_does_not_depend_on_the_cache(self, path, cache, n_local_features):
        options = {**OPTIONS, "n_local_features": n_local_features}
        expected = AttentionClusterClassifier(**options).fit(X, y)
        clf = AttentionClusterClassifier(**options, cache=cache).fit(path, y)
        np.testing.assert_array_equal(clf.transform(path), expected.transform(X))
        assert clf.loss_curve_ == expected.loss_curve_

    def test_modality_dropout_too(self, both_path):
        options = {**OPTIONS, "modality_dropout": 0.5, "missing_modality": "mask"}
        expected = MultimodalAttentionClusterClassifier(**options).fit(BOTH, y)
        clf = MultimodalAttentionClusterClassifier(**options, cache="stream").fit(both_path, y)
        assert clf.loss_curve_ == expected.loss_curve_

    def test_early_stopping_and_partial_fit(self, path):
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

    @pytest.mark.parametrize(("cache", "reads"), [("memory", 3), ("stream", 13)])
    def test_the_validation_set_is_cached_too(self, path, monkeypatch, cache, reads):
        counted, gather = [], StoredRows.gather
        monkeypatch.setattr(
            StoredRows, "gather", lambda *given: counted.append(1) or gather(*given)
        )
        options = {**OPTIONS, "batch_size": 100, "max_iter": 6, "early_stopping": True}
        AttentionClusterClassifier(**options, cache=cache).fit(path, y)
        assert len(counted) == reads  # the first tells the scale of the features

    def test_compressed_stores_are_streamed_in_blocks(self, tmp_path, path):
        """Another writer's store: the same format, compressed."""
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
    def test_nan_is_named_by_its_item_and_the_estimator_is_as_it_was(self, tmp_path, cache):
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

    def test_nothing_of_a_store_is_loaded_by_a_search(self, path, monkeypatch):
        monkeypatch.setattr(FeatureSets, "load", lambda self: pytest.fail("loaded a store"))
        stored = open_feature_sets(path)
        with sklearn.config_context(working_memory=0):
            search = GridSearchCV(
                AttentionClusterClassifier(**OPTIONS), {"cluster_size": [1, 4]}, cv=GroupKFold(2)
            )
            search.fit(stored, stored.label, groups=stored.group)
            in_memory = clone(search).fit(X, y, groups=np.arange(60) // 6)
        scores = [s.cv_results_["mean_test_score"].tolist() for s in (search, in_memory)]
        assert scores[0] == scores[1]

    def test_workers_get_paths(self, path):
        stored = open_feature_sets(path)
        clf = AttentionClusterClassifier(**OPTIONS)
        alone = cross_val_score(clf, stored, stored.label, cv=3)
        together = cross_val_score(clf, stored, stored.label, cv=3, n_jobs=2)
        np.testing.assert_array_equal(alone, together)

    def test_transformed_local_features(self, path):
        scaler = LocalFeatureTransformer(sklearn.preprocessing.StandardScaler())
        np.testing.assert_array_equal(
            scaler.fit_transform(open_feature_sets(path)).packed()[0],
            scaler.fit_transform(X).packed()[0],
        )


class TestTransformIntoZarr:
    @pytest.mark.parametrize("chunk_bytes", [1 << 22, 500])
    def test_is_the_transform(self, tmp_path, path, monkeypatch, chunk_bytes):
        monkeypatch.setattr("acluster.sets._store._save._CHUNK_BYTES", chunk_bytes)
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        written = clf.transform(path, out=tmp_path / "global.zarr")
        np.testing.assert_array_equal(written[...], clf.transform(X))
        again = zarr.open_array(tmp_path / "global.zarr", mode="r")
        assert again.shape == (60, 16)
        assert again.metadata.dimension_names == ("item", "global_feature")

    def test_does_not_write_over_anything(self, tmp_path, path):
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        with pytest.raises(FileExistsError, match=r"already something at .*one\.zarr"):
            clf.transform(X, out=path)
        assert len(open_feature_sets(path)) == 60

    def test_a_slash_at_the_end_and_a_data_frame(self, tmp_path):
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        clf.transform(X, out=f"{tmp_path}/global.zarr/")
        assert zarr.open_array(tmp_path / "global.zarr", mode="r").shape == (60, 16)
        clf.set_output(transform="pandas")
        with pytest.raises(ValueError, match="set_output asks for another container"):
            clf.transform(X, out=tmp_path / "frame.zarr")

    def test_a_broken_one_is_not_there(self, tmp_path):
        arrays = [x.copy() for x in X]
        arrays[50][0, 2] = np.inf
        save_feature_sets(tmp_path / "inf.zarr", arrays)
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        with pytest.raises(ValueError, match="Item 50"):
            clf.transform(tmp_path / "inf.zarr", out=tmp_path / "global.zarr")
        assert not (tmp_path / "global.zarr").exists()
        clf.transform(X, out=tmp_path / "global.zarr")  # over the remains


class TestSetLookup:
    rows = np.arange(60)[:, None]

    @pytest.fixture(params=["memory", "store"])
    def model(self, request, path):
        sets = X if request.param == "memory" else open_feature_sets(path)
        clf = AttentionClusterClassifier(**{**OPTIONS, "max_iter": 30})
        return make_pipeline(SetLookup(sets), clf)

    def test_looks_up(self, both_path):
        found = SetLookup(BOTH).fit(self.rows).transform([[3], [1], [3]])
        assert found["rgb"].lengths.tolist() == [len(X[3]), len(X[1]), len(X[3])]
        assert SetLookup(str(both_path)).fit(self.rows).get_feature_names_out().tolist() == [
            *("x0", "x1", "x2", "x3"),
            *("x0", "x1"),
        ]

    def test_beside_columns_of_a_table(self, model):
        table = np.column_stack([np.arange(60), np.random.default_rng(0).normal(size=60)])
        columns = ColumnTransformer([("video", model, [0]), ("rest", "passthrough", [1])])
        columns.set_output(transform="pandas")
        whole = make_pipeline(columns, LogisticRegression()).fit(table, y)
        assert whole.score(table, y) > 0.9
        names = columns.fit(table, y).get_feature_names_out()
        assert [*names[[0, 15, 16]]] == ["video__unit0_x0", "video__unit3_x3", "rest__x1"]

    def test_in_bagging(self, model):
        bag = BaggingClassifier(model, n_estimators=3, random_state=0).fit(self.rows, y)
        assert bag.score(self.rows, y) > 0.8

    def test_permutation_importance(self, model):
        model.fit(self.rows, y)
        assert permutation_importance(model, self.rows, y, random_state=0).importances_mean[0] > 0.2

    def test_self_training(self, model):
        some = np.where(np.arange(60) % 4 < 2, y, -1)
        fitted = SelfTrainingClassifier(model, threshold=0.6).fit(self.rows, some)
        assert fitted.score(self.rows, y) > 0.7

    def test_cloned_and_pickled_without_the_sets(self, path):
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
    def test_refuses_what_is_no_row(self, rows, message):
        with pytest.raises(ValueError, match=message):
            SetLookup(X).fit(rows)

    def test_refuses_what_is_no_set(self):
        with pytest.raises(TypeError, match="sets is a list; expected FeatureSets"):
            SetLookup(list(X)).fit(self.rows)
