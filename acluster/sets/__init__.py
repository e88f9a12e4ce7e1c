"""Containers for sets of local features, their stores, and the checks of every accepted X."""

from acluster.sets._arrays import (
    bounded,
    check_not_masked,
    equal_arrays,
    is_missing,
    label_array,
    relative_rounding,
    text_columns,
    to_numpy,
)
from acluster.sets._checks import (
    AllFinite,
    as_container,
    check_finite,
    check_multimodal_sets,
    check_sets,
    check_streamed,
    is_multimodal,
    normalized,
    warn_of_scale,
)
from acluster.sets._extraction import is_description
from acluster.sets._feature_sets import (
    FeatureSets,
    SetsInMemory,
    pieces,
    row_reader,
    rows_of_runs,
    with_column_names,
    with_extraction,
)
from acluster.sets._missing import notes_on_missing
from acluster.sets._multimodal import MultimodalFeatureSets, by_modality, with_modalities
from acluster.sets._names import COLUMNS, UNNAMED, check_modality_names, check_new_names
from acluster.sets._nested import as_feature_sets, group_rows, list_arrays
from acluster.sets._store._errors import StoreError
from acluster.sets._store._fingerprint import fingerprint
from acluster.sets._store._merge import check_resumable, keep_column_names, merge_stores
from acluster.sets._store._narrowing import narrowed
from acluster.sets._store._range_output import (
    RangeOutput,
    RowLayout,
    open_rows_array,
    range_output,
    ranges_of,
)
from acluster.sets._store._reader import (
    info,
    label_names_of,
    open_feature_sets,
    open_if_store,
    validate,
)
from acluster.sets._store._save import natural_key, places_reader, save_feature_sets
from acluster.sets._store._writer import FeatureSetsWriter

__all__ = [  # what users import from here; the rest is for the other folders of the package
    "FeatureSets",
    "FeatureSetsWriter",
    "MultimodalFeatureSets",
    "StoreError",
    "as_feature_sets",
    "group_rows",
    "info",
    "merge_stores",
    "open_feature_sets",
    "save_feature_sets",
    "validate",
]
