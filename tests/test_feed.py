"""A feed keeps the order, the bounds and its word: what is asked for, held, raised and let go."""

import gc
import subprocess
import sys
import threading
import time
from itertools import accumulate
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
import pytest
from flows import DictStore
from small_datasets import (
    NO_GAPS,
    GatedStore,
    a_dataset,
    no_threads_left,
    of_images,
    opened,
    recorded,
    stored,
    threads,
    until,
)

from pcrstore import loading as loading_module
from pcrstore import prefetch
from pcrstore.crops import CenterCrop
from pcrstore.dial import Mixture
from pcrstore.errors import (
    ChecksumError,
    DecodeError,
    FormatError,
    NotFoundError,
    TransientStoreError,
)
from pcrstore.feed import BATCHES_READY
from pcrstore.loading import Loading, Spec
from pcrstore.order import n_of
from pcrstore.population import Mix
from pcrstore.prefetch import FETCHERS, Prefetcher
from pcrstore.shares import Topology
from pcrstore.testing import RecordingStore

SIZE = 8
N = 20
G = 5


@pytest.fixture(autouse=True)
def _no_threads_left():
    with no_threads_left():
        yield


@pytest.fixture
def small_tasks(monkeypatch):
    """Ask for every record by itself."""
    monkeypatch.setattr(prefetch, "TASK_BYTES", 1)


class Fed:
    """A feed of a dataset, and all that it is made of."""

    def __init__(
        self, dataset, *, batch=4, n_threads=2, rank=0, world=1, epoch=0, uneven="pad", **spec
    ):
        spec = {"size": SIZE, "shuffle_window": 4, **spec}
        self.loading = Loading(Spec(dataset=dataset, **spec))
        topology = Topology(world_size=world, batch_size=batch, uneven=uneven)
        self.leg = self.loading.leg(epoch, None, topology)
        self.allocated = []
        self.stretches = self.leg.share(rank, 0)
        self.feed = self.loading.feed(
            self.leg, epoch, rank=rank, worker=0, n_threads=n_threads, allocate=self._allocate
        )

    def _allocate(self, n):
        self.allocated.append(n)
        return np.empty((n, SIZE, SIZE, 3), np.uint8), len(self.allocated)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.feed.close()

    def leaflets(self):
        return [self.loading.population.leaflet(self.leg.order, s) for s in self.stretches]

    def units(self):
        """(first use, estimated bytes) of all units of the stream, in order."""
        out, base = [], 0
        for leaflet in self.leaflets():
            for u in leaflet.units:
                n_bytes = round(self.loading.dial.mean_bytes(u.source) * len(u.images))
                out.append((base + u.first_use, n_bytes))
            base += len(leaflet)
        return out


def samples(batches):
    return [(int(s), int(i)) for b in batches for s, i in zip(b.sources, b.positions, strict=True)]


def reachable(start, seen):
    """Everything that an object holds and that was not seen before."""
    todo = [start]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen[id(one)] = one
        yield one
        todo += gc.get_referents(one)


def held_bytes(fed):
    """Bytes of bodies and files that a feed holds beside what its datasets do."""
    seen = {}
    list(reachable(fed.loading, seen))
    return sum(len(x) for x in reachable(fed.feed._prefetcher._lanes, seen) if isinstance(x, bytes))


def read_into(got, feed):
    """Note the positions that a feed yields, up to its error."""
    for batch in feed:
        got += batch.positions.tolist()


def prefixes(ds, k):
    """The ranges of every record at fidelity k, sorted: what an epoch asks for, and no more."""
    ranges = []
    for p, entry in enumerate(ds.manifest.parts):
        [part] = ds.catalog.parts([p])
        for r in range(entry.n_records):
            ranges += part.placement(r, ds.manifest.chunk_bytes).prefix(k)
    return sorted((r.name, r.start, r.stop) for r in ranges if len(r))


# ---- order and contents


@pytest.mark.parametrize("n_threads", [1, 3, 9])
@pytest.mark.parametrize("prefetch", [1, "64mb"])
@pytest.mark.parametrize("batch", [1, 7, 20, 64])
def test_batches_come_in_the_order_of_the_epoch(batch, prefetch, n_threads):
    ds = a_dataset()
    with Fed(ds, batch=batch, prefetch=prefetch, n_threads=n_threads) as fed:
        batches = list(fed.feed)
        expected = [
            (int(s), int(i))
            for leaf in fed.leaflets()
            for s, i in zip(leaf.source, leaf.image, strict=True)
        ]
    assert samples(batches) == expected
    assert sorted(i for _, i in expected) == list(range(N))
    full, rest = divmod(N, batch)
    assert [len(b.labels) for b in batches] == [batch] * full + [rest] * bool(rest)
    assert [b.payload for b in batches] == list(range(1, len(batches) + 1))
    for b in batches:
        assert b.labels.tolist() == ds.labels[b.positions].tolist()
        assert b.images.shape == (len(b.labels), SIZE, SIZE, 3)


@pytest.mark.parametrize("world", [2, 3, 8, 21, 40])
@pytest.mark.parametrize("uneven", ["pad", "drop"])
def test_ranks_read_everything_between_them(world, uneven):
    ds = a_dataset()
    seen, counts = [], set()
    for rank in range(world):
        with Fed(ds, rank=rank, world=world, uneven=uneven) as fed:
            mine = samples(fed.feed)
            counts.add(len(mine))
            seen += [i for _, i in mine]
            assert len(mine) == n_of(fed.leg.order, fed.stretches)
    assert len(counts) == 1
    if uneven == "pad":
        assert set(seen) == set(range(N))
        assert len(seen) == N + fed.leg.n_padded
    else:
        assert len(seen) == len(set(seen)) == N - fed.leg.n_dropped


def test_one_image_is_an_epoch():
    with Fed(a_dataset(n=1, seed=90), batch=64, n_threads=16) as fed:
        [batch] = fed.feed
    assert batch.positions.tolist() == [0]


def test_nothing_to_read_ends_at_once():
    with Fed(a_dataset(n=1, seed=90), rank=1, world=2, uneven="drop") as fed:
        assert list(fed.feed) == []
        assert fed.allocated == []


def test_datasets_with_other_groups_are_mixed():
    ours, theirs = a_dataset(), a_dataset(n=7, seed=50, script="al3")
    other = a_dataset(n=5, seed=70, script="standard", opaque=(1, 3))
    assert len({ds.n_groups for ds in (ours, theirs, other)}) > 1
    mix = Mix({ours: 1, theirs: 1, other: 1})
    for fidelity in (1, "full", "bytes<=100mb", Mixture({1: 1, "full": 1}, per="sample")):
        with Fed(mix, fidelity=fidelity) as fed:
            got = samples(fed.feed)
        assert len(got) == 32
        assert {s for s, _ in got} == {0, 1, 2}


def test_opaque_images_are_decoded_among_others():
    ds = a_dataset(opaque=(0, 4, 11, 12))
    with Fed(ds, crop=CenterCrop()) as fed:
        batches = list(fed.feed)
    assert sorted(i for _, i in samples(batches)) == list(range(N))


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
        p = ds.catalog.part_of_image(i)
        [part] = ds.catalog.parts([p])
        local = i - part.first_image
        r = int(np.searchsorted(part.image_edges, local, side="right")) - 1
        [header] = ds.catalog.headers([(p, r)])
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
def test_what_is_counted_is_what_the_store_saw(layout):
    ds, store = recorded(layout)
    with Fed(ds, fidelity=3) as fed:
        batches = list(fed.feed)
        signals, traffic = fed.feed.signals(), fed.loading.traffic()
    assert traffic.requests == len(store.named("get_range"))
    assert traffic.bytes == sum(r.n_bytes for r in store.named("get_range"))
    assert (signals.samples, signals.batches) == (N, len(batches))
    assert signals.hedges == traffic.retries == traffic.cache_hits == 0
    assert signals.fetch_seconds > 0
    assert signals.decode_seconds > 0
    assert 0 < signals.stall_seconds < 60
    assert signals.queue_depth == 0  # nothing is left when the last one was taken


# ---- bounds


@pytest.mark.usefixtures("small_tasks")
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_consumer_that_stops_is_given_no_more(taken):
    with Fed(a_dataset(n=60), batch=2) as fed:
        batches = iter(fed.feed)
        for _ in range(taken):
            next(batches)
        assert until(lambda: len(fed.allocated) == taken + BATCHES_READY)
        time.sleep(0.1)
        assert len(fed.allocated) == taken + BATCHES_READY
        batches.close()


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
        assert until(lambda: len(fed.allocated) == BATCHES_READY)
        time.sleep(0.1)
        asked = sum(b - a for _, a, b in of_images(store))
    assert sizes[:needed].sum() <= asked <= sizes[: needed + ahead].sum() < sizes.sum()


def prefixes_of(ds, units):
    """The prefix of every unit at full fidelity, in order."""
    for u in units.values():
        [part] = ds.catalog.parts([u.part])
        [prefix] = part.placement(u.record, ds.manifest.chunk_bytes).prefix(5)
        yield prefix


@pytest.mark.usefixtures("small_tasks")
def test_requests_in_flight_are_bounded():
    store = GatedStore(DictStore(stored(n=60)))
    ds = opened(store)
    store.gate.clear()
    with Fed(ds, batch=60) as fed:
        assert until(lambda: store.n_asked == FETCHERS)
        time.sleep(0.1)
        assert store.n_asked == FETCHERS
        store.gate.set()
        assert len(samples(fed.feed)) == 60


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
        time.sleep(0.05)
        assert held.rows == []
        # One batch more has been gathered than was allocated.
        [leaf] = fed.leaflets()
        left = leaf.image[5 * (4 + BATCHES_READY + 1) :]
        expected = sum(map(len, ds.fetch(left.tolist())))
        assert 0.5 * expected < held_bytes(fed) < 1.5 * expected


# ---- ends


def test_leaving_a_loop_ends_all_threads():
    with Fed(a_dataset(n=60)) as fed:
        for batch in fed.feed:
            assert threads()
            del batch
            break
    assert until(lambda: not threads())


def test_closing_twice_and_reading_on_is_the_end():
    with Fed(a_dataset(n=60)) as fed:
        batches = iter(fed.feed)
        next(batches)
        assert until(lambda: len(fed.allocated) == 1 + BATCHES_READY)
        fed.feed.close()
        fed.feed.close()
        # What was ready belongs to nobody now: a loader has counted none of it.
        assert list(batches) == []
        assert fed.feed.signals().batches == 1


def test_a_consumer_that_waits_is_woken_by_close():
    store = GatedStore(DictStore(stored()))
    ds = opened(store)
    store.gate.clear()
    with Fed(ds, batch=60) as fed:
        got = []
        consumer = threading.Thread(target=lambda: got.extend(fed.feed))
        consumer.start()
        time.sleep(0.05)
        fed.feed.close()
        consumer.join(5)
        assert not consumer.is_alive()
        assert got == []
        store.gate.set()


@pytest.mark.parametrize("hedge", [False, True])
@pytest.mark.usefixtures("small_tasks")
def test_close_while_the_store_answers_nothing(hedge, monkeypatch):
    """More records are asked for than there are threads, and close drops the ones that wait."""
    monkeypatch.setattr(prefetch, "FETCHERS", 1)
    store = GatedStore(DictStore(stored(n=60)))
    ds = opened(store)
    store.gate.clear()
    with Fed(ds, batch=30, hedge=hedge) as fed:
        assert until(lambda: store.n_asked == 1)
        store.gate.set()
        assert until(lambda: store.n_asked > 2)
        store.gate.clear()
        fed.feed.close()
        time.sleep(0.05)
        store.gate.set()
        assert until(lambda: not threads(), 5), threads()


def test_close_at_any_moment_ends_all_threads():
    ds = a_dataset(n=60)
    for i in range(40):
        with Fed(ds, batch=3, hedge=bool(i % 2), prefetch=1 + 1000 * (i % 3)) as fed:
            batches = iter(fed.feed)
            for _ in range(i % 5):
                next(batches)
            time.sleep(0.0005 * (i % 7))
    assert until(lambda: not threads(), 5), threads()


def test_an_iterator_in_a_cycle_is_collected_with_its_threads():
    fed = Fed(a_dataset(n=60))
    batches = iter(fed.feed)
    next(batches)
    cycle = [batches]
    cycle.append(cycle)
    del batches, cycle, fed
    gc.collect()
    assert until(lambda: not threads()), threads()


EXIT = """
import sys, threading
sys.path[:0] = {paths!r}
import test_feed as t
store = t.GatedStore(t.DictStore(t.stored(n=40)))
ds = t.opened(store)
fed = t.Fed(ds, batch=3, hedge={hedge})
batches = iter(fed.feed)
if {blocked}:
    next(batches)
    store.gate.clear()
else:
    next(batches)
if {thread}:
    threading.Thread(target=lambda: list(batches), daemon=True).start()
print("end", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocked", "hedge", "thread"),
    [(False, False, False), (True, True, False), (True, False, True)],
    ids=["reading", "waiting-for-the-store", "consumer-in-a-thread"],
)
def test_an_interpreter_that_ends_does_not_wait(blocked, hedge, thread):
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    script = EXIT.format(paths=paths, blocked=blocked, hedge=hedge, thread=thread)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert time.monotonic() - started < 20


# ---- errors


class Spoiled:
    """A store whose first `times` answers about images are wrong."""

    create_is_atomic = True

    def __init__(self, store, answer, times=10**9, skip=0):
        self.store = store
        self.url = store.url
        self._answer = answer
        self._lock = threading.Lock()
        self.left = times
        self._skip = skip
        self.n_asked = 0

    def get(self, name):
        return self.store.get(name)

    def list(self, prefix):
        return self.store.list(prefix)

    def get_ranges(self, ranges):
        bodies = self.store.get_ranges(ranges)
        for i, r in enumerate(ranges):
            if r.name.startswith("index/") or not len(r):
                continue
            with self._lock:
                self.n_asked += 1
                wrong = self.n_asked > self._skip and self.left > 0
                self.left -= wrong
            if wrong:
                bodies[i] = self._answer(r, bodies[i])
        return bodies


def flipped(_, body):
    return body[:-1] + bytes([body[-1] ^ 1])


def fails(error):
    def answer(wanted, _):
        raise error(f"{wanted.name}: made to fail")

    return answer


def name_of(store):
    return next(n for n in store.objects if n.startswith(("objects/", "zarr/")))


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (fails(TransientStoreError), TransientStoreError, "made to fail"),
        (fails(NotFoundError), FormatError, "made to fail"),
        (flipped, ChecksumError, "fails its checksum"),
    ],
    ids=["store", "missing", "damaged"],
)
@pytest.mark.usefixtures("small_tasks")
def test_errors_name_the_object_and_come_in_their_turn(layout, answer, error, says, monkeypatch):
    objects = DictStore(stored(layout))
    folder = name_of(objects).partition("/")[0]
    # One thread asks in order, so that the first records are whole.
    skip = {"record": 2, "zarr": 2 * G}[layout]
    store = Spoiled(objects, answer, skip=skip)
    ds = opened(store)
    monkeypatch.setattr(prefetch, "FETCHERS", 1)
    got = []
    with (
        Fed(ds, batch=3, shuffle=False, fidelity=5) as fed,
        pytest.raises(error, match=rf"{folder}/.*{says}"),
    ):
        read_into(got, fed.feed)
    assert got == list(range(len(got)))
    assert 3 <= len(got) <= 6


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("times", [1, 2])
def test_damage_on_the_way_is_read_again(layout, times):
    clean = a_dataset(layout)
    store = Spoiled(DictStore(stored(layout)), flipped, times)
    ds = opened(store, NO_GAPS)
    with Fed(clean, seed=4) as a, Fed(ds, seed=4) as b:
        for x, y in zip(a.feed, b.feed, strict=True):
            assert (x.images == y.images).all()
        assert b.loading.traffic().requests > a.loading.traffic().requests
        assert store.left == 0


@pytest.mark.parametrize("name", ["train/cat/001", "train/cat/007", "val/dog/012", "val/dog/018"])
def test_a_file_that_no_decoder_takes_is_named_after_those_before_it(name):
    ds = a_dataset(text=(int(name[-3:]),))
    bad = ds.keys.index(f"{name}.jpg")
    with Fed(ds, batch=2, shuffle=False) as fed:
        got = []
        with pytest.raises(DecodeError, match=rf"{ds.url}: image {bad}: ") as caught:
            read_into(got, fed.feed)
        assert caught.value.__cause__ is not None
    assert got == list(range(bad // 2 * 2))


def test_an_index_that_is_gone_is_an_error_of_the_consumer():
    objects = stored()
    ds = opened(DictStore({n: b for n, b in objects.items() if not n.startswith("objects/")}))
    with Fed(ds) as fed, pytest.raises(FormatError, match="objects/"):
        list(fed.feed)


# ---- hedging


class Slow:
    """A store that holds back some requests for images, by number, until it is told."""

    create_is_atomic = True

    def __init__(self, store, held, *, fails_again=None):
        self.store = store
        self.url = store.url
        self._held = set(held)
        self._lock = threading.Lock()
        self.asked = []
        self.go = threading.Event()
        self._fails_again = fails_again

    def get(self, name):
        return self.store.get(name)

    def list(self, prefix):
        return self.store.list(prefix)

    def get_ranges(self, ranges):
        if any(not r.name.startswith("index/") for r in ranges):
            with self._lock:
                number = len(self.asked)
                again = ranges[0] in self.asked
                self.asked.append(ranges[0])
            if again and self._fails_again is not None:
                raise self._fails_again(f"{ranges[0].name}: the second fails")
            if number in self._held:
                assert self.go.wait(20)
        return self.store.get_ranges(ranges)


@pytest.fixture
def quick_hedges(monkeypatch, small_tasks):
    """Durations of a test's machine vary: only what is held back shall be slow."""
    del small_tasks
    monkeypatch.setattr(Prefetcher, "_patience", lambda _self: 0.3)


@pytest.mark.usefixtures("quick_hedges")
def test_what_is_slow_is_asked_for_again_and_its_late_answer_is_dropped():
    store = Slow(DictStore(stored()), [3])
    with Fed(opened(store, NO_GAPS), hedge=True) as fed:
        batches = iter(fed.feed)
        got = [next(batches) for _ in range(4)]
        assert fed.feed.signals().hedges == 1
        assert len(store.asked) == len(set(store.asked)) + 1
        store.go.set()
        time.sleep(0.1)
        assert held_bytes(fed) == 0
        got += batches
    assert sorted(i for _, i in samples(got)) == list(range(N))


@pytest.mark.usefixtures("quick_hedges")
def test_nothing_is_asked_for_again_when_nothing_is_slow_or_nobody_wants_it():
    with Fed(opened(store := Slow(DictStore(stored()), []), NO_GAPS), hedge=True) as fed:
        list(fed.feed)
        assert fed.feed.signals().hedges == 0
    assert len(store.asked) == len(set(store.asked))
    store = Slow(DictStore(stored()), [3])
    with Fed(opened(store, NO_GAPS)) as fed:
        threading.Timer(0.8, store.go.set).start()
        list(fed.feed)
        assert fed.feed.signals().hedges == 0
    assert len(store.asked) == len(set(store.asked))


@pytest.mark.usefixtures("quick_hedges")
def test_a_second_request_that_fails_leaves_the_first_its_time():
    store = Slow(DictStore(stored()), [3], fails_again=TransientStoreError)
    with Fed(opened(store, NO_GAPS), hedge=True) as fed:
        threading.Timer(0.9, store.go.set).start()
        assert len(samples(fed.feed)) == N


def test_slow_is_three_times_the_median_and_a_twentieth_of_a_second_at_least():
    with Fed(a_dataset()) as fed:
        list(fed.feed)
        prefetcher = fed.feed._prefetcher
        for durations, expected in (
            ([], 3.0),
            ([0.001], 0.05),
            ([0.016, 0.016], 0.05),
            ([0.1, 9.0, 0.2], 0.6),
        ):
            prefetcher._durations.clear()
            prefetcher._durations.extend(durations)
            assert prefetcher._patience() == pytest.approx(expected)


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
