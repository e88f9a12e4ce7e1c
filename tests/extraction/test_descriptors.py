"""The classical descriptors against slow loops, and what they say about simple inputs."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from acluster.extraction import (
    flat_descriptor,
    flow_descriptor,
    frame_descriptor,
    patch_descriptor,
    tile_descriptor,
)

sides = st.integers(4, 30)
seeds = st.integers(0, 999)


def pixels_of_cells(height, width):
    """Yield the rows and columns of each of the 4 x 4 cells."""
    for i in range(4):
        for j in range(4):
            rows = range(i * height // 4, (i + 1) * height // 4)
            columns = range(j * width // 4, (j + 1) * width // 4)
            yield [(y, x) for y in rows for x in columns]


def slow_histogram(vectors):
    """Average the parts of vectors along the two of eight directions next to them."""
    bins = [0.0] * 8
    for x, y in vectors:
        angle = math.atan2(y, x) % (2 * math.pi)
        k = int(angle / (math.pi / 4)) % 8
        basis = np.array(
            [[math.cos(i * math.pi / 4), math.sin(i * math.pi / 4)] for i in (k, k + 1)]
        )
        parts = np.linalg.solve(basis.T, [x, y])
        bins[k] += parts[0] / len(vectors)
        bins[(k + 1) % 8] += parts[1] / len(vectors)
    return bins


def slow_frame_descriptor(frame):
    frame = frame.astype(float) / 255
    dy, dx = np.gradient(frame.mean(axis=-1))
    histograms, means, deviations = [], [], []
    for pixels in pixels_of_cells(*frame.shape[:2]):
        bins = slow_histogram([(dx[place], dy[place]) for place in pixels])
        histograms += [math.sqrt(max(0, value)) for value in bins]
        means += [*np.mean([frame[place] for place in pixels], axis=0)]
        deviations += [*np.std([frame[place] for place in pixels], axis=0)]
    return np.array([*histograms, *means, *deviations])


def slow_flow_descriptor(stack):
    fields = [stack[..., i : i + 2].astype(float) for i in range(0, stack.shape[2], 2)]
    histograms, means, largest = [], [], []
    for pixels in pixels_of_cells(*stack.shape[:2]):
        bins = np.mean(
            [slow_histogram([field[place] for place in pixels]) for field in fields], axis=0
        )
        speeds = [np.mean([math.hypot(*field[place]) for place in pixels]) for field in fields]
        histograms += [math.sqrt(max(0, value)) for value in bins]
        means.append(np.mean(speeds))
        largest.append(np.max(speeds))
    return np.array([*histograms, *means, *largest])


def frames_of(n, height, width, seed):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def stacks_of(n, height, width, seed, n_fields=3):
    shape = (n, height, width, 2 * n_fields)
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def slow_tile_descriptor(tile):
    height, width, _ = tile.shape
    shades = [[0] * 16 for _ in range(3)]
    for pixel in tile.reshape(-1, 3).tolist():
        for color, value in enumerate(pixel):
            shades[color][value // 16] += 1
    described = [math.sqrt(n / (height * width)) for own in shades for n in own]
    tile = tile / 255
    described += [*tile.mean(axis=(0, 1)), *tile.std(axis=(0, 1))]
    for scale in (1, 2, 4, 8):
        rows, columns = height // scale, width // scale
        squares = tile[: rows * scale, : columns * scale]
        squares = squares.reshape(rows, scale, columns, scale, 3).mean(axis=(1, 3))
        for color in range(3):
            down = [b - a for line in squares[..., color].T for a, b in pairwise(line)]
            right = [b - a for line in squares[..., color] for a, b in pairwise(line)]
            squared = [sum(d * d for d in steps) / len(steps) for steps in (down, right)]
            described.append(math.sqrt(sum(squared) / 2))
    return described


@settings(max_examples=20, deadline=None)
@given(height=st.integers(16, 40), width=st.integers(16, 40), seed=seeds)
def test_tile_descriptor_equals_a_slow_loop(height, width, seed):
    tiles = frames_of(2, height, width, seed)
    described = tile_descriptor(tiles)
    assert described.shape == (2, 66)
    assert described.dtype == np.float32
    for tile, row in zip(tiles, described, strict=True):
        np.testing.assert_allclose(row, slow_tile_descriptor(tile), atol=2e-6)


@given(side=st.integers(2, 6), turns=st.integers(0, 3), mirrored=st.booleans(), seed=seeds)
def test_tile_descriptor_does_not_depend_on_the_orientation(side, turns, mirrored, seed):
    tiles = frames_of(2, 8 * side, 24, seed)
    turned = np.rot90(tiles[:, ::-1] if mirrored else tiles, turns, (1, 2))
    np.testing.assert_array_equal(tile_descriptor(turned), tile_descriptor(tiles))


def test_tile_descriptor_tells_textures_apart_at_their_scale():
    tiles = np.zeros((4, 64, 64, 3), np.uint8)
    for k, scale in enumerate((1, 2, 4, 8)):
        y, x = np.mgrid[:64, :64] // scale
        tiles[k][(x + y) % 2 == 0] = 255
    roughness = tile_descriptor(tiles)[:, 54:].reshape(4, 4, 3)[..., 0]
    assert (np.diag(roughness) == 1).all()  # A checkerboard of this scale has no even neighbors.
    assert not np.triu(roughness, 1)[:, 1:].any()  # Larger squares are all grey.


@settings(max_examples=30)
@given(height=sides, width=sides, seed=seeds)
def test_frame_descriptor_equals_a_slow_loop(height, width, seed):
    frames = frames_of(2, height, width, seed)
    described = frame_descriptor(frames)
    assert described.shape == (2, 224)
    assert described.dtype == np.float32
    for frame, row in zip(frames, described, strict=True):
        np.testing.assert_allclose(row, slow_frame_descriptor(frame), atol=2e-6)


@settings(max_examples=30)
@given(height=sides, width=sides, n_fields=st.integers(1, 6), seed=seeds)
def test_flow_descriptor_equals_a_slow_loop(height, width, n_fields, seed):
    stacks = stacks_of(2, height, width, seed, n_fields)
    described = flow_descriptor(stacks)
    assert described.shape == (2, 160)
    assert described.dtype == np.float32
    for stack, row in zip(stacks, described, strict=True):
        # Square roots of sums that are almost zero have large rounding errors.
        np.testing.assert_allclose(row, slow_flow_descriptor(stack), rtol=1e-5, atol=1e-3)


@settings(max_examples=15)
@given(arrays(np.float32, (2, 96, 64), elements=st.floats(-5, 5, width=32)))
def test_patch_descriptor_equals_a_slow_loop(patches):
    described = patch_descriptor(patches)
    assert described.shape == (2, 192)
    assert described.dtype == np.float32
    for patch, row in zip(patches.astype(float), described, strict=True):
        for band, values in enumerate(patch.T):
            mean = sum(values) / 96
            variance = sum((value - mean) ** 2 for value in values) / 96
            step = sum(abs(b - a) for a, b in pairwise(values)) / 95
            expected = [mean, math.sqrt(variance), step]
            np.testing.assert_allclose(row[band::64], expected, rtol=1e-5, atol=1e-6)


@given(height=sides, width=sides, n=st.integers(1, 9), seed=seeds)
def test_descriptors_do_not_depend_on_the_batch(height, width, n, seed):
    rng = np.random.default_rng(seed)
    inputs = {
        frame_descriptor: frames_of(n, height, width, seed),
        tile_descriptor: frames_of(n, height + 12, width + 12, seed),
        flow_descriptor: stacks_of(n, height, width, seed),
        patch_descriptor: rng.normal(size=(n, 96, 64)).astype(np.float32),
    }
    for describe, items in inputs.items():
        together = describe(items)
        for i in range(n):
            np.testing.assert_array_equal(describe(items[i : i + 1])[0], together[i])
        order = rng.permutation(n)
        np.testing.assert_array_equal(describe(items[order]), together[order])
        np.testing.assert_array_equal(describe(items[:, ::-1].copy()[:, ::-1]), together)


def ramp(angle):
    """A frame whose grey value increases in a direction."""
    y, x = np.mgrid[:40, :40] - 19.5
    grey = 128 + 3 * (math.cos(angle) * x + math.sin(angle) * y)
    return np.repeat(np.round(grey).astype(np.uint8)[None, ..., None], 3, axis=3)


@pytest.mark.parametrize("k", range(8))
def test_frame_descriptor_has_one_bin_per_direction(k):
    histograms = frame_descriptor(ramp(k * math.pi / 4))[0, :128].reshape(4, 4, 8) ** 2
    assert (histograms.argmax(axis=-1) == k).all()
    # Three grey values per pixel; the diagonal ones are rounded.
    np.testing.assert_allclose(histograms[..., k] * 255, 3, atol=0.4)
    assert (np.delete(histograms, k, axis=-1) * 255 < 0.6).all()


@given(height=sides, width=sides, seed=seeds)
def test_frame_descriptor_of_a_rotated_frame_moves_two_bins(height, width, seed):
    frames = frames_of(1, height - height % 4, width - width % 4, seed)
    described = frame_descriptor(frames)[0, :128].reshape(4, 4, 8)
    # np.rot90 turns from the y axis to the x axis: by two bins backward.
    rotated = frame_descriptor(np.rot90(frames, axes=(1, 2)))[0, :128].reshape(4, 4, 8)
    np.testing.assert_allclose(rotated, np.roll(np.rot90(described), -2, axis=-1), atol=1e-6)


@pytest.mark.parametrize("k", range(8))
def test_flow_descriptor_of_turned_flow_moves_one_bin(k):
    stacks = stacks_of(1, 20, 24, seed=k, n_fields=2)
    cos = sin = math.sqrt(0.5)
    turned = np.empty_like(stacks)
    turned[..., 0::2] = cos * stacks[..., 0::2] - sin * stacks[..., 1::2]
    turned[..., 1::2] = sin * stacks[..., 0::2] + cos * stacks[..., 1::2]
    before, after = (flow_descriptor(one)[0] for one in (stacks, turned))
    expected = np.roll(before[:128].reshape(4, 4, 8), 1, axis=-1)
    np.testing.assert_allclose(after[:128].reshape(4, 4, 8), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(after[128:], before[128:], rtol=1e-5)


@given(height=sides, width=sides, seed=seeds)
def test_flow_descriptor_of_mirrored_flow_mirrors_the_histograms(height, width, seed):
    stacks = stacks_of(1, height - height % 4, width - width % 4, seed)
    mirrored = stacks[:, :, ::-1].copy()
    mirrored[..., 0::2] *= -1
    before, after = (flow_descriptor(one)[0] for one in (stacks, mirrored))
    bins = [4, 3, 2, 1, 0, 7, 6, 5]  # left and right change places
    expected = before[:128].reshape(4, 4, 8)[:, ::-1, bins]
    np.testing.assert_allclose(after[:128].reshape(4, 4, 8), expected, rtol=1e-5)
    np.testing.assert_allclose(
        after[128:].reshape(2, 4, 4), before[128:].reshape(2, 4, 4)[..., ::-1], rtol=1e-5
    )


@given(u=st.floats(-20, 20, width=32), v=st.floats(-20, 20, width=32))
def test_histogram_of_constant_flow_adds_up_to_the_flow(u, v):
    stacks = np.broadcast_to(np.float32([u, v]), (1, 9, 11, 2))
    described = flow_descriptor(stacks)[0]
    histograms = described[:128].reshape(4, 4, 8) ** 2
    angles = np.arange(8) * np.pi / 4
    for cell in histograms.reshape(16, 8):
        np.testing.assert_allclose(cell @ np.cos(angles), u, atol=1e-4)
        np.testing.assert_allclose(cell @ np.sin(angles), v, atol=1e-4)
        assert np.count_nonzero(cell) <= 2
    np.testing.assert_allclose(described[128:], math.hypot(u, v), rtol=1e-5, atol=1e-15)


def test_flow_descriptor_tells_the_fastest_field_from_the_mean():
    stacks = np.zeros((1, 16, 16, 6), np.float32)
    stacks[..., 2] = 6  # the second of three fields, to the right
    described = flow_descriptor(stacks)[0]
    np.testing.assert_allclose(described[:128].reshape(16, 8)[:, 0] ** 2, 2, rtol=1e-6)
    np.testing.assert_allclose(described[128:144], 2)
    np.testing.assert_allclose(described[144:], 6)


def test_frame_descriptor_of_large_frames_is_exact():
    # Sums of squares of a cell exceed 32 bits.
    frames = np.full((1, 1200, 1400, 3), 255, np.uint8)
    described = frame_descriptor(frames)[0]
    np.testing.assert_array_equal(described, [0] * 128 + [1] * 48 + [0] * 48)


@pytest.mark.parametrize("level", [math.log(0.01), 0.1, -7.3])
def test_patch_descriptor_of_silence_is_constant(level):
    patches = np.full((2, 96, 64), level, np.float32)
    expected = np.repeat([[np.float32(level)] * 64 + [np.float32(0)] * 128], 2, axis=0)
    np.testing.assert_array_equal(patch_descriptor(patches), expected)


def test_descriptors_of_no_items():
    assert frame_descriptor(np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 224)
    assert tile_descriptor(np.zeros((0, 16, 16, 3), np.uint8)).shape == (0, 66)
    assert flow_descriptor(np.zeros((0, 8, 8, 4), np.float32)).shape == (0, 160)
    assert patch_descriptor(np.zeros((0, 96, 64), np.float32)).shape == (0, 192)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_descriptors_accept_other_floats(dtype):
    stacks = np.full((1, 8, 8, 2), 0.5, dtype)
    patches = np.full((1, 96, 64), 0.5, dtype)
    for describe, items in [(flow_descriptor, stacks), (patch_descriptor, patches)]:
        np.testing.assert_array_equal(describe(items), describe(items.astype(np.float32)))


@pytest.mark.parametrize(
    ("describe", "items", "message"),
    [
        (frame_descriptor, np.zeros((1, 8, 8, 3)), r"are float64 of shape \(1, 8, 8, 3\)"),
        (frame_descriptor, np.zeros((8, 8, 3), np.uint8), r"as uint8 \(B, H, W, 3\)"),
        (frame_descriptor, np.zeros((1, 8, 8, 4), np.uint8), r"shape \(1, 8, 8, 4\)"),
        (frame_descriptor, np.zeros((1, 3, 8, 3), np.uint8), "3 x 8 pixels. Each side needs"),
        (tile_descriptor, np.zeros((1, 32, 32, 3)), r"tiles are float64 of shape"),
        (tile_descriptor, np.zeros((1, 15, 32, 3), np.uint8), "Each side needs at least 16"),
        (flow_descriptor, np.zeros((1, 8, 8, 2), np.uint8), r"stacks are uint8"),
        (flow_descriptor, np.zeros((1, 8, 8, 3)), r"as floats \(B, H, W, 2 n\)"),
        (flow_descriptor, np.zeros((1, 8, 8, 0)), r"shape \(1, 8, 8, 0\)"),
        (flow_descriptor, np.zeros((1, 8, 2, 4)), "8 x 2 pixels"),
        (patch_descriptor, np.zeros((96, 64)), r"shape \(96, 64\). Pass log-mel patches"),
        (patch_descriptor, np.zeros((1, 1, 64)), r"shape \(1, 1, 64\)"),
        (patch_descriptor, np.zeros((1, 96, 64), int), "patches are int64"),
    ],
)
def test_descriptors_refuse_other_input(describe, items, message):
    with pytest.raises(ValueError, match=message):
        describe(items)


def test_flat_descriptor_has_the_values_in_their_order():
    patches = np.random.default_rng(0).normal(size=(3, 10, 64)).astype(np.float32)
    found = flat_descriptor(patches)
    assert found.dtype == np.float32
    for row, patch in zip(found, patches, strict=True):
        assert row.tolist() == [value for spectrum in patch for value in spectrum]


@pytest.mark.parametrize("batch", [np.zeros(3), np.zeros((2, 3), complex), np.array([["a"]])])
def test_flat_descriptor_rejects_what_has_no_rows_of_numbers(batch):
    with pytest.raises(ValueError, match=r"Pass real numbers \(B, ...\)"):
        flat_descriptor(batch)
