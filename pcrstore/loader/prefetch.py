"""Records of a stream of samples, requested ahead and dropped after their last sample.

    shard slices ──look up──▶ _OpenSlice ────record reads──▶ FetchQueue ──files──▶ take(start, stop)
                                   ▲
                       ask(stop): what samples below `stop` need, and `prefetch_bytes` more

Records are requested in the order of their first use; several small ones of one source are one
task. A record is cut into the files of its images when it arrives, and each file is dropped with
its sample: whole records would take twice the memory of the window that samples are drawn from.

One thread, the driver of the stream, calls `ask` and `take`; fetchers fill in the open slices.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import StopFlag
from pcrstore.core import uniforms
from pcrstore.dataset import Reader, RecordSelection
from pcrstore.errors import PcrstoreError
from pcrstore.fidelity import SharedFidelity
from pcrstore.loader.fetch_queue import Fetch, FetchQueue
from pcrstore.loader.memory import trim
from pcrstore.loader.options import ReadSettings
from pcrstore.sampling import EpochOrder, ReadList, RecordRead, SampleSet, ShardSlice

__all__ = ["Prefetcher", "ReadSpec", "Samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSpec:
    """The samples of a stream, and how they are read."""

    sample_set: SampleSet
    readers: Sequence[Reader]
    """One for each source of the sample set."""
    order: EpochOrder
    slices: Iterable[ShardSlice]
    fidelity: SharedFidelity
    """Fidelity, which is looked up for every record when its request begins."""
    prefetch_bytes: int
    """Bytes that may be read, or in flight, for samples that nobody needs yet."""
    n_draws: int
    """Random numbers that one crop is drawn by."""
    settings: ReadSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """n samples of a stream, in order."""

    files: list[bytes]
    """Input of the decoder for each sample."""
    labels: NDArray[np.int64]
    """Label of each sample, -1 for none. (n,)"""
    orientations: list[int]
    """EXIF orientation to undo for each sample, 1 for none."""
    sources: NDArray[np.int64]
    """Position of each sample's dataset among those mixed. (n,)"""
    positions: NDArray[np.int64]
    """Position of each sample in its dataset. (n,)"""
    draws: NDArray[np.float64]
    """Random numbers in [0, 1) for the crop of each sample. (n, n_draws)"""


class _OpenSlice:
    """A shard slice that is being read: its read list, requests, and the files that have come.

    Args:
        read_list: Samples and records of the slice.
        base: Samples of the stream before the slice.
    """

    def __init__(self, read_list: ReadList, base: int) -> None:
        self.read_list = read_list
        self.base = base
        self.stop = base + len(read_list)
        self.n_asked = 0
        """Reads that were requested."""
        self.n_headers = 0
        """Reads whose headers were read, where the index holds headers."""
        self.fetches: list[tuple[Fetch, int]] = []
        """Fetch of each requested read, and the position of the read in it."""
        self.files: list[list[bytes] | None] = [None] * len(read_list.reads)
        """Files of each read, from the first that is taken to the last; else None."""
        # Of samples 0, 1 and 2 with reads 0, 1 and 0, read 0 is used last by 2: the last one
        # assigned stays.
        last_use = np.empty(len(read_list.reads), np.int64)
        last_use[read_list.read_index] = np.arange(len(read_list))
        self.last_use: list[int] = last_use.tolist()
        self.looked_up = threading.Event()
        """Set once labels and orientations are there, or `error` is."""
        self.labels: NDArray[np.int64] = np.empty(0, np.int64)
        self.orientations: NDArray[np.int64] | None = None
        self.error: BaseException | None = None
        self._first_drawn = 0
        self._drawn: NDArray[np.float64] = np.empty((0, 0))

    def draws(self, start: int, stop: int, n: int, *, at_once: int) -> NDArray[np.float64]:
        """Return n random numbers for each of samples start..stop; called in order of samples.

        Args:
            start: First sample.
            stop: One past the last sample.
            n: Numbers for each sample.
            at_once: Samples to draw for together, if more are needed.

        Returns:
            (stop - start, n).
        """
        # With 3 drawn at once: 0..2 draws 0..3; 2..4 begins within what is drawn but ends behind
        # it, and draws 2..5 anew. Drawing sample 2 twice is cheaper than joining two arrays.
        if stop > self._first_drawn + len(self._drawn):
            keys = self.read_list.crop_key[start : max(stop, start + at_once)]
            self._first_drawn, self._drawn = start, uniforms(keys, n)
        return self._drawn[start - self._first_drawn : stop - self._first_drawn]

    @property
    def is_asked_for(self) -> bool:
        """True once all reads were requested."""
        return self.n_asked == len(self.read_list.reads)


def _fetch(spec: ReadSpec, reads: list[RecordRead]) -> Iterator[list[bytes]]:
    """Fetch reads of one source at the fidelity of now; yields the files of each."""
    source = reads[0].source
    chosen = [
        RecordSelection(
            part=r.part,
            record=r.record,
            images=r.slots,
            fidelity=spec.fidelity.choose(
                source, r.images, r.number, seed=spec.settings.seed, epoch=spec.order.epoch
            ),
        )
        for r in reads
    ]
    return spec.readers[source].files(chosen)


class Prefetcher:
    """Reads a stream of samples ahead.

    Args:
        spec: Samples of the stream.
        stop_flag: Flag of the stream: nothing waits once it is over.
    """

    def __init__(self, spec: ReadSpec, stop_flag: StopFlag) -> None:
        self._spec = spec
        self._limits = spec.settings.limits
        self._stop_flag = stop_flag
        self._slices = iter(spec.slices)
        self._open: deque[_OpenSlice] = deque()
        """Slices of which samples are still to be taken."""
        self._asking: deque[_OpenSlice] = deque()
        """Slices of which reads are still to be requested: the last ones of `_open`."""
        self._opened = 0
        """Samples of the slices that were opened."""
        self._unread: ShardSlice | None = None
        """A slice whose index could not be read while reading ahead. It is tried again when its
        samples are needed, and only then is the error raised."""
        self._ahead: deque[tuple[int, int]] = deque()
        """First use and bytes of each read that was requested before it was needed."""
        self._ahead_bytes = 0
        self._untrimmed = 0
        self._fetch_queue = FetchQueue(stop_flag, hedge=spec.settings.hedge, limits=self._limits)

    def close(self) -> None:
        """Stop all threads, once the stop flag is over; requests in flight end by themselves."""
        self._fetch_queue.close()

    @property
    def seconds(self) -> float:
        """Time spent on fetches, over all threads."""
        return self._fetch_queue.seconds

    @property
    def n_hedges(self) -> int:
        """Fetches that were made a second time."""
        return self._fetch_queue.n_hedges

    def name(self, source: int, position: int) -> str:
        """Return the name of a sample in errors."""
        return f"{self._spec.sample_set.sources[source].dataset.url}: image {position}"

    # ---- asking

    def ask(self, stop: int, *, ahead: bool) -> None:
        """Request every record that samples below `stop` need.

        Args:
            stop: Samples of the stream that are needed.
            ahead: Request more records, as many as fit `prefetch_bytes`.
        """
        # With batches of 4, 100 kB a record and 250 kB to be ahead: ask(4) requests the records
        # that samples 0..4 need, and the next two; it notes their first uses, say 4 and 7. ask(8)
        # finds both needed now, so that there is room for two more again.
        while self._ahead and self._ahead[0][0] < stop:
            self._ahead_bytes -= self._ahead.popleft()[1]
        task: list[RecordRead] = []
        size = 0
        while (open_slice := self._slice_to_ask(stop, ahead=ahead)) is not None:
            read = open_slice.read_list.reads[open_slice.n_asked]
            if task and task[0].source != read.source:
                self._submit(open_slice, task, size, stop)
                task, size = [], 0
            n_bytes = self._bytes_of(read)
            first_use = open_slice.base + read.first_use
            if first_use >= stop:
                if not self._has_room(ahead=ahead, for_task=not task):
                    break
                self._ahead.append((first_use, n_bytes))
                self._ahead_bytes += n_bytes
            if open_slice.n_asked == open_slice.n_headers:
                if task:  # may be needed now, so it must not wait for headers
                    self._submit(open_slice, task, size, stop)
                    task, size = [], 0
                self._load_headers(open_slice)
            open_slice.n_asked += 1
            task.append(read)
            size += n_bytes
            # A task is of one slice: `_submit` notes its fetch there.
            if size >= self._limits.task_bytes or open_slice.is_asked_for:
                self._submit(open_slice, task, size, stop)
                task, size = [], 0
        if task and open_slice is not None:
            self._submit(open_slice, task, size, stop)

    def _has_room(self, *, ahead: bool, for_task: bool = False) -> bool:
        """Say whether more than is needed may be requested: a whole task, or the rest of one.

        A task begins only where all of it has room, because small tasks would not fill the link.
        """
        budget = self._spec.prefetch_bytes
        room = budget - self._ahead_bytes
        return ahead and room > 0 and (not for_task or room >= min(self._limits.task_bytes, budget))

    def _bytes_of(self, read: RecordRead) -> int:
        """Return about how many bytes a read will move.

        An integer, because sums of fractions that are added and subtracted do not end at 0.
        """
        return round(self._spec.fidelity.mean_bytes(read.source) * len(read.images))

    def _slice_to_ask(self, stop: int, *, ahead: bool) -> _OpenSlice | None:
        """Return the slice whose reads are requested next, and open it if necessary.

        Returns:
            None if there is no slice left, or none that may be opened yet.
        """
        while self._asking and self._asking[0].is_asked_for:
            self._asking.popleft()
        while not self._asking:
            # Opening a slice reads the index, and the samples needed now must not wait for that.
            is_due = self._opened < stop
            if not is_due and (self._unread is not None or not self._has_room(ahead=ahead)):
                return None
            shard_slice = self._unread or next(self._slices, None)
            if shard_slice is None:
                return None
            self._unread = shard_slice
            try:
                read_list = self._spec.sample_set.read_list(self._spec.order, shard_slice)
            except PcrstoreError:
                if is_due:
                    raise
                return None
            self._unread = None
            if not len(read_list):
                continue
            open_slice = _OpenSlice(read_list, self._opened)
            self._opened = open_slice.stop
            self._fetch_queue.run(partial(_look_up, self._spec, open_slice))
            self._open.append(open_slice)
            self._asking.append(open_slice)
        return self._asking[0]

    def _load_headers(self, open_slice: _OpenSlice) -> None:
        """Read the headers of the next records that do not bring their own, in one batch."""
        start = open_slice.n_headers
        n = min(
            max(self._limits.first_headers, start), self._limits.most_headers
        )  # 64, then 64, 128, 256 ..
        reads = open_slice.read_list.reads[start : start + n]
        open_slice.n_headers = start + len(reads)
        for i, reader in enumerate(self._spec.readers):
            every = reader.needs_headers or self._spec.fidelity.is_per_sample(i)
            # Reading a record asks for its header again, and then the error names the record.
            with suppress(PcrstoreError):
                reader.index.headers(
                    [
                        (r.part, r.record)
                        for r in reads
                        if r.source == i and (every or r.slots is not None)
                    ]
                )

    def _submit(
        self, open_slice: _OpenSlice, task: list[RecordRead], n_bytes: int, stop: int
    ) -> None:
        is_ahead = open_slice.base + task[0].first_use >= stop
        # Not a method of this object, which the fetch would keep alive, and with it itself.
        call = partial(_fetch, self._spec, task)
        fetch = self._fetch_queue.submit(call, n_bytes, is_ahead=is_ahead)
        open_slice.fetches.extend((fetch, i) for i in range(len(task)))

    # ---- taking

    def take(self, start: int, stop: int) -> Samples | None:
        """Return samples start..stop, waiting for their records; None when the stream is stopped.

        They begin where the call before ended, and were asked for.

        Raises:
            PcrstoreError: A record or its part of the index could not be read.
        """
        files: list[bytes] = []
        orientations: list[int] = []
        found: list[tuple[NDArray[np.int64], ...]] = []
        draws: list[NDArray[np.float64]] = []
        spec = self._spec
        # Samples 10..14 where slices have the samples 0..12 and 12..20 are samples 10..12 of the
        # first slice and 0..2 of the second one.
        while start < stop:
            open_slice = self._open[0]
            if open_slice.stop <= start:
                self._open.popleft()
                continue
            a, b = start - open_slice.base, min(stop, open_slice.stop) - open_slice.base
            read_list = open_slice.read_list
            indices = read_list.read_index[a:b].tolist()
            for at, slot in zip(indices, read_list.slot[a:b].tolist(), strict=True):
                of_read = open_slice.files[at]
                if of_read is None and (of_read := self._files(open_slice, at)) is None:
                    return None
                files.append(of_read[slot])
                of_read[slot] = b""  # each is used once, and its memory goes with the sample
            for at in set(indices):
                if open_slice.last_use[at] < b:
                    open_slice.files[at] = None
            if not self._stop_flag.wait(open_slice.looked_up):
                return None
            if open_slice.error is not None:
                errors = [open_slice.error]
                open_slice.error = None
                raise errors.pop()  # a traceback holds this frame, which must not hold the error
            found.append((open_slice.labels[a:b], read_list.source[a:b], read_list.image[a:b]))
            orientations += (
                [1] * (b - a)
                if open_slice.orientations is None
                else open_slice.orientations[a:b].tolist()
            )
            draws.append(open_slice.draws(a, b, spec.n_draws, at_once=self._limits.drawn_at_once))
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

    def _files(self, open_slice: _OpenSlice, read_index: int) -> list[bytes] | None:
        """Return the files of a read, waiting for them; None when the stream is stopped."""
        fetch, at = open_slice.fetches[read_index]
        if not self._fetch_queue.wait(fetch):
            return None
        files = fetch.take(at)
        open_slice.files[read_index] = files
        self._untrimmed += sum(map(len, files))
        if self._untrimmed > self._limits.trim_after:
            self._untrimmed = 0
            trim()
        return files


def _look_up(spec: ReadSpec, open_slice: _OpenSlice) -> None:
    """Read labels and orientations of a slice from the index, beside its first records."""
    try:
        read_list = open_slice.read_list
        names = ["label", "orientation"] if spec.settings.apply_orientation else ["label"]
        found = {name: np.empty(len(read_list), np.int64) for name in names}
        for i, reader in enumerate(spec.readers):
            here = read_list.source == i
            if here.any():
                columns = reader.index.columns(names, read_list.image[here])
                for name in names:
                    found[name][here] = np.asarray(columns[name])
        open_slice.labels = found["label"]
        open_slice.orientations = found.get("orientation")
    except BaseException as e:  # noqa: BLE001 - raised again by `take`
        open_slice.error = e
    finally:
        open_slice.looked_up.set()
