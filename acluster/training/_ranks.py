"""Several processes that train one model: each takes its part of every batch, or of the network.

The processes are those of torch.distributed's default group, whoever has started them. They draw
the same random numbers, compute the gradients of their own items or the logits of their own units,
and add them up. Every exchange begins with a vote on whether all processes are well: an error on
one of them is then raised on all, and no process waits for one that has failed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

_T = TypeVar("_T")

# Tensors below this size travel together: each exchange has a latency of its own.
_MAX_JOINED_BYTES = 1 << 20

# The backends of torch.distributed that sum tensors where they are.
_FASTEST = {"cpu": "gloo", "cuda": "nccl"}

# Exchanges of two fits at a time would be mixed up.
_IS_FITTING = threading.Lock()


class Share(NamedTuple):
    """What a rank takes of a batch, or of a part of one.

    Parameters
    ----------
    n_items : int
        The number of items that all ranks share.

    items : slice
        Those of this rank.

    counts : bool
        False if there are fewer items than ranks and none is left for this one. It then computes
        with an item of another rank, whose loss it multiplies by 0.
    """

    n_items: int
    items: slice
    counts: bool


class RankError(RuntimeError):
    """Another process of a distributed fit has failed."""


class _Failure(NamedTuple):
    """An error, in a form that every process can read."""

    rank: int
    kind: str
    text: str
    is_interrupt: bool

    @classmethod
    def of(cls, rank: int, error: BaseException) -> Self:
        is_interrupt = isinstance(error, KeyboardInterrupt)
        return cls(rank, type(error).__name__, str(error), is_interrupt)


class Ranks:
    """The processes that train a model together, or this process alone. A context manager.

    An error inside the context is raised in all processes.

    Parameters
    ----------
    distributed : bool, default=False
        Whether the processes of torch.distributed's default group train together.

    Attributes
    ----------
    rank : int
        The number of this process.

    size : int
        The number of processes.

    Raises
    ------
    ValueError
        If there is no group, or if this process already trains a model with it.
    """

    def __init__(self, distributed: bool = False) -> None:
        self.rank, self.size = 0, 1
        self._is_distributed = distributed
        self._exchanged: list[str] = []  # the kinds of devices whose tensors the group sums
        self._control: Any = None  # the group for small messages between processors
        self._is_agreed = False  # whether all ranks know of an error

    def __enter__(self) -> Self:
        if not self._is_distributed:
            return self
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "distributed=True needs a process group, and this process has none. Start the "
                "script with `torchrun --nproc-per-node 2 SCRIPT`, and let it call "
                "torch.distributed.init_process_group() before fit. The workers of a parallel "
                "search have no group either: search with n_jobs=1, or set distributed=False."
            )
        if not _IS_FITTING.acquire(blocking=False):
            raise ValueError(
                "Another fit with distributed=True is running in this process; their messages "
                "would be mixed up. Fit one after the other, and search with n_jobs=1."
            )
        try:
            self._connect()
        except BaseException:
            _IS_FITTING.release()
            raise
        return self

    def _connect(self) -> None:
        """Find out who takes part, and which devices the group exchanges tensors of."""
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        backends = dist.get_backend_config()  # such as "cpu:gloo,cuda:nccl"
        self._exchanged = [
            kind for kind in ("cpu", "cuda") if f"{kind}:{_FASTEST[kind]}" in backends.split(",")
        ]
        if "cpu" not in self._exchanged:
            self._control = _gloo_group()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_distributed:
            return
        try:
            if not self._is_agreed:
                with self._exchange(error):
                    pass
        except (RankError, KeyboardInterrupt):
            if error is None:
                raise  # else its own error is what the user has to know
        finally:
            _IS_FITTING.release()

    def share(self, n_items: int) -> Share | None:
        """Return which of some consecutive items are this rank's; None if it is alone."""
        if self.size == 1:
            return None
        first, stop = n_items * self.rank // self.size, n_items * (self.rank + 1) // self.size
        if first < stop:
            return Share(n_items, slice(first, stop), counts=True)
        return Share(n_items, slice(0, 1), counts=False)

    def own(self, n_items: int) -> slice:
        """Return which of some consecutive items are this rank's; it may be none."""
        share = self.share(n_items)
        if share is None:
            return slice(0, n_items)
        return share.items if share.counts else slice(0, 0)

    def same(self, value: _T) -> _T:
        """Return the value of rank 0."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        with self._exchange():
            dist.broadcast_object_list(box, src=0, group=self._control)
        return value if self.rank == 0 else box[0]

    def all_of(self, value: _T) -> list[_T]:
        """Return the values of all ranks."""
        if self.size == 1:
            return [value]
        with self._exchange():
            return self._gathered(value)

    def check_same(self, values: Mapping[str, str]) -> None:
        """Check that all ranks have the same values.

        Raises
        ------
        ValueError
            On every rank, if one of them has another value.
        """
        first, *others = self.all_of(values)
        for rank, other in enumerate(others, 1):
            differing = [name for name in first if other.get(name) != first[name]]
            if differing:
                self._is_agreed = True
                shown = "; ".join(
                    f"{name} is {other.get(name)!s:.90} on rank {rank}, {first[name]:.90} on rank 0"
                    for name in differing[:3]
                )
                raise ValueError(
                    f"With distributed=True, fit needs the same arguments in every process, but "
                    f"{shown}. Pass all items and the same parameters to every process; each "
                    "trains on its own part of every batch, or of the units."
                )

    def own_device(self, device: torch.device) -> torch.device:
        """Return the GPU of this process, if the device is a GPU without a number."""
        is_shared = self._is_distributed and device.type == "cuda" and device.index is None
        return torch.device("cuda", local_rank()) if is_shared else device

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of the tensors of all ranks."""
        if self.size == 1:
            return tensor
        summed = tensor.clone()  # not in the exchange: the others hear of an error here
        with self._exchange():
            return self._summed(summed)

    @torch.no_grad()
    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradients of the parts of a batch by those of the whole batch."""
        if self.size == 1:
            return
        # A parameter may lack a gradient on some ranks: that of a modality that none of their
        # items has.
        has = parameters[0].new_tensor([float(p.grad is not None) for p in parameters])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        self.sum_in_place([has, *gradients])
        for p, gradient, n_ranks in zip(parameters, gradients, has.tolist(), strict=True):
            p.grad = gradient if n_ranks else None

    @torch.no_grad()
    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one dtype by their sums over all ranks."""
        if self.size == 1:
            return
        joined = [one for one in tensors if one.nbytes <= _MAX_JOINED_BYTES]
        small = torch.cat([one.reshape(-1) for one in joined]) if joined else None
        with self._exchange():
            if small is not None:
                self._summed(small)
            for one in tensors:
                if one.nbytes > _MAX_JOINED_BYTES:
                    self._summed(one)
        if small is not None:
            sums = small.split([one.numel() for one in joined])
            for target, total in zip(joined, sums, strict=True):
                target.copy_(total.view_as(target))

    @contextmanager
    def _exchange(self, error: BaseException | None = None) -> Iterator[None]:
        """Exchange messages if all ranks are well; else raise the error of one that is not."""
        with uninterrupted():
            try:
                failures = self._failures(error)
                if not failures:
                    yield
            except RuntimeError as lost:
                self._is_agreed = True  # there is nobody to tell
                raise RankError(
                    f"Rank {self.rank} of {self.size} lost the connection to another process of "
                    f"the distributed fit, which may have been killed: {lost!s:.300}. With "
                    "checkpoint_dir, the same call of fit resumes from the last epoch."
                ) from lost
        if failures:
            self._is_agreed = True
            _raise_other(failures)

    def _failures(self, error: BaseException | None) -> list[_Failure]:
        """Tell the other ranks whether this one has failed, and return who has."""
        n_failed = torch.tensor([0.0 if error is None else 1.0], device="cpu")
        dist.all_reduce(n_failed, group=self._control)
        if n_failed.item() == 0:
            return []
        own = None if error is None else _Failure.of(self.rank, error)
        return [one for one in self._gathered(own) if one is not None]

    def _gathered(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def _summed(self, tensor: Tensor) -> Tensor:
        if tensor.device.type in self._exchanged:
            dist.all_reduce(tensor)
            return tensor
        is_on_gpus = "cpu" not in self._exchanged
        moved = tensor.to(torch.device("cuda", local_rank()) if is_on_gpus else "cpu")
        dist.all_reduce(moved)
        return tensor.copy_(moved)


ALONE = Ranks()


@contextmanager
def joined_group(is_distributed: bool) -> Iterator[int]:
    """Join the processes that torchrun has started, and yield the number of this one.

    Without `is_distributed`, or outside of torchrun, there is only this process.
    """
    if not is_distributed or "RANK" not in os.environ:
        yield 0
        return
    dist.init_process_group()  # gloo for CPUs, and nccl for GPUs if there are any
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Return the number of this process on its machine, and thus of its GPU."""
    number = int(os.environ.get("LOCAL_RANK", "0"))
    return number % max(1, torch.cuda.device_count())


# The default group, and the group of the same processes that has been made for it. Groups are
# compared as objects: a later one may get the id of one that has been destroyed.
_control_groups: list[tuple[Any, Any]] = []


def _gloo_group() -> Any:
    """Return a group of all processes that exchanges messages without their GPUs."""
    world = dist.group.WORLD
    if not _control_groups or _control_groups[0][0] is not world:
        _control_groups[:] = [(world, dist.new_group(backend="gloo"))]
    return _control_groups[0][1]


def _raise_other(failures: Sequence[_Failure]) -> None:
    """Raise the error of the first rank that has failed."""
    first = failures[0]
    if first.is_interrupt:
        raise KeyboardInterrupt(f"Rank {first.rank} was interrupted.")
    raise RankError(
        f"Rank {first.rank} of this distributed fit failed, so all processes stop. Its error was "
        f"{first.kind}: {first.text}"
    )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C until a message has been exchanged as a whole."""
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is None:
        yield  # only the main thread is interrupted; None: another language handles the signal
        return
    received: list[Any] = []
    signal.signal(signal.SIGINT, lambda *what: received.append(what))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if received and callable(before):
            before(*received[0])
        elif received:
            signal.raise_signal(signal.SIGINT)
