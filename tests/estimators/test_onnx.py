"""`to_onnx` and `to_torch`: ONNX Runtime gives the probabilities of `predict_proba`."""

import importlib.util
import json
import logging
import os
import stat

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from acluster import AttentionClusterClassifier, FeatureSets, MultimodalAttentionClusterClassifier
from acluster.nn import (
    AttentionCluster,
    EnsembleNetwork,
    IntegrationNetwork,
    PaddedNetwork,
    ScoreFusionNetwork,
)
from acluster.rivals import AverageClassifier
from tests.conftest import make_sets

onnxruntime = pytest.importorskip("onnxruntime")


def padded(sets, width, fill):
    """Return the sets as an array (n, L, M), padded by `fill`, and their lengths."""
    lengths = np.array([0 if rows is None else len(rows) for rows in sets])
    values = np.full((len(sets), max(lengths.max(), 1), width), float(fill))
    for item, rows in zip(values, sets, strict=True):
        if rows is not None:
            item[: len(rows)] = rows
    return values, lengths


def run(path, dtype=np.float64, **sets):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {}
    for name, (values, lengths) in sets.items():
        inputs |= {name: values.astype(dtype), f"{name}_lengths": lengths}
    return session.run(["probabilities"], inputs)[0]


@pytest.mark.parametrize(
    ("weighting", "shifting", "dtype", "options"),
    [
        ("fc1", True, np.float32, {}),
        ("fc2", True, np.float64, {}),
        ("average", False, np.float32, {}),
        ("fc1", True, np.float32, {"n_attended": 3, "pyramid_levels": 2}),
        ("fc1", True, np.float32, {"hidden_features": 4, "standardize": True}),
    ],
)
def test_to_onnx_predicts_sets_of_any_size(tmp_path, weighting, shifting, dtype, options):
    X, y = make_sets(n=60, n_classes=3, dtype=dtype)
    clf = AttentionClusterClassifier(
        weighting=weighting, shifting=shifting, cluster_size=5, learning_rate=0.05, tol=None
    )
    clf.set_params(max_iter=5, random_state=0, **options).fit(X, y)
    clf.to_onnx(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(size, X[0].shape[1])).astype(dtype) for size in (1, 7, 300)]
    expected = clf.predict_proba(sets)
    tolerance = {"rtol": 0, "atol": 1e-14 if dtype == np.float64 else 1e-5}
    for one, proba in zip(sets, expected, strict=True):
        got = run(tmp_path / "model.onnx", dtype, features=padded([one], one.shape[1], 0))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, proba[None], **tolerance)
    for fill in (1e3, np.nan):
        together = run(tmp_path / "model.onnx", dtype, features=padded(sets, 4, fill))
        np.testing.assert_allclose(together, expected, **tolerance)


@pytest.mark.parametrize(("missing_modality", "is_multilabel"), [("mean", False), ("mask", True)])
def test_to_onnx_predicts_items_that_lack_a_modality(tmp_path, missing_modality, is_multilabel):
    X, y = make_sets(n=40, n_classes=3)
    y = np.stack([y == 0, y > 0], axis=1).astype(int) if is_multilabel else y
    rng = np.random.default_rng(1)
    sounds = [rng.normal(size=(1 + i % 3, 2)) if i % 4 else None for i in range(40)]
    both = {"frames": list(X), "sounds": sounds}
    clf = MultimodalAttentionClusterClassifier(
        cluster_size={"frames": 3, "sounds": 2}, missing_modality=missing_modality, tol=None
    )
    clf.set_params(max_iter=5, learning_rate=0.05, random_state=0).fit(both, y)
    clf.to_onnx(tmp_path / "model.onnx")
    inputs = {
        name: padded(both[name], width, 9.0) for name, width in (("frames", 4), ("sounds", 2))
    }
    got = run(tmp_path / "model.onnx", **inputs)
    np.testing.assert_allclose(got, clf.predict_proba(both), atol=1e-5)
    inputs["sounds"] = padded([None] * 40, 2, 9.0)
    got = run(tmp_path / "model.onnx", **inputs)
    np.testing.assert_allclose(got, clf.predict_proba({"frames": both["frames"]}), atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export a standardizing binary classifier of strings, and record what it logs."""
    X, y = make_sets(n=40)
    X = FeatureSets(X.packed()[0] * [1000, 0.001, 1, 0] + [5000, 0, -3, 7], X.packed()[1])
    clf = AttentionClusterClassifier(cluster_size=3, max_iter=5, tol=None, standardize=True)
    clf.fit(X, np.array(["clap", "wave"])[y])
    path, records, programs = tmp_path_factory.mktemp("onnx") / "model.onnx", [], []
    export = torch.onnx.export
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logging.root.addHandler(handler)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                torch.onnx,
                "export",
                lambda *a, **k: programs.append(export(*a, **k)) or programs[0],
            )
            clf.to_onnx(path)
    finally:
        logging.root.removeHandler(handler)
    return clf, X, path, records, programs[0]


@pytest.fixture
def exports_at_once(exported, monkeypatch):
    """Let `to_onnx` write the program of `exported`, because its export takes seconds."""
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: exported[-1])


def test_to_onnx_includes_the_standardization(exported):
    clf, X, path, *_ = exported
    got = run(path, features=padded(list(X), 4, 0))
    np.testing.assert_allclose(got, clf.predict_proba(X), atol=1e-5)


def test_to_onnx_records_the_classes(exported):
    clf, _, path, *_ = exported
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == clf.classes_.tolist() == ["clap", "wave"]


def test_to_onnx_logs_no_warnings_and_restores_logging(exported):
    *_, records, _ = exported
    assert not records
    assert logging.root.manager.disable == logging.NOTSET


def test_to_onnx_keeps_the_earlier_file_after_an_error(
    exported, exports_at_once, tmp_path, monkeypatch
):
    clf, *_ = exported
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")

    def torn(program, destination, **options):
        with open(destination, "wb") as file:
            file.write(b"a part")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", torn)
    with pytest.raises(OSError, match="no space"):
        clf.to_onnx(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_to_onnx_keeps_the_mode_and_the_link(exported, exports_at_once, tmp_path):
    clf, X, *_ = exported
    (tmp_path / "model.onnx").touch(mode=0o600)
    (tmp_path / "link").symlink_to("model.onnx")
    clf.to_onnx(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "model.onnx").stat().st_mode) == 0o600
    assert len(run(tmp_path / "model.onnx", features=padded(list(X), 4, 0))) == len(X)
    with pytest.raises(FileNotFoundError, match="cannot be written: the folder"):
        clf.to_onnx(tmp_path / "nowhere" / "model.onnx")


def test_to_onnx_writes_large_weights_beside_the_file(
    exported, exports_at_once, tmp_path, monkeypatch
):
    clf, X, *_ = exported
    save = torch.onnx.ONNXProgram.save
    monkeypatch.setattr(
        torch.onnx.ONNXProgram, "save", lambda *args: save(*args, external_data=True)
    )
    for _ in range(2):
        clf.to_onnx(tmp_path / "model.onnx")
        assert sorted(os.listdir(tmp_path)) == ["model.onnx", "model.onnx.data"]
    got = run(tmp_path / "model.onnx", features=padded(list(X), 4, 0))
    np.testing.assert_allclose(got, clf.predict_proba(X), atol=1e-5)


def test_to_onnx_names_the_missing_package_and_reserved_modality_names(tmp_path, monkeypatch):
    X, y = make_sets(n=20)
    clf = AttentionClusterClassifier(max_iter=1, tol=None)
    with pytest.raises(NotFittedError):
        clf.to_onnx(tmp_path / "model.onnx")
    clf.fit(X, y)
    monkeypatch.setattr("acluster.estimators._onnx.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"the extra 'onnx'"):
        clf.to_onnx(tmp_path / "model.onnx")
    monkeypatch.undo()
    for name in ("probabilities", "a_lengths"):
        clf = MultimodalAttentionClusterClassifier(max_iter=1, tol=None).fit({name: list(X)}, y)
        with pytest.raises(ValueError, match=f"modality named '{name}'"):
            clf.to_onnx(tmp_path / "model.onnx")
    assert importlib.util.find_spec("onnxscript") is not None
    assert not (tmp_path / "model.onnx").exists()


def test_padded_network_is_exported_by_torch():
    X, y = make_sets(n=20)
    clf = AttentionClusterClassifier(cluster_size=2, max_iter=1, tol=None).fit(X, y)
    network = PaddedNetwork(clf.to_torch(), [None])
    values, lengths = (torch.from_numpy(array) for array in padded(list(X), X[0].shape[1], 0.0))
    n, longest = torch.export.Dim("n"), torch.export.Dim("longest")
    program = torch.export.export(
        network, (values, lengths), dynamic_shapes=[({0: n, 1: longest}, {0: n})], strict=True
    )
    got = program.module()(values[:3, :9], lengths[:3].clamp(max=9))
    short = [rows[:9] for rows in X[:3]]
    np.testing.assert_allclose(got.detach().numpy()[:, 0], clf.decision_function(short), atol=1e-8)


def test_padded_network_rejects_other_integrations():
    X, y = make_sets(n=20)
    clf = AverageClassifier(max_iter=1, tol=None).fit(X, y)
    with pytest.raises(TypeError, match=r"Average is not an attention cluster"):
        PaddedNetwork(clf.network_, [None])


def test_padded_network_rejects_networks_with_other_logits():
    cluster = AttentionCluster(4, cluster_size=2)
    late = ScoreFusionNetwork([cluster], n_outputs=3, is_softmax=True)
    ensemble = EnsembleNetwork([IntegrationNetwork([cluster], n_outputs=3)], is_softmax=True)
    for network in (late, ensemble, cluster):
        name = type(network).__name__
        with pytest.raises(TypeError, match=f"{name} does not compute logits as Integration"):
            PaddedNetwork(network, [None])
    PaddedNetwork(ensemble.members[0], [None])


def test_to_torch_returns_a_copy():
    X, y = make_sets(n=20)
    clf = AttentionClusterClassifier(max_iter=1, tol=None).fit(X, y)
    before = clf.predict_proba(X)
    network = clf.to_torch()
    assert isinstance(network, IntegrationNetwork)
    assert not network.training
    with torch.no_grad():
        network.linear.weight.zero_()
    assert np.array_equal(clf.predict_proba(X), before)
