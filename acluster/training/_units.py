"""Train a network whose units are shared out among several processes.

Every process sees whole batches, and owns a part of the parameters. The processes exchange
partial logits instead of gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from acluster.training._device import to_numpy_state, to_torch_state
from acluster.training._optimizer import Optimizer
from acluster.training._ranks import Ranks, uninterrupted
from acluster.training._trainer import Trainer


class UnitsTrainer(Trainer):
    """The part of one process in the training of a network.

    Between epochs, the full network has the weights of all processes. At the beginning of an
    epoch, the part of this process gets its weights from there. Validation, callbacks and
    checkpoints therefore read the full network, as with any other trainer. An epoch that fails or
    is interrupted leaves the full network as it was before.

    Parameters
    ----------
    network : nn.Module
        The full network.

    part : nn.Module
        The part of this process, which returns the logits of the full network. Its methods
        ``restrict(full, own)`` and ``expand(own, full)``, and its attributes ``full_shapes`` and
        ``uncounted``, are those of `acluster.nn.UnitsNetwork`.

    loss : callable
        As in `Trainer`.

    ranks : Ranks
        The processes that own the parts.

    **options : object
        The other arguments of `Trainer`.
    """

    is_split = True

    def __init__(
        self,
        network: nn.Module,
        part: Any,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        ranks: Ranks,
        **options: Any,
    ) -> None:
        make_optimizer = partial(UnitsOptimizer, part=part, owners=ranks)
        super().__init__(part, loss, make_optimizer=make_optimizer, **options)
        self.network = network
        self._part = part
        self._owners = ranks

    @contextmanager
    def training(self) -> Iterator[None]:
        """Train the part within the context, then give the full network the weights of all."""
        full: dict[str, Tensor] = dict(self.network.named_parameters())
        own: dict[str, Tensor] = dict(self._part.named_parameters())
        self._part.restrict(full, own)
        with super().training():
            yield
        # An interrupt must neither find the full network incomplete, nor tell it from that of
        # another process.
        with uninterrupted():
            self._publish(full, own)

    @torch.no_grad()
    def _publish(self, full: dict[str, Tensor], own: dict[str, Tensor]) -> None:
        summed = {name: torch.empty_like(parameter) for name, parameter in full.items()}
        self._part.expand(own, summed)
        self._owners.sum_in_place([*summed.values()])
        for name, parameter in full.items():
            parameter.copy_(summed[name])

    def total(self, loss: Tensor) -> float:
        """Return the loss of an epoch: all processes have the same, up to their arithmetic."""
        return self._owners.same(float(loss))


class UnitsOptimizer(Optimizer):
    """An optimizer of the parameters of one process, with the state of all.

    Parameters
    ----------
    parameters : iterable of Parameter
        The parameters of `part`.

    name : str
        A name in `OPTIMIZERS`.

    part : nn.Module
        As in `UnitsTrainer`.

    owners : Ranks
        The processes that own the parts.

    **options : object
        The other arguments of `Optimizer`.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        name: str,
        *,
        part: Any,
        owners: Ranks,
        **options: Any,
    ) -> None:
        super().__init__(parameters, name, **options)
        self._part = part
        self._owners = owners
        self._names = [name for name, _ in part.named_parameters()]

    def _dense_gradients(self) -> list[Tensor]:
        return [
            torch.zeros_like(p.grad) if name in self._part.uncounted else p.grad
            for name, p in zip(self._names, self.parameters, strict=True)
            if p.grad is not None
        ]

    def _total_norm(self, norms: list[Tensor]) -> Tensor:
        return self._owners.total(super()._total_norm(norms).square()).sqrt()

    def state(self) -> list[dict[str, Any]]:
        """Return the moments of every parameter of the full network, as numpy arrays.

        All processes must call this method together.
        """
        fields = {field: self._full(field) for field in self._kept_moments}
        return [{field: moments[name] for field, moments in fields.items()} for name in self._names]

    def _full(self, field: str) -> Any:
        own = {
            name: getattr(moments, field)
            for name, moments in zip(self._names, self._moments, strict=True)
        }
        if field == "step":  # every process has taken the same steps
            return to_numpy_state(own)
        shapes = self._part.full_shapes
        full = {name: moment.new_empty(shapes[name]) for name, moment in own.items()}
        self._part.expand(own, full)
        self._owners.sum_in_place([*full.values()])
        return to_numpy_state(full)

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Continue from the `state` of another optimizer, of this class or of its base."""
        loaded = zip(self._names, self._moments, to_torch_state(state), strict=True)
        for name, moments, fields in loaded:
            for field, value in fields.items():
                own = getattr(moments, field)
                if field == "step":
                    own.copy_(value)
                else:
                    self._part.restrict({name: value}, {name: own})
