"""The estimator that turns the frames of Flash-MNIST videos into local features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, _fit_context
from sklearn.callback import CallbackContext, CallbackSupportMixin
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from torch.nn import functional

from acluster import FeatureSets
from acluster.datasets import _flash_mnist
from acluster.datasets._frame_network import FrameNetwork, draw_weights, exact_convolutions
from acluster.training import Batch, Trainer, resolve_device, to_numpy_state

_NOISE = 10  # the class of a frame without a digit, after the ten digits

# Frames per block of inference: on a CPU few, so that they stay in the cache; on a GPU enough to
# fill it.
_FRAMES_PER_BLOCK = {"cpu": 1024, "cuda": 16_384}
# Callbacks are called at most this often per epoch: more calls would slow down short batches.
_MAX_CALLBACK_STEPS = 50


@dataclass(kw_only=True, eq=False, repr=False)
class FrameExtractor(CallbackSupportMixin, BaseEstimator):
    """Extract local features from the frames of Flash-MNIST videos, as in the paper.

    The network has two 5 x 5 convolutions with 10 and 20 channels, each followed by 2 x 2 max
    pooling and a ReLU. A fully connected layer of `n_features` units with a ReLU follows; its
    output is the local feature of a frame. During training, one more linear layer classifies single
    frames. The classes are the ten digits on noise, and noise alone.

    Parameters
    ----------
    n_features : int, default=50
        Number M of columns of a local feature.

    log_softmax : bool, default=True
        Whether to apply a log-softmax to the features, as in the authors' code. The paper does
        not mention it.

    n_epochs : int, default=1
        Number of epochs. Each epoch has new noise.

    batch_size : int, default=64
        Number of frames per batch.

    learning_rate : float, default=1e-3
        Learning rate of Adam; with "one-cycle", its maximum.

    learning_rate_schedule : {"constant", "one-cycle"}, default="constant"
        "one-cycle" increases the learning rate during the first three tenths of the training
        steps and then decreases it to almost 0 (:class:`torch.optim.lr_scheduler.OneCycleLR`).
        It needs ten steps or more.

    n_noisy_copies : int, default=5
        Number of training frames per image and epoch, each with its own noise.

    n_noise_images : int, default=30_000
        Number of training frames per epoch with noise only.

    dropout : float, default=0.5
        Probability of dropping a channel of the second convolution, or a unit of the fully
        connected layer, during training.

    device : str, default="auto"
        The torch device to compute on; "auto" uses a GPU if there is one.

    random_state : int, RandomState instance or None, default=None
        Controls the noise, the initial weights, the order of the frames and dropout. Pass an int
        for bit-identical results on the same device with the same number of threads.

    Attributes
    ----------
    weights_ : dict of ndarray of float32
        The learned weights, always in main memory.

    frame_shape_ : tuple of int
        Height and width of a frame in pixels.

    loss_curve_ : list of float
        Mean cross-entropy in nats of the training frames, per epoch.

    See Also
    --------
    make_flash_mnist : Generate the videos.

    Notes
    -----
    The default parameters are those of section 4.1 of the paper and of the authors' published
    code: one epoch over 5 noisy copies of each of the 60,000 training images and over 30,000
    noise images.

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

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
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

    n_features: int = 50
    log_softmax: bool = True
    n_epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 1e-3
    learning_rate_schedule: str = "constant"
    n_noisy_copies: int = 5
    n_noise_images: int = 30_000
    dropout: float = 0.5
    device: str = "auto"
    random_state: int | np.random.RandomState | None = None

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, images: ArrayLike, labels: ArrayLike) -> FrameExtractor:
        """Train the network to classify noisy frames.

        Parameters
        ----------
        images : array-like of uint8, shape (n_images, height, width)
            Images of digits on a black (0) background, of at least 16 x 16 pixels.

        labels : array-like of int, shape (n_images,)
            The digit on each image, 0 to 9.

        Returns
        -------
        self : FrameExtractor
            The fitted extractor.

        Raises
        ------
        ValueError
            If `images` or `labels` are not valid, or training diverges.
        """
        images, labels = _flash_mnist.check_digit_images(images, labels)
        rng = _flash_mnist.make_rng(self.random_state)
        weights = draw_weights(images.shape[1:], self.n_features, rng)
        network = FrameNetwork(weights, self.log_softmax, self.dropout)
        trainer = Trainer(
            network.to(resolve_device(self.device)),
            _batch_cross_entropy,
            optimizer="adam",
            learning_rate=self.learning_rate,
            weight_decay=0.0,
            max_grad_norm=None,
            generator=rng,
        )
        context = self._init_callback_context(max_subtasks=self.n_epochs)
        context.call_on_fit_task_begin(estimator=self, X=images, y=labels)
        self.loss_curve_ = self._train(trainer, images, labels, context)
        learned = to_numpy_state(network.state_dict())
        if not all(np.isfinite(weight).all() for weight in learned.values()):
            raise ValueError(
                f"Training diverged: the losses are {self.loss_curve_}. Lower learning_rate, now "
                f"{self.learning_rate}."
            )
        self.weights_, self.frame_shape_ = learned, images.shape[1:]
        context.call_on_fit_task_end(
            estimator=self, X=images, y=labels, reconstruction_attributes={}
        )
        return self

    def transform(self, videos: ArrayLike) -> FeatureSets:
        """Compute the local features of videos, one per frame.

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
            If `videos` have the wrong shape or type, or frames of another size than in `fit`.
        """
        check_is_fitted(self)
        videos = np.asarray(videos)
        if videos.ndim != 4:
            raise ValueError(
                f"videos must have shape (n_videos, n_frames, height, width), got "
                f"{videos.shape}. Pass a single video as video[np.newaxis]."
            )
        n_videos, n_frames = videos.shape[:2]
        values = self._apply(FrameNetwork.local_features, videos.reshape(-1, *videos.shape[2:]))
        return FeatureSets(values, np.arange(n_videos + 1) * n_frames)

    def predict(self, frames: ArrayLike) -> NDArray[np.int64]:
        """Predict the digit on each frame, or -1 for noise alone.

        Parameters
        ----------
        frames : array-like of uint8, shape (n_frames, height, width)
            The frames.

        Returns
        -------
        frame_digits : ndarray of int64, shape (n_frames,)
            -1 to 9.

        Raises
        ------
        ValueError
            If `frames` have another size or type than the images in `fit`.
        """
        check_is_fitted(self)
        classes = self._apply(FrameNetwork.forward, np.asarray(frames)).argmax(axis=1)
        return np.where(classes == _NOISE, -1, classes)

    def score(self, frames: ArrayLike, frame_digits: ArrayLike) -> float:
        """Return the fraction of frames that are classified correctly.

        Parameters
        ----------
        frames : array-like of uint8, shape (n_frames, height, width)
            The frames.

        frame_digits : array-like of int, shape (n_frames,)
            The digit on each frame, -1 for noise alone.

        Returns
        -------
        accuracy : float
            From 0 to 1.

        Raises
        ------
        ValueError
            If `frames` have another size or type than the images in `fit`, or another number than
            `frame_digits`.
        """
        predicted, frame_digits = self.predict(frames), np.asarray(frame_digits)
        if frame_digits.shape != predicted.shape:
            raise ValueError(
                f"frame_digits must have shape ({len(predicted)},), one digit or -1 per frame, got "
                f"{frame_digits.shape}. Flatten frames and frame_digits alike."
            )
        return float(np.mean(predicted == frame_digits))

    def _train(
        self, trainer: Trainer, images: NDArray[Any], labels: NDArray[Any], context: CallbackContext
    ) -> list[float]:
        """Train the network and return the mean loss of each epoch."""
        device, rng = resolve_device(self.device), trainer.generator
        weight = torch.ones(1, device=device)  # of the mean loss of a batch
        n_frames = self.n_noisy_copies * len(images) + self.n_noise_images
        n_batches = math.ceil(n_frames / self.batch_size)
        # A callback step is a run of batches, so that there are at most _MAX_CALLBACK_STEPS.
        run = math.ceil(n_batches / _MAX_CALLBACK_STEPS)
        learning_rates = self._learning_rates(self.n_epochs * n_batches)
        loss_curve = []
        for _ in range(self.n_epochs):
            frames, classes = (
                torch.from_numpy(array).to(device)
                for array in self._make_training_frames(images, labels, rng)
            )
            order = torch.from_numpy(rng.permutation(n_frames)).to(device)
            epoch = context.subcontext("epoch", max_subtasks=math.ceil(n_batches / run))
            epoch.call_on_fit_task_begin(estimator=self)
            losses = []
            for items in order.split(run * self.batch_size):
                task = epoch.subcontext("batches").call_on_fit_task_begin(estimator=self)
                with torch.enable_grad(), exact_convolutions(), trainer.training():
                    for batch in items.split(self.batch_size):
                        trainer.optimizer.learning_rate = next(learning_rates)
                        data = Batch(frames[batch], classes[batch], weight, len(batch))
                        losses.append(trainer.step(data))
                if task.call_on_fit_task_end(estimator=self):
                    break
            loss_curve.append(float(torch.stack(losses).mean()))
            del frames, classes  # before the next epoch makes its own, hundreds of megabytes
            if epoch.call_on_fit_task_end(estimator=self):
                break
        return loss_curve

    def _make_training_frames(
        self, images: NDArray[np.uint8], labels: NDArray[Any], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return frames and their classes: `n_noisy_copies` of each image on noise, then noise."""
        n_digit_frames = self.n_noisy_copies * len(images)
        shape = (n_digit_frames + self.n_noise_images, *images.shape[1:])
        frames = _flash_mnist.sample_noise(_flash_mnist.noise_levels(images), shape, rng)
        classes = np.full(len(frames), _NOISE)
        copies = frames[:n_digit_frames].reshape(self.n_noisy_copies, *images.shape)
        np.maximum(copies, images, out=copies)
        classes[:n_digit_frames] = np.tile(labels, self.n_noisy_copies)
        return frames, classes

    def _learning_rates(self, n_steps: int) -> Iterator[float]:
        """Return the learning rate of each training step."""
        if self.learning_rate_schedule == "constant":
            return repeat(self.learning_rate)
        return (_one_cycle(step, n_steps, self.learning_rate) for step in range(n_steps))

    @torch.inference_mode()
    def _apply(self, method: Callable[..., Tensor], frames: NDArray[Any]) -> NDArray[np.float32]:
        """Call a method of the network on all frames, in blocks of bounded memory."""
        if frames.dtype != np.uint8 or frames.shape[1:] != self.frame_shape_:
            height, width = self.frame_shape_
            raise ValueError(
                f"frames must be uint8 of {height} x {width} pixels, like the images in fit, got "
                f"{frames.dtype} in an array of shape {frames.shape}. Convert the frames, or fit "
                "the extractor on such images."
            )
        device = resolve_device(self.device)
        network = FrameNetwork(self.weights_, self.log_softmax).to(device).eval()
        size = _FRAMES_PER_BLOCK.get(device.type, _FRAMES_PER_BLOCK["cuda"])
        with exact_convolutions():
            outputs = [
                method(network, torch.tensor(frames[i : i + size], device=device))
                for i in range(0, max(len(frames), 1), size)  # one empty block without frames
            ]
        return torch.cat(outputs).cpu().numpy()


def _batch_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Return the mean cross-entropy of a batch, of shape (1,)."""
    # The trainer averages the losses it gets. Averaging one loss per frame would round differently
    # from this mean, and a given random_state would no longer reproduce published figures.
    return functional.cross_entropy(logits, classes)[None]


def _one_cycle(step: int, n_steps: int, maximum: float) -> float:
    """Return the learning rate of :class:`torch.optim.lr_scheduler.OneCycleLR` at a step."""
    peak = 0.3 * n_steps - 1
    if step <= peak:
        start, end, fraction = maximum / 25, maximum, step / peak
    else:
        start, end, fraction = maximum, maximum / 25 / 1e4, (step - peak) / (n_steps - 1 - peak)
    return end + (start - end) / 2.0 * (math.cos(math.pi * fraction) + 1)
