"""What is under way keeps its bounds and its order; what is slow is asked for once more."""

import contextlib
import gc
import threading
import time
import weakref

import pytest
from flows import DictStore
from small_datasets import (
    NO_GAPS,
    GatedStore,
    PassingStore,
    a_dataset,
    opened,
    stored,
    until,
)
from streams import LIMITS, SMALL_TASKS, N, Streamed, held_bytes, samples

from pcrstore.concurrency.threads import StopFlag
from pcrstore.errors import PcrstoreError, TransientStoreError
from pcrstore.loader.fetch_queue import FetchQueue
from pcrstore.loader.limits import StreamLimits
from pcrstore.sampling.mix import Mix

pytestmark = pytest.mark.usefixtures("no_threads_left")


class Reads:
    """What is asked of a store, each of which waits until it is told to end."""

    def __init__(self):
        self.begun = []
        self._gates = {}
        self._lock = threading.Lock()

    def of(self, name, *answers):
        """Return a read that gives `answers` in turn: lists of files, and errors to raise."""
        with self._lock:
            gates = self._gates[name] = [threading.Event() for _ in answers]
        turns = iter(range(len(answers)))

        def read():
            with self._lock:
                turn = next(turns)
                self.begun.append(name)
            assert gates[turn].wait(20)
            for one in answers[turn]:
                if isinstance(one, Exception):
                    raise one
                yield one

        return read

    def end(self, name, turn=0):
        self._gates[name][turn].set()

    def end_all(self):
        for gates in self._gates.values():
            for gate in gates:
                gate.set()


@pytest.fixture
def reads():
    reads = Reads()
    yield reads
    reads.end_all()


@pytest.fixture
def stop_flag():
    stop_flag = StopFlag()
    yield stop_flag
    stop_flag.is_over = True


@pytest.fixture
def limits():
    """Return the limits of a queue, for which a test may have its own by parametrisation."""
    return LIMITS


@pytest.fixture
def queue(stop_flag, reads, limits):
    queue = FetchQueue(stop_flag, hedge=False, limits=limits)
    yield queue
    stop_flag.is_over = True
    queue.close()
    reads.end_all()


@pytest.fixture
def hedged(stop_flag, reads, limits, monkeypatch):
    """Durations of a test's machine vary: only what is held back shall be slow."""
    monkeypatch.setattr(FetchQueue, "_slow_after", lambda _self: 0.3)
    queue = FetchQueue(stop_flag, hedge=True, limits=limits)
    yield queue
    stop_flag.is_over = True
    queue.close()
    reads.end_all()


def needed(queue, call, n_bytes=1):
    return queue.submit(call, n_bytes, is_ahead=False)


# ---- bounds


@pytest.mark.parametrize(
    ("sizes", "n_begun"),
    [
        ([4, 6, 1], 2),
        ([4, 7, 1], 1),
        ([4, 5, 1, 1], 3),
        ([10, 1], 1),
        ([11, 1], 1),  # too large for the bound comes alone
        ([1, 11, 1], 1),
        ([0, 10, 0, 1], 3),
        ([1] * 12, 10),
    ],
)
@pytest.mark.parametrize("limits", [StreamLimits(in_flight_bytes=10)])
def test_as_many_begin_as_fit_in_order(sizes, n_begun, queue, reads):
    fetches = [needed(queue, reads.of(i, [[b"%d" % i]]), n) for i, n in enumerate(sizes)]
    assert until(lambda: len(reads.begun) == n_begun)
    time.sleep(0.02)
    assert sorted(reads.begun) == list(range(n_begun))
    assert queue.bytes_in_flight == sum(sizes[:n_begun])
    reads.end_all()
    for i, fetch in enumerate(fetches):
        assert fetch.done.wait(5)
        assert queue.wait(fetch)
        assert fetch.take(0) == [b"%d" % i]
    assert (queue.bytes_in_flight, queue._n_in_flight) == (0, 0)


@pytest.mark.parametrize("limits", [StreamLimits(in_flight_bytes=10)])
def test_what_is_next_begins_when_there_is_room_and_not_before(queue, reads):
    for name, n in (("a", 5), ("b", 5), ("c", 6), ("d", 1)):
        needed(queue, reads.of(name, [[b""]]), n)
    reads.end("b")
    assert until(lambda: queue.bytes_in_flight == 5)
    time.sleep(0.02)
    assert sorted(reads.begun) == ["a", "b"]  # c is next, and d does not overtake it
    reads.end("a")
    assert until(lambda: sorted(reads.begun) == ["a", "b", "c", "d"])
    assert queue.bytes_in_flight == 7


def test_what_is_ahead_begins_with_four_and_one_more_for_each_that_came(queue, reads):
    for name in "abcdefgh":
        queue.submit(reads.of(name, [[b""]]), 1, is_ahead=True)
    assert until(lambda: sorted(reads.begun) == [*"abcd"])
    time.sleep(0.02)
    assert sorted(reads.begun) == [*"abcd"]
    reads.end("c")
    assert until(lambda: sorted(reads.begun) == [*"abcdef"])
    time.sleep(0.02)
    assert sorted(reads.begun) == [*"abcdef"]
    reads.end("f")
    assert until(lambda: sorted(reads.begun) == [*"abcdefgh"])


def test_what_is_needed_begins_whatever_is_under_way(queue, reads):
    for i in range(6):
        needed(queue, reads.of(i, [[b""]]))
    queue.submit(reads.of("ahead", [[b""]]), 1, is_ahead=True)
    needed(queue, reads.of("behind it", [[b""]]))
    assert until(lambda: len(reads.begun) == 6)
    time.sleep(0.02)
    assert sorted(reads.begun) == list(range(6))
    reads.end(0)
    assert until(lambda: queue.bytes_in_flight == 5)  # five are under way, and five may be
    time.sleep(0.02)
    assert len(reads.begun) == 6
    reads.end(1)
    assert until(lambda: set(reads.begun[6:]) == {"ahead", "behind it"})


def test_requests_are_bounded_too(queue, reads):
    for i in range(LIMITS.n_fetchers + 3):
        needed(queue, reads.of(i, [[b""]]))
    assert until(lambda: len(reads.begun) == LIMITS.n_fetchers)
    time.sleep(0.02)
    assert sorted(reads.begun) == list(range(LIMITS.n_fetchers))


@pytest.mark.parametrize("bound", [{"in_flight_bytes": 1}, {"n_fetchers": 1}])
def test_close_drops_what_waits_for_room_and_for_a_thread(bound, stop_flag, reads):
    queue = FetchQueue(stop_flag, hedge=False, limits=StreamLimits(**bound))
    waiting = [needed(queue, reads.of(i, [[b""]])) for i in range(3)]
    assert until(lambda: reads.begun == [0])
    stop_flag.is_over = True
    queue.close()
    reads.end_all()
    assert until(waiting[0].done.is_set)
    assert not queue.wait(waiting[2])
    assert reads.begun == [0]


def test_who_waits_is_let_go_when_the_stream_is_stopped(queue, stop_flag, reads):
    fetch = needed(queue, reads.of("a", [[b""]]))
    threading.Timer(0.1, setattr, (stop_flag, "is_over", True)).start()
    assert not queue.wait(fetch)


@pytest.mark.parametrize("limits", [StreamLimits(in_flight_bytes=1)])
def test_other_work_counts_no_bytes(queue, reads):
    needed(queue, reads.of("a", [[b""]]))
    ran = threading.Event()
    queue.run(ran.set)
    assert ran.wait(5)


# ---- what came


def test_what_came_before_an_error_is_good_and_each_is_given_once(queue, reads):
    error = TransientStoreError("gone")
    fetch = needed(queue, reads.of("a", [[b"0", b"1"], [b"2"], error]), 3)
    reads.end("a")
    assert fetch.done.wait(5)
    assert fetch.take(1) == [b"2"]
    assert fetch.take(0) == [b"0", b"1"]
    assert fetch.take(0) == []
    with pytest.raises(TransientStoreError, match="gone"):
        fetch.take(2)
    with pytest.raises(PcrstoreError, match="neither read nor failed"):
        fetch.take(2)
    assert queue.bytes_in_flight == 0


def test_an_error_is_held_by_nobody_once_it_was_raised(queue):
    held = []

    def noted(error):
        held.append(weakref.ref(error))
        return error

    def read():
        raise noted(TransientStoreError("gone"))

    fetch = needed(queue, read)
    assert fetch.done.wait(5)
    gc.disable()
    try:
        with contextlib.suppress(TransientStoreError):
            fetch.take(0)
        assert until(lambda: held[0]() is None)
    finally:
        gc.enable()


def test_seconds_are_those_of_all_threads(queue, reads):
    fetches = [needed(queue, reads.of(i, [[b""]])) for i in range(3)]
    assert until(lambda: len(reads.begun) == 3)
    time.sleep(0.1)
    reads.end_all()
    assert all(fetch.done.wait(5) for fetch in fetches)
    assert queue.seconds >= 0.3


@pytest.mark.parametrize("limit", [1, 3000, 20_000])
def test_bytes_of_records_come_back_to_nothing_in_whatever_order_they_end(limit):
    big, small = a_dataset(n=21), a_dataset(n=40, seed=100, script="al3")
    with Streamed(
        Mix({big: 1, small: 2}),
        fidelity="full",
        batch=8,
        limits=StreamLimits(task_bytes=1, in_flight_bytes=limit),
    ) as streamed:
        for epoch in range(3):
            partition = streamed.pipeline.partition(epoch, None, streamed.partition.topology)
            stream = streamed.pipeline.stream_share(
                partition, rank=0, worker=0, n_threads=2, allocate=streamed.allocate
            )
            assert len(samples(stream)) == 61
            assert stream._prefetcher._fetch_queue.bytes_in_flight == 0
        assert len(samples(streamed.stream)) == 61


@pytest.mark.parametrize("bound", [{"in_flight_bytes": 1}, {"n_fetchers": 1}])
def test_a_store_is_asked_for_nothing_after_close(bound):
    store = GatedStore(DictStore(stored(n=60)))
    ds = opened(store)
    store.gate.clear()
    with Streamed(ds, batch=30, limits=StreamLimits(task_bytes=1, **bound)) as streamed:
        assert until(lambda: store.n_asked == 1)
        streamed.stream.close()
        store.gate.set()
        time.sleep(0.1)
        assert store.n_asked == 1


# ---- hedging


def test_the_second_answer_is_taken_and_the_late_one_dropped(hedged, reads):
    fetch = needed(hedged, reads.of("a", [[b"late"]], [[b"soon"]]))
    reads.end("a", turn=1)
    assert hedged.wait(fetch)
    assert (reads.begun, hedged.n_hedges, hedged.bytes_in_flight) == (["a", "a"], 1, 0)
    assert fetch.take(0) == [b"soon"]
    reads.end("a", turn=0)
    assert until(lambda: fetch.n_trying == 0)
    assert fetch.take(0) == []
    assert (hedged.bytes_in_flight, hedged._n_in_flight) == (0, 0)


@pytest.mark.parametrize("first", [0, 1])
def test_one_request_that_fails_leaves_the_other_its_time(first, hedged, reads):
    """Whichever of the two fails, and fails first."""
    answers = [[[b"good"]], [[b"good"]]]
    answers[first] = [TransientStoreError("one of two")]
    fetch = needed(hedged, reads.of("a", *answers))
    got = []
    waiting = threading.Thread(target=lambda: got.append(hedged.wait(fetch)))
    waiting.start()
    assert until(lambda: reads.begun == ["a", "a"])
    reads.end("a", turn=first)
    time.sleep(0.05)
    assert not fetch.done.is_set()
    assert hedged.bytes_in_flight == 1
    reads.end("a", turn=1 - first)
    waiting.join(5)
    assert got == [True]
    assert fetch.take(0) == [b"good"]
    assert hedged.bytes_in_flight == 0


def test_two_requests_that_fail_are_an_error(hedged, reads):
    errors = TransientStoreError("the first"), TransientStoreError("the second")
    fetch = needed(hedged, reads.of("a", [errors[0]], [errors[1]]))
    waiting = threading.Thread(target=hedged.wait, args=[fetch])
    waiting.start()
    assert until(lambda: reads.begun == ["a", "a"])
    reads.end_all()
    waiting.join(5)
    with pytest.raises(TransientStoreError):
        fetch.take(0)
    assert (hedged.n_hedges, hedged.bytes_in_flight, hedged._n_in_flight) == (1, 0, 0)


@pytest.mark.parametrize("limits", [StreamLimits(in_flight_bytes=1)])
def test_nothing_is_asked_for_twice_that_is_not_slow_or_not_under_way(hedged, reads):
    first = needed(hedged, reads.of("a", [[b""]]))
    second = needed(hedged, reads.of("b", [[b""]]))  # waits for room, longer than is patient
    threading.Timer(0.8, reads.end_all).start()
    assert hedged.wait(second)
    assert first.done.is_set()
    assert (reads.begun, hedged.n_hedges) == (["a", "b"], 0)


def test_a_second_request_is_dropped_when_the_first_answers_before_it_begins(hedged, reads):
    names = ["a", "b", "c"]  # one more than there are threads for second requests
    fetches = [needed(hedged, reads.of(name, [[b""]], [[b""]])) for name in names]
    waiting = [threading.Thread(target=hedged.wait, args=[fetch]) for fetch in fetches]
    for thread in waiting:
        thread.start()
    assert until(lambda: len(reads.begun) == 5)
    assert until(lambda: hedged._hedgers._queue.qsize() == 1)
    [last] = [name for name in names if reads.begun.count(name) == 1]
    reads.end(last)
    for thread, name in zip(waiting, names, strict=True):
        if name == last:
            thread.join(5)
    reads.end_all()
    for thread in waiting:
        thread.join(5)
    assert until(lambda: hedged._hedgers._queue.qsize() == 0)
    time.sleep(0.05)
    assert reads.begun.count(last) == 1
    assert (hedged.n_hedges, hedged._n_in_flight) == (2, 0)


@pytest.mark.parametrize(
    ("durations", "seconds"),
    [([], 3.0), ([0.001], 0.05), ([0.016, 0.016], 0.05), ([0.017], 0.051), ([0.1, 9, 0.2], 0.6)],
)
def test_slow_is_three_times_the_median_and_a_twentieth_of_a_second(durations, seconds, queue):
    queue._durations.extend(durations)
    assert queue._slow_after() == pytest.approx(seconds)


class Slow(PassingStore):
    """A store that holds back one request for images, by number, until it is told."""

    def __init__(self, store, held=None):
        super().__init__(store)
        self._held = held
        self.asked = []
        self.holds = False
        self.go = threading.Event()

    def get_ranges(self, ranges):
        if any(not r.name.startswith("index/") for r in ranges):
            with self._lock:
                number = len(self.asked)
                self.asked.append(ranges[0])
            if number == self._held:
                self.holds = True
                assert self.go.wait(20)
                self.holds = False
        return self.store.get_ranges(ranges)


@pytest.mark.parametrize("limit", [1, 2**24])
def test_a_stream_asks_again_for_a_slow_record_and_drops_its_late_answer(limit, monkeypatch):
    """One that was asked for again makes room, where only one may be under way."""
    store = Slow(DictStore(stored()), 3)
    monkeypatch.setattr(FetchQueue, "_slow_after", lambda _self: 0.2 if store.holds else 20.0)
    with Streamed(
        opened(store, NO_GAPS), hedge=True, limits=StreamLimits(task_bytes=1, in_flight_bytes=limit)
    ) as streamed:
        batches = iter(streamed.stream)
        got = [next(batches) for _ in range(4)]
        assert streamed.stream.stats().hedges == 1
        assert until(lambda: len(store.asked) == len(set(store.asked)) + 1)
        store.go.set()
        time.sleep(0.1)
        got += batches
        assert held_bytes(streamed) == 0
    assert sorted(i for _, i in samples(got)) == list(range(N))


@pytest.mark.parametrize(("hedge", "held"), [(True, None), (False, 3)])
def test_a_stream_asks_once_where_nothing_is_slow_or_nobody_wants_it(hedge, held, monkeypatch):
    store = Slow(DictStore(stored()), held)
    monkeypatch.setattr(FetchQueue, "_slow_after", lambda _self: 0.2 if store.holds else 20.0)
    with Streamed(opened(store, NO_GAPS), hedge=hedge, limits=SMALL_TASKS) as streamed:
        threading.Timer(0.8, store.go.set).start()
        list(streamed.stream)
        assert streamed.stream.stats().hedges == 0
    assert len(store.asked) == len(set(store.asked))
