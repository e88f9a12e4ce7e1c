"""Resuming a store checks what is committed, and changes nothing that is not the writer's."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from acluster import FeatureSetsWriter, open_feature_sets, save_feature_sets
from acluster.sets import StoreError, validate
from acluster.sets._store import _writer
from tests.sets._store.helpers import assert_holds, assert_tidy, write_items


@pytest.fixture
def stopped(path, small):
    """An incomplete store of several shards."""
    writer = FeatureSetsWriter(path)
    write_items(writer, 10)
    writer.flush()
    return Path(path)


def files_of(path):
    """All files and their content."""
    return {f.relative_to(path): f.read_bytes() for f in Path(path).rglob("*") if f.is_file()}


def flip_byte(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def shards(path, array):
    return sorted(Path(path, array, "c").iterdir(), key=lambda folder: int(folder.name))


def older_version(path):
    """The last shard as it was before rows were added to it."""
    array = zarr.open_array(path, path="rgb", mode="r+")
    n_rows = array.shape[0]
    array.resize((n_rows - 1, 3))
    array[n_rows - 2 :] = array[n_rows - 2 :]
    array.resize((n_rows, 3))
    array[n_rows - 1 :] = np.nan


DAMAGES = {
    "first shard": lambda path: os.remove(shards(path, "rgb")[0] / "0"),
    "last shard": lambda path: os.remove(shards(path, "rgb")[-1] / "0"),
    "later modality": lambda path: os.remove(shards(path, "text")[-1] / "0"),
    "empty shard": lambda path: (shards(path, "rgb")[-1] / "0").write_bytes(b""),
    "truncated": lambda path: os.truncate(shards(path, "rgb")[0] / "0", 60),
    "index": lambda path: flip_byte(shards(path, "rgb")[0] / "0", -1),
    "older version": older_version,
    "array": lambda path: shutil.rmtree(path / "audio"),
    "metadata": lambda path: (path / "audio/zarr.json").write_text("{"),
    "no metadata": lambda path: os.remove(path / "label/zarr.json"),
    "row sizes": lambda path: os.remove(path / "rgb_row_size/c/0"),
    "last row sizes": lambda path: os.remove(path / "rgb_row_size/c/2"),
    "row size": lambda path: flip_byte(path / "rgb_row_size/c/0", 0),
    "label": lambda path: flip_byte(path / "label/c/1", 0),
    "id": lambda path: os.remove(path / "id/c/2"),
    "weight": lambda path: os.truncate(path / "weight/c/1", 0),
    "rows": lambda path: zarr.open_array(path, path="rgb", mode="r+").resize((4, 3)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_resume_refuses_damaged_store_unchanged(stopped, damage):
    # What an interrupted writer has left would be removed from a sound store.
    zarr.open_array(stopped, path="weight", mode="r+").resize((11,))
    damage(stopped)
    before = files_of(stopped)
    with pytest.raises(StoreError, match=r"Array '|ends|places"):
        FeatureSetsWriter(stopped, resume=True)
    assert files_of(stopped) == before


def test_resume_leaves_alone_what_is_not_its_own(stopped):
    own = "0123456789abcdef" * 2
    (stopped / "notes").mkdir()
    (stopped / "notes/thesis.txt").write_text("precious")
    (stopped / "notes/0.partial").write_text("precious")
    (stopped / f"notes/0.{own}.partial").write_text("precious")
    (stopped / "download.partial").write_text("precious")
    (stopped / "rgb/notes.txt").write_text("precious")
    zarr.open_group(stopped, mode="r+").create_array("my_pooled", data=np.arange(5.0))
    kept = {k for k in files_of(stopped) if "notes" in str(k) or "pool" in str(k)}
    for name in ("zarr.json", "rgb/c/0/0", "rgb/zarr.json"):
        (stopped / f"{name}.{own}.partial").write_text("unfinished")
    with FeatureSetsWriter(stopped, resume=True) as writer:
        write_items(writer, 12)
    assert_holds(stopped, 12)
    after = files_of(stopped)
    assert kept | {Path("download.partial")} <= after.keys()
    assert not any(own in str(k) and "notes" not in str(k) for k in after)


def test_resume_removes_unfinished_arrays(stopped, monkeypatch):
    """Those of a modality whose first rows were not committed."""
    writer = FeatureSetsWriter(stopped, resume=True)
    places = {"rgb": {"seconds": [0.0]}, "depth": {"x": [0.0, 1.0]}}
    item = {"rgb": np.ones((1, 3)), "depth": np.ones((2, 2))}
    writer.append(item, places=places, **columns(10))

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_writer, "_append_entries", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    monkeypatch.undo()
    del writer
    os.remove(stopped / "depth/zarr.json")
    with FeatureSetsWriter(stopped, resume=True) as writer:
        write_items(writer, 11)
    assert_holds(stopped, 11)
    assert_tidy(stopped)


def columns(i):
    return {"label": "a", "id": f"item{i}", "group": 1, "weight": 1.0}


@pytest.mark.parametrize("name", ["../notes", "/tmp/notes", "", ".", "..", "rgb", 3, "a/b"])
def test_resume_removes_nothing_outside_the_store(stopped, name):
    notes = stopped.parent / "notes"
    notes.mkdir()
    zarr.open_group(stopped, mode="r+").attrs["uncommitted"] = [name]
    with FeatureSetsWriter(stopped, resume=True) as writer:
        write_items(writer, 11)
    assert_holds(stopped, 11)
    assert notes.exists()


@pytest.mark.parametrize("consolidate", ["complete", "incomplete"])
def test_resume_ignores_and_drops_consolidated_metadata(stopped, consolidate):
    if consolidate == "complete":
        FeatureSetsWriter(stopped, resume=True).close()
    with pytest.warns(UserWarning, match="Consolidated"):
        zarr.consolidate_metadata(stopped)
    for stop in (12, 14):
        with FeatureSetsWriter(stopped, resume=True) as writer:
            assert len(writer) == stop - 2
            assert writer.column("id")[-1] == f"item{stop - 3}"
            write_items(writer, stop)
        assert zarr.open_group(stopped).metadata.consolidated_metadata is None
    assert_holds(stopped, 14)
    validate(stopped)


def test_writer_keeps_its_path_when_the_directory_changes(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "a")
    writer = FeatureSetsWriter("s.zarr")
    write_items(writer, 2)
    monkeypatch.chdir(tmp_path / "b")
    writer.flush()
    assert writer.id == ["item0", "item1"]
    write_items(writer, 4)
    writer.close()
    assert os.listdir(tmp_path / "b") == []
    assert_holds(tmp_path / "a/s.zarr", 4)


def test_writer_says_that_its_store_is_gone(stopped):
    writer = FeatureSetsWriter(stopped, resume=True)
    write_items(writer, 11)
    stopped.rename(stopped.with_name("moved"))
    with pytest.raises(FileNotFoundError, match="has been removed or renamed"):
        writer.flush()
    assert not stopped.exists()
    assert len(writer) == 11


def test_append_after_close_is_an_error(path):
    with FeatureSetsWriter(path) as writer:
        write_items(writer, 2)
    writer.close()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"takes no more items.*resume=True"):
            write_items(writer, 3)
    assert len(writer) == 2
    assert writer.id == ["item0", "item1"]
    assert_holds(path, 2)


def test_append_after_a_block_that_failed_is_an_error(path):
    writer = FeatureSetsWriter(path)
    write_items(writer, 2)
    with pytest.raises(ZeroDivisionError), writer:
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="takes no more items"):
        write_items(writer, 3)
    with FeatureSetsWriter(path, resume=True) as writer:
        write_items(writer, 3)
    assert_holds(path, 3)


def test_resume_of_a_store_that_cannot_be_written_fails_at_once(written, monkeypatch):
    opened = open

    def read_only(path, mode="r", *args, **kwargs):
        if set(mode) & set("wax+"):
            raise PermissionError(f"read-only: {path}")
        return opened(path, mode, *args, **kwargs)

    # Not by its mode: the tests may run as root, who writes anywhere.
    monkeypatch.setattr("builtins.open", read_only)
    with pytest.raises(PermissionError, match=r"read-only: .*lock"):
        FeatureSetsWriter(written, resume=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, ValueError])
def test_save_removes_only_what_it_made(path, error):
    def items():
        yield np.ones((2, 2))
        Path(path, "notes.txt").write_text("precious")
        raise error

    with pytest.raises(error):
        save_feature_sets(path, items())
    assert os.listdir(path) == ["notes.txt"]


def test_save_that_is_refused_removes_nothing(written):
    before = files_of(written)
    with pytest.raises(FileExistsError):
        save_feature_sets(written, [np.ones((2, 2))])
    assert files_of(written) == before
    assert len(open_feature_sets(written)) == 12
