"""The views: what a feature extractor sees of a file, such as some of the frames of a video."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from acluster.extraction._flow import FLOW_METHODS, flow_device, optical_flow
from acluster.extraction._sound import HOP, RATE, WINDOW, at_least, log_mel, regrouped
from acluster.extraction._tiles import Tiles
from acluster.extraction._video import Sampling, Video
from acluster.extraction._view import ADDED_LATER, NOT_DESCRIBED, Array, SoundView, VideoView

if TYPE_CHECKING:
    import av

_LARGEST_FLOW = 20.0  # pixels


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

    device : str, default="cpu"
        Where "tvl1" is computed, such as "cuda", or "auto" for a GPU if there is one. The flow of
        different devices differs by rounding. It is no part of the description of an extraction.

    Raises
    ------
    ValueError
        If a setting is invalid, or there is no such device.

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
    device: str = field(default="cpu", metadata=NOT_DESCRIBED)
    growth: ClassVar[int] = 8  # two numbers of four bytes for a pixel of one

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in FLOW_METHODS:
            raise ValueError(f"FlowStacks: method={self.method!r} is not one of {FLOW_METHODS}.")
        flow_device(self.method, self.device)  # Not only once every file is read in vain.

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
        flow = optical_flow(self.method, self.device)(first, second)
        flow = np.clip(flow, -_LARGEST_FLOW, _LARGEST_FLOW)
        numbers = {pair: number for number, pair in enumerate(pairs)}
        chosen = [[numbers[id(a), id(b)] for a, b in pairwise(frames)] for frames in runs]
        stacks = np.moveaxis(flow[np.array(chosen)], 1, 3)
        return stacks.reshape(*stacks.shape[:3], -1)


class _HopOfLength(int):
    """A hop that was not given, so that it follows the length in `dataclasses.replace`."""


@dataclass(frozen=True)
class LogMel(SoundView):
    """Log-mel patches of the sound (section 5.2 of the paper), as VGGish takes them.

    A row has `length` spectra of 64 mel bands, one spectrum every 10 ms. Sound shorter than a patch
    is followed by silence; what is left after the last whole patch is dropped.

    Parameters
    ----------
    hop : int, optional
        The number of spectra from the beginning of a patch to that of the next, at most `length`.
        By default, patches do not overlap.

    silence : float, default=1e-3
        Sound that is never louder in any channel counts as missing. 0 keeps all sound.

    length : int, default=96
        The number of spectra of a patch. VGGish takes 96 of them, 0.96 s. Choose fewer, such as 10
        with ``hop=5``, if what you listen for is shorter, such as the sounds of a word.

    Examples
    --------
    >>> from acluster.extraction import LogMel
    >>> LogMel(silence=0)
    LogMel(hop=96, silence=0, length=96)
    >>> LogMel(length=10, hop=5).seconds_per_row
    Fraction(1, 20)
    """

    hop: int | None = None
    silence: float = 1e-3
    length: int = field(default=96, metadata=ADDED_LATER)
    _may_be_zero: ClassVar[tuple[str, ...]] = ("silence",)

    def __post_init__(self) -> None:
        is_given = not (self.hop is None or isinstance(self.hop, _HopOfLength))
        super().__post_init__()
        if not is_given:  # descriptions have the number
            object.__setattr__(self, "hop", _HopOfLength(self.length))
        if self._hop > self.length:
            raise ValueError(
                f"LogMel: hop={self.hop} is more than length={self.length}, and would skip sound."
            )

    @property
    def _hop(self) -> int:
        return self.length if self.hop is None else self.hop

    @property
    def sample_rate(self) -> int:
        return RATE

    def pieces(self, blocks: Iterator[Array]) -> Iterator[Array]:
        shortest = WINDOW + (self.length - 1) * HOP
        return regrouped(log_mel(at_least(blocks, shortest)), self.length, self._hop)

    @property
    def seconds_per_row(self) -> Fraction:
        return Fraction(self._hop * HOP, RATE)


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
VIEWS = {kind.__name__: kind for kind in (Frames, Clips, FlowStacks, LogMel, Tiles, Waveforms)}


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
        Settings that a view got later, such as `length` of `LogMel`, are left out if they have
        their default, and always those that do not say what is read, such as `device`.

    Examples
    --------
    >>> from acluster.extraction import LogMel
    >>> from acluster.extraction._views import describe_view
    >>> describe_view(LogMel(silence=0))
    {'kind': 'LogMel', 'hop': 96, 'silence': 0}
    """
    described = _all_settings(view)
    for setting in fields(view) if is_dataclass(view) else ():
        is_late = setting.metadata.get("is_added_later", False)
        if is_late and described[setting.name] == setting.default:
            del described[setting.name]
    return described


def is_description_of(view: Any, described: Mapping[str, Any]) -> bool:
    """Return whether a view is described so, where a setting that is absent has its default.

    Parameters
    ----------
    view : view
        The view.

    described : mapping
        A description of this view or of another one, maybe by a version that lacks some settings.

    Returns
    -------
    bool

    Examples
    --------
    >>> from acluster.extraction import Frames
    >>> from acluster.extraction._views import is_description_of
    >>> is_description_of(Frames(n=8), {"kind": "Frames", "n": 8, "size": 224})
    True
    >>> is_description_of(Frames(n=8, size=64), {"kind": "Frames", "n": 8})
    False
    """
    own, cls = _all_settings(view), type(view)
    is_part = all(key in own and own[key] == value for key, value in described.items())
    if not is_part or not is_dataclass(cls):
        return own == described
    given = {key: getattr(view, key) for key in described if key != "kind"}
    try:
        return own == _all_settings(cls(**given))
    except (TypeError, ValueError):  # What is absent has no default, or one that does not fit.
        return own == described


def _all_settings(view: Any) -> dict[str, Any]:
    cls = type(view)
    kind = cls.__name__ if VIEWS.get(cls.__name__) is cls else public_name(cls)
    is_dataclass_ = is_dataclass(view) and not isinstance(view, type)
    settings = {"repr": repr(view)}
    if is_dataclass_:
        settings = asdict(view)
        for setting in fields(view):
            if not setting.metadata.get("is_described", True):
                del settings[setting.name]
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
