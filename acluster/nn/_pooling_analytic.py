"""`attend` with its derivatives written out: the way taken where there is no faster kernel.

The features get no gradient, so the backward pass is short. With a = softmax(S) the weights,
V = aᵀX a set's pooled features, u = α·V + β and y = u / (√N·‖u‖) the result::

    du = (dy − u·⟨u, dy⟩ / ‖u‖²) / (√N·‖u‖)      dα = ⟨du, V⟩   dβ = ⟨du, 1⟩   dV = α·du
    dS = a ∘ (X·dVᵀ − ⟨V, dV⟩)

Both passes go through a few sets at a time, so that what lies between two matrix products
stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    if bool((lengths == longest).all()):
        sizes = [longest] * len(lengths)
    elif numbers_per_set <= _NUMBERS_TO_PAD:
        values, logits = _padded(values, logits, offsets, longest)
        sizes = [longest] * len(lengths)
    else:
        sizes = lengths.tolist()
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
    """`attend` over sets of the given sizes; gradients for the logits, α and β."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        logits: Tensor,
        alpha: Tensor | None,
        beta: Tensor | None,
        sizes: list[int],
    ) -> Tensor:
        n_units, n_features = logits.shape[1], values.shape[1]
        a = _softmax(logits, sizes).to(values.dtype)
        x, a_by_set = _by_set(values, sizes), _by_set(a, sizes)
        result = values.new_empty(len(sizes), n_units, n_features)
        if alpha is None or beta is None:
            pooled, norms = result, None
            _multiply(_transposed(a_by_set), x, out=pooled)
        else:
            pooled = torch.empty_like(result)
            norms = alpha.new_empty(len(sizes), n_units, 1)
            for sets in _chunks(result):
                _multiply(_transposed(a_by_set[sets]), x[sets], out=pooled[sets])
                u = torch.mul(pooled[sets], alpha).add_(beta)
                norms[sets] = _norms(u)
                torch.div(u, norms[sets] * n_units**0.5, out=result[sets])
        ctx.save_for_backward(values, a, pooled, norms, alpha, beta)
        ctx.sizes = sizes
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, a, pooled, norms, alpha, beta = ctx.saved_tensors
        x = _by_set(values, ctx.sizes)
        d_alpha = None if alpha is None else torch.zeros_like(alpha)
        d_beta = None if beta is None else torch.zeros_like(beta)
        d_logits = torch.empty_like(a)
        d_a = _by_set(d_logits, ctx.sizes)
        inner = a.new_empty(pooled.shape[:2])  # ⟨V, dV⟩
        for sets in _chunks(pooled):
            d_pooled = gradient[sets]
            if d_alpha is None or d_beta is None:
                inner[sets] = (pooled[sets] * d_pooled).sum(dim=-1)
            else:
                d_u, along_v = _shift_backward(d_pooled, pooled[sets], norms[sets], alpha, beta)
                d_alpha += along_v.sum(dim=0)
                d_beta += d_u.sum(dim=-1, keepdim=True).sum(dim=0)
                inner[sets] = (along_v * alpha).squeeze(-1)
                d_pooled = d_u.mul_(alpha).to(values.dtype)
            _multiply(x[sets], d_pooled.mT, out=d_a[sets])
        lengths = torch.tensor(ctx.sizes, device=a.device)
        d_logits -= inner.repeat_interleave(lengths, dim=0, output_size=len(a))
        return None, d_logits.mul_(a), d_alpha, d_beta, None


def _shift_backward(
    gradient: Tensor, pooled: Tensor, norms: Tensor, alpha: Tensor, beta: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradient du, and ⟨du, V⟩ of every unit and set."""
    u = torch.mul(pooled, alpha).add_(beta)
    along_u = torch.mul(u, gradient).sum(dim=-1, keepdim=True).div_(norms.square())
    d_u = torch.addcmul(gradient, u, along_u, value=-1)
    d_u /= norms * len(alpha) ** 0.5
    return d_u, torch.mul(d_u, pooled, out=u).sum(dim=-1, keepdim=True)


def _norms(u: Tensor) -> Tensor:
    # For short vectors many times faster than torch's norm.
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
