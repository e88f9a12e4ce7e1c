"""Feature sets in a zarr store: the format, its reader and its writer.

No other folder of the package imports zarr. Even here it is imported inside functions, so that
users who keep their sets in memory do not wait for it.
"""

from acluster.sets._store._format import COLUMNS, UNNAMED, StoreError
from acluster.sets._store._reader import info, open_feature_sets, open_if_store, validate
from acluster.sets._store._save import natural_key, save_feature_sets, save_rows
from acluster.sets._store._writer import FeatureSetsWriter
