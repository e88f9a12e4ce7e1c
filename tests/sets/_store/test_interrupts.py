"""Ctrl-C at any line of a writer loses nothing that was appended, and stores nothing twice."""

import contextlib
import os
import sys
import tempfile

import numpy as np
import pytest

from acluster import FeatureSetsWriter, open_feature_sets
from acluster.sets._store import _lock, _resume, _sync, _writer

# The lock file of an interrupted writer is closed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:.*unclosed file:ResourceWarning")

STEP = int(os.environ.get("ACLUSTER_INTERRUPT_STEP", "24"))  # of all lines; 1 takes minutes
TRACED = {module.__file__ for module in (_writer, _resume, _sync, _lock)}


class Tracer:
    """Record the lines that `work` executes in the traced files, or interrupt it at the n-th."""

    def __init__(self, n=None):
        self.n = n
        self.lines = []

    def run(self, work):
        """Do the work; return whether it was interrupted."""
        sys.settrace(self._call)
        try:
            work()
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(None)
        return False

    def _call(self, frame, event, arg):
        return self._line if frame.f_code.co_filename in TRACED else None

    def _line(self, frame, event, arg):
        if event == "line":
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
            if len(self.lines) == self.n:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._line


def write(path, writers, stop):
    writers.append(FeatureSetsWriter(path, resume=True))
    with writers[-1] as writer:
        append_until(writer, stop)
        if stop == 2:
            raise ZeroDivisionError


def append_until(writer, stop):
    for i in range(len(writer), stop):
        writer.append(np.full((1 + i % 2, 1), i), id=i, places={"x": np.full(1 + i % 2, i / 2)})
        assert len(writer) == i + 1


def write_in_two_parts(path, writers):
    with contextlib.suppress(ZeroDivisionError):
        write(path, writers, 2)
    write(path, writers, 3)


@pytest.mark.parametrize("step", [STEP, pytest.param(5, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("occurrence", ["first", "last"])
@pytest.mark.parametrize("goes_on", [True, False], ids=["same writer", "resumed"])
def test_interrupt_at_any_line(monkeypatch, occurrence, goes_on, step):
    monkeypatch.setattr(_writer, "_PENDING_BYTES", 6)
    # Only the order matters here; waiting for the disk would take long.
    monkeypatch.setattr(os, "fsync", lambda file: None)
    with tempfile.TemporaryDirectory() as folder:
        recorded = Tracer()
        assert not recorded.run(lambda: write_in_two_parts(f"{folder}/a.zarr", []))
    numbered = list(enumerate(recorded.lines, 1))
    places = {line: n for n, line in (numbered if occurrence == "last" else reversed(numbered))}
    assert len(places) > 200
    # Half of the lines with each of the two ways to continue.
    for n in sorted(places.values())[goes_on::step]:
        with tempfile.TemporaryDirectory() as folder:
            path, writers = f"{folder}/a.zarr", []
            # The garbage collector adds or removes a few lines, so that the last may not come.
            Tracer(n).run(lambda path=path, writers=writers: write_in_two_parts(path, writers))
            if goes_on and writers and writers[-1]._closed is None:
                append_until(writers[-1], 4)
                writers[-1].close()
            writers.clear()
            with FeatureSetsWriter(path, resume=True) as writer:
                assert writer.id == list(range(len(writer)))
                append_until(writer, 5)
            X = open_feature_sets(path)
            assert X.id.tolist() == list(range(5))
            assert [x.tolist() for x in X] == [[[i]] * (1 + i % 2) for i in range(5)]
            assert [x.tolist() for x in X.places] == [[[i / 2]] * (1 + i % 2) for i in range(5)]
            assert os.listdir(folder) == ["a.zarr"]
