"""A stream keeps the order and its word: what is yielded, held ready, raised and let go."""

import gc
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flows import DictStore
from small_datasets import (
    NO_GAPS,
    GatedStore,
    PassingStore,
    a_dataset,
    opened,
    recorded,
    stored,
    threads,
    until,
)
from streams import LIMITS, SIZE, SMALL_TASKS, G, N, Streamed, read_into, samples

from pcrstore.core.checksum import crc32c, place_words
from pcrstore.dataset.reader import RecordSelection
from pcrstore.errors import (
    ChecksumError,
    DecodeError,
    FormatError,
    NotFoundError,
    TransientStoreError,
)
from pcrstore.fidelity.mixture import Mixture
from pcrstore.format.record import parse_header
from pcrstore.image.crops import CenterCrop
from pcrstore.loader import batches as batches_module
from pcrstore.loader.batches import BatchStream
from pcrstore.loader.limits import StreamLimits
from pcrstore.sampling.mix import Mix
from pcrstore.sampling.sharding import n_of

pytestmark = pytest.mark.usefixtures("no_threads_left")


# ---- order and contents


@pytest.mark.parametrize("n_threads", [1, 3, 9])
@pytest.mark.parametrize("prefetch", [1, "64mb"])
@pytest.mark.parametrize("batch", [1, 7, 20, 64])
def test_batches_come_in_the_order_of_the_epoch(batch, prefetch, n_threads):
    ds = a_dataset()
    with Streamed(ds, batch=batch, prefetch=prefetch, n_threads=n_threads) as streamed:
        batches = list(streamed.stream)
        expected = [
            (int(s), int(i))
            for leaf in streamed.read_lists()
            for s, i in zip(leaf.source, leaf.image, strict=True)
        ]
    assert samples(batches) == expected
    assert sorted(i for _, i in expected) == list(range(N))
    full, rest = divmod(N, batch)
    assert [len(b.samples.labels) for b in batches] == [batch] * full + [rest] * bool(rest)
    assert [b.payload for b in batches] == list(range(1, len(batches) + 1))
    for b in batches:
        assert b.samples.labels.tolist() == ds.labels[b.samples.positions].tolist()
        assert b.images.shape == (len(b.samples.labels), SIZE, SIZE, 3)


@pytest.mark.parametrize("world", [2, 3, 8, 21, 40])
@pytest.mark.parametrize("uneven", ["pad", "drop"])
def test_ranks_read_everything_between_them(world, uneven):
    ds = a_dataset()
    seen, counts = [], set()
    for rank in range(world):
        with Streamed(ds, rank=rank, world=world, uneven=uneven) as streamed:
            mine = samples(streamed.stream)
            counts.add(len(mine))
            seen += [i for _, i in mine]
            assert len(mine) == n_of(streamed.partition.order, streamed.slices)
    assert len(counts) == 1
    if uneven == "pad":
        assert set(seen) == set(range(N))
        assert len(seen) == N + streamed.partition.n_padded
    else:
        assert len(seen) == len(set(seen)) == N - streamed.partition.n_dropped


def test_one_image_is_an_epoch():
    with Streamed(a_dataset(n=1, seed=90), batch=64, n_threads=16) as streamed:
        [batch] = streamed.stream
    assert batch.samples.positions.tolist() == [0]


def test_nothing_to_read_ends_at_once():
    with Streamed(a_dataset(n=1, seed=90), rank=1, world=2, uneven="drop") as streamed:
        assert list(streamed.stream) == []
        assert streamed.allocated == []


def test_datasets_with_other_groups_are_mixed():
    ours, theirs = a_dataset(), a_dataset(n=7, seed=50, script="al3")
    other = a_dataset(n=5, seed=70, script="standard", opaque=(1, 3))
    assert len({ds.n_groups for ds in (ours, theirs, other)}) > 1
    mix = Mix({ours: 1, theirs: 1, other: 1})
    for fidelity in (1, "full", "bytes<=100mb", Mixture({1: 1, "full": 1}, per="sample")):
        with Streamed(mix, fidelity=fidelity) as streamed:
            got = samples(streamed.stream)
        assert len(got) == 32
        assert {s for s, _ in got} == {0, 1, 2}


def test_opaque_images_are_decoded_among_others():
    ds = a_dataset(opaque=(0, 4, 11, 12))
    with Streamed(ds, crop=CenterCrop()) as streamed:
        batches = list(streamed.stream)
    assert sorted(i for _, i in samples(batches)) == list(range(N))


@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_what_is_counted_is_what_the_store_saw(layout):
    ds, store = recorded(layout)
    with Streamed(ds, fidelity=3) as streamed:
        batches = list(streamed.stream)
        signals, traffic = streamed.stream.stats(), streamed.pipeline.connections.traffic()
    assert traffic.requests == len(store.named("get_range"))
    assert traffic.bytes == sum(r.n_bytes for r in store.named("get_range"))
    assert (signals.samples, signals.batches) == (N, len(batches))
    assert signals.hedges == traffic.retries == traffic.cache_hits == 0
    assert signals.fetch_seconds > 0
    assert signals.decode_seconds > 0
    assert 0 < signals.stall_seconds < 60
    assert signals.queue_depth == 0  # nothing is left when the last one was taken


@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_consumer_that_stops_is_given_no_more(taken):
    with Streamed(a_dataset(n=60), batch=2, limits=SMALL_TASKS) as streamed:
        batches = iter(streamed.stream)
        for _ in range(taken):
            next(batches)
        assert until(lambda: len(streamed.allocated) == taken + LIMITS.batches_ready)
        time.sleep(0.1)
        assert len(streamed.allocated) == taken + LIMITS.batches_ready
        batches.close()


@pytest.mark.parametrize("is_quick", [True, False])
def test_a_first_batch_that_came_quickly_is_decoded_before_more_is_read(monkeypatch, is_quick):
    decoding, go_on, render = threading.Event(), threading.Event(), batches_module.render

    def slow(*args, **kwargs):
        decoding.set()
        assert go_on.wait(30)
        render(*args, **kwargs)

    monkeypatch.setattr(batches_module, "render", slow)
    store = GatedStore(DictStore(stored(n=60)))
    with Streamed(
        opened(store),
        batch=5,
        limits=StreamLimits(
            task_bytes=1, quick_seconds=60.0 if is_quick else 0.0, alone_seconds=60.0
        ),
    ) as streamed:
        [leaf] = streamed.read_lists()
        needed = sum(read.first_use < 5 for read in leaf.reads)
        assert decoding.wait(30)
        if is_quick:
            time.sleep(0.1)
            assert store.n_asked == needed
        else:
            assert until(lambda: store.n_asked > needed)
        go_on.set()
        assert len(samples(streamed.stream)) == 60


@pytest.mark.parametrize(("n_rendered", "alone"), [(0, 0.2), (4, 60.0)])
def test_nothing_waits_long_for_the_first_batch_nor_for_others(monkeypatch, n_rendered, alone):
    go_on, render, begun = threading.Event(), batches_module.render, []

    def stopping(*args, **kwargs):
        begun.append(args)
        assert len(begun) <= n_rendered or go_on.wait(30)
        render(*args, **kwargs)

    monkeypatch.setattr(batches_module, "render", stopping)
    with Streamed(
        a_dataset(), n_threads=1, limits=StreamLimits(quick_seconds=60.0, alone_seconds=alone)
    ) as streamed:
        assert until(lambda: len(streamed.allocated) == LIMITS.batches_ready)
        go_on.set()
        assert len(samples(streamed.stream)) == N


# ---- ends


def test_leaving_a_loop_ends_all_threads():
    with Streamed(a_dataset(n=60)) as streamed:
        for batch in streamed.stream:
            assert threads()
            del batch
            break
    assert until(lambda: not threads())


def test_closing_twice_and_reading_on_is_the_end():
    with Streamed(a_dataset(n=60)) as streamed:
        batches = iter(streamed.stream)
        next(batches)
        assert until(lambda: len(streamed.allocated) == 1 + LIMITS.batches_ready)
        streamed.stream.close()
        streamed.stream.close()
        # What was ready belongs to nobody now: a loader has counted none of it.
        assert list(batches) == []
        assert streamed.stream.stats().batches == 1


def test_a_consumer_that_waits_is_woken_by_close():
    store = GatedStore(DictStore(stored()))
    ds = opened(store)
    store.gate.clear()
    with Streamed(ds, batch=60) as streamed:
        got = []
        consumer = threading.Thread(target=lambda: got.extend(streamed.stream))
        consumer.start()
        time.sleep(0.05)
        streamed.stream.close()
        consumer.join(5)
        assert not consumer.is_alive()
        assert got == []
        store.gate.set()


@pytest.mark.parametrize("hedge", [False, True])
def test_close_while_the_store_answers_nothing(hedge):
    """More records are asked for than there are threads, and close drops the ones that wait."""
    store = GatedStore(DictStore(stored(n=60)))
    ds = opened(store)
    store.gate.clear()
    with Streamed(
        ds, batch=30, hedge=hedge, limits=StreamLimits(task_bytes=1, n_fetchers=1)
    ) as streamed:
        assert until(lambda: store.n_asked == 1)
        store.gate.set()
        assert until(lambda: store.n_asked > 2)
        store.gate.clear()
        streamed.stream.close()
        time.sleep(0.05)
        store.gate.set()
        assert until(lambda: not threads(), 5), threads()


def test_close_at_any_moment_ends_all_threads():
    ds = a_dataset(n=60)
    for i in range(40):
        with Streamed(ds, batch=3, hedge=bool(i % 2), prefetch=1 + 1000 * (i % 3)) as streamed:
            batches = iter(streamed.stream)
            for _ in range(i % 5):
                next(batches)
            time.sleep(0.0005 * (i % 7))
    assert until(lambda: not threads(), 5), threads()


def test_an_iterator_in_a_cycle_is_collected_with_its_threads():
    streamed = Streamed(a_dataset(n=60))
    batches = iter(streamed.stream)
    next(batches)
    cycle = [batches]
    cycle.append(cycle)
    del batches, cycle, streamed
    gc.collect()
    assert until(lambda: not threads()), threads()


EXIT = """
import sys, threading
sys.path[:0] = {paths!r}
import test_batches as t
store = t.GatedStore(t.DictStore(t.stored(n=40)))
ds = t.opened(store)
streamed = t.Streamed(ds, batch=3, hedge={hedge})
batches = iter(streamed.stream)
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
    tests = Path(__file__).parents[1]
    paths = [str(p) for p in (tests / "loader", tests / "support", tests.parent)]
    script = EXIT.format(paths=paths, blocked=blocked, hedge=hedge, thread=thread)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert time.monotonic() - started < 20


# ---- errors


class Spoiled(PassingStore):
    """A store whose first `times` answers about images are wrong."""

    def __init__(self, store, answer, times=10**9, skip=0):
        super().__init__(store)
        self._answer = answer
        self.left = times
        self._skip = skip
        self.n_asked = 0

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
def test_errors_name_the_object_and_come_in_their_turn(layout, answer, error, says):
    objects = DictStore(stored(layout))
    folder = name_of(objects).partition("/")[0]
    # One thread asks in order, so that the first records are whole.
    skip = {"record": 2, "zarr": 2 * G}[layout]
    store = Spoiled(objects, answer, skip=skip)
    ds = opened(store)
    got = []
    with (
        Streamed(
            ds, batch=3, shuffle=False, fidelity=5, limits=StreamLimits(task_bytes=1, n_fetchers=1)
        ) as streamed,
        pytest.raises(error, match=rf"{folder}/.*{says}"),
    ):
        read_into(got, streamed.stream)
    assert got == list(range(len(got)))
    assert 3 <= len(got) <= 6


def without_frame(image):
    """A dataset one of whose images has no frame header, and checksums that are right."""
    objects = DictStore(stored())
    ds = opened(objects)
    at = ds.index.locate([image])
    selection = RecordSelection(
        part=int(at.part[0]), record=int(at.record[0]), images=None, fidelity=1
    )
    [want] = ds.reader()._wants([selection])
    [where] = want.ranges()
    data = bytearray(objects.objects[where.name])
    header = parse_header(
        bytes(data[where.start : where.stop]),
        seed=want.placement.seed,
        n_images=want.placement.n_images,
        n_groups=want.n_groups,
        where="",
    )
    slot = int(at.slot[0])
    start = where.start + header.size + int(header.lengths[:slot, 0].sum())
    stop = start + int(header.lengths[slot, 0])
    frame = data.index(b"\xff\xc2\0", start, stop)
    data[frame + 1] = 0xFE  # a comment
    checksums = header.checksums.copy()
    word = place_words(header.seed, [slot], 1)[0, 0]
    checksums[slot, 0] = crc32c(bytes(data[start:stop])) ^ word
    encoded = replace(header, checksums=checksums).encode()
    data[where.start : where.start + len(encoded)] = encoded
    objects.objects[where.name] = bytes(data)
    return opened(objects)


@pytest.mark.parametrize("fidelity", [3, "full"])
def test_a_file_without_a_frame_is_one_image_that_cannot_be_decoded(fidelity):
    ds = without_frame(13)
    options = {"batch": 2, "shuffle": False, "fidelity": fidelity}
    got = []
    with Streamed(ds, **options) as streamed:
        with pytest.raises(DecodeError, match=rf"{ds.url}: image 13: "):
            read_into(got, streamed.stream)
        assert got == list(range(12))
    with Streamed(ds, on_error="skip", **options) as streamed:
        assert len(samples(streamed.stream)) == N
        assert streamed.stream.stats().skipped == 1


def test_damage_comes_after_the_records_before_it():
    """Those that were asked for with it are not lost."""
    objects = DictStore(stored())
    ds = opened(objects)
    [part] = ds.index.parts([2])  # of images 12 to 17
    where = part.placement(1).prefix(3)[-1]
    data = bytearray(objects.objects[where.name])
    data[where.stop - 1] ^= 1
    objects.objects[where.name] = bytes(data)
    got = []
    with (
        Streamed(opened(objects), batch=3, shuffle=False, fidelity=3) as streamed,
        pytest.raises(ChecksumError),
    ):
        read_into(got, streamed.stream)
    assert got == list(range(15))


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("times", [1, 2])
def test_damage_on_the_way_is_read_again(layout, times):
    clean = a_dataset(layout)
    store = Spoiled(DictStore(stored(layout)), flipped, times)
    ds = opened(store, NO_GAPS)
    with Streamed(clean, seed=4) as a, Streamed(ds, seed=4) as b:
        for x, y in zip(a.stream, b.stream, strict=True):
            assert (x.images == y.images).all()
        assert b.pipeline.connections.traffic().requests > a.pipeline.connections.traffic().requests
        assert store.left == 0


@pytest.mark.parametrize("name", ["train/cat/001", "train/cat/007", "val/dog/012", "val/dog/018"])
def test_a_file_that_no_decoder_takes_is_named_after_those_before_it(name):
    ds = a_dataset(text=(int(name[-3:]),))
    bad = ds.keys.index(f"{name}.jpg")
    with Streamed(ds, batch=2, shuffle=False) as streamed:
        got = []
        with pytest.raises(DecodeError, match=rf"{ds.url}: image {bad}: ") as caught:
            read_into(got, streamed.stream)
        assert caught.value.__cause__ is not None
    assert got == list(range(bad // 2 * 2))


@pytest.mark.parametrize(
    ("owner", "name"),
    [(Streamed, "allocate"), (BatchStream, "_dispatch")],
    ids=["no-memory", "no-decoder"],
)
def test_a_driver_that_fails_is_an_error_of_the_consumer(owner, name, monkeypatch):
    def fails(_self, _given):
        raise MemoryError("made to fail")

    monkeypatch.setattr(owner, name, fails)
    with Streamed(a_dataset()) as streamed, pytest.raises(MemoryError, match="made to fail"):
        list(streamed.stream)


def rows(n):
    return np.empty((n, SIZE, SIZE, 3), np.uint8), None


def test_a_store_that_fails_does_not_keep_what_was_read():
    """What is held by a cycle stays until the collector comes by, which knows no bytes."""
    store = Spoiled(DictStore(stored()), fails(TransientStoreError))
    with Streamed(opened(store)) as streamed:
        stream = streamed.pipeline.stream_share(
            streamed.partition, rank=0, worker=0, n_threads=2, allocate=rows
        )
        held = weakref.ref(stream._prefetcher)
        gc.disable()
        try:
            with pytest.raises(TransientStoreError) as caught:
                list(stream)
            del stream, caught
            assert until(lambda: held() is None)
        finally:
            gc.enable()


def test_a_stream_that_is_closed_while_it_waits_for_records_is_let_go():
    """The records come afterwards: nothing is made of them that would hold it."""

    class ClosesItself(GatedStore):
        closes = True

        def get_ranges(self, ranges):
            with self._lock:
                if self.closes and self.n_asked >= 12:
                    self.gate.clear()
            return super().get_ranges(ranges)

    store = ClosesItself(DictStore(stored(n=60)))
    with Streamed(
        opened(store, NO_GAPS), shuffle=False, prefetch=1, limits=SMALL_TASKS
    ) as streamed:
        stream = streamed.pipeline.stream_share(
            streamed.partition, rank=0, worker=0, n_threads=2, allocate=rows
        )
        held = weakref.ref(stream._prefetcher)
        gc.disable()
        try:
            batches = iter(stream)
            next(batches)
            assert until(lambda: store.n_asked > 12)
            batches.close()
            del batches, stream
            with store._lock:  # a request that begins now must not close the gate again
                store.closes = False
            store.gate.set()
            assert until(lambda: held() is None)
        finally:
            gc.enable()


def test_batches_with_images_left_out_are_let_go():
    with Streamed(a_dataset(text=(1, 7, 12, 18)), on_error="skip", batch=5) as streamed:
        gc.disable()
        try:
            seen = [weakref.ref(batch.done) for batch in streamed.stream]
            assert len(seen) == 4
            assert until(lambda: not any(batch() for batch in seen))
        finally:
            gc.enable()


@pytest.mark.parametrize("name", ["_named", "_replace_skipped"])
def test_a_decoder_that_fails_in_another_way_is_an_error_of_the_consumer(name, monkeypatch):
    def fails(*_):
        raise MemoryError("made to fail")

    monkeypatch.setattr(BatchStream, name, fails)
    with (
        Streamed(a_dataset(text=(3,)), on_error="skip") as streamed,
        pytest.raises(MemoryError, match="made to fail"),
    ):
        list(streamed.stream)


def test_a_stream_that_cannot_have_its_threads_leaves_none(monkeypatch):
    start, n_started = threading.Thread.start, []

    def starts(thread):
        if thread.name.startswith("pcrstore-") and len(n_started) == 9:
            raise RuntimeError("can't start new thread")
        n_started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starts)
    with pytest.raises(RuntimeError, match="can't start"):
        Streamed(a_dataset(), hedge=True)
    assert len(n_started) == 9


def test_an_index_that_is_gone_is_an_error_of_the_consumer():
    objects = stored()
    ds = opened(DictStore({n: b for n, b in objects.items() if not n.startswith("objects/")}))
    with Streamed(ds) as streamed, pytest.raises(FormatError, match="objects/"):
        list(streamed.stream)
