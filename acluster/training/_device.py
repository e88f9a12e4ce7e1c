"""Devices and precisions, and moving state between torch and numpy."""

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

if hasattr(os, "register_at_fork"):
    # The child of a fork inherits OpenMP's state but not its threads: it would wait for them
    # forever.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def resolve_device(device: str) -> torch.device:
    """Return the torch device of that name; "auto" is a GPU if one is available.

    Raises
    ------
    ValueError
        If the name is unknown, or the machine has no such device.
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
            f"device={device!r} is not available; torch sees {_available_devices()}. Use "
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


def resolve_dtype(dtype: str, precision: str, feature_dtypes: Iterable[np.dtype[Any]]) -> str:
    """Return the dtype of the parameters: "float32" or "float64".

    Parameters
    ----------
    dtype : {"auto", "float32", "float64"}
        "auto" follows the features: float32 for float16 and float32, else float64.

    precision : {"full", "mixed"}
        "mixed" implies float32.

    feature_dtypes : iterable of numpy.dtype
        The dtype of every modality.
    """
    if dtype != "auto":
        return dtype
    if precision == "mixed":
        return "float32"
    narrow = all(kind.kind == "f" and kind.itemsize <= 4 for kind in feature_dtypes)
    return "float32" if narrow else "float64"


def check_precision(precision: str, dtype: str) -> None:
    """Raise a ValueError if mixed precision is requested for parameters in float64."""
    if precision == "mixed" and dtype == "float64":
        raise ValueError(
            "precision='mixed' needs parameters in float32, but these are float64. Use "
            "dtype='float32' and fit again, or precision='full'."
        )


def make_generators(
    random_state: np.random.RandomState, device: torch.device | str, members: Iterable[int]
) -> list[torch.Generator]:
    """Return independent generators for numbered members, of which `random_state` draws one seed.

    The number of members therefore does not affect what `random_state` draws next. Member 0 has
    the generator that a network alone would have.
    """
    seed = int(random_state.randint(np.iinfo(np.int32).max))
    seeds = (
        int(np.random.SeedSequence([seed, member]).generate_state(1)[0]) if member else seed
        for member in members
    )
    return [torch.Generator(device).manual_seed(one) for one in seeds]


def to_numpy_state(state: Any) -> Any:
    """Return a nested state with every tensor as a numpy array, copied off the device."""
    return _map_state(state, torch.Tensor, lambda tensor: tensor.detach().cpu().numpy().copy())


def to_torch_state(state: Any) -> Any:
    """Invert `to_numpy_state`, on the CPU."""
    return _map_state(state, np.ndarray, lambda array: torch.from_numpy(array.copy()))


def _map_state(state: Any, kind: type, convert: Any) -> Any:
    if isinstance(state, kind):
        return convert(state)
    if isinstance(state, dict):
        return {key: _map_state(value, kind, convert) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_map_state(value, kind, convert) for value in state)
    return state
