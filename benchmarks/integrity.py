"""Benchmark the checksums of stores: writing, opening and streaming with and without them.

    python benchmarks/integrity.py [--gigabytes 1] [--items 1000000] [--repeats 16]
        [--folder DIR] [--json FILE]

Two stores with the same items are written, one as acluster writes it and one without checksums.
All figures are ratios within one run, in which the two take turns. The seconds are those of the
processors, of all threads: on a warm store, or one in memory, little else is waited for.

write: the time to write the store with checksums, to that without.
stream: shuffled batches of items from the warm store.
verify: the first pass with verify=True, and later passes, to a pass without.
open: opening a store of many items, in seconds.
"""

import argparse
import json
import platform
import shutil
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from unittest.mock import patch

import numpy as np
import zarr

from acluster import FeatureSets, FeatureSetsWriter, open_feature_sets, save_feature_sets
from acluster.sets._store import _format

N_FEATURES, BATCH_SIZE = 1536, 64


def write_store(path, n_bytes, checksums):
    """Write noise; without checksums if told so."""
    layout = _format.features_layout

    def plain(name, values):
        return layout(name, values) | {"compressors": None}

    noise = np.random.default_rng(0).standard_normal((4096, N_FEATURES)).astype(np.float16)
    shutil.rmtree(path, ignore_errors=True)
    with (
        patch.object(_format, "features_layout", layout if checksums else plain),
        FeatureSetsWriter(path) as writer,
    ):
        for i in range(n_bytes // (25 * N_FEATURES * 2)):
            start = 25 * i % 4000
            writer.append(noise[start : start + 25], label=i % 10)


def read_epoch(X):
    """Read all items in shuffled batches."""
    order = np.random.default_rng(0).permutation(len(X))
    for start in range(0, len(X), BATCH_SIZE):
        X[order[start : start + BATCH_SIZE]].packed()


def seconds_of(functions, repeats):
    """Return the seconds of every function in each repeat, after a warm-up.

    The functions take turns, every other time in reverse: what one leaves behind, such as memory
    to be freed and files to be written back, costs the next one.
    """
    seconds = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        names = list(functions)[:: 1 if repeat % 2 else -1]
        for name in names:
            started = time.process_time()
            functions[name]()
            if repeat:
                seconds[name].append(time.process_time() - started)
    return seconds


def ratio(seconds, name, to):
    """Return the ratios of two functions: of their medians, their fastest and each repeat."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[to], strict=True)]
    return {
        "medians": statistics.median(seconds[name]) / statistics.median(seconds[to]),
        "fastest": min(seconds[name]) / min(seconds[to]),
        "range": [min(ratios), max(ratios)],
    }


def main():
    """Run the benchmark, and print or write its figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=16)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    with_path, without_path = str(folder / "with.zarr"), str(folder / "without.zarr")
    n_bytes = int(options.gigabytes * 2**30)
    try:
        written = seconds_of(
            {
                "with": lambda: write_store(with_path, n_bytes, True),
                "without": lambda: write_store(without_path, n_bytes, False),
            },
            options.repeats,
        )
        checked, plain = open_feature_sets(with_path), open_feature_sets(without_path)
        verified = open_feature_sets(with_path, verify=True)
        read = seconds_of(
            {
                "with": lambda: read_epoch(checked),
                "without": lambda: read_epoch(plain),
                "first": lambda: read_epoch(open_feature_sets(with_path, verify=True)),
                "later": lambda: read_epoch(verified),
            },
            options.repeats,
        )
        many = str(folder / "many.zarr")
        values = np.zeros((options.items, 2), np.float32)
        save_feature_sets(many, FeatureSets(values, np.arange(options.items + 1)))
        opened = seconds_of({"open": lambda: open_feature_sets(many)}, options.repeats)
    finally:
        shutil.rmtree(folder)
    figures = {
        "date": str(date.today()),
        "machine": f"{platform.machine()}, zarr {zarr.__version__}, numpy {np.__version__}",
        "gigabytes": options.gigabytes,
        "write": ratio(written, "with", "without"),
        "write_gigabytes_per_second": options.gigabytes / statistics.median(written["with"]),
        "stream": ratio(read, "with", "without"),
        "stream_gigabytes_per_second": options.gigabytes / statistics.median(read["with"]),
        "verify_first_pass": ratio(read, "first", "without"),
        "verify_later_passes": ratio(read, "later", "without"),
        "items": options.items,
        "open_seconds": statistics.median(opened["open"]),
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
