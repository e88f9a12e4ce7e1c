"""`attend` in torch with the derivatives written out: the implementation that always works.

With a = softmax(S) the weights, u = α·aᵀX + β and y = u / (√N·‖u‖) the result::

    du = (dy − N·y·⟨y, dy⟩) / (√N·‖u‖)      D = X·duᵀ
    dα = Σ a∘D      dβ = Σ du      dS = α·a ∘ (D − Σ a∘D)      dX = a·(α·du)

where the sums with a run over the rows of a set. Features seldom need dX.

Autograd would keep every intermediate of the size of the result, (n, N, M), for the backward
pass. Here only the features, the weights, y and ‖u‖ are kept. Both passes work on a few sets at a
time, so that the results of one operation are still in the processor's cache for the next.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from acluster._utils._memory import empty

_MIN_NORM = 1e-12  # the default of torch.nn.functional.normalize, which the definition uses

# Elements of (n, N, M) to work on at a time: 1 MiB in float32, which fits the cache.
_CHUNK_ELEMENTS = 1 << 18

# Padding wastes arithmetic but saves one call per set, which is what small sets cost. Sets are
# padded up to this many elements of features and logits each.
_MAX_PADDED_ELEMENTS = 1 << 14

# α and β of the shifting operation, one number per unit; None without the operation.
Scalars = Tensor | None
Shift = tuple[Tensor, Tensor] | None

BySet = Tensor | Sequence[Tensor]  # (n, L, ·) if all sizes are equal, else n tensors (L_i, ·)


def attend_analytic(values: Tensor, offsets: Tensor, logits: Tensor, shift: Shift = None) -> Tensor:
    """Compute what `attend` returns, with products in the dtype of `values`.

    Sets of equal size are pooled in one batched product. Small sets of different sizes are
    padded for it; larger ones take one product each.
    """
    sizes = offsets.diff().tolist()
    longest = max(sizes)
    elements_per_set = longest * (values.shape[1] + logits.shape[1])
    if min(sizes) < longest and elements_per_set <= _MAX_PADDED_ELEMENTS:
        values, logits = _padded(values, logits, offsets, longest)
        sizes = [longest] * len(sizes)
    return _Attend.apply(values, logits, *(shift or (None, None)), sizes)


def _padded(values: Tensor, logits: Tensor, offsets: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Pad every set to the size of the longest; logits of -∞ give the padding no weight."""
    lengths = offsets.diff()
    first_new_row = torch.arange(len(lengths), device=offsets.device) * longest
    moved_by = torch.repeat_interleave(first_new_row - offsets[:-1], lengths)
    new_row = (moved_by + torch.arange(len(values), device=offsets.device)).to(values.device)
    n_rows = len(lengths) * longest
    padded_values = values.new_zeros(n_rows, values.shape[1]).index_copy(0, new_row, values)
    no_weight = logits.new_full((n_rows, logits.shape[1]), -torch.inf)
    return padded_values, no_weight.index_copy(0, new_row, logits)


class _Attend(torch.autograd.Function):
    """`attend` over sets of the given sizes."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, logits: Tensor, alpha: Scalars, beta: Scalars, sizes: list[int]
    ) -> Tensor:
        n_units = logits.shape[1]
        a = _softmax(logits, sizes).to(values.dtype)
        x, a_transposed = _by_set(values, sizes), _transposed(_by_set(a, sizes))
        result = empty((len(sizes), n_units, values.shape[1]), like=values)
        # In mixed precision, α is float32 and the result is not. A norm rounded to bfloat16
        # would scale a whole unit wrongly, so norms keep the dtype of α.
        norms = None if alpha is None else alpha.new_empty(len(sizes), n_units, 1)
        for sets in _chunks(result):
            _multiply(a_transposed[sets], x[sets], out=result[sets])
            if alpha is not None and beta is not None and norms is not None:
                u = torch.mul(result[sets], alpha).add_(beta)
                # Faster than torch's norm for short vectors.
                norms[sets] = u.square().sum(dim=-1, keepdim=True).sqrt_().clamp_(min=_MIN_NORM)
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
            # `out=` writes through to D, so that no gradient is ever concatenated.
            _multiply(x[sets], d_u.to(values.dtype).mT, out=D_by_set[sets])
            if d_values is not None:
                d_pooled = (d_u if alpha is None else d_u * alpha).to(values.dtype)
                own = _by_set(d_values, ctx.sizes)[sets]
                _multiply(_by_set(a, ctx.sizes)[sets], d_pooled, out=own)
        weighted = D.to(gradient.dtype).mul_(a)
        sums = _sum_by_set(weighted, ctx.sizes)
        lengths = torch.tensor(ctx.sizes, device=a.device)
        # Given `output_size`, a GPU need not be asked how many rows the repetition makes.
        d_logits = weighted - a * sums.repeat_interleave(lengths, dim=0, output_size=len(a))
        if alpha is None:
            return d_values, d_logits, None, None, None
        return d_values, d_logits * alpha.T, sums.sum(dim=0)[:, None], d_beta, None


def _shift_backward(gradient: Tensor, result: Tensor, norms: Tensor) -> Tensor:
    """Return the gradient du."""
    n_units = result.shape[1]
    # The projection sums M products, in the wider dtype of the norms.
    along = torch.mul(result, gradient).sum(dim=-1, keepdim=True, dtype=norms.dtype)
    d_u = torch.addcmul(gradient, result, n_units * along.to(result.dtype), value=-1)
    return d_u.div_(norms.to(d_u.dtype) * n_units**0.5)


def _sum_by_set(packed: Tensor, sizes: list[int]) -> Tensor:
    by_set = _by_set(packed, sizes)
    if isinstance(by_set, Tensor):
        return by_set.sum(dim=1)
    offsets = torch.tensor([0, *sizes], device=packed.device).cumsum(0)
    return torch.segment_reduce(packed, "sum", offsets=offsets, axis=0)


def _softmax(logits: Tensor, sizes: list[int]) -> Tensor:
    # Each softmax subtracts the maximum of its own set. With one maximum for all, the
    # exponentials of a set whose logits are far lower would underflow to 0.
    by_set = _by_set(logits, sizes)
    if isinstance(by_set, Tensor):
        return by_set.softmax(dim=1).flatten(0, 1)
    a = torch.empty_like(logits)
    for part, out in zip(by_set, a.split(sizes), strict=True):
        torch.softmax(part, dim=0, out=out)
    return a


def _by_set(packed: Tensor, sizes: list[int]) -> BySet:
    """Return views of the rows of each set."""
    if min(sizes) == max(sizes):
        return packed.unflatten(0, (len(sizes), sizes[0]))
    return packed.split(sizes)


def _transposed(by_set: BySet) -> BySet:
    return by_set.mT if isinstance(by_set, Tensor) else [part.T for part in by_set]


def _multiply(left: BySet, right: BySet, out: BySet) -> None:
    """Write one matrix product per set to `out`."""
    if isinstance(left, Tensor) and isinstance(right, Tensor) and isinstance(out, Tensor):
        torch.bmm(left, right, out=out)
        return
    for one, other, product in zip(left, right, out, strict=True):
        torch.mm(one, other, out=product)


def _chunks(pooled: Tensor) -> Iterator[slice]:
    """Yield slices of the sets of (n, N, M), each small enough for the cache."""
    step = max(1, _CHUNK_ELEMENTS // pooled[0].numel())
    for first in range(0, len(pooled), step):
        yield slice(first, first + step)
