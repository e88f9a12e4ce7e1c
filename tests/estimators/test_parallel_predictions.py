"""Predictions and global features by several processes: the bits of one, resumed after kills."""

import os
import pickle
import signal

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    IntegrationClassifier,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    load,
    open_feature_sets,
    save_feature_sets,
)
from acluster.estimators import _ranges
from acluster.nn import _compiled, has_compiled_kernels
from acluster.sets._store._range_output import RangeOutput
from tests.conftest import make_sets
from tests.estimators.integrations import KillsProcess, Largest
from tests.sets._store.test_killed import needs_fork

OPTIONS = {"cluster_size": 4, "max_iter": 2, "tol": None, "batch_size": 10, "random_state": 0}
X, y = make_sets(200, dtype=np.float32)


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    """Ranges of 20 items, and chunks of 10; in the processes of a worker they have no effect."""
    monkeypatch.setattr(_ranges, "_BYTES_PER_RANGE", 20 * X.nbytes // len(X) + 1)
    monkeypatch.setattr("acluster.sets._store._range_output._CHUNK_BYTES", 10 * 16 * 4)


@pytest.fixture
def path(tmp_path):
    save_feature_sets(tmp_path / "one.zarr", X, label=y)
    return tmp_path / "one.zarr"


@pytest.fixture(scope="module")
def clf():
    return AttentionClusterClassifier(**OPTIONS).fit(X, y)


class TestBackends:
    @pytest.mark.parametrize("backend", ["threading", "loky"])
    @pytest.mark.parametrize("form", ["memory", "store", "selection"])
    def test_results_have_the_bits_of_one_process(self, clf, path, tmp_path, backend, form):
        given = X if form == "memory" else open_feature_sets(path)
        if form == "selection":
            given = given[np.random.default_rng(0).permutation(200)[:150]]
        methods = (clf.predict, clf.predict_proba, clf.decision_function, clf.transform)
        expected = [method(given) for method in methods]
        with parallel_config(backend):
            for method, one in zip(methods, expected, strict=True):
                np.testing.assert_array_equal(method(given, n_jobs=2), one)
            written = clf.transform(given, out=tmp_path / "G.zarr", n_jobs=2)
        np.testing.assert_array_equal(written[...], expected[-1])
        assert written.chunks == (10, 16)

    def test_n_jobs_of_ensembles_modalities_portfolios_and_custom_classes(self):
        both = MultimodalFeatureSets({"a": X, "b": X[:, ...]})
        for classifier, given in (
            (AttentionClusterClassifier(**OPTIONS, n_members=2), X),
            (MultimodalAttentionClusterClassifier(**OPTIONS, missing_modality="mask"), both),
            (AttentionClusterClassifierCV(cv=2, n_configurations=2, max_iter=2), X),
            (IntegrationClassifier(integration=Largest, batch_size=10, max_iter=2, tol=None), X),
        ):
            fitted = classifier.fit(given, y)
            expected = fitted.predict_proba(given)
            np.testing.assert_array_equal(fitted.predict_proba(given, n_jobs=2), expected)
            np.testing.assert_array_equal(fitted.predict(given, n_jobs=2), fitted.predict(given))

    def test_n_jobs_none_follows_parallel_config_outside_of_workers(self, clf, monkeypatch):
        asked = []
        in_parallel = _ranges._in_parallel
        monkeypatch.setattr(
            _ranges, "_in_parallel", lambda *given: asked.append(given[-1]) or in_parallel(*given)
        )
        clf.predict(X)
        with parallel_config("threading", n_jobs=2):
            clf.predict(X)
            clf.predict(X, n_jobs=1)
            Parallel(n_jobs=2)(delayed(clf.predict)(X) for _ in range(2))
        assert asked == [2]

    def test_small_X_is_predicted_in_one_process(self, clf, monkeypatch):
        monkeypatch.setattr(_ranges, "_in_parallel", lambda *_: pytest.fail("started workers"))
        clf.predict(X[:20], n_jobs=2)

    def test_tasks_for_a_store_are_small(self, path, monkeypatch):
        sizes = []
        run = _ranges._run
        monkeypatch.setattr(
            _ranges, "_run", lambda *given: sizes.append(len(pickle.dumps(given))) or run(*given)
        )
        clf = AttentionClusterClassifier(**OPTIONS).fit(X, y)
        with parallel_config("threading"):
            clf.predict(open_feature_sets(path), n_jobs=2)
        assert max(sizes) < 20_000  # of which the network takes 2 kB

    def test_threads_of_workers_share_those_of_torch(self, clf, monkeypatch):
        seen = []
        stack = _ranges.stack_blocks
        monkeypatch.setattr(
            _ranges, "stack_blocks", lambda *g: seen.append(torch.get_num_threads()) or stack(*g)
        )
        before = torch.get_num_threads()
        torch.set_num_threads(4)
        try:
            with parallel_config("threading"):
                clf.predict(X, n_jobs=2)
            assert torch.get_num_threads() == 4
        finally:
            torch.set_num_threads(before)
        assert set(seen[1:]) == {2}  # the first call stacks the ranges, in the caller's thread


class TestErrors:
    @pytest.mark.parametrize("backend", ["threading", "loky"])
    def test_nan_in_a_store_names_the_item(self, clf, tmp_path, backend):
        arrays = [x.copy() for x in X]
        arrays[137][0, 2] = np.nan
        save_feature_sets(tmp_path / "nan.zarr", arrays)
        with parallel_config(backend):
            for options in ({}, {"out": tmp_path / "G.zarr"}):
                with pytest.raises(ValueError, match="Item 137 of array 'features'") as caught:
                    clf.transform(tmp_path / "nan.zarr", n_jobs=2, **options)
                assert "items 120 to 139 of X" in caught.value.__notes__[0]
        assert os.listdir(tmp_path) == ["nan.zarr"]

    def test_output_that_is_not_finite_names_the_item(self):
        arrays = [x.copy() for x in X]
        arrays[137] = np.full((1, 4), 3e38, np.float32)
        clf = AttentionClusterClassifier(**OPTIONS, standardize=False, shifting=False).fit(X, y)
        with torch.no_grad():
            clf.network_.linear.weight.fill_(10.0)
        for n_jobs in (1, 2):
            with parallel_config("threading"), pytest.raises(ValueError, match="for item 137 is"):
                clf.predict_proba(arrays, n_jobs=n_jobs)

    @needs_fork
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
    def test_transform_out_refuses_workers_that_round_differently(self, clf, tmp_path):
        """Forked workers have no compiled kernels. Another call would mix rows of both kinds."""
        if not has_compiled_kernels():
            pytest.skip("needs Numba")
        with parallel_config("multiprocessing"):
            np.testing.assert_allclose(clf.transform(X, n_jobs=2), clf.transform(X), atol=1e-6)
            with pytest.raises(RuntimeError, match="this worker has no compiled kernels"):
                clf.transform(X, out=tmp_path / "G.zarr", n_jobs=2)
        assert os.listdir(tmp_path) == []

    def test_n_jobs_0_is_refused(self, clf):
        with pytest.raises(ValueError, match="n_jobs == 0"):
            clf.predict(X, n_jobs=0)


def interrupt_after(n_ranges, monkeypatch):
    write, n_written = RangeOutput.write, [0]

    def interrupted(self, *given):
        if n_written[0] == n_ranges:
            raise KeyboardInterrupt
        write(self, *given)
        n_written[0] += 1

    monkeypatch.setattr(RangeOutput, "write", interrupted)
    return n_written


class TestResume:
    def test_transform_out_continues_where_it_was_interrupted(self, clf, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            interrupt_after(4, patch)
            with pytest.raises(KeyboardInterrupt):
                clf.transform(X, out=tmp_path / "G.zarr")
        n_written = interrupt_after(100, monkeypatch)
        with parallel_config("threading"):
            written = clf.transform(X, out=tmp_path / "G.zarr", n_jobs=2)
        assert n_written == [6]
        np.testing.assert_array_equal(written[...], clf.transform(X))

    @pytest.mark.parametrize(
        "changed", ["model", "X", "selection", "file", "batch_size", "kernels"]
    )
    def test_transform_out_starts_over_if_anything_changed(
        self, clf, path, tmp_path, monkeypatch, changed
    ):
        first = open_feature_sets(path)
        with monkeypatch.context() as patch:
            interrupt_after(4, patch)
            with pytest.raises(KeyboardInterrupt):
                clf.transform(first, out=tmp_path / "G.zarr")
        X_now, clf_now = first, load_again(clf, tmp_path)
        if changed == "model":
            clf_now = AttentionClusterClassifier(**{**OPTIONS, "random_state": 1}).fit(X, y)
        elif changed == "X":
            X_now = X
        elif changed == "selection":
            X_now = first[np.r_[1, 0, 2:200]]
        elif changed == "batch_size":
            clf_now.set_params(batch_size=20)
        elif changed == "kernels":
            if not has_compiled_kernels():
                pytest.skip("needs Numba")
            monkeypatch.setattr("acluster.nn._compiled._INSTALLED", False)
        else:
            [shard] = [p for p in (path / "features" / "c").rglob("*") if p.is_file()]
            os.utime(shard, ns=(1, 1))
            X_now = open_feature_sets(path)
        with pytest.warns(UserWarning, match="removed, because it differs in"):
            written = clf_now.transform(X_now, out=tmp_path / "G.zarr")
        np.testing.assert_array_equal(written[...], clf_now.transform(X_now))
        assert sorted(os.listdir(tmp_path)) == sorted({"G.zarr", "one.zarr", "clf.model"})

    def test_transform_out_continues_with_a_loaded_model(self, clf, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            interrupt_after(4, patch)
            with pytest.raises(KeyboardInterrupt):
                clf.transform(X, out=tmp_path / "G.zarr")
        n_written = interrupt_after(100, monkeypatch)
        load_again(clf, tmp_path).transform(X, out=tmp_path / "G.zarr")
        assert n_written == [6]


def load_again(clf, folder):
    clf.save(folder / "clf.model")
    return load(folder / "clf.model")


class TestSigkill:
    """The integration kills its process when it first meets an item, chosen by its number."""

    @pytest.fixture
    def killed(self, tmp_path):
        def fit(item):
            arrays = [x.copy() for x in X]
            arrays[item][0, 0] = KillsProcess.sentinel
            save_feature_sets(tmp_path / "deadly.zarr", arrays)
            parameters = {"flag": str(tmp_path / "flag")}
            options = {"batch_size": 10, "max_iter": 1, "tol": None, "standardize": False}
            classifier = IntegrationClassifier(
                integration=KillsProcess, integration_params=parameters, random_state=0, **options
            )
            return classifier.fit(X, y), tmp_path / "deadly.zarr"

        return fit

    @pytest.mark.parametrize(
        "item",
        [5, 150, *(pytest.param(item, marks=pytest.mark.thorough) for item in (61, 117, 199))],
    )
    def test_transform_out_is_resumed_after_a_kill_of_a_worker(self, killed, tmp_path, item):
        clf, store = killed(item)
        out = tmp_path / "G.zarr"
        with parallel_config("loky"):
            with pytest.raises(TerminatedWorkerError):
                clf.transform(store, out=out, n_jobs=2)
            assert not out.exists()
            written = clf.transform(store, out=out, n_jobs=2)
        np.testing.assert_array_equal(written[...], clf.transform(store))
        assert sorted(os.listdir(tmp_path)) == ["G.zarr", "deadly.zarr", "flag"]

    @needs_fork
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
    def test_transform_out_is_resumed_after_a_kill_of_the_caller(
        self, killed, tmp_path, monkeypatch
    ):
        clf, store = killed(117)
        # A forked child has no compiled kernels, which another process could not continue with.
        monkeypatch.setattr(_compiled, "_INSTALLED", False)
        if not (child := os.fork()):
            clf.transform(store, out=tmp_path / "G.zarr")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        n_written = interrupt_after(100, monkeypatch)
        written = clf.transform(store, out=tmp_path / "G.zarr")
        assert n_written == [5]
        np.testing.assert_array_equal(written[...], clf.transform(store))
        assert sorted(os.listdir(tmp_path)) == ["G.zarr", "deadly.zarr", "flag"]
