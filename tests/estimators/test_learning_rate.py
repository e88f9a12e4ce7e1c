"""The learning rate of every epoch."""

import numpy as np
import pytest
import torch

from acluster import AttentionClusterClassifier
from acluster.estimators import _fitting
from acluster.training import SCHEDULES
from tests.conftest import make_sets


def make(**parameters):
    # One batch without dropout, so that neither the order of the items nor a seed matters.
    options = {"batch_size": 100, "dropout": 0.0, "dtype": "float64", "random_state": 0}
    options["learning_rate_schedule"] = "constant"
    return AttentionClusterClassifier(cluster_size=4, **{**options, **parameters})


def test_cosine_falls_from_1_to_0():
    factors = [SCHEDULES["cosine"](passed) for passed in np.linspace(0, 1, 11)]
    assert factors[0] == 1
    assert factors[5] == pytest.approx(0.5)
    assert factors[10] == pytest.approx(0)
    assert np.all(np.diff(factors) < 0)


@pytest.mark.parametrize("n_members", [1, 2])
@pytest.mark.parametrize("is_compiled", [False, True])
def test_cosine_equals_fits_of_one_epoch_with_these_learning_rates(
    monkeypatch, n_members, is_compiled
):
    if not is_compiled:
        monkeypatch.setattr(_fitting, "_MAX_OPERATIONS", 0)
    X, y = make_sets(n=40)
    options = {"learning_rate": 0.1, "n_members": n_members}
    whole = make(learning_rate_schedule="cosine", max_iter=4, **options).fit(X, y)
    steps = make(warm_start=True, max_iter=1, tol=None, **options)
    for epoch in range(4):
        steps.set_params(learning_rate=0.1 * (1 + np.cos(np.pi * epoch / 4)) / 2).fit(X, y)
    assert whole.n_iter_ == steps.n_iter_ == 4
    for found, expected in zip(
        whole.network_.parameters(), steps.network_.parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_cosine_trains_all_epochs_without_a_warning(recwarn):
    X, y = make_sets(n=40)
    options = {"max_iter": 30, "tol": 10.0, "n_iter_no_change": 2}
    assert make(**options).fit(X, y).n_iter_ == 3
    assert make(**options, learning_rate_schedule="cosine").fit(X, y).n_iter_ == 30
    assert not recwarn.list


def test_partial_fit_has_a_constant_learning_rate():
    X, y = make_sets(n=40)
    fits = [make(max_iter=3, learning_rate_schedule=name) for name in SCHEDULES]
    for _ in range(2):
        for clf in fits:
            clf.partial_fit(X, y, classes=np.unique(y))
    proba = [clf.predict_proba(X) for clf in fits]
    np.testing.assert_array_equal(proba[0], proba[1])


def test_error_of_divergence_names_the_parameter_not_the_learning_rate_of_the_epoch():
    X, y = make_sets(n=40)
    clf = make(learning_rate=1e308, learning_rate_schedule="cosine", max_iter=9, shifting=False)
    with pytest.raises(ValueError, match=r"learning_rate \(now 1e\+308\)"):
        clf.fit(X, y)
