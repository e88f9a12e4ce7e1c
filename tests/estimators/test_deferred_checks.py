"""Local features that `fit` copies to a GPU are checked there, with the errors of other fits.

A device that copies like a GPU, as late as it may, takes the place of the GPU.
"""

import contextlib

import numpy as np
import pytest

from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    MultimodalAttentionClusterClassifier,
    MultimodalFeatureSets,
    save_feature_sets,
)
from acluster.sets import _checks
from acluster.training import Fit
from acluster.training import _resident as resident
from tests.conftest import make_sets
from tests.estimators.common import have_same_weights
from tests.training.test_resident import DelayedCopies

OPTIONS = {"max_iter": 2, "tol": None, "cluster_size": 2, "random_state": 0, "device": "cpu"}


@pytest.fixture
def gpu(monkeypatch):
    """Return the copies to the device, one for each modality that has been copied."""
    made = []

    def copies_to(sets, device):
        made.append(DelayedCopies())
        return made[-1], 2

    monkeypatch.setattr("acluster.training._cache.copies_to", copies_to)
    for module in ("training._cache", "estimators._training_data"):
        monkeypatch.setattr(f"acluster.{module}.checks_while_copying", lambda device: True)
    monkeypatch.setattr(resident, "_BYTES_PER_BLOCK", 400)
    return made


@pytest.fixture
def host_checks(monkeypatch):
    """Return the sets that have been checked on the host."""
    seen, check = [], _checks._raise_if_not_finite

    def counted(X, item_name):
        seen.append(X)
        check(X, item_name)

    monkeypatch.setattr(_checks, "_raise_if_not_finite", counted)
    return seen


def make(**changes):
    return AttentionClusterClassifier(**OPTIONS | {"cache": "device"} | changes)


def broken(X, item=7, value=np.nan):
    """Return a copy of sets with a value that is not finite."""
    arrays = [x.copy() for x in X]
    arrays[item][-1, 2] = value
    return FeatureSets.from_arrays(arrays)


def error_of(clf, *arguments, **options):
    with pytest.raises(Exception) as caught:
        clf.fit(*arguments, **options)
    assert not hasattr(clf, "network_")
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_fit_reads_all_features_once_and_learns_the_same(dtype, gpu, host_checks, monkeypatch):
    X, y = make_sets(dtype=dtype)
    clf = make(standardize=False).fit(X, y)
    assert host_checks == []
    [copies] = gpu
    assert copies.n_rows == X.lengths.sum()
    assert copies.n_copied > 3
    monkeypatch.undo()
    assert have_same_weights(clf, make(standardize=False).fit(X, y))


def test_fit_does_not_check_again_for_an_error_after_the_copy(gpu, host_checks, monkeypatch):
    def end_epoch(fit, loss):
        raise RuntimeError("of the training")

    monkeypatch.setattr(Fit, "end_epoch", end_epoch)
    X, y = make_sets()
    with pytest.raises(RuntimeError, match="of the training"):
        make().fit(X, y)
    assert len(gpu) == 1
    assert host_checks == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("item", [0, 7, 59])
@pytest.mark.parametrize("cache", ["auto", "device", "memory", "stream"])
def test_fit_names_the_value_as_without_a_gpu(value, item, cache, gpu, monkeypatch):
    X, y = make_sets()
    X = broken(X, item, value)
    found = error_of(make(cache=cache), X, y)
    monkeypatch.undo()
    assert found == error_of(make(cache=cache), X, y)
    assert f"X[{item}] has {value}" in found[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"y": np.zeros(59, int)},
        {"y": np.zeros(60, int)},
        {"y": np.full(60, np.nan)},
        {"sample_weight": np.ones(3)},
        {"sample_weight": np.full(60, np.nan)},
        {"sample_weight": np.zeros(60)},
        {"sample_weight": np.r_[np.zeros(30), np.ones(30)]},
        {"X_val": None, "y_val": [0]},
        {"X_val": [np.ones((2, 4))], "y_val": ["unknown"]},
        {"X_val": [np.ones((2, 5))], "y_val": [0]},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_finite", [True, False])
def test_fit_raises_the_first_of_two_errors(wrong, is_finite, gpu, monkeypatch):
    X, y = make_sets()
    arguments = {"X": X if is_finite else broken(X), "y": y} | wrong
    if is_finite and "sample_weight" in wrong and wrong["sample_weight"].sum() == 30:
        pytest.skip("these arguments are right")
    found = error_of(make(), **arguments)
    monkeypatch.undo()
    assert found == error_of(make(), **arguments)


@pytest.mark.parametrize(
    "parameters",
    [
        {"device": "nowhere"},
        {"precision": "mixed", "dtype": "float64"},
        {"n_local_features": {"rgb": 3}},
        {"early_stopping": True, "validation_fraction": 1e-9},
        {"class_weight": {"unknown": 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("is_finite", [True, False])
def test_fit_raises_errors_of_parameters_after_those_of_X(parameters, is_finite, gpu, monkeypatch):
    X, y = make_sets()
    X = X if is_finite else broken(X)
    found = error_of(make(**parameters), X, y)
    monkeypatch.undo()
    assert found == error_of(make(**parameters), X, y)


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("has_weights", [True, False])
@pytest.mark.parametrize("has_validation", [True, False])
@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_fit_never_trains_on_unchecked_items(
    early_stopping, has_weights, has_validation, has_checkpoint, gpu, tmp_path
):
    X, y = make_sets()
    options = {"sample_weight": np.r_[np.zeros(20), np.ones(40)]} if has_weights else {}
    if has_validation:
        options |= {"X_val": X, "y_val": y}
    if has_checkpoint:
        options |= {"checkpoint_dir": tmp_path}
    for item in range(0, 60, 3):
        kind, message = error_of(make(early_stopping=early_stopping), broken(X, item), y, **options)
        assert kind is ValueError
        assert f"X[{item}] has nan" in message


def test_fit_checks_a_validation_set(gpu):
    X, y = make_sets()
    _, message = error_of(make(), X, y, X_val=broken(X), y_val=y)
    assert message.startswith("In X_val and y_val: Input X contains NaN.\nX[7] has nan")


@pytest.mark.parametrize("form", [list, dict, MultimodalFeatureSets])
def test_fit_names_the_modality(form, gpu, monkeypatch):
    X, y = make_sets()
    both = {"rgb": X, "flow": broken(X)}
    items = [{"rgb": a, "flow": b} for a, b in zip(*both.values(), strict=True)]
    given = items if form is list else form(both)

    def found():
        clf = MultimodalAttentionClusterClassifier(**OPTIONS, cache="device")
        return error_of(clf, given, y)

    on_gpu = found()
    assert gpu
    monkeypatch.undo()
    assert on_gpu == found()
    assert "flow" in on_gpu[1]


@pytest.mark.parametrize("X", [np.full((60, 4), np.nan), np.full((60, 3, 4), np.nan)])
def test_fit_checks_arrays(X, gpu, monkeypatch):
    y = np.arange(60) % 2
    found = error_of(make(), X, y)
    monkeypatch.undo()
    assert found == error_of(make(), X, y)


def test_fit_names_the_item_of_a_store(gpu, host_checks, tmp_path):
    X, y = make_sets(dtype=np.float32)
    save_feature_sets(tmp_path / "sets.zarr", broken(X))
    _, message = error_of(make(), tmp_path / "sets.zarr", y)
    assert "Item 7 of" in message
    assert "sets.zarr has nan in local feature" in message


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_fit_that_is_interrupted_while_copying_can_be_repeated(error, gpu, monkeypatch):
    X, y = make_sets()
    clf, start = make(), DelayedCopies.start

    def fail(self, *arguments):
        if self.n_started == 4:
            raise error
        return start(self, *arguments)

    with monkeypatch.context() as patch, contextlib.suppress(error):
        patch.setattr(DelayedCopies, "start", fail)
        clf.fit(X, y)
        pytest.fail("the error was lost")
    assert not gpu[-1].pending
    assert not hasattr(clf, "network_")
    assert have_same_weights(clf.fit(X, y), make().fit(X, y))


def test_partial_fit_checks_features(gpu):
    X, y = make_sets()
    with pytest.raises(ValueError, match=r"X\[7\] has nan"):
        make().partial_fit(broken(X), y, classes=[0, 1])
