"""Record the training steps of a network as CUDA graphs, one per shape of its batches.

A step of a small batch launches dozens of kernels, which takes the processor longer than they take
the GPU. A CUDA graph launches all of them at once. It repeats the same kernels at the same
addresses. A batch is therefore copied to memory for batches of its shape, and ragged sets are
padded to one of a few numbers of rows. Rows beyond the last set belong to no item: pooling ignores
them, and their gradient is 0.

Results never depend on what has been recorded. The first steps of a shape are taken kernel by
kernel on the same memory. The recorded step must then equal the next one to the bit: the loss, the
parameters, the running averages and the state of the generator. If it differs, or cannot be
recorded, the training goes on kernel by kernel.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from acluster.training._batches import Batch
from acluster.training._optimizer import Optimizer
from acluster.training._packing import sent_to

if TYPE_CHECKING:
    from acluster.training._trainer import Trainer

# Takes a step and its generator, and returns a function that repeats the step.
Recorder = Callable[[Callable[[], Tensor], torch.Generator], Callable[[], Tensor]]

# Steps of a shape before it is recorded, which takes as long as a few steps. The first one may
# compile kernels, and allocate memory that later ones use again.
_N_BEFORE_RECORDING = 3

# Each takes memory for a batch and the intermediate results of a step.
_MAX_SHAPES = 16

# Ragged sets are padded to a multiple of 1/8 of a power of two: by at most one eighth.
_BITS_OF_ROWS = 3

# A process can record one graph at a time; fits may run in several threads.
_one_at_a_time = threading.Lock()


class Shape(NamedTuple):
    """What a recorded step depends on, beside the numbers in its batch."""

    rows: tuple[tuple[int, int, torch.dtype], ...]  # their number, width and dtype, per modality
    targets: tuple[torch.Size, torch.dtype]
    weights: torch.Size

    @classmethod
    def of(cls, batch: Batch) -> Shape:
        """Return the shape of a batch, with the rows that its sets are padded to."""
        rows = tuple(
            (padded_rows(offsets), values.shape[1], values.dtype) for values, offsets in batch.sets
        )
        return cls(rows, (batch.targets.shape, batch.targets.dtype), batch.weights.shape)


def padded_rows(offsets: Tensor) -> int:
    """Return the number of rows of a batch with padding; none is added to sets of equal size."""
    lengths, n_rows = offsets.diff(), int(offsets[-1])
    if bool((lengths == lengths[0]).all()):
        return n_rows
    step = 1 << max(0, n_rows.bit_length() - 1 - _BITS_OF_ROWS)
    return -(-n_rows // step) * step


class StaticBatches:
    """Memory at fixed addresses for the batches of every shape.

    Trainers that take their steps on the same batches share it, so that the local features are
    copied once for all of them.

    Parameters
    ----------
    device : torch.device
        The device of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: dict[Shape, Batch] = {}
        self._held: dict[Shape, list[weakref.ref[Tensor]]] = {}

    def keeps(self, shape: Shape) -> bool:
        """Whether the next batch of this shape will be at the same address."""
        return shape in self._kept

    def filled(self, shape: Shape, batch: Batch) -> Batch:
        """Return a batch at the address of its shape, with offsets on the device."""
        static = self._kept.get(shape)
        if static is None:
            static = self._allocated(shape, batch)
            if len(self._kept) < _MAX_SHAPES:
                self._kept[shape] = static
        given = [values for values, _ in batch.sets]
        held = [reference() for reference in self._held.get(shape, [])]
        if not held or any(one is not other for one, other in zip(held, given, strict=True)):
            for (values, offsets), (own, own_offsets) in zip(batch.sets, static.sets, strict=True):
                own[: len(values)].copy_(values)
                own_offsets.copy_(sent_to(self._device, offsets))
            if shape in self._kept:
                self._held[shape] = [weakref.ref(values) for values in given]
        static.targets.copy_(batch.targets)
        static.weights.copy_(batch.weights)
        return static

    def _allocated(self, shape: Shape, batch: Batch) -> Batch:
        # Products with the rows beyond the last set must be finite: these rows start at zero.
        sets = [
            (torch.zeros(n_rows, width, dtype=dtype, device=self._device), offsets.to(self._device))
            for (n_rows, width, dtype), (_, offsets) in zip(shape.rows, batch.sets, strict=True)
        ]
        targets, weights = torch.empty_like(batch.targets), torch.empty_like(batch.weights)
        return Batch(sets, targets, weights, batch.n_items)


class RecordedSteps:
    """The steps of one trainer on whole batches, recorded by shape.

    Parameters
    ----------
    trainer : Trainer
        Its network reads nothing back from the device if the offsets are there.

    batches : StaticBatches
        The memory of the batches, which several trainers may share.

    record : callable
        Records a step, such as a `CudaRecorder`.

    Attributes
    ----------
    failure : str or None
        Why no steps are recorded, if recording has failed.
    """

    def __init__(self, trainer: Trainer, batches: StaticBatches, record: Recorder) -> None:
        self.failure: str | None = None
        self._trainer = trainer
        self._batches = batches
        self._record = record
        device = next(trainer.network.parameters()).device
        self._rate = torch.zeros((), dtype=torch.float32, device=device)
        self._rate_set: float | None = None
        self._n_taken: Counter[Shape] = Counter()
        self._replays: dict[Shape, Callable[[], Tensor]] = {}

    def takes(self, batch: Batch) -> bool:
        """Whether this is a whole batch, of which no set is empty."""
        is_whole = batch.ends_step and batch.share is None and len(batch.targets) == batch.n_items
        return is_whole and all(bool((offsets.diff() > 0).all()) for _, offsets in batch.sets)

    def step(self, batch: Batch) -> Tensor:
        """Take a step; the result is that of `Trainer.step`."""
        shape = Shape.of(batch)
        static = self._batches.filled(shape, batch)
        self._set_rate(float(self._trainer.optimizer.learning_rate))
        if (replay := self._replays.get(shape)) is not None:
            return replay()
        self._n_taken[shape] += 1
        is_due = self._n_taken[shape] > _N_BEFORE_RECORDING and self._batches.keeps(shape)
        if is_due and self.failure is None:
            return self._recorded_step(shape, static)
        return self._trainer.plain_step(static, self._rate)

    def _set_rate(self, learning_rate: float) -> None:
        if learning_rate != self._rate_set:
            self._rate.fill_(learning_rate)
            self._rate_set = learning_rate

    def _recorded_step(self, shape: Shape, static: Batch) -> Tensor:
        """Take a step kernel by kernel, record it, and repeat it from the same state."""

        def step() -> Tensor:
            return self._trainer.plain_step(static, self._rate)

        before = self._state()
        expected = step()
        after = self._state()
        try:
            self._load(before)
            replay = self._record(step, self._trainer.generator)
            loss = replay()
            if not _same_bits([loss, *self._state()], [expected, *after]):
                self.failure = "its result differs from that of single kernels"
        except RuntimeError as error:
            self.failure = str(error).partition("\n")[0]
        if self.failure is None:
            self._replays[shape] = replay
            return loss
        self._give_up(after)
        return expected

    def _give_up(self, state: Sequence[Tensor]) -> None:
        """Go on from a state, kernel by kernel."""
        self._replays.clear()
        self._trainer.optimizer.clear()
        # A recording that has failed may leave its generator unusable.
        self._trainer.generator = torch.Generator(self._trainer.generator.device)
        self._load(state)
        warnings.warn(
            f"A training step cannot be recorded as a CUDA graph: {self.failure}. The fit goes on "
            "without one. Its results are the same, but small batches take longer.",
            RuntimeWarning,
            stacklevel=2,
        )

    def _tensors(self) -> list[Tensor]:
        optimizer = self._trainer.optimizer
        assert isinstance(optimizer, Optimizer), "A compiled step is not recorded."
        return [*self._trainer.network.state_dict().values(), *optimizer.tensors]

    def _state(self) -> list[Tensor]:
        """Return copies of all that a step changes; the last one is that of the generator."""
        copies = [tensor.clone() for tensor in self._tensors()]
        return [*copies, self._trainer.generator.get_state()]

    def _load(self, state: Sequence[Tensor]) -> None:
        for tensor, copy in zip(self._tensors(), state[:-1], strict=True):
            tensor.copy_(copy)
        self._trainer.generator.set_state(state[-1])


class CudaRecorder:
    """Record functions as CUDA graphs, whose intermediate results share memory.

    Parameters
    ----------
    device : torch.device
        The device of all tensors of the functions.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self, step: Callable[[], Tensor], generator: torch.Generator
    ) -> Callable[[], Tensor]:
        """Return a function that repeats `step`, which draws from `generator`, as one launch."""
        graph = torch.cuda.CUDAGraph()
        # Without this, every repetition would draw the same numbers.
        graph.register_generator_state(generator)
        # A thread that reads ahead may allocate and copy meanwhile.
        recording = torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        )
        with _one_at_a_time, torch.cuda.device(self._device), recording:
            loss = step()

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay


@contextmanager
def recorded_steps(trainers: Sequence[Trainer]) -> Iterator[None]:
    """Let trainers on one GPU record their steps; those of the same batches share their memory."""
    if trainers:
        device = next(trainers[0].network.parameters()).device
        batches, record = StaticBatches(device), CudaRecorder(device)
        for trainer in trainers:
            trainer.recorded = RecordedSteps(trainer, batches, record)
    try:
        yield
    finally:
        for trainer in trainers:
            trainer.recorded = None


def _same_bits(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether tensors are equal; the same NaN are."""
    pairs = zip(found, expected, strict=True)
    return all(
        torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
        for one, other in pairs
    )
