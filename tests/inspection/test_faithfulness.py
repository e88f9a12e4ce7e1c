"""Deletion and insertion curves against a slow loop over items and fractions."""

import numpy as np
import pytest
import torch

from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
)
from acluster.inspection import evidence_faithfulness, modality_evidence
from acluster.rivals import AverageClassifier
from tests.conftest import make_sets

KINDS = ["evidence", "attention", "gradient", "random"]


@pytest.fixture(scope="module")
def fitted():
    X, y = make_sets(n=30, n_classes=3)
    return AttentionClusterClassifier(
        cluster_size=4, learning_rate=0.02, max_iter=20, random_state=0
    ).fit(X, y), X


def slow_curves(classifier, X, scores, targets, n_steps):
    """Remove and add local features one item and one fraction at a time."""
    curves = {"deletion": [], "insertion": []}
    for item, own, target in zip(X, scores, targets, strict=True):
        order = sorted(range(len(item)), key=lambda i: -own[i])
        rows = {"deletion": [], "insertion": []}
        for step in range(n_steps + 1):
            n_first = int(np.rint(step / n_steps * len(item)))
            first, last = order[: max(1, n_first)], order[min(n_first, len(item) - 1) :]
            for name, kept in (("deletion", last), ("insertion", first)):
                rows[name].append(classifier.predict_proba([item[sorted(kept)]])[0, target])
        for name in curves:
            curves[name].append(rows[name])
    return curves


@pytest.mark.parametrize("kind", KINDS)
def test_curves_are_those_of_a_slow_loop(fitted, kind):
    classifier, X = fitted
    found = evidence_faithfulness(classifier, X, scores=kind, n_steps=4, random_state=3)
    targets = classifier.predict_proba(X).argmax(axis=1)
    if kind == "evidence":
        scores = [e[:, c] for e, c in zip(classifier.local_evidence(X), targets, strict=True)]
    elif kind == "attention":
        scores = [a.mean(axis=1) for a in classifier.attention_weights(X)]
    elif kind == "random":
        numbers = np.random.RandomState(3).random_sample(X.lengths.sum())
        scores = np.split(numbers, np.cumsum(X.lengths)[:-1])
    else:
        mean = X.packed()[0].mean(axis=0)  # the origin of standardized features
        scores = [numeric_gradient(classifier, x, c, mean) for x, c in zip(X, targets, strict=True)]
    expected = slow_curves(classifier, X, scores, targets, 4)
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, rtol=0, atol=1e-9)
        area = (np.array(rows)[:, 1:] + np.array(rows)[:, :-1]).mean(axis=1) / 2
        np.testing.assert_allclose(found[f"{name}_area"], area, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found.fractions, [0, 0.25, 0.5, 0.75, 1])


def numeric_gradient(classifier, item, target, origin, step=1e-5):
    """The gradient of a logit times the item, by central differences, summed over features."""
    changed = []
    for index in np.ndindex(item.shape):
        for sign in (1, -1):
            one = item.copy()
            one[index] += sign * step
            changed.append(one)
    logits = classifier.decision_function(changed)[:, target].reshape(-1, 2)
    gradient = (logits[:, 0] - logits[:, 1]) / (2 * step)
    return (gradient.reshape(item.shape) * (item - origin)).sum(axis=1)


@pytest.mark.parametrize(
    "mode",
    [
        lambda: torch.autocast("cpu", torch.bfloat16),
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.device("meta"),
    ],
)
def test_gradients_do_not_depend_on_modes_of_torch(fitted, mode):
    expected = evidence_faithfulness(*fitted, scores="gradient", n_steps=4)
    with mode():
        found = evidence_faithfulness(*fitted, scores="gradient", n_steps=4)
    np.testing.assert_array_equal(found["deletion"], expected["deletion"])


def test_own_scores_and_classes_give_the_same_curves(fitted):
    classifier, X = fitted
    y = np.arange(len(X)) % 3
    expected = evidence_faithfulness(classifier, X, y=y)
    evidence = classifier.local_evidence(X)
    rows = [e[:, [c]] for e, c in zip(evidence, y, strict=True)]
    for scores in (FeatureSets.from_arrays(rows), {"features": FeatureSets.from_arrays(rows)}):
        found = evidence_faithfulness(classifier, X, scores=scores, y=y)
        np.testing.assert_array_equal(found.deletion, expected.deletion)
    before = classifier.predict_proba(X)[np.arange(len(X)), y]
    np.testing.assert_allclose(expected.deletion[:, 0], before, rtol=0, atol=1e-12)
    np.testing.assert_allclose(expected.insertion[:, -1], before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_columns_are_matched_by_name(kind):
    pandas = pytest.importorskip("pandas")
    X, y = make_sets(n=30, n_classes=3)
    frames = [pandas.DataFrame(x, columns=[*"abcd"]) for x in X]
    other = FeatureSets.from_arrays([frame[[*"dbca"]] for frame in frames])
    classifier = AttentionClusterClassifier(max_iter=3, random_state=0)
    classifier.fit(FeatureSets.from_arrays(frames), y)
    expected = evidence_faithfulness(
        classifier, FeatureSets.from_arrays(frames), scores=kind, random_state=0
    )
    found = evidence_faithfulness(classifier, other, scores=kind, random_state=0)
    np.testing.assert_allclose(found.deletion, expected.deletion, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, bool, np.float16])
def test_scores_of_any_real_dtype_rank_alike(fitted, dtype):
    classifier, X = fitted
    rng = np.random.default_rng(0)
    low = -128 if dtype is np.int8 else 0
    rows = rng.integers(low, 128 if low else 2, size=(X.lengths.sum(), 1))
    offsets = np.concatenate([[0], np.cumsum(X.lengths)])
    wide, narrow = (FeatureSets(rows.astype(kind), offsets) for kind in (np.float64, dtype))
    expected = evidence_faithfulness(classifier, X, scores=wide)
    found = evidence_faithfulness(classifier, X, scores=narrow)
    np.testing.assert_array_equal(found.deletion, expected.deletion)
    bad = FeatureSets(np.full(rows.shape, np.nan), offsets)
    with pytest.raises(ValueError, match="scores of modality 'features' has a number that is not"):
        evidence_faithfulness(classifier, X, scores=bad)


def test_y_takes_label_names_and_no_texts_of_numbers(fitted):
    pandas = pytest.importorskip("pandas")
    classifier, X = fitted
    with pytest.raises(ValueError, match="y has '0', but the classifier knows"):
        evidence_faithfulness(classifier, X, y=["0"] * 30)
    y = pandas.DataFrame(np.arange(60).reshape(30, 2) % 3 > 0, columns=["cat", "dog"]).astype(int)
    labelled = AttentionClusterClassifier(max_iter=2, random_state=0).fit(X, y)
    numbered = evidence_faithfulness(labelled, X, y=[1] * 30)
    for given in (["dog"] * 30, ["dog", 1] * 15):
        named = evidence_faithfulness(labelled, X, y=given)
        np.testing.assert_array_equal(named.deletion, numbered.deletion)


def two_modalities():
    rng, n = np.random.default_rng(0), 24
    y = np.arange(n) % 2
    rgb = [rng.normal(size=(rng.integers(1, 6), 4)) + label for label in y]
    audio = [rng.normal(size=(rng.integers(1, 6), 2)) if i % 3 else None for i in range(n)]
    items = [{"rgb": a, "audio": b} for a, b in zip(rgb, audio, strict=True)]
    return MultimodalFeatureSets.from_items(items), y


def test_modalities_are_ranked_together_and_may_vanish():
    X, y = two_modalities()
    classifier = MultimodalAttentionClusterClassifier(max_iter=5, random_state=0).fit(X, y)
    scores = {name: [np.zeros((n, 1)) for n in X[name].lengths] for name in X.names}
    scores["audio"] = [one + 1 for one in scores["audio"]]
    scores = {name: FeatureSets.from_arrays(own) for name, own in scores.items()}
    found = evidence_faithfulness(classifier, X, scores=scores, n_steps=1)
    has = ~X.missing["audio"]
    # The audio is removed first; of the pictures, which are tied, the last one stays.
    rgb = FeatureSets.from_arrays([x["rgb"][-1:] for x in X])
    silence = FeatureSets(np.empty((0, 2)), np.zeros(len(X) + 1, int))
    last = MultimodalFeatureSets({"rgb": rgb, "audio": silence})
    target = classifier.predict_proba(X).argmax(axis=1)
    expected = classifier.predict_proba(last)[np.arange(len(X)), target]
    np.testing.assert_allclose(found.deletion[:, -1], expected, rtol=0, atol=1e-12)
    for kind in KINDS:
        assert evidence_faithfulness(classifier, X[has], scores=kind).deletion.shape[0] == has.sum()
    with pytest.raises(ValueError, match="every modality of every item: rgb, audio"):
        evidence_faithfulness(classifier, X, scores="gradient")


@pytest.mark.parametrize("classes", [None, [1, 0]])
def test_modality_evidence_and_rest_add_up_to_the_logits(classes):
    X, y = two_modalities()
    classifier = MultimodalAttentionClusterClassifier(max_iter=5, random_state=0).fit(X, y)
    found = modality_evidence(classifier, X, classes)
    total = found.rest + sum(found.by_modality.values())
    logits = classifier.decision_function(X)[:, None]
    expected = logits if classes is None else np.hstack([logits, -logits])
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-12)
    single = AttentionClusterClassifier(max_iter=5, random_state=0).fit(X["rgb"], y)
    found = modality_evidence(single, X["rgb"], classes)
    assert [*found.by_modality] == ["features"]


def test_evidence_faithfulness_takes_ensembles_and_multilabel_classifiers():
    X, _ = make_sets(n=30)
    y = (np.arange(30)[:, None] >> np.arange(3)) % 2
    classifier = AttentionClusterClassifierCV(cv=2, max_iter=2, random_state=0).fit(X, y)
    found = evidence_faithfulness(classifier, X, y=np.zeros(30, int))
    expected = classifier.predict_proba(X)[:, 0]
    np.testing.assert_allclose(found.deletion[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scores": "saliency"}, ValueError, "scores='saliency' is not one of"),
        ({"scores": 3}, TypeError, "scores has type int"),
        ({"n_steps": 0}, ValueError, "n_steps=0 must be an int of 1 or more"),
        ({"n_steps": 2.5}, ValueError, "n_steps=2.5 must"),
        ({"y": [0, 1]}, ValueError, r"y has shape \(2,\)"),
        ({"y": [7] * 30}, ValueError, "y has 7, but the classifier knows"),
        ({"scores": {"rgb": None}}, ValueError, r"modalities \['rgb'\], but X has \['features'\]"),
    ],
)
def test_evidence_faithfulness_rejects_arguments(fitted, arguments, error, message):
    classifier, X = fitted
    with pytest.raises(error, match=message):
        evidence_faithfulness(classifier, X, **arguments)


def test_evidence_faithfulness_rejects_scores_of_other_sets_and_lists(fitted):
    classifier, X = fitted
    with pytest.raises(ValueError, match="must have one column and the lengths of X"):
        evidence_faithfulness(classifier, X, scores=classifier.local_evidence(X))
    with pytest.raises(ValueError, match="the lengths of X"):
        evidence_faithfulness(classifier, X, scores=X[::-1])
    with pytest.raises(TypeError, match=r"X has type list; expected FeatureSets"):
        evidence_faithfulness(classifier, [*X])
    rival = AverageClassifier(max_iter=1, tol=None).fit(X, np.arange(30) % 3)
    with pytest.raises(TypeError, match="AverageClassifier has no method local_evidence"):
        evidence_faithfulness(rival, X)
    assert evidence_faithfulness(rival, X, scores="random").deletion.shape == (30, 11)
