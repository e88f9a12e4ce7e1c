"""Steps and stopping of the training loop; the network is a stand-in."""

import numpy as np
import pytest
import torch
from torch import nn

from acluster import FeatureSets
from acluster.training import (
    OPTIMIZERS,
    BatchSource,
    Patience,
    Trainer,
    infer,
    resolve_device,
    to_numpy_state,
    to_torch_state,
)


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


def make_trainer(**changes):
    options = {
        "optimizer": "adam",
        "learning_rate": 0.1,
        "weight_decay": 0.0,
        "max_grad_norm": None,
        "batch_size": 2,
        "n_local_features": [None],
        "modality_dropout": 0.0,
        "precision": "full",
        "random_state": np.random.RandomState(0),
    }
    return Trainer(Sums(), lambda out, target: (out - target) ** 2, **{**options, **changes})


DATA = BatchSource([FeatureSets.from_padded(np.ones((5, 2, 1), np.float32))], torch.zeros(1))


def test_loss_is_the_weighted_mean_over_items():
    trainer = make_trainer(learning_rate=1e-12)
    weights = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    loss = trainer.run_epoch(DATA, torch.tensor([1.0, 9.0, 2.0, 3.0, 4.0]), weights)
    assert loss == pytest.approx((1 + 8 + 9 + 16) / 5)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_going_on_from_a_stored_optimizer_is_going_on(optimizer):
    def epochs(trainer, n):
        for _ in range(n):
            trainer.run_epoch(DATA, torch.ones(5), torch.ones(5))

    whole = make_trainer(optimizer=optimizer, batch_size=5)
    epochs(whole, 4)
    first = make_trainer(optimizer=optimizer, batch_size=5)
    epochs(first, 2)
    second = make_trainer(optimizer=optimizer, batch_size=5)
    second.network.load_state_dict(to_torch_state(to_numpy_state(first.network.state_dict())))
    second.optimizer.load_state(first.optimizer.state())
    epochs(second, 2)
    assert second.network.weight.item() == whole.network.weight.item()


def test_gradients_are_clipped_and_stale_ones_forgotten():
    trainer = make_trainer(max_grad_norm=0.25)
    assert trainer.optimizer.max_grad_norm == 0.25
    trainer.network.weight.grad = torch.full((1,), torch.nan)
    trainer.run_epoch(DATA, torch.full((5,), 100.0), torch.ones(5))
    assert trainer.network.weight.isfinite().all()


def test_inference_keeps_the_order():
    network = Sums()
    with torch.no_grad():
        network.weight.fill_(1)
    sets = [FeatureSets.from_arrays([np.full((n, 1), n, np.float32) for n in (3, 1, 2, 5)])]
    source = BatchSource(sets, network.weight)
    outputs = list(infer(network, source, batch_size=3))
    assert torch.cat(outputs).tolist() == [9, 1, 4, 25]


class TestPatience:
    @staticmethod
    def stops_after(scores, tol, n):
        patience = Patience(tol, n)
        for number, score in enumerate(scores, 1):
            patience.update(score)
            if patience.exhausted:
                return number
        return None

    def test_waits_that_long(self):
        assert self.stops_after([1, 1, 1, 1], tol=0.0, n=3) == 4

    def test_a_rise_starts_the_wait_again(self):
        assert self.stops_after([1, 1, 2, 2, 2], tol=0.0, n=2) == 5

    def test_rises_within_tol_do_not_count(self):
        assert self.stops_after([1, 1.05, 1.1, 1.15], tol=0.2, n=3) == 4

    def test_without_tol_it_never_ends(self):
        assert self.stops_after([1] * 50, tol=None, n=1) is None

    def test_knows_the_best(self):
        patience = Patience(0.0, 5)
        assert [patience.update(score) for score in (1, 3, 2, 3, 4)] == [
            True,
            True,
            False,
            False,
            True,
        ]


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected


def test_state_survives_the_round_trip():
    state = {"a": {0: torch.arange(3.0)}, "b": [torch.ones(1), 2.5], "c": "text"}
    there = to_numpy_state(state)
    assert isinstance(there["a"][0], np.ndarray)
    back = to_torch_state(there)
    assert torch.equal(back["a"][0], state["a"][0])
    assert back["c"] == "text"
    assert back["b"][1] == 2.5
