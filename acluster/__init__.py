"""Classify items from their sets of local features, by attention clusters."""

from acluster._classifiers import AttentionClusterClassifier
from acluster.sets import FeatureSets

__all__ = ["AttentionClusterClassifier", "FeatureSets"]
__version__ = "0.1.0.dev0"
