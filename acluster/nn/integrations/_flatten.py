"""Concatenation of a fixed number of local features, in their order."""

from __future__ import annotations

from torch import Tensor

from acluster.nn._integration import Integration
from acluster.nn.integrations._sequences import resampled

__all__ = ["Flatten"]


class Flatten(Integration):
    """So many local features, taken at even distances in their order, side by side."""

    def __init__(self, n_features: int, n_steps: int) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.global_size = n_steps * n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        return resampled(values, offsets, self.n_steps).flatten(1)
