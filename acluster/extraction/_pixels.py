"""Pixels as networks take them: resized, normalized, channels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acluster.extraction._modules import tensor_on

if TYPE_CHECKING:
    import torch

# Of the pixels of ImageNet, as fractions of the largest value.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LARGEST = 255
_N_COLORS = 3
_MODES = {"bilinear": "bilinear", "bicubic": "bicubic", "nearest": "nearest-exact"}


def is_pixels(batch: NDArray[Any]) -> bool:
    """Return whether a batch holds color pictures: uint8 of shape (B, H, W, 3).

    Parameters
    ----------
    batch : ndarray of shape (B, ...)
        The batch of a view.

    Returns
    -------
    bool
    """
    return batch.dtype == np.uint8 and batch.ndim == 4 and batch.shape[3] == _N_COLORS


def check_pixels(batch: NDArray[Any], name: str) -> None:
    """Check that a batch holds color pictures.

    Parameters
    ----------
    batch : ndarray of shape (B, ...)
        The batch of a view.

    name : str
        The name of the network, for the message.

    Raises
    ------
    ValueError
        If it holds something else.
    """
    if not is_pixels(batch):
        raise ValueError(
            f"{name} takes color pictures, uint8 (B, H, W, 3), not {batch.dtype} of shape "
            f"{batch.shape}. Choose a view that gives pictures, such as Frames()."
        )


def resized(
    batch: NDArray[Any],
    size: tuple[int, int] | None,
    device: Any = "cpu",
    interpolation: str = "bilinear",
) -> torch.Tensor:
    """Resize pictures, and put their channels first.

    Parameters
    ----------
    batch : ndarray of uint8, shape (B, H, W, 3)
        The pictures.

    size : tuple of (int, int), or None
        The height and the width of the result; None keeps them.

    device : torch.device or str, default="cpu"
        Where to compute.

    interpolation : str, default="bilinear"
        "bilinear", "bicubic" or "nearest", with a filter against aliasing for the first two. Other
        names mean "bicubic".

    Returns
    -------
    torch.Tensor of float32, shape (B, 3, height, width)
        From 0 to 255.
    """
    from torch.nn.functional import interpolate

    pictures = tensor_on(batch, device).permute(0, 3, 1, 2).float()
    if size is None or tuple(pictures.shape[2:]) == size:
        return pictures.contiguous()
    mode = _MODES.get(interpolation, "bicubic")
    scaled = interpolate(pictures, size, mode=mode, antialias=mode != "nearest-exact")
    return scaled.clamp_(0, _LARGEST)  # Bicubic interpolation overshoots at edges.


def normalized(
    pictures: torch.Tensor, mean: Sequence[float], deviation: Sequence[float]
) -> torch.Tensor:
    """Scale pictures from 0 to 255 to 0 to 1, subtract a mean and divide by a deviation.

    Parameters
    ----------
    pictures : torch.Tensor of float32, shape (B, 3, H, W)
        The pictures.

    mean, deviation : sequence of 3 floats
        Of each color, as fractions of the largest value.

    Returns
    -------
    torch.Tensor of float32, shape (B, 3, H, W)
    """
    per_color = (1, _N_COLORS, 1, 1)
    center, scale = (pictures.new_tensor(x).view(per_color) for x in (mean, deviation))
    return (pictures / _LARGEST - center) / scale
