"""The machine: what it is, and what its processor and its memory reach at best."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch
from stopwatch import seconds

from acluster.training import is_faster_in_bfloat16

DISTRIBUTIONS = ("acluster", "numpy", "scikit-learn", "torch", "numba", "skorch", "torchmil")
MATMUL_SIZES = {"cpu": 2048, "cuda": 8192}
COPIED = 64 * 2**20  # float32 numbers: more than the caches hold
GIGA = 1e9


def describe(device, budget=0.5):
    """Name, threads, versions, load, and the peaks, each measured for `budget` seconds."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "bf16_is_faster": is_faster_in_bfloat16(torch.device(device)),
        "matmul_gflops": {
            "float32": matmul_peak(torch.float32, device, budget) / GIGA,
            "bfloat16": matmul_peak(torch.bfloat16, device, budget) / GIGA,
        },
        "copy_gb_per_second": copy_bandwidth(device, budget) / GIGA,
        "versions": {"python": platform.python_version(), **versions()},
    }


def versions():
    """Of what takes part; None for what is not installed."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def device_name(device):
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(field):
    """The first such line of /proc/cpuinfo; empty where there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def matmul_peak(dtype, device, budget):
    """Floating-point operations per second of a large matrix product, at best."""
    size = MATMUL_SIZES[torch.device(device).type]
    a, b, product = (torch.rand(size, size, device=device).to(dtype) for _ in range(3))
    return 2 * size**3 / _fastest(lambda: torch.mm(a, b, out=product), device, budget)


def copy_bandwidth(device, budget):
    """Bytes per second, read and written, of a copy beyond the caches, at best."""
    source = torch.rand(COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device, budget)


def _fastest(function, device, budget):
    """The least seconds of a call, of as many as fit into the budget, after a warm-up."""
    function()
    measured = []
    while sum(measured) < budget:
        measured.append(seconds(function, device))
    return min(measured)
