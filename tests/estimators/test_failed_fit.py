"""A fit that fails leaves the estimator, its random state and the data as they were."""

import pickle

import numpy as np
import pytest

from acluster import AttentionClusterClassifier, save_feature_sets
from tests.conftest import before_steps, make_sets
from tests.estimators.common import have_same_weights
from tests.training.test_checkpoint import StopInEpoch3

N_EPOCHS = 2


class FailsInEpoch1(StopInEpoch3):
    """A callback with an error."""

    def on_fit_task_end(self, *args, **kwargs):
        raise RuntimeError("the callback fails")


def make(**changes):
    options = {"max_iter": N_EPOCHS, "tol": None, "batch_size": 16, "n_local_features": 2}
    return AttentionClusterClassifier(**{"random_state": 0, **options, **changes})


def fail_in_a_store(clf, fit, tmp_path, monkeypatch):
    X, y = make_sets(dtype=np.float32)
    arrays = [*X[:-1], np.full((2, 4), np.nan, np.float32)]
    save_feature_sets(tmp_path / "nan.zarr", arrays)
    with pytest.raises(ValueError, match="NaN"):
        fit(clf, tmp_path / "nan.zarr", y)


def fail_by_ctrl_c(clf, fit, tmp_path, monkeypatch):
    n_steps = []

    def interrupt(networks):
        n_steps.append(1)
        if len(n_steps) == 3:
            raise KeyboardInterrupt

    X, y = make_sets()
    with monkeypatch.context() as patch:
        before_steps(interrupt, patch)
        with pytest.raises(KeyboardInterrupt):
            fit(clf, X, y)


def fail_by_divergence(clf, fit, tmp_path, monkeypatch):
    X, y = make_sets()
    learning_rate = clf.learning_rate
    clf.set_params(learning_rate=1e308)
    with pytest.raises(ValueError, match="diverged"):
        fit(clf, X, y)
    clf.set_params(learning_rate=learning_rate)


def fail_in_a_callback(clf, fit, tmp_path, monkeypatch):
    clf.set_callbacks(FailsInEpoch1())
    with pytest.raises(RuntimeError, match="callback fails"):
        clf.fit(*make_sets())
    clf.set_callbacks()


def fail_in_validation(clf, fit, tmp_path, monkeypatch):
    X, y = make_sets()
    with pytest.raises(ValueError, match="hold out"):
        clf.set_params(early_stopping=True, validation_fraction=1e-9).fit(X, y)
    clf.set_params(early_stopping=False, validation_fraction=0.1)


FAILURES = [
    fail_in_a_store,
    fail_by_ctrl_c,
    fail_by_divergence,
    fail_in_a_callback,
    fail_in_validation,
]


def warm():
    return make(warm_start=True).fit(*make_sets())


def partial():
    return make().partial_fit(*make_sets(), classes=[0, 1])


def fit(clf, X, y):
    return clf.fit(X, y)


def partial_fit(clf, X, y):
    return clf.partial_fit(X, y, classes=[0, 1])


BEGINNINGS = {
    "first fit": (lambda: make(random_state=np.random.RandomState(3)), fit),
    "warm fit": (warm, fit),
    "warm fit with a RandomState": (
        lambda: make(warm_start=True, random_state=np.random.RandomState(3)).fit(*make_sets()),
        fit,
    ),
    "partial_fit": (partial, partial_fit),
    "warm fit of an unpickled model": (lambda: pickle.loads(pickle.dumps(warm())), fit),
}


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
@pytest.mark.parametrize("name", BEGINNINGS)
@pytest.mark.filterwarnings("ignore:The standard deviation")
def test_failed_fit_does_not_change_the_next(name, fail, tmp_path, monkeypatch):
    begin, method = BEGINNINGS[name]
    if fail in (fail_in_a_callback, fail_in_validation) and method is partial_fit:
        pytest.skip("partial_fit calls no callbacks and holds out nothing")
    X, y = make_sets()
    before = X.packed()[0].copy()
    clf, control = begin(), begin()
    fail(clf, method, tmp_path, monkeypatch)
    assert vars(clf).keys() == vars(control).keys()
    assert np.array_equal(X.packed()[0], before)
    method(clf, X, y)
    method(control, X, y)
    assert have_same_weights(clf, control)
    assert clf.loss_curve_ == control.loss_curve_


@pytest.mark.filterwarnings("ignore:The standard deviation")
def test_failed_fit_restores_the_global_random_state(tmp_path, monkeypatch):
    before = pickle.dumps(np.random.get_state())  # noqa: NPY002
    fail_by_divergence(make(random_state=None), fit, tmp_path, monkeypatch)
    assert pickle.dumps(np.random.get_state()) == before  # noqa: NPY002
