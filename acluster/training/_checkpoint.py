"""The state of a fit, kept in a folder while it goes on, so that a killed one can go on later."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster._utils._model_file import ModelFileError, Tensors, open_model, write_model
from acluster.sets import FeatureSets
from acluster.training._device import resolve_device, to_numpy_state, to_torch_state
from acluster.training._trainer import Patience, Trainer

__all__ = ["Checkpoint", "check_resumable", "identity_of"]

# Writing takes no more than a tenth of the time.
_PAUSE = 10
_ITEMS_PER_STEP = 4096
_N_LOOKED_AT = 16  # items of a store, of which the features are told apart


def check_resumable(estimator: Any) -> None:
    """Raise a ValueError unless a fit draws the same when it begins anew."""
    if not isinstance(estimator.random_state, Integral):
        raise ValueError(
            "checkpoint_dir needs an int as random_state, so that a resumed fit draws what the "
            f"first one drew; it is {estimator.random_state!r}. Set random_state=0."
        )
    if estimator.warm_start:
        raise ValueError(
            "checkpoint_dir does not go with warm_start=True, which has epochs of its own to go "
            "on from. Use one of the two."
        )


def identity_of(estimator: Any, **data: Any) -> dict[str, str]:
    """What the epochs of a fit depend on: parameters, device, and parts of the data by name."""
    parameters = estimator.get_params(deep=False)
    for name in ("max_iter", "verbose", "warm_start", "device"):
        del parameters[name]
    parameters["device"] = resolve_device(estimator.device)
    identity = {name: _text(value) for name, value in parameters.items()}
    return {"class": type(estimator).__name__, **identity} | {
        name: _digest(*part) for name, part in data.items()
    }


class Checkpoint:
    """A file that holds the last epoch of one fit.

    Parameters
    ----------
    folder : str or path
        Where the file is; it is made if it is not there.

    identity : dict of str to str
        What the fit depends on. A file of another identity is refused.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: dict[str, str]) -> None:
        self.path = Path(folder) / "fit.checkpoint"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _remove_torn(self.path)
        self._identity = identity
        self._not_before = 0.0

    def restore(self, estimator: Any, trainer: Trainer, patience: Patience) -> tuple[Any, bool]:
        """Bring all to the epoch that was kept, if any.

        Returns
        -------
        (dict or None, bool)
            The parameters of the best epoch, where these are kept, and whether a callback had
            stopped the fit.
        """
        if not self.path.exists():
            return None, False
        with open_model(self.path) as (description, tensors):
            self._check_identity(description.get("identity"))
            self._check_epochs(description.get("loss_curve"), estimator.max_iter)
            try:
                return self._restored(description, tensors, estimator, trainer, patience)
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                raise ModelFileError(f"{self.path} is a damaged checkpoint: {error}") from error

    def _restored(
        self,
        description: dict[str, Any],
        tensors: Tensors,
        estimator: Any,
        trainer: Trainer,
        patience: Patience,
    ) -> tuple[Any, bool]:
        losses = description["loss_curve"]
        states = _nested(tensors)
        moments = states["trainer"].pop("optimizer", {})
        states["trainer"]["optimizer"] = [moments[str(i)] for i in range(len(moments))]
        trainer.load_state({**states["trainer"], "random_state": description["random_state"]})
        estimator.loss_curve_, estimator.n_iter_ = losses, len(losses)
        estimator.validation_scores_ = description["validation_scores"]
        patience.best_score, patience.n_waited = description["patience"]
        best_state = to_torch_state(states["best"]) if "best" in states else None
        return best_state, description["stopped"]

    def keep(
        self,
        estimator: Any,
        trainer: Trainer,
        patience: Patience,
        best_state: Any,
        *,
        stopped: bool,
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
            "stopped": stopped,
        }
        states = {"trainer": state}
        if best_state is not None:
            states["best"] = to_numpy_state(best_state)
        try:
            write_model(self.path, description, dict(_flat(states)))
        except OSError as error:
            warnings.warn(
                f"The checkpoint could not be written, and the training goes on without: {error}",
                stacklevel=6,
            )
        now = time.monotonic()
        self._not_before = now + _PAUSE * (now - started)

    def _check_epochs(self, losses: Any, max_iter: int) -> None:
        if isinstance(losses, list) and len(losses) > max_iter:
            raise ValueError(
                f"{self.path} has {len(losses)} epochs, and max_iter={max_iter}. Raise max_iter, "
                "or pass another checkpoint_dir."
            )

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


def _text(value: Any) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)


def _digest(modalities: dict[str, FeatureSets], *arrays: NDArray[Any]) -> str:
    """A short text that differs where sizes, labels, weights or features do.

    Of a store, which may be larger than memory, the features of a few items.
    """
    found = hashlib.sha256()

    def look_at(array: NDArray[Any]) -> None:
        found.update(np.ascontiguousarray(array).data)  # numbers: labels are encoded

    for name, sets in modalities.items():
        found.update(f"{name} {sets.n_features} {sets.dtype}".encode())
        look_at(sets.lengths)
        n_items = len(sets)
        looked_at = (
            (slice(i, i + _ITEMS_PER_STEP) for i in range(0, n_items, _ITEMS_PER_STEP))
            if sets.in_memory
            else [np.unique(np.linspace(0, n_items - 1, _N_LOOKED_AT).astype(int))]
        )
        for items in looked_at:
            look_at(sets[items].packed()[0])
    for array in arrays:
        look_at(array)
    return found.hexdigest()[:16]


def _remove_torn(path: Path) -> None:
    """Remove what processes that are gone have left half written."""
    for torn in path.parent.glob(f".{path.name}.*.tmp"):
        pid = torn.name.removeprefix(f".{path.name}.").split(".")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            torn.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Whether another process has this number."""
    if pid == os.getpid() or os.name != "posix":  # such a signal would end it elsewhere
        return pid != os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # of another user
    return True


def _flat(state: Any, name: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Arrays of nested dicts and lists, by names such as "optimizer.0.step"."""
    if isinstance(state, np.ndarray):
        yield name, state if state.dtype.kind == "f" else state.astype(np.int64)
        return
    for key, part in state.items() if isinstance(state, dict) else enumerate(state):
        yield from _flat(part, f"{name}{'.' if name else ''}{str(key).replace('.', '/')}")


def _nested(arrays: Tensors) -> Any:
    """The inverse of `_flat`; lists are dicts with their places as keys."""
    tree: dict[str, Any] = {}
    for name in arrays:
        *parents, last = name.split(".")
        part = tree
        for parent in parents:
            part = part.setdefault(parent.replace("/", "."), {})
        part[last.replace("/", ".")] = arrays[name]
    return tree
