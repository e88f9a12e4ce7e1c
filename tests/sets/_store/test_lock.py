"""One process at a time writes to a path, and one killed process blocks nobody."""

import errno
import os
import signal
import threading

import numpy as np
import pytest

from acluster import FeatureSetsWriter, open_feature_sets
from acluster.sets import RowLayout, StoreError, open_rows_array, range_output
from acluster.sets._store import _lock
from tests.sets._store.helpers import assert_holds, columns_at, item_of, write_items
from tests.sets._store.test_killed import fork, needs_fork

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


def wait_for_kill(begin):
    begin()
    while True:
        signal.pause()


def hold_writer(path, begin):
    writer = FeatureSetsWriter(path, resume=True)
    write_items(writer, 3)
    writer.flush()
    wait_for_kill(begin)


LAYOUT = RowLayout(n_rows=4, width=3, dtype="float64", rows_per_chunk=2, rows_per_range=2)


def hold_range_output(path, begin):
    with range_output(path, LAYOUT, {}) as output:
        output.write(slice(0, 2), [np.full((2, 3), 2.0)])
        wait_for_kill(begin)


def write_store(path):
    with FeatureSetsWriter(path, resume=True) as writer:
        write_items(writer, 5)
    assert_holds(path, 5)


def write_rows(path):
    with range_output(path, LAYOUT, {}) as output:
        for rows in output.missing():
            output.write(rows, [np.full((2, 3), 2.0 + rows.start / 2)])
    assert open_rows_array(path)[:, 0].tolist() == [2, 2, 3, 3]


@needs_fork
@pytest.mark.parametrize(
    ("hold", "write"), [(hold_writer, write_store), (hold_range_output, write_rows)]
)
def test_second_process_is_refused_until_the_first_ends(tmp_path, hold, write):
    path = str(tmp_path / "a.zarr")
    child = fork(path, hold)
    for _ in range(2):
        with pytest.raises(StoreError, match=rf"process {child} on .*a\.zarr\. Wait until"):
            write(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    write(path)
    assert os.listdir(tmp_path) == ["a.zarr"], "something was left behind"


@needs_fork
def test_lock_ends_with_its_process_though_a_fork_lives(tmp_path):
    path = str(tmp_path / "a.zarr")

    def hold_and_fork(path, begin):
        writer = FeatureSetsWriter(path)
        write_items(writer, 2)
        writer.flush()
        grandchild = os.fork()
        if not grandchild:
            signal.pause()
        (tmp_path / "pid").write_text(str(grandchild))
        wait_for_kill(begin)

    child = fork(path, hold_and_fork)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    try:
        write_store(path)
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@needs_fork
def test_forked_copy_of_a_writer_cannot_write(path):
    writer = FeatureSetsWriter(path)
    write_items(writer, 2)

    def append_in_fork(path, begin):
        begin()
        with pytest.raises(ValueError, match="belongs to process"):
            writer.append(item_of(2), **columns_at(2))
        with pytest.raises(ValueError, match="belongs to process"):
            writer.close()
        writer._lock.release()

    assert os.waitpid(fork(path, append_in_fork), 0)[1] == 0
    write_items(writer, 3)
    writer.close()
    assert_holds(path, 3)


def test_writer_with_pending_items_is_not_replaced_in_its_process(path):
    first = FeatureSetsWriter(path)
    write_items(first, 2)
    with pytest.raises(StoreError, match=r"has 2 items for .* that are not written yet"):
        FeatureSetsWriter(path, resume=True)
    first.flush()
    second = FeatureSetsWriter(path, resume=True)
    with pytest.raises(ValueError, match="another writer has been opened"):
        write_items(first, 3)
    write_items(second, 3)
    second.close()
    assert_holds(path, 3)


def test_locked_store_is_also_found_through_a_link(tmp_path):
    first = FeatureSetsWriter(tmp_path / "a.zarr")
    first.append(np.ones((1, 1)))
    os.symlink(tmp_path / "a.zarr", tmp_path / "b.zarr")
    with pytest.raises(StoreError, match="not written yet"):
        FeatureSetsWriter(tmp_path / "b.zarr", resume=True)


def test_threads_share_a_writer(path, small):
    """Every item is stored once, with its own label."""
    errors = []

    def work(thread):
        try:
            for i in range(12):
                number = 100 * thread + i
                writer.append(np.full((1 + i % 3, 2), number), label=f"{number}", id=number)
        except Exception as error:
            errors.append(error)

    with FeatureSetsWriter(path) as writer:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    X = open_feature_sets(path)
    assert sorted(X.id.tolist()) == [100 * n + i for n in range(8) for i in range(12)]
    assert X.label.tolist() == [str(i) for i in X.id]
    assert [x[0, 0] for x in X] == X.id.tolist()


def test_writer_works_on_file_systems_without_locks(path, monkeypatch):
    def unsupported(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_lock, "_lock_file", unsupported)
    write_store(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        *((name, write) for name in ("a.zip", "A.ZIP") for write in (write_store, write_rows)),
        ("s3://bucket/a.zarr", write_rows),
        ("https://host/a.zarr", write_store),
    ],
)
def test_writers_refuse_archives_and_addresses(tmp_path, monkeypatch, name, write):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=r"is (the name of an archive|an address|the address of a web server)"
    ):
        write(name)
    assert os.listdir(tmp_path) == []


def test_lock_that_cannot_be_noted_is_released(path, monkeypatch):
    def full(self, **_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_lock.WriteLock, "note", full)
        with pytest.raises(OSError, match="No space") as error:
            FeatureSetsWriter(path)
    assert not os.path.exists(path)
    write_store(path)
    assert error.value.errno == errno.ENOSPC  # whose traceback refers to the lock
