"""TS-LSTM: max-pooled temporal segments, read by an LSTM (Ma et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn.integrations._batch_norm import BatchNorm
from acluster.nn.integrations._sequences import segment

__all__ = ["TSLSTM"]


class TSLSTM(Integration):
    """Contiguous segments, normalised and pooled by the maximum; an LSTM reads them."""

    module_counts = ("n_segments",)

    def __init__(self, n_features: int, n_segments: int, hidden_size: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(BatchNorm(n_features) for _ in range(n_segments))
        self.lstm = nn.LSTM(n_features, hidden_size, batch_first=True)
        self.last_norm = BatchNorm(hidden_size)
        self.global_size = hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        values, n = self.as_computed(values), len(self.norms)
        pooled = []
        for number, norm in enumerate(self.norms):
            rows, own = (numbers.to(values.device) for numbers in segment(offsets, number, n))
            pooled.append(torch.segment_reduce(norm(values[rows]), "max", offsets=own, axis=0))
        _, (last, _) = self.lstm(torch.stack(pooled, dim=1))
        return self.last_norm(last[0])
