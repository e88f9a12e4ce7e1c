"""Benchmark a CUDA device: pooling, the start of a fit, and an epoch of Kinetics.

    python benchmarks/gpu.py [--parts pooling start-up epoch] [--dtype float16] [--sets 246535]
        [--repeats 30] [--folder DIR] [--json FILE] [--smoke]

pooling: median times of the forward pass, and of the forward and backward pass, for several
    numbers of units. The bytes counted are those that must be moved: features, logits and output
    once in the forward pass; features, logits and the gradients of output and logits in the
    backward pass. The rate is a share of the measured rate of a copy. Plain torch does the same
    work for comparison. Two further cases are pooled by the kernels alone: ragged sets of 1 to
    60,000 local features, and the stacked units of 16 networks.
start-up: what `fit` does before its first step with the sets of an epoch: the check, the copy to
    the device, and the moments for `standardize=True`. The check and the copy are compared with the
    time that the bus needs at the rate of a copy from pinned memory. The same for a store of at
    most 4 GB, which has just been written to the folder, and so is in the file cache.
epoch: `fit` on synthetic sets of the size of Kinetics (246,535 videos of 25 frames, 400 classes),
    held on the device, in mixed precision. The first epoch is a warm-up. The sets need 19 GB of
    memory, and on the device what `cache="device"` takes for them.

--smoke runs everything at tiny sizes, also without a GPU, in Triton's interpreter if it is
installed. Its figures mean nothing.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from datetime import date
from itertools import accumulate

import machine
import numpy as np
import sklearn
import torch
from torch.nn import functional

from acluster import AttentionClusterClassifier, FeatureSets, save_feature_sets
from acluster.estimators._training_data import TrainingData, TrainingSets
from acluster.nn.pooling._triton import attend_triton

GIGA = 1e9
L = 25
PARTS = ["pooling", "start-up", "epoch"]
MAX_STORED_BYTES = 4 * GIGA
CASES = ["ragged", "members"]  # of pooling, beside the numbers of units
KINETICS = {"n": 246_535, "n_features": 1536, "cluster_size": 64, "n_classes": 400, "epochs": 4}
POOLING = {
    "n": 1024,
    "n_features": 1536,
    "cluster_sizes": (8, 16, 32, 64, 128),
    "ragged": {"n": 256, "longest": 60_000, "N": 64},
    "members": {"n": 128, "N": 16 * 64},
}
SMOKE = {
    "epoch": {"n": 40, "n_features": 8, "cluster_size": 4, "n_classes": 3, "epochs": 2},
    "pooling": {
        "n": 3,
        "n_features": 40,
        "cluster_sizes": (8, 17),
        "ragged": {"n": 3, "longest": 300, "N": 4},
        "members": {"n": 2, "N": 2 * 17},
    },
    "start-up": {"n": 40, "n_features": 8},
}


def measure_pooling(n, n_features, cluster_sizes, ragged, members, dtype, device, repeats):
    """Return the rates of Triton's and torch's pooling, for each number of units."""
    copy = machine.copy_bandwidth(device, budget=0.5)
    report = {"copy_gb_per_second": copy / GIGA, "sets": n, "n_features": n_features, "units": {}}

    def measure(attend, case):
        return rates(passes(attend, *case), bytes_to_move(*case), copy, device, repeats)

    for N in cluster_sizes:
        case = make_case([L] * n, N, n_features, dtype, device)
        ways = {"triton": attend_triton, "torch": attend_in_torch}
        report["units"][N] = {name: measure(attend, case) for name, attend in ways.items()}
    cases = {
        "ragged": (ragged_lengths(ragged["n"], ragged["longest"]), ragged["N"]),
        "members": ([L] * members["n"], members["N"]),
    }
    for name, (lengths, N) in cases.items():
        case = make_case(lengths, N, n_features, dtype, device)
        report[name] = {"sets": len(lengths), "rows": sum(lengths), "units": N}
        report[name]["triton"] = measure(attend_triton, case)
    return report


def ragged_lengths(n, longest):
    """Return numbers of local features from 1 to `longest`, in equal steps of their logarithms."""
    lengths = np.geomspace(1, longest, n).round().astype(int)
    return np.random.default_rng(0).permutation(lengths).tolist()


def make_case(lengths, N, n_features, dtype, device):
    """Return features, offsets, logits, (α, β), and a gradient of the output."""
    n_rows = sum(lengths)
    values = torch.randn(n_rows, n_features, device=device, dtype=dtype)
    logits, alpha, beta = (
        torch.randn(*shape, device=device, requires_grad=True)
        for shape in ((n_rows, N), (N, 1), (N, 1))
    )
    offsets = torch.tensor([0, *accumulate(lengths)], device=device)
    gradient = torch.randn(len(lengths), N, n_features, device=device)
    return values, offsets, logits, (alpha, beta), gradient


def bytes_to_move(values, offsets, logits, shift, gradient):
    """Return the least bytes that each pass moves; the output is as large as its gradient."""
    forward = values.nbytes + logits.nbytes + gradient.nbytes
    return {"forward": forward, "forward_backward": 2 * forward + logits.nbytes}


def passes(attend, values, offsets, logits, shift, gradient):
    """Return the functions to time."""
    learned = (logits, *shift)

    def forward():
        with torch.no_grad():
            return attend(values, offsets, logits, shift)

    def forward_backward():
        return torch.autograd.grad(attend(values, offsets, logits, shift), learned, gradient)

    return {"forward": forward, "forward_backward": forward_backward}


def attend_in_torch(values, offsets, logits, shift):
    """Compute equations 2 and 7 for sets of equal size in plain torch."""
    a = logits.unflatten(0, (-1, L)).softmax(dim=1)
    pooled = (a.to(values.dtype).mT @ values.unflatten(0, (-1, L))).float()
    alpha, beta = shift
    return functional.normalize(alpha * pooled + beta, dim=-1) * len(alpha) ** -0.5


def rates(functions, n_bytes, copy, device, repeats):
    """Return time and bytes per second of every function."""
    report = {}
    for name, function in functions.items():
        seconds = median_seconds(function, device, repeats)
        rate = n_bytes[name] / seconds
        report[name] = {
            "microseconds": seconds * 1e6,
            "gb_per_second": rate / GIGA,
            "of_copy": rate / copy,
        }
    return report


def median_seconds(function, device, repeats):
    """Return the median seconds of a call on the device's clock, after a warm-up."""
    for _ in range(min(repeats, 3)):
        function()
    if device == "cpu":
        return statistics.median(seconds_of_call(function) for _ in range(repeats))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2 * repeats)]
    torch.cuda.synchronize()
    for start, end in zip(marks[::2], marks[1::2], strict=True):
        # Keep the device busy before the clock starts, to hide the launch overhead of Python.
        torch.cuda._sleep(2_000_000)
        start.record()
        function()
        end.record()
    torch.cuda.synchronize()
    pairs = zip(marks[::2], marks[1::2], strict=True)
    return statistics.median(start.elapsed_time(end) / 1e3 for start, end in pairs)


def seconds_of_call(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_start_up(n, n_features, device, folder=None):
    """Time what `fit` does before its first step, with sets in memory and in a store."""
    X, y = make_sets(n, n_features, 3)
    report = {
        "host_to_device_gb_per_second": machine.host_to_device_bandwidth(device, 0.5) / GIGA,
        "threads": torch.get_num_threads(),
    }
    rate = report["host_to_device_gb_per_second"]
    report["memory"] = start_up_of(X, y, rate, device)
    n_stored = max(1, min(n, int(n * MAX_STORED_BYTES // X.nbytes)))
    with tempfile.TemporaryDirectory(dir=folder) as name:
        path = f"{name}/sets.zarr"
        save_feature_sets(path, X[:n_stored])
        report["store"] = start_up_of(path, y[:n_stored], rate, device)
    return report


def start_up_of(X, y, rate, device):
    """Return the seconds of each stage; check and copy also in GB/s and in times of the bus."""
    options = {"cluster_size": 1, "max_iter": 1, "device": device, "cache": "device"}
    clf = AttentionClusterClassifier(**options, standardize=True, random_state=0)
    like = torch.zeros((), device=device)
    stages, ends = ["check", "copy", "moments"], [time.perf_counter()]
    data = TrainingData.of(clf, X, y, None, may_defer=True)
    ends.append(time.perf_counter())
    sets = TrainingSets(data, "device", like)
    n_bytes = sum(one.nbytes for one in sets.given().values())
    sets.sets()
    ends.append(time.perf_counter())
    sets.moments(with_std=True)
    ends.append(time.perf_counter())
    seconds = dict(zip(stages, np.diff(ends).tolist(), strict=True))
    until_copied = seconds["check"] + seconds["copy"]
    return {
        "gb": n_bytes / GIGA,
        "seconds": seconds,
        "gb_per_second": n_bytes / GIGA / until_copied,
        "times_of_bus": until_copied / (n_bytes / GIGA / rate),
    }


class EpochClock:
    """Callback that records the end of each epoch, when its loss has arrived from the device."""

    def __init__(self):
        self.ends = []

    def setup(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.ends.append(time.perf_counter())

    def teardown(self, estimator, context):
        pass


def measure_epoch(n, n_features, cluster_size, n_classes, epochs, device, batch_size=256):
    """Time the epochs of a fit; the first one includes the setup."""
    X, y = make_sets(n, n_features, n_classes)
    clock = EpochClock()
    clf = AttentionClusterClassifier(
        cluster_size=cluster_size,
        n_attended=None,
        dropout=0.9,
        optimizer="rmsprop",
        learning_rate=1e-3,
        learning_rate_schedule="constant",
        batch_size=batch_size,
        max_iter=epochs,
        tol=None,
        standardize=False,
        device=device,
        cache="device",
        precision="mixed",
        random_state=0,
    ).set_callbacks(clock)
    started = time.perf_counter()
    clf.fit(X, y)
    ends = clock.ends[:epochs]  # drop the end of the whole fit
    seconds = np.diff(ends).tolist()
    return {
        "sets": n,
        "batch_size": batch_size,
        "seconds_of_epochs": seconds,
        "median_seconds": statistics.median(seconds),
        "sets_per_second": n / statistics.median(seconds),
        "seconds_to_the_end_of_the_first": ends[0] - started,
        "peak_device_gb": torch.cuda.max_memory_allocated() / GIGA if device == "cuda" else None,
    }


def make_sets(n, n_features, n_classes):
    """Return a repeated block of noise, because values do not affect speed, and classes."""
    rng = np.random.default_rng(0)
    block = rng.normal(size=(min(n, 2048) * L, n_features)).astype(np.float16)
    values = np.empty((n * L, n_features), np.float16)
    for start in range(0, len(values), len(block)):
        part = values[start : start + len(block)]
        part[:] = block[: len(part)]
    return FeatureSets(values, np.arange(0, n * L + 1, L)), np.arange(n) % n_classes


def print_report(report):
    """Print the figures of a report."""
    pooling, start_up, epoch = (report.get(part) for part in PARTS)
    if pooling is not None:
        print(f"copy: {pooling['copy_gb_per_second']:.0f} GB/s")
        lines = {
            f"N = {N:3} {way:6}": figures
            for N, ways in pooling["units"].items()
            for way, figures in ways.items()
        }
        for label, figures in (lines | {c: pooling[c]["triton"] for c in CASES}).items():
            shown = ", ".join(
                f"{name} {pass_['microseconds']:.0f} µs, {pass_['of_copy']:.2f} of a copy"
                for name, pass_ in figures.items()
            )
            print(f"{label} {shown}")
    if start_up is not None:
        rate = start_up["host_to_device_gb_per_second"]
        print(f"bus: {rate:.1f} GB/s from pinned memory; {start_up['threads']} threads")
        for place in ("memory", "store"):
            own = start_up[place]
            stages = ", ".join(f"{name} {one:.2f} s" for name, one in own["seconds"].items())
            print(
                f"start-up, {own['gb']:.2f} GB in {place:6} {stages}; check and copy "
                f"{own['gb_per_second']:.1f} GB/s, {own['times_of_bus']:.2f} times the bus"
            )
    if epoch is not None:
        seconds, rate = epoch["median_seconds"], epoch["sets_per_second"]
        print(f"epoch: {seconds:.2f} s for {epoch['sets']} sets, {rate:.0f} sets/s")


def describe(device):
    """Return the date, the device and the versions."""
    modules = [np, sklearn, torch]
    if importlib.util.find_spec("triton"):
        modules.append(importlib.import_module("triton"))
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "versions": {m.__name__: m.__version__ for m in modules} | {"cuda": torch.version.cuda},
    }


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument(
        "--sets", type=int, default=KINETICS["n"], help="number of sets in an epoch"
    )
    parser.add_argument(
        "--folder", help="folder for the store; by default, that for temporary files"
    )
    parser.add_argument("--repeats", type=int, default=30, help="timed calls per pass")
    parser.add_argument("--smoke", action="store_true", help="run at tiny sizes on any machine")
    parser.add_argument("--json", help="file for the figures")
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.smoke:
        sys.exit("No CUDA device found. Pass --smoke to run tiny sizes without one.")
    parts = options.parts
    if not importlib.util.find_spec("triton"):
        parts = [part for part in parts if part != "pooling"]
        print("Skipping pooling: Triton is not installed.")
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # must be set before Triton is imported
    start_up = {"n": options.sets, "n_features": KINETICS["n_features"]}
    sizes = {"pooling": POOLING, "start-up": start_up, "epoch": KINETICS | {"n": options.sets}}
    sizes = SMOKE if options.smoke else sizes
    repeats = 1 if options.smoke else options.repeats
    report = describe(device)
    if "pooling" in parts:
        dtype = getattr(torch, options.dtype)
        report["pooling"] = measure_pooling(
            **sizes["pooling"], dtype=dtype, device=device, repeats=repeats
        )
    if "start-up" in parts:
        where = {"device": device, "folder": options.folder}
        report["start-up"] = measure_start_up(**sizes["start-up"], **where)
    if "epoch" in parts:
        report["epoch"] = measure_epoch(**sizes["epoch"], device=device)
    print_report(report)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
