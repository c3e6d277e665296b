"""What is being fetched: so many bytes at a time, begun in order, a slow one asked for twice.

    submit ──▶ pending ──while there is room──▶ fetchers ──▶ Fetch ──take──▶ who waits
                                                   ▲  once more, where slow
                                                hedgers

There is room for IN_FLIGHT_BYTES, and at the start of a stream for less of what nothing waits for
yet. A fetch is under way from when it has room until it is done. What waits for room waits in a
queue and holds no thread. What is needed first is asked for first, and so it comes first, about.
"""

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from pcrstore.concurrency import POLL_SECONDS, ForkSafeLock, StopFlag, Threads
from pcrstore.errors import PcrstoreError

__all__ = ["Fetch", "FetchQueue"]

FETCHERS: Final = 16

IN_FLIGHT_BYTES: Final = 16 * 2**20
"""What is asked for at a time: it fills 1 Gbit/s at 100 ms. More would only make all of it arrive
at once, so that decoders wait for the link and then the link for them; at the end of an epoch too.
"""

_FIRST_AT_ONCE: Final = 4
"""What nothing waits for yet does not begin while so many fetches are under way, and one more for
each that came. Sixteen that begin together come together: at fidelity 1 and 200 Mbit/s decoders
waited 0.7 s for their second batch, with a link that brings three times what they take."""

_HEDGE_AFTER: Final = 3.0
"""A request is slow when it has taken this many times the median of those before it."""

Read = Callable[[], Iterable[list[bytes]]]
"""Asks for several things at once and gives the files of each, in order; what came before an error
is good. Called a second time where the first is slow."""


class Fetch:
    """Things that are asked for together, and what came."""

    __slots__ = ("done", "error", "files", "is_ahead", "n_bytes", "n_trying", "read", "started")

    def __init__(self, read: Read, n_bytes: int, *, is_ahead: bool) -> None:
        self.read = read
        self.n_bytes = n_bytes
        self.is_ahead = is_ahead
        self.done = threading.Event()
        self.files: list[list[bytes]] = []
        """Of each thing, until it is taken: of those before the first that failed."""
        self.error: BaseException | None = None
        self.started = 0.0
        self.n_trying = 1
        """Requests that may still answer: a second one does not fail what the first may bring."""

    def take(self, at: int) -> list[bytes]:
        """Return what came for number `at`, once; raise what came instead. To be called when done.

        Raises:
            PcrstoreError: It could not be read.
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
        life: Of the stream; nothing waits beyond it.
        hedge: Ask once more for what is slow, when it is waited for.
    """

    def __init__(self, life: StopFlag, *, hedge: bool) -> None:
        self._life = life
        self._lock = ForkSafeLock()
        self._pending: deque[Fetch] = deque()
        self.n_bytes = 0
        """Under way, about."""
        self._n_begun = 0
        """Fetches under way."""
        self._at_once = _FIRST_AT_ONCE
        self.seconds = 0.0
        """Reading, over all threads."""
        self.n_hedges = 0
        self._durations: deque[float] = deque(maxlen=64)
        self._hedgers = Threads(2, "hedge") if hedge else None
        try:
            self._fetchers = Threads(FETCHERS, "fetch")
        except BaseException:
            if self._hedgers is not None:
                self._hedgers.stop()
            raise

    def close(self) -> None:
        """Stop all threads, once life is over; requests under way end by themselves."""
        self._fetchers.stop()
        if self._hedgers is not None:
            self._hedgers.stop()

    def beside(self, work: Callable[[], None]) -> None:
        """Let a fetcher run `work`, which must not raise, behind the fetches under way."""
        self._fetchers.put(work)

    def submit(self, read: Read, n_bytes: int, *, is_ahead: bool) -> Fetch:
        """Fetch about so many bytes when all before have begun and there is room for them.

        Args:
            read: Does it, in a thread.
            n_bytes: How many, about.
            is_ahead: Nothing waits for it yet.
        """
        fetch = Fetch(read, n_bytes, is_ahead=is_ahead)
        with self._lock:
            self._pending.append(fetch)
            self._start_what_fits()
        return fetch

    def wait(self, fetch: Fetch) -> bool:
        """Wait until a fetch is done; False once life is over."""
        if self._hedgers is not None:
            self._hedge(fetch, self._hedgers)
        return self._life.wait(fetch.done)

    def _start_what_fits(self) -> None:
        """Begin what was asked for, in order; called with the lock held."""
        while self._pending:
            fetch = self._pending[0]
            if self.n_bytes and self.n_bytes + fetch.n_bytes > IN_FLIGHT_BYTES:
                return
            if fetch.is_ahead and self._n_begun >= self._at_once:
                return
            self._pending.popleft()
            self.n_bytes += fetch.n_bytes
            self._n_begun += 1
            self._fetchers.put(lambda fetch=fetch: self._fetch(fetch))  # type: ignore[misc]  # bound

    def _fetch(self, fetch: Fetch) -> None:
        fetch.started = start = time.perf_counter()
        files: list[list[bytes]] = []
        errors: list[BaseException] = []  # emptied below: a traceback holds this frame
        try:
            for of_one in fetch.read():
                files.append(of_one)  # noqa: PERF402 - what came before an error is kept
        except BaseException as e:  # noqa: BLE001 - raised again by `take`
            errors.append(e)
        seconds = time.perf_counter() - start
        self._durations.append(seconds)
        with self._lock:
            self.seconds += seconds
            fetch.n_trying -= 1
            # Files are taken out one by one: a late answer must not put them back.
            if not fetch.done.is_set() and not (errors and fetch.n_trying):
                fetch.files = files
                fetch.error = errors[0] if errors else None
                self.n_bytes -= fetch.n_bytes
                self._n_begun -= 1
                self._at_once += 1
                fetch.done.set()
                self._start_what_fits()
        errors.clear()

    def _hedge(self, fetch: Fetch, hedgers: Threads) -> None:
        """Wait for a fetch; return when it is there, or was asked for once more."""
        while not fetch.done.wait(min(POLL_SECONDS, self._patience())):
            if self._life.is_over:
                return
            # What still waits for room, or for a thread, is not slow.
            if fetch.started and time.perf_counter() - fetch.started > self._patience():
                hedgers.put(lambda: self._fetch_again(fetch))
                return

    def _fetch_again(self, fetch: Fetch) -> None:
        with self._lock:
            if fetch.done.is_set():
                return
            fetch.n_trying += 1
            self.n_hedges += 1
        self._fetch(fetch)

    def _patience(self) -> float:
        """Return the seconds after which a request is slow."""
        return max(0.05, _HEDGE_AFTER * statistics.median(self._durations or [1.0]))
