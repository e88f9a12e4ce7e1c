"""Views: what a feature extractor sees of a file, such as some of the frames of a video."""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from fractions import Fraction
from itertools import pairwise
from math import inf
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, get_type_hints

import numpy as np
from numpy.typing import NDArray

from acluster.extraction._flow import FLOW_METHODS, optical_flow
from acluster.extraction._media import NoTrackError
from acluster.extraction._sound import (
    HOP,
    RATE,
    WINDOW,
    Sound,
    at_least,
    is_silent,
    log_mel,
    regrouped,
)
from acluster.extraction._video import Run, Sampling, Video

if TYPE_CHECKING:
    import av

Array = NDArray[Any]
Places = Mapping[str, NDArray[np.float64]]

_ROWS_TOGETHER, _BYTES_TOGETHER = 64, 1 << 25
_LARGEST_FLOW = 20.0  # pixels
_PATCH = 96  # spectra


class Chunk(NamedTuple):
    """Some consecutive rows of what a view sees of a file.

    Parameters
    ----------
    name : str
        The name of the view.

    batch : ndarray of shape (B, ...)
        What a feature extractor takes.

    places : dict of str to ndarray of shape (B,), or None
        Where each row comes from.
    """

    name: str
    batch: Array
    places: Places | None


class View(Protocol):
    """What `extract` needs of a view. A view of your own needs no more than `read`."""

    def read(self, path: str | os.PathLike[str]) -> tuple[Array, Places | None] | None:
        """Return a batch (B, ...) and where its rows come from; None if the file lacks it."""


@dataclass(frozen=True)
class MediaView:
    """A view of a track of a media file.

    It is read in chunks, so that a long file needs little memory.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if hint is int:
                self._set(name, value, Integral, int, "an integer")
            elif hint in (float, float | None) and value is not None:
                self._set(name, value, Real, float, "a number")

    def _set(self, name: str, value: Any, kind: type, convert: Any, expected: str) -> None:
        """Check a setting, and make it a number of Python, which JSON can represent."""
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        least = 0 if name in self._may_be_zero else sys.float_info.min
        if not is_number or not least <= value < inf:
            what = f"{expected} of at least 0" if least == 0 else f"{expected} above 0"
            raise ValueError(f"{type(self).__name__}: {name}={value!r} is not {what}.")
        object.__setattr__(self, name, value if type(value) is int else convert(value))

    _may_be_zero: ClassVar[tuple[str, ...]] = ()

    def read(self, path: str | os.PathLike[str]) -> tuple[Array, Places] | None:
        """Return what the view sees of a file.

        Parameters
        ----------
        path : str or path
            The file.

        Returns
        -------
        batch : ndarray of shape (B, ...)
            What a feature extractor takes.

        places : dict of str to ndarray of shape (B,)
            "seconds" is the time at which a row begins, since the start of the file.

        None is returned instead if the file has no such track.

        Raises
        ------
        MediaError
            If the file cannot be read.

        ImportError
            Without the packages of the extra ``media``.
        """
        chunks = list(read_views(path, {"": self}, []))
        if not chunks:
            return None
        seconds = np.concatenate([chunk.places["seconds"] for chunk in chunks if chunk.places])
        return np.concatenate([chunk.batch for chunk in chunks]), {"seconds": seconds}


class VideoView(MediaView, ABC):
    """A view of the pictures of a video."""

    growth: ClassVar[int] = 1  # the size of a row relative to that of its prepared frames

    @abstractmethod
    def sampling(self, video: Video) -> Sampling:
        """Return the frames that are wanted."""

    @abstractmethod
    def prepare(self, frame: av.VideoFrame, pixel_aspect: Fraction) -> Array:
        """Return the pixels of a frame. The shape is the same for all videos."""

    @abstractmethod
    def batch(self, runs: Sequence[Sequence[Array]]) -> Array:
        """Return one row for each run of prepared frames."""


class SoundView(MediaView, ABC):
    """A view of the sound of a file."""

    silence: float

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """The number of samples per second that it takes."""

    @abstractmethod
    def pieces(self, blocks: Iterator[Array]) -> Iterator[Array]:
        """Turn blocks of samples into batches."""

    @property
    @abstractmethod
    def seconds_per_row(self) -> Fraction:
        """The time from the beginning of a row to that of the next."""


def moments(video: Video, n: int, fps: float | None, n_frames: int = 1) -> Iterator[Fraction]:
    """Yield the times of runs of `n_frames` frames, in the middle of equal intervals.

    Parameters
    ----------
    video : Video
        The video.

    n : int
        The number of intervals.

    fps : float or None
        The number of intervals per second, instead of `n`.

    n_frames : int, default=1
        The number of frames of a run. Runs are in the middle of their intervals, unless they
        would begin before the video or end after it.

    Yields
    ------
    Fraction
        Seconds since the start of the file, ascending.
    """
    if fps is not None:
        step = 1 / Fraction(fps)
        n = max(1, int(video.duration / step))
    else:
        step = video.duration / n
    middles = ((i + Fraction(1, 2)) * step for i in range(n))
    if n_frames > 1:
        back = Fraction(n_frames - 1, 2) * video.frame_seconds
        latest = video.duration - (n_frames - Fraction(1, 2)) * video.frame_seconds
        middles = (max(Fraction(0), min(time - back, latest)) for time in middles)
    return (video.begin + time for time in middles)


def pixels(frame: av.VideoFrame, size: int, kind: str, pixel_aspect: Fraction) -> Array:
    """Return the square in the middle of a frame.

    Parameters
    ----------
    frame : av.VideoFrame
        The frame. If it is marked as rotated, the rotation is undone.

    size : int
        The width and the height of the result: what the shorter side is scaled to.

    kind : {"rgb24", "gray"}
        What a pixel is.

    pixel_aspect : Fraction
        The width of a pixel of the frame divided by its height.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3) or (size, size)
    """
    width, height = frame.width * pixel_aspect, Fraction(frame.height)
    scale = size / min(width, height)
    width, height = (max(size, round(side * scale)) for side in (width, height))
    scaled = frame.to_ndarray(format=kind, width=width, height=height, interpolation="BICUBIC")
    top, left = (height - size) // 2, (width - size) // 2
    square = scaled[top : top + size, left : left + size]
    return np.rot90(square, k=round(frame.rotation / 90))


@dataclass(frozen=True)
class Frames(VideoView):
    """Frames of a video at equal intervals (section 5.2 of the paper).

    Parameters
    ----------
    n : int, default=25
        The number of frames: those shown in the middle of n equal intervals. A video with fewer
        frames gives each of them once.

    fps : float, optional
        The number of frames per second, instead of `n`.

    size : int, default=224
        The width and height in pixels. The shorter side of a frame is scaled to it, and the
        square in the middle is taken.

    Examples
    --------
    >>> from acluster.extraction import Frames
    >>> Frames(n=8, size=64)
    Frames(n=8, fps=None, size=64)
    """

    n: int = 25
    fps: float | None = None
    size: int = 224

    def sampling(self, video: Video) -> Sampling:
        return Sampling(moments(video, self.n, self.fps))

    def prepare(self, frame: av.VideoFrame, pixel_aspect: Fraction) -> Array:
        return pixels(frame, self.size, "rgb24", pixel_aspect)

    def batch(self, runs: Sequence[Sequence[Array]]) -> Array:
        return np.stack([frames[0] for frames in runs])


@dataclass(frozen=True)
class Clips(VideoView):
    """Short clips of consecutive frames at equal intervals, for networks over space and time.

    Parameters
    ----------
    n : int, default=10
        The number of clips.

    fps : float, optional
        The number of clips per second, instead of `n`.

    length : int, default=16
        The number of frames of a clip.

    size : int, default=112
        The width and height in pixels, as for `Frames`.

    Examples
    --------
    >>> from acluster.extraction import Clips
    >>> Clips(length=8).length
    8
    """

    n: int = 10
    fps: float | None = None
    length: int = 16
    size: int = 112

    def sampling(self, video: Video) -> Sampling:
        return Sampling(moments(video, self.n, self.fps, self.length), self.length)

    def prepare(self, frame: av.VideoFrame, pixel_aspect: Fraction) -> Array:
        return pixels(frame, self.size, "rgb24", pixel_aspect)

    def batch(self, runs: Sequence[Sequence[Array]]) -> Array:
        return np.stack([np.stack(frames) for frames in runs])


@dataclass(frozen=True)
class FlowStacks(VideoView):
    """Stacks of the optical flow between consecutive frames (section 5.2 of the paper).

    A row has the flow between `length` + 1 consecutive gray frames, (size, size, 2 * length):
    the horizontal and the vertical displacement of the first pair, then those of the next. They
    are in pixels, and clipped to 20.

    Parameters
    ----------
    n : int, default=25
        The number of stacks.

    fps : float, optional
        The number of stacks per second, instead of `n`.

    length : int, default=5
        The number of flow fields of a stack.

    method : {"tvl1", "dis", "skimage"}, default="tvl1"
        "tvl1" is TV-L1 (Zach, Pock and Bischof, 2007). "dis" is much faster and less exact (Kroeger
        et al., 2016); it needs the extra ``flow``, as does "skimage", scikit-image's TV-L1.

    size : int, default=224
        The width and height in pixels, as for `Frames`.

    Examples
    --------
    >>> from acluster.extraction import FlowStacks
    >>> FlowStacks(method="dis", size=112).method
    'dis'
    """

    n: int = 25
    fps: float | None = None
    length: int = 5
    method: str = "tvl1"
    size: int = 224
    growth: ClassVar[int] = 8  # two numbers of four bytes for a pixel of one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in FLOW_METHODS:
            raise ValueError(f"FlowStacks: method={self.method!r} is not one of {FLOW_METHODS}.")

    @property
    def uses_torch(self) -> bool:
        """Whether reading it needs torch."""
        return self.method == "tvl1"

    def sampling(self, video: Video) -> Sampling:
        n_frames = self.length + 1
        return Sampling(moments(video, self.n, self.fps, n_frames), n_frames)

    def prepare(self, frame: av.VideoFrame, pixel_aspect: Fraction) -> Array:
        return pixels(frame, self.size, "gray", pixel_aspect)

    def batch(self, runs: Sequence[Sequence[Array]]) -> Array:
        # Runs overlap if a video is short. Each frame is prepared once, so that its identity
        # tells it.
        pairs = {(id(a), id(b)): (a, b) for frames in runs for a, b in pairwise(frames)}
        first, second = (np.stack(part) for part in zip(*pairs.values(), strict=True))
        flow = optical_flow(self.method)(first, second)
        flow = np.clip(flow, -_LARGEST_FLOW, _LARGEST_FLOW)
        numbers = {pair: number for number, pair in enumerate(pairs)}
        chosen = [[numbers[id(a), id(b)] for a, b in pairwise(frames)] for frames in runs]
        stacks = np.moveaxis(flow[np.array(chosen)], 1, 3)
        return stacks.reshape(*stacks.shape[:3], -1)


@dataclass(frozen=True)
class LogMel(SoundView):
    """Log-mel patches of the sound (section 5.2 of the paper), as VGGish takes them.

    A row has 96 spectra of 64 mel bands, one spectrum every 10 ms. Sound shorter than a patch is
    followed by silence; what is left after the last whole patch is dropped.

    Parameters
    ----------
    hop : int, default=96
        The number of spectra from the beginning of a patch to that of the next, at most 96.

    silence : float, default=1e-3
        Sound that is never louder counts as missing. 0 keeps all sound.

    Examples
    --------
    >>> from acluster.extraction import LogMel
    >>> LogMel(silence=0)
    LogMel(hop=96, silence=0)
    """

    hop: int = _PATCH
    silence: float = 1e-3
    _may_be_zero: ClassVar[tuple[str, ...]] = ("silence",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hop > _PATCH:
            raise ValueError(f"LogMel: hop={self.hop} is more than {_PATCH}, and would skip sound.")

    @property
    def sample_rate(self) -> int:
        return RATE

    def pieces(self, blocks: Iterator[Array]) -> Iterator[Array]:
        shortest = WINDOW + (_PATCH - 1) * HOP
        return regrouped(log_mel(at_least(blocks, shortest)), _PATCH, self.hop)

    @property
    def seconds_per_row(self) -> Fraction:
        return Fraction(self.hop * HOP, RATE)


@dataclass(frozen=True)
class Waveforms(SoundView):
    """Pieces of the waveform, for networks that take sound as it is.

    Parameters
    ----------
    seconds : float, default=1.0
        The duration of a piece. Shorter sound is followed by silence; what is left after the last
        whole piece is dropped.

    hop : float, optional
        The seconds from the beginning of a piece to that of the next, at most `seconds`. By
        default, pieces do not overlap.

    rate : int, default=16000
        The number of samples per second.

    silence : float, default=1e-3
        Sound that is never louder counts as missing. 0 keeps all sound.

    Examples
    --------
    >>> from acluster.extraction import Waveforms
    >>> Waveforms(seconds=0.5).rate
    16000
    """

    seconds: float = 1.0
    hop: float | None = None
    rate: int = RATE
    silence: float = 1e-3
    _may_be_zero: ClassVar[tuple[str, ...]] = ("silence",)

    def __post_init__(self) -> None:
        super().__post_init__()
        length, hop = self._n_samples
        if not 1 <= hop <= length:
            raise ValueError(
                f"Waveforms: hop={self.hop} must be at most seconds={self.seconds}, and both at "
                f"least a sample, 1/{self.rate} s."
            )

    @property
    def sample_rate(self) -> int:
        return self.rate

    @property
    def _n_samples(self) -> tuple[int, int]:
        hop = self.seconds if self.hop is None else self.hop
        return round(self.seconds * self.rate), round(hop * self.rate)

    def pieces(self, blocks: Iterator[Array]) -> Iterator[Array]:
        length, hop = self._n_samples
        return regrouped(at_least(blocks, length), length, hop)

    @property
    def seconds_per_row(self) -> Fraction:
        return Fraction(self._n_samples[1], self.rate)


# The views that a description names by their kind alone.
VIEWS = {kind.__name__: kind for kind in (Frames, Clips, FlowStacks, LogMel, Waveforms)}


def describe_view(view: Any) -> dict[str, Any]:
    """Describe a view, as JSON can represent it.

    Parameters
    ----------
    view : view
        A dataclass, or any object with a ``repr`` that tells its settings.

    Returns
    -------
    dict
        The settings, and "kind": the class, with its module unless it is one of acluster's.

    Examples
    --------
    >>> from acluster.extraction import LogMel
    >>> from acluster.extraction._views import describe_view
    >>> describe_view(LogMel(silence=0))
    {'kind': 'LogMel', 'hop': 96, 'silence': 0}
    """
    cls = type(view)
    kind = cls.__name__ if VIEWS.get(cls.__name__) is cls else public_name(cls)
    is_dataclass_ = is_dataclass(view) and not isinstance(view, type)
    settings = asdict(view) if is_dataclass_ else {"repr": repr(view)}
    # As it comes back from a store, in which tuples are lists.
    described: dict[str, Any] = json.loads(json.dumps({"kind": kind, **settings}, default=repr))
    return described


def public_name(thing: Any) -> str:
    """Return the name by which a function or a class can be imported, ``module:name``.

    Parameters
    ----------
    thing : function or class
        Those of this package are named by the module that users import them from: files keep the
        names, and the private modules may change.

    Returns
    -------
    str
    """
    package = __name__.rpartition(".")[0]
    is_own = thing.__module__.startswith(f"{package}.")
    return f"{package if is_own else thing.__module__}:{thing.__qualname__}"


def read_views(
    path: str | os.PathLike[str],
    views: Mapping[str, View],
    warnings: list[str],
    is_tolerant: bool = False,
) -> Iterator[Chunk]:
    """Read what views see of a file; those of its pictures share one pass over the video.

    Parameters
    ----------
    path : str or path
        The file.

    views : dict of str to view
        The views, by name.

    warnings : list of str
        What is wrong with the file is added to it.

    is_tolerant : bool, default=False
        Whether an error of one view leaves the others as they are. It becomes a warning.

    Yields
    ------
    Chunk
        The rows of each view in their order. A view has none if the file lacks its track.

    Raises
    ------
    MediaError
        If the file cannot be read.
    """
    video = {name: view for name, view in views.items() if isinstance(view, VideoView)}
    parts = [_read_video(path, video, warnings)] if video else []
    for name, view in views.items():
        if isinstance(view, SoundView):
            parts.append(_read_sound(path, name, view, warnings))
        elif name not in video:
            parts.append(_read_other(path, name, view))
    for chunks in parts:
        try:
            yield from chunks
        except NoTrackError:
            pass
        except (ValueError, OSError) as error:
            if not is_tolerant:
                raise
            warnings.append(str(error))


def _read_other(path: str | os.PathLike[str], name: str, view: View) -> Iterator[Chunk]:
    found = view.read(path)
    if found is None:
        return
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(
            f"The view {name!r} returned {type(found).__name__}, not a pair (batch, places), or "
            "None."
        )
    batch, places = np.asarray(found[0]), found[1]
    if len(batch):
        yield Chunk(name, batch, places)


def _read_video(
    path: str | os.PathLike[str], views: Mapping[str, VideoView], warnings: list[str]
) -> Iterator[Chunk]:
    with Video(path) as video:
        readers = [_ChunkReader(name, view, video) for name, view in views.items()]
        for run in video.runs([reader.sampling for reader in readers]):
            yield from readers[run.sampling].add(run)
        for reader in readers:
            yield from reader.finish()
        warnings += video.warnings()


class _ChunkReader:
    """Collects the runs of frames of a view to chunks."""

    def __init__(self, name: str, view: VideoView, video: Video) -> None:
        self._name, self._view, self._video = name, view, video
        self.sampling = view.sampling(video)
        self._prepared: dict[int, Array] = {}
        self._runs: list[list[Array]] = []
        self._seconds: list[float] = []
        self._n_bytes = 0
        self._short: Run | None = None
        self._is_empty = True

    def add(self, run: Run) -> Iterator[Chunk]:
        """Add a run, and yield the chunk that it completes."""
        if len(run.frames) < self.sampling.n_frames:
            self._short = self._short or run
            return
        self._is_empty = False
        first = run.frames[0].pts
        # Later runs begin later.
        self._prepared = {pts: x for pts, x in self._prepared.items() if pts >= first}
        for frame in run.frames:
            if frame.pts not in self._prepared:
                aspect = self._video.pixel_aspect
                self._prepared[frame.pts] = self._view.prepare(frame, aspect)
        self._runs.append([self._prepared[frame.pts] for frame in run.frames])
        self._n_bytes += self._view.growth * sum(x.nbytes for x in self._runs[-1])
        self._seconds.append(float(self._video.seconds(first)))
        if len(self._runs) >= _ROWS_TOGETHER or self._n_bytes >= _BYTES_TOGETHER:
            yield self._chunk()

    def finish(self) -> Iterator[Chunk]:
        """Yield the last chunk. A video shorter than one run ends with its last frame repeated."""
        if self._is_empty and self._short is not None:
            frames = self._short.frames
            frames += frames[-1:] * (self.sampling.n_frames - len(frames))
            yield from self.add(self._short)
        if self._runs:
            yield self._chunk()

    def _chunk(self) -> Chunk:
        places = {"seconds": np.array(self._seconds)}
        chunk = Chunk(self._name, self._view.batch(self._runs), places)
        self._runs, self._seconds, self._n_bytes = [], [], 0
        return chunk


def _read_sound(
    path: str | os.PathLike[str], name: str, view: SoundView, warnings: list[str]
) -> Iterator[Chunk]:
    if view.silence and is_silent(path, view.silence):
        return
    with Sound(path, view.sample_rate) as sound:
        n_rows = 0
        for batch in view.pieces(sound.blocks()):
            numbers = np.arange(n_rows, n_rows + len(batch))
            step = float(view.seconds_per_row)
            seconds = (float(sound.begin) + step * numbers).astype(np.float64)
            yield Chunk(name, batch, {"seconds": seconds})
            n_rows += len(batch)
        warnings += sound.warnings()
