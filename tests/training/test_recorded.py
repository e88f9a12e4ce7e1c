"""Steps recorded by shape, with a tape of operations in place of CUDA graphs."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acluster import AttentionClusterClassifier, FeatureSets
from acluster.estimators import _fitting
from acluster.nn import (
    AttentionCluster,
    IntegrationNetwork,
    _attention_cluster,
    _compiled,
    _masks,
    _network,
)
from acluster.training import (
    Batch,
    BatchSource,
    Fit,
    Patience,
    Trainer,
    TrainingBatches,
    _optimizer,
    run_epoch,
)
from acluster.training import _recorded as module
from acluster.training._recorded import RecordedSteps, Shape, StaticBatches, padded_rows
from tests.tape import TapeRecorder, attend_densely, below_highest_densely, refuse

WIDTHS = (5, 3)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Replace kernels by operations that a tape can record, and that read nothing back."""
    monkeypatch.setattr(_compiled, "_INSTALLED", False)
    monkeypatch.setattr(_optimizer, "_is_on_cpu", lambda tensor: False)
    monkeypatch.setattr(_network, "_present", lambda offsets: None)
    monkeypatch.setattr(_attention_cluster, "attend", attend_densely)
    monkeypatch.setattr(_masks, "runs_triton", lambda tensor: True)
    monkeypatch.setattr(_masks, "_below_highest_triton", below_highest_densely)


def make_sets(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [
        FeatureSets.from_arrays(
            [rng.normal(size=(length + extra, width)).astype(np.float32) for length in lengths]
        )
        for extra, width in enumerate(WIDTHS)
    ]


RAGGED = make_sets(np.random.default_rng(1).integers(9, 30, 40))
EQUAL = make_sets([7] * 40)


def make_fit(
    record=None,
    sets=RAGGED,
    batches=None,
    n_outputs=3,
    optimizer="rmsprop",
    batch_size=10,
    **options,
):
    """A fit of a small network, whose steps `record` records."""
    torch.manual_seed(0)
    clusters = [AttentionCluster(width, cluster_size=7, **options) for width in WIDTHS]
    network = IntegrationNetwork(clusters, n_outputs, dropout=0.5, widths=WIDTHS)
    network.reset_parameters(torch.Generator().manual_seed(0))
    trainer = Trainer(
        network,
        lambda logits, targets: torch.nn.functional.cross_entropy(
            logits, targets, reduction="none"
        ),
        optimizer=optimizer,
        learning_rate=0.01,
        weight_decay=0.01,
        max_grad_norm=0.5,
        generator=torch.Generator().manual_seed(1),
    )
    if record is not None:
        memory = StaticBatches(torch.device("cpu")) if batches is None else batches
        trainer.recorded = RecordedSteps(trainer, memory, record)
        if isinstance(record, TapeRecorder):
            record.recorded = trainer.recorded
    n = len(sets[0])
    items = TrainingBatches(
        BatchSource(sets, network.linear.weight),
        torch.arange(n) % n_outputs,
        torch.linspace(0.5, 1.5, n),
        batch_size=batch_size,
        n_local_features=[None, 9],
        modality_dropout=0.0,
        random_state=np.random.RandomState(0),
    )
    return Fit(trainer, items, patience=Patience(None, 1))


def train(fit, n_epochs=8):
    """Train with a learning rate that changes from epoch to epoch."""
    for epoch in range(n_epochs):
        fit.trainer.optimizer.learning_rate = 0.01 / (1 + epoch)
        [loss] = run_epoch([fit])
        fit.end_epoch(loss)
    return fit


def assert_same_bits(one, other):
    assert one.loss_curve == other.loss_curve
    for name, tensor in one.trainer.network.state_dict().items():
        assert torch.equal(tensor, other.trainer.network.state_dict()[name]), name
    states = (fit.trainer.generator.get_state() for fit in (one, other))
    assert torch.equal(*states)


def train_without_recording(**options):
    """Train on the same memory, kernel by kernel, because every recording fails."""
    with pytest.warns(RuntimeWarning, match="recorded as a CUDA graph: CUDA error: out of luck. T"):
        return train(make_fit(refuse, **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sets": EQUAL},
        {"optimizer": "adamw", "n_attended": 3},
        {"pyramid_levels": 3, "weighting": "fc2"},
        {"weighting": "average", "shifting": False, "optimizer": "adam"},
        {"n_outputs": 2400},  # the gradient of the last layer is in factors
    ],
    ids=str,
)
def test_recorded_steps_are_plain_steps_to_the_bit(options):
    record = TapeRecorder()
    fit = train(make_fit(record, **options))
    assert fit.trainer.recorded.failure is None
    assert record.n_replayed > 15
    assert_same_bits(fit, train_without_recording(**options))


def test_recorded_steps_agree_with_steps_on_unpadded_batches():
    found, expected = train(make_fit(TapeRecorder())), train(make_fit())
    np.testing.assert_allclose(found.loss_curve, expected.loss_curve, rtol=1e-5)
    weights = (fit.trainer.network.linear.weight.detach() for fit in (found, expected))
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_padding_contributes_nothing():
    # Rows beyond the last set keep what an earlier, larger batch has left there.
    fit = make_fit(TapeRecorder())
    memory, trainer = StaticBatches(torch.device("cpu")), fit.trainer
    parts = [fit.batches.batch(part) for part in fit.batches.epoch()]
    shape = Shape.of(parts[0])
    static = memory.filled(shape, parts[0])
    gradients = []
    for rows in (0.0, 1e6):
        for values, offsets in static.sets:
            values[int(offsets[-1]) :] = rows
        logits = trainer.network.eval()(static.sets)
        gradients.append(torch.autograd.grad(logits.square().sum(), trainer.network.parameters()))
    assert any(len(values) > int(offsets[-1]) for values, offsets in static.sets)
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_a_recorded_step_that_differs_is_not_used():
    record = TapeRecorder(change_replay=lambda loss: loss + 1)
    with pytest.warns(RuntimeWarning, match="its result differs from that of single kernels"):
        fit = train(make_fit(record))
    assert record.n_replayed == 1
    assert_same_bits(fit, train_without_recording())


def test_a_step_that_reads_back_is_not_recorded(monkeypatch):
    def attend_and_read(values, offsets, logits, *rest):
        assert logits.sum().item() != 0.1
        return attend_densely(values, offsets, logits, *rest)

    monkeypatch.setattr(_attention_cluster, "attend", attend_and_read)
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing. The fit goes"):
        fit = train(make_fit(TapeRecorder()))
    assert_same_bits(fit, train_without_recording())


def test_failing_after_other_shapes_were_recorded_gives_up_all(monkeypatch):
    record = TapeRecorder()

    def record_once(step, generator):
        return refuse(step, generator) if record.n_recorded else record(step, generator)

    fit = make_fit(record_once)
    record.recorded = fit.trainer.recorded
    with pytest.warns(RuntimeWarning, match="out of luck"):
        train(fit)
    assert record.n_recorded == 1 < record.n_replayed
    assert_same_bits(fit, train_without_recording())


def test_shapes_beyond_the_limit_are_not_recorded(monkeypatch):
    monkeypatch.setattr(module, "_MAX_SHAPES", 1)
    record = TapeRecorder()
    fit = train(make_fit(record))
    assert record.n_recorded == 1
    assert_same_bits(fit, train_without_recording())


def test_a_resumed_fit_has_the_same_bits_whatever_was_recorded():
    whole = train(make_fit(TapeRecorder()))
    first = train(make_fit(TapeRecorder()), 5)
    second = make_fit(TapeRecorder())
    second.load_state(*first.state())
    for epoch in range(5, 8):
        second.trainer.optimizer.learning_rate = 0.01 / (1 + epoch)
        second.end_epoch(*run_epoch([second]))
    assert_same_bits(second, whole)


def test_trainers_on_the_same_batches_copy_the_features_once(monkeypatch):
    memory, records = StaticBatches(torch.device("cpu")), [TapeRecorder(), TapeRecorder()]
    fits = [make_fit(record, batches=memory) for record in records]
    fits[1].batches.targets = 2 - fits[1].batches.targets
    sent = []
    monkeypatch.setattr(module, "sent_to", lambda device, one: sent.append(one) or one)
    for _ in range(8):
        run_epoch(fits)
    assert len(sent) == 8 * 4 * len(WIDTHS)  # epochs, batches and modalities
    weights = [fit.trainer.network.linear.weight for fit in fits]
    for other_targets, weight in zip((False, True), weights, strict=True):
        alone = make_fit(TapeRecorder())
        if other_targets:
            alone.batches.targets = 2 - alone.batches.targets
        for _ in range(8):
            run_epoch([alone])
        assert torch.equal(alone.trainer.network.linear.weight, weight)


def test_batches_in_parts_or_with_empty_sets_are_not_recorded():
    recorded = make_fit(TapeRecorder()).trainer.recorded
    values, offsets = torch.ones(4, 5), torch.tensor([0, 2, 4])
    targets, weights = torch.zeros(2), torch.ones(2)
    assert recorded.takes(Batch([(values, offsets)], targets, weights, 2))
    assert not recorded.takes(Batch([(values, offsets)], targets, weights, 3))
    assert not recorded.takes(Batch([(values, offsets)], targets, weights, 2, ends_step=False))
    empty = torch.tensor([0, 4, 4])
    assert not recorded.takes(Batch([(values, empty)], targets, weights, 2))


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=9))
def test_padded_rows_add_at_most_an_eighth_and_have_few_values(lengths):
    n_rows = sum(lengths)
    found = padded_rows(torch.tensor([0, *np.cumsum(lengths)]))
    assert n_rows <= found <= n_rows * 9 / 8
    if len(set(lengths)) == 1:
        assert found == n_rows
    else:
        assert bin(found).strip("0b").rstrip("0").__len__() <= 4


def test_fit_records_the_steps_of_attention_clusters(monkeypatch):
    records = []

    @module.contextmanager
    def taped(trainers):
        memory = StaticBatches(torch.device("cpu"))
        for trainer in trainers:
            records.append(TapeRecorder())
            trainer.recorded = records[-1].recorded = RecordedSteps(trainer, memory, records[-1])
        yield
        for trainer in trainers:
            trainer.recorded = None

    monkeypatch.setattr(_fitting, "recorded_steps", taped)
    monkeypatch.setattr("acluster.nn._network.runs_triton", lambda tensor: True)
    X, y = RAGGED[0], np.arange(40) % 3
    options = {"cluster_size": 4, "max_iter": 9, "batch_size": 8, "random_state": 0, "tol": None}
    clf = AttentionClusterClassifier(n_members=2, **options).fit(X, y)
    assert [record.n_recorded > 0 for record in records] == [True, True]
    first = clf.predict_proba(X)
    np.testing.assert_array_equal(clf.fit(X, y).predict_proba(X), first)
    records.clear()
    AttentionClusterClassifier(hidden_features=2, **options).fit(X, y)
    assert not records  # features that need a gradient are pooled by operations that read back
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.undo()
        np.testing.assert_allclose(
            AttentionClusterClassifier(n_members=2, **options).fit(X, y).predict_proba(X),
            first,
            atol=1e-3,
        )
