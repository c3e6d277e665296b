"""Daemon threads with a queue, and waits that end when what they belong to does.

An interpreter that ends kills a daemon thread where it next asks for the GIL. In C++ that is no
place to die (torch lets the GIL go in destructors): the process would abort. So whoever ends it
calls `Threads.end_all` first.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import ClassVar, Final
from weakref import WeakSet

__all__ = ["POLL_SECONDS", "StopFlag", "Threads"]

POLL_SECONDS: Final = 0.5
"""Seconds between looks whether a life is over, where nothing else would tell."""


class StopFlag:
    """Whether something goes on; nobody sets the events of what is over."""

    def __init__(self) -> None:
        self.is_over = False

    def wait(self, event: threading.Event) -> bool:
        """Wait for an event; False once life is over."""
        while not event.wait(POLL_SECONDS):
            if self.is_over:
                return False
        return True


class Threads:
    """Daemon threads that run what is put into their queue, in its order.

    Args:
        n: How many.
        name: Of the threads, behind "pcrstore-".
    """

    _all: ClassVar["WeakSet[Threads]"] = WeakSet()

    def __init__(self, n: int, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"pcrstore-{name}-{i}", daemon=True)
            for i in range(n)
        ]
        self._all.add(self)  # threads that run hold it
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # the system gives no more
            self.stop()
            raise

    def _run(self) -> None:
        while (work := self._queue.get()) is not None and not self._is_stopped:
            work()
            del work  # while it waits for the next it must not hold what this one does

    def put(self, work: Callable[[], None]) -> None:
        """Let one of the threads run `work`, which must not raise; drop it where all are stopped.

        What lay behind the last thread's end would hold whoever holds these threads, for ever.
        """
        if not self._is_stopped:
            self._queue.put(work)
            self._drop_if_stopped()

    def _drop_if_stopped(self) -> None:
        if self._is_stopped:
            self.stop()

    def stop(self) -> None:
        """Let every thread end after what it does now; drop what waits."""
        self._is_stopped = True
        with contextlib.suppress(Empty):
            while True:
                self._queue.get_nowait()
        for _ in self._threads:
            self._queue.put(None)

    def join(self, seconds: float) -> None:
        """Wait at most so long for the threads to end."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    @classmethod
    def end_all(cls, seconds: float) -> None:
        """Stop all threads there are, and wait at most so long for them to end."""
        end = time.monotonic() + seconds
        every = list(cls._all)
        for threads in every:
            threads.stop()
        for threads in every:
            threads.join(max(0.0, end - time.monotonic()))
