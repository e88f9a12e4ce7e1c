"""`standardize=True` is a scaler in front, inside the network."""

import pickle

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import acluster
from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    rivals,
    save_feature_sets,
)
from acluster.preprocessing import LocalFeatureTransformer
from tests.conftest import make_sets

pytestmark = pytest.mark.numerical

NETWORKS = sorted({*rivals.__all__} - {"PooledClassifier", "pooled_statistics"})


def ill_scaled(dtype=np.float64):
    """Features of very different scales; one is constant."""
    X, y = make_sets()
    values, offsets = X.packed()
    values = values * [1000, 0.001, 1, 0] + [5000, 0, -3, 7]
    return FeatureSets(values.astype(dtype), offsets), y


def make(**changes):
    parameters = {"cluster_size": 4, "batch_size": 16, "max_iter": 5, "tol": None} | changes
    return AttentionClusterClassifier(random_state=0, **parameters)


@pytest.mark.parametrize("weighting", ["fc1", "fc2", "average"])
def test_it_is_a_scaler_in_front(weighting):
    X, y = ill_scaled()
    inside = make(standardize=True, weighting=weighting).fit(X, y)
    before = make_pipeline(LocalFeatureTransformer(StandardScaler()), make(weighting=weighting))
    before.fit(X, y)
    np.testing.assert_allclose(inside.loss_curve_, before[-1].loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(inside.predict_proba(X), before.predict_proba(X), atol=1e-9)
    np.testing.assert_allclose(inside.transform(X), before.transform(X), atol=1e-9)
    scaled = before[:-1].transform(X)
    for a, b in zip(inside.attention_weights(X), before[-1].attention_weights(scaled), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_no_warning_of_what_is_put_right(recwarn):
    X, y = ill_scaled()
    make(standardize=True).fit(X, y)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="standardize=True"):
        make(max_grad_norm=1e-3).fit(X, y)


@pytest.mark.parametrize("missing_modality", ["mean", "mask"])
def test_several_modalities(missing_modality):
    frames, y = ill_scaled()
    sounds = FeatureSets(np.arange(59.0)[:, None] * [1, 100], np.r_[0, 0, np.arange(1, 60)])
    X = MultimodalFeatureSets({"frames": frames, "sounds": sounds})
    parameters = {"missing_modality": missing_modality, "max_iter": 5, "tol": None}
    parameters |= {"cluster_size": 3, "random_state": 0}
    inside = MultimodalAttentionClusterClassifier(standardize=True, **parameters).fit(X, y)
    before = make_pipeline(
        LocalFeatureTransformer(StandardScaler()),
        MultimodalAttentionClusterClassifier(**parameters),
    ).fit(X, y)
    np.testing.assert_allclose(inside.predict_proba(X), before.predict_proba(X), atol=1e-9)
    assert set(inside.attention_weights(X).names) == {"frames", "sounds"}


@pytest.mark.parametrize("name", NETWORKS)
def test_rivals(name):
    X, y = ill_scaled()
    parameters = {"max_iter": 2, "tol": None, "random_state": 0}
    inside = getattr(rivals, name)(standardize=True, **parameters).fit(X, y)
    scaled = LocalFeatureTransformer(StandardScaler()).fit_transform(X)
    outside = getattr(rivals, name)(**parameters).fit(scaled, y)
    np.testing.assert_allclose(inside.predict_proba(X), outside.predict_proba(scaled), atol=1e-6)


def test_a_store_is_as_good_as_memory(tmp_path):
    X, y = ill_scaled(np.float32)
    save_feature_sets(tmp_path / "store.zarr", X)
    for cache in ("memory", "stream"):
        stored = make(standardize=True, cache=cache).fit(tmp_path / "store.zarr", y)
        expected = make(standardize=True).fit(X, y).predict_proba(X)
        assert np.array_equal(stored.predict_proba(tmp_path / "store.zarr"), expected)


def test_what_was_learnt_stays():
    X, y = ill_scaled()
    clf = make(standardize=True, warm_start=True).fit(X, y)
    before = clf.network_.standardizations[0].mean.clone()
    other = FeatureSets.from_arrays([rows + 100 for rows in X])
    clf.fit(other, y)
    assert (clf.network_.standardizations[0].mean == before).all()
    clf = make(standardize=True).partial_fit(X, y, classes=[0, 1])
    assert (clf.network_.standardizations[0].mean == before).all()
    clf.partial_fit(other, y)
    assert (clf.network_.standardizations[0].mean == before).all()
    clf = make(standardize=True).fit(other, y)
    assert (clf.network_.standardizations[0].mean != before).all()
    with pytest.raises(ValueError, match=r"standardize=True.*standardize=False"):
        make(standardize=True, warm_start=True).fit(X, y).set_params(standardize=False).fit(X, y)


def test_only_what_is_trained_on_counts():
    X, y = ill_scaled()
    weights = np.r_[np.ones(40), np.zeros(20)]
    clf = make(standardize=True).fit(X, y, sample_weight=weights)
    expected = X[:40].packed()[0].mean(axis=0)
    np.testing.assert_allclose(clf.network_.standardizations[0].mean.numpy(), expected)


def test_it_goes_along(tmp_path):
    X, y = ill_scaled()
    clf = make(standardize=True).fit(X, y)
    expected = clf.predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), expected)
    clf.save(tmp_path / "model")
    assert np.array_equal(acluster.load(tmp_path / "model").predict_proba(X), expected)
    checkpointed = make(standardize=True).fit(X, y, checkpoint_dir=tmp_path)
    assert np.array_equal(checkpointed.predict_proba(X), expected)


def test_onnx_has_it(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    X, y = ill_scaled()
    clf = make(standardize=True).fit(X, y)
    clf.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for rows, proba in zip(X[:3], clf.predict_proba(X[:3]), strict=True):
        inputs = {"features": rows[None], "features_lengths": np.array([len(rows)])}
        np.testing.assert_allclose(session.run(None, inputs)[0], proba[None], atol=1e-5)


def test_what_varies_by_rounding_is_constant():
    X, y = make_sets()
    values, offsets = X.packed()
    noise = np.random.default_rng(0).choice([1.0, 1 + 2e-16], size=len(values))
    values = np.column_stack([values, noise, 1e-60 * values[:, 0]])
    for dtype in ("float64", "float32"):
        clf = make(standardize=True, dtype=dtype).fit(FeatureSets(values, offsets), y)
        scale = clf.network_.standardizations[0].scale.numpy()
        assert scale[4] == 1
        assert (scale > 0).all()
