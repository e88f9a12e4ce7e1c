"""A few seconds of every fuzzer; run more by ``tox -e fuzz`` or ``python -m tests.fuzz``."""

import os

import pytest

from tests.fuzz.__main__ import TARGETS

if os.name != "posix":
    pytest.skip("the fuzzers measure memory as POSIX does", allow_module_level=True)

N_INPUTS = 500


# The histories of the writer take longer; tests/sets/_store/test_histories.py runs some.
@pytest.mark.parametrize("target", sorted(TARGETS.keys() - {"writer"}))
def test_fuzzer_finds_nothing(target):
    counts = TARGETS[target](N_INPUTS, seed=0)
    assert sum(counts.values()) >= N_INPUTS
