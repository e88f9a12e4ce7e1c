"""Record a function as a CUDA graph, without lasting effects if that fails."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

# A process can record one graph at a time; fits may run in several threads.
_lock = threading.Lock()


class CudaRecorder:
    """Record functions as CUDA graphs, whose intermediate results share memory.

    Parameters
    ----------
    device : torch.device
        The device of all tensors of the functions.
    """

    def __init__(self, device: torch.device) -> None:
        self.failure: str | None = None
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, step: Callable[[], Tensor], generator: torch.Generator
    ) -> Callable[[], Tensor]:
        """Return a function that repeats `step` as one launch. Nothing is computed now.

        `generator` is the one that `step` draws from. It cannot be used any more after an error.

        Raises
        ------
        RuntimeError
            If the step cannot be recorded. The message is that of the first cause.
        """
        graph = torch.cuda.CUDAGraph()
        # Without this, every repetition would draw the same numbers.
        graph.register_generator_state(generator)
        outer = sys.exception()
        # Other threads may allocate and copy meanwhile.
        recording = torch.cuda.graph(
            graph, self._pool, _stream(self._device), capture_error_mode="thread_local"
        )
        try:
            with _lock, torch.cuda.device(self._device), self._restored(), recording:
                loss = step()
        except RuntimeError as error:
            raise RuntimeError(_first_cause(error, outer)) from error

        def replay() -> Tensor:
            graph.replay()
            return loss.clone()  # the next repetition overwrites it

        return replay

    @contextmanager
    def _restored(self) -> Iterator[None]:
        """Return to the current stream, its memory and the generator of the device.

        torch does not if recording fails.
        """
        stream = torch.cuda.current_stream(self._device)
        try:
            yield
        except BaseException:
            index = self._device.index
            index = torch.cuda.current_device() if index is None else index
            # Not if the recording has ended, or has never begun. torch has no public name for this.
            with suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(index, self._pool)
            _replace_state(torch.cuda.default_generators[index])
            raise
        finally:
            torch.cuda.set_stream(stream)


def _replace_state(generator: torch.Generator) -> None:
    """Give the default generator of a device an equal state that no graph has registered.

    Every graph registers it. If recording fails, it would draw for this graph from then on, and
    raise an error.
    """
    fresh = torch.Generator(generator.device)
    fresh.set_state(generator.get_state())
    generator.graphsafe_set_state(fresh)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which graphs are recorded; no copies run on streams of this priority."""
    return torch.cuda.Stream(device, priority=-1)


def _first_cause(error: BaseException, outer: BaseException | None) -> str:
    """Return the first line of the error that made others follow, up to one handled outside."""
    while error.__context__ is not None and error.__context__ is not outer:
        error = error.__context__
    return str(error).partition("\n")[0] or type(error).__name__
