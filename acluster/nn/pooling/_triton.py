"""`attend` on a CUDA device, as Triton kernels.

The kernels are bound by memory bandwidth, so what counts is how often each array crosses the
memory bus. With N = 64, M = 1536 and 25 local features in float16, a set has 77 kB of features,
393 kB of pooled output, and 6 kB of logits. This leads to three decisions:

- The shift needs the norm of a unit's whole output before the first component is written.
  Writing the unshifted output and rescaling it would move the output three times. Instead, each
  program computes its output twice, one tile of columns at a time: once for the norm and once to
  write it. The features should be in the cache when they are read again. The output moves once,
  and the additional arithmetic is estimated to take less time than the writes do.
- A batch of few sets would leave multiprocessors idle. In this case, several programs share the
  columns of a set, and a separate kernel computes the norms beforehand.
- The backward pass reads the features, the output w and its gradient G, and derives all
  gradients from them. With U = αV + β, h = ⟨w, G⟩ and
  D = X·∂Uᵀ = (X·Gᵀ − N·h·X·wᵀ) / (√N·‖U‖), these are ∂α = Σ a∘D, ∂β = Σ ∂U, and α·a∘(D − Σ a∘D)
  for the logits. V is neither kept nor computed again. Besides w, the forward pass keeps three
  numbers per unit and set.

Results are deterministic, because no kernel uses atomic operations, and because tile sizes follow
from the shapes alone: autotuning would choose them by timing, and so change the order of sums.
Nothing reads data back from the device, so that a CUDA graph can record both passes.

The kernels are in `_triton_kernels`, which is imported on first use. `import acluster` therefore
neither needs Triton nor waits for it.
"""

import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from acluster.nn.pooling._analytic import Scalars, Shift

_INSTALLED = importlib.util.find_spec("triton") is not None
# Triton compiles the host code that launches a kernel with a C compiler.
_HAS_COMPILER = bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# The number of programs that fills a large GPU: about four for each of 132 multiprocessors.
_MIN_PROGRAMS = 512


def runs_triton(tensor: Tensor) -> bool:
    """Return whether kernels can be run on a tensor: its device, its dtype, and what is installed.

    Parameters
    ----------
    tensor : Tensor
        Local features or logits.

    Returns
    -------
    bool
        False on a CPU, where only Triton's interpreter runs the kernels, for tests.
    """
    return (
        tensor.is_cuda
        and tensor.dtype in _DTYPES
        and _INSTALLED
        and _HAS_COMPILER
        and torch.version.hip is None
        and torch.cuda.get_device_capability(tensor.device) >= (8, 0)  # bfloat16 and tf32
    )


def supports(values: Tensor, logits: Tensor) -> bool:
    """Return whether `attend_triton` can be used for these tensors, on this machine.

    Parameters
    ----------
    values : Tensor of shape (R, M)
        The local features of all sets, end to end.

    logits : Tensor of shape (R, N)
        The score of every local feature for every attention unit.

    Returns
    -------
    bool
        False on a CPU, where only Triton's interpreter runs the kernels, for tests.
    """
    on_one_device = values.device == logits.device
    return (
        on_one_device and not values.requires_grad and runs_triton(values) and runs_triton(logits)
    )


def attend_triton(values: Tensor, offsets: Tensor, logits: Tensor, shift: Shift = None) -> Tensor:
    """Compute what `attend` returns, for features that need no gradient.

    The result has the dtype of `logits`. `offsets` may be on the CPU or on the device.

    Notes
    -----
    For half-precision features, the matrix products of the forward pass take weights rounded to
    the same dtype. Those of the backward pass take gradients rounded to tf32, which has the range
    of float32. All sums are in float32.
    """
    alpha, beta = (None, None) if shift is None else (s.contiguous() for s in shift)
    offsets = offsets.to(values.device, non_blocking=True)
    # Triton launches kernels on the current device, which need not be the one of the tensors.
    with torch.cuda.device_of(values):
        return _Attend.apply(values.contiguous(), offsets, logits.contiguous(), alpha, beta)


class _Attend(torch.autograd.Function):
    """`attend` with gradients for the logits, α and β."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, offsets: Tensor, logits: Tensor, alpha: Scalars, beta: Scalars
    ) -> Tensor:
        import triton.language as tl

        from acluster.nn.pooling import _triton_kernels as kernels

        n, N, M = len(offsets) - 1, logits.shape[1], values.shape[1]
        blocks = _blocks(n, values, N)
        n_programs = n * _cdiv(N, blocks["BLOCK_N"])
        shares = min(_cdiv(_MIN_PROGRAMS, n_programs), _cdiv(M, blocks["BLOCK_M"]))
        pooled = logits.new_empty(n, N, M)
        largest, total, norm = logits.new_empty(3, n, N, dtype=torch.float32)
        inputs = (values, offsets, logits, alpha, beta)
        # Triton's interpreter has no bfloat16 products.
        dtype = values.dtype if values.is_cuda else torch.float32
        operand = getattr(tl, str(dtype).removeprefix("torch."))
        settings = {"N": N, "M": M, "OPERAND": operand, **blocks}
        squares = None
        if alpha is not None and shares > 1:
            squares = logits.new_empty(n, shares, N, dtype=torch.float32)
            kernels.squares_kernel[(n_programs * shares,)](*inputs, squares, shares, **settings)
        kernels.forward_kernel[(n_programs * shares,)](
            *(*inputs, squares, pooled, largest, total, norm, shares), **settings
        )
        # Without a shift, the gradients do not depend on the output.
        kept = None if alpha is None else pooled
        ctx.save_for_backward(*inputs, kept, largest, total, norm)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from acluster.nn.pooling import _triton_kernels as kernels

        values, offsets, logits, alpha, beta, pooled, largest, total, norm = ctx.saved_tensors
        n, N, M = gradient.shape
        blocks = _blocks(n, values, N, backward=True)
        n_programs = n * _cdiv(N, blocks["BLOCK_N"])
        # The mean size of the sets, because reading the largest would wait for the device.
        shares = _cdiv(_cdiv(len(values), n), blocks["BLOCK_L"])
        derivative = torch.empty_like(logits, dtype=torch.float32)
        alpha_terms, beta_terms = logits.new_empty(2, n, N, dtype=torch.float32)
        precision = "ieee" if values.dtype == torch.float32 else "tf32"
        kernels.derivative_kernel[(n_programs * shares,)](
            *(values, offsets, alpha, pooled, gradient.contiguous(), norm, derivative, beta_terms),
            *(shares, N, M, precision),
            **blocks,
        )
        del blocks["BLOCK_M"]
        kernels.softmax_kernel[(n_programs,)](
            *(offsets, logits, alpha, largest, total, derivative, alpha_terms, N), **blocks
        )
        d_logits = derivative.to(logits.dtype)
        if alpha is None:
            return None, None, d_logits, None, None
        d_alpha, d_beta = alpha_terms.sum(dim=0), beta_terms.sum(dim=0)
        return None, None, d_logits, d_alpha.view_as(alpha), d_beta.view_as(beta)


def _blocks(n: int, values: Tensor, N: int, backward: bool = False) -> dict[str, Any]:
    """Return the tile sizes of a program, and its compiler options.

    Matrix units take powers of two from 16 on. The number of rows follows the mean size of the
    sets, to pad little. A tile of the output leaves enough registers for three or four programs
    of four warps per multiprocessor, which hide each other's memory latency. The backward pass
    holds two such tiles and loads more of them ahead.
    """
    block_n = _power_of_2(N, 16, 64)
    widest = min(256, (2048 if backward else 4096) // block_n)
    return {
        "BLOCK_N": block_n,
        "BLOCK_L": _power_of_2(_cdiv(len(values), n), 16, 64),
        "BLOCK_M": _power_of_2(values.shape[1], 16, widest),
        "num_stages": 3 if backward else 1,
        # Triton's default, made explicit: Triton plans to change it, which would change results.
        "enable_fp_fusion": True,
    }


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(size: int, at_least: int, at_most: int) -> int:
    """Return the next power of two, within bounds."""
    return min(max(1 << (size - 1).bit_length(), at_least), at_most)
