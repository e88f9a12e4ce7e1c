"""Compare optical flow methods: CPU time, distance from scikit-image, and error; time descriptors.

    OMP_NUM_THREADS=1 python benchmarks/flow.py [--sizes 112x112 240x320] [--pairs 10] [--repeats 5]
        [--fields 125] [--json FILE]

pairs: generated textures that move, turn and grow, so that the motion is known. Every method takes
    all pairs at once, "tvl1 one by one" in a call each. The ratio is scikit-image's CPU time to
    that of the method, with the range over the repeats.
clip: the CPU time of the flow fields of a clip at 112 x 112 pixels (125 for 25 stacks of 5 that
    share none), and of the descriptors of 25 frames at 224 x 224, of 25 stacks of 5 fields at
    112 x 112, and of two log-mel patches.

CPU times are those of all threads: the least of the interleaved repeats, because other programs on
the machine can only make them longer.

The distance from scikit-image, at equal settings, and the error are mean end-point distances in
pixels. The error leaves out a border of 8 pixels.
"""

import argparse
import json
import os
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from machine import device_name

from acluster.extraction import flow_descriptor, frame_descriptor, optical_flow, patch_descriptor

DISTRIBUTIONS = ("numpy", "torch", "opencv-python-headless", "scikit-image")
BORDER = 8
CLIP_SIZE = (112, 112)


def texture(rng):
    """Return a texture as a function of places: waves of 6 to 60 pixels, between 0 and 1."""
    lengths = np.geomspace(6, 60, 40)
    angles, phases = rng.uniform(0, 2 * np.pi, (2, len(lengths)))

    def value(x, y):
        total = np.zeros_like(x)
        for length, angle, phase in zip(lengths, angles, phases, strict=True):
            total += np.sin(2 * np.pi / length * (np.cos(angle) * x + np.sin(angle) * y) + phase)
        return np.clip(0.5 + total / 30, 0, 1)

    return value


def textured_pair(height, width, seed):
    """Return two grey frames as uint8, and the motion (H, W, 2) from the first to the second."""
    rng = np.random.default_rng(seed)
    value = texture(rng)
    y, x = np.mgrid[:height, :width].astype(float)
    scale, angle = rng.uniform(0.98, 1.02), rng.uniform(-0.02, 0.02)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift, center = rng.uniform(-3, 3, 2), np.array([width, height]) / 2

    def moved(places, matrix, shift):
        return (places - center) @ matrix.T + center + shift

    places = np.stack([x, y], axis=-1)
    motion = moved(places, matrix, shift) - places
    # A pixel of the second frame shows the place from which its content came.
    origin = moved(places - shift, np.linalg.inv(matrix), 0)
    frames = value(x, y), value(origin[..., 0], origin[..., 1])
    return *((255 * frame).round().astype(np.uint8) for frame in frames), motion


def one_by_one(flow):
    """Return a flow that takes every pair alone."""

    def of_all(first, second):
        pairs = zip(first, second, strict=True)
        return np.concatenate([flow(a[None], b[None]) for a, b in pairs])

    return of_all


def cpu_seconds(functions, repeats):
    """Return the CPU seconds of every function in each repeat, interleaved, after a warm-up."""
    measured = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            started = time.process_time()
            function()
            if repeat > 0:
                measured[name].append(time.process_time() - started)
    return measured


def distance(flow, other):
    return float(np.linalg.norm(flow - other, axis=-1).mean())


def compare(height, width, n_pairs, repeats):
    """Return the time, the ratio, the distance and the error of every method."""
    pairs = [textured_pair(height, width, seed) for seed in range(n_pairs)]
    first, second, motion = (np.stack(parts) for parts in zip(*pairs, strict=True))
    methods = {name: optical_flow(name) for name in ("skimage", "tvl1", "dis")}
    methods["tvl1 one by one"] = one_by_one(methods["tvl1"])
    flows = {name: method(first, second) for name, method in methods.items()}
    runs = {name: lambda method=method: method(first, second) for name, method in methods.items()}
    measured = cpu_seconds(runs, repeats)
    inside = (slice(None), slice(BORDER, -BORDER), slice(BORDER, -BORDER))
    report = {}
    for name, seconds in measured.items():
        ratios = np.divide(measured["skimage"], seconds)
        report[name] = {
            "milliseconds_per_pair": 1e3 * min(seconds) / n_pairs,
            "ratio": min(measured["skimage"]) / min(seconds),
            "range": [float(ratios.min()), float(ratios.max())],
            "distance_from_skimage": distance(flows[name], flows["skimage"]),
            "error": distance(flows[name][inside], motion[inside]),
        }
    return report


def clip(n_fields, repeats):
    """Return the CPU seconds of the flow fields and of the descriptors of a clip."""
    rng = np.random.default_rng(0)
    pairs = [textured_pair(*CLIP_SIZE, seed) for seed in range(min(n_fields, 25))]
    first, second, _ = (np.stack(parts) for parts in zip(*pairs, strict=True))
    first, second = (np.resize(frames, (n_fields, *CLIP_SIZE)) for frames in (first, second))
    frames = rng.integers(0, 256, (25, 224, 224, 3), dtype=np.uint8)
    stacks = rng.normal(size=(25, *CLIP_SIZE, 10)).astype(np.float32)
    patches = rng.normal(size=(2, 96, 64)).astype(np.float32)
    tv_l1, dis = optical_flow("tvl1"), optical_flow("dis")
    runs = {
        "tvl1": lambda: tv_l1(first, second),
        "dis": lambda: dis(first, second),
        "frame_descriptor": lambda: frame_descriptor(frames),
        "flow_descriptor": lambda: flow_descriptor(stacks),
        "patch_descriptor": lambda: patch_descriptor(patches),
    }
    measured = cpu_seconds(runs, repeats)
    return {name: min(seconds) for name, seconds in measured.items()}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["112x112", "240x320"], metavar="HxW")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fields", type=int, default=125, help="flow fields of a clip")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    report = {
        "date": str(date.today()),
        "device": device_name("cpu"),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {name: version(name) for name in DISTRIBUTIONS},
        "pairs": {},
    }
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        report["pairs"][size] = compare(height, width, options.pairs, options.repeats)
        for name, figures in report["pairs"][size].items():
            print(
                f"{size}  {name:16s} {figures['milliseconds_per_pair']:7.1f} ms, "
                f"{figures['ratio']:6.1f} x as fast as scikit-image; "
                f"{figures['distance_from_skimage']:.1e} px from it; error {figures['error']:.3f}"
            )
    report["clip"] = {
        "n_fields": options.fields,
        "cpu_seconds": clip(options.fields, options.repeats),
    }
    for name, seconds in report["clip"]["cpu_seconds"].items():
        print(f"clip  {name:16s} {seconds:.4f} s")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return report


if __name__ == "__main__":
    main()
