"""Means and standard deviations of local features, over a whole training set in one pass."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from acluster.sets import FeatureSets, relative_rounding
from acluster.training._batches import BatchSource, items_per_block

# Deviations and their squares are computed in float64, in pieces that fit into a cache.
_NUMBERS_PER_PIECE = 1 << 18


class FeatureMoments(NamedTuple):
    """The mean and standard deviation of every feature, (M,), over `n_rows` local features."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    n_rows: int


def feature_moments(
    sets: FeatureSets, with_std: bool, weights: NDArray[np.float64] | None = None
) -> FeatureMoments:
    """Return the moments over all local features of all sets, in one pass.

    Features that are constant up to the rounding of their dtype get a standard deviation of 0.
    If `with_std` is False, all features do, which saves time. A set of weight w counts like w equal
    sets of weight 1.
    """
    if sets.blocks is not None:
        # In the order of a compressed store, every block is decoded only once.
        order = np.argsort(sets.numbers)
        sets, weights = sets[order], None if weights is None else weights[order]
    n_rows, total, mean = 0, 0.0, torch.zeros(sets.n_features, dtype=torch.float64, device="cpu")
    squares = torch.zeros_like(mean)
    # float32 holds all integers of 2 bytes, but not those of 4.
    is_wide = sets.dtype.itemsize > (4 if sets.dtype.kind == "f" else 2)
    like = torch.empty((), dtype=torch.float64 if is_wide else torch.float32, device="cpu")
    for values, own in _pieces(sets, like, weights):
        n_rows += len(values)
        if len(values):
            size = float(len(values)) if own is None else float(own.sum())
            total += size
            # The update of Chan, Golub and LeVeque (1983) merges the moments of two parts. Sums of
            # squares would cancel for features far from 0.
            mean, squares = mean.to(values.device), squares.to(values.device)
            if own is None:
                block_mean = values.mean(dim=0, dtype=torch.float64)
            else:
                block_mean = own @ values.double() / size
            shift = block_mean - mean
            if with_std:
                deviations = (values.double() - block_mean).square_()
                squares = squares + (deviations.sum(dim=0) if own is None else own @ deviations)
                squares = squares + shift.square() * ((total - size) * size / total)
            mean = mean + shift * (size / total)
        del values  # the next piece may need its memory
    variance = squares / (total or 1.0)
    # The threshold of scikit-learn's StandardScaler: below it, the variance is rounding error.
    rounding = n_rows * torch.finfo(torch.float64).eps
    is_constant = variance <= rounding * variance + (rounding * mean).square()
    is_constant |= variance.sqrt() <= relative_rounding(sets.dtype) * mean.abs()
    std = variance.sqrt().masked_fill(is_constant, 0)
    return FeatureMoments(mean.cpu().numpy(), std.cpu().numpy(), n_rows)


def _pieces(
    sets: FeatureSets, like: torch.Tensor, weights: NDArray[np.float64] | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield the local features of blocks of items, divided if very large, and their weights."""
    max_rows = max(1, _NUMBERS_PER_PIECE // sets.n_features)
    first = 0
    for ((values, offsets),) in BatchSource([sets], like).in_order(items_per_block(sets)):
        lengths = offsets.diff().cpu()
        if weights is None:
            for piece in values.split(max_rows):
                yield piece, None
        else:
            of_items = torch.from_numpy(weights[first : first + len(lengths)])
            of_rows = of_items.repeat_interleave(lengths).to(values.device)
            yield from zip(values.split(max_rows), of_rows.split(max_rows), strict=True)
        first += len(lengths)
        del values
