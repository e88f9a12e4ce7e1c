"""A small file that would decode to gigabytes is rejected by name, quickly and in little memory."""

import bz2
import gzip
import json
import lzma
import os
import struct
import zipfile
import zlib

import numcodecs
import numpy as np
import pytest
import zarr

from acluster import FeatureSetsWriter, open_feature_sets, save_feature_sets
from acluster.sets import StoreError, info, validate

N = 1 << 31  # bytes that the bombs would take
pytestmark = [
    pytest.mark.usefixtures("within_limits"),
    pytest.mark.filterwarnings("ignore:Numcodecs codecs are not|Combining a `sharding_indexed"),
]


def zstd_frame(n_blocks, declared=None):
    """Return a frame of blocks that repeat one byte 128 KiB times."""
    size = b"" if declared is None else struct.pack("<Q", declared)
    head = b"\x28\xb5\x2f\xfd" + (b"\xc0" if size else b"\0") + b"\x38" + size
    blocks = [((1 << 17) << 3 | 1 << 1 | (i == n_blocks - 1)) for i in range(n_blocks)]
    return head + b"".join(block.to_bytes(3, "little") + b"\0" for block in blocks)


def repeated(compress, n=N):
    """Compress `n` zeros in several members, without holding them in memory."""
    return compress(bytes(1 << 24)) * (n >> 24)


def zlib_stream(n=1 << 28):
    """Compress zeros as one stream."""
    compressor = zlib.compressobj(1)
    parts = [compressor.compress(bytes(1 << 24)) for _ in range(n >> 24)]
    return b"".join([*parts, compressor.flush()])


def blosc():
    data = bytearray(numcodecs.Blosc().encode(bytes(99)))
    data[4:8] = struct.pack("<I", N - 1)
    return bytes(data)


BOMBS = {
    "zstd": zstd_frame(N >> 17, N),
    "zstd without size": zstd_frame(N >> 17),
    "zstd of two frames": zstd_frame(1, 1 << 17) + zstd_frame(N >> 17),
    "zstd after a skipped frame": b"\x50\x2a\x4d\x18\2\0\0\0ab" + zstd_frame(N >> 17),
    "zstd that lies": zstd_frame(N >> 17, 99),
    "blosc": blosc(),
    "gzip": repeated(gzip.compress),
    "zlib": zlib_stream(),
    "bz2": repeated(bz2.compress),
    "lzma": repeated(lzma.compress),
    "lz4": struct.pack("<I", N - 1) + bytes(20),
}


def codec_of(bomb):
    name = bomb.split()[0]
    settings = {"blosc": {"cname": "lz4", "clevel": 1, "shuffle": "noshuffle", "blocksize": 0}}
    settings["blosc"]["typesize"] = 1
    settings |= {"zstd": {"level": 0, "checksum": False}, "gzip": {"level": 1}}
    full = name if name in settings else f"numcodecs.{name}"
    return {"name": full, "configuration": settings.get(name, {})}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "store.zarr"
    with FeatureSetsWriter(path) as writer:
        for i in range(3):
            writer.append(np.ones((2, 2)), id=f"item{i}", weight=1.0)
    return path


def plant(path, name, content, codecs):
    """Replace the chunk of an array, and the codecs that follow the first one."""
    document = json.loads((path / name / "zarr.json").read_text())
    document["codecs"][1:] = codecs
    (path / name / "zarr.json").write_text(json.dumps(document))
    (path / name / "c/0").write_bytes(content)


def read_all(path):
    X = open_feature_sets(path)
    return X.id, X.weight, list(X)


@pytest.mark.parametrize("name", ["features_offsets", "id"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_open_rejects_bomb_in_column(path, name, bomb):
    plant(path, name, BOMBS[bomb], [codec_of(bomb)])
    for use in (read_all, validate):
        with pytest.raises(StoreError, match=f"Array '{name}' of .* (cannot be read|has .* bytes)"):
            use(path)
    info(path)


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("bomb", BOMBS)
def test_read_rejects_bomb_in_features(path, bomb, is_sharded):
    document = json.loads((path / "features/zarr.json").read_text())
    sharding = document["codecs"][0]["configuration"]
    sharding["codecs"][1:] = [codec_of(bomb)]
    content = BOMBS[bomb]
    if is_sharded:
        sharding["index_codecs"] = sharding["index_codecs"][:1]
        n_chunks = document["chunk_grid"]["configuration"]["chunk_shape"][0]
        n_chunks //= sharding["chunk_shape"][0]
        content += struct.pack("<QQ", 0, len(content)) + b"\xff" * 16 * (n_chunks - 1)
    else:
        document["chunk_grid"]["configuration"]["chunk_shape"] = [100, 2]
        document["codecs"] = sharding["codecs"]
    (path / "features/zarr.json").write_text(json.dumps(document))
    (path / "features/c/0/0").write_bytes(content)
    with pytest.raises(StoreError, match=r"array 'features' of store.zarr: rows .* cannot be read"):
        read_all(path)
    with pytest.raises(StoreError, match=r"rray 'features' of .*cannot be read"):
        validate(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("bomb", BOMBS)
def test_save_rejects_bomb_in_group(tmp_path, bomb, zarr_format):
    group = zarr.create_group(tmp_path / "group", zarr_format=zarr_format)
    group.create_array("a", data=np.ones((5, 2), "f4"), compressors=None)
    file = tmp_path / "group/a" / (".zarray" if zarr_format == 2 else "zarr.json")
    document = json.loads(file.read_text())
    if zarr_format == 2:
        document["compressor"] = {"id": bomb.split()[0]}
    else:
        document["codecs"][1:] = [codec_of(bomb)]
    file.write_text(json.dumps(document))
    (tmp_path / "group/a" / ("0.0" if zarr_format == 2 else "c/0/0")).write_bytes(BOMBS[bomb])
    with pytest.raises(StoreError, match=r"Array 'a' of .* cannot be read"):
        save_feature_sets(tmp_path / "new", zarr.open_group(tmp_path / "group"))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "filters",
    [
        [numcodecs.PackBits()] * 9,
        [numcodecs.AsType("c16", "i1")] * 9,
        [numcodecs.AsType("U1000000", "i1")],
        [numcodecs.Zlib()] * 3,
        [numcodecs.VLenUTF8()],
    ],
    ids=["bits", "wider", "text", "compressed", "strings"],
)
def test_save_rejects_filters_that_expand(tmp_path, filters):
    group = zarr.create_group(tmp_path / "group", zarr_format=2)
    group.create_array("a", data=np.ones((500, 2), "i1"), compressors=None)
    file = tmp_path / "group/a/.zarray"
    document = json.loads(file.read_text())
    document["filters"] = [one.get_config() for one in filters]
    if filters[0].codec_id == "vlen-utf8":
        document |= {"dtype": "|O", "fill_value": ""}
    file.write_text(json.dumps(document))
    content = zlib.compress(zlib.compress(zlib_stream())) if len(filters) == 3 else bytes(1000)
    if filters[0].codec_id == "vlen-utf8":
        content = struct.pack("<I", N - 1) + bytes(1000)
    (tmp_path / "group/a/0.0").write_bytes(content)
    with pytest.raises(StoreError, match=r"Array 'a' of .*"):
        save_feature_sets(tmp_path / "new", zarr.open_group(tmp_path / "group"))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_save_rejects_array_that_claims_too_much(tmp_path, zarr_format):
    group = zarr.create_group(tmp_path / "group", zarr_format=zarr_format)
    group.create_array("a", shape=(10**9, 8), chunks=(10, 8), dtype="f4")
    for X in (group, [group["a"]]):
        with pytest.raises(StoreError, match=r"Array 'a' of .* but claims to hold 32000000000"):
            save_feature_sets(tmp_path / "new", X)
    padded = zarr.create_array(tmp_path / "b", shape=(2, 10**9, 8), chunks=(1, 9, 8), dtype="f4")
    with pytest.raises(StoreError, match=r"/b has .* bytes, but claims to hold 64000000000"):
        save_feature_sets(tmp_path / "new", padded)


TEXTS = {
    "number": struct.pack("<I", N - 1) + b"\1\0\0\0a" * 3,
    "largest number": b"\xff" * 4 + b"\1\0\0\0a" * 3,
    "length": struct.pack("<I", 3) + b"\xff\xff\xff\x7fa" * 3,
    "one more": struct.pack("<I", 4) + b"\1\0\0\0a" * 3,
    "nothing": b"",
}


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("text", TEXTS)
def test_open_rejects_claims_of_text(path, text, is_compressed):
    content, codecs = TEXTS[text], []
    if is_compressed:
        content, codecs = gzip.compress(content), [codec_of("gzip")]
    plant(path, "id", content, codecs)
    with pytest.raises(StoreError, match=r"Array 'id' of .* cannot be read"):
        open_feature_sets(path).id  # noqa: B018


@pytest.mark.parametrize("name", ["features/c/0/0", "weight/c/0", "id/c/0"])
def test_open_rejects_file_with_holes(path, name):
    os.truncate(path / name, 1 << 40)
    with pytest.raises(StoreError, match=f"Array '{name.split('/')[0]}' .* has {1 << 40} bytes"):
        read_all(path)


def archive(path, changed, content, method, declared):
    """Put a store into an archive, with other compressed content for a member."""
    target = path.with_suffix(".zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as members:
        for file in sorted(path.rglob("*")):
            name = str(file.relative_to(path))
            if file.is_file() and name != changed:
                members.write(file, name)
        members.writestr(changed, content, zipfile.ZIP_STORED)
        members.getinfo(changed).compress_type = method
        members.getinfo(changed).file_size = declared
    return target


@pytest.mark.parametrize("name", ["weight/c/0", "id/c/0", "zarr.json", "weight/zarr.json"])
@pytest.mark.parametrize("declared", [1 << 28, 1000])
def test_open_rejects_bomb_in_archive(path, name, declared):
    content = BOMBS["zlib"][2:-4]  # without the header and the checksum
    found = archive(path, name, content, zipfile.ZIP_DEFLATED, declared)
    for use in (read_all, validate):
        with pytest.raises(StoreError):
            use(found)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_open_rejects_other_compression_of_archive(path, method):
    found = archive(path, "weight/c/0", b"a", method, 1)
    with pytest.raises(StoreError, match=r"'weight/c/0' that is neither stored nor deflated"):
        open_feature_sets(found)
