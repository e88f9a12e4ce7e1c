import gc
import multiprocessing
import os

os.environ["SCIPY_ARRAY_API"] = "1"  # array_api_dispatch needs it before scipy is imported
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from acluster import FeatureSets
from acluster.training import CompiledStep, Trainer

# Nets this small run faster on one thread, and the suite runs in several processes.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # of processes that tests start

# The processes that a fork server starts need not import these again.
multiprocessing.set_forkserver_preload(["hypothesis", "pytest", "sklearn.model_selection", "torch"])

# How long an example takes depends on the processor and its load, and says nothing of the code.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")


def make_sets(n=60, n_features=4, n_classes=2, dtype=np.float64, seed=0, gap=6.0):
    """Sets of 1 to 9 local features, one of which tells the class."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    arrays = []
    for label in y:
        features = rng.normal(size=(rng.integers(1, 10), n_features))
        features[rng.integers(len(features)), label % n_features] += gap
        arrays.append(features.astype(dtype))
    return FeatureSets.from_arrays(arrays), y


def before_steps(function, monkeypatch):
    """Call a function with the networks that take a training step, before every step."""

    def wrapped(step, networks_of):
        def call(self, *args):
            function(networks_of(self))
            return step(self, *args)

        return call

    def of_trainer(trainer):
        return [trainer.network]

    def of_compiled(compiled):
        return [trainer.network for trainer in compiled.places]

    monkeypatch.setattr(Trainer, "step", wrapped(Trainer.step, of_trainer))
    monkeypatch.setattr(CompiledStep, "steps", wrapped(CompiledStep.steps, of_compiled))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker one half of the tests, in order, and let it steal from the other at the end.

    Tests of one module then share its fixtures, and the processes that these have started.
    """
    if config.option.dist != "load":  # that of -n without --dist
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_finish():
    """Keep collections of garbage from visiting what imports and pytest have made before tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _without_fsync():
    """Do not wait for the disk: no power failure is tested, and stores are written a lot."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(autouse=True)
def _close_figures():
    """Close what displays have drawn: pyplot keeps every figure, and warns of the 21st."""
    yield
    if (pyplot := sys.modules.get("matplotlib.pyplot")) is not None:
        pyplot.close("all")


@pytest.fixture
def within_limits():
    """Fail if the test takes more than 2 s of processor time or 200 MB of memory."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        yield
        return
    Path("/proc/self/clear_refs").write_text("5")  # else an earlier test has set the peak
    before, started = _peak_bytes(), time.process_time()
    yield
    assert time.process_time() - started < 2
    assert _peak_bytes() - before < 200 << 20


def _peak_bytes():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


@pytest.fixture
def sets_and_labels():
    return make_sets()


@pytest.fixture
def data_home():
    """The real data of the environment; a test that needs them skips where they are not."""
    home = os.environ.get("ACLUSTER_DATA")
    if home is None:
        pytest.skip("ACLUSTER_DATA is not set: no real data here")
    return Path(home)
