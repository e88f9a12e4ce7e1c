"""The buffer pool: memory is reused, but never while an array still uses it."""

import copy
import gc
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from acluster._utils import _memory
from acluster._utils._memory import Pool, cast, empty


def address(array):
    return array.__array_interface__["data"][0]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3000), st.sampled_from(["keep", "drop", "keep a view", "keep a tensor"])
        ),
        max_size=40,
    )
)
@settings(deadline=None)
def test_array_never_reuses_referenced_memory(requests):
    pool, kept = Pool(), []
    for number, (size, fate) in enumerate(requests):
        array = pool.array((size, 2), np.dtype(np.float32))
        assert array.shape == (size, 2)
        array[:] = number
        if fate == "keep":
            kept.append((number, array))
        elif fate == "keep a view":
            kept.append((number, array[::2].T))
        elif fate == "keep a tensor":
            kept.append((number, torch.from_numpy(array)[1:]))
        del array
    for number, still in kept:
        assert (still == number).all()


def test_array_reuses_free_memory():
    pool = Pool()
    array = pool.array((1000,), np.dtype(np.float64))
    first = address(array)
    del array
    for size in (1000, 600, 1100):  # a buffer has spare room
        tensor = torch.from_numpy(pool.array((size,), np.dtype(np.float64)))
        assert tensor.data_ptr() == first
        del tensor
    assert address(pool.array((10,), np.dtype(np.float64))) != first, "the buffer is far too large"
    assert len(pool._free_buffers()) == 2


def test_pool_discards_buffers_that_became_too_small():
    pool = Pool()
    for size in range(1000, 200_000, 1000):
        pool.array((size,), np.dtype(np.uint8))
    assert sum(map(len, pool._free_buffers())) < 4 * 200_000


def test_empty_arrays_share_one_buffer():
    pool = Pool()
    for _ in range(100):
        assert pool.array((0, 3), np.dtype(np.float32)).shape == (0, 3)
    assert len(pool._buffers) == 1


def test_forked_child_does_not_write_to_parent():
    pool = Pool()
    array = pool.array((10,), np.dtype(np.int64))
    array[:] = 1
    if (child := os.fork()) == 0:
        array[:] = 2
        os._exit(0)
    os.waitpid(child, 0)
    assert (array == 1).all()


def test_array_without_huge_pages(monkeypatch):
    monkeypatch.setattr(_memory, "_MADV_HUGEPAGE", 12345)
    assert Pool().array((10,), np.dtype(np.int64)).shape == (10,)


def test_array_outlives_pool():
    pool = Pool()
    array = pool.array((1000,), np.dtype(np.int64))
    del pool
    gc.collect()
    array[:] = 7
    assert array.sum() == 7000


def test_copies_of_a_pool_have_no_buffers():
    pool = Pool()
    array = pool.array((10,), np.dtype(np.int64))
    for copied in (copy.deepcopy(pool), pickle.loads(pickle.dumps(pool))):
        assert copied._buffers == []
        assert address(copied.array((10,), np.dtype(np.int64))) != address(array)


class TestEmpty:
    @pytest.fixture(autouse=True)
    def _small_threshold(self, monkeypatch):
        monkeypatch.setattr(_memory, "_MIN_POOLED_BYTES", 64)

    def test_large_tensors_use_pool_of_this_thread(self):
        pool, like, found = Pool(), torch.zeros(1), []
        with pool.active():
            mine = empty((4, 8), like=like)
            thread = threading.Thread(target=lambda: found.append(empty((4, 8), like=like)))
            thread.start()
            thread.join()
            empty((2,), like=like)
        after = empty((4, 8), like=like)
        assert len(pool._free_buffers()) == 0
        found.clear()
        del after
        assert len(pool._free_buffers()) == 0
        del mine
        assert len(pool._free_buffers()) == 1

    def test_cast_copies_into_memory_of_the_pool(self):
        pool, given = Pool(), torch.randn(5, 8).T
        with pool.active():
            result = cast(given, torch.bfloat16)
        assert torch.equal(result, given.to(torch.bfloat16))
        assert cast(given, torch.float32) is given
        del result
        assert len(pool._free_buffers()) == 1

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
    def test_dtype_and_shape(self, dtype):
        with Pool().active():
            tensor = empty((3, 50), like=torch.zeros(1), dtype=dtype)
        assert tensor.dtype == dtype
        assert tensor.shape == (3, 50)
        assert tensor.is_contiguous()
        tensor.fill_(2)
        assert tensor.sum() == 300

    def test_pools_nest(self):
        inner, outer, like = Pool(), Pool(), torch.zeros(1)
        with outer.active():
            with inner.active():
                empty((40,), like=like)
            assert (len(inner._free_buffers()), len(outer._free_buffers())) == (1, 0)
            empty((40,), like=like)
        assert (len(inner._free_buffers()), len(outer._free_buffers())) == (1, 1)
