"""Attention over packed sets: softmax of the logits within each set, then weighted averages."""

from __future__ import annotations

from collections.abc import Iterator

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

    Raises
    ------
    ValueError
        If `offsets` do not cut all the rows.

    Notes
    -----
    Sets of equal size are pooled in one batched matrix product, without padding. Else the
    sets are sorted into classes of sizes up to 1, 2, 4, 8, … and padded within a class: few
    products, and less than twice the memory of the sets however much their sizes differ.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import attend
    >>> values, offsets = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 3])
    >>> attend(values, offsets, torch.zeros(3, 1)).flatten()
    tensor([2., 5.])
    """
    _check_offsets(offsets, len(values))
    if (size := _common_size(offsets)) is not None:
        a = logits.unflatten(0, (-1, size)).softmax(dim=1)
        return a.mT @ values.unflatten(0, (-1, size))
    pooled, order = [], []
    for items, rows, real in _size_classes(offsets):
        a = _padded_softmax(logits, rows, real)
        pooled.append(a.mT @ _gather(values, rows))
        order.append(items)
    return torch.cat(pooled).index_select(0, torch.cat(order).argsort().to(values.device))


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
    _check_offsets(offsets, len(logits))
    if (size := _common_size(offsets)) is not None:
        return logits.unflatten(0, (-1, size)).softmax(dim=1).flatten(0, 1)
    weights, order = [], []
    for _, rows, real in _size_classes(offsets):
        weights.append(_padded_softmax(logits, rows, real)[real.to(logits.device)])
        order.append(rows[real])
    return torch.cat(weights).index_select(0, torch.cat(order).argsort().to(logits.device))


def without_empty(offsets: Tensor) -> Tensor:
    """The offsets without those of empty sets, which own no rows."""
    return torch.cat([offsets[:-1][offsets.diff() > 0], offsets[-1:]])


def _check_offsets(offsets: Tensor, n_rows: int) -> None:
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != n_rows:
        raise ValueError(
            f"offsets must run from 0 to the number of local features, {n_rows}, and hold at "
            f"least one set; got {offsets.tolist()[:2]} to {offsets.tolist()[-1:]}."
        )


def _common_size(offsets: Tensor) -> int | None:
    lengths = offsets.diff()
    return int(lengths[0]) if bool((lengths == lengths[0]).all()) else None


def _size_classes(offsets: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Sets of similar size: their numbers (k,), their rows (k, L), and which are not padding."""
    starts, lengths = offsets[:-1].cpu(), offsets.diff().cpu()
    size_class = (lengths - 1).clamp(min=0).double().log2().floor()
    for one_class in torch.unique(size_class):
        items = torch.nonzero(size_class == one_class).flatten()
        position = torch.arange(int(lengths[items].max()), device="cpu")
        real = position < lengths[items, None]
        # Padding repeats a set's own row, of any value: its weight is 0.
        yield items, torch.where(real, starts[items, None] + position, starts[items, None]), real


def _padded_softmax(logits: Tensor, rows: Tensor, real: Tensor) -> Tensor:
    padding = ~real[..., None].to(logits.device)
    return _gather(logits, rows).masked_fill(padding, -torch.inf).softmax(dim=1)


def _gather(packed: Tensor, rows: Tensor) -> Tensor:
    return packed.index_select(0, rows.flatten().to(packed.device)).unflatten(0, rows.shape)
