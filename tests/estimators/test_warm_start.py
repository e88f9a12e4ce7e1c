"""Fits that continue an earlier one: `warm_start` and `partial_fit`."""

import numpy as np
import pytest
from sklearn.base import clone

from acluster.training import OPTIMIZERS
from tests.conftest import make_sets
from tests.estimators.common import have_same_weights, quick


class TestWarmStart:
    def test_warm_start_continues_the_loss_curve(self, sets_and_labels):
        X, y = sets_and_labels
        options = {"dropout": 0.0, "batch_size": 1000, "max_iter": 10}
        options["learning_rate_schedule"] = "constant"
        twice = quick(warm_start=True, **options).fit(X, y).fit(X, y)
        once = quick(**{**options, "max_iter": 20}).fit(X, y)
        assert twice.n_iter_ == len(twice.loss_curve_) == 20
        np.testing.assert_allclose(twice.loss_curve_, once.loss_curve_)
        assert have_same_weights(twice, once)

    def test_fit_without_warm_start_starts_from_scratch(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(max_iter=5)
        assert have_same_weights(clf.fit(X, y).fit(X, y), clone(clf).fit(X, y))

    def test_warm_start_rejects_labels_of_another_fit(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(warm_start=True, max_iter=1).fit(X, y)
        with pytest.raises(ValueError, match=r"labels that the classifier does not know: \[2\]"):
            clf.fit(X, y + 1)

    def test_warm_start_with_another_optimizer_resets_its_state(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(warm_start=True, max_iter=3).fit(X, y)
        for optimizer in sorted(OPTIMIZERS):
            clf.set_params(optimizer=optimizer).fit(X, y)
        assert clf.n_iter_ == 3 * (1 + len(OPTIMIZERS))


class TestPartialFit:
    def test_partial_fit_is_one_epoch(self, sets_and_labels):
        X, y = sets_and_labels
        options = {"dropout": 0.0, "batch_size": 1000, "max_iter": 7, "standardize": False}
        whole = quick(**options, learning_rate_schedule="constant").fit(X, y)
        parts = quick(**options)
        for _ in range(7):
            parts.partial_fit(X, y, classes=[0, 1])
        assert parts.n_iter_ == 7
        assert have_same_weights(parts, whole)

    def test_partial_fit_accepts_parts_that_lack_classes(self):
        X, y = make_sets(n=120, n_classes=3)
        clf = quick()
        for _ in range(10):
            for label in range(3):
                clf.partial_fit(X[y == label], y[y == label], classes=[0, 1, 2])
        assert clf.predict_proba(X).shape == (120, 3)

    def test_partial_fit_accepts_an_indicator(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick().partial_fit(X, np.eye(2, dtype=int)[y], classes=[0, 1])
        assert clf.predict(X).shape == (60, 2)

    def test_partial_fit_accepts_classes_in_any_order(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick().partial_fit(X, y, classes=[1, 0]).partial_fit(X, y, classes=[1, 0])
        assert clf.classes_.tolist() == [0, 1]

    def test_partial_fit_draws_dropout_anew(self, sets_and_labels):
        X, y = sets_and_labels
        clf = quick(learning_rate=1e-12, dropout=0.9, batch_size=1000)
        for _ in range(3):
            clf.partial_fit(X, y, classes=[0, 1])
        assert len(set(clf.loss_curve_)) == 3
