"""`attend` on a CPU, compiled by Numba.

The derivatives are those of `_analytic`. Each thread takes one set at a time and loops over its
units. A unit's output, norm and gradient are computed while they are in the cache, whereas torch
passes over memory once per operation. One thread adds up the rows of a set, in their order, so
that results are bit-identical for any number of threads.

Numba is an optional dependency (the extra "fast"). It compiles the kernels on first use, and
caches the result on disk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from acluster._utils._memory import empty
from acluster.nn._compiled import run
from acluster.nn.pooling._analytic import Scalars, Shift


def attend_numba(
    values: Tensor, offsets: Tensor, logits: Tensor, shift: Shift = None, n_learned: int = 0
) -> Tensor:
    """Compute what `attend` returns, for float32 or float64 features on a CPU.

    There is a gradient for the last `n_learned` features only.
    """
    return _Attend.apply(values, offsets, logits, *(shift or (None, None)), n_learned)


class _Attend(torch.autograd.Function):
    """`attend` with gradients for the logits, α, β and the last features."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        offsets: Tensor,
        logits: Tensor,
        alpha: Scalars,
        beta: Scalars,
        n_learned: int,
    ) -> Tensor:
        values, a = values.contiguous(), empty(logits.shape, like=values)
        shape = len(offsets) - 1, logits.shape[1], values.shape[1]
        result = empty(shape, like=values)
        norms = result.new_empty(result.shape[:2])  # unused without a shift
        # The maximum is subtracted per set, so that no exponential overflows and that those of
        # a set with far lower logits than others do not all underflow.
        run("subtract_largest", logits.contiguous(), offsets, a)
        a.exp_()  # in torch, because Numba does not vectorize exp without an extra library
        run("pool_and_shift", values, offsets, a, _flat(alpha, a), _flat(beta, a), norms, result)
        ctx.save_for_backward(values, offsets, a, alpha, norms, result)
        ctx.n_learned = n_learned
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, offsets, a, alpha, norms, result = ctx.saved_tensors
        d_logits, of_alpha, of_beta = (empty(like.shape, like=like) for like in (a, norms, norms))
        inputs = offsets, a, _flat(alpha, a), norms, result, gradient.contiguous()
        run("gradients", values, *inputs, d_logits, of_alpha, of_beta)
        d_values = None
        if ctx.needs_input_grad[0]:
            learned = values.new_empty(len(values), ctx.n_learned)
            run("feature_gradients", *inputs, learned)
            d_values = functional.pad(learned, (values.shape[1] - ctx.n_learned, 0))
        # torch adds up the contributions of the sets, in the same order for any thread count.
        if alpha is None:
            return d_values, None, d_logits, None, None, None
        d_alpha, d_beta = of_alpha.sum(dim=0)[:, None], of_beta.sum(dim=0)[:, None]
        return d_values, None, d_logits, d_alpha, d_beta, None


def _flat(parameter: Scalars, like: Tensor) -> Tensor:
    """Return one value per unit; an empty tensor, as kernels take no None, without a shift."""
    return like.new_empty(0) if parameter is None else parameter.detach().reshape(-1)
