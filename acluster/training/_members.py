"""Train several networks in one pass over the data: each batch is read once for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from acluster.training._batches import TrainingBatches
from acluster.training._checkpoint import Checkpoint
from acluster.training._compiled import CompiledStep
from acluster.training._fit import Callbacks, Fit
from acluster.training._optimizer import SCHEDULES
from acluster.training._trainer import Trainer


@dataclass(eq=False)
class Member:
    """One of the fits that are trained together.

    Parameters
    ----------
    fit : Fit
        The fit. All members draw the same batches: their `TrainingBatches` have sources of the
        same items, equal random states, and the same options.

    max_iter : int
        The maximum number of epochs.

    callbacks : Callbacks
        Notified of every epoch.

    checkpoint : Checkpoint, optional
        Saves the fit after every epoch.

    schedule : str, default="constant"
        How the learning rate falls until `max_iter`, a name in `SCHEDULES`.

    Attributes
    ----------
    error : ValueError or None
        Why the training of this member failed, if it did and others went on.
    """

    fit: Fit
    max_iter: int
    callbacks: Callbacks
    checkpoint: Checkpoint | None = None
    schedule: str = "constant"
    error: ValueError | None = None

    @property
    def is_unsettled(self) -> bool:
        """Whether `max_iter` epochs have passed before the loss has settled."""
        return self.fit.patience.tol is not None and not self.fit.finished

    @property
    def is_training(self) -> bool:
        """Whether another epoch follows."""
        is_done = self.fit.finished or self.fit.n_epochs >= self.max_iter
        return self.error is None and not is_done

    def begin_epoch(self) -> None:
        """Notify the callbacks, and set the learning rate of the epoch."""
        self.callbacks.begin_epoch()
        factor = SCHEDULES[self.schedule](self.fit.n_epochs / self.max_iter)
        for trainer in self.fit.trainer.trainers:
            trainer.optimizer.learning_rate = factor * trainer.learning_rate

    def end_epoch(self, loss: float) -> None:
        """Record an epoch, notify the callbacks and write the checkpoint."""
        self.fit.end_epoch(loss)
        self.fit.stopped = self.callbacks.end_epoch(self.fit)
        if self.checkpoint is not None:
            self.checkpoint.keep(self.fit, is_last=not self.is_training)


def train(members: Sequence[Member]) -> None:
    """Train each member until its `max_iter`, or until patience or a callback ends its training.

    Parameters
    ----------
    members : sequence of Member
        A member that is done, or whose training diverges, leaves the others alone.

    Raises
    ------
    ValueError
        If the loss or a parameter of the only member becomes NaN or infinite. Of several members,
        each keeps its own error.

    Warns
    -----
    sklearn.exceptions.ConvergenceWarning
        If `max_iter` epochs pass before the loss of a member settles.
    """
    while active := [member for member in members if member.is_training]:
        for member in active:
            member.begin_epoch()
        losses = run_epoch([member.fit for member in active])
        for member, loss in zip(active, losses, strict=True):
            try:
                member.end_epoch(loss)
            except ValueError as error:
                if len(members) == 1:
                    raise
                member.error = error
    for member in members:
        if member.error is None:
            member.fit.restore_best()
            if member.is_unsettled:
                warn_of_convergence(member.max_iter)


def run_epoch(fits: Sequence[Fit]) -> list[float]:
    """Train every network on every item once, and return their losses."""
    leader = fits[0].batches
    alone, together = _by_step(fits)
    totals = {one: own.weights.new_zeros(()) for one, own in alone.items()}
    totals_together: dict[CompiledStep, Any] = dict.fromkeys(together, 0.0)
    with ExitStack() as stack:
        for trainer in alone:  # a compiled step has no use for torch's modes and memory
            stack.enter_context(trainer.training())
        needed = None if alone else sum(compiled.bytes_per_item for compiled in together)
        for part in leader.epoch(bytes_per_item=needed):
            for trainer, batches in alone.items():
                totals[trainer] += trainer.step(batches.batch(part)) * part.n_items
            for compiled, batches_of in together.items():
                for n_items, of_places in compiled.steps(part, batches_of):
                    totals_together[compiled] += of_places * n_items
            del part  # the next one may need its memory
    # Each member could go on alone, with the batches that it would have drawn alone.
    state = leader.random_state.get_state(legacy=False)
    for fit in fits[1:]:
        fit.batches.random_state.set_state(state)
    losses = {trainer: trainer.total(total) / len(leader) for trainer, total in totals.items()}
    for compiled, of_places in totals_together.items():
        for trainer in together[compiled]:
            losses[trainer] = float(of_places[compiled.places[trainer]]) / len(leader)
    return [float(np.mean([losses[one] for one in fit.trainer.trainers])) for fit in fits]


def _by_step(
    fits: Sequence[Fit],
) -> tuple[dict[Trainer, TrainingBatches], dict[CompiledStep, dict[Trainer, TrainingBatches]]]:
    """Return the trainers that take steps alone, and those of every compiled step."""
    alone: dict[Trainer, TrainingBatches] = {}
    together: dict[CompiledStep, dict[Trainer, TrainingBatches]] = {}
    for fit in fits:
        for trainer in fit.trainer.trainers:
            step = trainer.compiled
            group = alone if step is None else together.setdefault(step, {})
            group[trainer] = fit.batches
    return alone, together


# The number of stack frames from this function to the call of `fit`, where warnings point.
_LEVELS_BELOW_FIT = 8


def warn_of_convergence(max_iter: int) -> None:
    """Warn that `max_iter` epochs have passed before the loss has settled."""
    warnings.warn(
        f"Maximum iterations ({max_iter}) reached and the optimization hasn't converged yet. Raise "
        "max_iter, or set tol=None to train for exactly that many epochs.",
        ConvergenceWarning,
        stacklevel=_LEVELS_BELOW_FIT,
    )
