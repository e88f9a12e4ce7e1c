"""The Triton kernels of the backward pass of `_triton`. Importing this module imports Triton.

The names of sizes and the work list are those of `_work_list_kernels`. As in the forward pass, the
same input always gives bit-identical results.
"""

import triton
import triton.language as tl

from acluster.nn.pooling._work_list_kernels import _inside, _owner, _rows, _scale


@triton.jit
def _weights(pointers, exists, real, largest, total):
    """Return the weights of some rows, (BLOCK_L, BLOCK_N); 0 beyond the last row or unit."""
    inside = exists[:, None] & real[None, :]
    scores = tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
    return tl.exp(tl.where(inside, scores - largest, float("-inf"))) / total


@triton.jit
def _forward_weights(
    logits,
    inside,
    largest,
    total,
    values,
    FORWARD_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Return the weights that the forward pass multiplied a set of at most BLOCK_L rows by.

    It rounded the exponentials relative to the largest logit of its blocks of rows so far. The
    norm is that of the output with these weights. With others, ∂β would not cancel as it should
    where the features have a large mean.
    """
    scores = tl.where(inside, tl.load(logits, mask=inside, other=0.0).to(tl.float32), float("-inf"))
    row = tl.arange(0, BLOCK_L)[:, None]
    so_far = tl.zeros((BLOCK_L, BLOCK_N), tl.float32) + largest
    for first in tl.static_range(0, BLOCK_L - FORWARD_L, FORWARD_L):
        larger = tl.max(tl.where(row < first + FORWARD_L, scores, float("-inf")), axis=0)
        so_far = tl.where(inside & (row >= first) & (row < first + FORWARD_L), larger, so_far)
    rounded = tl.exp(scores - so_far).to(values.dtype.element_ty).to(tl.float32)
    return rounded * (tl.exp(so_far - largest) / total)


@triton.jit
def _operand_of(tile, PRECISION: tl.constexpr):
    """Return a float32 tile as the matrix units take it.

    They cut float32 numbers off to tf32, which makes all products too small. This rounds them.
    """
    tile = tile.to(tl.float32)
    if PRECISION == "tf32":
        bits = (tile.to(tl.uint32, bitcast=True) + 0x1000) & 0xFFFFE000
        # The sum would make a NaN another number; an infinity stays what it is.
        tile = tl.where(tile == tile, bits.to(tl.float32, bitcast=True), tile)
    return tile


@triton.jit
def _tile(pointer, rows, first_column, M: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Load some columns of a matrix of M columns."""
    columns = first_column + tl.arange(0, COLUMNS)
    pointers = pointer + (tl.arange(0, ROWS)[:, None] * M + columns[None, :])
    return tl.load(pointers, mask=_inside(columns, rows, M, COLUMNS), other=0.0)


@triton.jit
def _project(along_g, along_w, h, norm, N: tl.constexpr):
    """Return the part of a gradient that is orthogonal to the output w, divided by √N·‖αV + β‖.

    With G and w for the first two, it is ∂U of the unscaled output U = αV + β. As it is linear in
    both, X·Gᵀ and X·wᵀ yield X·∂Uᵀ, and sums over columns yield Σ∂U.
    """
    # Where the bound replaces the norm, the divisor is a constant without derivative.
    pull = tl.where(norm >= 1e-12, N * h, 0.0)
    return _scale(norm, N) * (along_g - pull * along_w)


@triton.jit
def _products_of_set(
    x_pointer,
    g_pointer,
    exists,
    real,
    HAS_SHIFT: tl.constexpr,
    M: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Read X and G once; return X·Gᵀ, and with a shift, XXᵀ and the sums of the rows of both."""
    along_g = tl.zeros((BLOCK_L, BLOCK_N), tl.float32)
    gram = tl.zeros((BLOCK_L, BLOCK_L), tl.float32)
    sum_x, sum_g = tl.zeros((BLOCK_L,), tl.float32), tl.zeros((BLOCK_N,), tl.float32)
    for column in range(0, M, BLOCK_M):
        x = _tile(x_pointer, exists, column, M, BLOCK_L, BLOCK_M)
        g = _operand_of(_tile(g_pointer, real, column, M, BLOCK_N, BLOCK_M), PRECISION)
        # Half-precision features are exact in tf32. Its exponent range is that of float32, so
        # small gradients do not underflow as they would in float16.
        along_g = tl.dot(x.to(tl.float32), tl.trans(g), along_g, input_precision=PRECISION)
        if HAS_SHIFT:
            sum_x += tl.sum(x.to(tl.float32), axis=1)
            sum_g += tl.sum(g, axis=1)
            x = x.to(OPERAND)
            gram = tl.dot(x, tl.trans(x), gram, input_precision=PRECISION)
    return along_g, gram, sum_x, sum_g


@triton.jit
def _set_gradients(
    x_pointer,
    g_pointer,
    logits,
    d_logits,
    h_pointer,
    n_rows,
    per_unit,
    HAS_SHIFT: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    FORWARD_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store the gradient of the logits of a set of at most BLOCK_L rows.

    Return what the set adds to ∂α and ∂β. The features and the gradient of the output w are read
    once, and w not at all: it is linear in V = aᵀX, so that X·wᵀ follows from the Gram matrix XXᵀ,
    and h = ⟨w, G⟩ from X·Gᵀ.
    """
    real, largest, total, factor, term, norm = per_unit
    row = tl.arange(0, BLOCK_L)
    exists = row < n_rows
    along_g, gram, sum_x, sum_g = _products_of_set(
        *(x_pointer, g_pointer, exists, real),
        *(HAS_SHIFT, M, OPERAND, PRECISION, BLOCK_N, BLOCK_L, BLOCK_M),
    )
    places = row[:, None] * N + tl.arange(0, BLOCK_N)[None, :]
    mask = exists[:, None] & real[None, :]
    a = _weights(logits + places, exists, real, largest, total)
    D, beta_term = along_g, sum_g
    if HAS_SHIFT:
        # Triton 3.7 fails to compile a sum of a loop that has two uses, which `where` makes one.
        sum_x = tl.where(exists, sum_x, 0.0)[:, None]
        sum_g = tl.where(real, sum_g, 0.0)
        scale = _scale(norm, N)
        used = _forward_weights(
            *(logits + places, mask, largest, total, x_pointer, FORWARD_L, BLOCK_N, BLOCK_L)
        )
        along_w = factor * tl.dot(gram, used, input_precision="tf32x3") + term * sum_x
        h = scale * (factor * tl.sum(used * along_g, axis=0) + term * sum_g)
        if h_pointer is not None:
            tl.store(h_pointer + tl.arange(0, BLOCK_N), h, mask=real)
        sum_w = scale * (factor * tl.sum(used * sum_x, axis=0) + term * M)
        D = _project(along_g, scale * along_w, h, norm, N)
        beta_term = _project(sum_g, sum_w, h, norm, N)
    alpha_term = tl.sum(a * D, axis=0)
    tl.store(d_logits + places, factor * a * (D - alpha_term), mask=mask)
    return alpha_term, beta_term


@triton.jit
def _row_gradients(
    x_pointer,
    w_pointer,
    g_pointer,
    logits,
    d_logits,
    h_pointer,
    n_rows,
    per_unit,
    HAS_SHIFT: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store α·a∘D of some rows of a set; return what they add to ∂α, and ∂β.

    The gradient of the logits is α·a∘(D - Σ a∘D). The mean needs all rows of the set, so
    `center_kernel` subtracts it.
    """
    real, largest, total, factor, _, norm = per_unit
    row = tl.arange(0, BLOCK_L)
    exists = row < n_rows
    along_g = tl.zeros((BLOCK_L, BLOCK_N), tl.float32)
    along_w = tl.zeros((BLOCK_L, BLOCK_N), tl.float32)
    h = tl.zeros((BLOCK_N,), tl.float32)
    sum_w = tl.zeros((BLOCK_N,), tl.float32)
    sum_g = tl.zeros((BLOCK_N,), tl.float32)
    for column in range(0, M, BLOCK_M):
        x = _tile(x_pointer, exists, column, M, BLOCK_L, BLOCK_M).to(tl.float32)
        g = _operand_of(_tile(g_pointer, real, column, M, BLOCK_N, BLOCK_M), PRECISION)
        along_g = tl.dot(x, tl.trans(g), along_g, input_precision=PRECISION)
        if HAS_SHIFT:
            w = _tile(w_pointer, real, column, M, BLOCK_N, BLOCK_M).to(tl.float32)
            h += tl.sum(g * w, axis=1)
            rounded = tl.trans(_operand_of(w, PRECISION))
            along_w = tl.dot(x, rounded, along_w, input_precision=PRECISION)
            sum_w += tl.sum(w, axis=1)
            sum_g += tl.sum(g, axis=1)
    places = row[:, None] * N + tl.arange(0, BLOCK_N)[None, :]
    a = _weights(logits + places, exists, real, largest, total)
    D, beta_term = along_g, sum_g
    if HAS_SHIFT:
        h = tl.where(real, h, 0.0)  # one use each, see `_set_gradients`
        if h_pointer is not None:
            tl.store(h_pointer + tl.arange(0, BLOCK_N), h, mask=real)
        sum_w = tl.where(real, sum_w, 0.0)
        sum_g = tl.where(real, sum_g, 0.0)
        D = _project(along_g, along_w, h, norm, N)
        beta_term = _project(sum_g, sum_w, h, norm, N)
    mask = exists[:, None] & real[None, :]
    tl.store(d_logits + places, factor * a * D, mask=mask)
    return tl.sum(a * D, axis=0), beta_term


@triton.jit
def _per_unit(alpha, beta, statistics, item, unit, N: tl.constexpr):
    """Return the mask of real units, largest logit, sum of exponentials, α, β and norm."""
    real = unit < N
    own = statistics + item.to(tl.int64) * (3 * N) + unit
    largest = tl.load(own, mask=real, other=0.0)
    total = tl.load(own + N, mask=real, other=1.0)
    factor = tl.where(real, 1.0, 0.0)
    term, norm = 0.0 * factor, factor
    if alpha is not None:
        factor = tl.load(alpha + unit, mask=real, other=0.0).to(tl.float32)
        term = tl.load(beta + unit, mask=real, other=0.0).to(tl.float32)
        norm = tl.load(own + 2 * N, mask=real, other=1.0)
    return real, largest, total, factor, term, norm


@triton.jit
def _gradients(
    values,
    logits,
    alpha,
    beta,
    pooled,
    gradient,
    statistics,
    d_logits,
    h_pointer,
    item,
    start,
    stop,
    first_unit,
    is_whole,
    N: tl.constexpr,
    M: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    FORWARD_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Store the gradient of the logits of an entry; return what it adds to ∂α, and ∂β.

    Without the Gram matrix, `center_kernel` completes the gradient.
    """
    HAS_SHIFT: tl.constexpr = alpha is not None
    unit = first_unit + tl.arange(0, BLOCK_N)
    per_unit = _per_unit(alpha, beta, statistics, item, unit, N)
    alpha_term = tl.zeros((BLOCK_N,), tl.float32)
    beta_term = tl.zeros((BLOCK_N,), tl.float32)
    place = (item.to(tl.int64) * N + first_unit) * M
    w, g = pooled + place, gradient + place
    if h_pointer is not None:
        h_pointer += item.to(tl.int64) * N + first_unit
    if is_whole and stop - start <= BLOCK_L:
        place = start * N + first_unit
        alpha_term, beta_term = _set_gradients(
            *(values + start * M, g, logits + place, d_logits + place, h_pointer),
            *(stop - start, per_unit, HAS_SHIFT),
            *(N, M, OPERAND, PRECISION, FORWARD_L, BLOCK_N, BLOCK_L, BLOCK_M),
        )
    else:
        for first in range(start, stop, BLOCK_L):
            place = first * N + first_unit
            added, beta_term = _row_gradients(
                *(values + first * M, w, g, logits + place, d_logits + place, h_pointer),
                *(stop - first, per_unit, HAS_SHIFT, N, M, PRECISION, BLOCK_N, BLOCK_L, BLOCK_M),
            )
            alpha_term += added
    return alpha_term, beta_term


@triton.jit
def _clear(matrix, start, stop, column, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Fill some columns of the rows of a matrix of WIDTH columns with zeros."""
    row = tl.arange(0, 16)[:, None]
    for first in range(start, stop, 16):
        mask = (row < stop - first) & (column < WIDTH)[None, :]
        pointers = matrix + first * WIDTH + (row * WIDTH + column[None, :])
        tl.store(pointers, tl.zeros((16, BLOCK), tl.float32), mask=mask)


@triton.jit(do_not_specialize=["n", "n_rows"])
def backward_kernel(
    values,
    offsets,
    logits,
    alpha,
    beta,
    pooled,
    gradient,
    statistics,
    d_logits,
    terms,
    h_pointer,
    n,
    n_rows,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
    FORWARD_L: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Fill the gradient of the logits (R, N), and the terms of every entry (entries, 2, N).

    They are what the entry adds to ∂α and ∂β. Rows beyond the last set get a gradient of 0. For
    `feature_kernel`, `h_pointer` gets h = ⟨w, G⟩ of every set and unit (n, N); it may be None. All
    chunks of a set store the same.
    """
    n_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    first_unit = tl.program_id(0) % n_blocks * BLOCK_N
    item = tl.program_id(0) // n_blocks
    unit = first_unit + tl.arange(0, BLOCK_N)
    own_terms = terms + item.to(tl.int64) * (2 * N) + unit
    slot = item - n
    if slot >= 0:
        row, end = slot.to(tl.int64) * CHUNK, tl.load(offsets + n)
        _clear(d_logits, tl.maximum(row, end), tl.minimum(row + CHUNK, n_rows), unit, N, BLOCK_N)
        item = _owner(offsets, n, slot, CHUNK)
    start, stop = _rows(offsets, item, slot, CHUNK)
    alpha_term = tl.zeros((BLOCK_N,), tl.float32)
    beta_term = tl.zeros((BLOCK_N,), tl.float32)
    if stop > start:
        alpha_term, beta_term = _gradients(
            *(values, logits, alpha, beta, pooled, gradient, statistics, d_logits, h_pointer),
            *(item, start, stop, first_unit, slot < 0),
            *(N, M, OPERAND, PRECISION, FORWARD_L, BLOCK_N, BLOCK_L, BLOCK_M),
        )
        # Every chunk of a set returns the same ∂β; the first one adds it.
        beta_term = tl.where(start == tl.load(offsets + item), beta_term, 0.0)
    tl.store(own_terms, alpha_term, mask=unit < N)
    tl.store(own_terms + N, beta_term, mask=unit < N)


@triton.jit(do_not_specialize=["n"])
def center_kernel(
    offsets,
    logits,
    alpha,
    beta,
    statistics,
    d_logits,
    terms,
    n,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """Subtract α·a·Σ a∘D from what `_row_gradients` stored, given the terms of `backward_kernel`.

    The work list is that of `backward_kernel`, and so are BLOCK_N and BLOCK_L.
    """
    n_blocks: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    unit = tl.program_id(0) % n_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    item = tl.program_id(0) // n_blocks
    slot = item - n
    entry, n_chunks = item, 1
    if slot >= 0:
        item = _owner(offsets, n, slot, CHUNK)
    start, stop = _rows(offsets, item, slot, CHUNK)
    if (slot < 0 and stop - start <= BLOCK_L) or stop == start:
        return
    if slot >= 0:
        set_start = tl.load(offsets + item)
        n_chunks = ((tl.load(offsets + item + 1) - set_start) // CHUNK).to(tl.int32)
        entry = n + (set_start // CHUNK).to(tl.int32)
    real, largest, total, factor, _, _ = _per_unit(alpha, beta, statistics, item, unit, N)
    mean = tl.zeros((BLOCK_N,), tl.float32)
    alpha_terms = terms + entry.to(tl.int64) * (2 * N) + unit
    for chunk in range(n_chunks):
        mean += tl.load(alpha_terms + chunk * (2 * N), mask=real, other=0.0)
    row = tl.arange(0, BLOCK_L)
    for first in range(start, stop, BLOCK_L):
        exists = row < stop - first
        places = first * N + (row[:, None] * N + unit[None, :])
        a = _weights(logits + places, exists, real, largest, total)
        mask = exists[:, None] & real[None, :]
        uncentered = tl.load(d_logits + places, mask=mask, other=0.0)
        tl.store(d_logits + places, uncentered - factor * a * mean, mask=mask)


@triton.jit
def _feature_gradient(
    pooled,
    gradient,
    logits,
    alpha,
    beta,
    statistics,
    h_pointer,
    item,
    exists,
    columns,
    N: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Return the gradient of some columns of some rows of a set: Σ α·a·∂U over the units."""
    row = tl.arange(0, BLOCK_L)
    total = tl.zeros((BLOCK_L, BLOCK_M), tl.float32)
    for first_unit in range(0, N, BLOCK_N):
        unit = first_unit + tl.arange(0, BLOCK_N)
        real, largest, divisor, factor, _, norm = _per_unit(alpha, beta, statistics, item, unit, N)
        a = _weights(logits + (row[:, None] * N + unit[None, :]), exists, real, largest, divisor)
        places = (item.to(tl.int64) * N + first_unit) * M
        places += tl.arange(0, BLOCK_N)[:, None] * M + columns[None, :]
        mask = real[:, None] & (columns < M)[None, :]
        d_u = tl.load(gradient + places, mask=mask, other=0.0).to(tl.float32)
        if alpha is not None:
            w = tl.load(pooled + places, mask=mask, other=0.0).to(tl.float32)
            h = tl.load(h_pointer + item.to(tl.int64) * N + unit, mask=real, other=0.0)
            d_u = factor[:, None] * _project(d_u, w, h[:, None], norm[:, None], N)
        a, d_u = _operand_of(a, PRECISION), _operand_of(d_u, PRECISION)
        total = tl.dot(a, d_u, total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=["n", "n_rows"])
def feature_kernel(
    offsets,
    logits,
    alpha,
    beta,
    pooled,
    gradient,
    statistics,
    h_pointer,
    d_values,
    n,
    n_rows,
    CHUNK: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    N_LEARNED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Fill the gradient of the last features (R, N_LEARNED), given the h of `backward_kernel`.

    The work list is that of `backward_kernel`. Rows beyond the last set get a gradient of 0.
    """
    n_blocks: tl.constexpr = (N_LEARNED + BLOCK_M - 1) // BLOCK_M
    column = tl.program_id(0) % n_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    item = tl.program_id(0) // n_blocks
    slot = item - n
    if slot >= 0:
        place, end = slot.to(tl.int64) * CHUNK, tl.load(offsets + n)
        after = tl.minimum(place + CHUNK, n_rows)
        _clear(d_values, tl.maximum(place, end), after, column, N_LEARNED, BLOCK_M)
        item = _owner(offsets, n, slot, CHUNK)
    start, stop = _rows(offsets, item, slot, CHUNK)
    row = tl.arange(0, BLOCK_L)
    for first in range(start, stop, BLOCK_L):
        exists = row < stop - first
        total = _feature_gradient(
            *(pooled, gradient, logits + first * N, alpha, beta, statistics, h_pointer),
            *(item, exists, M - N_LEARNED + column, N, M, PRECISION, BLOCK_N, BLOCK_L, BLOCK_M),
        )
        pointers = d_values + first * N_LEARNED + (row[:, None] * N_LEARNED + column[None, :])
        tl.store(pointers, total, mask=exists[:, None] & (column < N_LEARNED)[None, :])
