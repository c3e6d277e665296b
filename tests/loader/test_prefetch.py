"""What is asked for ahead keeps its order and its bounds, and is let go."""

import time
from itertools import accumulate

import numpy as np
import pytest
from epochs import shards_of
from feeds import Fed, G, N, held_bytes, prefixes, samples
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

from pcrstore.concurrency.threads import StopFlag
from pcrstore.core.hashing import uniforms
from pcrstore.dataset.index_reader import IndexReader
from pcrstore.errors import TransientStoreError
from pcrstore.image.crops import RandomResizedCrop
from pcrstore.loader import pipeline as loading_module
from pcrstore.loader import prefetch
from pcrstore.loader.batches import BATCHES_READY
from pcrstore.loader.fetch_queue import FETCHERS, FetchQueue
from pcrstore.loader.prefetch import Prefetcher, ReadSpec
from pcrstore.sampling.lookup import SampleSet
from pcrstore.sampling.order import ShardSlice
from pcrstore.testing import RecordingStore

pytestmark = pytest.mark.usefixtures("no_threads_left")


# ---- what is asked for


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.usefixtures("small_tasks")
def test_an_epoch_asks_for_whole_prefixes_once(layout, k):
    ds, store = recorded(layout)
    with Fed(ds, fidelity=k) as fed:
        list(fed.feed)
    assert of_images(store) == prefixes(ds, k)


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_neighbours_are_asked_for_together_where_that_pays(layout):
    ds, store = recorded(layout)
    with Fed(ds, fidelity=5, shuffle=False) as fed:
        list(fed.feed)
    wanted = sum(b - a for _, a, b in prefixes(ds, 5))
    asked = of_images(store)
    assert sum(b - a for _, a, b in asked) == wanted
    assert len(asked) <= len(prefixes(ds, 5))


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("size", [97, 200, 10**6])
@pytest.mark.usefixtures("small_tasks")
def test_long_prefixes_are_asked_for_in_parts(layout, size, monkeypatch):
    monkeypatch.setattr(loading_module, "PART_BYTES", size)
    ds, store = recorded(layout)
    with Fed(ds, fidelity=4) as fed:
        list(fed.feed)
        traffic = fed.loading.traffic()
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
    with Fed(ds, fidelity=[i % G + 1 for i in range(N)], select=[0, 1, 5, 9, 19]) as fed:
        list(fed.feed)
    wanted = 0
    for i in (0, 1, 5, 9, 19):
        p = ds.index.part_of_image(i)
        [part] = ds.index.parts([p])
        local = i - part.first_image
        r = int(np.searchsorted(part.image_edges, local, side="right")) - 1
        [header] = ds.index.headers([(p, r)])
        wanted += int(header.lengths[local - part.image_edges[r], : i % G + 1].sum())
    assert sum(b - a for _, a, b in of_images(store)) == wanted


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_a_fidelity_that_changes_counts_from_the_next_request(layout, small_tasks):
    del small_tasks
    ds, store = recorded(layout, n=40)
    with Fed(ds, fidelity=2, prefetch=1) as fed:
        batches = iter(fed.feed)
        got = samples([next(batches)])
        assert until(lambda: len(fed.allocated) == BATCHES_READY + 1)
        time.sleep(0.05)  # the request ahead of them
        before = of_images(store)
        assert set(before) < set(prefixes(ds, 2))
        store.clear()
        fed.loading.dial.set(5)
        got += samples(batches)
        after = of_images(store)
    assert after
    assert set(after) < set(prefixes(ds, 5))
    if layout == "record":
        assert len(before) + len(after) == ds.n_records
    assert sorted(i for _, i in got) == list(range(40))


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_headers_are_read_a_few_at_first_and_then_more(layout, monkeypatch):
    monkeypatch.setattr(prefetch, "_FIRST_HEADERS", 2)
    asked = []
    headers = IndexReader.headers

    def noted(self, records):
        asked.append(len(records))
        return headers(self, records)

    ds = a_dataset(layout, n=60)
    assert 16 < ds.n_records < 32
    with Fed(ds, batch=60) as fed:
        monkeypatch.setattr(IndexReader, "headers", noted)
        list(fed.feed)
    by_the_prefetcher = [2, 2, 4, 8, ds.n_records - 16] if layout == "zarr" else [0] * 5
    assert [n for n in asked if n != 1][: len(by_the_prefetcher)] == by_the_prefetcher


@pytest.fixture
def looked_up(monkeypatch):
    """Yield a prefetcher of four stretches, those looked up, and those that cannot be."""
    tried, failing = [], set()
    leaflet = SampleSet.leaflet

    def noted(self, order, stretch):
        tried.append(stretch.start)
        if stretch.start in failing:
            raise TransientStoreError("no index")
        return leaflet(self, order, stretch)

    with Fed(a_dataset()) as fed:
        list(fed.feed)
    monkeypatch.setattr(SampleSet, "leaflet", noted)
    stretches = [ShardSlice(shard=0, start=a, stop=a + 5, after=0) for a in range(0, 20, 5)]
    life = StopFlag()
    prefetcher = Prefetcher(
        ReadSpec(
            population=fed.loading.population,
            readers=fed.loading.readers,
            order=fed.leg.order,
            stretches=stretches,
            dial=fed.loading.dial,
            prefetch_bytes=10**9,
            hedge=False,
            apply_orientation=False,
            seed=0,
            epoch=0,
            n_draws=0,
        ),
        life,
    )
    yield prefetcher, tried, failing
    life.is_over = True
    prefetcher.close()


def test_a_stretch_is_looked_up_when_it_is_needed_or_there_is_room(looked_up):
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


def test_headers_of_what_is_ahead_keep_no_record_waiting(looked_up, monkeypatch):
    prefetcher, _, _ = looked_up
    monkeypatch.setattr(prefetch, "_FIRST_HEADERS", 1)
    load, waiting = Prefetcher._load_headers, []

    def noted(self, lane):
        waiting.append(lane.next_unit - len(lane.fetches))
        load(self, lane)

    monkeypatch.setattr(Prefetcher, "_load_headers", noted)
    prefetcher.ask(20, ahead=False)
    assert len(waiting) > 4  # more than one batch of headers of a stretch
    assert not any(waiting)


def test_what_nothing_waits_for_yet_is_fetched_as_such(looked_up, monkeypatch, small_tasks):
    del small_tasks
    prefetcher, _, _ = looked_up
    found = []
    submit = FetchQueue.submit

    def noted(self, read, n_bytes, *, is_ahead):
        found.append(is_ahead)
        return submit(self, read, n_bytes, is_ahead=is_ahead)

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


@pytest.mark.usefixtures("small_tasks")
def test_a_header_that_cannot_be_read_is_no_error_before_its_record_is_due(monkeypatch):
    headers = IndexReader.headers

    def failing(self, records):
        if any(part >= 3 for part, _ in records):
            raise TransientStoreError("no header")
        return headers(self, records)

    ds = a_dataset("zarr", n=60)
    n_before = int(ds.index.image_edges[3])
    got = []
    with Fed(ds, batch=4, shuffle=False) as fed:
        monkeypatch.setattr(IndexReader, "headers", failing)
        with pytest.raises(TransientStoreError, match="no header"):
            got.extend(position for batch in fed.feed for position in batch.positions.tolist())
    assert got == list(range(n_before // 4 * 4))


@pytest.mark.parametrize("shard", [100, 9])
@pytest.mark.parametrize("at_once", [1, 3, 4, 7, 1024])
def test_draws_are_those_of_each_sample(at_once, shard, monkeypatch):
    monkeypatch.setattr(prefetch, "_DRAWN_AT_ONCE", at_once)
    with shards_of(shard), Fed(a_dataset(n=21), batch=4) as fed:
        assert len(fed.leaflets()) == -(-21 // shard)
        keys = np.concatenate([leaf.crop_key for leaf in fed.leaflets()])
        drawn = np.concatenate([b.draws for b in fed.feed])
    expected = uniforms(keys, RandomResizedCrop.n_draws)
    assert (drawn[: len(expected)] == expected).all()
    assert len(drawn) == 21 == len(expected)


# ---- bounds


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("prefetch", [1, 2000, 5000, 12000])
def test_bytes_ahead_are_bounded(prefetch):
    ds, store = recorded(n=60)
    with Fed(ds, batch=2, prefetch=prefetch, fidelity=5) as fed:
        units = fed.units()
        # The driver gathers one batch more than there are tokens, and waits for one.
        needed = sum(first < 2 * (BATCHES_READY + 1) for first, _ in units)
        sums = accumulate(size for _, size in units[needed:])
        ahead = 1 + sum(prefetch - total >= 1 for total in sums)
        expected = min(len(units), needed + ahead)
        assert expected < len(units)
        assert until(lambda: len(of_images(store)) == expected), (len(of_images(store)), expected)
        time.sleep(0.1)
        assert len(of_images(store)) == expected


@pytest.mark.parametrize("prefetch", [1, 2000, 5000, 12000])
def test_bytes_ahead_are_bounded_where_records_are_asked_for_together(prefetch):
    ds, store = recorded(n=60)
    with Fed(ds, batch=2, prefetch=prefetch, fidelity=5) as fed:
        units = fed.units()
        needed = sum(first < 2 * (BATCHES_READY + 1) for first, _ in units)
        ahead = sum(total < prefetch for total in accumulate(n for _, n in units[needed:])) + 1
        records = {u.number: u for leaf in fed.leaflets() for u in leaf.units}
        sizes = np.array([len(r) for r in prefixes_of(ds, records)])

        def asked():
            return sum(b - a for _, a, b in of_images(store))

        assert until(lambda: asked() >= sizes[:needed].sum())
        time.sleep(0.1)
        assert asked() <= sizes[: needed + ahead].sum() < sizes.sum()


def prefixes_of(ds, units):
    """The prefix of every unit at full fidelity, in order."""
    for u in units.values():
        [part] = ds.index.parts([u.part])
        [prefix] = part.placement(u.record, ds.manifest.chunk_bytes).prefix(5)
        yield prefix


@pytest.mark.usefixtures("small_tasks")
def test_the_first_batch_shares_the_link_with_nothing():
    store = GatedStore(DictStore(stored(n=60)))
    ds = opened(store)
    store.gate.clear()
    with Fed(ds, batch=5) as fed:
        [leaf] = fed.leaflets()
        needed = sum(unit.first_use < 5 for unit in leaf.units)
        assert needed < min(FETCHERS, len(leaf.units))
        assert until(lambda: store.n_asked == needed)
        time.sleep(0.1)
        assert store.n_asked == needed
        store.gate.set()
        assert len(samples(fed.feed)) == 60


def test_files_are_let_go_when_their_samples_are_taken():
    ds = a_dataset(n=60)
    with Fed(ds, batch=5, fidelity=5) as fed:
        batches = iter(fed.feed)
        for _ in range(4):
            held = next(batches)
        assert until(lambda: len(fed.allocated) == 4 + BATCHES_READY)
        assert held.files == []
        # One batch more has been gathered than was allocated.
        [leaf] = fed.leaflets()
        left = leaf.image[5 * (4 + BATCHES_READY + 1) :]
        expected = sum(map(len, ds.fetch(left.tolist())))
        assert until(lambda: held_bytes(fed) == expected)


@pytest.mark.usefixtures("small_tasks")
def test_free_memory_is_given_back_every_so_many_bytes(monkeypatch):
    taken = []
    monkeypatch.setattr(prefetch, "trim", lambda: taken.append("trim"))
    monkeypatch.setattr(prefetch, "_TRIM_AFTER", 10_000)
    files = Prefetcher._files

    def noted(self, lane, unit):
        before = len(taken)
        found = files(self, lane, unit)
        taken.insert(before, sum(map(len, found)))
        return found

    monkeypatch.setattr(Prefetcher, "_files", noted)
    with Fed(a_dataset(n=60)) as fed:
        list(fed.feed)
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
        with Fed(ds, n_threads=n_threads, seed=2) as fed:
            list(fed.feed)
        seen.append(of_images(store))
    assert seen[0] == seen[1]
