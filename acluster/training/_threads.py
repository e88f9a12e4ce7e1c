"""The number of threads of a training step, by the work in it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Below this many operations, starting and joining a thread takes longer than its share of a step.
_OPERATIONS_PER_THREAD = 2e7

_lock = threading.Lock()
_n_entered = 0
_n_threads_outside = 1


@contextmanager
def threads_for(n_operations: float) -> Iterator[None]:
    """Let torch use as many threads as pay, at most as many as it uses outside.

    Waiting threads of OpenMP spin: on a busy machine, a second thread that has nothing to do makes
    small steps several times slower.

    Parameters
    ----------
    n_operations : float
        The floating-point operations of a training step.
    """
    with at_most_threads(max(1, int(n_operations / _OPERATIONS_PER_THREAD))):
        yield


@contextmanager
def at_most_threads(n_threads: int) -> Iterator[None]:
    """Limit the threads of torch in the current thread.

    Parameters
    ----------
    n_threads : int
        The limit. Torch never uses more threads than outside of all such contexts.
    """
    global _n_entered, _n_threads_outside
    with _lock:
        if _n_entered == 0:
            _n_threads_outside = torch.get_num_threads()
        _n_entered += 1
    torch.set_num_threads(min(n_threads, _n_threads_outside))
    try:
        yield
    finally:
        # The setting belongs to the thread, but new threads take over the last one that was set.
        with _lock:
            _n_entered -= 1
            torch.set_num_threads(_n_threads_outside)
