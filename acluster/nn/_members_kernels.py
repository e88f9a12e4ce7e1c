"""The training step that Numba compiles for `_members`. Importing this module imports Numba.

Arrays of one member: the scores' weight W (M, N), α and β (N,), the weight (F, H) and the bias (H,)
of hidden features, the linear weight (N·M, C) and its bias (C,), end to end in one row of `theta`.
M = F + H is the width of the given features with the hidden ones. Inside the step, the global
features (n, M, N) and the linear weight (C, M, N) have the units last, so that every inner loop is
over adjacent numbers of all units. These loops become vector instructions. Products with many terms
go to the BLAS of SciPy.

The kernels start no threads. A thread that calls them takes whole members, one after the other:
no two threads write to the same memory, and the order of every sum is fixed. Numba's own threads
would need a second version of the step, and compiling one takes ten seconds. For the same reason,
what is used once is inlined before it is compiled (`_glue`), and not compiled by itself. The
exceptions are functions that slice arrays, whose code takes longer where it is inlined.
"""

import math

import numba
import numpy as np
from llvmlite import ir

__all__ = ["prepare_members", "train_members"]

# As in `_compiled_kernels`: sums may be reordered, but NaN and infinities must propagate.
_OPTIONS = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}}
_helper = numba.njit(**_OPTIONS)
_glue = numba.njit(inline="always", **_OPTIONS)
# Reordering would undo the two-part subtraction in `_exp`.
_exact = numba.njit(nogil=True, error_model="numpy", fastmath={"contract"})

_INVERSE_FACTORIALS = tuple(1 / math.factorial(n) for n in range(13, -1, -1))
_MAX_MULTIPLICATIONS = 1 << 18  # as in `_compiled_kernels`

# Items whose global features are multiplied while they are in the cache.
_N_TOGETHER = 4

_MIN_NORM, _EPSILON = 1e-12, 1e-8  # of `shifted`, and of the optimizers


def _entry(function):
    """Compile a kernel, cached on disk if there is a directory to write to."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # Numba found no directory to write to
        return numba.njit(**_OPTIONS)(function)


@_entry
def train_members(active, batch, members, draws, rule, scratch, losses, first, step):
    """Train every `step`-th active member, from the `first` on, on some batches.

    Parameters
    ----------
    active : array of int64
        The numbers of the members that train.

    batch : tuple
        values (R, F), their mean and scale (F,) or empty, offsets (n + 1,), the first item of
        every batch and n, classes (n,) for a softmax, targets (n, C) for sigmoids (the other one
        empty), and weights (1 or P, n, 1 or C).

    members : tuple
        theta, its moments mean and square_mean, (P, n_parameters); the numbers of steps (P, 2) of
        the cluster and the linear layer; cluster_size, the number H of hidden features,
        n_attended (0 for all), the part of every unit in a pyramid (N, 2), and whether there is a
        shift.

    draws : tuple
        Random bytes (D, n, N·M) and numbers (D, n), which draw a member uses (P,), and the
        dropout probabilities (P,).

    rule : tuple
        Learning rates, weight decays and clipping norms (P,), the two betas, and whether the rule
        corrects the bias and decouples the decay.

    scratch : tuple
        The standardized features (R, F), the bytes in the order of the units (D, n, M·N), and
        room for every thread (T, ...).

    losses : array (n_batches, P)
        Filled with the mean loss on every batch, before the step on it.

    first, step : int
        The number of the thread and that of all threads.
    """
    starts = batch[4]
    for q in range(first, len(active), step):
        # All batches of a member before the next one: its parameters stay in the cache.
        for b in range(len(starts) - 1):
            items = starts[b], starts[b + 1]
            losses[b, active[q]] = _train_one(
                active[q], items, batch, members, draws, rule, scratch, first
            )


@_entry
def prepare_members(batch, members, draws, scratch):
    """Standardize the features, and reorder the random bytes so that the units come last."""
    values, mean, scale = batch[:3]
    x, reordered, _ = scratch
    for r in range(len(values)):
        for m in range(values.shape[1]):
            x[r, m] = (values[r, m] - mean[m]) / scale[m] if len(mean) > 0 else values[r, m]
    drawn, n_units = draws[0], members[4]
    n_features = drawn.shape[2] // n_units
    for d in range(len(drawn)):
        for i in range(drawn.shape[1]):
            for m in range(n_features):
                for k in range(n_units):
                    reordered[d, i, m * n_units + k] = drawn[d, i, k * n_features + m]


@_glue
def _train_one(p, items, batch, members, draws, rule, scratch, thread):
    """Take one step with member p on the items of a batch, and return its loss."""
    x, offsets, classes, targets, weights = _batch_of(items, p, batch, scratch[0])
    room = scratch[2][thread]
    theta, mean, square_mean, steps, n_units, n_hidden, n_attended, parts, has_shift = members
    shape = x.shape[1] + n_hidden, n_units
    W, alpha, beta, W_h, b_h, linear, bias = _parameters(theta[p], shape, n_hidden, has_shift)
    gradient, room = room[: theta.shape[1]], room[theta.shape[1] :]
    _fill(gradient, 0.0)
    of_parameters = _parameters(gradient, shape, n_hidden, has_shift)
    rooms, room = _divided(room, len(x), len(offsets) - 1, shape, len(bias), n_attended)
    _, _, _, L, d_L, z, a, d, _, _ = rooms
    e, d_h, d_h_of_scores = _divided_for_hidden(room, x, n_hidden)
    dropped = _thresholds(p, items, draws, scratch[1])

    if n_hidden > 0:
        _extend(x, W_h, b_h, d_h, e)
    _reorder(linear, shape[0], L)
    _multiply_tiles(e, W, a)
    _forward(e, offsets, n_attended, parts, alpha, beta, bias, dropped, rooms)
    is_softmax = len(classes) > 0
    loss = _softmax_loss(z, classes, weights) if is_softmax else _sigmoid_loss(z, targets, weights)

    # From here on, z is the gradient of the logits, and d that of the scores.
    _add_columns(z, of_parameters[6])
    _scale_gradient(z, dropped[2])
    for c in range(len(d_L)):
        _fill(d_L[c], 0.0)
    _backward(e, offsets, alpha, dropped, rooms, of_parameters, d_h)
    _add_products(e, d, of_parameters[0])
    if n_hidden > 0:
        _multiply_tiles(d, W[x.shape[1] :].T, d_h_of_scores)
        _mask_hidden(e, d_h_of_scores, d_h)
        _add_products(x, d_h, of_parameters[3])
        _add_columns(d_h, of_parameters[4])
    _restore(d_L, shape[0], of_parameters[5])
    cluster = len(gradient) - linear.size - len(bias)
    _update(theta[p], gradient, mean[p], square_mean[p], steps[p], p, rule, cluster, len(x) > 0)
    return loss


@_helper
def _batch_of(items, p, batch, x):
    """Return the features, offsets, classes, targets and weights of the items of a batch."""
    _, _, _, offsets, _, classes, targets, weights = batch
    i, j = items
    of_member = weights[p if len(weights) > 1 else 0]
    own = offsets[i : j + 1]
    return x[own[0] : own[-1]], own - own[0], classes[i:j], targets[i:j], of_member[i:j]


@_helper
def _parameters(row, shape, n_hidden, has_shift):
    """Return the parameters of a member, or their gradients: views of a row, in its order."""
    n_features, n_units = shape
    size, shift = n_units * n_features, n_units if has_shift else 0
    hidden = size + 2 * shift
    of_bias = hidden + (n_features - n_hidden) * n_hidden
    head = of_bias + n_hidden
    bias = len(row) - (len(row) - head) // (size + 1)
    return (
        row[:size].reshape(n_features, n_units),
        row[size : size + shift],
        row[size + shift : hidden],
        row[hidden:of_bias].reshape(n_features - n_hidden, n_hidden),
        row[of_bias:head],
        row[head:bias].reshape(size, len(row) - bias),
        row[bias:],
    )


@_helper
def _divided(room, n_rows, n, shape, n_outputs, n_attended):
    """Return the matrices of a step, which lie in the room one after the other, and the rest."""
    n_units, size = shape[1], shape[0] * shape[1]
    y, room = _take(room, n, size)
    h, room = _take(room, _N_TOGETHER + 2, size)
    L, room = _take(room, n_outputs, size)
    d_L, room = _take(room, n_outputs, size)
    z, room = _take(room, n, n_outputs)
    a, room = _take(room, n_rows, n_units)
    d, room = _take(room, n_rows, n_units)
    norms, room = _take(room, n, n_units)
    top, room = _take(room, n_attended + 3, n_units)
    return (y, h[:_N_TOGETHER], h[_N_TOGETHER:], L, d_L, z, a, d, norms, top), room


@_helper
def _divided_for_hidden(room, x, n_hidden):
    """Return the features with room for hidden ones, and two matrices for gradients of these."""
    e = x
    if n_hidden > 0:
        e, room = _take(room, len(x), x.shape[1] + n_hidden)
    d_h, room = _take(room, len(x), n_hidden)
    return e, d_h, room[: d_h.size].reshape(d_h.shape)


@_helper
def _take(room, rows, columns):
    """Return a matrix at the beginning of the room, and the rest of the room."""
    size = rows * columns
    return room[:size].reshape(rows, columns), room[size:]


@_helper
def _thresholds(p, items, draws, reordered):
    """Return the bytes of a member, the lowest that keep a component, and the factor for it."""
    _, between, draw_of, dropout = draws
    random = reordered[draw_of[p]][items[0] : items[1]]
    of_item = between[draw_of[p]][items[0] : items[1]]
    kept_from = np.zeros(len(of_item) if dropout[p] > 0 else 0, np.int16)
    for i in range(len(kept_from)):
        kept_from[i] = np.int16(np.floor(np.float32(256 * dropout[p]) + of_item[i]))
    return random, kept_from, 1 / (1 - dropout[p])


@_helper
def _reorder(linear, n_features, out):
    """Write the linear weight (N·M, C) as (C, M·N)."""
    n_units = len(linear) // n_features
    for k in range(n_units):
        for m in range(n_features):
            for c in range(len(out)):
                out[c, m * n_units + k] = linear[k * n_features + m, c]


@_helper
def _restore(reordered, n_features, out):
    """Invert `_reorder`."""
    n_units = len(out) // n_features
    for k in range(n_units):
        for m in range(n_features):
            for c in range(len(reordered)):
                out[k * n_features + m, c] = reordered[c, m * n_units + k]


@_helper
def _extend(x, weight, bias, h, out):
    """Write the features and relu(x·weight + bias) side by side; h is overwritten."""
    zero, n_features = x.dtype.type(0), x.shape[1]
    _multiply_tiles(x, weight, h)
    for r in range(len(x)):
        for m in range(n_features):
            out[r, m] = x[r, m]
        for j in range(len(bias)):
            total = h[r, j] + bias[j]
            out[r, n_features + j] = zero if total <= 0 else total  # NaN stays, as in torch


@_helper
def _mask_hidden(e, other, d_h):
    """Add to the gradient of hidden features another one; zero it where the feature is 0."""
    zero, first, limit = e.dtype.type(0), e.shape[1] - d_h.shape[1], _limit(e)
    for r in range(len(d_h)):
        for j in range(d_h.shape[1]):
            total = d_h[r, j] + other[r, j]
            d_h[r, j] = zero if e[r, first + j] <= 0 or abs(total) < limit else total


@_helper
def _multiply_tiles(left, right, out):
    """Write left·right to `out` by BLAS, in tiles for which OpenBLAS starts no threads."""
    rows = max(1, _MAX_MULTIPLICATIONS // max(1, right.size))
    for r in range(0, len(left), rows):
        np.dot(left[r : r + rows], right, out[r : r + rows])


@_helper
def _multiply(left, right, out):
    """Write left·right to `out`."""
    n_terms, width = right.shape
    whole = n_terms // 4 * 4
    for r in range(len(left)):
        for k in range(width):
            out[r, k] = 0
        for j in range(0, whole, 4):
            f0, f1, f2, f3 = left[r, j], left[r, j + 1], left[r, j + 2], left[r, j + 3]
            for k in range(width):
                out[r, k] += (
                    f0 * right[j, k]
                    + f1 * right[j + 1, k]
                    + f2 * right[j + 2, k]
                    + f3 * right[j + 3, k]
                )
        for j in range(whole, n_terms):
            f0 = left[r, j]
            for k in range(width):
                out[r, k] += f0 * right[j, k]


@_helper
def _add_products(left, right, out):
    """Add leftᵀ·right to `out`."""
    width = right.shape[1]
    whole = len(left) // 4 * 4
    for r in range(0, whole, 4):
        for j in range(len(out)):
            f0, f1, f2, f3 = left[r, j], left[r + 1, j], left[r + 2, j], left[r + 3, j]
            for k in range(width):
                out[j, k] += (
                    f0 * right[r, k]
                    + f1 * right[r + 1, k]
                    + f2 * right[r + 2, k]
                    + f3 * right[r + 3, k]
                )
    for r in range(whole, len(left)):
        for j in range(len(out)):
            f0 = left[r, j]
            for k in range(width):
                out[j, k] += f0 * right[r, k]


@_helper
def _logits(h, L, scale, bias, out):
    """Write the logits scale·h·Lᵀ + bias."""
    number = h.dtype.type
    for i in range(len(h)):
        for c in range(len(L)):
            total = number(0)
            for k in range(h.shape[1]):
                total += h[i, k] * L[c, k]
            out[i, c] = number(scale) * total + bias[c]


@_glue
def _forward(x, offsets, n_attended, parts, alpha, beta, bias, dropped, rooms):
    """Replace the scores by the attention weights, and fill the global features and the logits."""
    y, h, _, L, _, z, a, _, norms, top = rooms
    for first in range(0, len(y), _N_TOGETHER):
        n = min(_N_TOGETHER, len(y) - first)
        for i in range(first, first + n):
            start, stop = offsets[i], offsets[i + 1]
            n_top = n_attended if 0 < n_attended < stop - start else 0
            _exclude(a[start:stop], parts)
            _highest(a[start:stop], max(n_top, 1), top)
            _softmax(a[start:stop], n_top, top)
            pooled = y[i].reshape(x.shape[1], a.shape[1])
            _pool(x[start:stop], a[start:stop], pooled)
            if len(alpha) > 0 and start < stop:
                _shift(pooled, alpha, beta, norms[i])
            _mask(y[i], i, dropped, h[i - first])
        _logits(h[:n], L, dropped[2], bias, z[first : first + n])


@_helper
def _pool(x, a, out):
    """Write the weighted averages xᵀ·a of a set; a large set takes more than one product."""
    if 0 < x.size * a.shape[1] <= _MAX_MULTIPLICATIONS:
        np.dot(x.T, a, out)
    else:
        for m in range(len(out)):
            _fill(out[m], 0.0)
        _add_products(x, a, out)


@_helper
def _fill(out, value):
    for k in range(len(out)):
        out[k] = value


@_helper
def _exclude(scores, parts):
    """Set the scores of a set to -∞ outside their unit's part of a temporal pyramid."""
    for k in range(len(parts)):
        part, n_parts = parts[k]
        if n_parts > 1:
            start = part * len(scores) // n_parts
            stop = max((part + 1) * len(scores) // n_parts, start + 1)
            scores[:start, k] = -np.inf
            scores[stop:, k] = -np.inf


@_helper
def _highest(scores, n_top, top):
    """Fill the first rows of `top` with the highest scores of every unit in a set, in order."""
    for q in range(n_top):
        _fill(top[q], -np.inf)
    for r in range(len(scores)):
        # The score sinks to its place; the lowest one drops into the row below, which is spare.
        for k in range(scores.shape[1]):
            top[n_top, k] = scores[r, k]
        for q in range(n_top):
            for k in range(scores.shape[1]):
                high, low = top[q, k], top[n_top, k]
                top[q, k] = high if high > low else low
                top[n_top, k] = low if high > low else high


@_helper
def _softmax(a, n_top, top):
    """Replace the scores of a set by its attention weights, 0 below the `n_top` highest scores."""
    number, n_units = a.dtype.type, a.shape[1]
    lowest = number(np.log(_limit(a)))
    sums, bounds = top[n_top + 1], top[n_top + 2]
    for k in range(n_units):
        sums[k] = 0
        bounds[k] = top[n_top - 1, k] if n_top > 0 else number(-np.inf)
    for r in range(len(a)):
        for k in range(n_units):
            weight = _exp(a[r, k] - top[0, k], lowest)
            weight = number(0) if a[r, k] < bounds[k] else weight
            a[r, k] = weight
            sums[k] += weight
    for r in range(len(a)):
        for k in range(n_units):
            a[r, k] /= sums[k]


@_helper
def _shift(v, alpha, beta, norms):
    """Shift and normalize v (M, N) in place (equation 7), and fill the factors of that."""
    number, n_units = v.dtype.type, v.shape[1]
    _fill(norms, 0.0)
    for m in range(len(v)):
        for k in range(n_units):
            u = alpha[k] * v[m, k] + beta[k]
            v[m, k] = u
            norms[k] += u * u
    root = number(np.sqrt(n_units))
    for k in range(n_units):
        norms[k] = number(1) / (root * max(np.sqrt(norms[k]), number(_MIN_NORM)))
    for m in range(len(v)):
        for k in range(n_units):
            v[m, k] *= norms[k]


@_helper
def _shift_backward(y, d_y, norms, along, d_beta):
    """Turn dy into du in place, and add to dβ."""
    number, n_units = y.dtype.type, y.shape[1]
    for k in range(n_units):
        along[0, k] = 0
    for m in range(len(y)):
        for k in range(n_units):
            along[0, k] += y[m, k] * d_y[m, k]
    for k in range(n_units):
        along[0, k] *= number(n_units)
    for m in range(len(y)):
        for k in range(n_units):
            d_u = (d_y[m, k] - y[m, k] * along[0, k]) * norms[k]
            d_y[m, k] = d_u
            d_beta[k] += d_u


@_glue
def _backward(x, offsets, alpha, dropped, rooms, of_parameters, d_h):
    """Fill the gradient of the scores from that of the logits, and add to those of L, α and β.

    The part of the gradient of hidden features that comes from pooling goes to `d_h`.
    """
    y, h, d_y, L, d_L, z, a, d, norms, top = rooms
    shape = x.shape[1], a.shape[1]
    # Masking in place would not be vectorized, because the arrays overlap.
    masked, unmasked = d_y[0], d_y[1:]
    d_u = masked.reshape(shape)
    for first in range(0, len(y), _N_TOGETHER):
        n = min(_N_TOGETHER, len(y) - first)
        for i in range(first, first + n):
            start, stop = offsets[i], offsets[i + 1]
            _mask(y[i], i, dropped, h[i - first])
            if start < stop:
                _multiply(z[i : i + 1], L, unmasked)
                _mask(unmasked[0], i, dropped, masked)
                if len(alpha) > 0:
                    _shift_backward(y[i].reshape(shape), d_u, norms[i], top, of_parameters[2])
                _multiply_tiles(x[start:stop], d_u, d[start:stop])
                if d_h.shape[1] > 0:
                    learned = d_u[shape[0] - d_h.shape[1] :]
                    _pool_backward(a[start:stop], learned, alpha, d_h[start:stop])
                _softmax_backward(a[start:stop], d[start:stop], alpha, top, of_parameters[1])
        _add_products(z[first : first + n], h[:n], d_L)


@_helper
def _pool_backward(a, d_u, alpha, d_x):
    """Write the gradient a·(α·du)ᵀ of the features of a set; du is overwritten."""
    if len(alpha) > 0:
        for m in range(len(d_u)):
            for k in range(d_u.shape[1]):
                d_u[m, k] *= alpha[k]
    _multiply_tiles(a, d_u.T, d_x)


@_helper
def _softmax_backward(a, d, alpha, sums, d_alpha):
    """Turn D = X·duᵀ into the gradient of the scores in place, and add to dα."""
    number, n_units, has_shift = a.dtype.type, a.shape[1], len(alpha) > 0
    limit = _limit(a)
    for k in range(n_units):
        sums[0, k] = 0
        sums[1, k] = alpha[k] if has_shift else number(1)
    for r in range(len(a)):
        for k in range(n_units):
            sums[0, k] += a[r, k] * d[r, k]
    for r in range(len(a)):
        for k in range(n_units):
            d_score = sums[1, k] * a[r, k] * (d[r, k] - sums[0, k])
            d[r, k] = number(0) if abs(d_score) < limit else d_score
    if has_shift:
        for k in range(n_units):
            d_alpha[k] += sums[0, k]


@_helper
def _mask(x, i, dropped, out):
    """Copy the components of item i whose random byte reaches its threshold, and zero others."""
    random, kept_from, _ = dropped
    zero = x.dtype.type(0)
    if len(kept_from) > 0:
        for k in range(len(x)):
            out[k] = x[k] if random[i, k] >= kept_from[i] else zero
    else:  # no dropout
        for k in range(len(x)):
            out[k] = x[k]


@_helper
def _add_columns(z, out):
    for i in range(len(z)):
        for c in range(z.shape[1]):
            out[c] += z[i, c]


@_helper
def _softmax_loss(z, classes, weights):
    """Return the mean weighted cross-entropy of the logits, and replace them by its gradient."""
    number = z.dtype.type
    n, n_outputs = z.shape
    loss = number(0)
    for i in range(n):
        weight = weights[i, 0] / number(n)
        largest = z[i, 0]
        for c in range(n_outputs):
            largest = max(largest, z[i, c])
        of_class, total = z[i, classes[i]] - largest, number(0)
        for c in range(n_outputs):
            z[i, c] = np.exp(z[i, c] - largest)
            total += z[i, c]
        loss += weight * (np.log(total) - of_class)
        for c in range(n_outputs):
            z[i, c] = weight * (z[i, c] / total - number(c == classes[i]))
    return loss


@_helper
def _sigmoid_loss(z, targets, weights):
    """Return the mean over the items of the weighted binary cross-entropy, as `_softmax_loss`."""
    number = z.dtype.type
    n, n_outputs = z.shape
    loss = number(0)
    for i in range(n):
        for c in range(n_outputs):
            weight = weights[i, c if weights.shape[1] > 1 else 0] / number(n)
            small = np.exp(-abs(z[i, c]))
            loss += weight * (max(z[i, c], number(0)) - z[i, c] * targets[i, c] + np.log1p(small))
            sigmoid = (number(1) if z[i, c] >= 0 else small) / (number(1) + small)
            z[i, c] = weight * (sigmoid - targets[i, c])
    return loss


@_glue
def _limit(array):
    """Return below which a number counts as 0, as for `_without_subnormal` in `_linear`."""
    return array.dtype.type(np.finfo(array.dtype).tiny / np.finfo(array.dtype).eps)


@_helper
def _scale_gradient(g, scale):
    """Scale dz by the factor of dropout; zero what is below `_limit`."""
    limit = _limit(g)
    for i in range(len(g)):
        for c in range(g.shape[1]):
            scaled = g[i, c] * g.dtype.type(scale)
            g[i, c] = g.dtype.type(0) if abs(scaled) < limit else scaled


@_helper
def _update(w, gradient, mean, square_mean, steps, p, rule, n_cluster, has_rows):
    """Clip the gradient and update the parameters; those of the cluster only if there are rows."""
    rates, decays, max_norms, beta1, beta2, corrects_bias, decouples = rule
    number = w.dtype.type
    total = number(0)
    for i in range(len(gradient)):
        total += gradient[i] * gradient[i]
    # The torch optimizer divides by a number in float32.
    divisor = np.float32(np.sqrt(total) / max_norms[p])
    factor = number(1) / number(divisor) if divisor > 1 else number(1)
    outside, inside = (decays[p], 0.0) if decouples else (0.0, decays[p])
    for part in range(0 if has_rows else 1, 2):
        start, stop = (0, n_cluster) if part == 0 else (n_cluster, len(w))
        steps[part] += 1
        c1, c2 = 1.0, 1.0
        if corrects_bias:
            c1, c2 = 1 - beta1 ** steps[part], np.sqrt(1 - beta2 ** steps[part])
        _adam(
            w[start:stop],
            gradient[start:stop],
            mean[start:stop] if beta1 > 0 else gradient[start:stop],
            square_mean[start:stop],
            (factor, number(inside), number(1 - rates[p] * outside), number(rates[p] / c1)),
            (number(1 - beta1), number(beta2), number(1 - beta2), number(1 / c2)),
        )


@_helper
def _adam(w, gradient, mean, square_mean, scales, rates):
    factor, decay, shrink, rate = scales
    new, beta2, new2, correction = rates
    epsilon, limit, zero = w.dtype.type(_EPSILON), _limit(w), w.dtype.type(0)
    for i in range(len(w)):
        g = gradient[i] * factor + decay * w[i]
        m = mean[i] + new * (g - mean[i])
        m = zero if abs(m) < limit else m
        v = beta2 * square_mean[i] + (zero if g * g < limit else new2 * g * g)
        mean[i] = m
        square_mean[i] = v
        w[i] = w[i] * shrink - rate * m / (np.sqrt(v) * correction + epsilon)


@numba.extending.intrinsic
def _power_of_two(context, exponent):
    """Return 2 to the power of a whole floating-point number, by writing its bits."""

    def codegen(context, builder, signature, arguments):
        is_single = exponent == numba.float32
        integer = ir.IntType(32 if is_single else 64)
        mantissa, bias = (23, 127) if is_single else (52, 1023)
        bits = builder.add(builder.fptosi(arguments[0], integer), integer(bias))
        return builder.bitcast(builder.shl(bits, integer(mantissa)), arguments[0].type)

    return exponent(exponent), codegen


@_exact
def _exp(x, lowest):
    """Return exp(x) for x <= 0 to about an ulp, and 0 below `lowest`.

    For `np.exp`, Numba calls the C library number by number; this becomes vector instructions.
    With n the nearest integer to x / ln 2, it is 2ⁿ times a Taylor polynomial.
    """
    number = type(x)
    n = np.rint(number(1.4426950408889634) * (lowest if x < lowest else x))
    # ln 2 in two parts: the first has so few digits that its product with n is exact.
    t = (x - n * number(0.693359375)) - n * number(-2.1219444005469057e-4)
    total = number(0)
    for inverse in _INVERSE_FACTORIALS:
        total = total * t + number(inverse)
    return number(0) if x < lowest else total * _power_of_two(n)
