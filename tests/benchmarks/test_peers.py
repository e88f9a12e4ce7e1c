"""The peers compute the same network as acluster."""

import numpy as np
import peers
import pytest
import speed
import torch

from acluster.nn import AttentionCluster, IntegrationNetwork
from tests.benchmarks.conftest import SHAPES, small_task


def our_network(task):
    cluster = AttentionCluster(task.n_features, task.cluster_size)
    return IntegrationNetwork([cluster], task.n_outputs).eval()


def copy_linear(ours, theirs):
    """Copy the map of our linear layer, in whatever layout it is stored, to a torch layer."""
    with torch.no_grad():
        bias = ours(torch.zeros(1, theirs.in_features))
        theirs.weight.copy_((ours(torch.eye(theirs.in_features)) - bias).mT)
        theirs.bias.copy_(bias[0])


def packed(task):
    offsets = torch.tensor(np.cumsum([0, *task.lengths]))
    return torch.from_numpy(np.concatenate(task.arrays)), offsets


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_padded_network_computes_attention_cluster(shape):
    task = small_task(**shape)
    network, ours = peers.network_of(peers.PaddedNetwork, task).eval(), our_network(task)
    [cluster] = ours.integrations
    with torch.no_grad():
        network.weight.copy_(cluster.weighting(torch.eye(task.n_features)))
        network.alpha.copy_(cluster.shifting.alpha)
        network.beta.copy_(cluster.shifting.beta)
    copy_linear(ours.linear, network.linear)
    peer, expected = peers.Padded(task), ours([packed(task)])
    torch.testing.assert_close(network(*peer._inputs(slice(None))), expected)
    torch.testing.assert_close(network(*peer._inputs(torch.tensor([3, 1]))), expected[[3, 1]])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_looped_network_computes_attention_cluster(shape):
    task = small_task(**shape)
    network, ours = peers.network_of(peers.LoopedNetwork, task).eval(), our_network(task)
    [cluster] = ours.integrations
    with torch.no_grad():
        weights = cluster.weighting(torch.eye(task.n_features)).mT
        for number, unit in enumerate(network.units):
            unit.score.weight.copy_(weights[number])
            unit.alpha.copy_(cluster.shifting.alpha[number])
            unit.beta.copy_(cluster.shifting.beta[number])
    copy_linear(ours.linear, network.linear)
    sets = [torch.from_numpy(array) for array in task.arrays]
    torch.testing.assert_close(network(*peers.pad(sets)), ours([packed(task)]))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_estimator_configured_as_torchmil_computes_its_network(shape):
    pytest.importorskip("torchmil.models")
    task = small_task(**shape)
    peer, ours = peers.TorchmilLoop(task), speed.Ours(task, **speed.AS_TORCHMIL)
    peer.fit()
    ours.fit()
    network, pool, classifier = ours.classifier.network_, peer.network.pool, peer.network.classifier
    weighting = network.integrations[0].weighting
    with torch.no_grad():
        pool.fc1.module.weight.copy_(weighting.weight1.mT)
        pool.fc1.module.bias.copy_(weighting.bias1)
        pool.fc2.weight.copy_(weighting.weight2)
    copy_linear(network.linear.cpu(), getattr(classifier, "module", classifier))
    torch.testing.assert_close(peer.predict(), torch.as_tensor(ours.predict()), check_dtype=False)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_fit_and_predict_probabilities(name, shape):
    task = small_task(**shape)
    kind = peers.PEERS[name]
    if reason := kind.obstacle(task):
        pytest.skip(reason)
    peer = kind(task)
    peer.fit()
    probabilities = peer.predict()
    assert probabilities.shape == (len(task), task.n_classes)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(task)))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ["skorch/batches", "skorch/sets"])
def test_skorch_peers_predict_like_padded_peer(name, shape):
    pytest.importorskip("skorch")
    task = small_task(**shape)
    skorch, padded = peers.PEERS[name](task), peers.Padded(task)
    skorch.fit()
    padded.network = skorch.net.module_
    torch.testing.assert_close(skorch.predict(), padded.predict())


def test_available_names_missing_package(monkeypatch):
    monkeypatch.setattr(peers.SkorchBatches, "package", "no_such_package")
    runnable, skipped = peers.available(small_task())
    assert {"authors", "padded"} <= runnable.keys()
    assert skipped["skorch/batches"] == "no_such_package is not installed"
