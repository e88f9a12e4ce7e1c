"""Average pooling: the mean of the local features."""

from __future__ import annotations

from torch import Tensor

from acluster.nn._integration import Integration
from acluster.nn.pooling import attend

__all__ = ["Average"]


class Average(Integration):
    """The mean of the local features."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.global_size = n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        return attend(values, offsets, values.new_zeros(len(values), 1)).flatten(1)
