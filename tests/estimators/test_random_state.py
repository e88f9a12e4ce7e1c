"""`random_state`: reproducible fits that leave the global random states alone."""

import pickle

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import make_sets
from tests.estimators.common import have_same_weights, quick


@given(
    seed=st.integers(0, 2**32 - 1),
    weighting=st.sampled_from(["fc1", "fc2", "average"]),
    n_local_features=st.sampled_from([None, 1, 3]),
    early_stopping=st.booleans(),
    dropout=st.sampled_from([0.0, 0.5]),
    batch_size=st.sampled_from([7, 1000]),
    n_classes=st.integers(2, 4),
)
@settings(max_examples=20, deadline=None)
def test_int_random_state_fixes_the_bits_and_leaves_global_states(seed, n_classes, **parameters):
    X, y = make_sets(n=40, n_classes=n_classes)
    fits = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002
        before = torch.get_rng_state(), pickle.dumps(np.random.get_state())  # noqa: NPY002
        clf = quick(max_iter=2, random_state=seed, **parameters).fit(X, y)
        if not clf.early_stopping:
            clf.partial_fit(X, y)
        clf.predict_proba(X)
        pickle.loads(pickle.dumps(clf))
        assert torch.equal(torch.get_rng_state(), before[0])
        assert pickle.dumps(np.random.get_state()) == before[1]  # noqa: NPY002
        fits.append(clf)
    assert have_same_weights(*fits)
    assert fits[0].loss_curve_ == fits[1].loss_curve_


def test_different_random_states_give_different_weights(sets_and_labels):
    X, y = sets_and_labels
    fits = [quick(max_iter=1, random_state=seed).fit(X, y) for seed in (0, 1)]
    assert not have_same_weights(*fits)
