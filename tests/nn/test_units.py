"""`UnitsNetwork`: the parts of a network add up to it."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from acluster._utils._operations import choosing_bfloat16
from acluster.nn import (
    AttentionCluster,
    FC1Weighting,
    IntegrationNetwork,
    ScoreFusionNetwork,
    UnitsNetwork,
)
from acluster.nn.integrations import Average

pytestmark = pytest.mark.numerical

WIDTHS, N_OUTPUTS = (4, 3), 5


def make_network(*sizes, dropout=0.0, seed=0, standardize=True, **options):
    """A network in float64 with one attention cluster per size."""
    widths = WIDTHS[: len(sizes)]
    clusters = [AttentionCluster(*one, **options) for one in zip(widths, sizes, strict=True)]
    network = IntegrationNetwork(clusters, N_OUTPUTS, dropout, widths if standardize else None)
    network = network.double()
    generator = torch.Generator().manual_seed(seed)
    network.reset_parameters(generator)
    for layer in network.standardizations or ():
        layer.learn(*torch.rand(2, len(layer.mean), generator=generator, dtype=torch.float64))
    return network


def make_sets(n_modalities, lengths=((2, 1, 5, 3), (1, 0, 2, 4))):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(sum(own), width, generator=generator, dtype=torch.float64),
            torch.tensor([0, *own]).cumsum(0),
        )
        for width, own in zip(WIDTHS[:n_modalities], lengths, strict=False)
    ]


def parts_of(network, size, total=lambda part: part):
    return [UnitsNetwork(network, rank, size, total) for rank in range(size)]


@pytest.mark.parametrize(
    ("operations", "expected"), [(["linear"], torch.bfloat16), (["integration"], torch.float32)]
)
def test_linear_layer_of_a_part_computes_in_the_chosen_precision(operations, expected):
    found = []
    [part, _] = parts_of(make_network(4).float(), 2)
    cast = part.linear._weight_as

    def recording(dtype):
        found.append(dtype)
        return cast(dtype)

    part.linear._weight_as = recording
    sets = [(values.float(), offsets) for values, offsets in make_sets(1)]
    with choosing_bfloat16(operations):
        part(sets)
    assert found == [expected]


class TotalOverThreads:
    """The sum over ranks, each of which is a thread."""

    def __init__(self, size):
        self._barrier = threading.Barrier(size, timeout=60)
        self._given = []

    def __call__(self, part):
        self._given.append(part.detach())
        self._barrier.wait()
        total = torch.stack(self._given).sum(0)
        if self._barrier.wait() == 0:
            self._given.clear()
        self._barrier.wait()
        return total


def in_threads(functions):
    """Call functions at the same time, and return their results."""
    results = [None] * len(functions)

    def call(i):
        results[i] = functions[i]()

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(functions))]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return results


OPTIONS = {
    "fc1": {},
    "fc2": {"weighting": "fc2", "hidden_size": 3},
    "average": {"weighting": "average"},
    "no shifting": {"shifting": False},
    "n_attended": {"n_attended": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sizes", [(5,), (5, 3), (4, 4)])
def test_partial_logits_add_up_to_those_of_the_network(options, sizes):
    network, sets = make_network(*sizes, **options), make_sets(len(sizes))
    bias = network.linear.bias
    total = sum(part(sets) - bias for part in parts_of(network, 3))
    torch.testing.assert_close(total + bias, network(sets), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("sizes", [(5,), (5, 3)])
def test_parts_train_like_the_network(options, sizes):
    """Logits and gradients, with dropout, of ranks that exchange their logits."""
    network, sets = make_network(*sizes, dropout=0.4, **options), make_sets(len(sizes))
    parts = parts_of(network, 3, TotalOverThreads(3))
    targets = torch.tensor([0, 4, 2, 2])

    def step(network):
        logits = network(sets, generator=torch.Generator().manual_seed(7))
        nn.functional.cross_entropy(logits, targets).backward()
        return logits.detach()

    expected = step(network)
    for logits in in_threads([lambda part=part: step(part) for part in parts]):
        torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-14)
    for name, parameter in network.named_parameters():
        own = [{name: dict(part.named_parameters())[name].grad} for part in parts]
        found = [{name: torch.empty_like(parameter)} for _ in parts]
        for part, one, full in zip(parts, own, found, strict=True):
            part.expand(one, full)
        total = sum(full[name] for full in found)
        torch.testing.assert_close(total, parameter.grad, rtol=1e-11, atol=1e-14)


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(3, 7), min_size=1, max_size=2),
    size=st.integers(1, 3),
    weighting=st.sampled_from(["fc1", "fc2", "average"]),
    seed=st.integers(0, 99),
)
def test_expand_inverts_restrict(sizes, size, weighting, seed):
    network = make_network(*sizes, weighting=weighting, hidden_size=2)
    generator = torch.Generator().manual_seed(seed)
    like = {
        name: torch.rand(p.shape, generator=generator) for name, p in network.named_parameters()
    }
    summed = {name: torch.zeros_like(tensor) for name, tensor in like.items()}
    for part in parts_of(network, size):
        own = {name: torch.empty_like(p).float() for name, p in part.named_parameters()}
        part.restrict(like, own)
        full = {name: torch.full_like(tensor, torch.nan) for name, tensor in like.items()}
        part.expand(own, full)
        for name, tensor in full.items():
            summed[name] += tensor
    for name, tensor in like.items():
        assert torch.equal(summed[name], tensor), name


def test_parts_have_every_parameter_but_the_bias_once():
    network = make_network(7, 5, weighting="fc2")
    parts = parts_of(network, 3)
    n_own = sum(p.numel() for part in parts for p in part.parameters())
    n_full = sum(p.numel() for p in network.parameters())
    assert n_own == n_full + 2 * N_OUTPUTS
    assert [len(part.uncounted) for part in parts] == [0, 1, 1]


def test_constructor_draws_no_random_numbers():
    network = make_network(5)
    before = torch.get_rng_state()
    parts_of(network, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_supports_needs_a_unit_of_every_modality_per_rank():
    assert UnitsNetwork.supports(make_network(5, 3), 3)
    assert not UnitsNetwork.supports(make_network(5, 3), 4)


@pytest.mark.parametrize(
    "cluster",
    [
        AttentionCluster(4, 5, pyramid_levels=2),
        AttentionCluster(4, 5, hidden_features=2),
        AttentionCluster(4, 5, weighting=type("Own", (FC1Weighting,), {})),
        type("Own", (AttentionCluster,), {})(4, 5),
        Average(4),
    ],
)
def test_supports_rejects_what_it_cannot_divide(cluster):
    assert not UnitsNetwork.supports(IntegrationNetwork([cluster], 3), 2)


def test_supports_rejects_fused_scores():
    clusters = [AttentionCluster(4, 5), AttentionCluster(4, 5)]
    assert not UnitsNetwork.supports(ScoreFusionNetwork(clusters, 3, is_softmax=True), 2)
