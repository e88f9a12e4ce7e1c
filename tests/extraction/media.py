"""Media files for the tests, made with PyAV."""

from fractions import Fraction

import numpy as np

CLIPS = "clips"


def picture(number, width=64, height=48):
    """A square that moves to the right on a background that changes with every frame."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 5 * number % 256
    left = 3 * number % (width - 16)
    image[16:32, left : left + 16, 1] = 255
    return image


def make_media(
    path,
    n_frames=50,
    rate=25,
    seconds_of_sound=None,
    times=None,
    codec="libx264",
    options=None,
    size=(64, 48),
    frequency=440.0,
    make_picture=picture,
):
    """Write a video, with a tone if `seconds_of_sound` is given; `n_frames=0` leaves only that."""
    import av

    with av.open(str(path), "w") as file:
        if n_frames:
            video = file.add_stream(codec, rate=rate, options=options or {"g": "12"})
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
            video.codec_context.time_base = Fraction(1, 1000)
        if seconds_of_sound:
            sound = file.add_stream("aac", rate=44100, layout="mono")
        times = np.arange(n_frames) / rate if times is None else times
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(make_picture(number, *size), "rgb24")
            frame.pts, frame.time_base = round(time * 1000), Fraction(1, 1000)
            file.mux(video.encode(frame))
        if n_frames:
            file.mux(video.encode(None))
        if seconds_of_sound:
            phase = np.arange(int(44100 * seconds_of_sound)) * 2 * np.pi * frequency / 44100
            samples = (0.3 * np.sin(phase)).astype(np.float32)
            for first in range(0, len(samples), 1024):
                part = np.ascontiguousarray(samples[None, first : first + 1024])
                frame = av.AudioFrame.from_ndarray(part, "fltp", "mono")
                frame.sample_rate, frame.pts = 44100, first
                frame.time_base = Fraction(1, 44100)
                file.mux(sound.encode(frame))
            file.mux(sound.encode(None))
    return path
