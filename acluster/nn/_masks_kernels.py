"""The kernel of `_masks` for a CUDA device. Importing this module imports Triton."""

import triton
import triton.language as tl


@triton.jit
def _keys(logits, rows, stop, units, N: tl.constexpr):
    """Load logits as 32-bit integers in the same order; the lowest one beyond the last row."""
    inside = (rows < stop)[None, :] & (units < N)[:, None]
    scores = tl.load(logits + rows[None, :] * N + units[:, None], mask=inside, other=0.0)
    bits = scores.to(tl.float32).to(tl.int32, bitcast=True)
    # Negative floats are ordered by falling bits below the sign.
    return tl.where(inside, bits ^ ((bits >> 31) & 0x7FFFFFFF), -0x80000000)


@triton.jit
def _count(
    logits, start, stop, units, key, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr
):
    """Return how many logits of a set have at least this key, per unit."""
    count = tl.zeros((BLOCK_N,), tl.int32)
    for first in range(start, stop, BLOCK_L):
        keys = _keys(logits, first + tl.arange(0, BLOCK_L), stop, units, N)
        count += tl.sum((keys >= key[:, None]).to(tl.int32), axis=1)
    return count


@triton.jit
def below_highest_kernel(
    logits, offsets, below, k, N: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr
):
    """Find which logits are below the k highest of their set.

    The k-th highest is the largest number that at least k logits reach. Its bits are found from
    the first to the last, so that neither k nor the size of a set is limited, and nothing has to
    be sorted. A program has one set and a block of units.
    """
    item = tl.program_id(0).to(tl.int64)
    units = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    start, stop = tl.load(offsets + item), tl.load(offsets + item + 1)
    wanted = tl.minimum(stop - start, k).to(tl.int32)
    zero, one = tl.zeros((BLOCK_N,), tl.int32), tl.full((BLOCK_N,), 1, tl.int32)
    count = _count(logits, start, stop, units, zero, N, BLOCK_N, BLOCK_L)
    highest = tl.where(count >= wanted, zero, tl.full((BLOCK_N,), -0x80000000, tl.int32))
    for bit in range(31):
        higher = highest + (one << (30 - bit))
        count = _count(logits, start, stop, units, higher, N, BLOCK_N, BLOCK_L)
        highest = tl.where(count >= wanted, higher, highest)
    bits = highest ^ ((highest >> 31) & 0x7FFFFFFF)
    # Compared as numbers, 0 and -0 are equal.
    lowest_kept = bits.to(tl.float32, bitcast=True)
    for first in range(start, stop, BLOCK_L):
        rows = first + tl.arange(0, BLOCK_L)
        inside = (rows < stop)[None, :] & (units < N)[:, None]
        places = rows[None, :] * N + units[:, None]
        scores = tl.load(logits + places, mask=inside, other=0.0).to(tl.float32)
        tl.store(below + places, (scores < lowest_kept[:, None]).to(tl.uint8), mask=inside)
