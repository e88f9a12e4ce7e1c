"""Run the feature extractors on what is read ahead, and put the features of each file together."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acluster.extraction._batches import Batches, Extractor, Item
from acluster.extraction._reading import ReadAhead, Reading

Array = NDArray[Any]

AHEAD_BYTES = 1 << 28
_MOST_WORKERS = 8


def default_workers() -> int:
    """Return the number of files that are read at a time unless the user chooses it."""
    return min(os.cpu_count() or 1, _MOST_WORKERS)


def batches_of(
    extractors: Mapping[str, Extractor], batch_size: int, reader: ReadAhead
) -> list[Batches]:
    """Return the batches of every view; what is in a batch leaves room for the reader."""
    return [Batches(name, one, batch_size, reader.release) for name, one in extractors.items()]


def completed(
    readings: Iterator[Reading],
    reader: ReadAhead,
    batches: Sequence[Batches],
    flush: Callable[[], None] | None = None,
    flush_seconds: float = np.inf,
) -> Iterator[tuple[Item, Reading]]:
    """Extract the features of files, and yield each item once its features are complete.

    Parameters
    ----------
    readings : iterator of Reading
        Those of `reader`.

    reader : ReadAhead
        What reads the files.

    batches : sequence of Batches
        Those of every view.

    flush : callable, optional
        Called every `flush_seconds`, once all that has been read has been yielded.

    flush_seconds : float, default=inf
        How long an item may wait for others to fill its batches.

    Yields
    ------
    Item, Reading
        In the order of the files.
    """
    flushed = time.monotonic()
    by_name = {own.name: own for own in batches}
    pending: deque[tuple[Item, Reading]] = deque()
    for reading in readings:
        item = Item(reading.id)
        pending.append((item, reading))
        for chunk in reader.chunks(reading):
            by_name[chunk.name].add(item, chunk)
            yield from _complete(pending)
        item.is_read = True
        if flush is not None and time.monotonic() - flushed >= flush_seconds:
            yield from _finished(pending, batches)
            flush()
            flushed = time.monotonic()
    yield from _finished(pending, batches)


def _complete(pending: deque[tuple[Item, Reading]]) -> Iterator[tuple[Item, Reading]]:
    """Yield the first items, as far as their features have been computed."""
    while pending and pending[0][0].is_complete:
        yield pending.popleft()


def _finished(
    pending: deque[tuple[Item, Reading]], batches: Sequence[Batches]
) -> Iterator[tuple[Item, Reading]]:
    for own in batches:
        own.finish()
    return _complete(pending)


def assembled(item: Item, reading: Reading) -> tuple[dict[str, Array], dict[str, dict[str, Array]]]:
    """Return the features of a complete item, and their places.

    Parameters
    ----------
    item, reading : Item, Reading
        As `completed` yields them.

    Returns
    -------
    features : dict of str to ndarray of shape (L, D)
        Those of each modality that the file has.

    places : dict of str to dict of str to ndarray of shape (L,)
        Where they come from.

    Raises
    ------
    ValueError, OSError
        If the file cannot be read, or has none of the modalities, or its features are not finite.
    """
    if reading.error is not None:
        raise reading.error
    if not item.features:
        reasons = "; ".join(reading.warnings)
        raise ValueError(reasons or "The file has nothing for any of the views, or it is silent.")
    features = {name: np.concatenate(own) for name, own in item.features.items()}
    for name, values in features.items():
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise ValueError(
                f"The backbone of {name!r} returned values that are not finite for local feature "
                f"{row} of the file."
            )
    places = {
        name: {place: np.concatenate([part[place] for part in parts]) for place in parts[0]}
        for name, parts in item.places.items()
    }
    return features, places
