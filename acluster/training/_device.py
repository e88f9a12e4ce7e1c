"""Where the computation runs, and how fitted state leaves and enters it."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

__all__ = [
    "autocast",
    "is_faster_in_bfloat16",
    "make_generator",
    "resolve_device",
    "to_numpy_state",
    "to_torch_state",
]


if hasattr(os, "register_at_fork"):
    # The child of a fork has none of OpenMP's threads, and would wait for them for ever.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def resolve_device(device: str) -> torch.device:
    """The torch device that `device` names; "auto" is a GPU when there is one.

    Raises
    ------
    ValueError
        If the name is not a device's, or no such device is there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device={device!r} is not the name of a device; use 'auto', 'cpu', 'cuda' or 'cuda:1'."
        ) from None
    if not _is_available(resolved):
        raise ValueError(
            f"device={device!r} is not there; torch sees {_available_devices()}. Use "
            "device='auto', or install torch for your GPU."
        )
    return resolved


def _is_available(device: torch.device) -> bool:
    """Whether tensors can live on `device` on this machine."""
    if device.type == "cuda":
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def _available_devices() -> list[str]:
    names = ["cpu", "mps", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    return [name for name in names if _is_available(torch.device(name))]


def is_faster_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies faster in bfloat16 than in float32.

    An Intel processor with bfloat16 vectors but without its matrix unit (AMX) does not: there
    torch's products take longer than those of float32 (`tests/benchmarks/speed.py` prints
    both speeds).
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        able = torch.cpu.get_capabilities()
        is_intel = "Intel" in able.get("cpu_name", "")
        names = ("amx_bf16", "bf16") if is_intel else ("avx512_bf16", "amx_bf16", "bf16")
        return any(able.get(name, False) for name in names)
    return False


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Within it products are in bfloat16 if `precision` is "mixed" and that is faster."""
    if precision == "mixed" and is_faster_in_bfloat16(device):
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


def make_generator(
    random_state: np.random.RandomState, device: torch.device | str
) -> torch.Generator:
    """A generator of torch on `device`, seeded by the next number of `random_state`."""
    seed = int(random_state.randint(np.iinfo(np.int32).max))
    return torch.Generator(device).manual_seed(seed)


def to_numpy_state(state: Any) -> Any:
    """A state dict of any nesting with every tensor as a numpy array, off the device."""
    return _map_state(state, torch.Tensor, lambda tensor: tensor.detach().cpu().numpy().copy())


def to_torch_state(state: Any) -> Any:
    """The inverse of `to_numpy_state`, on the CPU."""
    return _map_state(state, np.ndarray, lambda array: torch.from_numpy(array.copy()))


def _map_state(state: Any, kind: type, convert: Any) -> Any:
    if isinstance(state, kind):
        return convert(state)
    if isinstance(state, dict):
        return {key: _map_state(value, kind, convert) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_map_state(value, kind, convert) for value in state)
    return state
