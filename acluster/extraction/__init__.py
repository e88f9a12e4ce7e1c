"""From files to stores: read videos, sounds and pictures, and extract their local features."""

from typing import TYPE_CHECKING, Any

from acluster.extraction._backbones import load_backbone
from acluster.extraction._descriptors import (
    flat_descriptor,
    flow_descriptor,
    frame_descriptor,
    patch_descriptor,
    tile_descriptor,
)
from acluster.extraction._extract import extract
from acluster.extraction._files import find_media
from acluster.extraction._flow import optical_flow
from acluster.extraction._in_memory import extract_features, extracted_parts
from acluster.extraction._media import MediaError
from acluster.extraction._pictures import read_thumbnail
from acluster.extraction._report import ExtractionReport
from acluster.extraction._tiles import Tiles
from acluster.extraction._views import Clips, FlowStacks, Frames, LogMel, Waveforms

if TYPE_CHECKING:
    from acluster.extraction._tv_l1 import tv_l1

__all__ = [  # what users import from here; the rest is for the other folders of the package
    "Clips",
    "ExtractionReport",
    "FlowStacks",
    "Frames",
    "LogMel",
    "MediaError",
    "Tiles",
    "Waveforms",
    "extract",
    "extract_features",
    "flat_descriptor",
    "flow_descriptor",
    "frame_descriptor",
    "load_backbone",
    "optical_flow",
    "patch_descriptor",
    "read_thumbnail",
    "tile_descriptor",
    "tv_l1",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and processes that only read files do not need it.
    if name != "tv_l1":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from acluster.extraction._tv_l1 import tv_l1

    return tv_l1
