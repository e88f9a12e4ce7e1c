"""The training loop, its batches and its devices."""

from acluster.training._device import (
    make_generator,
    resolve_device,
    to_numpy_state,
    to_torch_state,
)
from acluster.training._loop import OPTIMIZERS, Patience, Trainer, infer

__all__ = [
    "OPTIMIZERS",
    "Patience",
    "Trainer",
    "infer",
    "make_generator",
    "resolve_device",
    "to_numpy_state",
    "to_torch_state",
]
