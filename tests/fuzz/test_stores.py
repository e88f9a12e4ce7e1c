"""A few mutated stores are read rightly or rejected; more of them by hand."""

import signal

import pytest

from tests.fuzz import stores


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs alarms of Unix")
def test_mutated_stores_are_read_or_rejected():
    counts = stores.run(40, seed=0)
    assert sum(counts.values()) == 40
    assert counts["StoreError"] > 20
