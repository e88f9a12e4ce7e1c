"""NetVLAD with context gating (Arandjelović et al., 2016; Miech et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from acluster.nn._integration import Integration
from acluster.nn.integrations._batch_norm import BatchNorm

__all__ = ["NetVLAD"]


class NetVLAD(Integration):
    """Residuals from learnt centres, summed by soft assignment; a layer; context gating."""

    def __init__(self, n_features: int, n_centres: int, hidden_size: int) -> None:
        super().__init__()
        self.assign = nn.Linear(n_features, n_centres, bias=False)
        self.assign_norm = BatchNorm(n_centres)
        self.centres = nn.Parameter(torch.empty(n_centres, n_features))
        self.layer = nn.Linear(n_centres * n_features, hidden_size)
        self.gate = nn.Linear(hidden_size, hidden_size)
        self.global_size = hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        hidden = self.layer(self.residuals(self.as_computed(values), offsets).flatten(1))
        return hidden * torch.sigmoid(self.gate(hidden))

    def residuals(self, values: Tensor, offsets: Tensor) -> Tensor:
        """Normalised within each centre and as a whole, (n, K, M)."""
        assigned = self.assign_norm(self.assign(values)).softmax(dim=1)
        lengths = offsets.diff().tolist()
        by_set = zip(assigned.split(lengths), values.split(lengths), strict=True)
        sums = [a.T @ x - a.sum(dim=0)[:, None] * self.centres for a, x in by_set]
        residuals = functional.normalize(torch.stack(sums), dim=2)
        return functional.normalize(residuals.flatten(1), dim=1).view_as(residuals)
