"""feature_moments: mean and standard deviation in one pass over blocks."""

import numpy as np
import pytest

from acluster import FeatureSets
from acluster.training import feature_moments


@pytest.mark.parametrize("far_off", [0, 1e6])
@pytest.mark.parametrize("bytes_per_block", [100, 1 << 23])
def test_feature_moments_equal_numpy_for_any_block_size(far_off, bytes_per_block, monkeypatch):
    monkeypatch.setattr("acluster.training._batches._BYTES_PER_BLOCK", bytes_per_block)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, 3)) + far_off
    values[0] = 0  # An outlier, such as a black frame.
    values[:, 1] = 1 / 3
    sets = FeatureSets(values, np.r_[0, 1, 5, 5, np.arange(6, 3001)])
    mean, std, count = feature_moments(sets, with_std=True)
    assert count == 3000
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(axis=0), rtol=1e-9, atol=1e-12)
    assert std[1] == 0
    without_std = feature_moments(sets, with_std=False)
    np.testing.assert_allclose(without_std.mean, mean, rtol=1e-12)
    np.testing.assert_array_equal(without_std.std, 0)


def test_weights_of_moments_equal_repetition():
    rng = np.random.default_rng(0)
    X = FeatureSets.from_arrays([rng.normal(5, 2, (n, 3)) for n in rng.integers(0, 9, 40)])
    weights = rng.integers(1, 4, 40)
    weighted = feature_moments(X, True, weights / 3)
    repeated = feature_moments(X[np.repeat(np.arange(40), weights)], True)
    np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
    np.testing.assert_allclose(weighted.std, repeated.std, rtol=1e-12)


def test_moments_reject_a_mean_or_a_variance_that_overflows():
    X = FeatureSets(np.array([[1.0, -1e200], [2.0, 1e200]]), np.arange(3))
    assert feature_moments(X, with_std=False).mean.tolist() == [1.5, 0.0]
    with pytest.raises(ValueError, match="too large in column 1"):
        feature_moments(X, with_std=True)
    with pytest.raises(ValueError, match="too large in column 0"):
        feature_moments(FeatureSets(np.full((2, 1), 1.7e308), np.arange(3)), with_std=False)
