import accuracy
import numpy as np
import pytest

from acluster import AttentionClusterClassifier


@pytest.mark.parametrize("name", accuracy.WAYS)
def test_way_changes_computation_inside_its_context_only(name):
    sets = [np.random.default_rng(i).normal(size=(2 + i % 3, 4)) for i in range(30)]
    clf = AttentionClusterClassifier(
        cluster_size=4, max_iter=3, tol=None, dtype="float32", random_state=0
    )
    expected = clf.fit(sets, np.arange(30) % 2).predict_proba(sets)
    precision = "mixed" if name == "mixed" else "full"
    with accuracy.way(name):
        found = clf.set_params(precision=precision).fit(sets, np.arange(30) % 2)
        found = found.predict_proba(sets)
    np.testing.assert_allclose(found, expected, atol=0.02 if name == "mixed" else 1e-5)
    assert (name == "mixed") == (abs(found - expected).max() > 1e-4)
    again = clf.set_params(precision="full").fit(sets, np.arange(30) % 2).predict_proba(sets)
    np.testing.assert_array_equal(again, expected)
