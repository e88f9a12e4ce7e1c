"""Optimizer equals torch's optimizers, also with factored gradients and tile by tile."""

import pytest
import torch
from torch import nn

from acluster.training import _optimizer
from acluster.training._optimizer import OPTIMIZERS, Optimizer

pytestmark = pytest.mark.numerical

TORCHS = {"rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def drawn(seed, *shape):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make_parameters():
    return [nn.Parameter(drawn(1, 50, 7)), nn.Parameter(drawn(2, 5)), nn.Parameter(drawn(3, 4, 1))]


@pytest.mark.parametrize("tile", [1, 100, 1 << 19])
@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 30.0, 1e6])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("in_factors", [False, True])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_step_equals_torch(name, in_factors, weight_decay, max_grad_norm, tile, monkeypatch):
    monkeypatch.setattr(_optimizer, "_NUMBERS_PER_TILE", tile)
    ours, theirs = make_parameters(), make_parameters()
    optimizer = Optimizer(
        ours, name, learning_rate=0.01, weight_decay=weight_decay, max_grad_norm=max_grad_norm
    )
    expected = TORCHS[name](theirs, lr=0.01, weight_decay=weight_decay)
    for step in range(4):
        D, G = drawn(10 + step, 3, 50), drawn(20 + step, 3, 7)
        gradients = [D.T @ G, drawn(30 + step, 5), drawn(40 + step, 4, 1)]
        for one, other, gradient in zip(ours, theirs, gradients, strict=True):
            one.grad, other.grad = gradient.clone(), gradient.clone()
        if in_factors:
            ours[0].grad, ours[0].grad_factors = None, (D, G)
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(theirs, max_grad_norm)
        optimizer.step()
        expected.step()
        assert all(p.grad is None for p in ours)
        assert getattr(ours[0], "grad_factors", None) is None
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_load_state_continues_with_tiles_of_another_size(name, monkeypatch):
    settings = {"learning_rate": 0.01, "weight_decay": 0.0, "max_grad_norm": None}
    gradient = drawn(5, 50, 7)

    def steps(optimizer, n):
        for _ in range(n):
            optimizer.parameters[0].grad = gradient.clone()
            optimizer.step()

    straight = Optimizer([nn.Parameter(drawn(1, 50, 7))], name, **settings)
    steps(straight, 4)
    first = Optimizer([nn.Parameter(drawn(1, 50, 7))], name, **settings)
    steps(first, 2)
    monkeypatch.setattr(_optimizer, "_NUMBERS_PER_TILE", 21)
    second = Optimizer([nn.Parameter(first.parameters[0].detach().clone())], name, **settings)
    second.load_state(first.state())
    steps(second, 2)
    torch.testing.assert_close(second.parameters[0], straight.parameters[0])


def test_clipping_gives_the_same_step_where_gradients_are_divided(monkeypatch):
    found = []
    for devices in (("cpu",), ()):
        monkeypatch.setattr(_optimizer, "_DIVIDING_DEVICES", devices)
        parameter = nn.Parameter(drawn(2, 5))
        optimizer = Optimizer(
            [parameter], "rmsprop", learning_rate=1.0, weight_decay=0.1, max_grad_norm=0.1
        )
        parameter.grad = drawn(3, 5)
        optimizer.step()
        found.append(parameter.detach())
    torch.testing.assert_close(*found)


def test_step_skips_parameters_without_a_gradient():
    parameters = make_parameters()
    optimizer = Optimizer(
        parameters, "adam", learning_rate=1.0, weight_decay=0.5, max_grad_norm=1.0
    )
    parameters[1].grad = torch.ones(5, dtype=torch.float64)
    optimizer.step()
    before = make_parameters()
    assert torch.equal(parameters[0], before[0])
    assert not torch.equal(parameters[1], before[1])


def test_norm_of_product_equals_the_norm_of_the_product():
    D, G = drawn(0, 6, 40).float(), drawn(1, 6, 9).float()
    expected = torch.linalg.matrix_norm(D.T @ G)
    torch.testing.assert_close(_optimizer._norm_of_product(D, G), expected)
