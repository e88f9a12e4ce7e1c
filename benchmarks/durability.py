"""Compare the time of writing a store with and without waiting for the disk.

    python benchmarks/durability.py [--megabytes 512] [--repeats 3] [--folder FOLDER] [--json FILE]

A writer waits (fsync) until the files of every commit are on disk. Without this, the same writer
only hands them to the operating system, and a power failure may lose committed items. The figure is
the ratio of the median times of the two, interleaved.
"""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from stopwatch import interleaved

from acluster import FeatureSetsWriter
from acluster.sets._store import _durable, _writer


def write(folder, items):
    """Write all items to a new store."""
    path = Path(folder) / "a.zarr"
    with FeatureSetsWriter(path) as writer:
        for i, item in enumerate(items):
            writer.append(item, label=i % 10, id=f"item{i}")
    shutil.rmtree(path)


def write_without_waiting(folder, items):
    """Write all items, as `write`, with functions that wait for nothing."""
    saved = _durable.sync_file, _durable.sync_directory, _writer.sync_directory
    _durable.sync_file = _durable.sync_directory = _writer.sync_directory = lambda path: None
    try:
        write(folder, items)
    finally:
        _durable.sync_file, _durable.sync_directory, _writer.sync_directory = saved


def main():
    """Measure, and print the times and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="on the disk to measure")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    item = np.random.default_rng(0).random((256, 1024), np.float32)  # 1 MB
    items = [item] * arguments.megabytes
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        seconds = interleaved(
            {
                "waiting for the disk": lambda: write(folder, items),
                "without": lambda: write_without_waiting(folder, items),
            },
            arguments.repeats,
        )
    middle = {name: median(times) for name, times in seconds.items()}
    for name, time in middle.items():
        print(f"{name:22s} {time:6.2f} s  {arguments.megabytes / time:6.0f} MB/s  {seconds[name]}")
    ratio = middle["waiting for the disk"] / middle["without"]
    print(f"ratio {ratio:.2f}")
    if arguments.json:
        row = {"cores": os.cpu_count(), "megabytes": arguments.megabytes, "ratio": ratio}
        arguments.json.write_text(json.dumps({**row, "seconds": seconds}, indent=1))


if __name__ == "__main__":
    main()
