"""The folds of the classifiers that choose for themselves."""

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, KFold

from acluster import AttentionClusterClassifierCV
from acluster.estimators import _cross_validation
from tests.conftest import make_sets


@pytest.fixture(autouse=True)
def _short_fits(monkeypatch):
    monkeypatch.setattr(_cross_validation, "PORTFOLIO", ({"max_iter": 2, "cluster_size": 2},))


def fitted(cv=2, fit=(), class_weight=None, **fit_params):
    X, y = fit or make_sets(n=24)
    clf = AttentionClusterClassifierCV(cv=cv, class_weight=class_weight, random_state=0)
    return clf.fit(X, y, **fit_params)


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


def test_balanced_class_weight_allows_a_training_part_to_lack_a_class():
    y = np.r_[0, 1, 2, np.arange(21) % 2]
    folds = [(np.arange(3, 24), np.arange(3)), (np.arange(3), np.arange(3, 24))]
    clf = fitted(folds, (make_sets(n=24)[0], y), class_weight="balanced")
    assert clf.oof_proba_.shape == (24, 3)


def test_training_part_without_positive_weight_is_rejected():
    groups = np.arange(24) // 12
    with pytest.raises(ValueError, match="training part has no item of positive weight"):
        fitted(None, groups=groups, sample_weight=groups.astype(float))


def test_folds_that_are_not_possible_name_cv_and_the_remedy():
    X, _ = make_sets(n=24)
    message = r"^cv=None cannot divide 2 items: n_splits=2 .* each class\. Pass other folds"
    with pytest.raises(ValueError, match=message):
        fitted(None, (X[:2], [0, 1]))
    with pytest.raises(ValueError, match=r"^cv=GroupKFold.* 'groups' .* not be None\. Pass other"):
        fitted(GroupKFold(2))


@pytest.mark.parametrize("groups", [[["a"], ["b"]] * 12, "ab", list("ab")])
def test_groups_of_another_shape_are_rejected(groups):
    with pytest.raises(ValueError, match=r"^groups has shape .* but X has 24 items\. Pass one"):
        fitted(None, groups=groups)


def test_missing_groups_are_rejected():
    with pytest.raises(ValueError, match=r"groups contains NaN.\ngroups\[1\] is .*nan"):
        fitted(None, groups=np.r_[0, np.nan, np.arange(22.0)])
    with pytest.raises(ValueError, match=r"Input groups contains missing values.\ngroups\[0\]"):
        fitted(None, groups=[None, *"abcd"] + ["e"] * 19)
