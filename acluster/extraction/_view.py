"""What a view is, and how files are read for views: in chunks, with one pass over each track."""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import tee
from math import inf
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, get_type_hints

import numpy as np
from numpy.typing import NDArray

from acluster.extraction._media import NoTrackError
from acluster.extraction._sound import Mix, Sound, loudness
from acluster.extraction._video import Run, Sampling, Video

if TYPE_CHECKING:
    import av

Array = NDArray[Any]
Places = Mapping[str, NDArray[np.float64]]

ROWS_TOGETHER, BYTES_TOGETHER = 64, 1 << 25  # of a chunk, at most

# The metadata of a setting that a view got after stores and models with its description had been
# written. At its default, it is left out of the description, so that this stays the same.
ADDED_LATER = {"is_added_later": True}
# The metadata of a setting that does not say what is read. It is no part of the description.
NOT_DESCRIBED = {"is_described": False}


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
    """A view of a media file.

    It is read in chunks, so that a long file needs little memory.
    """

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if hint is int or (hint == int | None and value is not None):
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
            Of a video or a sound, "seconds" is the time at which a row begins, since the start of
            the file. Of a picture, "x" and "y" are the upper left corner of a row.

        None is returned instead if the file has no such track, or nothing is left of it.

        Raises
        ------
        MediaError
            If the file cannot be read.

        ImportError
            Without the packages that read the file.
        """
        chunks = list(read_views(path, {"": self}, []))
        if not chunks:
            return None
        parts = [chunk.places for chunk in chunks if chunk.places]
        places = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return np.concatenate([chunk.batch for chunk in chunks]), places


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


class ChunkedView(MediaView, ABC):
    """A view that reads a file by itself."""

    @abstractmethod
    def chunks(
        self, path: str | os.PathLike[str], warnings: list[str]
    ) -> Iterator[tuple[Array, Places]]:
        """Yield batches and their places; add what is wrong with the file to the warnings."""


def read_views(
    path: str | os.PathLike[str],
    views: Mapping[str, View],
    warnings: list[str],
    is_tolerant: bool = False,
) -> Iterator[Chunk]:
    """Read what views see of a file. Its pictures and its sound are decoded once for all views.

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
    sound = {name: view for name, view in views.items() if isinstance(view, SoundView)}
    parts = [_read_video(path, video, warnings)] if video else []
    if sound:
        parts.append(_read_sound(path, sound, warnings))
    for name, view in views.items():
        if isinstance(view, ChunkedView):
            parts.append(Chunk(name, *part) for part in view.chunks(path, warnings))
        elif name not in video and name not in sound:
            parts.append(_read_other(path, name, view))
    for chunks in parts:
        try:
            yield from chunks
        except NoTrackError:
            pass
        except (ValueError, OSError) as error:
            if not is_tolerant:
                raise
            if str(error) not in warnings:  # a file that cannot be opened fails for all views
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
        if len(self._runs) >= ROWS_TOGETHER or self._n_bytes >= BYTES_TOGETHER:
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
    path: str | os.PathLike[str], views: Mapping[str, SoundView], warnings: list[str]
) -> Iterator[Chunk]:
    """Decode the sound once for all views. Those that it is silent for have no rows."""
    heard = loudness(path, max(view.silence for view in views.values()))
    mixes = {
        name: Mix(view.sample_rate, heard.channel(view.silence))
        for name, view in views.items()
        if not view.silence or not heard.is_silent(view.silence)
    }
    if not mixes:
        return
    alone = {mix.channel + 1 for mix in mixes.values() if mix.channel is not None}
    warnings += [
        f"the mean of the channels of its sound is silent, so channel {n} is used alone"
        for n in alone
    ]
    with Sound(path) as sound:
        # Each view asks for blocks when it needs them. What another one has not taken yet is kept.
        copies = tee(sound.blocks({*mixes.values()}), len(mixes))
        batches = {
            name: views[name].pieces(_blocks_of(mix, copy))
            for copy, (name, mix) in zip(copies, mixes.items(), strict=True)
        }
        yield from _in_turn(batches, views, float(sound.begin))
        warnings += sound.warnings()


def _blocks_of(mix: Mix, blocks: Iterator[tuple[Mix, Array]]) -> Iterator[Array]:
    return (block for own, block in blocks if own == mix)


def _in_turn(
    batches: Mapping[str, Iterator[Array]], views: Mapping[str, SoundView], begin: float
) -> Iterator[Chunk]:
    """Yield the batches of all views as chunks, next that of the view which is furthest behind.

    So no view is ahead of another one by more than a row and a block of samples.
    """
    numbers = dict.fromkeys(batches, 0)  # of the next row
    steps = {name: float(views[name].seconds_per_row) for name in batches}
    while numbers:
        name = min(numbers, key=lambda name: steps[name] * numbers[name])
        batch = next(batches[name], None)
        if batch is None:
            del numbers[name]
            continue
        rows = np.arange(numbers[name], numbers[name] + len(batch))
        numbers[name] += len(batch)
        seconds = (begin + steps[name] * rows).astype(np.float64)
        yield Chunk(name, batch, {"seconds": seconds})
