"""`attend` on a processor, compiled by Numba: a fast way to the numbers of `acluster.nn.pooling`.

The derivatives are those of `_analytic`. A thread takes a set at a time and goes through
its units: a unit's output, its norm and its gradient are made while they are in the cache,
where torch passes over memory once for every operation. The rows of a set are added in
their order by one thread, so that the bits do not depend on the number of threads.

Numba is an extra ("fast"). It compiles at the first use, for some seconds, and keeps the
result on disk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from acluster._utils._memory import empty
from acluster.nn._compiled import run

__all__ = ["attend_numba"]


def attend_numba(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shift: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What `attend` computes."""
    alpha, beta = (None, None) if shift is None else shift
    result: Tensor = _Attend.apply(values, offsets, logits, alpha, beta)
    return result


class _Attend(torch.autograd.Function):
    """`attend`, with gradients for the logits, α and β."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        offsets: Tensor,
        logits: Tensor,
        alpha: Tensor | None,
        beta: Tensor | None,
    ) -> Tensor:
        values, a = values.contiguous(), empty(logits.shape, like=values)
        shape = len(offsets) - 1, logits.shape[1], values.shape[1]
        result = empty(shape, like=values)
        norms = result.new_empty(result.shape[:2])
        run("subtract_largest", logits.contiguous(), offsets, a)
        a.exp_()  # torch's is vectorised
        run("pool_and_shift", values, offsets, a, _flat(alpha, a), _flat(beta, a), norms, result)
        ctx.save_for_backward(values, offsets, a, alpha, norms, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, offsets, a, alpha, norms, result = ctx.saved_tensors
        d_logits, of_alpha, of_beta = (empty(like.shape, like=like) for like in (a, norms, norms))
        inputs = values, offsets, a, _flat(alpha, a), norms, result, gradient.contiguous()
        run("gradients", *inputs, d_logits, of_alpha, of_beta)
        if alpha is None:
            return None, None, d_logits, None, None
        return None, None, d_logits, of_alpha.sum(dim=0)[:, None], of_beta.sum(dim=0)[:, None]


def _flat(parameter: Tensor | None, like: Tensor) -> Tensor:
    """One number per unit; none without a shift."""
    return like.new_empty(0) if parameter is None else parameter.detach().reshape(-1)
