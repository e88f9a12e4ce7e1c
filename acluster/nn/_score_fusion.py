"""Late fusion: each modality comes to probabilities by itself, which are averaged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from acluster.nn._network import IntegrationNetwork

__all__ = ["ScoreFusionNetwork"]


class ScoreFusionNetwork(IntegrationNetwork):
    """Logits of the average of the modalities' probabilities.

    Every modality has its own rows of the last layer; the bias is one for all.
    """

    def __init__(self, *args: Any, is_softmax: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_softmax = is_softmax

    def forward(
        self, sets: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits of every item, (n, n_outputs)."""
        sizes = [integration.global_size for integration in self.integrations]
        of_modality = torch.eye(len(sizes)).repeat_interleave(torch.tensor(sizes), dim=1)
        g = self.global_feature(sets)
        alone = [g * own for own in of_modality.to(g)]  # 0 where another modality's part is
        logits = torch.stack([self.linear(part, generator) for part in alone])
        if self.is_softmax:
            return _log_mean(functional.log_softmax(logits, dim=-1))
        return _log_mean(functional.logsigmoid(logits)) - _log_mean(functional.logsigmoid(-logits))


def _log_mean(logarithms: Tensor) -> Tensor:
    """The logarithm of the mean over the first axis."""
    return logarithms.logsumexp(dim=0) - math.log(len(logarithms))
