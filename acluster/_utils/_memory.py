"""Memory of large arrays that is used again."""

from __future__ import annotations

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

__all__ = ["Pool", "empty"]

# What is smaller, the allocators below torch keep for themselves when it is let go.
_LEAST_BYTES = 1 << 25

# Fewer pages to find, for the system and the processor; None where they cannot be asked for.
_IN_LARGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)

_of_thread = threading.local()


class Pool:
    """Memory that arrays gave back, for arrays to come.

    A system hands out fresh memory page by page, which takes longer than to write to it; and
    arrays of ever different size, from two threads, would let a process grow. What a pool
    has lent comes back when nothing refers to it any more, views and tensors included.
    """

    def __init__(self) -> None:
        # Every stretch of memory, and the array that it was lent to; that may be gone.
        self._stretches: list[tuple[mmap.mmap, weakref.ref[NDArray[np.uint8]]]] = []
        self._lock = threading.Lock()

    def array(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array that is not filled."""
        n_bytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            pages = self._pages(max(1, n_bytes))
            whole = np.frombuffer(pages, np.uint8)  # views refer to it, not to each other
            self._stretches.append((pages, weakref.ref(whole)))
        return whole[:n_bytes].view(dtype).reshape(shape)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within it, `empty` takes memory from here, in this thread."""
        outer = getattr(_of_thread, "pool", None)
        _of_thread.pool = self
        try:
            yield
        finally:
            _of_thread.pool = outer

    def _free(self) -> list[mmap.mmap]:
        """What is lent to nobody."""
        return [pages for pages, borrower in self._stretches if borrower() is None]

    def _pages(self, n_bytes: int) -> mmap.mmap:
        """The smallest that suffice; if none do, others of about that size make room for new."""
        similar = [pages for pages in self._free() if n_bytes / 2 <= len(pages) <= 2 * n_bytes]
        fits = [pages for pages in similar if len(pages) >= n_bytes]
        chosen = min(fits, key=len, default=None)
        gone = similar if chosen is None else [chosen]
        self._stretches = [stretch for stretch in self._stretches if stretch[0] not in gone]
        return _new_pages(n_bytes + n_bytes // 8) if chosen is None else chosen


def _new_pages(n_bytes: int) -> mmap.mmap:
    pages = mmap.mmap(-1, n_bytes, access=mmap.ACCESS_COPY)  # shared ones are never large
    if _IN_LARGE_PAGES is not None:
        with suppress(OSError):  # a system without them
            pages.madvise(_IN_LARGE_PAGES)
    return pages


def empty(shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor that is not filled, on the device of another and by default of its type."""
    dtype = dtype or like.dtype
    n_bytes = math.prod(shape) * dtype.itemsize
    pool: Pool | None = getattr(_of_thread, "pool", None)
    if pool is None or n_bytes < _LEAST_BYTES or like.device.type != "cpu":
        return torch.empty(tuple(shape), dtype=dtype, device=like.device)
    return torch.from_numpy(pool.array((n_bytes,), np.dtype(np.uint8))).view(dtype).view(shape)
