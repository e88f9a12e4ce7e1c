"""Packed sets as sequences: padded, resampled to a fixed length, or divided into segments."""

import torch
from torch import Tensor
from torch.nn import functional


def padded(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Return sets padded with zeros, (n, L, M), and a mask (n, L) that is False in the padding."""
    lengths = offsets.diff()
    places = torch.arange(int(lengths.max()), device=offsets.device)
    inside = (places < lengths[:, None]).to(values.device)
    rows = (offsets[:-1, None] + places).clamp(max=len(values) - 1).to(values.device)
    return values[rows].masked_fill(~inside[..., None], 0), inside


def resampled(values: Tensor, offsets: Tensor, n_steps: int) -> Tensor:
    """Return `n_steps` local features of each set, taken at even distances, (n, n_steps, M).

    Step k of K is the local feature at position ``floor((k + ½) L / K)``. In sets of fewer than K,
    some are repeated.
    """
    steps = torch.arange(n_steps, device=offsets.device)
    places = (2 * steps + 1) * offsets.diff()[:, None] // (2 * n_steps)
    return values[(offsets[:-1, None] + places).to(values.device)]


def segment(offsets: Tensor, number: int, n_segments: int) -> tuple[Tensor, Tensor]:
    """Return the rows of one contiguous segment of every set, and the offsets of these rows.

    Segment s of S runs from ``floor(s L / S)`` to ``floor((s + 1) L / S)``, and has at least one
    local feature.
    """
    lengths = offsets.diff()
    starts = number * lengths // n_segments
    sizes = ((number + 1) * lengths // n_segments - starts).clamp(min=1)
    own = functional.pad(sizes.cumsum(0), (1, 0))
    moved_by = (offsets[:-1] + starts - own[:-1]).repeat_interleave(sizes)
    return torch.arange(int(own[-1]), device=offsets.device) + moved_by, own
