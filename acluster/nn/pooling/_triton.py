"""`attend` on a CUDA device, as Triton kernels: a fast way to the numbers of `acluster.nn.pooling`.

What bounds it is memory, so what counts is how often each array passes the memory bus. At
N = 64, M = 1536 and 25 local features in float16, a set has 77 kB of features and 393 kB of
pooled output, and its logits 6 kB. Hence:

- The shift needs the norm of a unit's whole output before its first component is written.
  Writing the unshifted output and rescaling it would move it three times. Each program
  instead makes its output twice, a tile of columns at a time, once for the norm and once to
  write it: the second reading of the features should hit the cache, the output moves once,
  and by count the arithmetic takes a part of the time that the writing does. The norm comes
  of the shifted components themselves: α²‖V‖² + 2αβΣV + Mβ² would cancel.
- Few or long sets would leave processors idle; then the columns of a set are shared among
  programs, and a kernel before finds the norms.
- The backward pass reads the features, the output w and its gradient G once, and derives
  from them, with U = αV + β, h = ⟨w, G⟩ and D = X·∂Uᵀ = (X·Gᵀ − N·h·X·wᵀ) / (√N·‖U‖): that
  ∂α = Σ a∘D, ∂β = Σ ∂U, and for the logits α·a∘(D − Σ a∘D). V itself is neither kept nor
  made again; what is kept beside w are three numbers per unit and set.

Every number is written by one program, which adds in a fixed order: no atomics, the same bits
each time. Grids come from shapes alone, so that nothing waits for the device, and a CUDA graph
can record it all. Triton is imported at the first use: importing this module needs none.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["attend_triton", "supports"]

_INSTALLED = importlib.util.find_spec("triton") is not None
# With which Triton builds what calls its kernels.
_HAS_COMPILER = bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
_VALUE_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_lock = threading.Lock()
# Programs that fill a large GPU: about four for each of 132 multiprocessors.
_PROGRAMS = 512


def supports(values: Tensor, logits: Tensor) -> bool:
    """Whether `attend_triton` can take these: on a CUDA device, of known types, with Triton.

    Parameters
    ----------
    values : Tensor of shape (R, M)
        The local features of all sets, end to end.

    logits : Tensor of shape (R, N)
        What each unit thinks of each local feature.

    Returns
    -------
    bool
        False on a CPU, where the kernels run only under Triton's interpreter, for tests.
    """
    return (
        values.is_cuda
        and values.device == logits.device
        and not values.requires_grad
        and values.dtype in _VALUE_DTYPES
        and logits.dtype in _VALUE_DTYPES
        and _INSTALLED
        and _HAS_COMPILER
        and torch.version.hip is None
        and torch.cuda.get_device_capability(values.device) >= (8, 0)
    )


def attend_triton(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shift: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """What `attend` computes, for features that need no gradient.

    The result has the dtype of `logits`. `offsets` may be on the CPU or on the device.

    Notes
    -----
    The products of half-precision features take weights rounded to the same type in the
    forward pass and gradients rounded to tf32 in the backward pass, whose range is that of
    float32. All sums are float32.
    """
    with _lock:
        _hand_to_triton()
    alpha, beta = (None, None) if shift is None else (s.contiguous() for s in shift)
    offsets = offsets.to(values.device, non_blocking=True)
    with torch.cuda.device_of(values):
        return _Attend.apply(values.contiguous(), offsets, logits.contiguous(), alpha, beta)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        offsets: Tensor,
        logits: Tensor,
        alpha: Tensor | None,
        beta: Tensor | None,
    ) -> Tensor:
        n, N, M = len(offsets) - 1, logits.shape[1], values.shape[1]
        blocks = _blocks(n, values, N)
        n_programs = n * _cdiv(N, blocks["BLOCK_N"])
        shares = min(_cdiv(_PROGRAMS, n_programs), _cdiv(M, blocks["BLOCK_M"]))
        pooled = logits.new_empty(n, N, M)
        largest, total, norm = logits.new_empty(3, n, N, dtype=torch.float32)
        inputs = (values, offsets, logits, alpha, beta)
        settings = {"N": N, "M": M, "OPERAND": _operand(values), **blocks}
        squares = None
        if alpha is not None and shares > 1:
            squares = logits.new_empty(n, shares, N, dtype=torch.float32)
            _squares_kernel[(n_programs * shares,)](*inputs, squares, shares, **settings)
        _forward_kernel[(n_programs * shares,)](
            *(*inputs, squares, pooled, largest, total, norm, shares), **settings
        )
        kept = None if alpha is None else pooled
        ctx.save_for_backward(*inputs, kept, largest, total, norm)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, offsets, logits, alpha, beta, pooled, largest, total, norm = ctx.saved_tensors
        n, N, M = gradient.shape
        blocks = _blocks(n, values, N, backward=True)
        n_programs = n * _cdiv(N, blocks["BLOCK_N"])
        shares = _cdiv(_cdiv(len(values), n), blocks["BLOCK_L"])
        derivative = torch.empty_like(logits, dtype=torch.float32)
        alpha_terms, beta_terms = logits.new_empty(2, n, N, dtype=torch.float32)
        precision = "ieee" if values.dtype == torch.float32 else "tf32"
        _derivative_kernel[(n_programs * shares,)](
            *(values, offsets, alpha, pooled, gradient.contiguous(), norm, derivative, beta_terms),
            *(shares, N, M, precision),
            **blocks,
        )
        del blocks["BLOCK_M"]
        _softmax_kernel[(n_programs,)](
            *(offsets, logits, alpha, largest, total, derivative, alpha_terms, N), **blocks
        )
        of_logits = derivative.to(logits.dtype)
        if alpha is None:
            return None, None, of_logits, None, None
        of_alpha, of_beta = alpha_terms.sum(dim=0), beta_terms.sum(dim=0)
        return None, None, of_logits, of_alpha.view_as(alpha), of_beta.view_as(beta)


def _blocks(n: int, values: Tensor, N: int, backward: bool = False) -> dict[str, Any]:
    """How many units, rows and columns a program has in hand at a time, and how it compiles.

    Matrix units want powers of two from 16. Rows follow the mean size of the sets, to pad
    few. A tile of the output leaves registers for three or four programs of four warps on a
    processor, which hide each other's waiting; the backward pass has two such tiles, and more
    of them in flight.
    """
    block_n = _power_of_2(N, 16, 64)
    widest = min(256, (2048 if backward else 4096) // block_n)
    return {
        "BLOCK_N": block_n,
        "BLOCK_L": _power_of_2(_cdiv(len(values), n), 16, 64),
        "BLOCK_M": _power_of_2(values.shape[1], 16, widest),
        "num_stages": 3 if backward else 1,
        "enable_fp_fusion": True,  # Triton's default, which it means to change
    }


def _operand(values: Tensor) -> Any:
    """The type that features are multiplied in; Triton's interpreter cannot do bfloat16."""
    return getattr(tl, str(values.dtype).removeprefix("torch.")) if values.is_cuda else tl.float32


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(size: int, at_least: int, at_most: int) -> int:
    """The next power of two, within bounds."""
    return min(max(1 << (size - 1).bit_length(), at_least), at_most)


# What follows runs on the device. Axes are (unit, row) for logits and weights, (unit, column)
# for the output. A row's number is int64: R·M may pass 2³¹.

tl: Any = None  # triton.language, once in use
_DEVICE_FUNCTIONS: list[str] = []


def _device(function: Callable[..., Any]) -> Any:
    """Mark a function as one for `_hand_to_triton`."""
    _DEVICE_FUNCTIONS.append(function.__name__)
    return function


@cache
def _hand_to_triton() -> None:
    """Import Triton, and let it compile the functions below when they are called.

    Not at import: `import acluster` should neither need Triton nor wait for it.
    """
    names = globals()
    names["tl"] = importlib.import_module("triton.language")
    jit = importlib.import_module("triton").jit
    names.update({name: jit(names[name]) for name in _DEVICE_FUNCTIONS})


@_device
def _place(offsets: tl.tensor, shares: tl.tensor, N: tl.constexpr, BLOCK_N: tl.constexpr) -> Any:
    """The set, the units and the share of this program; those of a set are neighbours."""
    n_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    item = (program // (shares * n_blocks)).to(tl.int64)
    units = program // shares % n_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    return item, units, program % shares, tl.load(offsets + item), tl.load(offsets + item + 1)


@_device
def _scores(
    logits: tl.tensor, rows: tl.tensor, stop: tl.tensor, units: tl.tensor, N: tl.constexpr
) -> Any:
    """Logits of some rows of a set: -inf behind its last, 0 for units that are not there."""
    inside = (rows < stop)[None, :]
    real = (units < N)[:, None] & inside
    scores = tl.load(logits + rows[None, :] * N + units[:, None], mask=real, other=0.0)
    return tl.where(inside, scores.to(tl.float32), float("-inf"))


@_device
def _statistics(
    logits: tl.tensor,
    start: tl.tensor,
    stop: tl.tensor,
    units: tl.tensor,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
) -> Any:
    """The largest logit of a set and the sum of the exponentials below it, per unit."""
    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(start, stop, BLOCK_L):
        scores = _scores(logits, first + tl.arange(0, BLOCK_L), stop, units, N)
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        total *= tl.exp(largest - larger)
        total += tl.sum(tl.exp(scores - larger[:, None]), axis=1)
        largest = larger
    return largest, total


@_device
def _output_tile(
    values: tl.tensor,
    logits: tl.tensor,
    start: tl.tensor,
    stop: tl.tensor,
    units: tl.tensor,
    columns: tl.tensor,
    largest: tl.tensor,
    total: tl.tensor,
    alpha: tl.tensor,
    beta: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OPERAND: tl.constexpr,
) -> Any:
    """Some columns of a set's output: V, or αV + β."""
    pooled = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for first in range(start, stop, BLOCK_L):
        rows = first + tl.arange(0, BLOCK_L)
        real = (rows < stop)[:, None] & (columns < M)[None, :]
        x = tl.load(values + rows[:, None] * M + columns[None, :], mask=real, other=0.0)
        # Divided by their sum afterwards: up to 1, they keep clear of float16's smallest.
        a = tl.exp(_scores(logits, rows, stop, units, N) - largest[:, None]).to(x.dtype)
        pooled = tl.dot(a.to(OPERAND), x.to(OPERAND), pooled, input_precision="ieee")
    pooled = pooled / total[:, None]
    if alpha is not None:
        factor = tl.load(alpha + units, mask=units < N, other=0.0).to(tl.float32)
        term = tl.load(beta + units, mask=units < N, other=0.0).to(tl.float32)
        pooled = factor[:, None] * pooled + term[:, None]
    return pooled


@_device
def _sum_of_squares(
    values: tl.tensor,
    logits: tl.tensor,
    start: tl.tensor,
    stop: tl.tensor,
    units: tl.tensor,
    share: tl.tensor,
    largest: tl.tensor,
    total: tl.tensor,
    alpha: tl.tensor,
    beta: tl.tensor,
    shares: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OPERAND: tl.constexpr,
) -> Any:
    """‖αV + β‖² of every unit, over the columns of a share."""
    squares = tl.zeros((BLOCK_N,), tl.float32)
    for column in range(share * BLOCK_M, M, shares * BLOCK_M):
        columns = column + tl.arange(0, BLOCK_M)
        tile = _output_tile(
            *(values, logits, start, stop, units, columns, largest, total, alpha, beta),
            *(N, M, BLOCK_N, BLOCK_L, BLOCK_M, OPERAND),
        )
        squares += tl.sum(tl.where((columns < M)[None, :], tile * tile, 0.0), axis=1)
    return squares


@_device
def _squares_kernel(
    values: tl.tensor,
    offsets: tl.tensor,
    logits: tl.tensor,
    alpha: tl.tensor,
    beta: tl.tensor,
    squares: tl.tensor,
    shares: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OPERAND: tl.constexpr,
) -> None:
    """Before `_forward_kernel`, where programs share a set: `squares` (n, shares, N)."""
    item, units, share, start, stop = _place(offsets, shares, N, BLOCK_N)
    largest, total = _statistics(logits, start, stop, units, N, BLOCK_N, BLOCK_L)
    own = _sum_of_squares(
        *(values, logits, start, stop, units, share, largest, total, alpha, beta),
        *(shares, N, M, BLOCK_N, BLOCK_L, BLOCK_M, OPERAND),
    )
    tl.store(squares + (item * shares + share) * N + units, own, mask=units < N)


@_device
def _forward_kernel(
    values: tl.tensor,
    offsets: tl.tensor,
    logits: tl.tensor,
    alpha: tl.tensor,
    beta: tl.tensor,
    squares: tl.tensor,
    pooled: tl.tensor,
    largest_out: tl.tensor,
    total_out: tl.tensor,
    norm_out: tl.tensor,
    shares: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OPERAND: tl.constexpr,
) -> None:
    """The output (n, N, M); for the backward pass, statistics and norm (n, N) of each unit."""
    item, units, share, start, stop = _place(offsets, shares, N, BLOCK_N)
    largest, total = _statistics(logits, start, stop, units, N, BLOCK_N, BLOCK_L)
    if share == 0:
        tl.store(largest_out + item * N + units, largest, mask=units < N)
        tl.store(total_out + item * N + units, total, mask=units < N)
    scale = tl.full((BLOCK_N,), 1.0, tl.float32)
    if alpha is not None:
        if squares is None:
            square = _sum_of_squares(
                *(values, logits, start, stop, units, share, largest, total, alpha, beta),
                *(shares, N, M, BLOCK_N, BLOCK_L, BLOCK_M, OPERAND),
            )
        else:
            square = tl.zeros((BLOCK_N,), tl.float32)
            for one in range(shares):
                place = squares + (item * shares + one) * N + units
                square += tl.load(place, mask=units < N, other=0.0)
        norm = tl.sqrt_rn(square)
        if share == 0:
            tl.store(norm_out + item * N + units, norm, mask=units < N)
        scale = _scale(norm, N)
    for column in range(share * BLOCK_M, M, shares * BLOCK_M):
        columns = column + tl.arange(0, BLOCK_M)
        tile = _output_tile(
            *(values, logits, start, stop, units, columns, largest, total, alpha, beta),
            *(N, M, BLOCK_N, BLOCK_L, BLOCK_M, OPERAND),
        )
        real = (units < N)[:, None] & (columns < M)[None, :]
        place = pooled + (item * N + units[:, None]) * M + columns[None, :]
        tl.store(place, tile * scale[:, None], mask=real)


@_device
def _scale(norm: tl.tensor, N: tl.constexpr) -> Any:
    """1 / (√N · max(‖αV + β‖₂, 1e-12))."""
    return N**-0.5 / tl.maximum(norm, 1e-12)


@_device
def _derivative_kernel(
    values: tl.tensor,
    offsets: tl.tensor,
    alpha: tl.tensor,
    pooled: tl.tensor,
    gradient: tl.tensor,
    norms: tl.tensor,
    derivative: tl.tensor,
    beta_terms: tl.tensor,
    shares: tl.tensor,
    N: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
) -> None:
    """D = X·∂Uᵀ (R, N), and what each set adds to ∂β (n, N); shares take blocks of rows."""
    item, units, share, start, stop = _place(offsets, shares, N, BLOCK_N)
    for first in range(start + share * BLOCK_L, stop, shares * BLOCK_L):
        rows = first + tl.arange(0, BLOCK_L)
        D = tl.zeros((BLOCK_N, BLOCK_L), tl.float32)
        along_w = tl.zeros((BLOCK_N, BLOCK_L), tl.float32)
        h = tl.zeros((BLOCK_N,), tl.float32)
        sum_w = tl.zeros((BLOCK_N,), tl.float32)
        sum_g = tl.zeros((BLOCK_N,), tl.float32)
        for column in range(0, M, BLOCK_M):
            columns = column + tl.arange(0, BLOCK_M)
            inside = (columns < M)[:, None] & (rows < stop)[None, :]
            x = tl.load(values + rows[None, :] * M + columns[:, None], mask=inside, other=0.0)
            place = (item * N + units[:, None]) * M + columns[None, :]
            real = (units < N)[:, None] & (columns < M)[None, :]
            # Half-precision features are exact in tf32, and small gradients do not vanish.
            x = x.to(tl.float32)
            g = tl.load(gradient + place, mask=real, other=0.0).to(tl.float32)
            D = tl.dot(g, x, D, input_precision=PRECISION)
            if alpha is not None:
                w = tl.load(pooled + place, mask=real, other=0.0).to(tl.float32)
                along_w = tl.dot(w, x, along_w, input_precision=PRECISION)
                h += tl.sum(g * w, axis=1)
                sum_w += tl.sum(w, axis=1)
                sum_g += tl.sum(g, axis=1)
        if alpha is not None:
            norm = tl.load(norms + item * N + units, mask=units < N, other=1.0)
            scale = _scale(norm, N)
            # Below the bound, the norm is a constant.
            pull = tl.where(norm >= 1e-12, N * h, 0.0)
            D = scale[:, None] * (D - pull[:, None] * along_w)
            if first == start:
                term = scale * (sum_g - pull * sum_w)
                tl.store(beta_terms + item * N + units, term, mask=units < N)
        real = (units < N)[:, None] & (rows < stop)[None, :]
        tl.store(derivative + rows[None, :] * N + units[:, None], D, mask=real)


@_device
def _softmax_kernel(
    offsets: tl.tensor,
    logits: tl.tensor,
    alpha: tl.tensor,
    largest_in: tl.tensor,
    total_in: tl.tensor,
    derivative: tl.tensor,
    alpha_terms: tl.tensor,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
) -> None:
    """From D to the gradient of the logits, in its place, and what each set adds to ∂α."""
    item, units, _, start, stop = _place(offsets, 1, N, BLOCK_N)
    real_units = units < N
    largest = tl.load(largest_in + item * N + units, mask=real_units, other=0.0)
    total = tl.load(total_in + item * N + units, mask=real_units, other=1.0)
    mean = tl.zeros((BLOCK_N,), tl.float32)
    for first in range(start, stop, BLOCK_L):
        rows = first + tl.arange(0, BLOCK_L)
        a = tl.exp(_scores(logits, rows, stop, units, N) - largest[:, None]) / total[:, None]
        real = real_units[:, None] & (rows < stop)[None, :]
        D = tl.load(derivative + rows[None, :] * N + units[:, None], mask=real, other=0.0)
        mean += tl.sum(a * D, axis=1)
    tl.store(alpha_terms + item * N + units, mean, mask=real_units)
    factor = tl.full((BLOCK_N,), 1.0, tl.float32)
    if alpha is not None:
        factor = tl.load(alpha + units, mask=real_units, other=0.0).to(tl.float32)
    for first in range(start, stop, BLOCK_L):
        rows = first + tl.arange(0, BLOCK_L)
        a = tl.exp(_scores(logits, rows, stop, units, N) - largest[:, None]) / total[:, None]
        real = real_units[:, None] & (rows < stop)[None, :]
        place = derivative + rows[None, :] * N + units[:, None]
        D = tl.load(place, mask=real, other=0.0)
        tl.store(place, factor[:, None] * a * (D - mean[:, None]), mask=real)
