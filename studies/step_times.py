"""Model the time of a training step that several processes share.

    python studies/step_times.py [--measured docs/results/ranks.json]

A step of W processes takes the time of its computation and of its exchange:

    items: (t₁ - u) / W + u + 2 (W - 1) / W · 4P / b + l
    units: t₁ / W + 2 (W - 1) / W · 4BC / b + l

where t₁ is a step of one process, u the update of all P weights, which every process repeats if
items are shared out, b the bytes per second of an exchange, l its latency, B the batch size and C
the number of classes. Weights have 4 bytes. Exchanges do not overlap with the computation.

The first table compares the model with the steps that `benchmarks/ranks.py` has measured in two
processes: t₁, b and the bandwidth of memory, which gives u, are measured there, too. The second
table is what the model predicts for the fit of Kinetics (246,535 videos, B = 256 and 8,192, N = 64
units, M = 1,536, C = 400) on GPUs. Only the step of one GPU is measured; see `GPU`.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
BYTES_PER_WEIGHT = 4
# An update of RMSprop reads a weight, its gradient and its running average, and writes two of them.
PASSES_PER_UPDATE = 5


@dataclass(frozen=True)
class Sizes:
    """The sizes of a fit."""

    batch_size: int
    n_local: int = 25
    n_features: int = 1536
    n_units: int = 64
    n_classes: int = 400

    @property
    def n_weights(self):
        """The number of weights of the scores and of the last layer."""
        return self.n_features * self.n_units * (1 + self.n_classes)

    @property
    def n_operations(self):
        """The operations of a step: three products per layer, and pooling."""
        of_layer = self.n_units * self.n_features * self.n_classes
        of_cluster = 10 * self.n_local * self.n_features * self.n_units
        return self.batch_size * (6 * of_layer + of_cluster)


@dataclass(frozen=True)
class Machine:
    """The speeds of the processors and of the network between them.

    Parameters
    ----------
    operations : float
        Operations per second of one processor.

    memory : float
        Bytes per second of its memory.

    network : float
        Bytes per second of an exchange.

    latency : float
        Seconds per exchange.

    launch : float
        The least seconds of a step, however little there is to compute.
    """

    operations: float
    memory: float
    network: float
    latency: float = 0.0
    launch: float = 0.0


# Measured on one H200: a step of 4.3 ms at B = 256, which is the time of launching its kernels
# (docs/about/results.rst), and 3.9 TB/s of memory. Assumed: 300 TFLOP/s in bfloat16, 300 GB/s
# between the GPUs of a node, 40 GB/s between nodes, 30 µs and 80 µs per exchange.
GPU = Machine(300e12, 3.9e12, 300e9, 30e-6, 4.3e-3)
BETWEEN_NODES = Machine(300e12, 3.9e12, 40e9, 80e-6, 4.3e-3)


def update_seconds(sizes, machine):
    """Return the seconds of the update of all weights."""
    return PASSES_PER_UPDATE * BYTES_PER_WEIGHT * sizes.n_weights / machine.memory


def step_seconds(way, n_ranks, sizes, machine, alone=None):
    """Return the seconds of a step.

    Parameters
    ----------
    way : {"items", "units"}
        What the processes share out.

    n_ranks : int
        The number W of processes.

    sizes : Sizes
        The sizes of the fit.

    machine : Machine
        The machine.

    alone : float, optional
        The measured seconds of a step of one process, in place of what the machine says.
    """
    update = update_seconds(sizes, machine)
    if alone is None:
        alone = sizes.n_operations / machine.operations + update
    repeated = update if way == "items" else 0.0
    compute = max(machine.launch, (alone - repeated) / n_ranks + repeated)
    if n_ranks == 1:
        return compute
    numbers = sizes.n_weights if way == "items" else sizes.batch_size * sizes.n_classes
    sent = 2 * (n_ranks - 1) / n_ranks * BYTES_PER_WEIGHT * numbers
    return compute + sent / machine.network + machine.latency


def check(measured):
    """Print the measured steps of two processes beside those of the model."""
    found = measured["steps"]
    given = found["sizes"]
    sizes = Sizes(
        given["batch_size"],
        given["local_features"],
        given["n_features"],
        given["units"],
        given["classes"],
    )
    speeds = found["bytes_per_second"]
    machine = Machine(float("inf"), speeds["memory"], speeds["exchange"])
    seconds = found["seconds_per_step"]
    print(f"{given['ranks']} processes, B = {sizes.batch_size}: seconds per step")
    for way in ("items", "units"):
        model = step_seconds(way, given["ranks"], sizes, machine, seconds["one thread"])
        ratio = seconds[way] / model
        print(f"  {way}: measured {seconds[way]:.3f}, model {model:.3f}, ratio {ratio:.2f}")


def predict():
    """Print the seconds of an epoch of Kinetics that the model predicts for GPUs."""
    n_items = 246_535
    print("seconds per epoch of Kinetics on GPUs, items / units shared out")
    for n_ranks, machine in ((1, GPU), (8, GPU), (128, BETWEEN_NODES)):
        cells = []
        for batch_size in (256, 8192):
            sizes = Sizes(batch_size)
            n_steps = -(-n_items // batch_size)
            shown = [
                f"{n_steps * step_seconds(way, n_ranks, sizes, machine):.2f}"
                if way == "items" or n_ranks <= sizes.n_units
                else "-"
                for way in ("items", "units")
            ]
            cells.append(f"B = {batch_size}: {' / '.join(shown)}")
        print(f"  {n_ranks:3d} GPUs: {', '.join(cells)}")


def main(arguments=None):
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measured", type=Path, default=RESULTS / "ranks.json")
    options = parser.parse_args(arguments)
    check(json.loads(options.measured.read_text()))
    predict()


if __name__ == "__main__":
    main()
