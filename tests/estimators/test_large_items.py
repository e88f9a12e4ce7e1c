"""Items with many local features: batches in parts give the same model in bounded memory."""

import json
import subprocess
import sys

import numpy as np
import pytest

from acluster import (
    AttentionClusterClassifier,
    FeatureSetsWriter,
    MultimodalAttentionClusterClassifier,
    open_feature_sets,
    rivals,
    save_feature_sets,
)
from acluster.training import BatchSource, bytes_per_part
from acluster.training import _batches as batches


@pytest.fixture
def small_parts(monkeypatch):
    """Divide batches into parts of a few local features, as large items do."""

    def limit(n_bytes):
        monkeypatch.setattr(batches, "BYTES_PER_PART", n_bytes)
        monkeypatch.setitem(BatchSource.__init__.__kwdefaults__, "max_bytes", n_bytes)

    return limit


def items(n=40, n_features=6, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    return [rng.normal(size=(rng.integers(1, 20), n_features)) + c for c in y], y


OPTIONS = {"dropout": 0.0, "max_iter": 3, "tol": None, "random_state": 0}


@pytest.mark.parametrize(
    "classifier",
    [
        AttentionClusterClassifier(**OPTIONS),
        AttentionClusterClassifier(**OPTIONS, standardize=True, optimizer="rmsprop"),
        # 7,680 rows of 40 outputs: the gradient of this weight is kept in factors
        AttentionClusterClassifier(**OPTIONS, cluster_size=1280, max_grad_norm=0.1),
        rivals.SetTransformerClassifier(**OPTIONS),
        rivals.BiLSTMClassifier(**OPTIONS),
    ],
    ids=["plain", "standardized", "factored", "SetTransformer", "BiLSTM"],
)
def test_parts_of_a_batch_add_up_to_its_gradient(classifier, small_parts):
    X, y = items()
    if getattr(classifier, "cluster_size", 0) == 1280:
        y = np.arange(len(y)) % 20
    whole = classifier.fit(X, y).decision_function(X)
    small_parts(30 * 6 * 8)
    in_parts = classifier.fit(X, y).decision_function(X)
    np.testing.assert_allclose(in_parts, whole, rtol=1e-8, atol=1e-10)


def test_parts_of_multimodal_items_from_a_store(small_parts, tmp_path):
    rgb, y = items()
    audio = [None if i % 5 == 0 else x for i, x in enumerate(items(n_features=3, seed=1)[0])]
    save_feature_sets(tmp_path / "a.zarr", {"rgb": rgb, "audio": audio})
    X = open_feature_sets(tmp_path / "a.zarr")
    clf = MultimodalAttentionClusterClassifier(**OPTIONS, dtype="float64", cache="stream")
    whole = clf.fit(X, y)
    expected = whole.decision_function(X), whole.transform(X), whole.attention_weights(X)["rgb"]
    small_parts(300)
    in_parts = clf.fit(X, y)
    found = in_parts.decision_function(X), in_parts.transform(X), in_parts.attention_weights(X)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found[2]["rgb"].packed()[0], expected[2].packed()[0], atol=1e-10)


def test_batch_normalization_sees_whole_batches(small_parts):
    X, y = items()
    clf = rivals.TemporalInceptionClassifier(**OPTIONS, standardize=False)
    whole = clf.fit(X, y).network_.state_dict()
    assert bytes_per_part(clf.network_) is None
    small_parts(300)
    for name, tensor in clf.fit(X, y).network_.state_dict().items():
        np.testing.assert_array_equal(tensor, whole[name], err_msg=name)


CHILD = """
import json, resource, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from acluster import AttentionClusterClassifier, open_feature_sets
from acluster.training import BatchSource, _batches

_batches.BYTES_PER_PART = BatchSource.__init__.__kwdefaults__["max_bytes"] = 1 << 22
X = open_feature_sets(sys.argv[1])
clf = AttentionClusterClassifier(
    cluster_size=4, max_iter=1, tol=None, random_state=0, cache="stream", **json.loads(sys.argv[2])
)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
clf.fit(X[[0, 1]], X.label[[0, 1]])
before = peak()
clf.fit(X[2:], X.label[2:])
clf.predict(X[2:])
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss differs in unit")
@pytest.mark.parametrize(
    "options", [{"standardize": False}, {"standardize": True}], ids=["plain", "standardized"]
)
def test_memory_holds_few_items_of_a_batch(tmp_path, options):
    # A whole batch would take 160 MiB. An item takes 23 with the spare room of its buffer.
    assert growth(tmp_path, [40960] * 8, options) < 110


def growth(folder, lengths, options):
    """Return the MiB by which a process grows that trains on items of these lengths."""
    rng = np.random.default_rng(0)
    with FeatureSetsWriter(folder / "slides.zarr", dtype="float16") as writer:
        for i, length in enumerate([10, 10, *lengths]):  # the first two warm the process up
            writer.append(rng.normal(size=(length, 128)).astype("f2"), label=i % 2)
    command = [sys.executable, "-c", CHILD, folder / "slides.zarr", json.dumps(options)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss differs in unit")
def test_memory_of_standardization_holds_pieces_of_a_block(tmp_path):
    # A block of 8 MiB in float16 takes 32 in float64, several times over.
    assert growth(tmp_path, [4000] * 64, {"batch_size": 1}) < 80
