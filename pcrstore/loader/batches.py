"""The engine of a loader: one stream of samples, fetched ahead, decoded in threads, in order.

    driver ──ask, take──▶ Prefetcher
       │ samples in batches
       └─files──▶ decoders ──▶ ready ──▶ consumer
       ▲        GIL released                │
       └─── a token for each batch taken ◀──┘

The driver walks the stream. What is held at most: the window of the shuffle, the bytes that the
prefetcher is ahead, and `BATCHES_READY` batches. All three have a bound, so nothing grows when the
consumer is slow, and there are two places to wait at: a record, and a token.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, ClassVar, Final, Generic, TypeVar
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import ForkSafeLock, StopFlag, Threads
from pcrstore.errors import JpegError
from pcrstore.image import Rendering, render
from pcrstore.loader.memory import share_one_arena, trim
from pcrstore.loader.prefetch import Prefetcher, ReadSpec, Samples
from pcrstore.loader.stats import Signals

__all__ = ["Batch", "BatchStream"]

_log = logging.getLogger(__name__)

BATCHES_READY: Final = 4
"""Batches that are decoded or being decoded before the consumer takes them."""

_QUICK_SECONDS: Final = 0.1
"""A first batch that comes sooner than this came over a link that can wait for its decoding: while
it is decoded nothing is read ahead, for that would take the cores from it."""

_ALONE_SECONDS: Final = 0.2
"""How long it has them to itself at most."""

_DECODING_SECONDS: Final = 1.0
"""How long the end of an iteration waits for images that are being decoded."""

_LAST_SECONDS: Final = 2.0
"""How long an interpreter that ends waits for requests that are under way."""

_TOKEN: Final = object()

Payload = TypeVar("Payload")


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
    files: list[bytes] = field(repr=False)
    """What a decoder takes of each sample; empty once all are decoded."""
    draws: NDArray[np.float64] = field(repr=False)
    """Numbers in [0, 1) that each sample's crop is drawn by. (N, draws)"""
    orientations: list[int] = field(repr=False)
    """EXIF orientation to undo of each sample, 1 for none."""
    missing: int = 0
    """Parts that are still being decoded."""
    skipped: list[int] = field(default_factory=list, repr=False)
    """Rows that could not be decoded and may be left out."""
    done: threading.Event = field(default_factory=threading.Event, repr=False)
    error: BaseException | None = None
    reason: BaseException | None = None
    """Why the last of `skipped` was."""


class BatchStream(Generic[Payload]):
    """Batches of one stream.

    Args:
        stream: What is read.
        batch_sizes: Samples of each batch; their sum is what the stream has.
        rendering: What becomes of each image.
        n_threads: That decode.
        skip_errors: Leave out what cannot be decoded, and go on.
        allocate: Returns memory for the images of a batch, (n, H, W, 3) uint8, and anything to be
            handed out with it; called in a thread of the feed.
    """

    _alive: ClassVar["WeakSet[BatchStream[Any]]"] = WeakSet()

    def __init__(
        self,
        stream: ReadSpec,
        batch_sizes: Sequence[int],
        *,
        rendering: Rendering,
        n_threads: int,
        skip_errors: bool,
        allocate: Callable[[int], tuple[NDArray[np.uint8], Payload]],
    ) -> None:
        self._batch_sizes = batch_sizes
        self._rendering = rendering
        self._n_threads = n_threads
        self._skip_errors = skip_errors
        self._allocate = allocate
        self._ready: SimpleQueue[Batch[Payload] | BaseException | None] = SimpleQueue()
        self._tokens: SimpleQueue[object] = SimpleQueue()
        for _ in range(BATCHES_READY):
            self._tokens.put(_TOKEN)
        self._lock = ForkSafeLock()
        self._counts = dict.fromkeys(
            ("samples", "batches", "skipped", "queue_depth", "stall", "decode"), 0.0
        )
        self._n_ready = 0
        self._life = StopFlag()
        share_one_arena()
        self._driver = Threads(1, "drive")
        with ExitStack() as started:
            started.callback(self._driver.stop)
            self._decoders = Threads(n_threads, "decode")
            started.callback(self._decoders.stop)
            self._prefetcher = Prefetcher(stream, self._life)
            started.pop_all()
        self._alive.add(self)
        self._driver.put(self._drive)

    # ---- the consumer's side

    def __iter__(self) -> Iterator[Batch[Payload]]:
        try:
            while (batch := self._take()) is not None:
                yield batch
                del batch
        finally:
            self.close()
            # What decoders decode into is theirs until they end, which idle ones do at once.
            self._decoders.join(_DECODING_SECONDS)
            trim()

    def _take(self) -> Batch[Payload] | None:
        start = time.perf_counter()
        batch = None if self._life.is_over else self._ready.get()
        if batch is None or self._life.is_over:
            return None
        if isinstance(batch, BaseException):
            errors = [batch]
            del batch
            raise errors.pop()  # a traceback holds this frame, which must not hold the error
        if not self._life.wait(batch.done):
            return None
        if batch.error is not None:
            errors = [batch.error]
            batch.error = None
            raise errors.pop()
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
            hedges=self._prefetcher.n_hedges,
            skipped=int(n["skipped"]),
            queue_depth=int(n["queue_depth"]),
            stall_seconds=n["stall"],
            fetch_seconds=self._prefetcher.seconds,
            decode_seconds=n["decode"],
        )

    def close(self) -> None:
        """Stop all threads; requests under way end by themselves."""
        if self._life.is_over:
            return
        self._life.is_over = True
        self._tokens.put(None)
        self._ready.put(None)
        self._prefetcher.close()
        self._decoders.stop()
        self._driver.stop()
        self._alive.discard(self)

    @classmethod
    def close_all(cls) -> None:
        """Stop every feed and wait for its threads: the interpreter is about to go."""
        for feed in list(cls._alive):
            feed.close()
        Threads.end_all(_LAST_SECONDS)

    # ---- the driver's side

    def _drive(self) -> None:
        try:
            stop = 0
            for size in self._batch_sizes:
                start, stop = stop, stop + size
                if self._life.is_over:
                    return
                # What the first batch needs comes alone: all else would take its share of the link.
                self._prefetcher.ask(stop, ahead=start > 0)
                asked = time.perf_counter()
                samples = self._prefetcher.take(start, stop)
                is_quick = time.perf_counter() - asked < _QUICK_SECONDS
                if samples is None or self._tokens.get() is None or self._life.is_over:
                    return
                batch = self._batch(samples)
                self._dispatch(batch)
                self._ready.put(batch)
                if start == 0 and is_quick:
                    batch.done.wait(_ALONE_SECONDS)
            self._ready.put(None)
        except BaseException as e:  # noqa: BLE001 - raised again by the consumer
            self._ready.put(e)

    def _batch(self, samples: Samples) -> Batch[Payload]:
        images, payload = self._allocate(len(samples.files))
        return Batch(
            images=images,
            labels=samples.labels,
            sources=samples.sources,
            positions=samples.positions,
            payload=payload,
            files=samples.files,
            draws=samples.draws,
            orientations=samples.orientations,
        )

    def _dispatch(self, batch: Batch[Payload]) -> None:
        n = len(batch.files)
        # An uneven part leaves no thread idle: other batches wait too.
        step = -(-n // min(n, self._n_threads))
        starts = range(0, n, step)
        batch.missing = len(starts)
        for a in starts:
            self._decoders.put(lambda a=a: self._decode(batch, a, min(n, a + step)))  # type: ignore[misc]  # bound

    def _decode(self, batch: Batch[Payload], start: int, stop: int) -> None:
        began = time.perf_counter()
        try:
            self._render(batch, start, stop)
        except BaseException as e:  # noqa: BLE001 - raised again by the consumer
            batch.error = e
        seconds = time.perf_counter() - began
        with self._lock:
            self._counts["decode"] += seconds
            batch.missing -= 1
            last = batch.missing == 0
            self._n_ready += last
        if last:
            batch.files = []
            try:
                self._replace_skipped(batch)
            except BaseException as e:  # noqa: BLE001 - as above
                batch.error = e
            batch.done.set()

    def _render(self, batch: Batch[Payload], start: int, stop: int) -> None:
        rendering, images = self._rendering, batch.images
        here = slice(start, stop)
        rows = zip(
            batch.files[here], batch.draws[here].tolist(), batch.orientations[here], strict=True
        )
        for i, (file, draws, orientation) in enumerate(rows, start):
            try:
                render(file, rendering, draws, images[i], orientation=orientation)
            except JpegError as e:
                if not self._skip_errors:
                    raise self._named(e, batch, i) from e
                batch.reason = self._named(e, batch, i)
                _log.warning("%s: left out", batch.reason)
                batch.skipped.append(i)  # a list may be appended to by all threads

    def _replace_skipped(self, batch: Batch[Payload]) -> None:
        """Repeat other samples in rows that are left out: all ranks keep batches of one shape."""
        reason, batch.reason = batch.reason, None
        if not batch.skipped or batch.error is not None:
            return
        good = np.setdiff1d(np.arange(len(batch.labels)), batch.skipped)
        if not len(good):
            batch.error = reason
            return
        bad = np.sort(batch.skipped)  # threads note them in any order
        other = good[np.arange(len(bad)) % len(good)]
        for of_row in (batch.images, batch.labels, batch.sources, batch.positions):
            of_row[bad] = of_row[other]
        with self._lock:
            self._counts["skipped"] += len(bad)

    def _named(self, error: JpegError, batch: Batch[Payload], i: int) -> JpegError:
        """Say which image cannot be decoded."""
        name = self._prefetcher.name(int(batch.sources[i]), int(batch.positions[i]))
        return type(error)(f"{name}: {error}")


atexit.register(BatchStream.close_all)
