"""Classify items from their sets of local features, by attention clusters."""

from acluster._load import load
from acluster._utils._model_file import ModelFileError
from acluster.estimators import (
    AttentionClusterClassifier,
    IntegrationClassifier,
    MultimodalAttentionClusterClassifier,
)
from acluster.sets import (
    FeatureSets,
    FeatureSetsWriter,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)

__all__ = [
    "AttentionClusterClassifier",
    "FeatureSets",
    "FeatureSetsWriter",
    "IntegrationClassifier",
    "ModelFileError",
    "MultimodalAttentionClusterClassifier",
    "MultimodalFeatureSets",
    "load",
    "open_feature_sets",
    "save_feature_sets",
]
__version__ = "0.1.0.dev0"
