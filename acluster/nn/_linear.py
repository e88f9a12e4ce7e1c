"""The classifier on the global features: dropout and one linear layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from acluster._utils._memory import empty
from acluster.nn._compiled import available_for, run
from acluster.nn._weighting import uniform_

__all__ = ["DropoutLinear"]

# Numbers of (n, in_features) that are masked at a time, small enough for the cache.
_NUMBERS_PER_CHUNK = 1 << 18

# The gradient of a smaller weight is sooner formed than done without.
_LARGE = 1 << 17


class DropoutLinear(nn.Module):
    """Dropout, then ``x W + b``; its large gradient can be had as two small factors.

    Parameters
    ----------
    in_features : int
        The width of the input.

    out_features : int
        The width of the output.

    dropout : float, default=0.0
        The probability with which a component of the input is zeroed in training mode. What
        is kept is scaled up, so that the mean stays.

    Attributes
    ----------
    weight : Parameter of shape (in_features, out_features)
        W.

    bias : Parameter of shape (out_features,)
        b.

    factored_gradient : bool, default=False
        Whether a backward pass leaves ``weight.grad_factors = (D, G)``, with
        ``gradient = Dᵀ G``, in the place of ``weight.grad``. For a batch of n they have n
        rows; the gradient is as large as the weight.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import DropoutLinear
    >>> DropoutLinear(6, 2, dropout=0.5).eval()(torch.ones(3, 6)).shape
    torch.Size([3, 2])
    """

    def __init__(self, in_features: int, out_features: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.dropout = dropout
        self.factored_gradient = False
        self._narrowed: tuple[Any, Tensor] | None = None
        self.reset_parameters()

    def train(self, mode: bool = True) -> DropoutLinear:
        """Set the mode, as torch does; a converted weight is not kept beyond it."""
        self._narrowed = None
        super().train(mode)
        return self

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw W and b uniformly within ±1/√in_features."""
        uniform_(self.weight, len(self.weight), generator)
        uniform_(self.bias, len(self.weight), generator)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The linear map of inputs, some of which training drops.

        Parameters
        ----------
        x : Tensor of shape (n, in_features)
            The inputs.

        generator : torch.Generator, optional
            Draws the dropout; by default torch's own.

        Returns
        -------
        Tensor of shape (n, out_features)
        """
        bits, kept_from = None, None
        if self.training and self.dropout > 0:
            bits, kept_from = _drawn_dropout(x, self.dropout, generator)
        dtype = self.weight.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        factored = self.factored_gradient and self.weight.numel() >= _LARGE
        product: Tensor = _MaskedProduct.apply(
            x.to(dtype), self.weight, self._weight_as(dtype), bits, kept_from, factored
        )
        scale = 1 / (1 - self.dropout) if bits is not None else 1.0
        return torch.add(self.bias, product, alpha=scale)

    def _weight_as(self, dtype: torch.dtype) -> Tensor:
        """The weight in another dtype; from one batch of a prediction to the next it is kept."""
        weight = self.weight.detach()
        if dtype == weight.dtype or self.training:
            return weight.to(dtype)
        key = (weight.data_ptr(), self.weight._version, dtype)
        if self._narrowed is None or self._narrowed[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._narrowed = key, weight.to(dtype)
        return self._narrowed[1]


class _MaskedProduct(torch.autograd.Function):
    """``(x ∘ kept) W``, in the dtype of x and of the narrowed weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        narrowed: Tensor,
        bits: Tensor | None,
        kept_from: Tensor | None,
        factored: bool,
    ) -> Tensor:
        masked = x
        if bits is not None and kept_from is not None:
            masked = _mask(x, bits, kept_from, out=empty(x.shape, like=x))
        ctx.save_for_backward(masked, narrowed, bits, kept_from)
        ctx.parameter = weight
        ctx.factored = factored
        return (masked @ narrowed).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        masked, narrowed, bits, kept_from = ctx.saved_tensors
        gradient = _without_subnormal(gradient).to(narrowed.dtype)
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = empty(masked.shape, like=gradient)
            torch.mm(gradient, narrowed.T, out=d_x)
            if bits is not None:
                _mask(d_x, bits, kept_from, out=d_x)
        if ctx.needs_input_grad[1] and ctx.factored:
            _add_factors(ctx.parameter, masked, gradient)
        elif ctx.needs_input_grad[1]:
            d_weight = (masked.T @ gradient).to(ctx.parameter.dtype)
        return d_x, d_weight, None, None, None, None


def _without_subnormal(gradient: Tensor) -> Tensor:
    """Numbers so small that products would have less than full precision are 0.

    A softmax that is sure of its class has many of them, and processors multiply them a hundred
    times as slowly as others. Beside the ε of the optimisers they are nothing.
    """
    if gradient.dtype == torch.float16:  # its range is too short to lose any of it
        return gradient
    limits = torch.finfo(gradient.dtype)
    return nn.functional.hardshrink(gradient, limits.smallest_normal / limits.eps)


def _add_factors(parameter: Any, D: Tensor, G: Tensor) -> None:
    """Leave a gradient DᵀG, in addition to what another use of the parameter left."""
    if (others := getattr(parameter, "grad_factors", None)) is not None:
        D, G = torch.cat([others[0], D]), torch.cat([others[1], G])
    parameter.grad_factors = D, G


def _drawn_dropout(
    x: Tensor, probability: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """A random byte for every component, and from which byte on each item's are kept.

    A byte makes 256 probabilities. The one asked for lies between two of them, and every
    item draws one of the two, so that each component is dropped with just this probability.
    Bytes are drawn by eights, which is faster than one by one.
    """
    draws = empty((-(-x.numel() // 8),), like=x, dtype=torch.int64)
    draws.random_(-(2**63), None, generator=generator)
    between = torch.rand(len(x), 1, generator=generator, device=x.device)
    kept_from = (256 * probability + between).floor_().to(torch.int16)
    return draws.view(torch.uint8)[: x.numel()].view_as(x), kept_from


def _mask(x: Tensor, bits: Tensor, kept_from: Tensor, out: Tensor) -> Tensor:
    """0 where the byte is too small, else x; some items at a time, in the cache."""
    if available_for(x, out) and x.is_contiguous():
        run("mask", x, bits, kept_from, out)
        return out
    step = len(x) if x.is_cuda else max(1, _NUMBERS_PER_CHUNK // max(1, x[:1].numel()))
    kept = x.new_empty(x[:step].shape)
    for first in range(0, len(x), step):
        items = slice(first, first + step)
        some = kept[: len(x[items])]
        torch.ge(bits[items], kept_from[items], out=some)
        torch.mul(x[items], some, out=out[items])
    return out
