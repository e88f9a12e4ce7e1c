"""The folds of the classifiers that choose for themselves."""

import numpy as np
import pytest
from sklearn.model_selection import KFold

from acluster import AttentionClusterClassifierCV
from acluster.estimators import _cross_validation
from tests.conftest import make_sets


@pytest.fixture(autouse=True)
def _short_fits(monkeypatch):
    monkeypatch.setattr(_cross_validation, "PORTFOLIO", ({"max_iter": 2, "cluster_size": 2},))


def fitted(cv=2, fit=(), **fit_params):
    X, y = fit or make_sets(n=24)
    return AttentionClusterClassifierCV(cv=cv, random_state=0).fit(X, y, **fit_params)


def folds_of_groups(monkeypatch, y, groups, cv):
    """Return the sets of groups in the test parts of the folds."""
    splits = []

    def recorded(*args):
        splits.extend(_splits(*args))
        return splits

    _splits = _cross_validation.splits_of
    monkeypatch.setattr(_cross_validation, "splits_of", recorded)
    fitted(cv, (make_sets(n=24)[0], y), groups=groups)
    return [set(groups[test]) for _, test in splits]


@pytest.mark.parametrize("n_labels", [1, 3])
@pytest.mark.parametrize("cv", [2, None])
def test_groups_are_in_one_fold_for_every_kind_of_y(monkeypatch, n_labels, cv):
    y = np.arange(24) % 2
    y = y if n_labels == 1 else np.eye(3, dtype=int)[np.arange(24) % 3]
    folds = folds_of_groups(monkeypatch, y, np.arange(24) // 4, cv)
    assert sum(map(len, folds)) == 6


def test_default_folds_are_at_most_as_many_as_groups(monkeypatch):
    folds = folds_of_groups(monkeypatch, np.arange(24) % 2, np.arange(24) // 12, None)
    assert sorted(folds, key=min) == [{0}, {1}]


def test_sample_weight_may_be_one_number():
    expected = fitted().oof_proba_
    np.testing.assert_allclose(fitted(sample_weight=2.0).oof_proba_, expected)


def test_folds_may_be_masks_or_lists():
    is_first = np.arange(24) < 12
    first, second = np.flatnonzero(is_first), np.flatnonzero(~is_first)
    expected = fitted([(first, second), (second, first)]).oof_proba_
    masks = [(is_first, ~is_first), (~is_first, is_first)]
    lists = [(first.tolist(), second.tolist()), (second.tolist(), first.tolist())]
    for cv in (masks, lists):
        np.testing.assert_array_equal(fitted(cv).oof_proba_, expected)


def test_folds_that_test_training_items_are_rejected():
    everything = np.arange(24)
    with pytest.raises(ValueError, match="has item 12 in the training part and in the test part"):
        fitted([(everything, everything[12:]), (everything[12:], everything[:12])])


def test_generator_of_folds_that_is_used_up_is_rejected():
    X, y = make_sets(n=24)
    clf = AttentionClusterClassifierCV(cv=KFold(2).split(y), random_state=0).fit(X, y)
    with pytest.raises(ValueError, match=r"tests item 0 0 times.* a list instead of a generator"):
        clf.fit(X, y)
