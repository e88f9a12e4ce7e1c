"""Pickled models, and the state of an estimator whose fit fails."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from acluster import MultimodalAttentionClusterClassifier
from tests.conftest import make_sets
from tests.estimators.common import have_same_weights, quick


class TestPickle:
    @pytest.mark.parametrize("warm_start", [False, True])
    def test_pickle_predicts_and_refits_to_the_same_bits(self, warm_start, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(warm_start=warm_start, max_iter=4).fit(X, y)
        copy = pickle.loads(pickle.dumps(clf))
        np.testing.assert_array_equal(copy.predict_proba(X), clf.predict_proba(X))
        assert have_same_weights(copy.fit(X, y), clf.fit(X, y))

    def test_pickle_contains_no_torch_objects(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(warm_start=True, max_iter=2).fit(X, y)
        assert b"torch" not in pickle.dumps(clf)

    def test_memory_mapped_model_predicts_without_a_warning(self, tmp_path, recwarn):
        X = {"a": [np.ones((2, 3)), None] * 4, "b": [np.ones((1, 2)) * i for i in range(8)]}
        clf = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=2).fit(X, [0, 1] * 4)
        joblib.dump(clf, tmp_path / "model")
        torch.set_warn_always(True)  # else only once in a program
        try:
            mapped = joblib.load(tmp_path / "model", mmap_mode="r")
            np.testing.assert_array_equal(mapped.predict_proba(X), clf.predict_proba(X))
        finally:
            torch.set_warn_always(False)
        assert not len(recwarn)

    def test_pickle_of_a_gpu_model_loads_without_a_gpu(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(max_iter=2).fit(X, y)
        expected = clf.predict_proba(X)
        clf.device = "cuda:99"  # As if it had been trained there.
        copy = pickle.loads(pickle.dumps(clf))
        assert next(copy.network_.parameters()).device.type == "cpu"
        np.testing.assert_array_equal(copy.predict_proba(X), expected)


class TestFailedFit:
    def test_failed_first_fit_leaves_the_estimator_unfitted(self, sets_and_labels):
        X, _ = sets_and_labels
        clf = quick(early_stopping=True)
        with pytest.raises(ValueError, match="cannot hold out"):
            clf.fit(X, np.arange(60) == 0)
        with pytest.raises(NotFittedError):
            clf.predict(X)

    def test_diverging_first_fit_leaves_the_estimator_unfitted(self):
        X, y = make_sets(dtype=np.float32)
        clf = quick(shifting=False, optimizer="adam", learning_rate=1e37, max_grad_norm=None)
        with pytest.raises(ValueError, match=r"Training diverged in epoch \d+, with loss"):
            clf.fit(X, y)
        with pytest.raises(NotFittedError):
            clf.predict(X)

    def test_divergence_in_the_last_step_is_noticed(self):
        X, y = make_sets(dtype=np.float32)
        clf = quick(max_iter=1, learning_rate=1e38, max_grad_norm=None, batch_size=1000)
        with pytest.raises(ValueError, match="Training diverged in epoch 1"):
            clf.fit(X, y)

    @pytest.mark.parametrize("warm_start", [False, True])
    @pytest.mark.parametrize(
        ("changed", "bad", "message"),
        [
            ({}, {"y": np.zeros(59)}, "inconsistent numbers"),
            ({}, {"X": np.zeros((60, 2, 5)), "y": np.zeros(60)}, "expecting 4|only one class"),
            ({"early_stopping": True}, {"y": np.arange(60) == 0}, "cannot hold out|not know"),
            ({"learning_rate": 1e37, "max_grad_norm": None, "shifting": False}, {}, "diverged"),
        ],
    )
    def test_failed_fit_keeps_the_earlier_model(self, changed, bad, message, warm_start):
        X, y = make_sets(dtype=np.float32)
        clf = quick(max_iter=3, shifting=False, warm_start=warm_start, optimizer="adam").fit(X, y)
        expected, loss_curve = clf.predict_proba(X), list(clf.loss_curve_)
        with pytest.raises(ValueError, match=message):
            clf.set_params(**changed).fit(**{"X": X, "y": y, **bad})
        np.testing.assert_array_equal(clf.predict_proba(X), expected)
        assert clf.loss_curve_ == loss_curve
        assert clf.n_features_in_ == 4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fit_ignores_the_torch_mode_of_the_caller(mode, sets_and_labels):
    X, y = sets_and_labels
    expected = quick(max_iter=2).fit(X, y)
    with mode():
        clf = quick(max_iter=2).fit(X, y)
    assert have_same_weights(clf, expected)
