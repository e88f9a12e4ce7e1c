"""Containers for sets of local features, and the checks of every accepted input."""

from acluster.sets._feature_sets import FeatureSets, to_numpy
from acluster.sets._validation import check_sets

__all__ = ["FeatureSets", "check_sets", "to_numpy"]
