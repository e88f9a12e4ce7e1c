"""Steps of training; on a CUDA device those alike become a graph, one launch instead of a hundred.

A step on a small batch takes longer to launch, kernel by kernel, than the device takes to do it.
Where batch after batch has the same shape, as of sets of one size, a step is recorded once and
replayed with other numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from acluster.training._packing import Packed

__all__ = ["Steps"]

# As many batches alike go by before one is recorded: sets of many sizes seldom come so far, and
# Triton has compiled its kernels by then.
_STEPS_BEFORE = 2

# The device is busy longer with a larger batch than its launches take, and a copy costs memory.
_LARGEST_BYTES = 1 << 28

Take = Callable[[Sequence[Packed], Tensor, Tensor], Tensor]


class Steps:
    """Takes steps, and records one where that can be replayed.

    Parameters
    ----------
    generator : Generator
        What they draw from.

    is_recordable : callable or None
        Whether a step on some sets can be recorded; None: no step can, as on a processor.
    """

    def __init__(
        self,
        generator: torch.Generator,
        is_recordable: Callable[[Sequence[Packed]], bool] | None = None,
    ) -> None:
        self._generator = generator
        self._is_recordable = is_recordable
        self._last: Any = None
        self._n_alike = 0
        self._recorded: Recorded | None = None

    def __call__(
        self, take: Take, sets: Sequence[Packed], targets: Tensor, weights: Tensor
    ) -> Tensor:
        """Take a step on a batch.

        Parameters
        ----------
        take : callable
            ``take(sets, targets, weights)`` takes it and returns the loss; it is the same at
            every call, and neither waits for the device nor branches on its numbers.

        sets : sequence of (values, offsets)
            Of each modality.

        targets, weights : Tensor
            Of each item.

        Returns
        -------
        Tensor of shape ()
            The loss. The next step overwrites it.
        """
        batch = (sets, targets, weights)
        if self._is_recordable is None:
            return take(*batch)
        shape = _shape(*batch)
        if self._recorded is not None and shape == self._recorded.shape:
            return self._recorded.replay(*batch)
        self._n_alike = self._n_alike + 1 if shape == self._last else 1
        self._last = shape
        if self._recorded is None and self._n_alike > _STEPS_BEFORE and self._is_worth_it(sets):
            loss, self._recorded = record(take, *batch, generator=self._generator)
            return loss
        return take(*batch)

    def _is_worth_it(self, sets: Sequence[Packed]) -> bool:
        n_bytes = sum(values.nbytes for values, _ in sets)
        return (
            n_bytes <= _LARGEST_BYTES
            and self._is_recordable is not None
            and self._is_recordable(sets)
        )


class Recorded(NamedTuple):
    """A step in a graph, and the memory that it reads its batch from and leaves its loss in."""

    shape: Any
    graph: Any
    inputs: list[Tensor]
    loss: Tensor

    def replay(self, sets: Sequence[Packed], targets: Tensor, weights: Tensor) -> Tensor:
        """The same step on another batch of this shape."""
        for room, tensor in zip(self.inputs, _numbers(sets, targets, weights), strict=True):
            room.copy_(tensor)
        self.graph.replay()
        return self.loss


def record(
    take: Take,
    sets: Sequence[Packed],
    targets: Tensor,
    weights: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Recorded]:
    """Take a step on a batch, then record another; the loss of the first, and the record."""
    device = targets.device
    inputs = [tensor.clone() for tensor in _numbers(sets, targets, weights)]
    offsets = [_with_copy(offsets, device) for _, offsets in sets]
    lasting = list(zip(inputs[:-2], offsets, strict=True))
    # torch asks for a step on a stream beside, ahead of the recording.
    beside, loss = torch.cuda.Stream(device), weights.new_zeros(())
    beside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(beside):
        loss.copy_(take(lasting, *inputs[-2:]))
    torch.cuda.current_stream(device).wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    # Other threads may go on using the device.
    with torch.cuda.graph(graph, stream=beside, capture_error_mode="thread_local"):
        recorded = take(lasting, *inputs[-2:])
    return loss, Recorded(_shape(sets, targets, weights), graph, inputs, recorded)


def _with_copy(offsets: Tensor, device: torch.device) -> Any:
    """The offsets with a copy on the device, which a network takes: a graph cannot copy them."""
    kept: Any = offsets.clone()
    kept.on_device = kept.to(device)
    return kept


def _numbers(sets: Sequence[Packed], targets: Tensor, weights: Tensor) -> list[Tensor]:
    """What differs from batch to batch of a shape."""
    return [*(values for values, _ in sets), targets, weights]


def _shape(sets: Sequence[Packed], targets: Tensor, weights: Tensor) -> Any:
    """What a recorded step is bound to: sizes, of each set too, and types."""
    shapes = [(tensor.shape, tensor.dtype) for tensor in _numbers(sets, targets, weights)]
    return shapes, [offsets.numpy().tobytes() for _, offsets in sets]
