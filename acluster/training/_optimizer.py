"""The optimisers: gradients are clipped and weights updated, large ones tile by tile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from acluster.training._device import to_numpy_state, to_torch_state

__all__ = ["OPTIMIZERS", "Optimizer", "factored_gradients"]

# Where torch's fused Adam divides the gradients by `grad_scale`.
_DIVIDING_DEVICES = ("cpu", "cuda")

# Numbers of a large weight that are updated at a time: they and what belongs to them stay in
# the processor's cache. A GPU takes all at once.
_NUMBERS_PER_TILE = 1 << 19


class Rule(NamedTuple):
    """An update in the terms of Adam's, ``w -= lr · m / (√v + ε)``.

    Parameters
    ----------
    betas : (float, float)
        The decay of m, the mean of the gradient g, and of v, the mean of g².

    corrects_bias : bool
        Whether m and v, which start from 0, are divided by ``1 - βᵗ``.

    decouples_decay : bool
        Whether the weight decay goes past m and v.
    """

    betas: tuple[float, float]
    corrects_bias: bool = True
    decouples_decay: bool = False

    @property
    def forgets_mean(self) -> bool:
        """Whether there is no mean of the gradient: it would be the gradient itself."""
        return self.betas[0] == 0


OPTIMIZERS = {
    "rmsprop": Rule(betas=(0.0, 0.99), corrects_bias=False),
    "adam": Rule(betas=(0.9, 0.999)),
    "adamw": Rule(betas=(0.9, 0.999), decouples_decay=True),
}


class Moments(NamedTuple):
    """What an optimiser remembers of a parameter; RMSprop's mean is mere room for a tile."""

    mean: Tensor
    square_mean: Tensor
    step: Tensor

    @classmethod
    def of(cls, parameter: Tensor, rule: Rule) -> Moments:
        """Those of a parameter that has not been updated."""
        parameter = parameter.detach()
        mean = parameter[: _rows_per_tile(parameter)] if rule.forgets_mean else parameter
        # After so many steps there is no bias to correct.
        step = torch.tensor(0.0 if rule.corrects_bias else 1e9, device=parameter.device)
        return cls(torch.zeros_like(mean), torch.zeros_like(parameter), step)

    def of_rows(self, rows: slice) -> Moments:
        """Those of a tile."""
        square_mean = self.square_mean[rows]
        is_room = len(self.mean) < len(self.square_mean)
        mean = self.mean[: len(square_mean)] if is_room else self.mean[rows]
        return Moments(mean, square_mean, self.step)


class Optimizer:
    """RMSprop, Adam or AdamW, with gradients clipped to a norm.

    All three are torch's fused Adam: RMSprop is Adam without a mean of the gradient and
    without the correction of the bias. A parameter has its gradient in ``grad``, or as two
    factors in ``grad_factors = (D, G)``, the gradient being ``Dᵀ G``. Its norm does not need
    it, ``‖DᵀG‖² = Σ (DDᵀ) ∘ (GGᵀ)``, and on a processor the update forms it tile by tile.

    Parameters
    ----------
    parameters : iterable of Parameter
        What is learnt.

    name : str
        A name in `OPTIMIZERS`.

    learning_rate, weight_decay : float
        The step, and the pull of the weights to 0.

    max_grad_norm : float or None
        Gradients are scaled down to this l2 norm over all parameters together.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        name: str,
        *,
        learning_rate: float,
        weight_decay: float,
        max_grad_norm: float | None,
    ) -> None:
        self.parameters = list(parameters)
        self.rule = OPTIMIZERS[name]
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self._moments = [Moments.of(p, self.rule) for p in self.parameters]

    @torch.no_grad()
    def step(self) -> None:
        """Update the parameters and forget their gradients."""
        divisor = None if self.max_grad_norm is None else self._divisor(self.max_grad_norm)
        small: list[tuple[Tensor, Tensor, Moments]] = []
        for p, moments in zip(self.parameters, self._moments, strict=True):
            if p.grad is None and _factors(p) is None:
                continue
            if len(p) <= (size := _rows_per_tile(p)):
                small.append((p, _gradient(p, slice(None)), moments))
            else:
                self._update_by_tiles(p, size, moments, divisor)
        if small:
            self._update(small, divisor)
        self.clear()

    def clear(self) -> None:
        """Forget the gradients."""
        for p in self.parameters:
            p.grad = None
            if hasattr(p, "grad_factors"):
                del p.grad_factors

    def _divisor(self, max_grad_norm: float) -> Tensor | None:
        """What clips the gradients, to divide them by; None if it is 1 for sure."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        of_whole = nn.utils.get_total_norm(gradients)
        factored = [factors for p in self.parameters if (factors := _factors(p)) is not None]
        if of_whole.device.type == "cpu":  # elsewhere, looking at it would wait for the device
            bounds = [_norm(D) * _norm(G) for D, G in factored]
            if bool(_total([of_whole, *bounds]) <= max_grad_norm):
                return None
        norm = _total([of_whole, *(_norm_of_product(D, G) for D, G in factored)])
        return (norm / max_grad_norm).clamp(min=1).float()  # so torch wants it

    def _update_by_tiles(
        self, parameter: Tensor, size: int, moments: Moments, divisor: Tensor | None
    ) -> None:
        step = moments.step.clone()
        for first in range(0, len(parameter), size):
            rows = slice(first, first + size)
            moments.step.copy_(step)  # torch counts every tile
            tile = parameter[rows], _gradient(parameter, rows), moments.of_rows(rows)
            self._update([tile], divisor)

    def _update(
        self, updates: list[tuple[Tensor, Tensor, Moments]], divisor: Tensor | None
    ) -> None:
        parameters, gradients, moments = (list(column) for column in zip(*updates, strict=True))
        if divisor is not None and divisor.device.type not in _DIVIDING_DEVICES:
            gradients, divisor = [gradient / divisor for gradient in gradients], None
        means, square_means, steps = (list(column) for column in zip(*moments, strict=True))
        adam(
            parameters,
            gradients,
            means,
            square_means,
            [],
            steps,
            grad_scale=divisor,
            lr=self.learning_rate,
            beta1=self.rule.betas[0],
            beta2=self.rule.betas[1],
            eps=1e-8,
            weight_decay=self.weight_decay,
            decoupled_weight_decay=self.rule.decouples_decay,
            amsgrad=False,
            maximize=False,
            fused=True,
        )

    def state(self) -> list[dict[str, Any]]:
        """The moments of every parameter, as numpy arrays."""
        names = ["square_mean", "step"] if self.rule.forgets_mean else list(Moments._fields)
        return [
            to_numpy_state({name: getattr(moments, name) for name in names})
            for moments in self._moments
        ]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Go on from another optimiser's `state`."""
        for moments, loaded in zip(self._moments, to_torch_state(state), strict=True):
            for name, value in loaded.items():
                getattr(moments, name).copy_(value)


@contextmanager
def factored_gradients(network: nn.Module) -> Iterator[None]:
    """Modules that can leave their gradient in factors do so, for an `Optimizer`."""
    able = [module for module in network.modules() if hasattr(module, "factored_gradient")]
    for module in able:
        module.factored_gradient = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in able:
            module.factored_gradient = False  # type: ignore[assignment]


def _factors(parameter: Tensor) -> tuple[Tensor, Tensor] | None:
    return getattr(parameter, "grad_factors", None)


def _gradient(parameter: Tensor, rows: slice) -> Tensor:
    """The gradient of some rows of a parameter."""
    if (factors := _factors(parameter)) is not None:
        assert parameter.grad is None, "A parameter has its gradient whole or in factors."
        D, G = factors
        return (D[:, rows].T @ G).to(parameter.dtype)
    assert parameter.grad is not None
    return parameter.grad[rows]


def _rows_per_tile(parameter: Tensor) -> int:
    if parameter.device.type != "cpu":
        return len(parameter)
    return max(1, _NUMBERS_PER_TILE // parameter[0].numel())


def _norm(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))


def _norm_of_product(D: Tensor, G: Tensor) -> Tensor:
    """‖Dᵀ G‖₂, without the product: from the Gram matrices of D and G, each (n, n)."""
    D, G = (factor.to(torch.promote_types(factor.dtype, torch.float32)) for factor in (D, G))
    square = ((D @ D.T) * (G @ G.T)).sum()
    return square.clamp(min=0).sqrt()


def _total(norms: list[Tensor]) -> Tensor:
    """The norm of parts that have these norms."""
    return torch.linalg.vector_norm(torch.stack(norms))
