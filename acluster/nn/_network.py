"""The network: each modality integrated to a vector, concatenated, dropout, one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn._linear import DropoutLinear
from acluster.nn._standardization import Standardization
from acluster.nn.pooling import without_empty

__all__ = ["IntegrationNetwork"]

Packed = tuple[Tensor, Tensor]  # values (R, M) and offsets (n + 1,) of one modality


class IntegrationNetwork(nn.Module):
    """An attention cluster per modality and the classifier on top (section 3.5, figure 2).

    Parameters
    ----------
    integrations : sequence of Integration
        One per modality: attention clusters, or another way from local features to a vector.

    n_outputs : int
        The number of logits per item.

    dropout : float, default=0.0
        The probability with which a global feature's component is zeroed in training.

    widths : sequence of int, optional
        The width of a local feature in each modality, if local features are to be standardised;
        ``standardizations[i].learn`` takes their mean and spread.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster, IntegrationNetwork
    >>> rgb, audio = AttentionCluster(4, cluster_size=3), AttentionCluster(2, cluster_size=1)
    >>> network = IntegrationNetwork([rgb, audio], n_outputs=5)
    >>> two_sets = torch.tensor([0, 2, 6])
    >>> network([(torch.ones(6, 4), two_sets), (torch.ones(6, 2), two_sets)]).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        integrations: Sequence[Integration],
        n_outputs: int,
        dropout: float = 0.0,
        widths: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.standardizations: Sequence[Standardization] | None = (
            None if widths is None else nn.ModuleList(map(Standardization, widths))  # type: ignore[assignment]
        )
        self.integrations: Sequence[Integration] = nn.ModuleList(integrations)  # type: ignore[assignment]
        global_size = sum(integration.global_size for integration in integrations)
        self.linear = DropoutLinear(global_size, n_outputs, dropout)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew from `generator`."""
        for standardization in self.standardizations or ():
            standardization.reset_parameters()
        for integration in self.integrations:
            integration.reset_parameters(generator)
        self.linear.reset_parameters(generator)

    def standardized(self, modality: int, values: Tensor) -> Tensor:
        """Local features of a modality, as its integration takes them."""
        return values if self.standardizations is None else self.standardizations[modality](values)

    def global_feature(self, sets: Sequence[Packed]) -> Tensor:
        """The global features g of all modalities (equation 6), end to end, before dropout.

        The part of a modality that an item lacks (a set of size 0) is zero, and the rest of
        its global feature is scaled by the number of modalities over those it has, as
        dropout scales what it keeps.

        Parameters
        ----------
        sets : sequence of (values, offsets)
            As in `forward`.

        Returns
        -------
        Tensor of shape (n, Σ N·M)
        """
        present = [offsets.diff() > 0 for _, offsets in sets]
        parts = [
            _part(integration, self.standardized(i, values), offsets, has)
            for i, (integration, (values, offsets), has) in enumerate(
                zip(self.integrations, sets, present, strict=True)
            )
        ]
        g = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if all(bool(has.all()) for has in present):
            return g
        n_present = torch.stack(present, dim=1).sum(dim=1, keepdim=True)
        return g * (len(parts) / n_present.clamp(min=1)).to(g)

    def attention_weights(self, sets: Sequence[Packed]) -> list[Tensor]:
        """The attention weights a of every modality (equations 3 to 5).

        Parameters
        ----------
        sets : sequence of (values, offsets)
            As in `forward`.

        Returns
        -------
        list of Tensor of shape (R, N)
            One for each modality, its sets end to end.
        """
        return [self.attention_weights_of(i, *packed) for i, packed in enumerate(sets)]

    def attention_weights_of(self, modality: int, values: Tensor, offsets: Tensor) -> Tensor:
        """The attention weights a of one modality, (R, N), packed."""
        values = self.standardized(modality, values)
        return self.integrations[modality].attention_weights(values, offsets)

    def forward(self, sets: Sequence[Packed], generator: torch.Generator | None = None) -> Tensor:
        """Logits of every item.

        Parameters
        ----------
        sets : sequence of (values, offsets)
            One pair per modality: packed local features (R, M) and int64 offsets (n + 1,).
            With several modalities, an item may lack some: its sets are empty there.

        generator : torch.Generator, optional
            Draws the dropout in training mode, so that torch's own state is left alone.

        Returns
        -------
        Tensor of shape (n, n_outputs)
            Logits.
        """
        return self.linear(self.global_feature(sets), generator)


def _part(integration: Integration, values: Tensor, offsets: Tensor, present: Tensor) -> Tensor:
    """A modality's part of the global features; zero where a set is not present."""
    if bool(present.all()):
        return integration(values, offsets)
    if len(values) == 0:
        return values.new_zeros(len(present), integration.global_size)
    g = integration(values, without_empty(offsets))
    items = torch.nonzero(present).flatten().to(g.device)
    return g.new_zeros(len(present), integration.global_size).index_copy(0, items, g)
