"""The Triton kernels against float64: on a GPU if there is one, else in Triton's interpreter.

The interpreter accepts code that the compiler may reject. A separate test therefore compiles the
kernels, which needs no GPU.
"""

import importlib
import importlib.util
import os
import subprocess
import sys
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from acluster.nn import AttentionCluster
from acluster.nn.pooling import _triton, attend_plainly
from acluster.nn.pooling._triton import attend_triton, supports

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Ten rounding errors of the features' dtype, to which weights are rounded too; 100 of float32.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if DEVICE == "cpu" and "TRITON_INTERPRET" not in os.environ:
    # Triton reads the variable when it is imported, which torch's optimizers do. pytest imports
    # all test modules, and so runs these lines, before the first test creates an optimizer.
    assert "triton" not in sys.modules, (
        "Triton was imported before this file could select its interpreter. Set "
        "TRITON_INTERPRET=1, or name this file before the others on the command line."
    )
    os.environ["TRITON_INTERPRET"] = "1"
    for name in ("_forward_kernels", "_backward_kernels"):
        importlib.import_module(f"acluster.nn.pooling.{name}")
    del os.environ["TRITON_INTERPRET"]
work_list = importlib.import_module("acluster.nn.pooling._work_list_kernels")
tl = work_list.tl

needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


@pytest.fixture(autouse=True, scope="module")
def interpreter():
    """Set the variable for the tests of this module: Triton also reads it at every launch."""
    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield


def make_case(lengths, N, M, dtype=torch.float32, shifting=True, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    values, logits = draw(sum(lengths), M).to(dtype), spread * draw(sum(lengths), N)
    offsets = torch.tensor([0, *accumulate(lengths)])
    shift = (draw(N, 1), draw(N, 1)) if shifting else None
    return [values, offsets, logits, shift], draw(len(lengths), N, M)


def averages(values, lengths, weights):
    sets = zip(values.split(lengths), weights.split(lengths), strict=True)
    return torch.stack([a.T @ rows for rows, a in sets])


def term_sizes(case, direction):
    """Return the size of the terms whose sums are the output and the gradients.

    Rounding errors are relative to the terms, and the sums may cancel. For example, a set of one
    feature has gradients of 0, and results other than 0 are rounding errors. The sizes for the
    gradients are those of the weights, α and β with a constant norm. All sizes are multiplied by
    the cancellation in αV + β.
    """
    values, offsets, logits, shift = (to_double(part) for part in case)
    lengths = offsets.diff().tolist()
    weights = torch.cat([scores.softmax(dim=0) for scores in logits.split(lengths)])
    leaves = [leaf.requires_grad_() for leaf in (weights, *(shift or ()))]
    output, cancelled = averages(values, lengths, weights), 1.0
    if shift is not None:
        parts = torch.broadcast_tensors(shift[0] * output, shift[1])
        norms = [part.detach().norm(dim=-1, keepdim=True) for part in (*parts, sum(parts))]
        cancelled = ((norms[0] + norms[1]) / norms[2]).max().item()
        output = sum(parts) / (norms[2] * logits.shape[1] ** 0.5)
    gradients = torch.autograd.grad(output, leaves, direction.double())
    return [cancelled * tensor.abs().max().item() for tensor in (output, *gradients)]


def to_double(part):
    if isinstance(part, tuple):
        return tuple(map(to_double, part))
    return part.double() if part is not None and part.is_floating_point() else part


def output_and_gradients(function, case, direction, to):
    values, offsets, logits, shift = case
    learnt = [to(tensor).requires_grad_() for tensor in (logits, *(shift or ()))]
    output = function(to(values, learnt=False), offsets, learnt[0], tuple(learnt[1:]) or None)
    gradients = torch.autograd.grad(output, learnt, direction.to(output))
    return [tensor.cpu() for tensor in (output.detach(), *gradients)]


def run_triton(case, direction):
    return output_and_gradients(
        attend_triton, case, direction, lambda tensor, learnt=True: tensor.clone().to(DEVICE)
    )


def run_reference(case, direction):
    return output_and_gradients(
        attend_plainly, case, direction, lambda tensor, learnt=True: tensor.clone().double()
    )


def assert_matches_reference(case, direction):
    results, expected = run_triton(case, direction), run_reference(case, direction)
    sizes = term_sizes(case, direction)
    names = ("output", "d_logits", "d_alpha", "d_beta")[: len(results)]
    tolerance = TOLERANCES[case[0].dtype]
    for name, got, wanted, size in zip(names, results, expected, sizes, strict=True):
        assert got.dtype == torch.float32
        error = (got.double() - wanted).abs().max().item()
        assert error <= tolerance * size, name


@pytest.fixture
def chunks_of_16_rows(monkeypatch):
    """Divide sets of 32 rows or more among programs."""
    monkeypatch.setattr(_triton, "_FORWARD_CHUNKS", (16, 16))
    monkeypatch.setattr(_triton, "_BACKWARD_CHUNK", 16)
    monkeypatch.setattr(_triton, "_SLOTS", 2)


@pytest.fixture
def narrow_programs(monkeypatch):
    """Divide the columns of a set among programs: 600 of float16 among two, of float32 three."""
    monkeypatch.setattr(_triton, "_STAGE_BYTES", 16 * 256 * 4)


@pytest.fixture
def truncated_products(monkeypatch):
    """Make the interpreter cut the factors of tf32 products off, as the hardware does."""
    if DEVICE == "cuda":  # where Triton does not import its interpreter
        return
    builder = work_list.triton.runtime.interpreter.InterpreterBuilder
    create_dot = builder.create_dot

    def truncated(self, a, b, total, precision, n_imprecise):
        if str(precision).endswith("TF32"):
            a, b = (
                type(part)((part.data.view(np.uint32) & 0xFFFFE000).view(np.float32), part.dtype)
                for part in (a, b)
            )
        return create_dot(self, a, b, total, precision, n_imprecise)

    monkeypatch.setattr(builder, "create_dot", truncated)


@pytest.mark.parametrize("shifting", [True, False], ids=["shift", "no shift"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("lengths", "N", "M"),
    [([25, 25, 25], 64, 70), ([1, 40, 7, 70], 17, 140), ([3, 1], 70, 20), ([1], 1, 1)],
    ids=["equal sizes", "ragged", "many units", "minimal"],
)
def test_attend_triton_matches_reference(lengths, N, M, dtype, shifting):
    assert_matches_reference(*make_case(lengths, N, M, dtype, shifting))


LONG_SETS = [[15, 17, 31, 32, 33], [70], [1, 64]]


@pytest.mark.usefixtures("chunks_of_16_rows")
@pytest.mark.parametrize("shifting", [True, False], ids=["shift", "no shift"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("lengths", LONG_SETS, ids=str)
def test_attend_triton_matches_reference_for_long_sets(lengths, dtype, shifting):
    assert_matches_reference(*make_case(lengths, 3, 20, dtype, shifting))


@pytest.mark.usefixtures("narrow_programs")
@pytest.mark.parametrize("shifting", [True, False], ids=["shift", "no shift"])
@pytest.mark.parametrize(("dtype", "n_shares"), [(torch.float16, 2), (torch.float32, 3)], ids=str)
def test_attend_triton_matches_reference_for_wide_features(dtype, n_shares, shifting):
    case, direction = make_case([9, 20], 5, 600, dtype, shifting)
    blocks = _triton._forward_blocks(2, case[0], 5)
    assert -(-600 // (blocks["BLOCK_M"] * blocks["TILES"])) == n_shares
    assert_matches_reference(case, direction)


@pytest.mark.usefixtures("narrow_programs", "chunks_of_16_rows")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_attend_triton_matches_reference_for_wide_features_of_long_sets(dtype):
    assert_matches_reference(*make_case([3, 50, 20], 5, 600, dtype))


@pytest.mark.parametrize(
    ("lengths", "N", "M", "dtype"),
    [
        ([25, 9], 17, 700, torch.float16),
        ([2, 1500, 1], 2, 3, torch.float32),
        ([40, 2], 130, 20, torch.bfloat16),
    ],
    ids=str,
)
def test_attend_triton_matches_reference_for_large_sizes(lengths, N, M, dtype):
    assert_matches_reference(*make_case(lengths, N, M, dtype))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    N=st.integers(1, 70),
    M=st.integers(1, 140),
    dtype=st.sampled_from(list(TOLERANCES)),
    shifting=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=6, deadline=None)
def test_attend_triton_matches_reference_for_any_shape(lengths, N, M, dtype, shifting, seed):
    assert_matches_reference(*make_case(lengths, N, M, dtype, shifting, seed))


@pytest.mark.usefixtures("truncated_products")
@pytest.mark.parametrize(("dtype", "unit"), [(torch.float16, 1), (torch.bfloat16, 8)], ids=str)
def test_gradients_are_accurate_for_half_precision_features_with_a_mean(dtype, unit):
    # Where the mean exceeds the spread, ∂β is a small difference of large numbers.
    (values, offsets, logits, shift), direction = make_case([25, 64], 16, 256, dtype, spread=1.0)
    case = ((values.float() + 5).to(dtype), offsets, logits, (shift[0].sign(), shift[0].sign()))
    results, expected = run_triton(case, direction), run_reference(case, direction)
    errors = [
        ((got.double() - wanted).norm() / wanted.norm()).item()
        for got, wanted in zip(results, expected, strict=True)
    ]
    for error, most in zip(errors, (2e-5, 6e-4, 4e-3, 6e-4), strict=True):
        assert error <= unit * most, errors


@pytest.mark.usefixtures("chunks_of_16_rows")
@pytest.mark.parametrize(("alpha", "beta"), [(1e-3, 1.0), (1e-6, 1.0), (0.0, -1.0)])
def test_attend_triton_matches_reference_where_beta_dominates(alpha, beta):
    case, direction = make_case([10, 20, 60], N=3, M=50)
    case[3] = (torch.full((3, 1), alpha), torch.full((3, 1), beta))
    results, expected = run_triton(case, direction), run_reference(case, direction)
    sizes = term_sizes(case, direction)
    for got, wanted, size in zip(results, expected, sizes, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("lengths", [[4], [100]], ids=str)
def test_attend_triton_gradients_where_the_bound_replaces_the_norm(lengths):
    case, direction = make_case(lengths, N=3, M=20)
    case[3] = (torch.full((3, 1), 1e-13), torch.zeros(3, 1))
    for got, wanted in zip(
        run_triton(case, direction), run_reference(case, direction), strict=True
    ):
        bound = 1e-5 * wanted.abs().max().item()
        torch.testing.assert_close(got.double(), wanted, rtol=0, atol=bound)


@pytest.mark.usefixtures("chunks_of_16_rows")
@pytest.mark.parametrize("shifting", [True, False], ids=["shift", "no shift"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_attend_triton_d_logits_sum_to_zero(dtype, shifting):
    lengths = [10, 20, 70]
    _, d_logits, *_ = run_triton(*make_case(lengths, 5, 40, dtype, shifting))
    for own in d_logits.double().split(lengths):
        assert own.sum(dim=0).abs().max() <= 1e-6 * own.abs().sum()


def test_backward_of_short_sets_does_not_read_the_output():
    (values, offsets, logits, shift), direction = make_case([20, 30], N=5, M=33)
    _, *expected = run_triton((values, offsets, logits, shift), direction)
    learnt = [tensor.clone().to(DEVICE).requires_grad_() for tensor in (logits, *shift)]
    output = attend_triton(values.to(DEVICE), offsets, learnt[0], tuple(learnt[1:]))
    output.data.fill_(torch.nan)
    gradients = torch.autograd.grad(output, learnt, direction.to(DEVICE))
    for got, wanted in zip(gradients, expected, strict=True):
        assert torch.equal(got.cpu(), wanted)


def feature_gradient(function, case, direction, n_learned, to):
    values, offsets, logits, shift = case
    values = to(values).clone().requires_grad_()
    shift = None if shift is None else tuple(map(to, shift))
    options = {} if function is attend_plainly else {"n_learned": n_learned}
    output = function(values, offsets, to(logits), shift, **options)
    return torch.autograd.grad(output, values, direction.to(output))[0].cpu()


def feature_gradient_size(case, direction):
    """Return the size of the terms whose sum is the gradient of the features."""
    values, offsets, logits, shift = (to_double(part) for part in case)
    lengths, direction = offsets.diff().tolist(), direction.double().abs()
    weights = torch.cat([scores.softmax(dim=0) for scores in logits.split(lengths)])
    if shift is not None:
        unscaled = shift[0] * averages(values, lengths, weights) + shift[1]
        norms = unscaled.norm(dim=-1, keepdim=True)
        w = unscaled.abs() / norms
        pulled = (w * direction).sum(dim=-1, keepdim=True) * w
        direction = shift[0].abs() * (direction + pulled) / (norms * len(shift[0]) ** 0.5)
    sets = zip(weights.split(lengths), direction, strict=True)
    return max((a @ of_units).max().item() for a, of_units in sets)


@pytest.mark.usefixtures("chunks_of_16_rows")
@pytest.mark.parametrize(
    ("lengths", "N", "M", "shifting"),
    [([25, 25], 40, 70, True), ([1, 40, 7], 17, 20, True), ([33, 2], 3, 5, False)],
    ids=str,
)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_attend_triton_gradient_of_learned_features(lengths, N, M, shifting, dtype):
    case, direction = make_case(lengths, N, M, dtype, shifting)
    expected = feature_gradient(attend_plainly, case, direction, None, torch.Tensor.double)
    tolerance = TOLERANCES[dtype] * feature_gradient_size(case, direction)
    for n_learned in {None, -(-M // 3)}:
        first = 0 if n_learned is None else M - n_learned
        got = feature_gradient(attend_triton, case, direction, n_learned, lambda t: t.to(DEVICE))
        assert got.dtype == dtype
        assert not got[:, :first].any()
        error = (got.double() - expected)[:, first:].abs().max()
        assert error <= tolerance, (error, tolerance)


@pytest.mark.usefixtures("truncated_products")
def test_gradient_of_learned_features_is_rounded_to_tf32():
    # Factors that are cut off would make all products too small.
    case, direction = make_case([25, 9], 32, 64, torch.float16)
    expected = feature_gradient(attend_plainly, case, direction, None, torch.Tensor.double)
    got = feature_gradient(attend_triton, case, direction, None, lambda tensor: tensor.to(DEVICE))
    slope = (got.double() * expected).sum() / expected.square().sum()
    assert abs(slope - 1) <= 1e-4


def test_saved_tensors_are_unpacked_once():
    cluster = AttentionCluster(4, cluster_size=3, hidden_features=2).to(DEVICE)
    values, offsets = torch.randn(9, 4, device=DEVICE), torch.tensor([0, 4, 9])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_triton, "supports", lambda values, logits: True)
        whole = cluster(values, offsets).square().sum()
        expected = torch.autograd.grad(whole, list(cluster.parameters()))
        again = checkpoint(cluster, values, offsets, use_reentrant=False).square().sum()
        found = torch.autograd.grad(again, list(cluster.parameters()))
    for got, wanted in zip(found, expected, strict=True):
        assert torch.equal(got, wanted)


def find_owners(offsets, owners, n, CHUNK: tl.constexpr):
    slot = tl.program_id(0)
    tl.store(owners + slot, work_list._owner(offsets, n, slot, CHUNK))


@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=500),
    n_padding=st.integers(0, 40),
    chunk=st.sampled_from([16, 32]),
)
@settings(max_examples=4, deadline=None)
def test_every_chunk_of_a_long_set_has_one_slot(lengths, n_padding, chunk):
    offsets = torch.tensor([0, *accumulate(lengths)], device=DEVICE)
    n_slots = -(-(sum(lengths) + n_padding) // chunk)
    owners = torch.empty(n_slots, dtype=torch.int32, device=DEVICE)
    kernel = work_list.triton.jit(find_owners, do_not_specialize=["n"])
    kernel[(n_slots,)](offsets, owners, len(lengths), CHUNK=chunk)
    found, starts = owners.tolist(), offsets.tolist()
    for item, length in enumerate(lengths):
        slots = [slot for slot, owner in enumerate(found) if owner == item]
        first, n_chunks = starts[item] // chunk, length // chunk
        assert slots == (list(range(first, first + n_chunks)) if n_chunks > 1 else [])
    assert all(-1 <= owner < len(lengths) for owner in found)


@pytest.mark.usefixtures("chunks_of_16_rows")
@pytest.mark.parametrize("lengths", [[9, 30], [1, 50, 3]], ids=["short sets", "a long set"])
@pytest.mark.parametrize("n_padding", [1, 40])
def test_attend_triton_ignores_rows_beyond_the_last_set(lengths, n_padding, monkeypatch):
    (values, offsets, logits, shift), direction = make_case(lengths, N=5, M=33)
    expected = run_reference((values, offsets, logits, shift), direction)
    values, logits = (
        torch.cat([part, torch.full((n_padding, part.shape[1]), torch.nan)])
        for part in (values, logits)
    )
    # Memory that no kernel has written would often be 0.
    monkeypatch.setattr(
        torch, "empty_like", lambda like, **kwargs: torch.full_like(like, torch.nan, **kwargs)
    )
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor,
        "new_empty",
        lambda like, *shape, **kwargs: new_empty(like, *shape, **kwargs).fill_(-7),
    )
    case, n_rows = (values, offsets, logits, shift), sum(lengths)
    output, d_logits, d_alpha, d_beta = run_triton(case, direction)
    assert torch.equal(d_logits[n_rows:], torch.zeros(n_padding, 5))
    d_values = feature_gradient(attend_triton, case, direction, 2, lambda t: t.to(DEVICE))
    assert torch.equal(d_values[n_rows:], torch.zeros(n_padding, 33))
    got = (output, d_logits[:n_rows], d_alpha, d_beta)
    for one, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), wanted, rtol=1e-5, atol=1e-5)


def test_attend_triton_of_stacked_members_is_that_of_each():
    (values, offsets, logits, shift), _ = make_case([9, 30], N=3 * 7, M=33)
    members = [
        attend_triton(
            *(part.to(DEVICE) for part in (values, offsets, own.contiguous())),
            (alpha.to(DEVICE), beta.to(DEVICE)),
        )
        for own, alpha, beta in zip(
            logits.split(7, dim=1), shift[0].split(7), shift[1].split(7), strict=True
        )
    ]
    together = attend_triton(
        *(part.to(DEVICE) for part in (values, offsets, logits)),
        tuple(part.to(DEVICE) for part in shift),
    )
    # A unit has the norm 1/√N, where N counts all units.
    torch.testing.assert_close(together * 3**0.5, torch.cat(members, dim=1))


def test_attend_triton_subtracts_the_maximum_of_each_set():
    case, direction = make_case([5, 40, 3], N=4, M=20)
    case[2] = case[2].round()  # so that adding the offsets below is exact
    near = run_triton(case, direction)
    case[2] += torch.tensor([1e4] * 5 + [-1e4] * 40 + [0.0] * 3)[:, None]
    for far, expected in zip(run_triton(case, direction), near, strict=True):
        assert torch.equal(far, expected)


def test_attend_triton_keeps_small_gradients_in_float16():
    # The mean loss over a batch has such gradients. The smallest float16 is 6e-8.
    case, direction = make_case([25, 10], N=8, M=64, dtype=torch.float16)
    large, small = run_triton(case, direction), run_triton(case, direction * 2.0**-40)
    for expected, got in zip(large[1:], small[1:], strict=True):
        torch.testing.assert_close(got * 2.0**40, expected)


def test_attend_triton_has_finite_gradients_at_zero_output():
    case, direction = make_case([4, 2], N=3, M=5)
    case[3] = (torch.zeros(3, 1), torch.zeros(3, 1))
    output, d_logits, d_alpha, d_beta = run_triton(case, direction)
    _, _, *expected = run_reference(case, direction)
    assert not output.any()
    assert not d_logits.any()
    for got, wanted in zip((d_alpha, d_beta), expected, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max())


@pytest.mark.parametrize("chunks", [256, 16], ids=["whole sets", "chunks"])
def test_attend_triton_is_deterministic(chunks, monkeypatch):
    monkeypatch.setattr(_triton, "_FORWARD_CHUNKS", (chunks, chunks))
    monkeypatch.setattr(_triton, "_BACKWARD_CHUNK", chunks)
    case, direction = make_case([25, 3, 60], N=5, M=70, dtype=torch.float16)
    for first, second in zip(run_triton(case, direction), run_triton(case, direction), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_attend_triton_returns_dtype_d_logits(dtype):
    (values, offsets, logits, shift), direction = make_case([9, 30], N=5, M=33, dtype=dtype)
    logits = logits.to(dtype)
    output, d_logits, *_ = run_triton((values, offsets, logits, shift), direction)
    expected, expected_d_logits, *_ = run_reference((values, offsets, logits, shift), direction)
    assert output.dtype == d_logits.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=5e-3)
    bound = 2e-2 * expected_d_logits.abs().max().item()
    torch.testing.assert_close(d_logits.double(), expected_d_logits, rtol=0, atol=bound)


def test_attend_triton_gradients_of_shift_alone():
    (values, offsets, logits, shift), direction = make_case([9, 30], N=5, M=33)
    learnt = [tensor.to(DEVICE).requires_grad_() for tensor in shift]
    output = attend_triton(values.to(DEVICE), offsets, logits.to(DEVICE), tuple(learnt))
    gradients = torch.autograd.grad(output, learnt, direction.to(DEVICE))
    _, _, *expected = run_triton((values, offsets, logits, shift), direction)
    for got, wanted in zip(gradients, expected, strict=True):
        assert torch.equal(got.cpu(), wanted)


def test_attend_triton_accepts_strided_inputs():
    (values, offsets, logits, shift), direction = make_case([9, 30], N=5, M=33)
    expected = run_triton((values, offsets, logits, shift), direction)
    strided = (values.T.contiguous().T, offsets, logits.T.contiguous().T, shift)
    for got, wanted in zip(run_triton(strided, direction), expected, strict=True):
        assert torch.equal(got, wanted)


def test_attend_triton_saves_three_numbers_per_unit_and_set():
    (values, offsets, logits, shift), _ = make_case([9, 30], N=5, M=33)
    given = (values.to(DEVICE), offsets, logits.to(DEVICE).requires_grad_())
    shift = tuple(tensor.to(DEVICE) for tensor in shift)
    output = attend_triton(*given, shift)
    known = {tensor.data_ptr() for tensor in (*given, *shift, output)}
    kept = [t for t in output.grad_fn.saved_tensors if t is not None]
    own = [t for t in kept if t.data_ptr() not in known and t.dtype == torch.float32]
    assert sum(tensor.numel() for tensor in own) == 3 * 2 * 5


def test_supports_rejects_cpu_and_float64():
    values, logits = torch.ones(3, 2), torch.ones(3, 4)
    assert not supports(values, logits)
    if DEVICE == "cuda":
        values, logits = values.cuda(), logits.cuda()
        assert supports(values, logits)
        assert supports(values.half(), logits)
        assert not supports(values.double(), logits)
        assert supports(values.requires_grad_(), logits)


@needs_cuda
def test_attend_triton_in_cuda_graph():
    case, direction = make_case([25] * 9, N=8, M=64, dtype=torch.float16)
    expected = run_triton(case, direction)
    values, offsets, logits, shift = case
    values, offsets, direction = values.to(DEVICE), offsets.to(DEVICE), direction.to(DEVICE)
    learnt = [tensor.to(DEVICE).requires_grad_() for tensor in (logits, *shift)]

    def once():
        output = attend_triton(values, offsets, learnt[0], tuple(learnt[1:]))
        return [output, *torch.autograd.grad(output, learnt, direction)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        once()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = once()
    for tensor in recorded:
        tensor.detach().fill_(torch.nan)
    graph.replay()
    for got, wanted in zip(recorded, expected, strict=True):
        assert torch.equal(got.detach().cpu(), wanted)


def test_import_without_triton(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    module = importlib.util.module_from_spec(_triton.__spec__)
    _triton.__spec__.loader.exec_module(module)  # a second copy of the module
    assert not module._INSTALLED


@pytest.mark.parametrize("lacking", ["_INSTALLED", "_HAS_COMPILER", "_HAS_HEADERS"])
def test_kernels_run_only_where_triton_can_launch_them(lacking, monkeypatch):
    values = SimpleNamespace(is_cuda=True, dtype=torch.float16, device="cuda:1")
    monkeypatch.setattr(torch.cuda, "get_device_capability", {"cuda:1": (9, 0)}.__getitem__)
    monkeypatch.setattr(torch.version, "hip", None)
    for name in ("_INSTALLED", "_HAS_COMPILER", "_HAS_HEADERS"):
        monkeypatch.setattr(_triton, name, True)
    assert _triton.runs_triton(values)
    monkeypatch.setattr(_triton, lacking, False)
    assert not _triton.runs_triton(values)


# Runs in a separate process, because a process that imported the interpreter cannot compile. The
# registers and the shared memory decide how many programs a multiprocessor of an H100 runs: it has
# 64 Ki registers and 227 KiB of shared memory. Registers that do not suffice take stack. A launch
# raises where a program needs more shared memory than the device has.
COMPILE = """
import re, subprocess, sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from acluster.nn.pooling import _backward_kernels, _forward_kernels, _triton

# Triton 3.6, of torch 2.11, needs more registers than the versions that acluster asks for.
is_older = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7)

def compiled(name, arch, dtype, n_rows, N, M, stores_h=False):
    values = torch.empty(2 * n_rows, M, dtype=getattr(torch, dtype))
    blocks = {
        "forward": lambda: _triton._forward_blocks(2, values, N),
        "combine": lambda: _triton._combine_blocks(M),
        "backward": lambda: _triton._backward_blocks(2, values, N),
        "center": lambda: _triton._backward_blocks(2, values, N),
        "feature": lambda: _triton._feature_blocks(2, values, N, 64),
    }[name]()
    half = dtype != "float32"
    short = {"float32": "*fp32", "float16": "*fp16", "bfloat16": "*bf16"}[dtype]
    settings = {"N": N, "M": M, "N_LEARNED": 64, "CHUNK": 128, "SLOTS": 16}
    settings |= {"FORWARD_L": _triton._forward_blocks(2, values, N)["BLOCK_L"]}
    settings |= {"OPERAND": getattr(triton.language, dtype)}
    settings |= {"h_pointer": None} if name == "backward" and not stores_h else {}
    settings |= {"PRECISION": "tf32" if half else "ieee"}
    shares = -(-M // (blocks.get("TILES", 1) * blocks["BLOCK_M"]))
    settings |= {"MEASURE": False} | ({"squares": None} if shares == 1 else {})
    module = _forward_kernels if name in ("forward", "combine") else _backward_kernels
    kernel = getattr(module, f"{name}_kernel")
    options = {key: blocks.pop(key) for key in list(blocks) if key.islower()}
    types = dict.fromkeys(kernel.arg_names, "*fp32") | {"offsets": "*i64", "owners": "*i32"}
    types |= {"values": short}
    if dtype == "bfloat16":  # as in mixed precision
        types |= dict.fromkeys(("logits", "pooled", "gradient", "d_values"), short)
    types |= dict.fromkeys(("n", "n_rows", "n_slots"), "i32")
    own = {key: value for key, value in (settings | blocks).items() if key in kernel.arg_names}
    types = {key: "constexpr" if key in own else types[key] for key in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(types.values()) if t[0] == "*"}
    source = ASTSource(kernel, types, own, aligned)
    result = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with open(f"{sys.argv[1]}/{name}.cubin", "wb") as file:
        file.write(result.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
    usage = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = {key: int(number) for key, number in re.findall(r"(REG|STACK):(\\d+)", usage)}
    return used, result.metadata.shared, 32 * options["num_warps"]

"""

COMPILE_FOR_H100 = """
# Programs at a time, and bytes of stack.
bounds = {"forward": (2, 16), "combine": (4, 0)}
bounds |= {"backward": (3, 64), "center": (4, 0), "feature": (3, 0)}
if is_older:
    bounds |= {"forward": (2, 32), "combine": (2, 0), "backward": (3, 144)}
for name, (at_a_time, stack) in bounds.items():
    used, shared, threads = compiled(name, 90, "float16", 25, 64, 1536)
    assert used["REG"] * threads * at_a_time <= 64 * 1024, (name, used)
    assert (shared + 1024) * at_a_time <= 227 * 1024, name
    assert used["STACK"] <= stack, (name, used)
for name in ("backward", "feature"):
    for dtype, N, M in (("float32", 17, 20), ("float16", 64, 1536), ("bfloat16", 64, 1600)):
        used, _, threads = compiled(name, 90, dtype, 64, N, M)
        assert used["REG"] * threads <= 64 * 1024, (name, dtype, used)
        assert used["STACK"] <= 16, (name, dtype, used)
compiled("backward", 90, "bfloat16", 25, 64, 1600, stores_h=True)
"""

COMPILE_FOR_RTX = """
_triton._device_limits = lambda values: (99 * 1024, (8, 6))
for case in (
    ("forward", 86, "float16", 25, 1, 1536),
    ("forward", 86, "float32", 25, 64, 512),
    ("forward", 86, "float32", 25, 1, 768),
    ("forward", 86, "float32", 10, 1, 1500),
    ("backward", 86, "float16", 64, 64, 1536),
    ("backward", 86, "float32", 64, 64, 1536),
    ("center", 86, "float32", 64, 64, 1536),
    ("feature", 86, "bfloat16", 64, 64, 1600),
    ("feature", 86, "float32", 64, 64, 1600),
):
    used, shared, _ = compiled(*case)
    assert shared <= 99 * 1024, (case, shared)
    assert used["STACK"] <= (168 if is_older else 64), (case, used)
"""


@pytest.mark.parametrize("checks", [COMPILE_FOR_H100, COMPILE_FOR_RTX], ids=["sm_90", "sm_86"])
def test_kernels_compile_and_fit_a_multiprocessor(checks, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-W", "error", "-c", COMPILE + checks, str(tmp_path)]
    subprocess.run(command, check=True, env=environment)


def test_device_limits_are_those_of_the_features_device(monkeypatch):
    properties = SimpleNamespace(shared_memory_per_block_optin=99 * 1024, major=8, minor=6)
    monkeypatch.setattr(torch.cuda, "get_device_properties", {"cuda:1": properties}.__getitem__)
    values = SimpleNamespace(is_cuda=True, device="cuda:1")
    assert _triton._device_limits(values) == (99 * 1024, (8, 6))


@pytest.mark.parametrize("M", [1, 1536, 200_000, 1 << 20])
def test_tiles_of_chunks_have_at_most_a_million_numbers(M):
    blocks = _triton._combine_blocks(M)
    assert blocks["BLOCK_M"] >= M
    assert blocks["BLOCK_C"] >= 1
    assert blocks["BLOCK_M"] * blocks["BLOCK_C"] <= 1 << 20
