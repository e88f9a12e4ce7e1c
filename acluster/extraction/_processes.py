"""Read files in processes, so that a codec that crashes or hangs does not end the program.

A thread of `ReadAhead` owns a process, and passes it one file after the other. Both ends of their
pipe take turns: the process announces the size of a chunk, waits until the thread has room for it,
sends it, and decodes the next one meanwhile. So a process holds one chunk that is not used yet, as
a thread that reads by itself does.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection, wait
from numbers import Real
from pathlib import Path
from typing import Any

from acluster.extraction._media import MediaError
from acluster.extraction._view import Chunk, View, read_views

# What a process and its thread tell each other. A file is begun before anything of it is read. A
# chunk is announced with its size and those of its buffers. The end of a file comes with its
# warnings and with its error or None.
_READY, _REFUSED, _BEGUN, _CHUNK, _END = "ready", "refused", "begun", "chunk", "end"
_TRIES = 3  # processes for a file that none of them begins
_ENDING_SECONDS = 5.0  # how long a process that is told to end may take
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux
_MAIN_REMEDY = (
    'Keep the code that calls extract under `if __name__ == "__main__":`, because each process '
    "imports the script, or pass workers='threads'."
)

_STARTING = threading.Lock()  # multiprocessing's list of children is not safe in threads


def check_workers(workers: str, seconds_per_file: Any) -> None:
    """Check what reads files, and for how long.

    Parameters
    ----------
    workers, seconds_per_file : str, float or None
        As in `acluster.extraction.extract`.

    Raises
    ------
    ValueError
        If one is invalid, or there is a limit for threads.

    RuntimeError
        In a process that is starting, and runs the script of its parent.
    """
    if workers not in (choices := ("threads", "processes")):
        raise ValueError(f"workers={workers!r} is not one of {choices}.")
    if seconds_per_file is not None:
        is_number = isinstance(seconds_per_file, Real) and not isinstance(seconds_per_file, bool)
        if not is_number or not 0 < float(seconds_per_file) < math.inf:
            raise ValueError(f"seconds_per_file={seconds_per_file!r} is not a number above 0.")
        if workers == "threads":
            raise ValueError(
                f"seconds_per_file={seconds_per_file!r} needs processes, because a thread that "
                "reads a file cannot be ended. Pass workers='processes' (--worker-kind processes)."
            )
    if workers == "processes" and getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "A process that reads files runs the script that started it, and would start processes "
            f"itself. {_MAIN_REMEDY}"
        )


def use_one_thread(views: Mapping[str, View]) -> None:
    """Import torch if a view uses it, and let it use one thread in this thread.

    Parameters
    ----------
    views : dict of str to view
        What is read.
    """
    if "torch" in sys.modules or any(getattr(view, "uses_torch", False) for view in views.values()):
        import torch

        torch.set_num_threads(1)


class ReadingProcesses:
    """One process for each thread that reads.

    Parameters
    ----------
    views : dict of str to view
        What to read of each file.

    is_tolerant : bool
        As for `read_views`.

    seconds_per_file : float or None
        How long a process may read a file. It is killed if it takes longer.

    Raises
    ------
    ValueError
        If a view cannot be pickled.
    """

    def __init__(
        self, views: Mapping[str, View], is_tolerant: bool, seconds_per_file: float | None
    ) -> None:
        self._views, self._is_tolerant = _pickled(views), is_tolerant
        self._seconds_per_file = seconds_per_file
        self._of_thread = threading.local()
        self._mutex = threading.Lock()
        self._running: set[_Process] = set()
        self._is_stopped = False

    def read(self, path: Path, warnings: list[str]) -> Iterator[tuple[int, Callable[[], Chunk]]]:
        """Read a file in the process of this thread, and start one if there is none.

        Parameters
        ----------
        path : path
            The file.

        warnings : list of str
            What is wrong with the file is added to it.

        Yields
        ------
        n_bytes : int
            The size of the next chunk.

        take : callable
            Returns the chunk. It has to be called before the next one is asked for.

        Raises
        ------
        MediaError
            If the process ends or takes too long.

        RuntimeError
            If no process can be started, or several do not begin the file.

        Exception
            What reading the file raises.
        """
        process = self._process_reading(path)
        try:
            yield from process.read(path, warnings, self._seconds_per_file)
        finally:
            if not process.is_idle:
                self._discard(process)

    def close(self) -> None:
        """End all processes. None of them is reading any more."""
        with self._mutex:
            self._is_stopped = True
            running = [*self._running]
        for process in running:
            process.close()
        deadline = time.monotonic() + _ENDING_SECONDS
        for process in running:
            if not process.ends_within(max(deadline - time.monotonic(), 0)):
                process.kill()

    def stop(self) -> None:
        """Kill all processes, whatever they do."""
        with self._mutex:
            self._is_stopped = True
            for process in self._running:
                process.kill()

    def _process_reading(self, path: Path) -> _Process:
        """Return the process of this thread once it has begun to read a file.

        A process may end while it waits for a file, for example if the system needs its memory.
        This is not the fault of the file, so that another process gets it. The same holds for one
        that hangs.
        """
        for _ in range(_TRIES):
            process = self._own_process()
            if process.begins(path, self._seconds_per_file):
                return process
            has_hung = process.has_hung
            # Discarding kills the process, which would hide how it has ended.
            ending = "" if has_hung else process.ending()
            self._discard(process)
        if has_hung:
            raise _too_slow(path, self._seconds_per_file)
        raise RuntimeError(
            f"{_TRIES} processes that were to read {path} did not begin it; the last one "
            f"{ending}. The memory may have run out: try fewer n_workers."
        )

    def _discard(self, process: _Process) -> None:
        with self._mutex:
            self._running.discard(process)
        process.kill()

    def _own_process(self) -> _Process:
        process: _Process | None = getattr(self._of_thread, "process", None)
        if process is not None and process in self._running and process.is_alive:
            return process
        with self._mutex:
            if process is not None:
                self._running.discard(process)
            if self._is_stopped:
                raise InterruptedError("The extraction has been interrupted.")
            process = _Process(self._views, self._is_tolerant)
            self._running.add(process)
        self._of_thread.process = process
        try:
            process.wait_until_ready()
        except BaseException:
            process.kill()
            raise
        return process


def _pickled(views: Mapping[str, View]) -> bytes:
    """Return views as a process takes them."""
    for name, view in views.items():
        try:
            pickle.dumps(view)
        except Exception as error:  # pickle lets errors of every kind through
            raise ValueError(
                f"The view {name!r} cannot be passed to another process: {error}. Define its class "
                "in a module, and keep lambdas and open files out of it, or pass workers='threads'."
            ) from error
    return pickle.dumps(dict(views))


class _Process:
    """The parent's side of a process that reads files."""

    def __init__(self, views: bytes, is_tolerant: bool) -> None:
        # A fork would copy the locks of other threads in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(other, views, is_tolerant), name="acluster-read", daemon=True
        )
        with _STARTING, _signals_blocked():
            self._process.start()
        other.close()  # The pipe now ends with the process.
        self.is_idle = False
        self.has_hung = False

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return not self.ends_within(0)

    def wait_until_ready(self) -> None:
        """Wait until the process has imported what it needs."""
        try:
            kind, *texts = self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(
                f"A process that reads files {self.ending()} while it started. Its own error is "
                f"above. {_MAIN_REMEDY}"
            ) from None
        if kind == _REFUSED:
            raise RuntimeError(
                f"A process that reads files cannot make the views: {texts[0]}. Define their "
                "classes in a module that it can import, or pass workers='threads'."
            )
        self.is_idle = True

    def begins(self, path: Path, seconds: float | None) -> bool:
        """Pass on a file; return whether the process begins to read it within some seconds.

        If it neither begins nor ends, `has_hung` is set.
        """
        self.is_idle = False
        try:
            self._pipe.send(path)
            if not self._pipe.poll(seconds):
                self.has_hung = True
                return False
            self._pipe.recv()
        except (EOFError, OSError):
            return False
        return True

    def read(
        self, path: Path, warnings: list[str], seconds: float | None
    ) -> Iterator[tuple[int, Callable[[], Chunk]]]:
        """Read a file that the process has begun, as `ReadingProcesses.read` does."""
        left = seconds
        try:
            while True:
                started = time.monotonic()
                if not self._pipe.poll(left):
                    raise _too_slow(path, seconds)
                kind, *values = self._pipe.recv()
                # The time that the thread waits for room does not count.
                left = None if left is None else max(left - (time.monotonic() - started), 0)
                if kind == _END:
                    break
                n_bytes, sizes = values
                yield n_bytes, partial(self._take, path, sizes)
        except (EOFError, OSError):
            raise self._death(path) from None
        self.is_idle = True
        warnings += values[0]
        if values[1] is not None:
            raise values[1]

    def kill(self) -> None:
        """End the process at once, and wait until it has ended."""
        self._process.kill()
        self.ends_within(_ENDING_SECONDS)

    def close(self) -> None:
        """Tell the process to end."""
        self._pipe.close()

    def ends_within(self, seconds: float) -> bool:
        """Return whether the process has ended, at the latest after some seconds."""
        if not wait([self._process.sentinel], seconds):
            return False
        with _STARTING:
            self._process.join()
        return True

    def _take(self, path: Path, sizes: list[int]) -> Chunk:
        """Receive a chunk that has been announced."""
        try:
            self._pipe.send(None)
            content = self._pipe.recv_bytes()
            buffers = [bytearray(size) for size in sizes]
            for buffer in buffers:
                self._pipe.recv_bytes_into(buffer)
        except (EOFError, OSError):
            raise self._death(path) from None
        chunk: Chunk = pickle.loads(content, buffers=buffers)
        return chunk

    def _death(self, path: Path) -> MediaError:
        """Return the error of a file whose reading ended the process."""
        ending = self.ending()
        is_killed = ending.endswith("SIGKILL")
        remedy = " The memory may have run out: try fewer n_workers." if is_killed else ""
        return MediaError(f"The process that read {path} {ending}.{remedy}")

    def ending(self) -> str:
        """Describe how the process ended."""
        if not self.ends_within(_ENDING_SECONDS):
            return "has closed its pipe"
        code = self._process.exitcode or 0
        if code >= 0:
            return f"ended with exit status {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:  # real-time signals have no name
            return f"was ended by signal {-code}"


def _too_slow(path: Path, seconds: float | None) -> MediaError:
    """Return the error of a file that was not read in time."""
    return MediaError(f"{path} was not read within {seconds:g} s.")


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let a process that is started in the block inherit that it gets no SIGINT and SIGTERM yet.

    In the parent, the main thread gets them, as always.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, pickled: bytes, is_tolerant: bool) -> None:
    """Read the files that the parent names; the main function of a process."""
    _end_with_parent()
    _leave_signals_to_parent()
    try:
        views = pickle.loads(pickled)
        use_one_thread(views)
    except Exception as error:
        pipe.send((_REFUSED, f"{type(error).__name__}: {error}"))
        return
    try:
        pipe.send((_READY,))
        while True:
            _send_file(pipe, pipe.recv(), views, is_tolerant)
    except (EOFError, OSError):
        pass  # The parent has closed its end.


def _end_with_parent() -> None:
    """Let this process end when its parent does, even if the parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if sys.platform == "linux":
        import ctypes

        # Reaches also a codec that hangs while it holds the lock of the interpreter. It counts from
        # the end of the thread that started the process, which owns it until then.
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent.pid:
            os._exit(1)


def _leave_signals_to_parent() -> None:
    """Pass over Ctrl-C and SIGTERM, which the parent gets too if they are for both.

    The parent writes what is complete, and then ends this process. If this process ended first,
    the parent would take the file for one that ends the processes that read it.
    """
    kinds = (signal.SIGINT, signal.SIGTERM)
    for kind in kinds:
        # Unlike SIG_IGN, a program that a view starts does not inherit it.
        signal.signal(kind, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, kinds)


def _send_file(pipe: Connection, path: Path, views: Mapping[str, View], is_tolerant: bool) -> None:
    warnings: list[str] = []
    error: BaseException | None = None
    pipe.send((_BEGUN,))
    try:
        for chunk in read_views(path, views, warnings, is_tolerant):
            _send_chunk(pipe, chunk)
    except BaseException as caught:  # The parent decides what becomes of it.
        error = _sendable(caught)
    pipe.send((_END, warnings, error))


def _send_chunk(pipe: Connection, chunk: Chunk) -> None:
    """Announce a chunk, and send it once the parent has room for it."""
    buffers: list[pickle.PickleBuffer] = []
    # The numbers of arrays are sent from where they are, without a copy.
    content = pickle.dumps(chunk, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pipe.send((_CHUNK, chunk.batch.nbytes, [view.nbytes for view in views]))
    pipe.recv()
    pipe.send_bytes(content)
    for view in views:
        pipe.send_bytes(view)


def _sendable(error: BaseException) -> BaseException:
    """Return an error as it can be sent; one that cannot be pickled becomes a MediaError."""
    text = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))  # Some errors are pickled, and cannot be made again.
    except Exception:
        error = MediaError(f"{type(error).__name__}: {error}")
    error.add_note(f"In the process that read the file:\n{text}")
    return error
