"""Trainers whose networks take their steps together, in compiled calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from acluster.training._batches import Part, TrainingBatches

if TYPE_CHECKING:
    from acluster.training._trainer import Trainer


class CompiledStep:
    """The training step of several networks at once.

    Parameters
    ----------
    trainers : sequence of Trainer
        Their networks have one architecture and draw the same batches.

    members : acluster.nn.CompiledMembers
        Their networks, in the same order.
    """

    def __init__(self, trainers: Sequence[Trainer], members: Any) -> None:
        self.members = members
        self.places = {trainer: place for place, trainer in enumerate(trainers)}
        self.generators = _shared([trainer.generator for trainer in trainers])
        for trainer, place in self.places.items():
            state = trainer.optimizer.state()
            trainer.optimizer = CompiledOptimizer(members, place)
            trainer.optimizer.load_state(state)
            trainer.compiled = self

    @property
    def bytes_per_item(self) -> float:
        """The memory that a step needs for an item, beside the features."""
        n_draws = len(set(self.generators))
        return float(n_draws * self.members.bytes_per_draw)

    def steps(
        self, part: Part, batches: dict[Trainer, TrainingBatches]
    ) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
        """Take a step per batch with some of the trainers.

        Parameters
        ----------
        part : Part
            A whole batch, or several batches.

        batches : dict of Trainer to TrainingBatches
            The trainers that take the steps, with their targets and weights.

        Returns
        -------
        iterator of (int, ndarray of shape (P,))
            The number of items of every batch, and the losses of the trainers on it by their
            `places`.
        """
        first = next(iter(batches.values()))
        weights = first.weights[part.items]
        if any(own.weights is not first.weights for own in batches.values()):
            of_place = dict.fromkeys(self.places.values(), weights)
            of_place |= {self.places[one]: own.weights[part.items] for one, own in batches.items()}
            weights = torch.stack([of_place[place] for place in range(len(of_place))])
        active = [self.places[trainer] for trainer in batches]
        targets = first.targets[part.items]
        losses = self.members.step(
            active, part.sets, targets, weights, self.generators, first.batch_size
        )
        firsts = range(0, part.n_items, first.batch_size)
        sizes = [min(first.batch_size, part.n_items - i) for i in firsts]
        return zip(sizes, losses, strict=True)

    def release(self) -> None:
        """Give every network its own parameters again, and let the trainers go on without this.

        Else trainers and step would refer to each other, and their weights would stay in memory
        until the garbage collector looks for cycles: in a worker of a search, over several fits.
        """
        self.members.release()
        for trainer in self.places:
            trainer.compiled = None


class CompiledOptimizer:
    """The running averages of one of the networks that a compiled step updates."""

    def __init__(self, members: Any, place: int) -> None:
        self._members = members
        self._place = place

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next steps."""
        return float(self._members.learning_rates[self._place])

    @learning_rate.setter
    def learning_rate(self, learning_rate: float) -> None:
        self._members.learning_rates[self._place] = learning_rate

    def is_finite(self) -> bool:
        """Return whether all parameters of the network are finite."""
        return bool(self._members.is_finite(self._place))

    def clear(self) -> None:
        """Do nothing: a compiled step keeps no gradients."""

    def state(self) -> list[dict[str, Any]]:
        """Return the moments of every parameter, as numpy arrays."""
        return self._members.state(self._place)

    def load_state(self, state: list[dict[str, Any]]) -> None:
        """Continue from the `state` of another optimizer."""
        self._members.load_state(self._place, state)


def _shared(generators: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Return one generator for all those in the same state, so that it draws once for them."""
    by_state = {generator.get_state().numpy().tobytes(): generator for generator in generators}
    return [by_state[generator.get_state().numpy().tobytes()] for generator in generators]
