"""The optimizers: clip the gradients and update the weights, large ones tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from acluster._utils._memory import cast
from acluster.training._device import to_numpy_state, to_torch_state

# Devices on which torch's fused Adam divides the gradients by `grad_scale` itself. It was made for
# loss scaling; here it saves a pass over all gradients when they are clipped.
_DIVIDING_DEVICES = ("cpu", "cuda")

# Elements of a large weight that are updated at a time. The tile, its gradient and its moments stay
# in the processor's cache: the update is bound by memory traffic. A GPU updates all at once.
_NUMBERS_PER_TILE = 1 << 19


class Rule(NamedTuple):
    """An update rule as a variant of Adam's, ``w -= lr · m / (√v + ε)``.

    Parameters
    ----------
    betas : (float, float)
        The decay rates of m, the running mean of the gradient g, and of v, that of g².

    corrects_bias : bool
        Whether m and v, which start at 0, are divided by ``1 - βᵗ``.

    decouples_decay : bool
        Whether weight decay bypasses m and v, as in AdamW.
    """

    betas: tuple[float, float]
    corrects_bias: bool = True
    decouples_decay: bool = False

    @property
    def forgets_mean(self) -> bool:
        """Whether m is the gradient itself and need not be kept."""
        return self.betas[0] == 0


OPTIMIZERS = {
    "rmsprop": Rule(betas=(0.0, 0.99), corrects_bias=False),
    "adam": Rule(betas=(0.9, 0.999)),
    "adamw": Rule(betas=(0.9, 0.999), decouples_decay=True),
}


# From the fraction of the training that has passed to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda passed: 1.0,
    "cosine": lambda passed: (1 + math.cos(math.pi * passed)) / 2,
}


class Moments(NamedTuple):
    """The running averages of one parameter.

    For RMSprop, `mean` is a tile-sized scratch buffer that torch's kernel writes to.
    """

    mean: Tensor
    square_mean: Tensor
    step: Tensor

    @classmethod
    def of(cls, parameter: Tensor, rule: Rule) -> Moments:
        """Return the moments of a parameter before its first update."""
        parameter = parameter.detach()
        mean = parameter[: _rows_per_tile(parameter)] if rule.forgets_mean else parameter
        # torch corrects the bias by the step count; after 1e9 steps nothing is left to correct.
        first = 0.0 if rule.corrects_bias else 1e9
        step = torch.tensor(first, device=parameter.device, dtype=torch.float32)
        return cls(torch.zeros_like(mean), torch.zeros_like(parameter), step)

    def of_rows(self, rows: slice) -> Moments:
        """Return the moments of a tile of the parameter."""
        square_mean = self.square_mean[rows]
        is_scratch = len(self.mean) < len(self.square_mean)
        mean = self.mean[: len(square_mean)] if is_scratch else self.mean[rows]
        return Moments(mean, square_mean, self.step)


class Optimizer:
    """RMSprop, Adam or AdamW, with gradient clipping.

    All three call torch's fused Adam kernel: RMSprop is Adam without a mean of the gradient and
    without bias correction. A parameter has its gradient in ``grad``, or as two factors in
    ``grad_factors = (D, G)`` with the gradient ``Dᵀ G``. The norm needs only the factors,
    ``‖DᵀG‖² = Σ (DDᵀ) ∘ (GGᵀ)``, and on a CPU the update forms the product tile by tile.

    Parameters
    ----------
    parameters : iterable of Parameter
        The parameters to train.

    name : str
        A name in `OPTIMIZERS`.

    learning_rate, weight_decay : float
        The learning rate, and the coefficient of weight decay.

    max_grad_norm : float or None
        Gradients are clipped to this l2 norm over all parameters together.
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

    @property
    def tensors(self) -> list[Tensor]:
        """The running averages of all parameters, which steps change in place."""
        return [tensor for moments in self._moments for tensor in moments]

    @torch.no_grad()
    def step(self, learning_rate: Tensor | None = None) -> None:
        """Update the parameters and clear their gradients.

        Parameters
        ----------
        learning_rate : Tensor of shape (), optional
            The learning rate on the device, which a recorded step can read anew. By default that
            of this optimizer.
        """
        rate = self.learning_rate if learning_rate is None else learning_rate
        divisor = None if self.max_grad_norm is None else self._divisor(self.max_grad_norm)
        small: list[tuple[Tensor, Tensor, Moments]] = []
        for p, moments in zip(self.parameters, self._moments, strict=True):
            if p.grad is None and _factors(p) is None:
                continue
            if len(p) <= (size := _rows_per_tile(p)):
                small.append((p, _gradient(p, slice(None)), moments))
            else:
                self._update_by_tiles(p, size, moments, divisor, rate)
        if small:
            self._update(small, divisor, rate)
        self.clear()

    def clear(self) -> None:
        """Clear the gradients."""
        for p in self.parameters:
            p.grad = None
            if hasattr(p, "grad_factors"):
                del p.grad_factors

    def _divisor(self, max_grad_norm: float) -> Tensor | None:
        """Return the number to divide the gradients by, or None if they need no clipping."""
        dense_norm = nn.utils.get_total_norm(self._dense_gradients())
        factored = [tuple(map(_widened, f)) for p in self.parameters if (f := _factors(p))]
        if _is_on_cpu(dense_norm):
            # ‖DᵀG‖ ≤ ‖D‖ ‖G‖ is cheap and usually shows that nothing has to be clipped. On a GPU,
            # reading the result would stall the queue.
            bounds = [D.norm() * G.norm() for D, G in factored]
            if bool(self._total_norm([dense_norm, *bounds]) <= max_grad_norm):
                return None
        norm = self._total_norm([dense_norm, *(_norm_of_product(D, G) for D, G in factored)])
        return (norm / max_grad_norm).clamp(min=1).float()  # the kernel requires float32

    def _dense_gradients(self) -> list[Tensor]:
        """Return the gradients that count in the norm and are not in factors."""
        return [p.grad for p in self.parameters if p.grad is not None]

    def _total_norm(self, norms: list[Tensor]) -> Tensor:
        """Return the norm of all gradients from the norms of parts of them."""
        return torch.linalg.vector_norm(torch.stack(norms))

    def _update_by_tiles(
        self,
        parameter: Tensor,
        size: int,
        moments: Moments,
        divisor: Tensor | None,
        rate: float | Tensor,
    ) -> None:
        step = moments.step.clone()
        for first in range(0, len(parameter), size):
            rows = slice(first, first + size)
            moments.step.copy_(step)  # the kernel increments it for every tile
            tile = parameter[rows], _gradient(parameter, rows), moments.of_rows(rows)
            self._update([tile], divisor, rate)

    def _update(
        self,
        updates: list[tuple[Tensor, Tensor, Moments]],
        divisor: Tensor | None,
        rate: float | Tensor,
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
            lr=rate,
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
        """Return the moments of every parameter, as numpy arrays."""
        return [
            to_numpy_state({name: getattr(moments, name) for name in self._kept_moments})
            for moments in self._moments
        ]

    @property
    def _kept_moments(self) -> tuple[str, ...]:
        return ("square_mean", "step") if self.rule.forgets_mean else Moments._fields

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Continue from the `state` of another optimizer."""
        for moments, loaded in zip(self._moments, to_torch_state(state), strict=True):
            for name, value in loaded.items():
                getattr(moments, name).copy_(value)


class EnsembleOptimizer:
    """The optimizers of the members of an ensemble, in the form of one."""

    def __init__(self, optimizers: Sequence[Any]) -> None:
        self.optimizers = optimizers

    def state(self) -> list[dict[str, Any]]:
        """Return the moments of every parameter of every member, as numpy arrays."""
        return [moments for optimizer in self.optimizers for moments in optimizer.state()]

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Continue from the `state` of another optimizer."""
        n = len(state) // len(self.optimizers)
        for i, optimizer in enumerate(self.optimizers):
            optimizer.load_state(state[i * n : (i + 1) * n])


@contextmanager
def factored_gradients(network: nn.Module) -> Iterator[None]:
    """Let modules that support it keep their gradient in factors, for an `Optimizer`."""
    capable = [module for module in network.modules() if hasattr(module, "factored_gradient")]
    for module in capable:
        module.factored_gradient = True  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in capable:
            module.factored_gradient = False  # type: ignore[assignment]


def _factors(parameter: Tensor) -> tuple[Tensor, Tensor] | None:
    return getattr(parameter, "grad_factors", None)


def _gradient(parameter: Tensor, rows: slice) -> Tensor:
    """Return the gradient of some rows of a parameter."""
    if (factors := _factors(parameter)) is not None:
        assert parameter.grad is None, "A gradient is either whole or in factors."
        D, G = factors
        if D.dtype != parameter.dtype and not _is_on_cpu(D):
            # Rounding to bfloat16 before would lose digits, and take two passes over the gradient.
            return torch.mm(D[:, rows].T, G, out_dtype=parameter.dtype)
        return (D[:, rows].T @ G).to(parameter.dtype)
    assert parameter.grad is not None
    return parameter.grad[rows]


def _is_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _rows_per_tile(parameter: Tensor) -> int:
    if not _is_on_cpu(parameter):
        return len(parameter)
    return max(1, _NUMBERS_PER_TILE // parameter[0].numel())


def _widened(tensor: Tensor) -> Tensor:
    """Return a tensor in at least float32, whose norms are accurate and take less time."""
    return cast(tensor, torch.promote_types(tensor.dtype, torch.float32))


def _norm_of_product(D: Tensor, G: Tensor) -> Tensor:
    """Return ‖Dᵀ G‖₂ from the Gram matrices of D and G, each (n, n), without the product."""
    square = ((D @ D.T) * (G @ G.T)).sum()
    # Rounding can make the sum slightly negative when the true norm is near 0.
    return square.clamp(min=0).sqrt()
