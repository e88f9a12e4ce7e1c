"""Measure accuracy on the actions of UTD-MHAD, with every sensor alone and with all together.

The features come from `examples/utd_mhad_features.py`. They and the hyperparameters were chosen
with `--cv`, on the training subjects only.

    python studies/utd_mhad.py --cv N [--seeds N]                 # leave N training subjects out
    python studies/utd_mhad.py --study [--seeds N] [--csv FILE]   # every figure of the results page

Finished runs of `--study` are rows of the CSV file and are not repeated.
"""

import argparse
import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, LeavePGroupsOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from acluster import FeatureSetsWriter, MultimodalAttentionClusterClassifier, open_feature_sets
from acluster.datasets import load_utd_mhad
from acluster.preprocessing import LocalFeatureTransformer

ROOT = Path(__file__).resolve().parent.parent
# The extractors belong to an example, whose folder is not on the path of a study.
sys.path.append(str(ROOT / "examples"))
from utd_mhad_features import FEATURES, HIP, cell_means, change  # noqa: E402


def plain_skeleton(rows):
    """Return joints relative to the first frame's hip, their change over 2 frames, and time."""
    joints = (rows.reshape(-1, 20, 3) - rows.reshape(-1, 20, 3)[0, HIP]).reshape(-1, 60)
    return with_time(np.concatenate([joints, change(joints, 1)], axis=1))


def plain_inertial(rows):
    """Return the six axes of every sample, and time."""
    return with_time(rows)


def plain_depth(rows):
    """Return mean depths of 4 x 4 pixels, their change over 2 frames, and time."""
    frames = cell_means(rows.reshape(-1, 60, 80).astype(np.float32))
    return with_time(np.concatenate([frames, change(frames, 1)], axis=1))


def with_time(rows):
    """Append the relative time, from 0 to 1."""
    return np.column_stack([rows, np.linspace(0, 1, len(rows))])


PLAIN_FEATURES = {"skeleton": plain_skeleton, "inertial": plain_inertial, "depth": plain_depth}
TRANSFORMERS = {
    "skeleton": make_pipeline(PCA(60, random_state=0), StandardScaler()),
    "inertial": StandardScaler(),
    "depth": make_pipeline(PCA(32, random_state=0), StandardScaler()),
}
PARAMETERS = {
    "cluster_size": 32,
    "n_attended": None,
    "n_local_features": 24,
    "dropout": 0.8,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "learning_rate_schedule": "constant",
    "batch_size": 32,
    "max_iter": 60,
    "tol": None,
    "standardize": False,
}
CHOICES = [["skeleton"], ["inertial"], ["depth"], ["skeleton", "inertial"], list(FEATURES)]
# Cluster sizes of skeleton, inertial and depth, after Table 3 of the paper.
SIZES = [(n, n, n) for n in (1, 4, 16, 32, 64, 128)] + [(32, 16, 16), (64, 32, 32)]
STORE = ROOT / "studies" / "output" / "actions.zarr"
CSV = ROOT / "docs" / "results" / "utd_mhad.csv"


def extracted_clips(features):
    """Yield the local features of every clip of UTD-MHAD, its action and its subject."""
    actions = load_utd_mhad()
    for clip, action, subject in zip(actions.data, actions.target, actions.subject, strict=True):
        yield {name: features[name](rows) for name, rows in clip.items()}, action, subject


def local_features(store, features=FEATURES):
    """Return the local features of all clips, written to a new store."""
    shutil.rmtree(store, ignore_errors=True)
    with FeatureSetsWriter(store) as writer:
        for clip, action, subject in extracted_clips(features):
            writer.append(clip, label=action, group=subject)
    return open_feature_sets(store)


def model(modalities, seed, **parameters):
    """Return a pipeline of standardization and an attention cluster per modality."""
    return make_pipeline(
        LocalFeatureTransformer({modality: TRANSFORMERS[modality] for modality in modalities}),
        MultimodalAttentionClusterClassifier(**{**PARAMETERS, **parameters}, random_state=seed),
    )


def cross_validate(X, n_left_out, n_seeds):
    """Return the accuracy in percent on every choice of `n_left_out` subjects."""
    percent, y = [], X.label
    for fit, held in LeavePGroupsOut(n_left_out).split(y, groups=X.group):
        models = [model(X.names, seed).fit(X[fit], y[fit]) for seed in range(n_seeds)]
        percent.append(100 * np.mean([fitted.score(X[held], y[held]) for fitted in models]))
    return percent


def without(X, modality, share, seed):
    """Return the clips, with one modality missing from a share of them."""
    lost = np.random.default_rng(seed).permutation(len(X)) < share * len(X)
    sets = [None if is_lost else x for x, is_lost in zip(X[modality], lost, strict=True)]
    return {**{name: X[name] for name in X.names}, modality: sets}


def pooled(X):
    """Return mean, standard deviation, minimum and maximum over the sets of all modalities."""
    statistics = (np.mean, np.std, np.min, np.max)
    return np.stack(
        [np.concatenate([f(x, axis=0) for x in clip.values() for f in statistics]) for clip in X]
    )


def pooled_svm(train):
    """Fit a support vector machine on pooled features; C is chosen by leaving one subject out."""
    svm = make_pipeline(FunctionTransformer(pooled), StandardScaler(), SVC())
    search = GridSearchCV(svm, {"svc__C": [1, 10, 100]}, cv=LeaveOneGroupOut())
    return search.fit(train, train.label, groups=train.group)


def study(X, plain, is_train, n_seeds):
    """Yield the key (experiment, setting, seed) of every row, and a function that computes it."""
    train, test = X[is_train], X[~is_train]

    def score(fitted, X=test):
        return 100 * fitted.score(X, test.label)

    for features, sets in (("", X), ("plain features, ", plain)):
        for names in CHOICES:
            parts = sets[names][is_train], sets[names][~is_train]
            yield (
                (f"{features}pooled SVM", " + ".join(names), 0),
                lambda p=parts: [score(pooled_svm(p[0]), p[1])],
            )
            for seed in range(n_seeds):
                yield (
                    (f"{features}modalities", " + ".join(names), seed),
                    lambda p=parts, s=seed: [
                        score(model(p[0].names, s).fit(p[0], p[0].label), p[1])
                    ],
                )
    for sizes in SIZES:
        for seed in range(n_seeds):
            by_modality = dict(zip(FEATURES, sizes, strict=True))
            yield (
                ("cluster sizes", " ".join(map(str, sizes)), seed),
                lambda s=seed, n=by_modality: [
                    score(model(FEATURES, s, cluster_size=n).fit(train, train.label))
                ],
            )
    for rule in ("mean", "mask"):
        for dropout in (0.0, 0.3):
            for seed in range(n_seeds):
                rules = {"missing_modality": rule, "modality_dropout": dropout}
                yield (
                    ("missing", f"{rule}, modality dropout {dropout}", seed),
                    lambda s=seed, r=rules: missing_scores(
                        model(FEATURES, s, **r).fit(train, train.label), test, s
                    ),
                )


MISSING_COLUMNS = [(modality, share) for modality in FEATURES for share in (0, 0.1, 0.3, 0.5)]


def missing_scores(fitted, test, seed):
    """Return the accuracy in percent with missing modalities, for each of `MISSING_COLUMNS`."""
    return [
        100 * fitted.score(without(test, modality, share, seed), test.label)
        for modality, share in MISSING_COLUMNS
    ]


def run_study(X, plain, is_train, n_seeds, path):
    """Compute the rows that the CSV file lacks, and print a summary."""
    done = set()
    if path.exists():
        with path.open() as file:
            done = {tuple(row[:3]) for row in csv.reader(file)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for key, percents in study(X, plain, is_train, n_seeds):
            if tuple(map(str, key)) not in done:
                writer.writerow([*key, *(round(p, 2) for p in percents())])
                file.flush()
    summarize(path)


def summarize(path):
    """Print the mean ± standard error over seeds."""
    rows = {}
    with path.open() as file:
        for experiment, setting, _, *percents in csv.reader(file):
            rows.setdefault((experiment, setting), []).append([float(p) for p in percents])
    for (experiment, setting), percents in rows.items():
        mean = np.mean(percents, axis=0)
        error = np.std(percents, axis=0, ddof=min(1, len(percents) - 1)) / len(percents) ** 0.5
        shown = "  ".join(f"{m:.1f} ± {e:.1f}" for m, e in zip(mean, error, strict=True))
        print(f"{experiment:26} {setting:30} {shown}")
    print("missing: " + ", ".join(f"{name} {share:.0%}" for name, share in MISSING_COLUMNS))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--cv", type=int, metavar="N", help="leave N training subjects out")
    task.add_argument("--study", action="store_true", help="compute every figure of the results")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--csv", type=Path, default=CSV, help="results file of the study")
    parser.add_argument("--store", type=Path, default=STORE, help="folder for the features")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    X = local_features(options.store)
    is_train = X.group % 2 == 1  # the official split: subjects 1, 3, 5 and 7
    if options.study:
        plain = local_features(options.store.with_suffix(".plain.zarr"), PLAIN_FEATURES)
        run_study(X, plain, is_train, options.seeds, options.csv)
        return
    for names in CHOICES:
        percent = cross_validate(X[names][is_train], options.cv, options.seeds)
        by_split = ", ".join(f"{p:.1f}" for p in percent)
        print(f"{' + '.join(names):30} {np.mean(percent):.1f} % ({by_split})", flush=True)


if __name__ == "__main__":
    main()
