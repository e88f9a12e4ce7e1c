"""The implementations of `attend` on a CPU, in torch and compiled, against the definition."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.nn import _compiled, attend
from acluster.nn.pooling import _analytic, attend_plainly
from acluster.nn.pooling._analytic import attend_analytic
from acluster.nn.pooling._numba import attend_numba

pytestmark = pytest.mark.numerical

needs_numba = pytest.mark.skipif(not _compiled._INSTALLED, reason="Numba is not installed")
compiled = pytest.param(attend_numba, marks=needs_numba, id="attend_numba")
implementations = pytest.mark.parametrize("implementation", [attend_analytic, compiled])

# Small values make chunks of a few sets, and turn padding off, for sets of any size.
chunk_elements = st.sampled_from([1, 40, 1 << 18])
max_padded_elements = st.sampled_from([0, 1 << 14])
small_cases = given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    equal=st.booleans(),
    n_features=st.integers(1, 5),
    cluster_size=st.integers(1, 6),
    shifting=st.booleans(),
    chunk=chunk_elements,
    max_padded=max_padded_elements,
    seed=st.integers(0, 2**31 - 1),
)


def make_case(lengths, n_features, cluster_size, shifting, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape, grad=True):
        numbers = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        return numbers.requires_grad_(grad)

    n_rows = sum(lengths)
    offsets = torch.tensor(np.cumsum([0, *lengths]))
    values, logits = drawn(n_rows, n_features, grad=False), drawn(n_rows, cluster_size)
    shift = (drawn(cluster_size, 1), drawn(cluster_size, 1)) if shifting else None
    direction = drawn(len(lengths), cluster_size, n_features, grad=False)
    return values, offsets, logits, shift, direction


def result_and_gradients(function, values, offsets, logits, shift, direction):
    result = function(values, offsets, logits, shift)
    leaves = [logits, *(shift or [])]
    return [result, *torch.autograd.grad((result * direction).sum(), leaves)]


@implementations
@small_cases
@settings(max_examples=60, deadline=None)
def test_attend_matches_definition(
    implementation, lengths, equal, n_features, cluster_size, shifting, chunk, max_padded, seed
):
    lengths = [lengths[0]] * len(lengths) if equal else lengths
    case = make_case(lengths, n_features, cluster_size, shifting, seed)
    plain = result_and_gradients(attend_plainly, *case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_analytic, "_CHUNK_ELEMENTS", chunk)
        patch.setattr(_analytic, "_MAX_PADDED_ELEMENTS", max_padded)
        found = result_and_gradients(implementation, *case)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@small_cases
@settings(max_examples=40, deadline=None)
def test_attend_gradients_of_features_match_definition(
    lengths, equal, n_features, cluster_size, shifting, chunk, max_padded, seed
):
    lengths = [lengths[0]] * len(lengths) if equal else lengths
    values, *others, direction = make_case(lengths, n_features, cluster_size, shifting, seed)
    values.requires_grad_()
    learnt = [values, others[1], *(others[2] or [])]
    plain = torch.autograd.grad((attend_plainly(values, *others) * direction).sum(), learnt)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_analytic, "_CHUNK_ELEMENTS", chunk)
        patch.setattr(_analytic, "_MAX_PADDED_ELEMENTS", max_padded)
        found = torch.autograd.grad((attend(values, *others) * direction).sum(), learnt)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@needs_numba
@small_cases
@settings(max_examples=40, deadline=None)
def test_attend_numba_gradients_of_learned_features_match_definition(
    lengths, equal, n_features, cluster_size, shifting, chunk, max_padded, seed
):
    lengths = [lengths[0]] * len(lengths) if equal else lengths
    values, *others, direction = make_case(lengths, n_features, cluster_size, shifting, seed)
    values.requires_grad_()
    leaves, n_learned = [values, others[1], *(others[2] or [])], 1 + seed % n_features
    plain = torch.autograd.grad((attend_plainly(values, *others) * direction).sum(), leaves)
    result = attend(values, *others, n_learned=n_learned)
    found = torch.autograd.grad((result * direction).sum(), leaves)
    assert not found[0][:, :-n_learned].any()
    expected = [torch.nn.functional.pad(plain[0][:, -n_learned:], (n_features - n_learned, 0))]
    for one, other in zip(found, [*expected, *plain[1:]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@needs_numba
@pytest.mark.parametrize("cluster_size", [3, 300])
def test_attend_numba_gradients_of_learned_features_in_tiles(cluster_size):
    values, *others, direction = make_case([1, 700, 40], 300, cluster_size, True, seed=0)
    values.requires_grad_()
    gradients = [
        torch.autograd.grad((result * direction).sum(), values)[0][:, -280:]
        for result in (attend(values, *others, n_learned=280), attend_plainly(values, *others))
    ]
    torch.testing.assert_close(*gradients)


@implementations
@pytest.mark.parametrize("lengths", [[1, 5000, 3], [25] * 64, [1] * 5, [300, 7, 41, 5]])
@pytest.mark.parametrize("shifting", [True, False])
def test_attend_is_accurate_in_float32(implementation, lengths, shifting):
    case = make_case(lengths, 50, 17, shifting, seed=0)
    narrow = make_case(lengths, 50, 17, shifting, seed=0, dtype=torch.float32)
    for one, other in zip(
        result_and_gradients(implementation, *narrow),
        result_and_gradients(attend_plainly, *case),
        strict=True,
    ):
        scale = max(other.abs().max().item(), 1)  # in a set of one, the gradient is 0
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=5e-6 * scale)


def test_attend_returns_half_precision_for_half_precision_features():
    case = make_case([3, 30, 4], 20, 6, True, seed=1)
    values, offsets, logits, shift, _ = case
    result = attend(values.bfloat16(), offsets, logits, shift)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(
        result.double(), attend_plainly(values, offsets, logits, shift), rtol=0.02, atol=0.005
    )


@pytest.mark.parametrize("implementation", [attend_analytic, compiled, attend_plainly, attend])
@pytest.mark.parametrize("lengths", [[2, 3, 2, 1], [2, 2, 2]])
@pytest.mark.parametrize("shifting", [True, False])
def test_attend_gradcheck(implementation, lengths, shifting):
    values, offsets, logits, shift, _ = make_case(lengths, 3, 4, shifting, seed=0)
    values.requires_grad_(implementation in (attend_plainly, attend))
    assert torch.autograd.gradcheck(
        lambda x, s, *shift: implementation(x, offsets, s, shift or None),
        (values, logits, *(shift or [])),
    )


@implementations
@pytest.mark.parametrize("far", [1e4, -1e4])
@pytest.mark.parametrize("lengths", [[2, 2], [2, 3]])
def test_attend_subtracts_the_maximum_of_each_set(implementation, far, lengths):
    # With one maximum over all sets, the exponentials would underflow here.
    values, offsets, logits, _, _ = make_case(lengths, 3, 2, False, 0, dtype=torch.float32)
    there = torch.zeros_like(logits)
    there[2:] = far
    moved = implementation(values, offsets, logits.detach().half().float() + there)
    torch.testing.assert_close(
        moved, implementation(values, offsets, logits.detach().half().float()), atol=2e-3, rtol=0
    )


@implementations
@pytest.mark.parametrize("alpha", [0.0, 1e-8, 1.0])
def test_attend_gradients_at_zero_alpha_or_zero_output(implementation, alpha):
    values, offsets, logits, shift, direction = make_case([2, 3], 3, 2, True, seed=2)
    shift = (torch.full_like(shift[0], alpha).requires_grad_(), shift[1])
    case = values, offsets, logits, shift, direction
    for one, other in zip(
        result_and_gradients(implementation, *case),
        result_and_gradients(attend_plainly, *case),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    zeros = torch.zeros_like(values), offsets, logits, (shift[0], shift[1].detach() * 0)
    assert torch.isfinite(implementation(*zeros)).all()


@implementations
def test_attend_is_deterministic_for_any_number_of_threads(implementation):
    case = make_case([7, 300, 12, 45], 40, 32, True, seed=3, dtype=torch.float32)
    n_threads, found = torch.get_num_threads(), []
    try:
        for n in (1, 1, 2):
            torch.set_num_threads(n)
            found.append(result_and_gradients(implementation, *case))
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(one, other) for one, other in zip(found[0], found[1], strict=True))
    if implementation is attend_numba:  # torch does not guarantee this for its products
        assert all(torch.equal(one, other) for one, other in zip(found[0], found[2], strict=True))


@implementations
def test_attend_accepts_strided_inputs(implementation):
    values, offsets, logits, shift, direction = make_case([3, 4, 2], 6, 5, True, seed=4)
    case = values[:, ::2], offsets, logits[:, 1:4], (shift[0][1:4], shift[1][1:4])
    direction = direction.permute(0, 2, 1)[:, ::2, 1:4].permute(0, 2, 1)
    result = implementation(*case)
    expected = attend_plainly(*case)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(
        torch.autograd.grad((result * direction).sum(), logits),
        torch.autograd.grad((expected * direction).sum(), logits),
    )


@needs_numba
def test_attend_selects_numba_for_float32_and_float64(monkeypatch):
    calls = []
    monkeypatch.setattr("acluster.nn.pooling.attend_numba", lambda *a: calls.append("numba"))
    monkeypatch.setattr("acluster.nn.pooling.attend_analytic", lambda *a: calls.append("analytic"))
    values, offsets, logits, shift, _ = make_case([2, 3], 3, 2, True, 0, dtype=torch.float32)
    attend(values, offsets, logits, shift)
    attend(values.bfloat16(), offsets, logits.bfloat16(), shift)
    attend(values.bfloat16(), offsets, logits, shift)
    monkeypatch.setattr(_compiled, "_INSTALLED", False)
    attend(values, offsets, logits, shift)
    assert calls == ["numba", "analytic", "analytic", "analytic"]


@pytest.mark.parametrize("offsets", [[0], [0, 2], [1, 3], [0, 2, 5], [0, 0, 3], [0, 2, 1, 3]])
def test_attend_rejects_invalid_offsets(offsets):
    with pytest.raises(
        ValueError, match=r"offsets must (run from 0 to the number|increase strictly)"
    ):
        attend(torch.ones(3, 2), torch.tensor(offsets), torch.zeros(3, 1))


@pytest.mark.parametrize("n_learned", [-1, 0, 4])
def test_attend_rejects_an_impossible_number_of_learned_features(n_learned):
    values, offsets, logits = torch.ones(3, 3), torch.tensor([0, 3]), torch.zeros(3, 2)
    with pytest.raises(ValueError, match=f"n_learned={n_learned} must be one of 1 to 3, the"):
        attend(values, offsets, logits, n_learned=n_learned)


def test_attend_rejects_only_empty_sets():
    with pytest.raises(ValueError, match="every set needs at least one local feature"):
        attend(torch.ones(0, 2), torch.tensor([0, 0]), torch.zeros(0, 1))


def test_attend_falls_back_to_torch_with_a_broken_numba(monkeypatch):
    def refuse(name):
        raise ImportError("Numba needs NumPy 2.3 or less")

    case = make_case([2, 3], 3, 2, True, 0)
    monkeypatch.setattr(_compiled, "_INSTALLED", True)
    monkeypatch.setattr(_compiled.importlib, "import_module", refuse)
    _compiled._kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"does not work: Numba needs NumPy 2\.3 or less\."):
            found = attend(*case[:4])
        torch.testing.assert_close(found, attend_plainly(*case[:4]))
        attend(*case[:4])  # warns once
    finally:
        _compiled._kernels.cache_clear()


@needs_numba
def test_kernels_in_a_fresh_process():
    # One process for three checks, because most of its time is spent on imports.
    program = """
        import os, sys, torch
        from acluster.nn import attend
        assert not {"numba", "triton"} & set(sys.modules), "imported before their first use"

        n_threads = os.cpu_count() + 1  # no library chooses this number by itself
        torch.set_num_threads(n_threads)
        assert torch.get_num_threads() == n_threads  # torch applies the number on this call
        case = torch.ones(5, 3), torch.tensor([0, 2, 5]), torch.zeros(5, 2)
        expected = attend(*case)
        assert "numba" in sys.modules
        assert torch.get_num_threads() == n_threads, "changed by the kernels"

        torch.set_num_threads(1)
        if (child := os.fork()) == 0:
            os._exit(0 if torch.equal(attend(*case), expected) else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "forked child"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=300)
