"""`DropoutLinear`: dropout, the linear layer, and its gradient, whole and in factors."""

import copy
import pickle

import pytest
import torch
from torch import nn

from acluster._utils import _memory
from acluster.nn import DropoutLinear, _compiled, _linear
from acluster.nn._linear import _drawn_dropout, _mask

pytestmark = pytest.mark.numerical


@pytest.fixture(
    params=[
        pytest.param(
            "numba", marks=pytest.mark.skipif(not _compiled._INSTALLED, reason="no Numba")
        ),
        "torch",
    ],
    autouse=True,
)
def mask_implementation(request, monkeypatch):
    """Run every test with the mask computed by Numba and by torch."""
    if request.param == "torch":
        monkeypatch.setattr(_compiled, "_INSTALLED", False)


def mask_of(x, probability, seed=0):
    bits, kept_from = _drawn_dropout(x, probability, torch.Generator().manual_seed(seed))
    return _mask(x, bits, kept_from, out=torch.empty_like(x))


def drawn_layer(dropout=0.0, dtype=torch.float64):
    layer = DropoutLinear(40, 3, dropout).to(dtype)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(7, 40, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return layer, x.requires_grad_()


def test_forward_matches_torch_linear_without_dropout():
    layer, x = drawn_layer()
    linear = nn.Linear(40, 3).double()
    linear.load_state_dict({"weight": layer.weight.T, "bias": layer.bias})
    direction = torch.randn(7, 3, dtype=torch.float64)
    ours, theirs = layer(x), linear(x)
    torch.testing.assert_close(ours, theirs)
    gradients = torch.autograd.grad((ours * direction).sum(), [x, *layer.parameters()])
    expected = torch.autograd.grad((theirs * direction).sum(), [x, *linear.parameters()])
    for one, other in zip(gradients, [expected[0], expected[1].T, expected[2]], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("chunk", [1, 100, 1 << 18])
def test_gradcheck_with_dropout(chunk, monkeypatch):
    monkeypatch.setattr(_linear, "_CHUNK_ELEMENTS", chunk)
    layer, x = drawn_layer(dropout=0.3)

    def output(x, weight, bias):
        generator = torch.Generator().manual_seed(2)
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x, generator))

    assert torch.autograd.gradcheck(output, (x, layer.weight, layer.bias))


def test_grad_factors_multiply_to_gradient(monkeypatch):
    monkeypatch.setattr(_linear, "_MIN_FACTORED_SIZE", 1)
    layer, x = drawn_layer(dropout=0.3)
    whole, in_factors = [], []
    for layer.factored_gradient, found in ((False, whole), (True, in_factors)):
        layer.zero_grad()
        x.grad = None
        layer(x, torch.Generator().manual_seed(3)).square().sum().backward()
        found.extend([x.grad, layer.bias.grad])
    D, G = layer.weight.grad_factors
    assert layer.weight.grad is None
    for one, other in zip(whole, in_factors, strict=True):
        assert torch.equal(one, other)
    layer.factored_gradient = False
    layer(x, torch.Generator().manual_seed(3)).square().sum().backward()
    torch.testing.assert_close(D.T @ G, layer.weight.grad)


def test_grad_factors_absent_for_frozen_weight(monkeypatch):
    monkeypatch.setattr(_linear, "_MIN_FACTORED_SIZE", 1)
    layer, x = drawn_layer()
    layer.factored_gradient = True
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert not hasattr(layer.weight, "grad_factors")


def test_grad_factors_accumulate(monkeypatch):
    monkeypatch.setattr(_linear, "_MIN_FACTORED_SIZE", 1)
    layer, x = drawn_layer()
    (layer(x).square().sum() + layer(2 * x).sum()).backward()
    layer.factored_gradient = True
    (layer(x).square().sum() + layer(2 * x).sum()).backward()
    D, G = layer.weight.grad_factors
    torch.testing.assert_close(D.T @ G, layer.weight.grad)


def test_small_weight_has_whole_gradient():
    layer, x = drawn_layer()
    layer.factored_gradient = True
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("probability", [1e-7, 0.01, 0.5, 0.9, 0.999])
def test_dropout_has_requested_probability(probability):
    n_items, size = 400, 1000
    mask = mask_of(torch.ones(n_items, size), probability)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    # Each item draws one of two dropout probabilities, 1/256 apart.
    variance = probability * (1 - probability) / (n_items * size) + (1 / 512) ** 2 / n_items
    assert (mask == 0).float().mean().item() == pytest.approx(probability, abs=5 * variance**0.5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (5, 80_001)])
def test_mask_handles_any_shape(shape):
    x = torch.randn(shape)
    dropped = mask_of(x, 0.5)
    assert torch.equal(dropped[dropped != 0], x[dropped != 0])


def test_dropout_of_neighbors_is_independent():
    mask = mask_of(torch.ones(1, 400_000), 0.5)[0]
    for distance in (1, 2, 3, 4, 7, 8, 16):
        together = (mask[:-distance] * mask[distance:]).mean().item()
        assert together == pytest.approx(0.25, abs=0.005)


def test_dropout_preserves_expected_output():
    layer = DropoutLinear(200, 1, dropout=0.9).train()
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    outputs = layer(torch.ones(2000, 200), torch.Generator().manual_seed(0))
    assert outputs.mean().item() == pytest.approx(200, abs=5)


def test_dropout_uses_generator_and_only_training_mode():
    layer, x = drawn_layer(dropout=0.5)
    state = torch.get_rng_state()
    layer(x, torch.Generator())
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(layer.eval()(x), x @ layer.weight + layer.bias)


def test_forward_uses_autocast_dtype():
    layer, x = drawn_layer(dtype=torch.float32)
    layer.eval()
    with torch.autocast("cpu", torch.bfloat16):
        narrow = layer(x)
        narrow.sum().backward()
    torch.testing.assert_close(narrow, layer(x), rtol=0.02, atol=0.02)
    assert not torch.equal(narrow, layer(x))
    assert layer.weight.grad.dtype == torch.float32
    with torch.no_grad():
        layer.weight.mul_(2)  # invalidates the cached weight
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer(x), layer.float()(x), rtol=0.02, atol=0.04)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_narrow_products_drop_the_same_and_round_only(dtype):
    layer, _ = drawn_layer(dropout=0.5, dtype=torch.float32)
    found = []
    for is_narrow in (False, True):
        x = drawn_layer()[1].detach().to(dtype if is_narrow else torch.float32).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_narrow):
            output = layer(x, torch.Generator().manual_seed(1))
        output.backward(torch.linspace(-1, 1, 21).view(7, 3))
        found.append((output, x.grad, layer.weight.grad))
        layer.zero_grad()
    (full, full_x, full_weight), (narrow, narrow_x, narrow_weight) = found
    assert (narrow.dtype, narrow_x.dtype, narrow_weight.dtype) == (torch.float32, dtype, full.dtype)
    assert torch.equal(narrow_x == 0, full_x == 0)
    torch.testing.assert_close(narrow, full, rtol=0.02, atol=0.05)
    torch.testing.assert_close(narrow_x.float(), full_x, rtol=0.02, atol=0.02)
    torch.testing.assert_close(narrow_weight, full_weight, rtol=0.02, atol=0.05)
    assert not torch.equal(narrow, full)


@pytest.mark.parametrize("factored", [False, True])
def test_backward_avoids_subnormal_numbers(factored, monkeypatch):
    monkeypatch.setattr(_linear, "_MIN_FACTORED_SIZE", 1)
    layer, x = drawn_layer(dtype=torch.float32)
    layer.factored_gradient = factored
    direction = torch.tensor([1.0, 1e-38, 1e-42]).expand(7, 3)  # the last two underflow
    x.grad = None
    layer(x).backward(direction)
    D, G = layer.weight.grad_factors if factored else (x.detach(), None)
    gradient = D.T @ G if factored else layer.weight.grad
    torch.testing.assert_close(gradient[:, 0], x.detach().sum(dim=0))
    assert (gradient[:, 1:] == 0).all()
    assert not ((x.grad != 0) & (x.grad.abs() < torch.finfo(torch.float32).smallest_normal)).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_backward_keeps_small_gradients(dtype):
    layer, x = drawn_layer(dtype=dtype)
    x.grad = None
    layer(x).backward(torch.full((7, 3), 1e-3, dtype=dtype))
    expected = (layer.weight.detach().double().sum(dim=1) * 1e-3).to(dtype).expand(7, 40)
    torch.testing.assert_close(x.grad, expected, rtol=2e-2, atol=1e-5)


def test_backward_propagates_nan():
    layer, x = drawn_layer()
    layer(x).backward(torch.full((7, 3), torch.nan, dtype=torch.float64))
    assert layer.weight.grad.isnan().all()


class Cleared(DropoutLinear):
    """Another thread clears the cached weight after every second read."""

    n_reads = 0

    @property
    def _narrowed(self):
        self.__dict__["n_reads"] = self.n_reads + 1
        return None if self.n_reads % 3 == 0 else self.__dict__.get("kept")

    @_narrowed.setter
    def _narrowed(self, value):
        self.__dict__["kept"] = value


def test_cached_weight_may_be_cleared_by_another_thread_at_any_time():
    layer = Cleared(6, 2).eval()
    x = torch.ones(3, 6)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [layer(x) for _ in range(8)]
    assert all(torch.equal(one, outputs[0]) for one in outputs)


def narrow_output(layer, x):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return layer(x).clone()


def test_cached_weight_keeps_its_memory_and_follows_every_change(monkeypatch):
    monkeypatch.setattr(_memory, "_MIN_POOLED_BYTES", 64)
    layer, x = drawn_layer(dtype=torch.float32)
    before = narrow_output(layer.eval(), x)
    address = layer._narrowed[1].data_ptr()
    layer.weight.data.mul_(2)  # does not increment the version of the weight
    after = narrow_output(layer.eval(), x)
    torch.testing.assert_close(after - layer.bias, 2 * (before - layer.bias), rtol=0, atol=1e-5)
    assert layer._narrowed[1].data_ptr() == address
    with torch.no_grad():
        layer.weight.zero_()
    assert torch.equal(narrow_output(layer, x), layer.bias.expand(7, 3))
    assert layer.train()._narrowed is None
    layer.weight = nn.Parameter(torch.ones(40, 2))
    layer.bias = nn.Parameter(torch.zeros(2))
    expected = x.detach().bfloat16().float().sum(dim=1, keepdim=True).expand(7, 2)
    torch.testing.assert_close(narrow_output(layer.eval(), x), expected, rtol=0.02, atol=0.02)


def test_copies_do_not_hold_the_cached_weight():
    layer, x = drawn_layer(dtype=torch.float32)
    size = len(pickle.dumps(layer.eval()))
    expected = narrow_output(layer, x)
    assert layer._narrowed is not None
    assert len(pickle.dumps(layer)) == size
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert copied._narrowed is None
        assert torch.equal(narrow_output(copied, x), expected)


def test_backward_pass_keeps_the_cached_weight_of_its_forward_pass(monkeypatch):
    monkeypatch.setattr(_memory, "_MIN_POOLED_BYTES", 64)
    layer, x = drawn_layer(dtype=torch.float32)
    narrow_output(layer.eval(), x)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(x)
    layer.weight.data.mul_(2)
    narrow_output(layer.eval(), x)  # caches the weight anew
    output.sum().backward()
    expected = (layer.weight.detach() / 2).bfloat16().float().sum(dim=1).expand(7, 40)
    torch.testing.assert_close(x.grad, expected, rtol=0.02, atol=0.02)
