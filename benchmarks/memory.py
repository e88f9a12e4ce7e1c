"""Measure the peak memory of a fit in a fresh process (Linux only; None elsewhere)."""

import dataclasses
import gc
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from workloads import make_task

KILOBYTES_PER_MEGABYTE = 1024


def peak_of_fit(method, **workload):
    """Return the megabytes that one epoch needs beyond the sets and the imported libraries.

    Parameters
    ----------
    method : callable
        Picklable; takes a task and returns an object with a `fit` method.

    **workload
        Arguments of `make_task`.
    """
    if not sys.platform.startswith("linux"):
        return None
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as fresh_process:
        return fresh_process.submit(_peak_here, method, workload).result()


def _peak_here(method, workload):
    task = make_task(**workload)
    method(task.tiny()).fit()
    fit = method(dataclasses.replace(task, epochs=1)).fit
    gc.collect()
    return rise(fit)


def rise(function):
    """Return by how many megabytes a call raises the peak resident memory."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    except OSError:
        return None
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / KILOBYTES_PER_MEGABYTE
