"""Read sound in blocks, and cut it into log-mel patches."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from fractions import Fraction
from functools import cache
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from acluster.extraction._media import MediaError, count, import_av, open_track

if TYPE_CHECKING:
    import av.container

FloatArray = NDArray[np.floating[Any]]

_MICROSECONDS = 1_000_000
# In seconds. The time stamps of whole sound are less exact than the shortest gap.
_SHORTEST_GAP, _LONGEST_GAP, _LONGEST_OVERLAP = Fraction(1, 20), 60, Fraction(1, 2)

# The parameters of VGGish (Hershey et al., ICASSP 2017).
RATE = 16_000
WINDOW, HOP, _FFT = 400, 160, 512
_LOWEST, _HIGHEST, _LOG_OFFSET = 125.0, 7500.0, 0.01
N_BANDS = 64
_WINDOWS_TOGETHER = 4096
_SAMPLES_TOGETHER = 1 << 16


class Mix(NamedTuple):
    """How the channels of a sound become one.

    Parameters
    ----------
    rate : int
        The number of samples per second to resample to.

    channel : int or None, default=None
        The channel to take, from 0 on. None takes the mean of the channels.
    """

    rate: int
    channel: int | None = None

    def of(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return one channel (n,) of samples (channels, n)."""
        if self.channel is None:
            # FFmpeg's own mix of two channels is louder than their mean, and may exceed 1.
            return samples.mean(axis=0)
        # The number of channels may change within a file.
        return samples[min(self.channel, len(samples) - 1)]


class Sound:
    """The sound of a media file, which is decoded once. A context manager closes the file.

    Parameters
    ----------
    path : str or path
        The file.

    Attributes
    ----------
    begin : Fraction
        The time of the first sample, in seconds since the start of the file.

    Raises
    ------
    NoTrackError
        If the file has no sound.

    MediaError
        If the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._end = Fraction(0)  # of what has been resampled
        self._n_jumps = 0
        self._decoder = open_track(path, "audio", "sound")
        self._container, self._stream = self._decoder.container, self._decoder.stream
        origin = Fraction(self._container.start_time or 0, _MICROSECONDS)
        start = (self._stream.start_time or 0) * self._stream.time_base
        self.begin = max(start - origin, Fraction(0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._container.close()

    def blocks(self, mixes: Collection[Mix]) -> Iterator[tuple[Mix, NDArray[np.float32]]]:
        """Yield the samples in blocks, in each of some mixes.

        Parameters
        ----------
        mixes : collection of Mix
            Different ones. The blocks of one do not depend on the others.

        Yields
        ------
        mix : Mix
            The mix that the next block is of.

        block : ndarray of float32, shape (n,)
            Samples between -1 and 1. Gaps of up to a minute between time stamps are filled with
            zeros.

        Raises
        ------
        MediaError
            If there is sound, and nothing of it can be decoded.
        """
        waiting: dict[Mix, list[NDArray[np.float32]]] = {mix: [] for mix in mixes}
        for rate, samples in self.samples({mix.rate for mix in mixes}):
            for mix, own in waiting.items():
                if mix.rate == rate:
                    own.append(mix.of(samples))
                    if sum(map(len, own)) >= _SAMPLES_TOGETHER:
                        yield mix, np.concatenate(own)
                        own.clear()
        for mix, own in waiting.items():
            if own:
                yield mix, np.concatenate(own)

    def samples(self, rates: Collection[int]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield the samples of all channels, at each of some rates.

        Parameters
        ----------
        rates : collection of int
            Different numbers of samples per second.

        Yields
        ------
        rate : int
            The rate of the next samples.

        samples : ndarray of float32, shape (channels, n)

        Raises
        ------
        MediaError
            If there is sound, and nothing of it can be decoded.
        """
        resamplers = {rate: _Resampler(rate) for rate in rates}
        numbers = dict.fromkeys(rates, 0)
        for frame in chain(self._filled(), [None]):
            for rate, resampler in resamplers.items():
                for samples in resampler.resampled(frame):
                    numbers[rate] += samples.shape[1]
                    self._end = max(self._end, Fraction(numbers[rate], rate))
                    yield rate, samples
        if self._decoder.n_damaged and not self._end:
            raise MediaError(f"{self.path} has sound of which nothing can be decoded.")

    def _filled(self) -> Iterator[av.AudioFrame]:
        """Decode, and fill gaps between time stamps, so that later sound keeps its time."""
        begin = (self._stream.start_time or 0) * self._stream.time_base
        decoded = Fraction(0)  # the seconds so far
        packets = self._decoder.packets()
        for frame in chain.from_iterable(map(self._decoder.decoded, packets)):
            if frame.pts is not None and frame.time_base is not None:
                gap = frame.pts * frame.time_base - begin - decoded
                if gap > _LONGEST_GAP or gap < -_LONGEST_OVERLAP:
                    self._n_jumps += 1
                    begin += gap  # the time goes on from here
                elif gap > _SHORTEST_GAP:
                    yield from _silence(frame, round(gap * frame.sample_rate))
                    decoded += gap
            decoded += Fraction(frame.samples, frame.sample_rate)
            frame.pts = None  # the resampler would count from it
            yield frame

    def warnings(self) -> list[str]:
        """Return what is wrong with sound that has been read to its end.

        Returns
        -------
        list of str
            Without the name of the file.
        """
        found = []
        if n_damaged := self._decoder.n_damaged:
            found.append(f"{count(n_damaged, 'packet')} of the sound cannot be decoded")
        if self._n_jumps:
            found.append(f"the time stamps of the sound jump {count(self._n_jumps, 'time')}")
        end = float(self.begin + self._end)
        whole = (self._container.duration or 0) / _MICROSECONDS
        if end < min(0.9 * whole, whole - 0.5):
            found.append(f"the sound ends at {end:.1f} of {whole:.1f} s")
        return found


class _Resampler:
    """Resamples frames, whose format may change within a file."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._resampler: Any = None
        self._setting: tuple[str, str, int] | None = None

    def resampled(self, frame: av.AudioFrame | None) -> Iterator[NDArray[np.float32]]:
        """Yield samples (channels, n); None yields what is still held back."""
        setting = None
        if frame is not None:
            setting = frame.format.name, frame.layout.name, frame.sample_rate
        if setting != self._setting:
            yield from self._samples(None)
            self._setting = setting
            self._resampler = import_av().AudioResampler(format="fltp", rate=self._rate)
        if frame is not None:
            yield from self._samples(frame)

    def _samples(self, frame: av.AudioFrame | None) -> Iterator[NDArray[np.float32]]:
        # There is no resampler before the first frame.
        for resampled in [] if self._resampler is None else self._resampler.resample(frame):
            yield resampled.to_ndarray()


def _silence(like: av.AudioFrame, n_samples: int) -> Iterator[av.AudioFrame]:
    """Yield frames of zeros in the format of another frame."""
    av = import_av()
    second = like.sample_rate
    for first in range(0, n_samples, second):
        frame = av.AudioFrame(
            format=like.format.name, layout=like.layout.name, samples=min(second, n_samples - first)
        )
        frame.sample_rate = like.sample_rate
        # Unsigned samples of 8 bits are silent at 128.
        level = 128 if like.format.name.startswith("u8") else 0
        for plane in frame.planes:
            plane.update(bytes([level]) * plane.buffer_size)
        yield frame


class Loudness(NamedTuple):
    """The largest magnitudes of the samples of a file.

    Parameters
    ----------
    mean : float
        That of the mean of the channels.

    channels : tuple of float
        That of every channel.
    """

    mean: float
    channels: tuple[float, ...]

    def is_silent(self, threshold: float) -> bool:
        """Return whether no channel is louder than a threshold."""
        return max((self.mean, *self.channels)) <= threshold

    def channel(self, threshold: float) -> int | None:
        """Return the loudest channel if the mean of the channels alone is silent, else None."""
        is_lost = self.mean <= threshold < max(self.channels, default=0)
        return int(np.argmax(self.channels)) if is_lost else None


def loudness(path: str | os.PathLike[str], enough: float) -> Loudness:
    """Return how loud a sound gets.

    Parameters
    ----------
    path : str or path
        The file.

    enough : float
        The sound is decoded only until the mean of its channels is louder.

    Returns
    -------
    Loudness
        That of what has been decoded.

    Raises
    ------
    NoTrackError
        If the file has no sound.

    MediaError
        If the file cannot be read.
    """
    mean, channels = 0.0, list[float]()
    with Sound(path) as sound:
        for _, samples in sound.samples([RATE]):
            # Unlike Python's maximum, this one keeps NaN, which is no silence.
            mean = float(np.maximum(mean, np.abs(Mix(RATE).of(samples)).max(initial=0)))
            loudest = np.abs(samples).max(axis=1, initial=0).tolist()
            channels = [*map(max, zip_longest(channels, loudest, fillvalue=0.0))]
            if mean > enough:
                break
    return Loudness(mean, tuple(channels))


def at_least(blocks: Iterator[FloatArray], n_samples: int) -> Iterator[FloatArray]:
    """Yield the blocks, and silence after sound that is shorter than `n_samples`.

    Parameters
    ----------
    blocks : iterator of ndarray, each of shape (n,)
        Samples.

    n_samples : int
        The number of samples to have at least. No sound at all stays none.

    Yields
    ------
    ndarray of shape (n,)
    """
    n = 0
    for block in blocks:
        n += len(block)
        yield block
    if 0 < n < n_samples:
        yield np.zeros(n_samples - n, np.float32)


def regrouped(blocks: Iterator[FloatArray], length: int, hop: int) -> Iterator[FloatArray]:
    """Cut blocks of any length into pieces of the same length, which may overlap.

    Parameters
    ----------
    blocks : iterator of ndarray, each of shape (n, ...)
        What is cut, along the first axis.

    length, hop : int
        The length of a piece, and the distance from one to the next, at most `length`.

    Yields
    ------
    ndarray of shape (k, length, ...)
        The next k pieces, as a view. What is left after the last whole piece is dropped.
    """
    rest: FloatArray | None = None
    for block in blocks:
        rest = block if rest is None or not len(rest) else np.concatenate([rest, block])
        n_pieces = (len(rest) - length) // hop + 1
        if n_pieces > 0:
            pieces = np.lib.stride_tricks.sliding_window_view(rest, length, axis=0)
            yield np.moveaxis(pieces[: n_pieces * hop : hop], -1, 1)
            rest = rest[n_pieces * hop :]


@cache
def _mel_matrix() -> NDArray[np.float64]:
    """Return the weight of every frequency in every band: triangles on the mel scale."""
    edges = np.linspace(_mel(_LOWEST), _mel(_HIGHEST), N_BANDS + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    frequencies = _mel(np.linspace(0, RATE / 2, _FFT // 2 + 1))[:, None]
    rising = (frequencies - lower) / (center - lower)
    falling = (upper - frequencies) / (upper - center)
    return np.maximum(0, np.minimum(rising, falling))


def _mel(frequency: Any) -> Any:
    """Return the mel scale of a frequency in Hz, as in HTK."""
    return 1127 * np.log1p(np.asarray(frequency) / 700)


def log_mel(blocks: Iterator[FloatArray]) -> Iterator[NDArray[np.float32]]:
    """Turn samples at 16 kHz into log-mel spectra, one every 10 ms.

    The spectrum is the magnitude of the Fourier transform of 25 ms under a periodic Hann window,
    in 64 mel bands from 125 to 7,500 Hz; log(x + 0.01) is taken. These are the parameters of
    VGGish (Hershey et al., ICASSP 2017).

    Parameters
    ----------
    blocks : iterator of ndarray, each of shape (n,)
        The samples.

    Yields
    ------
    ndarray of float32, shape (k, 64)
        The next k spectra.
    """
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    for windows in regrouped(blocks, WINDOW, HOP):
        for first in range(0, len(windows), _WINDOWS_TOGETHER):
            part = windows[first : first + _WINDOWS_TOGETHER] * hann
            spectrum = np.abs(np.fft.rfft(part, _FFT))
            yield np.log(spectrum @ _mel_matrix() + _LOG_OFFSET).astype(np.float32)
