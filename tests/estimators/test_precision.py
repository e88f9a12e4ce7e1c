"""`precision="mixed"`: the model of full precision, to within bfloat16."""

import pickle

import numpy as np
import pytest
import torch

from acluster import AttentionClusterClassifier, MultimodalAttentionClusterClassifier
from acluster.nn import WEIGHTINGS
from acluster.training import _device
from tests.conftest import make_sets
from tests.mixed_precision import assert_agree_on_equal_weights, assert_both_learn

pytestmark = pytest.mark.numerical

# Matrix products in sequence: those of the weighting function, then the last layer.
N_PRODUCTS = {"average": 1, "fc1": 2, "fc2": 3}


@pytest.fixture(params=["float32", "float64"])
def X_y(request):
    return make_sets(n=150, n_classes=3, dtype=np.dtype(request.param).type)


@pytest.fixture
def able(monkeypatch):
    """A device that multiplies in bfloat16; one that cannot gives the same, more slowly."""
    monkeypatch.setattr(_device, "is_faster_in_bfloat16", lambda device: True)


def make(precision, **changes):
    # Rounded scores may have another order, so that other local features are attended to.
    parameters = {"cluster_size": 8, "max_iter": 30, "n_attended": None, "learning_rate": 0.01}
    return AttentionClusterClassifier(
        precision=precision, dtype="float32", random_state=0, **{**parameters, **changes}
    )


@pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))
@pytest.mark.parametrize("shifting", [True, False])
def test_mixed_precision_equals_full_up_to_rounding(able, X_y, weighting, shifting):
    X, y = X_y
    clf = make("full", weighting=weighting, shifting=shifting, max_iter=1).fit(X, y)
    assert_agree_on_equal_weights(clf, X, y, n_products=N_PRODUCTS[weighting])


@pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))
@pytest.mark.parametrize("shifting", [True, False])
def test_fit_learns_in_both_precisions(able, X_y, weighting, shifting):
    X, y = X_y
    assert_both_learn(make("full", weighting=weighting, shifting=shifting), X, y, accuracy=0.8)


def test_mixed_precision_keeps_parameters_and_results_in_float32(able):
    X, y = make_sets()
    clf = make("mixed").set_params(dtype="auto").fit(X, y)  # X is float64
    assert {p.dtype for p in clf.network_.parameters()} == {torch.float32}
    assert clf.predict_proba(X).dtype == clf.transform(X).dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(clf.transform(X), axis=1), 1, rtol=1e-6)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_predict_uses_weights_changed_in_place(able):
    X, y = make_sets()
    clf = make("mixed", max_iter=2).fit(X, y)
    before = clf.decision_function(X)
    with torch.no_grad():
        clf.network_.linear.weight.mul_(0)
    assert not np.allclose(clf.decision_function(X), before)


def test_validation_scores_and_predict_use_the_latest_weights(able):
    X, y = make_sets()
    clf = make("mixed", max_iter=4).fit(X, y, X_val=X, y_val=y)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(clf.decision_function(X), again.decision_function(X))
    assert clf.validation_scores_[-1] == clf.score(X, y)


@pytest.mark.parametrize(
    ("cpu_name", "able", "faster"),
    [
        ("Intel Xeon", {"avx512_bf16": True, "amx_bf16": True}, True),
        ("Intel Xeon", {"avx512_bf16": True, "amx_bf16": False}, False),
        ("AMD EPYC", {"avx512_bf16": True, "amx_bf16": False}, True),
        ("Neoverse-V2", {"bf16": True}, True),
        ("AMD EPYC", {"avx512_f": True}, False),
    ],
)
def test_is_faster_in_bfloat16_by_processor(monkeypatch, cpu_name, able, faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": cpu_name, **able})
    assert _device.is_faster_in_bfloat16(torch.device("cpu")) is faster


def test_mixed_precision_equals_full_without_bfloat16(monkeypatch, X_y):
    monkeypatch.setattr(_device, "is_faster_in_bfloat16", lambda device: False)
    X, y = X_y
    full, mixed = make("full", max_iter=5).fit(X, y), make("mixed", max_iter=5).fit(X, y)
    np.testing.assert_array_equal(mixed.predict_proba(X), full.predict_proba(X))


def test_mixed_precision_with_missing_modalities(able):
    X, y = make_sets(n=90, n_classes=3)
    some_missing = [x if i % 4 else x[:0] for i, x in enumerate(X)]
    sets = {"one": list(X), "other": some_missing}
    clf = MultimodalAttentionClusterClassifier(
        cluster_size=4, max_iter=30, tol=None, learning_rate=0.01, missing_modality="mask",
        dtype="float32", modality_dropout=0.2, random_state=0,
    )  # fmt: skip
    assert_both_learn(clf, sets, y, accuracy=0.8)
    clf.set_params(max_iter=1).fit(sets, y)
    assert_agree_on_equal_weights(clf, sets, y, n_products=N_PRODUCTS["fc1"])


def test_mixed_precision_rejects_float64():
    X, y = make_sets()
    message = r"precision='mixed' needs parameters in float32, but these are float64\. Use"
    with pytest.raises(ValueError, match=message):
        make("mixed").set_params(dtype="float64").fit(X, y)
    fitted = make("full", max_iter=1).set_params(dtype="float64").fit(X, y)
    fitted.set_params(precision="mixed", warm_start=True)
    for call in (lambda: fitted.predict(X), lambda: fitted.fit(X, y)):
        with pytest.raises(ValueError, match=message):
            call()
