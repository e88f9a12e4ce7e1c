"""From files to local features: frames, optical flow and sound, and what describes them.

Every modality of an item is read as a batch, and a backbone, a network or a classical descriptor,
maps the batch to the local features of the item.
"""

from acluster.extraction._descriptors import flow_descriptor, frame_descriptor, patch_descriptor

__all__ = ["flow_descriptor", "frame_descriptor", "patch_descriptor"]
