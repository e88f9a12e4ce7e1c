"""Means and standard deviations of local features, over a whole training set in one pass."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from acluster.sets import FeatureSets, relative_rounding
from acluster.training._batches import BatchSource, items_per_block
from acluster.training._packing import device_of
from acluster.training._ranks import ALONE, Ranks


class FeatureMoments(NamedTuple):
    """The mean and standard deviation of every feature, (M,), over `n_rows` local features."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    n_rows: int


class _Sums(NamedTuple):
    """The mean, and the squared deviations from it, of local features of weight `total`."""

    n_rows: int
    total: float
    mean: torch.Tensor
    squares: torch.Tensor

    def merged(self, other: _Sums) -> _Sums:
        """Return the sums over the local features of both."""
        # The update of Chan, Golub and LeVeque (1983). Sums of squares would cancel for features
        # far from 0.
        if other.total == 0:
            return self
        total = self.total + other.total
        shift = other.mean - self.mean
        squares = self.squares + other.squares
        squares = squares + shift.square() * (self.total * other.total / total)
        mean = self.mean + shift * (other.total / total)
        return _Sums(self.n_rows + other.n_rows, total, mean, squares)


def feature_moments(
    sets: FeatureSets,
    with_std: bool,
    weights: NDArray[np.float64] | None = None,
    ranks: Ranks = ALONE,
) -> FeatureMoments:
    """Return the moments over all local features of all sets, in one pass.

    Features that are constant up to the rounding of their dtype get a standard deviation of 0.
    If `with_std` is False, all features do, which saves time. A set of weight w counts like w equal
    sets of weight 1. Each rank reads its part of the sets.

    Raises
    ------
    ValueError
        If a mean or a variance is beyond the range of float64.
    """
    if sets.blocks is not None:
        # In the order of a compressed store, every block is decoded only once.
        order = np.argsort(sets.numbers)
        sets, weights = sets[order], None if weights is None else weights[order]
    own = ranks.own(len(sets))
    sums = _sums(sets[own], with_std, None if weights is None else weights[own])
    first, *others = ranks.all_of(sums)
    n_rows, total, mean, squares = functools.reduce(_Sums.merged, others, first)
    is_finite = np.isfinite(mean.numpy())
    if with_std:  # else `squares` has only the deviations between the means of the pieces
        is_finite &= np.isfinite(squares.numpy())
    if not is_finite.all():
        raise ValueError(
            f"The local features of X are too large in column {is_finite.argmin()}: their mean or "
            "their variance is beyond the range of float64. Divide the features by a constant."
        )
    variance = squares / (total or 1.0)
    # The threshold of scikit-learn's StandardScaler: below it, the variance is rounding error.
    rounding = n_rows * torch.finfo(torch.float64).eps
    is_constant = variance <= rounding * variance + (rounding * mean).square()
    is_constant |= variance.sqrt() <= relative_rounding(sets.dtype) * mean.abs()
    std = variance.sqrt().masked_fill(is_constant, 0)
    if not with_std:
        std.zero_()
    return FeatureMoments(mean.numpy(), std.numpy(), n_rows)


def _sums(sets: FeatureSets, with_std: bool, weights: NDArray[np.float64] | None) -> _Sums:
    # Sums stay on the device of the local features: it would wait whenever one is read.
    device = device_of(sets)
    zeros = torch.zeros(sets.n_features, dtype=torch.float64, device=device)
    sums = _Sums(0, 0.0, zeros, zeros)
    for values, own in _pieces(sets, weights):
        if len(values):
            if own is None:
                size, mean = float(len(values)), values.mean(dim=0, dtype=torch.float64)
            else:
                size = float(own.sum())
                own = own.to(device)
                mean = own @ values.double() / size
            squares = torch.zeros_like(mean)
            if with_std:
                deviations = (values.double() - mean).square_()
                squares = deviations.sum(dim=0) if own is None else own @ deviations
            sums = sums.merged(_Sums(len(values), size, mean, squares))
        del values  # the next piece may need its memory
    return sums._replace(mean=sums.mean.cpu(), squares=sums.squares.cpu())


def _piece_size(device: torch.device) -> tuple[int, int]:
    """Return how many numbers a piece has, and how many blocks of items are read together."""
    if device.type == "cuda":
        return 1 << 24, 4  # launching a kernel takes longer than a smaller piece
    # Deviations and their squares, in float64, fit into a cache.
    return 1 << 18, 1


def _pieces(
    sets: FeatureSets, weights: NDArray[np.float64] | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
    """Yield the local features of blocks of items, divided if very large, and their weights.

    Local features that are on a device stay there; their weights are on the CPU.
    """
    n_numbers, n_blocks = _piece_size(device_of(sets))
    max_rows, n_items = max(1, n_numbers // sets.n_features), n_blocks * items_per_block(sets)
    # float32 holds all integers of 2 bytes, but not those of 4.
    is_wide = sets.dtype.itemsize > (4 if sets.dtype.kind == "f" else 2)
    like = torch.empty((), dtype=torch.float64 if is_wide else torch.float32, device="cpu")
    first = 0
    for ((values, offsets),) in BatchSource([sets], like).in_order(n_items):
        lengths = offsets.diff().cpu()
        if weights is None:
            for piece in values.split(max_rows):
                yield piece, None
        else:
            of_items = torch.from_numpy(weights[first : first + len(lengths)])
            of_rows = of_items.repeat_interleave(lengths)
            yield from zip(values.split(max_rows), of_rows.split(max_rows), strict=True)
        first += len(lengths)
        del values
