"""Locks that a fork does not poison.

A fork copies only the thread that called it. A lock that another thread held at that moment would
stay locked in the child for ever, with nobody left to release it.
"""

import os
import threading
from typing import ClassVar
from weakref import WeakSet

__all__ = ["ForkSafeLock"]


class ForkSafeLock:
    """A reentrant lock that is free in a forked child, whichever thread held it in the parent.

    What the lock protects may have been copied half-way through a change: protect only what
    stays usable then, such as a counter or a value that is assigned last.
    """

    _all: ClassVar[WeakSet["ForkSafeLock"]] = WeakSet()

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._all.add(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @classmethod
    def free_all(cls) -> None:
        """Replace every lock; only where no other thread runs."""
        for lock in list(cls._all):
            lock._lock = threading.RLock()  # noqa: SLF001 - of its own class


os.register_at_fork(after_in_child=ForkSafeLock.free_all)
