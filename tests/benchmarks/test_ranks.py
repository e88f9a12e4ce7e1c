"""The benchmark of several processes."""

import json

import numpy as np
import ranks
import zarr

from acluster import FeatureSets, open_feature_sets
from acluster.training import ALONE


def test_write_store_compresses_the_same_features(tmp_path):
    plain, packed = str(tmp_path / "plain.zarr"), str(tmp_path / "packed.zarr")
    ranks.write_store(plain, 2**20, n_features=32)
    ranks.write_store(packed, 2**20, n_features=32, compressed=True)
    assert np.array_equal(zarr.open(plain)["features"][:], zarr.open(packed)["features"][:])
    assert open_feature_sets(plain).blocks is None
    assert open_feature_sets(packed).blocks is not None


def test_bytes_read_counts_the_bytes_of_files(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(10**6))
    before = ranks.bytes_read()
    path.read_bytes()
    assert 10**6 <= ranks.bytes_read() - before < 1.1 * 10**6


def test_read_in_turns_reads_every_block_for_the_moments_once(tmp_path):
    path = str(tmp_path / "packed.zarr")
    ranks.write_store(path, 2**24, n_features=32, compressed=True)
    shares = ranks.read_in_turns(path)
    assert 1 <= shares["moments"] < 2  # two ranks may share a block of this small store
    assert shares["epoch of one process"] >= 1


def test_steps_returns_seconds(monkeypatch):
    monkeypatch.setattr(ranks, "N_UNITS", 3)
    monkeypatch.setattr(ranks, "N_CLASSES", 4)
    X = FeatureSets(np.ones((24, 5), np.float32), np.arange(9) * 3)
    figures = ranks.Steps(X, np.arange(8) % 4, 4, ALONE)()
    assert len(figures) == 3
    assert min(figures) >= 0
    assert json.dumps(figures)
