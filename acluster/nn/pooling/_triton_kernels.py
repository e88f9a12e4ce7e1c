"""The device functions and kernels of `_triton`. Importing this module imports Triton.

Axes are (unit, row) for logits and weights, and (unit, column) for outputs. N is the number of
units, M the number of columns, and BLOCK_N, BLOCK_L and BLOCK_M are the tile's units, rows and
columns. Tiles have the sizes of powers of two, so they may reach beyond the last unit, row or
column; masks called `real` keep the kernels from reading and writing there.

A program is identified by a set, a block of units and a *share*: the columns of a set (in the
forward pass) or its rows (in the backward pass) are divided among `shares` programs. Every number
is written by exactly one program, which adds in a fixed order. There are no atomic operations, so
that the same input always gives bit-identical results.
"""

import triton
import triton.language as tl


@triton.jit
def _place(offsets, shares, N: tl.constexpr, BLOCK_N: tl.constexpr):
    """Return the set, units, share, and first and last row of this program.

    Programs of one set have consecutive numbers, so that they run at about the same time and
    find its features in the cache.
    """
    n_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    # Positions in (n, N, M) may exceed 2³¹. Row numbers are int64 as well, as offsets are.
    item = (program // (shares * n_blocks)).to(tl.int64)
    units = program // shares % n_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    return item, units, program % shares, tl.load(offsets + item), tl.load(offsets + item + 1)


@triton.jit
def _scores(logits, rows, stop, units, N: tl.constexpr):
    """Load the logits of some rows: -inf beyond the last row, 0 beyond the last unit.

    The zeros keep the softmax of units that do not exist finite.
    """
    inside = (rows < stop)[None, :]
    real = (units < N)[:, None] & inside
    scores = tl.load(logits + rows[None, :] * N + units[:, None], mask=real, other=0.0)
    return tl.where(inside, scores.to(tl.float32), float("-inf"))


@triton.jit
def _statistics(
    logits, start, stop, units, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr
):
    """Return the largest logit of a set and the sum of exponentials relative to it, per unit."""
    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    # The online softmax: one pass over the logits, which rescales the sum so far whenever a
    # larger logit turns up.
    for first in range(start, stop, BLOCK_L):
        scores = _scores(logits, first + tl.arange(0, BLOCK_L), stop, units, N)
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        total *= tl.exp(largest - larger)
        total += tl.sum(tl.exp(scores - larger[:, None]), axis=1)
        largest = larger
    return largest, total


@triton.jit
def _output_tile(
    values,
    logits,
    start,
    stop,
    units,
    columns,
    largest,
    total,
    alpha,
    beta,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Return some columns of a set's output: V, or αV + β with a shift."""
    pooled = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for first in range(start, stop, BLOCK_L):
        rows = first + tl.arange(0, BLOCK_L)
        real = (rows < stop)[:, None] & (columns < M)[None, :]
        x = tl.load(values + rows[:, None] * M + columns[None, :], mask=real, other=0.0)
        # The exponentials are divided by their sum after the product. The largest of a set is
        # then 1, and rounding to float16 loses fewer of the small ones to underflow.
        a = tl.exp(_scores(logits, rows, stop, units, N) - largest[:, None]).to(x.dtype)
        pooled = tl.dot(a.to(OPERAND), x.to(OPERAND), pooled, input_precision="ieee")
    pooled = pooled / total[:, None]
    if alpha is not None:
        factor = tl.load(alpha + units, mask=units < N, other=0.0).to(tl.float32)
        term = tl.load(beta + units, mask=units < N, other=0.0).to(tl.float32)
        pooled = factor[:, None] * pooled + term[:, None]
    return pooled


@triton.jit
def _sum_of_squares(
    values,
    logits,
    start,
    stop,
    units,
    share,
    largest,
    total,
    alpha,
    beta,
    shares,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Return ‖αV + β‖² of every unit, over the columns of a share.

    The squares are those of the shifted components. The expansion α²‖V‖² + 2αβΣV + Mβ² needs
    no shifted components, but cancels where αV is close to -β.
    """
    squares = tl.zeros((BLOCK_N,), tl.float32)
    for column in range(share * BLOCK_M, M, shares * BLOCK_M):
        columns = column + tl.arange(0, BLOCK_M)
        tile = _output_tile(
            *(values, logits, start, stop, units, columns, largest, total, alpha, beta),
            *(N, M, BLOCK_N, BLOCK_L, BLOCK_M, OPERAND),
        )
        squares += tl.sum(tl.where((columns < M)[None, :], tile * tile, 0.0), axis=1)
    return squares


@triton.jit
def squares_kernel(
    values,
    offsets,
    logits,
    alpha,
    beta,
    squares,
    shares,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Fill `squares` (n, shares, N) ahead of `forward_kernel`, if several programs share a set."""
    item, units, share, start, stop = _place(offsets, shares, N, BLOCK_N)
    largest, total = _statistics(logits, start, stop, units, N, BLOCK_N, BLOCK_L)
    own = _sum_of_squares(
        *(values, logits, start, stop, units, share, largest, total, alpha, beta),
        *(shares, N, M, BLOCK_N, BLOCK_L, BLOCK_M, OPERAND),
    )
    tl.store(squares + (item * shares + share) * N + units, own, mask=units < N)


@triton.jit
def forward_kernel(
    values,
    offsets,
    logits,
    alpha,
    beta,
    squares,
    pooled,
    largest_out,
    total_out,
    norm_out,
    shares,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Fill the output (n, N, M), and the statistics (n, N) that the backward pass needs."""
    item, units, share, start, stop = _place(offsets, shares, N, BLOCK_N)
    largest, total = _statistics(logits, start, stop, units, N, BLOCK_N, BLOCK_L)
    if share == 0:  # all shares compute the same statistics
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
                pointer = squares + (item * shares + one) * N + units
                square += tl.load(pointer, mask=units < N, other=0.0)
        norm = tl.sqrt_rn(square)  # correctly rounded, unlike the default approximation
        if share == 0:
            tl.store(norm_out + item * N + units, norm, mask=units < N)
        scale = _scale(norm, N)
    # Computing the tiles again takes less time than storing them unscaled and reading them back.
    for column in range(share * BLOCK_M, M, shares * BLOCK_M):
        columns = column + tl.arange(0, BLOCK_M)
        tile = _output_tile(
            *(values, logits, start, stop, units, columns, largest, total, alpha, beta),
            *(N, M, BLOCK_N, BLOCK_L, BLOCK_M, OPERAND),
        )
        real = (units < N)[:, None] & (columns < M)[None, :]
        pointers = pooled + (item * N + units[:, None]) * M + columns[None, :]
        tl.store(pointers, tile * scale[:, None], mask=real)


@triton.jit
def _scale(norm, N: tl.constexpr):
    """Return 1 / (√N · max(‖αV + β‖₂, 1e-12)); the bound is that of the plain definition."""
    return N**-0.5 / tl.maximum(norm, 1e-12)


@triton.jit
def derivative_kernel(
    values,
    offsets,
    alpha,
    pooled,
    gradient,
    norms,
    derivative,
    beta_terms,
    shares,
    N: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Fill D = X·∂Uᵀ (R, N) and the contribution of each set to ∂β (n, N).

    The features, the output w and its gradient g are each read once per block of rows.
    """
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
            output = (item * N + units[:, None]) * M + columns[None, :]
            real = (units < N)[:, None] & (columns < M)[None, :]
            # Half-precision features are exact in tf32. Its exponent range is that of float32,
            # so small gradients do not underflow as they would in float16.
            x = x.to(tl.float32)
            g = tl.load(gradient + output, mask=real, other=0.0).to(tl.float32)
            D = tl.dot(g, x, D, input_precision=PRECISION)
            if alpha is not None:
                w = tl.load(pooled + output, mask=real, other=0.0).to(tl.float32)
                along_w = tl.dot(w, x, along_w, input_precision=PRECISION)
                h += tl.sum(g * w, axis=1)
                sum_w += tl.sum(w, axis=1)
                sum_g += tl.sum(g, axis=1)
        if alpha is not None:
            norm = tl.load(norms + item * N + units, mask=units < N, other=1.0)
            scale = _scale(norm, N)
            # Where the bound replaces the norm, the divisor is a constant without derivative.
            pull = tl.where(norm >= 1e-12, N * h, 0.0)
            D = scale[:, None] * (D - pull[:, None] * along_w)
            if first == start:  # the sums run over columns, and are the same for every row
                term = scale * (sum_g - pull * sum_w)
                tl.store(beta_terms + item * N + units, term, mask=units < N)
        real = (units < N)[:, None] & (rows < stop)[None, :]
        tl.store(derivative + rows[None, :] * N + units[:, None], D, mask=real)


@triton.jit
def softmax_kernel(
    offsets,
    logits,
    alpha,
    largest_in,
    total_in,
    derivative,
    alpha_terms,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Replace D by the gradient of the logits, and fill the contribution of each set to ∂α.

    This is a separate kernel because the mean of D under the weights needs all rows of a set,
    which `derivative_kernel` divides among several programs.
    """
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
        pointers = derivative + rows[None, :] * N + units[:, None]
        D = tl.load(pointers, mask=real, other=0.0)
        tl.store(pointers, factor[:, None] * a * (D - mean[:, None]), mask=real)
