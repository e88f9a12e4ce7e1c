"""The convolutional network of `FrameExtractor`."""

import math
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn import functional

Weights = dict[str, NDArray[np.float32]]  # by the name of the parameter

_N_CLASSES = 11
_N_CHANNELS = (10, 20)
_KERNEL_SIZE = 5

# Mean and standard deviation of MNIST's pixels, as fractions of 255.
_PIXEL_MEAN, _PIXEL_STD = 0.1307, 0.3081


def draw_weights(frame_shape: tuple[int, int], n_features: int, generator: Generator) -> Weights:
    """Draw initial weights and biases.

    They are uniform between ±1/√(number of inputs of a unit), as torch initializes its layers.

    Raises
    ------
    ValueError
        If the frames are too small for two convolutions and poolings.
    """
    first, second = _N_CHANNELS
    pooled_shape = np.array(frame_shape)
    for _ in _N_CHANNELS:
        pooled_shape = (pooled_shape - _KERNEL_SIZE + 1) // 2
    if pooled_shape.min() < 1:
        raise ValueError(
            f"images of {frame_shape[0]} x {frame_shape[1]} pixels are too small for two 5 x 5 "
            "convolutions with pooling; they need 16 x 16 pixels or more. Enlarge or pad them."
        )
    shapes = {
        "kernel1": (first, 1, _KERNEL_SIZE, _KERNEL_SIZE),
        "kernel2": (second, first, _KERNEL_SIZE, _KERNEL_SIZE),
        "hidden": (n_features, second * int(pooled_shape.prod())),
        "classes": (_N_CLASSES, n_features),
    }
    weights = {}
    for name, shape in shapes.items():
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        weights[name] = generator.uniform(-bound, bound, shape).astype(np.float32)
        weights[f"{name}_bias"] = generator.uniform(-bound, bound, shape[0]).astype(np.float32)
    return weights


class FrameNetwork(nn.Module):
    """Two convolutions and two linear layers: a classifier of single frames.

    Parameters
    ----------
    weights : dict of ndarray of float32
        The weights and biases as `draw_weights` returns them. The network has one parameter per
        entry, of the same name.

    log_softmax : bool
        Whether to apply a log-softmax to the local features.

    dropout : float, default=0.0
        In training mode, the probability of dropping a channel of the second convolution or a unit
        of the fully connected layer.
    """

    def __init__(self, weights: Weights, log_softmax: bool, dropout: float = 0.0) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(torch.tensor(weight)))
        self.log_softmax = log_softmax
        self.dropout = dropout

    def forward(self, frames: Tensor, generator: Generator | None = None) -> Tensor:
        """Compute the logits (B, 11) of the ten digits and of noise."""
        return functional.linear(self.local_features(frames, generator), *self._layer("classes"))

    def local_features(self, frames: Tensor, generator: Generator | None = None) -> Tensor:
        """Compute the local features (B, n_features) of frames (B, height, width) of bytes.

        `generator` draws the dropout; it is required in training mode only.
        """
        x = (frames[:, None] / 255 - _PIXEL_MEAN) / _PIXEL_STD
        x = _convolve_and_pool(x, *self._layer("kernel1"))
        # The authors drop channels before pooling and relu. Dropping them afterwards is the same,
        # for a quarter of the work.
        x = self._drop(_convolve_and_pool(x, *self._layer("kernel2")), generator)
        x = functional.relu(functional.linear(x.flatten(1), *self._layer("hidden")))
        x = self._drop(x, generator)
        return functional.log_softmax(x, dim=1) if self.log_softmax else x

    def _layer(self, name: str) -> tuple[Tensor, Tensor]:
        return self.get_parameter(name), self.get_parameter(f"{name}_bias")

    def _drop(self, x: Tensor, generator: Generator | None) -> Tensor:
        """Drop units (B, n), or whole channels (B, n, height, width), at random."""
        if not self.training:
            return x
        assert generator is not None, "Training mode needs a generator for the dropout."
        # torch.nn.Dropout draws from torch's global generator, which training must leave untouched.
        is_kept = generator.random(x.shape[:2], dtype=np.float32) >= self.dropout
        scale = torch.from_numpy(is_kept.astype(np.float32) / (1 - self.dropout)).to(x.device)
        return x * scale.reshape(x.shape[:2] + (1,) * (x.ndim - 2))


def _convolve_and_pool(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Apply a convolution, 2 x 2 max pooling and a ReLU.

    A pooled pixel is the maximum of four outputs of the convolution. These are the outputs of the
    kernel at the four positions inside a window that is one pixel larger. One convolution of
    stride 2 with the four shifted kernels therefore computes all values to be pooled, side by
    side. On a CPU this is twice as fast as separate operations, of which pooling is the slowest.
    """
    margins = [(right, 1 - right, down, 1 - down) for down in (0, 1) for right in (0, 1)]
    shifted = torch.cat([functional.pad(kernel, margin) for margin in margins])
    outputs = functional.conv2d(x, shifted, stride=2).unflatten(1, (4, -1))
    return functional.relu(outputs.amax(1) + bias[:, None, None])


def exact_convolutions() -> AbstractContextManager[None]:
    """Make convolutions on a GPU reproducible, in full float32."""
    return cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
