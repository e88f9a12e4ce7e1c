"""The loops that Numba compiles for `pooling` and `_linear`. Importing this module imports Numba.

Array arguments are the features X (R, M), the offsets (n + 1,), the logits S and the weights a
(R, N), α and β (N,), the norms ‖u‖ (n, N) and the results y (n, N, M). Without a shifting
operation, α and β are empty.

Each thread works on whole sets, one at a time, so that no two threads write to the same memory
and the order of every sum is fixed. Matrix products go to the BLAS of SciPy, in tiles.
"""

import numba
import numpy as np
from numba import prange

__all__ = [
    "below_highest",
    "feature_gradients",
    "gradients",
    "mask",
    "pool_and_shift",
    "subtract_largest",
]

# OpenBLAS starts threads of its own for larger products, which would compete with the threads
# that run the kernel. Tiles of this size also stay in the processor's cache.
_MAX_MULTIPLICATIONS = 1 << 18
_MIN_TILE_ROWS = 32  # products of fewer rows are slow

# "reassoc" lets the compiler reorder sums into vector instructions. `fastmath=True` would also
# let it assume that there are no NaN and no infinities, which must propagate.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}}
_inlined = numba.njit(inline="always", **_OPTIONS)


def _compiled(function):
    """Compile a parallel kernel, cached on disk if there is a directory to write to."""
    try:
        return numba.njit(parallel=True, cache=True, **_OPTIONS)(function)
    except RuntimeError:  # Numba found no directory to write to
        return numba.njit(parallel=True, **_OPTIONS)(function)


@_compiled
def subtract_largest(logits, offsets, result):
    """Subtract from the logits their maximum over the set, per unit.

    The maximum is that of each set. With one maximum over all sets, the exponentials of a set
    whose logits are far lower would underflow to 0.
    """
    for i in prange(len(offsets) - 1):
        rows, out = logits[offsets[i] : offsets[i + 1]], result[offsets[i] : offsets[i + 1]]
        largest = rows[0].copy()
        for row in range(1, len(rows)):
            for k in range(len(largest)):
                largest[k] = max(largest[k], rows[row, k])
        for row in range(len(rows)):
            for k in range(len(largest)):
                out[row, k] = rows[row, k] - largest[k]


@_compiled
def below_highest(logits, offsets, highest, result):
    """Find which logits are below the k highest of their set; `highest` (n, N, k) is scratch."""
    k = highest.shape[2]
    for i in prange(len(offsets) - 1):
        rows, out = logits[offsets[i] : offsets[i + 1]], result[offsets[i] : offsets[i + 1]]
        top = highest[i]
        top[:] = -np.inf
        for row in range(len(rows)):
            for unit in range(len(top)):
                # A logit sinks to its place in the sorted list, and the lowest one drops out.
                place, logit = k, rows[row, unit]
                while place > 0 and logit > top[unit, place - 1]:
                    if place < k:
                        top[unit, place] = top[unit, place - 1]
                    place -= 1
                if place < k:
                    top[unit, place] = logit
        for row in range(len(rows)):
            for unit in range(len(top)):
                out[row, unit] = rows[row, unit] < top[unit, k - 1]


@_compiled
def pool_and_shift(values, offsets, a, alpha, beta, norms, result):
    """Divide the exponentials in `a` by their sums, and fill the norms ‖u‖ and the results y."""
    n_units, n_features = a.shape[1], values.shape[1]
    for i in prange(len(offsets) - 1):
        x, w = values[offsets[i] : offsets[i + 1]], a[offsets[i] : offsets[i + 1]]
        _divide_by_sums(w)
        rows, units = _tile(len(x), n_units, n_features)
        for first in range(0, n_units, units):
            v = result[i, first : first + units]
            _weighted_sums(x, w[:, first : first + units], rows, v)
            if len(alpha) > 0:
                for k in range(first, first + len(v)):
                    norms[i, k] = _shift(result[i, k], alpha[k], beta[k], n_units)


@_compiled
def gradients(values, offsets, a, alpha, norms, result, gradient, d_logits, of_alpha, of_beta):
    """Fill dS, and the contribution of each set to dα and dβ.

    Contributions are stored per set, and added up in torch. Adding them here would make the
    threads share an accumulator, and the sum would depend on their timing.
    """
    n_units, n_features = a.shape[1], values.shape[1]
    for i in prange(len(offsets) - 1):
        x, w = values[offsets[i] : offsets[i + 1]], a[offsets[i] : offsets[i + 1]]
        d_s = d_logits[offsets[i] : offsets[i + 1]]
        rows, units = _tile(len(x), n_units, n_features)
        d_u = np.empty((units, n_features), values.dtype)
        for first in range(0, n_units, units):
            stop = min(first + units, n_units)
            for k in range(first, stop):
                if len(alpha) == 0:
                    d_u[k - first] = gradient[i, k]
                else:
                    of_beta[i, k] = _shift_backward(
                        result[i, k], gradient[i, k], norms[i, k], n_units, d_u[k - first]
                    )
            for row in range(0, len(x), rows):
                tile = x[row : row + rows]
                # `np.dot` needs a contiguous output, which only whole rows of `d_s` are.
                if stop - first == n_units:
                    np.dot(tile, d_u.T, d_s[row : row + rows])
                else:
                    d_s[row : row + rows, first:stop] = np.dot(tile, d_u[: stop - first].T)
        _softmax_backward(w, d_s, alpha, of_alpha[i])


@_compiled
def feature_gradients(offsets, a, alpha, norms, result, gradient, d_values):
    """Fill dX = a·(α·du) for as many of the last features as `d_values` has columns."""
    n_units, n_features = result.shape[1:]
    n_learned = d_values.shape[1]
    for i in prange(len(offsets) - 1):
        w, d_x = a[offsets[i] : offsets[i + 1]], d_values[offsets[i] : offsets[i + 1]]
        d_x[:] = 0
        rows, units = _tile(len(w), n_units, n_learned)
        d_u, d_v = np.empty(n_features, a.dtype), np.empty((units, n_learned), a.dtype)
        for first in range(0, n_units, units):
            stop = min(first + units, n_units)
            for k in range(first, stop):
                if len(alpha) == 0:
                    d_v[k - first] = gradient[i, k, n_features - n_learned :]
                else:
                    _shift_backward(result[i, k], gradient[i, k], norms[i, k], n_units, d_u)
                    d_v[k - first] = alpha[k] * d_u[n_features - n_learned :]
            for row in range(0, len(w), rows):
                tile = np.ascontiguousarray(w[row : row + rows, first:stop])
                d_x[row : row + rows] += np.dot(tile, d_v[: stop - first])


@_compiled
def mask(x, bits, kept_from, result):
    """Copy x where the random byte reaches the threshold of the item, and zero elsewhere."""
    for i in prange(len(x)):
        for m in range(x.shape[1]):
            result[i, m] = x[i, m] if bits[i, m] >= kept_from[i, 0] else 0


@_inlined
def _divide_by_sums(w):
    """Normalize the columns of w in place."""
    sums = w[0].copy()
    for row in range(1, len(w)):
        for k in range(len(sums)):
            sums[k] += w[row, k]
    for row in range(len(w)):
        for k in range(len(sums)):
            w[row, k] /= sums[k]


@_inlined
def _tile(n_rows, n_units, n_features):
    """Return how many rows and units one matrix product takes."""
    rows = min(n_rows, _MIN_TILE_ROWS)
    units = min(n_units, max(1, _MAX_MULTIPLICATIONS // (rows * n_features)))
    return min(n_rows, max(1, _MAX_MULTIPLICATIONS // (units * n_features))), units


@_inlined
def _weighted_sums(x, w, rows, v):
    """Write Wᵀ·X to v, one tile of rows after the other."""
    np.dot(np.ascontiguousarray(w[:rows].T), x[:rows], v)
    for row in range(rows, len(x), rows):
        v += np.dot(np.ascontiguousarray(w[row : row + rows].T), x[row : row + rows])


@_inlined
def _shift(v, alpha, beta, n_units):
    """Shift and normalize v in place, and return the norm."""
    number = v.dtype.type  # keeps constants from promoting float32 to float64
    square = number(0)
    for m in range(len(v)):
        v[m] = alpha * v[m] + beta
        square += v[m] * v[m]
    norm = max(np.sqrt(square), number(1e-12))
    scale = number(1) / (number(np.sqrt(n_units)) * norm)
    for m in range(len(v)):
        v[m] *= scale
    return norm


@_inlined
def _shift_backward(y, g, norm, n_units, d_u):
    """Fill du from y and dy, and return the sum of its components."""
    number = y.dtype.type
    along, total = number(0), number(0)
    for m in range(len(y)):
        along += y[m] * g[m]
    along *= number(n_units)
    scale = number(1) / (number(np.sqrt(n_units)) * norm)
    for m in range(len(y)):
        d_u[m] = (g[m] - y[m] * along) * scale
        total += d_u[m]
    return total


@_inlined
def _softmax_backward(w, d_s, alpha, totals):
    """Turn D = X·duᵀ in `d_s` into the gradient of the logits; fill the contributions to dα."""
    totals[:] = 0
    for row in range(len(w)):
        for k in range(len(totals)):
            totals[k] += w[row, k] * d_s[row, k]
    for row in range(len(w)):
        for k in range(len(totals)):
            d_s[row, k] = w[row, k] * (d_s[row, k] - totals[k])
    if len(alpha) > 0:
        for row in range(len(w)):
            for k in range(len(totals)):
                d_s[row, k] *= alpha[k]
