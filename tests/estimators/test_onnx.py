"""An exported model gives, in another runtime, what `predict_proba` gives."""

import importlib.util
import json
import logging

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from acluster import AttentionClusterClassifier, MultimodalAttentionClusterClassifier
from acluster.nn import IntegrationNetwork, PaddedNetwork
from acluster.rivals import AverageClassifier
from tests.conftest import make_sets

onnxruntime = pytest.importorskip("onnxruntime")


def padded(sets, width, fill):
    """(n, L, M) and lengths, with `fill` for what is not there."""
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


@pytest.mark.parametrize("weighting", ["fc1", "fc2", "average"])
@pytest.mark.parametrize(
    ("shifting", "dtype", "options"),
    [
        (True, np.float32, {}),
        (False, np.float64, {}),
        (True, np.float32, {"n_attended": 3, "pyramid_levels": 2}),
    ],
)
def test_sets_of_any_size(tmp_path, weighting, shifting, dtype, options):
    X, y = make_sets(n=60, n_classes=3, dtype=dtype)
    clf = AttentionClusterClassifier(
        weighting=weighting, shifting=shifting, cluster_size=5, learning_rate=0.05, tol=None
    )
    clf.set_params(max_iter=20, random_state=0, **options).fit(X, y)
    clf.to_onnx(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    sets = [rng.normal(size=(size, X[0].shape[1])).astype(dtype) for size in (1, 7, 300)]
    expected = clf.predict_proba(sets)
    for one, proba in zip(sets, expected, strict=True):
        got = run(tmp_path / "model.onnx", dtype, features=padded([one], one.shape[1], 0))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, proba[None], atol=1e-5)
    for fill in (1e3, np.nan):
        together = run(tmp_path / "model.onnx", dtype, features=padded(sets, 4, fill))
        np.testing.assert_allclose(together, expected, atol=1e-5)


@pytest.mark.parametrize("missing_modality", ["mean", "mask"])
def test_items_that_lack_a_modality(tmp_path, missing_modality):
    X, y = make_sets(n=40, n_classes=3)
    rng = np.random.default_rng(1)
    sounds = [rng.normal(size=(1 + i % 3, 2)) if i % 4 else None for i in range(40)]
    both = {"frames": list(X), "sounds": sounds}
    clf = MultimodalAttentionClusterClassifier(
        cluster_size={"frames": 3, "sounds": 2}, missing_modality=missing_modality, tol=None
    )
    clf.set_params(max_iter=20, learning_rate=0.05, random_state=0).fit(both, y)
    clf.to_onnx(tmp_path / "model.onnx")
    inputs = {
        name: padded(both[name], width, 9.0) for name, width in clf._architecture.widths.items()
    }
    got = run(tmp_path / "model.onnx", **inputs)
    np.testing.assert_allclose(got, clf.predict_proba(both), atol=1e-5)
    inputs["sounds"] = padded([None] * 40, 2, 9.0)
    got = run(tmp_path / "model.onnx", **inputs)
    np.testing.assert_allclose(got, clf.predict_proba({"frames": both["frames"]}), atol=1e-5)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "text"])
def test_classes(tmp_path, kind):
    X, y = make_sets(n=40, n_classes=3)
    labels = {
        "binary": y > 0,
        "multilabel": np.stack([y == 0, y > 0], axis=1).astype(int),
        "text": np.array(["a", "b", "c"])[y],
    }[kind]
    clf = AttentionClusterClassifier(cluster_size=3, max_iter=5, tol=None).fit(X, labels)
    clf.to_onnx(tmp_path / "model.onnx")
    got = run(tmp_path / "model.onnx", features=padded(list(X), X[0].shape[1], 0))
    np.testing.assert_allclose(got, clf.predict_proba(X), atol=1e-5)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
    assert classes == clf.classes_.tolist()


def test_what_to_install_is_said(tmp_path, monkeypatch):
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


def test_logging_is_as_before(tmp_path, caplog):
    X, y = make_sets(n=20)
    AttentionClusterClassifier(max_iter=1, tol=None).fit(X, y).to_onnx(tmp_path / "model.onnx")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.root.manager.disable == logging.NOTSET


def test_torch_exports_it_too():
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


def test_only_attention_clusters_can_be_had_over_padded_sets():
    X, y = make_sets(n=20)
    clf = AverageClassifier(max_iter=1, tol=None).fit(X, y)
    with pytest.raises(TypeError, match=r"Average is not an attention cluster"):
        PaddedNetwork(clf.network_, [None])


def test_a_network_in_torch_is_a_copy():
    X, y = make_sets(n=20)
    clf = AttentionClusterClassifier(max_iter=1, tol=None).fit(X, y)
    before = clf.predict_proba(X)
    network = clf.to_torch()
    assert isinstance(network, IntegrationNetwork)
    assert not network.training
    with torch.no_grad():
        network.linear.weight.zero_()
    assert np.array_equal(clf.predict_proba(X), before)
