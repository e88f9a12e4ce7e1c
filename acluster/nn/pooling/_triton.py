"""`attend` on a CUDA device, as Triton kernels.

The kernels are bound by memory bandwidth, so what counts is how often each array crosses the
memory bus. With N = 64, M = 1536 and 25 local features in float16, a set has 77 kB of features,
393 kB of pooled output in float32, and 6 kB of logits. This leads to these decisions:

- Forward: the shift needs the norm of a unit's whole output before the first component is
  written. A program therefore keeps the whole output of a block of units in registers: 16 units
  of 1,536 columns are 96 KiB, or 96 registers for each of 256 threads. It reads the features and
  the logits once and writes the output once. Two programs fit a multiprocessor of 64 Ki registers
  and 227 KiB of shared memory: each has at most 128 registers a thread, and 96 KiB of features on
  their way from memory. Other blocks of units of the same set find the features in the L2 cache.
- Wider features (above 6 kB a row) do not fit: several programs share the columns of a set. A
  first launch computes each one's part of the norm, and a second one writes the output.
- Backward: with U = αV + β, h = ⟨w, G⟩ for the output w and its gradient G, and
  D = X·∂Uᵀ = (X·Gᵀ − N·h·X·wᵀ) / (√N·‖U‖), the gradients are ∂α = Σ a∘D, ∂β = Σ ∂U, and
  α·a∘(D − Σ a∘D) for the logits. Besides w, the forward pass keeps three numbers per unit and set:
  the largest logit, the sum of exponentials, and ‖U‖. As w is linear in V = aᵀX, the Gram matrix
  XXᵀ yields X·wᵀ, and X·Gᵀ yields h: one kernel reads the features and G once, and w not at all,
  for sets of at most one block of rows.
  In the example, this moves 0.48 MB a set instead of 0.88 MB. For each block of 32 units, the Gram
  matrix takes as many products as X·Gᵀ.
- A block has as many rows as sets have on average, up to 64 (32 before the H100): the Gram matrix
  of more is too large. Larger sets are worked on in blocks of rows, which read w and G once each,
  mostly from the L2 cache. A block cannot know the mean Σ a∘D of all rows: a last kernel, which
  reads no features, subtracts it. From α·∂α + β·∂β = 0, the mean would also follow without that
  kernel, but inaccurately where α is small.
- Learned features need a gradient too: Σ α·a·∂U over the units. A kernel of its own computes it
  from the h that the backward kernel has stored. It reads w and G of the learned columns again.
- Sets of 1 to 60,000 rows may be in one batch. A long set is divided into chunks of rows, whose
  sums a second kernel adds up. Which program has which rows is found on the device. The order of
  programs is fixed, and the hardware starts one whenever another ends: this balances the load,
  which a fixed number of programs with fixed shares of the work would not.

Results are deterministic, because no kernel uses atomic operations, and because tile sizes follow
from the shapes and the kind of device: autotuning would choose them by timing, and so change the
order of sums. GPUs with less shared memory than an H100 load fewer features ahead.
Features of an odd M in half precision are not loaded asynchronously, because rows are not aligned.
Nothing reads data back from the device, so that a CUDA graph can record both passes.

The members of an ensemble may be stacked, with the logits of P networks side by side. The features
then cross the memory bus once for all P·N units. With a shift, the norm of a unit is 1/√(P·N).

The kernels are in `_forward_kernels` and `_backward_kernels`, which are imported on first use.
`import acluster` therefore neither needs Triton nor waits for it.
"""

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from acluster.nn.pooling._analytic import Scalars, Shift

_INSTALLED = importlib.util.find_spec("triton") is not None
# Triton compiles the host code that launches a kernel, against Python's headers. On Debian, the
# default scheme names a folder without them.
_HAS_COMPILER = bool(os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang"))
_HEADERS = sysconfig.get_path("include", "posix_prefix")
_HAS_HEADERS = os.path.isfile(os.path.join(_HEADERS, "Python.h"))
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# The number of programs that a GPU runs at a time: about two for each of 132 multiprocessors.
_PROGRAMS = 256
# The least and the most rows of a chunk in the forward pass. Each chunk stores and loads its sums,
# so there should not be more of them than programs that run at a time.
_FORWARD_CHUNKS = (128, 1024)
_BACKWARD_CHUNK = 256  # stores two numbers per unit
# The most bytes of features of a program that are loaded ahead. Two programs then fit an H100.
_STAGE_BYTES = 96 * 1024
# The shared memory of a program that its logits and changes of layout take, at most.
_OTHER_BYTES = 12 * 1024
_SLOTS = 16  # slots per program of `combine_kernel`


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
        and _HAS_HEADERS
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
    return on_one_device and runs_triton(values) and runs_triton(logits)


def attend_triton(
    values: Tensor,
    offsets: Tensor,
    logits: Tensor,
    shift: Shift = None,
    n_learned: int | None = None,
) -> Tensor:
    """Compute what `attend` returns.

    The result has the dtype of `logits`. `offsets` may be on the CPU or on the device.

    Notes
    -----
    For half-precision features, the matrix products of the forward pass take weights rounded to
    the same dtype. Those of the backward pass take gradients and outputs rounded to tf32, which has
    the range of float32. All sums are in float32. Rows beyond the last set are ignored; their
    logits and features get a gradient of 0.
    """
    alpha, beta = (None, None) if shift is None else (s.contiguous() for s in shift)
    offsets = offsets.to(values.device, non_blocking=True)
    # Triton launches kernels on the current device, which need not be the one of the tensors.
    with torch.cuda.device_of(values):
        return _Attend.apply(
            values.contiguous(), offsets, logits.contiguous(), alpha, beta, n_learned
        )


class _Attend(torch.autograd.Function):
    """`attend` with gradients for the logits, α, β and the last features."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        offsets: Tensor,
        logits: Tensor,
        alpha: Scalars,
        beta: Scalars,
        n_learned: int | None,
    ) -> Tensor:
        from acluster.nn.pooling import _forward_kernels as kernels

        n, N, M = len(offsets) - 1, logits.shape[1], values.shape[1]
        blocks = _forward_blocks(n, values, N)
        width = blocks["BLOCK_M"] * blocks["TILES"]
        n_blocks, n_shares = _cdiv(N, blocks["BLOCK_N"]), _cdiv(M, width)
        chunk = _power_of_2(_cdiv(len(values) * n_blocks, _PROGRAMS), *_FORWARD_CHUNKS)
        # No set can be long in a batch of fewer rows.
        n_slots = _cdiv(len(values), chunk) if len(values) >= 2 * chunk else 0
        pooled = logits.new_empty(n, N, M)
        statistics, partial, partial_statistics = (
            logits.new_empty(shape, dtype=torch.float32)
            for shape in ((n, 3, N), (n_slots, N, M), (n_slots, 2, N))
        )
        owners = offsets.new_empty(n_slots, dtype=torch.int32)
        inputs = (values, offsets, logits, alpha, beta)
        results = (pooled, statistics, owners, partial, partial_statistics)
        settings = {"CHUNK": chunk, "N": N, "M": M, "OPERAND": _operand(values), **blocks}
        squares = None
        if alpha is not None and n_shares > 1:
            squares = logits.new_empty(n, n_shares, N, dtype=torch.float32)
            kernels.forward_kernel[(n * n_blocks * n_shares,)](
                *inputs, *results, squares, n, MEASURE=True, **settings
            )
        kernels.forward_kernel[((n + n_slots) * n_blocks * n_shares,)](
            *inputs, *results, squares, n, MEASURE=False, **settings
        )
        if n_slots:
            kernels.combine_kernel[(_cdiv(n_slots, _SLOTS) * N,)](
                *(offsets, alpha, beta, *results, n_slots, chunk, N, M, _SLOTS),
                **_combine_blocks(M),
            )
        ctx.save_for_backward(*inputs, pooled, statistics)
        ctx.block_l = blocks["BLOCK_L"]
        ctx.n_learned = M if n_learned is None else n_learned
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        from acluster.nn.pooling import _backward_kernels as kernels

        saved = ctx.saved_tensors  # once: hooks may compute them anew each time
        values, offsets, logits, alpha, beta, pooled, statistics = saved
        n, N, M = gradient.shape
        gradient = gradient.contiguous()
        blocks = _backward_blocks(n, values, N)
        n_entries = n + _cdiv(len(values), _BACKWARD_CHUNK)
        n_blocks = _cdiv(N, blocks["BLOCK_N"])
        d_logits = torch.empty_like(logits, dtype=torch.float32)
        terms = logits.new_empty(n_entries, 2, N, dtype=torch.float32)
        needs_h = ctx.needs_input_grad[0] and alpha is not None
        h = statistics.new_empty(n, N) if needs_h else None
        kernels.backward_kernel[(n_entries * n_blocks,)](
            *(values, offsets, logits, alpha, beta, pooled, gradient, statistics),
            *(d_logits, terms, h, n, len(values), _BACKWARD_CHUNK, N, M, _operand(values)),
            PRECISION=_precision(values),
            FORWARD_L=ctx.block_l,
            **blocks,
        )
        # Else no set has more rows than a block, or is divided into chunks.
        if len(values) - n >= min(blocks["BLOCK_L"], 2 * _BACKWARD_CHUNK - 1):
            kernels.center_kernel[(n_entries * n_blocks,)](
                *(offsets, logits, alpha, beta, statistics, d_logits, terms),
                *(n, _BACKWARD_CHUNK, N, blocks["BLOCK_N"], blocks["BLOCK_L"]),
                enable_fp_fusion=True,
            )
        d_values = None
        if ctx.needs_input_grad[0]:
            d_values = _feature_gradient(saved, gradient, h, ctx.n_learned)
        d_logits = d_logits.to(logits.dtype)
        if alpha is None:
            return d_values, None, d_logits, None, None, None
        d_alpha, d_beta = terms.sum(dim=0)
        return d_values, None, d_logits, d_alpha.view_as(alpha), d_beta.view_as(beta), None


def _feature_gradient(
    saved: Sequence[Tensor], gradient: Tensor, h: Tensor | None, n_learned: int
) -> Tensor:
    """Return the gradient of the features (R, M), which is 0 but for the last `n_learned`."""
    from acluster.nn.pooling import _backward_kernels as kernels

    values, offsets, logits, alpha, beta, pooled, statistics = saved
    n, N, M = gradient.shape
    blocks = _feature_blocks(n, values, N, n_learned)
    d_learned = values.new_empty(len(values), n_learned)
    n_entries = n + _cdiv(len(values), _BACKWARD_CHUNK)
    kernels.feature_kernel[(n_entries * _cdiv(n_learned, blocks["BLOCK_M"]),)](
        *(offsets, logits, alpha, beta, pooled, gradient, statistics, h, d_learned),
        *(n, len(values), _BACKWARD_CHUNK, N, M, n_learned, _precision(values)),
        **blocks,
    )
    return functional.pad(d_learned, (M - n_learned, 0)) if n_learned < M else d_learned


def _precision(values: Tensor) -> str:
    """Return the precision of the products of the backward pass."""
    return "ieee" if values.dtype == torch.float32 else "tf32"


def _operand(values: Tensor) -> Any:
    """Return Triton's name of the dtype of products of features."""
    import triton.language as tl

    # Triton's interpreter has no bfloat16 products.
    dtype = values.dtype if values.is_cuda else torch.float32
    return getattr(tl, str(dtype).removeprefix("torch."))


def _device_limits(values: Tensor) -> tuple[int, tuple[int, int]]:
    """Return the shared memory of a program in bytes, and the compute capability.

    Triton's interpreter gets those of an H100.
    """
    if not values.is_cuda:
        return 227 * 1024, (9, 0)
    # The type stubs of torch lack the shared memory.
    device: Any = torch.cuda.get_device_properties(values.device)
    return device.shared_memory_per_block_optin, (device.major, device.minor)


def _forward_blocks(n: int, values: Tensor, N: int) -> dict[str, Any]:
    """Return the tile sizes of a program of the forward pass, and its compiler options.

    Matrix units take powers of two from 16 on. The output of a program is a row of tiles, because
    a single tile would take 2,048 columns for 1,536. It takes 96 registers of a thread at most,
    and 48 for float32 features, whose products need more registers for their factors.
    """
    (n_rows, M), itemsize = values.shape, values.element_size()
    stage_bytes = min(_STAGE_BYTES, _device_limits(values)[0] - _OTHER_BYTES)
    block_m = _power_of_2(M, 16, 256)
    n_shares = _cdiv(M, max(stage_bytes // (16 * itemsize * block_m), 1) * block_m)
    tiles = _cdiv(M, n_shares * block_m)
    width = block_m * tiles
    block_n = 16
    while block_n < min(N, 64) and 2 * block_n * width <= 16 * 1536:
        block_n *= 2
    # The most rows that fit: the fewer blocks, the less often sums are rescaled. Larger blocks of
    # units and float32 features leave no registers for it.
    row_bytes = width * itemsize
    fits = block_n == 16 and itemsize == 2 and 32 * row_bytes <= stage_bytes
    block_l = 32 if n_rows > 16 * n and fits else 16
    registers = 96 if itemsize == 2 else 48
    return {
        "BLOCK_N": block_n,
        "BLOCK_L": block_l,
        "BLOCK_M": block_m,
        "TILES": tiles,
        "num_warps": _power_of_2(_cdiv(block_n * width, registers * 32), 4, 16),
        "num_stages": 1 + min(3, stage_bytes // (block_l * row_bytes)),
        "maxnreg": 128,
        "enable_fp_fusion": True,  # Triton plans to change its default, and so the results
    }


def _combine_blocks(M: int) -> dict[str, Any]:
    """Return the tile sizes of the programs that add up chunks: all columns of some chunks.

    Triton allows tiles of 2²⁰ numbers.
    """
    block_m = _power_of_2(M, 128, 1 << 20)
    return {
        "BLOCK_C": min(8, (1 << 20) // block_m),
        "BLOCK_M": block_m,
        "num_warps": _power_of_2(_cdiv(block_m, 256), 1, 16),
        "enable_fp_fusion": True,
    }


def _backward_blocks(n: int, values: Tensor, N: int) -> dict[str, Any]:
    """Return the tile sizes of a program of the backward pass, and its compiler options.

    The number of rows follows the mean size of the sets, because sets of one block are faster.
    GPUs before the H100 lack the registers for 64 rows. The sizes and the number of registers let
    8 warps with 64 rows run on a multiprocessor, and 12 or more with fewer rows. Narrow features
    are read in two tiles or more: for a loop of one, the compiler keeps more at a time than there
    are registers.
    """
    block_n = _power_of_2(N, 16, 32)
    largest = 64 if _device_limits(values)[1] >= (9, 0) else 32
    block_l = _power_of_2(_cdiv(len(values), n), 16, largest)
    widest = (128 * 1024) // (block_n * max(block_l, 32) * values.element_size())
    return {
        "BLOCK_N": block_n,
        "BLOCK_L": block_l,
        "BLOCK_M": _power_of_2(_cdiv(values.shape[1], 2), 16, max(widest, 32)),
        "num_warps": 8 if block_l == 64 else 4,
        "num_stages": 3,
        "maxnreg": 255 if block_l == 64 else 168,
        "enable_fp_fusion": True,
    }


def _feature_blocks(n: int, values: Tensor, N: int, n_learned: int) -> dict[str, Any]:
    """Return the tile sizes of a program of the gradient of features, and its compiler options."""
    blocks = _backward_blocks(n, values, N)
    return {**blocks, "BLOCK_M": _power_of_2(n_learned, 16, 64)}


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(size: int, at_least: int, at_most: int) -> int:
    """Return the next power of two, within bounds."""
    return min(max(1 << (size - 1).bit_length(), at_least), at_most)
