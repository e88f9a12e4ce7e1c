"""The least time that a machine could need: its arithmetic, or its memory, never idle.

Counted per set of L local features of width M, with N units and C outputs, in operations:

- the scores X·W, the pooling Aᵀ·X, and the linear layer: 2LMN + 2LMN + 2NMC;
- backward the two products of the linear layer, dA = X·dVᵀ and dW = Xᵀ·dS: 4NMC + 4LMN.

And in bytes of float32, if everything is passed over as seldom as can be: X and the parameters
are read once forward and once backward, the global features and their gradients are written
and read, and the optimiser reads and writes the parameters and its running averages, gradients
never leaving the cache. Elementwise operations count for nothing.
"""

from dataclasses import dataclass

BYTES = 4


@dataclass(frozen=True)
class Work:
    flops: float
    bytes: float

    def least_seconds(self, machine, dtypes):
        """On a machine as `machine.describe` gives it, matrix products in the best of `dtypes`."""
        gflops = max(machine["matmul_gflops"][dtype] for dtype in dtypes)
        return max(
            self.flops / (gflops * 1e9),
            self.bytes / (machine["copy_gb_per_second"] * 1e9),
        )


def training_work(task):
    """Of all epochs of a fit."""
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
    """Of a prediction of all sets."""
    n_scores, n_global, n_parameters, n_batches = _sizes(task)
    flops = 4 * n_scores * task.n_features + 2 * n_global * task.n_outputs
    moved = task.lengths.sum() * task.n_features + 2 * n_global + n_batches * n_parameters
    return Work(float(flops), float(moved * BYTES))


def _sizes(task):
    """Numbers of scores, of components of global features, of parameters and of batches."""
    global_size = task.cluster_size * task.n_features
    n_parameters = global_size + 2 * task.cluster_size + (global_size + 1) * task.n_outputs
    n_batches = -(-len(task) // task.batch_size)
    return task.lengths.sum() * task.cluster_size, len(task) * global_size, n_parameters, n_batches
