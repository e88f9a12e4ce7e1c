"""A training step on a GPU: it neither waits for the device nor copies anything to it.

Tensors of torch's "meta" device have no values, so that reading one is an error.
"""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from acluster._utils._no_empty_sets import no_empty_sets
from acluster.nn import (
    AttentionCluster,
    FC1Weighting,
    IntegrationNetwork,
    ScoreFusionNetwork,
    _attention_cluster,
    _masks,
    _network,
    reads_nothing_back,
)
from acluster.nn.integrations import NetVLAD
from acluster.training import Batch, Trainer, _optimizer
from tests.tape import attend_densely, below_highest_densely


class OnMeta(TorchDispatchMode):
    """Refuse operations on tensors of the CPU: they would copy to the device, or wait for it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in tree_leaves((args, kwargs, result)):
            assert not isinstance(one, torch.Tensor) or one.is_meta, function
        return result


@pytest.fixture(autouse=True)
def as_with_triton(monkeypatch):
    monkeypatch.setattr(_attention_cluster, "attend", attend_densely)
    for module in (_masks, _network):
        monkeypatch.setattr(module, "runs_triton", lambda tensor: True)
    monkeypatch.setattr(_masks, "_below_highest_triton", below_highest_densely)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)  # unknown for "meta"
    # torch's fused kernel has no implementation for this device.
    monkeypatch.setattr(_optimizer, "adam", lambda *args, **kwargs: None)


def take_step(network, offsets_device="meta", n_outputs=4):
    """Take a step on sets of two modalities, with everything on the meta device."""

    def loss(logits, targets):
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    trainer = Trainer(
        network.to("meta"),
        loss,
        optimizer="rmsprop",
        learning_rate=0.01,
        weight_decay=0.0,
        max_grad_norm=1.0,
        generator=None,
    )
    offsets = torch.tensor([0, 4, 9, 11]).to(offsets_device)
    sets = [(torch.ones(12, width, device="meta"), offsets) for width in (6, 5)]
    targets = torch.zeros(3, dtype=torch.int64, device="meta")
    batch = Batch(sets, targets, torch.ones(3, device="meta"), 3)
    with trainer.training(), no_empty_sets(), OnMeta():
        trainer.plain_step(batch, torch.zeros((), device="meta"))


def make_network(n_outputs=4, network=IntegrationNetwork, **options):
    clusters = [AttentionCluster(width, cluster_size=7, **options) for width in (6, 5)]
    return network(clusters, n_outputs, dropout=0.5, widths=(6, 5))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weighting": "fc2", "n_attended": 5},
        {"weighting": "average", "shifting": False},
        {"pyramid_levels": 3, "n_attended": 2},
        {"n_outputs": 1 << 11},  # the gradient of the last layer is in factors
        {"hidden_features": 3, "n_attended": 2},
        {"network": partial(ScoreFusionNetwork, is_softmax=True)},
        {"network": partial(ScoreFusionNetwork, is_softmax=False)},
    ],
    ids=str,
)
def test_steps_that_read_nothing_back(options):
    network = make_network(**options)
    assert reads_nothing_back(network)
    take_step(network)


def test_a_gradient_in_bfloat16_factors_is_rounded_once():
    parameter = torch.nn.Parameter(torch.empty(6, 4, device="meta"))
    D, G = (torch.empty(5, size, dtype=torch.bfloat16, device="meta") for size in (6, 4))
    parameter.grad_factors = D, G
    dtypes = []

    class Results(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            dtypes.append(result.dtype)
            return result

    with Results():
        gradient = _optimizer._gradient(parameter, slice(None))
    assert gradient.shape == parameter.shape
    assert dtypes[-1] == torch.float32  # of the product itself: no conversion follows it
    assert dtypes.count(torch.float32) == 1


def test_offsets_are_read_unless_no_set_is_promised_to_be_empty():
    network = make_network()
    offsets = torch.tensor([0, 4, 4, 9])
    sets = [(torch.ones(9, width), offsets) for width in (6, 5)]
    logits = network.eval()(sets)
    assert logits.isfinite().all()
    with no_empty_sets():
        assert not network(sets)[1].isfinite().all()


def test_offsets_on_the_cpu_are_copied():
    with pytest.raises(AssertionError, match=r"aten\.(slice|sub)"):
        take_step(make_network(), offsets_device="cpu")


class ByUser(IntegrationNetwork):
    pass


class ScoresByUser(ScoreFusionNetwork):
    pass


class Doubling(FC1Weighting):
    def forward(self, values):
        return 2 * super().forward(values)


def test_other_networks_may_read_back(monkeypatch):
    frozen = make_network()
    frozen.integrations[0].weighting.weight.requires_grad_(False)
    others = [
        frozen,
        make_network(network=ByUser),
        make_network(network=partial(ScoresByUser, is_softmax=True)),
        make_network(weighting=Doubling),
        IntegrationNetwork([NetVLAD(6, 2, 3), AttentionCluster(5, 7)], 4),
        torch.nn.Linear(2, 2),
    ]
    assert [reads_nothing_back(one) for one in others] == [False] * len(others)
    monkeypatch.setattr(_network, "runs_triton", lambda tensor: False)
    assert not reads_nothing_back(make_network())
