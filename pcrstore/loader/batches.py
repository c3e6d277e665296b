"""The engine of a loader: one stream of samples, read ahead, decoded in threads, in order.

    driver ──ask, take──▶ Prefetcher
       │ samples in batches
       └─files──▶ decoders ──▶ ready ──▶ consumer
       ▲        GIL released                │
       └─── a token for each batch taken ◀──┘

The driver, one thread, goes through the stream. Memory has three bounds: the window of the shuffle,
the bytes that the prefetcher is ahead, and `batches_ready` batches. So nothing grows when the
consumer is slow. A driver waits in two places only: for a record, and for a token.

With 4 tokens and batches 0, 1, 2 ..: the driver dispatches batches 0..4 and waits with the samples
of batch 4; the consumer takes batch 0 and gives a token back; the driver dispatches batch 4.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
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

_DECODING_SECONDS: Final = 1.0
"""Longest time that the end of an iteration waits for images that are being decoded."""

_LAST_SECONDS: Final = 2.0
"""Longest time that an interpreter at its end waits for requests in flight."""

_TOKEN: Final = object()

Payload = TypeVar("Payload")


@dataclass(slots=True, kw_only=True)
class Batch(Generic[Payload]):
    """Decoded samples."""

    images: NDArray[np.uint8]
    """(N, H, W, 3)"""
    samples: Samples = field(repr=False)
    """The samples; their `files` are empty once all are decoded."""
    payload: Payload
    """Second value of the allocator that made `images`: a tensor over the same memory, or None."""
    missing: int = 0
    """Parts of the batch that are still being decoded."""
    skipped: list[int] = field(default_factory=list, repr=False)
    """Rows that could not be decoded and are to be replaced."""
    done: threading.Event = field(default_factory=threading.Event, repr=False)
    error: BaseException | None = None
    reason: BaseException | None = None
    """Error of the last row in `skipped`."""


class BatchStream(Generic[Payload]):
    """Batches of one stream.

    Args:
        read_spec: Samples of the stream, and how they are read.
        batch_sizes: Samples of each batch, in all as many as the stream has.
        rendering: Crop and size of the images.
        n_threads: Threads that decode.
        allocate: Returns memory for the images of a batch, (n, H, W, 3) uint8, and the payload of
            the batch; called in a thread of the stream.
    """

    _alive: ClassVar["WeakSet[BatchStream[Any]]"] = WeakSet()

    def __init__(
        self,
        read_spec: ReadSpec,
        batch_sizes: Sequence[int],
        *,
        rendering: Rendering,
        n_threads: int,
        allocate: Callable[[int], tuple[NDArray[np.uint8], Payload]],
    ) -> None:
        self._batch_sizes = batch_sizes
        self._limits = read_spec.settings.limits
        self._rendering = rendering
        self._n_threads = n_threads
        self._skip_errors = read_spec.settings.skip_errors
        self._allocate = allocate
        self._ready: SimpleQueue[Batch[Payload] | BaseException | None] = SimpleQueue()
        self._tokens: SimpleQueue[object] = SimpleQueue()
        for _ in range(self._limits.batches_ready):
            self._tokens.put(_TOKEN)
        self._lock = ForkSafeLock()
        self._counts = dict.fromkeys(
            ("samples", "batches", "skipped", "queue_depth", "stall", "decode"), 0.0
        )
        self._n_ready = 0
        self._stop_flag = StopFlag()
        share_one_arena()
        self._driver = Threads(1, "drive")
        with ExitStack() as started:
            started.callback(self._driver.stop)
            self._decoders = Threads(n_threads, "decode")
            started.callback(self._decoders.stop)
            self._prefetcher = Prefetcher(read_spec, self._stop_flag)
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
            # Decoders own the memory that they decode into until they end; idle ones end at once.
            self._decoders.join(_DECODING_SECONDS)
            trim()

    def _take(self) -> Batch[Payload] | None:
        start = time.perf_counter()
        batch = None if self._stop_flag.is_over else self._ready.get()
        if batch is None or self._stop_flag.is_over:
            return None
        if isinstance(batch, BaseException):
            errors = [batch]
            del batch
            raise errors.pop()  # a traceback holds this frame, which must not hold the error
        if not self._stop_flag.wait(batch.done):
            return None
        if batch.error is not None:
            errors = [batch.error]
            batch.error = None
            raise errors.pop()
        self._tokens.put(_TOKEN)
        with self._lock:
            self._counts["samples"] += len(batch.images)
            self._counts["batches"] += 1
            self._counts["stall"] += time.perf_counter() - start
            self._n_ready -= 1
            self._counts["queue_depth"] = self._n_ready
        return batch

    def stats(self) -> Signals:
        """Return the counters of this stream, without those of requests, which readers count."""
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
        """Stop all threads; requests in flight end by themselves."""
        if self._stop_flag.is_over:
            return
        self._stop_flag.is_over = True
        self._tokens.put(None)
        self._ready.put(None)
        self._prefetcher.close()
        self._decoders.stop()
        self._driver.stop()
        self._alive.discard(self)

    @classmethod
    def close_all(cls) -> None:
        """Stop every stream and wait for its threads, before the interpreter ends."""
        for stream in list(cls._alive):
            stream.close()
        Threads.end_all(_LAST_SECONDS)

    # ---- the driver's side

    def _drive(self) -> None:
        try:
            stop = 0
            for size in self._batch_sizes:
                start, stop = stop, stop + size
                if self._stop_flag.is_over:
                    return
                # The records of the first batch come alone: others would take a share of the link.
                self._prefetcher.ask(stop, ahead=start > 0)
                asked = time.perf_counter()
                samples = self._prefetcher.take(start, stop)
                is_quick = time.perf_counter() - asked < self._limits.quick_seconds
                if samples is None or self._tokens.get() is None or self._stop_flag.is_over:
                    return
                images, payload = self._allocate(size)
                batch = Batch(images=images, samples=samples, payload=payload)
                self._dispatch(batch)
                self._ready.put(batch)
                if start == 0 and is_quick:
                    batch.done.wait(self._limits.alone_seconds)
            self._ready.put(None)
        except BaseException as e:  # noqa: BLE001 - raised again by the consumer
            self._ready.put(e)

    def _dispatch(self, batch: Batch[Payload]) -> None:
        n = len(batch.images)
        # 10 images for 4 threads are parts of 3, 3, 3 and 1. The short part leaves no thread idle,
        # because parts of other batches wait too.
        step = -(-n // min(n, self._n_threads))
        starts = range(0, n, step)
        batch.missing = len(starts)
        for a in starts:
            self._decoders.put(partial(self._decode, batch, a, min(n, a + step)))

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
            batch.samples.files.clear()
            try:
                self._replace_skipped(batch)
            except BaseException as e:  # noqa: BLE001 - as above
                batch.error = e
            batch.done.set()

    def _render(self, batch: Batch[Payload], start: int, stop: int) -> None:
        rendering, images, samples = self._rendering, batch.images, batch.samples
        here = slice(start, stop)
        rows = zip(
            samples.files[here],
            samples.draws[here].tolist(),
            samples.orientations[here],
            strict=True,
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
        """Repeat other samples in skipped rows, so that batches keep their shape on all ranks.

        Of 5 rows with 1 and 4 skipped, the good ones are 0, 2 and 3: row 1 repeats 0, row 4
        repeats 2.
        """
        reason, batch.reason = batch.reason, None
        if not batch.skipped or batch.error is not None:
            return
        good = np.setdiff1d(np.arange(len(batch.images)), batch.skipped)
        if not len(good):
            batch.error = reason
            return
        bad = np.sort(batch.skipped)  # threads note them in any order
        other = good[np.arange(len(bad)) % len(good)]
        samples = batch.samples
        for of_row in (batch.images, samples.labels, samples.sources, samples.positions):
            of_row[bad] = of_row[other]
        with self._lock:
            self._counts["skipped"] += len(bad)

    def _named(self, error: JpegError, batch: Batch[Payload], i: int) -> JpegError:
        """Return an error that names the image that cannot be decoded."""
        samples = batch.samples
        name = self._prefetcher.name(int(samples.sources[i]), int(samples.positions[i]))
        return type(error)(f"{name}: {error}")


atexit.register(BatchStream.close_all)
