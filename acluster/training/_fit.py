"""The state of a fit from epoch to epoch: losses, validation, patience and interruption."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch

from acluster.training._batches import TrainingBatches
from acluster.training._device import to_numpy_state, to_torch_state
from acluster.training._precision import check_operations
from acluster.training._trainer import EnsembleTrainer, Trainer


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a fit that leaves a usable estimator."""

    def __init__(self, n_epochs: int, *, has_checkpoint: bool) -> None:
        later = (
            "The same call of fit resumes from the last epoch kept in checkpoint_dir."
            if has_checkpoint
            else "With checkpoint_dir in fit, the same call could have resumed later."
        )
        super().__init__(
            f"Training was interrupted after {n_epochs} epoch{'s' * (n_epochs != 1)}; the "
            f"estimator keeps the weights learned so far. {later}"
        )


class Callbacks(Protocol):
    """An object that is notified of every epoch."""

    def begin_epoch(self) -> None:
        """Note that an epoch begins."""

    def end_epoch(self, fit: Fit) -> bool:
        """Note that an epoch has ended; return True to stop the training."""


@dataclass
class Patience:
    """Early stopping: the score has not risen by more than `tol` for `n_iter_no_change` epochs.

    Parameters
    ----------
    tol : float or None
        The smallest improvement that counts. With None, training never stops early.

    n_iter_no_change : int
        The number of epochs to wait for an improvement.
    """

    tol: float | None
    n_iter_no_change: int
    best_score: float = -np.inf
    n_waited: int = 0

    def update(self, score: float) -> bool:
        """Record the score of an epoch; return whether it is the best so far."""
        rises = self.tol is None or score > self.best_score + self.tol
        self.n_waited = 0 if rises else self.n_waited + 1
        is_best = score > self.best_score
        self.best_score = max(score, self.best_score)
        return is_best

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.n_waited >= self.n_iter_no_change


@dataclass(eq=False)
class Fit:
    """A fit and its state after every epoch, which checkpoints save and resumed fits restore.

    Parameters
    ----------
    trainer : Trainer or EnsembleTrainer
        The network and its optimizer.

    batches : TrainingBatches
        The training items.

    patience : Patience
        When to stop.

    validate : callable, optional
        Returns the validation accuracy of the network in its current state.

    early_stopping : bool, default=False
        Whether the validation accuracy, not the training loss, decides when to stop and which
        weights to keep.

    loss_curve, validation_scores : list of float, optional
        The values of earlier epochs, if the fit continues an earlier one.

    verbose : bool, default=False
        Whether to print a line per epoch.

    Attributes
    ----------
    loss_curve : list of float
        The training loss of every epoch.

    validation_scores : list of float or None
        The validation accuracy of every epoch; NaN where an epoch had no validation set.

    best_state : dict of Tensor, or None
        The weights of the best epoch, under `early_stopping`.

    stopped : bool
        Whether a callback ended the training.

    has_precision : bool
        Whether a checkpoint has determined which operations multiply in bfloat16.
    """

    trainer: Trainer | EnsembleTrainer
    batches: TrainingBatches
    patience: Patience
    validate: Callable[[], float] | None = None
    early_stopping: bool = False
    loss_curve: list[float] = field(default_factory=list)
    validation_scores: list[float] | None = None
    verbose: bool = False
    best_state: dict[str, torch.Tensor] | None = field(default=None, init=False)
    stopped: bool = field(default=False, init=False)
    has_precision: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.loss_curve = [*self.loss_curve]  # that of an earlier fit must not grow
        self._n_before = len(self.loss_curve)

    @property
    def n_epochs(self) -> int:
        """The number of epochs of this fit, without those of the fit that it continues."""
        return len(self.loss_curve) - self._n_before

    @property
    def finished(self) -> bool:
        """Whether patience has run out or a callback has ended the training."""
        return self.stopped or self.patience.exhausted

    @property
    def in_bfloat16(self) -> tuple[str, ...]:
        """The operations of the network that multiply in bfloat16."""
        return self.trainer.trainers[0].in_bfloat16

    @in_bfloat16.setter
    def in_bfloat16(self, operations: tuple[str, ...]) -> None:
        for trainer in self.trainer.trainers:
            trainer.in_bfloat16 = operations

    @property
    def is_split(self) -> bool:
        """Whether this process trains a part of the network only."""
        return self.trainer.trainers[0].is_split

    def end_early(self) -> bool:
        """End the training after Ctrl-C; return whether the network is worth keeping."""
        if self.n_epochs == 0:
            return False
        for trainer in self.trainer.trainers:
            trainer.optimizer.clear()
        self.restore_best()
        if self.validation_scores is not None:
            # The epoch that was interrupted may have a score but no loss yet.
            self.validation_scores = self.validation_scores[: len(self.loss_curve)]
        return self._has_finite_networks()

    def restore_best(self) -> None:
        """Return to the weights of the best epoch, under `early_stopping`."""
        if self.best_state is not None:
            self.trainer.network.load_state_dict(self.best_state)

    def end_epoch(self, loss: float) -> None:
        """Check the parameters after an epoch, validate, and record the loss and the accuracy.

        Raises
        ------
        ValueError
            If the loss or a parameter is NaN or infinite.
        """
        self._check_finite(loss)
        accuracy = np.nan if self.validate is None else self.validate()
        if self.verbose:
            shown = "" if self.validate is None else f", validation accuracy {accuracy:.4f}"
            print(f"epoch {len(self.loss_curve) + 1}: loss {loss:.4f}{shown}")
        if self.validate is not None or self.validation_scores is not None:
            # Epochs without a validation set count too, so that index i is epoch i + 1.
            before = self.validation_scores or [np.nan] * len(self.loss_curve)
            self.validation_scores = [*before, accuracy]
        self.loss_curve.append(loss)
        is_best = self.patience.update(accuracy if self.early_stopping else -loss)
        if is_best and self.early_stopping:
            self.best_state = copy.deepcopy(self.trainer.network.state_dict())

    def _check_finite(self, loss: float) -> None:
        # Each loss is computed before its step, so the last step may still corrupt the parameters.
        if not np.isfinite(loss) or not self._has_finite_networks():
            learning_rate = self.trainer.trainers[0].learning_rate
            raise ValueError(
                f"Training diverged in epoch {len(self.loss_curve) + 1}, with loss {loss:g}. Lower "
                f"learning_rate (now {learning_rate}), and do not set standardize=False."
            )

    def _has_finite_networks(self) -> bool:
        return all(trainer.is_finite() for trainer in self.trainer.trainers)

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the state that the next epochs need: a JSON description and nested arrays."""
        name, key, *numbers = self.batches.random_state.get_state(legacy=True)
        description = {
            "random_state": [name, np.asarray(key).tolist(), *numbers],
            "loss_curve": self.loss_curve,
            "validation_scores": self.validation_scores,
            "patience": [self.patience.best_score, self.patience.n_waited],
            "stopped": self.stopped,
            "in_bfloat16": [*self.in_bfloat16],
        }
        arrays = {"trainer": self.trainer.state()}
        if self.best_state is not None:
            arrays["best"] = to_numpy_state(self.best_state)
        return description, arrays

    def load_state(self, description: dict[str, Any], arrays: dict[str, Any]) -> None:
        """Restore the `state` of another fit; the next epochs are then bit-identical.

        Raises
        ------
        ValueError, TypeError, KeyError
            If a value is not one that `state` returns. The file may be damaged, or from anybody.
        """
        random_state = _check_random_state(description["random_state"])
        curve, scores = description["loss_curve"], description["validation_scores"]
        _check_curve(curve, "loss_curve")
        if scores is not None:
            _check_curve(scores, "validation_scores", allows_nan=not self.early_stopping)
            if len(scores) != len(curve):
                raise ValueError(f"it has {len(scores)} validation_scores for {len(curve)} epochs")
        elif self.early_stopping:
            raise ValueError("it has no validation_scores, which early stopping needs")
        # The scores determine what patience has seen.
        patience = replace(self.patience, best_score=-np.inf, n_waited=0)
        for score in scores if self.early_stopping else (-loss for loss in curve):
            patience.update(score)
        if description["patience"] != [patience.best_score, patience.n_waited]:
            raise ValueError("its patience does not match its scores")
        if type(description["stopped"]) is not bool:
            raise TypeError(f"stopped is {description['stopped']!r:.50}, not true or false")
        has_precision = "in_bfloat16" in description  # the first checkpoints do not have it
        in_bfloat16 = check_operations(description["in_bfloat16"]) if has_precision else ()
        self.trainer.load_state(arrays["trainer"])
        self.in_bfloat16, self.has_precision = in_bfloat16, has_precision
        self.batches.random_state.set_state(random_state)
        self.loss_curve, self.validation_scores = curve, scores
        self.patience, self.stopped = patience, description["stopped"]
        self.best_state = to_torch_state(arrays["best"]) if "best" in arrays else None


def _check_curve(values: Any, name: str, *, allows_nan: bool = False) -> None:
    """Check for a list of at least one finite number, as JSON holds it."""
    if not isinstance(values, list) or not values or not all(type(v) is float for v in values):
        raise TypeError(f"its {name} is not a list of numbers")
    if not all(math.isfinite(v) or (allows_nan and math.isnan(v)) for v in values):
        raise ValueError(f"its {name} is not finite")


def _check_random_state(values: Any) -> tuple[Any, ...]:
    """Return the state of a Mersenne twister; numpy would read memory beyond a wrong position."""
    if not isinstance(values, list) or len(values) != 5:
        raise TypeError("its random_state is not a list of five values")
    name, key, position, has_gauss, gauss = values
    is_right = (
        name == "MT19937"
        and isinstance(key, list)
        and len(key) == 624
        and all(type(word) is int and 0 <= word < 2**32 for word in key)
        and any(key)
        and type(position) is int
        and 0 <= position <= 624
        and has_gauss in (0, 1)
        and type(gauss) is float
        and math.isfinite(gauss)
    )
    if not is_right:
        raise ValueError("its random_state is not one of a Mersenne twister")
    return name, np.asarray(key, dtype=np.uint32), position, int(has_gauss), gauss
