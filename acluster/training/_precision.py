"""Where bfloat16 pays: each operation is timed in both precisions, once per machine and size.

Timings vary, but the same seed has to give the same bits. The first measurement therefore counts:
it is kept in the process, and in a file that later processes read.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import statistics
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acluster._utils._memory import Pool
from acluster._utils._operations import OPERATIONS, choosing_bfloat16

# An operation that gains less stays in full precision: a measurement may be wrong by as much.
MIN_GAIN = 1.1

# Rounds of one step in each precision. After the first ones, none begins once the time is up.
_MIN_ROUNDS, _MAX_ROUNDS, _MAX_SECONDS = 3, 9, 0.15
# A ratio beyond these is an error of the clock. A file that holds one was not written here.
_SMALLEST, _LARGEST = 1e-3, 1e3

# Raise it when the code that is timed changes, so that what older versions measured is not used.
_VERSION = 3
_MAX_FILE_BYTES = 1 << 10

# The gains that this process has measured or read, by their keys. One thread measures at a time.
_gains: dict[str, float] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Trial:
    """An operation of a network, to be timed in both precisions.

    Parameters
    ----------
    key : mapping of str to object
        What the times depend on, beside the machine and torch: JSON values.

    make : callable
        Returns ``(forward, backward)``. ``forward()`` runs the operation and returns its output,
        from which ``backward(output)`` computes the gradients.
    """

    key: Mapping[str, Any]
    make: Callable[[], tuple[Callable[[], Tensor], Callable[[Tensor], None]]]


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device has instructions for products in bfloat16.

    Others only emulate them.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def multiplying_in_bfloat16(
    device: torch.device, operations: Collection[str]
) -> AbstractContextManager[None]:
    """Let a network run some operations in bfloat16 in the context, if its device has bfloat16.

    Parameters
    ----------
    device : torch.device
        The device of the network.

    operations : collection of str
        Names in `OPERATIONS`. They may have been chosen on another machine.
    """
    if operations and has_bfloat16(device):
        return choosing_bfloat16(operations)
    return nullcontext()


def check_operations(names: Any) -> tuple[str, ...]:
    """Return a list of operations from a file that anybody may have written.

    Raises
    ------
    ValueError
        If it is not a list of different names in `OPERATIONS`, in their order.
    """
    known = isinstance(names, list) and [one for one in OPERATIONS if one in names]
    if not isinstance(names, list) or known != names:
        raise ValueError(
            f"its operations in bfloat16 are {names!r:.80}, not some of {[*OPERATIONS]} in this "
            "order"
        )
    return tuple(names)


def bfloat16_gain(trial: Trial) -> float:
    """Return how many times as fast an operation is in bfloat16 as in full precision.

    The operation is timed the first time only: later calls, also of other processes, get the same
    number. If the folder of the cache cannot be written, the number holds for this process.

    Raises
    ------
    Exception
        What the trial raises. Nothing is kept then.
    """
    machine = {
        "version": _VERSION,
        "torch": torch.__version__,
        "processor": dict(torch.cpu.get_capabilities()),
        "threads": torch.get_num_threads(),
    }
    key = json.dumps({**machine, **trial.key}, sort_keys=True)
    with _lock:
        if key not in _gains:
            _gains[key] = _kept_gain(key, trial)
        return _gains[key]


def _kept_gain(key: str, trial: Trial) -> float:
    """Return the gain in the file of this key; measure and write it if there is none."""
    path = _path(key)
    if path is None:
        return _measure(trial)
    if (found := _read(path)) is not None:
        return found
    gain = _measure(trial)
    with suppress(OSError):  # the choice then holds for this process
        _write(path, gain)
    # Another process may have been first, and its measurement counts for both.
    found = _read(path)
    return gain if found is None else found


def _path(key: str) -> Path | None:
    """Return the file of a key in the user's cache folder; None if there is no such folder."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    try:
        folder = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:  # a user without a home
        return None
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    return folder / "acluster" / "bfloat16" / f"{name}.json"


def _read(path: Path) -> float | None:
    """Return the gain in a file; None if the file does not exist or is damaged."""
    # Not to wait for the other end of a pipe that takes the place of the file.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            gain = json.loads(file.read(_MAX_FILE_BYTES))["gain"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return gain if type(gain) is float and _SMALLEST <= gain <= _LARGEST else None


def _write(path: Path, gain: float) -> None:
    """Write a file unless a valid one exists.

    A link appears at once with its content, and never replaces a file. Of several processes that
    measure at the same time, the first one thus decides.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"gain": gain})
    own = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")
    try:
        if os.path.lexists(path) and not path.is_dir() and _read(path) is None:
            with suppress(FileNotFoundError):  # another process took it away
                _take_away(path, own)
        own.write_text(content)
        _link(own, path, content)
    finally:
        own.unlink(missing_ok=True)


def _take_away(path: Path, to: Path) -> None:
    """Remove a damaged file, unless another process has replaced it by a valid one meanwhile."""
    os.replace(path, to)
    if (gain := _read(to)) is not None:
        _link(to, path, json.dumps({"gain": gain}))
    to.unlink()


def _link(own: Path, path: Path, content: str) -> None:
    """Give a file a second name, unless this name is taken."""
    try:
        os.link(own, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links, on which the file is empty for a moment
        with suppress(FileExistsError), path.open("x") as file:
            file.write(content)


def _measure(trial: Trial) -> float:
    """Time an operation in both precisions, and return how much faster bfloat16 is.

    The gain is the median over interleaved rounds: that of a whole step or, if smaller, that of
    its forward pass, which is all that predictions need.
    """
    # An operation of the user's may draw from torch's global generator.
    with torch.random.fork_rng(devices=[]), Pool().active():
        step = trial.make()
        for operations in ((), OPERATIONS):  # compiles and caches
            _seconds(step, operations)
        ratios: list[tuple[float, ...]] = []
        end = _now() + _MAX_SECONDS
        while len(ratios) < (_MAX_ROUNDS if _now() < end else _MIN_ROUNDS):
            # Each precision is first in every other round, so that a drift cancels.
            order = ((), OPERATIONS) if len(ratios) % 2 else (OPERATIONS, ())
            seconds = {operations: _seconds(step, operations) for operations in order}
            pairs = zip(seconds[()], seconds[OPERATIONS], strict=True)
            ratios.append(tuple(full / mixed for full, mixed in pairs))
    gain = min(map(statistics.median, zip(*ratios, strict=True)))
    return min(max(float(gain), _SMALLEST), _LARGEST)


def _now() -> float:
    """Return the processor time of the thread if torch uses no others, else the time.

    Only the latter counts the waiting for other processes, which share the processor in turns of
    several milliseconds.
    """
    # The processor time of Windows moves in steps of 16 ms.
    is_alone = torch.get_num_threads() == 1 and os.name == "posix"
    return time.thread_time() if is_alone else time.perf_counter()


def _seconds(
    step: tuple[Callable[[], Tensor], Callable[[Tensor], None]], operations: tuple[str, ...]
) -> tuple[float, float]:
    """Return the seconds of a forward pass, and of a whole step."""
    forward, backward = step
    started = _now()
    with choosing_bfloat16(operations):
        output = forward()
    passed = _now()
    backward(output)
    smallest = 1e-9  # a coarse clock may not have moved
    return max(passed - started, smallest), max(_now() - started, smallest)


def _replace_lock() -> None:
    """Another thread of the parent may have held the lock of a forked child."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_replace_lock)
