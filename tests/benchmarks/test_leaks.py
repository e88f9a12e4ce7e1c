import sys

import leaks
import pytest


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc of Linux")
def test_fits_and_predictions_leak_nothing():
    for name, growth in leaks.measure(n_fits=20, n_predictions=500).items():
        assert growth["descriptors"] <= 0, name
        assert growth["threads"] <= 0, name
        assert growth["python threads"] <= 0, name
        # A batch of these sets takes about 0.05 MB; 20 leaked networks or 500 batches take more.
        assert growth["MB"] < 20, name
