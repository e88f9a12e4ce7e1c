"""`acluster fit` keeps the items of a group together, unless it is told otherwise."""

import re

import numpy as np
import pytest

import acluster
from acluster.command_line import _splits, main

GROUPS = np.repeat(np.arange(12), 3)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store whose groups can be recognized, and whose labels are random across groups."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(12) % 2)[GROUPS]
    signature = np.eye(12)[GROUPS] * 5
    X = [row + 0.1 * rng.normal(size=(4, 12)) for row in signature]
    acluster.save_feature_sets("s.zarr", X, label=list(np.where(y, "a", "b")), group=GROUPS)
    acluster.save_feature_sets("plain.zarr", X, label=list(np.where(y, "a", "b")))
    return X, y


def fit(capsys, *options, store="s.zarr", fails=False):
    options = [*options, "--set", "max_iter=30", "learning_rate=0.03", "cluster_size=8"]
    assert main(["fit", store, "--out", "m", *options]) == int(fails)
    output = capsys.readouterr()
    return output.err if fails else output.out


def test_fit_cv_keeps_groups_together(store, capsys):
    # A group tells the label, so a split that divides groups is no test: it is always right.
    out = fit(capsys, "--cv", "4")
    assert "over 4 folds, which keep groups together: " in out
    mean = float(re.search(r"cross-validated accuracy: ([\d.]+)", out)[1])
    assert mean < 0.8
    ignored = fit(capsys, "--cv", "4", "--no-group")
    assert "over 4 folds: " in ignored
    assert float(re.search(r"cross-validated accuracy: ([\d.]+)", ignored)[1]) > 0.9
    assert "m: 36 items, 30 epochs" in out


def test_fit_cv_equals_scikit_learn(store, capsys):
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score

    out = fit(capsys, "--cv", "3", "--group")
    clf = acluster.AttentionClusterClassifier(
        max_iter=30, learning_rate=0.03, cluster_size=8, random_state=0
    )
    stored = acluster.open_feature_sets("s.zarr")
    cv = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    expected = cross_val_score(clf, stored, stored.label, groups=stored.group, cv=cv)
    assert ", ".join(f"{one:.4f}" for one in expected) in out


def test_fit_hold_out_divides_groups_only_without_them(store, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        acluster.AttentionClusterClassifier,
        "fit",
        lambda self, X, y, *_, **__: seen.append(X.group) or pytest.fail("seen"),
    )
    for option in ([], ["--group"], ["--no-group"]):
        with pytest.raises(pytest.fail.Exception):
            fit(capsys, "--hold-out", "0.25", *option)
    sizes = [np.unique(group, return_counts=True)[1] for group in seen]
    assert [{*counts.tolist()} for counts in sizes[:2]] == [{3}, {3}]
    assert len(sizes[0]) == 9
    assert {*sizes[2].tolist()} > {3}


def test_fit_early_stopping_validates_on_other_groups(store, capsys, monkeypatch):
    original, seen = acluster.AttentionClusterClassifier.fit, []

    def spy(self, X, y, weight=None, **options):
        seen.append((X.group, options["X_val"].group, options["y_val"]))
        return original(self, X, y, weight, **options)

    monkeypatch.setattr(acluster.AttentionClusterClassifier, "fit", spy)
    assert main(["fit", "s.zarr", "--out", "m", "--set", "early_stopping=true", "max_iter=2"]) == 0
    train, validation, y = seen[0]
    assert not {*train.tolist()} & {*validation.tolist()}
    assert len(train) + len(validation) == 36
    assert len(y) == len(validation) == 6  # 10 % of the 12 groups, rounded up
    assert len(acluster.load("m").validation_scores_) == 2


def test_fit_group_needs_groups(store, capsys):
    error = fit(capsys, "--group", store="plain.zarr", fails=True)
    assert "--group needs a store with the column group, which plain.zarr does not have" in error
    assert "acluster convert plain.zarr grouped.zarr --labels table.csv" in error


@pytest.mark.parametrize(
    ("group", "y", "n_folds", "message"),
    [
        (None, [0, 0, 1], 2, "--cv 2 is not possible: there are 1 items of the label '1'"),
        ([0, 0, 1], [0, 1, 0], 3, "there are 2 groups. Use at most 2 folds"),
        (None, [0, 1], 1, "--cv must be at least 2 folds; got 1"),
        (None, np.eye(2), 3, "there are 2 items"),
    ],
)
def test_folds_rejects(group, y, n_folds, message):
    with pytest.raises(ValueError, match=message):
        _splits.folds(None if group is None else np.array(group), np.array(y), n_folds)


@pytest.mark.parametrize("n_labels", [1, 3])
@pytest.mark.parametrize("group", [None, GROUPS])
def test_folds_test_each_item_once_and_divide_no_group(n_labels, group):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (36, n_labels) if n_labels > 1 else 36)
    parts = _splits.folds(group, y, 4)
    assert sorted(np.concatenate([test for _, test in parts]).tolist()) == [*range(36)]
    for train, test in parts:
        assert sorted([*train, *test]) == [*range(36)]
        assert group is None or not {*group[train]} & {*group[test]}
