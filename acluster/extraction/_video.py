"""Read frames of a video by their exact times, and seek where that saves decoding."""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from acluster.extraction._media import MediaError, count, import_av, open_track

if TYPE_CHECKING:
    import av.container

# A seek costs about as much as decoding some frames: those that the decoder holds back.
_FRAMES_PER_SEEK = 8
_TOLERANCE = Fraction(1, 10)  # seconds; headers round, and may count the sound
_MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Sampling:
    """The frames of a video that are wanted: runs of consecutive frames.

    Parameters
    ----------
    times : iterable of Fraction
        Seconds since the start of the file, ascending. A run begins with the frame that is shown
        at one of them. Times at which the same frame is shown give one run.

    n_frames : int, default=1
        The number of frames in a run.
    """

    times: Iterable[Fraction]
    n_frames: int = 1


@dataclass
class Run:
    """Consecutive frames, in the order in which they are shown.

    Parameters
    ----------
    sampling : int
        The position of the sampling that wants them.

    frames : list of av.VideoFrame
        The frames. At the end of a video, there may be fewer than wanted.
    """

    sampling: int
    frames: list[av.VideoFrame] = field(default_factory=list)


class _Wanted:
    """What samplings still want, and the runs that have begun.

    Parameters
    ----------
    stamps : sequence of iterable of int
        The time stamps at which the runs of each sampling begin, ascending. They are taken one by
        one: a header may claim a video of years.
    """

    def __init__(self, stamps: Sequence[Iterable[int]]) -> None:
        self._rest = [iter(own) for own in stamps]
        self._next = [next(own, None) for own in self._rest]
        self.begun: list[Run] = []

    @property
    def next_stamp(self) -> int | None:
        """The time stamp at which the next run begins."""
        return min((stamp for stamp in self._next if stamp is not None), default=None)

    @property
    def is_done(self) -> bool:
        """Whether no frame is wanted any more."""
        return not self.begun and self.next_stamp is None

    def show(self, frame: av.VideoFrame, end: int) -> None:
        """Begin the runs whose time stamps are before `end`, and add a frame to all runs."""
        for number, rest in enumerate(self._rest):
            stamp = self._next[number]
            if stamp is not None and stamp < end:
                self.begun.append(Run(number))
                self._next[number] = next((own for own in rest if own >= end), None)
        for run in self.begun:
            run.frames.append(frame)

    def take(self, is_complete: Callable[[Run], bool]) -> list[Run]:
        """Remove the runs that are complete, and return them."""
        taken = [run for run in self.begun if is_complete(run)]
        self.begun = [run for run in self.begun if not is_complete(run)]
        return taken


class Video:
    """A video file whose frames are read in the order of their times.

    Frames are found by their time stamps, never by counting them: headers and frame rates are
    often wrong. As a context manager, it closes the file.

    Parameters
    ----------
    path : str or path
        The file.

    Attributes
    ----------
    begin : Fraction
        The time of the first frame, in seconds since the start of the file. Sound may start
        earlier.

    duration : Fraction
        The duration in seconds that the header claims, or else that of the packets.

    frame_seconds : Fraction
        The mean duration of a frame.

    end : Fraction or None
        The time at which the last frame disappears, once the video has been read to its end.

    pixel_aspect : Fraction
        The width of a pixel divided by its height.

    n_decoded, n_seeks : int
        The number of frames decoded, and the number of seeks.

    Raises
    ------
    NoTrackError
        If the file has no video.

    MediaError
        If the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.end: Fraction | None = None
        self.n_decoded = self.n_seeks = 0
        self._last_gap = self._n_shown = self._n_backward = 0
        self._open()
        try:
            stream = self._stream
            # A file may give it, its video or both; the file counts.
            own = stream.codec_context.sample_aspect_ratio
            self.pixel_aspect = stream.sample_aspect_ratio or own or Fraction(1)
            self._start = stream.start_time or 0
            begin = Fraction(self._container.start_time or 0, _MICROSECONDS)
            self._origin = min(begin, self._start * self._time_base)
            self._keys = self._key_stamps()
            self.frame_seconds = self._mean_frame_seconds()
            self.duration = self._claimed_duration() or self._scanned_duration()
        except BaseException:
            self._container.close()
            raise
        self.begin = self.seconds(self._start)

    def _open(self) -> None:
        self._decoder = open_track(self.path, "video", "video")
        self._container, self._stream = self._decoder.container, self._decoder.stream
        self._stream.codec_context.thread_count = 1
        self._time_base: Fraction = self._stream.time_base

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._container.close()

    def seconds(self, stamp: int) -> Fraction:
        """Return the time of a time stamp, in seconds since the start of the file.

        Parameters
        ----------
        stamp : int
            A time stamp of a frame, in units of the stream's time base.

        Returns
        -------
        Fraction
        """
        return stamp * self._time_base - self._origin

    def _mean_frame_seconds(self) -> Fraction:
        """Return the mean duration of a frame, by the number of frames or by the frame rate."""
        stream = self._stream
        if stream.frames and stream.duration:
            return stream.duration * self._time_base / stream.frames
        rate = stream.average_rate
        return 1 / rate if rate else Fraction(1, 25)

    def _key_stamps(self) -> list[int]:
        """Return the time stamps of the key frames, if the file has an index of them."""
        keys = sorted(entry.timestamp for entry in self._stream.index_entries if entry.is_keyframe)
        # Some indices hold the times at which frames are decoded, all of them earlier.
        delay = max(0, self._start - keys[0]) if keys else 0
        return [key + delay for key in keys]

    def _claimed_duration(self) -> Fraction | None:
        """Return the duration that the header claims, if it claims any."""
        if self._stream.duration:
            return self._stream.duration * self._time_base
        if not self._container.duration:
            return None
        # That of the whole file: a video that starts late is shorter.
        whole = Fraction(self._container.duration, _MICROSECONDS)
        late = self._start * self._time_base - self._origin
        return whole - late if late < whole else whole

    def _scanned_duration(self) -> Fraction:
        """Return the duration of the packets, and take the start from them."""
        packets = self._decoder.packets()
        stamps = [packet.pts for packet in packets if packet and packet.size]
        self._reopen()
        known = [stamp for stamp in stamps if stamp is not None]
        if len(known) < len(stamps) or not known:
            return max(1, len(stamps)) * self.frame_seconds
        self._start = min(known)
        return (max(known) - self._start) * self._time_base + self.frame_seconds

    def _reopen(self) -> None:
        """Go back to the beginning: where seeking fails, opening the file again does not."""
        self._container.close()
        self._open()

    def runs(self, samplings: Sequence[Sampling]) -> Iterator[Run]:
        """Yield the wanted runs of frames, in one pass over the video.

        Parameters
        ----------
        samplings : sequence of Sampling
            What is wanted.

        Yields
        ------
        Run
            Complete runs as soon as their last frame is decoded, and at the end of the video
            those that it cuts short.

        Raises
        ------
        MediaError
            If no frame can be decoded.
        """
        wanted = _Wanted([map(self._stamp, one.times) for one in samplings])
        frames = self._frames()
        current = next(frames, None)
        if current is None:
            raise MediaError(f"{self.path} has a video of which no frame can be decoded.")
        current, frames = self._advanced(current, frames, wanted.next_stamp)
        while current is not None and not wanted.is_done:
            self._n_shown += 1
            following = next(frames, None)
            end = self._end_of(current, following)
            wanted.show(current, end)
            complete = wanted.take(lambda run: len(run.frames) == samplings[run.sampling].n_frames)
            yield from complete
            if following is None:
                self.end = self.seconds(end)
            elif complete and not wanted.begun:
                following, frames = self._advanced(following, frames, wanted.next_stamp)
            current = following
        yield from wanted.begun

    def _stamp(self, time: Fraction) -> int:
        """Return the last time stamp that is not after a time in seconds."""
        return int((time + self._origin) // self._time_base)

    def _end_of(self, frame: av.VideoFrame, following: av.VideoFrame | None) -> int:
        """Return the time stamp at which a frame makes way for the next one."""
        if following is not None:
            self._last_gap = following.pts - frame.pts
            return following.pts
        # Some formats do not say how long a frame lasts: then as long as the one before.
        own = frame.duration or self._last_gap or round(self.frame_seconds / self._time_base)
        return frame.pts + max(1, own)

    def _frames(
        self, packets: Iterator[av.Packet | None] | None = None, after: int | None = None
    ) -> Iterator[av.VideoFrame]:
        """Decode frames whose time stamps ascend, from where the file is, or `after` a stamp."""
        last = after
        for packet in self._decoder.packets() if packets is None else packets:
            for frame in self._decoder.decoded(packet):
                self.n_decoded += 1
                if frame.pts is None:
                    step = round(self.frame_seconds / self._time_base)
                    frame.pts = self._start if last is None else last + step
                if last is not None and frame.pts <= last:
                    self._n_backward += last != after
                    continue
                last = frame.pts
                if not frame.is_corrupt:
                    yield frame

    def _advanced(
        self, current: av.VideoFrame, frames: Iterator[av.VideoFrame], target: int | None
    ) -> tuple[av.VideoFrame, Iterator[av.VideoFrame]]:
        """Seek to the last key frame before a time stamp, if that saves decoding."""
        if target is None:
            return current, frames
        cost = round(_FRAMES_PER_SEEK * self.frame_seconds / self._time_base)
        first = bisect.bisect_right(self._keys, current.pts + cost)
        keys = self._keys[first : bisect.bisect_right(self._keys, target)]
        if not keys:
            return current, frames
        for key in reversed(keys):
            found = self._sought(key)
            if found is None:
                break
            if current.pts < found[0].pts <= target:
                return found
        # The index is wrong. Without it, all frames are decoded.
        self._keys = []
        self._reopen()
        return current, self._frames(after=current.pts)

    def _sought(self, key: int) -> tuple[av.VideoFrame, Iterator[av.VideoFrame]] | None:
        """Seek to a key frame, and return it and the frames that follow."""
        self.n_seeks += 1
        try:
            self._container.seek(key, stream=self._stream)
        except import_av().FFmpegError:
            return None
        packets = self._decoder.packets()
        packet = next(packets, None)
        if packet is None or not packet.is_keyframe or packet.pts is None:
            return None
        # Frames that are shown before a key frame may depend on others before it.
        frames = self._frames(chain([packet], packets), after=packet.pts - 1)
        frame = next(frames, None)
        return None if frame is None else (frame, frames)

    def warnings(self) -> list[str]:
        """Return what is wrong with the part of the video that has been read.

        Returns
        -------
        list of str
            Without the name of the file.
        """
        found = []
        if n_damaged := self._decoder.n_damaged:
            found.append(f"{count(n_damaged, 'packet')} of the video cannot be decoded")
        if self._n_backward:
            found.append(f"{count(self._n_backward, 'frame')} with time stamps that do not ascend")
        if self.end is not None and self._n_shown == 1:
            found.append("the video has a single frame")
        if self.end is not None:
            claimed = self.begin + self.duration
            if self.end < claimed - _TOLERANCE - self.frame_seconds:
                found.append(f"the video ends at {float(self.end):.1f} of {float(claimed):.1f} s")
        return found
