"""The rival classifiers, beyond scikit-learn's estimator checks."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    IntegrationClassifier,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    rivals,
    save_feature_sets,
)
from tests.mixed_precision import assert_agree_on_equal_weights, assert_both_learn, gains

pytestmark = pytest.mark.numerical

N_ITEMS = 60
CLASSIFIERS = [name for name in rivals.__all__ if name.endswith("Classifier")]
NETWORKS = [name for name in CLASSIFIERS if hasattr(getattr(rivals, name), "save")]
POOLED = [rivals.PooledClassifier, rivals.PooledSVMClassifier]
MAIN = [AttentionClusterClassifier, MultimodalAttentionClusterClassifier, IntegrationClassifier]

# Matrix products in sequence from local features to logits, including the last layer.
N_PRODUCTS = {
    "AttentionMILClassifier": 3,  # hidden layer, attention unit
    "AverageClassifier": 1,
    "BiLSTMClassifier": 8,  # a step per local feature, of which sets have up to 7
    "EfficientProbingClassifier": 3,  # queries, values
    "FlattenClassifier": 1,
    "GatedAttentionMILClassifier": 3,  # hidden layer, attention unit
    "NetVLADClassifier": 5,  # assignment, sums, layer, gate
    "SetTransformerClassifier": 7,  # embedding, keys, scores, averages, mix, layer
    "TSLSTMClassifier": 6,  # a step per segment, of which there are 5
    "TemporalInceptionClassifier": 9,  # four modules, three reductions, layer
}


def make(name, **parameters):
    """Return a small, fast classifier; parameters that it does not have are ignored."""
    kind = getattr(rivals, name)
    given = {"max_iter": 30, "learning_rate": 0.03, "random_state": 0, "hidden_size": 16}
    given |= {"dropout": 0.0, "tol": None} | parameters
    known = kind().get_params()
    if name not in NETWORKS:
        return kind()
    return kind(**{key: value for key, value in given.items() if key in known})


def make_modalities(seed=0):
    """Return two modalities that give the class together; every sixth item lacks the second."""
    rng = np.random.default_rng(seed)
    y = np.arange(N_ITEMS) % 3
    frames = [rng.normal(size=(rng.integers(1, 8), 4)) + 3 * (label == 1) for label in y]
    sounds = [rng.normal(size=(rng.integers(1, 5), 3)) + 3 * (label == 2) for label in y]
    sounds[::6] = [None] * len(sounds[::6])
    return {"frames": frames, "sounds": sounds}, y


@pytest.mark.parametrize("kind", [*MAIN, *(getattr(rivals, name) for name in CLASSIFIERS)])
def test_common_parameters_are_accepted(kind):
    common = {"standardize": True, "class_weight": "balanced", "random_state": 0}
    clf = kind(**common)
    clf._validate_params()
    assert clf.get_params().items() >= common.items()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_loop_over_rivals_sets_the_common_parameters(name):
    X, y = make_modalities()
    X["sounds"] = [None if x is None else 1e4 * x for x in X["sounds"]]
    common = {"standardize": True, "class_weight": "balanced", "random_state": 0}
    assert make(name).set_params(**common).fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_fit_on_several_modalities_with_missing_ones(name):
    X, y = make_modalities()
    clf = make(name).fit(X, y)
    assert clf.score(X, y) > 0.8
    assert clf.n_features_in_ == 7
    alone = {modality: [sets[1]] for modality, sets in X.items()}
    decisions = clf.decision_function(alone)[0], clf.decision_function(X)[1]
    np.testing.assert_allclose(*decisions, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="fitted on \\['frames', 'sounds'\\]"):
        clf.predict(X["frames"])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_fit_on_a_store_gives_the_same_bits(name, tmp_path):
    rng = np.random.default_rng(0)
    X = FeatureSets.from_arrays(
        [rng.normal(size=(rng.integers(1, 8), 4)).astype(np.float32) for _ in range(N_ITEMS)]
    )
    y = np.arange(N_ITEMS) % 3
    save_feature_sets(tmp_path / "store.zarr", X)
    in_memory = make(name, max_iter=2).fit(X, y)
    stored = make(name, max_iter=2).fit(tmp_path / "store.zarr", y)
    assert np.array_equal(in_memory.decision_function(X), stored.decision_function(X))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_fit_with_an_indicator_predicts_several_labels(name):
    X, y = make_modalities()
    labels = np.stack([y == 1, y == 2], axis=1).astype(int)
    clf = make(name).fit(X, labels)
    assert clf.decision_function(X).shape == (N_ITEMS, 2)
    assert (clf.predict(X) == labels).mean() > 0.8


@pytest.mark.parametrize("name", NETWORKS)
def test_get_feature_names_out_names_the_transform(name):
    X, y = make_modalities()
    clf = make(name, max_iter=1).fit(X, y)
    names = clf.get_feature_names_out()
    assert len(names) == clf.transform(X).shape[1]
    assert names[0] == f"{name.lower()}0"


@pytest.mark.parametrize("name", NETWORKS)
def test_clone_trains_to_the_same_bits(name):
    X, y = make_modalities()
    clf = make(name, max_iter=2, dropout=0.5)
    again = clone(clf).fit(X, y)
    assert np.array_equal(clf.fit(X, y).predict_proba(X), again.predict_proba(X))


@pytest.mark.parametrize("name", NETWORKS)
def test_early_stopping_and_warm_start(name):
    X, y = make_modalities()
    clf = make(name, max_iter=3, early_stopping=True, warm_start=True).fit(X, y)
    first = clf.predict_proba(X)
    clf.fit(X, y)
    assert clf.n_iter_ == len(clf.validation_scores_) == 6
    assert clf.best_validation_score_ == max(clf.validation_scores_)
    assert not np.array_equal(clf.predict_proba(X), first)


@pytest.fixture
def bfloat16():
    """Mixed precision multiplies in bfloat16, whether or not this processor gains from it."""
    with gains():
        yield


@pytest.mark.parametrize("name", NETWORKS)
def test_mixed_precision_is_full_precision_to_rounding(name, bfloat16):
    X, y = make_modalities()
    clf = make(name, max_iter=1, dtype="float32").fit(X, y)
    assert_agree_on_equal_weights(clf, X, y, n_products=N_PRODUCTS[name])
    clf.set_params(precision="mixed")
    assert clf.predict_proba(X).dtype == np.float32


@pytest.mark.parametrize("name", NETWORKS)
def test_mixed_precision_learns(name, bfloat16):
    X, y = make_modalities()
    assert_both_learn(make(name, dtype="float32"), X, y, accuracy=0.8)


@pytest.mark.parametrize("name", ["AttentionMILClassifier", "EfficientProbingClassifier"])
def test_attention_weights_sum_to_one_over_present_modalities(name):
    X, y = make_modalities()
    weights = make(name, max_iter=1).fit(X, y).attention_weights(X)
    for modality, sets in X.items():
        for a, x in zip(weights[modality], sets, strict=True):
            assert len(a) == (0 if x is None else len(x))
            np.testing.assert_allclose(a.sum(axis=0), 1 if len(a) else 0, rtol=1e-6)


class Clips:
    """A dataset in the form of torch: items by number, here dicts of two modalities."""

    def __init__(self, X):
        self.items = [dict(zip(X, sets, strict=True)) for sets in zip(*X.values(), strict=True)]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


ATTENDING = [
    rivals.AttentionMILClassifier,
    rivals.GatedAttentionMILClassifier,
    rivals.EfficientProbingClassifier,
    MultimodalAttentionClusterClassifier,
]


@pytest.mark.parametrize("kind", ATTENDING)
def test_attention_weights_have_the_container_of_X(kind, tmp_path):
    X, y = make_modalities()
    frames = FeatureSets.from_arrays(X["frames"])
    save_feature_sets(tmp_path / "store.zarr", frames)
    clf = kind(max_iter=1, tol=None).fit(frames, y)
    for unnamed in (frames, X["frames"], tmp_path / "store.zarr"):
        weights = clf.attention_weights(unnamed)
        assert isinstance(weights, FeatureSets)
        assert np.array_equal(weights.lengths, frames.lengths)
    assert isinstance(clf.attention_weights({"features": frames}), MultimodalFeatureSets)
    assert clf.fit(X, y).attention_weights(Clips(X)).names == ["frames", "sounds"]


@pytest.mark.parametrize("n_classes", [2, 3])
def test_score_fusion_averages_probabilities(n_classes):
    X, y = make_modalities()
    clf = make("AverageClassifier", fusion="scores", max_iter=5, standardize=False)
    clf.fit(X, y % n_classes)
    W, b = (tensor.detach().numpy() for tensor in clf.network_.linear.parameters())
    means = clf.feature_means_
    expected = []
    for frames, sounds in zip(X["frames"], X["sounds"], strict=True):
        sound = means["sounds"] if sounds is None else sounds.mean(axis=0)
        logits = [frames.mean(axis=0) @ W[:4] + b, sound @ W[4:] + b]
        each = softmax(logits, axis=1) if n_classes > 2 else expit(logits)
        expected.append(np.mean(each, axis=0))
    expected = np.array(expected)
    if n_classes == 2:
        expected = np.hstack([1 - expected, expected])
    np.testing.assert_allclose(clf.predict_proba(X), expected, rtol=1e-6)


def test_predict_uses_the_fusion_of_fit():
    X, y = make_modalities()
    clf = make("AverageClassifier", fusion="scores", max_iter=3).fit(X, y)
    proba = clf.predict_proba(X)
    clf.set_params(fusion="features")
    assert np.array_equal(pickle.loads(pickle.dumps(clf)).predict_proba(X), proba)
    with pytest.raises(ValueError, match="fitted with fusion='scores'"):
        clf.partial_fit(X, y)


@pytest.mark.parametrize("seed", range(3))
def test_temporal_inception_learns_from_every_seed(seed):
    X, y = make_modalities()
    # Batch normalization and kinks make the accuracy of single epochs jump with the rounding:
    # 3 of 40 seeds end below 0.8. The best epoch shows whether a seed learns.
    clf = make("TemporalInceptionClassifier", random_state=seed, hidden_size=64, max_iter=60)
    clf.set_params(learning_rate=0.01, early_stopping=True).fit(X, y, X_val=X, y_val=y)
    assert clf.score(X, y) > 0.8


def test_pooled_statistics_equal_numpy():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(length, 3)) for length in (4, 1, 9)]
    X = FeatureSets.from_arrays(arrays)
    expected = [np.concatenate([x.mean(0), x.std(0), x.min(0), x.max(0)]) for x in arrays]
    np.testing.assert_allclose(
        rivals.pooled_statistics(X, ["mean", "std", "min", "max"]), expected, atol=1e-12
    )


def test_pooled_statistics_do_not_depend_on_block_size(monkeypatch):
    X, _ = make_modalities()
    sets = FeatureSets.from_arrays(X["frames"])
    whole = rivals.pooled_statistics(sets, ["mean", "max"])
    monkeypatch.setattr(rivals._pooled, "_ROWS_PER_BLOCK", 10)
    assert np.array_equal(rivals.pooled_statistics(sets, ["mean", "max"]), whole)


@pytest.mark.parametrize("classifier", POOLED)
def test_score_of_pooled_statistics_matches_label_columns_by_name(classifier):
    X, y = make_modalities()
    labels = pd.DataFrame({"a": y, "b": np.roll(y, 1)}) % 2
    clf = classifier().fit(X, labels)
    assert clf.label_names_ == ["a", "b"]
    assert clf.score(X, labels[["b", "a"]]) == clf.score(X, labels)
    with pytest.raises(ValueError, match=r"label columns \['a', 'z'\]"):
        clf.score(X, labels.rename(columns={"b": "z"}))


@pytest.mark.parametrize("statistics", [["median"], [], [["mean"]]])
def test_pooled_statistics_rejects_unknown_statistics(statistics):
    X, y = make_modalities()
    with pytest.raises(ValueError, match="must be a list or tuple of some of"):
        rivals.PooledClassifier(statistics=statistics).fit(X, y)
    with pytest.raises(ValueError, match="must be a list or tuple of some of"):
        rivals.pooled_statistics(FeatureSets.from_arrays(X["frames"]), statistics)
    with pytest.raises(TypeError, match="X has type list; expected FeatureSets"):
        rivals.pooled_statistics(X["frames"], ["mean"])


def test_pooled_statistics_of_constant_features_are_exact():
    lengths = np.arange(1, 60)
    X = FeatureSets(np.full((lengths.sum(), 2), [0.1, -0.3]), np.cumsum([0, *lengths]))
    expected = [[0.1, -0.3, 0, 0, 0.1, -0.3]] * len(X)
    assert rivals.pooled_statistics(X, ["mean", "std", "min"]).tolist() == expected


@pytest.mark.parametrize("kind", POOLED)
def test_pooled_classifiers_do_not_learn_the_size_of_a_set_from_a_constant(kind):
    sizes = np.random.default_rng(0).permutation(60) + 1
    X = [np.full((size, 1), 0.1) for size in sizes]
    clf = kind(statistics=["mean", "std"]).fit(X, sizes > 30)
    assert np.ptp(clf.decision_function(X)) == 0


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("kind", POOLED)
def test_pooled_classifiers_do_not_scale_up_rounding(kind, dtype):
    rng = np.random.default_rng(0)
    sizes, found = rng.permutation(60) + 1, []
    X = FeatureSets(rng.normal(size=(sizes.sum(), 1)), np.cumsum([0, *sizes]))
    steps = np.finfo(dtype).eps * rng.integers(0, 2, (sizes.sum(), 3))
    # The largest of more local features is larger: scaled up, it tells the size of a set.
    for constant in (1 + steps, np.ones_like(steps)):
        values = np.hstack([X.packed()[0], constant]).astype(dtype)
        one = FeatureSets(values, X.packed()[1])
        clf = kind(statistics=["mean", "std", "min", "max"]).fit(one, sizes > 30)
        found.append(clf.decision_function(one))
    np.testing.assert_allclose(*found, atol=0.01)


@pytest.mark.parametrize("kind", POOLED)
def test_pooled_classifiers_without_standardize_use_the_statistics_as_they_are(kind):
    X, y = make_modalities()
    table = rivals.pooled_statistics(FeatureSets.from_arrays(X["frames"]), ["mean"])
    clf = kind(statistics=["mean"], standardize=False).fit(X["frames"], y)
    expected = clf.model_[-1].decision_function(table)
    assert np.array_equal(clf.decision_function(X["frames"]), expected)
    scaled = kind(statistics=["mean"]).fit(X["frames"], y)
    assert not np.allclose(scaled.decision_function(X["frames"]), expected)


@pytest.mark.parametrize("kind", POOLED)
def test_pooled_classifiers_predict_with_the_statistics_of_fit(kind):
    X, y = make_modalities()
    clf = kind(statistics=["mean"]).fit(X, y)
    before = clf.decision_function(X)
    assert np.array_equal(clf.set_params(statistics=["max", "min"]).decision_function(X), before)


def test_pooled_svm_equals_a_pipeline_of_scikit_learn():
    X, y = make_modalities()
    sets = FeatureSets.from_arrays(X["frames"])
    table = rivals.pooled_statistics(sets, ["mean", "std", "min", "max"])
    expected = make_pipeline(StandardScaler(), SVC(C=10)).fit(table, y)
    clf = rivals.PooledSVMClassifier().fit(sets, y)
    np.testing.assert_allclose(clf.decision_function(sets), expected.decision_function(table))
    assert np.array_equal(clf.predict(sets), expected.predict(table))


def test_pooled_svm_is_calibrated_by_scikit_learn():
    X, y = make_modalities()
    sets = FeatureSets.from_arrays(X["frames"])
    assert not hasattr(rivals.PooledSVMClassifier(), "predict_proba")
    calibrated = CalibratedClassifierCV(rivals.PooledSVMClassifier(), ensemble=False, cv=3)
    proba = calibrated.fit(sets, y == 1).predict_proba(sets)
    assert ((proba[:, 1] > 0.5) == (y == 1)).mean() > 0.8


@pytest.mark.parametrize("kind", POOLED)
def test_pooled_classifiers_sample_weight_equals_repetition(kind):
    X, y = make_modalities()
    labels = np.stack([y == 1, y == 2, np.zeros(N_ITEMS)], axis=1).astype(int)  # one is constant
    weights = np.random.default_rng(0).integers(0, 3, N_ITEMS)
    repeated = np.repeat(np.arange(N_ITEMS), weights)
    X = {name: [np.full((1, 3), 0.5) if x is None else x for x in x] for name, x in X.items()}
    sets = {name: [x[i] for i in repeated] for name, x in X.items()}
    for target in (y, labels):
        weighed = kind().fit(X, target, sample_weight=weights)
        again = kind().fit(sets, target[repeated])
        decisions = weighed.decision_function(X), again.decision_function(X)
        np.testing.assert_allclose(*decisions, rtol=0.01, atol=0.01)
    with pytest.raises(ValueError, match="Negative values"):
        kind().fit(X, y, sample_weight=-weights)


def test_pooled_classifier_keeps_the_earlier_model_if_fit_fails():
    X, y = make_modalities()
    clf = rivals.PooledClassifier()
    with pytest.raises(ValueError, match="class"):
        clf.fit(X, np.zeros(N_ITEMS))
    with pytest.raises(NotFittedError):
        clf.predict(X)
    proba = clf.fit(X, y).predict_proba(X)
    with pytest.raises(ValueError, match="class"):
        clf.fit(X["frames"], np.zeros(N_ITEMS))
    assert np.array_equal(clf.predict_proba(X), proba)
