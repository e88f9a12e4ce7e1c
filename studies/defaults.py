"""Choose the defaults of the attention cluster by cross-validation on the training parts.

A candidate is an optimizer with its learning rate, then its batch size if it is not 128, then one
more hyperparameter if it differs from the default. Candidates are compared inside the training
parts of the data sets of `rival_sets.py`, by five stratified folds repeated twice, and on UTD-MHAD
by leaving out pairs of training subjects. No test item is used. This excludes musk1, elephant and
birds, where every item is a test item of some fold. Bags of MNIST training images replace them,
after Ilse et al. (2018): which bags contain a nine?

    python studies/defaults.py [--sets "spoken digits"] [--candidates "adam 0.003"] [--n-jobs 2]

Finished runs are rows of the CSV file and are not repeated. The script prints the accuracy in
percent by data set, and the mean rank of every candidate.
"""

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rivals
import torch
from joblib import delayed
from result_rows import environment, percent, read_rows, run_all, stop_if_orphaned
from rival_sets import actions, load
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import LeavePGroupsOut, RepeatedStratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acluster import MultimodalFeatureSets
from acluster.preprocessing import LocalFeatureTransformer

CSV = Path(__file__).resolve().parent.parent / "docs" / "results" / "defaults.csv"
SENSORS = ("skeleton", "inertial", "depth", "three sensors")
SETS = ["bags of digits", "japanese vowels", *SENSORS, "spoken digits", "flash-mnist"]

COSINE = {"learning_rate_schedule": "cosine", "max_iter": 60}
CANDIDATES = {
    "rmsprop 0.001": {"optimizer": "rmsprop", "learning_rate": 0.001, "batch_size": 128},
    "adam 0.001": {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 128},
    "adam 0.003": {"optimizer": "adam", "learning_rate": 0.003, "batch_size": 128},
    "adam 0.01": {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 128},
    "adam 0.001, 32": {"optimizer": "adam", "learning_rate": 0.001, "batch_size": 32},
    "adam 0.003, 32": {"optimizer": "adam", "learning_rate": 0.003, "batch_size": 32},
    "adam 0.01, 32": {"optimizer": "adam", "learning_rate": 0.01, "batch_size": 32},
}
CANDIDATES |= {
    f"{name}, no shifting": {**CANDIDATES[name], "shifting": False}
    for name in ("adam 0.001, 32", "adam 0.003", "adam 0.003, 32", "adam 0.01")
}
CANDIDATES |= {
    f"adam 0.01, 32, {name}": {**CANDIDATES["adam 0.01, 32"], **change}
    for name, change in {
        "dropout 0.2": {"dropout": 0.2},
        "dropout 0.8": {"dropout": 0.8},
        "60 epochs": {"max_iter": 60},
        "AdamW, decay 0.1": {"optimizer": "adamw", "weight_decay": 0.1},
        "N = 8": {"cluster_size": 8},
        "N = 128": {"cluster_size": 128},
        "fc2": {"weighting": "fc2"},
        "5 highest": {"n_attended": 5},
        "cosine": COSINE,
        "5 highest, cosine": {"n_attended": 5, **COSINE},
        "8 local features": {"n_local_features": 8},
        "24 local features": {"n_local_features": 24},
    }.items()
}


class Run(NamedTuple):
    """A candidate on one split of the training part of a data set."""

    dataset: str
    candidate: str
    split: int


class Study(NamedTuple):
    """Candidates (from name to parameters), a function that makes them, and the results file."""

    candidates: dict
    make: Callable  # called with is_multimodal, seed, **parameters
    csv: Path


def attending_to_all(is_multimodal, seed, **parameters):
    """Return a candidate: what it does not set was the default until November 2026."""
    parameters = {**rivals.ATTENDING_TO_ALL, **parameters}
    return rivals.attention_cluster(is_multimodal, seed, **parameters)


DEFAULTS = Study(CANDIDATES, attending_to_all, CSV)


def splits(dataset):
    """Return the (fit, held-out) indices of the splits of a training part."""
    problem = load(dataset)
    y, train = problem.y, problem.folds(0)[0][0]
    if dataset in SENSORS:
        groups = actions().group[train]
        found = LeavePGroupsOut(2).split(train, groups=groups)
    else:
        cv = RepeatedStratifiedKFold(n_splits=5, n_repeats=2, random_state=0)
        found = cv.split(train, y[train])
    return [(train[fit], train[held]) for fit, held in found]


def perform(run, study, parent):
    """Train and score the candidate of a run, and return its row."""
    stop_if_orphaned(parent)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    problem = load(run.dataset)
    X, y = problem.X, problem.y
    fit, held = splits(run.dataset)[run.split]
    parameters = study.candidates[run.candidate]
    limit = {"max_iter": problem.max_epochs} if problem.max_epochs else {}
    is_multimodal = isinstance(X, MultimodalFeatureSets)
    classifier = study.make(is_multimodal, run.split, **{**parameters, **limit})
    model = make_pipeline(LocalFeatureTransformer(StandardScaler()), classifier)
    started = time.process_time()
    model.fit(X[fit], y[fit])
    return {
        **run._asdict(),
        "accuracy": percent(model.predict(X[held]) == y[held]),
        "seconds": round(time.process_time() - started, 2),
        "epochs": classifier.n_iter_,
        "parameters": json.dumps(parameters),
        **environment(),
    }


def read_study(study, path):
    """Return the rows of the present candidates; ignore rows of earlier parameters."""
    rows = read_rows(path, Run)
    parameters = {name: json.dumps(own) for name, own in study.candidates.items()}
    return {
        run: row for run, row in rows.items() if row["parameters"] == parameters.get(run.candidate)
    }


def ranked(rows, names):
    """Return a header, then one line per candidate: mean rank, mean accuracy, accuracy by set.

    Rank and mean use the data sets on which all candidates ran. The accuracy on a data set uses the
    splits that all of its candidates have in common.
    """
    candidates = [name for name in names if any(run.candidate == name for run in rows)]
    sets = [name for name in SETS if any(run.dataset == name for run in rows)]
    table = np.array([[mean(rows, one, name) for one in sets] for name in candidates])
    table = table.reshape(len(candidates), len(sets))
    complete = table[:, ~np.isnan(table).any(axis=0)]
    header = ["candidate", f"rank of {complete.shape[1]}", "mean", *sets]
    if not complete.size:
        return [header]
    ranks = rankdata(-complete, axis=0).mean(axis=1)
    lines = sorted(zip(ranks, candidates, complete.mean(axis=1), table.tolist(), strict=True))
    shown = [
        [name, *("" if np.isnan(x) else f"{x:.1f}" for x in (rank, middle, *by_set))]
        for rank, name, middle, by_set in lines
    ]
    return [header, *shown]


def mean(rows, dataset, candidate):
    """Return the mean accuracy over the splits that all candidates on this data set share."""
    by_candidate = {}
    for run, row in rows.items():
        if run.dataset == dataset:
            by_candidate.setdefault(run.candidate, {})[run.split] = float(row["accuracy"])
    common = set.intersection(*map(set, by_candidate.values()))
    found = by_candidate.get(candidate, {})
    return np.mean([found[split] for split in common]) if found and common else np.nan


def main(study, description, arguments=None):
    """Run a study from the command line."""
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    names = list(study.candidates)
    parser.add_argument("--candidates", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--splits", type=int, help="run only the first splits of each data set")
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count())
    parser.add_argument("--csv", type=Path, default=study.csv, help="results file")
    options = parser.parse_args(arguments)
    done = read_study(study, options.csv)
    runs = [
        Run(dataset, candidate, split)
        for dataset in options.sets
        for split in range(len(splits(dataset)))[: options.splits]
        for candidate in options.candidates
    ]
    tasks = (delayed(perform)(run, study, os.getpid()) for run in runs if run not in done)
    for run, row in run_all(tasks, options.csv, options.n_jobs, Run):
        print(f"{run.dataset}, {run.candidate}, {run.split}: {row['accuracy']} %", flush=True)
    for name, *figures in ranked(read_study(study, options.csv), study.candidates):
        print(f"{name:34}" + "".join(f"{figure[:10]:>12}" for figure in figures))


if __name__ == "__main__":
    main(DEFAULTS, __doc__)
