"""Containers for sets of local features, their stores, and the checks of every accepted X."""

from acluster.sets._checks import (
    check_multimodal_sets,
    check_sets,
    check_streamed,
    is_multimodal,
    warn_of_scale,
)
from acluster.sets._feature_sets import FeatureSets, rows_of_runs, to_numpy
from acluster.sets._multimodal import MultimodalFeatureSets, check_modality_names
from acluster.sets._store import (
    COLUMNS,
    FeatureSetsWriter,
    StoreError,
    info,
    natural_key,
    open_feature_sets,
    open_if_store,
    save_feature_sets,
    save_rows,
    validate,
)
