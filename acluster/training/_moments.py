"""Means and standard deviations of local features, over a whole training set in one pass."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from acluster.sets import FeatureSets, relative_rounding
from acluster.training._batches import BatchSource, items_per_block

# Larger than blocks of ordinary items. It bounds the memory of the squares for very large items.
_NUMBERS_PER_PIECE = 1 << 24


class FeatureMoments(NamedTuple):
    """The mean and standard deviation of every feature, (M,), over `n_rows` local features."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    n_rows: int


def feature_moments(sets: FeatureSets, with_std: bool) -> FeatureMoments:
    """Return the moments over all local features of all sets, in one pass.

    Features that are constant up to the rounding of their dtype get a standard deviation of 0.
    If `with_std` is False, all features do, which saves time.
    """
    if sets.blocks is not None:
        # In the order of a compressed store, every block is decoded only once.
        sets = sets[np.argsort(sets.numbers)]
    n_rows, mean = 0, torch.zeros(sets.n_features, dtype=torch.float64, device="cpu")
    squares = torch.zeros_like(mean)
    # float32 holds all integers of 2 bytes, but not those of 4.
    is_wide = sets.dtype.itemsize > (4 if sets.dtype.kind == "f" else 2)
    like = torch.empty((), dtype=torch.float64 if is_wide else torch.float32, device="cpu")
    for values in _pieces(sets, like):
        n, n_before = len(values), n_rows
        n_rows += n
        if n:
            # The update of Chan, Golub and LeVeque (1983) merges the moments of two parts. Sums of
            # squares would cancel for features far from 0.
            mean, squares = mean.to(values.device), squares.to(values.device)
            block_mean = values.mean(dim=0, dtype=torch.float64)
            shift = block_mean - mean
            if with_std:
                squares = squares + (values.double() - block_mean).square_().sum(dim=0)
                squares = squares + shift.square() * (n_before * n / n_rows)
            mean = mean + shift * (n / n_rows)
        del values  # the next piece may need its memory
    variance = squares / max(n_rows, 1)
    # The threshold of scikit-learn's StandardScaler: below it, the variance is rounding error.
    rounding = n_rows * torch.finfo(torch.float64).eps
    is_constant = variance <= rounding * variance + (rounding * mean).square()
    is_constant |= variance.sqrt() <= relative_rounding(sets.dtype) * mean.abs()
    std = variance.sqrt().masked_fill(is_constant, 0)
    return FeatureMoments(mean.cpu().numpy(), std.cpu().numpy(), n_rows)


def _pieces(sets: FeatureSets, like: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the local features of all sets in blocks of items, divided if these are very large."""
    max_rows = max(1, _NUMBERS_PER_PIECE // sets.n_features)
    for ((values, _),) in BatchSource([sets], like).in_order(items_per_block(sets)):
        yield from values.split(max_rows)
        del values
