"""Recognize actions from three sensors: a skeleton tracker, an inertial sensor, a depth camera.

Every clip of UTD-MHAD becomes a set of local features per sensor, written to a zarr store clip by
clip. One attention cluster per sensor learns the action. The script prints the test accuracy of
each sensor alone, of all together, and of all with half of the inertial recordings lost. Without
UTD-MHAD in ``$ACLUSTER_DATA/utd_mhad``, it generates synthetic sensors.

    python examples/utd_mhad.py [--epochs 60] [--store FOLDER]
"""

import argparse
import shutil
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from utd_mhad_features import FEATURES

from acluster import FeatureSetsWriter, MultimodalAttentionClusterClassifier, open_feature_sets
from acluster.datasets import get_data_home, load_utd_mhad
from acluster.preprocessing import LocalFeatureTransformer

STORE = Path(__file__).parent / "output" / "actions.zarr"


def recorded_clips():
    """Yield the local features of each clip of UTD-MHAD, its action and its subject."""
    clips = load_utd_mhad()
    for clip, action, subject in zip(clips.data, clips.target, clips.subject, strict=True):
        yield {name: FEATURES[name](rows) for name, rows in clip.items()}, action, subject


def synthetic_clips(shapes=(("skeleton", 20, 240), ("inertial", 40, 114), ("depth", 10, 1260))):
    """Yield clips of 27 actions; each sensor shows one digit of the action's base-3 number."""
    rng = np.random.default_rng(0)
    patterns = {name: rng.normal(size=(3, width)) for name, _, width in shapes}
    for number in range(432):
        action, clip = number % 27, {}
        for digit, (name, length, width) in enumerate(shapes):
            rows = rng.normal(size=(rng.integers(length // 2, length), width))
            rows[rng.integers(len(rows))] += patterns[name][action // 3**digit % 3]
            clip[name] = rows.astype(np.float32)
        yield clip, action, 1 + number // 27 % 8  # subjects 1 to 8


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=60, help="training epochs of every model")
parser.add_argument("--store", type=Path, default=STORE)
options = parser.parse_args()
torch.set_num_threads(1)  # such small networks train faster on one thread
has_data = (get_data_home() / "utd_mhad").is_dir()
print("Reading UTD-MHAD." if has_data else "No UTD-MHAD in $ACLUSTER_DATA: synthetic sensors.")
shutil.rmtree(options.store, ignore_errors=True)
with FeatureSetsWriter(options.store) as writer:
    for clip, action, subject in recorded_clips() if has_data else synthetic_clips():
        writer.append(clip, label=action, group=subject)
X = open_feature_sets(options.store)
train, test = X[X.group % 2 == 1], X[X.group % 2 == 0]  # the official split by subject

scalers = {
    "skeleton": make_pipeline(PCA(60, random_state=0), StandardScaler()),
    "inertial": StandardScaler(),
    "depth": make_pipeline(PCA(32, random_state=0), StandardScaler()),
}
settings = {"n_local_features": 24, "dropout": 0.8, "max_iter": options.epochs}
for names in (["skeleton"], ["inertial"], ["depth"], ["skeleton", "inertial"], [*FEATURES]):
    clf = MultimodalAttentionClusterClassifier(**settings, random_state=0)
    model = make_pipeline(LocalFeatureTransformer({name: scalers[name] for name in names}), clf)
    model.fit(train[names], train.label)
    percent = 100 * model.score(test[names], test.label)
    print(f"{' + '.join(names):30} {percent:5.1f} % of the test subjects' clips", flush=True)

lost = np.random.default_rng(0).permutation(len(test)) < len(test) / 2
inertial = [None if is_lost else x for x, is_lost in zip(test["inertial"], lost, strict=True)]
damaged = {"skeleton": test["skeleton"], "inertial": inertial, "depth": test["depth"]}
percent = 100 * model.score(damaged, test.label)
print(f"{'half of inertial missing':30} {percent:5.1f} %")
