"""Predict ranges of items in several processes, through the backends of joblib."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray

from acluster._utils._progress import progress
from acluster.nn import has_compiled_kernels
from acluster.sets import (
    MultimodalFeatureSets,
    RangeOutput,
    RowLayout,
    fingerprint,
    range_output,
    ranges_of,
)
from acluster.training import at_most_threads, data_digest, in_worker, stack_blocks

_T = TypeVar("_T")

# Yields the rows of some items block by block: ``function(classifiers, X, first)``.
Blocks = Callable[[Sequence[Any], MultimodalFeatureSets, int], Iterator[NDArray[Any]]]

_KERNELS = {True: "compiled kernels (the extra 'fast')", False: "no compiled kernels"}

# The features, or the results, of a range. It is what a killed process loses.
_BYTES_PER_RANGE = 1 << 27


def stacked_rows(
    function: Blocks, classifiers: Sequence[Any], X: MultimodalFeatureSets, n_jobs: int | None
) -> NDArray[Any]:
    """Return the rows of all items, computed in `n_jobs` processes.

    Parameters
    ----------
    function : callable
        Yields the rows of a range of items, one per item.

    classifiers : sequence of SetClassifier
        Passed to `function`. They have one batch size.

    X : MultimodalFeatureSets
        Checked items.

    n_jobs : int or None
        As `joblib.Parallel` takes it. None means one process in a worker of a parallel search:
        its other workers use the other cores.

    Returns
    -------
    ndarray of shape (n, width)
        For any `n_jobs` the same bits, if torch uses as many threads.
    """
    batch_size = classifiers[0].batch_size
    size = batch_size * max(1, _rows_wanted(X) // batch_size)
    ranges = ranges_of(len(X), size)
    n_jobs = min(_effective_n_jobs(n_jobs), len(ranges))
    if n_jobs == 1:
        return stack_blocks(function(classifiers, X, 0), len(X))
    work = partial(_rows_of, function)
    return stack_blocks(_in_parallel(work, classifiers, X, ranges, n_jobs), len(X))


def write_rows(
    function: Blocks,
    classifier: Any,
    X: MultimodalFeatureSets,
    n_jobs: int | None,
    out: str | os.PathLike[str],
) -> None:
    """Write the rows of all items to a zarr array, or continue an interrupted call.

    Parameters
    ----------
    function : callable
        Yields the rows of a range of items, one per item.

    classifier : SetClassifier
        Passed to `function` in a sequence.

    X, n_jobs
        As for `stacked_rows`.

    out : str or path
        The directory of the array.

    Raises
    ------
    FileExistsError, FileNotFoundError, StoreError, ValueError
        As `acluster.sets.range_output`.

    RuntimeError
        If a worker has no compiled kernels and the caller has, or the other way around.
    """
    light = _without_training_state(classifier)
    # Without a progress line; the first item alone tells width and dtype.
    sample = stack_blocks(function([light], X[:1], 0), 1)
    wanted = min(_rows_wanted(X), max(1, _BYTES_PER_RANGE // sample.nbytes))
    shape = len(X), sample.shape[1]
    layout = RowLayout.of(shape, sample.dtype, classifier.batch_size, wanted)
    with range_output(out, layout, _identity(function, light, X)) as output:
        missing = output.missing()
        n_jobs = max(1, min(_effective_n_jobs(n_jobs), len(missing)))
        work = partial(_write_range, function, output, has_compiled_kernels())
        if n_jobs > 1:
            results = _in_parallel(work, [classifier], X, missing, n_jobs)
        else:
            results = (work([light], X[rows], rows) for rows in missing)
            results = _shown(results, classifier, len(missing))
        for _ in results:
            pass


def _rows_of(
    function: Blocks, classifiers: Sequence[Any], X: MultimodalFeatureSets, items: slice
) -> NDArray[Any]:
    return stack_blocks(function(classifiers, X, items.start), len(X))


def _write_range(
    function: Blocks,
    output: RangeOutput,
    is_compiled: bool,
    classifiers: Sequence[Any],
    X: MultimodalFeatureSets,
    items: slice,
) -> None:
    if has_compiled_kernels() != is_compiled:
        raise RuntimeError(
            f"The caller of transform(out=...) has {_KERNELS[is_compiled]}, but this worker has "
            f"{_KERNELS[not is_compiled]}, whose rows differ by rounding. Install the same extras "
            "of acluster on all hosts, and use another backend of joblib than 'multiprocessing': "
            "its workers are forked, and kernels do not work after a fork."
        )
    output.write(items, function(classifiers, X, items.start))


def _rows_wanted(X: MultimodalFeatureSets) -> int:
    """Return how many items take the bytes of a range on average; it depends on X only."""
    n_bytes = sum(X[name].nbytes for name in X.names)
    return max(1, _BYTES_PER_RANGE * len(X) // max(1, n_bytes))


def _effective_n_jobs(n_jobs: int | None) -> int:
    if n_jobs == 1 or (n_jobs is None and in_worker()):
        return 1
    from joblib import effective_n_jobs

    return int(effective_n_jobs(n_jobs))


def _in_parallel(
    work: Callable[[Sequence[Any], MultimodalFeatureSets, slice], _T],
    classifiers: Sequence[Any],
    X: MultimodalFeatureSets,
    ranges: Sequence[slice],
    n_jobs: int,
) -> Iterator[_T]:
    """Yield the results of all ranges in order, computed by the active backend of joblib."""
    from joblib import Parallel, delayed
    from joblib.parallel import get_active_backend

    # A store is opened once per process. A process gets those rows in memory that it needs.
    is_stored = not any(X[name].in_memory for name in X.names)
    shipment = _Shipment(classifiers, X if is_stored else None)
    # Not all backends hand results out one by one; then all of them are in memory twice.
    returns_generator = get_active_backend()[0].supports_return_generator
    return_as = "generator" if returns_generator else "list"
    limit = os.getpid(), max(1, torch.get_num_threads() // n_jobs)
    results = Parallel(n_jobs=n_jobs, batch_size=1, return_as=return_as)(
        delayed(_run)(work, shipment, None if is_stored else X[items], items, limit)
        for items in ranges
    )
    return _shown(iter(results), classifiers[0], len(ranges))


def _shown(results: Iterator[_T], classifier: Any, n_ranges: int) -> Iterator[_T]:
    return progress(results, "ranges of items", n_ranges) if classifier.verbose else results


def _run(
    work: Callable[[Sequence[Any], MultimodalFeatureSets, slice], _T],
    shipment: _Shipment,
    own: MultimodalFeatureSets | None,
    items: slice,
    limit: tuple[int, int],
) -> _T:
    """Run in a worker: compute the rows of a range of items.

    `limit` has the process of the caller, and how many threads of torch each of its own threads may
    use. Processes of joblib, Dask and Ray are started with a limit of their own.
    """
    classifiers, X = shipment.unpacked()
    n_threads = limit[1] if os.getpid() == limit[0] else torch.get_num_threads()
    try:
        with at_most_threads(n_threads):
            return work(classifiers, X[items] if own is None else own, items)
    except Exception as error:
        error.add_note(f"This happened in items {items.start} to {items.stop - 1} of X.")
        raise


class _Shipment:
    """Fitted classifiers and a store, which each process unpickles once.

    Parameters
    ----------
    classifiers : sequence of SetClassifier
        They are sent without what only training needs.

    X : MultimodalFeatureSets or None
        Items of a store, sent as its path and their numbers.
    """

    _lock = threading.Lock()
    _received: tuple[str, Any] | None = None

    def __init__(self, classifiers: Sequence[Any], X: MultimodalFeatureSets | None) -> None:
        self._token = uuid4().hex
        self._content: Any = [_without_training_state(one) for one in classifiers], X
        self._packed: Any = None

    def unpacked(self) -> tuple[Sequence[Any], Any]:
        """Return the classifiers and X."""
        if self._content is not None:
            return self._content
        with _Shipment._lock:
            # The last shipment is kept: the next range of items is probably of the same call.
            if _Shipment._received is None or _Shipment._received[0] != self._token:
                states, X = self._packed
                _Shipment._received = self._token, ([_restored(*one) for one in states], X)
            return _Shipment._received[1]

    def __getstate__(self) -> dict[str, Any]:
        # The arrays are the same ones for every task, so that joblib writes them to disk once.
        if self._packed is None:
            classifiers, X = self._content
            self._packed = [(type(one), one.__getstate__()) for one in classifiers], X
        return {"_token": self._token, "_content": None, "_packed": self._packed}

    def __sizeof__(self) -> int:
        # Dask sends an argument to a worker once, instead of with each task, if it is large.
        state = self.__getstate__()
        return object.__sizeof__(self) + sum(
            array.nbytes for _, own in state["_packed"][0] for array in own["network_"].values()
        )


def _restored(kind: Any, state: dict[str, Any]) -> Any:
    classifier = object.__new__(kind)
    classifier.__setstate__(state)
    return classifier


def _without_training_state(classifier: Any) -> Any:
    """Return a view of a classifier that predicts, without a progress line."""
    light = object.__new__(type(classifier))
    light.__dict__.update(classifier.__dict__)
    light._optimizer_state = (classifier._optimizer_state[0], None)
    light.verbose = False
    light.__dict__.pop("_skl_callbacks", None)
    return light


def _identity(function: Blocks, classifier: Any, X: MultimodalFeatureSets) -> dict[str, str]:
    """Return what the rows depend on, in the words of a message about a difference."""
    digest = hashlib.sha256()
    state = classifier.__getstate__()
    for name, array in sorted(state["network_"].items()):
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    for stand_in in classifier._missing.stand_ins(X.names):
        digest.update(b"" if stand_in is None else stand_in.tobytes())
    modalities = {name: X[name] for name in X.names}
    files = " ".join(fingerprint(sets) for sets in modalities.values())
    return {
        "what": function.__name__,
        "the model": f"{classifier._architecture} {digest.hexdigest()}",
        "X": f"{data_digest(modalities)} {files}",
        "batch_size": str(classifier.batch_size),
        "precision": classifier.precision,
        "the kernels": _KERNELS[has_compiled_kernels()],
        "the device": next(classifier.network_.parameters()).device.type,
        "the version of torch or acluster": torch.__version__ + sys.modules["acluster"].__version__,
    }
