"""An ensemble of networks, which predicts the mean of their probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from acluster.nn._network import IntegrationNetwork, Packed, logits_of_mean


class EnsembleNetwork(nn.Module):
    """Average the class probabilities of several networks.

    Parameters
    ----------
    members : sequence of IntegrationNetwork
        The networks. They take the same modalities and have the same outputs.

    is_softmax : bool
        Whether probabilities are the softmax of the logits (one class per item), or their
        sigmoid (binary and multilabel targets).

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster, EnsembleNetwork, IntegrationNetwork
    >>> members = [IntegrationNetwork([AttentionCluster(4, size)], n_outputs=5) for size in (2, 3)]
    >>> network = EnsembleNetwork(members, is_softmax=True)
    >>> sets = [(torch.ones(6, 4), torch.tensor([0, 2, 6]))]
    >>> network(sets).shape, network.global_feature(sets).shape
    (torch.Size([2, 5]), torch.Size([2, 20]))
    """

    def __init__(self, members: Sequence[IntegrationNetwork], *, is_softmax: bool) -> None:
        super().__init__()
        self.members: Sequence[IntegrationNetwork] = nn.ModuleList(members)  # type: ignore[assignment]
        self.is_softmax = is_softmax

    def global_feature(self, sets: Sequence[Packed]) -> Tensor:
        """Return the global features of all members, concatenated.

        Parameters
        ----------
        sets : sequence of (values, offsets)
            One pair per modality, as in `IntegrationNetwork.forward`.

        Returns
        -------
        Tensor of shape (n, Σ N·M)
            The first columns are those of the first member.
        """
        return torch.cat([member.global_feature(sets) for member in self.members], dim=1)

    def attention_weights_of(self, modality: int, values: Tensor, offsets: Tensor) -> Tensor:
        """Return the attention weights of the units of all members for one modality.

        Parameters
        ----------
        modality : int
            The position of the modality.

        values, offsets : Tensor
            The packed local features of this modality.

        Returns
        -------
        Tensor of shape (R, Σ N)
        """
        weights = [one.attention_weights_of(modality, values, offsets) for one in self.members]
        return torch.cat(weights, dim=1)

    def forward(self, sets: Sequence[Packed], generator: torch.Generator | None = None) -> Tensor:
        """Return the logits of the mean of the members' probabilities.

        Parameters
        ----------
        sets : sequence of (values, offsets)
            One pair per modality, as in `IntegrationNetwork.forward`.

        generator : torch.Generator, optional
            Source of randomness for dropout in training mode.

        Returns
        -------
        Tensor of shape (n, n_outputs)
        """
        logits = torch.stack([member(sets, generator) for member in self.members])
        return logits_of_mean(logits, is_softmax=self.is_softmax)
