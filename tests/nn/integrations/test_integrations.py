"""The torch modules against a transcription in numpy, set by set."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from acluster.nn import Integration, integrations
from acluster.nn.integrations._batch_norm import BatchNorm
from acluster.nn.integrations._sequences import segment
from tests.nn.integrations import reference

pytestmark = pytest.mark.numerical

M = 6
LENGTHS = [3, 1, 11, 7, 5]
CASES = {
    "Average": (reference.average, {}, lambda: 0),
    "Flatten": (reference.flatten, {"n_steps": 4}, lambda: 0),
    "BiLSTM": (reference.bilstm, {"hidden_size": 5}, lambda: 2 * 4 * 5 * (M + 5 + 2)),
    "TSLSTM": (
        reference.ts_lstm,
        {"n_segments": 3, "hidden_size": 5},
        lambda: 3 * 2 * M + 4 * 5 * (M + 5 + 2) + 2 * 5,
    ),
    "TemporalInception": (
        reference.temporal_inception,
        {"n_steps": 9, "hidden_size": 7},
        lambda: (
            sum(c * c * 12 + 2 * c + 4 * c for c in (1, 2, 4, 8))
            + sum(a * b + 3 * b for a, b in ((16, 4), (4, 2), (2, 1)))
            + 7 * (M + 3)
        ),
    ),
    "AttentionMIL": (reference.attention_mil, {"hidden_size": 5}, lambda: 5 * (M + 1) + 5),
    "GatedAttentionMIL": (reference.attention_mil, {"hidden_size": 5}, lambda: 10 * (M + 1) + 5),
    "NetVLAD": (
        reference.net_vlad,
        {"n_centres": 3, "hidden_size": 5},
        lambda: 3 * M + 6 + 3 * M + 5 * (3 * M + 1) + 5 * 6,
    ),
    "SetTransformer": (
        reference.set_transformer,
        {"n_seeds": 2, "hidden_size": 8, "n_heads": 4},
        lambda: 2 * 8 + 8 * (M + 1) + 5 * 8 * 9 + 2 * 16,
    ),
    "EfficientProbing": (reference.efficient_probing, {"n_queries": 3}, lambda: 3 * M + M * M),
}
ORDERED = {"Flatten", "BiLSTM", "TSLSTM", "TemporalInception"}


def packed(seed=0):
    values = torch.randn(sum(LENGTHS), M, generator=torch.Generator().manual_seed(seed)).double()
    return values, torch.tensor([0, *np.cumsum(LENGTHS)])


def make(name):
    """Return a module in evaluation mode, whose running statistics have been updated."""
    module = getattr(integrations, name)(M, **CASES[name][1]).double()
    module.reset_parameters(torch.Generator().manual_seed(5))
    for seed in range(30):
        module(*packed(seed))
    return module.eval()


@pytest.mark.parametrize("name", CASES)
def test_forward_matches_reference(name):
    formula, parameters, n_parameters = CASES[name]
    module = make(name)
    values, offsets = packed(seed=7)
    state = {key: tensor.detach().numpy() for key, tensor in module.state_dict().items()}
    expected = [formula(X.numpy(), state, **parameters) for X in values.split(LENGTHS)]
    output = module(values, offsets).detach().numpy()
    assert output.shape == (len(LENGTHS), module.global_size)
    np.testing.assert_allclose(output, expected, rtol=1e-9, atol=1e-12)
    assert output.std(axis=0).max() > 0.01, "all items have the same vector"
    assert sum(p.numel() for p in module.parameters()) == n_parameters()


@pytest.mark.parametrize("name", CASES)
def test_forward_treats_sets_independently_and_ignores_order(name):
    module = make(name)
    values, offsets = packed(seed=7)
    whole = module(values, offsets)
    alone = [module(X, torch.tensor([0, len(X)]))[0] for X in values.split(LENGTHS)]
    torch.testing.assert_close(torch.stack(alone), whole, rtol=1e-9, atol=1e-12)
    turned = torch.cat([X.flip(0) for X in values.split(LENGTHS)])
    is_same = torch.allclose(module(turned, offsets), whole, rtol=1e-9, atol=1e-12)
    assert is_same == (name not in ORDERED)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_has_a_gradient(name):
    module = make(name).train()
    values, offsets = packed(seed=7)
    output = module(values, offsets)
    if not list(module.parameters()):
        return
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)).double()
    (output * direction).sum().backward()
    still = [key for key, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still, still


@pytest.mark.parametrize("name", CASES)
def test_reset_parameters_uses_only_the_generator(name):
    module, again = make(name), make(name)
    again.train()(*packed(seed=9))
    for one in (module, again):
        one.reset_parameters(torch.Generator().manual_seed(3))
    for key, tensor in module.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key
    again.reset_parameters(torch.Generator().manual_seed(4))
    for key, parameter in module.named_parameters():
        is_norm = "norm" in key  # normalization layers start with constants
        assert torch.equal(parameter, again.get_parameter(key)) == is_norm, key


@pytest.mark.parametrize("name", ["AttentionMIL", "GatedAttentionMIL", "EfficientProbing"])
def test_attention_weights_match_weighted_average(name):
    module = make(name)
    values, offsets = packed(seed=7)
    weights = module.attention_weights(values, offsets)
    sums = torch.stack([a.sum(0) for a in weights.split(LENGTHS)])
    torch.testing.assert_close(sums, torch.ones_like(sums))
    if name != "EfficientProbing":
        pairs = zip(weights.split(LENGTHS), values.split(LENGTHS), strict=True)
        averages = torch.stack([(a.T @ X)[0] for a, X in pairs])
        torch.testing.assert_close(averages, module(values, offsets))


def test_batch_norm_accepts_one_row_in_training_mode():
    norm = BatchNorm(M).double()
    row = torch.ones(1, M).double()
    assert torch.equal(norm(row), norm.eval()(row))


@pytest.mark.parametrize("n_segments", [1, 2, 3, 5, 20])
def test_segment_covers_each_set(n_segments):
    _, offsets = packed()
    seen = set()
    for number in range(n_segments):
        rows, own = segment(offsets, number, n_segments)
        assert (own.diff() >= 1).all()
        for item, (start, stop) in enumerate(pairwise(own)):
            part = rows[start:stop]
            assert (offsets[item] <= part).all()
            assert (part < offsets[item + 1]).all()
        seen.update(rows.tolist())
    assert seen == set(range(sum(LENGTHS)))


@pytest.mark.parametrize("seed", range(10))
def test_temporal_inception_has_active_outputs_for_any_seed(seed):
    module = integrations.TemporalInception(M, n_steps=9, hidden_size=20).double()
    module.reset_parameters(torch.Generator().manual_seed(seed))
    output = module(*packed(seed=7))
    assert ((output > 0).float().mean(dim=0) > 0).float().mean() > 0.8
    assert output.std(dim=0).mean() > 0.1


def test_reset_parameters_rejects_unknown_layer():
    class Strange(Integration):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.GroupNorm(1, M)

        def forward(self, values, offsets):
            return values

    with pytest.raises(TypeError, match="Strange has a layer of type GroupNorm, whose parameters"):
        Strange().reset_parameters()
    with pytest.raises(NotImplementedError, match="Strange has no attention units"):
        Strange().attention_weights(*packed())


def test_set_transformer_rejects_indivisible_hidden_size():
    with pytest.raises(ValueError, match="hidden_size=6 is not a multiple of n_heads=4"):
        integrations.SetTransformer(M, n_seeds=1, hidden_size=6, n_heads=4)
