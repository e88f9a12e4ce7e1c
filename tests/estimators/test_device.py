"""The device that "auto" names, as on a machine with a GPU."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import acluster
from acluster import AttentionClusterClassifier
from acluster.datasets import load_benchmark
from acluster.estimators import TrainingData, _architecture, _fitting, _set_classifier
from acluster.nn import has_compiled_kernels
from acluster.training import resolve_device as resolve

pytestmark = pytest.mark.skipif(not has_compiled_kernels(), reason="needs the extra fast")


@pytest.fixture(autouse=True)
def gpu(monkeypatch):
    """Let torch's "meta" device, whose tensors have no memory, stand in for a GPU."""

    def with_gpu(device):
        return torch.device("meta") if device in ("auto", "cuda") else resolve(device)

    for module in (_set_classifier, _architecture):
        monkeypatch.setattr(module, "resolve_device", with_gpu)


def make_data(n=40, length=6, width=8, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, length, width)).astype(np.float32)
    return [*X], np.arange(n) % 2


def device_of(clf, X, y):
    """Return where a fit would begin."""
    clf._start(TrainingData.of(clf, X, y, None))
    return next(clf.network_.parameters()).device.type


def test_auto_is_the_cpu_for_small_steps_only():
    small, large = make_data(), make_data(width=3000)
    for options, expected in [
        ({}, "cpu"),
        ({"device": "cuda"}, "meta"),
        ({"device": "cpu"}, "cpu"),
    ]:
        assert device_of(AttentionClusterClassifier(cluster_size=8, **options), *small) == expected
    assert device_of(AttentionClusterClassifier(cluster_size=64), *large) == "meta"
    # A step that is not compiled takes longer on the CPU.
    for options in ({"weighting": "fc2"}, {"precision": "mixed", "dtype": "float32"}):
        found = device_of(AttentionClusterClassifier(cluster_size=8, **options), *small)
        assert found == ("meta" if "weighting" in options else "cpu")


def test_auto_of_a_distributed_fit_is_the_gpu():
    clf = AttentionClusterClassifier(cluster_size=8)
    data = TrainingData.of(clf, *make_data(), None)
    assert _fitting.is_faster_without_gpu(clf, data)
    data.ranks = SimpleNamespace(size=2)
    assert not _fitting.is_faster_without_gpu(clf, data)


def test_a_model_that_auto_left_on_the_cpu_stays_there(tmp_path):
    X, y = make_data()
    clf = AttentionClusterClassifier(cluster_size=8, max_iter=3, tol=None, random_state=0).fit(X, y)
    copied = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(copied.predict_proba(X), clf.predict_proba(X))
    clf.save(tmp_path / "a.model")
    loaded = acluster.load(tmp_path / "a.model")
    assert next(loaded.network_.parameters()).device.type == "cpu"
    copied.set_params(warm_start=True).fit(X, y)
    assert next(copied.network_.parameters()).device.type == "cpu"
    state = clf.__getstate__()
    state["_prefers_cpu"] = False  # as of a model that was trained on a GPU
    on_gpu = AttentionClusterClassifier.__new__(AttentionClusterClassifier)
    on_gpu.__setstate__(state)
    assert next(on_gpu.network_.parameters()).device.type == "meta"


@pytest.mark.parametrize("name", ["japanese_vowels", "musk1"])
def test_auto_is_the_cpu_for_the_small_benchmarks(name, data_home):
    data = load_benchmark(name, data_home=data_home)
    assert device_of(AttentionClusterClassifier(), data.data, data.target) == "cpu"
