"""Architecture: defaults, dicts, differences, and networks built from it."""

import pytest
import torch

from acluster.estimators._architecture import Architecture
from acluster.nn import AttentionCluster, IntegrationNetwork, ScoreFusionNetwork
from acluster.nn.integrations import Average
from tests.estimators.integrations import Largest

MODALITIES = {
    "frames": {"n_features": 4, "cluster_size": 3},
    "sounds": {"n_features": 2, "cluster_size": 2},
}


def make(**changes):
    options = {"n_outputs": 1, "standardize": True, **changes}
    return Architecture.of(AttentionCluster, MODALITIES, **options)


def test_of_completes_arguments_with_defaults():
    frames, sounds = make().modalities.values()
    assert frames["cluster_size"] == 3
    assert frames["weighting"] == sounds["weighting"] == "fc1"
    assert make().widths == {"frames": 4, "sounds": 2}


@pytest.mark.parametrize("fusion", [None, "features", "scores"])
def test_from_dict_inverts_to_dict(fusion):
    architecture = make(fusion=fusion, n_outputs=3, is_softmax=True)
    again = Architecture.from_dict(architecture.to_dict(), AttentionCluster, is_softmax=True)
    assert again == architecture


def test_from_dict_completes_arguments_of_an_older_version():
    sizes = make().to_dict()
    for own in sizes["integrations"].values():
        del own["pyramid_levels"]
    sizes["network"] = {}
    assert Architecture.from_dict(sizes, AttentionCluster, False) == make(standardize=False)


def test_difference_names_the_parameters_that_differ():
    changed = {**MODALITIES, "sounds": {"n_features": 2, "cluster_size": 5}}
    other = Architecture.of(AttentionCluster, changed, n_outputs=1)
    assert make().difference(other) == "cluster_size=2, standardize=True"
    assert other.difference(make()) == "cluster_size=5, standardize=False"
    assert make().difference(make()) == ""


def test_difference_names_the_integration():
    widths = {"frames": {"n_features": 4}}
    one, other = (Architecture.of(cls, widths, n_outputs=1) for cls in (Average, Largest))
    assert "integration='Average'" in one.difference(other)
    assert "integration='Largest'" in other.difference(one)


def test_outline_has_shapes_but_no_memory_and_draws_nothing():
    before = torch.get_rng_state()
    network = make().outline(dropout=0.5)
    assert type(network) is IntegrationNetwork
    assert {tensor.device.type for tensor in network.state_dict().values()} == {"meta"}
    assert torch.equal(torch.get_rng_state(), before)
    assert type(make(fusion="scores").outline(dropout=0.5)) is ScoreFusionNetwork


def test_build_restores_the_weights_of_initialize():
    generator = torch.Generator().manual_seed(0)
    network = make().initialize(dropout=0.5, generators=[generator])
    state = network.state_dict()
    assert all(tensor.isfinite().all() for tensor in state.values())
    again = make().build(0.5, "float32", state, "cpu").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_build_falls_back_to_the_cpu_without_the_device():
    state = make().initialize(0.5, [torch.Generator()]).state_dict()
    network = make().build(0.5, "float64", state, "cuda:99")
    parameter = next(network.parameters())
    assert (parameter.device.type, parameter.dtype) == ("cpu", torch.float64)
