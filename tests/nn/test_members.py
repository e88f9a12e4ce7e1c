"""`CompiledMembers`: the compiled training step against the trainer's, in torch."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from acluster.nn import (
    AttentionCluster,
    FC1Weighting,
    IntegrationNetwork,
    ScoreFusionNetwork,
    _compiled,
)
from acluster.nn._members import CompiledMembers
from acluster.training import OPTIMIZERS, Batch, Trainer

pytestmark = [
    pytest.mark.numerical,
    pytest.mark.skipif(not _compiled._INSTALLED, reason="Numba is not installed"),
]

M, N = 6, 5
OUTPUTS = {"softmax": 3, "binary": 1, "multilabel": 4}


def make_networks(dropouts, kind="softmax", dtype=torch.float64, standardize=True, **options):
    networks = []
    for seed, dropout in enumerate(dropouts):
        cluster = AttentionCluster(M, **{"cluster_size": N, **options})
        widths = [M] if standardize else None
        network = IntegrationNetwork([cluster], OUTPUTS[kind], dropout, widths).to(dtype)
        network.reset_parameters(torch.Generator().manual_seed(seed))
        if standardize:
            network.standardizations[0].learn(torch.linspace(-1, 1, M), torch.linspace(0.5, 2, M))
        networks.append(network.train())
    return networks


def make_batches(
    n_batches, kind="softmax", dtype=torch.float64, shape_of_weights=(), smallest=1, ties=True
):
    """Batches of seven sets, whose local features partly coincide: their scores are tied.

    Leave out ties if there are hidden features and `n_attended`: torch rounds the scores of equal
    rows differently then, and so breaks the ties.
    """
    random, batches = np.random.RandomState(0), []
    for _ in range(n_batches):
        lengths = random.randint(smallest, 12, 7)
        offsets = torch.from_numpy(np.r_[0, lengths.cumsum()])
        values = random.randn(lengths.sum(), M)
        if ties:
            values[1::3] = values[: len(values[1::3])]
        shape = 7 if kind == "softmax" else (7, OUTPUTS[kind])
        targets = torch.from_numpy(random.randint(0, 3 if kind == "softmax" else 2, shape))
        targets = targets if kind == "softmax" else targets.to(dtype)
        weights = torch.from_numpy(random.uniform(0, 2, (*shape_of_weights, 7)))
        if kind != "softmax":
            weights = weights[..., None]
        batches.append(
            ([(torch.from_numpy(values).to(dtype), offsets)], targets, weights.to(dtype))
        )
    return batches


def generators(seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def cross_entropy(logits, targets):
    if targets.ndim == 1:
        return functional.cross_entropy(logits, targets, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def make_members(networks, optimizer="adam", is_softmax=True, **options):
    P = len(networks)
    defaults = {
        "learning_rates": [0.05] * P,
        "weight_decays": [0.0] * P,
        "max_grad_norms": [None] * P,
    }
    options = {**defaults, **options}
    rule = OPTIMIZERS[optimizer]
    return CompiledMembers(networks, rule=rule, is_softmax=is_softmax, **options)


def make_trainers(members, optimizer="adam"):
    """Trainers of copies of the networks, with the options of the members."""
    rates, decays, norms = members._rule[:3]
    return [
        Trainer(
            copy.deepcopy(network),
            cross_entropy,
            optimizer=optimizer,
            learning_rate=rates[i],
            weight_decay=decays[i],
            max_grad_norm=None if norms[i] == np.inf else norms[i],
            generator=torch.Generator().manual_seed(i),
        )
        for i, network in enumerate(members.networks)
    ]


def train(trainer, batch, member):
    sets, targets, weights = batch
    own = weights if weights.ndim == targets.ndim else weights[member]
    with trainer.training():
        return float(trainer.step(Batch(sets, targets, own, len(targets))).detach())


def assert_equal_training(members, trainers, batches, rtol=1e-10):
    seeded = generators(range(len(trainers)))
    for batch in batches:
        [losses] = members.step(range(len(trainers)), *batch, seeded)
        expected = [train(trainer, batch, i) for i, trainer in enumerate(trainers)]
        np.testing.assert_allclose(losses, expected, rtol=rtol)
    for network, trainer in zip(members.networks, trainers, strict=True):
        assert_equal_weights(network, trainer.network, rtol)


def assert_equal_weights(network, expected, rtol=1e-10):
    for one, other in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("dropouts", [(0.0,), (0.5,), (0.5, 0.0, 0.3)], ids=str)
@pytest.mark.parametrize("n_attended", [None, 1, 3])
@pytest.mark.parametrize("shifting", [True, False])
@pytest.mark.parametrize("hidden_features", [0, 7])
@pytest.mark.parametrize("kind", OUTPUTS)
def test_step_matches_trainer(kind, hidden_features, shifting, n_attended, dropouts):
    options = {"hidden_features": hidden_features, "shifting": shifting, "n_attended": n_attended}
    networks = make_networks(dropouts, kind, **options)
    members = make_members(networks, is_softmax=kind == "softmax")
    batches = make_batches(6, kind, ties=not hidden_features)
    assert_equal_training(members, make_trainers(members), batches)


@pytest.mark.parametrize("n_attended", [None, 1, 3])
@pytest.mark.parametrize("hidden_features", [0, 7])
@pytest.mark.parametrize(("levels", "cluster_size"), [(2, 5), (3, 9)])
def test_step_with_pyramid_matches_trainer(levels, cluster_size, hidden_features, n_attended):
    options = {"pyramid_levels": levels, "cluster_size": cluster_size, "n_attended": n_attended}
    networks = make_networks((0.5, 0.0), hidden_features=hidden_features, **options)
    members = make_members(networks)
    # Some sets have fewer local features than the pyramid has parts.
    batches = make_batches(6, ties=not hidden_features)
    assert_equal_training(members, make_trainers(members), batches)


@pytest.mark.parametrize("max_grad_norms", [(None, 100.0, 0.1), (0.01, 0.2, None)], ids=str)
@pytest.mark.parametrize("weight_decays", [(0.0, 0.0, 0.0), (0.0, 0.1, 0.5)], ids=str)
@pytest.mark.parametrize("options", [{}, {"hidden_features": 3, "n_attended": 5}], ids=str)
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_step_matches_every_optimizer(
    optimizer, standardize, options, weight_decays, max_grad_norms
):
    members = make_members(
        make_networks([0.5, 0.2, 0.0], standardize=standardize, **options),
        optimizer,
        learning_rates=[0.001, 0.01, 0.1],
        weight_decays=weight_decays,
        max_grad_norms=max_grad_norms,
    )
    batches = make_batches(6, ties=not options)
    assert_equal_training(members, make_trainers(members, optimizer), batches)


@pytest.mark.parametrize("kind", OUTPUTS)
def test_step_with_weights_of_every_member(kind):
    members = make_members(make_networks([0.5, 0.5], kind), is_softmax=kind == "softmax")
    batches = make_batches(5, kind, shape_of_weights=(2,))
    assert_equal_training(members, make_trainers(members), batches)


def test_step_with_weights_of_labels():
    members = make_members(make_networks([0.5, 0.5], "multilabel"), is_softmax=False)
    of_labels = torch.linspace(0, 2, 7 * 4, dtype=torch.float64).view(7, 4)
    batches = [(sets, y, weights * of_labels) for sets, y, weights in make_batches(5, "multilabel")]
    assert_equal_training(members, make_trainers(members), batches)


@pytest.mark.parametrize("hidden_features", [0, 7])
@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_step_in_float32(optimizer, kind, hidden_features):
    networks = make_networks([0.5, 0.3], kind, torch.float32, hidden_features=hidden_features)
    members = make_members(networks, optimizer, is_softmax=kind == "softmax")
    batches = make_batches(5, kind, torch.float32)
    assert_equal_training(members, make_trainers(members, optimizer), batches, rtol=2e-4)


@pytest.mark.parametrize("options", [{}, {"hidden_features": 3, "n_attended": 2}], ids=str)
def test_step_with_empty_sets(options):
    members = make_members(make_networks([0.5, 0.0], **options), weight_decays=[0.1, 0.1])
    batches = make_batches(5, smallest=0, ties=not options)
    (sets, targets, weights) = batches[0]
    assert (sets[0][1].diff() == 0).any()
    batches.insert(2, ([(sets[0][0][:0], torch.zeros(8, dtype=torch.int64))], targets, weights))
    assert_equal_training(members, make_trainers(members), batches)


@pytest.mark.parametrize("hidden_features", [0, 3])
def test_step_with_large_scores(hidden_features):
    """Exponentials underflow, and the gradient of a class that is almost certain vanishes."""
    networks = make_networks([0.5, 0.0], hidden_features=hidden_features)
    for network in networks:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(300)
    members = make_members(networks)
    assert_equal_training(members, make_trainers(members), make_batches(5))


def test_step_with_hidden_features_that_are_all_zero():
    networks = make_networks([0.5, 0.0], hidden_features=3)
    with torch.no_grad():
        networks[0].integrations[0].hidden.bias.fill_(-100)
        networks[1].integrations[0].hidden.weight.zero_()  # relu'(0) is 0
        networks[1].integrations[0].hidden.bias.zero_()
    members = make_members(networks)
    before = [copy.deepcopy(one.integrations[0].hidden.state_dict()) for one in networks]
    assert_equal_training(members, make_trainers(members), make_batches(3))
    for network, state in zip(networks, before, strict=True):
        for name, value in network.integrations[0].hidden.state_dict().items():
            assert torch.equal(value, state[name])


def test_step_with_sets_of_several_tiles():
    """Products are taken in tiles of at most 2**18 multiplications."""
    networks = make_networks([0.5], hidden_features=300)
    members, random = make_members(networks), np.random.RandomState(0)
    offsets = torch.tensor([0, 3, 1000, 1001, 1400])
    batches = [
        (
            [(torch.from_numpy(random.randn(1400, M)), offsets)],
            torch.tensor([0, 1, 2, 1]),
            torch.ones(4, dtype=torch.float64),
        )
        for _ in range(3)
    ]
    assert_equal_training(members, make_trainers(members), batches)


def test_step_with_hidden_features_propagates_nan():
    networks = make_networks([0.5], hidden_features=3)
    members, ((sets, *others),) = make_members(networks), make_batches(1)
    sets[0][0][0] = torch.nan
    assert np.isnan(members.step([0], sets, *others, generators([0]))).all()


def test_step_leaves_inactive_members_unchanged():
    networks = make_networks([0.5, 0.5, 0.5])
    members, batches = make_members(networks), make_batches(6)
    trainers, seeded = make_trainers(members), generators(range(3))
    before = copy.deepcopy(networks[1].state_dict())
    for batch in batches[:3]:
        [losses] = members.step([2, 0], *batch, seeded)
        assert np.isnan(losses).tolist() == [False, True, False]
        for i in (0, 2):
            train(trainers[i], batch, i)
    assert all(torch.equal(networks[1].state_dict()[name], before[name]) for name in before)
    for batch in batches[3:]:
        members.step([1, 2], *batch, seeded)
        for i in (1, 2):
            train(trainers[i], batch, i)
    for network, trainer in zip(networks, trainers, strict=True):
        assert_equal_weights(network, trainer.network)


def joined(batches):
    """Return several batches as one, of their items end to end."""
    values = torch.cat([sets[0][0] for sets, *_ in batches])
    lengths = torch.cat([sets[0][1].diff() for sets, *_ in batches])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    targets, weights = (torch.cat([batch[i] for batch in batches]) for i in (1, 2))
    return [(values, offsets)], targets, weights


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("hidden_features", [0, 3])
def test_several_batches_in_one_call_are_as_many_steps(kind, hidden_features):
    dropouts, batches = [0.5, 0.0, 0.3], make_batches(3, kind, smallest=0)
    batches[1] = make_batches(1, kind, smallest=0)[0]
    members, alone = (
        make_members(
            make_networks(dropouts, kind, hidden_features=hidden_features, n_attended=3),
            is_softmax=kind == "softmax",
        )
        for _ in range(2)
    )
    seeded, others = generators(range(3)), generators(range(3))
    losses = [alone.step([0, 2], *batch, others)[0] for batch in batches]
    found = members.step([0, 2], *joined(batches), seeded, 7)
    np.testing.assert_array_equal(found, losses)
    for network, expected in zip(members.networks, alone.networks, strict=True):
        for one, other in zip(network.parameters(), expected.parameters(), strict=True):
            assert torch.equal(one, other)
    assert all(
        torch.equal(*pair)
        for pair in zip(
            (one.get_state() for one in seeded), (one.get_state() for one in others), strict=True
        )
    )


def test_last_batch_of_a_call_may_be_smaller():
    members, alone = (make_members(make_networks([0.5, 0.2])) for _ in range(2))
    (batch,) = make_batches(1)
    sets, targets, weights = batch
    values, offsets = sets[0]
    seeded, others = generators(range(2)), generators(range(2))
    found = members.step([0, 1], *batch, seeded, 4)
    losses = []
    for i, j in [(0, 4), (4, 7)]:
        own = values[offsets[i] : offsets[j]], offsets[i : j + 1] - offsets[i]
        losses.append(alone.step([0, 1], [own], targets[i:j], weights[i:j], others))
    np.testing.assert_array_equal(found, np.concatenate(losses))
    for network, expected in zip(members.networks, alone.networks, strict=True):
        assert_equal_weights(network, expected, rtol=1e-14)


def test_members_share_the_draws_of_one_generator():
    networks = [*make_networks([0.5]), *make_networks([0.5]), *make_networks([0.2])]
    members, batches = make_members(networks), make_batches(5)
    trainers = make_trainers(members)
    for trainer in trainers:
        trainer.generator.manual_seed(0)
    shared = torch.Generator().manual_seed(0)
    for batch in batches:
        members.step(range(3), *batch, [shared] * 3)
        for i, trainer in enumerate(trainers):
            train(trainer, batch, i)
    for network, trainer in zip(networks, trainers, strict=True):
        assert_equal_weights(network, trainer.network)
        assert torch.equal(shared.get_state(), trainer.generator.get_state())


def assert_equal_states(state, expected):
    for one, other in zip(state, expected, strict=True):
        assert list(one) == list(other)
        for name in one:
            assert (one[name].dtype, one[name].shape) == (other[name].dtype, other[name].shape)
            np.testing.assert_allclose(one[name], other[name], rtol=1e-10)


@pytest.mark.parametrize("hidden_features", [0, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_matches_optimizer_and_continues_in_either(optimizer, hidden_features):
    networks = make_networks([0.5, 0.5], hidden_features=hidden_features)
    members, batches = make_members(networks, optimizer), make_batches(6)
    trainers = make_trainers(members, optimizer)
    assert_equal_states(members.state(1), trainers[1].optimizer.state())
    assert_equal_training(members, trainers, batches[:3])
    assert_equal_states(members.state(1), trainers[1].optimizer.state())
    # Each side goes on from the state of the other.
    twins = make_members([copy.deepcopy(trainer.network) for trainer in trainers], optimizer)
    for i, trainer in enumerate(trainers):
        twins.load_state(i, trainer.optimizer.state())
        trainer.optimizer.load_state(members.state(i))
        trainer.generator.manual_seed(i)
    assert_equal_training(twins, trainers, batches[3:])
    assert_equal_states(twins.state(1), trainers[1].optimizer.state())


@pytest.mark.parametrize("hidden_features", [0, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_step_is_bit_identical_for_any_number_of_threads(dtype, hidden_features):
    options = {"dtype": dtype, "hidden_features": hidden_features}

    def trained(n_threads):
        n_before = torch.get_num_threads()
        torch.set_num_threads(n_threads)
        try:
            members = make_members(make_networks([0.5] * 5, **options))
            seeded = generators(range(5))
            losses = [members.step(range(5), *b, seeded)[0] for b in make_batches(3, dtype=dtype)]
        finally:
            torch.set_num_threads(n_before)
        return np.array(losses), members._theta

    (losses, theta), (losses_of_two, theta_of_two) = trained(1), trained(2)
    np.testing.assert_array_equal(losses, losses_of_two)
    assert torch.equal(theta, theta_of_two)
    members = make_members(make_networks([0.5], **options))
    alone = [
        members.step([0], *batch, seeded)[0]
        for seeded in [generators([0])]
        for batch in make_batches(3, dtype=dtype)
    ]
    np.testing.assert_array_equal(losses[:, :1], alone)


def test_networks_predict_copy_and_pickle_while_they_train():
    (network,) = make_networks([0.5])
    members, (batch, other) = make_members([network]), make_batches(2)
    members.step([0], *batch, generators([0]))
    expected = network.eval()(batch[0])
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.testing.assert_close(twin(batch[0]), expected)
    state = copy.deepcopy(network.state_dict())
    members.step([0], *other, generators([0]))
    assert not torch.allclose(network(batch[0]), expected)
    network.load_state_dict(state)
    torch.testing.assert_close(network(batch[0]), expected)


def test_release_gives_networks_their_own_parameters():
    networks = make_networks([0.5, 0.5])
    members, (batch,) = make_members(networks), make_batches(1)
    members.step([0, 1], *batch, generators([0, 1]))
    before = copy.deepcopy(networks[0].state_dict())
    members.release()
    members._theta.zero_()
    state = networks[0].state_dict()
    assert all(torch.equal(state[name], before[name]) for name in before)
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in networks[0].parameters())


class _OwnWeighting(FC1Weighting):
    pass


@pytest.mark.parametrize(
    "change",
    [
        {"weighting": "fc2"},
        {"weighting": "average"},
        {"weighting": _OwnWeighting},
        {"n_attended": 33},
        {"dtype": torch.bfloat16},
    ],
    ids=str,
)
def test_supports_rejects_what_the_kernel_lacks(change):
    (network,) = make_networks([0.5])
    assert CompiledMembers.supports(network)
    (network,) = make_networks([0.5], **change)
    assert not CompiledMembers.supports(network)


def test_supports_rejects_other_networks(monkeypatch):
    clusters = [AttentionCluster(M, N) for _ in range(2)]
    assert not CompiledMembers.supports(IntegrationNetwork(clusters, 2))
    assert not CompiledMembers.supports(ScoreFusionNetwork(clusters[:1], 2, is_softmax=True))
    assert not CompiledMembers.supports(nn.Linear(2, 2))
    (network,) = make_networks([0.5])
    network.linear.bias.requires_grad_(False)
    assert not CompiledMembers.supports(network)
    (network,) = make_networks([0.5])
    monkeypatch.setattr(_compiled, "_INSTALLED", False)
    assert not CompiledMembers.supports(network)


def test_members_must_be_alike():
    (network,) = make_networks([0.5])
    changes = {"n_attended": 2}, {"pyramid_levels": 2}, {"kind": "binary"}, {"hidden_features": 2}
    for (other,) in [make_networks([0.5], **change) for change in changes]:
        with pytest.raises(ValueError, match="Network 1 differs from network 0"):
            make_members([network, other])
    (other,) = make_networks([0.5])
    other.standardizations[0].mean.add_(1)
    with pytest.raises(ValueError, match="Network 1 standardizes differently"):
        make_members([network, other])
    (other,) = make_networks([0.5], weighting="fc2")
    with pytest.raises(ValueError, match="does not support network 1"):
        make_members([network, other])
