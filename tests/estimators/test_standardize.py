"""`standardize=True` equals a scaler in front of the network, and the warning that names it."""

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

NETWORKS = [name for name in rivals.__all__ if hasattr(getattr(rivals, name), "save")]


def ill_scaled(dtype=np.float64):
    """Return sets whose features have very different scales; one feature is constant."""
    X, y = make_sets()
    values, offsets = X.packed()
    values = values * [1000, 0.001, 1, 0] + [5000, 0, -3, 7]
    return FeatureSets(values.astype(dtype), offsets), y


def make(**changes):
    parameters = {"cluster_size": 4, "batch_size": 16, "max_iter": 5, "tol": None}
    parameters |= {"standardize": False, **changes}
    return AttentionClusterClassifier(random_state=0, **parameters)


@pytest.mark.parametrize("weighting", ["fc1", "fc2", "average"])
def test_standardize_equals_a_scaler_in_a_pipeline(weighting):
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


def test_standardize_silences_the_warning_of_scale(recwarn):
    X, y = ill_scaled()
    make(standardize=True).fit(X, y)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="standardize=True"):
        make(max_grad_norm=1e-3).fit(X, y)


@pytest.mark.parametrize("missing_modality", ["mean", "mask"])
def test_standardize_scales_every_modality(missing_modality):
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
def test_standardize_of_rivals_equals_a_scaler(name):
    X, y = ill_scaled()
    parameters = {"max_iter": 2, "tol": None, "random_state": 0}
    kind = getattr(rivals, name)
    small = {key: 8 for key in ("hidden_size", "n_centres") if hasattr(kind(), key)}
    parameters |= small
    inside = kind(standardize=True, **parameters).fit(X, y)
    scaled = LocalFeatureTransformer(StandardScaler()).fit_transform(X)
    outside = kind(**parameters).fit(scaled, y)
    np.testing.assert_allclose(inside.predict_proba(X), outside.predict_proba(scaled), atol=1e-6)


def test_standardize_from_a_store_gives_the_same_bits(tmp_path):
    X, y = ill_scaled(np.float32)
    save_feature_sets(tmp_path / "store.zarr", X)
    for cache in ("memory", "stream"):
        stored = make(standardize=True, cache=cache).fit(tmp_path / "store.zarr", y)
        expected = make(standardize=True).fit(X, y).predict_proba(X)
        assert np.array_equal(stored.predict_proba(tmp_path / "store.zarr"), expected)


def test_warm_start_and_partial_fit_keep_the_first_statistics():
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


def test_standardize_ignores_items_of_weight_zero():
    X, y = ill_scaled()
    weights = np.r_[np.ones(40), np.zeros(20)]
    clf = make(standardize=True).fit(X, y, sample_weight=weights)
    expected = X[:40].packed()[0].mean(axis=0)
    np.testing.assert_allclose(clf.network_.standardizations[0].mean.numpy(), expected)


def test_standardize_survives_pickle_save_and_checkpoint(tmp_path):
    X, y = ill_scaled()
    clf = make(standardize=True).fit(X, y)
    expected = clf.predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), expected)
    clf.save(tmp_path / "model")
    assert np.array_equal(acluster.load(tmp_path / "model").predict_proba(X), expected)
    checkpointed = make(standardize=True).fit(X, y, checkpoint_dir=tmp_path)
    assert np.array_equal(checkpointed.predict_proba(X), expected)


def test_standardize_treats_rounding_noise_as_constant():
    X, y = make_sets()
    values, offsets = X.packed()
    noise = np.random.default_rng(0).choice([1.0, 1 + 2e-16], size=len(values))
    values = np.column_stack([values, noise, 1e-60 * values[:, 0]])
    for dtype in ("float64", "float32"):
        clf = make(standardize=True, dtype=dtype).fit(FeatureSets(values, offsets), y)
        scale = clf.network_.standardizations[0].scale.numpy()
        assert scale[4] == 1
        assert (scale > 0).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_standardize_treats_the_rounding_of_the_stored_dtype_as_constant(dtype):
    X, y = make_sets()
    values, offsets = X.packed()
    steps = np.random.default_rng(0).integers(0, 2, len(values)) * np.finfo(dtype).eps
    values = np.column_stack([values, 1 + steps, 1 + 1000 * steps]).astype(dtype)
    clf = make(standardize=True).fit(FeatureSets(values, offsets), y)
    scale = clf.network_.standardizations[0].scale.numpy()
    assert scale[4] == 1
    np.testing.assert_allclose(scale[5], values[:, 5].std(dtype=np.float64), rtol=1e-5)


def test_standardize_treats_the_rounding_of_the_network_as_constant():
    X, y = make_sets()
    values, offsets = X.packed()
    values[:, 0] = 1e6 + 1e-3 * values[:, 0]  # float32 has steps of 0.06 there
    clf = make(standardize=True, dtype="float32").fit(FeatureSets(values, offsets), y)
    assert clf.network_.standardizations[0].scale[0] == 1
    clf = make(standardize=True, dtype="float64").fit(FeatureSets(values, offsets), y)
    assert clf.network_.standardizations[0].scale[0] < 0.01


class TestAuto:
    def test_fit_standardizes(self):
        X, y = ill_scaled()
        auto, always = make(standardize="auto").fit(X, y), make(standardize=True).fit(X, y)
        np.testing.assert_array_equal(auto.predict_proba(X), always.predict_proba(X))

    def test_partial_fit_does_not(self):
        X, y = make_sets()
        auto = make(standardize="auto").partial_fit(X, y, classes=[0, 1])
        never = make(standardize=False).partial_fit(X, y, classes=[0, 1])
        np.testing.assert_array_equal(auto.predict_proba(X), never.predict_proba(X))
        assert auto.network_.standardizations is None

    def test_a_fit_that_continues_keeps_what_the_first_one_did(self):
        X, y = make_sets()
        clf = make(standardize="auto", warm_start=True).partial_fit(X, y, classes=[0, 1])
        assert clf.fit(X, y).network_.standardizations is None
        clf = make(standardize="auto").fit(X, y)
        scale = clf.network_.standardizations[0].scale.clone()
        assert (clf.partial_fit(X, y).network_.standardizations[0].scale == scale).all()


class TestWarningOfScale:
    @pytest.mark.parametrize(
        ("scale", "shown", "method"),
        [(300.0, "3e+02", "fit"), (0.001, "0.00", "fit"), (300.0, "3e+02", "partial_fit")],
    )
    def test_fit_warns_of_badly_scaled_features(self, scale, shown, method):
        rng = np.random.default_rng(0)
        X = [scale * rng.normal(size=(length, 4)) for length in rng.integers(3, 9, 100)]
        y = np.arange(100) % 2
        classes = {"classes": [0, 1]} if method == "partial_fit" else {}
        with pytest.warns(UserWarning, match=r"of X have a spread of .*standardize=True") as seen:
            getattr(make(max_iter=1), method)(X, y, **classes)
        assert f"spread of {shown}" in str(seen[0].message)
        assert seen[0].filename == __file__

    def test_fit_warns_of_one_badly_scaled_modality(self):
        X = {"rgb": np.ones((4, 3, 2)), "audio": 300 * np.arange(24.0).reshape(4, 3, 2)}
        clf = MultimodalAttentionClusterClassifier(standardize=False, max_iter=1, tol=None)
        with pytest.warns(UserWarning, match="of modality 'audio' have a spread"):
            clf.fit(X, [0, 1, 0, 1])

    @pytest.mark.parametrize("value", [0.0, 1e6])
    def test_fit_does_not_warn_of_constant_features(self, value):
        make(max_iter=1).fit(np.full((4, 3, 2), value), [0, 1, 0, 1])
