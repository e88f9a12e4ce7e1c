"""Steps recorded by shape, with a tape of operations in place of CUDA graphs."""

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acluster import AttentionClusterClassifier, FeatureSets
from acluster.nn import (
    AttentionCluster,
    IntegrationNetwork,
    ScoreFusionNetwork,
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
    _recorded,
    _static_batches,
    run_epoch,
)
from acluster.training._ranks import Share
from acluster.training._recorded import RecordedSteps
from acluster.training._static_batches import StaticBatches, padded_rows
from tests.tape import FailingRecorder, TapeRecorder, attend_densely, below_highest_densely

WIDTHS = (5, 3)


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch):
    """Replace kernels by operations that a tape can record, and that read nothing back."""
    monkeypatch.setattr(_compiled, "_INSTALLED", False)
    monkeypatch.setattr(_optimizer, "_is_on_cpu", lambda tensor: False)
    monkeypatch.setattr(_recorded, "_N_BEFORE_RECORDING", 2)
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
    recorder=None,
    sets=RAGGED,
    memory=None,
    n_outputs=3,
    optimizer="rmsprop",
    batch_size=10,
    network=IntegrationNetwork,
    **options,
):
    """A fit of a small network, and what records its steps, if anything does."""
    torch.manual_seed(0)
    clusters = [AttentionCluster(width, cluster_size=7, **options) for width in WIDTHS]
    network = network(clusters, n_outputs, dropout=0.5, widths=WIDTHS)
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
    record = None
    if recorder is not None:
        record = recorder(trainer)
        memory = StaticBatches(torch.device("cpu")) if memory is None else memory
        trainer.recorded = RecordedSteps(trainer, memory, record)
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
    return Fit(trainer, items, patience=Patience(None, 1)), record


def train(fit, n_epochs=8):
    """Train with a learning rate that changes from epoch to epoch."""
    for epoch in range(n_epochs):
        fit.trainer.optimizer.learning_rate = 0.01 / (1 + epoch)
        [loss] = run_epoch([fit])
        fit.end_epoch(loss)
    return fit


def train_together(fits, n_epochs=8):
    for _ in range(n_epochs):
        run_epoch(fits)


def assert_same_bits(one, other):
    assert one.loss_curve == other.loss_curve
    for name, tensor in one.trainer.network.state_dict().items():
        assert torch.equal(tensor, other.trainer.network.state_dict()[name]), name
    states = (fit.trainer.generator.get_state() for fit in (one, other))
    assert torch.equal(*states)


def train_without_recording(**options):
    """Train on the same memory, kernel by kernel, because every recording fails."""
    with pytest.warns(RuntimeWarning, match="recorded as a CUDA graph: CUDA error: out of luck. T"):
        return train(make_fit(FailingRecorder, **options)[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sets": EQUAL},
        {"optimizer": "adamw", "n_attended": 3},
        {"pyramid_levels": 3, "weighting": "fc2"},
        {"weighting": "average", "shifting": False, "optimizer": "adam"},
        {"n_outputs": 2400},  # the gradient of the last layer is in factors
        {"hidden_features": 4},
        {"network": partial(ScoreFusionNetwork, is_softmax=True)},
    ],
    ids=str,
)
def test_recorded_steps_are_plain_steps_to_the_bit(options):
    fit, record = make_fit(TapeRecorder, **options)
    train(fit)
    assert record.failure is None
    assert record.n_replayed > 10
    assert fit.trainer.recorded.n_recorded <= record.n_recorded
    assert_same_bits(fit, train_without_recording(**options))


def test_recorded_steps_agree_with_steps_on_unpadded_batches():
    found, expected = train(make_fit(TapeRecorder)[0]), train(make_fit()[0])
    np.testing.assert_allclose(found.loss_curve, expected.loss_curve, rtol=1e-5)
    weights = (fit.trainer.network.linear.weight.detach() for fit in (found, expected))
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_step_ignores_rows_beyond_the_last_set():
    # They keep what an earlier, larger batch has left there.
    fit, _ = make_fit()
    memory, network = StaticBatches(torch.device("cpu")), fit.trainer.network.eval()
    batch = fit.batches.batch(next(fit.batches.epoch()))
    static = memory.copied(memory.shape_of(batch), batch)
    assert any(len(values) > int(offsets[-1]) for values, offsets in static.sets)
    gradients = []
    for rows in (0.0, 1e6):
        for values, offsets in static.sets:
            values[int(offsets[-1]) :] = rows
        loss = network(static.sets).square().sum()
        gradients.append(torch.autograd.grad(loss, network.parameters()))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


WRONG = {
    "parameter": lambda trainer: trainer.network.linear.weight.data[0, 0].add_(1e-6),
    "running average": lambda trainer: trainer.optimizer.tensors[-2].mul_(1.001),
    "generator": lambda trainer: torch.rand(1, generator=trainer.generator),
}


@pytest.mark.parametrize("part", WRONG)
def test_a_recorded_step_that_differs_is_not_used(part):
    fit, record = make_fit(lambda trainer: TapeRecorder(trainer, WRONG[part]))
    with pytest.warns(RuntimeWarning, match="its result differs from that of single kernels"):
        train(fit)
    assert record.n_replayed == 1
    assert_same_bits(fit, train_without_recording())


def test_a_number_that_was_recorded_as_it_was_is_noticed(monkeypatch):
    # The step that proves a recording is on another batch.
    def attend_and_count(values, offsets, logits, *rest):
        n_rows = len(values) - int(values.isnan().sum().tolist())  # a number of Python
        return attend_densely(values * float(offsets[1]) / n_rows, offsets, logits, *rest)

    monkeypatch.setattr(_attention_cluster, "attend", attend_and_count)
    monkeypatch.setattr("tests.tape.READ_BACK", set())
    fit, record = make_fit(TapeRecorder)
    with pytest.warns(RuntimeWarning, match="its result differs"):
        train(fit)
    assert record.n_replayed == 1
    assert_same_bits(fit, train_without_recording())


def test_a_step_that_reads_back_is_not_recorded(monkeypatch):
    def attend_and_read(values, offsets, logits, *rest):
        assert logits.sum().item() != 0.1
        return attend_densely(values, offsets, logits, *rest)

    monkeypatch.setattr(_attention_cluster, "attend", attend_and_read)
    fit, _ = make_fit(TapeRecorder)
    with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing. The fit goes"):
        train(fit)
    assert_same_bits(fit, train_without_recording())


def test_trainers_that_share_a_recorder_give_up_together_with_one_warning():
    record = None

    def shared(trainer):
        nonlocal record
        record = record or FailingRecorder(trainer)
        return record

    memory = StaticBatches(torch.device("cpu"))
    fits = [make_fit(shared, memory=memory)[0] for _ in range(2)]
    with pytest.warns(RuntimeWarning) as caught:
        train_together(fits)
    assert len(caught) == 1


def test_shapes_beyond_the_limit_are_not_recorded(monkeypatch):
    monkeypatch.setattr(_static_batches, "_MAX_SHAPES", 1)
    fit, record = make_fit(TapeRecorder)
    train(fit)
    assert record.n_recorded == 1
    assert_same_bits(fit, train_without_recording())


def test_a_resumed_fit_has_the_same_bits_whatever_was_recorded():
    whole = train(make_fit(TapeRecorder)[0])
    first = train(make_fit(TapeRecorder)[0], 5)
    second, _ = make_fit(TapeRecorder)
    second.load_state(*first.state())
    for epoch in range(5, 8):
        second.trainer.optimizer.learning_rate = 0.01 / (1 + epoch)
        second.end_epoch(*run_epoch([second]))
    assert_same_bits(second, whole)


def test_an_interrupted_comparison_leaves_the_plain_step():
    def interrupt(trainer):
        raise KeyboardInterrupt

    fit, _ = make_fit(lambda trainer: TapeRecorder(trainer, interrupt), sets=EQUAL)
    with pytest.raises(KeyboardInterrupt):
        train(fit)
    plain, record = make_fit(TapeRecorder, sets=EQUAL)
    record.failure = "not wanted"
    with plain.trainer.training():
        parts = [plain.batches.batch(part) for part in plain.batches.epoch()]
        for batch in parts[:3]:  # two before the recording, and the one that is compared
            plain.trainer.recorded.step(batch)
    states = (one.trainer.network.state_dict() for one in (fit, plain))
    for one, other in zip(*(state.values() for state in states), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("n_allocations", [0, 1, 2])
def test_running_out_of_memory_ends_recording_only(monkeypatch, n_allocations):
    # That of a batch, and the two copies of the state.
    calls = 0

    def allocate(original):
        def allocated(*args):
            nonlocal calls
            calls += 1
            if calls > n_allocations:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return original(*args)

        return allocated

    fit, record = make_fit(TapeRecorder, sets=EQUAL)
    memory = fit.trainer.recorded._batches
    monkeypatch.setattr(memory, "_allocated", allocate(memory._allocated))
    tensors = fit.trainer.recorded._tensors
    monkeypatch.setattr(fit.trainer.recorded, "_tensors", allocate(tensors))
    with pytest.warns(RuntimeWarning, match="memory"):
        train(fit)
    assert record.n_replayed == 0
    losses = train(make_fit(sets=EQUAL)[0]).loss_curve
    np.testing.assert_allclose(fit.loss_curve, losses, rtol=1e-5)


def test_trainers_on_the_same_batches_copy_the_features_once(monkeypatch):
    memory = StaticBatches(torch.device("cpu"))
    fits = [make_fit(TapeRecorder, memory=memory)[0] for _ in range(2)]
    fits[1].batches.targets = 2 - fits[1].batches.targets
    fits[1].batches.weights = fits[1].batches.weights.square()
    sent = []
    monkeypatch.setattr(_static_batches, "sent_to", lambda device, one: sent.append(one) or one)
    train_together(fits)
    assert len(sent) == 8 * 4 * len(WIDTHS)  # epochs, batches and modalities
    for fit, is_other in zip(fits, (False, True), strict=True):
        alone, _ = make_fit(TapeRecorder)
        if is_other:
            alone.batches.targets = 2 - alone.batches.targets
            alone.batches.weights = alone.batches.weights.square()
        train_together([alone])
        weights = (one.trainer.network.linear.weight for one in (alone, fit))
        assert torch.equal(*weights)


def test_shape_of_parts_and_of_batches_with_empty_sets_is_none():
    memory = StaticBatches(torch.device("cpu"))
    values, offsets = torch.ones(4, 5), torch.tensor([0, 2, 4])
    whole = Batch([(values, offsets)], torch.zeros(2), torch.ones(2), 2)
    assert memory.shape_of(whole).rows == ((4, 5, torch.float32),)
    share = Share(2, slice(0, 2), True)
    for part in ({"n_items": 3}, {"ends_step": False}, {"share": share}):
        assert memory.shape_of(whole._replace(**part)) is None
    empty = torch.tensor([0, 4, 4])
    assert memory.shape_of(whole._replace(sets=[(values.clone(), empty)])) is None


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=9))
def test_padded_rows_add_at_most_an_eighth_and_have_few_values(lengths):
    n_rows = sum(lengths)
    found = padded_rows(torch.tensor(lengths))
    assert n_rows <= found <= n_rows * 9 / 8
    if len(set(lengths)) == 1:
        assert found == n_rows
    else:
        assert len(bin(found).removeprefix("0b").rstrip("0")) <= 4


def test_fit_records_the_steps_of_attention_clusters(monkeypatch):
    class Recorder(TapeRecorder):
        def __init__(self, device):
            super().__init__(None)

        def __call__(self, step, generator):
            [self._trainer] = [one for one in trained if one.generator is generator]
            return super().__call__(step, generator)

    trained = []
    original = RecordedSteps.__init__

    def listed(self, trainer, batches, record):
        original(self, trainer, batches, record)
        trained.append(trainer)

    monkeypatch.setattr(RecordedSteps, "__init__", listed)
    monkeypatch.setattr(_recorded, "CudaRecorder", Recorder)
    monkeypatch.setattr(_network, "runs_triton", lambda tensor: True)
    X, y = RAGGED[0], np.arange(40) % 3
    options = {"cluster_size": 4, "max_iter": 9, "batch_size": 8, "random_state": 0, "tol": None}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = AttentionClusterClassifier(n_members=2, **options).fit(X, y)
        assert len(trained) == 2
        assert [one.recorded for one in trained] == [None, None]  # after the fit
        first = clf.predict_proba(X)
        np.testing.assert_array_equal(clf.fit(X, y).predict_proba(X), first)
        trained.clear()
        AttentionClusterClassifier(hidden_features=2, **options).fit(X, y)
        assert len(trained) == 1
        monkeypatch.undo()
        plain = AttentionClusterClassifier(n_members=2, **options).fit(X, y)
    np.testing.assert_allclose(plain.predict_proba(X), first, atol=1e-3)
