"""What tells that the files of a store have changed, without reading them."""

import os
from hashlib import sha256
from pathlib import Path

from acluster.sets._feature_sets import FeatureSets
from acluster.sets._store._files import local_root
from acluster.sets._store._reader import StoredSets


def fingerprint(X: FeatureSets) -> str:
    """Return a digest of which items of which files X has.

    Parameters
    ----------
    X : FeatureSets
        Items of a store.

    Returns
    -------
    str
        It changes with the selected items, and with the size or the time of change of a local
        file. For sets in memory, it is empty. For a remote store, it covers only the items: its
        files have no times that are known without reading them.
    """
    source = X._source
    if not isinstance(source, StoredSets):
        return ""
    digest = sha256(X.numbers.tobytes())
    location = source.store.group.store_path
    root = local_root(location.store)
    if root is not None:
        arrays = (source.modality, f"{source.modality}_offsets")
        folders = [Path(root) / location.path / name for name in arrays]
        files = sorted(file for folder in folders for file in folder.rglob("*"))
    else:
        archive = getattr(location.store, "path", None)
        files = [Path(archive)] if isinstance(archive, str | os.PathLike) else []
    for file in filter(Path.is_file, files):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
