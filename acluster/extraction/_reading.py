"""Read many files ahead of the feature extractors, with bounded memory.

Threads read them, or pass them on to processes and receive what these read.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from acluster.extraction._processes import ReadingProcesses, use_one_thread
from acluster.extraction._view import Chunk, View, read_views


class _Stopped(Exception):  # noqa: N818, it is no error
    """Raised in a thread that reads on although nobody will need it."""


class _Budget:
    """The bytes that have been read and not yet used.

    While the caller waits for a chunk of the first item, one has room in any case.
    """

    def __init__(self, n_bytes: int) -> None:
        self._limit, self._used = n_bytes, 0
        self._needed: int | None = None  # the item that the caller waits for
        self._is_stopped = False
        self._changed = threading.Condition()

    def acquire(self, item: int, n_bytes: int) -> None:
        """Wait until there is room for some bytes of an item."""
        with self._changed:
            while self._used + n_bytes > self._limit and item != self._needed:
                if self._is_stopped:
                    raise _Stopped
                self._changed.wait()
            if self._is_stopped:
                raise _Stopped
            if item == self._needed:
                self._needed = None
            self._used += n_bytes

    def release(self, n_bytes: int) -> None:
        """Give back bytes that have been used."""
        with self._changed:
            self._used -= n_bytes
            self._changed.notify_all()

    def need(self, item: int) -> None:
        """Give the next chunk of an item room in any case, because the caller waits for it."""
        with self._changed:
            self._needed = item
            self._changed.notify_all()

    def stop(self) -> None:
        """Let all threads that wait for room end."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()


@dataclass
class Reading:
    """The reading of one file.

    Parameters
    ----------
    number : int
        The position of the file.

    id : str
        The name of the item.

    path : path
        The file.

    warnings : list of str
        What is wrong with it, known once it has been read.

    error : BaseException or None
        Why it cannot be read.
    """

    number: int
    id: str
    path: Path
    warnings: list[str] = field(default_factory=list)
    error: BaseException | None = None
    _chunks: queue.SimpleQueue[Chunk | None] = field(default_factory=queue.SimpleQueue)


class ReadAhead:
    """Reads files in threads, in their order, some of them ahead. A context manager.

    Parameters
    ----------
    paths : dict of str to path
        The file of each item.

    views : dict of str to view
        What to read of each.

    n_workers : int
        The number of threads. Each decodes one file at a time.

    ahead_bytes : int
        The size of what may be read and not yet used. The chunk that the caller waits for is read
        in any case.

    is_tolerant : bool
        Whether a view that cannot be read is a missing modality with a warning.

    workers : {"threads", "processes"}, default="threads"
        Whether each thread reads by itself, or in a process of its own.

    seconds_per_file : float, optional
        How long a process may read a file.

    Attributes
    ----------
    seconds_waited : float
        How long the caller has waited for a chunk.

    seconds_read : float
        How long the threads have read, without waiting for room; summed over the threads.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        views: Mapping[str, View],
        n_workers: int,
        ahead_bytes: int,
        is_tolerant: bool,
        workers: str = "threads",
        seconds_per_file: float | None = None,
    ) -> None:
        self._paths, self._views, self._n_workers = paths, views, n_workers
        self._is_tolerant = is_tolerant
        self._processes: ReadingProcesses | None = None
        if workers == "processes":
            self._processes = ReadingProcesses(views, is_tolerant, seconds_per_file)
        self._budget = _Budget(ahead_bytes)
        self._mutex = threading.Lock()
        self.seconds_waited = self.seconds_read = 0.0

    def __enter__(self) -> Self:
        if self._processes is not None:
            self._pool = ThreadPoolExecutor(self._n_workers, "acluster-read")
            return self
        if any(getattr(view, "uses_torch", False) for view in self._views.values()):
            import torch  # noqa: F401, so that the threads that read find it
        self._pool = ThreadPoolExecutor(
            self._n_workers, "acluster-read", use_one_thread, (self._views,)
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._budget.stop()
        if self._processes is not None:  # They end with the threads that own them, so before these.
            if kind is None:
                self._processes.close()
            else:
                self._processes.stop()
        # After an interruption, what is complete has to be written soon, and a file may take long.
        self._pool.shutdown(wait=kind is None, cancel_futures=True)
        _restore_threads()

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Reading]:
        """Yield the readings in order. Take all chunks of one before the next."""
        waiting: deque[Reading] = deque()
        rest = ((number, *one) for number, one in enumerate(self._paths.items()))
        while True:
            while len(waiting) < 2 * self._n_workers and (job := next(rest, None)) is not None:
                reading = Reading(*job)
                waiting.append(reading)
                self._pool.submit(self._read, reading)
            if not waiting:
                return
            yield waiting.popleft()

    def chunks(self, reading: Reading) -> Iterator[Chunk]:
        """Yield the chunks of a reading. The caller releases the bytes of each.

        Parameters
        ----------
        reading : Reading
            The reading. Once all chunks have been taken, its warnings and its error are known.

        Yields
        ------
        Chunk
        """
        while True:
            started = time.perf_counter()
            try:
                chunk = reading._chunks.get_nowait()
            except queue.Empty:
                self._budget.need(reading.number)
                chunk = reading._chunks.get()
            self.seconds_waited += time.perf_counter() - started
            if chunk is None:
                return
            yield chunk

    def release(self, n_bytes: int) -> None:
        """Make room for what else is to be read.

        Parameters
        ----------
        n_bytes : int
            The size of a chunk that is not needed any more.
        """
        self._budget.release(n_bytes)

    def _read(self, reading: Reading) -> None:
        """Read a file; run in a thread."""
        started, waited = time.perf_counter(), 0.0
        try:
            for n_bytes, take in self._announced(reading):
                before = time.perf_counter()
                self._budget.acquire(reading.number, n_bytes)
                waited += time.perf_counter() - before
                try:
                    reading._chunks.put(take())
                except BaseException:
                    self._budget.release(n_bytes)
                    raise
        except _Stopped:
            pass
        except BaseException as error:  # the caller decides what becomes of it
            reading.error = error
        finally:
            with self._mutex:
                self.seconds_read += time.perf_counter() - started - waited
            reading._chunks.put(None)

    def _announced(self, reading: Reading) -> Iterator[tuple[int, Callable[[], Chunk]]]:
        """Yield the size of each chunk of a file, and a function that returns the chunk."""
        if self._processes is not None:
            yield from self._processes.read(reading.path, reading.warnings)
            return
        for chunk in read_views(reading.path, self._views, reading.warnings, self._is_tolerant):
            yield chunk.batch.nbytes, partial(_same, chunk)


def _same(chunk: Chunk) -> Chunk:
    return chunk


def _restore_threads() -> None:
    """Let new threads use as many threads as this one: they take over the last setting."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(torch.get_num_threads())
