"""Compare log-mel features of `acluster.extraction` with those of `load_fsdd`, on spoken digits.

The recordings of the Free Spoken Digit Dataset are extracted from their files, with the views and
backbones of `FEATURES`. The default classifier is fitted to each, and to the features of the
loader. The length of a patch and the backbone are chosen on a validation part of the training
recordings: those with an index of 5 to 9. The test recordings are those of the authors, with an
index of 0 to 4.

    python studies/spoken_digits.py [--seeds N] [--csv FILE] [--n-jobs N]

The test recordings are classified by the features that are best on the validation part, by those
of the loader, and by the default patches, which show what the length is worth. Runs that are
finished are rows of the CSV file and are not repeated. The recordings are read from
``$ACLUSTER_DATA``.
"""

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from joblib import delayed
from result_rows import environment, percent, positive, read_rows, run_all, stop_if_orphaned

from acluster import AttentionClusterClassifier, open_feature_sets
from acluster.datasets import get_data_home, load_fsdd
from acluster.extraction import LogMel, extract, flat_descriptor, patch_descriptor

HERE = Path(__file__).resolve().parent
WORK = HERE / "output" / "spoken_digits"
CSV = HERE.parent / "docs" / "results" / "spoken_digits.csv"
N_HELD = 5  # recordings per speaker and digit, of the test part and of the validation part
N_VALIDATION_SEEDS = 2


LOADER, DEFAULT = "loader", "descriptor of 96 spectra"
FEATURES = {
    DEFAULT: (LogMel(silence=0), patch_descriptor),
    "descriptor of 20 spectra": (LogMel(length=20, hop=5, silence=0), patch_descriptor),
    "descriptor of 10 spectra": (LogMel(length=10, hop=5, silence=0), patch_descriptor),
    "10 spectra": (LogMel(length=10, hop=5, silence=0), flat_descriptor),
}


class Run(NamedTuple):
    """What identifies a row."""

    part: str
    features: str
    seed: int


def recordings():
    """Return the folder of the recordings, and the digit of each file."""
    folder = get_data_home() / "fsdd" / "recordings"
    return folder, {path.name: int(path.name[0]) for path in sorted(folder.glob("*.wav"))}


def extracted(name):
    """Extract the recordings to a store, unless that has been done."""
    folder, digits = recordings()
    view, backbone = FEATURES[name]
    store = WORK / f"{name}.zarr"
    extract(folder, store, {"audio": (view, backbone)}, labels=digits)
    return store


def sets(name):
    """Return the local features and digits of all recordings, and the index of each."""
    if name == LOADER:
        loaded, (_, digits) = load_fsdd(), recordings()
        X, y, ids = loaded.data, loaded.target, [*digits]
    else:
        stored = open_feature_sets(WORK / f"{name}.zarr")
        X, y, ids = stored["audio"].load(), stored.label, stored.id
    return X, y, np.array([int(Path(id_).stem.rpartition("_")[2]) for id_ in ids])


def run(key, parent):
    """Return the row of a run."""
    stop_if_orphaned(parent)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    X, y, index = sets(key.features)
    first = 0 if key.part == "test" else N_HELD
    train, held = index >= first + N_HELD, (index >= first) & (index < first + N_HELD)
    started = time.perf_counter()
    clf = AttentionClusterClassifier(random_state=key.seed).fit(X[train], y[train])
    seconds = time.perf_counter() - started
    hits = clf.predict(X[held]) == y[held]
    return {
        **key._asdict(),
        "accuracy": percent(hits),
        "n_items": len(hits),
        "n_features": X.n_features,
        "mean_length": round(float(X.lengths.mean()), 1),
        "seconds": round(seconds, 1),
        **environment(),
    }


def mean_accuracy(rows, part, name):
    """Return the mean accuracy in percent of some features, its standard error, and the runs."""
    found = [float(row["accuracy"]) for key, row in rows.items() if key[:2] == (part, name)]
    error = np.std(found, ddof=1) / len(found) ** 0.5 if len(found) > 1 else 0.0
    return np.mean(found), error, len(found)


def run_part(part, names, n_seeds, options):
    """Run what the CSV file lacks of a part, print the accuracies, and return them by name."""
    done = read_rows(options.csv, Run)
    wanted = [Run(part, name, seed) for name in names for seed in range(n_seeds)]
    tasks = [delayed(run)(key, os.getpid()) for key in wanted if key not in done]
    for key, row in run_all(tasks, options.csv, options.n_jobs, Run):
        print(f"{part}, {key.features}, seed {key.seed}: {row['accuracy']} %", flush=True)
    rows = read_rows(options.csv, Run)
    accuracy = {name: mean_accuracy(rows, part, name) for name in names}
    for name, (mean, error, n) in accuracy.items():
        print(f"{part:10} {name:24} {mean:6.2f} ± {error:.2f} % ({n} seeds)")
    return {name: mean for name, (mean, _, _) in accuracy.items()}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seeds", type=positive, default=5, help="of the test part")
    parser.add_argument("--csv", type=Path, default=CSV, help="results file")
    parser.add_argument("--n-jobs", type=positive, default=2)
    options = parser.parse_args(arguments)
    for name in FEATURES:
        extracted(name)
    accuracy = run_part("validation", FEATURES, N_VALIDATION_SEEDS, options)
    chosen = max(accuracy, key=accuracy.get)
    print(f"chosen on the validation part: {chosen}")
    run_part("test", dict.fromkeys([LOADER, chosen, DEFAULT]), options.seeds, options)


if __name__ == "__main__":
    main()
