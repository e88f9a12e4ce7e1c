"""Readers of rows return the same values as zarr, name damage, and close their files."""

import gc
import os
import pickle
import re
import shutil
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec
from zarr.storage import LocalStore, MemoryStore

from acluster.sets import StoreError
from acluster.sets._store import _block_rows, _decoded_rows, _open_files, _raw_rows
from acluster.sets._store._arrays import check_files
from acluster.sets._store._decoded_rows import DecodedRows
from acluster.sets._store._raw_rows import RawRows
from acluster.sets._store._reader import open_rows

M = 3
FILL = 7
MISSING = 2**64 - 1


def numbers(n_rows, dtype="f4"):
    return np.arange(n_rows * M).reshape(n_rows, M).astype(dtype)


def write(folder, values, *, chunk=4, shard=None, index="end", **options):
    """Array 'rgb' of store.zarr; without `options` as raw as an array can be."""
    config = {"write_empty_chunks": True}
    options = {"compressors": None, "fill_value": FILL, "config": config, **options}
    shards = shard and {"shape": (shard, values.shape[1]), "index_location": index}
    array = zarr.create_array(
        options.pop("store", Path(folder) / "store.zarr"),
        name="rgb",
        shape=values.shape,
        dtype=values.dtype,
        chunks=options.pop("chunks", (chunk, values.shape[1])),
        shards=shards,
        **options,
    )
    array[:] = values
    return array


def write_with_codecs(folder, values, codecs):
    """Chunks of 8 rows."""
    array = zarr.create(
        values.shape,
        store=Path(folder) / "store.zarr",
        path="rgb",
        dtype=values.dtype,
        chunks=(8, M),
        codecs=codecs,
        fill_value=FILL,
        zarr_format=3,
        config={"write_empty_chunks": True},
    )
    array[:] = values
    return array


def shard_file(array, i=0):
    return Path(array.store.root, array.path, "c", str(i), "0")


def split_shard(data, n_chunks, index):
    """The bytes of the chunks, without the index, and the index as an array."""
    size = 16 * n_chunks + 4
    packed = data[:size] if index == "start" else data[-size:]
    return np.frombuffer(packed[:-4], "<u8").reshape(-1, 2).copy()


def pack_index(entries):
    packed = np.asarray(entries, "<u8").tobytes()
    return packed + google_crc32c.value(packed).to_bytes(4, "little")


def scramble(path, n_chunks, index, rng):
    """Write the chunks of a shard in another order, with gaps, under a valid index."""
    data = path.read_bytes()
    entries = split_shard(data, n_chunks, index)
    body = bytes(len(pack_index(entries))) if index == "start" else b""
    for i in rng.permutation(n_chunks):
        begin, size = entries[i].tolist()
        if begin != MISSING:
            body += bytes(rng.integers(0, 5))
            entries[i, 0] = len(body)
            body += data[begin : begin + size]
    packed = pack_index(entries)
    path.write_bytes(packed + body[len(packed) :] if index == "start" else body + packed)


def replace_index(path, n_chunks, chunk, entry, index="end"):
    data = path.read_bytes()
    entries = split_shard(data, n_chunks, index)
    entries[chunk] = entry
    packed = pack_index(entries)
    rest = data[len(packed) :] if index == "start" else data[: -len(packed)]
    path.write_bytes(packed + rest if index == "start" else rest + packed)


def rows_of(values, starts, lengths):
    runs = [values[start : start + n] for start, n in zip(starts, lengths, strict=True)]
    return np.concatenate([values[:0], *runs])


def assert_gathers(rows, values, starts, lengths):
    starts, lengths = np.array(starts, np.int64), np.array(lengths, np.int64)
    expected = rows_of(values, starts, lengths)
    gathered = rows.gather(starts, lengths)
    assert gathered.dtype == rows.dtype
    np.testing.assert_array_equal(gathered, expected)
    buffer = np.full((len(expected) + 2, values.shape[1]), 99, rows.dtype)
    into = rows.gather(starts, lengths, out=buffer)
    assert np.shares_memory(into, buffer) or into.size == 0
    np.testing.assert_array_equal(into, expected)
    assert (buffer[len(expected) :] == 99).all()


def gather_all(rows):
    return rows.gather(np.array([0]), np.array([rows.shape[0]]))


@st.composite
def stored_values(draw):
    values = numbers(
        draw(st.integers(1, 40)), draw(st.sampled_from(["f2", "f4", "f8", "i1", "u2"]))
    )
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    for _ in range(draw(st.integers(0, 3))):  # chunks or shards of nothing but the fill value
        start = draw(st.integers(0, len(values)))
        values[start : start + draw(st.integers(1, 20))] = FILL
    chunk = draw(st.integers(1, 9))
    shard = draw(st.none() | st.integers(1, 5).map(lambda n: n * chunk))
    index = draw(st.sampled_from(["start", "end"]))
    checksums = {"compressors": [Crc32cCodec()]}
    options = draw(st.sampled_from([{}, checksums, checksums, {"compressors": "auto"}]))
    return values, {"chunk": chunk, "shard": shard, "index": index, **options}, rng


@settings(max_examples=40, deadline=None)
@given(stored=stored_values(), data=st.data())
def test_gather_reads_any_runs_of_any_layout(stored, data):
    values, layout, rng = stored
    n_rows = len(values)
    starts = data.draw(st.lists(st.integers(0, n_rows), max_size=12))
    lengths = [data.draw(st.integers(0, n_rows - start)) for start in starts]
    with tempfile.TemporaryDirectory() as folder:
        array = write(folder, values, **layout)
        is_raw = layout.get("compressors") != "auto"
        if is_raw and layout["shard"] and data.draw(st.booleans()):
            for path in shard_file(array).parent.parent.glob("*/0"):
                scramble(path, layout["shard"] // layout["chunk"], layout["index"], rng)
        np.testing.assert_array_equal(array[:], values)  # a scrambled shard is a valid one
        rows = open_rows(array, verify=data.draw(st.booleans()))
        assert type(rows) is (RawRows if is_raw else DecodedRows)
        assert (rows.shape, rows.dtype) == (values.shape, values.dtype)
        assert_gathers(rows, values, starts, lengths)
        assert_gathers(rows, values, [0], [n_rows])
        del rows


LOST = "left out because it equals the fill value|is not there|was not there"
FILLS = {"f4": (0, 7, np.nan, np.inf), "i2": (0, -1, 2**15 - 1), "u1": (0, 255), "f2": (0, np.nan)}


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("shard", [None, 8])
@pytest.mark.parametrize("separator", ["/", "."])
@pytest.mark.parametrize("encoding", ["default", "v2"])
def test_rows_reject_absent_file(tmp_path, monkeypatch, compressors, shard, separator, encoding):
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", 1)
    keys = {"name": encoding, "separator": separator}
    options = {"shard": shard, "chunk_key_encoding": keys, "compressors": compressors}
    write(tmp_path, numbers(20), **options)
    array = zarr.open_array(tmp_path / "store.zarr", path="rgb", mode="r")
    rows = open_rows(array)
    key = separator.join(["c", "1", "0"] if encoding == "default" else ["1", "0"])
    Path(tmp_path, "store.zarr", "rgb", key).unlink()
    with pytest.raises(StoreError, match=f"lacks the files {key}. It has been lost"):
        check_files(array, "store")
    message = error_of(rows)
    assert key in message
    assert re.search(LOST, message)
    assert_gathers(rows, numbers(20), [0, 16], [4, 4])  # the others can still be read


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("shard", [None, 8])
@pytest.mark.parametrize(("dtype", "fill"), [(t, fill) for t in FILLS for fill in FILLS[t]])
def test_rows_tell_lost_chunks_from_stored_fill_values(
    tmp_path, monkeypatch, compressors, local, shard, dtype, fill
):
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", 1)
    values = numbers(24, dtype)
    values[4:8] = fill
    options = {"shard": shard, "fill_value": fill, "compressors": compressors}
    options |= {} if local else {"store": MemoryStore()}
    assert_gathers(open_rows(write(tmp_path, values, **options)), values, [1, 0], [10, 24])
    options |= {"config": {"write_empty_chunks": False}}
    options |= {"store": tmp_path / "other.zarr" if local else MemoryStore()}
    rows = open_rows(write(tmp_path, values, **options))
    for start in (4, 0):
        with pytest.raises(StoreError, match=LOST):
            rows.gather(np.array([start]), np.array([5]))
    assert_gathers(rows, values, [8 if not shard else 16], [4])


def test_gather_reads_nan_fill_value(tmp_path):
    values = numbers(8)
    values[4:] = np.nan
    assert_gathers(open_rows(write(tmp_path, values, fill_value=np.nan)), values, [2], [6])


class DerivedStore(LocalStore):
    pass


NOT_RAW = {
    "compressed": {"compressors": "auto"},
    "compressed in shards": {"compressors": "auto", "shard": 8},
    "big-endian": {"serializer": BytesCodec(endian="big")},
    "transposed": {"filters": [TransposeCodec(order=(1, 0))]},
    "columns apart": {"chunks": (4, 2)},
    "columns apart in shards": {"chunks": (4, 1), "shard": 8},
    "padded columns": {"chunks": (4, 5)},
    "in memory": {"store": MemoryStore()},
}


@pytest.mark.parametrize("options", NOT_RAW.values(), ids=NOT_RAW)
def test_open_rows_decodes_other_layouts(tmp_path, options):
    values = numbers(21)
    rows = open_rows(write(tmp_path, values, **options))
    assert isinstance(rows, DecodedRows)
    assert not rows.is_fast
    assert rows.rows_per_block % 4 == 0
    rows.check()
    assert_gathers(rows, values, [17, 0, 3, 3, 21], [4, 2, 9, 9, 0])


def test_open_rows_decodes_derived_stores(tmp_path):
    array = write(tmp_path, numbers(8), store=DerivedStore(tmp_path / "store.zarr"))
    assert isinstance(open_rows(array), DecodedRows)


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_gather_returns_native_byte_order(tmp_path, compressors):
    values = numbers(9)
    rows = open_rows(write(tmp_path, values.astype(">f4"), compressors=compressors))
    assert isinstance(rows, DecodedRows if compressors else RawRows)
    assert rows.dtype == np.float32
    assert_gathers(rows, values, [1], [8])


def test_raw_rows_are_fast_with_blocks_of_one_chunk(tmp_path):
    rows = open_rows(write(tmp_path, numbers(20), chunk=4, shard=8))
    assert rows.is_fast
    assert rows.rows_per_block == 4


def test_pickled_rows_hold_no_blocks(tmp_path):
    values = np.random.default_rng(0).normal(size=(5000, M)).astype("f4")
    array = write(tmp_path, values, chunk=1000, compressors="auto")
    rows = open_rows(array)
    assert isinstance(rows, DecodedRows)
    size = len(pickle.dumps(rows))
    np.testing.assert_array_equal(rows.gather(np.array([0]), np.array([5000])), values)
    assert len(pickle.dumps(rows)) == size < 5000
    copied = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(copied.gather(np.array([7]), np.array([9])), values[7:16])


def test_error_names_array_at_root_of_store(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr" / "depth", shape=(8, M), dtype="f4")
    with pytest.raises(StoreError, match=r"array 'depth' of a\.zarr has 8 rows"):
        open_rows(array).gather(np.array([9]), np.array([1]))


def test_raw_rows_read_index_without_checksum(tmp_path):
    codec = ShardingCodec(chunk_shape=(2, M), index_codecs=[BytesCodec()])
    values = numbers(20)
    array = write_with_codecs(tmp_path, values, [codec])
    rows = open_rows(array)
    assert isinstance(rows, RawRows)
    assert_gathers(rows, values, [1, 15], [14, 5])
    os.truncate(shard_file(array, 2), 63)
    assert_says(
        error_of(open_rows(array)), "shard c/2/0 ends at byte 63, and its index of 64 bytes"
    )


def test_open_rows_decodes_big_endian_index(tmp_path):
    index_codecs = [BytesCodec(endian="big"), Crc32cCodec()]
    codec = ShardingCodec(chunk_shape=(2, M), index_codecs=index_codecs)
    rows = open_rows(write_with_codecs(tmp_path, numbers(9), [codec]))
    assert isinstance(rows, DecodedRows)
    assert_gathers(rows, numbers(9), [1], [8])


# One system call per stretch of bytes, in the order of the files.


def record_reads(monkeypatch, most=None):
    calls, preadv = [], os.preadv

    def recorded(descriptor, buffers, offset):
        calls.append((os.readlink(f"/proc/self/fd/{descriptor}"), offset, len(buffers[0])))
        return preadv(descriptor, [buffers[0][:most]], offset)

    monkeypatch.setattr(os, "preadv", recorded)
    return calls


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


@needs_proc
def test_raw_rows_merge_adjacent_reads(tmp_path, monkeypatch):
    values = numbers(32)
    rows = open_rows(write(tmp_path, values, chunk=4, shard=16))
    gather_all(rows)  # the indexes are known from here on
    calls = record_reads(monkeypatch)
    rows.gather(np.array([17, 1, 4, 9]), np.array([2, 3, 5, 2]))
    first, second = (str(tmp_path / f"store.zarr/rgb/c/{i}/0") for i in range(2))
    assert calls == [(first, 12, 120), (second, 12, 24)]


@needs_proc
def test_raw_rows_read_each_index_once(tmp_path, monkeypatch):
    rows = open_rows(write(tmp_path, numbers(32), chunk=4, shard=16))
    calls = record_reads(monkeypatch)
    for _ in range(3):
        rows.gather(np.array([0, 20]), np.array([1, 1]))
    assert sorted({size for _, _, size in calls}) == [12, 68]
    assert [size for _, _, size in calls].count(68) == 2


@needs_proc
def test_raw_rows_continue_short_reads(tmp_path, monkeypatch):
    rows = open_rows(write(tmp_path, numbers(32), chunk=4, shard=16))
    calls = record_reads(monkeypatch, most=10)
    assert_gathers(rows, numbers(32), [3, 0], [20, 7])
    assert len(calls) > 30


def test_raw_rows_read_without_preadv(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "preadv", raising=False)
    read = os.read
    monkeypatch.setattr(os, "read", lambda file, n_bytes: read(file, min(n_bytes, 10)))
    rows = open_rows(write(tmp_path, numbers(32), chunk=4, shard=16))
    assert_gathers(rows, numbers(32), [3, 0, 30], [20, 7, 2])


def descriptors(folder):
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(entry))
        except FileNotFoundError:  # the listing's own
            continue
    return [link for link in links if link.startswith(str(folder))]


@needs_proc
def test_raw_rows_bound_and_close_descriptors(tmp_path, monkeypatch):
    monkeypatch.setattr(_open_files, "_MAX_OPEN_FILES", 3)
    values = numbers(40)
    rows = open_rows(write(tmp_path, values, chunk=4))
    gather_all(rows)
    assert_gathers(rows, values, [30, 2, 17], [5, 2, 9])
    assert len(descriptors(tmp_path)) == 3
    rows.check()
    assert len(descriptors(tmp_path)) == 3
    del rows
    gc.collect()
    assert descriptors(tmp_path) == []


@needs_proc
def test_raw_rows_close_least_recently_used_file(tmp_path, monkeypatch):
    monkeypatch.setattr(_open_files, "_MAX_OPEN_FILES", 2)
    array = write(tmp_path, numbers(12), chunk=4)
    rows = open_rows(array)
    for row in [0, 4, 0, 8]:
        rows.gather(np.array([row]), np.array([1]))
    assert set(descriptors(tmp_path)) == {str(shard_file(array, i)) for i in (0, 2)}


@needs_proc
def test_open_files_are_within_limit_of_process(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    readers = [open_rows(write(tmp_path / f"{i}", numbers(40), chunk=1)) for i in range(4)]
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 40, most))
        for rows in readers:
            np.testing.assert_array_equal(gather_all(rows), numbers(40))
        # Others leave room for 3 files only: those in the cache are closed for it.
        taken = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())), most)
        )
        monkeypatch.setattr(_open_files, "_limit", lambda: 1000)
        for rows in readers:
            np.testing.assert_array_equal(gather_all(rows), numbers(40))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
        for descriptor in taken:
            os.close(descriptor)


@needs_proc
def test_too_many_open_files_of_others_are_named(tmp_path, monkeypatch):
    rows = open_rows(write(tmp_path, numbers(8)))

    def refuse(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"array 'rgb' .*cannot be read: .*Too many open files"):
        gather_all(rows)


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_gather_after_pickling_and_in_thread(tmp_path, compressors):
    values = numbers(32)
    rows = open_rows(write(tmp_path, values, shard=16, compressors=compressors))
    gather_all(rows)
    assert_gathers(pickle.loads(pickle.dumps(rows)), values, [3, 30], [20, 2])
    gathered = []
    thread = threading.Thread(target=lambda: gathered.append(gather_all(rows)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(gathered[0], values)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_gather_after_fork(tmp_path):
    values = numbers(32)
    rows = open_rows(write(tmp_path, values, shard=16))
    gather_all(rows)
    child = os.fork()
    if not child:
        os._exit(0 if np.array_equal(gather_all(rows), values) else 1)
    np.testing.assert_array_equal(gather_all(rows), values)
    assert os.waitpid(child, 0)[1] == 0


# The cache of decoded blocks.


class SlicesOf:
    """An array that writes down what is read of it."""

    def __init__(self, array):
        self.array, self.slices = array, []

    def __getitem__(self, key):
        self.slices.append((key.start, key.stop))
        return self.array[key]


def decoded(tmp_path, monkeypatch, n_rows=40, *, cache=1 << 20, read=1 << 20, block=1, chunk=4):
    monkeypatch.setattr(_block_rows, "CACHE_BYTES", cache)
    monkeypatch.setattr(_decoded_rows, "_READ_BYTES", read)
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", block)
    rows = open_rows(write(tmp_path, numbers(n_rows), compressors="auto", chunk=chunk))
    rows._array = SlicesOf(rows._array)
    return rows, rows._array.slices


def test_decoded_rows_read_adjacent_blocks_in_one_call(tmp_path, monkeypatch):
    rows, slices = decoded(tmp_path, monkeypatch)
    assert_gathers(rows, numbers(40), [30, 1, 9, 1], [2, 3, 6, 8])
    assert slices == [(0, 16), (28, 32)]


def test_decoded_rows_cache_blocks(tmp_path, monkeypatch):
    rows, slices = decoded(tmp_path, monkeypatch)
    for start, length in [(4, 1), (0, 12), (17, 0)]:
        assert_gathers(rows, numbers(40), [start], [length])
    assert slices == [(4, 8), (0, 4), (8, 12)]


def test_decoded_rows_bound_bytes_of_one_call(tmp_path, monkeypatch):
    rows, slices = decoded(tmp_path, monkeypatch, read=2 * 4 * 12)
    assert_gathers(rows, numbers(40), [0], [20])
    assert slices == [(0, 8), (8, 16), (16, 20)]


def test_decoded_rows_join_small_chunks(tmp_path, monkeypatch):
    rows, slices = decoded(tmp_path, monkeypatch, block=100, read=1)
    assert rows.rows_per_block == 12
    assert_gathers(rows, numbers(40), [13, 38], [1, 2])
    assert slices == [(12, 24), (36, 40)]


def test_decoded_rows_drop_least_recently_used_blocks(tmp_path, monkeypatch):
    rows, slices = decoded(tmp_path, monkeypatch, cache=3 * 48, read=1)
    for row in [0, 4, 8, 0, 12, 0, 4]:  # 12 drops block 1, for 0 was used after it
        rows.gather(np.array([row]), np.array([1]))
    assert slices == [(0, 4), (4, 8), (8, 12), (12, 16), (4, 8)]
    np.testing.assert_array_equal(gather_all(rows), numbers(40))
    assert sum(block.nbytes for block in rows._blocks.values()) == 3 * 48
    assert all(block.base is None for block in rows._blocks.values())


def test_decoded_rows_decode_each_block_once_per_gather(tmp_path, monkeypatch):
    rows, slices = decoded(tmp_path, monkeypatch, cache=1, read=1)
    starts = np.array([0, 20, 1, 21, 2, 22])
    np.testing.assert_array_equal(
        rows.gather(starts, np.ones(6, int)), rows_of(numbers(40), starts, [1] * 6)
    )
    assert slices == [(0, 4), (20, 24)]


# Damage: every message names the array, the file and the place.


def error_of(rows, act=gather_all):
    with pytest.raises(StoreError) as caught:
        act(rows)
    return str(caught.value)


def assert_says(message, *parts):
    for part in ("array 'rgb' of store.zarr", "rite the store again.", *parts):
        assert part in message, f"{part!r} is not in: {message}"


@pytest.mark.parametrize(
    ("start", "length"), [(19, 2), (-1, 1), (21, 0), (3, -1), (2**63 - 1, 2), (0, 2**63 - 1)]
)
@pytest.mark.parametrize("compressors", [None, "auto"])
def test_gather_rejects_run_outside_array(tmp_path, compressors, start, length):
    rows = open_rows(write(tmp_path, numbers(20), compressors=compressors))
    message = error_of(rows, lambda r: r.gather(np.array([0, start]), np.array([1, length])))
    assert_says(message, f"has 20 rows, but run 1 is {length} rows from row {start} on")


def test_open_rows_rejects_one_dimensional_array(tmp_path):
    array = zarr.create_array(tmp_path / "store.zarr", name="rgb", shape=(4,), dtype="f4")
    with pytest.raises(StoreError, match=r"array 'rgb' of store.zarr has shape \(4,\)"):
        open_rows(array)


@pytest.mark.parametrize(
    "out",
    [
        np.empty((4, M), "f4"),
        np.empty((5, M + 1), "f4"),
        np.empty((5, M), "f8"),
        np.empty((5, M), ">f4"),
        np.empty((5, M), "f4", order="F"),
        np.empty(5 * M, "f4"),
        np.broadcast_to(np.float32(0), (5, M)),
    ],
)
def test_gather_rejects_invalid_out(tmp_path, out):
    rows = open_rows(write(tmp_path, numbers(20)))
    said = f"float32, with at least 5 rows of 3; got shape {out.shape}, dtype {out.dtype}"
    with pytest.raises(ValueError, match=re.escape(said)):
        rows.gather(np.array([2]), np.array([5]), out=out)


both_ways = pytest.mark.parametrize(
    "act", [gather_all, lambda r: r.check()], ids=["gather", "check"]
)


@both_ways
@pytest.mark.parametrize("index", ["start", "end"])
def test_raw_rows_reject_wrong_checksum(tmp_path, act, index):
    array = write(tmp_path, numbers(32), shard=16, index=index)
    path = shard_file(array, 1)
    data = bytearray(path.read_bytes())
    at = 0 if index == "start" else 192
    data[at + 9] ^= 1
    path.write_bytes(data)
    message = error_of(open_rows(array), act)
    assert_says(
        message,
        "shard c/1/0 ends at byte 260, and its index of 68 bytes",
        f"at byte {at}",
        "does not match its checksum",
    )


@both_ways
@pytest.mark.parametrize("index", ["start", "end"])
@pytest.mark.parametrize("size", [0, 67])
def test_raw_rows_reject_file_shorter_than_index(tmp_path, act, index, size):
    array = write(tmp_path, numbers(32), shard=16, index=index)
    os.truncate(shard_file(array, 1), size)
    message = error_of(open_rows(array), act)
    assert_says(message, f"shard c/1/0 ends at byte {size}, and its index of 68 bytes at byte 0")


@both_ways
def test_raw_rows_reject_truncation_after_leading_index(tmp_path, act):
    array = write(tmp_path, numbers(32), shard=16, index="start")
    os.truncate(shard_file(array, 1), 259)
    message = error_of(open_rows(array), act)
    assert_says(
        message,
        "shard c/1/0 places chunk 3 (from row 28 on) at bytes 212 to 260",
        "a chunk has 48 bytes, between byte 68 and byte 259 of this file",
    )


@both_ways
def test_raw_rows_reject_truncation_of_trailing_index(tmp_path, act):
    array = write(tmp_path, numbers(32), shard=16)
    os.truncate(shard_file(array, 1), 200)
    assert_says(error_of(open_rows(array), act), "shard c/1/0 ends at byte 200", "truncated")


WRONG_ENTRIES = {
    "outside": (160, 48),
    "far outside": (2**64 - 2, 48),
    "too few bytes": (0, 47),
    "too many bytes": (0, 49),
    "half missing": (MISSING, 48),
    "the other half missing": (0, MISSING),
}


@both_ways
@pytest.mark.parametrize("entry", WRONG_ENTRIES.values(), ids=WRONG_ENTRIES)
def test_raw_rows_reject_invalid_index_entry(tmp_path, act, entry):
    array = write(tmp_path, numbers(32), shard=16)
    replace_index(shard_file(array, 1), 4, 2, entry)
    begin, size = entry
    message = error_of(open_rows(array), act)
    assert_says(
        message,
        f"shard c/1/0 places chunk 2 (from row 24 on) at bytes {begin} to {begin + size}",
        "a chunk has 48 bytes, between byte 0 and byte 192",
    )


def test_raw_rows_reject_chunk_inside_leading_index(tmp_path):
    array = write(tmp_path, numbers(32), shard=16, index="start")
    replace_index(shard_file(array), 4, 1, (20, 48), "start")
    assert_says(error_of(open_rows(array)), "places chunk 1 (from row 4 on) at bytes 20 to 68")


@both_ways
@pytest.mark.parametrize("size", [0, 47, 49])
def test_raw_rows_reject_chunk_file_of_wrong_size(tmp_path, act, size):
    array = write(tmp_path, numbers(32))
    os.truncate(shard_file(array, 5), size)
    message = error_of(open_rows(array), act)
    assert_says(message, f"shard c/5/0 places chunk 0 (from row 20 on) at bytes 0 to {size}", "48")


def test_raw_rows_reject_file_truncated_while_open(tmp_path):
    array = write(tmp_path, numbers(32), shard=16)
    rows = open_rows(array)
    gather_all(rows)
    os.truncate(shard_file(array, 1), 100)
    assert_says(
        error_of(rows), "c/1/0 ends at byte 100, but its index places rows at bytes 0 to 192"
    )


def test_raw_rows_report_damage_again_after_failed_check(tmp_path):
    array = write(tmp_path, numbers(32), shard=16)
    rows = open_rows(array)
    gather_all(rows)
    whole = shard_file(array, 1).read_bytes()
    shard_file(array, 1).write_bytes(whole[:-1])
    error_of(rows, lambda r: r.check())
    assert_says(error_of(rows), "shard c/1/0 ends at byte 259")
    shard_file(array, 1).write_bytes(whole)
    rows.check()
    np.testing.assert_array_equal(gather_all(rows), numbers(32))


def test_check_reads_replaced_file(tmp_path):
    array = write(tmp_path, numbers(32), shard=16)
    rows = open_rows(array)
    gather_all(rows)
    part = tmp_path / "part"
    part.write_bytes(shard_file(array, 1).read_bytes()[:-1])
    part.replace(shard_file(array, 1))
    assert_says(error_of(rows, lambda r: r.check()), "shard c/1/0 ends at byte 259")


@pytest.mark.parametrize("shard", [None, 16])
def test_decoded_rows_reject_damaged_block(tmp_path, monkeypatch, shard):
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", 1)
    array = write(tmp_path, numbers(32), shard=shard, compressors="auto")
    path = shard_file(array, 1)
    path.write_bytes(bytes(len(path.read_bytes())))
    start, block = (16, 4) if shard else (4, 1)
    with pytest.raises(StoreError) as caught:
        open_rows(array).gather(np.array([start]), np.array([1]))
    place = f"rows {start} to {start + 3} (blocks {block} to {block} of 4 rows) cannot be read"
    assert_says(str(caught.value), place)
    said = str(caught.value.__cause__).rstrip(".")
    assert f": {said}. Restore the files" in str(caught.value)


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("has_preadv", [True, False])
def test_gather_is_thread_safe(tmp_path, monkeypatch, compressors, has_preadv):
    lseek = os.lseek

    def slow_lseek(*arguments):
        position = lseek(*arguments)
        time.sleep(1e-4)  # another thread may move the position now
        return position

    if not has_preadv:
        monkeypatch.delattr(os, "preadv", raising=False)
        monkeypatch.setattr(os, "lseek", slow_lseek)
    monkeypatch.setattr(_open_files, "_MAX_OPEN_FILES", 2)
    sizes = ((_block_rows, "CACHE_BYTES", 100), (_block_rows, "_BLOCK_BYTES", 1))
    for module, name, n_bytes in (*sizes, (_decoded_rows, "_READ_BYTES", 1)):
        monkeypatch.setattr(module, name, n_bytes)
    values = numbers(60)
    array = write(tmp_path, values, chunk=4, compressors=compressors)
    interval = sys.getswitchinterval()
    wrong = []

    def gather(rows, seed):
        rng = np.random.default_rng(seed)
        for _ in range(25):
            starts = rng.integers(60, size=5)
            found = rows.gather(starts, np.ones(5, int))
            if not np.array_equal(found, values[starts]):
                wrong.append((seed, starts, found))

    try:
        sys.setswitchinterval(1e-6)
        for _ in range(2):
            rows = open_rows(array)  # new, so that both threads load the indexes at the same time
            with ThreadPoolExecutor(2) as pool:
                for done in [pool.submit(gather, rows, seed) for seed in range(2)]:
                    done.result()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_gather_of_raw_rows_reads_in_several_threads_at_the_same_time(tmp_path, monkeypatch):
    values, n_threads = numbers(60), 3
    rows = open_rows(write(tmp_path, values, chunk=4))
    gather_all(rows)  # which loads the indices
    barrier, read = threading.Barrier(n_threads, timeout=20), _raw_rows._read_bytes

    def read_together(*arguments):
        barrier.wait()  # all threads are reading, or it times out
        return read(*arguments)

    monkeypatch.setattr(_raw_rows, "_read_bytes", read_together)
    with ThreadPoolExecutor(n_threads) as pool:
        firsts = [0, 20, 40]
        found = pool.map(lambda first: rows.gather(np.array([first]), np.array([3])), firsts)
        for first, part in zip(firsts, found, strict=True):
            np.testing.assert_array_equal(part, values[first : first + 3])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process")
def test_gather_in_fork_ignores_lock_held_by_parent(tmp_path):
    rows = open_rows(write(tmp_path, numbers(8), chunk=4))
    with rows._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(gather_all(rows), numbers(8)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# Checksums of chunks.


@pytest.mark.parametrize("shard", [None, 16])
@pytest.mark.parametrize("place", [0, 7, 47, 48, 51])
def test_verify_rejects_changed_bit_of_chunk(tmp_path, shard, place):
    array = write(tmp_path, numbers(32), shard=shard, compressors=[Crc32cCodec()])
    path = shard_file(array, 0 if shard else 1)
    data = bytearray(path.read_bytes())
    data[place + (52 if shard else 0)] ^= 4
    path.write_bytes(data)
    rows = open_rows(array, verify=True)
    rows.check()
    assert_gathers(rows, numbers(32), [0, 8], [4, 24])
    message = error_of(rows)
    assert_says(message, "(from row 4 on) that does not match its checksum; the file is damaged")
    gather_all(open_rows(array))  # not compared
    with pytest.raises(ValueError, match="checksum"):
        array[...]  # any other reader of zarr compares too


@needs_proc
def test_verify_compares_each_chunk_once(tmp_path, monkeypatch):
    rows = open_rows(write(tmp_path, numbers(32), compressors=[Crc32cCodec()]), verify=True)
    calls = record_reads(monkeypatch)
    for start, length in [(5, 2), (4, 4), (0, 9)]:
        assert_gathers(rows, numbers(32), [start], [length])
    assert [size for _, _, size in calls].count(52) == 3


@needs_proc
def test_raw_rows_read_across_checksums_in_one_call(tmp_path, monkeypatch):
    rows = open_rows(write(tmp_path, numbers(32), shard=16, compressors=[Crc32cCodec()]))
    gather_all(rows)
    calls, preadv = [], os.preadv
    monkeypatch.setattr(os, "preadv", lambda *a: calls.append(a[2]) or preadv(*a))
    assert_gathers(rows, numbers(32), [1, 20], [14, 3])
    assert len(calls) == 4  # a call for each run, twice


def test_rows_are_the_same_as_without_checksums_if_reads_are_short(tmp_path, monkeypatch):
    rows = open_rows(write(tmp_path, numbers(32), shard=16, compressors=[Crc32cCodec()]))
    record_reads(monkeypatch, most=10)
    assert_gathers(rows, numbers(32), [3, 0], [20, 7])
    monkeypatch.delattr(os, "preadv", raising=False)
    assert_gathers(rows, numbers(32), [3, 0], [20, 7])


def remove_store(array):
    shutil.rmtree(array.store.root)


def replace_store(array):
    values = array[...] + 1
    shutil.rmtree(array.store.root)
    write(Path(array.store.root).parent, values, shard=array.shards and 8)


def change_file(array):
    path = shard_file(array, 0)
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("shard", [None, 8])
@pytest.mark.parametrize("act", [remove_store, replace_store, change_file])
def test_raw_rows_reject_store_changed_after_opening(tmp_path, monkeypatch, shard, act):
    monkeypatch.setattr(_open_files, "_MAX_OPEN_FILES", 1)
    array = write(tmp_path, numbers(32), shard=shard)
    rows = open_rows(array)
    gather_all(rows)
    act(array)
    assert re.search("has (been removed|changed) since the store was opened", error_of(rows))
    if act is not remove_store:
        rows.check()  # as if it was opened again
        gather_all(rows)


@pytest.mark.parametrize("act", [remove_store, replace_store])
def test_decoded_rows_reject_store_changed_after_opening(tmp_path, act):
    rows = open_rows(write(tmp_path, numbers(32), compressors="auto"))
    array = rows._array._array
    act(array)
    assert "has been removed or changed since the store was opened" in error_of(rows)
