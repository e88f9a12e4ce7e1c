"""Open media files with PyAV, which bundles FFmpeg."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import av
    import av.container

_SECONDS_WITHOUT_DATA = 60.0


class MediaError(ValueError):
    """Raised if a file has no pictures or sound that can be read.

    The message names the file and the reason.
    """


class NoTrackError(MediaError):
    """Raised if a media file has no video, or no sound."""


def import_av() -> Any:
    """Return the module av, or raise an ImportError that names the extra."""
    try:
        import av
    except ImportError as error:
        raise ImportError(
            "Reading videos and sounds needs PyAV. Install it with pip install 'acluster[media]'."
        ) from error
    return av


def open_media(path: str | os.PathLike[str]) -> av.container.InputContainer:
    """Open a media file for reading.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    av.container.InputContainer

    Raises
    ------
    MediaError
        If it is empty or not a media file.

    OSError
        If it cannot be opened.
    """
    av = import_av()
    if os.path.getsize(path) == 0:
        raise MediaError(f"{os.fspath(path)} is empty.")
    try:
        # Text in metadata is not always UTF-8, and none of it is needed.
        return av.open(
            # Not a relative path, whose beginning may look like a protocol, as in "12:30.wav".
            os.path.abspath(path),
            metadata_errors="replace",
            timeout=(_SECONDS_WITHOUT_DATA,) * 2,
        )
    except (OSError, MemoryError):
        raise
    except av.FFmpegError as error:
        reason = str(error.strerror).lower()
        raise MediaError(f"{os.fspath(path)} cannot be read as a media file: {reason}.") from error


def open_track(path: str | os.PathLike[str], kind: str, noun: str) -> Decoder:
    """Open the best track of a kind in a media file.

    Parameters
    ----------
    path : str or path
        The file.

    kind : {"video", "audio"}
        As PyAV names it.

    noun : str
        What the track holds, in an error message: "video" or "sound".

    Returns
    -------
    Decoder

    Raises
    ------
    NoTrackError
        If the file has no such track, or only the picture of a cover.

    MediaError, OSError
        If it cannot be read.
    """
    container, name = open_media(path), os.fspath(path)
    stream: Any = container.streams.best(kind)
    problem: MediaError | None = None
    if stream is None or stream.disposition & import_av().stream.Disposition.attached_pic:
        problem = NoTrackError(f"{name} has no {noun}.")
    elif stream.codec_context is None:
        problem = MediaError(f"{name} has {noun} of a kind that FFmpeg cannot decode.")
    if problem is not None:
        container.close()
        raise problem
    # PyAV can deadlock with FFmpeg's threads, and several files are read at the same time.
    stream.thread_type = "NONE"
    return Decoder(container, stream)


class Decoder:
    """Decodes the packets of a stream, and passes over those that are damaged.

    Parameters
    ----------
    container : av.container.InputContainer
        The file.

    stream : av.stream.Stream
        One of its streams.

    Attributes
    ----------
    n_damaged : int
        The number of packets passed over so far.
    """

    def __init__(self, container: av.container.InputContainer, stream: Any) -> None:
        self.container, self.stream = container, stream
        self._errors: type[Exception] = import_av().FFmpegError
        self.n_damaged = 0

    def packets(self) -> Iterator[av.Packet | None]:
        """Yield packets, from where the file is; None stands for the end of one that breaks off."""
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except self._errors:
                self.n_damaged += 1
                yield None
                return
            yield packet

    def decoded(self, packet: av.Packet | None) -> list[Any]:
        """Return the frames that a packet completes; none if it is damaged.

        Parameters
        ----------
        packet : av.Packet or None
            A packet; None completes the last frames.

        Returns
        -------
        list of av.VideoFrame or av.AudioFrame
        """
        try:
            frames: list[Any] = self.stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except self._errors:
            self.n_damaged += 1
            return []
        return frames


def count(number: int, noun: str) -> str:
    """Return a number and a noun, in the plural if it is not 1.

    Parameters
    ----------
    number : int
        The number.

    noun : str
        The noun in the singular.

    Returns
    -------
    str
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
