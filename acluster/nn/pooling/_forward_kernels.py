"""The Triton kernels of the forward pass of `_triton`. Importing this module imports Triton.

The names of sizes and the work list are those of `_work_list_kernels`. One program of a kernel
writes a number, and adds in a fixed order. There are no atomic operations, so that the same input
always gives bit-identical results.
"""

import triton
import triton.language as tl

from acluster.nn.pooling._work_list_kernels import _inside, _owner, _rows, _scale


@triton.jit
def _weighted_sums(
    values,
    logits,
    start,
    stop,
    first_unit,
    first_column,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILES: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Return the largest logit, the sum of exponentials relative to it, and V times that sum.

    The last is a tuple of tiles, so that its width need not be a power of two. The features and
    the logits are read once.
    """
    unit = first_unit + tl.arange(0, BLOCK_N)
    row = tl.arange(0, BLOCK_L)
    largest = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_N,), tl.float32)
    sums = ()
    for _ in tl.static_range(TILES):
        sums += (tl.zeros((BLOCK_N, BLOCK_M), tl.float32),)
    n_rows = (stop - start).to(tl.int32)
    for first in range(0, n_rows, BLOCK_L):
        exists = row < n_rows - first
        pointers = logits + (start + first) * N + (row[None, :] * N + unit[:, None])
        scores = tl.load(pointers, mask=exists[None, :] & (unit < N)[:, None], other=0.0)
        # The zeros keep the softmax of units that do not exist finite.
        scores = tl.where(exists[None, :], scores.to(tl.float32), float("-inf"))
        # The online softmax: sums so far are rescaled whenever a larger logit turns up.
        larger = tl.maximum(largest, tl.max(scores, axis=1))
        shrink = tl.exp(largest - larger)
        # The exponentials are divided by their sum after the product. The largest is then 1,
        # and rounding to float16 loses fewer of the small ones to underflow.
        a = tl.exp(scores - larger[:, None])
        total = total * shrink + tl.sum(a, axis=1)
        largest = larger
        weights = a.to(values.dtype.element_ty).to(OPERAND)
        added = ()
        for tile in tl.static_range(TILES):
            columns = first_column + tile * BLOCK_M + tl.arange(0, BLOCK_M)
            pointers = values + (start + first) * M + (row[:, None] * M + columns[None, :])
            mask = _inside(columns, exists, M, TILES * BLOCK_M)
            x = tl.load(pointers, mask=mask, other=0.0)
            own = sums[tile] * shrink[:, None]
            added += (tl.dot(weights, x.to(OPERAND), own, input_precision="ieee"),)
        sums = added
    return largest, total, sums


@triton.jit
def _squares(
    sums,
    factor,
    term,
    first_column,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILES: tl.constexpr,
):
    """Return ‖αV + β‖² of every unit, over the columns of this program.

    The squares are those of the shifted components. The expansion α²‖V‖² + 2αβΣV + Mβ² needs
    no shifted components, but cancels where αV is close to -β.
    """
    squares = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for tile in tl.static_range(TILES):
        shifted = sums[tile] * factor[:, None] + term[:, None]
        if M % (TILES * BLOCK_M) != 0:
            columns = first_column + tile * BLOCK_M + tl.arange(0, BLOCK_M)
            shifted = tl.where((columns < M)[None, :], shifted, 0.0)
        squares += shifted * shifted
    return tl.sum(squares, axis=1)


@triton.jit
def _store(
    out,
    sums,
    factor,
    term,
    real,
    first_column,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILES: tl.constexpr,
):
    """Store the tiles, each multiplied by the factor of its unit, plus the term."""
    unit = tl.arange(0, BLOCK_N)
    for tile in tl.static_range(TILES):
        columns = first_column + tile * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = _inside(columns, real, M, TILES * BLOCK_M)
        pointers = out + (unit[:, None] * M + columns[None, :])
        tl.store(pointers, sums[tile] * factor[:, None] + term[:, None], mask=mask)


@triton.jit
def _keep(
    largest,
    total,
    sums,
    partial,
    partial_statistics,
    slot,
    first_unit,
    share,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILES: tl.constexpr,
):
    """Store the sums of a chunk, for `combine_kernel`."""
    place = slot.to(tl.int64) * N  # positions in (n, N, M) may exceed 2³¹
    unit = first_unit + tl.arange(0, BLOCK_N)
    stored_once = (unit < N) & (share == 0)
    tl.store(partial_statistics + 2 * place + unit, largest, mask=stored_once)
    tl.store(partial_statistics + 2 * place + N + unit, total, mask=stored_once)
    one = tl.full((BLOCK_N,), 1.0, tl.float32)
    first_column = share * (TILES * BLOCK_M)
    out = partial + (place + first_unit) * M
    _store(out, sums, one, 0 * one, unit < N, first_column, M, BLOCK_N, BLOCK_M, TILES)


@triton.jit
def _finish(
    largest,
    total,
    sums,
    alpha,
    beta,
    pooled,
    statistics,
    squares,
    item,
    first_unit,
    share,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILES: tl.constexpr,
    MEASURE: tl.constexpr,
):
    """Apply the shift; store the output and its statistics, or with MEASURE, its norm squared."""
    WIDTH: tl.constexpr = TILES * BLOCK_M
    n_shares: tl.constexpr = (M + WIDTH - 1) // WIDTH
    place = item.to(tl.int64)
    unit = first_unit + tl.arange(0, BLOCK_N)
    real = unit < N
    stored_once = real & (share == 0)
    factor = 1.0 / total
    term = tl.zeros((BLOCK_N,), tl.float32)
    if alpha is not None:
        factor *= tl.load(alpha + unit, mask=real, other=0.0).to(tl.float32)
        term = tl.load(beta + unit, mask=real, other=0.0).to(tl.float32)
        square = tl.zeros((BLOCK_N,), tl.float32)
        if MEASURE or n_shares == 1:
            square = _squares(sums, factor, term, share * WIDTH, M, BLOCK_N, BLOCK_M, TILES)
        else:
            for other in range(n_shares):
                pointers = squares + (place * n_shares + other) * N + unit
                square += tl.load(pointers, mask=real, other=0.0)
        if MEASURE:
            tl.store(squares + (place * n_shares + share) * N + unit, square, mask=real)
        norm = tl.sqrt_rn(square)  # correctly rounded, unlike the default approximation
        if not MEASURE:
            tl.store(statistics + (3 * place + 2) * N + unit, norm, mask=stored_once)
        factor *= _scale(norm, N)
        term *= _scale(norm, N)
    if not MEASURE:
        tl.store(statistics + 3 * place * N + unit, largest, mask=stored_once)
        tl.store(statistics + (3 * place + 1) * N + unit, total, mask=stored_once)
        out = pooled + (place * N + first_unit) * M
        _store(out, sums, factor, term, real, share * WIDTH, M, BLOCK_N, BLOCK_M, TILES)


@triton.jit(do_not_specialize=["n"])
def forward_kernel(
    values,
    offsets,
    logits,
    alpha,
    beta,
    pooled,
    statistics,
    owners,
    partial,
    partial_statistics,
    squares,
    n,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILES: tl.constexpr,
    OPERAND: tl.constexpr,
    MEASURE: tl.constexpr,
):
    """Fill the output (n, N, M) and the statistics (n, 3, N) that the backward pass needs.

    Of long sets, fill `partial` (slots, N, M) and its statistics (slots, 2, N), which
    `combine_kernel` combines. If several programs *share* the columns of a set, launch this kernel
    twice: with MEASURE, for the sets alone, to fill `squares` (n, shares, N), and without.
    """
    n_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    WIDTH: tl.constexpr = TILES * BLOCK_M
    n_shares: tl.constexpr = (M + WIDTH - 1) // WIDTH
    # Programs of one set have consecutive numbers, so that they run at about the same time and
    # its features cross the memory bus once.
    program = tl.program_id(0) // n_blocks
    first_unit = tl.program_id(0) % n_blocks * BLOCK_N
    share, item = program % n_shares, program // n_shares
    slot = item - n
    if slot >= 0:
        item = _owner(offsets, n, slot, CHUNK)
        tl.store(owners + slot, item, mask=first_unit + share == 0)
    start, stop = _rows(offsets, item, slot, CHUNK)
    if stop == start:
        return
    largest, total, sums = _weighted_sums(
        *(values, logits, start, stop, first_unit, share * WIDTH),
        *(N, M, BLOCK_N, BLOCK_L, BLOCK_M, TILES, OPERAND),
    )
    if slot >= 0:
        _keep(
            *(largest, total, sums, partial, partial_statistics),
            *(slot, first_unit, share, N, M, BLOCK_N, BLOCK_M, TILES),
        )
    else:
        _finish(
            *(largest, total, sums, alpha, beta, pooled, statistics, squares),
            *(item, first_unit, share, N, M, BLOCK_N, BLOCK_M, TILES, MEASURE),
        )


@triton.jit
def _combine(
    slot,
    item,
    n_chunks,
    unit,
    alpha,
    beta,
    pooled,
    statistics,
    partial,
    partial_statistics,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Add up the chunks of a long set for one unit, apply the shift, and store the results."""
    columns = tl.arange(0, BLOCK_M)
    largest = tl.full((), float("-inf"), tl.float32)
    total = tl.zeros((), tl.float32)
    output = tl.zeros((BLOCK_M,), tl.float32)
    for first in range(0, n_chunks, BLOCK_C):
        chunks = first + tl.arange(0, BLOCK_C)
        exists = chunks < n_chunks
        places = (slot + chunks).to(tl.int64) * N
        pointers = partial_statistics + 2 * places + unit
        own = tl.load(pointers, mask=exists, other=float("-inf"))
        totals = tl.load(pointers + N, mask=exists, other=0.0)
        pointers = partial + ((places + unit)[:, None] * M + columns[None, :])
        sums = tl.load(pointers, mask=_inside(columns, exists, M, BLOCK_M), other=0.0)
        larger = tl.maximum(largest, tl.max(own, axis=0))
        shrink, weights = tl.exp(largest - larger), tl.exp(own - larger)
        total = total * shrink + tl.sum(weights * totals, axis=0)
        output = output * shrink + tl.sum(weights[:, None] * sums, axis=0)
        largest = larger
    output = output / total
    own = statistics + item.to(tl.int64) * (3 * N) + unit
    tl.store(own, largest)
    tl.store(own + N, total)
    if alpha is not None:
        factor = tl.load(alpha + unit).to(tl.float32)
        output = factor * output + tl.load(beta + unit).to(tl.float32)
        norm = tl.sqrt_rn(tl.sum(tl.where(columns < M, output * output, 0.0), axis=0))
        tl.store(own + 2 * N, norm)
        output *= _scale(norm, N)
    pointers = pooled + (item.to(tl.int64) * N + unit) * M + columns
    tl.store(pointers, output, mask=columns < M)


@triton.jit(do_not_specialize=["n_slots"])
def combine_kernel(
    offsets,
    alpha,
    beta,
    pooled,
    statistics,
    owners,
    partial,
    partial_statistics,
    n_slots,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    SLOTS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Fill the output and the statistics of long sets from those of their chunks.

    A program has one unit, and the sets whose first slots are among SLOTS ones. Most batches have
    no long set; a program then ends after one load. BLOCK_C chunks are loaded at a time.
    """
    unit, first = tl.program_id(0) % N, tl.program_id(0) // N * SLOTS
    slots = first + tl.arange(0, SLOTS)
    if tl.max(tl.load(owners + slots, mask=slots < n_slots, other=-1), axis=0) < 0:
        return
    for slot in range(first, tl.minimum(first + SLOTS, n_slots)):
        item = tl.load(owners + slot)
        if item >= 0:
            start = tl.load(offsets + item)
            if slot == start // CHUNK:
                n_chunks = ((tl.load(offsets + item + 1) - start) // CHUNK).to(tl.int32)
                _combine(
                    *(slot, item, n_chunks, unit, alpha, beta, pooled, statistics),
                    *(partial, partial_statistics, N, M, BLOCK_C, BLOCK_M),
                )
