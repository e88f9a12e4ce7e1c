"""Fixtures that provide stores."""

import shutil

import pytest

from acluster import FeatureSetsWriter
from tests.sets._store.helpers import read_all, shrink, write_items


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "store.zarr")


@pytest.fixture(scope="session")
def sound_store(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "store.zarr"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        with FeatureSetsWriter(path, attributes={"extractor": "r18"}) as writer:
            write_items(writer, 12)
    read_all(path)
    return path


@pytest.fixture
def written(sound_store, path):
    """The path of a sound store that a test may change."""
    shutil.copytree(sound_store, path)
    return path
