"""The torch modules, over packed sets. They need neither scikit-learn nor `FeatureSets`."""

from acluster.nn import integrations
from acluster.nn._attention_cluster import AttentionCluster, ShiftingOperation
from acluster.nn._compiled import has_compiled_kernels
from acluster.nn._ensemble import EnsembleNetwork
from acluster.nn._integration import Integration
from acluster.nn._linear import DropoutLinear
from acluster.nn._members import CompiledMembers
from acluster.nn._network import IntegrationNetwork, ScoreFusionNetwork, reads_nothing_back
from acluster.nn._padded import PaddedNetwork
from acluster.nn._standardization import Standardization
from acluster.nn._units import UnitsNetwork
from acluster.nn._weighting import (
    WEIGHTINGS,
    AverageWeighting,
    FC1Weighting,
    FC2Weighting,
    Weighting,
)
from acluster.nn.pooling import attend, attention_weights

__all__ = [
    "WEIGHTINGS",
    "AttentionCluster",
    "AverageWeighting",
    "CompiledMembers",
    "DropoutLinear",
    "EnsembleNetwork",
    "FC1Weighting",
    "FC2Weighting",
    "Integration",
    "IntegrationNetwork",
    "PaddedNetwork",
    "ScoreFusionNetwork",
    "ShiftingOperation",
    "Standardization",
    "UnitsNetwork",
    "Weighting",
    "attend",
    "attention_weights",
    "has_compiled_kernels",
    "integrations",
    "reads_nothing_back",
]
