"""Time functions, interleaved."""

import gc
import time

import torch


def seconds(function, device="cpu", clock=time.perf_counter):
    """Return the seconds of a call, until its work on the device is done."""
    synchronize(device)
    started = clock()
    function()
    synchronize(device)
    return clock() - started


def synchronize(device):
    """Wait for the work queued on a CUDA device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(functions, repeats, device="cpu", clock=time.perf_counter):
    """Return the seconds of every function in each repeat, after a warm-up.

    Every repeat calls all functions, so that a temporary slowdown of the machine affects all alike.
    """
    measured = {name: [] for name in functions}
    gc.freeze()  # keep collections from scanning all imported modules
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            gc.collect()  # do not charge a function for garbage of the one before
            taken = seconds(function, device, clock)
            if repeat > 0:
                measured[name].append(taken)
    gc.unfreeze()
    return measured
