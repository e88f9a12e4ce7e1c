import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from acluster.extraction import Waveforms, extract, load_backbone
from acluster.extraction._backbones import describe
from acluster.extraction._onnx_backbone import (
    _chosen_output,
    _features,
    _providers,
    _with_unit_axes,
)
from tests.extraction.networks import (
    assert_rows_are_independent,
    pictures,
    speech_network,
    waves,
    write_onnx,
)
from tests.extraction.test_sound import noise, write_wav

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


def identity(folder, name, dtype, shape, output="features"):
    """Write a network that returns its input."""
    inputs = {"images": (dtype, shape)}
    nodes = [("Identity", ["images"], [output], {})]
    return write_onnx(folder / f"{name}.onnx", inputs, {output: (dtype, shape)}, nodes)


@pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16", "DOUBLE"])
def test_onnx_normalizes_pictures_as_for_imagenet(folder, dtype):
    path = identity(folder, f"pixels{dtype}", dtype, ["n", 3, "h", "w"])
    features = load_backbone(path)(pictures(2, 4))
    normal = (pictures(2, 4) / 255 - MEAN) / DEVIATION
    expected = normal.reshape(2, 4 * 12, 3)
    np.testing.assert_allclose(features, expected, atol=2e-3 if dtype == "FLOAT16" else 1e-6)


def test_onnx_resizes_pictures_to_a_fixed_size(folder):
    path = identity(folder, "fixed", "FLOAT", ["n", 3, 6, 8])
    plain = np.repeat(pictures(3, 1)[:, :, :1], 20, axis=1).repeat(30, axis=2)
    features = load_backbone(path)(plain)
    expected = (plain[:, 0, 0] / 255 - MEAN) / DEVIATION
    np.testing.assert_allclose(features, np.repeat(expected[:, None], 48, axis=1), atol=1e-5)
    exact = load_backbone(path)(pictures(3, 6)[:, :, :8])
    normal = (pictures(3, 6)[:, :, :8] / 255 - MEAN) / DEVIATION
    np.testing.assert_allclose(exact, normal.reshape(3, 48, 3), atol=1e-6)


def test_onnx_only_converts_other_input(folder):
    bytes_ = identity(folder, "bytes", "UINT8", ["n", 3, "h", "w"])
    np.testing.assert_array_equal(
        load_backbone(bytes_)(pictures(2, 4)), pictures(2, 4).reshape(2, 48, 3)
    )
    last = identity(folder, "last", "FLOAT", ["n", "h", "w", 3])
    found = load_backbone(last)(pictures(2, 4))
    expected = pictures(2, 4).astype(np.float32)
    np.testing.assert_array_equal(found, expected.reshape(2, 4, -1).transpose(0, 2, 1))
    sound = identity(folder, "sound", "DOUBLE", ["n", "samples"])
    features = load_backbone(sound)(waves(2))
    assert features.dtype == np.float64
    np.testing.assert_array_equal(features, waves(2))


@pytest.mark.parametrize("shape", [["n", 96, 64, 1], ["n", 1, 96, 64], [1, 1, 96, 64, 1]])
def test_onnx_inserts_the_channel_of_a_spectrogram(folder, shape):
    path = identity(folder, "channel", "FLOAT", shape)
    batch = np.random.default_rng(0).normal(size=(3, 96, 64)).astype(np.float32)
    assert load_backbone(path)(batch).size == batch.size


@given(st.lists(st.sampled_from([1, 2, 3]), min_size=1, max_size=4))
def test_with_unit_axes_gives_the_shape_of_the_input(lengths):
    full = ["n", *lengths]
    batch = np.zeros([5, *(length for length in lengths if length > 1)])
    assert _with_unit_axes(batch, full).shape == (5, *lengths)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 5), (2, 5)),
        ((2, 4, 5), (2, 4, 5)),
        ((2, 5, 3, 4), (2, 12, 5)),
        ((2, 1, 1, 5), (2, 5)),
        ((2, 5, 1, 1), (2, 5)),
        ((2, 1, 1, 1), (2, 1)),
    ],
)
def test_features_of_onnx_are_rows_of_local_features(shape, expected):
    assert _features(np.zeros(shape, np.float32)).shape == expected


@given(n_fixed=st.integers(1, 4), n_rows=st.integers(1, 9))
def test_onnx_of_a_fixed_batch_size_takes_any(folder, n_fixed, n_rows):
    path = identity(folder, "one_size", "FLOAT", [n_fixed, "samples"])
    np.testing.assert_array_equal(load_backbone(path)(waves(n_rows, 7)), waves(n_rows, 7))


@pytest.fixture(scope="module")
def several(folder):
    """A network with three outputs: a hidden layer, its double, and scores."""
    hidden = {"inputs": ["samples", "weights"], "outputs": ["hidden"]}
    weights = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    nodes = [
        ("MatMul", hidden["inputs"], hidden["outputs"], {}),
        ("Add", ["hidden", "hidden"], ["double"], {}),
        ("Softmax", ["hidden"], ["probabilities"], {}),
    ]
    outputs = {name: ("FLOAT", ["n", 4]) for name in ("hidden", "double", "probabilities")}
    inputs = {"samples": ("FLOAT", ["n", 8])}
    initial = [numpy_helper.from_array(weights, "weights")]
    return write_onnx(folder / "several.onnx", inputs, outputs, nodes, initial), weights


def test_onnx_uses_the_chosen_output(several):
    path, weights = several
    hidden = waves(3, 8) @ weights
    np.testing.assert_allclose(load_backbone(f"{path}#hidden")(waves(3, 8)), hidden, rtol=1e-5)
    np.testing.assert_allclose(load_backbone(f"{path}#double")(waves(3, 8)), 2 * hidden, rtol=1e-5)
    scores = load_backbone(f"{path}#probabilities")(waves(3, 8))
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_onnx_lists_the_outputs_to_choose_from(several):
    path, _ = several
    listed = (
        r"hidden \(n, 4\), double \(n, 4\), probabilities \(n, 4\), as in .*several.onnx#hidden"
    )
    with pytest.raises(ValueError, match=rf"several.onnx has 3 outputs. Choose one of {listed}"):
        load_backbone(path)
    with pytest.raises(ValueError, match=rf"has no output 'logits'. Choose one of {listed}"):
        load_backbone(f"{path}#logits")


@pytest.mark.parametrize(
    ("output", "width", "is_refused"),
    [
        ("logits", 4, True),
        ("Softmax_0", 4, True),
        ("class_probs", 4, True),
        ("y", 1000, True),
        ("y", 527, True),
        ("y", 4, False),
        ("features", 1280, False),
        ("y", "width", False),
    ],
)
def test_onnx_refuses_the_scores_of_classes_unless_asked_for(folder, output, width, is_refused):
    path = identity(folder, "scores", "FLOAT", ["n", width], output)
    if is_refused:
        with pytest.raises(
            ValueError, match=rf"{output} \(n, {width}\) of scores.onnx seems to be"
        ):
            load_backbone(path)
    else:
        load_backbone(path)
    batch = waves(2, width if isinstance(width, int) else 3)
    np.testing.assert_array_equal(load_backbone(f"{path}#{output}")(batch), batch)


def test_onnx_of_three_axes_may_have_any_width():
    class Tokens:
        name, shape = "tokens", ["n", 7, 1000]

    assert _chosen_output([Tokens], None, "m.onnx") == "tokens"


def test_onnx_refuses_other_files(folder, tmp_path):
    inputs = {name: ("FLOAT", ["n", 3]) for name in ("first", "second")}
    nodes = [("Add", ["first", "second"], ["sum"], {})]
    path = write_onnx(folder / "two.onnx", inputs, {"sum": ("FLOAT", ["n", 3])}, nodes)
    with pytest.raises(ValueError, match=r"two.onnx has the inputs first, second. A feature extr"):
        load_backbone(path)
    with pytest.raises(ValueError, match=r"takes tensor\(bool\), and not one of tensor\(float\)"):
        load_backbone(identity(folder, "bool", "BOOL", ["n", 3]))
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none.onnx\."):
        load_backbone(str(tmp_path / "none.onnx"))


def test_describe_of_onnx_tells_the_content_of_the_files(folder, tmp_path):
    path = identity(folder, "described", "FLOAT", ["n", 3])
    copy, renamed = (str(tmp_path / name) for name in ("copy.onnx", "#1.onnx"))
    shutil.copy(path, copy)
    shutil.copy(path, renamed)
    described = [describe(None, name, load_backbone(name))["backbone"] for name in (path, copy)]
    assert described[0]["name"] == path
    assert described[0]["checksum"] == described[1]["checksum"]
    checksums = {described[0]["checksum"]}
    for name in (f"{copy}.data", f"{copy}_data"):
        with open(name, "wb") as file:
            file.write(b"weights")
        checksums.add(load_backbone(copy).description["checksum"])
    identity(tmp_path, "copy", "FLOAT", ["n", 4])
    checksums.add(load_backbone(copy).description["checksum"])
    assert len(checksums) == 4
    assert load_backbone(renamed)(waves(2, 3)).shape == (2, 3)


def test_onnx_devices():
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    assert _providers("auto", [cpu]) == _providers("cpu", [cuda, cpu]) == [cpu]
    assert _providers("auto", [cuda, cpu]) == [(cuda, {"device_id": "0"}), cpu]
    assert _providers("cuda:1", [cuda, cpu]) == [(cuda, {"device_id": "1"}), cpu]
    with pytest.raises(ValueError, match=r"device='cuda', but this onnxruntime has only CPUExec"):
        _providers("cuda", [cpu])
    with pytest.raises(ValueError, match=r"device='mps' is not 'auto', 'cpu' or 'cuda'"):
        _providers("mps", [cpu])


@pytest.mark.parametrize(("setting", "n_threads"), [("1", 1), ("3", 3), (None, 0)])
def test_onnx_uses_as_many_threads_as_openmp(folder, monkeypatch, setting, n_threads):
    seen = []
    session = onnxruntime.InferenceSession

    def recorded(path, options, providers):
        seen.append(options.intra_op_num_threads)
        return session(path, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recorded)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if setting:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    load_backbone(identity(folder, "threads", "FLOAT", ["n", 3]))
    assert seen == [n_threads]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter, of torch
def test_onnx_exported_by_torch_gives_the_same_features(tmp_path):
    class Normalized(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, pixels):
            return self.network(pixels).mean((2, 3))

    torch.manual_seed(0)
    network = Normalized(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.ReLU())).eval()
    path = str(tmp_path / "exported.onnx")
    torch.onnx.export(
        network,
        (torch.zeros(2, 3, 32, 32),),
        path,
        dynamic_shapes={"pixels": {0: torch.export.Dim("n")}},
        output_names=["features"],
        external_data=False,
        verbose=False,
    )
    batch, others = (pictures(16, 32, seed=seed)[:, :, :32] for seed in (0, 1))
    extractor = load_backbone(path, device="cpu")
    normal = torch.from_numpy((batch / 255 - MEAN) / DEVIATION).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        np.testing.assert_allclose(extractor(batch), network(normal), atol=1e-5)
    assert_rows_are_independent(extractor, batch, others)


def spectra(samples):
    """Return windows of log-mel spectra (n, 76, 32) of sound at 16 kHz, by openwakeword's file."""
    path = speech_network("melspectrogram.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    mel = session.run(None, {"input": 32767 * samples[None].astype(np.float32)})[0].squeeze() / 10
    return np.stack([mel[i : i + 76] + 2 for i in range(0, len(mel) - 75, 8)])


def test_onnx_of_a_real_speech_network():
    path = speech_network("embedding_model.onnx")
    extractor = load_backbone(path, device="cpu")
    batch = spectra(waves(1, 48000)[0])[:16]
    features = extractor(batch)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for row, found in zip(batch, features, strict=True):
        expected = session.run(None, {"input_1": row[None, :, :, None]})[0].ravel()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    others = spectra(waves(1, 48000, seed=1)[0])[:16]
    assert_rows_are_independent(extractor, batch, others)


def test_onnx_with_more_than_a_batch_as_input_is_refused():
    with pytest.raises(ValueError, match=r"silero_vad.onnx has the inputs input, sr, h, c"):
        load_backbone(speech_network("silero_vad.onnx"))


def test_extract_with_an_onnx_file(folder, tmp_path):
    (tmp_path / "sounds").mkdir()
    write_wav(tmp_path / "sounds" / "a.wav", noise(16000))
    path = identity(folder, "extract", "FLOAT", ["n", 4000])
    views = {"audio": (Waveforms(seconds=0.25), path)}
    report = extract(tmp_path / "sounds", tmp_path / "s.zarr", views, batch_size=3)
    assert report.n_items == 1
    identity(folder, "extract", "FLOAT", ["m", 4000])
    write_wav(tmp_path / "sounds" / "b.wav", noise(16000, seed=1))
    with pytest.raises(ValueError, match=r"begun with another extraction.*'checksum'"):
        extract(tmp_path / "sounds", tmp_path / "s.zarr", views, batch_size=3)
