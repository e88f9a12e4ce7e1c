"""The replacement of modalities that items lack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.training import FeatureMoments


@dataclass(frozen=True)
class MissingModality:
    """The strategy for missing modalities, and the training means that "mean" needs.

    Attributes
    ----------
    strategy : {"mean", "mask"}
        "mean": the mean local feature of the training set replaces a missing set (section 5.2 of
        the paper). "mask": its part of the global feature is zero.

    means : dict of str to ndarray of shape (M,)
        The mean local feature of every modality; empty under "mask".

    counts : dict of str to int
        The number of local features in every mean, which a later fit needs to update it.
    """

    strategy: str = "mask"
    means: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def learned(self, strategy: str, moments: Mapping[str, FeatureMoments]) -> MissingModality:
        """Return the strategy with its means updated by those of more training items."""
        if strategy == "mask":
            return MissingModality()
        means, counts = dict(self.means), dict(self.counts)
        for name, (mean, _, count) in moments.items():
            counts[name] = counts.get(name, 0) + count
            before = means.get(name, np.zeros_like(mean))
            means[name] = before + (mean - before) * (count / max(counts[name], 1))
        return MissingModality(strategy, means, counts)

    def stand_ins(self, modalities: Any) -> list[NDArray[np.float64] | None]:
        """Return, for every modality, the local feature that replaces a missing set, or None."""
        return [self.means.get(name) for name in modalities]
