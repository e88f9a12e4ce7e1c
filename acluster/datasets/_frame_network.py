"""The convolutional network of `FrameExtractor`, as functions of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_N_CLASSES = 11
_N_CHANNELS = (10, 20)
_KERNEL_SIZE = 5

# Mean and standard deviation of MNIST's pixels, as fractions of 255.
_PIXEL_MEAN, _PIXEL_STD = 0.1307, 0.3081

Dropout = Callable[[Tensor], Tensor]


def draw_weights(
    frame_shape: tuple[int, int], n_features: int, generator: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Draw initial weights and biases.

    They are uniform between ±1/√(number of inputs of a unit), as torch initializes its layers.

    Raises
    ------
    ValueError
        If the frames are too small for two convolutions and poolings.
    """
    first, second = _N_CHANNELS
    height, width = map(_pooled_twice, frame_shape)
    if min(height, width) < 1:
        raise ValueError(
            f"images of {frame_shape[0]} x {frame_shape[1]} pixels are too small for two 5 x 5 "
            "convolutions with pooling; they need 16 x 16 pixels or more. Enlarge or pad them."
        )
    shapes = {
        "kernel1": (first, 1, _KERNEL_SIZE, _KERNEL_SIZE),
        "kernel2": (second, first, _KERNEL_SIZE, _KERNEL_SIZE),
        "hidden": (n_features, second * height * width),
        "classes": (_N_CLASSES, n_features),
    }
    weights = {}
    for name, shape in shapes.items():
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        weights[name] = generator.uniform(-bound, bound, shape).astype(np.float32)
        weights[f"{name}_bias"] = generator.uniform(-bound, bound, shape[0]).astype(np.float32)
    return weights


def _pooled_twice(extent: int) -> int:
    for _ in _N_CHANNELS:
        extent = (extent - _KERNEL_SIZE + 1) // 2
    return extent


def _keep(x: Tensor) -> Tensor:
    return x


def drop(x: Tensor, probability: float, generator: np.random.Generator) -> Tensor:
    """Drop units (B, n), or whole channels (B, n, height, width), at random.

    torch.nn.Dropout draws from torch's global generator, which training must leave untouched.
    """
    is_kept = generator.random(x.shape[:2], dtype=np.float32) >= probability
    scale = torch.from_numpy(is_kept.astype(np.float32) / (1 - probability)).to(x.device)
    return x * scale.reshape(x.shape[:2] + (1,) * (x.ndim - 2))


def local_features(
    weights: dict[str, Tensor], frames: Tensor, log_softmax: bool, dropout: Dropout = _keep
) -> Tensor:
    """Compute the local features (B, n_features) of frames (B, height, width) of bytes."""
    x = (frames[:, None] / 255 - _PIXEL_MEAN) / _PIXEL_STD
    x = _convolve_and_pool(x, weights["kernel1"], weights["kernel1_bias"])
    # The authors drop channels before pooling and relu. Dropping them afterwards is the same, for
    # a quarter of the work.
    x = dropout(_convolve_and_pool(x, weights["kernel2"], weights["kernel2_bias"]))
    x = functional.linear(x.flatten(1), weights["hidden"], weights["hidden_bias"])
    x = dropout(functional.relu(x))
    return functional.log_softmax(x, dim=1) if log_softmax else x


def class_logits(
    weights: dict[str, Tensor], frames: Tensor, log_softmax: bool, dropout: Dropout = _keep
) -> Tensor:
    """Compute the logits (B, 11) of the ten digits and of noise."""
    features = local_features(weights, frames, log_softmax, dropout)
    return functional.linear(features, weights["classes"], weights["classes_bias"])


def _convolve_and_pool(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Apply a convolution, 2 x 2 max pooling and relu.

    A pooled pixel is the maximum of four outputs of the convolution, which are those of the
    kernel at the four positions inside a window that is one pixel larger. One convolution of
    stride 2 with these four shifted kernels therefore computes all values to be pooled, side by
    side. On a CPU this is twice as fast as the separate operations, in which pooling is slowest.
    """
    shifted = [
        functional.pad(kernel, (right, 1 - right, down, 1 - down))
        for down in (0, 1)
        for right in (0, 1)
    ]
    outputs = functional.conv2d(x, torch.cat(shifted), stride=2).unflatten(1, (4, -1))
    return functional.relu(outputs.amax(1) + bias[:, None, None])


def exact_convolutions() -> AbstractContextManager[None]:
    """Make convolutions on a GPU reproducible, in full float32."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
