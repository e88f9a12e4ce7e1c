"""Random histories of a writer, with kills, full disks and reopening, against a model.

In each history, a forked process opens a store, appends items, flushes, completes it, leaves its
block with an error or stops without closing, in random order, until it is killed at a random
change of the disk, or the disk is full from such a change on for a while. It reports every commit
that it has been told of. Then another process continues. Whatever happened, the store holds the
items in order: all that were reported as committed, none twice, and none that was never appended.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import tempfile
import traceback
from collections import Counter

import numpy as np

from acluster import FeatureSetsWriter, open_feature_sets
from acluster.sets import StoreError, validate
from acluster.sets._store import _format, _writer

_N_PROCESSES = 4  # of a history at most
_FOLDER = "/dev/shm" if os.path.isdir("/dev/shm") else None  # in memory, where there is one
_SIZES = {"_CHUNK_BYTES": 48, "_SHARD_BYTES": 96, "_ITEMS_PER_CHUNK": 4}


def item_of(i):
    """Return the item and the columns with number `i`."""
    item = {"rgb": np.full((1 + i % 3, 2), i)}
    if i % 4 > 1:
        item["text"] = np.full((1, 1), i)  # a modality that appears later
    return item, {"id": f"item{i}", "label": f"class{i // 3}", "weight": i / 4}


def places_of(i, with_places):
    """Return the places of item `i`: of all modalities, of the later one or of none."""
    item, _ = item_of(i)
    return {name: {"x": i + np.arange(len(item[name])) / 8} for name in with_places & item.keys()}


class Disk:
    """Count the changes of the disk; kill this process or fail at the n-th."""

    def __init__(self, kill_at, full_at, full_for):
        self.count, self.kill_at = 0, kill_at
        self.full = range(full_at, full_at + full_for)
        for name in ("replace", "unlink", "mkdir", "rename", "fsync", "remove"):
            setattr(os, name, self._counted(getattr(os, name), name))

    def _counted(self, function, name):
        def call(*args, **kwargs):
            self.count += 1
            if self.count == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            # Removing files needs no space.
            if self.count in self.full and name not in ("unlink", "remove"):
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*args, **kwargs)

        return call


def _append(writer, i, with_places):
    item, columns = item_of(i)
    writer.append(item, places=places_of(i, with_places), **columns)


def _work(path, rng, report, with_places):
    """Use writers at random until this process is killed, or a few actions are done."""
    Disk(
        kill_at=int(rng.integers(1, 300)) if rng.random() < 0.7 else -1,
        full_at=int(rng.integers(1, 200)) if rng.random() < 0.5 else -1,
        full_for=int(rng.integers(1, 8)),
    )
    writer = None
    for _ in range(int(rng.integers(1, 25))):
        action = rng.choice(["append"] * 6 + ["flush", "close", "leave", "stop"])
        try:
            if writer is None:
                writer = FeatureSetsWriter(path, resume=True)
                report("committed", len(writer))
            if action == "append":
                before = len(writer)
                try:
                    _append(writer, before, with_places)
                except OSError:
                    assert len(writer) == before
                    raise
                assert len(writer) == before + 1
            elif action == "flush":
                writer.flush()
                report("committed", len(writer))
            elif action == "close" and len(writer):
                writer.close()
                report("completed", len(writer))
                writer = None
            elif action == "leave":
                left, writer = writer, None
                left.__exit__(ZeroDivisionError, None, None)
                report("committed", len(left))
            elif action == "stop":
                return  # what is pending is lost
        except OSError:
            report("full disk", 0)


def _run_process(path, seed, with_places):
    """Return the reports of a forked process, and how it ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            gc.disable()  # a collection would copy memory that the processes share
            os.close(reading)

            def report(kind, n):
                os.write(writing, json.dumps([kind, n]).encode() + b"\n")

            _work(path, np.random.default_rng(seed), report, with_places)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        reports = [json.loads(line) for line in pipe]
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), f"a writer failed with status {status}, seed {seed}"
    return reports, "killed" if status else "ended"


def _check(path, n_committed, is_complete, with_places):
    """Check a store after a process has ended, and return how many items it holds."""
    try:
        X = open_feature_sets(path)
    except (StoreError, FileNotFoundError):
        assert not is_complete, "a complete store does not open"
    else:
        assert len(X) >= n_committed
        assert X.id.tolist() == [f"item{i}" for i in range(len(X))]
        _check_values(path, X, with_places)
    copy = f"{path}.copy"
    if not os.path.exists(path):
        return 0
    shutil.copytree(path, copy)
    with FeatureSetsWriter(copy, resume=True) as writer:
        n = len(writer)
        assert n >= n_committed, f"{n_committed} items were committed, {n} are left"
        _append(writer, n, with_places)
    _check_values(copy, open_feature_sets(copy), with_places)
    shutil.rmtree(copy)
    return n


def _check_values(path, X, with_places):
    for i in range(len(X)):
        item, columns = item_of(i)
        for name in X.names:
            expected = item.get(name, np.empty((0, X[name].n_features)))
            assert np.array_equal(X[name][i], expected), f"item {i} differs"
            assert (X[name].places is not None) == (name in with_places)
            if name in with_places:
                expected = places_of(i, with_places).get(name, {"x": []})["x"]
                assert np.array_equal(X[name].places[i].ravel(), expected), f"item {i} differs"
        assert (X.id[i], X.label[i], X.weight[i]) == tuple(columns.values())
    assert validate(path).version == (2 if with_places & set(X.names) else 1)


def run_history(seed):
    """Run one history, and return the counts of what happened in it."""
    rng = np.random.default_rng(seed)
    counts = Counter(histories=1)
    with_places = [set(), {"text"}, {"rgb", "text"}][int(rng.integers(3))]
    n_committed, is_complete = 0, False
    with tempfile.TemporaryDirectory(dir=_FOLDER) as folder:
        path = f"{folder}/a.zarr"
        for number in range(int(rng.integers(1, _N_PROCESSES + 1))):
            reports, end = _run_process(path, [seed, number], with_places)
            counts[end] += 1
            counts.update(kind for kind, _ in reports)
            n_committed = max([n_committed, *(n for _, n in reports)])
            is_complete = bool(reports) and reports[-1][0] == "completed" and end == "ended"
            n_committed = _check(path, n_committed, is_complete, with_places)
        counts["items"] += n_committed
    return counts


def run(n, seed):
    """Run `n` histories, and return the counts of what happened.

    Parameters
    ----------
    n : int
        The number of histories.

    seed : int
        The seed of the first; the others have the following ones.

    Returns
    -------
    dict of str to int
        The numbers of histories, of processes killed and ended, of commits, of errors of full
        disks and of items. A fault raises an AssertionError, with the seed of the history.
    """
    saved = {name: getattr(_format, name) for name in _SIZES}
    pending, fsync = _writer._PENDING_BYTES, os.fsync
    counts = Counter()
    try:
        for name, size in _SIZES.items():
            setattr(_format, name, size)
        _writer._PENDING_BYTES = 200
        os.fsync = lambda file: None  # a killed process loses no writes that it has made
        for number in range(seed, seed + n):
            try:
                counts.update(run_history(number))
            except BaseException as error:
                error.add_note(f"history with seed {number}")
                raise
    finally:
        for name, size in saved.items():
            setattr(_format, name, size)
        _writer._PENDING_BYTES, os.fsync = pending, fsync
    return dict(counts)
