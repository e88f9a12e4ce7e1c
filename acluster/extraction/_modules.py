"""Torch modules as feature extractors: their preprocessing, their device and their checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class ModuleBackbone:
    """A torch module on a device, in inference mode.

    Parameters
    ----------
    module : torch.nn.Module
        Takes a tensor (B, ...) with the data type of the view, or what `prepare` returns.

    device : str
        The device. "auto" is a GPU if there is one.

    prepare : callable, optional
        Turns a batch, an array (B, ...), and the device into the input of the module.

    forward : callable, optional
        Turns this input into a tensor of features. By default the module itself.

    sample_rate : int, optional
        The samples per second of the sound that it takes.

    details : dict of str to str, optional
        What the description of an extraction tells beside the checksum of the weights.
    """

    def __init__(
        self,
        module: Any,
        device: str,
        *,
        prepare: Callable[[Any, Any], Any] | None = None,
        forward: Callable[[Any], Any] | None = None,
        sample_rate: int | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        from acluster.training import resolve_device

        self.device = resolve_device(device)
        self.module = module.eval().to(self.device)
        self.sample_rate = sample_rate
        self._prepare = prepare or tensor_on
        self._forward = forward or self.module
        self._details = details or {}

    @property
    def description(self) -> dict[str, str]:
        """What distinguishes the network from others of the same name."""
        return {"weights": weights_checksum(self.module), **self._details}

    def __call__(self, batch: Any) -> Any:
        """Return the features of a batch, as a tensor (B, D) or (B, T, D)."""
        import torch

        with torch.inference_mode():
            return self._forward(self._prepare(batch, self.device))


def tensor_on(batch: Any, device: Any) -> torch.Tensor:
    """Return an array as a tensor on a device.

    Parameters
    ----------
    batch : ndarray of shape (B, ...)
        The array.

    device : torch.device or str
        The device.

    Returns
    -------
    torch.Tensor of shape (B, ...)
        With the data type of the array.
    """
    import torch

    return torch.from_numpy(np.ascontiguousarray(batch)).to(device)


def local_features(maps: torch.Tensor) -> torch.Tensor:
    """Turn maps with the channels first into local features.

    Parameters
    ----------
    maps : torch.Tensor of shape (B, D), (B, T, D) or (B, D, height, width)
        What a network returns. Maps may have more axes, such as time.

    Returns
    -------
    torch.Tensor of shape (B, D) or (B, T, D)
        A map has a local feature for each place, row by row.
    """
    return maps if maps.ndim < 4 else maps.flatten(2).transpose(1, 2)


def weights_checksum(module: torch.nn.Module) -> str:
    """Return a checksum of the weights of a module.

    Parameters
    ----------
    module : torch.nn.Module
        The module, on any device.

    Returns
    -------
    str
        The first 16 hexadecimal digits of a SHA-256 of the names and values.
    """
    digest = hashlib.sha256()
    for key, value in module.state_dict().items():
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).tobytes())
    return digest.hexdigest()[:16]
