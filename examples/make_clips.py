"""Make short clips of moving shapes and tones, which need all modalities.

    python examples/make_clips.py clips/ [--clips 240] [--seed 0]

A class is a shape (square or disc), a direction (left or right) and a tone (low or high): the
pictures tell the shape, their motion the direction, and the sound the tone. The clips of a class
are in a folder of its name. In each clip of three seconds, the shape moves for one second and
stands still otherwise, and the tone sounds for one second of noise.
"""

import argparse
from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np

SECONDS, RATE, SIZE, SAMPLES = 3, 10, 64, 16_000
CLASSES = list(product(("square", "disc"), ("left", "right"), ("low", "high")))


def picture(shape, place, draw):
    """Return a frame with a shape at a place, on noise."""
    y, x = np.mgrid[:SIZE, :SIZE] - np.array(place)[:, None, None]
    inside = np.maximum(abs(x), abs(y)) < 9 if shape == "square" else np.hypot(x, y) < 10
    frame = draw.integers(0, 60, (SIZE, SIZE, 3), np.uint8)
    frame[inside] += 150
    return frame


def tone(pitch, draw):
    """Return the samples of a tone of one second, somewhere in noise."""
    frequency = draw.uniform(300, 500) if pitch == "low" else draw.uniform(1200, 2000)
    sound = 0.02 * draw.standard_normal(SECONDS * SAMPLES)
    first = draw.integers((SECONDS - 1) * SAMPLES)
    phase = 2 * np.pi * frequency * np.arange(SAMPLES) / SAMPLES
    sound[first : first + SAMPLES] += 0.2 * np.sin(phase)
    return sound.astype(np.float32)


def write_clip(path, shape, direction, pitch, draw):
    """Write the clip of a class."""
    start, y = draw.integers((SECONDS - 1) * RATE), draw.integers(16, SIZE - 16)
    x = 14 if direction == "right" else SIZE - 14
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        audio = file.add_stream("aac", rate=SAMPLES, layout="mono")
        for number in range(SECONDS * RATE):
            if start <= number < start + RATE:
                x += 3 if direction == "right" else -3
            frame = av.VideoFrame.from_ndarray(picture(shape, (y, x), draw), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(tone(pitch, draw)[None], "fltp", "mono")
        sound.sample_rate, sound.pts = SAMPLES, 0
        file.mux(audio.encode(sound))
        file.mux(audio.encode(None))


def make_clips(folder, n_clips=240, seed=0):
    """Write clips of all classes to their folders."""
    draw = np.random.default_rng(seed)
    for number in range(n_clips):
        shape, direction, pitch = CLASSES[number % len(CLASSES)]
        path = Path(folder) / f"{shape} {direction} {pitch}" / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, shape, direction, pitch, draw)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_clips(options.folder, options.clips, options.seed)
