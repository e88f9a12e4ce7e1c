"""
A deeper extractor of local features for Flash-MNIST
====================================================

Any network will do that gives a vector for each frame. This one has three convolutions
with batch normalisation, 32, 64 and 64 channels, and a layer of 50 features, the paper's number. It
learns from single frames, digits on noise and noise alone; each image is turned, scaled and moved a
little anew in every epoch, so that the training frames are not easier for it than others.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from acluster import FeatureSets

NOISE = 10  # the class of a frame without a digit
NOISE_SHARE = 0.2  # of the frames of a batch


class DeeperExtractor:
    """`fit` on images of digits, `transform` videos into sets of 50 local features."""

    def __init__(self, n_epochs=40, batch_size=256, learning_rate=0.004, random_state=0):
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.random_state = random_state

    def fit(self, images, labels):
        torch.manual_seed(self.random_state)
        images = torch.from_numpy(images)
        labels = torch.from_numpy(labels.astype(np.int64))
        self.network_ = make_network().to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(self.network_.parameters(), self.learning_rate)
        n_steps = self.n_epochs * math.ceil(len(images) / self.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, n_steps)
        for epoch in range(self.n_epochs):
            losses = []
            for batch in torch.randperm(len(images)).split(self.batch_size):
                frames, classes = make_frames(images, labels, batch)
                optimizer.zero_grad()
                loss = functional.cross_entropy(self.network_(standardise(frames)), classes)
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            print(f"epoch {epoch + 1} of {self.n_epochs}: {np.mean(losses):.4f}", flush=True)
        self.network_.eval()
        return self

    def transform(self, videos):
        """The sets of local features of videos (n, L, height, width)."""
        n, n_frames = videos.shape[:2]
        values = self._apply(self.network_[0], videos.reshape(-1, *videos.shape[2:]))
        return FeatureSets(values, np.arange(n + 1) * n_frames)

    def predict(self, frames):
        """The digit on each frame, -1 where there is none."""
        classes = self._apply(self.network_, frames).argmax(axis=1)
        return np.where(classes == NOISE, -1, classes)

    @torch.inference_mode()
    def _apply(self, network, frames):
        blocks = torch.from_numpy(frames).split(1024)
        return torch.cat([network(standardise(block[:, None].float())) for block in blocks]).numpy()


def make_network():
    """(B, 1, 28, 28) -> features (B, 50) -> the logits of 11 classes."""
    features = nn.Sequential(
        *convolution(1, 32, kernel_size=5, stride=2),
        *convolution(32, 64, kernel_size=3, stride=2),
        *convolution(64, 64, kernel_size=3, stride=1),
        nn.Flatten(),
        nn.Linear(64 * 7 * 7, 50),
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
    """Frames (B, 1, height, width) of grey levels with these images on noise, and some without."""
    shown = distort(images[batch, None].float())
    classes = labels[batch].clone()
    is_noise = torch.rand(len(batch)) < NOISE_SHARE
    shown[is_noise], classes[is_noise] = 0, NOISE
    # Noise has the grey levels of all pixels of the images.
    pixels = images.view(-1)
    noise = pixels[torch.randint(len(pixels), shown.shape)].float()
    return torch.maximum(shown, noise), classes


def distort(images):
    """Images turned by up to 12°, scaled by up to 10 % and moved by up to 2 pixels."""
    n = len(images)
    angle = torch.empty(n).uniform_(-math.pi / 15, math.pi / 15)
    scale = torch.empty(n).uniform_(0.9, 1.1)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    shift = torch.empty(n, 2).uniform_(-2, 2) * 2 / images.shape[-1]
    rows = [
        torch.stack([cosine, -sine, shift[:, 0]], dim=1),
        torch.stack([sine, cosine, shift[:, 1]], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), images.shape, align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def standardise(frames):
    """Grey levels with MNIST's mean and standard deviation removed."""
    return ((frames / 255 - 0.1307) / 0.3081).contiguous(memory_format=torch.channels_last)
