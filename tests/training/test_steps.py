"""Steps that are replayed from a CUDA graph, beside the same steps taken one by one."""

import numpy as np
import pytest
import torch

from acluster import AttentionClusterClassifier, FeatureSets, MultimodalAttentionClusterClassifier
from acluster.training import _steps

N_ITEMS = 100  # with batches of 8: twelve alike and a smaller one


@pytest.fixture
def recorded(monkeypatch):
    """The shapes of steps that have been recorded so far."""
    shapes = []
    record = _steps.record

    def noting(*batch, generator):
        loss, step = record(*batch, generator=generator)
        shapes.append(step.shape)
        return loss, step

    monkeypatch.setattr(_steps, "record", noting)
    return shapes


def classifier(**parameters):
    parameters = {"max_iter": 3, "tol": None, "batch_size": 8, "random_state": 0} | parameters
    return AttentionClusterClassifier(cluster_size=4, **parameters)


def make_sets(lengths, n_features=12, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(sum(lengths), n_features)).astype(np.float32)
    return FeatureSets(values, np.concatenate([[0], np.cumsum(lengths)]))


def labels(n_items=N_ITEMS):
    return np.arange(n_items) % 3


def parameters_of(clf):
    return {name: tensor.cpu().numpy() for name, tensor in clf.network_.state_dict().items()}


def assert_as_if_not_recorded(monkeypatch, clf, X, y):
    """Fit, then fit again without graphs: the same parameters and losses."""
    fitted = clf.fit(X, y)
    curve, parameters = fitted.loss_curve_, parameters_of(fitted)
    monkeypatch.setattr(_steps, "_STEPS_BEFORE", 10**9)
    plain = clf.fit(X, y)
    np.testing.assert_allclose(curve, plain.loss_curve_, rtol=1e-6)
    for name, expected in parameters_of(plain).items():
        np.testing.assert_allclose(parameters[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


class Graph:
    """What a graph does, without a device: the same step on what its memory holds by then."""

    def __init__(self, replay):
        self.replay = replay


def test_every_batch_is_taken_once(monkeypatch):
    taken, n_records = [], 0

    def take(sets, targets, weights):
        taken.append((sets[0][0].flatten().tolist(), targets.tolist(), weights.tolist()))
        return targets.sum()

    def record(take, sets, targets, weights, generator):
        nonlocal n_records
        n_records += 1
        inputs = [tensor.clone() for tensor in (sets[0][0], targets, weights)]
        loss = torch.zeros(())
        graph = Graph(lambda: loss.copy_(take([(inputs[0], sets[0][1])], *inputs[1:])))
        shape = _steps._shape(sets, targets, weights)
        return take(sets, targets, weights), _steps.Recorded(shape, graph, inputs, loss)

    monkeypatch.setattr(_steps, "record", record)
    steps = _steps.Steps(torch.Generator(), lambda sets: True)
    numbers = torch.arange(40.0)
    batches = [*numbers[:32].split(4), numbers[32:35], *numbers[35:].split(4)]
    for batch in batches:
        sets = [(batch[:, None], torch.arange(len(batch) + 1))]
        assert steps(take, sets, batch + 100, batch + 200) == (batch + 100).sum()
    assert taken == [tuple((batch + more).tolist() for more in (0, 100, 200)) for batch in batches]
    assert n_records == 1


def test_nothing_is_recorded_on_a_processor(recorded):
    classifier(device="cpu").fit(make_sets([5] * N_ITEMS), labels())
    assert not recorded


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@needs_cuda
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"weighting": "fc2"},
        {"weighting": "average", "shifting": False},
        {"dropout": 0.5},
        {"optimizer": "adam", "max_grad_norm": None, "dropout": 0.5},
        {"precision": "mixed"},
        {"cache": "stream"},
        {"n_local_features": 3},
    ],
)
def test_sets_of_one_size(recorded, monkeypatch, parameters):
    X = make_sets([5] * N_ITEMS)
    assert_as_if_not_recorded(monkeypatch, classifier(**parameters), X, labels())
    (shape,) = recorded
    (values, *_), _ = shape
    assert values[0][0] == 8 * parameters.get("n_local_features", 5)


@needs_cuda
def test_going_on_by_partial_fit(recorded):
    X, y = make_sets([5] * N_ITEMS), labels()
    whole = classifier(max_iter=3, dropout=0.5).fit(X, y)
    clf = classifier(dropout=0.5)
    for _ in range(3):
        clf.partial_fit(X, y, classes=range(3))
    assert len(recorded) == 4
    assert np.isfinite(clf.loss_curve_).all()
    assert clf.loss_curve_[0] == pytest.approx(whole.loss_curve_[0], rel=1e-6)


@needs_cuda
def test_sets_of_many_sizes_are_not_recorded(recorded):
    lengths = np.random.default_rng(0).integers(1, 9, N_ITEMS)
    classifier().fit(make_sets(lengths), labels())
    assert not recorded


@needs_cuda
def test_one_batch_of_sets_of_many_sizes(recorded, monkeypatch):
    X = make_sets(np.random.default_rng(0).integers(1, 9, N_ITEMS))
    clf = classifier(batch_size=N_ITEMS, max_iter=8)
    assert_as_if_not_recorded(monkeypatch, clf, X, labels())
    assert len(recorded) == 1


@needs_cuda
def test_large_batches_and_float64_are_not_recorded(recorded, monkeypatch):
    X = make_sets([5] * N_ITEMS)
    classifier(dtype="float64").fit(X, labels())
    monkeypatch.setattr(_steps, "_LARGEST_BYTES", 8 * 5 * 12 * 4 - 1)
    classifier().fit(X, labels())
    assert not recorded


@needs_cuda
@pytest.mark.parametrize("missing", [False, True])
def test_modalities(recorded, monkeypatch, missing):
    sounds = [0 if missing and i == 3 else 2 for i in range(N_ITEMS)]
    X = {"frames": make_sets([5] * N_ITEMS), "sounds": make_sets(sounds, 6, seed=1)}
    clf = MultimodalAttentionClusterClassifier(
        batch_size=N_ITEMS, max_iter=8, tol=None, random_state=0
    )
    assert_as_if_not_recorded(monkeypatch, clf, X, labels())
    assert len(recorded) == (0 if missing else 1)


@needs_cuda
def test_several_labels_and_weights(recorded, monkeypatch):
    X, y = make_sets([5] * N_ITEMS), np.stack([labels() == 0, labels() > 0], axis=1).astype(int)
    assert_as_if_not_recorded(monkeypatch, classifier(), X, y)
    assert len(recorded) == 1
