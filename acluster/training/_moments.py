"""Means and standard deviations of local features, over a whole training set in one pass."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from acluster.sets import FeatureSets
from acluster.training._batches import BatchSource, items_per_block

__all__ = ["FeatureMoments", "feature_moments"]


class FeatureMoments(NamedTuple):
    """The mean and the standard deviation of every feature, (M,), over so many local features."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    n_rows: int


def feature_moments(sets: FeatureSets, with_std: bool) -> FeatureMoments:
    """Those of all local features of all sets, in one pass.

    Features that are constant but for rounding have a standard deviation of 0; without `with_std`,
    which takes longer, all have.
    """
    if sets.blocks is not None:  # each block is then decoded once
        sets = sets[np.argsort(sets.numbers)]
    n_rows, mean = 0, torch.zeros(sets.n_features, dtype=torch.float64)
    squares = torch.zeros_like(mean)
    like = torch.empty((), dtype=torch.float64 if sets.dtype.itemsize > 4 else torch.float32)
    for ((values, _),) in BatchSource([sets], like).in_order(items_per_block(sets)):
        n, n_before = len(values), n_rows
        n_rows += n
        if n:  # Chan et al.: the moments of two parts come together without a loss of digits
            mean, squares = mean.to(values.device), squares.to(values.device)
            own = values.mean(dim=0, dtype=torch.float64)
            away = own - mean
            if with_std:
                squares = squares + (values.double() - own).square_().sum(dim=0)
                squares = squares + away.square() * (n_before * n / n_rows)
            mean = mean + away * (n / n_rows)
    variance = squares / max(n_rows, 1)
    rounding = n_rows * torch.finfo(torch.float64).eps  # as scikit-learn's StandardScaler has it
    is_constant = variance <= rounding * variance + (rounding * mean).square()
    std = variance.sqrt().masked_fill(is_constant, 0)
    return FeatureMoments(mean.cpu().numpy(), std.cpu().numpy(), n_rows)
