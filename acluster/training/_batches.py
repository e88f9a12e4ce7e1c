"""From FeatureSets to the packed tensors of a batch: order, gather, sample, fill, move."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acluster.sets import FeatureSets, check_streamed

__all__ = ["BatchSource", "Packed", "prefetched", "sampled_rows", "shuffled"]

Packed = tuple[Tensor, Tensor]  # values (R, M) on the device, offsets (n + 1,) on the CPU
Items = NDArray[np.int64] | slice
_T = TypeVar("_T")

# Blocks of a slow store that are shuffled together: with theirs, 32 MB of decoded features.
_BLOCKS_PER_WINDOW = 32
# torch converts pieces of up to this many numbers in the calling thread alone.
_NUMBERS_PER_PIECE = 32768


class BatchSource:
    """Items of several modalities, batch by batch, as the network takes them.

    Batches of features that are not in memory are read one ahead, in a thread, and written
    over when the next but one is read.

    Parameters
    ----------
    modalities : sequence of FeatureSets
        The same items in every modality.

    like : Tensor
        A parameter of the network that will see them: batches have its dtype and device.

    stand_ins : sequence of (ndarray of shape (M,) or None), optional
        For every modality, the local feature that stands for a set without any. None
        leaves empty sets empty.
    """

    def __init__(
        self,
        modalities: Sequence[FeatureSets],
        like: Tensor,
        stand_ins: Sequence[NDArray[np.floating] | None] | None = None,
    ) -> None:
        self.modalities = modalities
        self.like = like
        self.stand_ins = [
            None if mean is None else torch.from_numpy(mean).to(like)
            for mean in stand_ins or [None] * len(modalities)
        ]
        self.reads_ahead = not all(sets.in_memory for sets in modalities)
        self._memory = ReusedMemory()

    def __len__(self) -> int:
        return len(self.modalities[0])

    def in_order(self, batch_size: int) -> Iterator[list[Packed]]:
        """All batches of the items as they come, for inference."""
        batches = (
            [
                self._pack(sets[i : i + batch_size], m)
                for m, sets in enumerate(self._next_modalities())
            ]
            for i in range(0, len(self), batch_size)
        )
        yield from prefetched(batches) if self.reads_ahead else batches

    def epoch(
        self,
        batch_size: int,
        random_state: np.random.RandomState,
        n_local_features: Sequence[int | None],
        modality_dropout: float = 0.0,
    ) -> Iterator[tuple[Items, list[Packed]]]:
        """The batches of an epoch of training, with the items that each holds.

        Parameters
        ----------
        batch_size : int
            Items per batch. A batch of all items is not shuffled: its order changes
            nothing, and the features then need no gathering.

        random_state : RandomState
            Draws the order, the modalities and the local features.

        n_local_features : sequence of (int or None)
            For every modality, how many local features of each set are drawn anew.

        modality_dropout : float, default=0.0
            The probability that an item goes without a modality; it keeps one at least.
        """
        batches = self._draw(batch_size, random_state, n_local_features, modality_dropout)
        yield from prefetched(batches) if self.reads_ahead else batches

    def _draw(
        self,
        batch_size: int,
        random_state: np.random.RandomState,
        n_local_features: Sequence[int | None],
        modality_dropout: float,
    ) -> Iterator[tuple[Items, list[Packed]]]:
        for items in self._order(batch_size, random_state):
            chosen = [sets[items] for sets in self._next_modalities()]
            kept = None
            if modality_dropout > 0:
                present = np.stack([sets.lengths > 0 for sets in chosen], axis=1)
                kept = keep_modalities(present, modality_dropout, random_state)
            packed = [
                self._pack(sets, m, n, random_state, None if kept is None else kept[:, m])
                for m, (sets, n) in enumerate(zip(chosen, n_local_features, strict=True))
            ]
            yield items, packed

    def _next_modalities(self) -> Sequence[FeatureSets]:
        self._memory.next_batch()
        return self.modalities

    def _order(self, batch_size: int, random_state: np.random.RandomState) -> Iterator[Items]:
        if batch_size >= len(self):
            yield slice(None)
            return
        blocks = (sets.blocks for sets in self.modalities)
        slow = next((numbers for numbers in blocks if numbers is not None), None)
        order = shuffled(len(self), random_state, slow)
        yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))

    def _pack(
        self,
        sets: FeatureSets,
        modality: int,
        n_local_features: int | None = None,
        random_state: np.random.RandomState | None = None,
        kept: NDArray[np.bool_] | None = None,
    ) -> Packed:
        """The sets end to end as tensors; of items that are not `kept`, none."""
        chosen = sets if kept is None else sets[np.flatnonzero(kept)]
        memory = None if sets.in_memory else self._memory
        values, offsets = _gathered(chosen, memory, modality)
        if kept is not None:
            offsets = np.concatenate([[0], np.cumsum(np.where(kept, sets.lengths, 0))])
        if n_local_features is not None and random_state is not None:
            rows, offsets = sampled_rows(offsets, n_local_features, random_state)
            if rows is not None:
                values = values[rows]
        tensor = values
        if not isinstance(values, Tensor):
            tensor = _converted(values, self.like, memory, modality)
            # float64 may leave the range of float32; what a store holds nobody has checked.
            if (memory or values.dtype.itemsize > 4) and not tensor.sum().isfinite():
                _refuse(chosen, self.like)
        bounds = torch.from_numpy(offsets)
        if (mean := self.stand_ins[modality]) is not None:
            tensor, bounds = _filled(tensor, bounds, mean)
        return tensor, bounds


class ReusedMemory:
    """Arrays that batch after batch is written into.

    Fresh memory for batches of ever different size, from two threads, would leave the
    process several times as large as they are. A batch is good until the next but one.
    """

    def __init__(self) -> None:
        self._arrays: dict[Hashable, NDArray[Any]] = {}
        self._turn = 0

    def next_batch(self) -> None:
        """Leave the batch before the last to be written over."""
        self._turn = 1 - self._turn

    def to_read(self, modality: int, n_rows: int, like: FeatureSets) -> NDArray[Any]:
        """Rows of the stored type, for the batch that is being made."""
        return self._rows(modality, n_rows, like.n_features, like.dtype)

    def to_keep(self, modality: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Rows of the network's type."""
        name = str(dtype).removeprefix("torch.")
        n_rows, n_features = shape
        key = (modality, self._turn)
        return torch.from_numpy(self._rows(key, n_rows, n_features, np.dtype(name)))

    def _rows(
        self, key: Hashable, n_rows: int, n_features: int, dtype: np.dtype[Any]
    ) -> NDArray[Any]:
        array = self._arrays.get(key)
        if array is None or len(array) < n_rows:
            self._arrays.pop(key, None)
            shape = (n_rows + n_rows // 8 + 1, n_features)
            # Pages of its own, which go back to the system at once when they are let go.
            pages = mmap(-1, max(1, shape[0] * n_features * dtype.itemsize))
            self._arrays[key] = array = np.frombuffer(pages, dtype).reshape(shape)
        return array[:n_rows]


def _gathered(sets: FeatureSets, memory: ReusedMemory | None, modality: int) -> Any:
    if memory is None:
        return sets.packed()
    return sets.packed(out=memory.to_read(modality, int(sets.lengths.sum()), sets))


def _converted(
    values: NDArray[Any], like: Tensor, memory: ReusedMemory | None, modality: int
) -> Tensor:
    """The values as a tensor with the dtype and device of `like`."""
    if not values.flags.writeable or min(values.strides) < 0:  # torch takes neither
        values = values.copy()
    tensor = torch.from_numpy(values)
    if like.device.type != "cpu":
        return tensor.to(like.device).to(like.dtype)
    if memory is None and tensor.dtype == like.dtype:
        return tensor
    if memory is None:
        return _copied(tensor, torch.empty(tensor.shape, dtype=like.dtype))
    return _copied(tensor, memory.to_keep(modality, tensor.shape, like.dtype))


def _copied(source: Tensor, target: Tensor) -> Tensor:
    """`target`, with the numbers of `source`; half precision is widened many times faster than
    numpy does it.

    Piece by piece in this thread: a second team of torch's threads, beside that which
    trains, would slow both many times over.
    """
    pieces = source.reshape(-1).split(_NUMBERS_PER_PIECE)
    for part, piece in zip(target.view(-1).split(_NUMBERS_PER_PIECE), pieces, strict=True):
        part.copy_(piece)
    return target


def _refuse(sets: FeatureSets, like: Tensor) -> None:
    """Say which value is not finite or does not fit the dtype of `like`, if one is not."""
    check_streamed(sets)
    largest = np.abs(sets.packed()[0]).max()
    if largest > torch.finfo(like.dtype).max:
        dtype = str(like.dtype).removeprefix("torch.")
        raise ValueError(
            f"X has values beyond the range of {dtype}, up to {largest:g}; "
            "standardise the local features, or use float64 for X and dtype."
        )


def prefetched(iterator: Iterator[_T]) -> Iterator[_T]:
    """The same elements, each made in a thread while the one before is used."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="acluster-prefetch") as pool:
        ahead = pool.submit(next, iterator, end)
        while (element := ahead.result()) is not end:
            ahead = pool.submit(next, iterator, end)
            yield element  # type: ignore[misc]


def shuffled(
    n_items: int, random_state: np.random.RandomState, blocks: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The items in random order.

    With `blocks`, the number of the block that each item begins in, the blocks come in
    random order and the items in random order within every 32 of them: a reader that has
    to decode blocks decodes few of them more than once.
    """
    if blocks is None:
        return random_state.permutation(n_items)
    _, block = np.unique(blocks, return_inverse=True)
    place = random_state.permutation(block.max() + 1)
    window = place[block] // _BLOCKS_PER_WINDOW
    return np.lexsort((random_state.random_sample(n_items), window))


def keep_modalities(
    present: NDArray[np.bool_], dropout: float, random_state: np.random.RandomState
) -> NDArray[np.bool_]:
    """Which of the modalities that are present, (n, n_modalities), survive the dropout.

    An item that would lose all keeps one of its own, drawn at random.
    """
    kept = present & (random_state.random_sample(present.shape) >= dropout)
    lost = np.flatnonzero(~kept.any(axis=1))
    draws = np.where(present[lost], random_state.random_sample((len(lost), present.shape[1])), -1)
    kept[lost, draws.argmax(axis=1)] = True
    return kept


def sampled_rows(
    offsets: NDArray[np.int64], n_local_features: int, random_state: np.random.RandomState
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """Local feature set augmentation (section 5.3): a random part of every set.

    Draws without replacement; a set with no more than `n_local_features` is kept whole.

    Returns
    -------
    rows : ndarray of int64, or None
        The rows that are drawn, set by set; None: all as they are.

    offsets : ndarray of int64, shape (n + 1,)
        What cuts them.
    """
    lengths = np.diff(offsets)
    if len(lengths) == 0 or lengths.max() <= n_local_features:
        return None, offsets
    n_rows = int(offsets[-1])
    item_of_row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((random_state.random_sample(n_rows), item_of_row))
    rank = np.arange(n_rows) - np.repeat(offsets[:-1], lengths)
    kept = np.minimum(lengths, n_local_features)
    return order[rank < n_local_features], np.concatenate([[0], np.cumsum(kept)])


def _filled(values: Tensor, offsets: Tensor, stand_in: Tensor) -> Packed:
    """Sets without a local feature get the stand-in as their only one."""
    lengths = offsets.diff()
    empty = torch.nonzero(lengths == 0).flatten()
    if len(empty) == 0:
        return values, offsets
    new_offsets = torch.cat([offsets[:1], lengths.clamp(min=1).cumsum(0)])
    filled = values.new_empty((int(new_offsets[-1]), values.shape[1]))
    is_new = torch.zeros(len(filled), dtype=torch.bool)
    is_new[new_offsets[empty]] = True
    is_new = is_new.to(values.device)
    filled[is_new] = stand_in
    filled[~is_new] = values
    return filled, new_offsets
