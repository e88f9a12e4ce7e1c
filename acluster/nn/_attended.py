"""Which local features a unit may attend to: those of its part of time, or its highest few.

Others get a logit so low that the softmax makes a weight of zero of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_below_highest", "is_outside", "masked", "places_and_lengths"]


def masked(logits: Tensor, is_out: Tensor) -> Tensor:
    """Logits, very low where `is_out`.

    Half of the lowest number there is: a softmax subtracts the highest logit, and some kernels
    take infinities for errors.
    """
    return logits.masked_fill(is_out, torch.finfo(logits.dtype).min / 2)


def places_and_lengths(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Of every row of packed sets: where in its set it is, and how many rows that has."""
    lengths = offsets.diff()
    starts, lengths = (of_set.repeat_interleave(lengths) for of_set in (offsets[:-1], lengths))
    return torch.arange(len(starts), device=starts.device) - starts, lengths


def is_outside(places: Tensor, lengths: Tensor, cluster_size: int, n_levels: int) -> Tensor:
    """Whether a local feature is outside of a unit's part of a temporal pyramid.

    Level l has 2^l parts; all parts are dealt out to the units as evenly as can be. Part s of S
    runs from ``floor(s L / S)`` to ``floor((s + 1) L / S)``, and has one local feature at least:
    parts overlap in sets that have fewer than S.

    Parameters
    ----------
    places, lengths : Tensors of int64, of shapes that go together
        Where in its set a local feature is, and how many there are.

    cluster_size, n_levels : int
        Of units, and of levels.

    Returns
    -------
    Tensor of bool
        Of their shape, with one more axis of size N.
    """
    parts = [(number, 2**level) for level in range(n_levels) for number in range(2**level)]
    number, of = torch.tensor(parts, device=places.device).T
    starts = number * lengths[..., None] // of
    ends = torch.maximum((number + 1) * lengths[..., None] // of, starts + 1)
    outside = (places[..., None] < starts) | (places[..., None] >= ends)
    own = torch.arange(cluster_size, device=places.device) * len(parts) // cluster_size
    return outside[..., own]


def is_below_highest(logits: Tensor, n_attended: int) -> Tensor:
    """Whether at least so many logits of the same set and unit are higher.

    Parameters
    ----------
    logits : Tensor of shape (..., L, N)
        Of a set, or of padded ones with -∞ for what pads.

    n_attended : int
        Not more than L.

    Returns
    -------
    Tensor of bool, of the same shape
    """
    return logits < logits.detach().topk(n_attended, dim=-2).values[..., -1:, :]
