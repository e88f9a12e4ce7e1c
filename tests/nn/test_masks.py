"""Units restricted to a part of a temporal pyramid, or to their highest-scoring features."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.nn import WEIGHTINGS, AttentionCluster, IntegrationNetwork, PaddedNetwork, _compiled
from acluster.nn._masks import below_top_k_of_sets, mask_logits
from acluster.nn.pooling import attend, attend_plainly
from acluster.nn.pooling._analytic import attend_analytic
from tests import reference
from tests.nn.test_attention_cluster import make_packed, numpy_parameters

pytestmark = pytest.mark.numerical

cases = {
    "lengths": st.lists(st.integers(1, 9), min_size=1, max_size=6),
    "cluster_size": st.integers(7, 9),
    "weighting": st.sampled_from(sorted(WEIGHTINGS)),
    "n_attended": st.one_of(st.none(), st.integers(1, 10)),
    "pyramid_levels": st.integers(1, 3),
    "seed": st.integers(0, 2**31 - 1),
}


@pytest.mark.parametrize("with_kernel", [True, False])
@pytest.mark.parametrize("lengths", [[4, 0, 5, 3], [60, 1, 2, 1, 3], [40, 41]], ids=str)
@pytest.mark.parametrize("k", [1, 3, 32, 33, 100])
def test_below_top_k_keeps_the_k_highest_logits_of_every_set(monkeypatch, k, lengths, with_kernel):
    if not with_kernel:
        monkeypatch.setattr(_compiled, "_INSTALLED", False)
    logits = np.random.default_rng(0).integers(0, 9, (sum(lengths), 4)).astype(float)  # with ties
    offsets = np.r_[0, np.cumsum(lengths)]
    expected = np.zeros(logits.shape, bool)
    for start, stop in pairwise(offsets):
        own = logits[start:stop]
        if len(own):
            expected[start:stop] = own < np.sort(own, axis=0)[max(0, len(own) - k)]
    for tensor in (torch.from_numpy(logits), torch.from_numpy(logits.T.copy()).T):
        below = below_top_k_of_sets(tensor, torch.from_numpy(offsets), k)
        np.testing.assert_array_equal(below.numpy(), expected)


def make(cluster_size, seed, n_features=3, **options):
    cluster = AttentionCluster(n_features, cluster_size, hidden_size=3, **options)
    cluster.reset_parameters(torch.Generator().manual_seed(seed))
    return cluster.double()


def rows_and_weights(X, k, cluster, weighting, own):
    """Return the slice of one set (M, L) that one unit attends to, and its weights there."""
    parts = [(s, 2**level) for level in range(cluster.pyramid_levels) for s in range(2**level)]
    s, n_parts = parts[k * len(parts) // cluster.cluster_size]
    start, end = s * X.shape[1] // n_parts, (s + 1) * X.shape[1] // n_parts
    rows = slice(start, max(end, start + 1))
    a = reference.weights_of_unit(X[:, rows], k, weighting, own)
    if cluster.n_attended is not None:
        least = np.sort(a)[::-1][: cluster.n_attended][-1]
        a = np.where(a >= least * (1 - 1e-12), a, 0)
    return rows, a / a.sum()


@given(**cases)
@settings(max_examples=50, deadline=None)
def test_attention_cluster_matches_reference(lengths, cluster_size, weighting, seed, **options):
    cluster = make(cluster_size, seed, weighting=weighting, **options)
    values, offsets = make_packed(lengths, 3, seed)
    parameters = numpy_parameters(cluster)
    own = {name.removeprefix("weighting."): value for name, value in parameters.items()}
    alpha, beta = own["shifting.alpha"].ravel(), own["shifting.beta"].ravel()
    g, attention = (
        found.detach().numpy()
        for found in (cluster(values, offsets), cluster.attention_weights(values, offsets))
    )
    for i, (begin, end) in enumerate(pairwise(offsets.tolist())):
        X = values.numpy()[begin:end].T
        for k in range(cluster_size):
            rows, a = rows_and_weights(X, k, cluster, weighting, own)
            v = reference.shift(X[:, rows] @ a, alpha[k], beta[k], cluster_size)
            np.testing.assert_allclose(g[i, 3 * k : 3 * k + 3], v, atol=1e-10)
            expected = np.zeros(X.shape[1])
            expected[rows] = a
            np.testing.assert_allclose(attention[begin:end, k], expected, atol=1e-10)


@given(**cases)
@settings(max_examples=50, deadline=None)
def test_padded_network_matches_packed_network(lengths, seed, **options):
    options["hidden_features"] = seed % 3
    cluster = make(seed=seed, **options)
    network = IntegrationNetwork([cluster], n_outputs=2).double()
    values, offsets = make_packed(lengths, 3, seed)
    in_sets = values.split(lengths)
    padded = torch.nn.utils.rnn.pad_sequence(in_sets, batch_first=True, padding_value=7.0)
    got = PaddedNetwork(network, [None])(padded, torch.tensor(lengths))
    torch.testing.assert_close(got, network([(values, offsets)]))


def test_n_attended_of_set_size_attends_to_all():
    values, offsets = make_packed([4, 1, 6], 3, seed=0)
    every = make(8, seed=1)(values, offsets)
    torch.testing.assert_close(make(8, seed=1, n_attended=6)(values, offsets), every)
    assert not torch.allclose(make(8, seed=1, n_attended=2)(values, offsets), every)


def test_order_matters_for_pyramid_but_not_for_n_attended():
    values, offsets = make_packed([6], 3, seed=0)
    cluster = make(8, seed=1, n_attended=2)
    torch.testing.assert_close(cluster(values.flip(0), offsets), cluster(values, offsets))
    cluster = make(8, seed=1, pyramid_levels=2)
    assert not torch.allclose(cluster(values.flip(0), offsets), cluster(values, offsets))


def test_n_attended_includes_ties():
    values = torch.tensor([[1.0], [1.0], [-5.0], [1.0]], dtype=torch.float64)
    cluster = make(2, seed=0, n_features=1, n_attended=1)
    with torch.no_grad():
        cluster.weighting.weight.fill_(1.0)
    weights = cluster.attention_weights(values, torch.tensor([0, 4]))
    torch.testing.assert_close(weights[:, 0], torch.tensor([1, 1, 0, 1]).double() / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("implementation", [attend, attend_analytic])
def test_attend_gives_masked_logits_no_weight_and_no_gradient(implementation, dtype):
    values, offsets = make_packed([5, 3, 1], 4, seed=0)
    cluster = make(9, seed=1, n_features=4, n_attended=2, pyramid_levels=3)
    free = cluster.weighting(values).detach()
    mask = cluster.attention_logits(values, offsets) < -1e30
    assert mask.any()
    results = []
    for function, kind in ((implementation, dtype), (attend_plainly, torch.float64)):
        own = mask_logits(free.to(kind), mask).requires_grad_()
        pooled = function(values.to(kind), offsets, own)
        (pooled * torch.linspace(-1, 1, 4, dtype=kind)).sum().backward()
        results.append((pooled.double(), own.grad.double()))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    assert (results[0][1][mask] == 0).all()


def test_attention_cluster_rejects_more_parts_than_units():
    with pytest.raises(
        ValueError, match=r"pyramid_levels=3 has 2\^3 - 1 parts.*pyramid_levels to 2"
    ):
        AttentionCluster(3, 6, pyramid_levels=3)
    with pytest.raises(ValueError, match="pyramid_levels to 20"):
        AttentionCluster(1, 2**20, pyramid_levels=10**9)
