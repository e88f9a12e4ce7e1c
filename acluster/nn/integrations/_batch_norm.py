"""Batch normalization that accepts a batch of one."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["BatchNorm"]


class BatchNorm(nn.BatchNorm1d):
    """torch's; a single row, which has no spread, is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )
