"""MissingModality: the means that replace missing modalities."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from acluster.estimators._missing import MissingModality
from acluster.training import FeatureMoments


def moments(values):
    mean = values.mean(axis=0) if len(values) else np.zeros(values.shape[1])
    return {"audio": FeatureMoments(mean, None, len(values))}


def parts_of_a_sample():
    """Draw up to five arrays of local features of width 2, some of them empty."""
    rows = st.integers(0, 6).flatmap(
        lambda n: arrays(np.float64, (n, 2), elements=st.floats(-1e3, 1e3))
    )
    return st.lists(rows, min_size=1, max_size=5)


@given(parts_of_a_sample())
def test_learned_merges_means_like_the_mean_of_the_union(parts):
    missing = MissingModality()
    for part in parts:
        missing = missing.learned("mean", moments(part))
    union = np.concatenate(parts)
    expected = union.mean(axis=0) if len(union) else np.zeros(2)
    np.testing.assert_allclose(missing.means["audio"], expected, rtol=1e-9, atol=1e-9)
    assert missing.counts["audio"] == len(union)


def test_learned_leaves_the_earlier_means_unchanged():
    first = MissingModality().learned("mean", moments(np.ones((3, 2))))
    second = first.learned("mean", moments(np.zeros((1, 2))))
    np.testing.assert_array_equal(first.means["audio"], [1, 1])
    np.testing.assert_array_equal(second.means["audio"], [0.75, 0.75])


def test_learned_with_mask_forgets_the_means():
    missing = MissingModality().learned("mean", moments(np.ones((3, 2)))).learned("mask", {})
    assert missing == MissingModality("mask")
    assert missing.stand_ins(["audio"]) == [None]


def test_stand_ins_follow_the_order_of_the_modalities():
    missing = MissingModality().learned("mean", moments(np.ones((3, 2))))
    none, audio = missing.stand_ins(["rgb", "audio"])
    assert none is None
    np.testing.assert_array_equal(audio, [1, 1])
