"""`save` and `load`: loaded models predict the same bits, and hostile files are rejected."""

import json
import os
import pickle
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import acluster
from acluster import (
    AttentionClusterClassifier,
    AttentionClusterClassifierCV,
    ModelFileError,
    MultimodalAttentionClusterClassifier,
    rivals,
)
from acluster.nn import FC1Weighting
from acluster.preprocessing import LocalFeatureTransformer
from tests.conftest import make_sets

NETWORKS = [name for name in rivals.__all__ if hasattr(getattr(rivals, name), "save")]


def fitted(**parameters):
    X, y = make_sets(n=40, n_classes=3)
    given = {"cluster_size": 4, "tol": None, "max_iter": 3, "random_state": 0} | parameters
    return X, y, AttentionClusterClassifier(**given).fit(X, y)


def two_modalities():
    X, y = make_sets(n=40, n_classes=2)
    sounds = [np.ones((1 + i % 3, 2)) * i if i % 5 else None for i in range(40)]
    return {"frames": list(X), "sounds": sounds}, y


def saved(tmp_path, clf):
    clf.save(tmp_path / "model")
    return acluster.load(tmp_path / "model")


@pytest.mark.parametrize("weighting", ["fc1", "fc2", "average"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_load_predicts_the_same_bits(tmp_path, weighting, dtype):
    X, _, clf = fitted(weighting=weighting, dtype=dtype, cluster_size=np.int64(3))
    again = saved(tmp_path, clf)
    assert again.get_params() == clf.get_params()
    assert vars(again).keys() == vars(clf).keys()
    for method in ("predict_proba", "decision_function", "transform", "predict"):
        expected, got = getattr(clf, method)(X), getattr(again, method)(X)
        assert got.dtype == expected.dtype
        assert np.array_equal(got, expected)
    assert again.loss_curve_ == clf.loss_curve_
    assert again.n_iter_ == 3
    assert list(again.get_feature_names_out()) == list(clf.get_feature_names_out())


@pytest.mark.parametrize("n_members", [1, 2])
def test_load_restores_options_of_the_cluster(tmp_path, n_members):
    X, _, clf = fitted(
        cluster_size=8,
        n_attended=2,
        pyramid_levels=3,
        hidden_features=np.int64(5),
        n_members=n_members,
    )
    assert np.array_equal(saved(tmp_path, clf).predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("missing_modality", ["mean", "mask"])
def test_load_restores_several_modalities(tmp_path, missing_modality):
    X, y = two_modalities()
    clf = MultimodalAttentionClusterClassifier(
        cluster_size={"frames": 3, "sounds": 2}, missing_modality=missing_modality, tol=None
    )
    clf.set_params(max_iter=3).fit(X, y)
    again = saved(tmp_path, clf)
    assert vars(again).keys() == vars(clf).keys()
    assert again.modalities_ == clf.modalities_
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("name", NETWORKS)
def test_load_restores_rivals(tmp_path, name):
    X, y = two_modalities()
    clf = getattr(rivals, name)(max_iter=2, tol=None).fit(X, y)
    again = saved(tmp_path, clf)
    assert type(again) is type(clf)
    assert np.array_equal(again.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["no", "yes", "perhaps"]),
        np.array(["no", "yes", "perhaps"], dtype=object),
        np.array([np.str_("no"), np.str_("yes"), np.str_("perhaps")], dtype=object),
        np.array([True, False]),
        np.array([-1, 1], dtype=np.int8),
        np.array([-1, 0, 7], dtype=np.float32),
        np.array([2**62, 2**62 + 1, 3], dtype=np.uint64),
    ],
    ids=lambda labels: labels.dtype.name,
)
def test_load_restores_labels_of_every_dtype(tmp_path, labels):
    X, y, _ = fitted()
    clf = AttentionClusterClassifier(max_iter=2, tol=None).fit(X, labels[y % len(labels)])
    again = saved(tmp_path, clf)
    assert np.array_equal(again.classes_, clf.classes_)
    assert again.classes_.dtype == clf.classes_.dtype
    assert np.array_equal(again.predict(X), clf.predict(X))


def test_load_restores_indicator_labels_and_validation_scores(tmp_path):
    X, y, _ = fitted()
    indicator = np.stack([y == 0, y == 1], axis=1).astype(int)
    clf = AttentionClusterClassifier(max_iter=2, tol=None, early_stopping=True).fit(X, indicator)
    again = saved(tmp_path, clf)
    assert np.array_equal(again.predict(X), clf.predict(X))
    assert again.validation_scores_ == clf.validation_scores_
    assert again.best_validation_score_ == clf.best_validation_score_


def test_load_restores_feature_names(tmp_path):
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 2)), columns=["width", "height"])
    clf = AttentionClusterClassifier(cluster_size=1, max_iter=2, tol=None).fit(X, np.arange(20) % 2)
    again = saved(tmp_path, clf)
    assert list(again.feature_names_in_) == ["width", "height"]
    assert again.get_feature_names_out()[1] == "unit0_height"
    with pytest.raises(ValueError, match="feature names"):
        again.predict(X.rename(columns={"width": "depth"}))


def test_load_restores_class_weight(tmp_path):
    X, y, _ = fitted()
    clf = AttentionClusterClassifier(max_iter=2, tol=None, class_weight={0: 1, 1: 2.5, 2: 1})
    assert saved(tmp_path, clf.fit(X, y)).class_weight == {0: 1, 1: 2.5, 2: 1}


@pytest.mark.parametrize("kind", [AttentionClusterClassifier, AttentionClusterClassifierCV])
def test_skops_restores_a_pipeline(tmp_path, kind):
    skops = pytest.importorskip("skops.io")
    X, y, clf = fitted()
    clf = clf if isinstance(clf, kind) else kind(cv=2, max_iter=2)
    pipe = make_pipeline(LocalFeatureTransformer(StandardScaler()), clf).fit(X, y)
    skops.dump(pipe, tmp_path / "pipe.skops")
    unknown = skops.get_untrusted_types(file=tmp_path / "pipe.skops")
    assert all(name.startswith("acluster.") for name in unknown)
    again = skops.load(tmp_path / "pipe.skops", trusted=unknown)
    assert np.array_equal(again.predict_proba(X), pipe.predict_proba(X))


def test_loaded_model_can_be_fitted_again(tmp_path):
    X, y, clf = fitted(random_state=np.random.RandomState(0), warm_start=True)
    again = saved(tmp_path, clf)
    assert again.random_state is None
    assert again.fit(X, y).n_iter_ == 6
    assert again.set_params(warm_start=False).fit(X, y).n_iter_ == 3


def test_load_of_a_gpu_model_without_a_gpu(tmp_path, monkeypatch):
    X, _, clf = fitted()
    clf.device = "cuda"
    again = saved(tmp_path, clf)
    if not torch.cuda.is_available():
        assert next(again.network_.parameters()).device.type == "cpu"
    assert again.predict(X).shape == (40,)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
@pytest.mark.parametrize("kind", ["model", "pickle", "joblib"])
def test_model_trained_on_a_gpu_predicts_in_a_process_without_one(tmp_path, kind):
    X, _, clf = fitted(device="cuda")
    path = tmp_path / kind
    if kind == "model":
        clf.save(path)
    else:
        with path.open("wb") as file:
            {"pickle": pickle, "joblib": joblib}[kind].dump(clf, file)
    joblib.dump(list(X), tmp_path / "X")
    loaded = {"model": "acluster.load(path)", "pickle": "pickle.load(open(path, 'rb'))"}
    code = (
        "import sys, joblib, numpy as np, pickle, torch, acluster; path, X = sys.argv[1:];"
        "assert not torch.cuda.is_available();"
        f"clf = {loaded.get(kind, 'joblib.load(path)')};"
        "print(clf.predict_proba(joblib.load(X)).tolist())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "X"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    np.testing.assert_allclose(json.loads(shown), clf.predict_proba(X), atol=1e-6)


def test_save_rejects_unfitted_models_and_unknown_classes(tmp_path):
    with pytest.raises(NotFittedError):
        AttentionClusterClassifier().save(tmp_path / "model")

    class Own(AttentionClusterClassifier):
        pass

    X, y, _ = fitted()
    with pytest.raises(TypeError, match=r"not one of them.*joblib"):
        Own(max_iter=1, tol=None).fit(X, y).save(tmp_path / "model")

    class Loud(FC1Weighting):
        pass

    clf = AttentionClusterClassifier(weighting=Loud, max_iter=1, tol=None).fit(X, y)
    with pytest.raises(TypeError, match=r"save cannot write .*Loud.*joblib"):
        clf.save(tmp_path / "model")
    dates = np.array(["2026-01-01", "2026-01-02"], dtype="datetime64[D]").astype(object)
    clf = AttentionClusterClassifier(max_iter=1, tol=None)
    clf.fit(X, y % 2)
    clf.classes_ = dates
    object.__setattr__(clf._coding, "classes", dates)
    with pytest.raises(TypeError, match=r"text, numbers or booleans.*astype\(str\)"):
        clf.save(tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_failed_save_keeps_the_earlier_file(tmp_path, monkeypatch):
    *_, clf = fitted()
    clf.save(tmp_path / "model")
    before = (tmp_path / "model").read_bytes()

    def torn(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", torn)
    with pytest.raises(OSError, match="no space"):
        clf.save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert os.listdir(tmp_path) == ["model"]


def test_save_respects_the_umask(tmp_path):
    *_, clf = fitted()
    old = os.umask(0o022)
    try:
        clf.save(tmp_path / "model")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o644


# Hostile and damaged files


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Write valid files of one modality, of two, and of a rival; return their folder."""
    folder = tmp_path_factory.mktemp("good")
    *_, clf = fitted()
    clf.save(folder / "one")
    X, y = two_modalities()
    clf = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=2, tol=None).fit(X, y)
    clf.save(folder / "two")
    rivals.TSLSTMClassifier(hidden_size=4, max_iter=1, tol=None).fit(X, y).save(folder / "rival")
    for name in ("one", "two", "rival"):
        acluster.load(folder / name)
    return folder


def read(path):
    with safe_open(path, "np") as file:
        description = json.loads(file.metadata()["acluster"])
        return description, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write(path, description, tensors):
    text = description if isinstance(description, str) else json.dumps(description)
    save_file(tensors, path, metadata={"acluster": text})


def deep_extraction(n_levels):
    """Describe an extraction by nested lists."""
    value = []
    for _ in range(n_levels):
        value = [value]
    return {"view": {"kind": "Frames", "n": value}, "backbone": "a:b"}


def changed(**changes):
    """Replace parts of the description; `__` in a name leads into a part."""

    def change(path):
        description, tensors = read(path)
        for place, value in changes.items():
            *parents, last = place.split("__")
            part = description
            for parent in parents:
                part = part[parent]
            part[last] = value
        write(path, description, tensors)

    return change


def without(*names):
    def change(path):
        description, tensors = read(path)
        for name in names:
            del description[name]
        write(path, description, tensors)

    return change


def with_tensor(name, tensor):
    """Replace, add or (None) remove a tensor."""

    def change(path):
        description, tensors = read(path)
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor(tensors) if callable(tensor) else tensor
        write(path, description, tensors)

    return change


def with_bytes(content):
    def change(path):
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    return change


def header(text, length=None):
    raw = text.encode() if isinstance(text, str) else text
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw


def renamed(path, name="x"):
    description, tensors = read(path)
    return description | {"modalities": {name: description["modalities"]["features"]}}, tensors


def changed_labels(path, classes):
    description, tensors = read(path)
    labels = {"kind": "multiclass", "dtype": "str", "classes": classes}
    return description | {"labels": labels}, tensors


def under_a_path(path):
    """Rename the modality "sounds" to a path everywhere."""
    description, tensors = read(path)
    text = json.dumps(description).replace('"sounds"', '"../../etc/x"')
    means = tensors.pop("feature_means.sounds")
    return text, tensors | {"feature_means.../../etc/x": means}


def with_modalities(path, n):
    description, tensors = read(path)
    part = description["modalities"]["sounds"]
    return description | {"modalities": {f"{i}": part for i in range(n)}}, tensors


def whole_modalities(path, n=30_000):
    """A million values and a module for every modality, so that little else is wrong."""
    description, tensors = with_modalities(path, n)
    return description, tensors | {"network.linear.weight": np.zeros((n, 1))}


class Bomb:
    def __reduce__(self):
        return open, ("exploded", "w")


W = "network.linear.weight"
HOSTILE = {
    # Bytes.
    "empty": with_bytes(b""),
    "seven bytes": with_bytes(b"1234567"),
    "text": with_bytes(b"hello, I am a model, really I am"),
    "cut by one byte": with_bytes(lambda raw: raw[:-1]),
    "cut in half": with_bytes(lambda raw: raw[: len(raw) // 2]),
    "only the header": with_bytes(lambda raw: raw[: 8 + int.from_bytes(raw[:8], "little")]),
    "a byte more": with_bytes(lambda raw: raw + b"\0"),
    "zeros": with_bytes(bytes(1000)),
    "a pickle": with_bytes(pickle.dumps(Bomb())),
    "a pickle of protocol 0": with_bytes(pickle.dumps(Bomb(), protocol=0)),
    "a zip": with_bytes(b"PK\x03\x04" + bytes(100)),
    "what torch.save writes": lambda path: torch.save(Bomb(), path),
    "what joblib writes": lambda path: joblib.dump([np.zeros(3), Bomb()], path),
    "a pickle in the description": lambda path: write(
        path, pickle.dumps(Bomb(), protocol=0).decode("latin-1"), read(path)[1]
    ),
    "a pickle among the parameters": changed(
        parameters__weighting=pickle.dumps(Bomb(), protocol=0).decode("latin-1")
    ),
    "a pickle as a tensor": with_tensor(
        "network.more", np.frombuffer(pickle.dumps(Bomb()), np.uint8)
    ),
    "an npy": with_bytes(b"\x93NUMPY\x01\x00" + bytes(100)),
    "an HDF5 file": with_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "a header of 2^63 bytes": with_bytes(header("{}", 2**63)),
    "a header of 2^64 - 1 bytes": with_bytes(header("{}", 2**64 - 1)),
    "a header of 10 GB": with_bytes(header("{}", 10**10)),
    "no JSON in the header": with_bytes(header("{'a': 1}")),
    "not UTF-8": with_bytes(header(b"\xff\xfe{}")),
    "a list as header": with_bytes(header("[]")),
    "nested a million deep": with_bytes(header("[" * 10**6)),
    "offsets beyond the end": with_bytes(
        header('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}')
    ),
    "offsets that overlap": with_bytes(
        header(
            '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
            '"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        )
        + bytes(4)
    ),
    "a shape that overflows": with_bytes(
        header(
            '{"a":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}'
        )
    ),
    "a negative shape": with_bytes(
        header('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}')
    ),
    # The description.
    "no metadata": lambda path: save_file(read(path)[1], path),
    "metadata of another": lambda path: save_file(read(path)[1], path, metadata={"format": "pt"}),
    "description is not JSON": lambda path: write(path, "{", read(path)[1]),
    "description is a list": lambda path: write(path, "[1]", read(path)[1]),
    "description is deep": lambda path: write(path, "[" * 10**5, read(path)[1]),
    "a huge number": lambda path: write(path, "1" * 10**5, read(path)[1]),
    "a future version": changed(format_version=2),
    "version 0": changed(format_version=0),
    "version is text": changed(format_version="1"),
    "version is true": changed(format_version=True),
    "no version": without("format_version"),
    "no class": without("class"),
    "another kind of labels": changed(labels__kind=["binary"]),
    "another class": changed(**{"class": "os.system"}),
    "a base class": changed(**{"class": "SetClassifier"}),
    "a container": changed(**{"class": "FeatureSets"}),
    "class is a list": changed(**{"class": ["AttentionClusterClassifier"]}),
    "another class of acluster": changed(**{"class": "MultimodalAttentionClusterClassifier"}),
    "no parameters": without("parameters"),
    "an unknown parameter": changed(parameters__callback="os.system"),
    "a wrong parameter": changed(parameters__max_iter=-1),
    "a parameter of another type": changed(parameters__device=["cuda"]),
    "a parameter that is a dict": changed(parameters__dropout={"pairs": [[[], 1]]}),
    "extraction is text": changed(extraction="os:system"),
    "extraction of another modality": changed(extraction={"rgb": None}),
    "extraction without a view": changed(extraction={"features": {"backbone": "os:system"}}),
    "extraction that is deep": changed(extraction={"features": deep_extraction(900)}),
    "extraction with NaN": changed(
        extraction={"features": {"view": {"kind": "Frames", "n": np.nan}, "backbone": "a:b"}}
    ),
    "no labels": without("labels"),
    "labels of objects": changed(labels__dtype="O"),
    "labels of a type that fills memory": changed(labels__dtype="<U1000000000"),
    "labels of another number": changed(labels__classes=[0, 1]),
    "labels not in order": changed(labels__classes=[2, 1, 0]),
    "labels twice": changed(labels__classes=[0, 1, 1]),
    "labels of another kind": changed(labels__kind="binary"),
    "labels of an unknown kind": changed(labels__kind="regression"),
    "labels that are rounded": changed(labels__classes=[0.5, 1.5, 2.5]),
    "labels of numbers in text": changed(labels__classes=["0", "1", "2"]),
    "labels of lists": changed(labels__classes=[[0], [1], [2]]),
    "labels that fill memory": lambda path: write(
        path, *changed_labels(path, ["0" * 10_000_000, *(f"{i:05d}" for i in range(1, 90_000))])
    ),
    "too many values": changed(loss_curve=[0] * 1_000_001),
    "too many lists": changed(loss_curve=[[]] * 1_000_001),
    "too long a text": changed(more="x" * 25_000_000),
    "too many tensors": lambda path: write(
        path, read(path)[0], read(path)[1] | {f"{i}": np.zeros(0) for i in range(50_001)}
    ),
    "another number of axes": with_tensor("network.linear.bias", np.zeros((1,) * 60)),
    "labels as one text": changed(labels__dtype="str", labels__classes="abc"),
    "labels of dicts": changed(labels__dtype="object", labels__classes=[{}, {}, {}]),
    "an unknown dtype": changed(dtype="float16"),
    "the other dtype": changed(dtype="float32"),
    "no modalities": changed(modalities={}),
    "two modalities": changed(modalities__more={"n_features": 4}),
    "a modality without a size": changed(modalities__features={"n_features": 4}),
    "a modality as a list": changed(modalities=[1, 2]),
    "another width": changed(modalities__features__n_features=5),
    "a width of 0": changed(modalities__features__n_features=0),
    "a width of 10^18": changed(modalities__features__n_features=10**18),
    "a width that is text": changed(modalities__features__n_features="4"),
    "a width that is true": changed(modalities__features__n_features=True),
    "10^12 units": changed(modalities__features__cluster_size=10**12),
    "50,000 units": changed(modalities__features__cluster_size=50_000),
    "10^12 hidden features": changed(modalities__features__hidden_features=10**12),
    "10^18 hidden features": changed(modalities__features__hidden_features=10**18),
    "3 hidden features": changed(modalities__features__hidden_features=3),
    "-1 hidden features": changed(modalities__features__hidden_features=-1),
    "hidden features that are true": changed(modalities__features__hidden_features=True),
    "hidden features that are text": changed(modalities__features__hidden_features="3"),
    "10^9 levels": changed(modalities__features__pyramid_levels=10**9),
    "another weighting": changed(modalities__features__weighting="fc2"),
    "an unknown weighting": changed(modalities__features__weighting="__import__('os')"),
    "shifting is text": changed(modalities__features__shifting="yes"),
    "options of the network": changed(network={"fusion": "scores"}),
    "names of other features": changed(feature_names=["x"]),
    "names of other labels": changed(label_names=["x"]),
    "names of labels that are numbers": changed(label_names=3),
    "names that are numbers": changed(feature_names=[1, 2, 3, 4]),
    "a curve that is text": changed(loss_curve="12"),
    "a curve with NaN": changed(loss_curve=[float("nan")]),
    "scores of other epochs": changed(validation_scores=[0.5] * 99),
    "a modality whose name is a path": lambda path: write(path, *renamed(path, "../../etc/x")),
    "a modality of another name": lambda path: write(path, *renamed(path)),
    "scores that are text": changed(validation_scores=["1"]),
    # The tensors.
    "no weights": with_tensor(W, None),
    "weights of NaN": with_tensor(W, lambda tensors: tensors[W] * np.nan),
    "weights without end": with_tensor(W, lambda tensors: tensors[W] + np.inf),
    "weights of another shape": with_tensor(W, lambda tensors: tensors[W][:, :-1].copy()),
    "weights transposed": with_tensor(W, lambda tensors: tensors[W].T.copy()),
    "weights flat": with_tensor(W, lambda tensors: tensors[W].ravel()),
    "weights of another dtype": with_tensor(W, lambda tensors: tensors[W].astype(np.float32)),
    "weights of integers": with_tensor(W, lambda tensors: tensors[W].astype(np.int64)),
    "weights of bytes": with_tensor(W, lambda tensors: tensors[W].astype(np.uint8)),
    "weights of halves": with_tensor(W, lambda tensors: tensors[W].astype(np.float16)),
    "one more tensor": with_tensor("network.more", np.zeros(1)),
    "a path as name": with_tensor("../../etc/passwd", np.zeros(1)),
    "an absolute path as name": with_tensor("/etc/passwd", np.zeros(1)),
    "an attribute as name": with_tensor("network.__class__", np.zeros(1)),
}
HOSTILE_TWO = {
    "no means": with_tensor("feature_means.sounds", None),
    "means of another width": with_tensor("feature_means.sounds", np.zeros(7)),
    "means of NaN": with_tensor("feature_means.sounds", np.full(2, np.nan)),
    "means of an unknown modality": with_tensor("feature_means.more", np.zeros(2)),
    "no counts": without("n_averaged"),
    "counts of text": changed(n_averaged={"frames": "a", "sounds": "b"}),
    "counts of another modality": changed(n_averaged={"frames": 1}),
    "a modality that is a path": lambda path: write(path, *under_a_path(path)),
}
HOSTILE_RIVAL = {
    "many modalities": lambda path: write(path, *with_modalities(path, 3000)),
    "30,000 modalities and as many weights": lambda path: write(path, *whole_modalities(path)),
    "segments in many modalities": changed(
        modalities__sounds__n_segments=9000, modalities__frames__n_segments=9000
    ),
    "10^9 segments": changed(modalities__sounds__n_segments=10**9),
    "90,000 segments": changed(modalities__sounds__n_segments=90_000),
    "a number of segments that is true": changed(modalities__sounds__n_segments=True),
    "a size of another rival": changed(modalities__sounds__n_heads=2),
}
HOSTILE_OF = {"one": HOSTILE, "two": HOSTILE_TWO, "rival": HOSTILE_RIVAL}
CASES = [(kind, name) for kind, cases in HOSTILE_OF.items() for name in cases]


@pytest.mark.usefixtures("within_limits")
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_load_rejects_hostile_files(good, tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)  # A pickle that was executed would leave a file here.
    path = tmp_path / "model"
    path.write_bytes((good / kind).read_bytes())
    HOSTILE_OF[kind][name](path)
    with pytest.raises(ModelFileError, match="model"):
        acluster.load(path)
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("name", ["pipe", "link", "/dev/zero", "/dev/null"])
def test_load_rejects_pipes_and_devices_at_once(tmp_path, name):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with pytest.raises(ModelFileError, match="is a device or a pipe; a model is a regular file"):
        acluster.load(tmp_path / name)


@pytest.mark.usefixtures("within_limits")
@pytest.mark.parametrize("start", [b"", b"\x80\x04", b"\xff" * 8])
def test_load_rejects_huge_files_without_reading_them(tmp_path, start):
    with (tmp_path / "model").open("wb") as file:
        file.write(start)
        file.truncate(10**12)  # sparse: it takes no space
    with pytest.raises(ModelFileError, match=r"not a model file|is a pickle"):
        acluster.load(tmp_path / "model")


def test_save_rejects_what_load_would_not_read(tmp_path, monkeypatch):
    *_, clf = fitted()
    clf.loss_curve_ = [0.0] * 1_000_001
    with pytest.raises(OSError, match=r"values in its header.*joblib"):
        clf.save(tmp_path / "model")
    X, y = two_modalities()
    both = MultimodalAttentionClusterClassifier(cluster_size=2, max_iter=1, tol=None).fit(X, y)
    monkeypatch.setattr("acluster.estimators._description._MAX_MODALITIES", 1)
    with pytest.raises(ValueError, match=r"at most 1 modalities; this model has 2.*joblib"):
        both.save(tmp_path / "model")
    assert not os.listdir(tmp_path)


def test_load_errors_name_the_problem_and_the_remedy(good, tmp_path):
    path = tmp_path / "model"
    for change, message in (
        (with_bytes(pickle.dumps(1)), "is a pickle.*can execute any code.*joblib.load"),
        (changed(format_version=2), "format version 2.*up to 1.*Upgrade"),
        (
            changed(**{"class": "New"}),
            "'New'.*does not have.*written by acluster '0.*Known classes are Att((?!Base).)*$",
        ),
        (
            with_tensor(W, lambda t: t[W].T.copy()),
            r"linear.weight' has shape \(3, 16\).*needs \(16, 3\)",
        ),
        (changed(parameters__more=1), "unexpected keyword argument 'more'"),
        (without("labels"), "it lacks 'labels'"),
    ):
        path.write_bytes((good / "one").read_bytes())
        change(path)
        with pytest.raises(ModelFileError, match=f"(?s){message}"):
            acluster.load(path)
    with pytest.raises(ModelFileError, match=r"is a folder.*open_feature_sets"):
        acluster.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        acluster.load(tmp_path / "nothing")


def test_load_rejects_a_checkpoint(tmp_path):
    X, y, clf = fitted()
    clf.fit(X, y, checkpoint_dir=tmp_path)
    with pytest.raises(ModelFileError, match=r"is the checkpoint of a fit.*call of fit that wrote"):
        acluster.load(tmp_path / "fit.checkpoint")


def test_save_rejects_paths_that_cannot_be_written(tmp_path):
    *_, clf = fitted()
    with pytest.raises(FileNotFoundError, match=r"model cannot be written: the folder '.*nowhere'"):
        clf.save(tmp_path / "nowhere" / "model")
    with pytest.raises(IsADirectoryError, match="is a folder; pass the name of a file"):
        clf.save(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a device or a pipe"):
        clf.save(tmp_path / "pipe")
    assert os.listdir(tmp_path) == ["pipe"]
    clf.save(tmp_path / ("m" * 250))
    acluster.load(tmp_path / ("m" * 250))


def test_load_rejects_truncated_files(good, tmp_path):
    whole = (good / "one").read_bytes()
    path = tmp_path / "model"
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            acluster.load(path)


def test_load_of_a_randomly_damaged_file_raises_model_file_error_or_works(good, tmp_path):
    whole = bytearray((good / "two").read_bytes())
    path, rng = tmp_path / "model", np.random.default_rng(0)
    n_refused, threads = 0, set(threading.enumerate())
    for _ in range(200):
        damaged = whole.copy()
        for place in rng.integers(0, len(whole), size=rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            acluster.load(path)
        except ModelFileError:
            n_refused += 1
    assert n_refused > 60
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("kind", ["one", "two", "rival"])
def test_load_rejects_every_flipped_bit_of_the_numbers(good, tmp_path, kind):
    whole = np.frombuffer((good / kind).read_bytes(), np.uint8)
    start = 8 + int.from_bytes(whole[:8].tobytes(), "little")
    places = np.random.default_rng(0).integers(start, len(whole), 30)
    curve = whole.tobytes().index(b"loss_curve") + 20
    path = tmp_path / "model"
    for place, bit in zip([*places, *range(curve, curve + 15)], [*range(8)] * 9, strict=False):
        damaged = whole.copy()
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged.tobytes())
        with pytest.raises(ModelFileError, match=r"checksum|damaged"):
            acluster.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"description": 1}', "[" * 10**5, "null"])
def test_load_rejects_damaged_checksums(good, tmp_path, text):
    description, tensors = read(good / "one")
    metadata = {"acluster": json.dumps(description), "acluster_checksums": text}
    save_file(tensors, tmp_path / "model", metadata=metadata)
    with pytest.raises(ModelFileError, match="differs from its checksum"):
        acluster.load(tmp_path / "model")


@pytest.mark.parametrize("change", [{}, {"network.linear.bias": True}])
def test_load_rejects_tensors_without_their_checksum(good, tmp_path, change):
    with safe_open(good / "one", "np") as file:
        metadata = file.metadata()
    checksums = json.loads(metadata["acluster_checksums"])
    metadata["acluster_checksums"] = json.dumps({**checksums, "tensors": change})
    save_file(read(good / "one")[1], tmp_path / "model", metadata=metadata)
    with pytest.raises(ModelFileError, match="differs from its checksum"):
        acluster.load(tmp_path / "model")


def test_load_reads_files_that_another_program_wrote_again(good, tmp_path):
    with safe_open(good / "one", "np") as file:
        metadata = file.metadata()
    save_file(read(good / "one")[1], tmp_path / "model", metadata=metadata)
    assert acluster.load(tmp_path / "model").n_iter_ == 3


def test_load_compares_shapes_before_it_reads_tensors(good, tmp_path, monkeypatch):
    path = tmp_path / "model"
    path.write_bytes((good / "one").read_bytes())
    with_tensor("network.more", np.zeros(10))(path)
    with_tensor(W, lambda tensors: tensors[W][:, :-1].copy())(path)
    monkeypatch.setattr(
        "acluster._utils._model_file.Tensors.__getitem__",
        lambda *_: pytest.fail("a tensor was read"),
    )
    with pytest.raises(ModelFileError, match="the description needs"):
        acluster.load(path)


def test_save_follows_symbolic_links(tmp_path):
    *_, clf = fitted()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    clf.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert acluster.load(tmp_path / "model").n_iter_ == 3


def test_save_from_several_threads_to_one_file(tmp_path):
    *_, clf = fitted()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: clf.save(tmp_path / "model"), range(40)))
    assert os.listdir(tmp_path) == ["model"]
    acluster.load(tmp_path / "model")


def test_save_rejects_invalid_parameters(tmp_path):
    *_, clf = fitted()
    with pytest.raises(ValueError, match="max_iter"):
        clf.set_params(max_iter=0).save(tmp_path / "model")


FILES = Path(__file__).parent / "files"


def test_load_reads_files_of_format_version_1():
    """The files were written by the first release; they predict what they did then."""
    X = [np.full((2, 4), k, np.float32) for k in range(3)]
    clf = acluster.load(FILES / "first_version.model")
    expected = [[0.38924637, 0.37383506, 0.2369186]] * 2 + [[0.23745053, 0.24249937, 0.5200501]]
    np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)
    assert clf.predict(X).tolist() == ["finch", "finch", "wren"]
    both = acluster.load(FILES / "first_version_two_modalities.model")
    expected = [[0.45447055, 0.3706726, 0.17485687]] * 2 + [[0.14313537, 0.26467562, 0.59218895]]
    items = {"song": X, "plumage": [x[:1, :2] for x in X]}
    np.testing.assert_allclose(both.predict_proba(items), expected, atol=1e-6)


LATER = ("n_attended", "pyramid_levels", "hidden_features", "learning_rate_schedule")
# What the classifiers did before they had these parameters.
FORMER = {"n_attended": None, "learning_rate_schedule": "constant"}


def older(parameters):
    return {name: value for name, value in parameters.items() if name not in LATER}


def test_load_reads_files_without_later_parameters(tmp_path):
    X, _, clf = fitted(**FORMER)
    clf.save(tmp_path / "model")
    description, tensors = read(tmp_path / "model")
    parts = {"features": older(description["modalities"]["features"])}
    parameters = older(description["parameters"])
    changes = {"modalities": parts, "parameters": parameters}
    write(tmp_path / "model", description | changes, tensors)
    old = acluster.load(tmp_path / "model")
    assert np.array_equal(old.predict_proba(X), clf.predict_proba(X))
    assert old.get_params() == clf.get_params()


def test_unpickle_reads_states_without_later_parameters():
    X, _, clf = fitted(warm_start=True, standardize=False, **FORMER)
    state = clf.__getstate__()
    integration, sizes = state["_architecture"]
    parts = {"features": older(sizes["integrations"]["features"])}
    state["_architecture"] = integration, {**sizes, "network": {}, "integrations": parts}
    for name in ("standardize", *LATER):
        del state[name]
    old = AttentionClusterClassifier.__new__(AttentionClusterClassifier)
    old.__setstate__(state)
    assert np.array_equal(old.predict_proba(X), clf.predict_proba(X))
    assert old.fit(X, clf.predict(X)).n_iter_ == 6
