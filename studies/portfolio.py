"""Choose the portfolio of `AttentionClusterClassifierCV` by cross-validation on training parts.

Every candidate is trained in five folds of the training part of a data set of `rival_sets.py`: of
the published split, or of the first of the published folds. Folds are stratified, and keep the
clips of a subject together. No test item of that split is used. Accuracy and log-loss are taken
after 15, 30, 60 and 120 epochs, because the number of epochs is a part of a configuration.

    python studies/portfolio.py [--sets colon] [--candidates all] [--n-jobs 2]

Finished runs are rows of the CSV file and are not repeated.
"""

import argparse
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from joblib import delayed
from result_rows import environment, percent, read_rows, run_all, stop_if_orphaned
from rival_sets import SETS, actions, load
from rivals import ATTENDING_TO_ALL
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from acluster import AttentionClusterClassifier
from acluster.datasets import load_benchmark

CSV = Path(__file__).resolve().parent.parent / "docs" / "results" / "portfolio.csv"
EPOCHS = (15, 30, 60, 120)
N_FOLDS = 5
DECAY, LEARNED = {"weight_decay": 1e-3}, {"hidden_features": 64}
COSINE = {"learning_rate_schedule": "cosine"}
CANDIDATES = {
    "all": {},
    "5 highest": {"n_attended": 5},
    "highest": {"n_attended": 1},
    "decay": DECAY,
    "5 highest, decay": {"n_attended": 5, **DECAY},
    "highest, decay": {"n_attended": 1, **DECAY},
    "learned": LEARNED,
    "5 highest, learned": {"n_attended": 5, **LEARNED},
    "5 highest, learned, decay": {"n_attended": 5, **LEARNED, **DECAY},
    "no shifting": {"shifting": False},
    "5 highest, no shifting": {"n_attended": 5, "shifting": False},
    "highest, no shifting": {"n_attended": 1, "shifting": False},
    "learned, no shifting": {"shifting": False, **LEARNED},
    "fc2": {"weighting": "fc2"},
}
WITH_COSINE = (
    "all",
    "5 highest",
    "highest",
    "5 highest, decay",
    "5 highest, learned",
    "no shifting",
    "learned, no shifting",
)
CANDIDATES |= {f"{name}, cosine": {**CANDIDATES[name], **COSINE} for name in WITH_COSINE}


class Run(NamedTuple):
    """A candidate on the training part of a data set."""

    dataset: str
    candidate: str
    repetition: int


def subjects(dataset, items):
    """Return the subjects of these items, which a fold keeps together; None if there are none."""
    if dataset == "MSR-Action3D":
        return load_benchmark("msr_action3d").groups[items]
    sensors = ("skeleton", "inertial", "depth", "three sensors")
    return actions().group[items] if dataset in sensors else None


def folds(y, groups, repetition):
    """Return the folds of a repetition."""
    options = {"shuffle": True, "random_state": repetition}
    if groups is None:
        return StratifiedKFold(N_FOLDS, **options).split(y, y)
    n_folds = min(N_FOLDS, len(np.unique(groups)))
    return StratifiedGroupKFold(n_folds, **options).split(y, y, groups)


def perform(run, parent):
    """Train a candidate in all folds, and return its row."""
    stop_if_orphaned(parent)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    problem = load(run.dataset)
    items, _ = problem.folds(0)[0]
    X, y = problem.X[items], problem.y[items]
    predicted = np.zeros((len(EPOCHS), len(y), len(np.unique(y))))
    splits = folds(y, subjects(run.dataset, items), run.repetition)
    for fold, (train, test) in enumerate(splits):
        seed = 100 * run.repetition + fold
        clf = AttentionClusterClassifier(**ATTENDING_TO_ALL, random_state=seed, tol=None)
        clf.set_params(**CANDIDATES[run.candidate])
        # With a cosine decay, a shorter training is not the beginning of a longer one.
        goes_on = clf.learning_rate_schedule == "constant"
        n_epochs = np.diff(EPOCHS, prepend=0) if goes_on else EPOCHS
        clf.set_params(warm_start=goes_on)
        for place, n in enumerate(n_epochs):
            clf.set_params(max_iter=int(n)).fit(X[train], y[train])
            predicted[place, test] = clf.predict_proba(X[test])
    row = {**run._asdict()}
    for n_epochs, own in zip(EPOCHS, predicted, strict=True):
        row[f"accuracy_{n_epochs}"] = percent(np.unique(y)[own.argmax(axis=1)] == y)
        row[f"log_loss_{n_epochs}"] = round(log_loss(y, own), 4)
    return {**row, **environment()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    small = [name for name in SETS if name not in ("flash-mnist", "three sensors")]
    parser.add_argument("--sets", nargs="+", choices=small, default=small)
    names = list(CANDIDATES)
    parser.add_argument("--candidates", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count())
    parser.add_argument("--csv", type=Path, default=CSV, help="results file")
    options = parser.parse_args()
    done = read_rows(options.csv, Run)
    runs = [
        Run(dataset, candidate, repetition)
        for dataset in options.sets
        for candidate in options.candidates
        for repetition in range(options.repetitions)
    ]
    tasks = (delayed(perform)(run, os.getpid()) for run in runs if run not in done)
    for run, row in run_all(tasks, options.csv, options.n_jobs, Run):
        shown = [row[f"accuracy_{n}"] for n in EPOCHS]
        print(f"{run.dataset}, {run.candidate}: {shown} %", flush=True)


if __name__ == "__main__":
    main()
