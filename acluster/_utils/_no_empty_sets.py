"""The promise that no set of a batch is empty, so that a network need not read the offsets.

Reading offsets on a GPU would wait for all kernels launched before, and could not be part of a CUDA
graph. The promise holds for the current thread within a context.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PROMISED: ContextVar[bool] = ContextVar("no_empty_sets", default=False)


@contextmanager
def no_empty_sets() -> Iterator[None]:
    """Promise that no set is empty within the context."""
    token = _PROMISED.set(True)
    try:
        yield
    finally:
        _PROMISED.reset(token)


def promises_no_empty_sets() -> bool:
    """Return whether the caller has promised that no set is empty."""
    return _PROMISED.get()
