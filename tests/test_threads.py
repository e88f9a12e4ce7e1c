"""Threads, and forked and spawned children, fit and predict as one thread does."""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from acluster import (
    AttentionClusterClassifier,
    MultimodalAttentionClusterClassifier,
    open_feature_sets,
    rivals,
    save_feature_sets,
)
from tests.conftest import make_sets
from tests.mixed_precision import gains

OPTIONS = {"max_iter": 2, "tol": None, "random_state": 0, "batch_size": 16}
CLASSIFIERS = {
    "attention cluster": AttentionClusterClassifier(standardize=True, **OPTIONS),
    "fc2": AttentionClusterClassifier(weighting="fc2", n_attended=2, **OPTIONS),
    "mixed": AttentionClusterClassifier(precision="mixed", cluster_size=32, **OPTIONS),
    "modalities": MultimodalAttentionClusterClassifier(**OPTIONS),
    "BiLSTM": rivals.BiLSTMClassifier(hidden_size=8, **OPTIONS),
    "NetVLAD": rivals.NetVLADClassifier(**OPTIONS),
    "pooled": rivals.PooledClassifier(),
}


def fitted(name):
    X, y = make_sets(n=64, n_classes=3, dtype=np.float32)
    return CLASSIFIERS[name].fit(X, y), X, y


@pytest.fixture
def switches_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switches_often")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_predictions_of_eight_threads_equal_those_of_one(name):
    with gains():
        clf, X, _ = fitted(name)
        expected = clf.predict_proba(X)
        with ThreadPoolExecutor(8) as pool:
            for found in pool.map(lambda _: clf.predict_proba(X), range(80)):
                np.testing.assert_array_equal(found, expected)


def test_predictions_of_eight_threads_from_one_store(tmp_path):
    clf, X, _ = fitted("attention cluster")
    save_feature_sets(tmp_path / "sets.zarr", X)
    stored = open_feature_sets(tmp_path / "sets.zarr")
    expected = clf.predict_proba(X)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: clf.predict_proba(stored), range(24)):
            np.testing.assert_array_equal(found, expected)


def fit(name):
    from sklearn.base import clone

    X, y = make_sets(n=64, n_classes=3, dtype=np.float32)
    return clone(CLASSIFIERS[name]).fit(X, y).predict_proba(X)


@pytest.mark.usefixtures("switches_often")
@pytest.mark.parametrize("name", ["attention cluster", "fc2", "BiLSTM"])
def test_fits_of_four_threads_equal_those_of_one(name):
    expected = fit(name)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: fit(name), range(8)):
            np.testing.assert_array_equal(found, expected)


METHODS = ["spawn"] if not hasattr(os, "fork") else ["spawn", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
def test_fit_in_a_child_process(method):
    expected = fit("attention cluster")
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(fit, "attention cluster").result(timeout=300)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fit_in_a_forked_child_while_threads_predict(tmp_path):
    clf, X, _ = fitted("attention cluster")
    with ThreadPoolExecutor(2) as pool:
        busy = [pool.submit(clf.predict_proba, X) for _ in range(20)]
        child = os.fork()
        if child == 0:
            try:
                np.save(tmp_path / "found.npy", fit("attention cluster"))
            finally:
                os._exit(0)
        [one.result() for one in busy]
    os.waitpid(child, 0)
    expected = fit("attention cluster")
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=1e-5)
