"""Searches and predictions by the workers of Dask and Ray: run them with ``-m cluster``."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import parallel
import pytest
import zarr
from joblib import Parallel, delayed
from out_of_core import write_store
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score

import acluster.model_selection
from acluster import (
    AttentionClusterClassifier,
    IntegrationClassifier,
    load,
    open_feature_sets,
    save_feature_sets,
)
from acluster.estimators import _ranges
from acluster.training import in_worker
from tests.conftest import make_sets
from tests.estimators.integrations import KillsProcess

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("default")]  # theirs, not ours
OPTIONS = {"cluster_size": 4, "max_iter": 3, "tol": None, "batch_size": 16, "random_state": 0}
X, y = make_sets(400, n_features=16, dtype=np.float32)
LONGEST_WAIT = 240  # seconds for a call whose worker is killed; 25 were measured on a busy machine


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_workers_of_a_search_do_not_copy_the_store(name, tmp_path):
    """This test is the first, because it starts workers of its own."""
    pytest.importorskip({"dask": "distributed"}.get(name, name))
    write_store(tmp_path / "store.zarr", 60e6)
    found = parallel.search_memory(tmp_path / "store.zarr", name)
    assert found["workers"] > 0
    assert max(found["growth_mb"]) <= 5


@pytest.fixture(scope="module", params=["dask", "ray"])
def backend(request):
    pytest.importorskip({"dask": "distributed"}.get(request.param, request.param))
    with parallel.two_workers(request.param):
        yield request.param


@pytest.fixture
def shared_out(monkeypatch):
    """Let the caller divide items into ranges of 80; return how many workers it asked for."""
    monkeypatch.setattr(_ranges, "_BYTES_PER_RANGE", 80 * X.nbytes // len(X) + 1)
    monkeypatch.setattr("acluster.sets._store._range_output._CHUNK_BYTES", 1 << 10)
    asked, in_parallel = [], _ranges._in_parallel
    monkeypatch.setattr(
        _ranges, "_in_parallel", lambda *given: asked.append(given[-1]) or in_parallel(*given)
    )
    return asked


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "one.zarr"
    save_feature_sets(path, X, label=y)
    return path


def test_workers_know_that_they_are_workers(backend):
    assert not in_worker()
    assert all(Parallel(n_jobs=2)(delayed(in_worker)() for _ in range(4)))


@pytest.mark.parametrize("search", [GridSearchCV, acluster.model_selection.GridSearchCV])
def test_grid_search_cv_has_the_scores_of_one_process(backend, path, search):
    stored = open_feature_sets(path)[:120]
    grid = {"dropout": [0.0, 0.5], "learning_rate": [0.01, 0.003]}
    clf = AttentionClusterClassifier(**OPTIONS)
    alone = GridSearchCV(clf, grid, cv=2, n_jobs=1, error_score="raise").fit(stored, y[:120])
    found = search(clf, grid, cv=2, n_jobs=2, error_score="raise").fit(stored, y[:120])
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(found.cv_results_[name], alone.cv_results_[name])
    assert found.best_params_ == alone.best_params_


def test_cross_val_score_of_sets_in_memory(backend):
    clf = AttentionClusterClassifier(**OPTIONS)
    alone = cross_val_score(clf, X[:120], y[:120], cv=2, n_jobs=1)
    np.testing.assert_array_equal(cross_val_score(clf, X[:120], y[:120], cv=2, n_jobs=2), alone)


@pytest.mark.parametrize("form", ["store", "memory"])
def test_transform_and_predict_proba_have_the_bits_of_one_process(
    backend, path, tmp_path, form, shared_out
):
    given = open_feature_sets(path) if form == "store" else X
    clf = AttentionClusterClassifier(**OPTIONS).fit(X[:200], y[:200])
    written = clf.transform(given, out=tmp_path / "G.zarr", n_jobs=2)
    np.testing.assert_array_equal(written[...], clf.transform(given, n_jobs=1))
    expected = clf.predict_proba(given, n_jobs=1)
    np.testing.assert_array_equal(clf.predict_proba(given, n_jobs=2), expected)
    assert shared_out == [2, 2]


def test_error_in_a_worker_names_the_item(backend, tmp_path, shared_out):
    arrays = [x.copy() for x in X]
    arrays[237][0, 2] = np.nan
    save_feature_sets(tmp_path / "nan.zarr", arrays)
    clf = AttentionClusterClassifier(**OPTIONS).fit(X[:200], y[:200])
    with pytest.raises(ValueError, match="Item 237 of array 'features'"):
        clf.transform(tmp_path / "nan.zarr", out=tmp_path / "G.zarr", n_jobs=2)
    assert not (tmp_path / "G.zarr").exists()


@contextmanager
def no_longer_than(seconds):
    """Interrupt what takes longer."""

    def interrupt(*_):
        raise TimeoutError(f"This took more than {seconds} s.")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def wait_for_workers(backend):
    """Wait until Dask has replaced a killed worker. Of Ray, each call starts its own."""
    if backend == "dask":
        from distributed import default_client

        default_client().wait_for_workers(2, timeout=LONGEST_WAIT)


@contextmanager
def killing(backend):
    """Expect that a killed worker is replaced by Dask, and is an error of Ray."""
    wait_for_workers(backend)
    with no_longer_than(LONGEST_WAIT):
        if backend == "dask":
            yield
            return
        from ray.exceptions import ActorDiedError

        with pytest.raises(ActorDiedError):
            yield


@pytest.fixture
def deadly(tmp_path):
    """A classifier that kills its process when it first meets item 237, and a store with it."""
    arrays = [x.copy() for x in X]
    arrays[237][0, 0] = KillsProcess.sentinel
    save_feature_sets(tmp_path / "deadly.zarr", arrays, label=y)
    clf = IntegrationClassifier(
        integration=KillsProcess, integration_params={"flag": str(tmp_path / "flag")},
        standardize=False, batch_size=10, max_iter=1, tol=None, random_state=0,
    )  # fmt: skip
    return clf, open_feature_sets(tmp_path / "deadly.zarr")


def test_transform_out_has_the_same_bits_after_a_kill_of_a_worker(
    backend, deadly, tmp_path, shared_out
):
    clf, stored = deadly
    clf.fit(X[:200], y[:200])
    out = tmp_path / "G.zarr"
    with killing(backend):
        clf.transform(stored, out=out, n_jobs=2)
    assert (tmp_path / "flag").exists()
    wait_for_workers(backend)
    if backend == "ray":
        assert not out.exists()
        with no_longer_than(LONGEST_WAIT):
            clf.transform(stored, out=out, n_jobs=2)
    assert shared_out[0] == 2
    np.testing.assert_array_equal(zarr.open_array(out)[...], clf.transform(stored))
    assert sorted(os.listdir(tmp_path)) == ["G.zarr", "deadly.zarr", "flag"]


def test_search_has_the_same_scores_after_a_kill_of_a_worker(backend, deadly, tmp_path):
    clf, stored = deadly
    items = np.arange(200, 260)
    grid = {"learning_rate": [0.01, 0.003], "standardize": [False]}
    search = GridSearchCV(clf, grid, cv=2, n_jobs=2, refit=False, error_score="raise")
    with killing(backend):
        search.fit(stored[items], y[items])
    assert (tmp_path / "flag").exists()
    wait_for_workers(backend)
    if backend == "ray":
        with no_longer_than(LONGEST_WAIT):
            search.fit(stored[items], y[items])
    alone = clone(search).set_params(n_jobs=1).fit(stored[items], y[items])
    for name in ("split0_test_score", "split1_test_score"):
        np.testing.assert_array_equal(search.cv_results_[name], alone.cv_results_[name])


def test_ray_train_gives_the_bits_of_torchrun(tmp_path):
    pytest.importorskip("ray")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command in (
        ("torchrun", [*launcher, str(ROOT / "examples" / "distributed.py")]),
        ("ray", [str(ROOT / "examples" / "ray_train.py")]),
    ):
        (tmp_path / name).mkdir()
        subprocess.run(
            [sys.executable, *command, str(tmp_path / name)],
            env=environment,
            check=True,
            capture_output=True,
            timeout=600,
        )
    states = [
        load(tmp_path / name / "sets.model").network_.state_dict() for name in ("torchrun", "ray")
    ]
    for name, tensor in states[0].items():
        assert tensor.numpy().tobytes() == states[1][name].numpy().tobytes(), name
