"""The training loop, its batches and its devices."""

from acluster.training._batches import BatchSource
from acluster.training._cache import CACHES, FeatureMoments, cached, feature_moments
from acluster.training._device import (
    autocast,
    is_faster_in_bfloat16,
    make_generator,
    resolve_device,
    to_numpy_state,
    to_torch_state,
)
from acluster.training._optimizer import OPTIMIZERS
from acluster.training._trainer import Patience, Trainer, infer

__all__ = [
    "CACHES",
    "OPTIMIZERS",
    "BatchSource",
    "FeatureMoments",
    "Patience",
    "Trainer",
    "autocast",
    "cached",
    "feature_moments",
    "infer",
    "is_faster_in_bfloat16",
    "make_generator",
    "resolve_device",
    "to_numpy_state",
    "to_torch_state",
]
