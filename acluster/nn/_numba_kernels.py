"""The loops that Numba compiles, for `pooling` and `_linear`. Importing this imports Numba.

Arrays: values X (R, M), offsets (n + 1,), logits S and weights a (R, N), α and β (N,) or, without
a shift, empty; norms ‖u‖ (n, N) and results y (n, N, M). A thread has a set; products of matrices
are those of the BLAS of SciPy, of a size that stays in the cache.
"""

import numba
import numpy as np
from numba import prange

__all__ = ["gradients", "mask", "pool_and_shift", "subtract_largest"]

# A product of more than these has OpenBLAS start threads, beside those that are here already.
_MULTIPLICATIONS = 1 << 18
_ROWS = 32  # of a tile, at least: few rows make slow products

# Sums may be reordered, for vectors; NaN and infinity keep their meaning.
_FAST = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}}
_inlined = numba.njit(inline="always", **_FAST)


def _compiled(function):
    """A kernel that runs in parallel, and is kept on disk if there is a place to write to."""
    try:
        return numba.njit(parallel=True, cache=True, **_FAST)(function)
    except RuntimeError:
        return numba.njit(parallel=True, **_FAST)(function)


@_compiled
def subtract_largest(logits, offsets, result):
    """The logits less their maximum over the set, unit by unit."""
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
def pool_and_shift(values, offsets, a, alpha, beta, norms, result):
    """Divide the exponentials a by their sums; fill ‖u‖ and y."""
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
    """Fill dS, and every set's share of dα and dβ."""
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
                if stop - first == n_units:  # whole rows need no room in between
                    np.dot(x[row : row + rows], d_u.T, d_s[row : row + rows])
                else:
                    d_s[row : row + rows, first:stop] = np.dot(
                        x[row : row + rows], d_u[: stop - first].T
                    )
        _softmax_backward(w, d_s, alpha, of_alpha[i])


@_compiled
def mask(x, bits, kept_from, result):
    """0 where the byte of an item is below its threshold, else x."""
    for i in prange(len(x)):
        for m in range(x.shape[1]):
            result[i, m] = x[i, m] if bits[i, m] >= kept_from[i, 0] else 0


@_inlined
def _divide_by_sums(w):
    sums = w[0].copy()
    for row in range(1, len(w)):
        for k in range(len(sums)):
            sums[k] += w[row, k]
    for row in range(len(w)):
        for k in range(len(sums)):
            w[row, k] /= sums[k]


@_inlined
def _tile(n_rows, n_units, n_features):
    """How many rows and units to multiply at a time."""
    rows = min(n_rows, _ROWS)
    units = min(n_units, max(1, _MULTIPLICATIONS // (rows * n_features)))
    return min(n_rows, max(1, _MULTIPLICATIONS // (units * n_features))), units


@_inlined
def _weighted_sums(x, w, rows, v):
    """Wᵀ·X into v, some rows at a time."""
    np.dot(np.ascontiguousarray(w[:rows].T), x[:rows], v)
    for row in range(rows, len(x), rows):
        v += np.dot(np.ascontiguousarray(w[row : row + rows].T), x[row : row + rows])


@_inlined
def _shift(v, alpha, beta, n_units):
    """Shift and normalise v in its place; the norm."""
    number = v.dtype.type
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
    """Fill du; its sum."""
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
    """Turn X·duᵀ, in d_s, to the gradient of the logits; fill the sums that α gets."""
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
