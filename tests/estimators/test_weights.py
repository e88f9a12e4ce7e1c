"""`sample_weight`, `class_weight` and the loss."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from tests.conftest import make_sets
from tests.estimators.common import quick


def full_batch(**parameters):
    """A classifier whose fit depends only on the sum of the weighted losses."""
    return quick(dropout=0.0, batch_size=10**6, max_iter=20, **parameters)


def test_sample_weight_equals_repetition(sets_and_labels):
    X, y = sets_and_labels
    weight = np.random.default_rng(0).integers(0, 4, size=len(y))
    weighted = full_batch().fit(X, y, sample_weight=weight)
    repeated = full_batch().fit(X[np.repeat(np.arange(len(y)), weight)], np.repeat(y, weight))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6)


def test_sample_weight_is_invariant_to_scale(sets_and_labels):
    X, y = sets_and_labels
    weight = np.linspace(0.5, 2, len(y))
    one = full_batch().fit(X, y, sample_weight=weight)
    other = full_batch().fit(X, y, sample_weight=1000 * weight)
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), rtol=1e-6)


def test_class_weight_balanced_is_one_over_the_class_size():
    X, y = make_sets(n=90, n_classes=3)
    kept = np.flatnonzero((y > 0) | (np.arange(90) < 30))
    X, y = X[kept], y[kept]
    # The statistics of standardization depend on weights of items, not of classes.
    balanced = full_batch(class_weight="balanced", standardize=False).fit(X, y)
    by_hand = full_batch(standardize=False).fit(X, y, sample_weight=1 / np.bincount(y)[y])
    np.testing.assert_allclose(balanced.predict_proba(X), by_hand.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("lacking", [0, 2])
def test_class_weight_balanced_allows_a_later_fit_to_lack_a_class(lacking):
    X, y = make_sets(n=30, n_classes=3)
    clf = quick(class_weight="balanced", warm_start=True).fit(X, y)
    assert len(clf.fit(X[y != lacking], y[y != lacking]).classes_) == 3


def test_class_weight_dict_multiplies_the_sample_weight(sets_and_labels):
    X, y = sets_and_labels
    by_class = full_batch(class_weight={0: 1, 1: 3}, standardize=False).fit(X, y)
    by_item = full_batch(standardize=False).fit(X, y, sample_weight=np.where(y == 1, 3, 1))
    np.testing.assert_allclose(by_class.predict_proba(X), by_item.predict_proba(X), rtol=1e-6)


def test_class_weight_rejects_a_dict_without_the_classes(sets_and_labels):
    X, y = sets_and_labels
    with pytest.raises(ValueError, match=r"classes, \[0, 1\], are not in class_weight"):
        quick(class_weight={7: 1.0}).fit(X, y)


def test_class_weight_balanced_balances_every_column_of_an_indicator():
    X, _ = make_sets(n=100, gap=0.0)
    rare = np.c_[np.arange(100) < 10, np.arange(100) < 50].astype(int)
    options = {"learning_rate_schedule": "constant"}  # 20 epochs of a decay learn too little
    mean = full_batch(class_weight="balanced", **options).fit(X, rare).predict_proba(X).mean(0)
    np.testing.assert_allclose(mean, 0.5, atol=0.1)
    mean = full_batch(**options).fit(X, rare).predict_proba(X).mean(0)
    assert mean[0] < 0.3


def test_loss_curve_is_the_log_loss(sets_and_labels):
    X, y = sets_and_labels
    clf = quick(max_iter=1, dropout=0.0, batch_size=10**6, learning_rate=1e-12).fit(X, y)
    assert clf.loss_curve_[0] == pytest.approx(log_loss(y, clf.predict_proba(X)), rel=1e-6)


def test_partial_fit_applies_class_weights_unnormalized(sets_and_labels):
    X, y = sets_and_labels
    options = {"dropout": 0.0, "learning_rate": 0.001, "optimizer": "rmsprop"}
    plain, weighted = quick(**options), quick(class_weight={0: 1, 1: 0}, **options)
    for clf in (plain, weighted):
        for item in range(10):
            clf.partial_fit(X[item : item + 1], y[item : item + 1], classes=[0, 1])
    assert (weighted.predict_proba(X)[:, 0] > plain.predict_proba(X)[:, 0]).all()
