"""Record the training steps of a network as CUDA graphs, one per shape of its batches.

A step of a small batch launches dozens of kernels, which takes the processor longer than they take
the GPU. A CUDA graph launches all of them at once. It repeats the same kernels at the same
addresses, so that a batch is first copied to those of its shape (`StaticBatches`).

Results do not depend on what has been recorded. Without a graph, steps are taken kernel by kernel
on the same copies. After it has been recorded, the next step of its shape is taken in both ways,
from the same state. Both must agree to the bit: the loss, the parameters, the running averages and
the state of the generator. If they do not, or if a step cannot be recorded, the training goes on
kernel by kernel. Only if memory runs out, later batches are neither copied nor padded, which
changes the rounding.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from acluster._utils._no_empty_sets import no_empty_sets
from acluster.training._batches import Batch
from acluster.training._cuda_graph import CudaRecorder
from acluster.training._optimizer import Optimizer
from acluster.training._static_batches import Shape, StaticBatches

if TYPE_CHECKING:
    from acluster.training._trainer import Trainer

# Recording makes the device wait and gives back its free memory, which takes as long as many steps.
# A shape that is rarer than this is not worth it.
_N_BEFORE_RECORDING = 10

Step = Callable[[], Tensor]


class Recorder(Protocol):
    """What records steps, such as a `CudaRecorder`.

    Attributes
    ----------
    failure : str or None
        Why no steps are recorded any more, if recording has failed.
    """

    failure: str | None

    def __call__(self, step: Step, generator: torch.Generator) -> Step:
        """Return a function that repeats a step, or raise a RuntimeError."""


class RecordedSteps:
    """The steps of one trainer on whole batches, recorded by shape.

    Parameters
    ----------
    trainer : Trainer
        Its network reads nothing back from the device.

    batches : StaticBatches
        The memory of the batches, which several trainers may share.

    record : Recorder
        Records a step. Trainers that share it give up together.

    Attributes
    ----------
    n_recorded : int
        The number of shapes whose recorded step has proven right.
    """

    def __init__(self, trainer: Trainer, batches: StaticBatches, record: Recorder) -> None:
        self._trainer = trainer
        self._batches: StaticBatches | None = batches
        self._record = record
        device = next(trainer.network.parameters()).device
        self._rate = torch.zeros((), dtype=torch.float32, device=device)
        self._rate_set: float | None = None
        self._n_taken: Counter[Shape] = Counter()
        self._unproven: dict[Shape, Step] = {}
        self._proven: dict[Shape, Step] = {}

    @property
    def n_recorded(self) -> int:
        """The number of shapes whose recorded step has proven right."""
        return len(self._proven)

    def step(self, batch: Batch) -> Tensor | None:
        """Take a step on a whole batch, and return its loss.

        Returns
        -------
        Tensor of shape (), or None
            As `Trainer.step`. None if this batch is a part of one, or has an empty set: then
            nothing has been done.
        """
        if self._batches is None or (shape := self._batches.shape_of(batch)) is None:
            return None
        try:
            static = self._batches.copied(shape, batch)
        except torch.OutOfMemoryError as error:
            self._batches = None
            self._give_up(str(error), self._trainer.generator.get_state())
            return None
        self._set_rate(float(self._trainer.optimizer.learning_rate))
        if (replay := self._proven.get(shape)) is not None:
            return replay()
        if (replay := self._unproven.pop(shape, None)) is not None:
            return self._step_in_both_ways(shape, static, replay)
        loss = self._plain_step(static)
        self._n_taken[shape] += 1
        is_due = self._n_taken[shape] == _N_BEFORE_RECORDING
        if is_due and self._record.failure is None and self._batches.has_fixed_address(shape):
            self._begin_recording(shape, static)
        return loss

    def _set_rate(self, learning_rate: float) -> None:
        if learning_rate != self._rate_set:
            self._rate.fill_(learning_rate)
            self._rate_set = learning_rate

    def _plain_step(self, static: Batch) -> Tensor:
        with no_empty_sets():
            return self._trainer.plain_step(static, self._rate)

    def _begin_recording(self, shape: Shape, static: Batch) -> None:
        state = self._trainer.generator.get_state()
        try:
            step = self._record(lambda: self._plain_step(static), self._trainer.generator)
        except RuntimeError as error:
            self._give_up(str(error), state)
        else:
            self._unproven[shape] = step

    def _step_in_both_ways(self, shape: Shape, static: Batch, replay: Step) -> Tensor:
        """Take a step kernel by kernel, and repeat it from the same state as recorded."""
        before = self._copied_state()
        expected = self._plain_step(static)
        after = None if before is None else self._copied_state()
        if before is None or after is None:
            reason = "there is no memory to compare it with a step of single kernels"
            self._give_up(reason, self._trainer.generator.get_state())
            return expected
        try:
            self._load(before)
            loss = replay()
            found = [loss, *self._tensors(), self._trainer.generator.get_state()]
            is_right = _have_same_bits(found, [expected, *after])
        except BaseException:
            self._load(after)
            raise
        if is_right:
            self._proven[shape] = replay
            return loss
        self._load(after)
        self._give_up("its result differs from that of single kernels", after[-1])
        return expected

    def _give_up(self, reason: str, state: Tensor) -> None:
        """Record nothing more, and go on with another generator from a state of this one."""
        self._unproven.clear()
        self._proven.clear()
        self._trainer.optimizer.clear()
        # A recording that has failed may leave its generator unusable.
        self._trainer.generator = torch.Generator(self._trainer.generator.device)
        self._trainer.generator.set_state(state)
        if self._record.failure is None:
            self._record.failure = reason.partition("\n")[0]
            warnings.warn(
                f"A training step cannot be recorded as a CUDA graph: {self._record.failure}. The "
                "fit goes on without graphs. Its results are the same, but small batches take "
                "longer.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _tensors(self) -> list[Tensor]:
        optimizer = self._trainer.optimizer
        assert isinstance(optimizer, Optimizer), "A compiled step is not recorded."
        return [*self._trainer.network.state_dict().values(), *optimizer.tensors]

    def _copied_state(self) -> list[Tensor] | None:
        """Return copies of all that a step changes, the generator last; None without memory."""
        try:
            copies = [tensor.clone() for tensor in self._tensors()]
        except torch.OutOfMemoryError:
            return None
        return [*copies, self._trainer.generator.get_state()]

    def _load(self, state: Sequence[Tensor]) -> None:
        for tensor, copy in zip(self._tensors(), state[:-1], strict=True):
            tensor.copy_(copy)
        self._trainer.generator.set_state(state[-1])


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


def _have_same_bits(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Return whether tensors have the same bits, so that the same NaN is equal to itself."""
    pairs = zip(found, expected, strict=True)
    return all(
        torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))
        for one, other in pairs
    )
