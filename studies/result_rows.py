"""Write result rows to a CSV file while the runs of a study continue.

Every run returns one row, a dict. A NamedTuple of some of its columns, the key, identifies the run.
A row is saved as soon as its run ends, so repeating a command performs only the missing runs.
"""

import argparse
import csv
import os
import platform
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import joblib
import torch
from filelock import FileLock
from joblib import Parallel

import acluster


def read_rows(path, key):
    """Return the rows of a CSV file as a dict from `key`, a NamedTuple class, to the row."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = set(key._fields) - set(rows[0] if rows else key._fields)
    if missing:
        raise SystemExit(
            f"{path} has no column {', '.join(sorted(missing))}: another version wrote it. Move it "
            "away, or pass another file to --csv."
        )
    kinds = key.__annotations__
    return {key(**{name: kind(row[name]) for name, kind in kinds.items()}): row for row in rows}


def run_all(tasks, path, n_jobs, key):
    """Run joblib tasks that return rows; yield each key and row once the row is in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in Parallel(n_jobs, return_as="generator_unordered")(tasks):
        done = key(*(row[name] for name in key._fields))
        with FileLock(f"{path}.lock"):  # another command may be adding rows to the same file
            rows = {**read_rows(path, key), done: row}
            write_rows([rows[one] for one in sorted(rows)], path)
        yield done, row


def write_rows(rows, path):
    """Replace the CSV file at `path` atomically."""
    columns = dict.fromkeys(name for row in rows for name in row)
    unfinished = path.with_suffix(f".unfinished{os.getpid()}")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)


def keep(state, path):
    """Dump `state` to `path` with joblib, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".unfinished{os.getpid()}")
    joblib.dump(state, unfinished)
    os.replace(unfinished, path)


def stop_if_orphaned(parent):
    """End this worker if the process `parent`, which would write its row, no longer exists."""
    if parent not in (os.getpid(), os.getppid()):
        raise SystemExit("The process that started this run no longer exists.")


def environment():
    """Return the device, the package versions and the commit that a result may depend on."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    has_git = shutil.which("git") is not None
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() if has_git else ""
    # acluster may run from its sources, without being installed.
    versions = {"acluster": acluster.__version__}
    versions |= {name: version(name) for name in ("torch", "scikit-learn", "numpy")}
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "versions": ", ".join(f"{name} {one}" for name, one in versions.items()),
        "commit": commit or "unknown",
    }


def percent(hits):
    """Return the share of true values in percent, rounded to two decimals."""
    return round(100 * float(hits.mean()), 2)


def positive(text):
    """Parse a command-line argument as an integer of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
