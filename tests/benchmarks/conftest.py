"""Small tasks and a made-up machine for the tests of the benchmarks."""

import workloads

SHAPES = {"ragged": {}, "equal": {"shortest": 6, "longest": 6}, "binary": {"n_classes": 2}}
MACHINE = {
    "device": "an abacus",
    "threads": 2,
    "load_average": 0.0,
    "has_bf16": False,
    "matmul_gflops": {"float32": 1.0, "bfloat16": 1.0},
    "copy_gb_per_second": 1.0,
}


def small_task(shortest=2, longest=7, n_classes=3, n_sets=10, n_features=4):
    arrays, y = workloads.generated(n_sets, shortest, longest, n_features, n_classes)
    return workloads.Task(arrays, y, cluster_size=5, batch_size=4, epochs=1)
