"""Outputs that are not finite are errors that name the item, not predictions."""

import re

import numpy as np
import pytest
import torch

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    IntegrationClassifier,
    MultimodalAttentionClusterClassifier,
    rivals,
)
from acluster.estimators._items import finite_blocks
from tests.conftest import make_sets
from tests.estimators.integrations import Largest

METHODS = ["predict", "predict_proba", "decision_function"]
NETWORKS = [
    getattr(rivals, name) for name in rivals.__all__ if hasattr(getattr(rivals, name), "save")
]
CLASSIFIERS = [
    (AttentionClusterClassifier, {}),
    (MultimodalAttentionClusterClassifier, {}),
    (IntegrationClassifier, {"integration": Largest}),
    *((kind, {}) for kind in NETWORKS),
]


def fitted(kind, n_classes=3, **options):
    X, y = make_sets(n=30, n_classes=n_classes)
    return X, y, kind(max_iter=1, tol=None, random_state=0, batch_size=8, **options).fit(X, y)


@pytest.mark.parametrize(
    ("kind", "options"), CLASSIFIERS, ids=lambda one: getattr(one, "__name__", "")
)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_predictions_of_overflown_weights_raise(kind, options, n_classes):
    X, _, clf = fitted(kind, n_classes, **options)
    with torch.no_grad():
        clf.network_.linear.weight.fill_(1e308)
        clf.network_.linear.weight[::2] = -1e308
        clf.network_.linear.bias.fill_(1.7e308)
    for method in METHODS:
        with pytest.raises(ValueError, match=r"for item \d+ is -?(nan|inf), not a finite number"):
            getattr(clf, method)(X)


def test_errors_name_the_first_item_across_batches():
    X, y, clf = fitted(AttentionClusterClassifier)
    arrays = [x.copy() for x in X]
    clf.network_.integrations[0].shifting = None
    with torch.no_grad():
        clf.network_.linear.weight.fill_(1e300)
    arrays = [x * 0 for x in arrays]
    arrays[19] = np.full((2, 4), 1e20)
    arrays[23] = np.full((2, 4), 1e20)
    broken = FeatureSets.from_arrays(arrays)
    for method in METHODS:
        with pytest.raises(ValueError, match="item 19 is"):
            getattr(clf, method)(broken)
    with pytest.raises(ValueError, match="item 19 is"):
        clf.score(broken, y)


def test_transform_and_attention_weights_raise(tmp_path):
    X, _, clf = fitted(AttentionClusterClassifier)
    with torch.no_grad():
        clf.network_.integrations[0].weighting.weight.fill_(1e308)
    arrays = [np.zeros_like(x) for x in X]
    arrays[11][:] = 1e10
    broken = FeatureSets.from_arrays(arrays)
    for method in ("transform", "attention_weights"):
        with pytest.raises(ValueError, match="item 11 is nan"):
            getattr(clf, method)(broken)


def test_early_stopping_raises_for_validation_items_without_a_finite_output():
    X, y = make_sets(n=30, n_classes=3)
    arrays = [np.full_like(x, 1e300) if i == 4 else x for i, x in enumerate(X)]
    X_val = FeatureSets.from_arrays(arrays)
    clf = rivals.AverageClassifier(max_iter=3, tol=None, early_stopping=True, random_state=0)
    clf.fit(X, y)
    with torch.no_grad():
        clf.network_.linear.weight.fill_(1e100)
    clf.set_params(warm_start=True, learning_rate=1e-3)
    before = vars(clf).copy()
    with pytest.raises(ValueError, match=r"In the validation items: .* item 4 is"):
        clf.fit(X, y, X_val=X_val, y_val=y)
    assert vars(clf).keys() == before.keys()
    assert clf.network_ is before["network_"]


def test_pooled_classifier_raises_for_statistics_that_overflow():
    X, y = make_sets(n=30, n_classes=3)
    arrays = [x.copy() for x in X]
    arrays[7] = np.array([[1e308] * 4, [1.5e308] * 4, [-1.7e308] * 4])
    clf = rivals.PooledClassifier(statistics=("mean", "std")).fit(X, y)
    with np.errstate(all="ignore"):
        for method in METHODS:
            with pytest.raises(ValueError, match="item 7 is"):
                getattr(clf, method)(FeatureSets.from_arrays(arrays))
        with pytest.raises(ValueError, match="item 7 is"):
            clf.fit(FeatureSets.from_arrays(arrays), y)


def test_pooled_classifier_raises_for_overflown_decisions():
    X, y = make_sets(n=30, n_classes=3)
    clf = rivals.PooledClassifier().fit(X, y)
    clf.model_[-1].coef_[:] = 1e308
    clf.model_[-1].coef_[:, ::2] = -1e308
    with np.errstate(all="ignore"):
        for method in METHODS:
            with pytest.raises(ValueError, match=r"for item \d+ is"):
                getattr(clf, method)(X)


def test_finite_blocks_accepts_numbers_whose_sum_overflows():
    blocks = [np.full((4, 3), 3e38, np.float32), np.full((4, 3), -1.7e308)]
    assert all(a is b for a, b in zip(finite_blocks(blocks), blocks, strict=True))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_finite_blocks_finds_the_item_of_a_row(value):
    blocks = [np.zeros((3, 2)), np.array([[0, 0], [0, value]])]
    with pytest.raises(ValueError, match=re.escape(f"item 4 is {value}")):
        list(finite_blocks(blocks))
    with pytest.raises(ValueError, match="item 2 is"):
        list(finite_blocks(blocks, offsets=np.array([0, 3, 3, 5])))
