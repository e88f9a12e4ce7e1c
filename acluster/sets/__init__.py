"""Containers for sets of local features, their stores, and the checks of every accepted input."""

from acluster.sets._checks import (
    check_multimodal_sets,
    check_sets,
    check_streamed,
    is_multimodal,
    opened,
    warn_of_scale,
)
from acluster.sets._feature_sets import FeatureSets, rows_of_runs, to_numpy
from acluster.sets._multimodal import MultimodalFeatureSets, check_modality_names
from acluster.sets._store._reader import COLUMNS, info, open_feature_sets, validate
from acluster.sets._store._rows import StoreError
from acluster.sets._store._save import natural_key, save_feature_sets, save_rows
from acluster.sets._store._writer import FeatureSetsWriter

__all__ = [
    "COLUMNS",
    "FeatureSets",
    "FeatureSetsWriter",
    "MultimodalFeatureSets",
    "StoreError",
    "check_modality_names",
    "check_multimodal_sets",
    "check_sets",
    "check_streamed",
    "info",
    "is_multimodal",
    "natural_key",
    "open_feature_sets",
    "opened",
    "rows_of_runs",
    "save_feature_sets",
    "save_rows",
    "to_numpy",
    "validate",
    "warn_of_scale",
]
