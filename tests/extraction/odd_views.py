"""Views that crash, hang and fail, for tests of the processes that read files.

The processes import this module, so it imports nothing that is slow to import.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class ByName:
    """Reads the numbers of a text file, unless the name of the file says what else to do."""

    seconds: float = 60.0

    def read(self, path):
        kind = Path(path).name.partition("_")[0]
        if kind != "good":
            getattr(self, f"_{kind}")()
        return np.loadtxt(path, ndmin=2), {"seconds": np.zeros(1)}

    def _crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def _memory(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def _exit(self):
        os._exit(3)

    def _interrupted(self):
        for kind in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), kind)

    def _slow(self):
        time.sleep(self.seconds)

    def _bad(self):
        raise ValueError("bad numbers")

    def _odd(self):
        raise OddError("a", "b")

    def _bug(self):
        raise LookupError("a bug of the view")


class OddError(ValueError):
    """An error that pickle takes, and cannot make again."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@dataclass(frozen=True)
class Announced:
    """Writes the number of its process beside the file, then sleeps, maybe with the GIL."""

    holds_lock: bool = False

    def read(self, path):
        Path(f"{path}.pid").write_text(str(os.getpid()))
        if self.holds_lock:
            ctypes.PyDLL(None).sleep(300)  # as a codec does that never returns
        time.sleep(300)


class Modules:
    """Tells which modules the process has imported, and how many threads torch may use."""

    def read(self, path):
        torch = sys.modules.get("torch")
        n_threads = torch.get_num_threads() if torch else 0
        found = [name in sys.modules for name in ("torch", "sklearn", "zarr", "av")]
        return np.array([[*found, n_threads, os.getpid()]], float), None


class Locked:
    """Holds a lock, which cannot be pickled."""

    def __init__(self):
        self.lock = threading.Lock()

    def read(self, path):
        return None


@dataclass(frozen=True)
class Unmakeable:
    """Is pickled, and raises when it is made again."""

    def __reduce__(self):
        return _raise, ()

    def read(self, path):
        return None


def _raise():
    raise KeyError("missing")
