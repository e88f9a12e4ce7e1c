import os
import re
import shutil
import subprocess
import sys
from collections import OrderedDict
from enum import Enum
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from acluster.extraction import Waveforms, extract, load_backbone
from acluster.extraction._backbones import describe
from acluster.extraction._named_backbones import _chosen
from tests.extraction.networks import TINY, assert_rows_are_independent, pictures, waves
from tests.extraction.test_sound import noise, write_wav

SIZE = {"height": 32, "width": 32}


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny random models, as transformers saves them."""
    t = pytest.importorskip("transformers")
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    vit = t.ViTConfig(image_size=32, patch_size=8, **TINY)
    pixels = t.ViTImageProcessor(size=SIZE)
    sides = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    clip = t.CLIPConfig(
        text_config=TINY,
        vision_config={"image_size": 32, "patch_size": 8, **TINY},
        projection_dim=16,
    )
    convolutions = {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8)}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    whisper = t.WhisperConfig(
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        vocab_size=100,
        pad_token_id=0,
        max_source_positions=50,
    )
    made = {
        "vit": (t.ViTModel(vit), pixels),
        "classifier": (t.ViTForImageClassification(vit), pixels),
        "resnet": (t.ResNetModel(t.ResNetConfig(**sides)), pixels),
        "clip": (t.CLIPModel(clip), pixels),
        "wav2vec": (
            t.Wav2Vec2Model(t.Wav2Vec2Config(**convolutions, **positions, **TINY)),
            t.Wav2Vec2FeatureExtractor(sampling_rate=8000),
        ),
        "whisper": (t.WhisperModel(whisper), t.WhisperFeatureExtractor(chunk_length=1)),
        "text": (t.BertModel(t.BertConfig(**TINY)), pixels),
    }
    return {name: save(root / name, *pair) for name, pair in made.items()}


def one_by_one(folder, batch, run):
    """Run a model of transformers on each picture by itself, as its documentation does."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([run(model, **processor(one, return_tensors="pt")) for one in batch])


@pytest.mark.parametrize(
    ("name", "suffix", "shape", "run"),
    [
        ("vit", "", (3, 32), lambda model, **x: model(**x).pooler_output),
        ("vit", "#pooler_output", (3, 32), lambda model, **x: model(**x).pooler_output),
        ("vit", "#last_hidden_state", (3, 17, 32), lambda model, **x: model(**x)[0]),
        ("classifier", "", (3, 17, 32), lambda model, **x: model(**x)[0]),
        ("resnet", "", (3, 1, 16), lambda model, **x: model(**x).pooler_output.mT[:, :, 0]),
        (
            "resnet",
            "#last_hidden_state",
            (3, 1, 16),
            lambda model, **x: model(**x).last_hidden_state.flatten(2).mT,
        ),
        ("clip", "", (3, 16), lambda model, **x: model.get_image_features(**x).pooler_output),
    ],
)
def test_transformers_of_pictures_equal_the_model_on_each(models, name, suffix, shape, run):
    features = load_backbone(f"transformers:{models[name]}{suffix}", device="cpu")(pictures(3))
    expected = one_by_one(models[name], pictures(3), run)
    assert features.shape == shape
    np.testing.assert_allclose(features, expected.reshape(shape), atol=1e-6)


def test_transformers_of_sound_equal_the_model_on_each(models):
    import transformers

    model = transformers.AutoModel.from_pretrained(models["wav2vec"]).eval()
    extractor = load_backbone(f"transformers:{models['wav2vec']}", device="cpu")
    features = extractor(waves(3))
    assert extractor.sample_rate == 8000
    for found, samples in zip(features, waves(3), strict=True):
        scaled = (samples - samples.mean()) / samples.std()
        with torch.no_grad():
            expected = model(torch.from_numpy(scaled)[None]).last_hidden_state[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_transformers_runs_the_encoder_of_an_encoder_and_decoder(models):
    extractor = load_backbone(f"transformers:{models['whisper']}", device="cpu")
    features = extractor(waves(2, 16000))
    assert features.shape == (2, 50, 16)
    assert not torch.equal(features[0], features[1])


@pytest.mark.numerical
@pytest.mark.parametrize("name", ["vit", "resnet", "clip"])
def test_transformers_of_pictures_do_not_depend_on_the_batch(models, name):
    extractor = load_backbone(f"transformers:{models[name]}", device="cpu")
    assert_rows_are_independent(extractor, pictures(16), pictures(16, seed=1))


@pytest.mark.numerical
@pytest.mark.parametrize("name", ["wav2vec", "whisper"])
def test_transformers_of_sound_do_not_depend_on_the_batch(models, name):
    extractor = load_backbone(f"transformers:{models[name]}", device="cpu")
    assert_rows_are_independent(extractor, waves(16), waves(16, seed=1))


def test_transformers_without_a_trained_pooler_never_use_it(models):
    # The checkpoint is that of a classifier. The library fills the pooler with random numbers.
    with pytest.raises(ValueError, match=r"pooler_output: the checkpoint lacks its weights"):
        load_backbone(f"transformers:{models['classifier']}#pooler_output")(pictures(1))
    name = f"transformers:{models['classifier']}"
    descriptions = [describe(None, name, load_backbone(name))["backbone"] for _ in range(2)]
    assert descriptions[0] == descriptions[1]


def test_transformers_lists_the_outputs(models):
    with pytest.raises(ValueError, match=r"no output logits. Choose one of last_hidden_state, poo"):
        load_backbone(f"transformers:{models['vit']}#logits")(pictures(1))


def test_transformers_refuses_logits_unless_asked_for():
    outputs = {"logits": torch.ones(2, 3), "attentions": (torch.ones(1),)}
    with pytest.raises(ValueError, match=r"Choose one of logits, as in transformers:x#logits"):
        _chosen(outputs, None, (), "transformers:x")
    assert _chosen(outputs, "logits", (), "transformers:x") is outputs["logits"]


def test_transformers_refuses_other_models_and_batches(models):
    with pytest.raises(ValueError, match=r"takes input_ids. Name a model that takes pixels"):
        load_backbone(f"transformers:{models['text']}")
    with pytest.raises(ValueError, match=r"takes color pictures, uint8 .*, not float32 of shape"):
        load_backbone(f"transformers:{models['vit']}")(waves(2))
    with pytest.raises(ValueError, match=r"takes sound, floats .* view Waveforms\(rate=8000\)"):
        load_backbone(f"transformers:{models['wav2vec']}")(pictures(2))


def test_transformers_refuses_a_checkpoint_without_all_weights(models, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "incomplete"
    shutil.copytree(models["vit"], folder)
    path = str(folder / "model.safetensors")
    weights = load_file(path)
    del weights["layernorm.weight"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks the weights layernorm.weight: they would be rand"):
        load_backbone(f"transformers:{folder}")


def test_describe_of_transformers_tells_weights_and_processor(models, tmp_path):
    name = f"transformers:{models['vit']}"
    described = describe(None, name, load_backbone(name))["backbone"]
    assert described["name"] == name
    assert described["processor"].startswith("ViTImageProcessor")
    assert re.fullmatch("[0-9a-f]{16}", described["weights"])
    assert "revision" not in described
    extractor = load_backbone(name)
    with torch.no_grad():
        next(extractor.module.parameters()).view(-1)[0] += 1e-3
    assert extractor.description["weights"] != described["weights"]


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_describe_of_a_model_of_the_hub_tells_its_commit(models, tmp_path):
    # The cache of an earlier download, used offline.
    cached = tmp_path / "models--someone--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(COMMIT)
    (cached / "snapshots").mkdir()
    os.symlink(models["vit"], cached / "snapshots" / COMMIT)
    code = (
        "from acluster.extraction import load_backbone\n"
        "from acluster.extraction._backbones import describe\n"
        f"for suffix in ('', '@main', '@{COMMIT}', '#last_hidden_state'):\n"
        "    name = f'transformers:someone/tiny{suffix}'\n"
        "    own = describe(None, name, load_backbone(name, device='cpu'))['backbone']\n"
        "    print(own['name'], own['revision'])"
    )
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    # A store that was begun with the newest revision is continued with the name of its commit.
    name = "transformers:someone/tiny"
    named = [name, name, name, f"{name}#last_hidden_state"]
    assert done.stdout.splitlines() == [f"{one} {COMMIT}" for one in named]


def test_extract_compares_the_sample_rate_with_that_of_the_model(models, tmp_path):
    (tmp_path / "sounds").mkdir()
    write_wav(tmp_path / "sounds" / "a.wav", noise(16000))
    name = f"transformers:{models['wav2vec']}"
    with pytest.raises(ValueError, match=r"gives 16,000 .* takes 8,000. Pass Waveforms\(rate=8000"):
        extract(tmp_path / "sounds", tmp_path / "s.zarr", {"audio": (Waveforms(), name)})
    views = {"audio": (Waveforms(seconds=0.5, rate=8000), name)}
    report = extract(tmp_path / "sounds", tmp_path / "s.zarr", views, device="cpu", batch_size=2)
    assert report.n_items == 1


# ---- torchvision and timm: fakes that have the signatures of version 0.28 and 1.0.31


class Network(nn.Module):
    """A classifier of pictures, as torchvision builds them."""

    def __init__(self, **heads):
        super().__init__()
        self.features = nn.Conv2d(3, 8, 3, bias=False)
        for name, head in heads.items():
            setattr(self, name, head)
        self.names = list(heads)

    def forward(self, x):
        x = self.features(x).mean((2, 3))
        for name in self.names:
            x = getattr(self, name)(x)
        return x


LAYERS = [("0", nn.Linear(8, 6)), ("1", nn.ReLU()), ("2", nn.Linear(6, 5))]
MODELS = {
    "resnet": lambda: Network(fc=nn.Linear(8, 5)),
    "vgg": lambda: Network(classifier=nn.Sequential(OrderedDict(LAYERS))),
    "vit": lambda: Network(heads=nn.Sequential(OrderedDict(head=nn.Linear(8, 5)))),
    "squeezenet": lambda: Network(classifier=nn.Sequential(nn.Linear(8, 5), nn.ReLU())),
    "raft": lambda: Network(decoder=nn.Linear(8, 5)),
}


class Weights(Enum):
    """As torchvision.models.ResNet50_Weights: members with transforms, and an alias DEFAULT."""

    IMAGENET1K_V2 = "v2"
    DEFAULT = "v2"

    @property
    def transforms(self):
        def preset():
            def transform(image):
                assert image.dtype == torch.uint8
                return image.float() / 255 - 0.5

            return transform

        return preset


def fake(monkeypatch, **modules):
    for name, members in modules.items():
        module = ModuleType(name.replace("_", "."))
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        parent, _, child = module.__name__.rpartition(".")
        if parent:
            monkeypatch.setattr(sys.modules[parent], child, module, raising=False)


@pytest.fixture
def torchvision(monkeypatch):
    made = {}

    def get_model(name, **config):
        assert config == {"weights": Weights.DEFAULT}
        torch.manual_seed(0)
        made[name] = MODELS[name]()
        return made[name]

    def get_model_weights(name):
        if name not in MODELS:
            raise ValueError(f"Unknown model {name}")
        return Weights

    members = {"get_model": get_model, "get_model_weights": get_model_weights}
    fake(monkeypatch, torchvision={}, torchvision_models=members)
    return made


@pytest.mark.parametrize(("name", "width"), [("resnet", 8), ("vgg", 6), ("vit", 8)])
def test_torchvision_removes_the_last_layer(torchvision, name, width):
    extractor = load_backbone(f"torchvision:{name}", device="cpu")
    features = extractor(pictures(3))
    assert features.shape == (3, width)
    model = torchvision[name]
    scaled = torch.from_numpy(pictures(3)).permute(0, 3, 1, 2) / 255 - 0.5
    with torch.no_grad():
        expected = model.features(scaled).mean((2, 3))
        if name == "vgg":
            expected = torch.relu(model.classifier[0](expected))
    np.testing.assert_allclose(features, expected, atol=1e-6)
    assert extractor.description["revision"] == "Weights.IMAGENET1K_V2"


def test_torchvision_refuses_what_it_cannot_use(torchvision):
    with pytest.raises(ValueError, match=r"torchvision:squeezenet .* ends with ReLU, not with a l"):
        load_backbone("torchvision:squeezenet")
    with pytest.raises(
        ValueError, match=r"torchvision:raft .* none of fc, classifier, heads, head"
    ):
        load_backbone("torchvision:raft")
    with pytest.raises(ValueError, match=r"Unknown model nothing"):
        load_backbone("torchvision:nothing")
    with pytest.raises(ValueError, match=r"resnet#logits chooses an output, but the model has o"):
        load_backbone("torchvision:resnet#logits")


@pytest.fixture
def timm(monkeypatch):
    config = {
        "input_size": (3, 24, 32),
        "interpolation": "bicubic",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "crop_pct": 0.95,
        "crop_mode": "center",
    }
    made = {}

    def create_model(
        model_name,
        pretrained=False,
        pretrained_cfg=None,
        pretrained_cfg_overlay=None,
        checkpoint_path=None,
        cache_dir=None,
        scriptable=None,
        exportable=None,
        no_jit=None,
        **kwargs,
    ):
        assert pretrained
        assert kwargs == {"num_classes": 0}
        made[model_name] = Network() if model_name == "pooled" else nn.Conv2d(3, 8, 8, stride=8)
        return made[model_name]

    def resolve_model_data_config(
        model, args=None, pretrained_cfg=None, use_test_size=False, verbose=False
    ):
        assert model in made.values()
        return config

    members = {"resolve_model_data_config": resolve_model_data_config}
    fake(monkeypatch, timm={"create_model": create_model}, timm_data=members)
    return made, config


def test_timm_resizes_and_normalizes_by_the_config_of_the_model(timm):
    made, config = timm
    batch = np.repeat(pictures(3, 1)[:, :, :1], 24, axis=1).repeat(32, axis=2)  # plain colors
    larger = np.repeat(np.repeat(batch, 2, axis=1), 3, axis=2)
    normal = (batch / 255 - config["mean"]) / config["std"]
    for given in (batch, larger):
        features = load_backbone("timm:pooled", device="cpu")(given)
        inputs = torch.from_numpy(normal).permute(0, 3, 1, 2).float()
        with torch.no_grad():
            expected = made["pooled"].features(inputs).mean((2, 3))
        np.testing.assert_allclose(features, expected, atol=1e-5)


def test_timm_gives_a_local_feature_for_each_place_of_a_map(timm):
    extractor = load_backbone("timm:map", device="cpu")
    features = extractor(pictures(2))
    assert features.shape == (2, 3 * 4, 8)
    assert_rows_are_independent(extractor, pictures(16), pictures(16, seed=1))
    with pytest.raises(ValueError, match=r"timm:map takes color pictures"):
        extractor(waves(2))
    with pytest.raises(ValueError, match=r"timm:map#x chooses an output"):
        load_backbone("timm:map#x")


@pytest.mark.parametrize(
    ("name", "width"),
    [("resnet18", 512), ("mobilenet_v3_small", 1024), ("alexnet", 4096), ("vit_b_32", 768)],
)
def test_torchvision_itself(monkeypatch, name, width):
    models = pytest.importorskip("torchvision.models")
    # Random weights need no download.
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", lambda *_, **__: {})
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_, **__: None)
    extractor = load_backbone(f"torchvision:{name}", device="cpu")
    assert extractor(pictures(2)).shape == (2, width)
    assert extractor.description["revision"].endswith("_Weights.IMAGENET1K_V1")
    with pytest.raises(ValueError, match=r"squeezenet1_1 cannot be used without its classifier"):
        load_backbone("torchvision:squeezenet1_1")


@pytest.mark.parametrize(("name", "width"), [("resnet18.a1_in1k", 512), ("vgg11", 4096)])
def test_timm_itself(monkeypatch, name, width):
    pytest.importorskip("timm")
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    extractor = load_backbone(f"timm:{name}", device="cpu")
    assert extractor(pictures(2)).shape == (2, width)


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("transformers:x/y", "transformers", r"pip install 'acluster\[backbones\]'"),
        ("timm:x", "timm", "pip install timm"),
        ("torchvision:x", "torchvision", "pip install torchvision"),
        (__file__ + "/x.onnx", "onnxruntime", r"pip install 'acluster\[backbones\]'"),
    ],
)
def test_load_backbone_names_what_to_install(monkeypatch, name, package, install):
    monkeypatch.setitem(sys.modules, package, None)
    if package == "torchvision":
        monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match=rf"needs {package}. Install it with {install}\."):
        load_backbone(name)
