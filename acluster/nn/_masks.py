"""Masks that restrict which local features a unit attends to.

A temporal pyramid restricts a unit to its part of the set, and `n_attended` restricts it to the
local features with the highest logits. The logits of all others become so low that the softmax
gives them a weight of exactly 0.
"""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from acluster.nn import _compiled
from acluster.nn.pooling import runs_triton

_MAX_SORTED = 32  # The compiled kernel sorts by insertion, which is slow for long lists.

# Of a program of the Triton kernel: 4,096 logits take 32 registers of each of 128 threads.
_UNITS_PER_TILE = 16
_MAX_ROWS_PER_TILE = 256


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the logits with a very low value where `mask` is True.

    The value is half of the lowest finite number rather than -∞: a softmax subtracts the highest
    logit, which must not overflow, and some kernels do not accept infinities.
    """
    return logits.masked_fill(mask, torch.finfo(logits.dtype).min / 2)


def positions_and_lengths(offsets: Tensor, n_rows: int) -> tuple[Tensor, Tensor]:
    """Return, for every row of packed sets, its position in its set and the size of the set.

    Rows beyond the last set belong to it here. No value is read back from the device.
    """
    rows = torch.arange(n_rows, device=offsets.device)
    item = torch.searchsorted(offsets[1:-1].contiguous(), rows, right=True)
    starts, lengths = offsets[item], offsets.diff()[item]
    return rows - starts, lengths


def outside_pyramid_part(
    positions: Tensor, lengths: Tensor, cluster_size: int, n_levels: int
) -> Tensor:
    """Return which local features are outside a unit's part of a temporal pyramid.

    Level l has 2^l parts. The units are distributed over all parts as evenly as possible. Part s
    of S runs from ``floor(s L / S)`` to ``floor((s + 1) L / S)``. It has at least one local
    feature, so that parts overlap in sets with fewer than S.

    Parameters
    ----------
    positions, lengths : Tensors of int64, of shapes that broadcast
        The position of each local feature in its set, and the size of the set.

    cluster_size : int
        The number N of attention units.

    n_levels : int
        The number of levels of the pyramid.

    Returns
    -------
    Tensor of bool, of shape (..., N)
        The last axis is that of the units.
    """
    (part, n_parts), part_of_unit = pyramid(cluster_size, n_levels, positions.device)
    starts = part * lengths[..., None] // n_parts
    ends = torch.maximum((part + 1) * lengths[..., None] // n_parts, starts + 1)
    outside = (positions[..., None] < starts) | (positions[..., None] >= ends)
    return outside[..., part_of_unit]


def pyramid(cluster_size: int, n_levels: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return the parts of a temporal pyramid, and which part every unit attends to.

    Parameters
    ----------
    cluster_size : int
        The number N of attention units.

    n_levels : int
        The number of levels of the pyramid.

    device : torch.device or str
        The device of the results, which are computed there: nothing is copied to it.

    Returns
    -------
    Tensor of int64, of shape (2, n_parts)
        ``s`` and ``S`` for part s = 0, 1, ... of the S = 2^l parts of level l.

    Tensor of int64, of shape (N,)
        The number of every unit's part.
    """
    # Part s of S has the number S - 1 + s.
    numbers = torch.arange(2**n_levels - 1, device=device)
    n_parts = torch.cat([numbers.new_full((2**level,), 2**level) for level in range(n_levels)])
    units = torch.arange(cluster_size, device=device)
    return torch.stack([numbers + 1 - n_parts, n_parts]), units * len(numbers) // cluster_size


def below_top_k(logits: Tensor, k: int) -> Tensor:
    """Return which logits are below the k highest of their set and unit; ties are kept.

    Parameters
    ----------
    logits : Tensor of shape (..., L, N)
        The logits of one set, or of padded sets with -∞ in the padding.

    k : int
        The number of logits to keep; at most L.

    Returns
    -------
    Tensor of bool, of the same shape
    """
    return logits < logits.detach().topk(k, dim=-2).values[..., -1:, :]


def below_top_k_of_sets(logits: Tensor, offsets: Tensor, k: int) -> Tensor:
    """Return which logits are below the k highest of their set and unit; ties are kept.

    Parameters
    ----------
    logits : Tensor of shape (R, N)
        The logits of all sets, end to end.

    offsets : Tensor of int64, shape (n + 1,)
        Set i is ``logits[offsets[i]:offsets[i + 1]]``.

    k : int
        The number of logits to keep; sets of fewer keep all.

    Returns
    -------
    Tensor of bool, of shape (R, N)
    """
    logits = logits.detach()
    if runs_triton(logits):
        return _below_highest_triton(logits.contiguous(), offsets, k)
    lengths = offsets.diff().cpu()
    if k <= _MAX_SORTED and _compiled.available_for(logits):
        logits = logits.contiguous()
        highest = logits.new_empty(len(lengths), logits.shape[1], k)
        below = torch.zeros_like(logits, dtype=torch.bool)
        _compiled.run("below_highest", logits, offsets, highest, below)
        return below
    sets = logits.split(lengths.tolist())
    if len(sets) * int(lengths.max()) > 2 * len(logits):  # padding would take too much memory
        return torch.cat([below_top_k(scores, min(k, len(scores))) for scores in sets])
    padded = pad_sequence([*sets], batch_first=True, padding_value=-torch.inf)
    is_item = torch.arange(padded.shape[1], device="cpu") < lengths[:, None]
    return below_top_k(padded, min(k, padded.shape[1]))[is_item.to(logits.device)]


def _below_highest_triton(logits: Tensor, offsets: Tensor, k: int) -> Tensor:
    """Compute what `below_top_k_of_sets` returns, on a CUDA device, with `offsets` anywhere."""
    from acluster.nn import _masks_kernels as kernels

    n, N = len(offsets) - 1, logits.shape[1]
    below = torch.zeros(logits.shape, dtype=torch.uint8, device=logits.device)
    block_l = min(max(1 << (-(-len(logits) // n) - 1).bit_length(), 16), _MAX_ROWS_PER_TILE)
    with torch.cuda.device_of(logits):
        kernels.below_highest_kernel[(n, -(-N // _UNITS_PER_TILE))](
            *(logits, offsets.to(logits.device, non_blocking=True), below, k, N),
            **{"BLOCK_N": _UNITS_PER_TILE, "BLOCK_L": block_l},
        )
    return below.view(torch.bool)
