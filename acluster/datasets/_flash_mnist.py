"""Generator of Flash-MNIST, noisy videos in which handwritten digits flash up briefly."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_random_state

Pixels = NDArray[np.uint8]

_N_DIGITS = 10
_N_SUBSETS = 2**_N_DIGITS
_MAX_FLASHES = 2  # of a digit in a video

# Number of pixels and frames per block, small enough for a block to stay in the cache.
_PIXELS_PER_BLOCK = 2**16
_FLASHES_PER_BLOCK = 2**10


def make_flash_mnist(
    images: ArrayLike,
    labels: ArrayLike,
    *,
    n_videos: int = 102_400,
    n_frames: int = 25,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Generate noisy videos in which digits flash up; the class is the set of these digits.

    Every pixel is noise, drawn independently from the gray levels of all pixels of `images`. Each
    digit of the set flashes once or twice, with equal probability. Each flash overlays a random
    image of the digit on a separate frame, by the maximum of image and noise. The frames are in
    random order. All 1,024 sets of digits, including the empty set, are equally frequent.

    Parameters
    ----------
    images : array-like of uint8, shape (n_images, height, width)
        Images of digits on a black (0) background.

    labels : array-like of int, shape (n_images,)
        The digit on each image, 0 to 9. Every digit needs at least one image.

    n_videos : int, default=102_400
        Number of videos. The paper uses 102,400 for training and 10,240 for testing, 100 and 10
        of each class. If `n_videos` is not a multiple of 1,024, the remaining videos have
        different, randomly chosen classes. A video of 25 frames of 28 x 28 pixels takes 19,600
        bytes, so 102,400 videos take 2 GB.

    n_frames : int, default=25
        Number of frames per video, at least 20, as each of ten digits can flash twice.

    random_state : int, RandomState instance or None, default=None
        Pass an int for reproducible videos.

    Returns
    -------
    flash_mnist : Bunch
        With the fields

        videos : ndarray of uint8, shape (n_videos, n_frames, height, width)
            The frames.
        target : ndarray of int64, shape (n_videos,)
            The class, 0 to 1023: bit d is set if digit d is in the video.
        digits : ndarray of int64, shape (n_videos, 10)
            The class as an indicator matrix: 1 if the digit is in the video.
        frame_digits : ndarray of int8, shape (n_videos, n_frames)
            The digit on each frame, or -1 for noise alone.

    Raises
    ------
    ValueError
        If `images` or `labels` are not valid, a digit has no image, or `n_videos` or `n_frames`
        is too small.

    Notes
    -----
    The frequencies of the gray levels in the noise are exact to within 1/65,536.

    References
    ----------
    Xiang Long, Chuang Gan, Gerard de Melo, Jiajun Wu, Xiao Liu, Shilei Wen. "Attention
    Clusters: Purely Attention Based Local Feature Integration for Video Classification",
    CVPR 2018, section 4.1. The details that the paper omits (the noise, the overlay, the number
    of flashes) follow the authors' published code.

    Examples
    --------
    >>> from acluster.datasets import load_digits_28, make_flash_mnist
    >>> digits = load_digits_28()
    >>> flash = make_flash_mnist(
    ...     digits.train_images, digits.train_labels, n_videos=100, random_state=0
    ... )
    >>> flash.videos.shape
    (100, 25, 28, 28)
    >>> bool((flash.target == flash.digits @ 2 ** np.arange(10)).all())
    True
    """
    images, labels = check_digit_images(images, labels)
    _check_arguments(labels, n_videos, n_frames)
    rng = make_rng(random_state)
    target = _draw_subsets(n_videos, rng)
    digits = (target[:, None] >> np.arange(_N_DIGITS)) & 1
    frame_digits = _draw_flashes(digits, n_frames, rng)
    videos = sample_noise(noise_levels(images), (n_videos, n_frames, *images.shape[1:]), rng)
    _overlay_flashes(videos, frame_digits, images, labels, rng)
    return Bunch(videos=videos, target=target, digits=digits, frame_digits=frame_digits)


def check_digit_images(images: ArrayLike, labels: ArrayLike) -> tuple[Pixels, NDArray[Any]]:
    """Check images of digits and their labels, and return them as arrays."""
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"images must be an array of uint8 of shape (n_images, height, width), got "
            f"{images.dtype} of shape {images.shape}. Scale pixels to 0 to 255 and convert them "
            "with astype('uint8'); pass a single image as image[np.newaxis]."
        )
    if len(images) == 0:
        raise ValueError("images holds 0 images; at least one is required.")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be one int for each of the {len(images)} images, got {labels.dtype} "
            f"of shape {labels.shape}. Convert strings with astype(int)."
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= _N_DIGITS))
    if len(wrong):
        raise ValueError(
            f"labels[{wrong[0]}] is {labels[wrong[0]]}; labels must be digits, 0 to 9. "
            "Remove all other images."
        )
    return images, labels


def make_rng(random_state: Any) -> Generator:
    """Return a private generator, seeded from a `random_state` of scikit-learn."""
    seed = check_random_state(random_state).randint(2**32, size=4, dtype=np.uint32)
    return np.random.default_rng(seed)


def noise_levels(images: Pixels) -> Pixels:
    """Return 65,536 equally spaced quantiles of the gray levels of the images."""
    # bincount converts its argument to int64; one image at a time bounds the memory for that.
    counts = sum(np.bincount(image.ravel(), minlength=256) for image in images)
    cumulative = np.cumsum(counts) / images.size
    steps = (np.arange(2**16) + 0.5) / 2**16
    return np.searchsorted(cumulative, steps, side="right").astype(np.uint8)


def sample_noise(levels: Pixels, shape: tuple[int, ...], rng: Generator) -> Pixels:
    """Draw independent pixels from `levels`, the quantiles returned by :func:`noise_levels`."""
    noise = np.empty(shape, dtype=np.uint8)
    pixels = noise.reshape(-1)
    for start in range(0, len(pixels), _PIXELS_PER_BLOCK):
        block = pixels[start : start + _PIXELS_PER_BLOCK]
        # Each random word gives four 16-bit indices; drawing these one by one takes twice as long.
        words = rng.integers(2**64, size=-(-len(block) // 4), dtype=np.uint64)
        # A 16-bit index is always within the table; mode="wrap" skips the bounds check.
        np.take(levels, words.view(np.uint16)[: len(block)], out=block, mode="wrap")
    return noise


def _check_arguments(labels: NDArray[Any], n_videos: int, n_frames: int) -> None:
    if absent := sorted(set(range(_N_DIGITS)) - set(labels.tolist())):
        raise ValueError(
            f"labels lack the digits {absent}; every digit from 0 to 9 needs at least one image. "
            "Pass images of all ten digits."
        )
    if not isinstance(n_videos, Integral) or n_videos < 1:
        raise ValueError(
            f"n_videos={n_videos} must be an int of 1 or more; a multiple of 1024 balances the "
            "classes."
        )
    if not isinstance(n_frames, Integral) or n_frames < _N_DIGITS * _MAX_FLASHES:
        raise ValueError(
            f"n_frames={n_frames} must be an int of {_N_DIGITS * _MAX_FLASHES} or more, because "
            "each of ten digits can flash in two frames. The paper uses n_frames=25."
        )


def _draw_subsets(n_videos: int, rng: Generator) -> NDArray[np.int64]:
    each, n_remaining = divmod(n_videos, _N_SUBSETS)
    remaining = rng.choice(_N_SUBSETS, size=n_remaining, replace=False)
    subsets = np.concatenate([np.repeat(np.arange(_N_SUBSETS), each), remaining])
    rng.shuffle(subsets)
    return subsets


def _draw_flashes(digits: NDArray[np.int64], n_frames: int, rng: Generator) -> NDArray[np.int8]:
    """Draw the digit on each frame of each video, -1 for noise alone."""
    n_flashes = digits * rng.integers(1, _MAX_FLASHES, size=digits.shape, endpoint=True)
    frame_digits = np.full((len(digits), n_frames), -1, dtype=np.int8)
    for flash in range(_MAX_FLASHES):
        frames = slice(flash * _N_DIGITS, (flash + 1) * _N_DIGITS)
        frame_digits[:, frames] = np.where(n_flashes > flash, np.arange(_N_DIGITS), -1)
    return rng.permuted(frame_digits, axis=1)


def _overlay_flashes(
    videos: Pixels, frame_digits: NDArray[Any], images: Pixels, labels: NDArray[Any], rng: Generator
) -> None:
    """Overlay each flash with a random image of its digit, in place."""
    frames = videos.reshape(-1, *images.shape[1:])
    for digit in range(_N_DIGITS):
        members = np.flatnonzero(labels == digit)
        flashes = np.flatnonzero(frame_digits == digit)
        chosen = rng.choice(members, size=len(flashes))
        for start in range(0, len(flashes), _FLASHES_PER_BLOCK):
            block = slice(start, start + _FLASHES_PER_BLOCK)
            frames[flashes[block]] = np.maximum(frames[flashes[block]], images[chosen[block]])
