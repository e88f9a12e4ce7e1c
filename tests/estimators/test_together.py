"""Estimators that are fitted together are what each would be alone."""

import gc
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.estimators import TrainingData, _fitting, fit_together
from acluster.nn import CompiledMembers
from acluster.rivals import AttentionMILClassifier
from acluster.training import CompiledStep, Trainer
from acluster.training._packing import Packer
from tests.conftest import make_sets

# What members of one pass over the data may differ in.
OWN = {
    "learning_rate": [0.01, 0.1],
    "weight_decay": [0.0, 0.01],
    "dropout": [0.0, 0.3, 0.6],
    "cluster_size": [1, 4, 5],
    "n_attended": [None, 1, 5],
    "pyramid_levels": [1, 2],
    "weighting": ["fc1", "fc2"],
    "shifting": [True, False],
    "max_iter": [1, 4],
    "tol": [None, 0.05],
    "class_weight": [None, "balanced"],
    "max_grad_norm": [None, 0.1],
    "optimizer": ["adam", "adamw", "rmsprop"],
    "n_members": [1, 2],
    "hidden_features": [0, 3],
    "standardize": [False, True],
    "learning_rate_schedule": ["constant", "cosine"],
    "early_stopping": [False, True],
}
# What they share.
COMMON = {
    "batch_size": [7, 16, 100],
    "n_local_features": [None, 2],
    "random_state": [0, 1],
    "n_iter_no_change": [2],
    "dtype": ["float64"],
}


def has_enough_units(options):
    return options["cluster_size"] >= 2 ** options["pyramid_levels"] - 1


def options_of(table):
    return st.fixed_dictionaries({name: st.sampled_from(values) for name, values in table.items()})


def assert_same(together, alone, X, atol=1e-12):
    for name, value in alone.network_.state_dict().items():
        found = together.network_.state_dict()[name]
        torch.testing.assert_close(found, value, rtol=1e-10, atol=atol)
    assert together.n_iter_ == alone.n_iter_
    np.testing.assert_allclose(together.loss_curve_, alone.loss_curve_, rtol=1e-9)
    np.testing.assert_array_equal(together.predict(X), alone.predict(X))


def check(estimators, X, y, sample_weight=None, fit_X=None):
    alone = [clone(one) for one in estimators]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = TrainingData.of(estimators[0], X if fit_X is None else fit_X, y, sample_weight)
        fit_together(estimators, data)
        for one in alone:
            one.fit(X, y, sample_weight)
    for together, one in zip(estimators, alone, strict=True):
        assert_same(together, one, X)


def labels(kind, n):
    y = np.arange(n) % 3
    return {"binary": y > 0, "classes": y, "labels": np.eye(3, dtype=int)[y]}[kind]


@given(
    st.lists(options_of(OWN).filter(has_enough_units), min_size=2, max_size=4),
    options_of(COMMON),
    st.sampled_from(["binary", "classes", "labels"]),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_fitting_together_is_fitting_alone(own, common, kind, is_weighted):
    X, _ = make_sets(n=40, n_classes=3)
    if kind == "labels":  # which cannot be held out with every label
        own = [{**one, "early_stopping": False} for one in own]
    weight = np.linspace(0, 3, 40) if is_weighted else None
    check(
        [AttentionClusterClassifier(**{**common, **one}) for one in own],
        X,
        labels(kind, 40),
        weight,
    )


@pytest.mark.parametrize("missing", ["mean", "mask"])
def test_modalities_may_be_missing_and_dropped(missing):
    X, y = make_sets(n=40)
    lengths = X.lengths * (np.arange(40) % 4 > 0)
    some = FeatureSets.from_arrays([X[i][:n, :3] for i, n in enumerate(lengths)])
    both = MultimodalFeatureSets({"a": X, "b": some})
    options = {"missing_modality": missing, "max_iter": 3, "tol": None, "random_state": 0}
    estimators = [
        MultimodalAttentionClusterClassifier(
            cluster_size={"a": size, "b": 2}, dropout=dropout, modality_dropout=0.3, **options
        )
        for size, dropout in [(2, 0.0), (3, 0.5), (3, 0.2)]
    ]
    check(estimators, both, y)


@pytest.mark.parametrize("compressed", [False, True])
def test_stores_are_read_once_for_all(tmp_path, compressed, monkeypatch):
    X, y = make_sets(n=40)
    path = tmp_path / "sets.zarr"
    save_feature_sets(path, X)
    if compressed:
        import zarr

        plain = zarr.open_group(path, mode="r+")
        values = plain["features"][:]
        del plain["features"]
        plain.create_array("features", data=values, chunks=(16, values.shape[1]), fill_value=np.nan)
    stored = open_feature_sets(path)
    options = {"max_iter": 3, "tol": None, "random_state": 0, "cache": "stream", "batch_size": 8}
    estimators = [AttentionClusterClassifier(dropout=p, **options) for p in (0.0, 0.3, 0.5)]
    n_items, pack = [], Packer.pack

    def counted(self, sets, *args):
        n_items.append(len(sets))
        return pack(self, sets, *args)

    monkeypatch.setattr(Packer, "pack", counted)
    fit_together(
        [clone(one) for one in estimators], TrainingData.of(estimators[0], stored, y, None)
    )
    assert sum(n_items) == 4 * 40  # once for the moments, and once per epoch
    monkeypatch.undo()
    check(estimators, stored, y)


def test_members_of_other_batches_and_kinds_go_their_own_way():
    X, y = make_sets(n=40)
    options = {"max_iter": 2, "tol": None, "random_state": 0}
    estimators = [
        AttentionClusterClassifier(batch_size=8, **options),
        AttentionClusterClassifier(batch_size=16, **options),
        AttentionClusterClassifier(batch_size=8, dtype="float32", **options),
        AttentionMILClassifier(batch_size=8, **options),
    ]
    check(estimators, X, y)


def test_member_that_diverges_leaves_the_others_alone():
    X, y = make_sets(n=40)
    options = {"max_iter": 4, "tol": None, "random_state": 0, "shifting": False}
    rates = [0.01, 1e308, 0.02]
    estimators = [AttentionClusterClassifier(learning_rate=rate, **options) for rate in rates]
    members = fit_together(estimators, TrainingData.of(estimators[0], X, y, None))
    assert [member.error is None for member in members] == [True, False, True]
    assert "diverged" in str(members[1].error)
    for rate, one in zip(rates, estimators, strict=True):
        if rate < 1:
            alone = AttentionClusterClassifier(learning_rate=rate, **options).fit(X, y)
            assert_same(one, alone, X)


COMPILED = {
    "n_attended": [None, 1, 5],
    "pyramid_levels": [1, 2],
    "hidden_features": [0, 1, 7],
    "shifting": [True, False],
    "standardize": [False, True],
    "dropout": [0.0, 0.5],
    "weight_decay": [0.0, 0.01],
    "optimizer": ["adam", "adamw", "rmsprop"],
    "n_members": [1, 2],
    "batch_size": [7, 40],
    "max_grad_norm": [None, 0.1],
    "learning_rate_schedule": ["constant", "cosine"],
}


@given(options_of(COMPILED), st.sampled_from(["binary", "classes", "labels"]))
@settings(max_examples=40, deadline=None)
def test_compiled_step_agrees_with_torch_to_rounding(options, kind):
    pytest.importorskip("numba")
    X, _ = make_sets(n=40, n_classes=3)
    y = labels(kind, 40)
    clf = AttentionClusterClassifier(
        **options, max_iter=5, tol=None, random_state=0, dtype="float64"
    )
    compiled = clone(clf).fit(X, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fitting, "_MAX_OPERATIONS", 0)
        plain = clone(clf).fit(X, y)
    # Where gradients are as small as the ε by which RMSprop divides them, it enlarges rounding.
    assert_same(compiled, plain, X, atol=1e-9)


@pytest.mark.parametrize("hidden_features", [0, 4])
def test_small_networks_take_the_steps_of_an_epoch_in_one_compiled_call(
    hidden_features, monkeypatch
):
    pytest.importorskip("numba")
    X, y = make_sets(n=40)
    options = {"max_iter": 1, "tol": None, "hidden_features": hidden_features}
    n_items, steps = [], CompiledStep.steps

    def counted(self, part, batches):
        n_items.append(part.n_items)
        return steps(self, part, batches)

    monkeypatch.setattr(CompiledStep, "steps", counted)
    AttentionClusterClassifier(batch_size=20, **options).fit(X, y)
    assert n_items == [40]


@pytest.mark.parametrize("hidden_features", [0, 4])
def test_batches_in_one_call_give_the_bits_of_batches_one_by_one(hidden_features, monkeypatch):
    X, y = make_sets(n=40)
    options = {"hidden_features": hidden_features, "max_iter": 5, "tol": None, "random_state": 0}
    clf = AttentionClusterClassifier(batch_size=7, dtype="float32", **options).fit(X, y)
    monkeypatch.setattr("acluster.training._batches._BYTES_TOGETHER", 0)
    other = clone(clf).fit(X, y)
    assert clf.loss_curve_ == other.loss_curve_
    np.testing.assert_array_equal(clf.predict_proba(X), other.predict_proba(X))


def test_loss_curve_does_not_depend_on_what_trains_beside():
    X, y = make_sets(n=40)
    options = {"batch_size": 7, "max_iter": 5, "tol": None, "random_state": 0, "dtype": "float32"}
    alone = AttentionClusterClassifier(**options).fit(X, y)
    changes = [{}, {"cluster_size": 5}, {"weighting": "fc2"}]  # the last one is not compiled
    estimators = [AttentionClusterClassifier(**options, **own) for own in changes]
    fit_together(estimators, TrainingData.of(estimators[0], X, y, None))
    assert estimators[0].loss_curve_ == alone.loss_curve_


def test_large_weights_are_not_compiled():
    # OpenBLAS would start threads, and results would depend on their number.
    for options, width in [({"hidden_features": 64}, 1025), ({}, 8193)]:
        X = [np.ones((2, width), np.float32) * (i % 2) for i in range(4)]
        clf = AttentionClusterClassifier(max_iter=1, tol=None, **options).fit(X, [0, 1] * 2)
        assert not CompiledMembers.supports(clf.network_)


def test_fit_owns_its_parameters_after_a_compiled_step():
    X, y = make_sets(n=40)
    clf = AttentionClusterClassifier(n_members=3, max_iter=2, tol=None).fit(X, y)
    for parameter in clf.network_.parameters():
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


@pytest.mark.parametrize("options", [{}, {"n_members": 2}, {"cluster_size": 1024}])
def test_fit_keeps_no_trainer_until_the_garbage_collector_runs(options):
    """A worker of a search would hold the weights and moments of several earlier fits."""

    def n_alive():
        return sum(type(one) in (Trainer, CompiledMembers) for one in gc.get_objects())

    X, y = make_sets(n_features=16, dtype=np.float32)
    gc.collect()
    gc.disable()
    try:
        before = n_alive()
        AttentionClusterClassifier(max_iter=1, tol=None, **options).fit(X, y).score(X, y)
        assert n_alive() == before
    finally:
        gc.enable()
