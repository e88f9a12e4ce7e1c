"""Compute a lower bound of the run time: the roofline of arithmetic and memory bandwidth.

Operations per set of L local features of width M, with N units and C outputs:

- the scores X·W, the pooling Aᵀ·X, and the linear layer: 2LMN + 2LMN + 2NMC;
- in the backward pass, the two products of the linear layer, dA = X·dVᵀ and dW = Xᵀ·dS:
  4NMC + 4LMN.

Bytes of float32, with the fewest possible passes: X and the parameters are read once in the
forward and once in the backward pass. The global features and their gradients are written and
read. The optimizer reads and writes the parameters and its running averages, and gradients never
leave the cache. Elementwise operations are not counted.
"""

from dataclasses import dataclass

BYTES = 4


@dataclass(frozen=True)
class Work:
    flops: float
    bytes: float

    def least_seconds(self, machine, dtypes):
        """Return the bound on a machine of `machine.describe`, with the fastest of `dtypes`."""
        gflops = max(machine["matmul_gflops"][dtype] for dtype in dtypes)
        return max(self.flops / (gflops * 1e9), self.bytes / (machine["copy_gb_per_second"] * 1e9))


def training_work(task):
    """Return the work of all epochs of a fit."""
    n_scores, n_global, n_parameters, n_batches = _sizes(task)
    flops = 8 * n_scores * task.n_features + 6 * n_global * task.n_outputs
    passes_over_parameters = 2 + 4
    moved = (
        2 * task.lengths.sum() * task.n_features
        + 4 * n_global
        + n_batches * passes_over_parameters * n_parameters
    )
    return Work(float(task.epochs * flops), float(task.epochs * moved * BYTES))


def prediction_work(task):
    """Return the work of a prediction of all sets."""
    n_scores, n_global, n_parameters, n_batches = _sizes(task)
    flops = 4 * n_scores * task.n_features + 2 * n_global * task.n_outputs
    moved = task.lengths.sum() * task.n_features + 2 * n_global + n_batches * n_parameters
    return Work(float(flops), float(moved * BYTES))


def _sizes(task):
    """Return the numbers of scores, global feature components, parameters and batches."""
    global_size = task.cluster_size * task.n_features
    n_parameters = global_size + 2 * task.cluster_size + (global_size + 1) * task.n_outputs
    n_batches = -(-len(task) // task.batch_size)
    return task.lengths.sum() * task.cluster_size, len(task) * global_size, n_parameters, n_batches
