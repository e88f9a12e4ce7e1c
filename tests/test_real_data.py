"""Short fits on real data reach a minimal accuracy."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
)
from acluster.datasets import load_benchmark, load_utd_mhad
from acluster.preprocessing import LocalFeatureTransformer


def make_model(**parameters):
    options = {"optimizer": "adam", "learning_rate": 0.01, "tol": None, "random_state": 0}
    classifier = AttentionClusterClassifier(**{**options, **parameters})
    return make_pipeline(LocalFeatureTransformer(StandardScaler()), classifier)


def test_score_on_japanese_vowels(data_home):
    data = load_benchmark("japanese_vowels", data_home=data_home)
    X_train, y_train = data.data[data.train_indices], data.target[data.train_indices]
    X_test, y_test = data.data[data.test_indices], data.target[data.test_indices]
    model = make_model(cluster_size=64, batch_size=32, max_iter=15, n_local_features=10)
    assert model.fit(X_train, y_train).score(X_test, y_test) >= 0.95


@pytest.mark.parametrize("name", ["musk1", "elephant"])
def test_score_on_multiple_instance_data(name, data_home):
    data = load_benchmark(name, data_home=data_home)
    model = make_model(cluster_size=8, batch_size=1000, max_iter=30)
    scores = [
        model.fit(data.data[train], data.target[train]).score(data.data[test], data.target[test])
        for train, test in data.folds[0][:5]
    ]
    assert np.mean(scores) >= 0.7


def test_two_modalities_of_utd_mhad_score_higher_than_one(data_home):
    actions = load_utd_mhad(data_home=data_home)
    hip = slice(9, 12)  # x, y and z
    centred = [x - np.tile(x[0, hip], 20) for x in actions.data["skeleton"]]
    both = MultimodalFeatureSets(
        {"skeleton": FeatureSets.from_arrays(centred), "inertial": actions.data["inertial"]}
    )
    train, test, y = actions.train_indices, actions.test_indices, actions.target
    scores = {}
    for names in (["skeleton"], ["inertial"], ["skeleton", "inertial"]):
        classifier = MultimodalAttentionClusterClassifier(
            cluster_size=16,
            n_local_features=16,
            optimizer="adam",
            learning_rate=0.01,
            batch_size=32,
            max_iter=10,
            tol=None,
            random_state=0,
        )
        model = make_pipeline(LocalFeatureTransformer(StandardScaler()), classifier)
        scores["+".join(names)] = model.fit(both[names][train], y[train]).score(
            both[names][test], y[test]
        )
    assert scores["skeleton+inertial"] > 0.8, scores
    assert scores["skeleton+inertial"] > max(scores["skeleton"], scores["inertial"]) + 0.03, scores
