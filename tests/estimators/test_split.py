"""The rule that decides whether processes share out the units or the items."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acluster import AttentionClusterClassifier, MultimodalAttentionClusterClassifier
from acluster.estimators import _split
from acluster.estimators._split import splits_units, units_move_less
from acluster.estimators._training_data import TrainingData, TrainingSets
from acluster.training import Ranks
from tests.conftest import make_sets

MEGABYTE = 2**20


class Told(Ranks):
    """One of several ranks, without the others."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def same(self, value):
        return value


def is_split(classifier, X, y, size=2):
    """Whether `size` processes would share out the units of a classifier."""
    data = TrainingData.of(classifier, X, y, None)
    classifier._start(data)
    like = next(classifier.network_.parameters())
    given = TrainingSets(data, classifier.cache, like).given()
    return splits_units(classifier, given, Told(size))


def large(**parameters):
    """A classifier with a last layer of several megabytes."""
    return AttentionClusterClassifier(
        **{"cluster_size": 512, "batch_size": 8, "random_state": 0, **parameters}
    )


def make_items(n_classes=60):
    X, _ = make_sets(n=120)
    return X, np.arange(120) % n_classes


def test_splits_units_if_the_last_layer_is_large():
    X, y = make_items()
    assert is_split(large(), X, y)
    assert not is_split(large(cluster_size=2), X, y)


def test_splits_units_never_in_one_process():
    assert not is_split(large(), *make_items(), size=1)


def test_splits_units_never_without_a_unit_for_every_process():
    X, y = make_items()
    modalities, sizes = {"a": X, "b": X}, {"a": 512, "b": 2}
    classifier = MultimodalAttentionClusterClassifier(
        cluster_size=sizes, batch_size=8, random_state=0
    )
    assert is_split(classifier, modalities, y, size=2)
    assert not is_split(classifier, modalities, y, size=3)


@pytest.mark.parametrize("options", [{"pyramid_levels": 2}, {"hidden_features": 3}])
def test_splits_units_never_if_units_depend_on_each_other(options, monkeypatch):
    X, y = make_items()
    assert not is_split(large(**options), X, y)
    monkeypatch.setattr(_split, "FORCED", True)
    assert not is_split(large(**options), X, y)


def test_splits_units_counts_sampled_local_features_only():
    X = np.random.default_rng(0).standard_normal((120, 400, 4)).astype(np.float32)
    y = np.arange(120) % 60
    parameters = {"cluster_size": 32, "batch_size": 16}
    assert is_split(large(n_local_features=5, **parameters), X, y)
    assert not is_split(large(**parameters), X, y)


def moved(parameters, logits, features, n_items, batch_size):
    """Return the bytes that shared items and shared units move per epoch, step by step."""
    of_items = of_units = 0
    for first in range(0, n_items, batch_size):
        n = min(batch_size, n_items - first)
        of_items += 2 * parameters
        of_units += n * (2 * logits + features)
    return of_items, of_units + 2 * parameters


@given(
    parameters=st.integers(1, 1 << 30),
    logits=st.integers(1, 1 << 14),
    features=st.integers(1, 1 << 20),
    n_items=st.integers(1, 3000),
    batch_size=st.integers(1, 300),
)
def test_units_move_less_is_a_sum_over_the_steps(parameters, logits, features, n_items, batch_size):
    of_items, of_units = moved(parameters, logits, features, n_items, batch_size)
    found = units_move_less(
        parameter_bytes=parameters,
        logit_bytes=logits,
        feature_bytes=features,
        n_items=n_items,
        batch_size=batch_size,
    )
    assert found == (of_units < of_items)


def test_units_move_less_never_in_a_single_step():
    sizes = {"parameter_bytes": 100 * MEGABYTE, "logit_bytes": 4, "feature_bytes": 4}
    assert not units_move_less(**sizes, n_items=64, batch_size=64)
    assert units_move_less(**sizes, n_items=65, batch_size=64)
