"""Fill batches across files, run the feature extractors on them, and hand the features back."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.extraction._view import Chunk
from acluster.sets import to_numpy

Array = NDArray[Any]
Extractor = Callable[[Array], Any]


@dataclass
class Item:
    """The features of a file, as far as they have been computed.

    Parameters
    ----------
    id : str
        The name of the item.
    """

    id: str
    features: dict[str, list[Array]] = field(default_factory=dict)
    places: dict[str, list[Mapping[str, Array]]] = field(default_factory=dict)
    n_waiting: int = 0  # rows of it that are in no batch yet
    is_read: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether all its features have been computed."""
        return self.is_read and not self.n_waiting


@dataclass
class _Waiting:
    """The rest of a chunk that waits for a batch to be filled."""

    item: Item
    batch: Array
    places: Mapping[str, Array] | None
    n_bytes: int  # of the whole chunk


class Batches:
    """The batches of one view.

    Every batch has the same number of rows: one that is run before it is full is filled with
    copies of its last row. The results of some libraries depend on the size of a batch, and the
    features of an item must not depend on when the process was interrupted.

    Parameters
    ----------
    name : str
        The name of the view.

    extractor : callable
        Maps a batch (B, ...) to features (B, D) or (B, T, D).

    size : int
        The number of rows of a batch.

    release : callable
        Called with the number of bytes of a chunk that is used up.

    Attributes
    ----------
    seconds : float
        How long the feature extractor has run.
    """

    def __init__(
        self, name: str, extractor: Extractor, size: int, release: Callable[[int], None]
    ) -> None:
        self.name, self._extractor, self._size, self._release = name, extractor, size, release
        self._waiting: deque[_Waiting] = deque()
        self._n_waiting = 0
        self.seconds = 0.0

    def add(self, item: Item, chunk: Chunk) -> None:
        """Add a chunk of an item, and run the batches that it fills.

        Parameters
        ----------
        item : Item
            The item, which gets the features.

        chunk : Chunk
            Its next rows.
        """
        n_rows = len(chunk.batch)
        self._waiting.append(_Waiting(item, chunk.batch, chunk.places, chunk.batch.nbytes))
        item.n_waiting += n_rows
        self._n_waiting += n_rows
        while self._n_waiting >= self._size:
            self._run(self._size)

    def finish(self) -> None:
        """Run what waits for a batch to be filled."""
        if self._n_waiting:
            self._run(self._n_waiting)

    def _run(self, n_rows: int) -> None:
        taken = []
        while n_rows:
            first = self._waiting[0]
            n = min(n_rows, len(first.batch))
            places = first.places
            own = None if places is None else {name: x[:n] for name, x in places.items()}
            taken.append((first.item, first.batch[:n], own))
            n_rows -= n
            if n == len(first.batch):
                self._waiting.popleft()
                self._release(first.n_bytes)
            else:
                first.batch = first.batch[n:]
                if places is not None:
                    first.places = {name: x[n:] for name, x in places.items()}
        features = self._extracted(np.concatenate([rows for _, rows, _ in taken]))
        done = 0
        for item, rows, own in taken:
            self._hand_back(item, features[done : done + len(rows)], own)
            item.n_waiting -= len(rows)
            self._n_waiting -= len(rows)
            done += len(rows)

    def _extracted(self, batch: Array) -> Array:
        """Run the feature extractor on a batch; return (B, T, D)."""
        missing = self._size - len(batch)
        full = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
        started = time.perf_counter()
        features = to_numpy(self._extractor(full))
        self.seconds += time.perf_counter() - started
        is_shaped = features.ndim in (2, 3) and len(features) == len(full) and features.size
        if not is_shaped or features.dtype.kind not in "biuf":
            raise ValueError(
                f"The feature extractor of {self.name!r} returned shape {features.shape} and "
                f"dtype {features.dtype} for {len(full)} inputs of shape {full.shape[1:]}. It must "
                f"return real numbers of shape ({len(full)}, D), or ({len(full)}, T, D) for T "
                "local features per input."
            )
        return features.reshape(len(features), -1, features.shape[-1])[: len(batch)]

    def _hand_back(self, item: Item, features: Array, places: Mapping[str, Array] | None) -> None:
        n_tokens, width = features.shape[1:]
        # A copy, because a feature extractor may write the next batch to the same memory.
        item.features.setdefault(self.name, []).append(features.reshape(-1, width).copy())
        if places is not None:
            repeated = {name: np.repeat(x, n_tokens) for name, x in places.items()}
            item.places.setdefault(self.name, []).append(repeated)
