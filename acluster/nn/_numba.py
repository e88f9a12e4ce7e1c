"""Calls to the kernels that Numba compiles, where it is installed (the extra "fast")."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["available_for", "run"]

_INSTALLED = importlib.util.find_spec("numba") is not None


def available_for(*tensors: Tensor) -> bool:
    """Whether kernels can take these: all float32 or all float64, on a CPU."""
    dtype = tensors[0].dtype
    return (
        _INSTALLED
        and dtype in (torch.float32, torch.float64)
        and all(tensor.device.type == "cpu" and tensor.dtype == dtype for tensor in tensors)
    )


def run(kernel: str, *tensors: Tensor) -> None:
    """Call a kernel of `_numba_kernels` with as many threads as torch has."""
    numba = importlib.import_module("numba")
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    _kernels()[kernel](*[tensor.detach().numpy() for tensor in tensors])


@cache
def _kernels() -> dict[str, Any]:
    kernels = importlib.import_module("acluster.nn._numba_kernels")
    return {name: getattr(kernels, name) for name in kernels.__all__}
