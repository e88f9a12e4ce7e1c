"""Measure feature extraction: seeking, CPU time of a clip, kills, flushing and memory footprint.

    OMP_NUM_THREADS=1 python benchmarks/extraction.py [seeking clip tiles kills memory]
        [--clips 300] [--repeats 3] [--json FILE]

seeking: CPU time of n frames at equal intervals of a video of ten minutes and of a clip of two
    seconds, relative to the better of two other ways: to decode everything, and to seek to every
    frame.
clip: CPU time of a clip of two seconds, with 25 frames, 25 stacks of five flow fields of
    112 x 112 pixels and the log-mel patches, all described by the classical descriptors.
tiles: CPU time of a tile of 224 x 224 pixels of a generated tiled TIFF slide, with the classical
    descriptor, relative to the time in which OpenSlide alone reads the same regions.
kills: generated clips are extracted once without an interruption, and once in processes that end
    by ten SIGKILLs and a SIGTERM at random moments. The two stores and their tables are compared.
    The share of the time spent flushing every 60 s is that of one flush in a minute.
memory: the peak memory footprint of extracting ten minutes of 4K video and ten hours of sound, less
    that of a process that has imported as much.

Clips are generated with PyAV, the slide with tifffile.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path
from statistics import median

import av
import numpy as np
from machine import device_name

from acluster import FeatureSetsWriter, open_feature_sets
from acluster.extraction import (
    FlowStacks,
    Frames,
    LogMel,
    Tiles,
    extract,
    flow_descriptor,
    frame_descriptor,
    patch_descriptor,
    tile_descriptor,
)
from acluster.extraction._video import Sampling, Video

NUMBERS = (1, 8, 25, 60, 120, 300, 600)
VIEWS = {
    "rgb": (Frames(25), frame_descriptor),
    "flow": (FlowStacks(25, method="dis", size=112), flow_descriptor),
    "audio": (LogMel(), patch_descriptor),
}


def make_video(path, seconds, rate=25, size=(320, 240), sound=True, seed=0, options=None):
    """Write a video of moving rectangles, with a tone."""
    draw = np.random.default_rng(seed)
    background = draw.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    background = background.repeat(8, axis=0).repeat(8, axis=1)
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264", rate=rate, options=options or {"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        if sound:
            audio = file.add_stream("aac", rate=16000, layout="mono")
        for number in range(round(seconds * rate)):
            image = np.roll(background, 2 * number, axis=1)
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        if sound:
            tone = np.sin(np.arange(round(16000 * seconds)) * draw.uniform(0.1, 1)) * 0.3
            write_sound(file, audio, tone.astype(np.float32), 16000)


def write_sound(file, stream, samples, rate):
    """Encode samples."""
    for first in range(0, len(samples), 1024):
        part = np.ascontiguousarray(samples[None, first : first + 1024])
        frame = av.AudioFrame.from_ndarray(part, "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def equal_times(video, n):
    step = video.duration / n
    return [video.begin + (i + Fraction(1, 2)) * step for i in range(n)]


def by_times(path, n):
    """Read n frames as the package does."""
    with Video(path) as video:
        return [run.frames[0].pts for run in video.runs([Sampling(equal_times(video, n))])]


def by_decoding(path, n):
    """Read n frames by decoding everything."""
    with Video(path) as video:
        video._keys = []
        return [run.frames[0].pts for run in video.runs([Sampling(equal_times(video, n))])]


def by_seeking(path, n):
    """Read n frames by a seek to the key frame before each."""
    found = []
    with Video(path) as video, av.open(str(path)) as file:
        stream = file.streams.video[0]
        stream.thread_type = "NONE"
        for time_ in equal_times(video, n):
            target = int(time_ / stream.time_base)
            file.seek(target, stream=stream)
            last = None
            for frame in file.decode(stream):
                if frame.pts > target and last is not None:
                    break
                last = frame
            if not found or last.pts != found[-1]:
                found.append(last.pts)
    return found


def cpu_seconds(function, *arguments):
    started = time.process_time()
    result = function(*arguments)
    return time.process_time() - started, result


def seeking(folder, options):
    """Return the ratios of the time to that of the better of two other ways."""
    rows = []
    for name, seconds in (("ten minutes", 600), ("two seconds", 2)):
        path = folder / f"{seconds}.mp4"
        make_video(path, seconds, sound=False)
        for n in NUMBERS:
            times = {kind.__name__: [] for kind in (by_times, by_decoding, by_seeking)}
            for _ in range(options.repeats):
                found = {}
                for kind in (by_times, by_decoding, by_seeking):
                    taken, found[kind.__name__] = cpu_seconds(kind, path, n)
                    times[kind.__name__].append(taken)
                assert found["by_times"] == found["by_decoding"] == found["by_seeking"]
            middle = {kind: round(median(own), 3) for kind, own in times.items()}
            better = min(middle["by_decoding"], middle["by_seeking"])
            rows.append({"video": name, "n": n, **middle, "ratio": middle["by_times"] / better})
            print(rows[-1], flush=True)
    return rows


def clip(folder, options):
    """Return the CPU seconds per clip of two seconds, by the method of the optical flow."""
    root = folder / "clips"
    root.mkdir()
    n_clips = 8
    for number in range(n_clips):
        make_video(root / f"{number}.mp4", 2, seed=number)
    row = {}
    for method in ("dis", "tvl1"):
        views = {**VIEWS, "flow": (FlowStacks(25, method=method, size=112), flow_descriptor)}
        taken = []
        for number in range(options.repeats + 1):  # the first one compiles and imports
            store = folder / f"{method}{number}.zarr"
            taken.append(cpu_seconds(extract, root, store, views)[0] / n_clips)
        row[method] = round(median(taken[1:]), 3)
    print(row, flush=True)
    return row


def make_slide(path, side=3584):
    """Write a slide of noise with structure, in compressed tiles of 256 x 256 pixels."""
    import tifffile

    draw = np.random.default_rng(0)
    coarse = draw.integers(100, 240, (side // 32, side // 32, 3), np.uint8)
    pixels = coarse.repeat(32, axis=0).repeat(32, axis=1)
    pixels += draw.integers(0, 16, pixels.shape, np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="zlib", metadata=None
    )


def read_regions(path, corners, size):
    """Read regions with OpenSlide alone."""
    from openslide import OpenSlide

    with OpenSlide(path) as slide:
        for x, y in corners:
            np.asarray(slide.read_region((int(x), int(y)), 0, (size, size)))


def tiles(folder, options):
    """Return the CPU milliseconds per tile of the whole extraction, and of reading alone."""
    root = folder / "slides"
    root.mkdir()
    make_slide(root / "slide.tif")
    taken = {"extract": [], "openslide": []}
    for number in range(options.repeats + 1):  # the first one imports
        store = folder / f"tiles{number}.zarr"
        views = {"tiles": (Tiles(), tile_descriptor)}
        whole, _ = cpu_seconds(extract, root, store, views)
        corners = open_feature_sets(store)["tiles"].places[0]
        alone, _ = cpu_seconds(read_regions, root / "slide.tif", corners, Tiles().size)
        for name, seconds in (("extract", whole), ("openslide", alone)):
            taken[name].append(1000 * seconds / len(corners))
    row = {name: round(median(values[1:]), 3) for name, values in taken.items()}
    row |= {"tiles": len(corners), "ratio": round(row["extract"] / row["openslide"], 2)}
    print(row, flush=True)
    return row


def contents(store):
    """Return everything that a store and its tables hold."""
    X = open_feature_sets(store)
    arrays = [np.concatenate([x.ravel() for x in X[name]]) for name in X.names]
    lengths = [X[name].lengths.tolist() for name in X.names]
    tables = [
        path.read_text() if path.exists() else ""
        for path in (Path(f"{store}.failed.csv"), Path(f"{store}.warnings.csv"))
    ]
    return [x.tobytes() for x in arrays], lengths, X.id.tolist(), X.label.tolist(), tables


def kills(folder, options):
    """Return what became of an extraction that is killed again and again."""
    root = folder / "many"
    for number in range(options.clips):
        (root / f"class{number % 3}").mkdir(parents=True, exist_ok=True)
        path = root / f"class{number % 3}" / f"{number}.mp4"
        make_video(path, 2, sound=number % 7 != 0, seed=number)
        if number % 50 == 5:
            path.write_bytes(path.read_bytes()[:500])
    one, killed = folder / "one.zarr", folder / "killed.zarr"
    started = time.perf_counter()
    extract(root, one, VIEWS, labels="folders", flush_seconds=5)
    undisturbed = time.perf_counter() - started
    command = [sys.executable, __file__, "--extract", str(root), str(killed)]
    draw, n_kills, codes = random.Random(0), 0, []
    while not codes or codes[-1] != 0:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            process.wait(4 + draw.random() * undisturbed / 12 if n_kills < 11 else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM if n_kills == 5 else signal.SIGKILL)
            process.wait()
            n_kills += 1
        codes.append(process.returncode)
    row = {
        "clips": options.clips,
        "seconds": round(undisturbed, 1),
        "exit codes": codes,
        "equal": contents(one) == contents(killed),
        "percent of flushing": round(percent_of_flushing(folder), 2),
    }
    print(row, flush=True)
    return row


def percent_of_flushing(folder):
    """Return the share of a minute that one flush of a minute's features takes."""
    rng = np.random.default_rng(0)
    store = folder / "flush.zarr"
    taken = []
    with FeatureSetsWriter(store) as writer:
        for number in range(240):
            item = {"rgb": rng.standard_normal((25, 1280), np.float32)}
            item |= {"audio": rng.standard_normal((10, 128), np.float32)}
            writer.append(item, id=f"v{number}", label=number % 2)
            if number % 60 == 59:  # an item a second
                started = time.perf_counter()
                writer.flush()
                taken.append(time.perf_counter() - started)
    return 100 * median(taken) / 60


def memory(folder, options):
    """Return the peak memory footprint of extracting long files, in MB."""
    for name in ("pictures", "sounds", "nothing"):
        (folder / name).mkdir()
    make_video(folder / "pictures" / "4k.mp4", 600, rate=2, size=(3840, 2160), sound=False)
    with av.open(str(folder / "sounds" / "long.flac"), "w") as file:
        stream = file.add_stream("flac", rate=16000, layout="mono")
        hour = (8000 * np.sin(np.arange(3600 * 16000) * 0.1)).astype("<i2")
        for number in range(10):
            frame = av.AudioFrame.from_ndarray(hour[None], "s16", "mono")
            frame.sample_rate, frame.pts = 16000, number * len(hour)
            frame.time_base = Fraction(1, 16000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    make_video(folder / "nothing" / "short.mp4", 1)
    row = {}
    for name in ("nothing", "pictures", "sounds"):
        store = folder / f"{name}.zarr"
        command = [sys.executable, __file__, "--extract", str(folder / name), str(store)]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        row[name] = int(shown.split()[-1])
        X = open_feature_sets(store)
        row[f"{name}, local features"] = [int(X[m].lengths.sum()) for m in X.names]
    print(row, flush=True)
    return row


def peak_megabytes():
    """Return the peak memory footprint of this process; that of getrusage includes its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = {part.__name__: part for part in (seeking, clip, tiles, kills, memory)}
    parser.add_argument("parts", nargs="*", default=list(parts), help=", ".join(parts))
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--extract", nargs=2, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.extract:
        labels = "folders" if any(Path(options.extract[0]).glob("*/*")) else None
        extract(*options.extract, VIEWS, labels=labels, flush_seconds=5)
        print(peak_megabytes())
        return
    folder = Path(tempfile.mkdtemp())
    names = ("av", "numpy", "opencv-python-headless", "openslide-python", "torch")
    versions = {name: version(name) for name in names}
    result = {"date": str(date.today()), "device": device_name("cpu"), "cores": os.cpu_count()}
    result["versions"] = versions
    try:
        for name in options.parts:
            result[name] = parts[name](folder, options)
    finally:
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
