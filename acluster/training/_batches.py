"""Batches of items: their order, modality dropout, and prefetching."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from acluster.sets import FeatureSets
from acluster.training._packing import Packed, Packer, sent_to
from acluster.training._ranks import ALONE, Ranks, Share

Items = NDArray[np.int64] | slice
_T = TypeVar("_T")

# Blocks of a compressed store that are shuffled together: about 32 MB of decoded features.
_BLOCKS_PER_WINDOW = 32

_BYTES_PER_BLOCK = 1 << 23

# Of features, in the dtype of the network, that are in memory for one part of a batch.
BYTES_PER_PART = 1 << 26

# The memory for small batches packed together, including what their training steps need.
_BYTES_TOGETHER = 1 << 22


class Part(NamedTuple):
    """A batch in the form that the network takes, a part of a large one, or several batches."""

    sets: list[Packed]  # one per modality
    items: Items  # their numbers
    n_items: int  # in the whole batch, or in all of several batches
    is_last: bool = True  # of its batch
    share: Share | None = None  # what this process takes of it; None for all


class BatchSource:
    """Batches of items of several modalities, in the form that the network takes.

    If features are read from a store or copied to a GPU, the next batch is prepared in a thread
    while the network works on the current one. A batch whose features take more than 64 MiB
    comes in parts: the memory needed does not grow with the number of local features of an item.

    Parameters
    ----------
    modalities : sequence of FeatureSets
        The same items in every modality.

    like : Tensor
        A parameter of the network; batches get its dtype and device.

    stand_ins : sequence of (ndarray of shape (M,) or None), optional
        For every modality, the local feature that replaces an empty set. None leaves empty sets
        empty.

    max_bytes : int or None, optional
        The size of the features of a part, unless a single item is larger; by default 64 MiB.
        None: batches always come as a whole.
    """

    def __init__(
        self,
        modalities: Sequence[FeatureSets],
        like: Tensor,
        stand_ins: Sequence[NDArray[np.floating] | None] | None = None,
        *,
        max_bytes: int | None = BYTES_PER_PART,
    ) -> None:
        self.modalities = modalities
        self._max_numbers = None if max_bytes is None else max_bytes // like.element_size()
        stand_ins = stand_ins or [None] * len(modalities)
        pairs = zip(modalities, stand_ins, strict=True)
        self._packers = [Packer(sets, like, stand_in) for sets, stand_in in pairs]
        self._reads_ahead = any(packer.reads_ahead for packer in self._packers)

    def __len__(self) -> int:
        return len(self.modalities[0])

    def comes_whole(self, batch_size: int) -> bool:
        """Whether no batch of this many items has to be divided."""
        sizes = sum(sets.lengths * sets.n_features for sets in self.modalities)
        largest = np.sort(sizes)[-batch_size:].sum()
        return self._max_numbers is None or bool(largest <= self._max_numbers)

    def parts(self, batch_size: int) -> list[slice]:
        """Return which items each part of the batches in order has."""
        return [
            slice(first + part.start, first + part.stop)
            for first in range(0, len(self), batch_size)
            for part in self._divided([one[first : first + batch_size] for one in self.modalities])
        ]

    def in_order(self, batch_size: int) -> Iterator[list[Packed]]:
        """Yield the parts of the batches of all items in order, for inference."""
        pairs = [*zip(self._packers, self.modalities, strict=True)]
        parts = (
            [packer.pack(sets[items]) for packer, sets in pairs] for items in self.parts(batch_size)
        )
        yield from prefetched(parts, self._is_large) if self._reads_ahead else parts

    def epoch(
        self,
        batch_size: int,
        random_state: np.random.RandomState,
        n_local_features: Sequence[int | None],
        modality_dropout: float = 0.0,
        *,
        bytes_per_item: float | None = None,
        ranks: Ranks = ALONE,
    ) -> Iterator[Part]:
        """Yield the batches of one training epoch, part by part.

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

        bytes_per_item : float, optional
            The memory that a training step needs per item, beside the features. If given, a part
            may hold several batches; their items and their order do not change.

        ranks : Ranks, optional
            The processes that share every part. By default, this process takes it whole.
        """
        n_batches = 1
        # Drawing for several batches at once would change the random numbers.
        is_drawn = modality_dropout > 0 or any(n is not None for n in n_local_features)
        if bytes_per_item is not None and not is_drawn:
            n_batches = self._n_together(batch_size, bytes_per_item)
        orders = self._order(batch_size, n_batches, random_state, ranks)
        parts = self._draw(orders, random_state, n_local_features, modality_dropout, ranks)
        yield from prefetched(parts, self._is_large) if self._reads_ahead else parts

    def _draw(
        self,
        orders: Iterator[Items],
        random_state: np.random.RandomState,
        n_local_features: Sequence[int | None],
        modality_dropout: float,
        ranks: Ranks,
    ) -> Iterator[Part]:
        for items in orders:
            chosen = [sets[items] for sets in self.modalities]
            kept: Sequence[NDArray[np.bool_] | None] = [None] * len(chosen)
            if modality_dropout > 0:
                present = np.stack([sets.lengths > 0 for sets in chosen], axis=1)
                kept = list(keep_modalities(present, modality_dropout, random_state).T)
            parts = self._divided(chosen, n_local_features)
            for part in parts:
                share = ranks.share(part.stop - part.start)
                of_rank = None if share is None else share.items
                own = [None if keep is None else keep[part] for keep in kept]
                modalities = zip(self._packers, chosen, n_local_features, own, strict=True)
                # Not held in a variable here: the next part may need its memory.
                yield Part(
                    [
                        packer.pack(sets[part], n, random_state, keep, of_rank)
                        for packer, sets, n, keep in modalities
                    ],
                    items=_items_of(items, part, of_rank),
                    n_items=len(chosen[0]),
                    is_last=part is parts[-1],
                    share=share,
                )

    def _divided(
        self, modalities: Sequence[FeatureSets], n_local_features: Sequence[int | None] = ()
    ) -> list[slice]:
        """Divide a batch into parts of consecutive items, of limited size."""
        n_items = len(modalities[0])
        if self._max_numbers is None:
            return [slice(0, n_items)]
        sizes = np.zeros(n_items, np.int64)
        for sets, n in zip_longest(modalities, n_local_features):
            lengths = sets.lengths if n is None else np.minimum(sets.lengths, n)
            sizes += lengths * sets.n_features
        if sizes.sum() <= self._max_numbers:
            return [slice(0, n_items)]
        return consecutive_parts(sizes, self._max_numbers)

    def _is_large(self, part: Part | list[Packed]) -> bool:
        """Whether two such parts should not be in memory at the same time."""
        sets = part.sets if isinstance(part, Part) else part
        limit = self._max_numbers
        return limit is not None and sum(values.numel() for values, _ in sets) > limit

    def _n_together(self, batch_size: int, bytes_per_item: float) -> int:
        """Return how many batches of average size are packed together."""
        if batch_size >= len(self):
            return 1
        n_numbers = sum(sets.lengths.mean() * sets.n_features for sets in self.modalities)
        bytes_per_item += n_numbers * self._packers[0].like.element_size()
        n_batches = int(_BYTES_TOGETHER // (batch_size * bytes_per_item))
        # Above the limit of a part, they would be divided in the middle of a batch.
        return n_batches if n_batches > 1 and self.comes_whole(batch_size * n_batches) else 1

    def _order(
        self, batch_size: int, n_batches: int, random_state: np.random.RandomState, ranks: Ranks
    ) -> Iterator[Items]:
        """Yield the items of `n_batches` batches at a time."""
        if batch_size >= len(self):
            yield slice(None)
            return
        blocks = (sets.blocks for sets in self.modalities)
        slow = next((numbers for numbers in blocks if numbers is not None), None)
        if slow is not None and ranks.size > 1:
            order = shuffled_in_lanes(slow, batch_size, ranks.size, random_state)
        else:
            order = shuffled(len(self), random_state, slow)
        size = batch_size * n_batches
        yield from (order[i : i + size] for i in range(0, len(order), size))


class Batch(NamedTuple):
    """The data of one training step, or of a part of it."""

    sets: Any  # what the network takes; for sets, one (values, offsets) per modality
    targets: Tensor  # (n,) or (n, n_outputs)
    weights: Tensor  # of the losses; broadcasts to them
    n_items: int  # of the whole step
    ends_step: bool = True
    share: Share | None = None  # what this process takes of the part


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

    batch_size, n_local_features, modality_dropout, random_state, ranks
        As in `BatchSource.epoch`.
    """

    source: BatchSource
    targets: Tensor
    weights: Tensor
    batch_size: int
    n_local_features: Sequence[int | None]
    modality_dropout: float
    random_state: np.random.RandomState
    ranks: Ranks = ALONE

    def __len__(self) -> int:
        return len(self.source)

    def epoch(self, *, bytes_per_item: float | None = None) -> Iterator[Part]:
        """Return an iterator over every item once, in batches drawn anew."""
        return self.source.epoch(
            self.batch_size,
            self.random_state,
            self.n_local_features,
            self.modality_dropout,
            bytes_per_item=bytes_per_item,
            ranks=self.ranks,
        )

    def batch(self, part: Part) -> Batch:
        """Return a part with the targets and weights of its items."""
        items: Any = part.items
        if not isinstance(items, slice):
            items = sent_to(self.targets.device, torch.from_numpy(items))
        targets, weights = self.targets[items], self.weights[items]
        if part.share is not None and not part.share.counts:
            weights = torch.zeros_like(weights)
        return Batch(part.sets, targets, weights, part.n_items, part.is_last, part.share)


def bytes_per_part(network: nn.Module) -> int | None:
    """Return the `max_bytes` of a `BatchSource` for the training of a network.

    Batch normalization needs the statistics of the whole batch, so such a network gets it whole.
    """
    # The base class of torch's batch normalizations has no public name.
    has_batch_norm = any(isinstance(module, _BatchNorm) for module in network.modules())
    return None if has_batch_norm else BYTES_PER_PART


def consecutive_parts(sizes: NDArray[np.int64], limit: int) -> list[slice]:
    """Return slices of items whose sizes add up to at most `limit`, or of one larger item."""
    ends = np.cumsum(sizes)
    parts, first = [], 0
    while first < len(sizes):
        before = ends[first] - sizes[first]
        stop = max(first + 1, int(np.searchsorted(ends, before + limit, side="right")))
        parts.append(slice(first, stop))
        first = stop
    return parts


def prefetched(
    iterator: Iterator[_T], is_large: Callable[[_T], bool] = lambda element: False
) -> Iterator[_T]:
    """Yield the same elements, each computed in a thread while the previous one is used.

    A large element is not computed ahead of its use, nor is the one after it.
    """
    end: Any = object()
    with ThreadPoolExecutor(1, thread_name_prefix="acluster-prefetch") as pool:
        ahead = pool.submit(next, iterator, end)
        while (element := ahead.result()) is not end:
            if is_large(element):
                del ahead  # which also refers to the element
                yield element
                del element
                ahead = pool.submit(next, iterator, end)
            else:
                ahead = pool.submit(next, iterator, end)
                yield element


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


def _items_of(items: Items, part: slice, of_rank: slice | None) -> Items:
    """Return the numbers of the items of a part of a batch, or those of a rank among them."""
    if of_rank is not None:
        part = slice(part.start + of_rank.start, part.start + of_rank.stop)
    return part if isinstance(items, slice) else items[part]


def shuffled_in_lanes(
    blocks: NDArray[np.int64], batch_size: int, n_ranks: int, random_state: np.random.RandomState
) -> NDArray[np.int64]:
    """Return the items of a slow store in random order, so that each rank reads its own blocks.

    Runs of consecutive blocks are shuffled and cut into a lane per rank. The items of a lane are
    shuffled within windows of 32 blocks, and every batch takes from each lane what its rank
    computes. A run has as many blocks as there are ranks. An item that lies in two blocks is then
    rarely read twice, and a batch is drawn from as many places of the store as by one process.

    Parameters
    ----------
    blocks : ndarray of shape (n_items,)
        The number of the block in which each item begins.

    batch_size : int
        The number of items of a batch, of all ranks together.

    n_ranks : int
        The number of ranks.

    random_state : RandomState
        Draws the order.
    """
    _, block = np.unique(blocks, return_inverse=True)
    run = block // n_ranks
    by_run = np.lexsort((block, random_state.permutation(run.max() + 1)[run]))
    # Where the items of each rank begin in each batch: what `Ranks.share` says.
    sizes = np.diff([*range(0, len(block), batch_size), len(block)])
    edges = sizes[:, None] * np.arange(n_ranks + 1) // n_ranks
    rank_of_place = np.concatenate([np.repeat(np.arange(n_ranks), np.diff(one)) for one in edges])
    lane = np.sort(rank_of_place)
    is_new = np.diff(block[by_run], prepend=-1) != 0
    is_new |= np.diff(lane, prepend=-1) != 0
    n_before = np.cumsum(is_new)
    firsts = n_before[np.searchsorted(lane, lane)]
    window = (n_before - firsts) // _BLOCKS_PER_WINDOW
    dealt = np.empty_like(by_run)
    dealt[np.argsort(rank_of_place, kind="stable")] = by_run[
        np.lexsort((random_state.random_sample(len(block)), window, lane))
    ]
    return dealt


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
