"""The network: one attention cluster per modality, concatenated, dropout, one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from acluster.nn._cluster import AttentionCluster
from acluster.nn._pooling import without_empty
from acluster.nn._weighting import uniform_

__all__ = ["AttentionClusterNetwork"]

Packed = tuple[Tensor, Tensor]  # values (R, M) and offsets (n + 1,) of one modality


class AttentionClusterNetwork(nn.Module):
    """Attention clusters and the classifier on top (section 3.5, figure 2).

    Parameters
    ----------
    clusters : sequence of AttentionCluster
        One per modality.

    n_outputs : int
        The number of logits per item.

    dropout : float, default=0.0
        The probability with which a global feature's component is zeroed in training.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import AttentionCluster, AttentionClusterNetwork
    >>> rgb, audio = AttentionCluster(4, cluster_size=3), AttentionCluster(2, cluster_size=1)
    >>> network = AttentionClusterNetwork([rgb, audio], n_outputs=5)
    >>> two_sets = torch.tensor([0, 2, 6])
    >>> network([(torch.ones(6, 4), two_sets), (torch.ones(6, 2), two_sets)]).shape
    torch.Size([2, 5])
    """

    def __init__(
        self, clusters: Sequence[AttentionCluster], n_outputs: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.clusters: Sequence[AttentionCluster] = nn.ModuleList(clusters)  # type: ignore[assignment]
        self.linear = nn.Linear(sum(cluster.global_size for cluster in clusters), n_outputs)
        self.dropout = dropout

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all parameters anew from `generator`."""
        for cluster in self.clusters:
            cluster.reset_parameters(generator)
        uniform_(self.linear.weight, self.linear.in_features, generator)
        uniform_(self.linear.bias, self.linear.in_features, generator)

    def global_feature(self, sets: Sequence[Packed]) -> Tensor:
        """The concatenated global features g, shape (n, Σ N·M), before dropout.

        The part of a modality that an item lacks (a set of size 0) is zero, and the rest of
        its global feature is scaled by the number of modalities over those it has, as
        dropout scales what it keeps.
        """
        present = [offsets.diff() > 0 for _, offsets in sets]
        parts = [
            _part(cluster, values, offsets, has)
            for cluster, (values, offsets), has in zip(self.clusters, sets, present, strict=True)
        ]
        g = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        if all(bool(has.all()) for has in present):
            return g
        n_present = torch.stack(present, dim=1).sum(dim=1, keepdim=True)
        return g * (len(parts) / n_present.clamp(min=1)).to(g)

    def attention_weights(self, sets: Sequence[Packed]) -> list[Tensor]:
        """The attention weights a of every modality, each of shape (R, N), packed."""
        return [
            cluster.attention_weights(*packed)
            for cluster, packed in zip(self.clusters, sets, strict=True)
        ]

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
        g = self.global_feature(sets)
        if self.training and self.dropout > 0:
            g = g * _dropout_mask(g, self.dropout, generator)
        return self.linear(g)


def _part(cluster: AttentionCluster, values: Tensor, offsets: Tensor, present: Tensor) -> Tensor:
    """A modality's part of the global features; zero where a set is not present."""
    if bool(present.all()):
        return cluster(values, offsets)
    part = values.new_zeros(len(present), cluster.global_size)
    if len(values) == 0:
        return part
    items = torch.nonzero(present).flatten().to(values.device)
    return part.index_copy(0, items, cluster(values, without_empty(offsets)))


def _dropout_mask(g: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
    """0 with `probability`, else what keeps the mean, in the shape of g.

    Each component takes 16 random bits, four to a 64-bit draw: a fifth of the time that a
    draw of its own would take. The probability is met to within 2^-16.
    """
    draws = torch.empty(-(-g.numel() // 4), dtype=torch.int64, device=g.device)
    draws.random_(-(2**63), None, generator=generator)
    dropped_of_65536 = min(round(probability * 65536), 65535)
    kept = draws.view(torch.int16)[: g.numel()] >= dropped_of_65536 - 32768
    return kept.to(g.dtype).mul_(65536 / (65536 - dropped_of_65536)).view_as(g)
