"""Seconds that calls take, interleaved."""

import gc
import time

import torch


def seconds(function, device="cpu"):
    """How long a call takes, until its work on the device is done."""
    synchronise(device)
    started = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device):
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(functions, repeats, device="cpu"):
    """Seconds of every function, one after the other in each repeat; the first is a warm-up.

    A machine that slows down for a while so slows all of them.
    """
    measured = {name: [] for name in functions}
    gc.freeze()  # or every collection would look through all modules
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            gc.collect()  # nobody pays for the garbage of the one before
            taken = seconds(function, device)
            if repeat > 0:
                measured[name].append(taken)
    gc.unfreeze()
    return measured
