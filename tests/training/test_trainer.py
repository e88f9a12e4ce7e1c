"""Steps, epochs and patience, with a stand-in for the network."""

import numpy as np
import pytest
import torch
from torch import nn

from acluster import FeatureSets
from acluster.training import (
    OPTIMIZERS,
    Batch,
    BatchSource,
    Fit,
    Patience,
    Trainer,
    TrainingBatches,
    infer,
    make_generators,
    resolve_device,
    run_epoch,
    to_numpy_state,
    to_torch_state,
)

pytestmark = pytest.mark.numerical


class Sums(nn.Module):
    """One logit per item: a weight times the sum of all values of the set."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, sets, generator=None):
        values, offsets = sets[0]
        return self.weight * torch.stack(
            [part.sum() for part in values.split(offsets.diff().tolist())]
        )


SETS = FeatureSets.from_padded(np.ones((5, 2, 1), np.float32))


def make_fit(targets, weights=None, *, batch_size=2, **changes):
    """A fit of `Sums` on five sets of two ones, by the squared error."""
    random_state = np.random.RandomState(0)
    options = {
        "optimizer": "adam",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": None,
        "generator": make_generators(random_state, "cpu", range(1))[0],
    }
    network = Sums()
    trainer = Trainer(network, lambda out, target: (out - target) ** 2, **{**options, **changes})
    batches = TrainingBatches(
        BatchSource([SETS], network.weight),
        torch.as_tensor(targets),
        torch.ones(5) if weights is None else torch.as_tensor(weights),
        batch_size=batch_size,
        n_local_features=[None],
        modality_dropout=0.0,
        random_state=random_state,
    )
    return Fit(trainer, batches, patience=Patience(None, 1))


def run_whole_epoch(fit):
    [loss] = run_epoch([fit])
    fit.end_epoch(loss)


def test_step_returns_the_weighted_mean_loss_before_the_step():
    trainer = make_fit(torch.zeros(5)).trainer
    values, offsets = torch.ones(4, 1), torch.tensor([0, 2, 4])
    batch = Batch([(values, offsets)], torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0]), 2)
    before = trainer.network.weight.item()
    with trainer.training():
        loss = trainer.step(batch)
    assert loss.item() == pytest.approx((1 * 1 + 3 * 4) / 2)
    assert trainer.network.weight.item() > before  # towards the targets
    assert trainer.network.weight.grad is None


def test_run_epoch_records_the_weighted_mean_loss_over_items():
    fit = make_fit([1.0, 9.0, 2.0, 3.0, 4.0], [1.0, 0.0, 2.0, 1.0, 1.0], learning_rate=1e-12)
    run_whole_epoch(fit)
    assert fit.loss_curve == [pytest.approx((1 + 8 + 9 + 16) / 5)]


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_load_state_continues_to_the_same_bits(optimizer):
    whole, first, second = (
        make_fit(torch.ones(5), optimizer=optimizer, batch_size=size) for size in (2, 2, 2)
    )
    for _ in range(4):
        run_whole_epoch(whole)
    for _ in range(2):
        run_whole_epoch(first)
    second.load_state(*first.state())
    for _ in range(2):
        run_whole_epoch(second)
    assert second.trainer.network.weight.item() == whole.trainer.network.weight.item()
    assert second.loss_curve == whole.loss_curve


def test_training_clips_gradients_and_forgets_stale_ones():
    fit = make_fit(torch.full((5,), 100.0), max_grad_norm=0.25)
    assert fit.trainer.optimizer.max_grad_norm == 0.25
    fit.trainer.network.weight.grad = torch.full((1,), torch.nan)
    run_whole_epoch(fit)
    assert fit.trainer.network.weight.isfinite().all()


def test_infer_keeps_the_order_of_items():
    network = Sums()
    with torch.no_grad():
        network.weight.fill_(1)
    sets = [FeatureSets.from_arrays([np.full((n, 1), n, np.float32) for n in (3, 1, 2, 5)])]
    outputs = infer(network, BatchSource(sets, network.weight), batch_size=3)
    assert np.concatenate(list(outputs)).tolist() == [9, 1, 4, 25]


class TestPatience:
    @staticmethod
    def stops_after(scores, tol, n):
        patience = Patience(tol, n)
        for number, score in enumerate(scores, 1):
            patience.update(score)
            if patience.exhausted:
                return number
        return None

    def test_update_waits_n_iter_no_change_epochs(self):
        assert self.stops_after([1, 1, 1, 1], tol=0.0, n=3) == 4

    def test_update_resets_the_wait_on_a_rise(self):
        assert self.stops_after([1, 1, 2, 2, 2], tol=0.0, n=2) == 5

    def test_update_ignores_rises_within_tol(self):
        assert self.stops_after([1, 1.05, 1.1, 1.15], tol=0.2, n=3) == 4

    def test_exhausted_is_never_true_without_tol(self):
        assert self.stops_after([1] * 50, tol=None, n=1) is None

    def test_update_returns_whether_the_score_is_the_best(self):
        patience = Patience(0.0, 5)
        assert [patience.update(score) for score in (1, 3, 2, 3, 4)] == [
            True,
            True,
            False,
            False,
            True,
        ]


def test_resolve_device_finds_cpu_and_auto():
    assert resolve_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


def test_to_torch_state_inverts_to_numpy_state():
    state = {"a": {0: torch.arange(3.0)}, "b": [torch.ones(1), 2.5], "c": "text"}
    there = to_numpy_state(state)
    assert isinstance(there["a"][0], np.ndarray)
    back = to_torch_state(there)
    assert torch.equal(back["a"][0], state["a"][0])
    assert back["c"] == "text"
    assert back["b"][1] == 2.5
