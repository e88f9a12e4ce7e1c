"""Batch normalization that accepts a batch of one."""

from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization that uses the running statistics for a batch of a single row.

    The variance of one row is 0, and torch raises an error in training mode.

    Parameters
    ----------
    num_features : int
        The number of columns.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations._batch_norm import BatchNorm
    >>> BatchNorm(3)(torch.ones(1, 3)).shape
    torch.Size([1, 3])
    """

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            return super().forward(x)
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )
