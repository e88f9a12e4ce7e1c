"""When `fit` stops: `early_stopping`, validation sets, `tol` and `max_iter`."""

import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from acluster import MultimodalAttentionClusterClassifier
from tests.conftest import make_sets
from tests.estimators.common import QUICK, have_same_weights, quick


def test_early_stopping_waits_n_iter_no_change_epochs():
    X, y = make_sets(n=120, n_classes=3, gap=2.0)
    options = {"learning_rate_schedule": "constant", "validation_fraction": 0.25}
    clf = quick(early_stopping=True, tol=0.0, max_iter=80, **options).fit(X, y)
    assert len(clf.validation_scores_) == len(clf.loss_curve_) == clf.n_iter_
    assert clf.n_iter_ == np.argmax(clf.validation_scores_) + 1 + clf.n_iter_no_change < 80


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_early_stopping_restores_the_best_epoch_on_x_val(schedule):
    X, y = make_sets(n=120, n_classes=3, gap=2.0)
    X_val, y_val = make_sets(n=60, n_classes=3, gap=2.0, seed=1)
    options = {"tol": 0.0, "n_iter_no_change": 5, "learning_rate_schedule": schedule}
    clf = quick(early_stopping=True, **options).fit(X, y, X_val=X_val, y_val=y_val)
    assert clf.score(X_val, y_val) == clf.best_validation_score_
    best = int(np.argmax(clf.validation_scores_))
    assert clf.best_validation_score_ == clf.validation_scores_[best]
    stopped = schedule == "constant" and clf.n_iter_ - 1 - best >= 5
    assert stopped or clf.n_iter_ == QUICK["max_iter"]


def test_x_val_without_early_stopping_only_records_scores(sets_and_labels):
    X, y = sets_and_labels
    X_val, y_val = make_sets(seed=1)
    watched = quick(max_iter=10).fit(X, y, X_val=X_val, y_val=y_val)
    assert len(watched.validation_scores_) == 10
    assert watched.validation_scores_[-1] == watched.score(X_val, y_val)
    assert have_same_weights(watched, quick(max_iter=10).fit(X, y))


def test_x_val_of_several_modalities_is_scored(sets_and_labels):
    X, y = sets_and_labels
    both = {"one": X, "other": X}
    clf = MultimodalAttentionClusterClassifier(max_iter=2, tol=None, random_state=0)
    clf.fit(both, y, X_val=both, y_val=y)
    assert clf.validation_scores_[-1] == clf.score(both, y)
    # The modalities of this fit count, not those of the fit before.
    clf.fit({"one": X}, y, X_val={"one": X}, y_val=y)
    assert clf.validation_scores_[-1] == clf.score({"one": X}, y)


def test_early_stopping_of_an_indicator_uses_the_fraction_of_correct_entries():
    X, y = make_sets(n=200, n_classes=4)
    indicator = np.eye(4, dtype=int)[y]
    clf = quick(early_stopping=True, tol=0.0, max_iter=40)
    clf.fit(X[:150], indicator[:150], X_val=X[150:], y_val=indicator[150:])
    right = (clf.predict(X[150:]) == indicator[150:]).mean()
    assert clf.best_validation_score_ == pytest.approx(right)
    assert right > 0.8


def test_tol_stops_when_the_loss_settles(sets_and_labels):
    X, y = sets_and_labels
    clf = quick(tol=10.0, n_iter_no_change=4, learning_rate_schedule="constant").fit(X, y)
    assert clf.n_iter_ == 5
    assert clf.validation_scores_ is None
    assert clf.best_validation_score_ is None


def test_max_iter_warns_before_convergence(sets_and_labels):
    X, y = sets_and_labels
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        quick(max_iter=3, tol=1e-4, learning_rate_schedule="constant").fit(X, y)


def test_verbose_prints_a_line_per_epoch(sets_and_labels):
    X, y = sets_and_labels
    printed = io.StringIO()
    with redirect_stdout(printed):
        quick(max_iter=2, verbose=True).fit(X, y, X_val=X, y_val=y)
    lines = printed.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("epoch 2: loss 0.")
    assert "validation accuracy" in lines[1]
