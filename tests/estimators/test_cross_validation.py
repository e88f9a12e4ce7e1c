"""Classifiers that choose for themselves by cross-validation."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold

from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    MultimodalAttentionClusterClassifierCV,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.estimators import _cross_validation, _inference
from acluster.estimators._ensemble_selection import expected_accuracy, greedy_weights
from acluster.estimators._items import Items
from acluster.estimators._labels import LabelCoding
from acluster.training import _members
from tests.conftest import make_sets


@pytest.fixture(autouse=True)
def _small_portfolio(monkeypatch):
    small = {"cluster_size": 3, "max_iter": 3, "tol": None}
    portfolio = ({**small}, {**small, "n_attended": 2}, {**small, "learning_rate": 1e308})
    monkeypatch.setattr(_cross_validation, "PORTFOLIO", portfolio)


def make(**options):
    return AttentionClusterClassifierCV(**{"random_state": 0, "n_configurations": 2, **options})


@pytest.mark.parametrize("kind", ["binary", "text", "labels"])
def test_predictions_are_the_weighted_mean_of_all_networks(kind):
    X, y = make_sets(n_classes=3)
    y = {"binary": y > 0, "text": np.array(["b", "a", "c"])[y], "labels": np.eye(3, dtype=int)[y]}[
        kind
    ]
    clf = make().fit(X, y)
    assert clf.weights_.sum() == pytest.approx(1)
    assert [len(fitted) for fitted in clf.estimators_] == [5, 5]
    of_configurations = [
        np.mean([one.predict_proba(X) for one in fitted], axis=0) for fitted in clf.estimators_
    ]
    expected = np.tensordot(clf.weights_, of_configurations, axes=1)
    np.testing.assert_allclose(clf.predict_proba(X), expected, rtol=1e-6)
    right = clf.predict(X) == y
    assert right.mean() == pytest.approx(clf.score(X, y) if y.ndim == 1 else right.mean())
    assert clf.predict(X).dtype == (np.asarray(y).dtype if kind != "labels" else np.int64)


def test_probabilities_of_narrow_features_sum_to_one():
    X, y = make_sets(n_classes=3, dtype=np.float32)
    clf = make(cv=3).fit(X, y)
    for found in (clf.predict_proba(X), clf.oof_proba_):
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_every_item_is_read_once_per_fold(monkeypatch):
    X, y = make_sets()
    clf = make(cv=3).fit(X, y)
    n_read, source_of = [], _inference.source_of

    def counting(classifier, X, *options):
        n_read.append(len(X))
        return source_of(classifier, X, *options)

    monkeypatch.setattr(_inference, "source_of", counting)
    clf.weights_ = np.array([0.5, 0.5])
    clf.predict_proba(X)
    assert n_read == [60] * 3
    n_read.clear()
    make(cv=3).fit(X, y)
    assert n_read == [20] * 3


def test_out_of_fold_predictions_come_from_the_other_folds():
    X, y = make_sets()
    splits = list(StratifiedKFold(3).split(y, y))
    clf = make(cv=splits).fit(X, y)
    for fold, (train, test) in enumerate(splits):
        first = clf.estimators_[0][fold]
        alone = AttentionClusterClassifier(**first.get_params()).fit(X[train], y[train])
        np.testing.assert_array_equal(alone.predict_proba(X), first.predict_proba(X))
        of_fold = [fitted[fold].predict_proba(X[test]) for fitted in clf.estimators_]
        expected = np.tensordot(clf.weights_, of_fold, axes=1)
        np.testing.assert_allclose(clf.oof_proba_[test], expected, rtol=1e-6)


def test_expected_accuracy_does_not_see_the_labels_that_it_tests():
    # One of two configurations is right on each fold, and only there: weights that are chosen on
    # the other folds are wrong everywhere.
    y = np.repeat([0, 1], 10)
    items = Items(None, y, np.ones(20))
    coding = LabelCoding.of(y)
    right, wrong = np.eye(2)[y] * 0.8 + 0.1, np.eye(2)[1 - y] * 0.8 + 0.1
    half = np.arange(20) % 2 == 0
    predicted = np.stack(
        [np.where(half[:, None], right, wrong), np.where(half[:, None], wrong, right)]
    )
    splits = [
        (np.flatnonzero(half), np.flatnonzero(~half)),
        (np.flatnonzero(~half), np.flatnonzero(half)),
    ]
    assert expected_accuracy(predicted, coding, _Indexed(items), splits) == 0


class _Indexed(Items):
    """Items without local features."""

    def __init__(self, items):
        object.__setattr__(self, "y", items.y)
        object.__setattr__(self, "sample_weight", items.sample_weight)

    def __getitem__(self, index):
        return _Indexed(Items(None, self.y[index], self.sample_weight[index]))


def test_greedy_weights_lower_the_loss_of_the_best_configuration():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    items, coding = Items(None, y, rng.random(60) + 0.1), LabelCoding.of(y)
    logits = rng.normal(size=(4, 60, 3)) + 2 * np.eye(3)[y]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)

    def loss(weights):
        mixed = np.tensordot(weights, probabilities, axes=1)[np.arange(60), y]
        return np.average(-np.log(mixed), weights=items.sample_weight)

    weights = greedy_weights(probabilities, coding, items)
    assert weights.sum() == pytest.approx(1)
    assert (weights >= 0).all()
    assert loss(weights) < min(loss(one) for one in np.eye(4))
    # The optimum of this convex problem, to the grid of the weights.
    from scipy.optimize import minimize

    best = minimize(lambda w: loss(np.exp(w) / np.exp(w).sum()), np.zeros(4)).fun
    assert loss(weights) < best + 1e-3


def test_configuration_that_diverges_leaves_the_portfolio():
    X, y = make_sets()
    clf = make(n_configurations=3).fit(X, y)
    assert [one.get("learning_rate") for one in clf.portfolio_] == [None, None]
    assert len(clf.weights_) == len(clf.estimators_) == 2


def test_budget_keeps_the_first_configurations():
    X, y = make_sets()
    assert len(make(max_time=1e-9).fit(X, y).portfolio_) == 1
    assert len(make(max_time=1e9).fit(X, y).portfolio_) == 2
    assert len(make(n_configurations=1).fit(X, y).portfolio_) == 1


def test_only_needed_configurations_are_trained_after_a_large_first_fold(monkeypatch):
    X, y = make_sets(n=90, n_classes=3, gap=4.0)
    small = {"max_iter": 20, "cluster_size": 3}
    useless = {**small, "learning_rate": 1e-9}
    portfolio = useless, {**useless, "cluster_size": 2}, small
    monkeypatch.setattr(_cross_validation, "PORTFOLIO", portfolio)
    monkeypatch.setattr(_cross_validation, "_MANY_ITEMS", 31)
    whole = make(cv=3, n_configurations=3).fit(X, y)
    assert whole.portfolio_ == [*portfolio]
    assert whole.weights_.tolist() == [0, 0, 1]
    monkeypatch.setattr(_cross_validation, "_MANY_ITEMS", 30)
    faster = make(cv=3, n_configurations=3).fit(X, y)
    assert faster.portfolio_ == [useless, small]
    np.testing.assert_array_equal(faster.predict_proba(X), whole.predict_proba(X))
    # If there is time for one only, it is the one with the largest weight.
    assert make(cv=3, n_configurations=3, max_time=1e-9).fit(X, y).portfolio_ == [small]

    train = AttentionClusterClassifierCV._train

    def diverge_in_the_second_fold(self, data, seed):
        fitted = train(self, data, seed)
        return fitted if len(fitted) == 3 else [fitted[0], None][: len(fitted)]

    monkeypatch.setattr(AttentionClusterClassifierCV, "_train", diverge_in_the_second_fold)
    assert make(cv=3, n_configurations=3).fit(X, y).portfolio_ == [useless]


@pytest.mark.parametrize("cv", [KFold(2), 3, None, "generator"])
def test_items_of_weight_0_change_nothing(cv):
    X, y = make_sets(n=40)
    weight = np.where(np.arange(40) < 30, 1.0, 0.0)
    other = np.where(np.arange(40) < 30, y, 1 - y)
    folds = [(np.arange(40) % 2 == 0).nonzero()[0], (np.arange(40) % 2 == 1).nonzero()[0]]

    def made():
        pairs = ((folds[i], folds[1 - i]) for i in range(2))
        return make(cv=pairs if cv == "generator" else cv)

    first, second = made().fit(X, y, weight), made().fit(X, other, weight)
    if cv is not None and not isinstance(cv, int):
        np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    assert len(first.oof_proba_) == 30


def test_groups_stay_together(monkeypatch):
    X, y = make_sets(n=40)
    groups = np.arange(40) // 4
    seen, splits_of = [], _cross_validation.splits_of

    def noted(*args):
        seen.extend(splits_of(*args))
        return seen

    monkeypatch.setattr(_cross_validation, "splits_of", noted)
    make(cv=3).fit(X, y, groups=groups)
    assert [set(groups[train]) & set(groups[test]) for train, test in seen] == [set()] * 3


def test_fitted_object_does_not_depend_on_test_items():
    X, y = make_sets(n=60)
    train, test = np.arange(40), np.arange(40, 60)
    first = make().fit(X[train], y[train])
    permuted = y.copy()
    permuted[test] = np.random.default_rng(0).permutation(y[test])
    second = make().fit(X[train], permuted[train])
    assert pickle.dumps(first.weights_) == pickle.dumps(second.weights_)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))


def test_same_seed_gives_the_same_bits_and_pickles():
    X, y = make_sets()
    first, second = make().fit(X, y), clone(make()).fit(X, y)
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(first)).predict_proba(X), first.predict_proba(X)
    )


def test_modalities_stores_and_lists(tmp_path):
    X, y = make_sets(n=40)
    both = MultimodalFeatureSets({"a": X, "b": X})
    clf = MultimodalAttentionClusterClassifierCV(n_configurations=1, cv=2, random_state=0)
    in_memory = clf.fit(both, y).predict_proba(both)
    save_feature_sets(tmp_path / "sets.zarr", both)
    stored = open_feature_sets(tmp_path / "sets.zarr")
    from_store = clone(clf).fit(stored, y).predict_proba(stored)
    np.testing.assert_allclose(from_store, in_memory, rtol=1e-4)  # stored as float32
    arrays = [X[i] for i in range(40)]
    np.testing.assert_array_equal(
        make().fit(arrays, list(y)).predict_proba(arrays), make().fit(X, y).predict_proba(X)
    )


def test_folds_that_do_not_divide_the_items_are_refused():
    X, y = make_sets()
    with pytest.raises(ValueError, match="exactly one fold"):
        make(cv=ShuffleSplit(3, random_state=0)).fit(X, y)


def test_interrupted_fit_leaves_the_estimator_unfitted(monkeypatch):
    X, y = make_sets()
    calls, fit_together = [], _cross_validation.fit_together

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit_together(*args)

    monkeypatch.setattr(_cross_validation, "fit_together", interrupt)
    clf = make()
    with pytest.raises(KeyboardInterrupt):
        clf.fit(X, y)
    assert not [name for name in vars(clf) if name.endswith("_")]


def test_interrupt_between_epochs_does_not_promise_kept_weights(monkeypatch):
    calls, run_epoch = [], _members.run_epoch

    def interrupt(fits):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_epoch(fits)

    monkeypatch.setattr(_members, "run_epoch", interrupt)
    clf = make()
    with pytest.raises(KeyboardInterrupt, match="the estimator is as before the call"):
        clf.fit(*make_sets())
    assert not hasattr(clf, "portfolio_")


def test_small_classes_get_fewer_folds():
    X, y = make_sets(n=20)
    y[:] = 0
    y[:3] = 1
    assert len(make().fit(X, y).estimators_[0]) == 3
    y[1:3] = 0  # a class with one item is in the test part of one fold
    with pytest.warns(UserWarning, match="least populated class"):
        clf = make().fit(X, y)
    assert clf.predict_proba(X).shape == (20, 2)
