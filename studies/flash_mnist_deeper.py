"""Define a deeper extractor of local features for Flash-MNIST.

The network has three convolutions with batch normalization (32, 64 and 128 channels) and a layer of
50 features, as many as in the paper. It is trained on single frames: digits on noise, and noise
alone. It computes in bfloat16, which is faster on processors that support it.
"""

import math

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn
from torch.nn import functional

from acluster import FeatureSets

NOISE = 10  # the class of a frame without a digit
NOISE_SHARE = 0.2  # share of frames without a digit in a batch


class DeeperExtractor(BaseEstimator):
    """Extract 50 local features per frame; `fit` takes images of digits, `transform` videos."""

    def __init__(self, n_epochs=3, batch_size=256, learning_rate=0.004, random_state=0):
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, images, labels):
        """Train the network on frames made from images (n, height, width) and their labels."""
        torch.manual_seed(self.random_state)
        images = torch.from_numpy(images)
        labels = torch.from_numpy(labels.astype(np.int64))
        self.network_ = make_network().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(self.network_.parameters(), self.learning_rate, fused=True)
        n_steps = self.n_epochs * math.ceil(len(images) / self.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, n_steps)
        for epoch in range(self.n_epochs):
            losses = []
            for batch in torch.randperm(len(images)).split(self.batch_size):
                frames, classes = make_frames(images, labels, batch)
                optimizer.zero_grad()
                loss = functional.cross_entropy(apply(self.network_, frames), classes)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            print(f"epoch {epoch + 1} of {self.n_epochs}: {np.mean(losses):.4f}", flush=True)
        self.network_.eval()
        return self

    def transform(self, videos):
        """Return the sets of local features of videos of shape (n, L, height, width)."""
        n, n_frames = videos.shape[:2]
        values = apply_to_all(self.network_[0], videos.reshape(-1, *videos.shape[2:]))
        return FeatureSets(values, np.arange(n + 1) * n_frames)

    def predict(self, frames):
        """Return the digit on each frame, -1 for noise."""
        classes = apply_to_all(self.network_, frames).argmax(axis=1)
        return np.where(classes == NOISE, -1, classes)


def make_network():
    """Return a network from frames (B, 1, 28, 28) to features (B, 50) to 11 logits."""
    features = nn.Sequential(
        *convolution(1, 32, kernel_size=5, stride=2),
        *convolution(32, 64, kernel_size=3, stride=1),
        nn.MaxPool2d(2),
        *convolution(64, 128, kernel_size=3, stride=1),
        nn.Flatten(),
        nn.Linear(128 * 7 * 7, 50),
        nn.ReLU(),
    )
    return nn.Sequential(features, nn.Dropout(0.1), nn.Linear(50, NOISE + 1))


def convolution(n_in, n_out, kernel_size, stride):
    padding = kernel_size // 2
    return (
        nn.Conv2d(n_in, n_out, kernel_size, stride, padding, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(),
    )


def make_frames(images, labels, batch):
    """Return frames (B, height, width) of the images on noise, some of noise only, and classes."""
    shown, classes = images[batch], labels[batch]
    is_noise = torch.rand(len(batch)) < NOISE_SHARE
    shown[is_noise], classes[is_noise] = 0, NOISE
    # The noise has the gray-level distribution of the images, as in Flash-MNIST.
    pixels = images.view(-1)
    return torch.maximum(shown, pixels[torch.randint(len(pixels), shown.shape)]), classes


def apply(network, frames):
    """Return the outputs for frames of gray levels (B, height, width)."""
    standardized = (frames[:, None].float() / 255 - 0.1307) / 0.3081
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return network(standardized.contiguous(memory_format=torch.channels_last)).float()


@torch.inference_mode()
def apply_to_all(network, frames):
    """Return the outputs for any number of frames, as an array."""
    return torch.cat(
        [apply(network, block) for block in torch.from_numpy(frames).split(1024)]
    ).numpy()
