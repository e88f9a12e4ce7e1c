"""Arrays with unknown codecs or damaged metadata are rejected before anything is decoded."""

import contextlib
import json
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.registry import register_codec
from zarr.storage import MemoryStore

from acluster import open_feature_sets, save_feature_sets
from acluster.sets import StoreError, info, validate
from acluster.sets._store._arrays import find_array
from tests.sets._store.helpers import ARRAYS, read_all

pytestmark = pytest.mark.usefixtures("within_limits")

USED = []  # which fake codecs have done something


class OldFake(numcodecs.abc.Codec):
    codec_id = "fake_codec_of_format_2"

    def encode(self, buf):
        return buf

    def decode(self, buf, out=None):
        USED.append(self)
        return buf


@dataclass(frozen=True)
class NewFake(BytesBytesCodec):
    is_fixed_size = True

    @classmethod
    def from_dict(cls, data):
        USED.append(cls)
        return cls()

    def to_dict(self):
        return {"name": "fake_codec_of_format_3"}

    async def _decode_single(self, chunk_bytes, chunk_spec):
        USED.append(self)
        return chunk_bytes

    async def _encode_single(self, chunk_bytes, chunk_spec):
        return chunk_bytes

    def compute_encoded_size(self, input_byte_length, _):
        return input_byte_length


numcodecs.register_codec(OldFake)
register_codec("fake_codec_of_format_3", NewFake)


@pytest.fixture(autouse=True)
def nothing_used():
    USED.clear()
    yield
    assert USED == []


def change_json(path, change):
    def read(path):
        return json.loads(Path(path).read_text())

    metadata = read(path)
    changed = change(metadata)
    Path(path).write_text(json.dumps(metadata if changed is None else changed))


def old_group(path, ours, **options):
    """A group of format 2, whose array `a` has the fake codec if `options` say so."""
    group = zarr.create_group(path, zarr_format=2)
    if ours:
        group.attrs.update(ours)
    for i, x in enumerate(ARRAYS):
        array = group.create_array(f"a{i}", shape=x.shape, dtype="f4", **options)
        array[:] = x
    return group


@pytest.mark.parametrize(
    "change",
    [
        {"compressor": {"id": "fake_codec_of_format_2"}},
        {"filters": [{"id": "fake_codec_of_format_2"}]},
        {"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "dtype": "|O", "fill_value": ""},
    ],
)
def test_save_rejects_unknown_codec_of_format_2(tmp_path, change):
    group = old_group(tmp_path / "old", None, compressors=None)
    change_json(tmp_path / "old/a3/.zarray", lambda metadata: metadata | change)
    for X in (group, [group[f"a{i}"] for i in range(11)], {"m": group}):
        with pytest.raises(StoreError, match=r"Array 'a3' .* needs the codec '(fake|pickle)"):
            save_feature_sets(tmp_path / "new", X)
        assert not (tmp_path / "new").exists()


def test_save_rejects_unknown_codec_of_padded_array(tmp_path):
    array = zarr.create_array(tmp_path / "a", shape=(2, 3, 4), dtype="f4", compressors=[NewFake()])
    with pytest.raises(StoreError, match=r"needs the codec 'fake_codec_of_format_3'"):
        save_feature_sets(tmp_path / "new", array)
    USED.clear()  # zarr itself parsed the metadata


def test_save_reads_group_of_format_2(tmp_path):
    safe = {"compressors": numcodecs.Zstd(), "filters": [numcodecs.Delta("f4")]}
    save_feature_sets(tmp_path / "new", old_group(tmp_path / "old", None, **safe))
    found = open_feature_sets(tmp_path / "new")
    assert [x.tolist() for x in found] == [x.tolist() for x in ARRAYS]


def test_open_rejects_store_of_format_2(tmp_path, written):
    attributes = dict(zarr.open_group(written).attrs)
    group = old_group(tmp_path / "old", attributes)
    for store in (str(tmp_path / "old"), group):
        for use in (open_feature_sets, info, validate):
            with pytest.raises(
                StoreError, match=r"is not a zarr group of format 3 .it has zarr form"
            ):
                use(store)
    memory = zarr.create_group(MemoryStore(), zarr_format=2, attributes=attributes)
    with pytest.raises(StoreError, match=r"it has zarr format 2"):
        open_feature_sets(memory)


FAKE = {"name": "fake_codec_of_format_3"}


def within_shards(metadata):
    metadata["codecs"][0]["configuration"]["codecs"].append(FAKE)


def in_index(metadata):
    metadata["codecs"][0]["configuration"]["index_codecs"].append(FAKE)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rgb", within_shards),
        ("rgb", in_index),
        ("rgb", lambda m: m["codecs"].append(FAKE)),
        ("rgb_row_size", lambda m: m["codecs"].append(FAKE)),
        ("audio_offsets", lambda m: m["codecs"].insert(0, FAKE)),
        ("label", lambda m: m["codecs"].append(FAKE)),
        ("id", lambda m: m["codecs"].append({"name": "numcodecs.pickle"})),
    ],
)
def test_open_rejects_unknown_codec(written, name, change):
    change_json(f"{written}/{name}/zarr.json", change)
    for use in (read_all, validate, lambda path: read_all(zarr.open_group(path, mode="r"))):
        with pytest.raises(
            StoreError, match=f"Array '{name}' .*needs the codec '(fake|numc).* may run"
        ):
            use(written)


def set_item(*keys, value):
    def change(metadata):
        *path, last = keys
        for key in path:
            metadata = metadata[key]
        metadata[last] = value

    return change


CHUNK = ("chunk_grid", "configuration", "chunk_shape")
INNER = ("codecs", 0, "configuration", "chunk_shape")
HUGE = 10**30
DAMAGES = {
    "a list": lambda _: [],
    "a number": lambda _: 3,
    "null": lambda _: "null",
    "empty": lambda _: {},
    "a group": set_item("node_type", value="group"),
    "format 2": set_item("zarr_format", value=2),
    **{
        f"{name} {value!r}"[:40]: set_item(*keys, value=value)
        for name, keys in {"shape": ("shape",), "chunks": CHUNK, "inner chunks": INNER}.items()
        for value in ([0, 0], [-1, 3], [1.5, 3], [HUGE, 3], [True, 3], ["1", 3], [3], 7, None, {})
    },
    "no codecs": set_item("codecs", value=[]),
    "codecs": set_item("codecs", value=7),
    "codec without name": set_item("codecs", value=[{}]),
    "nested codecs": set_item("codecs", 0, "configuration", "codecs", value="bytes"),
    "grid": set_item("chunk_grid", value={"name": "other"}),
    "key encoding": set_item("chunk_key_encoding", value={"name": "other"}),
    "type": set_item("data_type", value="complex64"),
    "type object": set_item("data_type", value={"name": "structured", "configuration": {}}),
    "fill value": set_item("fill_value", value={}),
    "transformers": set_item("storage_transformers", value=[{"name": "other"}]),
    "attributes": set_item("attributes", value=7),
    "width": set_item("shape", value=[25, 10**9]),
    "rows": set_item("shape", value=[10**12, 3]),
    "inner chunks of shards": set_item(*INNER, value=[1, 2]),
}


@pytest.mark.parametrize("name", ["rgb", "label"])
@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_open_rejects_damaged_metadata_of_array(written, name, change):
    try:
        change_json(f"{written}/{name}/zarr.json", change)
    except (KeyError, TypeError):
        pytest.skip("it has no shards")
    for use in (read_all, validate):
        with pytest.raises(StoreError):
            use(written)
    with contextlib.suppress(StoreError):
        info(written)


ATTRIBUTES = {
    "no committed": lambda a: a.pop("committed"),
    "committed": set_item("committed", value=[1]),
    "no rows": lambda a: a["committed"].pop("n_rows"),
    "n_rows": set_item("committed", "n_rows", value=[1]),
    **{
        f"n_items {value!r}": set_item("committed", "n_items", value=value)
        for value in (-1, 1.0, True, None, "12", [], 2**70)
    },
    **{
        f"rows {value!r}": set_item("committed", "n_rows", "rgb", value=value)
        for value in (-1, 25.0, None, "25", {}, 2**70)
    },
    **{
        f"modality {name!r}": set_item("committed", "n_rows", name, value=3)
        for name in (
            "",
            "..",
            ".",
            "../x",
            "/etc",
            "a/b",
            "a\\b",
            "a\0b",
            "label",
            "__x",
            "x_offsets",
        )
    },
    **{
        f"columns {value!r}": set_item("committed", "columns", value=value)
        for value in (None, {}, "label", ["/etc"], ["rgb"], [["label"]], ["label", "label"], [None])
    },
    "complete": set_item("complete", value=1),
    "multimodal": set_item("multimodal", value="yes"),
    "one modality": set_item("multimodal", value=False),
    "multimodal 0": set_item("multimodal", value=0),
    "multimodal 1": set_item("multimodal", value=1),
    "multimodal null": set_item("multimodal", value=None),
    "attributes": set_item("attributes", value=[]),
    "no modality": set_item("committed", "n_rows", value={}),
}


@pytest.mark.parametrize("change", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_open_rejects_damaged_attributes(written, change):
    def change_attributes(metadata):
        change(metadata["attributes"])

    change_json(f"{written}/zarr.json", change_attributes)
    for use in (read_all, info, validate):
        with pytest.raises(StoreError, match=r"attributes of .*store.zarr are damaged: "):
            use(written)


ROOTS = [
    "[]",
    "3",
    "null",
    "{",
    "",
    '{"zarr_format": 3}',
    "[" * 100_000,
    '{"a": ' * 100_000,
    "\0",
    "9" * 9999,
]


@pytest.mark.parametrize("text", ROOTS, ids=range(len(ROOTS)))
@pytest.mark.parametrize("name", [".", "rgb", "label"])
def test_open_rejects_damaged_json(written, name, text):
    Path(written, name, "zarr.json").write_text(text)
    for use in (read_all, validate):
        with pytest.raises(StoreError):
            use(written)


def test_open_rejects_codes_of_other_column(path):
    save_feature_sets(path, ARRAYS, label=list("ab" * 5 + "a"), group=list("abcdefghijk"))
    shutil.copy(f"{path}/group/c/0", f"{path}/label/c/0")
    with pytest.raises(
        StoreError, match=r"'label' .* has 2 classes, but holds the code 2 for item 2"
    ):
        validate(path)
    zarr.open_array(path, path="label")[3] = -1
    with pytest.raises(StoreError, match=r"holds the code -1 for item 3|the code 2 for"):
        open_feature_sets(path).label  # noqa: B018


@pytest.mark.parametrize("classes", [3, [], [1, 2], "ab", [["a"], ["b"]], [None, "b"]])
def test_open_rejects_damaged_classes(path, classes):
    save_feature_sets(path, ARRAYS, label=list("ab" * 5 + "a"))
    zarr.open_array(path, path="label").attrs["classes"] = classes
    with pytest.raises(StoreError, match=r"'label' .* classes that is not a list of strings"):
        validate(path)


def make_folder(path):
    os.mkdir(path)


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(os.path.dirname(path))  # the path of a socket is limited to 108 bytes
        one.bind(os.path.basename(path))


def link(target):
    return lambda path: os.symlink(target, path)


SPECIALS = {
    "pipe": os.mkfifo if hasattr(os, "mkfifo") else None,
    "folder": make_folder,
    "socket": make_socket if hasattr(socket, "AF_UNIX") else None,
    "device": link("/dev/zero"),
    "link to nothing": link("nothing"),
    "link to itself": lambda path: os.symlink(os.path.basename(path), path),
}
FILES = [
    "zarr.json",
    "rgb/zarr.json",
    "rgb/c/1/0",
    "label/zarr.json",
    "label/c/1",
    "id/c/0",
    "rgb/c",
]


@pytest.mark.skipif(os.name != "posix", reason="needs files of Unix")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", SPECIALS.values(), ids=SPECIALS)
def test_open_rejects_special_files(written, name, make, monkeypatch):
    monkeypatch.chdir(".")
    target = Path(written, name)
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    make(str(target))
    for use in (read_all, validate):
        with pytest.raises(StoreError):
            use(str(written))


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
@pytest.mark.parametrize(
    "name", ["rgb", "rgb/c", "rgb/c/1", "rgb/c/1/0", "label", "label/zarr.json"]
)
def test_open_does_not_follow_links_out_of_store(tmp_path, written, name):
    outside = tmp_path / "outside"
    shutil.move(Path(written, name), outside)
    os.symlink(outside, Path(written, name))
    for use in (read_all, validate):
        with pytest.raises(
            StoreError, match=r"is a symbolic link to .*outside, outside of the store"
        ):
            use(written)


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_open_follows_links_within_store_and_to_it(tmp_path, written):
    expected = repr(read_all(written))
    shutil.move(f"{written}/rgb/c/1/0", f"{written}/elsewhere")
    os.symlink("../../../elsewhere", f"{written}/rgb/c/1/0")
    os.symlink(written, tmp_path / "link")
    assert repr(read_all(str(tmp_path / "link"))) == expected


def test_open_rejects_claim_of_many_files_at_once(path):
    n = 10**12
    committed = {"n_items": 1, "n_rows": {"features": n}, "columns": []}
    attributes = {"acluster_format": "ragged-sets", "version": 1, "complete": True}
    attributes |= {"multimodal": False, "committed": committed, "attributes": {}}
    group = zarr.create_group(path, attributes=attributes)
    group.create_array("features", shape=(n, 1), chunks=(1, 1), dtype="f4", compressors=None)
    group.create_array("features_row_size", data=np.array([n]))
    group.create_array("features_offsets", data=np.array([0, n]))
    with pytest.raises(StoreError, match=r"lacks the files c/0/0, c/1/0, c/2/0 and more"):
        open_feature_sets(path)


def test_open_rejects_file_that_claims_too_many_bytes(path):
    n = 10**10
    committed = {"n_items": n, "n_rows": {"features": 5}, "columns": []}
    attributes = {"acluster_format": "ragged-sets", "version": 1, "complete": True}
    attributes |= {"multimodal": False, "committed": committed, "attributes": {}}
    group = zarr.create_group(path, attributes=attributes)
    group.create_array("features", data=np.ones((5, 2), "f4"))
    for name, m in [("features_row_size", n), ("features_offsets", n + 1)]:
        group.create_array(name, shape=(m,), chunks=(m,), dtype="i8", compressors="auto")
        Path(path, name, "c").mkdir()
        Path(path, name, "c/0").write_bytes(b"x" * 99)
    with pytest.raises(StoreError, match=r"has 99 bytes in c/0, but claims to hold 80000000000"):
        open_feature_sets(path)


def test_find_array_ignores_consolidated_metadata(written):
    with pytest.warns(UserWarning, match=r"Consolidated metadata"):
        zarr.consolidate_metadata(written)
    group = zarr.open_group(written, mode="r")
    zarr.open_array(written, path="rgb", mode="r+").attrs["new"] = 1
    assert find_array(group, "rgb", "store").attrs["new"] == 1
    assert repr(read_all(group)) == repr(read_all(written))
    shutil.rmtree(f"{written}/label")
    with pytest.raises(StoreError, match=r"'label' .*is missing"):
        read_all(group)
