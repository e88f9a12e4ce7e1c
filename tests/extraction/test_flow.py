"""Optical flow: TV-L1 against scikit-image and known motion, and all methods by name."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster.extraction import FlowStacks, optical_flow, tv_l1
from tests.test_lazy_imports import run_without

METHODS = ["tvl1", "dis", "skimage"]
PACKAGES = {"dis": "cv2", "skimage": "skimage"}


def texture(x, y, seed=0):
    """Sum waves of 8 to 40 pixels in all directions, between 0 and 1, at any places."""
    rng = np.random.default_rng(seed)
    angles, phases = rng.uniform(0, 2 * np.pi, (2, 30))
    lengths = np.geomspace(8, 40, 30)
    waves = [
        np.sin(2 * np.pi / length * (np.cos(angle) * x + np.sin(angle) * y) + phase)
        for angle, length, phase in zip(angles, lengths, phases, strict=True)
    ]
    return np.clip(0.5 + sum(waves) / 25, 0, 1)


def pair(height, width, motion=(1.5, -2.25), seed=0, dtype=np.float32):
    """Frames of a texture that moves by (u, v) pixels."""
    y, x = np.mgrid[:height, :width].astype(float)
    frames = texture(x, y, seed), texture(x - motion[0], y - motion[1], seed)
    return [frame[None].astype(dtype) for frame in frames]


def batch(*pairs):
    return [torch.from_numpy(np.concatenate(frames)) for frames in zip(*pairs, strict=True)]


def errors(flow, expected):
    """End-point errors, away from the edges, beyond which nothing is known."""
    return np.linalg.norm(np.asarray(flow) - expected, axis=-1)[..., 8:-8, 8:-8]


def method(name):
    """The flow by its name; skips the test without the package."""
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name], reason=f"{name} needs the extra flow")
    return optical_flow(name)


@pytest.mark.parametrize("shape", [(112, 112), (90, 161), (24, 30), (33, 65), (2, 3), (3, 40)])
@pytest.mark.parametrize("tol", [1e-4, 0])
def test_tv_l1_equals_scikit_image(shape, tol):
    method("skimage")
    from skimage.registration import optical_flow_tvl1

    pairs = [pair(*shape, motion=m, seed=i) for i, m in enumerate([(1.2, 0.4), (-2, 3), (0, 0.05)])]
    flow = tv_l1(*batch(*pairs), tol=tol).numpy()
    for i, (first, second) in enumerate(pairs):
        v, u = optical_flow_tvl1(first[0], second[0], tol=tol)
        difference = np.linalg.norm(flow[i] - np.stack([u, v], axis=-1), axis=-1)
        assert difference.mean() < 1e-4  # Only rounding differs.


@pytest.mark.parametrize(
    "options",
    [{"attachment": 5}, {"tightness": 0.1}, {"n_warps": 2}, {"n_iterations": 3}, {"tol": 0.05}],
)
def test_tv_l1_parameters_mean_those_of_scikit_image(options):
    method("skimage")
    from skimage.registration import optical_flow_tvl1

    first, second = pair(60, 70)
    names = {"n_warps": "num_warp", "n_iterations": "num_iter"}
    v, u = optical_flow_tvl1(
        first[0], second[0], **{names.get(name, name): value for name, value in options.items()}
    )
    flow = tv_l1(*batch((first, second)), **options)[0].numpy()
    usual = tv_l1(*batch((first, second)))[0].numpy()
    assert np.linalg.norm(flow - np.stack([u, v], axis=-1), axis=-1).mean() < 1e-4
    assert np.linalg.norm(flow - usual, axis=-1).mean() > 1e-3


@settings(max_examples=30)
@given(
    u=st.floats(-5, 5),
    v=st.floats(-5, 5),
    height=st.integers(70, 100),
    width=st.integers(70, 100),
    seed=st.integers(0, 9),
)
def test_tv_l1_finds_known_motion(u, v, height, width, seed):
    flow = tv_l1(*batch(pair(height, width, (u, v), seed)))
    assert errors(flow, [u, v]).mean() < 0.15


def test_tv_l1_finds_a_zoom():
    y, x = np.mgrid[:100, :120].astype(float)
    motion = 0.03 * np.stack([x - 60, y - 50], axis=-1)
    second = texture(60 + (x - 60) / 1.03, 50 + (y - 50) / 1.03)
    flow = tv_l1(*(torch.from_numpy(frame[None]) for frame in (texture(x, y), second)))
    assert errors(flow, motion).mean() < 0.1


@settings(max_examples=30)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    is_uint8=st.booleans(),
    seed=st.integers(0, 99),
)
def test_tv_l1_of_equal_frames_is_zero(height, width, is_uint8, seed):
    rng = np.random.default_rng(seed)
    frames = torch.from_numpy(rng.integers(0, 256, (2, height, width), dtype=np.uint8))
    frames = frames if is_uint8 else frames / 255
    assert not tv_l1(frames, frames).any()
    assert not tv_l1(frames, frames, tol=0).any()


@settings(max_examples=30)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_tv_l1_of_small_frames_is_finite(height, width, seed):
    frames = np.random.default_rng(seed).random((2, 3, height, width), np.float32)
    flow = tv_l1(*torch.from_numpy(frames))
    assert flow.shape == (3, height, width, 2)
    assert flow.isfinite().all()
    for axis, size in enumerate((width, height)):
        assert size > 1 or not flow[..., axis].any()


def test_tv_l1_of_one_row_is_that_of_two_equal_rows():
    first, second = batch(pair(1, 50, (0.7, 0)))
    twice = tv_l1(first.repeat(1, 2, 1), second.repeat(1, 2, 1))
    torch.testing.assert_close(tv_l1(first, second), twice[:, :1])


def test_tv_l1_of_transposed_frames_is_transposed():
    first, second = batch(pair(50, 80, dtype=np.float64))
    flow = tv_l1(first.mT, second.mT).transpose(1, 2).flip(-1)
    torch.testing.assert_close(flow, tv_l1(first, second), atol=1e-9, rtol=0)


def test_tv_l1_does_not_depend_on_the_batch():
    # The second pair needs fewer warps than the others, and 40 pairs are several parts.
    pairs = [pair(70, 80, (3, 2)), pair(70, 80, (0, 0)), pair(70, 80, (-1, 0.5), seed=1)]
    first, second = batch(*pairs)
    alone = torch.cat([tv_l1(first[i : i + 1], second[i : i + 1]) for i in range(3)])
    many = tv_l1(first.repeat(14, 1, 1), second.repeat(14, 1, 1))
    assert torch.equal(many, alone.repeat(14, 1, 1, 1))


def test_tv_l1_of_no_pairs():
    empty = torch.zeros(0, 30, 40)
    assert tv_l1(empty, empty).shape == (0, 30, 40, 2)


def test_tv_l1_of_uint8_equals_scaled_floats():
    first, second = ((255 * frames).to(torch.uint8) for frames in batch(pair(40, 50)))
    assert torch.equal(tv_l1(first, second), tv_l1(first / 255, second / 255))


@pytest.mark.parametrize(
    ("dtype", "result"), [("float64", "float64"), ("float16", "float32"), ("bfloat16", "float32")]
)
def test_tv_l1_dtypes(dtype, result):
    frames = batch(pair(40, 50, dtype=np.float64))
    flow = tv_l1(*(one.to(getattr(torch, dtype)) for one in frames))
    assert flow.dtype == getattr(torch, result)
    expected = tv_l1(*frames)
    assert errors(flow.double(), expected.numpy()).mean() < {"bfloat16": 0.5}.get(dtype, 0.02)


def test_tv_l1_ignores_the_defaults_of_torch():
    frames = batch(pair(70, 80))
    expected = tv_l1(*frames)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert torch.equal(tv_l1(*frames), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_tv_l1_leaves_its_input_alone_and_has_no_gradient():
    first, second = batch(pair(40, 50))
    copies = first.clone(), second.clone()
    assert not tv_l1(first.requires_grad_(), second).requires_grad
    assert torch.equal(first, copies[0])
    assert torch.equal(second, copies[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a[0], r"shape \(20, 30\)"),
        (lambda a: a[:, :0], r"shape \(2, 0, 30\). Pass grey frames \(B, H, W\)"),
        (lambda a: a[..., None], r"shape \(2, 20, 30, 1\)"),
        (lambda a: (255 * a).astype(np.int64), "are int64. Pass uint8"),
        (lambda a: 255 * a, "values from 0 to 255. Scale them"),
        (lambda a: a - 0.5, "values from -0.5 to 0.5"),
        (lambda a: a * np.nan, "values from nan to nan"),
    ],
)
def test_frames_of_another_form_are_refused(change, message):
    frames = change(np.linspace(0, 1, 1200).reshape(2, 20, 30))
    with pytest.raises(ValueError, match=message):
        tv_l1(torch.from_numpy(frames), torch.from_numpy(frames))
    with pytest.raises(ValueError, match=message):
        optical_flow("tvl1")(frames, frames)


def test_frames_that_differ_in_form_are_refused():
    first = torch.zeros(2, 20, 30)
    with pytest.raises(ValueError, match=r"shape \(2, 20, 30\), the second frames \(1, 20, 30\)"):
        tv_l1(first, first[:1])
    with pytest.raises(ValueError, match="dtype float32, the second frames float64"):
        tv_l1(first, first.double())
    with pytest.raises(ValueError, match="device cpu, the second frames meta"):
        tv_l1(first, first.to("meta"))


@pytest.mark.parametrize(
    "options", [{"attachment": 0}, {"tightness": -1}, {"n_warps": 0}, {"tol": -1e-4}]
)
def test_tv_l1_refuses_parameters_that_are_not_positive(options):
    (name, value), frames = *options.items(), torch.zeros(1, 8, 8)
    with pytest.raises(ValueError, match=f"{name} is {value}. It has to be positive"):
        tv_l1(frames, frames, **options)


@pytest.mark.parametrize("name", METHODS)
def test_optical_flow_order_and_units(name):
    first, second = (np.concatenate([one, one]) for one in pair(100, 120, (2, -1)))
    flow = method(name)(first, second)
    assert flow.shape == (2, 100, 120, 2)
    assert flow.dtype == np.float32
    assert errors(flow, [2, -1]).mean() < 0.15


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1), (2, 2), (17, 40), (40, 9)])
def test_optical_flow_of_small_frames(name, shape):
    compute, frames = method(name), pair(*shape)
    flow = compute(*frames)
    assert flow.shape == (1, *shape, 2)
    assert np.isfinite(flow).all()
    # What was computed before changes nothing.
    compute(*pair(*shape, seed=1))
    np.testing.assert_array_equal(compute(*frames), flow)


@pytest.mark.parametrize("name", METHODS)
def test_optical_flow_of_one_row_is_horizontal(name):
    flow = method(name)(*pair(1, 60, (0.8, 0)))
    assert np.abs(flow[0, 0, 10:-10, 1]).max() < 1e-3
    assert 0.3 < np.median(flow[..., 0]) < 1.1


@pytest.mark.parametrize("name", METHODS)
def test_optical_flow_accepts_any_layout_and_dtype(name):
    compute = method(name)
    frames = [(255 * one).round().astype(np.uint8) for one in pair(60, 70)]
    expected = compute(*frames)
    for one in frames:
        one.flags.writeable = False
    layouts = [np.asfortranarray, lambda one: one[:, ::-1].copy()[:, ::-1], lambda one: one]
    for change in layouts:
        np.testing.assert_array_equal(compute(*map(change, frames)), expected)
    for dtype in (np.float32, np.float64):
        floats = (one.astype(dtype) / 255 for one in frames)
        np.testing.assert_allclose(compute(*floats), expected, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_optical_flow_of_no_pairs(name):
    empty = np.zeros((0, 20, 30), np.uint8)
    assert method(name)(empty, empty).shape == (0, 20, 30, 2)


def test_optical_flow_refuses_unknown_methods():
    with pytest.raises(ValueError, match=r"'farneback'. Choose one of \"tvl1\", \"dis\", \"skim"):
        optical_flow("farneback")


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_optical_flow_names_the_extra_of_a_missing_package(name, package, monkeypatch):
    for module in [package, "skimage.registration"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'"{name}" needs .*pip install acluster\[flow\]'):
        optical_flow(name)


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_optical_flow_is_computed_on_the_named_device(device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    first, second = np.random.default_rng(0).random((2, 3, 20, 20))
    expected = optical_flow("tvl1")(first, second)
    np.testing.assert_array_equal(optical_flow("tvl1", device)(first, second), expected)


def test_optical_flow_moves_frames_to_the_device_and_flow_back(monkeypatch):
    import torch

    seen = []

    def flow(first, second):
        seen.append((first.device.type, second.device.type))
        return torch.stack([first, second], -1)

    moved = []
    to = torch.Tensor.to
    monkeypatch.setattr("acluster.training.resolve_device", lambda name: name)
    monkeypatch.setattr("acluster.extraction._tv_l1.tv_l1", flow)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, device: moved.append(device) or to(self, "cpu")
    )
    frames = np.zeros((1, 4, 4), np.uint8)
    assert optical_flow("tvl1", "cuda:1")(frames, frames).shape == (1, 4, 4, 2)
    assert moved == ["cuda:1"] * 2
    assert seen == [("cpu", "cpu")]


@pytest.mark.parametrize(
    ("method", "device", "message"),
    [
        ("dis", "cuda", "'dis' is computed on the CPU only; got device='cuda'. Leave"),
        ("tvl1", "cuda:99", "device='cuda:99' is not available"),
        ("tvl1", "gpu", "device='gpu' is not the name of a device"),
    ],
)
def test_optical_flow_rejects_a_device_that_it_cannot_use(method, device, message):
    with pytest.raises(ValueError, match=message):
        optical_flow(method, device)
    with pytest.raises(ValueError, match=message):
        FlowStacks(method=method, device=device)


def test_extraction_imports_no_heavy_library(tmp_path):
    code = (
        "import numpy as np\n"
        "from acluster.extraction import frame_descriptor, optical_flow\n"
        "frame_descriptor(np.zeros((1, 8, 8, 3), np.uint8))\n"
    )
    heavy = ["torch", "cv2", "skimage", "scipy", "sklearn", "zarr", "transformers", "onnxruntime"]
    run_without(heavy, code, tmp_path)


def test_extraction_has_no_unknown_name():
    import acluster.extraction

    with pytest.raises(AttributeError, match="has no attribute 'tvl1'"):
        acluster.extraction.tvl1  # noqa: B018
