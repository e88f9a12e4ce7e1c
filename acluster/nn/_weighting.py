"""Weighting functions (equations 3-5): what each attention unit thinks of each local feature.

A weighting function maps packed local features (R, M) to logits (R, N), one column per
attention unit; a softmax over each set then makes the weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["WEIGHTINGS", "AverageWeighting", "FC1Weighting", "FC2Weighting", "Weighting"]


class Weighting(nn.Module, ABC):
    """What each attention unit thinks of each local feature: the base of those of the paper.

    Another one derives from this class and is passed as `weighting`. The softmax over each set
    cancels whatever a unit adds to all its logits alike, so that a last bias does nothing.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units.

    hidden_size : int
        The number H of hidden cells of each unit, for those that have any.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster, Weighting
    >>> class Distance(Weighting):
    ...     '''A unit looks for what is near to a point of its own.'''
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
        """Draw all parameters anew, and set all buffers.

        What the constructor computes is not kept: it runs where tensors have no memory.

        Parameters
        ----------
        generator : torch.Generator, optional
            Draws them; by default torch's own.
        """

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """Logits of every local feature for every unit.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        Returns
        -------
        Tensor of shape (R, N)
        """


class AverageWeighting(Weighting):
    """All local features weigh the same (equation 3): equal logits, no parameters.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units; all of them give the same mean.

    hidden_size : int
        Not used; every weighting function is built alike.

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
        """Nothing to draw."""

    def forward(self, values: Tensor) -> Tensor:
        """Equal logits, all zero (equation 3), of shape (R, N)."""
        return values.new_zeros(1, 1).expand(values.shape[0], self.cluster_size)


class FC1Weighting(Weighting):
    """One fully-connected layer per attention unit (equation 4).

    The paper adds a bias of length L, which sets of varying size cannot have; a scalar
    bias would be cancelled by the softmax. There is none.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units.

    hidden_size : int
        Not used; every weighting function is built alike.

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
        """Draw w uniformly within ±1/√M."""
        uniform_(self.weight, len(self.weight), generator)

    def forward(self, values: Tensor) -> Tensor:
        """Logits wᵀx of every local feature for every unit (equation 4), (R, N)."""
        return values @ self.weight


class FC2Weighting(Weighting):
    """Two fully-connected layers per attention unit, with a tanh between (equation 5).

    Every unit has a hidden layer of its own. The last bias of the paper is left out, as
    the softmax cancels it.

    Parameters
    ----------
    n_features : int
        The width M of a local feature.

    cluster_size : int
        The number N of attention units.

    hidden_size : int
        The number H of hidden cells of each unit.

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
        """Draw W1 and b1 uniformly within ±1/√M, w2 within ±1/√H."""
        n_features, hidden_size = len(self.weight1), self.weight2.shape[1]
        uniform_(self.weight1, n_features, generator)
        uniform_(self.bias1, n_features, generator)
        uniform_(self.weight2, hidden_size, generator)

    def forward(self, values: Tensor) -> Tensor:
        """Logits w2ᵀ tanh(W1ᵀx + b1) of local features for units (equation 5), (R, N)."""
        hidden = torch.tanh(torch.addmm(self.bias1, values, self.weight1))
        return (hidden.unflatten(-1, self.weight2.shape) * self.weight2).sum(dim=-1)


WEIGHTINGS: dict[str, type[Weighting]] = {
    "average": AverageWeighting,
    "fc1": FC1Weighting,
    "fc2": FC2Weighting,
}


def uniform_(parameter: Tensor, fan_in: int, generator: torch.Generator | None) -> None:
    """Fill with the uniform distribution within ±1/√fan_in, as torch's linear layer does."""
    bound = 1 / math.sqrt(fan_in)
    with torch.no_grad():
        parameter.uniform_(-bound, bound, generator=generator)
