"""Benchmark global features computed by two processes, and searches whose workers share a store.

    python benchmarks/parallel.py [speed] [kills] [memory]
        [--gigabytes 4] [--repeats 3] [--backends loky dask ray] [--folder DIR] [--json FILE]

speed: `transform(X, out=...)` of a float16 store by two processes and by one, interleaved. Beside
    it, how much faster two processes copy memory than one, which bounds it.
kills: the same call, one of whose workers is killed (SIGKILL) when 0 to 80 % of the ranges of items
    are complete, and is resumed. All results are compared with that of one process, bit by bit.
memory: GridSearchCV over a store of 500 MB, or of all of it if it is smaller: how much more private
    memory a fit needs in a worker than one of as many steps, just before it, to 64 items.

Each process has one thread of torch. Dask and Ray need the extra "cluster".
"""

import argparse
import contextlib
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch are imported
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median

import joblib
import numpy as np
import torch
import zarr
from joblib import parallel_config
from out_of_core import BATCH_SIZE, MEGABYTE, classifier, reset_peak, status, write_store
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from acluster import AttentionClusterClassifier, load, open_feature_sets

MOMENTS = (0.0, 0.2, 0.4, 0.6, 0.8)  # the share of the ranges that are complete
BACKENDS = ("loky", "dask", "ray")
N_REHEARSED = 64  # items of the fits whose memory is the baseline


def transform(model, store, out, n_jobs):
    """Write the global features of a store."""
    load(model).transform(store, out=out, n_jobs=int(n_jobs))


def fitted(store, folder):
    """Fit a classifier to some items, and return its file."""
    X = open_feature_sets(store)
    few = X[: 4 * BATCH_SIZE]
    classifier(cluster_size=16).fit(few, few.label).save(folder / "clf.model")
    return folder / "clf.model"


def are_equal(a, b):
    """Compare two arrays on disk, in parts."""
    a, b = (zarr.open_array(one, mode="r") for one in (a, b))
    rows = range(0, a.shape[0], a.chunks[0])
    size = a.chunks[0]
    return a.shape == b.shape and all((a[i : i + size] == b[i : i + size]).all() for i in rows)


def copies_per_second():
    """Return how often this process copies 128 MiB per second, for three seconds."""
    source = np.ones(1 << 25, np.float32)
    target, n, started = np.empty_like(source), 0, time.perf_counter()
    while time.perf_counter() - started < 3:
        target[:] = source
        n += 1
    return n / (time.perf_counter() - started)


def copy_speedup():
    """Return how much faster two processes copy memory than one."""
    totals = []
    for n in (1, 2):
        command = [sys.executable, __file__, "--copy"]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(n)]
        totals.append(sum(float(process.communicate()[0]) for process in processes))
    return totals[1] / totals[0]


def speed(store, folder, options):
    """Return the seconds with one and two processes, and whether their results are equal."""
    model = fitted(store, folder)
    seconds = {1: [], 2: []}
    for repeat in range(options.repeats + 1):  # the first starts the workers and fills the cache
        for n_jobs, times in seconds.items():
            shutil.rmtree(folder / f"G{n_jobs}.zarr", ignore_errors=True)
            started = time.perf_counter()
            transform(model, store, folder / f"G{n_jobs}.zarr", n_jobs)
            if repeat:
                times.append(time.perf_counter() - started)
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {
        "seconds": {str(n_jobs): times for n_jobs, times in seconds.items()},
        "speedup": median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "speedup_of_copying_memory": copy_speedup(),
        "equal": are_equal(folder / "G1.zarr", folder / "G2.zarr"),
    }


def workers_of(process):
    """Return the process IDs of joblib's workers, which are children of a process."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    lines = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
    return [int(child) for child, line in lines.items() if b"popen_loky" in line]


def start(model, store, out):
    """Start a process that writes the global features with two workers."""
    command = [sys.executable, __file__, "--transform", model, store, out]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(share, folder, process):
    """Wait until a share of the ranges is complete; return the number of complete ones."""
    while process.poll() is None:
        for unfinished in folder.glob(".killed.zarr.*.partial"):
            with contextlib.suppress(OSError):  # it is being written
                layout = json.loads((unfinished / "identity.json").read_text())
                n_ranges = -(-int(layout["n_rows"]) // int(layout["rows_per_range"]))
                n_complete = len([*(unfinished / "done").iterdir()])
                if n_complete >= share * n_ranges and workers_of(process.pid):
                    return n_complete
        time.sleep(0.01)
    return None


def kills(store, folder, options):
    """Kill a worker at several moments, and return whether all resumed results are equal."""
    model = fitted(store, folder)
    expected, out = folder / "expected.zarr", folder / "killed.zarr"
    transform(model, store, expected, 1)
    report = []
    for moment in MOMENTS:
        shutil.rmtree(out, ignore_errors=True)
        process = start(model, store, out)
        n_complete = wait_for(moment, folder, process)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        _, error = process.communicate()
        assert "TerminatedWorkerError" in error, error
        resumed = start(model, store, out)
        _, error = resumed.communicate()
        assert resumed.returncode == 0, error
        report.append({"complete_ranges": n_complete, "equal": are_equal(expected, out)})
    return report


@contextlib.contextmanager
def two_workers(backend):
    """Let joblib use two workers of a backend."""
    if backend == "dask":
        from dask.distributed import Client, LocalCluster

        options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options) as cluster, Client(cluster), parallel_config("dask"):
            yield
    elif backend == "ray":
        import ray
        from ray.util.joblib import register_ray

        register_ray()
        # Unlike other workers, those of Ray do not take over sys.path.
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
        options = {"num_cpus": 2, "include_dashboard": False, "runtime_env": paths}
        ray.init(**options, object_store_memory=2 * 10**8)
        try:
            with parallel_config("ray"):
                yield
        finally:
            ray.shutdown()
    else:
        with parallel_config(backend):
            yield


def peak_memory(call):
    """Return the most private memory of this process during a call, in megabytes."""
    reset_peak()
    call()
    # The kernel keeps the peak of all resident memory. No file is mapped during the call, so what
    # libraries and shared memory take at its end, they took at the peak.
    return status("VmHWM") - status("RssFile") - status("RssShmem")


def steady_peak(call):
    """Repeat a call until the allocator asks for no more memory; return the last peak."""
    peaks = [peak_memory(call) for _ in range(3)]
    while max(peaks[-2:]) > peaks[-3] + 0.5 and len(peaks) < 12:
        peaks.append(peak_memory(call))
    return peaks[-1]


class Rehearsing(AttentionClusterClassifier):
    """Measures, in the process that fits, how much more memory all items need than few items.

    The fits that are compared take as many steps, with batches and networks of one size: the first
    one has allocated all buffers. What a second one takes more is memory for the items.
    """

    def fit(self, X, y):
        call = AttentionClusterClassifier.fit
        few, some = X[:N_REHEARSED], y[:N_REHEARSED]
        rehearsal = clone(self).set_params(max_iter=len(X) // N_REHEARSED)
        usual = steady_peak(lambda: call(rehearsal, few, some).score(few, some))
        self.growth_ = peak_memory(lambda: call(self, X, y).score(X, y)) - usual
        return self


def scores(clf, X, y):
    """Return the accuracy, and the growth of the memory during the fit."""
    return {"accuracy": clf.score(X, y), "growth": clf.growth_, "pid": os.getpid()}


def search_memory(store, backend, max_bytes=500 * MEGABYTE, **parameters):
    """Return how much the private memory of the workers of a search grows with its data, in MB."""
    X = open_feature_sets(store)
    X = X[: int(len(X) * min(1, max_bytes / X.nbytes))]
    parameters = classifier(batch_size=N_REHEARSED // 8, **parameters).get_params()
    grid = GridSearchCV(
        Rehearsing(**parameters), {"learning_rate": [1e-3, 1e-2]}, scoring=scores, cv=2, n_jobs=2,
        refit=False, error_score="raise",
    )  # fmt: skip
    with two_workers(backend):
        results = grid.fit(X, X.label).cv_results_
    found = {
        name: np.concatenate([results[f"split{i}_test_{name}"] for i in range(2)]).tolist()
        for name in ("growth", "pid", "accuracy")
    }
    return {
        "fitted_mb": X.nbytes / 2 / MEGABYTE,
        "growth_mb": found["growth"],
        "workers": len(set(found["pid"]) - {os.getpid()}),
        "accuracies": found["accuracy"],
    }


def memory(store, folder, options):
    """Run `search_memory` with all backends."""
    return {backend: search_memory(store, backend) for backend in options.backends}


def main():
    if sys.argv[1:2] == ["--transform"]:
        transform(*sys.argv[2:], n_jobs=2)
        return
    if sys.argv[1:2] == ["--copy"]:
        print(copies_per_second())
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = {"speed": speed, "kills": kills, "memory": memory}
    parser.add_argument("parts", nargs="*", default=list(parts), help=f"some of {', '.join(parts)}")
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--folder", type=Path, help="folder to keep the store in")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / "store.zarr"
    report = {
        "date": date.today().isoformat(),
        "device": platform.processor() or platform.machine(),
        "gigabytes": options.gigabytes,
        "versions": {m.__name__: m.__version__ for m in (joblib, np, torch, zarr)},
    }
    try:
        if not store.exists():
            write_store(store, options.gigabytes * 1e9)
        for name in options.parts:
            report[name] = parts[name](store, folder, options)
            print(name, json.dumps(report[name], indent=1), flush=True)
    finally:
        for result in folder.glob("*.zarr"):
            if result != store:
                shutil.rmtree(result)
        if options.folder is None:
            shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
