"""Choose the configurations that `AttentionClusterClassifierCV` trains: which go best together?

The candidates are trained in the folds of `portfolio.py`, so that no test item of the first
published fold is used. Then every ensemble of a few candidates is evaluated: each fold is predicted
with the weights that the other folds choose, by the greedy selection of Caruana et al. (2004).

    python studies/portfolio_ensembles.py [--sets colon] [--repetitions 2] [--n-jobs 2]

The out-of-fold predictions are kept in `studies/output/portfolio`, and are not computed again. The
script writes the log-loss and the accuracy of the best ensembles of every size, as a mean over the
data sets, and those of every candidate alone.
"""

import argparse
import os
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from portfolio import CSV, folds, subjects
from result_rows import environment, write_rows
from rival_sets import SETS, load
from rivals import ATTENDING_TO_ALL, CONSTANT, HERE

from acluster import AttentionClusterClassifierCV
from acluster.estimators import _cross_validation
from acluster.estimators._ensemble_selection import SMALLEST_PROBABILITY, weights_of

OUTPUT = HERE / "output" / "portfolio"
N_SHOWN = 5  # ensembles of every size

ALL, HIGHEST = {"n_attended": None}, {"n_attended": 1}
LEARNED, UNSHIFTED = {"hidden_features": 64, "max_iter": 30}, {"shifting": False}
DECAY, PYRAMID = {"weight_decay": 1e-3}, {"pyramid_levels": 3}
CANDIDATES = {
    "default": {},
    "all": ALL,
    "highest": HIGHEST,
    "decay": DECAY,
    "all, decay": ALL | DECAY,
    "highest, decay": HIGHEST | DECAY,
    "learned": LEARNED,
    "all, learned": ALL | LEARNED,
    "all, no shifting": ALL | UNSHIFTED,
    "learned, no shifting": LEARNED | UNSHIFTED,
    "all, learned, no shifting": ALL | LEARNED | UNSHIFTED,
    "pyramid": PYRAMID,
    "all, pyramid": ALL | PYRAMID,
    "all, constant": ATTENDING_TO_ALL,
    "highest, constant": HIGHEST | CONSTANT,
    "decay, constant": DECAY | CONSTANT,
    "all, no shifting, constant": ATTENDING_TO_ALL | UNSHIFTED,
}


def small_sets():
    """Return the names of the data sets that are used."""
    left_out = ("flash-mnist", "three sensors", "skeleton", "depth", "spoken digits")
    return [name for name in SETS if name not in left_out]


def predict(dataset, repetition):
    """Keep the out-of-fold probabilities of every candidate, the labels and the folds."""
    path = OUTPUT / f"{dataset} {repetition}.npz"
    if path.exists():
        return
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    problem = load(dataset)
    items, _ = problem.folds(0)[0]
    X, y = problem.X[items], problem.y[items]
    splits = list(folds(y, subjects(dataset, items), repetition))
    _cross_validation.PORTFOLIO = tuple(CANDIDATES.values())
    clf = AttentionClusterClassifierCV(cv=splits, random_state=repetition).fit(X, y)
    predicted = np.empty((len(CANDIDATES), len(y), len(clf.classes_)))
    fold_of = np.empty(len(y), int)
    for fold, (_, test) in enumerate(splits):
        fold_of[test] = fold
        for own, fitted in zip(predicted, clf.estimators_, strict=True):
            own[test] = fitted[fold].predict_proba(X[test])
    number = np.searchsorted(clf.classes_, y)
    np.savez(path, candidates=[*CANDIDATES], predicted=predicted, y=number, fold=fold_of)
    print(f"{dataset}, repetition {repetition}: {clf.oof_score_:.3f}", flush=True)


def evaluate(kept, names):
    """Return log-loss and accuracy in % of an ensemble on the items of a file."""
    chosen = [[*kept["candidates"]].index(name) for name in names]
    predicted, y, fold_of = kept["predicted"][chosen], kept["y"], kept["fold"]
    of_truth = predicted[:, np.arange(len(y)), y]
    mean = np.empty(predicted.shape[1:])
    for fold in np.unique(fold_of):
        others = fold_of != fold
        weights = weights_of(of_truth[:, others], np.ones(others.sum()))
        mean[fold_of == fold] = np.tensordot(weights, predicted[:, fold_of == fold], axes=1)
    losses = -np.log(np.maximum(mean[np.arange(len(y)), y], SMALLEST_PROBABILITY))
    return losses.mean(), 100 * (mean.argmax(axis=1) == y).mean()


def over_sets(files, names):
    """Return a row: the means over the data sets, each the mean over its repetitions."""
    by_set = [np.mean([evaluate(one, names) for one in own], axis=0) for own in files.values()]
    log_loss, accuracy = np.mean(by_set, axis=0)
    return {
        "configurations": " + ".join(names),
        "log_loss": round(log_loss, 4),
        "accuracy": round(accuracy, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=small_sets(), default=small_sets())
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--largest", type=int, default=5, help="number of configurations")
    parser.add_argument("--n-jobs", type=int, default=os.cpu_count())
    parser.add_argument("--csv", type=Path, default=CSV.with_name("portfolio_ensembles.csv"))
    options = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    repetitions = range(options.repetitions)
    wanted = [(name, repetition) for name in options.sets for repetition in repetitions]
    parallel = Parallel(options.n_jobs)
    parallel(delayed(predict)(*one) for one in wanted)
    files = {name: [] for name in options.sets}
    for name, repetition in wanted:
        with np.load(OUTPUT / f"{name} {repetition}.npz") as file:
            files[name].append(dict(file))
    rows = [over_sets(files, [name]) for name in CANDIDATES]
    pool = [name for name in CANDIDATES if not name.endswith("constant")]
    for size in range(2, options.largest + 1):
        found = parallel(delayed(over_sets)(files, own) for own in combinations(pool, size))
        rows += sorted(found, key=lambda row: row["log_loss"])[:N_SHOWN]
    write_rows([row | environment() for row in rows], options.csv)
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
