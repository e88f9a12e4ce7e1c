"""Attention over packed sets: softmax of the logits within each set, then weighted averages.

`attend_plainly` is the definition, in a few lines of torch. `attend` computes the same faster,
with one of three implementations that agree with the definition to rounding: `_analytic` (torch,
any device), `_numba` (CPU) and `_triton` (CUDA).
"""

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from acluster.nn import _compiled
from acluster.nn.pooling import _triton
from acluster.nn.pooling._analytic import Shift, attend_analytic
from acluster.nn.pooling._numba import attend_numba
from acluster.nn.pooling._triton import runs_triton

__all__ = ["attend", "attention_weights", "runs_triton", "shifted"]


def attend_plainly(values: Tensor, offsets: Tensor, logits: Tensor, shift: Shift = None) -> Tensor:
    """Compute what `attend` returns set by set, with torch's own derivatives."""
    lengths = offsets.diff().tolist()
    by_set = zip(values.split(lengths), logits.split(lengths), strict=True)
    pooled = torch.stack([scores.softmax(dim=0).T @ rows for rows, scores in by_set])
    return pooled if shift is None else shifted(pooled, *shift)


def shifted(pooled: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Apply the shifting operation (equation 7) to (n, N, M); each unit gets the norm 1/√N."""
    # A tensor, because the export to ONNX rounds a number of Python to float32.
    norm = torch.tensor(len(alpha) ** -0.5, dtype=torch.float64, device="cpu")
    return functional.normalize(alpha * pooled + beta, dim=-1) * norm


def attention_weights(offsets: Tensor, logits: Tensor) -> Tensor:
    """Return the attention weights a: the softmax of the logits within each set.

    Parameters
    ----------
    offsets : Tensor of int64, shape (n + 1,)
        Set i is the rows ``offsets[i]`` to ``offsets[i + 1]``; no set is empty.

    logits : Tensor of shape (R, N)
        The score of every local feature for every attention unit.

    Returns
    -------
    Tensor of shape (R, N)
        Every column sums to 1 over the rows of each set.

    Raises
    ------
    ValueError
        If `offsets` is on the CPU and does not divide all rows into non-empty sets.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import attention_weights
    >>> attention_weights(torch.tensor([0, 2, 3]), torch.zeros(3, 1)).flatten()
    tensor([0.5000, 0.5000, 1.0000])
    """
    _check_offsets(offsets, len(logits))
    return torch.cat([part.softmax(dim=0) for part in logits.split(offsets.diff().tolist())])


def attend(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shift: Shift = None,
    n_learned: int | None = None,
) -> Tensor:
    """Return the weighted averages of every set, one per attention unit (equation 2).

    Parameters
    ----------
    values : Tensor of shape (R, M)
        The local features of all sets, end to end.

    offsets : Tensor of int64, shape (n + 1,)
        Set i is ``values[offsets[i]:offsets[i + 1]]``; no set is empty.

    logits : Tensor of shape (R, N)
        The score of every local feature for every attention unit.

    shift : pair of Tensors of shape (N, 1), optional
        α and β of the shifting operation (equation 7). If given, the operation is applied to
        the averages.

    n_learned : int, optional
        If `values` require a gradient, only the last `n_learned` of the M features need it: the
        gradient of the others may be 0. By default, all need it.

    Returns
    -------
    Tensor of shape (n, N, M)
        ``v = X a`` with ``a = softmax(logits)`` over each set; with `shift`,
        ``(α·v + β) / (√N · ‖α·v + β‖₂)``. The dtype is that of `values`. The result is
        differentiable once with respect to all arguments but `offsets`.

    Raises
    ------
    ValueError
        If `offsets` is on the CPU and does not divide all rows into non-empty sets, or `n_learned`
        is not one of 1 to M.

    Notes
    -----
    Compiled kernels compute the result if they are installed: Triton's on a GPU; on a CPU, Numba's,
    for features that need no gradient, or need it only for the last `n_learned`. Otherwise, torch
    computes it, with the derivatives written out. All results agree to rounding.

    Examples
    --------
    >>> import torch
    >>> from acluster.nn import attend
    >>> values, offsets = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 2, 3])
    >>> attend(values, offsets, torch.zeros(3, 1)).flatten()
    tensor([2., 5.])
    """
    _check_offsets(offsets, len(values))
    if n_learned is not None and not 1 <= n_learned <= values.shape[1]:
        raise ValueError(
            f"n_learned={n_learned} must be one of 1 to {values.shape[1]}, the number of features."
        )
    if _triton.supports(values, logits):
        # The kernels return the dtype of the logits, which is wider than that of the features in
        # mixed precision.
        return _triton.attend_triton(values, offsets, logits, shift, n_learned).to(values.dtype)
    # Features that all need a gradient stay with torch, so that a seed keeps its bits.
    if (n_learned or not values.requires_grad) and _compiled.available_for(values, logits):
        return attend_numba(values, offsets, logits, shift, n_learned or 0)
    return attend_analytic(values, offsets, logits, shift)


def drop_empty_sets(offsets: Tensor) -> Tensor:
    """Return the offsets without those of empty sets, which own no rows."""
    return torch.cat([offsets[:-1][offsets.diff() > 0], offsets[-1:]])


def _check_offsets(offsets: Tensor, n_rows: int) -> None:
    if offsets.device.type != "cpu":  # reading them would wait for the device to catch up
        return
    ends = offsets.tolist()
    if len(ends) < 2 or ends[0] != 0 or ends[-1] != n_rows:
        raise ValueError(
            f"offsets must run from 0 to the number of local features, {n_rows}, and hold at "
            f"least one set; got {ends[:2]} to {ends[-1:]}."
        )
    if any(start >= end for start, end in pairwise(ends)):
        raise ValueError(
            "offsets must increase strictly, because every set needs at least one local feature. "
            "Drop the empty sets."
        )
