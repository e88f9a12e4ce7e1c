"""Convert the sets of a batch to tensors: gather, sample, cast, fill missing sets, transfer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acluster._utils._memory import Pool
from acluster.sets import FeatureSets, check_streamed, pieces

Packed = tuple[Tensor, Tensor]  # values (R, M) on the device, offsets (n + 1,) on the CPU

# torch uses its thread pool for operations on more elements than this.
_ELEMENTS_PER_PIECE = 32768

# Looking for a free buffer takes longer than allocating a smaller array.
_MIN_POOLED_BYTES = 1 << 20

# Numbers that are read at a time, so that a large item is in memory only once.
_NUMBERS_PER_READ = 1 << 23


class Packer:
    """Pack sets of one modality in the form that the network takes.

    Parameters
    ----------
    sets : FeatureSets
        All sets that batches are chosen from.

    like : Tensor
        A parameter of the network; batches get its dtype and device.

    stand_in : ndarray of shape (M,), optional
        The local feature that replaces an empty set. By default, empty sets stay empty.
    """

    def __init__(
        self, sets: FeatureSets, like: Tensor, stand_in: NDArray[np.floating] | None = None
    ) -> None:
        self.like = like
        # Copied: a memory-mapped pickle has means that cannot be written.
        self.stand_in = None if stand_in is None else torch.from_numpy(stand_in.copy()).to(like)
        self.is_read = not sets.in_memory
        self._is_copied = like.is_cuda and device_of(sets).type == "cpu"
        self.reads_ahead = self.is_read or self._is_copied
        self._pool = Pool()
        if self._is_copied:
            self._stream = torch.cuda.Stream(like.device)
            self._training_stream = torch.cuda.current_stream(like.device)

    def pack(
        self,
        sets: FeatureSets,
        n_local_features: int | None = None,
        random_state: np.random.RandomState | None = None,
        kept: NDArray[np.bool_] | None = None,
        own: slice | None = None,
    ) -> Packed:
        """Return the sets end to end as tensors.

        Parameters
        ----------
        sets : FeatureSets
            The items of a batch.

        n_local_features : int, optional
            The number of local features to draw from each set. By default all are used.

        random_state : RandomState, optional
            Draws the local features.

        kept : ndarray of bool, shape (n,), optional
            Which items to keep. The sets of the others are treated as empty.

        own : slice, optional
            The items to return. Local features are drawn as if all were returned.
        """
        lengths = sets.lengths if kept is None else np.where(kept, sets.lengths, 0)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        drawn = None
        first_row = offsets[0 if own is None else own.start]
        if n_local_features is not None and random_state is not None:
            drawn, offsets = sampled_rows(offsets, n_local_features, random_state)
        if own is not None:
            offsets = offsets[own.start : own.stop + 1]
            drawn = None if drawn is None else drawn[offsets[0] : offsets[-1]] - first_row
            offsets = offsets - offsets[0]
            sets, kept = sets[own], None if kept is None else kept[own]
        chosen = sets if kept is None else sets[np.flatnonzero(kept)]
        if self.is_read and drawn is None and self.like.device.type == "cpu":
            tensor = self._read(chosen)
        else:
            values = self._gathered(chosen, drawn)
            tensor = values if isinstance(values, Tensor) else self._converted(values, chosen)
        return self._filled(tensor, torch.from_numpy(offsets))

    def _read(self, sets: FeatureSets) -> Tensor:
        """Return the rows of stored sets end to end, converted while they are read."""
        n_rows, width = int(sets.lengths.sum()), sets.n_features
        max_rows = min(n_rows, max(1, _NUMBERS_PER_READ // width))
        tensor, room = self._tensor((n_rows, width)), self._room((max_rows, width), sets.dtype)
        first, total = 0, 0.0
        for piece in pieces(sets, max(1, max_rows), room):
            target = tensor[first : first + len(piece)]
            total += copy_in_pieces(torch.from_numpy(piece), target)
            first += len(piece)
        if not np.isfinite(total):
            check_values(sets, self.like.dtype)
        return tensor

    def _gathered(self, sets: FeatureSets, drawn: NDArray[np.int64] | None) -> Any:
        """Return the rows of the sets end to end, or the drawn ones among them."""
        if (located := sets.locate()) is not None:
            values, rows = located
            if drawn is not None:
                rows = drawn + rows.start if isinstance(rows, slice) else rows[drawn]
        else:
            room = self._room((int(sets.lengths.sum()), sets.n_features), sets.dtype)
            values, _ = sets.packed(room)
            rows = slice(None) if drawn is None else drawn
        return values[rows] if isinstance(rows, slice) else self._taken(values, rows)

    def _taken(self, values: Any, rows: NDArray[np.int64]) -> Any:
        if isinstance(values, Tensor):
            return values.index_select(0, sent_to(values.device, torch.from_numpy(rows)))
        out = self._room((len(rows), values.shape[1]), values.dtype)
        if not is_fit_for_torch(values):
            # With mode="raise", numpy would write to a buffer first and copy it to `out`.
            return values.take(rows, axis=0, out=out, mode="clip")
        source, numbers, target = (torch.from_numpy(array) for array in (values, rows, out))
        torch.index_select(source, 0, numbers, out=target)  # in parallel, unlike numpy's take
        return out

    def _room(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return memory for a batch: pinned for CUDA, which then copies it without the CPU."""
        n_bytes = shape[0] * shape[1] * dtype.itemsize
        if not self._is_copied:
            is_small = n_bytes < _MIN_POOLED_BYTES
            return np.empty(shape, dtype) if is_small else self._pool.array(shape, dtype)
        pinned: NDArray[Any] = torch.empty(
            n_bytes, dtype=torch.uint8, pin_memory=True, device="cpu"
        ).numpy()
        return pinned.view(dtype).reshape(shape)

    def _converted(self, values: NDArray[Any], sets: FeatureSets) -> Tensor:
        """Return the values with the dtype of the network, on its device."""
        if not is_fit_for_torch(values):
            values = values.copy()
        source = torch.from_numpy(values)
        if self.like.device.type != "cpu":
            with self._beside_training():
                tensor = source.to(self.like.device, non_blocking=True).to(self.like.dtype)
                is_finite = bool(tensor.sum().isfinite())
            tensor = self._for_training(tensor)
        elif self.is_read or source.dtype != self.like.dtype:
            tensor = self._tensor((len(values), values.shape[1]))
            is_finite = bool(np.isfinite(copy_in_pieces(source, tensor)))
        else:
            return source
        # float64 may overflow in float32, and values read from a store have not been checked yet.
        if not is_finite:
            check_values(sets, self.like.dtype)
        return tensor

    @contextmanager
    def _beside_training(self) -> Iterator[None]:
        """Run CUDA work on a stream of its own, and finish it before leaving.

        Only the prefetching thread waits; the training kernels keep running.
        """
        if not self._is_copied:
            yield
            return
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    def _for_training(self, tensor: Tensor) -> Tensor:
        """Keep the allocator from reusing memory while the training stream reads it."""
        if self._is_copied:
            tensor.record_stream(self._training_stream)
        return tensor

    def _filled(self, values: Tensor, offsets: Tensor) -> Packed:
        """Replace empty sets by the stand-in, if there is one."""
        if self.stand_in is None:
            return values, offsets
        lengths = offsets.diff()
        empty = torch.nonzero(lengths == 0).flatten()
        if len(empty) == 0:
            return values, offsets
        new_offsets = torch.cat([offsets[:1], lengths.clamp(min=1).cumsum(0)])
        is_new = torch.zeros(int(new_offsets[-1]), dtype=torch.bool, device=lengths.device)
        is_new[new_offsets[empty]] = True
        with self._beside_training():
            filled = self._tensor((len(is_new), values.shape[1]))
            is_new = is_new.to(values.device)
            filled[is_new] = self.stand_in
            filled[~is_new] = values.to(filled.dtype)
        return self._for_training(filled), new_offsets

    def _tensor(self, shape: tuple[int, int]) -> Tensor:
        """Return memory for the tensor that the network sees."""
        if self.like.device.type != "cpu":
            return self.like.new_empty(shape)
        dtype = np.dtype(str(self.like.dtype).removeprefix("torch."))
        return torch.from_numpy(self._room(shape, dtype))


def sent_to(device: torch.device, tensor: Tensor) -> Tensor:
    """Return a small tensor of the CPU on a device, without waiting for what the device does.

    From memory that is not pinned, a copy to a GPU would wait for all kernels launched before.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def device_of(sets: FeatureSets) -> torch.device:
    """Return the device where the local features are; that of features in a store is the CPU."""
    located = sets[:0].locate()
    if located is None or not isinstance(located[0], Tensor):
        return torch.device("cpu")
    return located[0].device


def check_values(sets: FeatureSets, dtype: torch.dtype) -> None:
    """Raise an error if a value is not finite, or beyond the range of a dtype.

    Parameters
    ----------
    sets : FeatureSets
        In memory or in a store.

    dtype : torch.dtype
        The dtype of the network.

    Raises
    ------
    ValueError
        The message names the item of the value, or the largest value.
    """
    check_streamed(sets)
    parts = pieces(sets, max(1, _NUMBERS_PER_READ // sets.n_features))
    largest = max(float(np.abs(part).max()) for part in parts)
    if largest > torch.finfo(dtype).max:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f"X has values beyond the range of {name}, up to {largest:g}; "
            "standardize the local features, or use float64 for X and dtype."
        )


def is_fit_for_torch(values: NDArray[Any]) -> bool:
    """Whether torch can share the memory of the array."""
    return values.flags.writeable and min(values.strides) >= 0


def copy_in_pieces(source: Tensor, target: Tensor) -> float:
    """Copy and convert, and return the sum, which is finite if all values are.

    torch widens half precision many times faster than numpy. Small pieces keep the work in this
    thread: a second team of torch's threads beside the training one would slow both.
    """
    total = 0.0
    pieces = source.reshape(-1).split(_ELEMENTS_PER_PIECE)
    for part, piece in zip(target.view(-1).split(_ELEMENTS_PER_PIECE), pieces, strict=True):
        part.copy_(piece)
        total += float(part.sum())
    return total


def sampled_rows(
    offsets: NDArray[np.int64], n_local_features: int, random_state: np.random.RandomState
) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """Draw local features of every set at random: augmentation (section 5.3 of the paper).

    The draw is without replacement and keeps the order. A set with at most `n_local_features` is
    kept whole.

    Returns
    -------
    rows : ndarray of int64, or None
        The drawn rows, set by set; None: all of them.

    offsets : ndarray of int64, shape (n + 1,)
        The position in `rows` at which each set begins.
    """
    lengths = np.diff(offsets)
    if len(lengths) == 0 or lengths.max() <= n_local_features:
        return None, offsets
    n_rows = int(offsets[-1])
    item_of_row = np.repeat(np.arange(len(lengths)), lengths)
    # Sorting random keys within each set gives a random permutation of every set at once.
    order = np.lexsort((random_state.random_sample(n_rows), item_of_row))
    rank = np.arange(n_rows) - np.repeat(offsets[:-1], lengths)
    kept = np.minimum(lengths, n_local_features)
    return np.sort(order[rank < n_local_features]), np.concatenate([[0], np.cumsum(kept)])
