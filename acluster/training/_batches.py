"""Batches of items: their order, modality dropout, and prefetching."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from acluster.sets import FeatureSets
from acluster.training._packing import Packed, Packer

Items = NDArray[np.int64] | slice
_T = TypeVar("_T")

# Blocks of a compressed store that are shuffled together: about 32 MB of decoded features.
_BLOCKS_PER_WINDOW = 32

_BYTES_PER_BLOCK = 1 << 23


class BatchSource:
    """Batches of items of several modalities, in the form that the network takes.

    If features are read from a store or copied to a GPU, the next batch is prepared in a thread
    while the network works on the current one.

    Parameters
    ----------
    modalities : sequence of FeatureSets
        The same items in every modality.

    like : Tensor
        A parameter of the network; batches get its dtype and device.

    stand_ins : sequence of (ndarray of shape (M,) or None), optional
        For every modality, the local feature that replaces an empty set. None leaves empty sets
        empty.
    """

    def __init__(
        self,
        modalities: Sequence[FeatureSets],
        like: Tensor,
        stand_ins: Sequence[NDArray[np.floating] | None] | None = None,
    ) -> None:
        self.modalities = modalities
        self._packers = [
            Packer(sets, like, stand_in)
            for sets, stand_in in zip(
                modalities, stand_ins or [None] * len(modalities), strict=True
            )
        ]
        self._reads_ahead = any(packer.reads_ahead for packer in self._packers)

    def __len__(self) -> int:
        return len(self.modalities[0])

    def in_order(self, batch_size: int) -> Iterator[list[Packed]]:
        """Yield the batches of all items in order, for inference."""
        batches = (
            [
                packer.pack(sets[i : i + batch_size])
                for packer, sets in zip(self._packers, self.modalities, strict=True)
            ]
            for i in range(0, len(self), batch_size)
        )
        yield from prefetched(batches) if self._reads_ahead else batches

    def epoch(
        self,
        batch_size: int,
        random_state: np.random.RandomState,
        n_local_features: Sequence[int | None],
        modality_dropout: float = 0.0,
    ) -> Iterator[tuple[Items, list[Packed]]]:
        """Yield the batches of one training epoch, with the numbers of their items.

        Parameters
        ----------
        batch_size : int
            The number of items per batch. A batch of all items is not shuffled: the order would
            not matter, and no features need to be gathered.

        random_state : RandomState
            Draws the order, the dropped modalities and the local features.

        n_local_features : sequence of (int or None)
            For every modality, the number of local features to draw from each set.

        modality_dropout : float, default=0.0
            The probability that an item loses a modality; it keeps at least one.
        """
        batches = self._draw(batch_size, random_state, n_local_features, modality_dropout)
        yield from prefetched(batches) if self._reads_ahead else batches

    def _draw(
        self,
        batch_size: int,
        random_state: np.random.RandomState,
        n_local_features: Sequence[int | None],
        modality_dropout: float,
    ) -> Iterator[tuple[Items, list[Packed]]]:
        for items in self._order(batch_size, random_state):
            chosen = [sets[items] for sets in self.modalities]
            kept = [None] * len(chosen)
            if modality_dropout > 0:
                present = np.stack([sets.lengths > 0 for sets in chosen], axis=1)
                kept = list(keep_modalities(present, modality_dropout, random_state).T)
            packed = [
                packer.pack(sets, n, random_state, keep)
                for packer, sets, n, keep in zip(
                    self._packers, chosen, n_local_features, kept, strict=True
                )
            ]
            yield items, packed

    def _order(self, batch_size: int, random_state: np.random.RandomState) -> Iterator[Items]:
        if batch_size >= len(self):
            yield slice(None)
            return
        blocks = (sets.blocks for sets in self.modalities)
        slow = next((numbers for numbers in blocks if numbers is not None), None)
        order = shuffled(len(self), random_state, slow)
        yield from (order[i : i + batch_size] for i in range(0, len(order), batch_size))


class Batch(NamedTuple):
    """The data of one training step."""

    sets: Any  # what the network takes; for sets, one (values, offsets) per modality
    targets: Tensor  # (n,) or (n, n_outputs)
    weights: Tensor  # of the losses; broadcasts to them


@dataclass(eq=False)
class TrainingBatches:
    """The training items with their targets, drawn in random batches epoch after epoch.

    Parameters
    ----------
    source : BatchSource
        The items.

    targets : Tensor of shape (n,) or (n, n_outputs)
        The targets of the loss, on the device of the network.

    weights : Tensor that broadcasts to the losses
        The weights of the losses. Their mean should be about 1.

    batch_size, n_local_features, modality_dropout, random_state
        As in `BatchSource.epoch`.
    """

    source: BatchSource
    targets: Tensor
    weights: Tensor
    batch_size: int
    n_local_features: Sequence[int | None]
    modality_dropout: float
    random_state: np.random.RandomState

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self) -> Iterator[Batch]:
        """Yield every item once, in batches drawn anew."""
        batches = self.source.epoch(
            self.batch_size, self.random_state, self.n_local_features, self.modality_dropout
        )
        for items, sets in batches:
            yield Batch(sets, self.targets[items], self.weights[items])


def prefetched(iterator: Iterator[_T]) -> Iterator[_T]:
    """Yield the same elements, each computed in a thread while the previous one is used."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="acluster-prefetch") as pool:
        ahead = pool.submit(next, iterator, end)
        while (element := ahead.result()) is not end:
            ahead = pool.submit(next, iterator, end)
            yield element  # type: ignore[misc]


def shuffled(
    n_items: int, random_state: np.random.RandomState, blocks: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Return the items in random order.

    With `blocks`, the number of the block in which each item begins, the blocks are shuffled, and
    the items are shuffled within windows of 32 blocks. A reader that has to decode blocks then
    decodes few of them twice.
    """
    if blocks is None:
        return random_state.permutation(n_items)
    _, block = np.unique(blocks, return_inverse=True)
    rank = random_state.permutation(block.max() + 1)
    window = rank[block] // _BLOCKS_PER_WINDOW
    return np.lexsort((random_state.random_sample(n_items), window))


def keep_modalities(
    present: NDArray[np.bool_], dropout: float, random_state: np.random.RandomState
) -> NDArray[np.bool_]:
    """Return which of the present modalities, (n, n_modalities), survive the dropout.

    An item that would lose all of them keeps one, drawn at random.
    """
    kept = present & (random_state.random_sample(present.shape) >= dropout)
    lost = np.flatnonzero(~kept.any(axis=1))
    draws = np.where(present[lost], random_state.random_sample((len(lost), present.shape[1])), -1)
    kept[lost, draws.argmax(axis=1)] = True
    return kept


def items_per_block(sets: FeatureSets) -> int:
    """Return how many items take 8 MB on average in their stored form; at least 1."""
    return max(1, _BYTES_PER_BLOCK * len(sets) // max(1, sets.nbytes))
