"""Attention over packed sets: softmax of the logits within each set, then weighted averages.

Here is what `attend` computes, in plain torch. Three faster ways to the same numbers lie
beside it: `_analytic` (torch, any device), `_numba` (processors) and
`_triton` (CUDA).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from acluster.nn import _compiled
from acluster.nn.pooling import _triton
from acluster.nn.pooling._analytic import attend_analytic
from acluster.nn.pooling._numba import attend_numba

__all__ = ["attend", "attention_weights", "shifted"]


def attend(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shift: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Weighted averages of every set, one per attention unit (equation 2), and their shift.

    Parameters
    ----------
    values : Tensor of shape (R, M)
        The local features of all sets, end to end.

    offsets : Tensor of int64, shape (n + 1,)
        Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty.

    logits : Tensor of shape (R, N)
        What each unit thinks of each local feature.

    shift : pair of Tensors of shape (N, 1), optional
        α and β of the shifting operation (equation 7), which is then done too.

    Returns
    -------
    Tensor of shape (n, N, M)
        ``v = X a`` with ``a = softmax(logits)`` over each set; with `shift`,
        ``(α·v + β) / (√N · ‖α·v + β‖₂)``. Of the dtype of `values`; differentiable once in
        all but `offsets`.

    Raises
    ------
    ValueError
        If `offsets`, being on the CPU, do not cut all the rows into sets that are not empty.

    Notes
    -----
    Features that need no gradient, the usual case, take a faster way: kernels of Triton on a
    GPU and of Numba on a processor, where these are installed, else, and for features that need
    a gradient, torch with the derivatives written out. Results agree to rounding.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import attend
    >>> values, offsets = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 3])
    >>> attend(values, offsets, torch.zeros(3, 1)).flatten()
    tensor([2., 5.])
    """
    _check_offsets(offsets, len(values))
    if values.requires_grad:
        return attend_analytic(values, offsets, logits, shift)
    if _triton.supports(values, logits):
        return _triton.attend_triton(values, offsets, logits, shift).to(values.dtype)
    if _compiled.available_for(values, logits):
        return attend_numba(values, offsets, logits, shift)
    return attend_analytic(values, offsets, logits, shift)


def attend_plainly(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shift: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What `attend` does, set by set, with torch's own derivatives."""
    lengths = offsets.diff().tolist()
    pooled = torch.stack(
        [
            scores.softmax(dim=0).T @ rows
            for rows, scores in zip(values.split(lengths), logits.split(lengths), strict=True)
        ]
    )
    return pooled if shift is None else shifted(pooled, *shift)


def shifted(pooled: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """The shifting operation (equation 7) on (n, N, M): each unit gets the norm 1/√N."""
    return functional.normalize(alpha * pooled + beta, dim=-1) * len(alpha) ** -0.5


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
    return torch.cat([part.softmax(dim=0) for part in logits.split(offsets.diff().tolist())])


def without_empty(offsets: Tensor) -> Tensor:
    """The offsets without those of empty sets, which own no rows."""
    return torch.cat([offsets[:-1][offsets.diff() > 0], offsets[-1:]])


def _check_offsets(offsets: Tensor, n_rows: int) -> None:
    if offsets.device.type != "cpu":  # looking at them would wait for the device
        return
    ends = offsets.tolist()
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != n_rows:
        raise ValueError(
            f"offsets must run from 0 to the number of local features, {n_rows}, and hold at "
            f"least one set; got {ends[:2]} to {ends[-1:]}."
        )
    if any(start >= end for start, end in pairwise(ends)):
        raise ValueError("offsets must rise from set to set: every set needs a local feature.")
