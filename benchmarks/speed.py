"""Benchmark the speed and memory of `fit` and `predict_proba` against peers.

    python benchmarks/speed.py [--workloads A B C musk1 vowels] [--repeats 5]
        [--epochs N] [--sets N] [--precision full mixed] [--device cpu] [--no-memory]
        [--no-peers] [--clock cpu] [--json FILE]

The estimator and its peers (peers.py) run in turn in one process, several times, after a warm-up.
Each gets the sets in the form it needs. Preparing this form is not timed, but making batches is. A
fit includes the initialization and a few epochs. The result is the ratio of a peer's median
time to ours, with the range of the ratios of single repeats. musk1 and vowels are read from
$ACLUSTER_DATA.

torchmil has a different network, so the estimator runs a second time, configured as that network.
The roofline (roofline.py) is a lower bound of the time on the measured machine.
"""

import argparse
import json
import statistics
import time
from datetime import date
from functools import partial
from pathlib import Path

import machine
import roofline
from memory import peak_of_fit
from peers import ABMIL_ATTENTION_SIZE, available
from stopwatch import interleaved
from workloads import DROPOUT, LEARNING_RATE, MAX_GRAD_NORM, WORKLOADS, make_task

from acluster import AttentionClusterClassifier, FeatureSets

PHASES = ("fit", "predict")
OURS, MIXED = "acluster", "acluster/mixed"
AS_TORCHMIL = {
    "cluster_size": 1,
    "weighting": "fc2",
    "hidden_size": ABMIL_ATTENTION_SIZE,
    "shifting": False,
    "dropout": 0.0,
}
# On a busy machine, the time that a process has to wait says nothing about it. Processor time is
# that of all threads together, so that only runs with one thread can be compared by it.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DTYPES = {  # allowed dtypes of matrix products
    OURS: ["float32"],
    MIXED: ["float32", "bfloat16"],
}


class Ours:
    """The public estimator, with the training recipe of the peers."""

    def __init__(self, task, **parameters):
        recipe = {
            "cluster_size": task.cluster_size,
            "n_attended": None,
            "weighting": "fc1",
            "shifting": True,
            "dropout": DROPOUT,
            "optimizer": "rmsprop",
            "learning_rate": LEARNING_RATE,
            "learning_rate_schedule": "constant",
            "max_grad_norm": MAX_GRAD_NORM,
            "batch_size": task.batch_size,
            "max_iter": task.epochs,
            "tol": None,
            "standardize": False,
            "device": task.device,
            "random_state": 0,
        }
        self.X, self.y = FeatureSets.from_arrays(task.arrays), task.y
        self.classifier = AttentionClusterClassifier(**{**recipe, **parameters})

    def fit(self):
        self.classifier.fit(self.X, self.y)

    def predict(self):
        return self.classifier.predict_proba(self.X)


def our_methods(precisions):
    """Return the estimator in each precision, by name."""
    names = {"full": OURS, "mixed": MIXED}
    return {names[p]: partial(Ours, precision=p) for p in precisions}


def methods_for(task, precisions, with_peers=True):
    """Return the methods to time by name, and the reasons for skipped ones."""
    ours = our_methods(precisions)
    peers, skipped = available(task) if with_peers else ({}, {})
    if any(library(name) == "torchmil" for name in peers):
        ours[f"{OURS}/as torchmil"] = partial(Ours, **AS_TORCHMIL)
    return {**ours, **peers}, skipped


def library(name):
    """Return the library of a method."""
    return name.split("/")[0]


def run(task, repeats, precisions, device_figures, with_peers=True, clock="wall"):
    """Time all methods on a task, and return the report of the workload."""
    methods, skipped = methods_for(task, precisions, with_peers)
    made = {name: make(task) for name, make in methods.items()}
    calls = {(name, p): getattr(method, p) for name, method in made.items() for p in PHASES}
    seconds = interleaved(calls, repeats, task.device, CLOCKS[clock])
    return {
        "task": describe(task),
        "methods": {
            name: {phase: figures(task, phase, seconds[name, phase]) for phase in PHASES}
            for name in methods
        },
        "ratios": ratios(task, seconds, list(methods)),
        "roofline": roofline_figures(task, seconds, device_figures),
        "skipped": skipped,
    }


def describe(task):
    """Return the sizes of a task."""
    return {
        "sets": len(task),
        "lengths": [int(task.lengths.min()), int(task.lengths.max())],
        "features": task.n_features,
        "cluster_size": task.cluster_size,
        "classes": task.n_classes,
        "batch_size": task.batch_size,
        "epochs": task.epochs,
    }


def figures(task, phase, seconds):
    """Return time and throughput of a phase."""
    passes = task.epochs if phase == "fit" else 1
    median = statistics.median(seconds)
    return {
        "seconds": {"median": median, "range": [min(seconds), max(seconds)]},
        "seconds_per_epoch": median / passes,
        "sets_per_second": len(task) * passes / median,
    }


def ratios(task, seconds, names):
    """Return the seconds of each library, at its fastest setting, relative to ours.

    Full precision is a peer of mixed precision.
    """
    ours = [name for name in names if library(name) == OURS]
    peers = dict.fromkeys(library(name) for name in names if name not in ours)
    found = {
        our: {
            peer: {
                phase: ratio(seconds, (our, phase), fastest(seconds, names, peer, phase))
                for phase in PHASES
            }
            for peer in peers
            if are_comparable(task, our, peer)
        }
        for our in ours
    }
    if OURS in ours and MIXED in ours:
        pairs = {phase: ((MIXED, phase), (OURS, phase)) for phase in PHASES}
        found[MIXED][OURS] = {phase: ratio(seconds, *pair) for phase, pair in pairs.items()}
    return found


def are_comparable(task, our, peer):
    """Return whether the networks are the same, or both are meant for the task.

    torchmil's network is meant for two classes. With more classes it is much smaller than ours.
    """
    same_network = (peer == "torchmil") == our.endswith("as torchmil")
    return same_network or (peer == "torchmil" and task.n_classes == 2)


def fastest(seconds, names, peer, phase):
    """Return the setting of a library with the shortest median time."""
    settings = [(name, phase) for name in names if library(name) == peer]
    return min(settings, key=lambda setting: statistics.median(seconds[setting]))


def ratio(seconds, our, peer):
    """Return the ratio of medians, and the range of the ratios of single repeats."""
    single = [b / a for a, b in zip(seconds[our], seconds[peer], strict=True)]
    return {
        "of_medians": statistics.median(seconds[peer]) / statistics.median(seconds[our]),
        "range": [min(single), max(single)],
        "peer": peer[0],
    }


def roofline_figures(task, seconds, device_figures):
    """Return the lower bound of the time as a share of ours."""
    work = {"fit": roofline.training_work(task), "predict": roofline.prediction_work(task)}
    return {
        name: {
            phase: work[phase].least_seconds(device_figures, dtypes)
            / statistics.median(seconds[name, phase])
            for phase in PHASES
        }
        for name, dtypes in DTYPES.items()
        if (name, "fit") in seconds
    }


def add_memory(report, workload, task, precisions, with_peers):
    """Add the peak memory of every method; called last, to keep other processes from timings."""
    methods, _ = methods_for(task, precisions, with_peers)
    for name, make in methods.items():
        peak = peak_of_fit(make, name=workload, n_sets=len(task), device=task.device)
        report["methods"][name]["fit_peak_mb"] = peak


def show(name, report):
    """Print the report of a workload."""
    task = report["task"]
    shortest, longest = task["lengths"]
    print(
        f"\n{name}: {task['sets']} sets of {shortest} to {longest} x {task['features']}, "
        f"N {task['cluster_size']}, {task['classes']} classes, batch {task['batch_size']}, "
        f"{task['epochs']} epochs"
    )
    print(f"{'':24}{'fit: sets/s':>12}{'s an epoch':>12}{'peak MB':>9}{'predict: sets/s':>17}")
    for method, timed in report["methods"].items():
        peak = timed.get("fit_peak_mb")
        print(
            f"  {method:22}{timed['fit']['sets_per_second']:12.0f}"
            f"{timed['fit']['seconds_per_epoch']:12.4f}"
            f"{'-' if peak is None else format(peak, '.0f'):>9}"
            f"{timed['predict']['sets_per_second']:17.0f}"
        )
    for our, peers in report["ratios"].items():
        for peer, phases in peers.items():
            shown = [
                f"{phase} {r['of_medians']:.2f} ({r['range'][0]:.2f} to {r['range'][1]:.2f})"
                for phase, r in phases.items()
            ]
            print(f"  {peer} / {our}: {', '.join(shown)}")
    for our, share in report["roofline"].items():
        shown = ", ".join(f"{phase} {share[phase]:.0%}" for phase in PHASES)
        print(f"  {our}, share of the roofline: {shown}")
    for method, reason in report["skipped"].items():
        print(f"  without {method}: {reason}")


def show_machine(figures):
    """Print the figures of the machine."""
    speeds = figures["matmul_gflops"]
    print(
        f"{figures['device']}, {figures['threads']} threads: matrix products "
        f"{speeds['float32']:.0f} GFLOP/s in float32, {speeds['bfloat16']:.0f} in bfloat16 "
        f"({'with' if figures['has_bf16'] else 'without'} instructions for it), "
        f"copy {figures['copy_gb_per_second']:.1f} GB/s"
    )
    if (figures["load_average"] or 0) > 0.5:
        print("Other processes are running: figures are misleading if they keep all cores busy.")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats")
    parser.add_argument(
        "--epochs", type=int, help="epochs of every fit (default: those of the workload)"
    )
    parser.add_argument("--sets", type=int, help="number of sets (default: that of the workload)")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=["full", "mixed"],
        help="precisions of acluster (default: both if the device has bfloat16, else full)",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--no-peers", action="store_true", help="time acluster only")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="what is timed")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args(arguments)


def measure(name, options, device_figures):
    """Return the report of a workload, or the reason why its data cannot be read."""
    try:
        task = make_task(name, options.sets, options.epochs, options.device)
    except FileNotFoundError as error:
        return str(error)
    native = ["full", "mixed"] if device_figures["has_bf16"] else ["full"]
    precisions = options.precision or native
    with_peers = not options.no_peers
    report = run(task, options.repeats, precisions, device_figures, with_peers, clock=options.clock)
    if not options.no_memory:
        add_memory(report, name, task, precisions, with_peers)
    return report


def main(arguments=None):
    options = parse(arguments)
    report = {
        "date": date.today().isoformat(),
        "machine": machine.describe(options.device),
        "repeats": options.repeats,
        "clock": options.clock,
        "workloads": {},
        "skipped": {},
    }
    show_machine(report["machine"])
    for name in options.workloads:
        figures = measure(name, options, report["machine"])
        if isinstance(figures, str):
            report["skipped"][name] = figures
            print(f"\n{name} is skipped: {figures}")
            continue
        report["workloads"][name] = figures
        show(name, figures)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
