"""
Actions from three sensors: skeleton, inertial sensor and depth video
=====================================================================

Clips of UTD-MHAD go through simple extractors into a store, clip by clip, and one attention
cluster per sensor learns the action from it. Local features are in no order: a frame of the
skeleton with its velocities, a second of the inertial sensor, a frame of the depth video
with its change. Without UTD-MHAD in ``$ACLUSTER_DATA``, the sensors are made up.

    python examples/utd_mhad.py                     # each sensor alone, and together; one seed
    python examples/utd_mhad.py --cv N [--seeds N]  # leaving out N training subjects at a time
    python examples/utd_mhad.py --study [--seeds N] [--csv FILE]    # all figures of the results

Features and hyper-parameters were chosen by ``--cv``, on the training subjects. Rows of
``--study`` go to the CSV file as soon as they are done; those already there are not run again.
"""

import argparse
import csv
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import gaussian_filter1d
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut, LeavePGroupsOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from acluster import (
    FeatureSetsWriter,
    MultimodalAttentionClusterClassifier,
    open_feature_sets,
)
from acluster.datasets import get_data_home, load_utd_mhad
from acluster.preprocessing import LocalFeatureTransformer

HIP, NECK = 3, 1  # joints of the skeleton


def skeleton_features(rows):
    """Per frame: the joints, seen from the first frame's hip, in units of the torso's length.

    Beside them how far each moves in 4, in 12 and in 24 frames.
    """
    joints = gaussian_filter1d(rows.reshape(-1, 20, 3), 1, axis=0, mode="nearest")
    torso = np.median(np.linalg.norm(joints[:, NECK] - joints[:, HIP], axis=1))
    joints = ((joints - joints[0, HIP]) / torso).reshape(-1, 60)
    return np.concatenate([joints, *(change(joints, n) for n in (2, 6, 12))], axis=1)


def inertial_features(rows):
    """Per window of 60 samples (1.2 s), every 5 samples: every fourth of the smoothed samples.

    Beside them the mean, the standard deviation, the minimum and the maximum of each axis.
    """
    smooth = gaussian_filter1d(rows, 1.5, axis=0, mode="nearest")
    windows = sliding_window_view(smooth, 60, axis=0)[::5]  # (windows, axes, samples)
    statistics = [windows.mean(2), windows.std(2), windows.min(2), windows.max(2)]
    return np.concatenate([windows[:, :, ::4].reshape(len(windows), -1), *statistics], axis=1)


def depth_features(rows):
    """Per frame: silhouette and relief of the body, less those of the clip's median frame.

    Beside them their change over 2 and over 8 frames; all averaged over cells of 4 x 4 pixels.
    """
    frames = rows.reshape(-1, 60, 80).astype(np.float32)
    body = frames > 0
    middle = np.average(np.arange(80), weights=body.sum((0, 1)))
    relief = np.where(body, np.clip((np.median(frames[body]) - frames) / 20, -1, 1.5), 0)
    parts = []
    for image in (body.astype(np.float32), relief):
        centred = np.roll(image, 40 - round(middle), axis=2)[:, :, 12:68]
        parts.append(cells(centred - np.median(centred, axis=0)))
        parts += [cells(np.clip(change(centred, n), -1, 1)) for n in (1, 4)]
    return np.concatenate(parts, axis=1)


def change(frames, n):
    """From n frames before to n after, or from the first, or to the last."""
    t = np.arange(len(frames))
    return frames[np.minimum(t + n, len(frames) - 1)] - frames[np.maximum(t - n, 0)]


def cells(images):
    """Means over cells of 4 x 4 pixels, a row per image."""
    n, height, width = images.shape
    means = images.reshape(n, height // 4, 4, width // 4, 4).mean((2, 4))
    return means.reshape(n, -1)


def plain_skeleton(rows):
    """Per frame: the joints, seen from the first frame's hip, their change over 2 frames, time."""
    joints = (rows.reshape(-1, 20, 3) - rows.reshape(-1, 20, 3)[0, HIP]).reshape(-1, 60)
    return with_time(np.concatenate([joints, change(joints, 1)], axis=1))


def plain_inertial(rows):
    """Per sample: the six axes and time."""
    return with_time(rows)


def plain_depth(rows):
    """Per frame: the mean depth of cells of 4 x 4 pixels, its change over 2 frames, and time."""
    frames = cells(rows.reshape(-1, 60, 80).astype(np.float32))
    return with_time(np.concatenate([frames, change(frames, 1)], axis=1))


def with_time(rows):
    return np.column_stack([rows, np.linspace(0, 1, len(rows))])


FEATURES = {
    "skeleton": skeleton_features,
    "inertial": inertial_features,
    "depth": depth_features,
}
PLAIN_FEATURES = {"skeleton": plain_skeleton, "inertial": plain_inertial, "depth": plain_depth}
TRANSFORMERS = {
    "skeleton": make_pipeline(PCA(60, random_state=0), StandardScaler()),
    "inertial": StandardScaler(),
    "depth": make_pipeline(PCA(32, random_state=0), StandardScaler()),
}
PARAMETERS = {
    "cluster_size": 32,
    "n_local_features": 24,
    "dropout": 0.8,
    "optimizer": "adam",
    "learning_rate": 0.01,
    "batch_size": 32,
    "max_iter": 60,
    "tol": None,
}
CHOICES = [["skeleton"], ["inertial"], ["depth"], ["skeleton", "inertial"], list(FEATURES)]
# As the paper's table 3: skeleton, inertial, depth.
SIZES = [(n, n, n) for n in (1, 4, 16, 32, 64, 128)] + [(32, 16, 16), (64, 32, 32)]
STORE = Path(__file__).parent / "output" / "actions.zarr"
CSV = Path(__file__).parent.parent / "docs" / "results" / "utd_mhad.csv"


def make_up_clips(n_clips=432, seed=0):
    """Clips of 27 actions: each sensor shows one digit of the action's number to the base 3."""
    rng = np.random.default_rng(seed)
    shapes = {"skeleton": (20, 240), "inertial": (40, 114), "depth": (10, 1260)}
    meanings = {modality: rng.normal(size=(3, width)) for modality, (_, width) in shapes.items()}
    for number in range(n_clips):
        action = number % 27
        clip = {}
        for digit, (modality, (length, width)) in enumerate(shapes.items()):
            rows = rng.normal(size=(rng.integers(length // 2, length), width))
            rows[rng.integers(len(rows))] += meanings[modality][action // 3**digit % 3]
            clip[modality] = rows.astype(np.float32)
        yield clip, action, 1 + number // 27 % 8  # subjects 1 to 8


def extracted_clips(features):
    """The features of every clip of UTD-MHAD in every modality, its action and its subject."""
    actions = load_utd_mhad()
    for clip, action, subject in zip(actions.data, actions.target, actions.subject, strict=True):
        yield {name: features[name](rows) for name, rows in clip.items()}, action, subject


def local_features(store, features=FEATURES):
    """All clips, by way of a store."""
    has_data = (get_data_home() / "utd_mhad").is_dir()
    if not has_data:
        print("UTD-MHAD is not in $ACLUSTER_DATA: these are made-up sensors.")
    shutil.rmtree(store, ignore_errors=True)
    with FeatureSetsWriter(store) as writer:
        for clip, action, subject in extracted_clips(features) if has_data else make_up_clips():
            writer.append(clip, label=action, group=subject)
    return open_feature_sets(store)


def model(modalities, seed, **parameters):
    return make_pipeline(
        LocalFeatureTransformer({modality: TRANSFORMERS[modality] for modality in modalities}),
        MultimodalAttentionClusterClassifier(**{**PARAMETERS, **parameters}, random_state=seed),
    )


def cross_validate(X, n_left_out, n_seeds):
    """Accuracy in percent on all choices of so many subjects, by models of the others."""
    percent, y = [], X.label
    for fit, held in LeavePGroupsOut(n_left_out).split(y, groups=X.group):
        models = [model(X.names, seed).fit(X[fit], y[fit]) for seed in range(n_seeds)]
        percent.append(100 * np.mean([fitted.score(X[held], y[held]) for fitted in models]))
    return percent


def without(X, modality, share, seed):
    """The clips, a share of them without one modality."""
    gone = np.random.default_rng(seed).permutation(len(X)) < share * len(X)
    sets = [None if missing else x for x, missing in zip(X[modality], gone, strict=True)]
    return {**{name: X[name] for name in X.names}, modality: sets}


def pooled(X):
    """Mean, standard deviation, minimum and maximum over each set, all modalities side by side."""
    statistics = (np.mean, np.std, np.min, np.max)
    return np.stack(
        [np.concatenate([f(x, axis=0) for x in clip.values() for f in statistics]) for clip in X]
    )


def pooled_svm(train):
    """A support vector machine on pooled features, chosen by leaving one subject out."""
    svm = make_pipeline(FunctionTransformer(pooled), StandardScaler(), SVC())
    search = GridSearchCV(svm, {"svc__C": [1, 10, 100]}, cv=LeaveOneGroupOut())
    return search.fit(train, train.label, groups=train.group)


def study(X, plain, is_train, n_seeds):
    """Every row of the results: (experiment, setting, seed) and a function that gives percent."""
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
    """Percent right where a share of the test clips lacks a modality, as `MISSING_COLUMNS`."""
    return [
        100 * fitted.score(without(test, modality, share, seed), test.label)
        for modality, share in MISSING_COLUMNS
    ]


def run_study(X, plain, is_train, n_seeds, path):
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
    summarise(path)


def summarise(path):
    """Mean ± standard error over seeds."""
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


def show(X, is_train, n_epochs):
    """One seed: every sensor alone, all of them, and all with half of the inertial ones lost."""
    train, test = X[is_train], X[~is_train]
    for names in CHOICES:
        fitted = model(names, seed=0, max_iter=n_epochs)
        fitted.fit(train[names], train.label)
        percent = 100 * fitted.score(test[names], test.label)
        print(f"{' + '.join(names):30} {percent:5.1f} % of the test subjects' clips", flush=True)
    percent = 100 * fitted.score(without(test, "inertial", 0.5, seed=0), test.label)
    print(f"{'without half of the inertial':30} {percent:5.1f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--cv", type=int, metavar="N", help="leave N training subjects out")
    parser.add_argument("--study", action="store_true", help="all figures of the results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--epochs", type=int, default=PARAMETERS["max_iter"], help="of the first form"
    )
    parser.add_argument("--csv", type=Path, default=CSV, help="where the rows of the study go")
    parser.add_argument("--store", type=Path, default=STORE, help="where the store goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    X = local_features(options.store)
    is_train = X.group % 2 == 1  # the official split: subjects 1, 3, 5 and 7
    if options.study:
        plain = local_features(options.store.with_suffix(".plain.zarr"), PLAIN_FEATURES)
        run_study(X, plain, is_train, options.seeds, options.csv)
    elif options.cv:
        for names in CHOICES:
            percent = cross_validate(X[names][is_train], options.cv, options.seeds)
            shown = ", ".join(f"{p:.1f}" for p in percent)
            print(f"{' + '.join(names):30} {np.mean(percent):.1f} % ({shown})", flush=True)
    else:
        show(X, is_train, options.epochs)


if __name__ == "__main__":
    main()
