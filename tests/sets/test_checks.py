"""check_finite: values that are not finite are found in every dtype and layout."""

import warnings

import numpy as np
import pytest

from acluster import FeatureSets, MultimodalFeatureSets
from acluster.sets import check_finite
from acluster.sets._checks import _are_finite

EVERY_FLOAT16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_are_finite_knows_every_float16():
    for value in EVERY_FLOAT16:
        values = np.array([[0, value], [1, -1]], np.float16)
        assert _are_finite(values) == np.isfinite(value), value


def test_are_finite_accepts_all_finite_float16_together():
    finite = EVERY_FLOAT16[np.isfinite(EVERY_FLOAT16)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _are_finite(finite.reshape(2, -1))
        assert _are_finite(finite.reshape(2, -1)[:, ::-3])
    assert not _are_finite(EVERY_FLOAT16.reshape(2, -1))
    assert _are_finite(finite[:0].reshape(0, 2))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("is_fortran", [True, False])
def test_check_finite_names_the_value(dtype, value, is_fortran, monkeypatch):
    monkeypatch.setattr("acluster.sets._checks._NUMBERS_PER_CHECK", 12)
    values = np.full((20, 3), np.finfo(dtype).max, order="F" if is_fortran else "C", dtype=dtype)
    X = MultimodalFeatureSets({"rgb": FeatureSets(values, [0, 4, 4, 20])})
    check_finite(X)
    values[9, 2] = value
    values.flags.writeable = False
    kind = "NaN" if np.isnan(value) else "infinity"
    message = rf"'rgb'(.|\n)*contains {kind}.\nX\[2\] has {abs(value) if kind == 'NaN' else value}"
    with pytest.raises(ValueError, match=message + " in local feature 5, column 2"):
        check_finite(X)
