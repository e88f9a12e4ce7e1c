"""The workers of a search share its store; the measurement tells if they do not."""

import sys

import parallel
import pytest
from out_of_core import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    if not sys.platform.startswith("linux"):
        pytest.skip("needs /proc of Linux")
    try:
        parallel.reset_peak()
    except OSError:
        pytest.skip("the peak memory of this process cannot be reset")
    path = tmp_path_factory.mktemp("stores") / "store.zarr"
    write_store(path, 55e6)
    return path


@pytest.mark.parametrize(("cache", "copies"), [("auto", False), ("memory", True)])
def test_workers_of_a_search_do_not_copy_the_store_unless_asked_to(store, cache, copies):
    found = parallel.search_memory(store, "loky", cache=cache)
    assert found["workers"] > 0
    if copies:
        assert max(found["growth_mb"]) >= found["fitted_mb"] - 5
    else:
        assert max(found["growth_mb"]) <= 5
