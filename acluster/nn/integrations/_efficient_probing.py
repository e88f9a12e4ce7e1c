"""Efficient probing: learned queries without keys, each with a slice of the values."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acluster.nn._integration import Integration
from acluster.nn.integrations._batch_norm import BatchNorm
from acluster.nn.pooling import attend

__all__ = ["EfficientProbing"]


class EfficientProbing(Integration):
    """Queries without keys, each of which averages a slice of the values; batch norm."""

    def __init__(self, n_features: int, n_queries: int) -> None:
        super().__init__()
        width = max(1, n_features // n_queries)
        self.queries = nn.Linear(n_features, n_queries, bias=False)
        self.values = nn.Parameter(torch.empty(n_queries, n_features, width))
        self.norm = BatchNorm(n_queries * width, affine=False)
        self.global_size = n_queries * width

    def forward(self, values: Tensor, offsets: Tensor) -> Tensor:
        values = self.as_computed(values)
        pooled = attend(values, offsets, self.attention_logits(values, offsets))
        # The projection of an average is the average of projections, and there is one per unit.
        return self.norm(torch.einsum("nqm,qmd->nqd", pooled, self.values).flatten(1))

    def attention_logits(self, values: Tensor, offsets: Tensor) -> Tensor:
        return self.queries(values) * values.shape[1] ** -0.5
