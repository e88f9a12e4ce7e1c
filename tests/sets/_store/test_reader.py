"""info and validate read stores, pickles open them again, and damaged stores are rejected."""

import multiprocessing
import os
import pickle
import shutil
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.core.buffer.cpu import Buffer
from zarr.storage import MemoryStore, ZipStore

from acluster import (
    FeatureSets,
    FeatureSetsWriter,
    MultimodalFeatureSets,
    open_feature_sets,
    save_feature_sets,
)
from acluster.sets import StoreError, info, validate
from acluster.sets._store import _block_rows, _decoded_rows, _format
from tests.sets._store.helpers import (
    ARRAYS,
    AUDIO,
    COLUMNS,
    item_of,
    read_all,
    write_items,
    zarr_array,
)


def test_info_describes_store(written):
    X, found = open_feature_sets(written), info(written)
    assert (found.complete, found.version, found.n_items) == (True, 2, 12)
    assert found.columns == list(COLUMNS)
    assert list(found.modalities) == ["rgb", "audio", "text"]
    rows = X.lengths["rgb"].sum()
    expected = {"n_features": 3, "n_local_features": rows, "dtype": np.float32, "bytes": rows * 12}
    expected |= {"has_checksums": True, "places": ["seconds"]}
    assert found.modalities["rgb"] == expected


def test_info_describes_incomplete_store(path, small):
    writer = FeatureSetsWriter(path)
    write_items(writer, 9)
    found = info(path)
    assert not found.complete
    assert 0 < found.n_items < 9
    rows = sum(len(item_of(i)["rgb"]) for i in range(found.n_items))
    assert found.modalities["rgb"].n_local_features == rows


def error_of(use, path):
    """Return the message of the error. The exception, whose frames hold open files, is released."""
    try:
        use(path)
    except StoreError as error:
        return str(error)
    pytest.fail("no error was raised")


def set_attribute(name, value):
    return lambda path: zarr.open_group(path).attrs.update({name: value})


def set_value(array, place, value):
    def damage(path):
        zarr.open_array(path, path=array, mode="r+")[place] = value

    return damage


def resize(array, n_rows):
    def damage(path):
        opened = zarr.open_array(path, path=array, mode="r+")
        opened.resize((n_rows, *opened.shape[1:]))

    return damage


def drop_last_committed_row(array):
    def damage(path):
        group = zarr.open_group(path)
        committed = group.attrs["committed"]
        committed["n_rows"][array] -= 1
        group.attrs.update({"committed": committed})
        resize(array, committed["n_rows"][array])(path)

    return damage


def remove(name):
    def damage(path):
        target = Path(path, name)
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return damage


def truncate(name, n_bytes):
    return lambda path: os.truncate(Path(path, name), os.path.getsize(Path(path, name)) - n_bytes)


def flip(name, place):
    def damage(path):
        data = bytearray(Path(path, name).read_bytes())
        data[place] ^= 1
        Path(path, name).write_bytes(data)

    return damage


DAMAGES = {
    "not complete": (
        set_attribute("complete", False),
        ["store.zarr is not complete", "after 12 items", "resume=True"],
    ),
    "version": (
        set_attribute("version", 3),
        ["store.zarr has version 3", "reads versions 1 and 2"],
    ),
    "foreign": (set_attribute("acluster_format", "x"), ["without the attribute acluster_f"]),
    "attributes": (truncate("zarr.json", 9), ["store.zarr is not a zarr group"]),
    "no attributes": (remove("zarr.json"), ["store.zarr is not a zarr group"]),
    "shard": (remove("rgb/c/1/0"), ["Array 'rgb'", "lacks the files c/1/0"]),
    "short shard": (truncate("rgb/c/1/0", 1), ["'rgb'", "shard c/1/0", "truncated"]),
    "shard index": (flip("rgb/c/1/0", -7), ["'rgb'", "shard c/1/0", "checksum"]),
    "offsets": (set_value("rgb_offsets", 5, 12), ["'rgb_offsets'", "12 at index 5", "to 11"]),
    "row size": (set_value("audio_row_size", 5, 1), ["'audio_row_size' before it", " index 6,"]),
    "row below 0": (
        set_value("audio_row_size", 5, -1),
        ["'audio_row_size' before it", " index 6,"],
    ),
    "short row size": (truncate("rgb_row_size/c/1", 1), ["'rgb_row_size'", "cannot be read"]),
    "flipped offsets": (flip("rgb_offsets/c/1", 8), ["'rgb_offsets'", "cannot be read"]),
    "flipped label": (flip("label/c/2", 8), ["'label'", "cannot be read"]),
    "flipped id": (flip("id/c/0", 9), ["'id'", "cannot be read"]),
    "label chunk": (remove("label/c/1"), ["'label'", "lacks the files c/1"]),
    "short label": (resize("label", 11), ["'label'", "11 rows, but 12 were written"]),
    "short id": (resize("id", 11), ["'id'", "11 rows, but 12 were written"]),
    "long label": (resize("label", 13), ["'label'", "13 rows, but 12 were written"]),
    "rows": (resize("audio", 11), ["'audio'", "11 rows, but 12 were written"]),
    "last row": (drop_last_committed_row("audio"), ["ends at 12, but 'audio' has 11 rows"]),
    "row sizes": (resize("audio_row_size", 3), ["'audio_row_size'", "3 rows, but 12 were written"]),
    "fewer offsets": (resize("audio_offsets", 12), ["'audio_offsets'", "12 rows, but 13"]),
}
for name in ["rgb", "rgb_row_size", "audio_offsets", "label", "id", "group", "weight"]:
    DAMAGES[f"no {name}"] = (remove(name), [f"Array '{name}' of ", "is missing"])
    DAMAGES[f"no attributes of {name}"] = (
        truncate(f"{name}/zarr.json", 3),
        [f"Array '{name}' of ", "cannot be opened"],
    )


@pytest.mark.parametrize(("damage", "parts"), DAMAGES.values(), ids=DAMAGES)
def test_open_and_validate_reject_damaged_store(written, damage, parts):
    damage(written)
    for use in (read_all, validate):
        message = error_of(use, written)
        for part in parts:
            assert part in message


DAMAGES_FOR_RESUME = [
    "version",
    "foreign",
    "attributes",
    "no rgb",
    "no attributes of rgb",
    "no label",
]


@pytest.mark.parametrize("name", [*DAMAGES_FOR_RESUME, "short label", "rows", "row sizes"])
def test_writer_rejects_resuming_damaged_store(written, name):
    DAMAGES[name][0](written)
    with pytest.raises(StoreError):
        FeatureSetsWriter(written, resume=True)


def test_open_info_and_validate_reject_missing_path(path):
    for use in (open_feature_sets, info, validate):
        with pytest.raises(FileNotFoundError, match=r"There is no store at .*store\.zarr"):
            use(path)


def write_file(path):
    Path(path).write_text("text")


def write_array(path):
    zarr_array(path, np.ones(3))


def write_folder(path):
    os.mkdir(path)
    Path(path, "notes.txt").write_text("text")


@pytest.mark.parametrize("make", [write_file, write_folder, write_array])
def test_open_info_and_validate_reject_other_files(path, make):
    make(path)
    for use in (open_feature_sets, info, validate):
        with pytest.raises(StoreError, match=r"store\.zarr is not a zarr group"):
            use(path)
    with pytest.raises(StoreError, match=r"store\.zarr is not a"):
        FeatureSetsWriter(path, resume=True)


@pytest.mark.parametrize("place", [0, 13, 35, 36])
def test_features_are_compared_with_their_checksums(written, place):
    flip("rgb/c/1/0", place)(written)
    assert "does not match its checksum" in error_of(validate, written)
    X = open_feature_sets(written, verify=True)
    for twin in (X, pickle.loads(pickle.dumps(X))):
        with pytest.raises(StoreError, match=r"shard c/1/0 .*does not match its checksum"):
            list(twin)
    list(open_feature_sets(written))


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_validate_says_that_features_have_no_checksums(written, compressors):
    group = zarr.open_group(written)
    values = group["rgb"][...]
    group.create_array("rgb", data=values, overwrite=True, compressors=compressors)
    found = validate(written).modalities
    assert (found["rgb"].has_checksums, found["audio"].has_checksums) == (False, True)
    np.testing.assert_array_equal(
        open_feature_sets(written, verify=True)["rgb"].packed()[0], values
    )


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("item", [0, 5, 11])
def test_validate_rejects_nonfinite_features(written, item, value, monkeypatch):
    row = int(open_feature_sets(written)["rgb"].lengths[:item].sum())
    set_value("rgb", (row, 2), value)(written)
    monkeypatch.setattr("acluster.sets._store._reader._BYTES_PER_CHECK", 40)
    open_feature_sets(written)
    message = error_of(validate, written)
    assert f"Array 'rgb' of {written} holds {value} in row {row}, column 2" in message
    assert f"(item {item})" in message


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("large") / "store.zarr")
    n = 2_001
    values = np.arange(n * 2, dtype="f4").reshape(n, 2)
    sets = {name: FeatureSets(values + k, np.arange(n + 1)) for k, name in enumerate("abc")}
    save_feature_sets(path, MultimodalFeatureSets(sets), id=np.arange(n))
    return path


def random_view(X):
    return X[np.random.default_rng(0).permutation(len(X))[:2_000]]


def test_pickled_view_holds_only_item_numbers(large_store):
    X = open_feature_sets(large_store)
    for view in (random_view(X), random_view(X)["b"], random_view(X["b"])):
        assert len(view) == 2_000
        pickled = pickle.dumps(view)
        assert len(pickled) <= 8 * 2_000 + 4096
        twin = pickle.loads(pickled)
        assert type(twin) is type(view)
        np.testing.assert_array_equal(twin.id, view.id)
        one, other = (v if isinstance(v, FeatureSets) else v["c"] for v in (twin, view))
        np.testing.assert_array_equal(one.packed()[0], other.packed()[0])
    assert len(pickle.dumps(X)) < 4096
    assert len(pickle.dumps(X[5:1900])) < 4096


@pytest.mark.parametrize("several", [False, True])
def test_unpickled_view_opens_store_on_first_use(tmp_path, path, several, monkeypatch):
    save_feature_sets(path, {"a": ARRAYS, "b": AUDIO} if several else ARRAYS, id=range(11))
    monkeypatch.chdir(tmp_path)
    X = open_feature_sets("store.zarr")
    pickled = pickle.dumps(X[[4, 2]])
    monkeypatch.chdir("/")
    os.rename(path, tmp_path / "away")
    view = pickle.loads(pickled)
    assert (len(view), view.shape) == (2, (2,))
    for use in (lambda: view[0], lambda: view.lengths, lambda: view.id, lambda: list(view)):
        with pytest.raises(FileNotFoundError, match=r"There is no store at .*store\.zarr"):
            use()
    os.rename(tmp_path / "away", path)
    assert repr(list(view)) == repr([X[4], X[2]])
    assert view.id.tolist() == [4, 2]


def test_unpickled_view_rejects_replaced_store(path):
    save_feature_sets(path, ARRAYS)
    pickled = pickle.dumps(open_feature_sets(path)[2:4])
    shutil.rmtree(path)
    save_feature_sets(path, ARRAYS[:5])
    with pytest.raises(StoreError, match=r"store\.zarr has 5 items, but had 11 .* Open it again"):
        pickle.loads(pickled)[0]


@pytest.mark.parametrize("folder", [None, "inner.zarr"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_open_reads_zip_archive(written, tmp_path, folder, compression):
    archive = tmp_path / "store.zip"
    with zipfile.ZipFile(archive, "w", compression) as opened:
        for path in sorted(p for p in Path(written).rglob("*") if p.is_file()):
            opened.write(path, Path(folder or "", path.relative_to(written)))
    X = open_feature_sets(archive)
    assert repr(list(X)) == repr(list(open_feature_sets(written)))
    assert repr(list(pickle.loads(pickle.dumps(X[3:])))) == repr(list(X[3:]))
    assert validate(archive).n_items == 12


def rewrite_archive(written, tmp_path, change):
    """Write an archive whose members `change` may replace, and None removes."""
    archive = tmp_path / "store.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(p for p in Path(written).rglob("*") if p.is_file()):
            name = str(path.relative_to(written))
            data = change(name, path.read_bytes())
            if data is not None:
                opened.writestr(name, data)
    return archive


@pytest.mark.parametrize("name", ["zarr.json", "rgb/zarr.json", "rgb/c/1/0", "label/c/1", "id/c/0"])
def test_open_rejects_damaged_zip_archive(written, tmp_path, name):
    for damage in (lambda data: None, lambda data: b"", lambda data: data[:-3] + b"xyz"):
        archive = rewrite_archive(written, tmp_path, lambda n, d: damage(d) if n == name else d)  # noqa: B023
        for use in (read_all, validate):
            with pytest.raises(StoreError):
                use(archive)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_open_rejects_zip_archive_with_two_members_of_one_name(written, tmp_path):
    archive = rewrite_archive(written, tmp_path, lambda _, data: data)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("label/c/1", b"other")
    with pytest.raises(StoreError, match=r"the archive has several members 'label/c/1'"):
        open_feature_sets(archive)


class WithoutListing(MemoryStore):
    """As a server of files that does not list its directories."""

    def list(self):
        raise NotImplementedError

    def list_dir(self, prefix):
        raise NotImplementedError

    def list_prefix(self, prefix):
        raise NotImplementedError


def test_open_needs_no_listing_of_directories(written):
    files = {}
    for path in Path(written).rglob("*"):
        if path.is_file():
            data = Buffer.from_bytes(path.read_bytes())
            files[str(path.relative_to(written))] = data
    group = zarr.open_group(WithoutListing(files), mode="r")
    assert repr(read_all(group)) == repr(read_all(written))
    assert validate(group).n_items == 12
    for lost in ("rgb/c/1/0", "label/c/1", "id/c/2", "rgb_row_size/c/0"):
        rest = {name: data for name, data in files.items() if name != lost}
        with pytest.raises(StoreError, match=r"is incomplete. The chunk of rows \d+ to \d+"):
            read_all(zarr.open_group(WithoutListing(rest), mode="r"))


@pytest.mark.parametrize("address", ["https://localhost/store.zarr", "s3://bucket/store.zarr"])
def test_open_names_extra_that_is_not_installed(monkeypatch, address):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ImportError, match=r"store.zarr needs the package obstore.*'cloud'"):
        open_feature_sets(address)


def test_open_rejects_zip_archive_of_several_stores(written, tmp_path):
    shutil.copytree(written, tmp_path / "both" / "a.zarr")
    shutil.copytree(written, tmp_path / "both" / "b.zarr")
    shutil.make_archive(str(tmp_path / "both"), "zip", tmp_path / "both")
    with pytest.raises(StoreError, match=r"several stores, such as '[ab].zarr'; unpack it"):
        open_feature_sets(tmp_path / "both.zip")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("as_group", [False, True])
def test_zip_archive_is_read_in_forked_processes(tmp_path, monkeypatch, as_group):
    monkeypatch.setattr(_format, "_CHUNK_BYTES", 1 << 14)
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(_block_rows, "CACHE_BYTES", 1)
    monkeypatch.setattr(_decoded_rows, "_READ_BYTES", 1)
    rows = np.repeat(np.arange(4000, dtype=np.float32)[:, None], 64, axis=1)
    sets = FeatureSets(rows, np.arange(0, 4001, 10))
    save_feature_sets(tmp_path / "a.zarr", sets)
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "a.zarr")
    group = zarr.open_group(ZipStore(tmp_path / "a.zip", mode="r"), mode="r")
    X = open_feature_sets(group if as_group else tmp_path / "a.zip")
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process may have threads
        children = [context.Process(target=read_and_compare, args=(X, rows)) for _ in range(3)]
        for child in children:
            child.start()
    read_and_compare(X, rows)
    for child in children:
        child.join(60)
        assert child.exitcode == 0


def read_and_compare(X, rows):
    for order in (slice(None), slice(None, None, -1), slice(7, 300)):
        values, _ = X[order].packed()
        expected = rows.reshape(400, 10, 64)[order].reshape(-1, 64)
        np.testing.assert_array_equal(values, expected)
