"""Other ways to integrate local features, as classifiers with the interface of acluster's own.

All of them, and `AttentionClusterClassifier` and its siblings, have the parameters `standardize`,
`class_weight` and `random_state`, so a loop can set them. Those with a network also have the
training parameters of the attention cluster.
"""

from acluster.rivals._networks import (
    AttentionMILClassifier,
    AverageClassifier,
    BiLSTMClassifier,
    EfficientProbingClassifier,
    FlattenClassifier,
    GatedAttentionMILClassifier,
    NetVLADClassifier,
    SetTransformerClassifier,
    TemporalInceptionClassifier,
    TSLSTMClassifier,
)
from acluster.rivals._pooled import PooledClassifier, PooledSVMClassifier, pooled_statistics

__all__ = [
    "AttentionMILClassifier",
    "AverageClassifier",
    "BiLSTMClassifier",
    "EfficientProbingClassifier",
    "FlattenClassifier",
    "GatedAttentionMILClassifier",
    "NetVLADClassifier",
    "PooledClassifier",
    "PooledSVMClassifier",
    "SetTransformerClassifier",
    "TSLSTMClassifier",
    "TemporalInceptionClassifier",
    "pooled_statistics",
]
