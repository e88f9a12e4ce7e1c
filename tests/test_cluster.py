"""Searches and predictions by the workers of Dask and Ray: run them with ``-m cluster``."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import parallel
import pytest
from joblib import Parallel, delayed
from out_of_core import write_store
from sklearn.model_selection import GridSearchCV, cross_val_score

import acluster.model_selection
from acluster import AttentionClusterClassifier, load, open_feature_sets, save_feature_sets
from acluster.training import in_worker
from tests.conftest import make_sets

ROOT = Path(__file__).parent.parent
pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("default")]  # theirs, not ours
OPTIONS = {"cluster_size": 4, "max_iter": 3, "tol": None, "batch_size": 16, "random_state": 0}
X, y = make_sets(4000, n_features=1200, dtype=np.float32)  # 96 MB: less is one range


@pytest.mark.parametrize("name", parallel.BACKENDS)
def test_workers_of_a_search_do_not_copy_the_store(name, tmp_path):
    """This test is the first, because it starts workers of its own."""
    pytest.importorskip({"dask": "distributed", "loky": "joblib"}.get(name, name))
    write_store(tmp_path / "store.zarr", 300e6)
    found = parallel.search_memory(tmp_path / "store.zarr", name)
    assert max(found["growth_mb"]) <= 5


@pytest.fixture(scope="module", params=["dask", "ray"])
def backend(request):
    pytest.importorskip({"dask": "distributed"}.get(request.param, request.param))
    with parallel.two_workers(request.param):
        yield request.param


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
def test_transform_and_predict_proba_have_the_bits_of_one_process(backend, path, tmp_path, form):
    given = open_feature_sets(path) if form == "store" else X
    clf = AttentionClusterClassifier(**OPTIONS).fit(X[:200], y[:200])
    written = clf.transform(given, out=tmp_path / "G.zarr", n_jobs=2)
    np.testing.assert_array_equal(written[...], clf.transform(given, n_jobs=1))
    expected = clf.predict_proba(given, n_jobs=1)
    np.testing.assert_array_equal(clf.predict_proba(given, n_jobs=2), expected)


def test_error_in_a_worker_names_the_item(backend, tmp_path):
    arrays = [x.copy() for x in X]
    arrays[3137][0, 2] = np.nan
    save_feature_sets(tmp_path / "nan.zarr", arrays)
    clf = AttentionClusterClassifier(**OPTIONS).fit(X[:200], y[:200])
    with pytest.raises(ValueError, match="Item 3137 of array 'features'"):
        clf.transform(tmp_path / "nan.zarr", out=tmp_path / "G.zarr", n_jobs=2)
    assert not (tmp_path / "G.zarr").exists()


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
