"""Speed and memory of the public `fit` and `predict_proba`, beside other ways to do the same.

    python benchmarks/speed.py [--workloads A B C musk1 vowels] [--repeats 5]
        [--epochs N] [--sets N] [--precision full mixed] [--device cpu] [--no-memory]
        [--json FILE]

Our estimator and its peers (peers.py) run one after the other in one process, several times
over, after a warm-up. Each gets the sets in the form that it takes, prepared beforehand; what
it does to make batches of them is timed. A fit is the whole of it: the first weights, and a
few epochs. The ratio of a peer's median seconds to ours is what counts, and has the range of
the ratios of the single repeats beside it. musk1 and vowels are read from $ACLUSTER_DATA.

torchmil's network is another one, so our estimator runs a second time, set up as that network.
The roofline (roofline.py) is the least time for the network on the measured machine.
"""

import argparse
import json
import statistics
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
OURS = "acluster"
AS_TORCHMIL = {
    "cluster_size": 1,
    "weighting": "fc2",
    "hidden_size": ABMIL_ATTENTION_SIZE,
    "shifting": False,
    "dropout": 0.0,
}
DTYPES = {  # that matrix products may have
    "acluster": ["float32"],
    "acluster/mixed": ["float32", "bfloat16"],
}


class Ours:
    """The public estimator, with the recipe that the peers follow."""

    def __init__(self, task, **parameters):
        recipe = {
            "cluster_size": task.cluster_size,
            "weighting": "fc1",
            "shifting": True,
            "dropout": DROPOUT,
            "optimizer": "rmsprop",
            "learning_rate": LEARNING_RATE,
            "max_grad_norm": MAX_GRAD_NORM,
            "batch_size": task.batch_size,
            "max_iter": task.epochs,
            "tol": None,
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
    """Our estimator in each precision."""
    names = {"full": OURS, "mixed": f"{OURS}/mixed"}
    return {names[p]: partial(Ours, precision=p) for p in precisions}


def methods_for(task, precisions):
    """Everything that is timed, by name, and why something is not."""
    ours = our_methods(precisions)
    peers, skipped = available(task)
    if any(library(name) == "torchmil" for name in peers):
        ours[f"{OURS}/as torchmil"] = partial(Ours, **AS_TORCHMIL)
    return {**ours, **peers}, skipped


def library(name):
    return name.split("/")[0]


def run(task, repeats, precisions, device_figures):
    """Time a task by all methods; the figures of a workload."""
    methods, skipped = methods_for(task, precisions)
    made = {name: make(task) for name, make in methods.items()}
    calls = {(name, p): getattr(method, p) for name, method in made.items() for p in PHASES}
    seconds = interleaved(calls, repeats, task.device)
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
    passes = task.epochs if phase == "fit" else 1
    median = statistics.median(seconds)
    return {
        "seconds": {"median": median, "range": [min(seconds), max(seconds)]},
        "seconds_per_epoch": median / passes,
        "sets_per_second": len(task) * passes / median,
    }


def ratios(task, seconds, names):
    """How many times our seconds every peer takes; of a library, at its fastest setting."""
    ours = [name for name in names if library(name) == OURS]
    peers = dict.fromkeys(library(name) for name in names if name not in ours)
    return {
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


def are_comparable(task, our, peer):
    """Whether they are the same network, or both meant for the task.

    torchmil's network is made for two classes, and with more classes it is by far the smaller.
    """
    same_network = (peer == "torchmil") == our.endswith("as torchmil")
    return same_network or (peer == "torchmil" and task.n_classes == 2)


def fastest(seconds, names, peer, phase):
    settings = [(name, phase) for name in names if library(name) == peer]
    return min(settings, key=lambda setting: statistics.median(seconds[setting]))


def ratio(seconds, our, peer):
    single = [b / a for a, b in zip(seconds[our], seconds[peer], strict=True)]
    return {
        "of_medians": statistics.median(seconds[peer]) / statistics.median(seconds[our]),
        "range": [min(single), max(single)],
        "peer": peer[0],
    }


def roofline_figures(task, seconds, device_figures):
    """The share of the least possible seconds in ours."""
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


def add_memory(report, workload, task, precisions):
    """The peak memory of every method; last, so that no process runs beside a timing."""
    methods, _ = methods_for(task, precisions)
    for name, make in methods.items():
        peak = peak_of_fit(make, name=workload, n_sets=len(task), device=task.device)
        report["methods"][name]["fit_peak_mb"] = peak


def show(name, report):
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
    speeds = figures["matmul_gflops"]
    print(
        f"{figures['device']}, {figures['threads']} threads: matrix products "
        f"{speeds['float32']:.0f} GFLOP/s in float32, {speeds['bfloat16']:.0f} in bfloat16 "
        f"(mixed precision {'uses' if figures['bf16_is_faster'] else 'does without'} it), "
        f"copy {figures['copy_gb_per_second']:.1f} GB/s"
    )
    if (figures["load_average"] or 0) > 0.5:
        print("Others are at work on this machine: with all its cores taken, figures mislead.")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each")
    parser.add_argument("--epochs", type=int, help="of every fit, in place of the workload's")
    parser.add_argument("--sets", type=int, help="of every workload, in place of its own")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=["full", "mixed"],
        help="of ours; by default both where bfloat16 is faster, else full",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args(arguments)


def measure(name, options, device_figures):
    """The report of a workload; a string that says why not if its data are not there."""
    try:
        task = make_task(name, options.sets, options.epochs, options.device)
    except FileNotFoundError as error:
        return str(error)
    native = ["full", "mixed"] if device_figures["bf16_is_faster"] else ["full"]
    precisions = options.precision or native
    report = run(task, options.repeats, precisions, device_figures)
    if not options.no_memory:
        add_memory(report, name, task, precisions)
    return report


def main(arguments=None):
    options = parse(arguments)
    report = {
        "date": date.today().isoformat(),
        "machine": machine.describe(options.device),
        "repeats": options.repeats,
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
