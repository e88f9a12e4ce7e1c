"""From files to local features: frames, optical flow and sound, and what describes them.

Every modality of an item is read as a batch, and a backbone, a network or a classical descriptor,
maps the batch to the local features of the item.
"""

from typing import TYPE_CHECKING, Any

from acluster.extraction._descriptors import flow_descriptor, frame_descriptor, patch_descriptor
from acluster.extraction._flow import optical_flow

if TYPE_CHECKING:
    from acluster.extraction._tv_l1 import tv_l1

__all__ = ["flow_descriptor", "frame_descriptor", "optical_flow", "patch_descriptor", "tv_l1"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import, and processes that only read files do not need it.
    if name != "tv_l1":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from acluster.extraction._tv_l1 import tv_l1

    return tv_l1
