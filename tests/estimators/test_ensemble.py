"""Estimators with `n_members` above 1: what each member is, and what they give together."""

import numpy as np
import pytest
import torch

import acluster
from acluster import (
    AttentionClusterClassifier,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
)
from acluster.rivals import SetTransformerClassifier
from tests.conftest import make_sets

OPTIONS = {"cluster_size": 4, "max_iter": 4, "tol": None, "random_state": 0}


def single(place, **options):
    clf = AttentionClusterClassifier(**{**OPTIONS, **options})
    clf._place = place
    return clf


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"standardize": True, "dropout": 0.3, "max_grad_norm": 0.01},
        {"class_weight": "balanced", "n_local_features": 2, "optimizer": "rmsprop"},
        {"weighting": "fc2", "pyramid_levels": 2, "dtype": "float64"},
    ],
)
def test_each_member_is_a_network_trained_alone(options):
    X, y = make_sets()
    ensemble = AttentionClusterClassifier(n_members=3, **{**OPTIONS, **options}).fit(X, y)
    alone = [single(place, **options).fit(X, y) for place in range(3)]
    for member, one in zip(ensemble.network_.members, alone, strict=True):
        for name, value in member.state_dict().items():
            assert torch.equal(value, one.network_.state_dict()[name]), name
    assert not np.allclose(alone[0].predict_proba(X), alone[1].predict_proba(X), rtol=1e-3)
    mean = np.mean([one.predict_proba(X) for one in alone], axis=0)
    np.testing.assert_allclose(ensemble.predict_proba(X), mean, rtol=1e-4)
    np.testing.assert_allclose(
        ensemble.loss_curve_, np.mean([one.loss_curve_ for one in alone], axis=0), rtol=1e-5
    )
    concatenated = np.hstack([one.transform(X) for one in alone])
    np.testing.assert_array_equal(ensemble.transform(X), concatenated)
    weights = np.hstack([one.attention_weights(X)[3] for one in alone])
    np.testing.assert_array_equal(ensemble.attention_weights(X)[3], weights)
    names = ensemble.get_feature_names_out()
    assert len(names) == concatenated.shape[1]
    assert len(set(names)) == len(names)


def test_first_member_is_the_classifier_with_one_network():
    X, y = make_sets()
    one = AttentionClusterClassifier(**OPTIONS).fit(X, y)
    first = AttentionClusterClassifier(n_members=2, **OPTIONS).fit(X, y).network_.members[0]
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.parameters(), one.network_.parameters(), strict=True)
    )


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_predictions_average_probabilities(kind):
    X, y = make_sets()
    y = {"binary": y > 0, "multiclass": np.arange(len(y)) % 3}.get(kind, np.eye(3, dtype=int)[y])
    ensemble = AttentionClusterClassifier(n_members=2, **OPTIONS).fit(X, y)
    alone = [single(place).fit(X, y).predict_proba(X) for place in range(2)]
    np.testing.assert_allclose(ensemble.predict_proba(X), np.mean(alone, axis=0), rtol=1e-4)


def test_ensemble_is_saved_resumed_and_continued(tmp_path):
    X, y = make_sets()
    options = {**OPTIONS, "n_members": 2, "learning_rate_schedule": "constant"}
    whole = AttentionClusterClassifier(**options).fit(X, y)
    whole.save(tmp_path / "model")
    loaded = acluster.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), whole.predict_proba(X))
    assert loaded.get_feature_names_out().tolist() == whole.get_feature_names_out().tolist()
    AttentionClusterClassifier(**{**options, "max_iter": 2}).fit(X, y, checkpoint_dir=tmp_path)
    resumed = AttentionClusterClassifier(**options).fit(X, y, checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(resumed.predict_proba(X), whole.predict_proba(X))
    halves = AttentionClusterClassifier(**{**options, "max_iter": 2}, warm_start=True).fit(X, y)
    assert halves.fit(X, y).n_iter_ == 4


def test_model_file_that_asks_for_more_members_than_it_has_is_refused(tmp_path):
    from acluster._utils._model_file import open_model, write_model

    X, y = make_sets()
    AttentionClusterClassifier(n_members=2, **OPTIONS).fit(X, y).save(tmp_path / "model")
    with open_model(tmp_path / "model") as (description, tensors):
        arrays = {name: tensors[name] for name in tensors}
    for wrong in (10**9, 0, True, "2", 3, 1):
        description["network"]["n_members"] = wrong
        write_model(tmp_path / "wrong", description, arrays)
        with pytest.raises(acluster.ModelFileError):
            acluster.load(tmp_path / "wrong")


def test_onnx_file_of_an_ensemble_averages_probabilities(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    X, y = make_sets(dtype=np.float32)
    ensemble = AttentionClusterClassifier(n_members=2, **OPTIONS).fit(X, y)
    ensemble.to_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    sets = [X[i] for i in range(len(X))]
    padded = np.zeros((len(sets), max(map(len, sets)), X.n_features), np.float32)
    for row, one in zip(padded, sets, strict=True):
        row[: len(one)] = one
    lengths = np.array([len(one) for one in sets])
    (found,) = session.run(None, {"features": padded, "features_lengths": lengths})
    np.testing.assert_allclose(found, ensemble.predict_proba(X), atol=1e-5)


def test_ensembles_of_several_modalities_and_of_rivals():
    X, y = make_sets()
    both = MultimodalFeatureSets({"a": X, "b": X})
    clf = MultimodalAttentionClusterClassifier(n_members=2, **OPTIONS).fit(both, y)
    assert clf.transform(both).shape == (len(X), 2 * 2 * 4 * X.n_features)
    assert clf.attention_weights(both)["b"][0].shape[1] == 8
    rival = SetTransformerClassifier(n_members=2, max_iter=2, tol=None, random_state=0).fit(X, y)
    assert rival.transform(X).shape[1] == len(rival.get_feature_names_out())


def test_early_stopping_watches_the_ensemble():
    X, y = make_sets()
    options = {**OPTIONS, "tol": 1e-3, "n_iter_no_change": 2, "max_iter": 30, "learning_rate": 0.05}
    clf = AttentionClusterClassifier(n_members=2, early_stopping=True, **options)
    clf.fit(X[:40], y[:40], X_val=X[40:], y_val=y[40:])
    assert clf.score(X[40:], y[40:]) == pytest.approx(clf.best_validation_score_)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (2, 3)])
def test_warm_start_names_both_numbers_of_members(before, after):
    X, y = make_sets(n=20)
    clf = AttentionClusterClassifier(n_members=before, warm_start=True, **OPTIONS).fit(X, y)
    message = f"fitted with n_members={before}, but the parameters now say n_members={after}"
    with pytest.raises(ValueError, match=message):
        clf.set_params(n_members=after).fit(X, y)
