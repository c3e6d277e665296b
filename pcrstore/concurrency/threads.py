"""Daemon threads with a queue, and a stop flag for threads that wait.

An interpreter that ends kills a daemon thread when the thread next asks for the GIL, by unwinding
its stack. C++ destructors may not be unwound, and torch releases the GIL in some: the process would
abort. An exit handler therefore calls `Threads.end_all` before the interpreter ends.
"""

import atexit
import contextlib
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import ClassVar, Final
from weakref import WeakSet

__all__ = ["POLL_SECONDS", "StopFlag", "Threads"]

POLL_SECONDS: Final = 0.5
"""Seconds between two looks at a stop flag, by a thread that waits for an event."""
_LAST_SECONDS: Final = 2.0
"""Longest wait for threads when the interpreter ends: a call that does not return in this time may
never do."""


class StopFlag:
    """A stop flag for threads that wait for events of each other.

    Once something is stopped, its threads set no more events: a plain `event.wait()` would not
    return.
    """

    def __init__(self) -> None:
        self.is_over = False

    def wait(self, event: threading.Event) -> bool:
        """Wait for an event; return False once the flag is set."""
        while not event.wait(POLL_SECONDS):
            if self.is_over:
                return False
        return True


class Threads:
    """Daemon threads that run the calls of a queue, first in, first out.

    Args:
        n: Number of threads.
        name: Name of the threads, after "pcrstore-".
    """

    _all: ClassVar["WeakSet[Threads]"] = WeakSet()

    def __init__(self, n: int, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_stopped = False
        self._threads = [
            threading.Thread(target=self._run, name=f"pcrstore-{name}-{i}", daemon=True)
            for i in range(n)
        ]
        self._all.add(self)  # weakly: running threads hold `self` by their target
        try:
            for thread in self._threads:
                thread.start()
        except BaseException:  # the system starts no more threads
            self.stop()
            raise

    def _run(self) -> None:
        while (work := self._queue.get()) is not None and not self._is_stopped:
            work()
            del work  # or this call's objects would live until the next call comes

    def put(self, work: Callable[[], None]) -> None:
        """Let one of the threads run `work`, which must not raise; drop it once they are stopped.

        A call that stayed in the queue of stopped threads would keep its objects alive, and with
        them the owner of these threads, for ever.
        """
        if not self._is_stopped:
            self._queue.put(work)
            self._drop_if_stopped()

    def _drop_if_stopped(self) -> None:
        if self._is_stopped:
            self.stop()

    def stop(self) -> None:
        """Let every thread end after its present call; drop the calls in the queue."""
        self._is_stopped = True
        with contextlib.suppress(Empty):
            while True:
                self._queue.get_nowait()
        for _ in self._threads:
            self._queue.put(None)

    def join(self, seconds: float) -> None:
        """Wait for the threads to end, `seconds` at most."""
        end = time.monotonic() + seconds
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))

    @classmethod
    def end_all(cls, seconds: float = _LAST_SECONDS) -> None:
        """Stop the threads of all instances, and wait `seconds` at most for them to end."""
        end = time.monotonic() + seconds
        every = list(cls._all)
        for threads in every:
            threads.stop()
        for threads in every:
            threads.join(max(0.0, end - time.monotonic()))


# Exit handlers run last first: owners of threads that register theirs later end them earlier.
atexit.register(Threads.end_all)
