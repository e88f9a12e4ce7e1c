"""Unit similarity and entropy equal their definitions, computed set by set."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from acluster import AttentionClusterClassifier, FeatureSets, MultimodalFeatureSets
from acluster.inspection import unit_entropy, unit_similarity

pytestmark = pytest.mark.numerical


def weights(rng, lengths, n_units=3):
    """Random attention weights: the columns of every set sum to 1."""
    return [rng.dirichlet(np.ones(length), size=n_units).T for length in lengths]


lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(lengths, st.integers(0, 2**31))
def test_unit_similarity_is_the_mean_cosine(lengths, seed):
    attention = weights(np.random.default_rng(seed), lengths)
    expected = np.mean([cosine_similarity(a.T) for a in attention], axis=0)
    np.testing.assert_allclose(unit_similarity(attention), expected, rtol=1e-10)


@given(lengths.filter(lambda lengths: max(lengths) > 1), st.integers(0, 2**31))
def test_unit_entropy_is_the_mean_normalized_entropy(lengths, seed):
    attention = weights(np.random.default_rng(seed), lengths)
    expected = np.mean(
        [-(a * np.log(a)).sum(axis=0) / np.log(len(a)) for a in attention if len(a) > 1], axis=0
    )
    np.testing.assert_allclose(unit_entropy(attention), expected, rtol=1e-10)


def test_average_weighting_has_similarity_and_entropy_one():
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(length, 2)) for length in (1, 4, 7, 3)]
    clf = AttentionClusterClassifier(weighting="average", cluster_size=2, max_iter=1, tol=None)
    attention = clf.fit(X, [0, 1, 0, 1]).attention_weights(X)
    np.testing.assert_allclose(unit_similarity(attention), 1, rtol=1e-6)
    np.testing.assert_allclose(unit_entropy(attention), 1, rtol=1e-6)


def test_unit_entropy_of_zero_weights_is_zero():
    a = np.array([[1.0, 0.5], [0.0, 0.5], [0.0, 0.0]])
    np.testing.assert_allclose(unit_entropy([a]), [0, np.log(2) / np.log(3)])


def test_unit_similarity_and_entropy_ignore_empty_sets():
    a = np.array([[0.5, 0.0], [0.5, 1.0]], dtype=np.float32)
    with_an_empty_set = FeatureSets(np.vstack([a, a]), [0, 2, 2, 4])
    np.testing.assert_allclose(unit_similarity(with_an_empty_set), unit_similarity([a]))
    np.testing.assert_allclose(unit_entropy(with_an_empty_set), unit_entropy([a]))


@pytest.mark.parametrize("measure", [unit_similarity, unit_entropy])
def test_unit_similarity_and_entropy_reject(measure):
    one = FeatureSets.from_arrays([np.ones((2, 1))])
    several = MultimodalFeatureSets({"rgb": one, "audio": one})
    with pytest.raises(TypeError, match=r"rgb, audio, .* Pass one of them: attention\[name\]"):
        measure(several)
    features = np.array([[0.0, 2.0], [1.0, 1.5]])
    with pytest.raises(ValueError, match=r"attention\[1\].*unit 1 sum to 3.5, not 1"):
        measure([np.full((2, 2), 0.5), features])
    with pytest.raises(ValueError, match=r"no set of \d or more local features"):
        measure(FeatureSets(np.ones((0, 2)), [0, 0]))


def test_unit_entropy_rejects_sets_of_one():
    with pytest.raises(ValueError, match="no set of 2 or more local features"):
        unit_entropy([np.ones((1, 2))])
