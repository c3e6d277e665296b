"""The engine of a loader: one stream of samples, fetched ahead, decoded in threads, in order.

    driver ──units──▶ fetchers ─records─▶ driver ──rows──▶ decoders ──▶ ready ──▶ consumer
      ▲   ahead <= prefetch_bytes           in batches          GIL released         │
      └──────────────────────── a token for each batch taken ◀───────────────────────┘

The driver walks the stream. It asks for records in the order of their first use, as many as fit
the bytes it may be ahead, and lets go of a record with its last sample; the thread that decodes a
sample cuts it out and checks it. What is held at most: the window of the shuffle, the bytes ahead,
and `BATCHES_READY` batches. All three have a bound, so nothing grows when the consumer is slow, and
there is one place to wait at for each: a free fetcher, a record, a token.
"""

import atexit
import contextlib
import logging
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, ClassVar, Final, Generic, TypeVar
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from pcrstore.buffers import trim
from pcrstore.dial import Dial
from pcrstore.errors import JpegError, PcrstoreError
from pcrstore.fetching import ForkSafeLock
from pcrstore.hashing import uniforms
from pcrstore.order import EpochOrder, Stretch
from pcrstore.pixels import Rendering, render
from pcrstore.population import Leaflet, Population, Unit
from pcrstore.reader import Chosen, Packed, Reader, Uncut
from pcrstore.signals import Signals

__all__ = ["Batch", "Feed", "Feeding"]

_log = logging.getLogger(__name__)

TASK_BYTES: Final = 2**20
"""What one call to the store asks for, in records: a megabyte fills a link with 16 in flight."""

FETCHERS: Final = 16

IN_FLIGHT_BYTES: Final = 16 * 2**20
"""What is asked for at a time: it fills 1 Gbit/s at 100 ms. More would only make all of it arrive
at once, so that decoders wait for the link and then the link for them; at the end of an epoch too.
"""

BATCHES_READY: Final = 4
"""Batches that are decoded or being decoded before the consumer takes them."""

_HEDGE_AFTER: Final = 3.0
"""A request is slow when it has taken this many times the median of those before it."""

_POLL_SECONDS: Final = 0.5
"""Seconds between looks whether the feed was closed, where nothing else would tell."""

_TRIM_AFTER: Final = 2**28
"""Bytes of bodies after which free memory is given back: 5 ms for seconds of decoding."""

_TOKEN: Final = object()

Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeding:
    """How a feed works, whatever it reads."""

    rendering: Rendering
    n_threads: int
    prefetch_bytes: int
    hedge: bool
    apply_orientation: bool
    skip_errors: bool
    seed: int
    epoch: int


@dataclass(slots=True, kw_only=True)
class Batch(Generic[Payload]):
    """Decoded samples."""

    images: NDArray[np.uint8]
    """(N, H, W, 3)"""
    labels: NDArray[np.int64]
    """(N,)"""
    sources: NDArray[np.int64]
    """Position of each sample's dataset among those mixed. (N,)"""
    positions: NDArray[np.int64]
    """Position of each sample in its dataset. (N,)"""
    payload: Payload
    """What the allocator gave with the memory of `images`."""
    rows: list[tuple[Packed, int]] = field(repr=False)
    draws: list[list[float]] = field(repr=False)
    turns: list[int] = field(repr=False)
    missing: int = 0
    """Parts that are still being decoded."""
    skipped: list[int] = field(default_factory=list, repr=False)
    """Rows that could not be decoded and may be left out."""
    done: threading.Event = field(default_factory=threading.Event, repr=False)
    error: BaseException | None = None
    reason: BaseException | None = None
    """Why the last of `skipped` was."""


class _Fetch:
    """Units of one source that are asked for together."""

    __slots__ = ("bodies", "done", "error", "n_bytes", "n_trying", "number", "started", "units")

    def __init__(self, number: int, units: list[Unit], n_bytes: float) -> None:
        self.number = number
        self.units = units
        self.n_bytes = n_bytes
        self.done = threading.Event()
        self.bodies: list[Uncut | None] | None = None
        """What came for each unit, until it is cut."""
        self.error: BaseException | None = None
        self.started = 0.0
        self.n_trying = 1
        """Requests that may still answer: a second one does not fail what the first may bring."""


class _Lane:
    """A leaflet that is being read."""

    def __init__(self, leaflet: Leaflet, base: int) -> None:
        self.leaflet = leaflet
        self.base = base
        """Samples of the stream before it."""
        self.stop = base + len(leaflet)
        self.next_unit = 0
        """First unit that was not asked for."""
        self.fetches: list[tuple[_Fetch, int]] = []
        """Of each unit asked for its fetch, and its position there."""
        self.records: list[Packed | None] = [None] * len(leaflet.units)
        """Of each unit what was read, from its first use to its last."""
        self.last_use = np.empty(len(leaflet.units), np.int64)
        self.last_use[leaflet.unit] = np.arange(len(leaflet))
        self.looked_up = threading.Event()
        self.labels: NDArray[np.int64] = np.empty(0, np.int64)
        self.turns: NDArray[np.int64] | None = None
        self.error: BaseException | None = None


class _Threads:
    """Daemon threads that run what is put into their queue."""

    def __init__(self, n: int, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"pcrstore-{name}-{i}", daemon=True)
            for i in range(n)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work()

    def put(self, work: Callable[[], None]) -> None:
        self._queue.put(work)

    def stop(self) -> None:
        """Let every thread end after what it does now; drop what waits."""
        with contextlib.suppress(Exception):
            while True:
                self._queue.get_nowait()
        for _ in self._threads:
            self._queue.put(None)

    def join(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))


class Feed(Generic[Payload]):
    """Batches of one stream.

    Args:
        population: What there is.
        readers: One for each of its sources.
        order: Of the epoch.
        stretches: What this stream reads of it.
        batch_sizes: Samples of each batch; their sum is what the stretches have.
        dial: Fidelity, looked at for every record that is requested.
        feeding: How to read, decode and wait.
        allocate: Returns memory for the images of a batch, (n, H, W, 3) uint8, and anything to be
            handed out with it.
    """

    _alive: ClassVar["WeakSet[Feed[Any]]"] = WeakSet()

    def __init__(
        self,
        population: Population,
        readers: Sequence[Reader],
        order: EpochOrder,
        stretches: Sequence[Stretch],
        batch_sizes: Sequence[int],
        dial: Dial,
        feeding: Feeding,
        allocate: Callable[[int], tuple[NDArray[np.uint8], Payload]],
    ) -> None:
        self._population = population
        self._readers = readers
        self._order = order
        self._stretches = iter(stretches)
        self._batch_sizes = batch_sizes
        self._dial = dial
        self._feeding = feeding
        self._allocate = allocate
        self._lanes: deque[_Lane] = deque()
        self._issuing: deque[_Lane] = deque()
        self._opened = 0
        self._ahead: deque[tuple[int, float]] = deque()
        self._ahead_bytes = 0.0
        self._durations: deque[float] = deque(maxlen=64)
        self._ready: SimpleQueue[Batch[Payload] | BaseException | None] = SimpleQueue()
        self._tokens: SimpleQueue[object] = SimpleQueue()
        for _ in range(BATCHES_READY):
            self._tokens.put(_TOKEN)
        self._stopped = False
        self._lock = ForkSafeLock()
        self._room = threading.Condition()
        self._in_flight = 0.0
        self._n_fetches = 0
        self._n_started = 0
        self._n_ready = 0
        self._untrimmed = 0
        self._counts = dict.fromkeys(
            ("samples", "batches", "hedges", "skipped", "queue_depth", "stall", "fetch", "decode"),
            0.0,
        )
        self._fetchers = _Threads(FETCHERS, "fetch")
        self._hedgers = _Threads(2, "hedge") if feeding.hedge else None
        self._decoders = _Threads(feeding.n_threads, "decode")
        self._driver = threading.Thread(target=self._drive, name="pcrstore-drive", daemon=True)
        self._alive.add(self)
        self._driver.start()

    # ---- the consumer's side

    def __iter__(self) -> Iterator[Batch[Payload]]:
        try:
            while (batch := self._take()) is not None:
                yield batch
                del batch
        finally:
            self.close()
            trim()

    def _take(self) -> Batch[Payload] | None:
        start = time.perf_counter()
        batch = None if self._stopped else self._ready.get()
        if batch is None or self._stopped:
            return None
        if isinstance(batch, BaseException):
            raise batch
        if not self._until(batch.done):
            return None
        if batch.error is not None:
            raise batch.error
        self._tokens.put(_TOKEN)
        with self._lock:
            self._counts["samples"] += len(batch.labels)
            self._counts["batches"] += 1
            self._counts["stall"] += time.perf_counter() - start
            self._n_ready -= 1
            self._counts["queue_depth"] = self._n_ready
        return batch

    def signals(self) -> Signals:
        """Return the counters of this feed; those of requests are the readers'."""
        with self._lock:
            n = dict(self._counts)
        return Signals(
            samples=int(n["samples"]),
            batches=int(n["batches"]),
            hedges=int(n["hedges"]),
            skipped=int(n["skipped"]),
            queue_depth=int(n["queue_depth"]),
            stall_seconds=n["stall"],
            fetch_seconds=n["fetch"],
            decode_seconds=n["decode"],
        )

    def close(self) -> None:
        """Stop all threads; requests under way end by themselves."""
        if self._stopped:
            return
        self._stopped = True
        self._tokens.put(None)
        self._ready.put(None)
        for threads in (self._fetchers, self._decoders, self._hedgers):
            if threads is not None:
                threads.stop()
        self._alive.discard(self)

    @classmethod
    def close_all(cls) -> None:
        """Stop every feed and wait for decoders: the interpreter is about to go."""
        for feed in list(cls._alive):
            feed.close()
            feed._decoders.join(2.0)  # noqa: SLF001 - of its own class

    # ---- the driver's side

    def _drive(self) -> None:
        try:
            stop = 0
            for size in self._batch_sizes:
                start, stop = stop, stop + size
                if self._stopped:
                    return
                # What the first batch needs comes alone: all else would take its share of the link.
                self._issue(stop, ahead=start > 0)
                batch = self._collect(start, stop)
                if batch is None:
                    return
                self._ready.put(batch)
                self._dispatch(batch)
            self._ready.put(None)
        except BaseException as e:  # noqa: BLE001 - raised again by the consumer
            self._ready.put(e)

    def _issue(self, stop: int, *, ahead: bool) -> None:
        """Ask for every record that samples below `stop` need; `ahead`: and more, where it fits."""
        while self._ahead and self._ahead[0][0] < stop:
            self._ahead_bytes -= self._ahead.popleft()[1]
        budget = self._feeding.prefetch_bytes
        group: list[Unit] = []
        size = 0.0
        while (lane := self._lane_to_issue()) is not None:
            unit = lane.leaflet.units[lane.next_unit]
            first_use = lane.base + unit.first_use
            if group and group[0].source != unit.source:
                self._submit(lane, group, size)
                group, size = [], 0.0
            if first_use >= stop:
                # Room for a whole task before one is begun: small ones would not fill the link.
                room = budget - self._ahead_bytes if ahead else 0.0
                if room <= 0 or (not group and room < min(TASK_BYTES, budget)):
                    break
            n_bytes = self._dial.mean_bytes(unit.source) * len(unit.images)
            if first_use >= stop:
                self._ahead.append((first_use, n_bytes))
                self._ahead_bytes += n_bytes
            lane.next_unit += 1
            group.append(unit)
            size += n_bytes
            if size >= TASK_BYTES or lane.next_unit == len(lane.leaflet.units):
                self._submit(lane, group, size)
                group, size = [], 0.0
        if group and lane is not None:
            self._submit(lane, group, size)

    def _lane_to_issue(self) -> _Lane | None:
        """Return the lane whose units are asked for next, opening it; None at the end."""
        while self._issuing and self._issuing[0].next_unit == len(self._issuing[0].leaflet.units):
            self._issuing.popleft()
        while not self._issuing:
            stretch = next(self._stretches, None)
            if stretch is None:
                return None
            leaflet = self._population.leaflet(self._order, stretch)
            if not len(leaflet):
                continue
            lane = _Lane(leaflet, self._opened)
            self._opened = lane.stop
            self._fetchers.put(lambda lane=lane: self._look_up(lane))  # type: ignore[misc]  # bound
            self._load_headers(leaflet)
            self._lanes.append(lane)
            self._issuing.append(lane)
        return self._issuing[0]

    def _look_up(self, lane: _Lane) -> None:
        """Read what the index knows of a lane's samples, beside its first records."""
        try:
            leaflet = lane.leaflet
            names = ["label", "orientation"] if self._feeding.apply_orientation else ["label"]
            found = {name: np.empty(len(leaflet), np.int64) for name in names}
            for i, reader in enumerate(self._readers):
                here = leaflet.source == i
                if here.any():
                    columns = reader.catalog.columns(names, leaflet.image[here])
                    for name in names:
                        found[name][here] = np.asarray(columns[name])
            lane.labels, lane.turns = found["label"], found.get("orientation")
        except BaseException as e:  # noqa: BLE001 - raised again by the driver
            lane.error = e
        finally:
            lane.looked_up.set()

    def _load_headers(self, leaflet: Leaflet) -> None:
        """Read the headers of records that do not bring their own, in one batch."""
        for i, reader in enumerate(self._readers):
            every = reader.needs_headers or self._dial.is_per_sample(i)
            reader.catalog.headers(
                [
                    (u.part, u.record)
                    for u in leaflet.units
                    if u.source == i and (every or u.slots is not None)
                ]
            )

    def _submit(self, lane: _Lane, units: list[Unit], n_bytes: float) -> None:
        fetch = _Fetch(self._n_fetches, units, n_bytes)
        self._n_fetches += 1
        lane.fetches.extend((fetch, i) for i in range(len(units)))
        self._fetchers.put(lambda: self._fetch_in_turn(fetch))

    def _fetch_in_turn(self, fetch: _Fetch) -> None:
        """Fetch when all before it are under way and there is room for its bytes."""

        def may_start() -> bool:
            fits = self._in_flight + fetch.n_bytes <= IN_FLIGHT_BYTES or not self._in_flight
            return self._stopped or (fetch.number == self._n_started and fits)

        with self._room:
            while not self._room.wait_for(may_start, _POLL_SECONDS):
                pass
            self._n_started += 1
            self._in_flight += fetch.n_bytes
            self._room.notify_all()
        try:
            self._fetch(fetch)
        finally:
            with self._room:
                self._in_flight -= fetch.n_bytes
                self._room.notify_all()

    def _fetch(self, fetch: _Fetch) -> None:
        start = time.perf_counter()
        fetch.started = start
        try:
            reader = self._readers[fetch.units[0].source]
            bodies = [*reader.read([self._chosen(u) for u in fetch.units])]
            error = None
        except BaseException as e:  # noqa: BLE001 - raised again by the driver
            error = e
        seconds = time.perf_counter() - start
        self._durations.append(seconds)
        with self._lock:
            self._counts["fetch"] += seconds
            fetch.n_trying -= 1
            # The driver takes bodies out as it goes: a late answer must not put them back.
            if fetch.done.is_set() or (error is not None and fetch.n_trying):
                return
            fetch.error = error
            fetch.bodies = [*bodies] if error is None else None
            fetch.done.set()

    def _chosen(self, unit: Unit) -> Chosen:
        fidelity = self._dial.choose(
            unit.source,
            unit.images,
            unit.number,
            seed=self._feeding.seed,
            epoch=self._feeding.epoch,
        )
        return Chosen(part=unit.part, record=unit.record, images=unit.slots, fidelity=fidelity)

    def _record(self, lane: _Lane, unit: int) -> Packed | None:
        """Return what was read for a unit, waiting for it; None once the feed is closed.

        Images are cut out of it, checked and joined by the thread that decodes them: in memory that
        is used again at once, where files made here would each be fresh pages.
        """
        fetch, at = lane.fetches[unit]
        if not self._wait(fetch):
            return None
        body = None if fetch.bodies is None else fetch.bodies[at]
        if fetch.bodies is None or body is None:
            raise fetch.error or PcrstoreError("a record was neither read nor failed")
        start = time.perf_counter()
        source = lane.leaflet.units[unit].source
        lane.records[unit] = packed = self._readers[source].cut(*body)
        fetch.bodies[at] = None
        self._untrimmed += sum(map(len, body[1]))
        if self._untrimmed > _TRIM_AFTER:
            self._untrimmed = 0
            trim()
        with self._lock:
            self._counts["fetch"] += time.perf_counter() - start
        return packed

    def _wait(self, fetch: _Fetch) -> bool:
        """Wait for a fetch, and ask again when it is slow; False once the feed is closed."""
        hedgers = self._hedgers
        while hedgers is not None and not fetch.done.wait(min(_POLL_SECONDS, self._patience())):
            if self._stopped:
                return False
            # Only what is under way is slow; what still waits for a thread is not.
            if fetch.started and time.perf_counter() - fetch.started > self._patience():
                with self._lock:
                    fetch.n_trying += 1
                    self._counts["hedges"] += 1
                hedgers.put(lambda: self._fetch(fetch))
                hedgers = None
        return self._until(fetch.done)

    def _until(self, event: threading.Event) -> bool:
        """Wait for an event; False once the feed is closed, for then nobody sets it."""
        while not event.wait(_POLL_SECONDS):
            if self._stopped:
                return False
        return True

    def _patience(self) -> float:
        """Return the seconds after which a request is slow."""
        return max(0.05, _HEDGE_AFTER * statistics.median(self._durations or [1.0]))

    def _collect(self, start: int, stop: int) -> Batch[Payload] | None:
        """Gather the records of samples start..stop; None once the feed is closed."""
        rows: list[tuple[Packed, int]] = []
        labels: list[NDArray[np.int64]] = []
        turns: list[int] = []
        draws: list[list[float]] = []
        sources: list[NDArray[np.int64]] = []
        positions: list[NDArray[np.int64]] = []
        n_draws = self._feeding.rendering.crop.n_draws
        while start < stop:
            lane = self._lanes[0]
            if lane.stop <= start:
                self._lanes.popleft()
                continue
            a, b = start - lane.base, min(stop, lane.stop) - lane.base
            leaf = lane.leaflet
            units = leaf.unit[a:b].tolist()
            for unit, slot in zip(units, leaf.slot[a:b].tolist(), strict=True):
                packed = lane.records[unit]
                if packed is None and (packed := self._record(lane, unit)) is None:
                    return None
                rows.append((packed, slot))
            for unit in set(units):
                if lane.last_use[unit] < b:
                    lane.records[unit] = None
            if not self._until(lane.looked_up):
                return None
            if lane.error is not None:
                raise lane.error
            labels.append(lane.labels[a:b])
            turns += [1] * (b - a) if lane.turns is None else lane.turns[a:b].tolist()
            draws += uniforms(leaf.crop_key[a:b], n_draws).tolist()
            sources.append(leaf.source[a:b])
            positions.append(leaf.image[a:b])
            start += b - a
        if self._tokens.get() is None:
            return None
        images, payload = self._allocate(len(rows))
        return Batch(
            images=images,
            labels=np.concatenate(labels),
            sources=np.concatenate(sources),
            positions=np.concatenate(positions),
            payload=payload,
            rows=rows,
            draws=draws,
            turns=turns,
        )

    def _dispatch(self, batch: Batch[Payload]) -> None:
        n = len(batch.rows)
        # Twice as many parts as threads, so that an uneven one does not leave the others idle.
        step = -(-n // min(n, 2 * self._feeding.n_threads))
        starts = range(0, n, step)
        batch.missing = len(starts)
        for a in starts:
            self._decoders.put(lambda a=a: self._decode(batch, a, min(n, a + step)))  # type: ignore[misc]  # bound

    def _decode(self, batch: Batch[Payload], start: int, stop: int) -> None:
        began = time.perf_counter()
        sources = batch.sources.tolist()
        for i in range(start, stop):
            try:
                render(
                    self._readers[sources[i]].file(*batch.rows[i]),
                    self._feeding.rendering,
                    batch.draws[i],
                    batch.images[i],
                    orientation=batch.turns[i],
                )
            except BaseException as e:  # noqa: BLE001 - raised again by the consumer
                error = self._named(e, batch, i)
                if isinstance(e, JpegError) and self._feeding.skip_errors:
                    _log.warning("%s: left out", error)
                    batch.skipped.append(i)  # a list may be appended to by all threads
                    batch.reason = error
                    continue
                batch.error = error
                break
        seconds = time.perf_counter() - began
        with self._lock:
            self._counts["decode"] += seconds
            batch.missing -= 1
            last = batch.missing == 0
            self._n_ready += last
        if last:
            batch.rows, batch.draws = [], []
            self._replace_skipped(batch)
            batch.done.set()

    def _replace_skipped(self, batch: Batch[Payload]) -> None:
        """Repeat other samples in rows that are left out: all ranks keep batches of one shape."""
        if not batch.skipped or batch.error is not None:
            return
        good = np.setdiff1d(np.arange(len(batch.labels)), batch.skipped)
        if not len(good):
            batch.error = batch.reason
            return
        bad = np.array(batch.skipped)
        other = good[np.arange(len(bad)) % len(good)]
        for of_row in (batch.images, batch.labels, batch.sources, batch.positions):
            of_row[bad] = of_row[other]
        with self._lock:
            self._counts["skipped"] += len(bad)

    def _named(self, error: BaseException, batch: Batch[Payload], i: int) -> BaseException:
        """Say which image cannot be decoded."""
        if not isinstance(error, JpegError):
            return error
        dataset = self._population.sources[int(batch.sources[i])].dataset
        named = type(error)(f"{dataset.url}: image {int(batch.positions[i])}: {error}")
        named.__cause__ = error
        return named


atexit.register(Feed.close_all)
