"""What every way to integrate local features has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from acluster.nn._weighting import uniform_
from acluster.nn.pooling import attention_weights, without_empty

__all__ = ["Integration"]


class Integration(nn.Module, ABC):
    """From the local features of a set to one vector: the base of `AttentionCluster`.

    Another way to do it derives from this class. Its constructor takes ``n_features``, the width of
    a local feature, and what else it needs, by keyword; it sets `global_size`.

    Attributes
    ----------
    global_size : int
        The width of the vector.

    module_counts : tuple of str
        Of the class: arguments of the constructor that say how many submodules it creates. A model
        file that asks for more than it has tensors for is refused before they are built.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import Integration
    >>> class Sum(Integration):
    ...     def __init__(self, n_features):
    ...         super().__init__()
    ...         self.global_size = n_features
    ...
    ...     def forward(self, values, offsets):
    ...         return torch.stack([rows.sum(0) for rows in values.tensor_split(offsets[1:-1])])
    >>> Sum(n_features=2)(torch.ones(5, 2), torch.tensor([0, 2, 5]))
    tensor([[2., 2.],
            [3., 3.]])
    """

    global_size: int
    module_counts: ClassVar[tuple[str, ...]] = ()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew.

        Weights and biases of torch's layers in it are uniform within ±1/√(inputs of a cell), those
        of a recurrent layer within ±1/√(its cells), as in torch; normalising layers start anew.
        Parameters of its own, of two axes or more, are uniform within ±1/√(the second).

        Parameters
        ----------
        generator : torch.Generator, optional
            Draws them; by default torch's own.

        Raises
        ------
        TypeError
            If there is a layer of another kind: a class that has one defines this itself.
        """
        for parameter in self.parameters(recurse=False):
            uniform_(parameter, parameter.shape[1], generator)
        for layer in list(self.modules())[1:]:
            if isinstance(layer, nn.RNNBase):
                for parameter in layer.parameters():
                    uniform_(parameter, layer.hidden_size, generator)
            elif isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
                for parameter in layer.parameters():
                    uniform_(parameter, layer.weight[0].numel(), generator)
            elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.LayerNorm):
                layer.reset_parameters()
            elif next(layer.parameters(recurse=False), None) is not None:
                raise TypeError(
                    f"{type(self).__name__} has a {type(layer).__name__}, whose parameters it does "
                    "not know how to draw; define reset_parameters(generator) in it."
                )

    def as_computed(self, values: Tensor) -> Tensor:
        """The features in the dtype to compute in.

        Parameters
        ----------
        values : Tensor
            Local features, in any dtype.

        Returns
        -------
        Tensor
            In the dtype of the parameters, or in that of torch's autocast.
        """
        device = values.device.type
        if torch.is_autocast_enabled(device):
            return values.to(torch.get_autocast_dtype(device))
        return values.to(next(self.parameters(), values).dtype)

    @abstractmethod
    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        """The vector of every set.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,), on the CPU
            Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty.

        Returns
        -------
        Tensor of shape (n, global_size)
        """

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        """What each unit thinks of each local feature; only a way with units defines it.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,), on the CPU
            Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty, and there may be none.

        Returns
        -------
        Tensor of shape (R, N)

        Raises
        ------
        NotImplementedError
            If there are no units.
        """
        raise NotImplementedError(f"{type(self).__name__} has no attention units.")

    def attention_weights(self, values: Tensor, offsets: Tensor) -> Tensor:
        """How much each unit attends to each local feature, where there are units.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,), on the CPU
            Set i is ``values[offsets[i]:offsets[i + 1]]``; sets may be empty.

        Returns
        -------
        Tensor of shape (R, N)
            The weights a (equations 3 to 5): every column sums to 1 over each set.
        """
        offsets = without_empty(offsets)
        logits = self.attention_logits(self.as_computed(values), offsets).to(values.dtype)
        return attention_weights(offsets, logits) if len(values) else logits
