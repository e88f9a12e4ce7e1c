"""Standardization of local features, as a layer of the network."""

import torch
from torch import Tensor, nn


class Standardization(nn.Module):
    """Center and scale each feature: ``(x - mean) / scale``.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    Attributes
    ----------
    mean, scale : Tensor of shape (M,)
        Buffers, initially 0 and 1.

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
        """Reset the mean to 0 and the scale to 1."""
        self.mean.zero_()
        self.scale.fill_(1)

    def learn(self, mean: Tensor, std: Tensor) -> None:
        """Set the mean and the scale, as computed on the training set.

        Constant features, up to rounding, are centered but not scaled.

        Parameters
        ----------
        mean, std : Tensor of shape (M,)
            The mean and the standard deviation of each feature over all local features.
        """
        self.mean.copy_(mean)
        self.scale.copy_(std)
        # This includes standard deviations that underflow in this dtype, and features whose
        # deviations from the mean are rounding errors in it.
        rounding = torch.finfo(self.scale.dtype).eps * self.mean.abs()
        self.scale.masked_fill_(self.scale <= rounding, 1)

    def forward(self, values: Tensor) -> Tensor:
        """Return the standardized local features.

        Parameters
        ----------
        values : Tensor of shape (..., M)
            The local features.

        Returns
        -------
        Tensor of shape (..., M)
        """
        # In place: the features of one large set may fill half of the memory.
        return (values - self.mean).div_(self.scale)
