"""A bidirectional LSTM over the local features, in their order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn.integrations._sequences import padded

__all__ = ["BiLSTM"]


class BiLSTM(Integration):
    """The last states of a long short-term memory that reads forwards, and of one backwards."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(n_features, hidden_size, batch_first=True, bidirectional=True)
        self.global_size = 2 * hidden_size

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        sequences, _ = padded(self.as_computed(values), offsets)
        packed = nn.utils.rnn.pack_padded_sequence(
            sequences, offsets.diff(), batch_first=True, enforce_sorted=False
        )
        _, (last, _) = self.lstm(packed)
        return torch.cat([last[0], last[1]], dim=1)
