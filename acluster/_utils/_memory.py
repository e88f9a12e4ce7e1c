"""A buffer pool that reuses the memory of large arrays."""

import math
import mmap
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# The allocator below torch already keeps smaller blocks for reuse when they are freed.
_MIN_POOLED_BYTES = 1 << 25

# Larger free buffers are kept for requests of similar size only.
_MAX_KEPT_BYTES = 1 << 28

# Huge pages mean fewer page faults and fewer TLB misses. None on systems that lack the option.
_MADV_HUGEPAGE: int | None = getattr(mmap, "MADV_HUGEPAGE", None)

# Each thread has its own active pool, so that a prefetching thread does not use the trainer's.
_thread_local = threading.local()


class Pool:
    """Reuse the memory of arrays that are no longer referenced.

    The operating system maps fresh memory one page at a time, which takes longer than writing
    to it. In addition, a process that allocates arrays of varying size from two threads keeps
    growing. A buffer becomes free once nothing refers to its array any more;
    views and tensors count as references.
    """

    def __init__(self) -> None:
        # Every buffer with the array on it; a dead reference means that the buffer is free.
        self._buffers: list[tuple[mmap.mmap, weakref.ref[NDArray[np.uint8]]]] = []
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Pool"], tuple[()]]:
        return Pool, ()  # a copy has no buffers yet

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an uninitialized array, on a free buffer if one has a suitable size."""
        n_bytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            buffer = self._take_buffer(max(1, n_bytes))
            # NumPy collapses chains of views: the base of any view of this array is the array
            # itself. Its weak reference therefore dies only when the last view is gone.
            whole = np.frombuffer(buffer, np.uint8)
            self._buffers.append((buffer, weakref.ref(whole)))
        return whole[:n_bytes].view(dtype).reshape(shape)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Let `empty` allocate from this pool, in the current thread and within the context."""
        outer = getattr(_thread_local, "pool", None)
        _thread_local.pool = self
        try:
            yield
        finally:
            _thread_local.pool = outer

    def _free_buffers(self) -> list[mmap.mmap]:
        """Return the buffers whose arrays are gone."""
        return [buffer for buffer, array in self._buffers if array() is None]

    def _take_buffer(self, n_bytes: int) -> mmap.mmap:
        """Remove the smallest sufficient free buffer from the pool, or make a new one.

        A new buffer replaces the free buffers of similar size, all of them too small, and those
        that are very large. Without this, a slowly growing request would leave one abandoned
        buffer behind per size.
        """
        free = self._free_buffers()
        similar = [buffer for buffer in free if n_bytes / 2 <= len(buffer) <= 2 * n_bytes]
        sufficient = [buffer for buffer in similar if len(buffer) >= n_bytes]
        chosen = min(sufficient, key=len, default=None)
        removed = [chosen]
        if chosen is None:
            removed = [b for b in free if b in similar or len(b) > _MAX_KEPT_BYTES]
        self._buffers = [entry for entry in self._buffers if entry[0] not in removed]
        # Spare room of one eighth lets the buffer serve somewhat larger batches later.
        return _new_buffer(n_bytes + n_bytes // 8) if chosen is None else chosen


def _new_buffer(n_bytes: int) -> mmap.mmap:
    # The default mapping is shared: Linux backs it with small pages only, and a forked child
    # would write through to its parent. ACCESS_COPY makes it private.
    buffer = mmap.mmap(-1, n_bytes, access=mmap.ACCESS_COPY)
    if _MADV_HUGEPAGE is not None:
        with suppress(OSError):  # kernels built without huge pages reject the advice
            buffer.madvise(_MADV_HUGEPAGE)
    return buffer


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return an uninitialized tensor, from the active pool if it is large and on the CPU.

    Parameters
    ----------
    shape : sequence of int
        The shape of the tensor.

    like : Tensor
        The tensor whose device, and by default whose dtype, the result has.

    dtype : torch.dtype, optional
        The dtype of the tensor.

    Returns
    -------
    Tensor
    """
    dtype = dtype or like.dtype
    n_bytes = math.prod(shape) * dtype.itemsize
    pool: Pool | None = getattr(_thread_local, "pool", None)
    if pool is None or n_bytes < _MIN_POOLED_BYTES or like.device.type != "cpu":
        return torch.empty(tuple(shape), dtype=dtype, device=like.device)
    # NumPy has no bfloat16, so the buffer is passed to torch as bytes.
    return torch.from_numpy(pool.array((n_bytes,), np.dtype(np.uint8))).view(dtype).view(shape)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a dtype: itself, or a copy in memory that `empty` returns.

    Parameters
    ----------
    tensor : Tensor
        A tensor without a graph: no gradient passes through the copy.

    dtype : torch.dtype
        The dtype of the result.

    Returns
    -------
    Tensor
    """
    return tensor if tensor.dtype == dtype else empty(tensor.shape, tensor, dtype).copy_(tensor)
