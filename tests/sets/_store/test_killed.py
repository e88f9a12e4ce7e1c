"""A writer that is killed at any time leaves a store that can be resumed."""

import gc
import os
import shutil
import signal
import time

import numpy as np
import pytest

from acluster import FeatureSetsWriter, open_feature_sets
from acluster.sets import StoreError
from tests.sets._store.helpers import assert_holds, assert_tidy, shrink, write_items

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
N_KILLED = 8
N_BEFORE = 3


def fork(path, work):
    """Start a process that does `work`, and return when it has begun."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        gc.disable()  # a collection would copy memory that the processes share
        code = 1
        try:
            work(path, lambda: os.write(writing, b"!"))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    assert os.read(reading, 1) == b"!"
    os.close(reading)
    return child


def write_all(path, begin):
    begin()
    with FeatureSetsWriter(path) as writer:
        write_items(writer, N_KILLED)


def close(path, begin):
    writer = FeatureSetsWriter(path)
    write_items(writer, N_KILLED)
    begin()
    writer.close()


def reopen(path, begin):
    begin()
    with FeatureSetsWriter(path, resume=True) as writer:
        write_items(writer, N_KILLED)


PHASES = {"write": write_all, "close": close, "reopen": reopen}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete store of N_BEFORE items, and the seconds that each phase takes."""
    folder = tmp_path_factory.mktemp("killed")
    seconds = {}
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        with FeatureSetsWriter(folder / "before.zarr") as writer:
            write_items(writer, N_BEFORE)
        for name, work in PHASES.items():
            path = str(folder / name)
            if name == "reopen":
                shutil.copytree(folder / "before.zarr", path)
            child = fork(path, work)
            begun = time.perf_counter()
            assert os.waitpid(child, 0)[1] == 0
            seconds[name] = time.perf_counter() - begun
            assert_holds(path, N_KILLED)
    return folder / "before.zarr", seconds


def assert_survives(path):
    """Check that a store is either rejected or sound, and that a writer can complete it."""
    try:
        X = open_feature_sets(path)
    except (StoreError, FileNotFoundError):
        pass
    else:
        assert len(X) in (N_BEFORE, N_KILLED)
        assert_holds(path, len(X))
    with FeatureSetsWriter(path, resume=True) as writer:
        assert writer.id == [f"item{i}" for i in range(len(writer))]
        write_items(writer, N_KILLED)
    assert_holds(path, N_KILLED)
    assert_tidy(path)


@needs_fork
@pytest.mark.parametrize(
    ("phase", "seed"),
    [("write", seed) for seed in range(6)]
    + [(phase, seed) for phase in ("close", "reopen") for seed in range(2)],
)
def test_store_survives_kill_at_random_time(path, finished, small, phase, seed):
    before, seconds = finished
    delay, status = np.random.default_rng(seed).uniform(0, seconds[phase]), None
    while status != signal.SIGKILL:
        # Under another load than when the phase was timed, a child may finish before it is killed.
        # That tests nothing, so the next one is killed sooner.
        shutil.rmtree(path, ignore_errors=True)
        if phase == "reopen":
            shutil.copytree(before, path)
        child = fork(path, PHASES[phase])
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        delay /= 2
    assert_survives(path)


def killed_at(n, work):
    """Return `work` in a process that kills itself at its n-th change of the disk."""
    changes = ["replace", "unlink", "mkdir"]

    def mortal(path, begin):
        count = [0]

        def counted(function):
            def call(*args, **kwargs):
                count[0] += 1
                if count[0] == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **kwargs)

            return call

        for name in changes:
            setattr(os, name, counted(getattr(os, name)))
        work(path, begin)

    return mortal


@needs_fork
@pytest.mark.parametrize("phase", ["write", "reopen"])
def test_store_survives_kill_at_nth_disk_change(tmp_path, finished, small, phase):
    for n in [1, 20, 50]:
        path = str(tmp_path / f"{n}.zarr")
        if phase == "reopen":
            shutil.copytree(finished[0], path)
        _, status = os.waitpid(fork(path, killed_at(n, PHASES[phase])), 0)
        assert status == signal.SIGKILL
        assert_survives(path)
