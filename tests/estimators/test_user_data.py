"""What users pass is never changed, and changes to it after `fit` do not reach the estimator."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    IntegrationClassifier,
    MultimodalAttentionClusterClassifier,
)
from acluster.nn.integrations import NetVLAD
from acluster.rivals import PooledClassifier
from tests.conftest import make_sets

QUICK = {"max_iter": 2, "tol": None, "random_state": 0}


def wipe(given):
    """Overwrite every array in place."""
    if isinstance(given, dict):
        for one in given.values():
            wipe(one)
    elif isinstance(given, list):
        for i, one in enumerate(given):
            if isinstance(one, np.ndarray | pd.DataFrame):
                wipe(one)
            else:
                given[i] = 0
    elif isinstance(given, pd.DataFrame):
        given.iloc[:] = 0
    elif isinstance(given, FeatureSets):
        given.packed()[0][:] = 0
    else:
        given[:] = given[:1]


def forms():
    X, y = make_sets(n=20)
    weight = np.linspace(1, 2, 20)
    padded = np.random.default_rng(0).normal(size=(20, 3, 4))
    single = AttentionClusterClassifier(cluster_size=2, **QUICK)
    both = MultimodalAttentionClusterClassifier(cluster_size=2, **QUICK)
    return {
        "sets": (single, X, y, weight),
        "arrays": (single, list(X), y.tolist(), weight.tolist()),
        "padded": (single, padded, np.array(["a", "b"])[y], weight),
        "table": (single, padded[:, 0].copy(), y, weight),
        "frames": (single, [pd.DataFrame(x) for x in X], np.eye(2, dtype=int)[y], weight),
        "standardized": (single.set_params(standardize=True), X, y, weight),
        "modalities": (both, {"a": X, "b": padded}, y, weight),
        "class weights": (copy.copy(both).set_params(class_weight={0: 1, 1: 2}), {"a": X}, y, None),
        "rival": (PooledClassifier(), X, y, weight),
    }


@pytest.mark.parametrize("name", forms())
def test_fit_neither_changes_nor_keeps_what_it_was_given(name):
    clf, X, y, weight = forms()[name]
    before = copy.deepcopy((X, y, weight))
    clf.fit(X, y, sample_weight=weight)
    if hasattr(clf, "partial_fit"):
        clf.predict_proba(X)
    for given, kept in zip((X, y, weight), before, strict=True):
        assert pickle.dumps(given) == pickle.dumps(kept)
    expected = clf.predict_proba(before[0])
    attributes = pickle.dumps(clf)
    for given in (X, y, weight):
        if given is not None:
            wipe(given)
    np.testing.assert_array_equal(clf.predict_proba(before[0]), expected)
    assert pickle.dumps(clf) == attributes


def test_parameters_changed_after_fit_do_not_change_the_network():
    X, y = make_sets(n=20)
    parameters, class_weight = {"n_centres": 3, "hidden_size": 4}, {0: 1.0, 1: 2.0}
    clf = IntegrationClassifier(
        integration=NetVLAD, integration_params=parameters, class_weight=class_weight, **QUICK
    ).fit(X, y)
    expected = clf.predict_proba(X)
    parameters["n_centres"], class_weight[0] = 5, 9.0
    np.testing.assert_array_equal(clf.predict_proba(X), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), expected)


def test_partial_fit_copies_classes():
    X, y = make_sets(n=20)
    classes = np.array([0, 1])
    clf = AttentionClusterClassifier(cluster_size=2, **QUICK).partial_fit(X, y, classes=classes)
    classes[:] = 7
    assert clf.classes_.tolist() == [0, 1]
