"""The classifier on the global features: dropout and one linear layer.

The weight has one row per component of the global feature, and is usually the largest parameter.
This layer therefore takes care of three things that `torch.nn.Dropout` and `torch.nn.Linear` do
not: cheap dropout masks, a gradient in two small factors instead of one large matrix, and no
products of subnormal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from acluster._utils._generator import PartGenerator
from acluster._utils._memory import Pool, cast, empty
from acluster.nn._compiled import available_for, run
from acluster.nn._weighting import uniform_

# Elements of (n, in_features) to mask at a time: 1 MiB in float32, which fits the cache.
_CHUNK_ELEMENTS = 1 << 18

# The gradient of a smaller weight is formed faster than its factors are handled.
_MIN_FACTORED_SIZE = 1 << 17

Drawn = tuple[Tensor, Tensor]  # what `_mask` needs to drop elements at random


class DropoutLinear(nn.Module):
    """Apply dropout, then ``x W + b``, with an optional factored gradient of W.

    Parameters
    ----------
    in_features : int
        The width of the input.

    out_features : int
        The width of the output.

    dropout : float, default=0.0
        The probability of zeroing a component of the input in training mode. The remaining
        components are scaled up, so that the expected value of the output does not change.

    Attributes
    ----------
    weight : Parameter of shape (in_features, out_features)
        The weight W.

    bias : Parameter of shape (out_features,)
        The bias b.

    factored_gradient : bool, default=False
        Whether the backward pass sets ``weight.grad_factors = (D, G)``, with
        ``gradient = Dᵀ G``, instead of ``weight.grad``. The factors have as many rows as the
        batch, while the gradient is as large as the weight. Small weights always get their
        gradient in ``weight.grad``.

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
        self._pool = Pool()
        self.reset_parameters()

    def train(self, mode: bool = True) -> DropoutLinear:
        """Set training or evaluation mode, and drop the cached weight of another dtype."""
        self._narrowed = None  # its memory stays in the pool, for the next predictions
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy, which does not need the cached weight."""
        return {**self.__dict__, "_narrowed": None}

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize W and b uniformly within ±1/√in_features.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of randomness; by default torch's global generator.
        """
        uniform_(self.weight, len(self.weight), generator)
        uniform_(self.bias, len(self.weight), generator)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return ``x W + b``, after dropout in training mode.

        Parameters
        ----------
        x : Tensor of shape (n, in_features)
            The inputs.

        generator : torch.Generator, optional
            Source of randomness for dropout; by default torch's global generator.

        Returns
        -------
        Tensor of shape (n, out_features)
        """
        product, scale = self.unscaled_product(x, generator)
        return torch.add(self.bias, product, alpha=scale)

    def unscaled_product(
        self, x: Tensor, generator: torch.Generator | PartGenerator | None = None
    ) -> tuple[Tensor, float]:
        """Return ``x W``, after dropout in training mode, and the number to multiply it by.

        Scaling the product takes less time than scaling the input.

        Parameters
        ----------
        x : Tensor of shape (n, in_features)
            The inputs.

        generator : torch.Generator, optional
            Source of randomness for dropout; by default torch's global generator.

        Returns
        -------
        product : Tensor of shape (n, out_features)
            The product with the components that dropout leaves.

        scale : float
            What makes up for the components that it drops.
        """
        drops = self.training and self.dropout > 0
        drawn = _drawn_dropout(x, self.dropout, generator) if drops else None
        dtype = self.weight.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        factored = self.factored_gradient and self.weight.numel() >= _MIN_FACTORED_SIZE
        factors = x, self.weight, self._weight_as(dtype)
        product: Tensor = _MaskedProduct.apply(*factors, drawn, factored)
        return product, 1 / (1 - self.dropout) if drawn is not None else 1.0

    def _weight_as(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in another dtype, cached between the batches of a prediction."""
        weight = self.weight.detach()
        if dtype == weight.dtype or self.training:
            return cast(weight, dtype)
        # In-place changes, such as an optimizer step, increment `_version`.
        key = (weight.data_ptr(), self.weight._version, dtype)
        narrowed = self._narrowed  # another thread that predicts may clear it at any time
        if narrowed is None or narrowed[0] != key:
            # A tensor made in inference mode could not be used in a later backward pass.
            with torch.inference_mode(False), torch.no_grad(), self._pool.active():
                narrowed = self._narrowed = key, cast(weight, dtype)
        return narrowed[1]


class _MaskedProduct(torch.autograd.Function):
    """``(x ∘ kept) W``, in the dtype of `narrowed`, the weight cast to that dtype.

    Autograd would store x, the mask and their product. This function stores the product and the
    bytes of the mask only.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, narrowed: Tensor, drawn: Drawn | None, factored: bool
    ) -> Tensor:
        masked = x if drawn is None else _mask(x, *drawn, out=empty(x.shape, like=x))
        masked = cast(masked, narrowed.dtype)
        ctx.save_for_backward(masked, narrowed, *(drawn or ()))
        ctx.parameter, ctx.factored, ctx.dtype = weight, factored, x.dtype
        return (masked @ narrowed).to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        masked, narrowed, *drawn = ctx.saved_tensors
        gradient = _without_subnormal(gradient).to(narrowed.dtype)
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_masked = empty(masked.shape, like=gradient)
            d_x = cast(torch.mm(gradient, narrowed.T, out=d_masked), ctx.dtype)
            if drawn:
                _mask(d_x, drawn[0], drawn[1], out=d_x)
        if ctx.needs_input_grad[1] and ctx.factored:
            _add_factors(ctx.parameter, masked, gradient)
        elif ctx.needs_input_grad[1]:
            d_weight = (masked.T @ gradient).to(ctx.parameter.dtype)
        return d_x, d_weight, None, None, None


def _without_subnormal(gradient: Tensor) -> Tensor:
    """Zero the components so small that their products might be subnormal numbers.

    Softmax probabilities close to 0 make many such components. Processors take about a hundred
    times as long to multiply subnormal numbers, and the components are negligible next to the ε
    of the optimizers.
    """
    if gradient.dtype == torch.float16:  # its range is too narrow to give up any of it
        return gradient
    limits = torch.finfo(gradient.dtype)
    return nn.functional.hardshrink(gradient, limits.smallest_normal / limits.eps)


def _add_factors(parameter: Any, D: Tensor, G: Tensor) -> None:
    """Store the gradient DᵀG, added to that of an earlier use of the parameter, if any."""
    # Factors add up by concatenation: [D₁; D₂]ᵀ [G₁; G₂] = D₁ᵀG₁ + D₂ᵀG₂.
    if (others := getattr(parameter, "grad_factors", None)) is not None:
        D, G = torch.cat([others[0], D]), torch.cat([others[1], G])
    parameter.grad_factors = D, G


def _drawn_dropout(
    x: Tensor, probability: float, generator: torch.Generator | PartGenerator | None
) -> Drawn:
    """Return a random byte per component, and per item the lowest byte that keeps a component.

    A threshold on a byte allows only multiples of 1/256 as dropout probabilities. Each item
    therefore draws its threshold from the two multiples around the requested probability, so
    that every component is dropped with exactly this probability.
    """
    draws, between = random_bytes(x.shape, x, generator)
    return draws, (256 * probability + between).floor_().to(torch.int16)


def random_bytes(
    shape: Sequence[int], like: Tensor, generator: torch.Generator | PartGenerator | None
) -> tuple[Tensor, Tensor]:
    """Return a random byte per component, and per item a number in [0, 1)."""
    if isinstance(generator, PartGenerator):
        draws, between = random_bytes(generator.whole(shape), like, generator.generator)
        return generator.part(draws), between[generator.items]
    # One 64-bit number gives eight bytes, which is faster than drawing the bytes one by one.
    size = math.prod(shape)
    draws = empty((-(-size // 8),), like=like, dtype=torch.int64)
    draws.random_(-(2**63), None, generator=generator)
    # The dtype decides the draws, and must not follow torch's default.
    between = torch.rand(shape[0], 1, generator=generator, device=like.device, dtype=torch.float32)
    return draws.view(torch.uint8)[:size].view(tuple(shape)), between


def _mask(x: Tensor, bits: Tensor, kept_from: Tensor, out: Tensor) -> Tensor:
    """Write x to `out` where the byte reaches the threshold of the item, and 0 elsewhere."""
    if available_for(x, out) and x.is_contiguous():
        run("mask", x, bits, kept_from, out)
        return out
    # In torch, this takes two operations. Chunks keep the data in the cache between them.
    step = len(x) if x.is_cuda else max(1, _CHUNK_ELEMENTS // max(1, x[:1].numel()))
    kept = x.new_empty(x[:step].shape)
    for first in range(0, len(x), step):
        items = slice(first, first + step)
        mask = kept[: len(x[items])]
        torch.ge(bits[items], kept_from[items], out=mask)
        torch.mul(x[items], mask, out=out[items])
    return out
