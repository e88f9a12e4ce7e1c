"""Weighting functions (equations 3-5): the score of each local feature for each attention unit.

A weighting function maps packed local features (R, M) to logits (R, N), one column per attention
unit. A softmax over each set then turns the logits into attention weights.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Weighting(nn.Module, ABC):
    """The base class of weighting functions: score every local feature for every attention unit.

    To use your own weighting function, derive from this class and pass the subclass as
    `weighting`. A final bias has no effect, because the softmax over each set cancels whatever a
    unit adds to all its logits.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units.

    hidden_size : int
        The hidden layer size H of each unit, for weighting functions with a hidden layer.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster, Weighting
    >>> class Distance(Weighting):
    ...     '''Each unit attends to the local features near a learned point.'''
    ...
    ...     def __init__(self, n_features, cluster_size, hidden_size=10):
    ...         super().__init__()
    ...         self.points = torch.nn.Parameter(torch.empty(cluster_size, n_features))
    ...
    ...     def reset_parameters(self, generator=None):
    ...         with torch.no_grad():
    ...             self.points.normal_(generator=generator)
    ...
    ...     def forward(self, values):
    ...         return -torch.cdist(values, self.points)
    >>> cluster = AttentionCluster(n_features=3, cluster_size=8, weighting=Distance)
    >>> cluster.reset_parameters()
    >>> cluster(torch.ones(5, 3), torch.tensor([0, 2, 5])).shape
    torch.Size([2, 24])
    """

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize all parameters and buffers.

        Values that the constructor assigns are lost: the estimators construct modules on torch's
        "meta" device, where tensors have no memory, and call this method afterwards.

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of randomness; by default torch's global generator.
        """

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """Return the logits of every local feature for every unit.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        Returns
        -------
        Tensor of shape (R, N)
        """


class AverageWeighting(Weighting):
    """Weight all local features equally (equation 3), without parameters.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units, which all compute the same mean.

    hidden_size : int
        Ignored; present because all weighting functions share one signature.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AverageWeighting
    >>> AverageWeighting(3, cluster_size=2)(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, n_features: int, cluster_size: int, hidden_size: int = 10) -> None:
        super().__init__()
        self.cluster_size = cluster_size

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Do nothing; there are no parameters."""

    def forward(self, values: Tensor) -> Tensor:
        """Return logits of zero (equation 3), of shape (R, N)."""
        return values.new_zeros(1, 1).expand(values.shape[0], self.cluster_size)


class FC1Weighting(Weighting):
    """One fully connected layer per attention unit (equation 4).

    There is no bias. The paper's bias has length L, which is impossible for sets of varying size,
    and the softmax would cancel a scalar bias.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units.

    hidden_size : int
        Ignored; present because all weighting functions share one signature.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import FC1Weighting
    >>> FC1Weighting(3, cluster_size=2)(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, n_features: int, cluster_size: int, hidden_size: int = 10) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_features, cluster_size))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize w uniformly within ±1/√M."""
        uniform_(self.weight, len(self.weight), generator)

    def forward(self, values: Tensor) -> Tensor:
        """Return the logits wᵀx (equation 4), of shape (R, N)."""
        return values @ self.weight


class FC2Weighting(Weighting):
    """Two fully connected layers per attention unit, with tanh in between (equation 5).

    Each unit has its own hidden layer. The paper's second bias is left out, because the softmax
    cancels it.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units.

    hidden_size : int
        The hidden layer size H of each unit.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import FC2Weighting
    >>> FC2Weighting(3, cluster_size=2, hidden_size=5)(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, n_features: int, cluster_size: int, hidden_size: int = 10) -> None:
        super().__init__()
        self.weight1 = nn.Parameter(torch.empty(n_features, cluster_size * hidden_size))
        self.bias1 = nn.Parameter(torch.empty(cluster_size * hidden_size))
        self.weight2 = nn.Parameter(torch.empty(cluster_size, hidden_size))
        self.reset_parameters()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize W1 and b1 uniformly within ±1/√M, and w2 within ±1/√H."""
        n_features, hidden_size = len(self.weight1), self.weight2.shape[1]
        uniform_(self.weight1, n_features, generator)
        uniform_(self.bias1, n_features, generator)
        uniform_(self.weight2, hidden_size, generator)

    def forward(self, values: Tensor) -> Tensor:
        """Return the logits w2ᵀ tanh(W1ᵀx + b1) (equation 5), of shape (R, N)."""
        hidden = torch.tanh(torch.addmm(self.bias1, values, self.weight1))
        return (hidden.unflatten(-1, self.weight2.shape) * self.weight2).sum(dim=-1)


WEIGHTINGS: dict[str, type[Weighting]] = {
    "average": AverageWeighting,
    "fc1": FC1Weighting,
    "fc2": FC2Weighting,
}


def uniform_(parameter: Tensor, fan_in: int, generator: torch.Generator | None) -> None:
    """Fill a parameter uniformly within ±1/√fan_in, as torch's linear layer does."""
    bound = 1 / math.sqrt(fan_in)
    # On the meta device there is nothing to fill, and torch would import its compiler to do so.
    if not parameter.is_meta:
        nn.init.uniform_(parameter, -bound, bound, generator)
