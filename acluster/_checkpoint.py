"""The state of a fit, kept in a folder while it goes on, so that a killed one can go on later."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster._model_file import ModelFileError, read_model, write_model
from acluster.sets import FeatureSets
from acluster.training import Patience, Trainer, to_numpy_state, to_torch_state

__all__ = ["Checkpoint", "digest"]

# Writing takes no more than a tenth of the time.
_PAUSE = 10
_N_LOOKED_AT = 16  # items whose features are told apart


class Checkpoint:
    """A file that holds the last epoch of one fit.

    Parameters
    ----------
    folder : str or path
        Where the file is; it is made if it is not there.

    identity : dict
        What the fit depends on. A file of another identity is refused.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: dict[str, Any]) -> None:
        self.path = Path(folder) / "fit.checkpoint"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for torn in self.path.parent.glob(f".{self.path.name}.*.tmp"):
            torn.unlink(missing_ok=True)
        self._identity = json.loads(json.dumps(identity))
        self._not_before = 0.0

    def restore(self, estimator: Any, trainer: Trainer, patience: Patience) -> Any:
        """Bring all to the epoch that was kept, if any; gives the state of the best one."""
        if not self.path.exists():
            return None
        description, tensors = read_model(self.path)
        self._check_identity(description.get("identity"))
        states = _nested(tensors)
        moments = states["trainer"].pop("optimizer", {})
        states["trainer"]["optimizer"] = [moments[str(i)] for i in range(len(moments))]
        trainer.load_state({**states["trainer"], "random_state": description["random_state"]})
        estimator.loss_curve_ = description["loss_curve"]
        estimator.n_iter_ = len(estimator.loss_curve_)
        estimator.validation_scores_ = description["validation_scores"]
        estimator.best_validation_score_ = max(description["validation_scores"] or [], default=None)
        patience.best_score, patience.n_waited = description["patience"]
        return to_torch_state(states["best"]) if "best" in states else None

    def keep(
        self,
        estimator: Any,
        trainer: Trainer,
        patience: Patience,
        best_state: Any,
        *,
        is_last: bool,
    ) -> None:
        """Write the file, unless that was done a moment ago and more epochs follow."""
        started = time.monotonic()
        if started < self._not_before and not is_last:
            return
        state = trainer.state()
        name, key, *numbers = state.pop("random_state")
        description = {
            "identity": self._identity,
            "random_state": [name, key.tolist(), *numbers],
            "loss_curve": estimator.loss_curve_,
            "validation_scores": estimator.validation_scores_,
            "patience": [patience.best_score, patience.n_waited],
        }
        states = {"trainer": state}
        if best_state is not None:
            states["best"] = to_numpy_state(best_state)
        write_model(self.path, description, dict(_flat(states)))
        now = time.monotonic()
        self._not_before = now + _PAUSE * (now - started)

    def _check_identity(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise ModelFileError(f"{self.path} is a model file and no checkpoint.")
        differing = [
            f"{name} was {found.get(name)!r:.60}, is {self._identity.get(name)!r:.60}"
            for name in {**self._identity, **found}
            if found.get(name) != self._identity.get(name)
        ]
        if differing:
            raise ValueError(
                f"{self.path} is the checkpoint of another fit: {'; '.join(differing)}. Pass "
                "another checkpoint_dir, or delete that file to begin anew."
            )


def digest(modalities: dict[str, FeatureSets], *arrays: NDArray[Any]) -> str:
    """A short text that differs where sizes, labels, weights or some of the features do."""
    found = hashlib.sha256()
    for name, sets in modalities.items():
        found.update(f"{name} {sets.n_features} {sets.dtype}".encode())
        found.update(np.ascontiguousarray(sets.lengths))
        chosen = np.unique(np.linspace(0, len(sets) - 1, _N_LOOKED_AT).astype(int))
        found.update(np.ascontiguousarray(sets[chosen].packed()[0]))
    for array in arrays:
        found.update(np.ascontiguousarray(array))
    return found.hexdigest()[:16]


def _flat(state: Any, name: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays of nested dicts and lists, by names such as "optimizer.0.step"."""
    if isinstance(state, np.ndarray):
        yield name, state if state.dtype.kind == "f" else state.astype(np.int64)
        return
    for key, part in state.items() if isinstance(state, dict) else enumerate(state):
        yield from _flat(part, f"{name}{'.' if name else ''}{str(key).replace('.', '/')}")


def _nested(arrays: dict[str, NDArray[Any]]) -> Any:
    """The inverse of `_flat`; lists are dicts with their places as keys."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *parents, last = name.split(".")
        part = tree
        for parent in parents:
            part = part.setdefault(parent.replace("/", "."), {})
        part[last.replace("/", ".")] = array
    return tree
