"""A bounded queue of fetches, started in order; a slow fetch is hedged, that is sent a second time.

    submit ──▶ pending ──while there is room──▶ fetchers ──▶ Fetch ──take──▶ consumer
                                                   ▲  once more, if slow
                                                hedgers

At most `in_flight_bytes` are in flight; at the start of a stream, less of what no sample waits for
yet. A fetch is in flight from when it has room until it is done. A pending fetch waits in a queue
and holds no thread. Fetches are started in the order in which they were submitted, and so they
arrive in about that order.

With room for 10 bytes, fetches a, b and c of 4, 5 and 6 bytes: a and b start; c starts when a is
done and 5 + 6 fit, or when both are done, because alone a fetch of any size has room.
"""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from pcrstore.concurrency import POLL_SECONDS, ForkSafeLock, StopFlag, Threads
from pcrstore.errors import PcrstoreError
from pcrstore.loader.limits import StreamLimits

__all__ = ["Fetch", "FetchQueue"]

_HEDGE_AFTER: Final = 3.0
"""A request is slow when it has taken this many times the median of those before it."""

_LEAST_SLOW_AFTER: Final = 0.05
"""Seconds before which no request is slow."""

FetchCall = Callable[[], Iterable[list[bytes]]]
"""Requests several records at once and yields the files of each, in order. Files that came before
an error are good. Called a second time where the first call is slow."""


class Fetch:
    """Records that are requested together, and their files.

    Args:
        call: Fetches the records, in a thread.
        n_bytes: About how many bytes the records have.
        is_ahead: No sample waits for the records yet.
    """

    __slots__ = ("call", "done", "error", "files", "is_ahead", "n_bytes", "n_trying", "started")

    def __init__(self, call: FetchCall, n_bytes: int, *, is_ahead: bool) -> None:
        self.call = call
        self.n_bytes = n_bytes
        self.is_ahead = is_ahead
        self.done = threading.Event()
        self.files: list[list[bytes]] = []
        """Files of each record before the first that failed; empty lists once they are taken."""
        self.error: BaseException | None = None
        self.started = 0.0
        """Time at which it was started; 0: it was not."""
        self.n_trying = 1
        """Requests that may still answer: where one fails, the other may yet succeed."""

    def take(self, at: int) -> list[bytes]:
        """Return the files of record number `at`, once; to be called when the fetch is done.

        Raises:
            PcrstoreError: The record could not be read.
        """
        if at >= len(self.files):
            errors = [self.error or PcrstoreError("a record was neither read nor failed")]
            self.error = None
            raise errors.pop()  # a traceback holds this frame, which must not hold the error
        files, self.files[at] = self.files[at], []
        return files


class FetchQueue:
    """Fetches of one stream.

    Args:
        stop_flag: Flag of the stream: nothing waits once it is over.
        hedge: Send a slow fetch a second time when its files are waited for.
        limits: Threads and bytes.
    """

    def __init__(self, stop_flag: StopFlag, *, hedge: bool, limits: StreamLimits) -> None:
        self._stop_flag = stop_flag
        self._lock = ForkSafeLock()
        self._pending: deque[Fetch] = deque()
        self._max_bytes = limits.in_flight_bytes
        self.bytes_in_flight = 0
        """Bytes in flight, about."""
        self._n_in_flight = 0
        """Fetches in flight."""
        self._at_once = limits.first_at_once
        self.seconds = 0.0
        """Time spent on fetches, over all threads."""
        self.n_hedges = 0
        self._durations: deque[float] = deque(maxlen=64)
        self._hedgers = Threads(2, "hedge") if hedge else None
        try:
            self._fetchers = Threads(limits.n_fetchers, "fetch")
        except BaseException:
            if self._hedgers is not None:
                self._hedgers.stop()
            raise

    def close(self) -> None:
        """Stop all threads, once the stop flag is over; requests in flight end by themselves."""
        self._fetchers.stop()
        if self._hedgers is not None:
            self._hedgers.stop()

    def run(self, work: Callable[[], None]) -> None:
        """Queue other work for the fetchers, after the fetches started; it must not raise."""
        self._fetchers.put(work)

    def submit(self, call: FetchCall, n_bytes: int, *, is_ahead: bool) -> Fetch:
        """Queue a fetch; see `Fetch`. It starts when all before it have, and it has room."""
        fetch = Fetch(call, n_bytes, is_ahead=is_ahead)
        with self._lock:
            self._pending.append(fetch)
            self._start_what_fits()
        return fetch

    def wait(self, fetch: Fetch) -> bool:
        """Wait until a fetch is done; return False when the stream is stopped."""
        if self._hedgers is not None:
            self._hedge(fetch, self._hedgers)
        return self._stop_flag.wait(fetch.done)

    def _start_what_fits(self) -> None:
        """Start pending fetches, in order; called with the lock held."""
        while self._pending:
            fetch = self._pending[0]
            if self.bytes_in_flight and self.bytes_in_flight + fetch.n_bytes > self._max_bytes:
                return
            if fetch.is_ahead and self._n_in_flight >= self._at_once:
                return
            self._pending.popleft()
            self.bytes_in_flight += fetch.n_bytes
            self._n_in_flight += 1
            self._fetchers.put(partial(self._fetch, fetch))

    def _fetch(self, fetch: Fetch) -> None:
        fetch.started = start = time.perf_counter()
        files: list[list[bytes]] = []
        errors: list[BaseException] = []  # emptied below: a traceback holds this frame
        try:
            for of_one in fetch.call():
                files.append(of_one)  # noqa: PERF402 - files that came before an error are kept
        except BaseException as e:  # noqa: BLE001 - raised again by `take`
            errors.append(e)
        seconds = time.perf_counter() - start
        self._durations.append(seconds)
        with self._lock:
            self.seconds += seconds
            fetch.n_trying -= 1
            # The first answer counts, and an error only where no other request may still answer.
            # A late answer must not put back files that were taken.
            if not fetch.done.is_set() and not (errors and fetch.n_trying):
                fetch.files = files
                fetch.error = errors[0] if errors else None
                self.bytes_in_flight -= fetch.n_bytes
                self._n_in_flight -= 1
                self._at_once += 1
                fetch.done.set()
                self._start_what_fits()
        errors.clear()

    def _hedge(self, fetch: Fetch, hedgers: Threads) -> None:
        """Wait for a fetch until it is done, or was sent a second time."""
        while not fetch.done.wait(min(POLL_SECONDS, self._slow_after())):
            if self._stop_flag.is_over:
                return
            # A fetch that waits for room, or for a thread, is not slow.
            if fetch.started and time.perf_counter() - fetch.started > self._slow_after():
                hedgers.put(partial(self._fetch_again, fetch))
                return

    def _fetch_again(self, fetch: Fetch) -> None:
        with self._lock:
            if fetch.done.is_set():
                return
            fetch.n_trying += 1
            self.n_hedges += 1
        self._fetch(fetch)

    def _slow_after(self) -> float:
        """Return the seconds after which a request is slow."""
        # After requests of 0.1, 0.2 and 0.4 s: 0.6 s. Before the first answer: 3 s.
        median = statistics.median(self._durations or [1.0])
        return max(_LEAST_SLOW_AFTER, _HEDGE_AFTER * median)
