"""`attend` with its derivatives written out: the way taken where there is no faster one.

With a = softmax(S) the weights, u = α·aᵀX + β and y = u / (√N·‖u‖) the result::

    du = (dy − N·y·⟨y, dy⟩) / (√N·‖u‖)      D = X·duᵀ
    dα = Σ a∘D      dβ = Σ du      dS = α·a ∘ (D − Σ a∘D)      dX = a·(α·du)

where the sums with a run over the rows of a set. Features seldom need dX. Beside the features and
the weights, y and ‖u‖ are kept. Both passes go through a few sets at a time, so that what lies
between two matrix products stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from acluster._utils._memory import empty

__all__ = ["attend_analytic"]

_SMALLEST_NORM = 1e-12  # as torch.nn.functional.normalize has it

# Numbers of (sets, N, M) that are worked on at a time.
_NUMBERS_PER_CHUNK = 1 << 18

# Sets are padded where that costs less than products of their own: up to so many numbers a set.
_NUMBERS_TO_PAD = 1 << 14

BySet = Tensor | Sequence[Tensor]  # (n, L, ·) where sizes are equal, else n tensors (L_i, ·)


def attend_analytic(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shift: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What `attend` computes; the products and the result in the dtype of `values`.

    Sets of equal size are pooled in one batched product; small sets are padded to it; others
    have a product each.
    """
    lengths = offsets.diff()
    longest = int(lengths.max())
    numbers_per_set = longest * (values.shape[1] + logits.shape[1])
    sizes = lengths.tolist()
    if min(sizes) < longest and numbers_per_set <= _NUMBERS_TO_PAD:
        values, logits = _padded(values, logits, offsets, longest)
        sizes = [longest] * len(sizes)
    alpha, beta = (None, None) if shift is None else shift
    result: Tensor = _Attend.apply(values, logits, alpha, beta, sizes)
    return result


def _padded(values: Tensor, logits: Tensor, offsets: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Every set at the size of the longest; what is added weighs nothing."""
    lengths = offsets.diff()
    first_new_row = torch.arange(len(lengths), device=offsets.device) * longest
    moved_by = torch.repeat_interleave(first_new_row - offsets[:-1], lengths)
    new_row = (moved_by + torch.arange(len(values), device=offsets.device)).to(values.device)
    n_rows = len(lengths) * longest
    padded_values = values.new_zeros(n_rows, values.shape[1]).index_copy(0, new_row, values)
    nowhere = logits.new_full((n_rows, logits.shape[1]), -torch.inf)
    return padded_values, nowhere.index_copy(0, new_row, logits)


class _Attend(torch.autograd.Function):
    """`attend` over sets of the given sizes."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        logits: Tensor,
        alpha: Tensor | None,
        beta: Tensor | None,
        sizes: list[int],
    ) -> Tensor:
        n_units = logits.shape[1]
        a = _softmax(logits, sizes).to(values.dtype)
        x, a_transposed = _by_set(values, sizes), _transposed(_by_set(a, sizes))
        result = empty((len(sizes), n_units, values.shape[1]), like=values)
        norms = None if alpha is None else alpha.new_empty(len(sizes), n_units, 1)
        for sets in _chunks(result):
            _multiply(a_transposed[sets], x[sets], out=result[sets])
            if alpha is not None and beta is not None and norms is not None:
                u = torch.mul(result[sets], alpha).add_(beta)
                norms[sets] = _norms(u)
                torch.div(u, norms[sets] * n_units**0.5, out=result[sets])
        ctx.save_for_backward(values, a, result, norms, alpha, beta)
        ctx.sizes = sizes
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, a, result, norms, alpha, beta = ctx.saved_tensors
        x = _by_set(values, ctx.sizes)
        D = torch.empty_like(a)
        D_by_set = _by_set(D, ctx.sizes)
        d_beta = None if beta is None else torch.zeros_like(beta)
        d_values = torch.empty_like(values) if ctx.needs_input_grad[0] else None
        for sets in _chunks(result):
            d_u = gradient[sets]
            if d_beta is not None:
                d_u = _shift_backward(d_u, result[sets], norms[sets])
                d_beta += d_u.sum(dim=-1, keepdim=True).sum(dim=0)
            _multiply(x[sets], d_u.to(values.dtype).mT, out=D_by_set[sets])
            if d_values is not None:
                d_pooled = (d_u if alpha is None else d_u * alpha).to(values.dtype)
                own = _by_set(d_values, ctx.sizes)[sets]
                _multiply(_by_set(a, ctx.sizes)[sets], d_pooled, out=own)
        weighted = D.to(gradient.dtype).mul_(a)
        sums = _sum_by_set(weighted, ctx.sizes)
        lengths = torch.tensor(ctx.sizes, device=a.device)
        d_logits = weighted - a * sums.repeat_interleave(lengths, dim=0, output_size=len(a))
        if alpha is None:
            return d_values, d_logits, None, None, None
        return d_values, d_logits * alpha.T, sums.sum(dim=0)[:, None], d_beta, None


def _shift_backward(gradient: Tensor, result: Tensor, norms: Tensor) -> Tensor:
    """The gradient du."""
    n_units = result.shape[1]
    along = torch.mul(result, gradient).sum(dim=-1, keepdim=True, dtype=norms.dtype)
    d_u = torch.addcmul(gradient, result, n_units * along.to(result.dtype), value=-1)
    return d_u.div_(norms.to(d_u.dtype) * n_units**0.5)


def _sum_by_set(packed: Tensor, sizes: list[int]) -> Tensor:
    by_set = _by_set(packed, sizes)
    if isinstance(by_set, Tensor):
        return by_set.sum(dim=1)
    offsets = torch.tensor([0, *sizes], device=packed.device).cumsum(0)
    return torch.segment_reduce(packed, "sum", offsets=offsets, axis=0)


def _norms(u: Tensor) -> Tensor:
    # For short vectors faster than torch's norm.
    return u.square().sum(dim=-1, keepdim=True).sqrt_().clamp_(min=_SMALLEST_NORM)


def _softmax(logits: Tensor, sizes: list[int]) -> Tensor:
    by_set = _by_set(logits, sizes)
    if isinstance(by_set, Tensor):
        return by_set.softmax(dim=1).flatten(0, 1)
    a = torch.empty_like(logits)
    for part, out in zip(by_set, a.split(sizes), strict=True):
        torch.softmax(part, dim=0, out=out)
    return a


def _by_set(packed: Tensor, sizes: list[int]) -> BySet:
    if min(sizes) == max(sizes):
        return packed.unflatten(0, (len(sizes), sizes[0]))
    return packed.split(sizes)


def _transposed(by_set: BySet) -> BySet:
    return by_set.mT if isinstance(by_set, Tensor) else [part.T for part in by_set]


def _multiply(left: BySet, right: BySet, out: BySet) -> None:
    """A matrix product for every set."""
    if isinstance(left, Tensor) and isinstance(right, Tensor) and isinstance(out, Tensor):
        torch.bmm(left, right, out=out)
        return
    for one, other, product in zip(left, right, out, strict=True):
        torch.mm(one, other, out=product)


def _chunks(pooled: Tensor) -> Iterator[slice]:
    """Some sets of (n, N, M) after the other, few enough for the cache."""
    step = max(1, _NUMBERS_PER_CHUNK // pooled[0].numel())
    for first in range(0, len(pooled), step):
        yield slice(first, first + step)
