"""The map has the weight of each local feature at its position."""

import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PathCollection, PolyCollection
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.datasets import load_benchmark
from acluster.inspection import AttentionMapDisplay
from acluster.rivals import AverageClassifier


def weights(n_features, n_units=3, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(n_features), size=n_units).T


def square_grid(n_rows=4, n_columns=5, size=16.0):
    rows, columns = np.divmod(np.arange(n_rows * n_columns), n_columns)
    return {"x": size * columns, "y": size * rows}


def value_at(axes, x, y):
    """The value that an image of the Axes has at a position in the data."""
    (image,) = axes.images[-1:]
    event = type("Event", (), {})()
    event.x, event.y = axes.transData.transform((x, y))
    return image.get_cursor_data(event)


@pytest.fixture(scope="module")
def fitted():
    """A classifier of images that differ in size, and its images."""
    rng = np.random.default_rng(0)
    places = [square_grid(int(rng.integers(2, 6)), int(rng.integers(2, 6))) for _ in range(20)]
    arrays = [rng.normal(size=(len(own["x"]), 4)) for own in places]
    X = FeatureSets.from_arrays(arrays, places=places)
    clf = AttentionClusterClassifier(
        cluster_size=3, max_iter=2, n_attended=None, random_state=0, tol=None
    )
    return clf.fit(X, np.arange(20) % 2), X


@pytest.fixture(scope="module")
def fitted_multimodal(fitted):
    _, images = fitted
    times = [{"seconds": np.arange(3.0)}] * 20
    sounds = FeatureSets.from_arrays(np.random.default_rng(0).normal(size=(20, 3, 2)), places=times)
    lengths = np.where(np.arange(20) == 0, 0, 4)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    n_rows = int(offsets[-1])
    tiles = FeatureSets(
        np.random.default_rng(1).normal(size=(n_rows, 2)),
        offsets,
        places={"x": np.arange(n_rows) % 2, "y": np.arange(n_rows) % 4 // 2},
    )
    X = MultimodalFeatureSets({"images": images, "sounds": sounds, "tiles": tiles})
    clf = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=2, tol=None)
    return clf.fit(X, np.arange(20) % 2), X


def test_attention_map_display_shows_each_weight_in_its_cell(fitted):
    clf, X = fitted
    display = AttentionMapDisplay.from_estimator(clf, X[[7]])
    mean = clf.attention_weights(X)[7].mean(axis=1)
    for (x, y), weight in zip(X.places[7], mean, strict=True):
        assert value_at(display.axes_[0], x + 1, y + 1) == pytest.approx(weight, rel=1e-5)
        assert value_at(display.axes_[0], x + 15, y + 15) == pytest.approx(weight, rel=1e-5)
    assert display.axes_[0].get_title(loc="left") == "mean of 3 units"
    assert display.axes_[0].get_aspect() == 1
    bottom, top = display.axes_[0].get_ylim()
    assert (bottom, top) == (X.places[7][:, 1].max() + 16, 0)  # y points down
    assert display.maps_[0].get_clim() == (0, pytest.approx(mean.max()))
    assert display.figure_.axes[-1].get_ylabel() == "attention weight"
    display.figure_.canvas.draw()


def test_attention_map_display_draws_a_map_per_unit(fitted):
    clf, X = fitted
    display = AttentionMapDisplay.from_estimator(clf, X[[3]], units=[2, 0])
    a = clf.attention_weights(X)[3]
    assert [axes.get_title(loc="left") for axes in display.axes_] == ["unit 2", "unit 0"]
    for axes, unit in zip(display.axes_, (2, 0), strict=True):
        for (x, y), weight in zip(X.places[3], a[:, unit], strict=True):
            assert value_at(axes, x + 8, y + 8) == pytest.approx(weight, rel=1e-5)
    assert display.maps_[0].get_clim() == display.maps_[1].get_clim()
    assert display.maps_[0].get_clim() == (0, pytest.approx(a[:, [0, 2]].max()))
    display = AttentionMapDisplay.from_attention(weights(20, 6), square_grid(), units=range(6))
    assert len(display.axes_) == len(display.maps_) == 6
    assert len(display.figure_.axes) == 7  # with the color bar, and no empty Axes
    display.figure_.canvas.draw()


@settings(max_examples=20)
@given(data=st.data())
def test_attention_map_display_ignores_the_order_of_local_features(data):
    a, places = weights(20), square_grid()
    order = np.array(data.draw(st.permutations(range(20))))[: data.draw(st.integers(1, 20))]
    order = np.concatenate([order, np.setdiff1d([0, 1, 5], order)])
    chosen = np.sort(order)
    one, other = (
        AttentionMapDisplay.from_attention(a[rows], {k: v[rows] for k, v in places.items()})
        for rows in (chosen, order)
    )
    np.testing.assert_array_equal(one.maps_[0].get_array(), other.maps_[0].get_array())
    table = one.maps_[0].get_array().filled(np.nan)
    assert np.nansum(table) == pytest.approx(a[chosen].mean(axis=1).sum())
    assert np.isfinite(table).sum() == len(order)
    plt.close("all")


def test_attention_map_display_takes_places_in_any_form(fitted):
    clf, X = fitted
    expected = AttentionMapDisplay.from_estimator(clf, X[[2]]).maps_[0].get_array()
    frame = pd.DataFrame(X.places[2], columns=["x", "y"])
    for places in (frame, X.places[[2]], {"y": frame["y"], "mpp": 0.5, "x": list(frame["x"])}):
        display = AttentionMapDisplay.from_estimator(clf, X[2], places=places)
        np.testing.assert_array_equal(display.maps_[0].get_array(), expected)
    a = clf.attention_weights(X)[2]
    display = AttentionMapDisplay.from_attention(a, X.places[[2]])
    np.testing.assert_allclose(display.maps_[0].get_array(), expected, rtol=1e-6)


def test_attention_map_display_reads_places_from_a_store(fitted, tmp_path):
    clf, X = fitted
    save_feature_sets(tmp_path / "sets.zarr", X)
    stored = open_feature_sets(tmp_path / "sets.zarr")
    one, other = (
        AttentionMapDisplay.from_estimator(clf, sets[[5]]).maps_[0].get_array()
        for sets in (X, stored)
    )
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "extent"),
    [
        ({}, (0, 10, 8, 0)),
        ({"scale": 8}, (0, 80, 64, 0)),
        ({"extent": (-16, 96, 80, -8)}, (-16, 96, 80, -8)),
    ],
)
def test_attention_map_display_draws_the_thumbnail_below(options, extent):
    image = np.random.default_rng(0).random((8, 10, 3))
    display = AttentionMapDisplay.from_attention(
        weights(20), square_grid(), thumbnail=image, **options
    )
    below, above = display.axes_[0].images
    np.testing.assert_array_equal(below.get_array(), image)
    assert tuple(below.get_extent()) == extent
    assert tuple(above.get_extent()) == (0, 80, 64, 0)
    lowest, highest = (above.cmap(number)[3] for number in (0, above.cmap.N - 1))
    assert 0 < lowest < highest < 1
    left, right, bottom, top = extent
    assert display.axes_[0].get_xlim() == (min(left, 0), max(right, 80))
    assert display.axes_[0].get_ylim() == (max(bottom, 64), min(top, 0))
    display.figure_.canvas.draw()


def test_attention_map_display_draws_squares_and_points():
    rng = np.random.default_rng(0)
    shifted = square_grid(10, 10)
    shifted["x"] = shifted["x"] + np.where(shifted["y"] < 70, 0, 5)
    scattered = {"x": rng.random(100), "y": rng.random(100)}
    for places, kind in ((shifted, PolyCollection), (scattered, PathCollection)):
        display = AttentionMapDisplay.from_attention(weights(100), places)
        assert isinstance(display.maps_[0], kind)
        values = np.sort(weights(100).mean(axis=1))
        np.testing.assert_allclose(display.maps_[0].get_array(), values)
        display.figure_.canvas.draw()
    tiles = AttentionMapDisplay.from_attention(weights(100), scattered, tile_size=0.1)
    assert isinstance(tiles.maps_[0], PolyCollection)


def test_attention_map_display_needs_one_modality_with_positions(fitted_multimodal):
    clf, X = fitted_multimodal
    display = AttentionMapDisplay.from_estimator(clf, X[[3]], modality="tiles")
    mean = clf.attention_weights(X[[3]])[0]["tiles"].mean(axis=1)
    np.testing.assert_allclose(display.maps_[0].get_array().ravel(), mean, rtol=1e-6)
    assert display.axes_[0].get_title(loc="left") == "tiles: mean of 2 units"
    for wrong in (None, "sounds"):
        with pytest.raises(ValueError, match=rf"modality={wrong!r} .*: \['images', 'tiles'\]"):
            AttentionMapDisplay.from_estimator(clf, X[[3]], modality=wrong)
    display = AttentionMapDisplay.from_estimator(
        clf, X[3], modality="sounds", places={"x": [0, 1, 2], "y": [0, 0, 0]}
    )
    assert display.maps_[0].get_array().shape == (1, 3)


def test_attention_map_display_of_a_missing_modality(fitted_multimodal):
    clf, X = fitted_multimodal
    for thumbnail, n_images in ((None, 0), (np.ones((4, 4)), 1)):
        display = AttentionMapDisplay.from_estimator(
            clf, X[[0]], modality="tiles", thumbnail=thumbnail
        )
        assert display.axes_[0].get_title(loc="left") == "tiles: missing"
        assert display.maps_ == []
        assert len(display.axes_[0].images) == n_images
        assert len(display.figure_.axes) == 1
        display.figure_.canvas.draw()


def test_attention_map_display_uses_given_axes_and_does_not_show(fitted, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("shown"))
    clf, X = fitted
    figure, axes = plt.subplots(1, 2)
    display = AttentionMapDisplay.from_estimator(clf, X[[0]], ax=axes, units=[0, 1], colorbar=False)
    assert list(display.axes_) == list(axes)
    assert display.figure_ is figure
    assert len(figure.axes) == 2
    assert plt.get_fignums() == [figure.number]
    with pytest.raises(ValueError, match=r"ax has 2 Axes, but 1 are needed, one per map"):
        AttentionMapDisplay.from_estimator(clf, X[[0]], ax=axes)


def test_attention_map_display_draws_zero_weights():
    display = AttentionMapDisplay.from_attention(np.zeros((20, 1)), square_grid())
    assert display.maps_[0].get_clim() == (0, 1)
    assert display.axes_[0].get_title(loc="left") == "unit 0"


def test_attention_map_display_draws_100_000_tiles_fast():
    a, places = weights(100_000, 32), square_grid(250, 400)
    started = time.process_time()
    display = AttentionMapDisplay.from_attention(a, places)
    display.figure_.canvas.draw()
    assert time.process_time() - started < 5  # 0.3 s on one core
    table = display.maps_[0].get_array()
    np.testing.assert_allclose(table.ravel(), a.mean(axis=1))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"attention": {"rgb": weights(20)}}, TypeError, r"dict of the modalities \['rgb'\]"),
        ({"attention": np.ones(3)}, ValueError, r"attention has shape \(3,\)"),
        ({"attention": np.full((20, 1), np.nan)}, ValueError, r"a value that is not finite"),
        ({"places": np.ones((20, 2))}, TypeError, r"places has type ndarray; .*X\.places\[\[i\]\]"),
        ({"places": None}, TypeError, r"places has type NoneType"),
        ({"places": {"seconds": [0]}}, ValueError, r"the columns \['seconds'\], but a map needs"),
        ({"places": {"x": [0], "y": [0]}}, ValueError, r"places\['x'\] has shape \(1,\), .* 20"),
        ({"places": {**square_grid(), "y": np.full(20, np.nan)}}, ValueError, r"is nan for local"),
        ({"thumbnail": np.ones(3)}, ValueError, r"A thumbnail must be"),
        ({"scale": 2}, ValueError, r"thumbnail is None"),
        ({"extent": (0, 1, 1, 0)}, ValueError, r"thumbnail is None"),
        ({"thumbnail": np.ones((3, 3)), "scale": -1}, ValueError, r"scale=-1 must be a positive"),
        ({"thumbnail": np.ones((3, 3)), "extent": (0, 1)}, ValueError, r"must be the left, right"),
        ({"thumbnail": np.ones((3, 3)), "extent": (1, 1, 2, 0)}, ValueError, r"must be the left"),
        (
            {"thumbnail": np.ones((3, 3)), "extent": (0, 1, 2, 0), "scale": 2},
            ValueError,
            r"exclude each other",
        ),
        ({"tile_size": 0}, ValueError, r"tile_size=0 must be a positive number"),
        ({"anchor": "middle"}, ValueError, r"anchor='middle' must be 'corner' or 'center'"),
        ({"units": [3]}, ValueError, r"units=\[3\] must be a list of ints from 0 to 2"),
    ],
)
def test_attention_map_display_rejects(given, error, message):
    arguments = {"attention": weights(20), "places": square_grid()} | given
    with pytest.raises(error, match=message):
        AttentionMapDisplay.from_attention(**arguments)
    assert not plt.get_fignums()


def test_attention_map_display_from_estimator_rejects(fitted):
    clf, X = fitted
    with pytest.raises(ValueError, match=r"item is a FeatureSets of 20 items, .*X\[\[i\]\]"):
        AttentionMapDisplay.from_estimator(clf, X)
    with pytest.raises(ValueError, match=r"places is a FeatureSets of 20 items"):
        AttentionMapDisplay.from_estimator(clf, X[3], places=X.places)
    with pytest.raises(ValueError, match=r"item has no positions.*Pass a container"):
        AttentionMapDisplay.from_estimator(clf, X[3])
    timed = FeatureSets.from_arrays([X[3]], places=[{"seconds": np.arange(len(X[3]))}])
    with pytest.raises(ValueError, match=r"item has no positions: .* \['seconds'\]"):
        AttentionMapDisplay.from_estimator(clf, timed)
    with pytest.raises(ValueError, match=r"modality='rgb' .* one modality, without a name"):
        AttentionMapDisplay.from_estimator(clf, X[[3]], modality="rgb")
    with pytest.raises(NotFittedError):
        AttentionMapDisplay.from_estimator(AttentionClusterClassifier(), X[[3]])
    average = AverageClassifier(max_iter=1, tol=None).fit(X, np.arange(20) % 2)
    with pytest.raises(TypeError, match=r"AverageClassifier has no attention_weights"):
        AttentionMapDisplay.from_estimator(average, X[[3]])


def test_attention_map_of_histology_images_shows_nuclei(data_home):
    colon = load_benchmark("colon", data_home=data_home)
    clf = AttentionClusterClassifier(n_attended=None, max_iter=20, random_state=0)
    clf.fit(colon.data, colon.target)
    attention, ends = clf.attention_weights(colon.data), np.cumsum(colon.data.lengths)
    mean = np.concatenate([a.mean(axis=1) for a in attention])
    assert roc_auc_score(colon.n_nuclei > 0, mean) > 0.62  # 0.72; with n_attended=5, 0.49
    for item in (0, 50):
        display = AttentionMapDisplay.from_estimator(clf, colon.data[[item]])
        table = display.maps_[0].get_array()
        own = slice(ends[item] - colon.data.lengths[item], ends[item])
        columns, rows = colon.data.places[item].T.astype(int)
        found = table[rows - rows.min(), columns - columns.min()]
        np.testing.assert_allclose(found, mean[own], rtol=1e-5)
