"""The items of the stores in these tests, and checks of such stores."""

from pathlib import Path

import numpy as np
import zarr

from acluster import open_feature_sets
from acluster.sets._store import _format, _writer

COLUMNS = ("label", "id", "group", "weight")
ENDINGS = ("", "_row_size", "_offsets")


def shrink(monkeypatch):
    """Set all sizes to a few rows, so that a small store has many shards and flushes."""
    monkeypatch.setattr(_format, "_CHUNK_BYTES", 48)
    monkeypatch.setattr(_format, "_SHARD_BYTES", 96)
    monkeypatch.setattr(_writer, "_PENDING_BYTES", 300)
    monkeypatch.setattr(_format, "_ITEMS_PER_CHUNK", 4)


def assert_same_columns(X, columns, selection=slice(None)):
    """Check the columns of a store against those that were passed; others must be None."""
    for name in COLUMNS:
        stored = getattr(X, name)
        if name not in columns:
            assert stored is None
        else:
            expected = np.asarray(columns[name])[selection]
            assert stored.dtype.kind == ("f" if name == "weight" else expected.dtype.kind)
            np.testing.assert_array_equal(stored, expected)


LENGTHS = (3, 1, 2, 4, 2, 1, 1, 2, 3, 1, 2)
ARRAYS = [np.arange(n * 2.0).reshape(n, 2) + 10 * i for i, n in enumerate(LENGTHS)]
AUDIO = [np.full((1 + i % 2, 3), i) if i % 3 else None for i in range(11)]


def zarr_array(folder, values):
    return zarr.create_array(folder, data=values)


N_WITHOUT_TEXT = 3  # the modality "text" appears after some items


def item_of(i):
    item = {"rgb": np.full((1 + i % 4, 3), i) + np.arange(3), "audio": np.full((i % 3, 2), -i)}
    if i >= N_WITHOUT_TEXT:
        item["text"] = np.full((1 + i % 2, 1), i, "f2")
    return item


PLACES = {"rgb": ["seconds"], "text": ["x", "y"]}  # audio has none


def places_of(i):
    item = item_of(i)
    return {
        name: {key: np.arange(len(item[name])) / 8 + i + k for k, key in enumerate(names)}
        for name, names in PLACES.items()
        if name in item
    }


def columns_at(i):
    return {"label": f"class{i // 4}", "id": f"item{i}", "group": i % 3 - 1, "weight": i % 2 / 4}


def write_items(writer, stop, with_places=True):
    for i in range(len(writer), stop):
        writer.append(item_of(i), places=places_of(i) if with_places else None, **columns_at(i))


def assert_holds(path, n, with_places=True):
    """Check that a store has the first `n` items."""
    X = open_feature_sets(path)
    assert len(X) == n
    items = [item_of(i) for i in range(n)]
    for name in X.names:
        sets = [item.get(name, np.empty((0, 1))) for item in items]
        values, offsets = X[name].packed()
        assert values.tolist() == [row.tolist() for x in sets for row in x]
        np.testing.assert_array_equal(np.diff(offsets), [len(x) for x in sets])
        if with_places and name in PLACES:
            assert_has_places(X[name].places, name, n)
        else:
            assert X[name].places is None
    assert X.names == (["rgb", "audio", "text"] if n > N_WITHOUT_TEXT else ["rgb", "audio"])
    assert_same_columns(X, {name: [columns_at(i)[name] for i in range(n)] for name in COLUMNS})


def assert_has_places(places, modality, n):
    """Check the places of the first `n` items of a modality."""
    assert list(places.column_names) == PLACES[modality]
    assert len(places) == n
    for i, found in enumerate(places):
        expected = places_of(i).get(modality, {key: [] for key in PLACES[modality]})
        assert found.T.tolist() == [list(column) for column in expected.values()]


def assert_tidy(path):
    """Check that no extra array and no temporary file is left."""
    assert [p for p in Path(path).rglob("*") if p.name.endswith(".partial")] == []
    X = open_feature_sets(path)
    arrays = [f"{name}{end}" for name in X.names for end in ENDINGS]
    arrays += [f"{name}_places" for name in X.names if X[name].places is not None]
    assert sorted(zarr.open_group(path, mode="r").array_keys()) == sorted([*arrays, *COLUMNS])


def read_all(path):
    X = open_feature_sets(path)
    return [X.label, X.id, list(X)]
