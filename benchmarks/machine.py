"""Describe the machine, and measure its peak arithmetic and memory throughput."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch
from stopwatch import seconds

from acluster.training import has_bfloat16

DISTRIBUTIONS = ("acluster", "numpy", "scikit-learn", "torch", "numba", "skorch", "torchmil")
MATMUL_SIZES = {"cpu": 2048, "cuda": 8192}
COPIED = 64 * 2**20  # float32 values, more than the caches hold
GIGA = 1e9


def describe(device, budget=0.5):
    """Return name, threads, versions, load and peaks, each measured for `budget` seconds."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "has_bf16": has_bfloat16(torch.device(device)),
        "matmul_gflops": {
            "float32": matmul_peak(torch.float32, device, budget) / GIGA,
            "bfloat16": matmul_peak(torch.bfloat16, device, budget) / GIGA,
        },
        "copy_gb_per_second": copy_bandwidth(device, budget) / GIGA,
        "versions": {"python": platform.python_version(), **versions()},
    }


def versions():
    """Return the versions of the libraries in the benchmarks, None for those not installed."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def device_name(device):
    """Return the name of the GPU or of the processor."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _cpu_info(field):
    """Return the first value of a field in /proc/cpuinfo, or an empty string."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def matmul_peak(dtype, device, budget):
    """Return the peak floating-point operations per second of a large matrix product."""
    size = MATMUL_SIZES[torch.device(device).type]
    a, b, product = (torch.rand(size, size, device=device).to(dtype) for _ in range(3))
    return 2 * size**3 / _fastest(lambda: torch.mm(a, b, out=product), device, budget)


def copy_bandwidth(device, budget):
    """Return the peak bytes per second, read plus written, of a copy beyond the caches."""
    source = torch.rand(COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device, budget)


def host_to_device_bandwidth(device, budget):
    """Return the peak bytes per second of a copy from pinned memory; on a CPU, within memory."""
    is_cuda = torch.device(device).type == "cuda"
    source = torch.zeros(COPIED // 4, pin_memory=is_cuda)  # 64 MB: pinning more takes long
    target = torch.empty(len(source), device=device)
    seconds_of_copy = _fastest(lambda: target.copy_(source, non_blocking=True), device, budget)
    return source.nbytes / seconds_of_copy


def _fastest(function, device, budget):
    """Return the shortest time of a call within the budget, after a warm-up."""
    function()
    measured = []
    while sum(measured) < budget:
        measured.append(seconds(function, device))
    return min(measured)
