"""The report shows what scikit-learn computes, for every kind of model, and loads nothing."""

import base64
import hashlib
import re
import sys
import tracemalloc
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.preprocessing import StandardScaler

from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalAttentionClusterClassifierCV,
    MultimodalFeatureSets,
    save_feature_sets,
)
from acluster.inspection import LearningCurveDisplay, UnitDiversityDisplay, modality_importance
from acluster.inspection import report as full_report
from acluster.inspection._report import _blocks, _pictures, _scores
from acluster.inspection._report._calibration import calibration_of
from acluster.inspection._report._data_section import data_blocks
from acluster.inspection._report._mistakes import evidence_for, most_confident_mistakes
from acluster.inspection._report._model_sections import importance_blocks, sample_of
from acluster.inspection._report._predictions import Predictions, predictions_of
from acluster.inspection._report._score_sections import (
    calibration_blocks,
    confusion_blocks,
    mistakes_blocks,
    scores_blocks,
)
from acluster.inspection._report._scores import _Scorer, held_out_scores
from acluster.inspection._report._strips import draw_strips, strip_of
from acluster.rivals import (
    AttentionMILClassifier,
    AverageClassifier,
    PooledClassifier,
    PooledSVMClassifier,
)
from tests.conftest import make_sets

pytest.importorskip("jinja2")

HOSTILE = "<script>alert('1')</script>\"&$x^{\u202e"
report = partial(full_report, n_mistakes=2)  # each takes a tenth of a second
VOID = {"meta", "img", "link", "br", "hr", "input"}
SECTIONS = [
    "scores",
    "confusion",
    "mistakes",
    "calibration",
    "data",
    "learning",
    "units",
    "importance",
]


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(_scores, "_RESAMPLES", (50, 50))


class Page(HTMLParser):
    """The elements of a page, with a check that each is closed."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def check_page(html):
    """Check that the page is whole, has all sections, and loads and runs nothing else."""
    page = Page(html)
    assert [attributes["id"] for attributes in page.all("section")] == SECTIONS
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name == "src":
                assert re.match(r"data:image/(png|svg\+xml);base64,", value)
            if name == "href":
                assert value[1:] in SECTIONS
            assert name not in ("srcset", "action", "style")
    assert all(image["alt"] for image in page.all("img"))
    assert "url(" not in html
    assert "@import" not in html
    assert html.count("<script>") == html.count("</script>") == 1
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len({*ids})
    for tag in ("table", "div"):
        names = [own["aria-labelledby"] for own in page.all(tag) if "aria-labelledby" in own]
        assert len({*names}) == len(names) == len(page.all("table"))
        assert {*names} <= {*ids}
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    script = re.search("<script>(.*)</script>", html, re.S)[1]
    assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy
    return page


def quick(kind=AttentionClusterClassifier, **parameters):
    return kind(max_iter=8, random_state=0, **parameters)


def make_multimodal(n=60, seed=0):
    """Items of two modalities, the second of which is missing more often from class 1."""
    rng = np.random.default_rng(seed)
    rgb, y = make_sets(n=n, n_classes=3, seed=seed)
    items = []
    for i, rows in enumerate(rgb):
        item = {"rgb": rows}
        if y[i] != 1 or i % 5 == 0:
            item["audio"] = rng.normal(size=(rng.integers(1, 5), 2)) + y[i]
        items.append(item)
    return MultimodalFeatureSets.from_items(items), y


X, y3 = make_sets(n=60, n_classes=3, dtype=np.float32)  # as in a store
labels = np.array(["wren", "robin", "tit"])[y3]
indicator = np.stack([y3 == 0, y3 < 2, y3 == 2], axis=1).astype(int)


def random_predictions(kind, n=40, n_classes=4, seed=0, decimals=1):
    """Predictions with ties among the probabilities."""
    rng = np.random.default_rng(seed)
    n_classes = 2 if kind == "binary" else n_classes
    if kind == "multilabel":
        probabilities = np.round(rng.random((n, n_classes)), decimals)
        true = rng.integers(2, size=(n, n_classes))
        predicted = (probabilities > 0.5).astype(int)
    else:
        # Powers of two in the denominator: rows add up to exactly 1.
        counts = rng.multinomial(16, np.full(n_classes, 1 / n_classes), size=n)
        probabilities, true = counts / 16, rng.integers(n_classes, size=n)
        true[:n_classes] = np.arange(n_classes)
        predicted = probabilities.argmax(axis=1)
    names = [f"class {c}" for c in range(n_classes)]
    return Predictions(kind, np.arange(n_classes), names, true, predicted, probabilities)


def reference_scores(p, weight):
    """The same by scikit-learn."""
    true, predicted, proba = p.true, p.predicted, p.probabilities
    common = {"sample_weight": weight}
    f1 = {"zero_division": np.nan, **common}
    eps = np.finfo(float).eps
    if p.kind == "multilabel":
        clipped = np.clip(proba, eps, 1 - eps)
        loss = -(true * np.log(clipped) + (1 - true) * np.log(1 - clipped)).mean(axis=1)
        used = [c for c in range(true.shape[1]) if len(set(true[weight > 0, c])) == 2]
        return {
            "macro F1": metrics.f1_score(true, predicted, average="macro", **f1),
            "micro F1": metrics.f1_score(true, predicted, average="micro", **f1),
            "all labels right": metrics.accuracy_score(true, predicted, **common),
            "log-loss": np.average(loss, weights=weight),
            "ROC AUC": np.mean(
                [metrics.roc_auc_score(true[:, c], proba[:, c], **common) for c in used]
            ),
        }
    classes = np.unique(true)
    roc_auc = [metrics.roc_auc_score(true == c, proba[:, c], **common) for c in classes]
    return {
        "accuracy": metrics.accuracy_score(true, predicted, **common),
        "balanced accuracy": metrics.balanced_accuracy_score(true, predicted, **common),
        "macro F1": metrics.f1_score(true, predicted, average="macro", **f1),
        "log-loss": metrics.log_loss(true, proba, labels=p.classes, **common),
        "ROC AUC": roc_auc[1] if p.kind == "binary" else np.mean(roc_auc),
    }


@settings(max_examples=25)
@given(st.sampled_from(["binary", "multiclass", "multilabel"]), st.integers(0, 2**31))
def test_scores_equal_those_of_scikit_learn_with_sample_weight(kind, seed):
    p = random_predictions(kind, seed=seed)
    # The weights of a resample are whole; every class is kept, as scikit-learn needs it.
    weight = np.random.default_rng(seed).integers(1, 4, size=len(p.true)).astype(float)
    found = _Scorer(p)(weight)
    expected = reference_scores(p, weight)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)


@settings(max_examples=25)
@given(st.sampled_from(["binary", "multiclass", "multilabel"]), st.integers(0, 2**31))
def test_scores_of_a_resample_equal_those_of_repeated_items(kind, seed):
    p = random_predictions(kind, n=12, seed=seed)
    weight = np.bincount(np.random.default_rng(seed).integers(12, size=12), minlength=12)
    chosen = np.repeat(np.arange(12), weight)
    repeated = Predictions(
        kind, p.classes, p.names, p.true[chosen], p.predicted[chosen], p.probabilities[chosen]
    )
    expected = _Scorer(repeated)(np.ones(12))
    for name, value in _Scorer(p)(weight.astype(float)).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_class_scores_equal_those_of_scikit_learn(kind):
    p = random_predictions(kind)
    found = held_out_scores(p, n_resamples=1)
    expected = metrics.precision_recall_fscore_support(
        p.true, p.predicted, labels=p.classes, zero_division=np.nan
    )
    for own, value in zip((found.precision, found.recall, found.f1), expected, strict=False):
        np.testing.assert_allclose(own, value)
    assert np.array_equal(p.counts(), expected[3])


def test_intervals_contain_the_true_accuracy_at_their_level():
    rng, share, n_inside = np.random.default_rng(0), 0.8, 0
    for seed in range(200):
        true = np.zeros(150, dtype=int)
        predicted = (rng.random(150) > share).astype(int)
        p = Predictions("binary", np.arange(2), ["a", "b"], true, predicted, None)
        score = held_out_scores(p, n_resamples=100, random_state=np.random.RandomState(seed))
        assert score.scores[0].name == "accuracy"
        n_inside += score.scores[0].low <= share <= score.scores[0].high
    assert 0.89 * 200 <= n_inside <= 0.99 * 200


def test_intervals_depend_on_the_random_state_only():
    p = random_predictions("multiclass")
    first, second, other = (
        held_out_scores(p, random_state=np.random.RandomState(seed)).scores for seed in (0, 0, 1)
    )
    assert first == second
    assert first != other


def test_groups_are_drawn_whole():
    p = random_predictions("multiclass")
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(40), 5))
    copies = Predictions(
        p.kind, p.classes, p.names, p.true[order], p.predicted[order], p.probabilities[order]
    )
    alone = held_out_scores(p, random_state=np.random.RandomState(0))
    grouped = held_out_scores(copies, order, random_state=np.random.RandomState(0))
    assert grouped.n_units == 40
    for one, other in zip(alone.scores, grouped.scores, strict=True):
        np.testing.assert_allclose(
            [one.value, one.low, one.high], [other.value, other.low, other.high]
        )
    single = held_out_scores(copies, random_state=np.random.RandomState(0)).scores[0]
    assert single.high - single.low < 0.7 * (grouped.scores[0].high - grouped.scores[0].low)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_calibration_equals_its_definition(kind):
    p = random_predictions(kind, n=200, decimals=3)
    found = calibration_of(p, p.probabilities)
    if kind == "multilabel":
        pairs = list(zip(p.probabilities.ravel(), p.true.ravel(), strict=True))
    elif kind == "binary":
        pairs = list(zip(p.probabilities[:, 1], p.true, strict=True))
    else:
        pairs = list(zip(p.probabilities.max(axis=1), p.true == p.predicted, strict=True))
    expected = 0
    for b in range(10):
        inside = [(q, t) for q, t in pairs if b / 10 <= q and (q < (b + 1) / 10 or b == 9)]
        assert found.counts[b] == len(inside)
        if inside:
            q, t = np.mean(inside, axis=0)
            expected += abs(q - t) * len(inside) / len(pairs)
    assert found.expected_error == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_mistakes_are_the_wrong_labels_of_highest_probability(kind):
    p = random_predictions(kind)
    expected = []
    for i in range(len(p.true)):
        if kind != "multilabel" and p.true[i] != p.predicted[i]:
            expected.append(p.probabilities[i, p.predicted[i]])
        for c in range(p.n_classes) if kind == "multilabel" else ():
            if p.true[i, c] != p.predicted[i, c]:
                q = p.probabilities[i, c]
                expected.append(max(q, 1 - q))
    found = most_confident_mistakes(p, p.probabilities, 5)
    np.testing.assert_allclose([m.probability for m in found], sorted(expected)[::-1][:5])
    for one in found:
        if kind == "multilabel":
            assert p.true[one.item, one.true] != p.predicted[one.item, one.true]
            assert one.true_probability == pytest.approx(1 - one.probability)
        else:
            assert (one.true, one.predicted) == (p.true[one.item], p.predicted[one.item])
            assert one.true_probability == p.probabilities[one.item, one.true]


@pytest.mark.parametrize("y", [labels, labels == "wren", indicator])
def test_strips_of_mistakes_add_up_to_the_evidence_of_their_classes(y):
    clf = quick().fit(X, y)
    wrong = np.roll(y, 1, axis=0)
    p = predictions_of(clf, X, wrong)
    mistakes = most_confident_mistakes(p, p.probabilities, 6)
    logits = clf.decision_function(X).reshape(len(X), -1)
    _, constants = clf.local_evidence(X, return_constants=True)
    assert mistakes
    for mistake, strips in zip(mistakes, evidence_for(clf, X, p, mistakes), strict=True):
        sums = strips[""].values.sum(axis=1)
        of_features = (logits - constants.total)[mistake.item]
        if p.kind == "binary":
            expected = of_features * (1 if mistake.predicted == 1 else -1)
        elif p.kind == "multilabel":
            expected = of_features[[mistake.predicted]]
        else:
            expected = of_features[[mistake.predicted, mistake.true]]
        np.testing.assert_allclose(sums, expected, atol=1e-6)


@given(st.integers(1, 700), st.booleans(), st.integers(0, 2**31))
def test_strips_keep_all_evidence(n, is_timed, seed):
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(n, 2))
    seconds = rng.integers(0, 900, size=n) / 4 if is_timed else None
    strip = strip_of(evidence, seconds)
    assert strip.values.shape == (2, len(strip.edges) - 1)
    assert strip.values.shape[1] <= 200
    assert (np.diff(strip.edges) > 0).all()
    np.testing.assert_allclose(strip.values.sum(axis=1), evidence.sum(axis=0), atol=1e-9)
    if is_timed and strip.values.shape[1] < 200:
        for time in np.unique(seconds):
            cell = np.searchsorted(strip.edges, time, "right") - 1
            own = evidence[seconds == time].sum(axis=0)
            np.testing.assert_allclose(strip.values[:, cell], own, atol=1e-9)


def test_sample_of_bounds_local_features():
    rng = np.random.RandomState(0)
    assert len(sample_of(X, 7, 10**9, rng)) == 7
    chosen = sample_of(X, 60, 50, rng)
    assert X.lengths[chosen].sum() <= 50
    assert (np.diff(chosen) > 0).all()
    assert len(sample_of(X, 60, 0, rng)) == 1


KINDS = {
    "multiclass": (quick(), X, labels, {}),
    "binary": (quick(n_members=2, cluster_size=4), X, labels == "wren", {}),
    "multilabel": (quick(), X, indicator, {"confusion": "several labels"}),
    "rival": (
        AttentionMILClassifier(max_iter=3, tol=None, random_state=0),
        X,
        labels,
        {"mistakes": "no evidence", "importance": "one modality"},
    ),
    "average": (
        AverageClassifier(max_iter=3, tol=None, random_state=0),
        X,
        labels,
        {"mistakes": "no evidence", "units": "no attention weights"},
    ),
    "pooled": (
        PooledClassifier(),
        X,
        labels,
        {"learning": "no learning curve", "mistakes": "no evidence", "units": "no attention"},
    ),
    "svm": (
        PooledSVMClassifier(),
        X,
        labels,
        {"calibration": "predict_proba", "scores": "predict_proba", "mistakes": "predict_proba"},
    ),
    "cv": (
        AttentionClusterClassifierCV(cv=2, max_iter=3, n_configurations=2, random_state=0),
        X,
        labels,
        {"learning": "several folds", "units": "no attention"},
    ),
    "multimodal": (quick(MultimodalAttentionClusterClassifier), *make_multimodal(), {}),
    "multimodal cv": (
        MultimodalAttentionClusterClassifierCV(
            cv=2, max_iter=3, n_configurations=1, random_state=0
        ),
        *make_multimodal(),
        {"learning": "several folds"},
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_report_of_every_kind_of_model(kind):
    clf, items, y, absent = KINDS[kind]
    clf.fit(items[:40], y[:40])
    found = report(clf, items[40:], y[40:])
    page = check_page(found.html)
    for section, reason in absent.items():
        own = found.html.split(f'<section id="{section}">')[1].split("</section>")[0]
        line = re.search('<p class="absent">(.*?)</p>', own, re.S)[1]
        assert reason in line
    score = found.scores["macro F1" if kind == "multilabel" else "accuracy"]
    if kind != "multilabel":
        assert score[0] == pytest.approx(clf.score(items[40:], y[40:]))
    else:
        assert found.scores["all labels right"][0] == clf.score(items[40:], y[40:])
    assert f"{score[0]:.3f}" in page.text
    assert type(clf).__name__ in page.text
    if hasattr(clf, "oof_score_"):
        assert f"{clf.oof_score_:.3f}" in page.text
    assert "20 items" in page.text


def test_report_escapes_names_from_files():
    items, y = make_multimodal(n=30)
    bold = "<b onclick='x'>audio"  # names of modalities have no slash
    items = MultimodalFeatureSets({"rgb": items["rgb"], bold: items["audio"]})
    names = np.array([f"{HOSTILE}{c}" for c in range(3)])
    clf = quick(MultimodalAttentionClusterClassifier).fit(items, names[y])
    folder_y = np.roll(names[y], 1)  # so that there are mistakes, whose ids are shown

    class Named(MultimodalFeatureSets):
        id = np.array([f"{HOSTILE}item{i}" for i in range(30)])

    found = report(clf, Named({name: items[name] for name in items.names}), folder_y,
                   description=HOSTILE)  # fmt: skip
    page = check_page(found.html)
    assert "\u202e" not in found.html
    shown = HOSTILE.replace("\u202e", "\\u202e")
    for text in (shown, f"{shown}item", bold, f"{shown}2"):
        assert text in page.text


def test_report_reads_a_store_and_its_columns(tmp_path):
    ids, groups = [f"clip{i}" for i in range(60)], np.arange(60) // 6
    save_feature_sets(tmp_path / "s.zarr", X, label=labels, id=ids, group=groups)
    clf = quick().fit(X, labels)
    stored = report(clf, tmp_path / "s.zarr")
    page = check_page(stored.html)
    assert "resamples of the 10 groups" in page.text
    assert str(tmp_path / "s.zarr") in page.text
    assert stored.scores == report(clf, X, labels, groups=groups).scores
    alone = report(clf, tmp_path / "s.zarr", groups=False)
    assert "resamples of the 60 items" in Page(alone.html).text
    assert alone.scores == report(clf, X, labels).scores
    assert alone.scores == report(clf, tmp_path / "s.zarr", groups=None).scores
    wrong = report(clf, tmp_path / "s.zarr", np.roll(labels, 1))
    assert "clip" in " ".join(re.findall("<h3>(.*?)</h3>", wrong.html))


def test_report_matches_label_columns_by_name(tmp_path):
    pd = pytest.importorskip("pandas")
    y = pd.DataFrame(indicator, columns=["wren", "owl", "tit"])
    clf = quick().fit(X, y)
    expected = report(clf, X, y).scores
    turned = y[["tit", "wren", "owl"]]
    assert report(clf, X, turned).scores == expected
    assert report(clf, X, turned.to_numpy()).scores != expected
    save_feature_sets(tmp_path / "s.zarr", X, label=turned)
    assert report(clf, tmp_path / "s.zarr").scores == expected
    message = r"columns \['wren', 'bat', 'tit'\], but .* fitted on \['wren', 'owl', 'tit'\]"
    with pytest.raises(ValueError, match=message):
        report(clf, X, y.rename(columns={"owl": "bat"}))


def test_report_names_items_without_ids_by_their_numbers():
    clf = quick().fit(X, labels)
    found = full_report(clf, X[[7, 8, 9]], np.roll(labels[7:10], 1))
    assert {"item 7", "item 8", "item 9"} == set(re.findall("<h3>(.*?)</h3>", found.html))


def test_report_shows_times_of_places():
    timed = FeatureSets.from_arrays(
        list(X), places=[{"seconds": 0.5 * np.arange(length)} for length in X.lengths]
    )
    clf = quick().fit(timed, labels)

    def units(items):
        html = report(clf, items, np.roll(labels, 1)).html
        card = html.split('<ol class="cards">')[1]
        return base64.b64decode(re.search(r"svg\+xml;base64,([^\"]*)", card)[1]).decode()

    assert ">seconds<" in units(timed)
    assert ">local feature<" in units(X)


def test_report_notes_missing_modalities():
    items, y = make_multimodal()
    clf = quick(MultimodalAttentionClusterClassifier).fit(items, y)
    page = check_page(report(clf, items, y).html)
    assert "A missing modality predicts the label: 80% of the items labeled 1" in page.text
    assert "without audio" in page.text


def test_data_blocks_does_not_copy_long_labels_for_each_item():
    items, y = make_multimodal(n=60)
    chosen = items[np.arange(6000) % 60]
    names = ["x" * 10_000 + str(c) for c in range(3)]
    true = y[np.arange(6000) % 60]
    p = Predictions("multiclass", np.arange(3), names, true, true, None)
    tracemalloc.start()
    blocks = data_blocks(chosen, p)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # as texts of equal length, they would take 240 MB
    assert any("A missing modality predicts" in getattr(one, "text", "") for one in blocks)


def test_report_of_one_item_and_of_absent_classes():
    clf = PooledClassifier().fit(X, labels)
    found = report(clf, X[:1], labels[:1])
    page = check_page(found.html)
    assert np.isnan(found.scores["accuracy"][1:]).all()
    assert np.isnan(found.scores["ROC AUC"][0])
    assert "2 of the 3 classes or labels have no item here: robin, tit" in page.text
    assert "Balanced accuracy and ROC AUC leave them out; macro F1 counts one as 0" in page.text


def test_report_of_many_classes_lists_pairs_instead_of_a_matrix():
    y = np.arange(60) % 30
    clf = PooledClassifier().fit(X, y)
    wrong = np.where(y == 3, 4, y)
    found = report(clf, X, wrong)
    assert "Confusion matrix of" not in found.html
    predicted = clf.predict(X)
    pairs = {(t, p) for t, p in zip(wrong.tolist(), predicted.tolist(), strict=True) if t != p}
    assert f"In all, {len(pairs)} pairs of classes with mistakes" in Page(found.html).text


def test_report_predicts_once():
    class Spy(PooledClassifier):
        n_predicted = 0

        def predict_proba(self, X):
            Spy.n_predicted += len(X)
            return super().predict_proba(X)

    report(Spy().fit(X, labels), X, labels)
    assert Spy.n_predicted == 60


def test_report_scores_what_predict_returns():
    y = np.where(labels == "wren", "wren", "other")
    clf = FixedThresholdClassifier(PooledClassifier(), threshold=0.9, pos_label="wren").fit(X, y)
    assert (clf.predict(X) != clf.estimator_.predict(X)).any()
    p = predictions_of(clf, X, y)
    assert np.array_equal(clf.classes_[p.predicted], clf.predict(X))
    assert held_out_scores(p, n_resamples=1).scores[0].value == clf.score(X, y)


def test_report_accepts_what_classifiers_accept():
    clf = quick().fit(X, labels)
    expected = report(clf, X, labels).scores
    assert report(clf, list(X), labels.tolist()).scores == expected
    items, y = make_multimodal(n=12)
    both = quick(MultimodalAttentionClusterClassifier).fit(items, y)
    expected = report(both, items, y).scores
    audio = [rows if len(rows) else None for rows in items["audio"]]
    assert report(both, {"rgb": items["rgb"], "audio": audio}, y).scores == expected
    assert report(both, list(items), y).scores == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": None}, r"X has no labels\. Pass them as y"),
        ({"y": labels[:9]}, "y has 9 labels, but X has 60 items"),
        (
            {"y": np.where(y3 == 0, "owl", labels)},
            r"label 'owl', but .* knows \['rob.* hold out another",
        ),
        ({"y": y3}, "y has the label 0, but the classifier knows"),
        ({"y": indicator}, r"y has shape \(60, 3\); .* fitted on one label per item"),
        ({"groups": [1, 2]}, r"groups has shape \(2,\), but X has 60 items"),
        ({"groups": [None, *"ab" * 29, "c"]}, r"groups\[0\] is None; every item needs"),
        ({"groups": np.r_[np.nan, np.ones(59)]}, "Input groups contains NaN"),
        ({"n_mistakes": -1}, "n_mistakes=-1"),
        ({"n_mistakes": 2.5}, "n_mistakes=2.5 must be an int"),
        ({"X": X[:0], "y": labels[:0]}, "X has no items"),
    ],
)
def test_report_rejects(arguments, message):
    clf = PooledClassifier().fit(X, labels)
    with pytest.raises(ValueError, match=message):
        report(clf, **({"X": X, "y": labels} | arguments))


def test_report_rejects_what_is_no_fitted_classifier():
    with pytest.raises(NotFittedError):
        report(quick(), X, labels)
    with pytest.raises(TypeError, match="no classes_ or predict"):
        report(StandardScaler().fit([[1.0]]), X, labels)


@pytest.mark.parametrize("package", ["jinja2", "matplotlib.figure"])
def test_report_names_the_extra_that_it_needs(monkeypatch, package):
    clf = PooledClassifier().fit(X, labels)
    clf.predict = clf.predict_proba = None  # the message comes before any prediction
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="with its extra 'report'"):
        report(clf, X, labels)


def test_report_is_saved_whole_or_not_at_all(tmp_path):
    found = report(PooledClassifier().fit(X, labels), X, labels)
    path = tmp_path / "page.html"
    found.save(path)
    assert path.read_text(encoding="utf-8") == found.html
    assert "accuracy" in repr(found)
    with pytest.raises(FileNotFoundError):
        found.save(tmp_path / "no" / "page.html")
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]


def test_pictures_are_png_where_svg_is_larger():
    def picture(n_lines):
        figure = _pictures.new_figure(3, 2)
        figure.subplots().plot(np.random.default_rng(0).normal(size=(50, n_lines)))
        return _pictures.picture_of(figure, "lines").source

    with _pictures.style():
        assert picture(1).startswith("data:image/svg+xml;base64,")
        assert picture(200).startswith("data:image/png;base64,")
        assert picture(1) == picture(1)


def test_confusion_shows_whole_numbers_in_cells_that_fit_them():
    counts = np.full((12, 12), 123_456)
    with _pictures.style():
        large = _pictures.draw_confusion(counts, list("abcdefghijkl"))
        small = _pictures.draw_confusion(counts % 7, list("abcdefghijkl"))
    large.canvas.draw()
    axes = large.axes[0]
    width = axes.get_window_extent().width / 12
    assert {text.get_text() for text in axes.texts} == {"123456"}
    assert max(text.get_window_extent().width for text in axes.texts) < width
    assert large.get_figwidth() > small.get_figwidth()


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_calibration_caption_holds_for_the_task(kind):
    p = random_predictions(kind)
    caption = calibration_blocks(p)[-1].caption
    assert ("too cautious" in caption) == (kind == "multiclass")
    assert ("more often than predicted" in caption) == (kind != "multiclass")


@pytest.mark.parametrize(
    ("n", "n_wrong", "remark"),
    [(19, 9, "19 items are too few for"), (30, 0, "width 0 does not mean"), (30, 9, "")],
)
def test_scores_section_warns_of_unreliable_intervals(n, n_wrong, remark):
    true = np.arange(n) % 2
    predicted = np.where(np.arange(n) < n_wrong, 1 - true, true)
    p = Predictions("binary", np.arange(2), ["a", "b"], true, predicted, None)
    blocks = scores_blocks(held_out_scores(p, n_resamples=50), p, False, PooledSVMClassifier())
    found = [block.text for block in blocks if getattr(block, "kind", "") == "remark"]
    assert len(found) == bool(remark)
    assert remark in "".join(found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_loss_of_certain_mistakes_equals_that_of_scikit_learn(dtype):
    class Certain(PooledClassifier):
        def predict_proba(self, X):
            return np.eye(3, dtype=dtype)[self.classes_.searchsorted(self.predict(X))]

        def predict(self, X):
            return np.repeat("robin", len(X))

    clf = Certain().fit(X, labels)
    scores = {one.name: one.value for one in held_out_scores(predictions_of(clf, X, labels)).scores}
    expected = metrics.log_loss(labels, clf.predict_proba(X))
    assert scores["log-loss"] == pytest.approx(expected, rel=1e-6)


def test_importance_is_the_decrease_in_accuracy():
    class Other(MultimodalAttentionClusterClassifier):
        def score(self, X, y, sample_weight=None):
            return 0.5

    items, y = make_multimodal(n=30)
    clf, rng = quick(Other).fit(items, y), np.random.RandomState(0)
    rng.permutation(30)  # which draws the sample
    expected = modality_importance(clf, items, y, scoring="accuracy", random_state=rng)
    blocks = importance_blocks(clf, items, y, np.random.RandomState(0))
    found = {row[0].text: row[1].value for row in blocks[-1].rows}
    assert found == expected.importances_mean
    assert any(found.values())


def test_mistakes_that_are_not_asked_for_are_not_said_to_be_absent():
    p = random_predictions("multiclass")
    ids = np.arange(len(p.true))
    (text,) = mistakes_blocks(PooledClassifier(), X, ids, p, 0)
    assert text.text == "Not shown (n_mistakes=0)."
    right = replace(p, predicted=p.true)
    (text,) = mistakes_blocks(PooledClassifier(), X, ids, right, 5)
    assert text.text == "There are no mistakes."


def test_axes_of_pictures_count_in_whole_numbers():
    p = random_predictions("multiclass", n=4)
    strip = strip_of(np.ones((2, 1)), None)
    with _pictures.style():
        sizes = _pictures.draw_sizes({"few": np.array([1, 2])})
        calibration = _pictures.draw_calibration(calibration_of(p, p.probabilities))
        strips = draw_strips({"": strip}, ["a"])
        curve = _pictures.new_figure(5, 3)
        shown = LearningCurveDisplay([1.0, 0.5], validation_scores=[0.5, 1]).plot(curve.subplots())
    assert shown.score_ax_.spines.right.get_visible()
    counting = [sizes.axes[0].xaxis, sizes.axes[0].yaxis, calibration.axes[1].yaxis]
    for axis in [*counting, strips.axes[0].xaxis, curve.axes[0].xaxis]:
        ticks = axis.get_majorticklocs()
        assert len(ticks) > 1
        assert (ticks == np.round(ticks)).all()


def test_legend_of_a_learning_curve_hides_no_curve():
    epochs = np.arange(9.0)
    figure = _pictures.new_figure(5.2, 3.2)
    shown = LearningCurveDisplay(
        list(np.exp(-epochs)), validation_scores=list(1 - np.exp(-epochs))
    ).plot(figure.subplots())
    figure.canvas.draw()
    box = shown.score_ax_.get_legend().get_window_extent()
    for axes in (shown.ax_, shown.score_ax_):
        points = axes.lines[0].get_transform().transform(axes.lines[0].get_xydata())
        assert not any(box.contains(*point) for point in points)
    assert shown.score_ax_.get_ylim() == pytest.approx((-0.05, 1.05), abs=1e-3)


def test_first_number_of_strips_is_within_the_picture():
    seconds = 1000 + np.arange(30) / 8
    with _pictures.style():
        figure = draw_strips({"": strip_of(np.ones((30, 1)), seconds)}, ["a"])
    figure.canvas.draw()
    axes = figure.axes[0]
    low, high = axes.get_xlim()
    boxes = [
        label.get_window_extent()
        for label, tick in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)
        if low <= tick <= high
    ]
    assert min(box.x0 for box in boxes) >= 0


def test_units_of_a_report_have_labels_that_do_not_overlap():
    weights = np.random.default_rng(0).random((5, 128))
    with _pictures.style():
        figure = _pictures.new_figure(1.4 * 7, 7)
        display = UnitDiversityDisplay.from_attention(
            [weights / weights.sum(axis=0)], ax=figure.subplots()
        )
        figure.canvas.draw()
    boxes = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    tops, bottoms = (sorted(getattr(box, end) for box in boxes) for end in ("y1", "y0"))
    assert len(boxes) >= 16
    assert all(top <= bottom for top, bottom in zip(tops, bottoms[1:], strict=False))


def test_single_things_are_named_in_the_singular():
    true = np.arange(30) % 3
    predicted = np.r_[1, true[1:]]
    p = Predictions("multiclass", np.arange(3), list("abc"), true, predicted, np.eye(3)[predicted])
    blocks = confusion_blocks(p)
    assert blocks[-1].caption.endswith("In all, 1 pair of classes with mistakes.")
    blocks = mistakes_blocks(PooledClassifier(), X[:30], np.arange(30), p, 5)
    assert blocks[0].text == "There is no other mistake than this."
    assert [_blocks.counted(n, "item") for n in (0, 1, 2000)] == [
        "0 items",
        "1 item",
        "2,000 items",
    ]


def test_cells_of_undefined_numbers_are_dashes():
    assert _blocks.number_cell(np.nan).text == "\N{EN DASH}"
    assert _blocks.number_cell(0.25, ".0%").text == "25%"
    assert len(_blocks.shortened("a" * 99)) == 40
