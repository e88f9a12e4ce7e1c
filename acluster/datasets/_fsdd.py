"""Loader for the Free Spoken Digit Dataset, as sets of log-mel patches."""

import os
import re
import struct
from numbers import Integral
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from sklearn.utils import Bunch

from acluster import FeatureSets
from acluster.datasets._data_home import get_data_home, invalid_file

_RATE = 8000  # samples per second
_WINDOW, _HOP, _N_FFT = 200, 80, 256  # 25 ms, every 10 ms
_MAX_MELS = 80  # more bands than that would have some without a frequency
_N_TEST_INDICES = 5
_NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)\.wav")
# What scipy raises for damaged files; a NameError if there are no samples.
_DAMAGE = ArithmeticError, EOFError, NameError, ValueError, struct.error
_DESCRIPTION = (
    "Free Spoken Digit Dataset: recordings (items) by 6 speakers; the class is the spoken digit. "
    "Jackson et al. (CC BY-SA 4.0)."
)


def load_fsdd(
    *,
    n_mels: int = 40,
    patch_frames: int = 10,
    patch_hop: int = 5,
    data_home: str | os.PathLike[str] | None = None,
) -> Bunch:
    """Load the recordings of the Free Spoken Digit Dataset as sets of log-mel patches.

    Parameters
    ----------
    n_mels : int, default=40
        Number of mel bands of the spectrogram, at most 80.

    patch_frames : int, default=10
        Number of frames per patch, 10 ms apart. Shorter recordings are padded with copies of
        their last frame.

    patch_hop : int, default=5
        Number of frames from one patch to the next. Remaining frames that do not fill a patch are
        dropped.

    data_home : str or path-like, default=None
        See :func:`get_data_home`. The recordings are in ``fsdd/recordings/``, in files named
        ``{digit}_{speaker}_{index}.wav``, mono at 8 kHz.

    Returns
    -------
    fsdd : Bunch
        With the fields

        data : FeatureSets
            The n_items recordings, sorted by digit. The local features are the patches in
            temporal order, with ``patch_frames * n_mels`` columns: the natural logarithm of the
            energy, frame after frame, in float32.
        target : ndarray of int, shape (n_items,)
            The spoken digit.
        speaker : ndarray of str, shape (n_items,)
            The name of the speaker.
        train_indices, test_indices : ndarray of int
            The split of the authors: recordings with an index of 5 or more are for training,
            those with 0 to 4 for testing.
        DESCR : str
            Description and source of the data.

    Raises
    ------
    FileNotFoundError
        If there are no recordings in the data home.
    ValueError
        If a file cannot be read or is not mono at 8 kHz, or a parameter is out of range.

    Examples
    --------
    >>> from acluster.datasets import load_fsdd
    >>> digits = load_fsdd()  # doctest: +SKIP
    >>> digits.data[digits.test_indices]  # doctest: +SKIP
    FeatureSets(n_items=300, n_features=400, lengths=1..21, dtype=float32)
    """
    sizes = {"n_mels": n_mels, "patch_frames": patch_frames, "patch_hop": patch_hop}
    for name, size in sizes.items():
        if not isinstance(size, Integral) or size < 1 or (name == "n_mels" and size > _MAX_MELS):
            upper = f" and at most {_MAX_MELS}" if name == "n_mels" else ""
            raise ValueError(f"{name}={size!r} must be an int of at least 1{upper}.")
    folder = get_data_home(data_home) / "fsdd" / "recordings"
    paths = sorted(folder.glob("*.wav"))
    found = {path: match for path in paths if (match := _NAME.fullmatch(path.name))}
    if not found:
        raise FileNotFoundError(
            f"{folder} has no recordings such as 7_jackson_32.wav. Put them there, or set "
            "ACLUSTER_DATA or data_home to the folder that contains fsdd/recordings."
        )
    spectrograms = (log_mel_spectrogram(_read(path), n_mels) for path in found)
    patches = [_patches(frames, patch_frames, patch_hop) for frames in spectrograms]
    is_test = np.array([int(match["index"]) < _N_TEST_INDICES for match in found.values()])
    return Bunch(
        data=FeatureSets.from_arrays(patches),
        target=np.array([int(match["digit"]) for match in found.values()]),
        speaker=np.array([match["speaker"] for match in found.values()]),
        train_indices=np.flatnonzero(~is_test),
        test_indices=np.flatnonzero(is_test),
        DESCR=_DESCRIPTION,
    )


def _read(path: Path) -> NDArray[np.float64]:
    """Read the samples of a recording, scaled to -1 to 1."""
    from scipy.io import wavfile

    try:
        rate, samples = wavfile.read(path)
    except _DAMAGE as error:
        raise invalid_file(path, f"cannot be read: {error}") from error
    if rate != _RATE or samples.ndim != 1 or samples.dtype != np.int16:
        raise invalid_file(
            path,
            f"has a sample rate of {rate} Hz, dtype {samples.dtype} and shape {samples.shape}; "
            f"expected {_RATE} Hz, int16 and one channel",
        )
    return samples / 2**15


def log_mel_spectrogram(samples: NDArray[np.float64], n_mels: int) -> NDArray[np.float32]:
    """Compute the log-mel spectrogram (frames, n_mels) of samples at 8 kHz.

    Frames are Hann windows of 25 ms, 10 ms apart. A recording shorter than one window is padded
    with silence.
    """
    samples = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    windows = sliding_window_view(samples, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    power = np.abs(np.fft.rfft(windows, _N_FFT)) ** 2
    # Digital silence has no energy; the constant keeps its logarithm finite.
    return np.log(power @ _mel_filters(n_mels) + 1e-6).astype(np.float32)


def _mel_filters(n_mels: int) -> NDArray[np.float64]:
    """Return triangular filters (bins, n_mels), equally wide on the scale 2595 log10(1 + f/700)."""
    top = 2595 * np.log10(1 + _RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, n_mels + 2) / 2595) - 1)
    bins = np.arange(_N_FFT // 2 + 1)[:, None] * _RATE / _N_FFT
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    return np.clip(np.minimum((bins - low) / (middle - low), (high - bins) / (high - middle)), 0, 1)


def _patches(frames: NDArray[np.float32], length: int, hop: int) -> NDArray[np.float32]:
    frames = np.pad(frames, ((0, max(0, length - len(frames))), (0, 0)), mode="edge")
    windows = sliding_window_view(frames, length, axis=0)[::hop]  # (patches, n_mels, length)
    return windows.transpose(0, 2, 1).reshape(len(windows), -1)
