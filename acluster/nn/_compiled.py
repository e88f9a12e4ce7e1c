"""Calls to the kernels that Numba compiles, if it is installed (the extra "fast")."""

import importlib
import importlib.util
import os
import threading
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

# `find_spec` locates Numba without importing it, so that `import acluster.nn` stays fast.
_INSTALLED = importlib.util.find_spec("numba") is not None
# Numba's "workqueue" threading layer aborts the process if two threads launch kernels at once.
_lock = threading.Lock()


def has_compiled_kernels() -> bool:
    """Return whether CPU kernels compiled by Numba compute what this process pools.

    They round differently from torch, which replaces them without the extra "fast" and in forked
    processes. So rows are equal to the bit only if both or neither of two processes has kernels.

    Returns
    -------
    bool

    Examples
    --------
    >>> from acluster.nn import has_compiled_kernels
    >>> isinstance(has_compiled_kernels(), bool)
    True
    """
    return _INSTALLED and bool(_kernels())


def available_for(*tensors: Tensor) -> bool:
    """Return whether the kernels support these tensors: one dtype, float32 or 64, on the CPU."""
    dtype = tensors[0].dtype
    return (
        _INSTALLED
        and dtype in (torch.float32, torch.float64)
        and all(tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in tensors)
        and bool(_kernels())
    )


def run(kernel: str, *tensors: Tensor) -> None:
    """Call a kernel of `_compiled_kernels` by name, with as many threads as torch uses."""
    numba = importlib.import_module("numba")
    arrays = [tensor.detach().numpy() for tensor in tensors]
    with _lock:
        n_threads = numba.get_num_threads()
        numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
        try:
            _kernels()[kernel](*arrays)
        finally:
            numba.set_num_threads(n_threads)


def run_alone(kernel: str, *arguments: Any) -> None:
    """Call a kernel of `_members_kernels` by name, which starts no threads and needs no lock."""
    _kernels()[kernel](*arguments)


@cache
def _kernels() -> dict[str, Any]:
    """Import the kernels by name; return none, with a warning, if Numba does not work."""
    n_threads = torch.get_num_threads()
    try:
        modules = [
            importlib.import_module("acluster.nn._compiled_kernels"),
            importlib.import_module("acluster.nn._members_kernels"),
        ]
        # Numba starts its thread pool here, if it has none yet.
        importlib.import_module("numba").get_num_threads()
    except Exception as error:  # for example, Numba rejects NumPy versions newer than itself
        warnings.warn(
            f"Numba is installed but does not work: {error}. Falling back to torch, which is "
            "slower; install a compatible version of Numba, or uninstall it.",
            stacklevel=2,
        )
        return {}
    # torch and Numba may share one OpenMP runtime. Starting Numba then sets the number of threads
    # to the number of CPUs. Restore torch's number.
    torch.set_num_threads(n_threads)
    return {name: getattr(module, name) for module in modules for name in module.__all__}


def _disable_after_fork() -> None:
    """Use torch in a forked child: GNU OpenMP ends a process that enters it after a fork.

    The lock is replaced too, because another thread of the parent may have held it.
    """
    global _INSTALLED, _lock
    _INSTALLED, _lock = False, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disable_after_fork)
