"""Defaults of torch, and torch.autocast around a call, change neither results nor errors."""

import pickle

import numpy as np
import pytest
import torch

import acluster
from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    rivals,
)
from tests.conftest import make_sets

X, Y = make_sets(n=30, n_classes=3, dtype=np.float32)
BOTH = {"a": list(X), "b": [None if i % 5 == 0 else x[:, :2] for i, x in enumerate(X)]}
OPTIONS = {"max_iter": 2, "tol": None, "random_state": 0, "batch_size": 8}
SAMPLED = {"n_local_features": 2, "n_attended": 2, "pyramid_levels": 2, "max_grad_norm": 0.1}
CASES = {
    "plain": (AttentionClusterClassifier, {}, X),
    "sampled": (
        AttentionClusterClassifier,
        {"weighting": "fc2", "optimizer": "adamw", "standardize": True, **SAMPLED},
        X,
    ),
    "rmsprop": (
        AttentionClusterClassifier,
        {"optimizer": "rmsprop", "early_stopping": True, "validation_fraction": 0.3},
        X,
    ),
    "float64": (AttentionClusterClassifier, {"weighting": "average", "dtype": "float64"}, X),
    "mixed": (AttentionClusterClassifier, {"precision": "mixed"}, X),
    "modalities": (MultimodalAttentionClusterClassifier, {"modality_dropout": 0.3}, BOTH),
    "masked": (MultimodalAttentionClusterClassifier, {"missing_modality": "mask"}, BOTH),
    "late fusion": (rivals.AverageClassifier, {"fusion": "scores"}, BOTH),
    **{
        name: (getattr(rivals, name), {}, BOTH)
        for name in rivals.__all__
        if name != "pooled_statistics"
    },
}
DEFAULTS = {
    "float64": (torch.set_default_dtype, torch.float64, torch.float32),
    "float16": (torch.set_default_dtype, torch.float16, torch.float32),
    "meta": (torch.set_default_device, "meta", None),
}


def results(kind, options, X, path):
    """Fit, predict, save, load, unpickle, and continue; return all numbers."""
    if not hasattr(kind, "save"):
        return [kind().fit(X, Y).decision_function(X)]
    clf = kind(**OPTIONS, **options).fit(X, Y)
    clf.save(path)
    found = [clf.predict_proba(X), clf.transform(X), np.array(clf.loss_curve_)]
    found += [acluster.load(path).predict_proba(X)]
    found += [pickle.loads(pickle.dumps(clf)).predict_proba(X)]
    found += [tensor.numpy() for tensor in clf.to_torch().state_dict().values()]
    if hasattr(clf, "attention_weights"):
        weights = clf.attention_weights(X)
        found.append((weights if isinstance(weights, FeatureSets) else weights["a"]).packed()[0])
    clf.set_params(early_stopping=False).partial_fit(X, Y)
    return [*found, clf.predict_proba(X)]


@pytest.mark.parametrize("name", CASES)
def test_results_do_not_depend_on_the_defaults_of_torch(tmp_path, name):
    expected = results(*CASES[name], tmp_path / "model")
    for set_default, value, usual in DEFAULTS.values():
        set_default(value)
        try:
            found = results(*CASES[name], tmp_path / "model")
        finally:
            set_default(usual)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_results_do_not_depend_on_autocast_of_the_caller(tmp_path, name):
    expected = results(*CASES[name], tmp_path / "model")
    with torch.autocast("cpu", torch.bfloat16):
        found = results(*CASES[name], tmp_path / "model")
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("default", DEFAULTS)
def test_errors_do_not_depend_on_the_defaults_of_torch(default):
    set_default, value, usual = DEFAULTS[default]
    clf = AttentionClusterClassifier(**OPTIONS).fit(X, Y)
    set_default(value)
    try:
        with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 4"):
            clf.predict(BOTH["b"][1:3])
        with pytest.raises(ValueError, match="NaN"):
            clf.fit([np.full((2, 4), np.nan)] * 30, Y)
        with pytest.raises(ValueError, match="diverged"):
            AttentionClusterClassifier(**OPTIONS, learning_rate=1e38).fit(X, Y)
    finally:
        set_default(usual)
