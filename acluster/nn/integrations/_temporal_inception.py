"""Temporal-Inception: convolutions over time of two widths (Ma et al., 2017)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster.nn._integration import Integration
from acluster.nn.integrations._batch_norm import BatchNorm
from acluster.nn.integrations._sequences import resampled


class TemporalInception(Integration):
    """Apply temporal convolutions of two widths to each feature, then a linear layer.

    The set is resampled to `n_steps` local features, as in `Flatten`. Each of four modules applies
    two convolutions over time, of widths 5 and 7, side by side, and halves the number of steps by
    max pooling. The number of input channels is 1, 2, 4 and 8; the weights are shared by all
    features. The remaining steps are max-pooled, convolutions of width 1 reduce the 16 channels to
    4, 2 and 1, and a linear layer with a ReLU follows. Batch normalization precedes every ReLU.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    n_steps : int
        The number of local features that a set is resampled to.

    hidden_size : int
        The size of the linear layer.

    Attributes
    ----------
    global_size : int
        ``hidden_size``.

    References
    ----------
    Ma et al., "TS-LSTM and Temporal-Inception: Exploiting Spatiotemporal Dynamics for Activity
    Recognition", arXiv 1703.10667, 2017.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn.integrations import TemporalInception
    >>> inception = TemporalInception(n_features=4, n_steps=8, hidden_size=16)
    >>> inception(torch.randn(6, 4), torch.tensor([0, 2, 6])).shape
    torch.Size([2, 16])
    """

    WIDTHS = (5, 7)
    CHANNELS = (1, 2, 4, 8)
    REDUCTION = (16, 4, 2, 1)

    def __init__(self, n_features: int, n_steps: int, hidden_size: int) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.branches: Sequence[nn.ModuleList] = nn.ModuleList(  # type: ignore[assignment]
            nn.ModuleList(
                nn.Conv2d(channels, channels, (width, 1), padding=(width // 2, 0))
                for width in self.WIDTHS
            )
            for channels in self.CHANNELS
        )
        self.branch_norms = nn.ModuleList(nn.BatchNorm2d(2 * n) for n in self.CHANNELS)
        self.reduce = nn.ModuleList(nn.Conv2d(*pair, 1) for pair in pairwise(self.REDUCTION))
        self.reduce_norms = nn.ModuleList(nn.BatchNorm2d(n) for n in self.REDUCTION[1:])
        self.layer = nn.Linear(n_features, hidden_size)
        self.layer_norm = BatchNorm(hidden_size)
        self.global_size = hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        x = resampled(self.as_computed(values), offsets, self.n_steps)[:, None]  # (n, 1, T, M)
        for branches, norm in zip(self.branches, self.branch_norms, strict=True):
            x = functional.relu(norm(torch.cat([branch(x) for branch in branches], dim=1)))
            x = functional.max_pool2d(x, (2, 1), ceil_mode=True)
        x = x.amax(dim=2, keepdim=True)
        for convolution, norm in zip(self.reduce, self.reduce_norms, strict=True):
            x = functional.relu(norm(convolution(x)))
        return functional.relu(self.layer_norm(self.layer(x.flatten(1))))
