"""
Rows of results, written while runs go on
=========================================

What the scripts that train many networks share: each run gives a row, a dict; rows go to a CSV
file as they are done; a run is known by some of its columns, a NamedTuple, so that the same
command does only what is missing.
"""

import argparse
import csv
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import joblib
import torch
from filelock import FileLock
from joblib import Parallel


def read_rows(path, key):
    """The rows of a CSV file by `key`, a NamedTuple of some of the columns."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = set(key._fields) - set(rows[0] if rows else key._fields)
    if missing:
        raise SystemExit(
            f"{path} has no column {', '.join(sorted(missing))}: it is of another version. Move it "
            "away, or give another file to --csv."
        )
    kinds = key.__annotations__
    return {key(**{name: kind(row[name]) for name, kind in kinds.items()}): row for row in rows}


def run_all(tasks, path, n_jobs, key):
    """Run tasks, which return rows, in parallel, and yield each row after it is in the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in Parallel(n_jobs, return_as="generator_unordered")(tasks):
        done = key(*(row[name] for name in key._fields))
        with FileLock(f"{path}.lock"):  # another command may write rows too
            rows = {**read_rows(path, key), done: row}
            write_rows([rows[one] for one in sorted(rows)], path)
        yield done, row


def write_rows(rows, path):
    """Rows, in the place of what was there in one step."""
    columns = dict.fromkeys(name for row in rows for name in row)
    unfinished = path.with_suffix(f".unfinished{os.getpid()}")
    with unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, path)


def keep(state, path):
    """Replace what was kept in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".unfinished{os.getpid()}")
    joblib.dump(state, unfinished)
    os.replace(unfinished, path)


def stop_if_orphaned(parent):
    """End this process where `parent` is gone, which asked for the run and would write its row."""
    if parent not in (os.getpid(), os.getppid()):
        raise SystemExit("The process that asked for this run is gone.")


def surroundings():
    """What a figure may depend on beside the run."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    names = ("acluster", "torch", "scikit-learn", "numpy")
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "versions": ", ".join(f"{name} {version(name)}" for name in names),
        "commit": commit or "unknown",
    }


def percent(hits):
    return round(100 * float(hits.mean()), 2)


def positive(text):
    """For argparse: a number of things, of which there is one at least."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number
