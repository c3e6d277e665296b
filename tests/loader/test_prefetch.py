"""What is asked for ahead keeps its order and its bounds, and is let go."""

import time
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest
from epochs import shards_of
from flows import DictStore
from small_datasets import (
    NO_GAPS,
    GatedStore,
    a_dataset,
    of_images,
    opened,
    recorded,
    stored,
    until,
)
from streams import LIMITS, SMALL_TASKS, G, N, Streamed, held_bytes, prefixes, samples

from pcrstore.concurrency.threads import StopFlag
from pcrstore.core.hashing import uniforms
from pcrstore.dataset.index_reader import IndexReader
from pcrstore.errors import TransientStoreError
from pcrstore.image.crops import RandomResizedCrop
from pcrstore.loader import prefetch
from pcrstore.loader.fetch_queue import FetchQueue
from pcrstore.loader.limits import StreamLimits
from pcrstore.loader.prefetch import Prefetcher, ReadSpec
from pcrstore.sampling.lookup import SampleSet
from pcrstore.sampling.order import ShardSlice
from pcrstore.testing import RecordingStore

pytestmark = pytest.mark.usefixtures("no_threads_left")


# ---- what is asked for


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_an_epoch_asks_for_whole_prefixes_once(layout, k):
    ds, store = recorded(layout)
    with Streamed(ds, fidelity=k, limits=SMALL_TASKS) as streamed:
        list(streamed.stream)
    assert of_images(store) == prefixes(ds, k)


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_neighbours_are_asked_for_together_where_that_pays(layout):
    ds, store = recorded(layout)
    with Streamed(ds, fidelity=5, shuffle=False) as streamed:
        list(streamed.stream)
    wanted = sum(b - a for _, a, b in prefixes(ds, 5))
    asked = of_images(store)
    assert sum(b - a for _, a, b in asked) == wanted
    assert len(asked) <= len(prefixes(ds, 5))


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("size", [97, 200, 10**6])
def test_long_prefixes_are_asked_for_in_parts(layout, size):
    ds, store = recorded(layout)
    with Streamed(ds, fidelity=4, limits=StreamLimits(task_bytes=1, part_bytes=size)) as streamed:
        list(streamed.stream)
        traffic = streamed.pipeline.connections.traffic()
    expected = prefixes(ds, 4)
    asked = of_images(store)
    assert len(asked) == sum(-(-(b - a) // size) for _, a, b in expected)
    assert all(b - a <= size for _, a, b in asked)
    assert {(n, at) for n, a, b in asked for at in range(a, b)} == {
        (n, at) for n, a, b in expected for at in range(a, b)
    }
    assert sum(b - a for _, a, b in asked) == sum(b - a for _, a, b in expected)
    assert traffic.requests == len(store.named("get_range"))


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_samples_of_their_own_fidelity_are_read_cell_by_cell(layout):
    ds, store = recorded(layout)
    with Streamed(ds, fidelity=[i % G + 1 for i in range(N)], select=[0, 1, 5, 9, 19]) as streamed:
        list(streamed.stream)
    wanted = 0
    for i in (0, 1, 5, 9, 19):
        p = int(ds.index.locate([i]).part[0])
        [part] = ds.index.parts([p])
        local = i - part.first_image
        r = int(np.searchsorted(part.image_edges, local, side="right")) - 1
        [header] = ds.index.headers([(p, r)])
        wanted += int(header.lengths[local - part.image_edges[r], : i % G + 1].sum())
    assert sum(b - a for _, a, b in of_images(store)) == wanted


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_a_fidelity_that_changes_counts_from_the_next_request(layout):
    ds, store = recorded(layout, n=40)
    with Streamed(ds, fidelity=2, prefetch=1, limits=SMALL_TASKS) as streamed:
        batches = iter(streamed.stream)
        got = samples([next(batches)])
        assert until(lambda: len(streamed.allocated) == LIMITS.batches_ready + 1)
        time.sleep(0.05)  # the request ahead of them
        before = of_images(store)
        assert set(before) < set(prefixes(ds, 2))
        store.clear()
        streamed.pipeline.shared_fidelity.set(5)
        got += samples(batches)
        after = of_images(store)
    assert after
    assert set(after) < set(prefixes(ds, 5))
    if layout == "record":
        assert len(before) + len(after) == ds.n_records
    assert sorted(i for _, i in got) == list(range(40))


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_headers_are_read_a_few_at_first_and_then_more(layout, monkeypatch):
    asked = []
    headers = IndexReader.headers

    def noted(self, records):
        asked.append(len(records))
        return headers(self, records)

    ds = a_dataset(layout, n=60)
    assert 16 < ds.n_records < 32
    with Streamed(ds, batch=60, limits=StreamLimits(first_headers=2)) as streamed:
        monkeypatch.setattr(IndexReader, "headers", noted)
        list(streamed.stream)
    by_the_prefetcher = [2, 2, 4, 8, ds.n_records - 16] if layout == "zarr" else [0] * 5
    assert [n for n in asked if n != 1][: len(by_the_prefetcher)] == by_the_prefetcher


@pytest.fixture
def limits():
    """Return the limits of `looked_up`, for which a test may have its own by parametrisation."""
    return LIMITS


@pytest.fixture
def looked_up(limits, monkeypatch):
    """Yield a prefetcher of four slices, those looked up, and those that cannot be."""
    tried, failing = [], set()
    read_list = SampleSet.read_list

    def noted(self, order, shard_slice):
        tried.append(shard_slice.start)
        if shard_slice.start in failing:
            raise TransientStoreError("no index")
        return read_list(self, order, shard_slice)

    with Streamed(a_dataset()) as streamed:
        list(streamed.stream)
    monkeypatch.setattr(SampleSet, "read_list", noted)
    slices = [ShardSlice(shard=0, start=a, stop=a + 5, after=0) for a in range(0, 20, 5)]
    stop_flag = StopFlag()
    prefetcher = Prefetcher(
        ReadSpec(
            sample_set=streamed.pipeline.sample_set,
            readers=streamed.pipeline.connections.readers,
            order=streamed.partition.order,
            slices=slices,
            fidelity=streamed.pipeline.shared_fidelity,
            prefetch_bytes=10**9,
            n_draws=0,
            settings=replace(streamed.pipeline.settings, limits=limits),
        ),
        stop_flag,
    )
    yield prefetcher, tried, failing
    stop_flag.is_over = True
    prefetcher.close()


def test_a_shard_slice_is_looked_up_when_it_is_needed_or_there_is_room(looked_up):
    prefetcher, tried, _ = looked_up
    for stop, ahead, expected in [
        (0, False, 0), (1, False, 1), (5, False, 1), (6, False, 2), (10, False, 2), (10, True, 4),
    ]:  # fmt: skip
        prefetcher.ask(stop, ahead=ahead)
        assert tried == [0, 5, 10, 15][:expected], (stop, ahead)


def test_an_index_that_cannot_be_read_is_no_error_before_it_is_due(looked_up):
    prefetcher, tried, failing = looked_up
    failing.add(10)
    prefetcher.ask(5, ahead=True)
    assert tried == [0, 5, 10]
    prefetcher.ask(10, ahead=True)  # not again and again: each try waits for a store that is gone
    assert tried == [0, 5, 10]
    assert len(prefetcher.take(0, 10).files) == 10
    with pytest.raises(TransientStoreError, match="no index"):
        prefetcher.ask(11, ahead=True)
    assert tried == [0, 5, 10, 10]


@pytest.mark.parametrize("limits", [StreamLimits(first_headers=1)])
def test_headers_of_what_is_ahead_keep_no_record_waiting(looked_up, monkeypatch):
    prefetcher, _, _ = looked_up
    load, waiting = Prefetcher._load_headers, []

    def noted(self, open_slice):
        waiting.append(open_slice.n_asked - len(open_slice.fetches))
        load(self, open_slice)

    monkeypatch.setattr(Prefetcher, "_load_headers", noted)
    prefetcher.ask(20, ahead=False)
    assert len(waiting) > 4  # more than one batch of headers of a shard_slice
    assert not any(waiting)


@pytest.mark.parametrize("limits", [SMALL_TASKS])
def test_what_nothing_waits_for_yet_is_fetched_as_such(looked_up, monkeypatch):
    prefetcher, _, _ = looked_up
    found = []
    submit = FetchQueue.submit

    def noted(self, call, n_bytes, *, is_ahead):
        found.append(is_ahead)
        return submit(self, call, n_bytes, is_ahead=is_ahead)

    monkeypatch.setattr(FetchQueue, "submit", noted)
    prefetcher.ask(5, ahead=False)
    first = len(found)
    assert first
    assert not any(found)
    prefetcher.ask(6, ahead=True)
    assert not found[first]
    assert all(found[first + 1 :])
    assert len(found) > first + 1


def test_an_index_that_can_be_read_when_it_is_due_leaves_nothing_out(looked_up):
    prefetcher, tried, failing = looked_up
    failing.add(10)
    prefetcher.ask(5, ahead=True)
    failing.clear()
    prefetcher.ask(11, ahead=True)
    assert tried == [0, 5, 10, 10, 15]
    assert len(prefetcher.take(0, 20).files) == 20


def test_a_header_that_cannot_be_read_is_no_error_before_its_record_is_due(monkeypatch):
    headers = IndexReader.headers

    def failing(self, records):
        if any(part >= 3 for part, _ in records):
            raise TransientStoreError("no header")
        return headers(self, records)

    ds = a_dataset("zarr", n=60)
    n_before = int(ds.index.image_edges[3])
    got = []
    with Streamed(ds, batch=4, shuffle=False, limits=SMALL_TASKS) as streamed:
        monkeypatch.setattr(IndexReader, "headers", failing)
        with pytest.raises(TransientStoreError, match="no header"):
            got.extend(
                position
                for batch in streamed.stream
                for position in batch.samples.positions.tolist()
            )
    assert got == list(range(n_before // 4 * 4))


@pytest.mark.parametrize("shard", [100, 9])
@pytest.mark.parametrize("at_once", [1, 3, 4, 7, 1024])
def test_draws_are_those_of_each_sample(at_once, shard):
    with (
        shards_of(shard),
        Streamed(a_dataset(n=21), batch=4, limits=StreamLimits(drawn_at_once=at_once)) as streamed,
    ):
        assert len(streamed.read_lists()) == -(-21 // shard)
        keys = np.concatenate([leaf.crop_key for leaf in streamed.read_lists()])
        drawn = np.concatenate([b.samples.draws for b in streamed.stream])
    expected = uniforms(keys, RandomResizedCrop.n_draws)
    assert (drawn[: len(expected)] == expected).all()
    assert len(drawn) == 21 == len(expected)


# ---- bounds


@pytest.mark.parametrize("prefetch", [1, 2000, 5000, 12000])
def test_bytes_ahead_are_bounded(prefetch):
    ds, store = recorded(n=60)
    with Streamed(ds, batch=2, prefetch=prefetch, fidelity=5, limits=SMALL_TASKS) as streamed:
        reads = streamed.reads()
        # The driver gathers one batch more than there are tokens, and waits for one.
        needed = sum(first < 2 * (LIMITS.batches_ready + 1) for first, _ in reads)
        sums = accumulate(size for _, size in reads[needed:])
        ahead = 1 + sum(prefetch - total >= 1 for total in sums)
        expected = min(len(reads), needed + ahead)
        assert expected < len(reads)
        assert until(lambda: len(of_images(store)) == expected), (len(of_images(store)), expected)
        time.sleep(0.1)
        assert len(of_images(store)) == expected


@pytest.mark.parametrize("prefetch", [1, 2000, 5000, 12000])
def test_bytes_ahead_are_bounded_where_records_are_asked_for_together(prefetch):
    ds, store = recorded(n=60)
    with Streamed(ds, batch=2, prefetch=prefetch, fidelity=5) as streamed:
        reads = streamed.reads()
        needed = sum(first < 2 * (LIMITS.batches_ready + 1) for first, _ in reads)
        ahead = sum(total < prefetch for total in accumulate(n for _, n in reads[needed:])) + 1
        records = {u.number: u for leaf in streamed.read_lists() for u in leaf.reads}
        sizes = np.array([len(r) for r in prefixes_of(ds, records)])

        def asked():
            return sum(b - a for _, a, b in of_images(store))

        assert until(lambda: asked() >= sizes[:needed].sum())
        time.sleep(0.1)
        assert asked() <= sizes[: needed + ahead].sum() < sizes.sum()


def prefixes_of(ds, reads):
    """The prefix of every read at full fidelity, in order."""
    for u in reads.values():
        [part] = ds.index.parts([u.part])
        [prefix] = part.placement(u.record).prefix(5)
        yield prefix


def test_the_first_batch_shares_the_link_with_nothing():
    store = GatedStore(DictStore(stored(n=60)))
    ds = opened(store)
    store.gate.clear()
    with Streamed(ds, batch=5, limits=SMALL_TASKS) as streamed:
        [leaf] = streamed.read_lists()
        needed = sum(read.first_use < 5 for read in leaf.reads)
        assert needed < min(LIMITS.n_fetchers, len(leaf.reads))
        assert until(lambda: store.n_asked == needed)
        time.sleep(0.1)
        assert store.n_asked == needed
        store.gate.set()
        assert len(samples(streamed.stream)) == 60


def test_files_are_let_go_when_their_samples_are_taken():
    ds = a_dataset(n=60)
    with Streamed(ds, batch=5, fidelity=5) as streamed:
        batches = iter(streamed.stream)
        for _ in range(4):
            held = next(batches)
        assert until(lambda: len(streamed.allocated) == 4 + LIMITS.batches_ready)
        assert held.samples.files == []
        # One batch more has been gathered than was allocated.
        [leaf] = streamed.read_lists()
        left = leaf.image[5 * (4 + LIMITS.batches_ready + 1) :]
        expected = sum(map(len, ds.fetch(left.tolist())))
        assert until(lambda: held_bytes(streamed) == expected)


def test_free_memory_is_given_back_every_so_many_bytes(monkeypatch):
    taken = []
    monkeypatch.setattr(prefetch, "trim", lambda: taken.append("trim"))
    files = Prefetcher._files

    def noted(self, open_slice, read):
        before = len(taken)
        found = files(self, open_slice, read)
        taken.insert(before, sum(map(len, found)))
        return found

    monkeypatch.setattr(Prefetcher, "_files", noted)
    with Streamed(
        a_dataset(n=60), limits=StreamLimits(task_bytes=1, trim_after=10_000)
    ) as streamed:
        list(streamed.stream)
    assert taken.count("trim") >= 3
    since = 0
    for one in taken:
        if one == "trim":
            assert since > 10_000
            since = 0
        else:
            assert since <= 10_000
            since += one


def test_a_recording_store_sees_the_same_whatever_the_threads():
    """The order of requests may differ; their set may not."""
    seen = []
    for n_threads in (1, 8):
        store = RecordingStore(DictStore(stored()))
        ds = opened(store, NO_GAPS)
        with Streamed(ds, n_threads=n_threads, seed=2) as streamed:
            list(streamed.stream)
        seen.append(of_images(store))
    assert seen[0] == seen[1]
