"""Which operations of a network multiply in bfloat16: chosen outside of it, looked up inside.

The choice holds for the current thread within a context. Several threads may therefore run
networks, or even one network, with different choices at the same time.
"""

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch

# The parts of a network that are chosen separately: the integration of the local features of every
# modality, and the linear layer on the global feature.
OPERATIONS = ("integration", "linear")

_IN_BFLOAT16: ContextVar[frozenset[str]] = ContextVar("in_bfloat16", default=frozenset())


@contextmanager
def choosing_bfloat16(operations: Collection[str]) -> Iterator[None]:
    """Let these operations multiply in bfloat16, and no others, within the context.

    Parameters
    ----------
    operations : collection of str
        Names in `OPERATIONS`.
    """
    token = _IN_BFLOAT16.set(frozenset(operations))
    try:
        yield
    finally:
        _IN_BFLOAT16.reset(token)


def precision_of(operation: str, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a network runs an operation.

    Parameters
    ----------
    operation : str
        A name in `OPERATIONS`.

    device : torch.device
        The device of the network.

    Returns
    -------
    context manager
        ``torch.autocast`` to bfloat16 if the operation is chosen. Otherwise, one that changes
        nothing: outside of all choices, a ``torch.autocast`` of the caller stays as it is.
    """
    if operation in _IN_BFLOAT16.get():
        return torch.autocast(device.type, torch.bfloat16)
    return nullcontext()


@contextmanager
def without_autocast() -> Iterator[None]:
    """Compute as if no ``torch.autocast`` of the caller were active, within the context."""
    with ExitStack() as stack:
        for device in filter(torch.is_autocast_enabled, ("cpu", "cuda", "mps")):
            # A cast weight would be kept until the caller's context ends, and outlive its updates.
            stack.enter_context(torch.autocast(device, enabled=False, cache_enabled=False))
        yield


@contextmanager
def computing_gradients() -> Iterator[None]:
    """Compute gradients within the context, whatever modes of torch the caller has set."""
    with torch.inference_mode(False), torch.enable_grad(), without_autocast():
        yield
