"""Attention pooling for multiple-instance learning, plain and gated (Ilse et al., 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn.pooling import attend

__all__ = ["AttentionMIL", "GatedAttentionMIL"]


class AttentionMIL(Integration):
    """One attention unit of two layers, with a tanh between them."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_features, hidden_size)
        self.unit = nn.Linear(hidden_size, 1, bias=False)  # softmax cancels a bias
        self.global_size = n_features

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        values = self.as_computed(values)
        return attend(values, offsets, self.attention_logits(values, offsets)).flatten(1)

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.unit(torch.tanh(self.hidden(values)))


class GatedAttentionMIL(AttentionMIL):
    """The same with a gate on the hidden cells."""

    def __init__(self, n_features: int, hidden_size: int) -> None:
        super().__init__(n_features, hidden_size)
        self.gate = nn.Linear(n_features, hidden_size)

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.unit(torch.tanh(self.hidden(values)) * torch.sigmoid(self.gate(values)))
