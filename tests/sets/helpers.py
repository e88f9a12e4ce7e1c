"""Items, sets and keys for the tests of containers and stores."""

import numpy as np
from hypothesis import strategies as st

from acluster import FeatureSets, MultimodalFeatureSets

WIDTHS = {"rgb": 3, "audio": 2, "text": 1}


def make_items(lengths):
    """A dict of arrays per item; no two rows are alike. Missing modalities have 0 rows."""
    rng = np.random.default_rng(len(lengths))
    return [
        {
            name: rng.permutation(2000)[: n * WIDTHS[name]].reshape(n, -1).astype(float)
            if n
            else np.empty((0, WIDTHS[name]))
            for name, n in zip(WIDTHS, item, strict=False)
        }
        for item in lengths
    ]


def make_sets(items):
    names = list(items[0])
    return MultimodalFeatureSets(
        {name: FeatureSets.from_arrays([item[name] for item in items]) for name in names}
    )


def assert_same_items(X, items):
    assert len(X) == len(items)
    for item, expected in zip(X, items, strict=True):
        assert list(item) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(item[name], values)


def keys(n):
    """Every form in which `n` items are indexed."""
    numbers = st.lists(st.integers(-n, n - 1), max_size=20) if n else st.just([])
    mask = st.lists(st.booleans(), min_size=n, max_size=n)
    arrays = numbers.map(lambda key: np.array(key, int)) | mask.map(lambda key: np.array(key, bool))
    return st.slices(n) | numbers | mask | arrays


def numbers_of(key, n):
    return np.arange(n)[np.array(key, int) if isinstance(key, list) and not key else key]


all_lengths = st.integers(1, 3).flatmap(
    lambda n_modalities: st.lists(
        st.tuples(*[st.integers(0, 4)] * n_modalities).filter(any), min_size=1, max_size=10
    )
)
