"""Check and measure everything that needs a CUDA device, in at most ten minutes.

    python benchmarks/gpu_session.py FOLDER [--parts tests pooling ...] [--minutes 9.5] [--smoke]
    python benchmarks/gpu_session.py FOLDER --check        # later, on a machine without a GPU

GPU time may be short. Each part therefore runs in its own process with its own time limit, and its
results are in FOLDER as soon as it ends: `session.json` (how each part ended, and how long it took)
and PART.log. The parts, with the seconds that they are expected to take on an H200:

tests (120): the tests of the kernels, of recorded steps, of training on a GPU and of model files.
models (20): models trained on the GPU, as files, pickles and joblib files with their predictions.
pooling (40): the bandwidth of the pooling kernels, into `pooling.json`.
start_up (35): check and copy of sets of the size of Kinetics, and their moments, relative to the
    bus; also from a store of 4 GB, into `start_up.json`.
epoch (70): epochs of the size of Kinetics, into `epoch.json`.
members (60): 16 networks in one pass over sets like those of Kinetics, and one alone.
small (40): fits of small sets on the GPU and on the processor.
table1 (180): the command of Table 1 of the paper with all its epochs. It needs MNIST in
    $ACLUSTER_DATA; without it, the part is skipped.

`--check` loads these models and compares their predictions. `--smoke` runs every part at tiny
sizes, also without a GPU; its figures mean nothing.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import time
import warnings
from datetime import date
from pathlib import Path

import joblib
import numpy as np
import torch
from workloads import generated

import acluster
from acluster import AttentionClusterClassifier, FeatureSets

HERE = Path(__file__).parent
ROOT = HERE.parent
TESTS = (
    "tests/test_gpu.py",
    "tests/test_load.py",
    "tests/training/test_resident.py",
    "tests/nn/pooling/test_triton.py",
    "tests/nn/test_masks_triton.py",
    "tests/datasets/test_extractor.py",
)
# The limit of each part in seconds. It leaves room above the expected time.
LIMITS = {
    "tests": 240,
    "models": 60,
    "pooling": 120,
    "start_up": 100,
    "epoch": 200,
    "members": 120,
    "small": 100,
    "table1": 240,
}
TOLERANCE = 1e-5  # between predictions on the two machines

MEMBERS = {"n": 20_480, "length": 25, "width": 1536, "cluster_size": 64, "n_classes": 400, "P": 16}
# Like the vowels and musk1: sets, their sizes, and the width of their local features.
SMALL = {"vowels": (270, 7, 26, 12, 9), "musk1": (92, 2, 40, 166, 2)}
SMOKE = {
    "members": {"n": 40, "length": 3, "width": 8, "cluster_size": 4, "n_classes": 3, "P": 2},
    "small": {"vowels": (30, 2, 5, 4, 3)},
}


def commands(folder, smoke):
    """Return the command of every part."""
    gpu = [str(HERE / "gpu.py"), *(["--smoke"] if smoke else [])]
    own = [__file__, str(folder), *(["--smoke"] if smoke else []), "--run"]
    # Their kernels take one processor minutes to compile.
    workers = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    tests = ["tests/test_gpu.py"] if smoke else [*workers, *TESTS]
    table1 = [str(ROOT / "studies" / "flash_mnist_table1.py"), "--n-jobs", "16"]
    table1 += ["--csv", str(folder / "table1.csv"), "--work", str(folder / "table1")]
    return {
        "tests": ["-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", *tests],
        "models": [*own, "models"],
        "pooling": [*gpu, "--parts", "pooling", "--json", str(folder / "pooling.json")],
        "start_up": [*gpu, "--parts", "start-up", "--json", str(folder / "start_up.json")],
        "epoch": [*gpu, "--parts", "epoch", "--json", str(folder / "epoch.json")],
        "members": [*own, "members"],
        "small": [*own, "small"],
        "table1": [*table1, "--quick"] if smoke else table1,
    }


def run_parts(folder, parts, minutes, smoke):
    """Run the parts one after the other, each in a process, until the time is up."""
    end = time.monotonic() + 60 * minutes
    session = {"date": date.today().isoformat(), "device": device_name(), "parts": {}}
    for part in parts:
        left = end - time.monotonic()
        session["parts"][part] = run_part(folder, part, min(LIMITS[part], left), smoke)
        (folder / "session.json").write_text(json.dumps(session, indent=1))
        print(part, session["parts"][part], flush=True)


def run_part(folder, part, limit, smoke):
    """Run one part, and return how it ended."""
    if limit < 5:
        return {"ended": "skipped: no time was left"}
    if part == "table1" and not smoke and not has_mnist():
        return {"ended": "skipped: MNIST is not in $ACLUSTER_DATA"}
    # The packages that acluster needs may be where the caller's variable says.
    paths = [str(ROOT), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    # The jobs of a shell in the background ignore this signal, and so would their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.perf_counter()
    with (folder / f"{part}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *commands(folder, smoke)[part]],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            ended = "passed" if code == 0 else f"failed with {code}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {limit:.0f} s"
            process.send_signal(signal.SIGINT)  # pytest then shows what has failed so far
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
        finally:
            # Its workers would keep the GPU.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return {"ended": ended, "seconds": round(time.perf_counter() - start, 1)}


def has_mnist():
    """Return whether $ACLUSTER_DATA has a folder with MNIST, as the study needs it."""
    home = os.environ.get("ACLUSTER_DATA")
    return home is not None and (Path(home) / "mnist").is_dir()


def device_name():
    """Return the name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def run_members(folder, smoke):
    """Time epochs of one network, and of P networks that are trained in one pass."""
    sizes = SMOKE["members"] if smoke else MEMBERS
    n, length, width = sizes["n"], sizes["length"], sizes["width"]
    values = np.random.default_rng(0).standard_normal((n * length, width), np.float32)
    X = FeatureSets(values.astype(np.float16), np.arange(0, n * length + 1, length))
    y = np.arange(n) % sizes["n_classes"]
    seconds = {}
    for n_members in (1, sizes["P"]):
        options = {"cluster_size": sizes["cluster_size"], "n_members": n_members}
        seconds[n_members] = seconds_per_epoch(X, y, 4, **options, batch_size=256)
    one, several = seconds.values()
    report = {**sizes, "seconds_of_one": one, "seconds_of_all": several, "ratio": several / one}
    (folder / "members.json").write_text(json.dumps(report, indent=1))
    print(report)


def seconds_per_epoch(X, y, n_epochs, **options):
    """Return the seconds of an epoch after the first ones, from fits of two lengths."""

    def seconds_of_fit(max_iter):
        options_of_fit = {"n_attended": None, "dropout": 0.9, "standardize": False, **options}
        clf = AttentionClusterClassifier(
            max_iter=max_iter, tol=None, random_state=0, precision="mixed", **options_of_fit
        )
        start = time.perf_counter()
        clf.fit(X, y)
        return time.perf_counter() - start

    seconds_of_fit(1)
    return (seconds_of_fit(1 + n_epochs) - seconds_of_fit(1)) / n_epochs


def run_small(folder, smoke):
    """Time default fits of small sets on both devices, and where "auto" trains them."""
    report = {}
    for name, sizes in (SMOKE["small"] if smoke else SMALL).items():
        X, y = generated(*sizes)
        X = FeatureSets.from_arrays(X)
        report[name] = {}
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            clf = AttentionClusterClassifier(device=device, random_state=0)
            clf.fit(X, y)
            report[name][device] = statistics.median(seconds_of(clf.fit, X, y) for _ in range(3))
        clf = AttentionClusterClassifier(random_state=0, max_iter=1, tol=None).fit(X, y)
        report[name]["auto"] = str(next(clf.network_.parameters()).device)
    (folder / "small.json").write_text(json.dumps(report, indent=1))
    print(report)


def seconds_of(function, *args):
    """Return the seconds of a call."""
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def run_models(folder, smoke):
    """Train models of several kinds, and write them with their predictions."""
    arrays, y = generated(60 if smoke else 600, 3, 30, 24, 5)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kinds = {
        "plain": {},
        "mixed": {"precision": "mixed"},
        "pyramid": {"pyramid_levels": 3},
        "hidden": {"hidden_features": 8},
        "members": {"n_members": 3},
        "fc2": {"weighting": "fc2"},
    }
    X = FeatureSets.from_arrays(arrays)
    joblib.dump(arrays, folder / "models_X.joblib")
    # Which scores are the largest may depend on the processor's rounding, so all are used.
    shared = {"cluster_size": 16, "n_attended": None, "max_iter": 20, "tol": None}
    for name, options in kinds.items():
        clf = AttentionClusterClassifier(**shared, **options, device=device, random_state=0)
        clf.fit(X, y)
        # Predictions in full precision: bfloat16 rounds differently on another processor.
        clf.set_params(precision="full")
        clf.save(folder / f"{name}.model")
        joblib.dump(clf, folder / f"{name}.joblib")
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(clf))
        np.save(folder / f"{name}.npy", clf.predict_proba(X))


def check_models(folder):
    """Compare the predictions of all models in a folder with those where they were trained."""
    X, worst = FeatureSets.from_arrays(joblib.load(folder / "models_X.joblib")), 0.0
    paths = sorted(folder.glob("*.npy"))
    assert paths, f"{folder} has no predictions: run the part `models` first"
    for path in paths:
        expected = np.load(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            models = {
                "model": acluster.load(path.with_suffix(".model")),
                "joblib": joblib.load(path.with_suffix(".joblib")),
                "pickle": pickle.loads(path.with_suffix(".pkl").read_bytes()),
            }
        for kind, clf in models.items():
            error = float(np.abs(clf.predict_proba(X) - expected).max())
            print(f"{path.stem} {kind}: largest difference {error:.1e}")
            worst = max(worst, error)
    if worst > TOLERANCE:
        sys.exit(f"The predictions differ by {worst:.1e}, more than {TOLERANCE:g}.")


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the results are written")
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts together")
    parser.add_argument("--smoke", action="store_true", help="run at tiny sizes on any machine")
    parser.add_argument("--check", action="store_true", help="compare the models in the folder")
    parser.add_argument("--run", choices=("members", "small", "models"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments=None):
    options = parse(arguments)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if options.check:
        check_models(folder)
    elif options.run:
        own = {"members": run_members, "small": run_small, "models": run_models}
        own[options.run](folder, options.smoke)
    elif device_name() == "cpu" and not options.smoke:
        sys.exit("No CUDA device found. Pass --smoke to run tiny sizes without one.")
    else:
        run_parts(folder, options.parts, options.minutes, options.smoke)


if __name__ == "__main__":
    main()
