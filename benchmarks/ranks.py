"""Benchmark training in several processes of one machine.

    python benchmarks/ranks.py [steps] [kills] [reading]
        [--ranks 2] [--batch-size 128] [--steps 4] [--repeats 5] [--kills 5]
        [--gigabytes 2] [--folder DIR] [--json FILE]

steps: seconds per training step of one process with one thread and with two, and of several
    processes of one thread that share out the items of every batch, or the attention units. They
    take turns within one run. The seconds of the processor are those of rank 0. The bytes are those
    that a process hands to the exchanges of a step.
    Goals: shared units are at least 1.7 times as fast as one thread, and not slower than two
    threads; their logits take at most 0.25 MB per step.
kills: random processes are killed at random moments, and torchrun starts all of them again. The
    model must be that of an undisturbed fit, to the bit.
reading: the share of the passes over a store that a process reads. Of a store that is fast to
    read, W processes that share out the items should read at most 1.05/W each; of a compressed
    store, 8 processes (one after the other, without a group) at most 1.1 passes together. A
    process alone reads more than one pass too: items that lie in two blocks need both of them, and
    blocks are read in random order. Its share is given beside.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from statistics import median
from unittest.mock import patch

import machine
import numpy as np
import torch
import torch.distributed as dist
import zarr

from acluster import AttentionClusterClassifier, FeatureSets, FeatureSetsWriter, open_feature_sets
from acluster.estimators import _split
from acluster.estimators._fitting import make_fit
from acluster.estimators._training_data import TrainingData, TrainingSets
from acluster.training import ALONE, BatchSource, Ranks, feature_moments

ROOT = Path(__file__).parents[1]
KILLED = ROOT / "tests" / "estimators" / "killed_ranks.py"
N_CLASSES, N_UNITS, N_FEATURES, N_LOCAL = 400, 64, 1536, 25
MEGABYTE = 1e6
N_SIMULATED = 8


def torchrun(n_ranks, script, *arguments, options=()):
    """Run a script in several processes of one thread each."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", *options]
    subprocess.run(
        [*launcher, "--nproc-per-node", str(n_ranks), str(script), *map(str, arguments)],
        env=os.environ
        | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        # Restarted processes may find the addresses of killed ones in a store that is kept.
        | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        check=True,
    )


class Steps:
    """Training steps of the workload, in one way to share them out.

    Parameters
    ----------
    X, y : FeatureSets, ndarray
        The items of all steps.

    batch_size : int
        The number of items per step.

    ranks : Ranks
        The processes.

    units : bool
        Whether they share out the units.
    """

    def __init__(self, X, y, batch_size, ranks, units=False):
        classifier = AttentionClusterClassifier(
            cluster_size=N_UNITS,
            n_attended=None,
            standardize=False,
            optimizer="rmsprop",
            learning_rate=1e-3,
            max_grad_norm=5.0,
            batch_size=batch_size,
            dtype="float32",
            device="cpu",
            random_state=0,
        )
        classes = np.arange(N_CLASSES)
        data = TrainingData.of(classifier, X, y, None, classes=classes, ranks=ranks)
        classifier._start(data)
        sets = TrainingSets(data, "stream", next(classifier.network_.parameters()))
        targets, weights = data.coding.encode(data.items.y), data.items.sample_weight
        with patch.object(_split, "FORCED", units):
            self.fit = make_fit(classifier, sets, targets, weights)

    def __call__(self):
        """Take all steps; return their seconds, on the clock and of the processor.

        The third figure is the seconds of the end of the epoch.
        """
        trainer, batches = self.fit.trainer, self.fit.batches
        with trainer.training():
            started, of_processor = time.perf_counter(), time.process_time()
            for part in batches.epoch():
                trainer.step(batches.batch(part))
                del part
            ended, of_processor = time.perf_counter(), time.process_time() - of_processor
        return ended - started, of_processor, time.perf_counter() - ended


def counted_bytes(call):
    """Return the bytes that a call hands to exchanges between processes."""
    n_bytes, all_reduce = [], dist.all_reduce

    def count(tensor, *args, **options):
        n_bytes.append(tensor.nbytes)
        return all_reduce(tensor, *args, **options)

    with patch.object(dist, "all_reduce", count):
        call()
    return sum(n_bytes)


def bytes_per_second(n_bytes, repeats=5):
    """Return the speeds of an exchange and of memory, for `studies/step_times.py`.

    They are those that its model divides by: what a process sends and receives, and what it reads
    and writes.
    """
    numbers, copy = torch.zeros(n_bytes // 4), torch.zeros(n_bytes // 4)
    size = dist.get_world_size()
    seconds = {"exchange": [], "memory": []}
    for _ in range(repeats):
        for name, run in (
            ("exchange", lambda: dist.all_reduce(numbers)),
            ("memory", lambda: copy.copy_(numbers)),
        ):
            dist.barrier()
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    sent = 2 * (size - 1) / size * n_bytes
    return {
        "exchange": sent / median(seconds["exchange"]),
        "memory": 2 * n_bytes / median(seconds["memory"]),
    }


def measure_steps(path, batch_size, n_steps, repeats):
    """Write the seconds and bytes per step of every way; called in every process."""
    dist.init_process_group("gloo")
    n_items = batch_size * n_steps
    rng = np.random.default_rng(0)
    values = rng.standard_normal((n_items * N_LOCAL, N_FEATURES), dtype=np.float32)
    X = FeatureSets(values, np.arange(n_items + 1) * N_LOCAL)
    y = np.arange(n_items) % N_CLASSES
    is_first = dist.get_rank() == 0
    with Ranks(distributed=True) as ranks:
        ways = {"one thread": (1, None), "two threads": (2, None)}
        if is_first:
            alone = Steps(X, y, batch_size, ALONE)
            ways = {"one thread": (1, alone), "two threads": (2, alone)}
        for name, units in (("items", False), ("units", True)):
            ways[name] = 1, Steps(X, y, batch_size, ranks, units)
        seconds, of_processor, ends = ({name: [] for name in ways} for _ in range(3))
        for repeat in range(repeats + 1):
            for name, (n_threads, steps) in ways.items():
                torch.set_num_threads(n_threads)
                dist.barrier()  # whoever has nothing to do waits here, without using its core
                taken = steps() if steps is not None else (0.0, 0.0, 0.0)
                if repeat:  # after a warm-up
                    seconds[name].append(taken[0] / n_steps)
                    of_processor[name].append(taken[1] / n_steps)
                    ends[name].append(taken[2])
        # Without the end of the epoch, at which processes that share out units sum the weights.
        n_bytes = {}
        for name in ("items", "units"):
            trainer, batches = ways[name][1].fit.trainer, ways[name][1].fit.batches

            def one_step(trainer=trainer, batches=batches):
                part = next(iter(batches.epoch()))
                trainer.step(batches.batch(part))

            with ExitStack() as stack:
                stack.enter_context(trainer.training())
                n_bytes[name] = counted_bytes(one_step)
        speeds = bytes_per_second(4 * N_FEATURES * N_UNITS * N_CLASSES)
    if is_first:
        figures = {"seconds": seconds, "processor": of_processor, "ends": ends, "bytes": n_bytes}
        figures["speeds"] = speeds
        Path(path).write_text(json.dumps(figures))
    dist.destroy_process_group()


def steps(options, folder):
    """Return the figures of the training steps."""
    path = folder / "steps.json"
    given = options.batch_size, options.steps, options.repeats
    torchrun(options.ranks, __file__, "--in-rank", "steps", path, *given)
    found = json.loads(path.read_text())
    middle = {name: median(taken) for name, taken in found["seconds"].items()}
    return {
        "sizes": {
            "batch_size": options.batch_size,
            "local_features": N_LOCAL,
            "n_features": N_FEATURES,
            "units": N_UNITS,
            "classes": N_CLASSES,
            "ranks": options.ranks,
        },
        "seconds_per_step": middle,
        "range": {name: [min(taken), max(taken)] for name, taken in found["seconds"].items()},
        "processor_seconds_per_step": {
            name: median(taken) for name, taken in found["processor"].items()
        },
        "epoch_end_seconds": median(found["ends"]["units"]),
        "speedup_over_one_thread": {
            name: middle["one thread"] / taken for name, taken in middle.items()
        },
        "bytes_per_second": found["speeds"],
        "megabytes_per_step": {name: n / MEGABYTE for name, n in found["bytes"].items()},
    }


def kills(options, folder):
    """Return whether fits whose processes are killed give the model of an undisturbed fit."""
    sys.path.insert(0, str(ROOT))
    from tests.estimators.killed_ranks import EPOCHS_PER_KILL

    figures = {}
    for shared in ("items", "units"):
        digests = {}
        for n_kills in (0, options.kills):
            own = folder / f"{shared} {n_kills}"
            own.mkdir()
            restarts = ["--max-restarts", n_kills, "--monitor-interval", "0.1"]
            arguments = own, n_kills, shared, EPOCHS_PER_KILL * options.kills
            torchrun(options.ranks, KILLED, *arguments, options=map(str, restarts))
            digests[n_kills] = (own / "digest").read_text()
            n_restarts = int((own / "restarts").read_text())
        is_same = digests[0] == digests[options.kills]
        figures[shared] = {"kills": n_restarts, "same_bits": is_same}
    return figures


def write_store(path, n_bytes, n_features=N_FEATURES, compressed=False):
    """Write noise in float16; in compressed chunks of half a megabyte if told so."""
    n_items = int(n_bytes) // (N_LOCAL * n_features * 2)
    noise = np.random.default_rng(0).standard_normal((4096, n_features)).astype(np.float16)
    with FeatureSetsWriter(path) as writer:
        for i in range(n_items):
            start = N_LOCAL * i % (len(noise) - N_LOCAL)
            writer.append(noise[start : start + N_LOCAL], label=i % 10)
    if not compressed:
        return
    group = zarr.open_group(path)
    plain = group["features"]
    names = plain.metadata.dimension_names
    chunks = (2**19 // (2 * n_features), n_features)
    del group["features"]
    packed = group.create_array(
        "features",
        shape=plain.shape,
        dtype=plain.dtype,
        chunks=chunks,
        compressors=zarr.codecs.ZstdCodec(),
        dimension_names=names,
    )
    rows = noise[
        np.concatenate(
            [N_LOCAL * i % (len(noise) - N_LOCAL) + np.arange(N_LOCAL) for i in range(n_items)]
        )
    ]
    packed[...] = rows


def bytes_read():
    """Return the bytes that this process has read from files so far."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def measure_reading(path, store, n_epochs):
    """Write the bytes that a fit reads from a store; called in every process."""
    dist.init_process_group("gloo")
    X = open_feature_sets(store)
    parameters = {"cluster_size": 1, "batch_size": 64, "max_iter": n_epochs, "tol": None}
    classifier = AttentionClusterClassifier(
        distributed=True, cache="stream", standardize=True, random_state=0, **parameters
    )
    y = np.arange(len(X)) % 10
    classifier.fit(X[:128], y[:128])  # imports and compiled code are files too
    before = bytes_read()
    with patch.object(_split, "FORCED", False):
        classifier.fit(X, y)
    n_bytes = [None] * dist.get_world_size()
    dist.all_gather_object(n_bytes, bytes_read() - before)
    if dist.get_rank() == 0:
        passes = n_epochs + 1  # the first one is for the means and standard deviations
        Path(path).write_text(json.dumps([n / passes / X.nbytes for n in n_bytes]))
    dist.destroy_process_group()


class Simulated(Ranks):
    """One of several ranks, without the others."""

    def __init__(self, rank, size):
        super().__init__()
        self.rank, self.size = rank, size

    def all_of(self, value):
        return [value]


def read_moments(path, ranks):
    """Read a store as for its means and standard deviations."""
    feature_moments(open_feature_sets(path), True, None, ranks)


def read_epoch(path, ranks):
    """Read a store as for an epoch, with an empty cache."""
    source = BatchSource([open_feature_sets(path)], torch.empty(0, dtype=torch.float32))
    random_state = np.random.RandomState(0)
    for part in source.epoch(128, random_state, [None], ranks=ranks):
        del part


def read_in_turns(path):
    """Return the shares of a compressed store that 8 ranks read together, and those of one."""
    n_stored = sum(one.stat().st_size for one in Path(path, "features").rglob("*") if one.is_file())

    def share(read, ranks):
        before = bytes_read()
        read(path, ranks)
        return (bytes_read() - before) / n_stored

    all_ranks = [Simulated(rank, N_SIMULATED) for rank in range(N_SIMULATED)]
    return {
        "moments": sum(share(read_moments, ranks) for ranks in all_ranks),
        "epoch": sum(share(read_epoch, ranks) for ranks in all_ranks),
        "epoch of one process": share(read_epoch, ALONE),
    }


def reading(options, folder):
    """Return the shares of a store that the processes read."""
    plain, packed = str(folder / "plain.zarr"), str(folder / "packed.zarr")
    write_store(plain, 2**28)
    path, n_epochs = folder / "reading.json", 4
    torchrun(options.ranks, __file__, "--in-rank", "reading", path, plain, n_epochs)
    shares = json.loads(path.read_text())
    write_store(packed, options.gigabytes * 1e9, compressed=True)
    return {
        "local": {"ranks": options.ranks, "shares_per_pass": shares},
        "compressed": {"gigabytes": options.gigabytes, **read_in_turns(packed)},
    }


PARTS = {"steps": steps, "kills": kills, "reading": reading}


def in_rank(name, *arguments):
    """Measure in one of the processes that torchrun has started."""
    if name == "steps":
        path, *sizes = arguments
        measure_steps(path, *map(int, sizes))
    else:
        path, store, n_epochs = arguments
        measure_reading(path, store, int(n_epochs))


def main():
    """Run the parts, and print or write their figures."""
    if sys.argv[1:2] == ["--in-rank"]:
        in_rank(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    figures = {"date": str(date.today()), "machine": machine.describe("cpu")}
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    try:
        for name in options.parts or PARTS:
            figures[name] = PARTS[name](options, folder)
            print(name, json.dumps(figures[name], indent=2), flush=True)
    finally:
        shutil.rmtree(folder)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
