"""Checkpoints: the state of a running fit on disk, from which a killed fit resumes."""

import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster._utils._model_file import ModelFileError, Tensors, open_model, write_model
from acluster.sets import FeatureSets, pieces
from acluster.training._fit import Fit
from acluster.training._ranks import ALONE, Ranks

# After a write that took t seconds, none follows for 10 t: writing takes at most a tenth.
_PAUSE_FACTOR = 10
_NUMBERS_PER_PIECE = 1 << 22
_N_STORED_ITEMS_READ = 16


def check_resumable(random_state: Any, warm_start: bool) -> None:
    """Raise a ValueError unless a second call of fit would draw the same random numbers."""
    if not isinstance(random_state, Integral):
        raise ValueError(
            "checkpoint_dir needs an int as random_state, so that a resumed fit draws the same "
            f"random numbers; it is {random_state!r}. Set random_state=0."
        )
    if warm_start:
        raise ValueError(
            "checkpoint_dir cannot be combined with warm_start=True, which continues from the "
            "weights in memory. Use one of the two."
        )


class Checkpoint:
    """A file that holds the last epoch of one fit.

    Parameters
    ----------
    folder : str or path
        The folder of the file. It is created if it does not exist.

    identity : dict of str to str
        Everything that affects the weights. A file with a different identity raises an error.

    ranks : Ranks, optional
        The processes of the fit, which must call all methods together. Rank 0 reads and writes
        the file; the folder and the identity of the others do not matter.
    """

    def __init__(
        self, folder: str | os.PathLike[str], identity: dict[str, str], ranks: Ranks = ALONE
    ) -> None:
        if not isinstance(folder, str | os.PathLike):
            raise TypeError(f"checkpoint_dir={folder!r:.80} is not the path of a folder.")
        if "://" in str(folder):  # else a folder called "s3:" would be made
            raise ValueError(
                "checkpoint_dir is the address of object storage, but checkpoints are files. Pass "
                "a folder."
            )
        self.path = Path(folder) / "fit.checkpoint"
        self._identity = identity
        self._ranks = ranks
        self._not_before = 0.0
        if ranks.rank == 0:
            if Path(folder).exists() and not Path(folder).is_dir():
                raise NotADirectoryError(
                    f"checkpoint_dir={os.fspath(folder)!r} is a file. Pass a folder; fit makes it "
                    "if it does not exist."
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_torn(self.path)

    def restore(self, fit: Fit, max_iter: int) -> None:
        """Restore a new fit to the last epoch in the file, if the file exists.

        Raises
        ------
        ValueError
            If the file belongs to another fit, or holds more than `max_iter` epochs.

        acluster.ModelFileError
            If it is damaged.
        """
        if not self._ranks.same(self.path.exists()):
            return
        expected = fit.state()[1]  # all ranks together
        state: Any = None
        if self._ranks.rank == 0:
            state = self._load(fit, expected, max_iter)
        state = self._ranks.same(state)
        if self._ranks.rank > 0:
            fit.load_state(*state)

    def _load(
        self, fit: Fit, expected: dict[str, Any], max_iter: int
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Restore a fit whose state has the names and shapes of `expected`; return its state."""
        with open_model(self.path) as (description, tensors):
            self._check_identity(description.get("identity"))
            self._check_epochs(description.get("loss_curve"), max_iter)
            try:
                _check_specs(tensors, expected, fit.early_stopping)
                arrays = _nested(tensors)
                moments = arrays["trainer"].pop("optimizer", {})
                arrays["trainer"]["optimizer"] = [moments[str(i)] for i in range(len(moments))]
                _check_ranges(arrays["trainer"])
                fit.load_state(description, arrays)
                return description, arrays
            except (KeyError, TypeError, ValueError, RuntimeError) as error:
                reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise ModelFileError(
                    f"{self.path} is a damaged checkpoint: {reason:.500}. Delete it to start over."
                ) from error

    def keep(self, fit: Fit, *, is_last: bool) -> None:
        """Write the fit, unless a recent write took long and more epochs follow."""
        started = time.monotonic()
        if not self._ranks.same(started >= self._not_before or is_last):
            return
        if self._ranks.rank == 0 or fit.is_split:
            state = fit.state()
        if self._ranks.rank == 0:
            self._write(*state, started)

    def _write(self, description: dict[str, Any], arrays: dict[str, Any], started: float) -> None:
        """Write a state that was made from the time `started`."""
        try:
            write_model(self.path, {"identity": self._identity, **description}, dict(_flat(arrays)))
        except OSError as error:
            # A full disk must not cost the epochs that are in memory.
            warnings.warn(
                f"The checkpoint could not be written; training continues without it: {error}",
                stacklevel=10,
            )
        now = time.monotonic()
        self._not_before = now + _PAUSE_FACTOR * (now - started)

    def _check_epochs(self, losses: Any, max_iter: int) -> None:
        if isinstance(losses, list) and len(losses) > max_iter:
            raise ValueError(
                f"{self.path} has {len(losses)} epochs, but max_iter={max_iter}. Raise max_iter, "
                "or pass another folder for checkpoints."
            )

    def _check_identity(self, found: Any) -> None:
        if not isinstance(found, dict):
            raise ModelFileError(f"{self.path} is a model file, not a checkpoint.")
        if not all(isinstance(value, str) for value in found.values()):
            raise ModelFileError(f"{self.path} is a damaged checkpoint: its identity is not text.")
        names = [*self._identity, *(name for name in found if name not in self._identity)]
        differing = [
            f"{name if name in self._identity else repr(name):.60} was "
            f"{_shown(found, name)}, now {_shown(self._identity, name)}"
            for name in names[: len(self._identity) + 3]  # a hostile file may have many more
            if found.get(name) != self._identity.get(name)
        ]
        if differing:
            raise ValueError(
                f"{self.path} is the checkpoint of a different fit: {'; '.join(differing)}. Pass "
                "another folder for checkpoints, or delete that file to start over."
            )


def _shown(identity: Mapping[str, str], name: str) -> str:
    return f"{identity[name]!r:.60}" if name in identity else "unset"


def data_digest(modalities: Mapping[str, FeatureSets], *arrays: NDArray[Any]) -> str:
    """Return a digest of the sizes, labels, weights and features.

    A store may be larger than memory, so only a few of its items are read.
    """
    digest = hashlib.sha256()

    def add(array: NDArray[Any]) -> None:
        digest.update(np.ascontiguousarray(array).data)

    for name, sets in modalities.items():
        digest.update(f"{name} {sets.n_features} {sets.dtype}".encode())
        add(sets.lengths)
        if not sets.in_memory:
            sets = sets[np.unique(np.linspace(0, len(sets) - 1, _N_STORED_ITEMS_READ).astype(int))]
        for piece in pieces(sets, max(1, _NUMBERS_PER_PIECE // sets.n_features)):
            add(piece)
    for array in arrays:
        add(array)
    return digest.hexdigest()[:16]


def _check_specs(tensors: Tensors, expected: dict[str, Any], early_stopping: bool) -> None:
    """Compare names, shapes and dtypes with those of the new fit, before any values are read."""
    own = {name: (array.shape, array.dtype.name) for name, array in _flat(expected)}
    if early_stopping:
        prefix = "trainer.network."
        weights = {name: spec for name, spec in own.items() if name.startswith(prefix)}
        own |= {f"best.{name.removeprefix(prefix)}": spec for name, spec in weights.items()}
    for name, spec in own.items():
        if tensors.spec(name) != spec:
            raise ModelFileError(
                f"the tensor {name!r:.100} has the shape and dtype {tensors.spec(name)}; expected "
                f"{spec}"
            )
    if unexpected := set(tensors) - set(own):
        raise ModelFileError(f"it has the unexpected tensor {min(unexpected)!r:.100}")


def _check_ranges(trainer: dict[str, Any]) -> None:
    """Raise a ValueError for numbers that no training leaves behind."""
    generator = trainer["generator"]
    if generator.min() < 0 or generator.max() > 255:
        raise ValueError("the state of its generator is not bytes")
    for moments in trainer["optimizer"]:
        if min(moments["square_mean"].min(), moments["step"].min()) < 0:
            raise ValueError("a running average or a step of its optimizer is negative")


def _remove_torn(path: Path) -> None:
    """Remove the unfinished files of processes that no longer run."""
    for torn in path.parent.glob(f".{path.name}.*.tmp"):
        pid = torn.name.removeprefix(f".{path.name}.").split(".")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            torn.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    """Return whether another process has this process ID."""
    # A file with our own ID is from an earlier process: in a container, IDs start from 1 again.
    # Outside of POSIX, os.kill would end the process instead of testing for it.
    if pid == os.getpid() or os.name != "posix":
        return pid != os.getpid()
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it belongs to another user
    return True


def _flat(state: Any, name: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of nested dicts and lists with names such as "optimizer.0.step"."""
    if isinstance(state, np.ndarray):
        yield name, state if state.dtype.kind == "f" else state.astype(np.int64)
        return
    for key, part in state.items() if isinstance(state, dict) else enumerate(state):
        # Parameter names contain dots, which separate the levels here.
        yield from _flat(part, f"{name}{'.' if name else ''}{str(key).replace('.', '/')}")


def _nested(arrays: Tensors) -> Any:
    """Invert `_flat`; lists become dicts with their indices as keys."""
    tree: dict[str, Any] = {}
    for name in arrays:
        *parents, last = name.split(".")
        part = tree
        for parent in parents:
            part = part.setdefault(parent.replace("/", "."), {})
        part[last.replace("/", ".")] = arrays[name]
    return tree
