"""Attention over packed sets: softmax of the logits within each set, then weighted averages."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["attend", "attention_weights"]


def attend(values: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """Weighted averages of every set, one per attention unit (equation 2).

    Parameters
    ----------
    values : Tensor of shape (R, M)
        The local features of all sets, end to end.

    offsets : Tensor of int64, shape (n + 1,)
        Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty.

    logits : Tensor of shape (R, N)
        What each unit thinks of each local feature.

    Returns
    -------
    Tensor of shape (n, N, M)
        ``v = X a`` with ``a = softmax(logits)`` over each set. Differentiable in
        `values` and `logits`.

    Notes
    -----
    Sets of equal size are pooled together in one batched matrix product: nothing is
    padded, and the memory is that of the sets, however much their sizes differ.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import attend
    >>> values, offsets = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 3])
    >>> attend(values, offsets, torch.zeros(3, 1)).flatten()
    tensor([2., 5.])
    """
    items, rows, groups = _sort_by_length(offsets)
    pooled = [
        a.softmax(dim=1).mT @ X
        for a, X in zip(_split(logits, rows, groups), _split(values, rows, groups), strict=True)
    ]
    if rows is None:
        return pooled[0]
    return torch.cat(pooled).index_select(0, items.argsort().to(values.device))


def attention_weights(offsets: Tensor, logits: Tensor) -> Tensor:
    """The weights a, packed: softmax of the logits within each set.

    Parameters
    ----------
    offsets : Tensor of int64, shape (n + 1,)
        Set i owns the rows ``offsets[i]`` to ``offsets[i + 1]``; no set is empty.

    logits : Tensor of shape (R, N)
        What each unit thinks of each local feature.

    Returns
    -------
    Tensor of shape (R, N)
        Every column sums to 1 over the rows of each set.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import attention_weights
    >>> attention_weights(torch.tensor([0, 2, 3]), torch.zeros(3, 1)).flatten()
    tensor([0.5000, 0.5000, 1.0000])
    """
    _, rows, groups = _sort_by_length(offsets)
    weights = [a.softmax(dim=1).flatten(0, 1) for a in _split(logits, rows, groups)]
    if rows is None:
        return weights[0]
    return torch.cat(weights).index_select(0, rows.argsort().to(logits.device))


def _sort_by_length(offsets: Tensor) -> tuple[Tensor, Tensor | None, list[tuple[int, int]]]:
    """Order the sets by size, so that sets of equal size lie side by side.

    Returns the sets in their new order, the rows in their new order (None when all sets
    are of one size and nothing moves), and for every size how many sets have it.
    """
    offsets = offsets.cpu()
    lengths = offsets.diff()
    sizes, counts = lengths.unique(return_counts=True)
    groups = list(zip(counts.tolist(), sizes.tolist(), strict=True))
    items = lengths.argsort(stable=True)
    if len(groups) == 1:
        return items, None, groups
    lengths = lengths[items]
    new_starts = lengths.cumsum(0) - lengths
    moves = torch.repeat_interleave(offsets[items] - new_starts, lengths)
    return items, torch.arange(len(moves)) + moves, groups


def _split(packed: Tensor, rows: Tensor | None, groups: list[tuple[int, int]]) -> list[Tensor]:
    """The packed rows in their new order, cut into one (count, size, ·) tensor per size."""
    # One gather and one split, not a gather per size: the backward of each would write all rows.
    ordered = packed if rows is None else packed.index_select(0, rows.to(packed.device))
    pieces = ordered.split([count * size for count, size in groups])
    return [piece.unflatten(0, group) for piece, group in zip(pieces, groups, strict=True)]
