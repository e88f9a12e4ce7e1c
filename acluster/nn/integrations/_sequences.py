"""Packed sets as sequences: padded, resampled to a fixed length, or cut into segments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["padded", "resampled", "segment"]


def padded(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Sets as (n, L, M), 0 beyond the last local feature of each, and (n, L): True up to it."""
    lengths = offsets.diff()
    places = torch.arange(int(lengths.max()))
    inside = (places < lengths[:, None]).to(values.device)
    rows = (offsets[:-1, None] + places).clamp(max=len(values) - 1).to(values.device)
    return values[rows].masked_fill(~inside[..., None], 0), inside


def resampled(values: Tensor, offsets: Tensor, n_steps: int) -> Tensor:
    """Of each set as many local features, at even distances, (n, n_steps, M).

    Step k of K is the local feature at ``floor((k + ½) L / K)``: some are taken more than once
    where there are fewer than K.
    """
    places = (2 * torch.arange(n_steps) + 1) * offsets.diff()[:, None] // (2 * n_steps)
    return values[(offsets[:-1, None] + places).to(values.device)]


def segment(offsets: Tensor, number: int, n_segments: int) -> tuple[Tensor, Tensor]:
    """The rows of one of several contiguous segments of every set, and their offsets.

    Segment s of S runs from ``floor(s L / S)`` to ``floor((s + 1) L / S)``, and has one local
    feature at least.
    """
    lengths = offsets.diff()
    starts = number * lengths // n_segments
    sizes = ((number + 1) * lengths // n_segments - starts).clamp(min=1)
    own = functional.pad(sizes.cumsum(0), (1, 0))
    rows = torch.arange(int(own[-1])) + (offsets[:-1] + starts - own[:-1]).repeat_interleave(sizes)
    return rows, own
