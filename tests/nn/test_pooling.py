"""The ways to `attend`: the one with derivatives written out is the plain one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.nn import _pooling_analytic, attend
from acluster.nn._pooling import attend_plainly
from acluster.nn._pooling_analytic import attend_analytic

# Chunks of a few sets and, with 0, no padding: all ways at small sizes.
chunk_sizes = st.sampled_from([1, 40, 1 << 18])
most_numbers_to_pad = st.sampled_from([0, 1 << 14])


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


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=7),
    equal=st.booleans(),
    n_features=st.integers(1, 5),
    cluster_size=st.integers(1, 6),
    shifting=st.booleans(),
    chunk=chunk_sizes,
    to_pad=most_numbers_to_pad,
    seed=st.integers(0, 2**31 - 1),
)
@settings(max_examples=150, deadline=None)
def test_analytic_is_plain(lengths, equal, n_features, cluster_size, shifting, chunk, to_pad, seed):
    lengths = [lengths[0]] * len(lengths) if equal else lengths
    case = make_case(lengths, n_features, cluster_size, shifting, seed)
    plain = result_and_gradients(attend_plainly, *case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_pooling_analytic, "_NUMBERS_PER_CHUNK", chunk)
        patch.setattr(_pooling_analytic, "_NUMBERS_TO_PAD", to_pad)
        analytic = result_and_gradients(attend_analytic, *case)
    for one, other in zip(analytic, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("lengths", [[1, 5000, 3], [25] * 64, [1] * 5, [300, 7, 41, 5]])
@pytest.mark.parametrize("shifting", [True, False])
def test_float32_is_float64_to_its_precision(lengths, shifting):
    case = make_case(lengths, 50, 17, shifting, seed=0)
    narrow = make_case(lengths, 50, 17, shifting, seed=0, dtype=torch.float32)
    for one, other in zip(
        result_and_gradients(attend, *narrow),
        result_and_gradients(attend_plainly, *case),
        strict=True,
    ):
        scale = max(other.abs().max().item(), 1)  # the gradient of a set of one is 0
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=5e-6 * scale)


def test_half_precision_features_give_half_precision_results():
    case = make_case([3, 30, 4], 20, 6, True, seed=1)
    values, offsets, logits, shift, _ = case
    result = attend(values.bfloat16(), offsets, logits, shift)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(
        result.double(), attend_plainly(values, offsets, logits, shift), rtol=0.02, atol=0.005
    )


@pytest.mark.parametrize("lengths", [[2, 3, 2, 1], [2, 2, 2]])
@pytest.mark.parametrize("shifting", [True, False])
def test_gradcheck(lengths, shifting):
    values, offsets, logits, shift, _ = make_case(lengths, 3, 4, shifting, seed=0)
    for is_learnt in (False, True):
        values = values.detach().requires_grad_(is_learnt)
        assert torch.autograd.gradcheck(
            lambda x, s, *shift: attend(x, offsets, s, shift or None),
            (values, logits, *(shift or [])),
        )


@pytest.mark.parametrize("far", [1e4, -1e4])
@pytest.mark.parametrize("lengths", [[2, 2], [2, 3]])
def test_sets_with_far_off_logits_are_pooled_exactly(far, lengths):
    # One maximum over all sets would underflow here.
    values, offsets, logits, _, _ = make_case(lengths, 3, 2, False, 0, dtype=torch.float32)
    there = torch.zeros_like(logits)
    there[2:] = far
    moved = attend(values, offsets, logits.detach().half().float() + there)
    torch.testing.assert_close(
        moved, attend(values, offsets, logits.detach().half().float()), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("alpha", [0.0, 1e-8, 1.0])
def test_gradients_where_alpha_or_the_shifted_vector_vanishes(alpha):
    values, offsets, logits, shift, direction = make_case([2, 3], 3, 2, True, seed=2)
    shift = (torch.full_like(shift[0], alpha).requires_grad_(), shift[1])
    case = values, offsets, logits, shift, direction
    for one, other in zip(
        result_and_gradients(attend, *case),
        result_and_gradients(attend_plainly, *case),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    zeros = torch.zeros_like(values), offsets, logits, (shift[0], shift[1].detach() * 0)
    assert torch.isfinite(attend(*zeros)).all()


def test_the_same_bits_twice():
    case = make_case([7, 300, 12, 45], 40, 32, True, seed=3, dtype=torch.float32)
    first, second = result_and_gradients(attend, *case), result_and_gradients(attend, *case)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("offsets", [[0], [0, 2], [1, 3], [0, 2, 5]])
def test_offsets_that_do_not_cut_the_rows_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets must run from 0 to the number"):
        attend(torch.ones(3, 2), torch.tensor(offsets), torch.zeros(3, 1))
