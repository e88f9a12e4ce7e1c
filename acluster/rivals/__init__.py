"""Other ways to integrate local features, as classifiers with the interface of acluster's own."""

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
from acluster.rivals._pooled import PooledClassifier, pooled_statistics

__all__ = [
    "AttentionMILClassifier",
    "AverageClassifier",
    "BiLSTMClassifier",
    "EfficientProbingClassifier",
    "FlattenClassifier",
    "GatedAttentionMILClassifier",
    "NetVLADClassifier",
    "PooledClassifier",
    "SetTransformerClassifier",
    "TSLSTMClassifier",
    "TemporalInceptionClassifier",
    "pooled_statistics",
]
