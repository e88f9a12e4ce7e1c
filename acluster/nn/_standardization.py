"""Local features brought to a mean of 0 and a spread of 1, inside the network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Standardization"]


class Standardization(nn.Module):
    """Local features, centred and scaled feature by feature: ``(x - mean) / scale``.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    Attributes
    ----------
    mean, scale : Tensor of shape (M,)
        Buffers, 0 and 1 until `learn`.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import Standardization
    >>> standardization = Standardization(1)
    >>> standardization.learn(torch.tensor([5.0]), torch.tensor([2.0]))
    >>> standardization(torch.tensor([[5.0], [9.0]]))
    tensor([[0.],
            [2.]])
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))

    def reset_parameters(self) -> None:
        """Forget what was learnt."""
        self.mean.zero_()
        self.scale.fill_(1)

    def learn(self, mean: Tensor, std: Tensor) -> None:
        """Take what was found of the training set; a feature without spread keeps its scale.

        Parameters
        ----------
        mean, std : Tensor of shape (M,)
            Of every feature, over all local features.
        """
        self.mean.copy_(mean)
        self.scale.copy_(std)
        self.scale.masked_fill_(self.scale == 0, 1)  # also one too small for this dtype

    def forward(self, values: Tensor) -> Tensor:
        """Local features, standardised.

        Parameters
        ----------
        values : Tensor of shape (..., M)
            As they come.

        Returns
        -------
        Tensor of shape (..., M)
        """
        return (values - self.mean) / self.scale
