"""The training loop: it knows sets, batches and steps, and treats the network as opaque."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from acluster._utils._memory import Pool
from acluster.training._batches import BatchSource
from acluster.training._device import (
    autocast,
    make_generator,
    to_numpy_state,
    to_torch_state,
)
from acluster.training._optimizer import Optimizer, factored_gradients
from acluster.training._packing import Packed

__all__ = ["Patience", "Trainer", "infer"]


class Trainer:
    """Minibatch gradient descent.

    Parameters
    ----------
    network : nn.Module
        Called as ``network(sets, generator=...)`` with one (values, offsets) per modality.

    loss : callable
        ``loss(logits, targets)`` gives the loss of every item, (n,) or (n, n_outputs).

    optimizer : str
        A name in `OPTIMIZERS`.

    learning_rate, weight_decay : float
        Of the optimiser.

    max_grad_norm : float or None
        Gradients are scaled down to this l2 norm over all parameters together.

    batch_size : int
        Items per step.

    n_local_features : sequence of (int or None)
        For every modality, how many local features of each set a step sees.

    modality_dropout : float
        The probability that a step sees an item without one of its modalities.

    precision : {"full", "mixed"}
        "mixed" multiplies in bfloat16 where that is faster.

    random_state : RandomState
        Draws the order, the modalities, the local features and the seed of the dropout.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        optimizer: str,
        learning_rate: float,
        weight_decay: float,
        max_grad_norm: float | None,
        batch_size: int,
        n_local_features: Sequence[int | None],
        modality_dropout: float,
        precision: str,
        random_state: np.random.RandomState,
    ) -> None:
        self.network = network
        self.loss = loss
        self.optimizer = Optimizer(
            network.parameters(),
            optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        )
        self.batch_size = batch_size
        self.n_local_features = n_local_features
        self.modality_dropout = modality_dropout
        self.precision = precision
        self.random_state = random_state
        self.parameter = next(network.parameters())
        self.memory = Pool()
        self.generator = make_generator(random_state, self.parameter.device)

    def run_epoch(self, source: BatchSource, targets: Tensor, weights: Tensor) -> float:
        """Take one step per batch over all items.

        Parameters
        ----------
        source : BatchSource
            The items.

        targets : Tensor of shape (n,) or (n, n_outputs)
            What the loss compares the logits with.

        weights : Tensor that broadcasts to the losses
            Relative to each other, around 1.

        Returns
        -------
        float
            The weighted mean loss, each batch before its step.
        """
        self.network.train()
        total = torch.zeros((), dtype=self.parameter.dtype, device=self.parameter.device)
        batches = source.epoch(
            self.batch_size, self.random_state, self.n_local_features, self.modality_dropout
        )
        self.optimizer.clear()
        with self.memory.active(), factored_gradients(self.network):
            for items, sets in batches:
                batch_targets = targets[items]
                total += self._step(sets, batch_targets, weights[items]) * len(batch_targets)
        return float(total) / len(source)

    def state(self) -> dict[str, Any]:
        """All that the next epochs depend on, as numpy arrays."""
        return {
            "network": to_numpy_state(self.network.state_dict()),
            "optimizer": self.optimizer.state(),
            "generator": self.generator.get_state().numpy(),
            "random_state": self.random_state.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from another trainer's `state`, to the same bits."""
        self.network.load_state_dict(to_torch_state(state["network"]))
        self.optimizer.load_state(state["optimizer"])
        self.generator.set_state(torch.from_numpy(state["generator"].astype(np.uint8)))
        name, key, *numbers = state["random_state"]
        self.random_state.set_state((name, np.asarray(key, dtype=np.uint32), *numbers))

    def _step(self, sets: list[Packed], targets: Tensor, weights: Tensor) -> Tensor:
        with autocast(self.parameter.device, self.precision):
            logits = self.network(sets, generator=self.generator)
        losses = self.loss(logits, targets) * weights
        loss = losses.sum() / len(losses)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class Patience:
    """When to stop: the score has not risen by more than `tol` for `n_iter_no_change` epochs.

    Parameters
    ----------
    tol : float or None
        None never stops.

    n_iter_no_change : int
        How many epochs to wait for a rise.
    """

    def __init__(self, tol: float | None, n_iter_no_change: int) -> None:
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.best_score = -np.inf
        self.n_waited = 0

    def update(self, score: float) -> bool:
        """Take the score of an epoch; True if it is the best so far."""
        rises = self.tol is None or score > self.best_score + self.tol
        self.n_waited = 0 if rises else self.n_waited + 1
        is_best = score > self.best_score
        self.best_score = max(score, self.best_score)
        return is_best

    @property
    def exhausted(self) -> bool:
        """Whether to stop."""
        return self.n_waited >= self.n_iter_no_change


@torch.inference_mode()
def infer(
    function: Callable[[list[Packed]], Any], source: BatchSource, batch_size: int
) -> Iterator[Any]:
    """What `function` gives for every batch of items, in their order.

    Parameters
    ----------
    function : callable
        Takes one (values, offsets) per modality.

    source : BatchSource
        The items.

    batch_size : int
        Items per call.
    """
    memory = Pool()
    for sets in source.in_order(batch_size):
        with memory.active():
            result = function(sets)
        yield result
