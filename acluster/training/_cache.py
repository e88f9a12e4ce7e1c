"""Where local features are kept during training: on the device, in memory, or in their store."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn
import torch
from numpy.typing import NDArray
from torch import Tensor

from acluster.sets import FeatureSets, SetsInMemory, check_streamed, rows_of_runs
from acluster.training._packing import check_values
from acluster.training._resident import checks_while_copying, copies_to, copy_rows
from acluster.training._workers import in_worker

CACHES = ("auto", "device", "memory", "stream")

# Reading a small store again in every epoch takes longer than training a small network on it. Of a
# larger one, the thread that reads keeps up.
_SMALL_BYTES = 1 << 22


def cached(
    modalities: Sequence[FeatureSets],
    cache: str,
    like: Tensor,
    *,
    is_shared: bool = False,
    is_checked: bool = True,
) -> list[FeatureSets]:
    """Return the sets, moved to the place that `cache` selects.

    Parameters
    ----------
    modalities : sequence of FeatureSets
        In memory or in a store.

    cache : {"auto", "device", "memory", "stream"}
        "device": on the device of `like`, in its dtype; float16 features on a GPU stay float16.
        "memory": in memory. "stream": not moved. "auto": "device" on a GPU, if they take at most
        half of its free memory. Otherwise "memory", if those in stores take at most 4 MiB; or if
        a store is slow to read (compressed or remote), those in stores take at most
        scikit-learn's `working_memory`, and this is not a worker of a parallel search. Otherwise
        "stream".

    like : Tensor
        A parameter of the network.

    is_shared : bool, default=False
        Whether other processes train on the same sets, which "auto" leaves in their store then.

    is_checked : bool, default=True
        Whether the values in memory are known to be finite. If not, they are checked here: on the
        device, if they are copied to a GPU.

    Raises
    ------
    ValueError
        If a value that is checked or converted is not finite. The message names the item.

    torch.OutOfMemoryError
        If the device has not enough memory. A note says what to do.
    """
    if cache == "auto":
        cache = _choose(modalities, like, is_shared)
    if not is_checked and not (cache == "device" and checks_while_copying(like.device)):
        for sets in modalities:
            if sets.in_memory:
                check_streamed(sets)
    if cache == "device":
        return [_on_device(sets, like) for sets in modalities]
    return [_loaded(sets) for sets in modalities] if cache == "memory" else list(modalities)


def _loaded(sets: FeatureSets) -> FeatureSets:
    if sets.in_memory:
        return sets
    loaded = FeatureSets(*sets.packed())  # without places, which training does not need
    check_streamed(loaded, origin=sets)
    return loaded


def _on_device(sets: FeatureSets, like: Tensor) -> FeatureSets:
    offsets = np.concatenate([[0], np.cumsum(sets.lengths)])
    return FeatureSets.from_source(SetsInMemory(RowsOnDevice(sets, like), offsets))


def _choose(modalities: Sequence[FeatureSets], like: Tensor, is_shared: bool) -> str:
    if like.device.type == "cuda":
        n_bytes = sum(
            sets.nbytes // sets.dtype.itemsize * _resident_dtype(sets, like).itemsize
            for sets in modalities
        )
        free, _ = torch.cuda.mem_get_info(like.device)
        if n_bytes <= free / 2:
            return "device"
    stored = [sets for sets in modalities if not sets.in_memory]
    n_bytes = sum(sets.nbytes for sets in stored)
    limit = _SMALL_BYTES
    # Each process would hold its own copy. Processes that stream share the page cache.
    is_slow = any(sets.blocks is not None for sets in stored)
    if is_slow and not is_shared and not in_worker():
        limit = sklearn.get_config()["working_memory"] * 2**20
    return "memory" if 0 < n_bytes <= limit else "stream"


class RowsOnDevice:
    """Local features in one tensor on the device, gathered there.

    Parameters
    ----------
    sets : FeatureSets
        The sets that are copied, in memory or in a store.

    like : Tensor
        A parameter of the network: its device, and its dtype unless float16 features stay float16.
    """

    is_fast = True
    rows_per_block = 1

    def __init__(self, sets: FeatureSets, like: Tensor) -> None:
        self.dtype = sets.dtype
        n_rows = int(sets.lengths.sum())
        self.shape = (n_rows, sets.n_features)
        dtype = _resident_dtype(sets, like)
        try:
            self.values = torch.empty(self.shape, dtype=dtype, device=like.device)
        except torch.OutOfMemoryError as error:
            gigabytes = n_rows * sets.n_features * dtype.itemsize / 1e9
            error.add_note(
                f"On {like.device}, the local features take {gigabytes:.3g} GB. Set "
                'cache="stream", which copies batch by batch.'
            )
            raise

        def check() -> None:
            check_values(sets, like.dtype)

        copies, n_readers = copies_to(sets, like.device)
        copy_rows(sets, self.values, copies, check, n_readers)

    def gather(self, starts: NDArray[np.int64], lengths: NDArray[np.int64], out: Any = None) -> Any:
        """Return the runs end to end, as a tensor on the device."""
        rows = rows_of_runs(starts, lengths)
        if isinstance(rows, slice):
            return self.values[rows]
        return self.values.index_select(0, torch.from_numpy(rows).to(self.values.device))


def _resident_dtype(sets: FeatureSets, like: Tensor) -> torch.dtype:
    """Return the dtype on the device: float16 stays float16 on a GPU, at half the memory."""
    stays_half = like.is_cuda and sets.dtype == np.float16 and like.dtype == torch.float32
    return torch.float16 if stays_half else like.dtype
