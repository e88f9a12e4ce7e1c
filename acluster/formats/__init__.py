"""Read local features from files that other tools wrote."""

from acluster.formats._item import Item
from acluster.formats._open import open_source
from acluster.formats._readers import read_item
from acluster.formats._source import Source

__all__ = ["Item", "read_item"]  # what users import from here
