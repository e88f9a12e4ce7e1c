"""copy_rows: blocks read by threads, copied without waiting, and checked on the device."""

import gc
import threading
import weakref
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from acluster import FeatureSets, open_feature_sets, save_feature_sets
from acluster.training import BatchSource, _moments, cached, feature_moments
from acluster.training import _resident as resident
from acluster.training._cache import RowsOnDevice
from acluster.training._resident import CudaCopies, PlainCopies, copies_to, copy_rows

WIDTH = 4


class DelayedCopies:
    """Copies in the order of a stream, each at the latest moment that a device is allowed.

    A block whose buffer has been overwritten before it was copied is an error.
    """

    uses_buffers = True

    def __init__(self, fails_at=None, error=None):
        self.pending, self.buffers = [], []
        self.n_started = self.n_copied = self.n_rows = self.n_totals = 0
        self.most_pending = 0
        self.sum = 0.0
        self.fails_at, self.error = fails_at, error

    def buffer(self, n_bytes):
        self.buffers.append(torch.empty(n_bytes, dtype=torch.uint8))
        return self.buffers[-1]

    def start(self, source, target):
        if self.n_started == self.fails_at:
            raise self.error
        places = {buffer.untyped_storage().data_ptr() for buffer in self.buffers}
        assert source.untyped_storage().data_ptr() in places
        self.pending.append((source, source.clone(), target))
        self.n_started += 1
        self.n_rows += len(source)
        self.most_pending = max(self.most_pending, len(self.pending))
        return self.n_started

    def wait(self, copy):
        while self.n_copied < copy:
            source, given_values, target = self.pending.pop(0)
            assert torch.equal(source.view(torch.uint8), given_values.view(torch.uint8))
            target.copy_(source)
            self.sum += float(target.double().sum())
            self.n_copied += 1

    def total(self):
        self.n_totals += 1
        self.wait(self.n_started)
        return self.sum


def random_sets(lengths, dtype=np.float32):
    values = np.random.default_rng(0).integers(-99, 99, (sum(lengths), WIDTH)).astype(dtype)
    return FeatureSets(values, np.cumsum([0, *lengths]))


@contextmanager
def blocks_of(n_rows, dtype=np.float32, per_check=64):
    with pytest.MonkeyPatch.context() as patch:
        n_bytes = n_rows * WIDTH * np.dtype(dtype).itemsize
        patch.setattr(resident, "_BYTES_PER_BLOCK", n_bytes)
        patch.setattr(resident, "_BLOCKS_PER_CHECK", per_check)
        yield


def never():
    raise AssertionError("finite values need no other check")


def copied(sets, copies, check=never, n_readers=2, dtype=torch.float32):
    target = torch.full((int(sets.lengths.sum()), WIDTH), -7.0, dtype=dtype)
    copy_rows(sets, target, copies, check, n_readers)
    return target


def reading_threads():
    return [one for one in threading.enumerate() if one.name.startswith("acluster-read")]


class TestCopyRows:
    @given(
        lengths=st.lists(st.integers(0, 9), max_size=30),
        dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int16, bool]),
        block_rows=st.integers(1, 20),
        n_readers=st.integers(1, 4),
        is_selected=st.booleans(),
        data=st.data(),
    )
    def test_copy_rows_copies_each_row_once_to_its_place(
        self, lengths, dtype, block_rows, n_readers, is_selected, data
    ):
        sets = random_sets(lengths, dtype)
        if is_selected and len(sets):
            items = st.lists(st.integers(0, len(sets) - 1), min_size=1, max_size=30)
            sets = sets[data.draw(items)]
        copies = DelayedCopies()
        with blocks_of(block_rows, dtype):
            target = copied(sets, copies, n_readers=n_readers)
        np.testing.assert_array_equal(target, sets.packed()[0].astype(np.float32))
        assert copies.n_rows == len(target)
        assert len(copies.buffers) <= n_readers + 2
        assert not reading_threads()

    def test_copy_rows_starts_a_copy_before_the_last_one_has_ended(self):
        copies = DelayedCopies()
        with blocks_of(3):
            copied(random_sets([5] * 20), copies)
        assert copies.most_pending > 1
        assert copies.n_started == 34
        assert copies.n_totals == 3, "the sum is read at the first and the last block, and the end"

    def test_copy_rows_reads_with_all_threads_at_the_same_time(self):
        n_readers, sets = 3, random_sets([2] * 12)
        barrier, rows = threading.Barrier(n_readers, timeout=20), sets._source.rows

        def gather(*arguments):
            barrier.wait()  # all threads are reading, or it times out
            return type(rows).gather(rows, *arguments)

        rows.gather = gather
        with blocks_of(2):
            target = copied(sets, DelayedCopies(), n_readers=n_readers)
        np.testing.assert_array_equal(target, rows.values)

    @pytest.mark.parametrize("dtype", [np.float32, np.float16])
    @pytest.mark.parametrize("stores", [True, False])
    def test_copy_rows_reads_a_store(self, dtype, stores, tmp_path):
        sets = random_sets([3, 1, 4, 1, 5, 9], dtype)
        save_feature_sets(tmp_path / "sets.zarr", sets)
        copies = DelayedCopies() if stores else PlainCopies(is_checked=False)
        with blocks_of(2, dtype):
            target = copied(open_feature_sets(tmp_path / "sets.zarr")[1:], copies)
        np.testing.assert_array_equal(target, sets[1:].packed()[0].astype(np.float32))

    @pytest.mark.parametrize("row", [0, 7, 24])
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("plain", [True, False])
    def test_copy_rows_calls_check_for_a_value_in_any_block(self, row, value, plain):
        sets = random_sets([5] * 5)
        sets._source.rows.values[row, 1] = value
        copies = PlainCopies(is_checked=False) if plain else DelayedCopies()

        def check():
            raise ValueError("found")

        with blocks_of(3), pytest.raises(ValueError, match="found"):
            copied(sets, copies, check)
        assert not reading_threads()

    def test_copy_rows_stops_soon_after_a_wrong_value(self):
        sets, copies = random_sets([5] * 100), DelayedCopies()
        sets._source.rows.values[40] = np.nan

        def check():
            raise ValueError("found")

        with blocks_of(5, per_check=4), pytest.raises(ValueError, match="found"):
            copied(sets, copies, check)
        assert copies.n_started <= 8 + 4 + 1

    def test_copy_rows_goes_on_if_only_the_sum_overflows(self):
        sets, n_checks = random_sets([5] * 20, np.float64), []
        sets._source.rows.values[:] = 1.7e308
        with blocks_of(3, np.float64, per_check=2):
            target = copied(sets, DelayedCopies(), lambda: n_checks.append(1), dtype=torch.float64)
        np.testing.assert_array_equal(target, sets.packed()[0])
        assert len(n_checks) == 1

    @pytest.mark.parametrize("error", [RuntimeError("gone"), KeyboardInterrupt(), MemoryError()])
    @pytest.mark.parametrize("fails_at", [0, 3, 11])
    def test_copy_rows_leaves_nothing_behind_after_an_error(self, error, fails_at):
        copies = DelayedCopies(fails_at, error)
        with blocks_of(3), pytest.raises(type(error)):
            copied(random_sets([3] * 12), copies)
        error.__traceback__ = error.__context__ = None  # which refer to the buffers
        assert not reading_threads()
        assert not copies.pending, "a buffer that a device still reads must not be freed"
        buffers = [weakref.ref(buffer) for buffer in copies.buffers]
        del copies
        gc.collect()
        assert not any(buffer() is not None for buffer in buffers)

    def test_copy_rows_raises_what_reading_raises(self):
        sets, copies = random_sets([3] * 12), DelayedCopies()
        rows = sets._source.rows

        def gather(starts, lengths, out=None):
            if starts[0] >= 9:
                raise OSError(f"row {starts[0]}")
            return type(rows).gather(rows, starts, lengths, out)

        rows.gather = gather
        with blocks_of(3), pytest.raises(OSError, match="row 9"):
            copied(sets, copies, n_readers=4)
        assert not reading_threads()
        assert not copies.pending

    @pytest.mark.parametrize("copies", [DelayedCopies(), PlainCopies(True), PlainCopies(False)])
    def test_copy_rows_takes_arrays_that_torch_cannot_share(self, copies):
        values = np.arange(20 * WIDTH, dtype=np.float32).reshape(20, WIDTH)[::-1]
        values.flags.writeable = False
        target = copied(FeatureSets(values, [0, 8, 20]), copies)
        np.testing.assert_array_equal(target, values)


class FakeStream:
    def __init__(self, *arguments):
        self.waits_for = []

    def wait_stream(self, other):
        self.waits_for.append(other)

    def synchronize(self):
        pass


class FakeEvent:
    def __init__(self, blocking):
        self.recorded, self.n_waits = [], 0

    def record(self, stream):
        self.recorded.append(stream)

    def synchronize(self):
        assert len(self.recorded) == 1, "an event that is not recorded is waited for in vain"
        self.n_waits += 1


CURRENT_STREAM = FakeStream()


@pytest.fixture
def cuda_copies(monkeypatch):
    """CudaCopies whose device is the CPU."""
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "Event", FakeEvent)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: CURRENT_STREAM)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(CudaCopies, "buffer", lambda self, n: torch.empty(n, dtype=torch.uint8))
    return CudaCopies(torch.device("cpu"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
@pytest.mark.parametrize("resident_dtype", [torch.float16, torch.float32, torch.float64])
def test_cuda_copies_convert_on_the_device(cuda_copies, dtype, resident_dtype):
    sets = random_sets([3, 2, 5], dtype)
    with blocks_of(4, dtype):
        target = copied(sets, cuda_copies, dtype=resident_dtype)
    assert torch.equal(target, torch.from_numpy(sets.packed()[0]).to(resident_dtype))
    assert cuda_copies.total() == target.double().sum()


def test_cuda_copies_wait_for_queued_kernels_and_for_each_buffer(cuda_copies, monkeypatch):
    log, events, start = [], [], cuda_copies.start
    copy, record = torch.Tensor.copy_, FakeEvent.record

    def copy_(target, source, **options):
        log.append("copy" if target.dtype == source.dtype else "convert")
        return copy(target, source, **options)

    def recording(event, stream):
        assert stream is cuda_copies._stream
        log.append("record")
        record(event, stream)

    def starting(source, target):
        log.clear()
        events.append(start(source, target))
        # A buffer may be filled again once it has been copied, even if not yet converted.
        assert log == ["copy", "record", "convert"]
        return events[-1]

    monkeypatch.setattr(torch.Tensor, "copy_", copy_)
    monkeypatch.setattr(FakeEvent, "record", recording)
    monkeypatch.setattr(cuda_copies, "start", starting)
    with blocks_of(4, np.float16):
        copied(random_sets([3, 2, 5, 10], np.float16), cuda_copies, n_readers=1)
    assert cuda_copies._stream.waits_for == [CURRENT_STREAM]
    # Of five blocks, the last two take the buffers of the first two.
    assert [event.n_waits for event in events] == [1, 1, 0, 0, 0]


def test_cuda_copies_do_not_overflow_in_sums_of_float16(cuda_copies):
    sets = random_sets([30], np.float16)
    sets._source.rows.values[:] = 60000
    copied(sets, cuda_copies, dtype=torch.float16)
    assert cuda_copies.total() == 30 * WIDTH * np.float64(np.float16(60000))


def test_cuda_copies_find_what_overflows_in_float32(cuda_copies):
    sets, n_checks = random_sets([30], np.float64), []
    sets._source.rows.values[17] = 1e39
    with blocks_of(4, np.float64):
        copied(sets, cuda_copies, lambda: n_checks.append(1))
    assert len(n_checks) == 1


def test_copies_to_reads_slow_stores_with_one_thread(monkeypatch):
    monkeypatch.setattr(resident, "CudaCopies", lambda device: DelayedCopies())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    cuda, fast = torch.device("cuda"), SimpleNamespace(blocks=None, in_memory=True)
    slow = SimpleNamespace(blocks=np.arange(3), in_memory=False)
    assert copies_to(fast, cuda)[1] == 8
    assert copies_to(slow, cuda)[1] == 1
    assert copies_to(fast, torch.device("cpu"))[1] == 1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_cached_finds_values_beyond_the_range_of_the_network(dtype):
    values = np.ones((50, 2), dtype)
    values[30] = 1e39 if dtype == np.float64 else np.finfo(dtype).max
    sets, like = FeatureSets(values, np.arange(0, 51, 5)), torch.zeros(())
    if dtype == np.float64:
        with pytest.raises(ValueError, match=r"beyond the range of float32, up to 1e\+39"):
            cached([sets], "device", like)
    else:
        cached([sets], "device", like)


def test_cached_says_what_to_do_without_device_memory(monkeypatch):
    def empty(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        RowsOnDevice(random_sets([1000] * 250, np.float16), torch.zeros(()))
    [note] = caught.value.__notes__
    assert "take 0.004 GB" in note
    assert 'cache="stream"' in note


@pytest.mark.parametrize("is_weighted", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_moments_of_resident_sets_are_those_of_sets_in_memory(dtype, is_weighted):
    rng = np.random.default_rng(0)
    values = rng.normal([0, 5, 100], size=(3000, 3)).astype(dtype)
    sets = FeatureSets(values, np.r_[0, 1, 5, 5, np.arange(6, 3001)])
    weights = rng.uniform(size=len(sets)) if is_weighted else None
    (moved,) = cached([sets], "device", torch.zeros((), dtype=torch.float64))
    found, expected = (feature_moments(one, True, weights) for one in (moved, sets))
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-6 if dtype == np.float32 else 1e-3)


class ReadsOfScalars(TorchDispatchMode):
    """Count how often a number is read from a tensor, for which a device would have to wait."""

    n_reads = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n_reads += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_moments_of_resident_sets_come_in_large_pieces_without_waiting(monkeypatch):
    values = np.random.default_rng(0).normal(size=(5000, 200)).astype(np.float16)
    (moved,) = cached([FeatureSets(values, np.arange(0, 5001, 5))], "device", torch.zeros(()))
    sizes, pieces = [], _moments._pieces

    def recorded(*arguments):
        for piece in pieces(*arguments):
            sizes.append(len(piece[0]))
            yield piece

    monkeypatch.setattr(_moments, "_pieces", recorded)
    monkeypatch.setattr("acluster.training._batches._BYTES_PER_BLOCK", 400_000)
    feature_moments(moved, True)
    assert sizes == [1000] * 5
    sizes.clear()
    on_gpu = _moments._piece_size(torch.device("cuda"))
    monkeypatch.setattr(_moments, "_piece_size", lambda device: on_gpu)
    with ReadsOfScalars() as counter:
        mean, std, _ = feature_moments(moved, True)
    assert sizes == [4000, 1000]
    assert counter.n_reads == 0
    np.testing.assert_allclose(mean, values.mean(axis=0, dtype=np.float64), atol=1e-14)
    np.testing.assert_allclose(std, values.std(axis=0, dtype=np.float64), rtol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int16])
@pytest.mark.parametrize("is_stored", [True, False])
def test_cached_copies_to_a_gpu(dtype, is_stored, tmp_path):
    sets, like = random_sets([7] * 3000, dtype), torch.zeros((), device="cuda")
    given_sets = sets
    if is_stored:
        save_feature_sets(tmp_path / "sets.zarr", sets)
        given_sets = open_feature_sets(tmp_path / "sets.zarr")
    with blocks_of(50, dtype):
        (moved,) = cached([given_sets], "device", like, is_checked=False)
    values, _ = moved.locate()
    assert values.is_cuda
    np.testing.assert_array_equal(values.cpu().float(), sets.packed()[0].astype(np.float32))
    found, expected = feature_moments(moved, True), feature_moments(sets, True)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-9)
    for ((values, _),) in BatchSource([moved], like).in_order(1000):
        assert values.is_cuda


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("item", [0, 17, 2999])
def test_cached_names_the_item_with_nan_on_a_gpu(item):
    sets, like = random_sets([7] * 3000), torch.zeros((), device="cuda")
    sets._source.rows.values[7 * item + 2, 3] = np.nan
    match = f"Item {item} of X has nan in local feature 2, column 3"
    with blocks_of(50), pytest.raises(ValueError, match=match):
        cached([sets], "device", like, is_checked=False)
