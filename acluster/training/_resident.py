"""Copy local features to a device in blocks, which are read, copied and checked side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acluster.sets import FeatureSets, row_reader
from acluster.training._packing import copy_in_pieces, is_fit_for_torch

# A GPU copies such a block in a third of a millisecond, while the next ones are read.
_BYTES_PER_BLOCK = 1 << 24

# One thread may fill buffers more slowly than the bus empties them.
_MAX_READERS = 8

# Blocks that wait for the device, or are on their way to it, beside those that are being read.
_N_IN_FLIGHT = 2

# Reading the sum makes the device wait. It is read rarely, but before a slow store is all read.
_BLOCKS_PER_CHECK = 64


class Copies(Protocol):
    """Copies of blocks from the host to one device, of which several may be in flight."""

    uses_buffers: bool  # whether the rows must be in memory from `buffer`

    def buffer(self, n_bytes: int) -> Tensor:
        """Return memory of the host, of dtype uint8, from which the device copies fast."""

    def start(self, source: Tensor, target: Tensor) -> Any:
        """Begin to copy, to convert and to sum; return what `wait` takes."""

    def wait(self, copy: Any) -> None:
        """Wait until the memory of the source may be overwritten."""

    def total(self) -> float:
        """Wait for all copies, and return the sum of all values since the beginning."""


class CudaCopies:
    """Copies to a GPU, on a stream of their own.

    Parameters
    ----------
    device : torch.device
        The GPU.
    """

    uses_buffers = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        # Kernels that were queued before may still use memory that the target now has.
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            self._total = torch.zeros((), dtype=torch.float64, device=device)

    def buffer(self, n_bytes: int) -> Tensor:
        """Return pinned memory."""
        return torch.empty(n_bytes, dtype=torch.uint8, device="cpu", pin_memory=True)

    def start(self, source: Tensor, target: Tensor) -> torch.cuda.Event:
        """Queue the copy, the conversion and the sum of a block, and return at once."""
        copied = torch.cuda.Event(blocking=True)
        with torch.cuda.stream(self._stream):
            # A copy that converts would do so on the host first.
            is_same = source.dtype == target.dtype
            same = target if is_same else torch.empty_like(target, dtype=source.dtype)
            same.copy_(source, non_blocking=True)
            copied.record(self._stream)
            if not is_same:
                target.copy_(same)
            # A sum of float16 overflows, and one in float64 would copy the block.
            is_half = target.dtype == torch.float16
            self._total += target.sum(dtype=torch.float32 if is_half else None)
        return copied

    def wait(self, copy: torch.cuda.Event) -> None:
        """Wait until a block has left its buffer; it may not have been converted yet."""
        copy.synchronize()

    def total(self) -> float:
        """Wait for all that is queued, and return the sum."""
        self._stream.synchronize()
        return float(self._total)


class PlainCopies:
    """Copies within the host, or to a device without streams, one at a time.

    Parameters
    ----------
    is_checked : bool
        Whether the values are known to be finite. Those that are not converted are not summed then.
    """

    uses_buffers = False

    def __init__(self, is_checked: bool) -> None:
        self._is_checked = is_checked
        self._total = 0.0

    def buffer(self, n_bytes: int) -> Tensor:
        """Return memory, which the system maps when it is first used."""
        return torch.empty(n_bytes, dtype=torch.uint8, device="cpu")

    def start(self, source: Tensor, target: Tensor) -> None:
        """Copy, convert and sum a block."""
        if self._is_checked and source.dtype == target.dtype:
            target.copy_(source)
        elif target.device.type == "cpu":
            self._total += copy_in_pieces(source, target)
        else:
            target.copy_(source)
            self._total += float(target.sum())

    def wait(self, copy: None) -> None:
        """Return: the copy is complete."""

    def total(self) -> float:
        """Return the sum."""
        return self._total


def copies_to(sets: FeatureSets, device: torch.device) -> tuple[Copies, int]:
    """Return the copies of sets to a device, and the number of threads that read for them."""
    if device.type != "cuda":
        return PlainCopies(is_checked=sets.in_memory), 1
    # A store that decodes or fetches blocks does so in threads of its own, and reads ahead.
    is_slow = sets.blocks is not None
    n_readers = 1 if is_slow else min(_MAX_READERS, torch.get_num_threads())
    return CudaCopies(device), n_readers


def checks_while_copying(device: torch.device) -> bool:
    """Return whether `copy_rows` to this device also checks that all values are finite."""
    return device.type == "cuda"


class _Block(NamedTuple):
    """A block whose rows a thread reads."""

    number: int
    rows: slice
    read: Future[NDArray[Any]]


def copy_rows(
    sets: FeatureSets, target: Tensor, copies: Copies, check: Callable[[], None], n_readers: int = 1
) -> None:
    """Copy the local features of all sets end to end to a tensor on a device.

    Threads read blocks into a few buffers, from memory or from a store, while the device copies
    those read before. Of features in memory, only these buffers are pinned: pinning takes longer
    than reading.

    Parameters
    ----------
    sets : FeatureSets
        In memory or in a store.

    target : Tensor of shape (R, M)
        On the device.

    copies : Copies
        The copies to this device.

    check : callable
        Called once, without arguments, if the sum of the values copied is not finite: a value is
        not, or only the sum has overflowed. It raises an error, or returns if all values are
        finite, in the sets and on the device.

    n_readers : int, default=1
        The number of threads.

    Raises
    ------
    Exception
        What `check`, or reading the first unreadable block, raises. Threads and copies have ended
        then.
    """
    row_bytes = sets.n_features * sets.dtype.itemsize
    height = max(1, min(_BYTES_PER_BLOCK // row_bytes, len(target)))
    n_blocks = -(-len(target) // height)
    n_buffers = min(n_blocks, n_readers + _N_IN_FLIGHT)
    buffers = [copies.buffer(height * row_bytes) for _ in range(n_buffers)]
    on_their_way: list[Any] = [None] * n_buffers
    read, reading = _reader(sets, copies.uses_buffers), deque[_Block]()
    is_proven = False

    def send() -> None:
        nonlocal is_proven
        block = reading.popleft()
        source = torch.from_numpy(block.read.result())
        on_their_way[block.number % n_buffers] = copies.start(source, target[block.rows])
        is_due = block.number % _BLOCKS_PER_CHECK == 0 or block.number == n_blocks - 1
        if is_due and not is_proven and not np.isfinite(copies.total()):
            check()
            is_proven = True

    try:
        with ThreadPoolExecutor(n_readers, thread_name_prefix="acluster-read") as pool:
            for number in range(n_blocks):
                slot = number % n_buffers
                if on_their_way[slot] is not None:
                    copies.wait(on_their_way[slot])
                rows = slice(number * height, min((number + 1) * height, len(target)))
                task = pool.submit(read, rows.start, rows.stop, buffers[slot])
                reading.append(_Block(number, rows, task))
                if len(reading) > n_readers:
                    send()
            while reading:
                send()
    finally:
        copies.total()  # the buffers, and the target, must not be freed before


def _reader(sets: FeatureSets, uses_buffers: bool) -> Callable[[int, int, Tensor], NDArray[Any]]:
    """Return a function that reads rows, into a buffer if that is needed."""
    read, dtype = row_reader(sets), sets.dtype

    def into_buffer(first: int, last: int, buffer: Tensor) -> NDArray[Any]:
        size = (last - first) * sets.n_features * dtype.itemsize
        room = buffer.numpy()[:size].view(dtype).reshape(last - first, -1)
        rows = read(first, last, room)
        is_elsewhere = not np.may_share_memory(rows, room)
        if is_elsewhere and (uses_buffers or not is_fit_for_torch(rows)):
            np.copyto(room, rows)
            return room
        return rows

    return into_buffer
