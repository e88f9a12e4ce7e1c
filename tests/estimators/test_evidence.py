"""Evidence and constants add up to the logits, and are what the equation says."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalAttentionClusterClassifierCV,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from tests import reference
from tests.conftest import make_sets

pytestmark = pytest.mark.numerical

# What the result must agree with to rounding, relative to the largest of its terms.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

options = st.fixed_dictionaries(
    {
        "cluster_size": st.integers(3, 6),
        "weighting": st.sampled_from(["average", "fc1", "fc2"]),
        "shifting": st.booleans(),
        "n_attended": st.sampled_from([None, 1, 3]),
        "pyramid_levels": st.sampled_from([1, 2]),
        "hidden_features": st.sampled_from([0, 5]),
        "standardize": st.booleans(),
        "n_members": st.sampled_from([1, 2]),
        "dtype": st.sampled_from(["float32", "float64"]),
    }
)


def labels(kind, n):
    if kind == "multilabel":
        return (np.arange(n)[:, None] >> np.arange(3)) % 2
    return np.arange(n) % (2 if kind == "binary" else 3)


def check_sums(classifier, X, classes=None):
    """Check that the evidence and the constants of every item add up to its logits."""
    evidence, constants = classifier.local_evidence(X, classes, return_constants=True)
    logits = classifier.decision_function(X).reshape(len(X), -1)
    if classes is not None:
        positions = np.searchsorted(classifier.classes_, classes)
        logits = logits[:, positions] if logits.shape[1] > 1 else logits * (2 * positions - 1)
    by_modality = evidence if isinstance(evidence, MultimodalFeatureSets) else {"": evidence}
    names = getattr(by_modality, "names", [""])
    total, largest = constants.total.astype(np.float64), np.abs(constants.total).max()
    for name in names:
        sets = by_modality[name]
        np.testing.assert_array_equal(sets.lengths, (X[name] if name else X).lengths)
        total += [own.sum(axis=0, dtype=np.float64) for own in sets]
        largest = max(largest, np.abs(sets.packed()[0]).max())
    dtype = str(evidence[names[0]].dtype if names[0] else evidence.dtype)
    tolerance = TOLERANCE[dtype] * max(1, largest)
    np.testing.assert_allclose(total, logits, rtol=0, atol=tolerance)


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(options, st.sampled_from(["binary", "multiclass", "multilabel"]), st.integers(0, 99))
def test_local_evidence_and_constants_add_up_to_decision_function(options, kind, seed):
    X, _ = make_sets(n=24, seed=seed)
    classifier = AttentionClusterClassifier(
        **options, max_iter=3, learning_rate=0.05, random_state=seed, batch_size=7
    )
    y = labels(kind, len(X))
    check_sums(classifier.fit(X, y), X)
    check_sums(classifier, X[::-2], [classifier.classes_[-1], classifier.classes_[0]])


def multimodal_sets(seed, n=24):
    rng = np.random.default_rng(seed)
    rgb = [rng.normal(size=(rng.integers(1, 6), 4)) for _ in range(n)]
    audio = [rng.normal(size=(rng.integers(1, 6), 2)) if i % 3 else None for i in range(n)]
    return MultimodalFeatureSets.from_items(
        [{"rgb": a, "audio": b} for a, b in zip(rgb, audio, strict=True)]
    )


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(options, st.sampled_from(["mean", "mask"]), st.integers(0, 99))
def test_multimodal_local_evidence_and_constants_add_up(options, missing_modality, seed):
    X = multimodal_sets(seed)
    classifier = MultimodalAttentionClusterClassifier(
        **options, missing_modality=missing_modality, max_iter=3, random_state=seed, batch_size=7
    )
    check_sums(classifier.fit(X, labels("multiclass", len(X))), X)


def test_a_missing_modality_adds_constants_of_its_mean_or_none():
    X, y = multimodal_sets(0), labels("binary", 24)
    lacks = X.missing["audio"]
    for strategy in ("mean", "mask"):
        classifier = MultimodalAttentionClusterClassifier(
            missing_modality=strategy, max_iter=3, random_state=0
        ).fit(X, y)
        evidence, constants = classifier.local_evidence(X, return_constants=True)
        assert (evidence["audio"].lengths[lacks] == 0).all()
        if strategy == "mask":
            assert (constants.by_modality["audio"][lacks] == 0).all()
            continue
        mean = classifier.feature_means_["audio"][None]
        filled = [{"rgb": x["rgb"], "audio": mean} for x in X[lacks]]
        filled = MultimodalFeatureSets.from_items(filled)
        of_mean, own = classifier.local_evidence(filled, return_constants=True)
        expected = np.concatenate([*of_mean["audio"]]) + own.by_modality["audio"]
        found = constants.by_modality["audio"][lacks]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_local_evidence_of_a_cross_validated_ensemble_adds_up(kind):
    X, _ = make_sets(n=30)
    y = labels(kind, len(X))
    classifier = AttentionClusterClassifierCV(cv=2, max_iter=2, random_state=0).fit(X, y)
    classifier.weights_ = np.array([0.5, 0.2, 0.3, 0.0])[: len(classifier.portfolio_)]
    classifier.weights_ /= classifier.weights_.sum()
    check_sums(classifier, X)
    check_sums(classifier, X, classifier.classes_[:1])
    evidence, constants = classifier.local_evidence(X, return_constants=True)
    expected, rest = 0, classifier.decision_function(X).reshape(len(X), -1)
    for weight, networks in zip(classifier.weights_, classifier.estimators_, strict=True):
        for one in networks:
            expected = expected + weight / 2 * one.local_evidence(X).packed()[0]
            _, own = one.local_evidence(X, return_constants=True)
            rest = rest + weight / 2 * own.rest
            rest -= weight / 2 * one.decision_function(X).reshape(len(X), -1)
    np.testing.assert_allclose(evidence.packed()[0], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(constants.rest, rest, rtol=0, atol=1e-10)


def test_local_evidence_of_a_multimodal_cross_validated_ensemble_adds_up():
    X = multimodal_sets(1)
    classifier = MultimodalAttentionClusterClassifierCV(cv=2, max_iter=2, random_state=0)
    check_sums(classifier.fit(X, labels("multiclass", len(X))), X)


@pytest.mark.parametrize("shifting", [True, False])
@pytest.mark.parametrize("weighting", ["average", "fc1", "fc2"])
def test_local_evidence_is_the_equation_set_by_set(weighting, shifting):
    X, _ = make_sets(n=12, n_classes=3)
    classifier = AttentionClusterClassifier(
        cluster_size=5,
        weighting=weighting,
        shifting=shifting,
        n_attended=None,
        standardize=False,
        max_iter=3,
        random_state=0,
    ).fit(X, np.arange(12) % 3)
    p = {name: value.detach().numpy() for name, value in classifier.network_.named_parameters()}
    own = {name.rpartition("weighting.")[2]: value for name, value in p.items()}
    W = p["linear.weight"].reshape(5, 4, 3)
    evidence, constants = classifier.local_evidence(X, return_constants=True)
    for item, found, constant in zip(X, evidence, constants.total, strict=True):
        expected, rest = np.zeros((len(item), 3)), p["linear.bias"].copy()
        for k in range(5):
            a = reference.weights_of_unit(item.T, k, weighting, own)
            v, factor = item.T @ a, 1.0
            if shifting:
                alpha = p["integrations.0.shifting.alpha"][k, 0]
                beta = p["integrations.0.shifting.beta"][k, 0]
                scale = 1 / (np.sqrt(5) * np.linalg.norm(alpha * v + beta))
                factor, rest = scale * alpha, rest + scale * beta * W[k].sum(axis=0)
            expected += factor * a[:, None] * (item @ W[k])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(constant, rest, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def fitted():
    X, y = make_sets(n=30, n_classes=3)
    return AttentionClusterClassifier(
        cluster_size=4, n_attended=None, max_iter=5, random_state=0
    ).fit(X, y), X


@given(st.integers(0, 29), st.randoms(use_true_random=False))
def test_local_evidence_is_permutation_equivariant(fitted, i, random):
    classifier, X = fitted
    order = random.sample(range(len(X[i])), len(X[i]))
    [before] = classifier.local_evidence([X[i]])
    [after] = classifier.local_evidence([X[i][order]])
    np.testing.assert_allclose(after, before[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("weighting", ["average", "fc1"])
def test_a_copy_of_a_local_feature_changes_evidence_as_the_equation_says(weighting):
    """Without the norm, the weight a of every other local feature becomes a / (1 + a_copied)."""
    X, y = make_sets(n=20, n_classes=3)
    classifier = AttentionClusterClassifier(
        cluster_size=1,
        weighting=weighting,
        shifting=False,
        n_attended=None,
        max_iter=5,
        random_state=0,
    ).fit(X, y)
    for item in X[:8]:
        [before], [[copied, *_]] = (
            classifier.local_evidence([item]),
            classifier.attention_weights([item]),
        )
        [after] = classifier.local_evidence([np.concatenate([item, item[:1]])])
        np.testing.assert_allclose(after[:-1], before / (1 + copied), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(after[-1], after[0])


def test_classes_choose_columns_by_label_and_by_name():
    pandas = pytest.importorskip("pandas")
    X, _ = make_sets(n=24)
    y = pandas.DataFrame(labels("multilabel", 24), columns=["dog", "cat", "car"])
    classifier = AttentionClusterClassifier(max_iter=2, random_state=0).fit(X, y)
    both = classifier.local_evidence(X).packed()[0]
    for chosen, columns in (
        (["car", "dog"], [2, 0]),
        ([1], [1]),
        (np.array([2, 1]), [2, 1]),
        (["car", np.int64(0)], [2, 0]),
    ):
        found = classifier.local_evidence(X, chosen).packed()[0]
        np.testing.assert_allclose(found, both[:, columns], rtol=1e-9, atol=1e-12)
    binary = AttentionClusterClassifier(max_iter=2, random_state=0).fit(X, ["no", "yes"] * 12)
    of_yes = binary.local_evidence(X).packed()[0]
    found = binary.local_evidence(X, ["no", "yes"]).packed()[0]
    np.testing.assert_allclose(found, np.hstack([-of_yes, of_yes]), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("classes", [["lion"], "a", [], [["a", "b"]], ["a", 3]])
def test_classes_that_are_unknown_are_an_error_that_names_them(classes):
    X, _ = make_sets(n=20)
    classifier = AttentionClusterClassifier(max_iter=1).fit(X, ["a", "b"] * 10)
    with pytest.raises(ValueError, match=r"^classes( has|=).*'a'"):
        classifier.local_evidence(X, classes)


@pytest.mark.parametrize(
    ("classes", "shown"), [(["a", 0], "0"), (["a", np.float32(1.5)], "1.5"), ([["a"], []], "['a']")]
)
def test_classes_of_several_types_are_not_turned_into_text(classes, shown):
    X, _ = make_sets(n=20)
    classifier = AttentionClusterClassifier(max_iter=1).fit(X, ["a", "b"] * 10)
    with pytest.raises(ValueError, match=f"^classes has {re.escape(shown)}, but the classifier"):
        classifier.local_evidence(X, classes)


def test_local_evidence_of_a_store_keeps_places_and_batches(tmp_path):
    X, y = make_sets(n=40, n_classes=3, dtype=np.float32)
    seconds = np.arange(len(X.packed()[0]), dtype=float)
    X = FeatureSets(*X.packed(), places={"seconds": seconds})
    save_feature_sets(tmp_path / "x.zarr", X, label=y)
    store = open_feature_sets(tmp_path / "x.zarr")
    classifier = AttentionClusterClassifier(max_iter=2, random_state=0, batch_size=7).fit(X, y)
    evidence = classifier.local_evidence(store[::-1])
    np.testing.assert_array_equal(evidence.places.packed()[0], X[::-1].places.packed()[0])
    whole = classifier.set_params(batch_size=64).local_evidence(X[::-1])
    np.testing.assert_allclose(evidence.packed()[0], whole.packed()[0], rtol=0, atol=1e-6)


def test_local_evidence_names_the_item_that_is_not_finite():
    X, y = make_sets(n=20, dtype=np.float32)
    classifier = AttentionClusterClassifier(max_iter=2, standardize=False, shifting=False)
    classifier.fit(X, y)
    classifier.network_.linear.weight.data *= 1e4
    huge = np.full((3, 4), 3e38, dtype=np.float32)
    with pytest.raises(ValueError, match="item 1 is"):
        classifier.local_evidence([X[0], huge, X[2]])
