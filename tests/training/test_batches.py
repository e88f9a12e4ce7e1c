"""BatchSource: order, sampling, missing modalities, prefetching and caches."""

import threading
import weakref
from itertools import pairwise

import numpy as np
import pytest
import sklearn
import torch
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from joblib import Parallel, delayed

from acluster import FeatureSets, open_feature_sets, save_feature_sets
from acluster.training import ALONE, BatchSource, Ranks, cached
from acluster.training._batches import (
    consecutive_parts,
    keep_modalities,
    prefetched,
    shuffled,
    shuffled_in_lanes,
)
from acluster.training._packing import sampled_rows

LIKE = torch.zeros(1)


def numbered(lengths, dtype=np.float32):
    """Return sets whose rows hold the number of their item."""
    offsets = np.cumsum([0, *lengths])
    values = np.repeat(np.arange(len(lengths)), lengths).astype(dtype)[:, None]
    return FeatureSets(values, offsets)


@pytest.fixture
def stored(tmp_path):
    def store(sets):
        save_feature_sets(tmp_path / "sets.zarr", sets)
        return open_feature_sets(tmp_path / "sets.zarr")

    return store


@given(n_items=st.integers(1, 50), batch_size=st.integers(1, 60))
def test_epoch_visits_every_item_once(n_items, batch_size):
    source, numbers = BatchSource([numbered([1] * n_items)], LIKE), np.arange(n_items)
    seen = []
    for ((values, _),), items, *_ in source.epoch(batch_size, np.random.RandomState(0), [None]):
        np.testing.assert_array_equal(values[:, 0], numbers[items])
        seen.append(numbers[items])
    assert all(len(items) <= batch_size for items in seen)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), numbers)


def owned_by(rank, n_ranks, order, batch_size):
    """Return the items that a rank takes of the batches of an order."""
    ranks = Ranks()
    ranks.rank, ranks.size = rank, n_ranks
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return np.concatenate([batch[ranks.own(len(batch))] for batch in batches])


@given(
    blocks=st.lists(st.integers(0, 60), min_size=1, max_size=120),
    batch_size=st.integers(1, 40),
    n_ranks=st.integers(2, 5),
    seed=st.integers(0, 9),
)
def test_shuffled_in_lanes_gives_each_rank_its_own_blocks(blocks, batch_size, n_ranks, seed):
    blocks = np.array(blocks)
    order = shuffled_in_lanes(blocks, batch_size, n_ranks, np.random.RandomState(seed))
    np.testing.assert_array_equal(np.sort(order), np.arange(len(blocks)))
    pairs = {
        (rank, block)
        for rank in range(n_ranks)
        for block in blocks[owned_by(rank, n_ranks, order, batch_size)]
    }
    assert len(pairs) < len(set(blocks.tolist())) + n_ranks  # a lane may end within a block


def test_shuffled_in_lanes_draws_from_many_runs_of_blocks():
    blocks = np.repeat(np.arange(800), 10)
    order = shuffled_in_lanes(blocks, 40, 4, np.random.RandomState(0))
    for rank in range(4):
        own = blocks[owned_by(rank, 4, order, 40)]
        for window in np.split(own, range(320, len(own), 320))[:-1]:
            assert len(set(window)) == 32
            assert (np.diff(window) < 0).any(), "items of a window are not shuffled"
            runs = {block // 4 for block in window}
            assert 8 <= len(runs) <= 9
            assert max(runs) - min(runs) > 20, "runs in order"


@given(n_items=st.integers(1, 50), batch_size=st.integers(1, 60))
def test_in_order_visits_the_items_in_order(n_items, batch_size):
    source = BatchSource([numbered([2] * n_items)], LIKE)
    seen = torch.cat([values for ((values, _),) in source.in_order(batch_size)])
    np.testing.assert_array_equal(seen[:, 0], np.repeat(np.arange(n_items), 2))


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=9),
    n=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_sampled_rows_draws_distinct_rows_of_each_set(lengths, n, seed):
    offsets = np.cumsum([0, *lengths])
    rows, new_offsets = sampled_rows(offsets, n, np.random.RandomState(seed))
    rows = np.arange(offsets[-1]) if rows is None else rows
    np.testing.assert_array_equal(np.diff(new_offsets), np.minimum(lengths, n))
    for i, length in enumerate(lengths):
        drawn = rows[new_offsets[i] : new_offsets[i + 1]]
        assert len(set(drawn)) == min(length, n)
        assert (np.diff(drawn) > 0).all()  # They keep their order.
        assert ((drawn >= offsets[i]) & (drawn < offsets[i + 1])).all()


def test_sampled_rows_is_uniform():
    random_state = np.random.RandomState(0)
    drawn = [sampled_rows(np.array([0, 5]), 2, random_state)[0] for _ in range(5000)]
    np.testing.assert_allclose(np.bincount(np.concatenate(drawn)) / 5000, 0.4, atol=0.03)


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    n=st.integers(1, 10),
    seed=st.integers(0, 1000),
    writeable=st.booleans(),
    reverse=st.booleans(),
)
@settings(deadline=None)
def test_epoch_samples_rows_of_its_items(lengths, n, seed, writeable, reverse):
    offsets = np.cumsum([0, *lengths])
    values = np.repeat(np.arange(offsets[-1], dtype=np.float32)[:, None], 3, axis=1)
    values.flags.writeable = writeable  # torch warns of arrays that are read-only.
    sets = FeatureSets(values, offsets)[:: -1 if reverse else 1]
    random_state = np.random.RandomState(seed)
    for ((packed, cuts),), items, *_ in BatchSource([sets], LIKE).epoch(2, random_state, [n]):
        numbers = np.arange(len(sets))[items]
        assert cuts.diff().tolist() == np.minimum(sets.lengths[numbers], n).tolist()
        for number, first, stop in zip(numbers, cuts[:-1], cuts[1:], strict=True):
            drawn = packed[first:stop].numpy()
            assert len(np.unique(drawn, axis=0)) == stop - first
            assert np.isin(drawn, sets[number]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_batches_have_the_dtype_of_the_network_and_copy_the_features(dtype):
    values = np.arange(6.0).reshape(3, 2).astype(dtype)
    values.flags.writeable = False
    for like in (torch.zeros(1, dtype=torch.float32), torch.zeros(1, dtype=torch.float64)):
        ((packed, offsets),) = next(BatchSource([FeatureSets(values, [0, 1, 3])], like).in_order(9))
        assert packed.dtype == like.dtype
        assert offsets.tolist() == [0, 1, 3]
        np.testing.assert_array_equal(packed, np.arange(6.0).reshape(3, 2))
        packed += 1
        assert values[0, 0] == 0


def test_float16_features_are_widened_exactly():
    values = np.random.default_rng(0).normal(size=(1000, 70)).astype(np.float16)
    ((packed, _),) = next(BatchSource([FeatureSets(values, [0, 1000])], LIKE).in_order(1))
    np.testing.assert_array_equal(packed, values.astype(np.float32))


class TestMissingModalities:
    def test_stand_in_replaces_an_empty_set(self):
        source = BatchSource([numbered([2, 0, 1, 0])], LIKE, [np.array([9.0])])
        ((values, offsets),) = next(source.in_order(4))
        assert values[:, 0].tolist() == [0, 0, 9, 2, 9]
        assert offsets.tolist() == [0, 2, 3, 4, 5]

    def test_empty_set_stays_empty_without_a_stand_in(self):
        ((values, offsets),) = next(BatchSource([numbered([0, 1])], LIKE).in_order(4))
        assert values[:, 0].tolist() == [1]
        assert offsets.tolist() == [0, 0, 1]

    def test_modality_dropout_empties_sets_but_keeps_one_per_item(self):
        modalities = [numbered([2, 3] * 50), numbered([1, 0] * 50)]
        source = BatchSource(modalities, LIKE)
        state = np.random.RandomState(0)
        (packed, *_), *_ = source.epoch(1000, state, [None, None], modality_dropout=0.5)
        lengths = np.stack([offsets.diff().numpy() for _, offsets in packed], axis=1)
        assert set(lengths[::2, 0]) == {0, 2}
        assert set(lengths[1::2, 0]) == {3}, "the only modality of an item was dropped"
        assert (lengths.sum(axis=1) > 0).all()
        for (values, offsets), size in zip(packed, lengths.T, strict=True):
            items = np.repeat(np.arange(100), size)
            np.testing.assert_array_equal(values[:, 0], items)
            assert offsets[-1] == len(values)

    def test_keep_modalities_has_its_probability_and_keeps_one(self):
        present = np.ones((20_000, 3), bool)
        kept = keep_modalities(present, 0.3, np.random.RandomState(0))
        assert kept.any(axis=1).all()
        # Each is dropped with 0.3; in the 0.027 of all cases that drop all three, one comes back.
        np.testing.assert_allclose(1 - kept.mean(axis=0), 0.3 - 0.027 / 3, atol=0.01)
        kept = keep_modalities(present & [True, False, True], 0.9, np.random.RandomState(0))
        assert not kept[:, 1].any()


def prefetching_threads():
    """The threads that read ahead; zarr's own come and go with the load."""
    return [thread for thread in threading.enumerate() if "prefetch" in thread.name]


class TestPrefetched:
    def test_prefetched_makes_one_element_ahead_in_another_thread(self):
        made, threads = [], set()

        def elements():
            for i in range(5):
                threads.add(threading.current_thread())
                made.append(i)
                yield i

        for i in prefetched(elements()):
            assert len(made) <= i + 2
        assert made == [0, 1, 2, 3, 4]
        assert threading.current_thread() not in threads

    def test_prefetched_lets_go_of_a_large_element_before_it_makes_the_next(self):
        alive = weakref.WeakSet()

        def elements():
            for _ in range(4):
                assert not alive
                alive.add(element := torch.zeros(1))
                yield element
                del element

        for element in prefetched(elements(), is_large=lambda one: True):
            assert len(alive) == 1
            del element

    def test_prefetched_raises_errors_and_ends_its_thread(self):
        def elements():
            assert prefetching_threads()
            yield 1
            raise RuntimeError("disk on fire")

        with pytest.raises(RuntimeError, match="disk on fire"):
            list(prefetched(elements()))
        assert not prefetching_threads()

    def test_closing_an_epoch_ends_its_thread(self, stored):
        source = BatchSource([stored(numbered([3] * 40))], LIKE)
        epoch = source.epoch(4, np.random.RandomState(0), [None])
        next(epoch)
        assert prefetching_threads()
        epoch.close()
        assert not prefetching_threads()


class TestParts:
    @given(sizes=st.lists(st.integers(0, 50), max_size=30), limit=st.integers(1, 100))
    def test_consecutive_parts_hold_all_items_within_the_limit(self, sizes, limit):
        parts = consecutive_parts(np.array(sizes, np.int64), limit)
        assert [i for part in parts for i in range(part.start, part.stop)] == [*range(len(sizes))]
        for part in parts:
            assert sum(sizes[part]) <= limit or part.stop - part.start == 1
        for one, other in pairwise(parts):  # no part could take the next item
            assert sum(sizes[one.start : other.start + 1]) > limit

    @given(
        lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20),
        batch_size=st.integers(1, 25),
        n=st.one_of(st.none(), st.integers(1, 9)),
        max_rows=st.integers(1, 30),
    )
    def test_epoch_divides_batches_by_the_size_of_their_features(
        self, lengths, batch_size, n, max_rows
    ):
        source = BatchSource([numbered(lengths)], LIKE, max_bytes=4 * max_rows)
        seen, n_seen = [], 0
        parts = source.epoch(batch_size, np.random.RandomState(0), [n])
        for ((values, offsets),), items, n_items, is_last, _ in parts:
            numbers = np.arange(len(lengths))[items]
            assert len(values) <= max_rows or len(numbers) == 1
            assert len(offsets) == len(numbers) + 1
            np.testing.assert_array_equal(np.unique(values), np.sort(numbers))
            seen, n_seen = [*seen, *numbers], n_seen + len(numbers)
            if is_last:
                assert n_items == n_seen
                n_seen = 0
        assert n_seen == 0
        assert sorted(seen) == [*range(len(lengths))]

    @given(
        lengths=st.lists(st.integers(0, 9), min_size=2, max_size=20),
        batch_size=st.integers(1, 25),
        n=st.one_of(st.none(), st.integers(1, 9)),
        max_rows=st.integers(1, 60),
        n_ranks=st.integers(2, 5),
        dropout=st.sampled_from([0.0, 0.5]),
    )
    def test_ranks_share_every_part_of_an_epoch(
        self, lengths, batch_size, n, max_rows, n_ranks, dropout
    ):
        sets = [numbered([*lengths, 1]), numbered([*lengths, 2])]
        source = BatchSource(sets, LIKE, max_bytes=4 * max_rows)

        def epoch(ranks):
            state = np.random.RandomState(0)
            return [*source.epoch(batch_size, state, [n, n], dropout, ranks=ranks)]

        of_ranks = []
        for rank in range(n_ranks):
            ranks = Ranks()
            ranks.rank, ranks.size = rank, n_ranks
            of_ranks.append(epoch(ranks))
        numbers = np.arange(len(sets[0]))
        for whole, *parts in zip(epoch(ALONE), *of_ranks, strict=True):
            parts = [part for part in parts if part.share.counts]
            items = [numbers[part.items] for part in parts]
            np.testing.assert_array_equal(np.concatenate(items), numbers[whole.items])
            for i, (values, _) in enumerate(whole.sets):
                shared = np.concatenate([part.sets[i][0] for part in parts])
                np.testing.assert_array_equal(shared, values)
            assert {part.n_items for part in parts} == {whole.n_items}

    @given(
        lengths=st.lists(st.integers(0, 9), min_size=1, max_size=40),
        batch_size=st.integers(1, 25),
        bytes_per_item=st.sampled_from([0, 1 << 17, 1 << 19, 1 << 30]),
        max_rows=st.integers(9, 100),
    )
    def test_several_batches_in_a_part_are_those_that_come_one_by_one(
        self, lengths, batch_size, bytes_per_item, max_rows
    ):
        source = BatchSource([numbered([*lengths, 1])], LIKE, max_bytes=4 * max_rows)
        assume(source.comes_whole(batch_size))
        states = [np.random.RandomState(0) for _ in range(2)]
        one_by_one = [*source.epoch(batch_size, states[0], [None])]
        parts = [*source.epoch(batch_size, states[1], [None], bytes_per_item=bytes_per_item)]
        n_batches = 0
        for part in parts:
            ((values, offsets),), n_items = part.sets, part.n_items
            assert part.is_last
            assert len(offsets) == n_items + 1
            for i in range(0, n_items, batch_size):
                ((expected, cuts),) = one_by_one[n_batches].sets
                own = offsets[i : i + batch_size + 1]
                assert torch.equal(own - own[0], cuts)
                assert torch.equal(values[own[0] : own[-1]], expected)
                n_batches += 1
        assert n_batches == len(one_by_one)
        assert states[0].rand() == states[1].rand()
        if bytes_per_item == 1 << 30:
            assert len(parts) == n_batches

    def test_small_batches_come_together_unless_something_is_drawn(self):
        source = BatchSource([numbered([3] * 40)], LIKE)
        state = np.random.RandomState(0)
        assert len([*source.epoch(4, state, [None], bytes_per_item=100)]) == 1
        assert len([*source.epoch(4, state, [None])]) == 10
        assert len([*source.epoch(4, state, [2], bytes_per_item=100)]) == 10
        assert len([*source.epoch(4, state, [None], 0.5, bytes_per_item=100)]) == 10

    @given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=20), max_rows=st.integers(1, 9))
    def test_in_order_gives_the_same_rows_in_parts(self, lengths, max_rows):
        sets = numbered(lengths)
        source = BatchSource([sets], LIKE, max_bytes=4 * max_rows)
        parts = [values for ((values, _),) in source.in_order(5)]
        assert len(parts) == len(source.parts(5))
        np.testing.assert_array_equal(torch.cat(parts), sets.packed()[0])


class TestShuffled:
    @given(blocks=st.lists(st.integers(0, 200), min_size=1, max_size=300), seed=st.integers(0, 9))
    def test_shuffled_is_a_permutation(self, blocks, seed):
        order = shuffled(len(blocks), np.random.RandomState(seed), np.array(blocks))
        np.testing.assert_array_equal(np.sort(order), np.arange(len(blocks)))

    def test_shuffled_keeps_items_of_a_block_in_one_window(self):
        blocks = np.repeat(np.arange(320), 10)
        order = shuffled(len(blocks), np.random.RandomState(0), blocks)
        for window in blocks[order].reshape(10, 320):
            assert len(set(window)) == 32
        assert (np.diff(blocks[order][:320]) < 0).any(), "items of a window are not shuffled"
        assert len(set(np.sort(blocks[order][:320])) - set(range(32))) > 0, "blocks in order"


class TestCached:
    @pytest.mark.parametrize("cache", ["auto", "device", "memory", "stream"])
    def test_cached_gives_the_same_batches_for_every_cache(self, cache, stored):
        sets = numbered(np.random.RandomState(0).randint(1, 9, size=40), np.float16)
        (settled,) = cached([stored(sets)[5:]], cache, LIKE)
        assert settled.in_memory == (cache != "stream")
        expected = BatchSource([sets[5:]], LIKE).epoch(7, np.random.RandomState(1), [3])
        found = BatchSource([settled], LIKE).epoch(7, np.random.RandomState(1), [3])
        for (((a, b),), items, *_), (((c, d),), items2, *_) in zip(expected, found, strict=True):
            np.testing.assert_array_equal(items, items2)
            assert torch.equal(a, c)
            assert torch.equal(b, d)

    @pytest.mark.parametrize(("n_items", "in_memory"), [(1048, True), (1049, False)])
    def test_cached_auto_loads_only_small_stores_that_are_fast(self, stored, n_items, in_memory):
        sets = stored(numbered([1000] * n_items))  # 4 MiB have 1,048.6 of these
        assert cached([sets], "auto", LIKE)[0].in_memory == in_memory
        [found] = Parallel(1, backend="sequential")([delayed(cached)([sets], "auto", LIKE)])
        assert found[0].in_memory == in_memory

    def test_cached_auto_loads_slow_stores_up_to_working_memory_outside_of_workers(
        self, tmp_path, stored
    ):
        stored(numbered([1000] * 2000))  # 8 MB
        source, target = zarr.open_group(tmp_path / "sets.zarr"), tmp_path / "compressed.zarr"
        group = zarr.create_group(target, attributes=dict(source.attrs))
        for name, array in source.arrays():
            copy = group.create_array(name, data=array[...], chunks="auto", fill_value=0)
            copy.attrs.update(array.attrs)
        sets = open_feature_sets(target)
        assert sets.blocks is not None
        for working_memory in (7, 9):
            with sklearn.config_context(working_memory=working_memory):
                assert cached([sets], "auto", LIKE)[0].in_memory == (working_memory == 9)
        tasks = [delayed(cached)([sets], "auto", LIKE) for _ in range(2)]
        for [found] in Parallel(2, backend="threading")(tasks):
            assert not found.in_memory
