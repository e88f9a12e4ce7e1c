"""Batches at fixed addresses, one per shape, for steps that are recorded.

Ragged sets are padded to one of a few numbers of rows. Rows beyond the last set belong to no item:
pooling ignores them, and their gradient is 0.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from acluster.training._batches import Batch
from acluster.training._packing import Packed, sent_to

# Each takes memory for a batch and for the intermediate results of a step.
_MAX_SHAPES = 16

# Ragged sets are padded to a multiple of 1/8 of a power of two: by at most one eighth.
_BITS_OF_ROWS = 3

Rows = tuple[tuple[int, int, torch.dtype], ...]  # number, width and dtype, per modality


class Shape(NamedTuple):
    """What a recorded step depends on, beside the numbers in its batch."""

    rows: Rows
    targets: tuple[torch.Size, torch.dtype]
    weights: torch.Size


class StaticBatches:
    """Memory at fixed addresses for the batches of every shape.

    Trainers that take their steps on the same batches share it, so that the local features are
    copied once for all of them.

    Parameters
    ----------
    device : torch.device
        The device of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[Shape, Batch] = {}
        # The local features that were seen last, their rows, and where they were copied to.
        self._seen: list[weakref.ref[Tensor]] = []
        self._rows: Rows | None = None
        self._filled: Batch | None = None

    def has_fixed_address(self, shape: Shape) -> bool:
        """Return whether the next batch of this shape will be where the last one was."""
        return shape in self._kept

    def shape_of(self, batch: Batch) -> Shape | None:
        """Return the shape of a whole batch; None for a part of one, or if a set is empty."""
        if not batch.ends_step or batch.share is not None or len(batch.targets) != batch.n_items:
            return None
        if not self._are_seen(batch.sets):
            self._rows = _rows_of(batch.sets)
            self._seen = [weakref.ref(values) for values, _ in batch.sets]
            self._filled = None
        if self._rows is None:
            return None
        return Shape(self._rows, (batch.targets.shape, batch.targets.dtype), batch.weights.shape)

    def copied(self, shape: Shape, batch: Batch) -> Batch:
        """Return a copy of a batch at the address of its shape, with offsets on the device.

        `shape` is the last result of `shape_of`.
        """
        static = self._kept.get(shape)
        if static is None:
            static = self._allocated(shape, batch)
            if len(self._kept) < _MAX_SHAPES:
                self._kept[shape] = static
        if static is not self._filled:
            for (values, offsets), (own, own_offsets) in zip(batch.sets, static.sets, strict=True):
                own[: len(values)].copy_(values)
                own_offsets.copy_(sent_to(self._device, offsets))
            self._filled = static
        static.targets.copy_(batch.targets)
        static.weights.copy_(batch.weights)
        return static

    def _are_seen(self, sets: Sequence[Packed]) -> bool:
        seen = [reference() for reference in self._seen]
        return len(seen) == len(sets) and all(
            one is values for one, (values, _) in zip(seen, sets, strict=True)
        )

    def _allocated(self, shape: Shape, batch: Batch) -> Batch:
        # Products with the rows beyond the last set must be finite: these rows start at zero.
        sets = [
            (torch.zeros(n_rows, width, dtype=dtype, device=self._device), offsets.to(self._device))
            for (n_rows, width, dtype), (_, offsets) in zip(shape.rows, batch.sets, strict=True)
        ]
        targets, weights = torch.empty_like(batch.targets), torch.empty_like(batch.weights)
        return Batch(sets, targets, weights, batch.n_items)


def _rows_of(sets: Sequence[Packed]) -> Rows | None:
    """Return the rows that sets are padded to, their widths and dtypes; None if one is empty."""
    lengths = [offsets.diff() for _, offsets in sets]
    if any(int(own.min()) == 0 for own in lengths):
        return None
    return tuple(
        (padded_rows(own), values.shape[1], values.dtype)
        for own, (values, _) in zip(lengths, sets, strict=True)
    )


def padded_rows(lengths: Tensor) -> int:
    """Return the number of rows of a batch with padding; none is added to sets of equal size."""
    n_rows = int(lengths.sum())
    if bool((lengths == lengths[0]).all()):
        return n_rows
    step = 1 << max(0, n_rows.bit_length() - 1 - _BITS_OF_ROWS)
    return -(-n_rows // step) * step
