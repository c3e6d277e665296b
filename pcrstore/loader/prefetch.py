"""Records of one stream of samples, asked for ahead and let go after their last sample.

    stretches ──leaflets──▶ units ──tasks──▶ FetchQueue ──files──▶ take(start, stop)
                              ▲ ahead <= prefetch_bytes
                           ask(stop)

Records are asked for in the order of their first use, as many as fit the bytes the stream may be
ahead; several small ones by one call. A record is cut into its images' files when it comes, and
each is let go with its sample: whole records would hold twice as much of the window that samples
are drawn from. One thread calls `ask` and `take`. `pcrstore.sampling.order` has the words.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import StopFlag
from pcrstore.core import uniforms
from pcrstore.dataset import Reader, RecordSelection
from pcrstore.errors import PcrstoreError
from pcrstore.fidelity import SharedFidelity
from pcrstore.loader.fetch_queue import Fetch, FetchQueue
from pcrstore.loader.memory import trim
from pcrstore.sampling import EpochOrder, ReadList, RecordRead, SampleSet, ShardSlice

__all__ = ["Prefetcher", "ReadSpec", "Samples"]

TASK_BYTES: Final = 2**20
"""What one call to the store asks for, in records: a megabyte fills a link with 16 in flight."""

_FIRST_HEADERS: Final = 64
"""Records whose headers are read first, where the index has them; then as many again, and so on:
the first batch must not wait for those of a whole shard."""

_MOST_HEADERS: Final = 4096
"""Records whose headers are read at once at most; the catalog keeps four times as many."""

_DRAWN_AT_ONCE: Final = 1024
"""Samples whose numbers are drawn together: for those of a batch numpy's calls cost ten times what
they compute."""

_TRIM_AFTER: Final = 2**28
"""Bytes of files after which free memory is given back: 5 ms, and twice as much for what is then
asked for anew, in some ten seconds of decoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSpec:
    """What is read, and how."""

    population: SampleSet
    readers: Sequence[Reader]
    """One for each source of the population."""
    order: EpochOrder
    stretches: Iterable[ShardSlice]
    dial: SharedFidelity
    """Fidelity, looked at for every record that is requested."""
    prefetch_bytes: int
    """What may be read, or being read, beyond the samples that are needed."""
    hedge: bool
    apply_orientation: bool
    seed: int
    epoch: int
    n_draws: int
    """Numbers that a sample's crop is drawn by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Samples of the stream in order; n of them."""

    files: list[bytes]
    """What a decoder takes of each."""
    labels: NDArray[np.int64]
    """(n,)"""
    orientations: list[int]
    """EXIF orientations to undo, 1 for none."""
    sources: NDArray[np.int64]
    """(n,)"""
    positions: NDArray[np.int64]
    """In their datasets. (n,)"""
    draws: NDArray[np.float64]
    """Numbers in [0, 1) of each sample, for its crop. (n, n_draws)"""


class _SliceReader:
    """A leaflet that is being read."""

    def __init__(self, leaflet: ReadList, base: int) -> None:
        self.leaflet = leaflet
        self.base = base
        """Samples of the stream before it."""
        self.stop = base + len(leaflet)
        self.next_unit = 0
        """First unit that was not asked for."""
        self.n_headers = 0
        """Units whose headers were read, where the index has them."""
        self.fetches: list[tuple[Fetch, int]] = []
        """Of each unit asked for its fetch, and its position there."""
        self.files: list[list[bytes] | None] = [None] * len(leaflet.units)
        """Of each unit its images' files, from the first that is taken to the last."""
        last_use = np.empty(len(leaflet.units), np.int64)
        last_use[leaflet.unit] = np.arange(len(leaflet))
        self.last_use: list[int] = last_use.tolist()
        self.looked_up = threading.Event()
        self.labels: NDArray[np.int64] = np.empty(0, np.int64)
        self.orientations: NDArray[np.int64] | None = None
        self.error: BaseException | None = None
        self._first_drawn = 0
        self._drawn: NDArray[np.float64] = np.empty((0, 0))

    def draws(self, start: int, stop: int, n: int) -> NDArray[np.float64]:
        """Return the numbers of samples start..stop, which are asked for in order. (samples, n)."""
        if stop > self._first_drawn + len(self._drawn):
            keys = self.leaflet.crop_key[start : max(stop, start + _DRAWN_AT_ONCE)]
            self._first_drawn, self._drawn = start, uniforms(keys, n)
        return self._drawn[start - self._first_drawn : stop - self._first_drawn]

    @property
    def is_asked_for(self) -> bool:
        """Whether nothing of it is left to ask for."""
        return self.next_unit == len(self.leaflet.units)


def _read(stream: ReadSpec, units: list[RecordRead]) -> Iterator[list[bytes]]:
    """Read units of one source; their fidelity is chosen now."""
    source = units[0].source
    chosen = [
        RecordSelection(
            part=u.part,
            record=u.record,
            images=u.slots,
            fidelity=stream.dial.choose(
                source, u.images, u.number, seed=stream.seed, epoch=stream.epoch
            ),
        )
        for u in units
    ]
    return stream.readers[source].files(chosen)


class Prefetcher:
    """Reads a stream ahead."""

    def __init__(self, stream: ReadSpec, life: StopFlag) -> None:
        self._stream = stream
        self._life = life
        self._stretches = iter(stream.stretches)
        self._lanes: deque[_SliceReader] = deque()
        self._asking: deque[_SliceReader] = deque()
        self._opened = 0
        self._unread: ShardSlice | None = None
        """What the index could not be read for, ahead: read again, or an error, when it is due."""
        self._ahead: deque[tuple[int, int]] = deque()
        self._ahead_bytes = 0
        self._untrimmed = 0
        self._in_flight = FetchQueue(life, hedge=stream.hedge)

    def close(self) -> None:
        """Stop all threads, once life is over; requests under way end by themselves."""
        self._in_flight.close()

    @property
    def seconds(self) -> float:
        """Reading, over all threads."""
        return self._in_flight.seconds

    @property
    def n_hedges(self) -> int:
        """Requests that were made a second time."""
        return self._in_flight.n_hedges

    def name(self, source: int, position: int) -> str:
        """Return what an error calls a sample."""
        return f"{self._stream.population.sources[source].dataset.url}: image {position}"

    # ---- asking

    def ask(self, stop: int, *, ahead: bool) -> None:
        """Ask for every record that samples below `stop` need; `ahead`: and more, where it fits."""
        while self._ahead and self._ahead[0][0] < stop:
            self._ahead_bytes -= self._ahead.popleft()[1]
        group: list[RecordRead] = []
        size = 0
        while (lane := self._lane_to_ask(stop, ahead=ahead)) is not None:
            unit = lane.leaflet.units[lane.next_unit]
            if group and group[0].source != unit.source:
                self._submit(lane, group, size, stop)
                group, size = [], 0
            n_bytes = self._bytes_of(unit)
            first_use = lane.base + unit.first_use
            if first_use >= stop:
                if not self._has_room(ahead=ahead, for_task=not group):
                    break
                self._ahead.append((first_use, n_bytes))
                self._ahead_bytes += n_bytes
            if lane.next_unit == lane.n_headers:
                if group:  # may be needed now
                    self._submit(lane, group, size, stop)
                    group, size = [], 0
                self._load_headers(lane)
            lane.next_unit += 1
            group.append(unit)
            size += n_bytes
            if size >= TASK_BYTES or lane.is_asked_for:
                self._submit(lane, group, size, stop)
                group, size = [], 0
        if group and lane is not None:
            self._submit(lane, group, size, stop)

    def _has_room(self, *, ahead: bool, for_task: bool = False) -> bool:
        """Say whether more may be asked for than is needed: a whole task, or the rest of one.

        Small tasks would not fill the link.
        """
        budget = self._stream.prefetch_bytes
        room = budget - self._ahead_bytes
        return ahead and room > 0 and (not for_task or room >= min(TASK_BYTES, budget))

    def _bytes_of(self, unit: RecordRead) -> int:
        """Return what a unit will move, about; whole, for sums of fractions do not end at 0."""
        return round(self._stream.dial.mean_bytes(unit.source) * len(unit.images))

    def _lane_to_ask(self, stop: int, *, ahead: bool) -> _SliceReader | None:
        """Return the lane whose units are asked for next, opening it when it is time; else None."""
        while self._asking and self._asking[0].is_asked_for:
            self._asking.popleft()
        while not self._asking:
            # To open one is to read the index, which what is needed now must not wait for.
            is_due = self._opened < stop
            if not is_due and (self._unread is not None or not self._has_room(ahead=ahead)):
                return None
            stretch = self._unread or next(self._stretches, None)
            if stretch is None:
                return None
            self._unread = stretch
            try:
                leaflet = self._stream.population.leaflet(self._stream.order, stretch)
            except PcrstoreError:
                if is_due:
                    raise
                return None
            self._unread = None
            if not len(leaflet):
                continue
            lane = _SliceReader(leaflet, self._opened)
            self._opened = lane.stop
            self._in_flight.beside(lambda lane=lane: self._look_up(lane))  # type: ignore[misc]  # bound
            self._lanes.append(lane)
            self._asking.append(lane)
        return self._asking[0]

    def _look_up(self, lane: _SliceReader) -> None:
        """Read what the index knows of a lane's samples, beside its first records."""
        try:
            leaflet = lane.leaflet
            names = ["label", "orientation"] if self._stream.apply_orientation else ["label"]
            found = {name: np.empty(len(leaflet), np.int64) for name in names}
            for i, reader in enumerate(self._stream.readers):
                here = leaflet.source == i
                if here.any():
                    columns = reader.index.columns(names, leaflet.image[here])
                    for name in names:
                        found[name][here] = np.asarray(columns[name])
            lane.labels, lane.orientations = found["label"], found.get("orientation")
        except BaseException as e:  # noqa: BLE001 - raised again by `take`
            lane.error = e
        finally:
            lane.looked_up.set()

    def _load_headers(self, lane: _SliceReader) -> None:
        """Read the next headers of records that do not bring their own, in one batch."""
        start = lane.n_headers
        n = min(max(_FIRST_HEADERS, start), _MOST_HEADERS)
        lane.n_headers = stop = min(len(lane.leaflet.units), start + n)
        for i, reader in enumerate(self._stream.readers):
            every = reader.needs_headers or self._stream.dial.is_per_sample(i)
            # Whoever reads a record asks for its header again, and names the one that is damaged.
            with suppress(PcrstoreError):
                reader.index.headers(
                    [
                        (u.part, u.record)
                        for u in lane.leaflet.units[start:stop]
                        if u.source == i and (every or u.slots is not None)
                    ]
                )

    def _submit(self, lane: _SliceReader, units: list[RecordRead], n_bytes: int, stop: int) -> None:
        stream = self._stream  # a fetch that held this object would keep it, and itself, alive
        is_ahead = lane.base + units[0].first_use >= stop
        fetch = self._in_flight.submit(lambda: _read(stream, units), n_bytes, is_ahead=is_ahead)
        lane.fetches.extend((fetch, i) for i in range(len(units)))

    # ---- taking

    def take(self, start: int, stop: int) -> Samples | None:
        """Return samples start..stop, waiting for their records; None when life is over.

        They begin where the call before ended, and were asked for.

        Raises:
            PcrstoreError: A record, or what the index says of it, could not be read.
        """
        files: list[bytes] = []
        orientations: list[int] = []
        found: list[tuple[NDArray[np.int64], ...]] = []
        draws: list[NDArray[np.float64]] = []
        while start < stop:
            lane = self._lanes[0]
            if lane.stop <= start:
                self._lanes.popleft()
                continue
            a, b = start - lane.base, min(stop, lane.stop) - lane.base
            leaf = lane.leaflet
            units = leaf.unit[a:b].tolist()
            for unit, slot in zip(units, leaf.slot[a:b].tolist(), strict=True):
                of_unit = lane.files[unit]
                if of_unit is None and (of_unit := self._files(lane, unit)) is None:
                    return None
                files.append(of_unit[slot])
                of_unit[slot] = b""  # each is read once
            for unit in set(units):
                if lane.last_use[unit] < b:
                    lane.files[unit] = None
            if not self._life.wait(lane.looked_up):
                return None
            if lane.error is not None:
                errors = [lane.error]
                lane.error = None
                raise errors.pop()  # as `_files`
            found.append((lane.labels[a:b], leaf.source[a:b], leaf.image[a:b]))
            orientations += (
                [1] * (b - a) if lane.orientations is None else lane.orientations[a:b].tolist()
            )
            draws.append(lane.draws(a, b, self._stream.n_draws))
            start += b - a
        labels, sources, positions = map(np.concatenate, zip(*found, strict=True))
        return Samples(
            files=files,
            labels=labels,
            orientations=orientations,
            sources=sources,
            positions=positions,
            draws=np.concatenate(draws),
        )

    def _files(self, lane: _SliceReader, unit: int) -> list[bytes] | None:
        """Return what was read for a unit, waiting for it; None when life is over."""
        fetch, at = lane.fetches[unit]
        if not self._in_flight.wait(fetch):
            return None
        files = fetch.take(at)
        lane.files[unit] = files
        self._untrimmed += sum(map(len, files))
        if self._untrimmed > _TRIM_AFTER:
            self._untrimmed = 0
            trim()
        return files
