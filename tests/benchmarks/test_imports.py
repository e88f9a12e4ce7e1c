"""The benchmark of imports."""

import imports
import pytest


def test_cpu_seconds_counts_the_work_of_the_interpreter():
    idle, busy = (imports.cpu_seconds(f"sum(range({n}))") for n in (1, 30_000_000))
    assert 0 < idle < busy


def test_cpu_seconds_refuses_code_that_fails():
    with pytest.raises(AssertionError, match="raise SystemExit"):
        imports.cpu_seconds("raise SystemExit(3)")
