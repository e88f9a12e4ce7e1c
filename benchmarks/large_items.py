"""Measure the peak memory of training on items with very many local features (Linux).

    python benchmarks/large_items.py [--folder DIR] [--json FILE]

slides: items of 100,000 x 1,536 local features in float16, one batch of four.
bags: twelve items of 40,000 x 256, one batch; also undivided, as a comparison.

Each figure is the peak resident memory of a fresh process that trains one epoch from a store and
predicts, in MiB, including the interpreter and the libraries.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import numpy as np

SIZES = {"slides": (4, 100_000, 1536), "bags": (12, 40_000, 256)}
RUNS = [
    ("slides", {"standardize": False}, True),
    ("slides", {"standardize": True}, True),
    ("bags", {"standardize": False}, True),
    ("bags", {"standardize": True}, True),
    ("bags", {"standardize": False}, False),
]


def write_store(path, n_items, n_rows, n_features):
    """Write items of noise whose class shifts a tenth of the local features."""
    from acluster import FeatureSetsWriter

    rng = np.random.default_rng(0)
    noise = rng.standard_normal((n_rows, n_features), np.float32).astype(np.float16)
    with FeatureSetsWriter(path) as writer:
        for i in range(n_items):
            item = np.roll(noise, 7 * i, axis=0)
            item[: n_rows // 10, 0] += i % 2
            writer.append(item, label=i % 2)


def peak(path, options, divides):
    """Return the peak resident memory of this process, which trains and predicts, and its time."""
    from acluster import AttentionClusterClassifier, open_feature_sets
    from acluster.training import BatchSource, _batches

    if not divides:
        _batches.BYTES_PER_PART = BatchSource.__init__.__kwdefaults__["max_bytes"] = 1 << 60
    X = open_feature_sets(path)
    clf = AttentionClusterClassifier(
        max_iter=1, tol=None, random_state=0, cache="stream", device="cpu", **options
    )
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(X, X.label).predict(X)
    seconds = time.perf_counter() - started
    lines = Path("/proc/self/status").read_text().splitlines()
    mebibytes = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))
    return {"peak_mib": round(mebibytes), "seconds": round(seconds, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="folder to keep the stores in")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    report = {"date": date.today().isoformat(), "cpus": os.cpu_count()}
    report |= {"device": platform.processor() or platform.machine(), "runs": []}
    spawn = multiprocessing.get_context("spawn")
    for name, changes, divides in RUNS:
        path = folder / f"{name}.zarr"
        if not path.exists():
            write_store(path, *SIZES[name])
        with ProcessPoolExecutor(1, mp_context=spawn) as fresh_process:
            figures = fresh_process.submit(peak, path, changes, divides).result()
        report["runs"].append({"items": name, **changes, "divided": divides, **figures})
        print(report["runs"][-1], flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
