"""Measure accuracy on musk1, elephant and Japanese vowels with tuned hyperparameters.

The hyperparameters of every model are chosen by cross-validation inside its training fold. The
baseline is a support vector machine on pooled features (mean, standard deviation, minimum and
maximum over each set), tuned in the same way.

    python studies/real_sets.py [musk1 elephant japanese_vowels] [--folds N] [--csv FILE]

Finished folds are rows of the CSV file and are not repeated. The data are read from
``$ACLUSTER_DATA``.
"""

import argparse
import csv
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from acluster import AttentionClusterClassifier
from acluster.datasets import load_benchmark
from acluster.preprocessing import LocalFeatureTransformer

CSV = Path(__file__).parent.parent / "docs" / "results" / "real_sets.csv"
COLUMNS = ["dataset", "method", "repetition", "fold", "seed", "accuracy", "seconds", "chosen"]


def scaled():
    """Return a scaler of local features."""
    return LocalFeatureTransformer(StandardScaler())


def kernel_features(gamma):
    """Return a map of local features to 100 Nyström components of an RBF kernel."""
    steps = [
        StandardScaler(),
        Nystroem(gamma=gamma, n_components=100, random_state=0),
        StandardScaler(),
    ]
    return LocalFeatureTransformer(make_pipeline(*steps))


def full_batch_classifier(seed):
    """Return a classifier for the small multiple-instance sets: one batch per epoch."""
    return AttentionClusterClassifier(
        cluster_size=16,
        optimizer="adam",
        learning_rate=0.01,
        learning_rate_schedule="constant",
        n_attended=None,
        batch_size=1000,
        max_iter=40,
        tol=None,
        standardize=False,
        random_state=seed,
    )


def elephant_model(n_features, seed):
    """Return a pipeline, its parameter grid, and the number of inner folds."""
    grid = {"classify__cluster_size": [16, 64], "classify__max_iter": [20, 30]}
    return Pipeline([("features", scaled()), ("classify", full_batch_classifier(seed))]), grid, 3


def musk_model(n_features, seed):
    """Return a pipeline, its parameter grid, and the number of inner folds."""
    grid = {
        "features": [scaled(), kernel_features(1 / n_features), kernel_features(3 / n_features)],
        "classify__shifting": [True, False],
    }
    return Pipeline([("features", scaled()), ("classify", full_batch_classifier(seed))]), grid, 3


def vowels_model(n_features, seed):
    """Return a pipeline, its parameter grid, and the number of inner folds."""
    classifier = AttentionClusterClassifier(
        cluster_size=128,
        optimizer="adam",
        batch_size=32,
        learning_rate_schedule="constant",
        n_attended=None,
        max_iter=200,
        tol=None,
        standardize=False,
        random_state=seed,
    )
    grid = {"classify__learning_rate": [0.003, 0.01], "classify__n_local_features": [None, 10]}
    return Pipeline([("features", scaled()), ("classify", classifier)]), grid, 5


def pooled(X):
    """Return mean, standard deviation, minimum and maximum over each set, concatenated."""
    return np.stack([np.concatenate([x.mean(0), x.std(0), x.min(0), x.max(0)]) for x in X])


def pooled_svm(n_features, seed):
    """Return the baseline, its parameter grid, and the number of inner folds."""
    model = make_pipeline(FunctionTransformer(pooled), StandardScaler(), SVC())
    return model, {"svc__C": [1, 10, 100], "svc__gamma": ["scale", 0.1 / n_features]}, 5


METHODS = {
    ("musk1", "attention cluster"): musk_model,
    ("musk1", "pooled SVM"): pooled_svm,
    ("elephant", "attention cluster"): elephant_model,
    ("elephant", "pooled SVM"): pooled_svm,
    ("japanese_vowels", "attention cluster"): vowels_model,
    ("japanese_vowels", "pooled SVM"): pooled_svm,
}


def splits(data):
    """Yield (repetition, fold, seeds, train, test) of the published folds or split.

    A published split is run with five seeds.
    """
    if "folds" in data:
        for repetition, folds in enumerate(data.folds):
            for fold, (train, test) in enumerate(folds):
                yield repetition, fold, [repetition], train, test
    else:
        yield 0, 0, range(5), data.train_indices, data.test_indices


def run(dataset, method, data, repetition, fold, seeds, train, test):
    """Return one row per seed; the hyperparameters are chosen with the first seed."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    model, grid, n_inner = METHODS[dataset, method](data.data.n_features, seeds[0])
    inner = StratifiedKFold(n_inner, shuffle=True, random_state=0)
    search = GridSearchCV(model, grid, cv=inner, refit=False, error_score="raise")
    search.fit(data.data[train], data.target[train])
    chosen = "; ".join(f"{k}={describe(v)}" for k, v in sorted(search.best_params_.items()))
    rows = []
    for seed in seeds:
        started = time.perf_counter()
        model, _, _ = METHODS[dataset, method](data.data.n_features, seed)
        model.set_params(**search.best_params_).fit(data.data[train], data.target[train])
        accuracy = model.score(data.data[test], data.target[test])
        seconds = round(time.perf_counter() - started, 1)
        rows.append([dataset, method, repetition, fold, seed, accuracy, seconds, chosen])
    return rows


def describe(value):
    """Return a chosen hyperparameter as it appears in the CSV file."""
    if isinstance(value, LocalFeatureTransformer):
        steps = getattr(value.transformer, "steps", None)
        return f"kernel, gamma {steps[1][1].gamma:.4f}" if steps else "scaled"
    return value


def finished_folds(path):
    """Return the (dataset, method, repetition, fold) of the rows in the CSV file."""
    if not path.exists():
        return set()
    with path.open() as file:
        return {tuple(row[column] for column in COLUMNS[:4]) for row in csv.DictReader(file)}


def summarize(path):
    """Print the mean accuracy of every method, with its standard error."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for dataset, method in sorted({(row["dataset"], row["method"]) for row in rows}):
        percent = [
            100 * float(row["accuracy"])
            for row in rows
            if (row["dataset"], row["method"]) == (dataset, method)
        ]
        error = np.std(percent, ddof=1) / len(percent) ** 0.5 if len(percent) > 1 else 0
        mean = np.mean(percent)
        print(f"{dataset:16} {method:18} {mean:5.1f} ± {error:.1f} ({len(percent)} runs)")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    names = sorted({dataset for dataset, _ in METHODS})
    parser.add_argument("datasets", nargs="*", default=names, help=f"some of {', '.join(names)}")
    parser.add_argument("--folds", type=int, help="run only the first folds of each data set")
    parser.add_argument("--csv", type=Path, default=CSV, help="results file")
    parser.add_argument("--n-jobs", type=int, default=2)
    options = parser.parse_args(arguments)
    finished, tasks = finished_folds(options.csv), []
    for dataset, method in METHODS:
        if dataset in options.datasets:
            data = load_benchmark(dataset)
            for repetition, fold, seeds, train, test in list(splits(data))[: options.folds]:
                key = (dataset, method, str(repetition), str(fold))
                if key not in finished:
                    tasks.append((dataset, method, data, repetition, fold, seeds, train, test))
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    is_new = not options.csv.exists()
    with options.csv.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(COLUMNS)
        parallel = Parallel(options.n_jobs, return_as="generator_unordered")
        for number, rows in enumerate(parallel(delayed(run)(*task) for task in tasks), 1):
            writer.writerows(rows)
            file.flush()
            shown = ", ".join(f"{100 * row[5]:.1f} %" for row in rows)
            print(f"{number}/{len(tasks)}: {rows[0][0]}, {rows[0][1]}: {shown}", flush=True)
    summarize(options.csv)


if __name__ == "__main__":
    main()
