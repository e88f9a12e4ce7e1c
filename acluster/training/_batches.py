"""From FeatureSets to the packed tensors of a batch: order, gather, sample, move."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acluster.sets import FeatureSets

__all__ = ["Packed", "batches", "pack", "sample_local_features"]

Packed = tuple[Tensor, Tensor]  # values (R, M) on the device, offsets (n + 1,) on the CPU


def batches(
    n_items: int, batch_size: int, random_state: np.random.RandomState | None = None
) -> Iterator[NDArray[np.int64] | slice]:
    """The items of each batch of an epoch, shuffled when a random state is given.

    One batch that holds everything is not shuffled: its order changes nothing, and the
    features then need no gathering.
    """
    if random_state is None or batch_size >= n_items:
        yield from (slice(i, i + batch_size) for i in range(0, n_items, batch_size))
    else:
        order = random_state.permutation(n_items)
        yield from (order[i : i + batch_size] for i in range(0, n_items, batch_size))


def pack(
    sets: FeatureSets,
    like: Tensor,
    *,
    n_local_features: int | None = None,
    random_state: np.random.RandomState | None = None,
) -> Packed:
    """The sets end to end as tensors with the dtype and device of `like`.

    Parameters
    ----------
    sets : FeatureSets
        The items of one batch.

    like : Tensor
        A parameter of the network that will see them.

    n_local_features : int, optional
        Keep this many local features of each set, drawn anew at every call.

    random_state : RandomState, optional
        Draws them.
    """
    values, offsets = sets.packed()
    if n_local_features is not None and random_state is not None:
        values, offsets = sample_local_features(values, offsets, n_local_features, random_state)
    dtype = str(like.dtype).removeprefix("torch.")
    try:
        with np.errstate(over="raise"):
            values = values.astype(dtype, copy=False)
    except FloatingPointError:
        raise ValueError(
            f"X has values beyond the range of {dtype}, up to {np.abs(values).max():g}; "
            "standardise the local features, or use float64 for X and dtype."
        ) from None
    if not values.flags.writeable or min(values.strides) < 0:  # torch takes neither
        values = values.copy()
    return torch.from_numpy(values).to(like.device), torch.from_numpy(offsets)


def sample_local_features(
    values: NDArray[np.floating],
    offsets: NDArray[np.int64],
    n_local_features: int,
    random_state: np.random.RandomState,
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Local feature set augmentation (section 5.3): a random part of every set.

    Draws without replacement; a set with no more than `n_local_features` is kept whole.
    """
    lengths = np.diff(offsets)
    if len(lengths) == 0 or lengths.max() <= n_local_features:
        return values, offsets
    item_of_row = np.repeat(np.arange(len(lengths)), lengths)
    shuffled = np.lexsort((random_state.random_sample(len(values)), item_of_row))
    rank = np.arange(len(values)) - np.repeat(offsets[:-1], lengths)
    kept = np.minimum(lengths, n_local_features)
    return values[shuffled[rank < n_local_features]], np.concatenate([[0], np.cumsum(kept)])
