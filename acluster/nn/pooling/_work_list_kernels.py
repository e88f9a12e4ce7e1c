"""Which rows a program of the Triton kernels works on, and other device functions they share.

N is the number of units and M the number of columns; BLOCK_N, BLOCK_L and BLOCK_M are a tile's
units, rows and columns. Tiles have the sizes of powers of two, so they may reach beyond the last
unit, row or column; masks called `real` and `exists` keep the kernels from reading and writing
there.

The work list has n entries for the sets, followed by entries for *slots*. Slot s stands for the
row (s + 1)·CHUNK - 1. A set of at least 2·CHUNK rows is *long*: it is divided into
⌊rows / CHUNK⌋ chunks, one for each slot among its rows, in order; the last slot may be unused.
Sets that are not long are worked on by their own entries. Thus the length of the
work list depends on the numbers of sets and rows only, and all else is found on the device.
"""

import triton
import triton.language as tl


@triton.jit
def _set_of_row(offsets, n, row):
    """Return the set that a row belongs to.

    Each step compares 128 offsets at once, because what takes time is waiting for memory.
    """
    low = 0
    high = n
    while high - low > 1:
        stride = (high - low + 127) // 128
        places = low + stride * tl.arange(0, 128)
        starts = tl.load(offsets + places, mask=places < high, other=row + 1)
        low += stride * (tl.sum((starts <= row).to(tl.int32)) - 1)
        high = tl.minimum(low + stride, high)
    return low


@triton.jit
def _owner(offsets, n, slot, CHUNK: tl.constexpr):
    """Return the long set whose chunk a slot takes, or -1."""
    row = (slot + 1).to(tl.int64) * CHUNK - 1
    owner = -1
    if row < tl.load(offsets + n):
        item = _set_of_row(offsets, n, row)
        start = tl.load(offsets + item)
        n_chunks = (tl.load(offsets + item + 1) - start) // CHUNK
        if n_chunks > 1 and slot - start // CHUNK < n_chunks:
            owner = item
    return owner


@triton.jit
def _rows(offsets, item, slot, CHUNK: tl.constexpr):
    """Return the first row of an entry of set `item`, and the row after its last.

    A slot takes a chunk of the set. A negative slot takes all rows, or none of a long set.
    """
    start = tl.zeros((), tl.int64)
    stop = tl.zeros((), tl.int64)
    if item >= 0:
        start = tl.load(offsets + item)
        stop = tl.load(offsets + item + 1)
        n_chunks = (stop - start) // CHUNK
        if slot >= 0:
            number = slot - start // CHUNK
            start += number * CHUNK
            if number < n_chunks - 1:
                stop = start + CHUNK
        elif n_chunks > 1:
            stop = start
    return start, stop


@triton.jit
def _inside(columns, rows, M: tl.constexpr, WIDTH: tl.constexpr):
    """Return the mask of a tile, given that of its rows.

    WIDTH is a number of columns, of a tile or of all tiles of a program. Where it divides M, the
    mask is that of the rows.
    """
    mask = rows[:, None]
    if M % WIDTH != 0:
        mask = mask & (columns < M)[None, :]
    return mask


@triton.jit
def _scale(norm, N: tl.constexpr):
    """Return 1 / (√N · max(‖αV + β‖₂, 1e-12)); the bound is that of the plain definition."""
    return N**-0.5 / tl.maximum(norm, 1e-12)
