"""Benchmark the pictures of one large item, and the report about many items.

    OMP_NUM_THREADS=1 python benchmarks/inspection.py [pictures] [report] [--items 10000]
        [--json FILE]

pictures: seconds until the attention of 32 units to 60,000 local features, and their evidence for
    three classes, is drawn and written as a PNG. Goal: 3 s each.
report: seconds of `acluster report`, as a process of its own, for a store of 25 x 64 features per
    item and ten classes, and the size of the page. Goals: 30 s and 10 MB for 10,000 items.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import matplotlib as mpl
import numpy as np
from machine import device_name

from acluster import AttentionClusterClassifier, FeatureSets, save_feature_sets
from acluster.inspection import AttentionDisplay, EvidenceDisplay

N_UNITS, N_LOCAL, N_CLASSES, N_FEATURES = 32, 60_000, 10, 64


def pictures(options, folder):
    """Return the seconds of each display of one item with many local features."""
    draw = np.random.default_rng(0)
    attention = draw.dirichlet(np.full(N_LOCAL, 0.05), N_UNITS).T
    evidence = draw.normal(size=(N_LOCAL, 3)) / N_LOCAL
    places = {"seconds": np.arange(N_LOCAL) / 25}
    displays = {
        "attention": lambda: AttentionDisplay.from_attention(attention),
        "evidence": lambda: EvidenceDisplay.from_evidence(evidence, [*"abc"], places=places),
    }
    AttentionDisplay.from_attention(attention[:9]).figure_.savefig(folder / "first.png")
    seconds = {}
    for name, display in displays.items():
        started = time.perf_counter()
        display().figure_.savefig(folder / f"{name}.png", dpi=100)
        seconds[name] = round(time.perf_counter() - started, 2)
    return seconds


def items(n_items, draw):
    """Return sets in which some local features are those of the class, and the classes."""
    y = draw.integers(N_CLASSES, size=n_items)
    lengths = draw.integers(15, 36, size=n_items)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = draw.normal(size=(offsets[-1], N_FEATURES)).astype(np.float32)
    centers = np.random.default_rng(0).normal(scale=0.6, size=(N_CLASSES, N_FEATURES))
    values[offsets[:-1] + draw.integers(lengths)] += centers[y]
    seconds = np.concatenate([np.arange(length) / 2 for length in lengths])
    names = np.array([f"class {label}" for label in y])
    return FeatureSets(values, offsets, places={"seconds": seconds}), names


def report(options, folder):
    """Return the seconds of the command, and the size of the page in MB."""
    draw = np.random.default_rng(1)
    AttentionClusterClassifier(max_iter=10, random_state=0).fit(*items(3000, draw)).save(
        folder / "a.model"
    )
    X, y = items(options.items, draw)
    ids = [f"clip{number}.mp4" for number in range(options.items)]
    save_feature_sets(folder / "items.zarr", X, label=y, id=ids)
    command = ["report", "a.model", "items.zarr", "--out", "page.html"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "acluster", *command], cwd=folder, check=True)
    seconds = round(time.perf_counter() - started, 1)
    size = round((folder / "page.html").stat().st_size / 1e6, 2)
    return {"items": options.items, "seconds": seconds, "megabytes": size}


PARTS = {"pictures": pictures, "report": report}


def main():
    """Run the parts, and print or write their figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    mpl.use("agg")
    figures = {"date": str(date.today()), "device": device_name("cpu")}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.parts or PARTS:
            figures[name] = PARTS[name](options, Path(folder))
            print(name, figures[name], flush=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
