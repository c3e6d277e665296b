"""Calls of a native library, of which no thread is in Python when the interpreter ends.

NativeCalls.run --run_on--> coroutine --await hold(future)--> native thread
"""

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, Final, TypeVar

from pcrstore.concurrency.coroutines import run_on

__all__ = ["NativeCalls"]

T = TypeVar("T")
R = TypeVar("R")

_LAST_SECONDS: Final = 5.0
"""Longest wait at the end of the interpreter. Cancelled requests take milliseconds to end, but a
thread may be fetching credentials, which is Python code."""
_POLL_SECONDS: Final = 0.001
"""Time between two looks for references that are still held: no event tells of their end."""


class NativeCalls:
    """Coroutines that wait for threads of a native library, ended before the interpreter ends.

        caller --run--> coroutine --await hold(future)--> native thread --set_result--> loop
                                                          drops the future, leaves Python

    An interpreter that ends kills every thread that asks for the GIL, by unwinding the thread's
    stack. Rust code may not be unwound by others: the process aborts, and its exit code is lost.
    The danger is not over when the result has arrived. A native thread that wakes the loop releases
    the GIL while it writes to the loop's socket, the program may end meanwhile, and the thread then
    asks for the GIL again. Dropping its reference to the future is the last thing that the thread
    does in Python. So `end` waits until no future is referenced any more; the same goes for the
    buffers that the thread reads from, which it releases after use.

    Args:
        drop_references: Called repeatedly while `end` waits: lets the library drop the references
            that it could not drop without the GIL.
    """

    def __init__(self, drop_references: Callable[[], object]) -> None:
        self._drop_references = drop_references
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held: dict[int, weakref.ref[object]] = {}
        self._is_ending = False

    def hold(self, thing: T) -> T:
        """Note a future or buffer that the library shares, until it is referenced no more.

        The caller must not keep the future in a variable: an exception's traceback would keep the
        variable, and `end` would wait in vain.

        Returns:
            The future or buffer itself.
        """
        key = id(thing)
        self._held[key] = weakref.ref(thing, lambda _: self._held.pop(key, None))
        return thing

    def run(self, loop: asyncio.AbstractEventLoop, work: Coroutine[object, object, R]) -> R:
        """Return what the coroutine returns, as `run_on`.

        After `end` only the main thread may still run coroutines, in exit handlers that run later.
        In any other thread `SystemExit` is raised: it ends a thread silently, and the interpreter
        would kill the thread a moment later anyway.

        Raises:
            SystemExit: The interpreter is ending, and this is not the main thread.
        """
        is_late = self._is_ending
        if is_late and threading.current_thread() is not threading.main_thread():
            work.close()
            raise _ending()
        try:
            return run_on(loop, self._noted(work, is_late=is_late))
        except CancelledError:
            if self._is_ending and not is_late:
                raise _ending() from None
            raise
        finally:
            if is_late:
                self._rest(_LAST_SECONDS)

    async def _noted(self, work: Coroutine[object, object, R], *, is_late: bool) -> R:
        task = asyncio.current_task()
        if task is None or (self._is_ending and not is_late):
            work.close()
            raise asyncio.CancelledError
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)

    def end(self, seconds: float = _LAST_SECONDS) -> bool:
        """Cancel all coroutines, and wait until no native thread will enter Python any more.

        Args:
            seconds: Longest wait.

        Returns:
            False when the time was not enough.
        """
        self._is_ending = True
        for task in list(self._tasks):
            with contextlib.suppress(RuntimeError):  # its loop is closed: nothing runs there
                task.get_loop().call_soon_threadsafe(task.cancel)
        return self._rest(seconds)

    def _rest(self, seconds: float) -> bool:
        stop = time.monotonic() + seconds
        while self._tasks or any(ref() is not None for ref in list(self._held.values())):
            if time.monotonic() > stop:
                return False
            self._drop_references()
            time.sleep(_POLL_SECONDS)
        return True


def _ending() -> SystemExit:
    return SystemExit("the interpreter is ending; only its main thread can still read or write")
