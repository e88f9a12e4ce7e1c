"""Calls to the kernels that Numba compiles, where it is installed (the extra "fast")."""

from __future__ import annotations

import importlib
import importlib.util
import os
import threading
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["available_for", "run"]

_INSTALLED = importlib.util.find_spec("numba") is not None
_lock = threading.Lock()  # one of Numba's ways to run threads allows one caller at a time


def available_for(*tensors: Tensor) -> bool:
    """Whether kernels can take these: all float32 or all float64, on a CPU."""
    dtype = tensors[0].dtype
    return (
        _INSTALLED
        and dtype in (torch.float32, torch.float64)
        and all(tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in tensors)
        and bool(_kernels())
    )


def run(kernel: str, *tensors: Tensor) -> None:
    """Call a kernel of `_numba_kernels` with as many threads as torch has."""
    numba = importlib.import_module("numba")
    arrays = [tensor.detach().numpy() for tensor in tensors]
    with _lock:
        n_threads = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        try:
            _kernels()[kernel](*arrays)
        finally:
            numba.set_num_threads(n_threads)


@cache
def _kernels() -> dict[str, Any]:
    """The kernels by name; none if Numba does not work here."""
    n_threads = torch.get_num_threads()
    try:
        kernels = importlib.import_module("acluster.nn._numba_kernels")
        importlib.import_module("numba").get_num_threads()  # starts its threads, if none are there
    except Exception as error:  # it refuses versions of numpy that it does not know
        warnings.warn(
            f"Numba is installed but does not work: {error}. Computing without it, more slowly.",
            stacklevel=2,
        )
        return {}
    torch.set_num_threads(n_threads)  # both use one OpenMP, which Numba sets to all processors
    return {name: getattr(kernels, name) for name in kernels.__all__}


def _do_without() -> None:
    """In the child of a fork, threads of Numba's would end the process."""
    global _INSTALLED, _lock
    _INSTALLED, _lock = False, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_do_without)
