"""The displays draw the attention weights, similarities and losses of the classifier."""

import itertools
import time

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.image import AxesImage
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.inspection import (
    AttentionDisplay,
    LearningCurveDisplay,
    UnitDiversityDisplay,
    modality_importance,
)
from acluster.preprocessing import LocalFeatureTransformer
from acluster.rivals import AttentionMILClassifier, AverageClassifier
from tests.conftest import make_sets


@pytest.fixture(scope="module")
def fitted():
    X, y = make_sets(n=30)
    clf = AttentionClusterClassifier(cluster_size=3, max_iter=5, tol=None, random_state=0)
    return clf.fit(X, y), X


@pytest.fixture(scope="module")
def fitted_multimodal():
    frames, y = make_sets(n=30)
    sounds = [np.ones((2, 3)) * i if i else np.empty((0, 3)) for i in range(30)]
    sounds = FeatureSets(np.concatenate(sounds), np.cumsum([0, *map(len, sounds)]))
    X = MultimodalFeatureSets({"frames": frames, "sounds": sounds})
    clf = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=5, tol=None)
    return clf.fit(X, y), X, y


def bars(axes):
    """The left edges, heights and bottoms of the bars, each a column."""
    return np.array([[bar.get_x(), bar.get_height(), bar.get_y()] for bar in axes.patches])


def test_attention_display_draws_weights_as_bars(fitted):
    clf, X = fitted
    item = int(np.argmax(X.lengths))
    display = AttentionDisplay.from_estimator(clf, X[item])
    order = display.units_[None]
    assert sorted(order) == [0, 1, 2]
    a = clf.attention_weights(X)[item][:, order]
    drawn = bars(display.axes_[0])
    np.testing.assert_allclose(drawn[:, 1] / drawn[:, 1].max(), a.T.ravel() / a.max(), rtol=1e-6)
    assert list(np.unique(drawn[:, 2])) == [0, 1, 2]
    ticks = zip(display.axes_[0].get_yticks(), display.axes_[0].get_yticklabels(), strict=True)
    labels = {round(tick): label.get_text() for tick, label in ticks}
    assert labels == {2 - row: f"unit {unit}" for row, unit in enumerate(order)}
    display.figure_.canvas.draw()


def test_attention_display_draws_units_in_given_order(fitted):
    clf, X = fitted
    display = AttentionDisplay.from_estimator(clf, X[0], units=[2, 0])
    labels = [label.get_text() for label in display.axes_[0].get_yticklabels()]
    assert labels == ["unit 2", "unit 0"]
    a = clf.attention_weights([X[0]])[0][:, [2, 0]]
    drawn = bars(display.axes_[0])
    np.testing.assert_allclose(drawn[:, 1] / drawn[:, 1].max(), a.T.ravel() / a.max(), rtol=1e-6)


def test_attention_display_places_bars_at_times():
    attention = np.full((3, 1), 1 / 3)
    display = AttentionDisplay.from_attention(attention, times=[0.0, 0.5, 4.0])
    drawn = bars(display.axes_[0])
    centres = [bar.get_x() + bar.get_width() / 2 for bar in display.axes_[0].patches]
    np.testing.assert_allclose(centres, [0, 0.5, 4])
    assert (np.diff(drawn[:, 0]) >= display.axes_[0].patches[0].get_width()).all()
    assert display.axes_[0].get_xlabel() == "time"


def centers(axes):
    return [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]


def make_timed_sets(n_features, times, n=12):
    arrays = np.random.default_rng(0).normal(size=(n, len(times), n_features))
    return FeatureSets.from_arrays(arrays, places=[{"seconds": np.add(times, i)} for i in range(n)])


def test_attention_display_takes_times_from_places(tmp_path):
    X, y = make_timed_sets(4, [0.0, 0.5, 4.0]), np.arange(12) % 2
    clf = AttentionClusterClassifier(cluster_size=2, max_iter=2, tol=None).fit(X, y)
    save_feature_sets(tmp_path / "sets.zarr", X)
    for sets in (X, open_feature_sets(tmp_path / "sets.zarr")):
        axes = AttentionDisplay.from_estimator(clf, sets[[5]]).axes_[0]
        np.testing.assert_allclose(centers(axes), [5, 5.5, 9] * 2)
        assert axes.get_xlabel() == "time (s)"
        a = clf.attention_weights(X)[5]
        heights = bars(axes)[:, 1]
        np.testing.assert_allclose(heights / heights.max(), a.T.ravel() / a.max(), rtol=1e-5)
    axes = AttentionDisplay.from_estimator(clf, X[[5]], times=[1, 2, 3]).axes_[0]
    np.testing.assert_allclose(centers(axes), [1, 2, 3] * 2)
    assert axes.get_xlabel() == "time"
    axes = AttentionDisplay.from_estimator(clf, X[5]).axes_[0]
    np.testing.assert_allclose(centers(axes), [0, 1, 2] * 2)
    thumbnails = np.zeros((3, 4, 4))
    axes = AttentionDisplay.from_estimator(clf, X[[5]], thumbnails=thumbnails).axes_[0]
    assert not axes.patches
    assert axes.get_xlabel() == ""


def test_attention_display_takes_a_container_without_times(fitted):
    clf, X = fitted
    one, other = (AttentionDisplay.from_estimator(clf, item).axes_[0] for item in (X[3], X[[3]]))
    np.testing.assert_allclose(bars(one), bars(other))
    assert other.get_xlabel() == "local feature"
    elsewhere = FeatureSets.from_arrays([X[3]], places=[{"x": np.zeros(len(X[3]))}])
    display = AttentionDisplay.from_estimator(clf, elsewhere)
    assert display.axes_[0].get_xlabel() == "local feature"


def test_attention_display_modalities_share_the_range_of_time():
    rgb, audio = make_timed_sets(4, np.arange(10) / 5), make_timed_sets(3, [0.48])
    late = make_timed_sets(2, [7.0, 9.0])
    text = FeatureSets.from_arrays(np.ones((12, 30, 2)))
    none = FeatureSets(np.ones((1, 2)), [0, 1] + [1] * 11, places={"seconds": [0]})
    X = MultimodalFeatureSets(
        {"rgb": rgb, "audio": audio, "late": late, "text": text, "none": none}
    )
    clf = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=2, tol=None)
    display = AttentionDisplay.from_estimator(clf.fit(X, np.arange(12) % 2), X[[3]])
    axes = dict(zip(X.names, display.axes_, strict=True))
    for name in ("rgb", "audio", "late"):
        np.testing.assert_allclose(centers(axes[name]), np.tile(X[name].places[3].ravel(), 2))
    timed = [axes[name] for name in ("rgb", "audio", "late", "none")]
    assert {one.get_xlabel() for one in timed} == {"time (s)"}
    assert len({one.get_xlim() for one in timed}) == 1
    low, high = timed[0].get_xlim()
    assert 2 < low < 3
    assert 12 < high < 14
    assert axes["audio"].patches[0].get_width() == pytest.approx(0.9 * 0.2)  # as in rgb
    assert axes["text"].get_xlabel() == "local feature"
    assert axes["text"].get_xlim()[1] > 29
    assert axes["none"].get_title(loc="left") == "none: missing"
    display.figure_.canvas.draw()


def test_attention_display_time_unit_labels_given_times():
    attention = {"a": np.full((2, 1), 0.5), "b": np.full((2, 1), 0.5)}
    times = {"a": [0, 1], "b": [5, 6]}
    display = AttentionDisplay.from_attention(attention, times=times, time_unit="min")
    assert [axes.get_xlabel() for axes in display.axes_] == ["time (min)"] * 2
    assert display.axes_[0].get_xlim() == display.axes_[1].get_xlim()
    display = AttentionDisplay.from_attention(attention, times=times)
    assert display.axes_[0].get_xlim() != display.axes_[1].get_xlim()


def test_attention_display_bars_of_irregular_times_can_be_seen():
    times = [0.0, 1e-6, 30.0, 60.0]
    axes = AttentionDisplay.from_attention(np.full((4, 1), 0.25), times=times).axes_[0]
    assert axes.patches[0].get_width() == pytest.approx(60 / 300)


@pytest.mark.parametrize("items", [slice(0), slice(2), slice(None)])
def test_attention_display_rejects_container_of_several_items(fitted, fitted_multimodal, items):
    for clf, X, *_ in (fitted, fitted_multimodal):
        n_items, kind = len(X[items]), type(X).__name__
        with pytest.raises(ValueError, match=rf"item is a {kind} of {n_items} .*X\[\[i\]\]"):
            AttentionDisplay.from_estimator(clf, X[items])


@pytest.mark.parametrize("times", [None, np.linspace(5, 9, 40_000)[::-1]])
def test_attention_display_bins_many_local_features(times):
    attention = np.full((40_000, 2), 1e-6)
    attention[[777, 39_999], [0, 1]] = 0.5
    axes = AttentionDisplay.from_attention(attention, times=times).axes_[0]
    assert len(axes.patches) == 2  # a profile per unit, not 40,000 bars
    x = np.arange(40_000) if times is None else times
    for row, patch, peak in zip((1, 0), axes.patches, (777, 39_999), strict=True):
        heights, edges, _ = patch.get_data()
        highest = int(np.argmax(heights))
        assert edges[highest] <= x[peak] <= edges[highest + 1]
        assert heights[highest] - row == pytest.approx(0.9)
        assert np.sort(heights - row)[-2] < 1e-5
    assert "300 bins" in axes.get_xlabel()
    axes.figure.canvas.draw()


def test_attention_display_orders_units_by_similarity():
    one, other = np.random.default_rng(0).dirichlet(np.full(40, 0.1), size=2)
    attention = np.stack([one, other, one, other, one], axis=1)
    for thumbnails in (None, np.zeros((40, 2, 2))):
        display = AttentionDisplay.from_attention(attention, thumbnails=thumbnails)
        assert np.abs(np.diff(display.units_[None] % 2)).sum() == 1
    display = AttentionDisplay.from_attention(attention, units=[4, 1, 0])
    assert display.units_[None].tolist() == [4, 1, 0]
    zeros = AttentionDisplay.from_attention(np.zeros((3, 4)))
    assert sorted(zeros.units_[None]) == [0, 1, 2, 3]


@pytest.mark.parametrize("n_modalities", [1, 4])
def test_attention_display_of_many_units_and_local_features_fits_a_screen(n_modalities):
    rng = np.random.default_rng(0)
    attention = rng.random((60_000, 32), dtype=np.float32)
    started = time.process_time()
    display = AttentionDisplay.from_attention({f"m{i}": attention for i in range(n_modalities)})
    display.figure_.canvas.draw()
    assert time.process_time() - started < 5 * n_modalities  # 0.6 s each on one core
    width, height = display.figure_.get_size_inches()
    assert width <= 16
    assert height <= 9
    for axes in display.axes_:
        assert "the largest weight in each of 300 bins" in axes.get_xlabel()
        assert axes.get_yticklabels()[0].get_text() == f"unit {display.units_['m0'][0]}"
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        tops = sorted((box.y0, box.y1) for box in boxes)
        assert all(below[1] <= above[0] for below, above in itertools.pairwise(tops))


def test_attention_display_bins_equal_times():
    display = AttentionDisplay.from_attention(np.full((400, 1), 1 / 400), times=np.full(400, 3.0))
    heights, edges, _ = display.axes_[0].patches[0].get_data()
    assert heights.max() == pytest.approx(0.9)
    assert edges[0] <= 3.0 <= edges[-1]


def test_attention_display_rejects_too_many_thumbnails():
    attention = np.full((301, 1), 1 / 301)
    with pytest.raises(ValueError, match="thumbnails has 301 images, too many to see"):
        AttentionDisplay.from_attention(attention, thumbnails=np.zeros((301, 4, 4)))


@pytest.mark.parametrize("shape", [(28, 28), (20, 40, 3)])
def test_attention_display_draws_thumbnails_above_a_map(fitted, shape):
    clf, X = fitted
    item = int(np.argmax(X.lengths))
    images = np.random.default_rng(0).random((X.lengths[item], *shape))
    display = AttentionDisplay.from_estimator(clf, X[item], thumbnails=images)
    drawn = [child for child in display.axes_[0].get_children() if isinstance(child, AxesImage)]
    weights = clf.attention_weights(X)[item].T[display.units_[None]]
    np.testing.assert_array_equal(drawn[0].get_array(), weights)
    assert len(drawn) == 1 + len(images)
    for place, (image, artist) in enumerate(zip(images, drawn[1:], strict=True)):
        np.testing.assert_array_equal(artist.get_array(), image)
        left, right, bottom, top = artist.get_extent()
        assert (left + right) / 2 == place
        assert bottom < -0.5  # above the first row, for the axis points down
        assert (bottom - top) / (right - left) == pytest.approx(shape[0] / shape[1])
    display.figure_.canvas.draw()


def test_attention_display_with_missing_modality(fitted_multimodal):
    clf, X, _ = fitted_multimodal
    display = AttentionDisplay.from_estimator(clf, X[1], times={"sounds": [0, 2]})
    assert [axes.get_title(loc="left") for axes in display.axes_] == ["frames", "sounds"]
    display = AttentionDisplay.from_estimator(clf, X[0])
    assert display.axes_[1].get_title(loc="left") == "sounds: missing"
    assert not display.axes_[1].patches
    display.figure_.canvas.draw()


def test_displays_use_given_axes_and_do_not_show(fitted, fitted_multimodal, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("shown"))
    figure, (left, right) = plt.subplots(1, 2)
    clf, X = fitted
    display = AttentionDisplay.from_estimator(clf, X[0], ax=left)
    assert display.axes_[0] is left
    assert display.figure_ is figure
    assert LearningCurveDisplay.from_estimator(clf, ax=right).ax_ is right
    clf, X, _ = fitted_multimodal
    assert list(AttentionDisplay.from_estimator(clf, X[1], ax=[left, right]).axes_) == [left, right]
    with pytest.raises(ValueError, match=r"ax has 1 Axes, but 2 are needed"):
        AttentionDisplay.from_estimator(clf, X[1], ax=left)
    assert plt.get_fignums() == [figure.number]


def test_displays_accept_rivals_with_units_only():
    X, y = make_sets(n=30)
    clf = AttentionMILClassifier(max_iter=2, tol=None).fit(X, y)
    assert AttentionDisplay.from_estimator(clf, X[0]).axes_[0].get_title(loc="left") == ""
    assert UnitDiversityDisplay.from_estimator(clf, X).order.tolist() == [0]
    with pytest.raises(TypeError, match=r"AverageClassifier has no attention_weights"):
        AttentionDisplay.from_estimator(AverageClassifier(max_iter=1, tol=None).fit(X, y), X[0])


def test_attention_display_rejects_pipeline_with_remedy():
    X, y = make_sets(n=30)
    clf = AttentionClusterClassifier(cluster_size=2, max_iter=2, tol=None)
    pipe = make_pipeline(LocalFeatureTransformer(StandardScaler()), clf).fit(X, y)
    with pytest.raises(TypeError, match=r"pipe\[-1\], pipe\[:-1\]"):
        AttentionDisplay.from_estimator(pipe, X[0])
    AttentionDisplay.from_estimator(pipe[-1], pipe[:-1].transform(X[[0]]))


def test_displays_reject_search_with_remedy():
    X, y = make_sets(n=30)
    clf = AttentionClusterClassifier(max_iter=2, tol=None)
    search = GridSearchCV(clf, {"cluster_size": [2]}, cv=2).fit(X, y)
    with pytest.raises(TypeError, match="For a search, pass best_estimator_"):
        AttentionDisplay.from_estimator(search, X[0])
    with pytest.raises(TypeError, match=r"has no loss_curve_.*For a search, pass best_estimator_"):
        LearningCurveDisplay.from_estimator(search)
    LearningCurveDisplay.from_estimator(search.best_estimator_)


@pytest.mark.parametrize(
    ("attention", "given", "message"),
    [
        (np.ones(3), {}, r"has shape \(3,\); expected \(L, N\)"),
        (np.ones((2, 3, 1)), {}, r"has shape \(2, 3, 1\)"),
        ({}, {}, r"empty dict"),
        (
            np.ones((3, 1)),
            {"thumbnails": np.ones((2, 4, 4))},
            r"thumbnails has 2 entries, but .* 3 local",
        ),
        (np.ones((3, 1)), {"times": [0, 1]}, r"times has shape \(2,\), but the item has 3"),
        (np.ones((3, 1)), {"times": [0, np.nan, 1]}, r"times is nan for local feature 1"),
        (np.ones((300, 1)), {"times": np.full(300, np.inf)}, r"times is inf for local feature 0"),
        (np.ones((3, 1)), {"times": ["a", "b", "c"]}, r"times must hold numbers"),
        (np.full((300, 2), np.nan), {}, r"attention has a value that is not finite"),
        ({"a": np.array([["x"]])}, {}, r"attention\['a'\] has dtype <U1; pass real numbers"),
        (
            {"a": np.ones((3, 1)), "b": np.ones((2, 1))},
            {"times": [0, 1]},
            r"times is given for list",
        ),
        ({"a": np.ones((3, 1))}, {"times": {"c": [0]}}, r"times is given for \['c'\]"),
    ],
)
def test_attention_display_rejects(attention, given, message):
    with pytest.raises(ValueError, match=message):
        AttentionDisplay.from_attention(attention, **given)
    assert not plt.get_fignums()


def test_learning_curve_display_draws_losses_and_scores():
    X, y = make_sets(n=40)
    clf = AttentionClusterClassifier(max_iter=4, tol=None, random_state=0)
    with pytest.raises(NotFittedError):
        LearningCurveDisplay.from_estimator(clf)
    display = LearningCurveDisplay.from_estimator(clf.fit(X, y))
    assert display.score_ax_ is None
    np.testing.assert_array_equal(
        display.ax_.lines[0].get_xydata(), np.column_stack([range(1, 5), clf.loss_curve_])
    )
    clf.set_params(warm_start=True).fit(X, y, X_val=X, y_val=y)
    display = LearningCurveDisplay.from_estimator(clf)
    scores = display.score_ax_.lines[0].get_ydata()
    assert np.isnan(scores[:4]).all()
    np.testing.assert_array_equal(scores, clf.validation_scores_)
    assert clf.best_validation_score_ == max(scores[4:])
    clf.fit(X, y)
    assert np.isnan(clf.validation_scores_[8:]).all()
    assert LearningCurveDisplay.from_estimator(clf).score_ax_.lines[0].get_ydata()[7] == scores[7]
    with pytest.raises(ValueError, match=r"validation_scores has 2 epochs, but loss has 1"):
        LearningCurveDisplay([0.1], validation_scores=[1, 2])


def test_unit_diversity_display_groups_similar_units():
    rng = np.random.default_rng(0)
    one, other = (rng.dirichlet(np.full(9, 0.1), size=20) for _ in range(2))
    attention = [np.stack([a, b, a, b, a], axis=1) for a, b in zip(one, other, strict=True)]
    display = UnitDiversityDisplay.from_attention(attention)
    groups = [unit % 2 for unit in display.order]
    assert np.abs(np.diff(groups)).sum() == 1
    shown = display.ax_.images[0].get_array()
    np.testing.assert_array_equal(shown, display.similarity[np.ix_(display.order, display.order)])
    display.figure_.canvas.draw()


def test_unit_diversity_display_marks_dead_units():
    rng = np.random.default_rng(0)
    attention = [
        np.column_stack([rng.dirichlet(np.full(9, 0.1)), np.full(9, 1 / 9)]) for _ in range(20)
    ]
    display = UnitDiversityDisplay.from_attention(attention)
    assert display.dead_units.tolist() == [1]
    assert "1 (dead)" in [label.get_text() for label in display.ax_.get_yticklabels()]
    widths = [bar.get_width() for bar in display.entropy_ax_.patches]
    np.testing.assert_allclose(widths, display.entropy[display.order])


def test_unit_diversity_display_needs_one_modality(fitted_multimodal, fitted):
    clf, X, _ = fitted_multimodal
    display = UnitDiversityDisplay.from_estimator(clf, X, modality="frames")
    assert display.similarity.shape == (2, 2)
    with pytest.raises(ValueError, match=r"modality=None is not one of \['frames', 'sounds'\]"):
        UnitDiversityDisplay.from_estimator(clf, X)
    clf, X = fitted
    with pytest.raises(ValueError, match=r"has only one"):
        UnitDiversityDisplay.from_estimator(clf, X, modality="frames")
    with pytest.raises(ValueError, match=r"shape \(2, 2\), but entropy has 3 units"):
        UnitDiversityDisplay(np.eye(2), np.ones(3))


def test_modality_importance_is_the_drop_after_shuffling(fitted_multimodal):
    clf, X, y = fitted_multimodal
    found = modality_importance(clf, X, y, n_repeats=3, random_state=0)
    again = modality_importance(clf, X, y, n_repeats=3, random_state=0)
    rng = np.random.RandomState(0)
    for name in X.names:
        np.testing.assert_array_equal(found.importances[name], again.importances[name])
        assert found.importances_mean[name] == pytest.approx(found.importances[name].mean())
        for drop in found.importances[name]:
            sets = {other: X[other] for other in X.names}
            order, present = np.arange(len(X)), np.flatnonzero(~X.missing[name])
            order[present] = rng.permutation(present)
            sets[name] = sets[name][order]
            score = clf.score(MultimodalFeatureSets(sets), y)
            assert drop == pytest.approx(clf.score(X, y) - score)
    log = modality_importance(clf, X, y, scoring="neg_log_loss", n_repeats=1, random_state=0)
    assert log.importances["frames"] != found.importances["frames"][0]


def test_modality_importance_of_modalities_in_several_stores(fitted_multimodal, tmp_path):
    clf, X, y = fitted_multimodal
    is_complete = ~np.any([*X.missing.values()], axis=0)
    X, y, sets = X[is_complete], y[is_complete], {}
    for name in X.names:
        save_feature_sets(tmp_path / name, X[name], id=[f"item{i}" for i in range(len(X))])
        sets[name] = open_feature_sets(tmp_path / name)
    found = modality_importance(clf, MultimodalFeatureSets(sets), y, n_repeats=2, random_state=0)
    expected = modality_importance(clf, X, y, n_repeats=2, random_state=0)
    assert found.importances_mean == expected.importances_mean


def test_modality_importance_rejects(fitted, fitted_multimodal):
    clf, X, y = fitted_multimodal
    with pytest.raises(TypeError, match=r"X has type dict.*from_items"):
        modality_importance(clf, {"frames": list(X["frames"])}, y)
    with pytest.raises(ValueError, match=r"only the modality 'frames'"):
        modality_importance(clf, X[["frames"]], y)
    with pytest.raises(ValueError, match=r"n_repeats=0 must be an int"):
        modality_importance(clf, X, y, n_repeats=0)
    with pytest.raises(TypeError, match=r"gives several scores, \['accuracy', 'f1_macro'\]"):
        modality_importance(clf, X, y, scoring=["accuracy", "f1_macro"])


def test_displays_name_the_extra_without_matplotlib(monkeypatch):
    monkeypatch.setitem(matplotlib.sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"its extra 'plot'"):
        AttentionDisplay.from_attention(np.ones((1, 1)))


def test_modality_importance_with_missing_modalities():
    rng = np.random.default_rng(0)
    items = [
        {"a": rng.normal(size=(2, 3)) if i % 3 else None, "b": rng.normal(size=(2, 3))}
        if i % 3 != 1
        else {"a": rng.normal(size=(2, 3)), "b": None}
        for i in range(30)
    ]
    X, y = MultimodalFeatureSets.from_items(items), np.arange(30) % 2
    clf = MultimodalAttentionClusterClassifier(max_iter=2, tol=None).fit(X, y)
    assert set(modality_importance(clf, X, y).importances) == {"a", "b"}


def test_attention_display_thumbnails_share_limits_and_are_checked():
    attention = np.full((2, 1), 0.5)
    images = np.stack([np.full((4, 4), 255), np.full((4, 4), 100)])
    for dtype in (np.uint8, float):
        limits = (100, 255)
        display = AttentionDisplay.from_attention(attention, thumbnails=images.astype(dtype))
        drawn = [artist for artist in display.axes_[0].images if artist.get_array().shape == (4, 4)]
        assert [artist.get_clim() for artist in drawn] == [limits, limits]
    with pytest.raises(ValueError, match=r"of shape \(4,\)\.$"):
        AttentionDisplay.from_attention(attention, thumbnails=np.ones((2, 4)))
    for wrong in (np.ones((2, 0, 4)), np.full((2, 4, 4, 3), -1), np.full((2, 4, 4), "a")):
        with pytest.raises(ValueError, match=r"A (color )?thumbnail"):
            AttentionDisplay.from_attention(attention, thumbnails=wrong)
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=r"shape \(3, 8, 9\). Move the channels last"):
        AttentionDisplay.from_attention(attention, thumbnails=np.ones((2, 3, 8, 9)))
    with pytest.raises(ValueError, match=r"values from 255 to 255; .* from 0 to 1 for float64"):
        AttentionDisplay.from_attention(attention, thumbnails=np.full((2, 8, 9, 3), 255.0))
    assert plt.get_fignums() == before


@pytest.mark.parametrize("units", [[], [3], [-1], 1, [True, False], [0.5]])
def test_attention_display_rejects_units(fitted, units):
    clf, X = fitted
    with pytest.raises(ValueError, match=r"must be a list of ints from 0 to 2"):
        AttentionDisplay.from_estimator(clf, X[0], units=units)


def test_unit_diversity_display_rejects_classifier_without_units():
    X, y = make_sets(n=30)
    clf = AverageClassifier(max_iter=1, tol=None).fit(X, y)
    with pytest.raises(TypeError, match=r"has no attention_weights"):
        UnitDiversityDisplay.from_estimator(clf, X)
