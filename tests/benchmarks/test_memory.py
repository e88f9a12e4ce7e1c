import sys

import memory
import numpy as np
import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc of Linux")
def test_rise_measures_peak_memory():
    rise = memory.rise(lambda: np.ones(64 * 2**20, dtype=np.uint8))
    if rise is None:
        pytest.skip("the peak memory of this process cannot be reset")
    assert rise == pytest.approx(64, abs=8)
