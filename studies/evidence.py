"""Does the evidence for a class find what the class is about, and does it explain predictions?

    ACLUSTER_DATA=... python studies/evidence.py [maps] [deletion] [--sets colon] [--seeds 0 1]

maps: the area under the ROC curve (AUC) of the evidence of a local feature, and of its mean
    attention weight, against the truth: which patches of the histology images of "colon" contain
    nuclei, and which frames of Flash-MNIST show a digit. It is computed per held-out item and
    class, and averaged.
deletion: the areas under the deletion and insertion curves of held-out items, with the local
    features ranked by evidence, attention, gradient times input, or at random
    (`acluster.inspection.evidence_faithfulness`), on colon, Flash-MNIST and spoken digits.

The sets are those of `rivals.py`. Flash-MNIST is ten labels here, one per digit. Finished runs are
kept in docs/results/evidence_maps.csv and evidence_deletion.csv; docs/about/evidence.rst shows
tables of them.
"""

import argparse
import csv
from pathlib import Path

import flash_mnist_features
import numpy as np
from result_rows import environment, write_rows
from rival_sets import WORK, load
from sklearn.metrics import roc_auc_score

from acluster import AttentionClusterClassifier, AttentionClusterClassifierCV
from acluster.datasets import load_benchmark, make_flash_mnist
from acluster.inspection import evidence_faithfulness

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
MODELS = {
    "default": {},
    "attending to all": {"n_attended": None},
    "average": {"weighting": "average", "n_attended": None},
    "untuned": None,
}
SCORES = ("evidence", "attention", "gradient", "random")
N_DELETED = 500  # held-out items per fold whose curves are computed


def fitted(model, X, y, seed, epochs):
    """Return a classifier that was fitted to the training items."""
    if MODELS[model] is None:
        return AttentionClusterClassifierCV(max_iter=epochs, random_state=seed).fit(X, y)
    options = {} if epochs is None else {"max_iter": epochs}
    return AttentionClusterClassifier(**MODELS[model], **options, random_state=seed).fit(X, y)


def digits_of(classes):
    """Return the digits of every video as an indicator matrix."""
    return (classes[:, None] >> np.arange(10)) & 1


def frame_digits():
    """Return which digit is on each frame of the test videos, drawn anew with their seed."""
    options = argparse.Namespace(
        images=None, videos=20_480, test_videos=10_240, csv=WORK / "evidence.csv"
    )
    part = flash_mnist_features.make_parts(options)["test"]
    return make_flash_mnist(*part[:2], n_videos=part.n_videos, random_state=1).frame_digits


def folds(name, seed):
    """Yield the training and test indices, and how long networks are trained."""
    problem = load(name)
    for train, test in problem.folds(seed):
        yield train, test, problem.max_epochs


def targets_of(name):
    """Return the labels of a data set, with ten labels for Flash-MNIST."""
    y = load(name).y
    return digits_of(y) if name == "flash-mnist" else y


def truth_of(name):
    """Return a function from an item and its true class to the rows that the class is about."""
    if name == "colon":
        data = load_benchmark("colon")
        ends = np.cumsum(data.data.lengths)
        return lambda i, c: data.n_nuclei[ends[i] - data.data.lengths[i] : ends[i]] > 0
    frames = frame_digits()
    first = len(load(name).y) - len(frames)
    return lambda i, c: frames[i - first] == c


def areas(scores, truth, items, classes):
    """Return the AUC of every item and class whose local features are not all alike."""
    found = []
    for own, i in zip(scores, items, strict=True):
        for c in classes(i):
            is_true = truth(i, c)
            if 0 < is_true.sum() < len(is_true):
                found.append(roc_auc_score(is_true, own[:, c if own.shape[1] > 1 else 0]))
    return found


def maps_of(name, model, seed):
    """Return the row of a model: the mean AUC of evidence and attention over all folds."""
    X, y, truth = load(name).X, targets_of(name), truth_of(name)
    evidence, attention, accuracies = [], [], []
    for train, test, epochs in folds(name, seed):
        classifier = fitted(model, X[train], y[train], seed, epochs)
        accuracies.append(classifier.score(X[test], y[test]))
        test = test[:2000]

        def classes(i):
            return np.flatnonzero(y[i]) if name == "flash-mnist" else [1]

        evidence += areas(classifier.local_evidence(X[test]), truth, test, classes)
        if hasattr(classifier, "attention_weights"):
            weights = classifier.attention_weights(X[test])
            mean = [own.mean(axis=1, keepdims=True) for own in weights]
            attention += areas(mean, truth, test, classes)
    return {
        "dataset": name,
        "model": model,
        "seed": seed,
        "n": len(evidence),
        "accuracy": round(100 * float(np.mean(accuracies)), 1),
        "evidence": round(float(np.mean(evidence)), 3),
        "attention": round(float(np.mean(attention)), 3) if attention else "",
    }


def deletion_of(name, model, seed):
    """Return the areas under the curves of all held-out items, by score."""
    X, y = load(name).X, targets_of(name)
    found = {scores: {"deletion": [], "insertion": []} for scores in SCORES}
    for train, test, epochs in folds(name, seed):
        classifier = fitted(model, X[train], y[train], seed, epochs)
        for scores, areas_of in found.items():
            result = evidence_faithfulness(
                classifier, X[test[:N_DELETED]], scores=scores, random_state=seed
            )
            for curve, own in areas_of.items():
                own.append(result[f"{curve}_area"])
    arrays = {
        scores: {k: np.concatenate(own) for k, own in by.items()} for scores, by in found.items()
    }
    rows = []
    for scores, by in arrays.items():
        row = {"dataset": name, "model": model, "seed": seed, "scores": scores}
        row["n"] = len(by["deletion"])
        for curve, own in by.items():
            difference = own - arrays["evidence"][curve]
            error = difference.std(ddof=1) / len(own) ** 0.5
            row[curve] = round(float(own.mean()), 4)
            row[f"{curve} less evidence"] = round(float(difference.mean()), 4)
            row[f"{curve} interval"] = round(1.96 * float(error), 4)
        rows.append(row)
    return rows


def kept(path, key):
    """Return the rows of an earlier call, by the columns of `key`."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {tuple(row[name] for name in key): row for row in csv.DictReader(file)}


def maps_table(rows):
    """Return the rows of the table of AUCs: the mean over the seeds."""
    by_model = {}
    for row in sorted(rows, key=lambda row: row["dataset"]):
        by_model.setdefault((row["dataset"], row["model"]), []).append(row)
    table = []
    for (name, model), runs in by_model.items():
        own = {"data set": name, "classifier": model, "repetitions": len(runs)}
        for column in ("evidence", "attention", "accuracy"):
            values = [float(run[column]) for run in runs if run[column] != ""]
            digits = 1 if column == "accuracy" else 3
            own[column] = f"{np.mean(values):.{digits}f}" if values else ""
        table.append(own)
    return table


def deletion_table(rows):
    """Return the rows of the table of areas, with the intervals of the paired differences."""
    table = []
    for row in rows:
        own = {"data set": row["dataset"], "classifier": row["model"], "scores": row["scores"]}
        for curve in ("deletion", "insertion"):
            own[curve] = f"{float(row[curve]):.3f}"
            difference = float(row[f"{curve} less evidence"])
            interval = f"{difference:+.3f} ± {float(row[f'{curve} interval']):.3f}"
            own[f"{curve}, less evidence"] = "" if row["scores"] == "evidence" else interval
        table.append(own)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["maps", "deletion"])
    parser.add_argument("--sets", nargs="+", default=["colon", "flash-mnist", "spoken digits"])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS][:3])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    runs = [(n, m, s) for n in options.sets for m in options.models for s in options.seeds]
    for part in options.parts:
        path = options.folder / f"evidence_{part}.csv"
        key = ["dataset", "model", "seed", *(["scores"] if part == "deletion" else [])]
        for name, model, seed in runs:
            if part == "maps" and name == "spoken digits":  # nobody has labelled its frames
                continue
            rows = kept(path, key)
            if any(one[:3] == (name, model, str(seed)) for one in rows):
                continue
            run = (name, model, seed)
            new = [maps_of(*run)] if part == "maps" else deletion_of(*run)
            for row in new:
                print(row, flush=True)
                rows[tuple(str(row[one]) for one in key)] = row | environment()
            write_rows(list(rows.values()), path)
        table = {"maps": maps_table, "deletion": deletion_table}[part]
        write_rows(table(kept(path, key).values()), path.with_name(f"{path.stem}_table.csv"))


if __name__ == "__main__":
    main()
