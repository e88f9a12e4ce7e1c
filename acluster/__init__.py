"""Classify sets of local features with attention clusters."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acluster._load import load
    from acluster._utils._model_file import ModelFileError
    from acluster.estimators import (
        AttentionClusterClassifier,
        AttentionClusterClassifierCV,
        IntegrationClassifier,
        MultimodalAttentionClusterClassifier,
        MultimodalAttentionClusterClassifierCV,
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
    "AttentionClusterClassifierCV",
    "FeatureSets",
    "FeatureSetsWriter",
    "IntegrationClassifier",
    "ModelFileError",
    "MultimodalAttentionClusterClassifier",
    "MultimodalAttentionClusterClassifierCV",
    "MultimodalFeatureSets",
    "load",
    "open_feature_sets",
    "save_feature_sets",
]
__version__ = "0.1.0.dev0"

# Names are imported on first use, so that a program that only reads a store (`acluster info`, a
# data pipeline) does not wait seconds for torch.
_MODULE_OF_NAME = {
    "AttentionClusterClassifier": "acluster.estimators",
    "AttentionClusterClassifierCV": "acluster.estimators",
    "FeatureSets": "acluster.sets",
    "FeatureSetsWriter": "acluster.sets",
    "IntegrationClassifier": "acluster.estimators",
    "ModelFileError": "acluster._utils._model_file",
    "MultimodalAttentionClusterClassifier": "acluster.estimators",
    "MultimodalAttentionClusterClassifierCV": "acluster.estimators",
    "MultimodalFeatureSets": "acluster.sets",
    "load": "acluster._load",
    "open_feature_sets": "acluster.sets",
    "save_feature_sets": "acluster.sets",
}
_SUBMODULES = [
    "datasets",
    "estimators",
    "extraction",
    "formats",
    "inspection",
    "model_selection",
    "nn",
    "preprocessing",
    "rivals",
    "sets",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"acluster.{name}")  # which also binds it here
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'acluster' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF_NAME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
