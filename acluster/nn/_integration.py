"""The base class of all modules that integrate local features."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from acluster.nn._weighting import uniform_
from acluster.nn.pooling import attention_weights, drop_empty_sets


class Integration(nn.Module, ABC):
    """The base class of integrations: turn the local features of each set into one vector.

    To add an integration, derive from this class and define `forward`. The constructor takes
    ``n_features``, the width of a local feature, followed by its own options, and sets
    `global_size`.

    Attributes
    ----------
    global_size : int
        The width of the resulting vector.

    module_counts : tuple of str
        Class attribute: the constructor arguments that set the number of submodules. A model file
        that asks for more submodules than it has tensors is rejected before they are built.

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
        """Initialize all parameters.

        Linear and convolutional layers are drawn uniformly within ±1/√(fan-in), and recurrent
        layers within ±1/√(hidden size), as in torch. Normalization layers are reset. Parameters
        of the module itself, which must have at least two axes, are drawn uniformly within
        ±1/√(size of the second axis).

        Parameters
        ----------
        generator : torch.Generator, optional
            Source of randomness; by default torch's global generator.

        Raises
        ------
        TypeError
            If there is a layer of another type. Override this method in that case.
        """
        # torch's own `reset_parameters` takes no generator, and would draw from the global one.
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
                    f"{type(self).__name__} has a layer of type {type(layer).__name__}, whose "
                    "parameters cannot be initialized automatically. Override "
                    "reset_parameters(generator)."
                )

    def as_computed(self, values: Tensor) -> Tensor:
        """Cast local features to the dtype of the computation.

        Parameters
        ----------
        values : Tensor
            Local features of any dtype.

        Returns
        -------
        Tensor
            The features in the dtype of torch's autocast if it is enabled, else in that of the
            parameters.
        """
        device = values.device.type
        if torch.is_autocast_enabled(device):
            return values.to(torch.get_autocast_dtype(device))
        return values.to(next(self.parameters(), values).dtype)

    @abstractmethod
    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the vector of every set.

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
        """Return the score of every local feature for every attention unit.

        Integrations without attention units do not override this method.

        Parameters
        ----------
        values : Tensor of shape (R, M)
            The local features of all sets, end to end.

        offsets : Tensor of int64, shape (n + 1,), on the CPU
            Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty, but there may
            be no sets.

        Returns
        -------
        Tensor of shape (R, N)

        Raises
        ------
        NotImplementedError
            If the integration has no attention units.
        """
        raise NotImplementedError(f"{type(self).__name__} has no attention units.")

    def attention_weights(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Return how much each unit attends to each local feature.

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

        Raises
        ------
        NotImplementedError
            If the integration has no attention units.
        """
        offsets = drop_empty_sets(offsets)
        logits = self.attention_logits(self.as_computed(values), offsets).to(values.dtype)
        return attention_weights(offsets, logits) if len(values) else logits
