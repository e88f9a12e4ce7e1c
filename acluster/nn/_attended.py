"""Which local features a unit may attend to: those of its part of time, or its highest few.

What it may not has a logit so low that the softmax makes a weight of zero of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["is_below_highest", "is_outside", "masked", "parts_of_units"]


def masked(logits: Tensor, is_out: Tensor) -> Tensor:
    """Finite, as kernels may take infinities for errors; half, as they subtract the largest."""
    return logits.masked_fill(is_out, torch.finfo(logits.dtype).min / 2)


def parts_of_units(cluster_size: int, n_levels: int) -> Tensor:
    """The parts of a temporal pyramid, dealt out to the units as evenly as can be, (2, N).

    Level l has 2^l parts, 0 to 2^l - 1; a column is the number of a unit's part, and how many its
    level has.
    """
    parts = [(number, 2**level) for level in range(n_levels) for number in range(2**level)]
    own = torch.arange(cluster_size) * len(parts) // cluster_size
    return torch.tensor(parts)[own].T


def is_outside(places: Tensor, lengths: Tensor, parts: Tensor) -> Tensor:
    """Whether a local feature is outside of a unit's part of its set.

    Part s of S runs from ``floor(s L / S)`` to ``floor((s + 1) L / S)`` of L local features, and
    has one at least.

    Parameters
    ----------
    places, lengths : Tensors of int64, shapes that go together
        Where in its set a local feature is, and how many there are.

    parts : Tensor of int64, shape (2, N)
        From `parts_of_units`.

    Returns
    -------
    Tensor of bool
        Of their shape, with N more columns.
    """
    number, of = parts
    starts = number * lengths[..., None] // of
    ends = torch.maximum((number + 1) * lengths[..., None] // of, starts + 1)
    return (places[..., None] < starts) | (places[..., None] >= ends)


def is_below_highest(logits: Tensor, n_attended: int) -> Tensor:
    """Whether fewer than so many logits of a set and a unit are as high.

    Parameters
    ----------
    logits : Tensor of shape (n, L, N)
        Of padded sets, -∞ for what pads.

    n_attended : int
        How many are not below, or more where they tie.

    Returns
    -------
    Tensor of bool, shape (n, L, N)
    """
    scores = torch.nn.functional.pad(logits.detach(), (0, 0, 0, n_attended), value=-torch.inf)
    return logits < scores.topk(n_attended, dim=1).values[:, -1:]
