"""The classifiers of acluster, and what they are composed of."""

from acluster.estimators._attention_clusters import (
    AttentionClusterClassifier,
    MultimodalAttentionClusterClassifier,
)

__all__ = ["AttentionClusterClassifier", "MultimodalAttentionClusterClassifier"]
