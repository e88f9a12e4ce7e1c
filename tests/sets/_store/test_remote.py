"""Stores in object storage hold what local ones do; failures are retried, then named."""

import gc
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV

import acluster
from acluster import (
    AttentionClusterClassifier,
    FeatureSets,
    FeatureSetsWriter,
    open_feature_sets,
    save_feature_sets,
)
from acluster.sets import StoreError, info, merge_stores, validate
from acluster.sets._store import _block_rows, _format, _remote, _remote_rows
from acluster.sets._store._decoded_rows import DecodedRows
from acluster.sets._store._reader import open_rows
from acluster.sets._store._remote_rows import RemoteRows
from acluster.training._batches import shuffled
from tests.object_server import KEY, SECRET, ObjectServer, copy_store
from tests.sets._store.helpers import assert_holds, shrink, write_items

pytest.importorskip("obstore", reason="object storage needs the extra cloud")


@pytest.fixture(scope="module")
def one_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    (folder / "bucket").mkdir()
    with ObjectServer(folder) as server:
        server.folder = folder
        yield server


@pytest.fixture(autouse=True)
def _logs_hide_credentials(caplog):
    """Fail if anything logs a credential, also of exceptions that nobody waited for."""
    caplog.set_level(logging.DEBUG)
    yield
    gc.collect()
    assert KEY not in caplog.text
    assert SECRET not in caplog.text


@pytest.fixture
def server(one_server, monkeypatch):
    """A server without faults, whose credentials are in the environment."""
    for name, value in one_server.environment.items():
        monkeypatch.setenv(name, value)
    one_server.mend()
    one_server.set(delay=0.0, rate=0.0, needs_key=True)
    one_server.counts()
    yield one_server
    one_server.mend()


@pytest.fixture
def impatient(monkeypatch):
    """Wait for a fraction of a second where users wait for many."""
    monkeypatch.setattr(_remote, "STALL_SECONDS", 0.4)
    monkeypatch.setattr(_remote, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(_remote, "LONGEST_PAUSE_SECONDS", 0.05)


def local_store(folder, n=60, width=8, seed=0):
    """Write a store of many shards and chunks; return its path and its sets."""
    rng = np.random.default_rng(seed)
    X = FeatureSets.from_arrays([rng.normal(size=(rng.integers(1, 9), width)) for _ in range(n)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_format, "_CHUNK_BYTES", 16 * width * 4)
        patch.setattr(_format, "_SHARD_BYTES", 64 * width * 4)
        names = [f"item{i}" for i in range(n)]
        save_feature_sets(folder, X, label=np.arange(n) % 3, id=names)
    return folder, open_feature_sets(folder)


@pytest.fixture
def stored(server, tmp_path):
    """The address of a store, and what is in it."""
    path, X = local_store(tmp_path / f"{time.monotonic_ns()}.zarr")
    return copy_store(path, server.folder), X.load()


def object_store(server, address, **config):
    """Return the zarr store that users may make, with credentials in its settings."""
    from obstore.store import S3Store

    given = {"endpoint": server.endpoint, "region": "us-east-1", **config}
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    options = {"client_options": {"allow_http": True}}
    return zarr.storage.ObjectStore(S3Store(bucket, prefix=prefix, config=given | keys, **options))


WAYS = {
    "s3": lambda server, address: address,
    "http": lambda server, address: address.replace("s3:/", server.endpoint),
    "zarr.storage": object_store,
    "group": lambda server, address: zarr.open_group(object_store(server, address), mode="r"),
}


def assert_same(X, expected):
    np.testing.assert_array_equal(X.packed()[0], expected.packed()[0])
    np.testing.assert_array_equal(X.lengths, expected.lengths)
    for name in ("label", "id"):
        stored = getattr(X, name)
        assert stored is not None
        assert stored.tolist() == [
            {"label": i % 3, "id": f"item{i}"}[name] for i in X.numbers.tolist()
        ]


# Reading


@pytest.mark.parametrize("way", WAYS)
def test_open_reads_what_was_saved(server, stored, way):
    address, expected = stored
    X = open_feature_sets(WAYS[way](server, address))
    assert_same(X, expected)
    assert isinstance(X._source.rows, RemoteRows)
    assert validate(WAYS[way](server, address)).n_items == len(expected)
    chosen = [5, 3, 59, 3]
    assert_same(X[chosen], expected[chosen])


def test_open_reads_modalities_columns_and_places(server, sound_store):
    assert_holds(copy_store(sound_store, server.folder, name="sound.zarr"), 12)


LAYOUTS = {
    "raw": {"compressors": None},
    "checksums": {"compressors": zarr.codecs.Crc32cCodec()},
    "compressed": {"compressors": zarr.codecs.ZstdCodec()},
    "chunks": {"compressors": None, "shards": None},
    "index first": {"compressors": None, "shards": {"shape": (12, 3), "index_location": "start"}},
}


@pytest.mark.parametrize("block_bytes", [1, 100])
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gather_reads_any_runs_of_any_layout(server, layout, verify, block_bytes, monkeypatch):
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(_block_rows, "CACHE_BYTES", 200)
    monkeypatch.setattr(_remote_rows, "_TOGETHER_BYTES", 150)
    monkeypatch.setattr(_remote_rows, "_GAP_BYTES", 60)
    values = np.random.default_rng(0).normal(size=(50, 3)).astype("f4")
    given_ = {"chunks": (4, 3), "shards": (12, 3), "fill_value": np.nan} | LAYOUTS[layout]
    name = f"{layout.replace(' ', '-')}.zarr"
    path = server.folder / "bucket" / name
    zarr.create_array(path, data=values, overwrite=True, **given_)

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 12)), max_size=8))
    def check(runs):
        starts = np.array([start for start, _ in runs], int)
        lengths = np.array([min(n, 50 - start) for start, n in runs], int)
        expected = [values[a : a + n] for a, n in zip(starts, lengths, strict=True)]
        expected = np.concatenate([values[:0], *expected])
        np.testing.assert_array_equal(rows.gather(starts, lengths), expected)
        assert len(rows._blocks) <= rows._max_blocks

    from acluster.sets._store._addresses import Address

    store = _remote.connected(Address(f"s3://bucket/{name}"))
    rows = open_rows(zarr.open_array(store, mode="r"), verify)
    assert isinstance(rows, DecodedRows if layout == "compressed" else RemoteRows)
    rows.check()
    check()


def test_gather_fetches_side_by_side_and_each_index_once(server, stored, monkeypatch):
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", 1)
    address, expected = stored
    X = open_feature_sets(address)
    server.set(delay=0.05)
    server.counts()
    order = np.random.default_rng(0).permutation(len(X))
    started = time.perf_counter()
    X[order].packed()
    assert time.perf_counter() - started < 20 * 0.05
    counts = server.counts()
    n_shards = len({key for key in counts["keys"] if "features/c/" in key})
    assert n_shards > 3
    assert n_shards <= counts["requests"] <= 40
    assert n_shards <= counts["peak"] <= _remote.MAX_REQUESTS
    for items in (order[:5], order[::-1]):
        np.testing.assert_array_equal(X[items].packed()[0], expected[items].packed()[0])
    assert server.counts()["requests"] == 0  # from the cache


@pytest.mark.parametrize("verify", [False, True])
def test_shuffled_epoch_fetches_few_bytes_twice(server, stored, monkeypatch, verify):
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", 1024)  # two chunks of 16 rows
    monkeypatch.setattr(_block_rows, "CACHE_BYTES", 4096)
    address, expected = stored
    X = open_feature_sets(address, verify=verify)
    assert X._source.rows.rows_per_block == 32
    order = shuffled(len(X), np.random.RandomState(0), X.blocks)
    order = order[np.argsort(X.blocks[order], kind="stable")[::-1]]  # windows of one block
    server.counts()
    for k in range(0, len(order), 4):
        found, _ = X[order[k : k + 4]].packed()
        np.testing.assert_array_equal(found, expected[order[k : k + 4]].packed()[0])
    n_bytes = server.counts()["bytes"]
    most = X.nbytes + 8 * 8 * 4 * -(-len(X.packed()[0]) // 32) + 100 * 20
    assert n_bytes <= (1.6 * most if verify else 1.1 * most)


def test_fetched_has_at_most_so_many_requests_in_flight(server, stored):
    address, _ = stored
    store = open_feature_sets(address)._source.store.group.store
    server.set(delay=0.05)
    found = _remote.fetched(store, [("features/c/0/0", i, i + 3) for i in range(70)])
    data = Path(server.folder, address.removeprefix("s3://"), "features/c/0/0").read_bytes()
    assert [bytes(one) for one in found] == [data[i : i + 3] for i in range(70)]
    assert 16 <= server.counts()["peak"] <= 32


def test_rows_in_order_are_fetched_in_few_large_requests(server, tmp_path):
    n_rows, width = 1 << 15, 256
    values = np.random.default_rng(0).standard_normal((n_rows, width), np.float32)
    path = tmp_path / "large.zarr"
    save_feature_sets(path, FeatureSets(values, np.arange(0, n_rows + 1, 64)))
    X = open_feature_sets(copy_store(path, server.folder, name="large.zarr"))
    server.set(delay=0.02)
    server.counts()
    rows = X._source.rows
    for first in range(0, len(X), 16):
        found, _ = X[first : first + 16].packed()
        np.testing.assert_array_equal(found, values[first * 64 : (first + 16) * 64])
        assert sum(block.nbytes for block in rows._blocks.values()) <= _block_rows.CACHE_BYTES
    counts = server.counts()
    assert counts["requests"] <= 1 + values.nbytes / 1e6
    assert counts["bytes"] <= 1.02 * values.nbytes
    assert counts["peak"] >= 8


def test_estimators_and_searches_take_addresses(server, stored, tmp_path):
    address, local = stored
    y = np.arange(len(local)) % 3
    parameters = {"cluster_size": 2, "max_iter": 2, "random_state": 0, "batch_size": 8}
    clf = AttentionClusterClassifier(**parameters)
    expected = clf.fit(local, y).predict_proba(local)
    for given_ in (
        address,
        address.replace("s3:/", server.endpoint),
        object_store(server, address),
    ):
        fitted = AttentionClusterClassifier(cache="memory", **parameters).fit(given_, y)
        np.testing.assert_array_equal(fitted.predict_proba(given_), expected)
        streamed = AttentionClusterClassifier(cache="stream", **parameters).fit(given_, y)
        assert np.isfinite(streamed.predict_proba(given_)).all()
    search = GridSearchCV(clf, {"cluster_size": [1, 2]}, cv=2, n_jobs=2, error_score="raise")
    search.fit(open_feature_sets(address), y)
    clf.save(tmp_path / "a.model")
    loaded = acluster.load(tmp_path / "a.model")
    np.testing.assert_array_equal(loaded.predict_proba(address), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_reading_in_a_fork_is_an_error_and_does_not_hang(server, stored):
    code = (
        "import os, sys; from acluster import open_feature_sets\n"
        "X = open_feature_sets(sys.argv[1]); X[0]\n"
        "if os.fork() == 0:\n"
        "    try: open_feature_sets(sys.argv[1])\n"
        "    except Exception as error: print(type(error).__name__, error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, stored[0]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert re.search(r"RemoteError .*is a fork; .*Start processes with 'spawn'", done.stdout), done


def test_a_process_ends_well_right_after_a_request(server, stored):
    # Threads that need Python while it ends would abort the process, now and then.
    code = (
        "import sys; from acluster import open_feature_sets\n"
        "try: open_feature_sets(sys.argv[1])\n"
        "except FileNotFoundError: pass"
    )
    addresses = [stored[0], "s3://bucket/none"] * 3
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen([*command, address]) for address in addresses]
    assert [one.wait(timeout=120) for one in running] == [0] * 6


# Failures

SHARD = r"features/c/1/0"


@pytest.mark.parametrize("kind", ["503", "stall", "drop", "half", "half stall"])
def test_reading_goes_on_after_a_failure_that_passes(server, stored, impatient, kind):
    address, expected = stored
    server.fail(kind, times=2)
    X = open_feature_sets(address)
    server.fail(kind, SHARD, times=2)
    assert_same(X, expected)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("403", "the server answered 403 Forbidden. Check that .* credentials allow this"),
        ("503", "the server answered 503 Service Unavailable. Several attempts failed"),
        ("stall", "the server did not answer in time. Several attempts failed"),
        ("drop", "the server closed the connection. Several attempts failed"),
        ("half", "the server closed the connection. Several attempts failed"),
        ("half stall", "the server did not answer in time. Several attempts failed"),
        ("404", "does not exist"),
        ("damage", "damaged"),
    ],
)
def test_a_failure_that_stays_is_an_error_that_names_the_object(
    server, stored, impatient, kind, cause
):
    X = open_feature_sets(stored[0])
    server.counts()
    server.fail(kind, SHARD)
    started = time.perf_counter()
    with pytest.raises(StoreError, match=rf"{stored[0]}/{SHARD}.*{cause}") as caught:
        X.packed()
    assert time.perf_counter() - started < 10
    requests = [key for key in server.counts()["keys"] if SHARD in key]
    is_final = kind in ("403", "404", "damage")
    assert len(requests) in (range(1, 3) if is_final else range(_remote.MAX_RETRIES + 1, 20))
    assert_hides_credentials(caught.value)
    server.mend()
    assert len(X.packed()[0]) == X.lengths.sum()


@pytest.mark.parametrize("kind", ["403", "503", "stall", "drop"])
@pytest.mark.parametrize("name", ["zarr.json", "features_offsets/c/0", "label/zarr.json"])
def test_open_names_the_object_that_cannot_be_read(server, stored, impatient, kind, name):
    server.fail(kind, name)
    with pytest.raises(StoreError, match=rf"Cannot read {stored[0]}/[a-z/]*{name}: ") as caught:
        open_feature_sets(stored[0])
    assert_hides_credentials(caught.value)


def test_compressed_rows_name_the_object_that_cannot_be_read(server, impatient, monkeypatch):
    path = server.folder / "bucket" / "zipped.zarr"
    zarr.create_array(
        path, data=np.ones((40, 2)), chunks=(4, 2), compressors=zarr.codecs.ZstdCodec()
    )
    monkeypatch.setattr(_block_rows, "_BLOCK_BYTES", 1)
    from acluster.sets._store._addresses import Address

    store = _remote.connected(Address("s3://bucket/zipped.zarr"))
    rows = open_rows(zarr.open_array(store, mode="r"))
    server.fail("503", "c/7/0")
    with pytest.raises(StoreError, match=r"Cannot read s3://bucket/zipped.zarr/c/7/0: .* 503"):
        rows.gather(np.array([0]), np.array([40]))
    server.mend()
    assert rows.gather(np.array([0]), np.array([40])).sum() == 80


def test_a_client_that_never_answers_is_given_up(server, stored, monkeypatch):
    monkeypatch.setattr(_remote, "GIVE_UP_SECONDS", 0.5)
    server.fail("stall")
    with pytest.raises(StoreError, match=r"zarr.json: no answer after 0.5 s"):
        open_feature_sets(object_store(server, stored[0]))


def test_truncated_objects_are_named(server, stored):
    address, _ = stored
    shard = Path(server.folder, address.removeprefix("s3://"), SHARD)
    shard.write_bytes(shard.read_bytes()[:-30])
    X = open_feature_sets(address)
    with pytest.raises(StoreError, match=rf"{SHARD} has an index of .*damaged"):
        X.packed()


def test_open_says_that_there_is_no_store(server):
    with pytest.raises(FileNotFoundError, match="There is no store at s3://bucket/none: "):
        open_feature_sets("s3://bucket/none")
    zarr.create_array(server.folder / "bucket/array.zarr", data=np.ones(3))
    with pytest.raises(StoreError, match="is not a zarr group of format 3"):
        open_feature_sets("s3://bucket/array.zarr")


def test_no_server_is_an_error(server, impatient, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"Cannot read s3://bucket/a/zarr.json: no connection"):
        open_feature_sets("s3://bucket/a")


def test_wrong_credentials_are_named_by_their_variables(server, stored, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
    with pytest.raises(StoreError, match=r"403 Forbidden.*AWS_ACCESS_KEY_ID") as caught:
        open_feature_sets(stored[0])
    assert_hides_credentials(caught.value, "AKIAOTHER")


# Credentials


def assert_hides_credentials(error, *more):
    text = "".join(traceback.format_exception(error)) + repr(error) + repr(pickle.dumps(error))
    context = error.__context__  # some programs print contexts even if they are suppressed
    while context is not None:
        text, context = text + str(context), context.__context__
    for secret in (KEY, SECRET, *more):
        assert secret not in text


@pytest.mark.parametrize("way", WAYS)
def test_no_credential_leaves_the_environment(server, stored, way, tmp_path, monkeypatch):
    given_ = WAYS[way](server, stored[0])
    X = open_feature_sets(given_)
    clf = AttentionClusterClassifier(cluster_size=1, max_iter=1, cache="stream")
    clf.fit(X, X.label)
    clf.save(tmp_path / "a.model")
    group = X._source.store.group
    texts = [repr(X), str(X), X._source.description, repr(group), str(group.store), str(clf)]
    texts += [repr(info(given_))]
    data = [pickle.dumps(one) for one in (X, X[3:5], X._source.rows, group, clf)]
    data += [(tmp_path / "a.model").read_bytes(), *(text.encode() for text in texts)]
    for secret in (KEY.encode(), SECRET.encode()):
        assert [one for one in data if secret in one] == []
    assert len(data[0]) < 8 * len(X) + 4096
    twin = pickle.loads(data[0])
    assert_same(twin, stored[1])
    if way != "http":  # the copy reads with the credentials of its own process
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAOTHER")
        with pytest.raises(StoreError, match="403 Forbidden"):
            pickle.loads(data[0]).packed()


def test_endpoints_and_addresses_with_passwords_are_not_pickled(server, stored):
    from obstore.store import HTTPStore

    store = object_store(server, stored[0], endpoint=server.endpoint.replace("//", "//u:pw9876@"))
    assert b"pw9876" not in pickle.dumps(_remote.wrapped(store))
    web = HTTPStore("http://u:pw9876@host/a.zarr", client_options={"allow_http": True})
    wrapped = _remote.wrapped(zarr.storage.ObjectStore(web))
    assert "pw9876" not in f"{wrapped} {wrapped!r}"
    with pytest.raises(StoreError, match="cannot be pickled") as caught:
        pickle.dumps(wrapped)
    assert "pw9876" not in str(caught.value)


def test_stores_without_an_address_cannot_be_pickled(server, stored):
    class Other(zarr.storage.WrapperStore):
        """A store whose settings are not known."""

    X = open_feature_sets(Other(object_store(server, stored[0])))
    assert_same(X, stored[1])
    with pytest.raises(StoreError, match=r"cannot be pickled: .* Open the store by its address"):
        pickle.dumps(X)


# Writing


def new_address():
    return f"s3://bucket/{time.monotonic_ns()}.zarr"


def test_writer_writes_and_resumes(server, monkeypatch):
    shrink(monkeypatch)
    address = new_address()
    with FeatureSetsWriter(address) as writer:
        write_items(writer, 5)
    assert_holds(address, 5)
    with pytest.raises(FileExistsError, match="already something at 's3://bucket/"):
        FeatureSetsWriter(address)
    with FeatureSetsWriter(address, resume=True) as writer:
        write_items(writer, 12)
        assert writer.id == [f"item{i}" for i in range(12)]
    assert_holds(address, 12)
    assert validate(address).complete


def test_complete_is_written_last(server, monkeypatch):
    shrink(monkeypatch)
    address = new_address()
    writer = FeatureSetsWriter(address)
    write_items(writer, 12)
    writer.flush()
    with pytest.raises(StoreError, match="is not complete: writing stopped after 12 items"):
        open_feature_sets(address)
    server.counts()
    server.fail("503", "offsets", method="PUT", times=1 << 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_remote, "MAX_RETRIES", 0)
        with pytest.raises(OSError, match=r"Cannot write s3://.*_offsets/"):
            writer.close()
    assert not info(address).complete
    server.mend()
    writer.close()
    changed = [key for key in server.counts()["keys"] if not key.startswith(("GET", "HEAD"))]
    assert changed[-1] == f"PUT {address.removeprefix('s3://')}/zarr.json"
    assert_holds(address, 12)


def test_failed_save_removes_what_it_wrote(server):
    address = new_address()
    with pytest.raises(ValueError, match="0 local features"):
        save_feature_sets(address, [np.ones((2, 3)), np.empty((0, 3))])
    assert not list(Path(server.folder, address.removeprefix("s3://")).rglob("*.json"))
    save_feature_sets(address, [np.ones((2, 3))])
    assert len(open_feature_sets(address)) == 1


def test_writer_keeps_what_is_not_a_store(server):
    other = server.folder / "bucket" / "other" / "data.txt"
    other.parent.mkdir()
    other.write_text("mine")
    with pytest.raises(FileExistsError):
        FeatureSetsWriter("s3://bucket/other")
    with pytest.raises(StoreError, match=r"not a store of feature sets; it contains 'data.txt'"):
        FeatureSetsWriter("s3://bucket/other", resume=True)
    assert other.read_text() == "mine"


def test_save_and_merge_copy_between_stores(server, stored, tmp_path):
    copied = new_address()
    save_feature_sets(copied, stored[0])
    assert_same(open_feature_sets(copied), stored[1])
    for part in (0, 1):
        rows = slice(part * 30, part * 30 + 30)
        save_feature_sets(f"{copied}.{part}", open_feature_sets(stored[0])[rows])
    merge_stores([f"{copied}.0", f"{copied}.1"], f"{copied}.both")
    assert_same(open_feature_sets(f"{copied}.both"), stored[1])


def test_writers_take_stores_of_zarr(server):
    address = new_address()
    save_feature_sets(object_store(server, address), [np.ones((2, 3))])
    assert len(open_feature_sets(address)) == 1
    reading = object_store(server, address).with_read_only(True)
    with pytest.raises(ValueError, match="is open for reading only"):
        FeatureSetsWriter(reading, resume=True)


WRITER = """
import sys
import pytest
from acluster import FeatureSetsWriter
from tests.sets._store.helpers import shrink, write_items
shrink(pytest.MonkeyPatch())
with FeatureSetsWriter(sys.argv[1], resume=True) as writer:
    print("begun", flush=True)
    write_items(writer, 12)
"""


@pytest.mark.parametrize(
    "n_requests", [3, 200, *(pytest.param(n, marks=pytest.mark.thorough) for n in (30, 90, 330))]
)
def test_killed_writer_leaves_an_incomplete_store_that_can_be_continued(
    server, monkeypatch, n_requests
):
    shrink(monkeypatch)
    address = new_address()
    server.set(delay=0.003)
    writing = subprocess.Popen([sys.executable, "-c", WRITER, address])
    done, deadline = 0, time.monotonic() + 60
    while done < n_requests and writing.poll() is None and time.monotonic() < deadline:
        done += server.counts()["requests"]
        time.sleep(0.002)
    writing.send_signal(signal.SIGKILL)
    assert writing.wait() == -signal.SIGKILL, "the writer ended before it was killed"
    server.set(delay=0.0)
    with pytest.raises((StoreError, FileNotFoundError), match=r"is not complete|no store at"):
        open_feature_sets(address)
    with FeatureSetsWriter(address, resume=True) as writer:
        assert len(writer) < 12
        write_items(writer, 12)
    assert_holds(address, 12)
    assert validate(address).n_items == 12


# Icechunk


def test_sessions_of_icechunk_are_read_and_written():
    icechunk = pytest.importorskip("icechunk", reason="icechunk is not installed")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    sets = [np.full((2, 3), i) for i in range(4)]
    save_feature_sets(session, sets, label=[0, 1, 0, 1])
    session.commit("four items")
    X = open_feature_sets(repository.readonly_session("main"))
    assert [x.tolist() for x in X] == [x.tolist() for x in sets]
    clf = AttentionClusterClassifier(cluster_size=1, max_iter=1)
    clf.fit(repository.readonly_session("main"), X.label)
    with pytest.raises(StoreError, match="cannot be pickled"):
        pickle.dumps(X)
    with pytest.raises(FileExistsError):
        save_feature_sets(repository.writable_session("main"), sets)


def test_rows_change_what_threads_share_under_their_lock(stored):
    class Watched(RemoteRows):
        def __setattr__(self, name, value):
            assert name.startswith("_lock") or self._lock.locked(), name
            super().__setattr__(name, value)

    address, expected = stored
    X = open_feature_sets(address)
    X._source.rows.__class__ = Watched
    assert_same(X, expected)
    X._source.rows.check()
