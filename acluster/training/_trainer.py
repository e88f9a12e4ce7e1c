"""One gradient step on a batch, and inference batch by batch, for any network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from acluster._utils._generator import PartGenerator
from acluster._utils._memory import Pool
from acluster._utils._operations import without_autocast
from acluster.training._batches import Batch, BatchSource
from acluster.training._compiled import CompiledOptimizer, CompiledStep
from acluster.training._device import to_numpy_state, to_torch_state
from acluster.training._optimizer import EnsembleOptimizer, Optimizer, factored_gradients
from acluster.training._packing import Packed
from acluster.training._precision import multiplying_in_bfloat16
from acluster.training._ranks import ALONE, Ranks, uninterrupted
from acluster.training._recorded import RecordedSteps


class Trainer:
    """A network, its loss and its optimizer; `step` trains on one batch.

    `Fit` iterates over the batches.

    Parameters
    ----------
    network : nn.Module
        Called as ``network(sets, generator=...)`` with one (values, offsets) per modality.

    loss : callable
        ``loss(logits, targets)`` returns the loss of every item, (n,) or (n, n_outputs).

    optimizer : str
        A name in `OPTIMIZERS`.

    learning_rate, weight_decay : float
        Hyperparameters of the optimizer.

    max_grad_norm : float or None
        Gradients are clipped to this l2 norm over all parameters together.

    generator : torch.Generator
        Draws the dropout, on the device of the network. `step` only passes it on, so a network
        may require a generator of another type; `state` and `load_state` need torch's. With
        several ranks, it is a `PartGenerator`.

    in_bfloat16 : collection of str, optional
        The operations of the network that multiply in bfloat16 where the device has it.

    ranks : Ranks, optional
        The processes that share every batch.

    make_optimizer : callable, default=Optimizer
        Creates the optimizer from the parameters and the arguments above.

    Attributes
    ----------
    is_split : bool
        Whether this process trains a part of the network only. All processes must then call
        `state` together.
    """

    is_split = False

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        *,
        optimizer: str,
        learning_rate: float,
        weight_decay: float,
        max_grad_norm: float | None,
        generator: Any,
        in_bfloat16: Collection[str] = (),
        ranks: Ranks = ALONE,
        make_optimizer: Callable[..., Optimizer] = Optimizer,
    ) -> None:
        self.network = self._trained = network
        self.loss = loss
        self.ranks = ranks
        self.learning_rate = learning_rate
        self.optimizer: Optimizer | CompiledOptimizer = make_optimizer(
            network.parameters(),
            optimizer,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        )
        self.generator = generator
        self.in_bfloat16 = tuple(in_bfloat16)
        self.compiled: CompiledStep | None = None
        self.recorded: RecordedSteps | None = None
        self._device = next(network.parameters()).device
        self._memory = Pool()

    @property
    def trainers(self) -> list[Trainer]:
        """The trainers of all networks: this one."""
        return [self]

    @contextmanager
    def training(self) -> Iterator[None]:
        """Keep the network in training mode, and reuse memory from step to step."""
        self._trained.train()
        # An epoch that was interrupted may have left gradients behind.
        self.optimizer.clear()
        with ExitStack() as stack:
            stack.enter_context(self._memory.active())
            if self.ranks.size == 1:  # the factors of a batch cannot be added up
                stack.enter_context(factored_gradients(self._trained))
            yield

    def step(self, batch: Batch) -> Tensor:
        """Take one gradient step, or a part of it.

        Parameters
        ----------
        batch : Batch
            Packed sets, targets, and weights of the losses. The gradients of its parts add up;
            the last part updates the parameters.

        Returns
        -------
        Tensor of shape ()
            The sum of the weighted losses before the step, divided by ``batch.n_items``. With
            several ranks, it is the sum over this rank's items.
        """
        loss = None if self.recorded is None else self.recorded.step(batch)
        return self.plain_step(batch) if loss is None else loss

    def plain_step(self, batch: Batch, learning_rate: Tensor | None = None) -> Tensor:
        """Take a step kernel by kernel; `learning_rate` as for `Optimizer.step`."""
        assert isinstance(self.optimizer, Optimizer), "A compiled step trains this network."
        generator, share = self.generator, batch.share
        if share is not None:
            generator = PartGenerator(generator, share.n_items, share.items)
        # The forward pass alone is autocast: the loss and the update stay in full precision.
        with multiplying_in_bfloat16(self._device, self.in_bfloat16):
            logits = self._trained(batch.sets, generator=generator)
        losses = self.loss(logits, batch.targets) * batch.weights
        loss = losses.sum() / batch.n_items
        loss.backward()
        if batch.ends_step and self.ranks.size > 1:
            with uninterrupted():  # else one process could be a step ahead of the others
                self.ranks.sum_gradients(self.optimizer.parameters)
                self.optimizer.step()
        elif batch.ends_step:
            self.optimizer.step(learning_rate)
        return loss.detach()

    def total(self, loss: Tensor) -> float:
        """Return the loss of an epoch, from that of this process."""
        return float(self.ranks.total(loss))

    def is_finite(self) -> bool:
        """Return whether all parameters and buffers of the network are finite."""
        if isinstance(self.optimizer, CompiledOptimizer):
            return self.optimizer.is_finite()
        floating = (one for one in self.network.buffers() if one.is_floating_point())
        extremes = [torch.stack(one.aminmax()) for one in [*self.network.parameters(), *floating]]
        return bool(torch.stack(extremes).isfinite().all())

    def state(self) -> dict[str, Any]:
        """Return the state that the next steps need, as numpy arrays."""
        return {
            "network": to_numpy_state(self.network.state_dict()),
            "optimizer": self.optimizer.state(),
            "generator": self.generator.get_state().numpy(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the `state` of another trainer; the next steps are then bit-identical."""
        self.network.load_state_dict(to_torch_state(state["network"]))
        self.optimizer.load_state(state["optimizer"])
        self.generator.set_state(torch.from_numpy(state["generator"].astype(np.uint8)))


class EnsembleTrainer:
    """The trainers of the members of an ensemble, which take their steps on the same batches.

    Parameters
    ----------
    network : nn.Module
        The ensemble.

    trainers : sequence of Trainer
        One per member. Each clips and updates by itself, as if it were alone.
    """

    def __init__(self, network: nn.Module, trainers: Sequence[Trainer]) -> None:
        self.network = network
        self.trainers = trainers

    @property
    def optimizer(self) -> EnsembleOptimizer:
        """The optimizers of all networks."""
        return EnsembleOptimizer([trainer.optimizer for trainer in self.trainers])

    def state(self) -> dict[str, Any]:
        """Return the state that the next steps need, as numpy arrays."""
        return {
            "network": to_numpy_state(self.network.state_dict()),
            "optimizer": self.optimizer.state(),
            "generator": np.stack([one.generator.get_state().numpy() for one in self.trainers]),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the `state` of another trainer; the next steps are then bit-identical."""
        self.network.load_state_dict(to_torch_state(state["network"]))
        self.optimizer.load_state(state["optimizer"])
        for trainer, words in zip(self.trainers, state["generator"], strict=True):
            trainer.generator.set_state(torch.from_numpy(words.astype(np.uint8)))


@torch.inference_mode()
def infer(
    function: Callable[[list[Packed]], Tensor], source: BatchSource, batch_size: int
) -> Iterator[NDArray[Any]]:
    """Yield the outputs of a function for every batch of items, in their order.

    Parameters
    ----------
    function : callable
        Takes one (values, offsets) per modality, returns a tensor.

    source : BatchSource
        The items.

    batch_size : int
        Items per call.
    """
    memory = Pool()
    for sets in source.in_order(batch_size):
        with memory.active(), without_autocast():
            output = function(sets)
        del sets  # the next batch may need its memory
        yield output.cpu().numpy()


def stack_blocks(blocks: Iterable[NDArray[Any]], n_rows: int) -> NDArray[Any]:
    """Return the rows of all blocks as one array.

    Every block is copied as soon as it arrives. A list of blocks would fragment the memory
    between the batches, and the process would grow with every batch.
    """
    blocks = iter(blocks)
    first = next(blocks)  # X holds at least one item
    stacked, filled = np.empty((n_rows, first.shape[1]), first.dtype), 0
    for block in chain([first], blocks):
        stacked[filled : filled + len(block)] = block
        filled += len(block)
    return stacked
