"""The network that turns the frames of Flash-MNIST videos into local features."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackContext, CallbackSupportMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional

from acluster import FeatureSets
from acluster.datasets._flash_mnist import (
    check_digit_images,
    make_generator,
    noise_levels,
    sample_noise,
)
from acluster.training import resolve_device

__all__ = ["FrameExtractor"]

_NOISE = 10  # the class of a frame without a digit, after the ten digits
_N_CLASSES = 11
_N_CHANNELS = (10, 20)
_KERNEL_SIZE = 5

# Mean and standard deviation of MNIST's pixels, as fractions of 255.
_PIXEL_MEAN, _PIXEL_STD = 0.1307, 0.3081

# Frames passed at a time: on a CPU few, so that they stay in the cache; on a GPU enough to fill it.
_FRAMES_PER_BLOCK = {"cpu": 1024, "cuda": 16_384}
_PROGRESS_STEPS = 50  # per epoch


class FrameExtractor(CallbackSupportMixin, BaseEstimator):
    """The paper's network for local features of Flash-MNIST videos.

    Two convolutions of 5 x 5 with 10 and 20 channels, each followed by 2 x 2 max pooling
    and relu, then a fully connected layer of `n_features` units with relu. It learns from
    single frames: digits overlaid on noise, and noise alone, told apart by one more
    linear layer of 11 classes. Its last hidden layer is the local feature of a frame.

    Parameters
    ----------
    n_features : int, default=50
        Width M of a local feature.

    log_softmax : bool, default=True
        Whether the features pass through a log-softmax, as in the authors' code. The paper
        does not mention it.

    n_epochs : int, default=1
        Passes over the training frames, which are made with other noise for each epoch.

    batch_size : int, default=64
        Frames per training step.

    learning_rate : float, default=1e-3
        Step size of Adam; with "one-cycle" the largest.

    learning_rate_schedule : {"constant", "one-cycle"}, default="constant"
        "one-cycle" raises the step size over the first three tenths of all steps and brings it
        down to nearly 0 over the others (:class:`torch.optim.lr_scheduler.OneCycleLR`); fewer than
        ten steps leave no room for that.

    n_noisy_copies : int, default=5
        Training frames made of each image, each with other noise.

    n_noise_images : int, default=30_000
        Training frames of noise alone.

    dropout : float, default=0.5
        Probability of dropping a channel of the second convolution, and a unit of the
        fully connected layer, while training.

    device : str, default="auto"
        The torch device to compute on; "auto" is a GPU when there is one.

    random_state : int, RandomState instance or None, default=None
        The noise, the initial weights, the order of the frames and dropout. An int makes
        the fit reproducible to the bit on the same device, with the same number of threads.

    Attributes
    ----------
    weights_ : dict of ndarray of float32
        The learned parameters, on the CPU whatever the device.

    frame_shape_ : tuple of int
        Height and width of a frame in pixels.

    loss_curve_ : list of float
        Mean cross-entropy (nats) over each epoch's training frames.

    See Also
    --------
    make_flash_mnist : The videos.

    Notes
    -----
    With its default parameters this is the extractor of the paper's section 4.1, trained as
    in the authors' published code: one epoch over 5 noisy copies of each of the 60,000
    training images and 30,000 noise images.

    References
    ----------
    Xiang Long, Chuang Gan, Gerard de Melo, Jiajun Wu, Xiao Liu, Shilei Wen. "Attention
    Clusters: Purely Attention Based Local Feature Integration for Video Classification",
    CVPR 2018, section 4.1.

    Examples
    --------
    >>> from acluster.datasets import FrameExtractor, load_digits_28, make_flash_mnist
    >>> digits = load_digits_28()
    >>> images, labels = digits.train_images, digits.train_labels
    >>> extractor = FrameExtractor(n_noisy_copies=1, n_noise_images=100, random_state=0)
    >>> extractor = extractor.fit(images, labels)
    >>> flash = make_flash_mnist(images, labels, n_videos=10, random_state=0)
    >>> extractor.transform(flash.videos)
    FeatureSets(n_items=10, n_features=50, lengths=25..25, dtype=float32)
    """

    _parameter_constraints: dict[str, list[Any]] = {  # noqa: RUF012
        "n_features": [Interval(Integral, 1, None, closed="left")],
        "log_softmax": ["boolean"],
        "n_epochs": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "learning_rate_schedule": [StrOptions({"constant", "one-cycle"})],
        "n_noisy_copies": [Interval(Integral, 1, None, closed="left")],
        "n_noise_images": [Interval(Integral, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        *,
        n_features: int = 50,
        log_softmax: bool = True,
        n_epochs: int = 1,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        learning_rate_schedule: str = "constant",
        n_noisy_copies: int = 5,
        n_noise_images: int = 30_000,
        dropout: float = 0.5,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_features = n_features
        self.log_softmax = log_softmax
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_schedule = learning_rate_schedule
        self.n_noisy_copies = n_noisy_copies
        self.n_noise_images = n_noise_images
        self.dropout = dropout
        self.device = device
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, images: ArrayLike, labels: ArrayLike) -> FrameExtractor:
        """Learn to tell the digits, and noise alone, on noisy frames.

        Parameters
        ----------
        images : array-like of uint8, shape (n_images, height, width)
            Images of digits on a black (0) background, at least 16 x 16 pixels.

        labels : array-like of int, shape (n_images,)
            The digit on each image, 0 to 9.

        Returns
        -------
        self : FrameExtractor
            The fitted extractor.

        Raises
        ------
        ValueError
            If `images` or `labels` are not as described, or training diverges.
        """
        images, labels = check_digit_images(images, labels)
        _check_large_enough(images.shape[1:])
        device = resolve_device(self.device)
        generator = make_generator(self.random_state)
        context = self._init_callback_context(max_subtasks=self.n_epochs)
        context.call_on_fit_task_begin(estimator=self, X=images, y=labels)
        initial = _draw_weights(images.shape[1:], self.n_features, generator)
        weights = _to_tensors(initial, device)
        self.loss_curve_ = self._train(weights, images, labels, generator, context)
        learnt = _to_arrays(weights)
        if not all(np.isfinite(weight).all() for weight in learnt.values()):
            raise ValueError(
                f"Training diverged, with losses {self.loss_curve_}. Lower learning_rate "
                f"(now {self.learning_rate})."
            )
        self.weights_ = learnt
        self.frame_shape_ = images.shape[1:]
        context.call_on_fit_task_end(
            estimator=self, X=images, y=labels, reconstruction_attributes={}
        )
        return self

    def transform(self, videos: ArrayLike) -> FeatureSets:
        """The local features of videos, one per frame.

        Parameters
        ----------
        videos : array-like of uint8, shape (n_videos, n_frames, height, width)
            The frames of each video.

        Returns
        -------
        features : FeatureSets
            n_videos sets of n_frames local features of width `n_features`, float32.

        Raises
        ------
        ValueError
            If `videos` have another type or shape than described, or other frames than
            those of the images that the extractor has learned from.
        """
        check_is_fitted(self)
        videos = np.asarray(videos)
        if videos.ndim != 4:
            raise ValueError(
                f"videos must have shape (n_videos, n_frames, height, width), got "
                f"{videos.shape}. Bring a single video to videos[np.newaxis]."
            )
        n_videos, n_frames = videos.shape[:2]
        values = self._apply(_local_features, videos.reshape(-1, *videos.shape[2:]))
        return FeatureSets(values, np.arange(n_videos + 1) * n_frames)

    def predict(self, frames: ArrayLike) -> NDArray[np.int64]:
        """The digit on each frame, -1 where there is only noise.

        Parameters
        ----------
        frames : array-like of uint8, shape (n_frames, height, width)
            Single frames, of any videos.

        Returns
        -------
        frame_digits : ndarray of int64, shape (n_frames,)
            -1 to 9.

        Raises
        ------
        ValueError
            If `frames` are not of the shape and type that the extractor has learned from.
        """
        check_is_fitted(self)
        classes = self._apply(_class_logits, np.asarray(frames)).argmax(axis=1)
        return np.where(classes == _NOISE, -1, classes)

    def score(self, frames: ArrayLike, frame_digits: ArrayLike) -> float:
        """The fraction of frames whose digit, or lack of one, is predicted correctly.

        Parameters
        ----------
        frames : array-like of uint8, shape (n_frames, height, width)
            Single frames, of any videos.

        frame_digits : array-like of int, shape (n_frames,)
            The digit on each frame, -1 where there is only noise.

        Returns
        -------
        accuracy : float
            0 to 1.

        Raises
        ------
        ValueError
            If `frames` are not as :meth:`predict` needs them, or `frame_digits` are not
            one for each.
        """
        predicted, frame_digits = self.predict(frames), np.asarray(frame_digits)
        if frame_digits.shape != predicted.shape:
            raise ValueError(
                f"frame_digits must be one digit (or -1) for each of the {len(predicted)} "
                f"frames, got an array of shape {frame_digits.shape}. Flatten both alike."
            )
        return float(np.mean(predicted == frame_digits))

    def _train(
        self,
        weights: dict[str, torch.Tensor],
        images: NDArray[np.uint8],
        labels: NDArray[Any],
        generator: np.random.Generator,
        context: CallbackContext,
    ) -> list[float]:
        """Train `weights` in place; the mean loss of each epoch."""
        device = weights["classes"].device
        n_frames = self.n_noisy_copies * len(images) + self.n_noise_images
        n_steps = self.n_epochs * math.ceil(n_frames / self.batch_size)
        learn = self._make_learner(weights, n_steps, generator)
        loss_curve = []
        for _ in range(self.n_epochs):
            frames = classes = None  # those of the last epoch go before others are made
            frames, classes = (
                torch.from_numpy(array).to(device)
                for array in _make_training_frames(
                    images, labels, self.n_noisy_copies, self.n_noise_images, generator
                )
            )
            order = torch.from_numpy(generator.permutation(n_frames)).to(device)
            groups = _group(order.split(self.batch_size), _PROGRESS_STEPS)
            epoch = context.subcontext("epoch", max_subtasks=len(groups))
            epoch.call_on_fit_task_begin(estimator=self)
            losses = []
            for batches in groups:
                task = epoch.subcontext("batches").call_on_fit_task_begin(estimator=self)
                losses += [learn(frames[batch], classes[batch]) for batch in batches]
                if task.call_on_fit_task_end(estimator=self):
                    break
            loss_curve.append(float(torch.stack(losses).mean()))
            if epoch.call_on_fit_task_end(estimator=self):
                break
        return loss_curve

    def _make_learner(
        self, weights: dict[str, torch.Tensor], n_steps: int, generator: np.random.Generator
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """A function that takes one step of training on a batch, and returns the loss before it."""
        for weight in weights.values():
            weight.requires_grad_()
        optimizer = torch.optim.Adam(weights.values(), lr=self.learning_rate, fused=True)
        schedule = None
        if self.learning_rate_schedule == "one-cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, self.learning_rate, total_steps=n_steps, cycle_momentum=False
            )
        drop = _make_dropout(self.dropout, generator)

        @torch.enable_grad()
        def learn(frames: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
            optimizer.zero_grad()
            with _exact_convolutions():
                logits = _class_logits(weights, frames, self.log_softmax, drop)
                loss = functional.cross_entropy(logits, classes)
                loss.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            return loss.detach()

        return learn

    @torch.inference_mode()
    def _apply(
        self, network: Callable[..., torch.Tensor], frames: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """The rows of output of `network` for any number of frames, in bounded memory."""
        if frames.dtype != np.uint8 or frames.shape[1:] != self.frame_shape_:
            height, width = self.frame_shape_
            raise ValueError(
                f"frames must be uint8 of {height} x {width} pixels, as the images that this "
                f"FrameExtractor was fitted on, got {frames.dtype} in an array of shape "
                f"{frames.shape}. Fit it on images of that kind, or convert the frames."
            )
        device = resolve_device(self.device)
        weights = _to_tensors(self.weights_, device)
        size = _FRAMES_PER_BLOCK.get(device.type, _FRAMES_PER_BLOCK["cuda"])
        starts = range(0, max(len(frames), 1), size)  # no frames make one empty block
        blocks = [frames[start : start + size] for start in starts]
        with _exact_convolutions():
            outputs = [
                network(weights, torch.tensor(block, device=device), self.log_softmax)
                for block in blocks
            ]
        return torch.cat(outputs).cpu().numpy()


def _identity(x: torch.Tensor) -> torch.Tensor:
    return x


def _local_features(
    weights: dict[str, torch.Tensor],
    frames: torch.Tensor,
    log_softmax: bool,
    drop: Callable[[torch.Tensor], torch.Tensor] = _identity,
) -> torch.Tensor:
    """(B, height, width) bytes -> (B, n_features); `drop` is applied while training."""
    x = (frames[:, None] / 255 - _PIXEL_MEAN) / _PIXEL_STD
    x = _convolve_and_pool(x, weights["kernel1"], weights["kernel1_bias"])
    # Dropping a channel here is dropping it before pooling and relu, for a quarter of the work.
    x = drop(_convolve_and_pool(x, weights["kernel2"], weights["kernel2_bias"]))
    x = functional.linear(x.flatten(1), weights["hidden"], weights["hidden_bias"])
    x = drop(functional.relu(x))
    return functional.log_softmax(x, dim=1) if log_softmax else x


def _class_logits(weights: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
    features = _local_features(weights, *args, **kwargs)
    return functional.linear(features, weights["classes"], weights["classes_bias"])


def _convolve_and_pool(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Convolution, 2 x 2 max pooling and relu.

    A pooled pixel is the maximum over four outputs of the convolution, which are those of
    the kernel put at four places of a window one pixel larger. So one convolution with
    these four kernels, two pixels a step, gives all that is to be pooled, side by side. It
    is twice as fast on a CPU as the two operations, whose pooling takes the longest.
    """
    shifted = [
        functional.pad(kernel, (right, 1 - right, down, 1 - down))
        for down in (0, 1)
        for right in (0, 1)
    ]
    outputs = functional.conv2d(x, torch.cat(shifted), stride=2).unflatten(1, (4, -1))
    return functional.relu(outputs.amax(1) + bias[:, None, None])


def _make_dropout(
    probability: float, generator: np.random.Generator
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Dropout of units, or of whole channels of an image, with a generator of our own."""

    def drop(x: torch.Tensor) -> torch.Tensor:
        is_kept = generator.random(x.shape[:2], dtype=np.float32) >= probability
        scale = torch.from_numpy(is_kept.astype(np.float32) / (1 - probability)).to(x.device)
        return x * scale.reshape(x.shape[:2] + (1,) * (x.ndim - 2))

    return drop


def _make_training_frames(
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    n_noisy_copies: int,
    n_noise_images: int,
    generator: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Every image on noise, n_noisy_copies times over, then noise alone; and their classes."""
    n_digit_frames = n_noisy_copies * len(images)
    shape = (n_digit_frames + n_noise_images, *images.shape[1:])
    frames = sample_noise(noise_levels(images), shape, generator)
    classes = np.full(len(frames), _NOISE)
    copies = frames[:n_digit_frames].reshape(n_noisy_copies, *images.shape)
    np.maximum(copies, images, out=copies)
    classes[:n_digit_frames] = np.tile(labels, n_noisy_copies)
    return frames, classes


def _draw_weights(
    frame_shape: tuple[int, int], n_features: int, generator: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Weights and biases, uniform within 1/sqrt(inputs of a unit) as torch initialises layers."""
    first, second = _N_CHANNELS
    height, width = map(_pooled_twice, frame_shape)
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
    """Pixels that are left of `extent` after two convolutions and poolings."""
    for _ in _N_CHANNELS:
        extent = (extent - _KERNEL_SIZE + 1) // 2
    return extent


def _check_large_enough(frame_shape: tuple[int, ...]) -> None:
    if min(map(_pooled_twice, frame_shape)) < 1:
        height, width = frame_shape
        raise ValueError(
            f"images of {height} x {width} pixels are too small for two 5 x 5 convolutions with "
            "pooling; 16 x 16 is the least. Enlarge or pad them."
        )


def _group(batches: Sequence[Any], n_groups: int) -> list[Sequence[Any]]:
    """The batches in at most `n_groups` runs of equal length but the last."""
    size = math.ceil(len(batches) / n_groups)
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def _exact_convolutions() -> AbstractContextManager[None]:
    """On a GPU: full float32, and the same algorithm every time."""
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )


def _to_tensors(
    weights: dict[str, NDArray[np.float32]], device: torch.device
) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(weight, device=device) for name, weight in weights.items()}


def _to_arrays(weights: dict[str, torch.Tensor]) -> dict[str, NDArray[np.float32]]:
    return {name: weight.detach().cpu().numpy() for name, weight in weights.items()}
