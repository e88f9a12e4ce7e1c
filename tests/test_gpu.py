"""Training on a CUDA device. These tests need one; `benchmarks/gpu_session.py` runs them."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.model_selection import GridSearchCV
from acluster.training import _recorded
from acluster.training._cuda_graph import CudaRecorder

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

N_ITEMS, N_CLASSES = 300, 7


def make_sets(longest=40, shortest=2, width=96, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    patterns = rng.normal(scale=2, size=(N_CLASSES, width))
    arrays = []
    for i in range(N_ITEMS):
        values = rng.normal(size=(rng.integers(shortest, longest + 1), width))
        values[:1] += patterns[i % N_CLASSES]  # of none, if the set is empty
        arrays.append(values.astype(dtype))
    return FeatureSets.from_arrays(arrays)


X, y = make_sets(), np.arange(N_ITEMS) % N_CLASSES
EQUAL = make_sets(25, 25)
BASE = {
    "device": "cuda",
    "cluster_size": 32,
    "batch_size": 64,
    "max_iter": 12,
    "tol": None,
    "random_state": 0,
}


@pytest.fixture
def recordings(monkeypatch):
    """The recorded steps of every trainer, in the order in which they were made."""
    made = []

    class Listed(_recorded.RecordedSteps):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(_recorded, "RecordedSteps", Listed)
    return made


class Refusing(CudaRecorder):
    """Fails at the end of every recording, which has changed nothing."""

    def __call__(self, step, generator):
        def refused():
            step()
            raise RuntimeError("out of luck")

        return super().__call__(refused, generator)


def fit(sets=X, **options):
    return AttentionClusterClassifier(**{**BASE, **options}).fit(sets, y)


def assert_same_bits(one, other):
    assert one.loss_curve_ == other.loss_curve_
    state = other.network_.state_dict()
    for name, tensor in one.network_.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sets": EQUAL, "n_attended": None},
        {"weighting": "fc2", "optimizer": "adamw", "n_attended": 3},
        {"weighting": "average", "shifting": False},
        {"pyramid_levels": 3, "n_local_features": 9},
        {"precision": "mixed", "cluster_size": 64},
        {"sets": make_sets(dtype=np.float16), "dtype": "float32", "standardize": False},
        {"n_members": 3},
        {"hidden_features": 16},
        {"hidden_features": 16, "precision": "mixed"},
        {"batch_size": 1000, "max_iter": 30},
    ],
    ids=lambda options: ",".join(options) or "default",
)
def test_recorded_steps_are_plain_steps_to_the_bit(options, recordings, monkeypatch):
    recorded = fit(**options)
    assert recordings
    assert all(one.n_recorded for one in recordings)
    monkeypatch.setattr(_recorded, "CudaRecorder", Refusing)
    with pytest.warns(RuntimeWarning, match="out of luck"):
        plain = fit(**options)
    assert_same_bits(recorded, plain)


def test_several_modalities_some_of_them_missing(recordings):
    audio = make_sets(9, 0, width=24, seed=1)
    both = MultimodalFeatureSets({"rgb": X, "audio": audio})
    clf = MultimodalAttentionClusterClassifier(**BASE, missing_modality="mask").fit(both, y)
    assert [one.n_recorded for one in recordings] == [0]  # every batch has items without audio
    complete = MultimodalFeatureSets({"rgb": X, "audio": make_sets(9, 1, width=24, seed=1)})
    MultimodalAttentionClusterClassifier(**BASE).fit(complete, y)
    assert recordings[-1].n_recorded > 0
    on_cpu = MultimodalAttentionClusterClassifier(**{**BASE, "device": "cpu"}).set_params(
        missing_modality="mask"
    )
    assert on_cpu.fit(both, y).score(both, y) == pytest.approx(clf.score(both, y), abs=0.1)


def test_a_fit_on_a_stream_of_the_caller_is_the_same_to_the_bit(tmp_path):
    both = MultimodalFeatureSets({"rgb": X, "audio": make_sets(9, 0, width=24, seed=1)})
    save_feature_sets(tmp_path / "X.zarr", both)

    def fitted():
        clf = MultimodalAttentionClusterClassifier(**BASE, missing_modality="mean", cache="stream")
        return clf.fit(open_feature_sets(tmp_path / "X.zarr"), y)

    plain = fitted()
    with torch.cuda.stream(torch.cuda.Stream()):
        other = fitted()
        found = other.predict_proba(both)
    np.testing.assert_array_equal(found, plain.predict_proba(both))


def test_a_recording_that_is_invalid_leaves_the_device_usable():
    generator, record = torch.Generator("cuda"), CudaRecorder(torch.device("cuda"))
    torch.manual_seed(3)
    expected = torch.rand(5, device="cuda"), torch.rand(5, device="cuda")
    torch.manual_seed(3)
    first = torch.rand(5, device="cuda")
    with pytest.raises(RuntimeError):
        record(lambda: torch.ones(3, device="cuda")[:1].cpu(), generator)
    assert torch.equal(first, expected[0])
    assert torch.equal(torch.rand(5, device="cuda"), expected[1])
    x = torch.ones(3, device="cuda")
    replay = record(lambda: x + 1, torch.Generator("cuda"))
    assert torch.equal(replay(), x + 1)


def test_losses_are_those_of_the_processor():
    options = {"dropout": 0.0, "max_iter": 3}
    found, expected = fit(**options), fit(**options, device="cpu")
    np.testing.assert_allclose(found.loss_curve_, expected.loss_curve_, rtol=1e-3)
    np.testing.assert_allclose(found.predict_proba(X), expected.predict_proba(X), atol=5e-3)


@pytest.mark.parametrize("cache", ["device", "memory", "stream"])
def test_every_cache_gives_the_same_bits(cache, tmp_path):
    save_feature_sets(tmp_path / "X.zarr", X)
    assert_same_bits(fit(open_feature_sets(tmp_path / "X.zarr"), cache=cache), fit())


def test_a_fit_resumes_to_the_same_bits(tmp_path):
    options = {"learning_rate_schedule": "constant"}
    whole = fit(**options)
    clf = AttentionClusterClassifier(**{**BASE, **options, "max_iter": 7})
    clf.fit(X, y, checkpoint_dir=tmp_path)
    clf.set_params(max_iter=BASE["max_iter"]).fit(X, y, checkpoint_dir=tmp_path)
    assert_same_bits(clf, whole)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named(value):
    arrays = [np.array(one) for one in X]
    arrays[17][1, 2] = value
    with pytest.raises(ValueError, match=r"X\[17\] has (nan|inf) in local feature 1, column 2"):
        fit(FeatureSets.from_arrays(arrays))


def test_a_search_trains_candidates_as_each_alone():
    grid = {"learning_rate": [0.01, 0.001], "dropout": [0.0, 0.5]}
    search = GridSearchCV(AttentionClusterClassifier(**BASE), grid, cv=2).fit(X, y)
    assert_same_bits(search.best_estimator_, fit(**search.best_params_))


RANK = """
import sys
import numpy as np
import torch.distributed as dist
from tests.test_gpu import BASE, X, y
from acluster import AttentionClusterClassifier
dist.init_process_group("nccl")
clf = AttentionClusterClassifier(**BASE, distributed=True).fit(X, y)
np.save(sys.argv[1], clf.loss_curve_)
dist.destroy_process_group()
"""


def test_a_process_group_of_one_trains_with_nccl(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    subprocess.run(
        [sys.executable, *command, tmp_path / "rank.py", tmp_path / "losses.npy"],
        check=True,
        timeout=300,
    )
    np.testing.assert_allclose(np.load(tmp_path / "losses.npy"), fit().loss_curve_, rtol=1e-3)


def test_auto_leaves_small_steps_on_the_processor():
    small = FeatureSets.from_arrays([one[:2, :8] for one in X])
    clf = AttentionClusterClassifier(**{**BASE, "device": "auto", "cluster_size": 8})
    assert next(clf.fit(small, y).network_.parameters()).device.type == "cpu"
    assert next(fit(device="auto", cluster_size=128).network_.parameters()).is_cuda
