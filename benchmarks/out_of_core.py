"""Benchmark training and prediction from a store larger than the allowed memory.

    python benchmarks/out_of_core.py [memory] [epochs] [reading]
        [--gigabytes 4] [--repeats 5] [--folder DIR] [--json FILE]

memory: a process limited to 1 GB of data (RLIMIT_DATA) trains for an epoch, predicts, and
    transforms into a zarr array, while its peak resident memory is measured.
epochs: the same epoch, streamed from the warm store and in memory, interleaved.
reading: shuffled batches of items, read by acluster, numpy.memmap and zarr-python.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import shutil
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import sklearn
import torch
import zarr

from acluster import AttentionClusterClassifier, FeatureSetsWriter, open_feature_sets

N_FEATURES, N_CLASSES, BATCH_SIZE, MEGABYTE = 1536, 20, 64, 2**20
LIMIT = 1 << 30


def write_store(path, n_bytes, shortest=20, longest=30):
    """Write noise in which one local feature per item depends on its class."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((4096, N_FEATURES)).astype(np.float16)
    classes = rng.standard_normal((N_CLASSES, N_FEATURES)).astype(np.float16)
    with FeatureSetsWriter(path) as writer:
        written = 0
        while written < n_bytes:
            length, label = rng.integers(shortest, longest + 1), len(writer) % N_CLASSES
            start = rng.integers(len(noise) - length)
            item = noise[start : start + length].copy()
            item[rng.integers(length)] += classes[label]
            writer.append(item, label=label)
            written += item.nbytes


def status(field, process="self"):
    """Return a field of /proc/PID/status, in megabytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def reset_peak():
    """Reset the peak resident memory of this process."""
    Path("/proc/self/clear_refs").write_text("5")


def classifier(**changes):
    """Return the classifier to benchmark."""
    return AttentionClusterClassifier(
        **{
            "cluster_size": 8,
            "n_attended": None,
            "optimizer": "rmsprop",
            "learning_rate": 1e-3,
            "learning_rate_schedule": "constant",
            "batch_size": BATCH_SIZE,
            "max_iter": 1,
            "tol": None,
            "standardize": False,
            "random_state": 0,
            "device": "cpu",
            **changes,
        }
    )


def measure_memory(path, folder, results):
    """Measure the peak memory of fit, predict_proba and transform; runs in its own process."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    X = open_feature_sets(path)
    y = X.label
    # The baseline has already trained on two batches in memory and transformed them.
    few = X[: 2 * BATCH_SIZE].load()
    classifier().fit(few, y[: len(few)]).transform(few)
    del few
    reset_peak()
    base = status("VmHWM")
    buffers = 3 * BATCH_SIZE * X.lengths.mean() * N_FEATURES * 4 / MEGABYTE
    figures = {"base_mb": base, "three_batch_buffers_mb": buffers}
    clf = classifier()
    for name, call in {
        "fit": lambda: clf.fit(X, y),
        "predict_proba": lambda: clf.predict_proba(X),
        "transform": lambda: clf.transform(X, out=folder / "global.zarr"),
    }.items():
        started = time.perf_counter()
        call()
        figures[f"{name}_seconds"] = time.perf_counter() - started
        figures[f"{name}_peak_mb"] = status("VmHWM")
    figures["allowed_mb"] = base + buffers + 64
    figures["store_mb"] = X.lengths.sum() * N_FEATURES * 2 / MEGABYTE
    results.put(figures)


def memory(path, folder, options):
    """Run `measure_memory` in a fresh process, and return its figures."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=measure_memory, args=(path, folder, results))
    process.start()
    figures = results.get(timeout=3600)
    process.join()
    return figures


def interleaved(functions, repeats):
    """Return the seconds of every function in each repeat, after a warm-up."""
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds, name, to):
    """Return the median and the range of the ratios of two functions."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[to], strict=True)]
    return {"median": statistics.median(ratios), "range": [min(ratios), max(ratios)]}


def epochs(path, folder, options):
    """Time epochs of a light and a heavy network over the first items of the store."""
    X = open_feature_sets(path)
    figures = {}
    for name, n_items, network in (
        ("light", 8192, {"cluster_size": 8}),
        ("heavy", 2048, {"cluster_size": 64, "batch_size": 128}),
    ):
        view, y = X[:n_items], X.label[:n_items]
        in_memory = view.load()
        clf = classifier(**network)
        seconds = interleaved(
            {
                "memory": lambda c=clf, x=in_memory, y=y: c.fit(x, y),
                "stream": lambda c=clf, x=view, y=y: c.set_params(cache="stream").fit(x, y),
            },
            options.repeats,
        )
        figures[name] = {
            "sets_per_second": len(view) / statistics.median(seconds["stream"]),
            "stream_over_memory": ratio(seconds, "stream", "memory"),
        }
    return figures


def reading(path, folder, options):
    """Return the MB/s of three ways to read shuffled batches of items."""
    X = open_feature_sets(path)
    X = X[: int(len(X) * min(1, 1000 * MEGABYTE / (X.lengths.sum() * N_FEATURES * 2)))]
    offsets = np.concatenate([[0], np.cumsum(X.lengths)])
    flat = folder / "flat.npy"
    mapped = np.lib.format.open_memmap(flat, "w+", np.float16, (int(offsets[-1]), N_FEATURES))
    for i in range(0, len(X), 1000):
        block, _ = X[i : i + 1000].packed()
        mapped[offsets[i] : offsets[i] + len(block)] = block
    mapped = np.load(flat, mmap_mode="r")
    array = zarr.open_array(f"{path}/features", mode="r")
    order = np.random.default_rng(0).permutation(len(X))
    batches = [order[i : i + 128] for i in range(0, len(order), 128)]

    def by_acluster():
        for items in batches:
            X[items].packed()

    def by_memmap():
        for items in batches:
            np.concatenate([mapped[offsets[i] : offsets[i + 1]] for i in items])

    def by_zarr():
        for items in batches[:4]:
            np.concatenate([array[offsets[i] : offsets[i + 1]] for i in items])

    seconds = interleaved({"acluster": by_acluster, "memmap": by_memmap}, options.repeats)
    seconds["zarr"] = interleaved({"zarr": by_zarr}, 2)["zarr"]
    size = {"acluster": X.lengths.sum(), "memmap": X.lengths.sum()}
    size["zarr"] = X.lengths[np.concatenate(batches[:4])].sum()
    flat.unlink()
    speed = {
        name: float(size[name]) * N_FEATURES * 2 / MEGABYTE / statistics.median(times)
        for name, times in seconds.items()
    }
    return {
        "mb_per_second": speed,
        "over_memmap": speed["acluster"] / speed["memmap"],
        "over_zarr": speed["acluster"] / speed["zarr"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"memory": memory, "epochs": epochs, "reading": reading}
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"some of {', '.join(parts)}")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="folder to keep the store in")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "store.zarr"
    report = {
        "date": date.today().isoformat(),
        "device": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {m.__name__: m.__version__ for m in (np, sklearn, torch, zarr)},
    }
    try:
        if not path.exists():
            started = time.perf_counter()
            write_store(path, options.gigabytes * 1e9)
            report["write_mb_per_second"] = (
                options.gigabytes * 1e9 / MEGABYTE / (time.perf_counter() - started)
            )
        for name in options.parts:
            report[name] = parts[name](path, folder, options)
            print(name, json.dumps(report[name], indent=1), flush=True)
    finally:
        shutil.rmtree(folder / "global.zarr", ignore_errors=True)
        if options.folder is None:
            shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
