"""The display draws the evidence of an item, and states how it adds up to the logits."""

import itertools
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.inspection import EvidenceDisplay
from acluster.inspection._evidence_item import AGAINST, FOR, evidence_colors
from acluster.preprocessing import LocalFeatureTransformer
from acluster.rivals import AttentionMILClassifier, AverageClassifier
from tests.conftest import make_sets


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def fitted():
    X, _ = make_sets(n=30, n_classes=3)
    y = np.array(["ant", "bee", "cow", "dog"])[np.arange(30) % 4]
    clf = AttentionClusterClassifier(
        cluster_size=3, max_iter=5, learning_rate=0.05, random_state=0, n_attended=None
    )
    return clf.fit(X, y), X


@pytest.fixture(scope="module")
def fitted_multimodal():
    rng = np.random.default_rng(0)
    lengths = np.where(np.arange(20) % 5 == 0, 0, 8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    sounds = FeatureSets(
        rng.normal(size=(offsets[-1], 2)), offsets, places={"seconds": np.arange(offsets[-1]) % 8}
    )
    frames = rng.normal(size=(20, 4, 3))
    times = [{"seconds": [0.0, 2.0, 4.0, 6.0]}] * 20
    X = MultimodalFeatureSets(
        {"frames": FeatureSets.from_arrays(frames, places=times), "sounds": sounds}
    )
    clf = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=4, learning_rate=0.05)
    return clf.fit(X, np.arange(20) % 2), X


def heights(axes):
    return np.array([bar.get_height() for bar in axes.patches])


def title(axes, loc="left"):
    return axes.get_title(loc=loc).replace("\N{MINUS SIGN}", "-")


def test_evidence_display_bars_are_the_evidence_of_the_most_probable_classes(fitted):
    clf, X = fitted
    display = EvidenceDisplay.from_estimator(clf, X[[4]])
    assert display.kind_ == "rows"
    probabilities, logits = clf.predict_proba(X[[4]])[0], clf.decision_function(X[[4]])[0]
    best = np.argsort(-probabilities)[:3]
    [evidence], constants = clf.local_evidence(X[[4]], return_constants=True)
    assert len(display.axes_) == 3
    assert clf.classes_[best[0]] == clf.predict(X[[4]])[0]
    for axes, c in zip(display.axes_, best, strict=True):
        np.testing.assert_allclose(heights(axes), evidence[:, c], rtol=1e-6)
        centers = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
        np.testing.assert_allclose(centers, np.arange(len(evidence)))
        numbers = logits[c], evidence[:, c].sum(), constants.total[0, c]
        text = "logit {:+.2f} (evidence {:+.2f}, constant {:+.2f})".format(*numbers)
        assert title(axes) == f"{clf.classes_[c]}: probability {probabilities[c]:.2f}, {text}"
    assert len({axes.get_ylim() for axes in display.axes_}) == 1
    low, high = display.axes_[0].get_ylim()
    assert low < evidence[:, best].min()
    assert high > evidence[:, best].max()
    assert display.figure_.get_supylabel() == "evidence (logit)"
    assert [axes.get_xlabel() for axes in display.axes_] == ["", "", "local feature"]
    display.figure_.canvas.draw()


def test_evidence_display_colors_tell_the_sign():
    display = EvidenceDisplay.from_evidence([[0.5], [-2.0], [1.0], [-0.1]], ["a"])
    colors = [bar.get_facecolor()[:3] for bar in display.axes_[0].patches]
    assert colors == [to_rgb(color) for color in (FOR, AGAINST, FOR, AGAINST)]
    lightness = [np.dot(to_rgb(color), [0.299, 0.587, 0.114]) for color in (AGAINST, FOR)]
    assert lightness[1] - lightness[0] > 0.3  # in gray print
    shades = evidence_colors()(np.linspace(0, 1, 65))[:, :3] @ [0.299, 0.587, 0.114]
    assert (np.diff(shades) > 0).all()


def test_evidence_display_takes_given_classes_in_their_order(fitted):
    clf, X = fitted
    display = EvidenceDisplay.from_estimator(clf, X[3], classes=["dog", "ant"])
    assert [title(axes).split(":")[0] for axes in display.axes_] == ["dog", "ant"]
    [evidence] = clf.local_evidence([X[3]], ["dog", "ant"])
    np.testing.assert_allclose(heights(display.axes_[1]), evidence[:, 1])
    with pytest.raises(ValueError, match=r"classes has 'eel', but the classifier knows"):
        EvidenceDisplay.from_estimator(clf, X[3], classes=["eel"])


def test_evidence_display_chooses_classes_of_binary_and_multilabel_classifiers():
    X, _ = make_sets(n=24)
    binary = AttentionClusterClassifier(max_iter=3, random_state=0).fit(X, np.arange(24) % 2)
    for i in range(6):
        display = EvidenceDisplay.from_estimator(binary, X[[i]])
        assert [title(axes).split(":")[0] for axes in display.axes_] == [
            f"class {binary.predict(X[[i]])[0]}"
        ]
        sign = 2 * binary.predict(X[[i]])[0] - 1
        assert float(title(display.axes_[0]).split("logit ")[1].split()[0]) == pytest.approx(
            sign * binary.decision_function(X[[i]])[0], abs=0.006
        )
    y = np.stack([np.ones(24), np.arange(24) % 2, np.ones(24), np.zeros(24)], axis=1).astype(int)
    y[0] = [0, 0, 0, 1]
    labels = AttentionClusterClassifier(max_iter=30, random_state=0).fit(X, y)
    probabilities = labels.predict_proba(X[[3]])[0]
    display = EvidenceDisplay.from_estimator(labels, X[[3]])
    expected = np.argsort(-probabilities)[: (probabilities > 0.5).sum()]
    assert len(expected) > 1
    assert [title(axes).split(":")[0] for axes in display.axes_] == [f"class {c}" for c in expected]
    y *= y.sum(axis=1, keepdims=True) == 1
    none = AttentionClusterClassifier(max_iter=30, random_state=0).fit(X, y)
    assert none.predict_proba(X[[3]]).max() < 0.5
    assert len(EvidenceDisplay.from_estimator(none, X[[3]]).axes_) == 1


def test_evidence_display_names_labels_of_several(fitted):
    _, X = fitted
    pandas = pytest.importorskip("pandas")
    y = pandas.DataFrame({"p": np.arange(30) % 2, "q": np.arange(30) % 3 == 0}).astype(int)
    clf = AttentionClusterClassifier(max_iter=3, random_state=0).fit(X, y)
    probabilities = clf.predict_proba(X[[0]])[0]
    display = EvidenceDisplay.from_estimator(clf, X[[0]], classes=["q", 0])
    for axes, column, shown in zip(display.axes_, (1, 0), ("q", "class 0"), strict=True):
        assert title(axes).startswith(f"{shown}: probability {probabilities[column]:.2f}")


def test_evidence_display_of_a_cross_validated_classifier(fitted):
    _, X = fitted
    clf = AttentionClusterClassifierCV(cv=2, max_iter=2, random_state=0).fit(X, np.arange(30) % 3)
    display = EvidenceDisplay.from_estimator(clf, X[[2]])
    logits = clf.decision_function(X[[2]])[0]
    for axes in display.axes_:
        c = int(title(axes)[len("class ")])
        logit = float(title(axes).split("logit ")[1].split()[0])
        assert logit == pytest.approx(logits[c], abs=0.006)


def test_evidence_display_modalities_share_time_and_scale(fitted_multimodal, tmp_path):
    clf, X = fitted_multimodal
    save_feature_sets(tmp_path / "sets.zarr", X)
    for sets in (X, open_feature_sets(tmp_path / "sets.zarr")):
        display = EvidenceDisplay.from_estimator(clf, sets[[3]], classes=[0, 1])
        assert len(display.axes_) == 4  # both modalities of class 0, then of class 1
        evidence = clf.local_evidence(X[[3]], [0, 1])
        for axes, c, name in zip(display.axes_, (0, 0, 1, 1), X.names * 2, strict=True):
            np.testing.assert_allclose(heights(axes), evidence[name][0][:, c], rtol=1e-4, atol=1e-6)
            centers = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
            np.testing.assert_allclose(centers, X[name].places[3].ravel())
            total = evidence[name][0][:, c].sum()
            assert title(axes, "right") == f"{name}, evidence {total:+.2f}"
        assert len({axes.get_ylim() for axes in display.axes_}) == 1
        assert len({axes.get_xlim() for axes in display.axes_}) == 1
        assert [axes.get_xlabel() for axes in display.axes_] == ["", "", "", "time (s)"]
        display.figure_.canvas.draw()


def test_evidence_display_of_a_missing_modality(fitted_multimodal):
    clf, X = fitted_multimodal
    display = EvidenceDisplay.from_estimator(clf, X[[5]])
    frames, sounds = display.axes_
    assert title(sounds, "right") == "sounds: missing"
    assert not sounds.patches
    assert len(frames.patches) == 4
    assert frames.get_xlim() == sounds.get_xlim()
    logit = clf.decision_function(X[[5]])[0] * (2 * clf.predict(X[[5]])[0] - 1)
    assert f"logit {logit:+.2f}" in title(frames)
    only = EvidenceDisplay.from_estimator(clf, X[[5]], modality="sounds")
    assert len(only.axes_) == 1
    assert "evidence of sounds +0.00, of the rest" in title(only.axes_[0])
    display.figure_.canvas.draw()
    only.figure_.canvas.draw()


def test_evidence_display_of_modalities_without_times_names_them(fitted_multimodal):
    clf, X = fitted_multimodal
    display = EvidenceDisplay.from_estimator(clf, X[3])
    labels = [axes.get_xlabel() for axes in display.axes_]
    assert labels == ["local feature of frames", "local feature of sounds"]
    display = EvidenceDisplay.from_estimator(
        clf, X[3], places={"sounds": {"seconds": 10 * np.arange(8)}}
    )
    assert display.axes_[1].get_xlabel() == "time (s)"
    assert display.axes_[1].patches[-1].get_x() > 60


@settings(max_examples=25, deadline=None)
@given(n=st.integers(101, 2000), seed=st.integers(0, 99), is_regular=st.booleans())
def test_evidence_display_sums_of_bins_add_up(n, seed, is_regular):
    plt.close("all")
    rng = np.random.default_rng(seed)
    evidence = rng.normal(size=(n, 1))
    seconds = np.arange(n) if is_regular else rng.gamma(0.1, size=n)
    display = EvidenceDisplay.from_evidence(evidence, ["a"], places={"seconds": seconds})
    (axes,) = display.axes_
    supporting, opposing = (patch.get_data() for patch in axes.patches)
    assert len(supporting.values) == min(n, 300)
    assert (supporting.values >= 0).all()
    assert (opposing.values <= 0).all()
    assert (supporting.values * opposing.values == 0).all()
    sums = supporting.values + opposing.values
    assert sums.sum() == pytest.approx(evidence.sum())
    expected = np.histogram(seconds, bins=supporting.edges, weights=evidence[:, 0])[0]
    np.testing.assert_allclose(sums, expected, atol=1e-9)
    is_stated = title(axes, "right") == f"sum in each of {len(sums)} bins"
    assert is_stated == (np.histogram(seconds, bins=supporting.edges)[0].max() > 1)
    assert supporting.edges[0] == seconds.min()


def test_evidence_display_of_60_000_local_features_fits_a_screen():
    rng = np.random.default_rng(0)
    evidence = {f"m{i}": rng.normal(size=(60_000, 3)) for i in range(4)}
    started = time.process_time()
    display = EvidenceDisplay.from_evidence(evidence, ["a", "b", "c"])
    display.figure_.canvas.draw()
    assert time.process_time() - started < 6  # 1 s on one core
    assert display.figure_.get_size_inches().tolist() == [10, 9]
    for axes in display.axes_:
        assert title(axes, "right").endswith(", sum in each of 300 bins")
    tops = [(axes.get_tightbbox().y0, axes.get_tightbbox().y1) for axes in display.axes_]
    overlaps = [below[1] - above[0] for above, below in itertools.pairwise(tops)]
    assert max(overlaps) <= 1


def tiles(n_rows=4, n_columns=5, size=16):
    rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
    return {"x": size * columns, "y": size * rows}


def test_evidence_display_draws_a_map_per_class():
    evidence = np.random.default_rng(0).normal(size=(20, 2))
    display = EvidenceDisplay.from_evidence(evidence, ["a", "b"], places=tiles())
    assert display.kind_ == "map"
    for drawn, own in zip(display.maps_, evidence.T, strict=True):
        np.testing.assert_array_equal(drawn.get_array().ravel(), own)
        low, high = drawn.get_clim()
        assert -low == high == np.abs(evidence).max()  # the middle of the colors is 0
    assert title(display.axes_[0]) == f"a: evidence {evidence[:, 0].sum():+.2f}"
    assert display.figure_.axes[-1].get_ylabel() == "evidence (logit)"
    display.figure_.canvas.draw()
    rows = EvidenceDisplay.from_evidence(evidence, ["a", "b"], places=tiles(), kind="rows")
    np.testing.assert_array_equal(heights(rows.axes_[0]), evidence[:, 0])


def test_evidence_display_map_over_a_thumbnail_shows_it_where_there_is_no_evidence():
    evidence = np.linspace(-1, 1, 20)[:, None]
    image = np.random.default_rng(0).random((8, 10, 3))
    display = EvidenceDisplay.from_evidence(
        evidence, ["a"], places=tiles(), thumbnail=image, scale=8, colorbar=False
    )
    below, above = display.axes_[0].images
    np.testing.assert_array_equal(below.get_array(), image)
    assert tuple(below.get_extent()) == (0, 80, 64, 0)
    opacity = above.cmap(above.norm([-1.0, 0.0, 1.0]))[:, 3]
    assert opacity[0] == opacity[2] > 0.5 > 0.3 > opacity[1] > 0
    assert (display.axes_[0].get_xlabel(), display.axes_[0].get_ylabel()) == ("x", "y")
    assert display.axes_[0].get_subplotspec().get_geometry()[:2] == (1, 1)
    assert len(display.figure_.axes) == 1


def test_evidence_display_map_draws_the_largest_absolute_values_on_top():
    rng = np.random.default_rng(0)
    scattered, evidence = {"x": rng.random(100), "y": rng.random(100)}, rng.normal(size=(100, 1))
    for options, kind in (({}, PathCollection), ({"tile_size": 0.1}, PolyCollection)):
        display = EvidenceDisplay.from_evidence(evidence, ["a"], places=scattered, **options)
        (drawn,) = display.maps_
        assert isinstance(drawn, kind)
        assert (np.diff(np.abs(drawn.get_array())) >= 0).all()
        np.testing.assert_allclose(np.sort(drawn.get_array()), np.sort(evidence[:, 0]))


def test_evidence_display_map_reads_positions_of_a_container():
    rng = np.random.default_rng(0)
    images = FeatureSets.from_arrays(rng.normal(size=(12, 20, 3)), places=[tiles()] * 12)
    sounds = FeatureSets.from_arrays(rng.normal(size=(12, 2, 3)))
    X = MultimodalFeatureSets({"images": images, "sounds": sounds})
    clf = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=2, n_attended=None)
    clf.fit(X, np.arange(12) % 2)
    assert EvidenceDisplay.from_estimator(clf, X[[0]]).kind_ == "rows"
    display = EvidenceDisplay.from_estimator(clf, X[[0]], kind="map", classes=[1])
    evidence = clf.local_evidence(X[[0]], [1])
    np.testing.assert_allclose(display.maps_[0].get_array().ravel(), evidence["images"][0][:, 0])
    sums = [evidence[name][0].sum() for name in X.names]
    text = title(display.axes_[0])
    assert "evidence of images {:+.2f},\nof the rest {:+.2f}".format(*sums) in text
    assert f"logit {clf.decision_function(X[[0]])[0]:+.2f}" in text
    alone = EvidenceDisplay.from_estimator(clf, X[[0]], modality="images")
    assert alone.kind_ == "map"
    with pytest.raises(ValueError, match=r"modality='sounds' is not among those with positions"):
        EvidenceDisplay.from_estimator(clf, X[[0]], kind="map", modality="sounds")
    with pytest.raises(ValueError, match=r"modality='text' is not one of the evidence: \['images'"):
        EvidenceDisplay.from_estimator(clf, X[[0]], modality="text")


def test_evidence_display_map_of_an_item_without_local_features():
    evidence = {"tiles": np.zeros((0, 1)), "sounds": np.ones((3, 1))}
    display = EvidenceDisplay.from_evidence(
        evidence, ["a"], modality="tiles", places={"tiles": {"x": [], "y": []}}
    )
    assert display.maps_ == []
    assert title(display.axes_[0]).endswith("missing")
    display.figure_.canvas.draw()


def shown_images(axes):
    return [np.asarray(image.get_array()) for image in axes.images]


def test_evidence_display_strips_rank_thumbnails():
    evidence = np.array([[0.5, 0.1], [-2.0, 0.2], [1.0, 0.0], [-0.1, 0.3], [0.2, 0.4]])
    images = np.arange(5)[:, None, None] * np.ones((1, 6, 4))
    display = EvidenceDisplay.from_evidence(
        evidence, ["a", "b"], thumbnails=images, n_shown=2, places={"seconds": np.arange(5) / 4}
    )
    assert display.kind_ == "strips"
    first, second = display.axes_
    assert [image[0, 0] for image in shown_images(first)] == [2, 0, 1, 3]
    assert [image[0, 0] for image in shown_images(second)] == [4, 3]  # none opposes
    labels = [label.get_text() for label in first.get_xticklabels()]
    minus = "\N{MINUS SIGN}"
    assert labels == [
        "+1.00\n0.50 s",
        "+0.50\n0.00 s",
        f"{minus}2.00\n0.25 s",
        f"{minus}0.10\n0.75 s",
    ]
    assert [text.get_text() for text in first.texts] == ["supporting", "opposing"]
    assert [text.get_text() for text in second.texts] == ["supporting", "opposing: none"]
    colors = [to_rgb(line.get_color()) for line in first.lines]
    assert colors == [to_rgb(FOR)] * 2 + [to_rgb(AGAINST)] * 2
    assert {image.get_clim() for image in first.images} == {(0, 4)}  # all share one scale
    assert second.get_xlabel() == "evidence (logit) and time of the local feature"
    display.figure_.canvas.draw()
    for axes in display.axes_:
        extents = [label.get_window_extent().extents for label in axes.get_xticklabels()]
        boxes = sorted(map(tuple, extents))
        assert all(left[2] < right[0] for left, right in itertools.pairwise(boxes))


def test_evidence_display_strips_of_an_estimator(fitted):
    clf, X = fitted
    item = int(np.argmax(X.lengths))
    images = np.random.default_rng(0).random((X.lengths[item], 4, 4, 3))
    display = EvidenceDisplay.from_estimator(clf, X[[item]], thumbnails=images)
    for axes, c in zip(display.axes_, np.argsort(-clf.predict_proba(X[[item]])[0]), strict=False):
        own = clf.local_evidence(X[[item]])[0][:, c]
        np.testing.assert_array_equal(shown_images(axes)[0], images[np.argmax(own)])
        assert axes.get_xticklabels()[0].get_text().endswith(f"#{np.argmax(own)}")


def test_evidence_display_strips_of_one_modality():
    evidence = {"a": np.ones((2, 1)), "b": np.ones((2, 1))}
    images = np.zeros((2, 3, 3))
    display = EvidenceDisplay.from_evidence(evidence, ["c"], thumbnails={"b": images})
    assert len(display.axes_) == 1
    with pytest.raises(ValueError, match=r"thumbnails are given for \['a', 'b'\].*Pass its name"):
        EvidenceDisplay.from_evidence(evidence, ["c"], thumbnails={"a": images, "b": images})
    EvidenceDisplay.from_evidence(
        evidence, ["c"], thumbnails={"a": images, "b": images}, modality="a"
    )


def test_evidence_display_from_evidence_takes_a_container(fitted_multimodal):
    clf, X = fitted_multimodal
    evidence, constants = clf.local_evidence(X, return_constants=True)
    display = EvidenceDisplay.from_evidence(evidence[[3]], [1], constants=constants.total[3])
    assert display.axes_[1].get_xlabel() == "time (s)"
    assert f"logit {clf.decision_function(X)[3]:+.2f}" in title(display.axes_[0])
    by_name = EvidenceDisplay.from_evidence(evidence[3], [1])
    for one, other in zip(display.axes_, by_name.axes_, strict=True):
        np.testing.assert_array_equal(heights(one), heights(other))
    with pytest.raises(ValueError, match=r"evidence is a MultimodalFeatureSets of 20 items"):
        EvidenceDisplay.from_evidence(evidence, [1])


def test_evidence_display_uses_given_axes_and_does_not_show(fitted, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("shown"))
    clf, X = fitted
    figure, axes = plt.subplots(3, 1)
    display = EvidenceDisplay.from_estimator(clf, X[[0]], ax=axes)
    assert list(display.axes_) == list(axes)
    assert display.figure_ is figure
    assert figure.get_supylabel() == ""
    assert {one.get_ylabel() for one in axes} == {"evidence (logit)"}
    assert {one.get_xlabel() for one in axes} == {"local feature"}
    with pytest.raises(ValueError, match=r"ax has 2 Axes, but 3 are needed, one per class and mod"):
        EvidenceDisplay.from_estimator(clf, X[[0]], ax=axes[:2])
    assert plt.get_fignums() == [figure.number]


@pytest.mark.parametrize("n", [1, 200])
def test_evidence_display_draws_items_without_evidence(n):
    display = EvidenceDisplay.from_evidence(np.zeros((n, 1)), ["a"])
    assert title(display.axes_[0]) == "a: evidence +0.00"
    display.figure_.canvas.draw()
    display = EvidenceDisplay.from_evidence(np.zeros((20, 1)), ["a"], places=tiles())
    assert display.maps_[0].get_clim() == (-1, 1)
    strip = EvidenceDisplay.from_evidence(np.zeros((2, 1)), ["a"], thumbnails=np.zeros((2, 3, 3)))
    assert strip.axes_[0].images[:] == []
    strip.figure_.canvas.draw()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"evidence": np.ones(3)}, r"evidence has shape \(3,\); expected \(L, C\).*local_evidence"),
        ({"evidence": {}}, r"evidence is an empty dict"),
        ({"evidence": np.full((20, 2), np.nan)}, r"evidence has a value that is not finite"),
        ({"evidence": np.full((20, 2), 1j)}, r"evidence has dtype complex128; pass real numbers"),
        ({"classes": ["a"]}, r"evidence has 2 columns, but classes has 1 labels"),
        ({"classes": "ab"}, r"classes='ab' must be a list"),
        ({"constants": [1.0]}, r"constants has shape \(1,\), but there are 2 classes.*total\[i\]"),
        ({"probabilities": 0.5}, r"probabilities has shape \(\), but there are 2 classes"),
        ({"kind": "bars"}, r"kind='bars' must be 'auto', 'rows', 'map' or 'strips'"),
        ({"kind": "strips"}, r"kind='strips' draws thumbnails, but none are given"),
        ({"kind": "map"}, r"item has no positions"),
        ({"thumbnail": np.ones((3, 3))}, r"item has no positions"),
        ({"modality": "rgb"}, r"modality='rgb' is not one of the evidence: the item has one"),
        ({"thumbnails": np.ones((3, 4, 4))}, r"thumbnails has 3 entries, but the item has 20"),
        ({"thumbnails": np.ones((20, 4))}, r"A thumbnail must be"),
        ({"places": {"seconds": [0, 1]}}, r"places\['seconds'\] has shape \(2,\), .* 20 local"),
        ({"places": {"seconds": np.full(20, np.inf)}}, r"places\['seconds'\] is inf for local"),
        ({"places": tiles(), "anchor": "middle"}, r"anchor='middle'"),
        ({"n_shown": 0}, r"n_shown=0 must be an int of at least 1"),
        (
            {"evidence": np.ones((20, 13)), "classes": range(13)},
            r"13 classes and 1 modalities make 13 rows, too many.*Name fewer classes",
        ),
        (
            {"evidence": np.ones((20, 9)), "classes": range(9), "thumbnails": np.ones((20, 4, 4))},
            r"9 classes are too many strips to see; draw at most 8",
        ),
    ],
)
def test_evidence_display_rejects(given, message):
    arguments = {"evidence": np.ones((20, 2)), "classes": ["a", "b"]} | given
    with pytest.raises(ValueError, match=message):
        EvidenceDisplay.from_evidence(**arguments)
    assert not plt.get_fignums()


def test_evidence_display_rejects_places_without_columns():
    with pytest.raises(TypeError, match=r"places has type ndarray; .* 'seconds'"):
        EvidenceDisplay.from_evidence(np.ones((2, 1)), ["a"], places=np.ones((2, 2)))


def test_evidence_display_rejects_estimators_without_evidence(fitted):
    clf, X = fitted
    y = np.arange(30) % 2
    with pytest.raises(NotFittedError):
        EvidenceDisplay.from_estimator(AttentionClusterClassifier(), X[[0]])
    with pytest.raises(ValueError, match=r"item is a FeatureSets of 30 items, .*X\[\[i\]\]"):
        EvidenceDisplay.from_estimator(clf, X)
    average = AverageClassifier(max_iter=1, tol=None).fit(X, y)
    with pytest.raises(TypeError, match=r"AverageClassifier has no local_evidence, .*\. For a"):
        EvidenceDisplay.from_estimator(average, X[[0]])
    mil = AttentionMILClassifier(max_iter=1, tol=None).fit(X, y)
    with pytest.raises(TypeError, match=r"Draw its attention weights with an AttentionDisplay"):
        EvidenceDisplay.from_estimator(mil, X[[0]])
    own = AttentionClusterClassifier(cluster_size=2, max_iter=2)
    search = GridSearchCV(own, {"cluster_size": [2]}, cv=2).fit(X, y)
    with pytest.raises(TypeError, match="For a search, pass best_estimator_"):
        EvidenceDisplay.from_estimator(search, X[[0]])
    pipe = make_pipeline(LocalFeatureTransformer(StandardScaler()), own).fit(X, y)
    with pytest.raises(TypeError, match=r"pipe\[-1\], pipe\[:-1\]"):
        EvidenceDisplay.from_estimator(pipe, X[[0]])
    EvidenceDisplay.from_estimator(pipe[-1], pipe[:-1].transform(X[[0]]))


def test_rows_add_up_local_features_of_one_time():
    evidence, times = np.array([[1.0], [0.9], [-0.5], [2.0]]), [0.0, 0.0, 1.0, 1.0]
    display = EvidenceDisplay.from_evidence(evidence, ["a"], places={"seconds": times})
    heights = [bar.get_height() for bar in display.axes_[0].patches]
    np.testing.assert_allclose(heights, [1.9, 1.5])
    assert display.axes_[0].get_title(loc="right") == "sum at each time"


def test_map_takes_its_colors_from_the_sums_of_a_place():
    places = {"x": [0.0, 0.0, 1.0], "y": [0.0, 0.0, 0.0]}
    display = EvidenceDisplay.from_evidence(np.array([[2.0], [3.0], [-1.0]]), ["a"], places=places)
    assert display.maps_[0].get_clim() == (-5.0, 5.0)


@pytest.mark.parametrize("name", [r"$\foo$", r"$\frac$", "US$ and A$_"])
def test_names_are_no_formulas(name):
    evidence = {name: np.array([[1.0], [-1.0]])}
    display = EvidenceDisplay.from_evidence(evidence, [name])
    display.figure_.canvas.draw()  # would raise for a wrong formula
    assert name in display.axes_[0].get_title(loc="left")
