"""The torch modules against a slow transcription of the paper's equations."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.nn import (
    WEIGHTINGS,
    AttentionCluster,
    IntegrationNetwork,
    ShiftingOperation,
    _compiled,
    attention_weights,
)
from acluster.nn.integrations import EfficientProbing, NetVLAD, SetTransformer
from tests import reference

pytestmark = pytest.mark.numerical

lengths_of_sets = st.lists(st.integers(1, 7), min_size=1, max_size=8)
cases = {
    "lengths": lengths_of_sets,
    "n_features": st.integers(1, 5),
    "cluster_size": st.integers(1, 6),
    "weighting": st.sampled_from(sorted(WEIGHTINGS)),
    "shifting": st.booleans(),
    "seed": st.integers(0, 2**31 - 1),
}


def make_cluster(n_features, cluster_size, weighting, shifting, seed):
    cluster = AttentionCluster(
        n_features, cluster_size, weighting, hidden_size=3, shifting=shifting
    )
    cluster.reset_parameters(torch.Generator().manual_seed(seed))
    return cluster.double()


def make_packed(lengths, n_features, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    values = scale * torch.randn(sum(lengths), n_features, generator=generator, dtype=torch.float64)
    return values, torch.tensor(np.cumsum([0, *lengths]))


def reference_global_features(cluster, values, offsets, cluster_size, weighting, parameters):
    own = {name.removeprefix("weighting."): value for name, value in parameters.items()}
    alpha, beta = own.pop("shifting.alpha", None), own.pop("shifting.beta", None)
    if alpha is not None:
        alpha, beta = alpha.ravel(), beta.ravel()
    sets = [values[i:j].T for i, j in pairwise(offsets.tolist())]
    return np.stack([reference.cluster(X, cluster_size, weighting, own, alpha, beta) for X in sets])


def numpy_parameters(module):
    return {name: value.detach().numpy().copy() for name, value in module.named_parameters()}


@given(**cases)
@settings(max_examples=30, deadline=None)
def test_attention_cluster_matches_reference(
    lengths, n_features, cluster_size, weighting, shifting, seed
):
    cluster = make_cluster(n_features, cluster_size, weighting, shifting, seed)
    values, offsets = make_packed(lengths, n_features, seed)
    expected = reference_global_features(
        cluster, values.numpy(), offsets.numpy(), cluster_size, weighting, numpy_parameters(cluster)
    )
    np.testing.assert_allclose(cluster(values, offsets).detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))
@pytest.mark.parametrize("shifting", [True, False])
@pytest.mark.parametrize("lengths", [[4, 4, 4], [1, 5, 2, 5, 1]])
def test_attention_cluster_gradients_match_finite_differences(weighting, shifting, lengths):
    n_features, cluster_size = 3, 4
    cluster = make_cluster(n_features, cluster_size, weighting, shifting, seed=3)
    values, offsets = make_packed(lengths, n_features, seed=4)
    values.requires_grad_()
    direction = torch.randn(len(lengths), cluster_size * n_features, dtype=torch.float64)
    (cluster(values, offsets) * direction).sum().backward()
    parameters = {"values": values.detach().numpy(), **numpy_parameters(cluster)}
    gradients = {"values": values.grad, **{n: p.grad for n, p in cluster.named_parameters()}}

    def reference_loss():
        rest = {name: value for name, value in parameters.items() if name != "values"}
        g = reference_global_features(
            cluster, parameters["values"], offsets.numpy(), cluster_size, weighting, rest
        )
        return (g * direction.numpy()).sum()

    step = 1e-5
    for name, gradient in gradients.items():
        for index in np.ndindex(parameters[name].shape):
            kept = parameters[name][index]
            parameters[name][index] = kept + step
            above = reference_loss()
            parameters[name][index] = kept - step
            below = reference_loss()
            parameters[name][index] = kept
            slope = (above - below) / (2 * step)
            assert slope == pytest.approx(gradient[index].item(), abs=1e-6), (name, index)


def make_hidden(hidden_features=3, **options):
    cluster = AttentionCluster(4, 7, hidden_size=3, hidden_features=hidden_features, **options)
    cluster.reset_parameters(torch.Generator().manual_seed(0))
    return cluster.double()


@pytest.mark.parametrize("weighting", sorted(WEIGHTINGS))
@pytest.mark.parametrize("options", [{}, {"shifting": False}, {"n_attended": 2}])
def test_hidden_features_are_scored_and_pooled_beside_the_given_ones(weighting, options):
    cluster = make_hidden(weighting=weighting, **options)
    plain = AttentionCluster(7, 7, weighting, hidden_size=3, **options).double()
    state = cluster.state_dict()
    W, b = state.pop("hidden.weight"), state.pop("hidden.bias")
    plain.load_state_dict(state)
    values, offsets = make_packed([3, 1, 5], 4, seed=1)
    extended = torch.cat([values, (values @ W + b).clamp(min=0)], dim=1)
    g = cluster(values, offsets)
    assert g.shape == (3, cluster.global_size) == (3, 7 * (4 + 3))
    torch.testing.assert_close(g, plain(extended, offsets))
    torch.testing.assert_close(
        cluster.attention_weights(values, offsets), plain.attention_weights(extended, offsets)
    )


@pytest.mark.parametrize("implementation", ["compiled", "torch"])
@pytest.mark.parametrize("features_need_gradient", [False, True])
@pytest.mark.parametrize("shifting", [True, False])
def test_hidden_features_gradcheck(implementation, features_need_gradient, shifting, monkeypatch):
    if implementation == "torch":
        monkeypatch.setattr(_compiled, "_INSTALLED", False)
    cluster = make_hidden(shifting=shifting)
    names, parameters = zip(*cluster.named_parameters(), strict=True)
    values, offsets = make_packed([3, 1, 5], 4, seed=1)
    assert "hidden.weight" in names

    def g(values, *parameters):
        state = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(cluster, state, (values, offsets))

    values.requires_grad_(features_need_gradient)
    assert torch.autograd.gradcheck(g, (values, *parameters))


def test_new_modules_are_initialized(monkeypatch):
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *args, **kw: empty(*args, **kw).fill_(torch.nan))
    for module in (
        AttentionCluster(4, 3, weighting="fc2", hidden_features=2),
        EfficientProbing(4, n_queries=2),
        NetVLAD(4, n_centres=2, hidden_size=3),
        SetTransformer(4, n_seeds=2, hidden_size=4, n_heads=2),
    ):
        for name, parameter in module.named_parameters():
            assert parameter.isfinite().all(), (type(module).__name__, name)


def test_hidden_features_are_drawn_last_and_as_by_torch():
    cluster, plain = make_hidden(), make_hidden(0)
    assert plain.hidden is None
    assert sorted(plain.state_dict()) == ["shifting.alpha", "shifting.beta", "weighting.weight"]
    generator = torch.Generator().manual_seed(0)
    AttentionCluster(4 + 3, 7).reset_parameters(generator)
    drawn = torch.empty(4, 3).uniform_(-0.5, 0.5, generator=generator)
    assert torch.equal(cluster.hidden.weight, drawn.double())
    assert cluster.hidden.bias.abs().max() <= 0.5


@given(**cases)
@settings(max_examples=30, deadline=None)
def test_attention_cluster_ignores_order(
    lengths, n_features, cluster_size, weighting, shifting, seed
):
    cluster = make_cluster(n_features, cluster_size, weighting, shifting, seed)
    values, offsets = make_packed(lengths, n_features, seed)
    rng = np.random.default_rng(seed)
    shuffled = np.concatenate(
        [rng.permutation(np.arange(i, j)) for i, j in pairwise(offsets.tolist())]
    )
    torch.testing.assert_close(cluster(values[shuffled], offsets), cluster(values, offsets))


@given(**cases, repeats=st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_attention_cluster_is_invariant_to_repetition(
    lengths, n_features, cluster_size, weighting, shifting, seed, repeats
):
    cluster = make_cluster(n_features, cluster_size, weighting, shifting, seed)
    values, offsets = make_packed(lengths, n_features, seed)
    repeated = cluster(values.repeat_interleave(repeats, dim=0), offsets * repeats)
    torch.testing.assert_close(repeated, cluster(values, offsets))


@given(**cases)
@settings(max_examples=30, deadline=None)
def test_attention_cluster_treats_sets_independently(
    lengths, n_features, cluster_size, weighting, shifting, seed
):
    cluster = make_cluster(n_features, cluster_size, weighting, shifting, seed)
    values, offsets = make_packed(lengths, n_features, seed)
    alone = [cluster(values[i:j], torch.tensor([0, j - i])) for i, j in pairwise(offsets.tolist())]
    torch.testing.assert_close(torch.cat(alone), cluster(values, offsets))


@given(**{name: cases[name] for name in ("lengths", "n_features", "cluster_size", "seed")})
@settings(max_examples=30, deadline=None)
def test_shifting_operation_gives_unit_norm(lengths, n_features, cluster_size, seed):
    cluster = make_cluster(n_features, cluster_size, "fc1", True, seed)
    values, offsets = make_packed(lengths, n_features, seed)
    norms = cluster(values, offsets).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


@given(lengths=lengths_of_sets, cluster_size=st.integers(1, 5), seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_attention_weights_sum_to_one(lengths, cluster_size, seed):
    logits, offsets = make_packed(lengths, cluster_size, seed, scale=30.0)
    weights = attention_weights(offsets, logits)
    assert (weights >= 0).all()
    for i, j in pairwise(offsets.tolist()):
        torch.testing.assert_close(
            weights[i:j].sum(dim=0), torch.ones(cluster_size, dtype=torch.float64)
        )


@pytest.mark.parametrize("offset", [1e4, -1e4])
def test_attention_weights_subtract_the_maximum_of_each_set(offset):
    # One maximum over all sets would underflow here.
    logits = torch.tensor([[0.0], [1.0], [offset], [offset + 1]])
    weights = attention_weights(torch.tensor([0, 2, 4]), logits)
    torch.testing.assert_close(weights[:2], weights[2:])


def test_shifting_operation_is_finite_at_zero():
    shifting = ShiftingOperation(2)
    with torch.no_grad():
        shifting.beta.zero_()
    shifting(torch.zeros(1, 2, 3)).sum().backward()
    assert torch.isfinite(shifting.alpha.grad).all()


def test_shifting_operation_depends_only_on_sign_of_alpha_and_ratio():
    shifting, pooled = ShiftingOperation(3), torch.randn(2, 3, 4)
    before = shifting(pooled)
    with torch.no_grad():
        shifting.alpha *= 2.5
        shifting.beta *= 2.5
    torch.testing.assert_close(shifting(pooled), before)


@pytest.mark.parametrize("cluster_size", [1, 16, 256])
def test_shifting_operation_initial_standard_deviation(cluster_size):
    drawn = torch.cat([ShiftingOperation(cluster_size).alpha.detach() for _ in range(4000)])
    assert drawn.std().item() == pytest.approx(cluster_size**-0.25, rel=0.05)


def test_average_weighting_ignores_values():
    values, offsets = make_packed([3, 2], 4, seed=1)
    g = AttentionCluster(4, 2, "average", shifting=False)(values, offsets)
    means = torch.stack([values[:3].mean(0), values[3:].mean(0)])
    torch.testing.assert_close(g, means.repeat(1, 2))


def test_integration_network_concatenates_modalities():
    clusters = [make_cluster(4, 3, "fc1", True, 0), make_cluster(2, 5, "fc2", False, 1)]
    network = IntegrationNetwork(clusters, n_outputs=7, dropout=0.9).double().eval()
    rgb, audio = make_packed([2, 3], 4, seed=2), make_packed([6, 1], 2, seed=3)
    g = network.global_feature([rgb, audio])
    torch.testing.assert_close(g[:, :12], clusters[0](*rgb))
    torch.testing.assert_close(g[:, 12:], clusters[1](*audio))
    torch.testing.assert_close(network([rgb, audio]), network.linear(g))
    with pytest.raises(ValueError, match="shorter"):
        network([rgb])


def test_number_of_hidden_features_may_be_any_integer():
    for number in (True, np.int64(1)):
        assert AttentionCluster(3, 2, hidden_features=number).hidden.weight.shape == (3, 1)
