"""The loops that Numba compiles, for `_pooling_numba` and `_linear`. Importing this imports Numba.

Arrays: values X (R, M), offsets (n + 1,), logits S and weights a (R, N), α and β (N,) or, without
a shift, empty; norms ‖u‖ (n, N) and results y (n, N, M). Units are taken two or four at a time:
a feature that is in a register then serves them all.
"""

import numba
import numpy as np
from numba import prange

__all__ = ["gradients", "mask", "pool_and_shift", "subtract_largest"]

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
    number = values.dtype.type
    root, smallest = number(np.sqrt(n_units)), number(1e-12)
    for i in prange(len(offsets) - 1):
        x, w = values[offsets[i] : offsets[i + 1]], a[offsets[i] : offsets[i + 1]]
        _divide_by_sums(w)
        pair = np.empty((2, n_features), values.dtype)
        for first in range(0, n_units, 2):
            second = min(first + 1, n_units - 1)
            _weighted_sums(x, w[:, first], w[:, second], pair[0], pair[1])
            for k in range(first, second + 1):
                v, y = pair[k - first], result[i, k]
                if len(alpha) == 0:
                    y[:] = v
                    continue
                square = number(0)
                for m in range(n_features):
                    u = alpha[k] * v[m] + beta[k]
                    square += u * u
                norms[i, k] = max(np.sqrt(square), smallest)
                scale = number(1) / (root * norms[i, k])
                for m in range(n_features):
                    y[m] = (alpha[k] * v[m] + beta[k]) * scale


@_compiled
def gradients(values, offsets, a, alpha, norms, result, gradient, d_logits, of_alpha, of_beta):
    """Fill dS, and every set's share of dα and dβ."""
    n_units, n_features = a.shape[1], values.shape[1]
    number = values.dtype.type
    for i in prange(len(offsets) - 1):
        x, w = values[offsets[i] : offsets[i + 1]], a[offsets[i] : offsets[i + 1]]
        d_s = d_logits[offsets[i] : offsets[i + 1]]
        d_u = np.empty((4, n_features), values.dtype)
        for first in range(0, n_units, 4):
            stop = min(first + 4, n_units)
            for k in range(first, stop):
                if len(alpha) == 0:
                    d_u[k - first] = gradient[i, k]
                else:
                    scale = number(1) / (number(np.sqrt(n_units)) * norms[i, k])
                    of_beta[i, k] = _shift_backward(
                        result[i, k], gradient[i, k], number(n_units), scale, d_u[k - first]
                    )
            _products(x, d_u, d_s, first, stop)
            for k in range(first, stop):
                total = number(0)
                for row in range(len(w)):
                    total += w[row, k] * d_s[row, k]
                factor = number(1)
                if len(alpha) > 0:
                    of_alpha[i, k] = total
                    factor = alpha[k]
                for row in range(len(w)):
                    d_s[row, k] = factor * w[row, k] * (d_s[row, k] - total)


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
def _weighted_sums(x, w, z, v, u):
    """Σ w_l·x_l into v and Σ z_l·x_l into u: two units and four rows at a time, in registers."""
    v[:] = 0
    u[:] = 0
    n_fours = len(x) // 4
    for four in range(n_fours):
        row = 4 * four
        w0, w1, w2, w3 = w[row], w[row + 1], w[row + 2], w[row + 3]
        z0, z1, z2, z3 = z[row], z[row + 1], z[row + 2], z[row + 3]
        x0, x1, x2, x3 = x[row], x[row + 1], x[row + 2], x[row + 3]
        for m in range(len(v)):
            v[m] += w0 * x0[m] + w1 * x1[m] + w2 * x2[m] + w3 * x3[m]
            u[m] += z0 * x0[m] + z1 * x1[m] + z2 * x2[m] + z3 * x3[m]
    for row in range(4 * n_fours, len(x)):
        x0 = x[row]
        for m in range(len(v)):
            v[m] += w[row] * x0[m]
            u[m] += z[row] * x0[m]


@_inlined
def _shift_backward(y, g, n_units, scale, d_u):
    """Fill du; its sum."""
    along, total = y.dtype.type(0), y.dtype.type(0)
    for m in range(len(y)):
        along += y[m] * g[m]
    along *= n_units
    for m in range(len(y)):
        d_u[m] = (g[m] - y[m] * along) * scale
        total += d_u[m]
    return total


@_inlined
def _products(x, d_u, result, first, stop):
    """X·duᵀ of up to four units into their columns, for two rows at a time, in registers."""
    zero = x.dtype.type(0)
    b, c, d = min(first + 1, stop - 1), min(first + 2, stop - 1), min(first + 3, stop - 1)
    u, v, w, z = d_u[0], d_u[b - first], d_u[c - first], d_u[d - first]
    for row in range(0, len(x), 2):
        other = min(row + 1, len(x) - 1)
        u0, u1, v0, v1, w0, w1, z0, z1 = zero, zero, zero, zero, zero, zero, zero, zero
        x0, x1 = x[row], x[other]
        for m in range(x.shape[1]):
            u0 += x0[m] * u[m]
            u1 += x1[m] * u[m]
            v0 += x0[m] * v[m]
            v1 += x1[m] * v[m]
            w0 += x0[m] * w[m]
            w1 += x1[m] * w[m]
            z0 += x0[m] * z[m]
            z1 += x1[m] * z[m]
        result[row, first], result[row, b], result[row, c], result[row, d] = u0, v0, w0, z0
        result[other, first], result[other, b] = u1, v1
        result[other, c], result[other, d] = w1, z1
