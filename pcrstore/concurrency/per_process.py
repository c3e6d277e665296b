"""Objects that no two processes share: clients, connections, pools of threads.

    parent: get() -> client A ----fork----> child: get() -> client B     (made by the child)
                        |
                        +----pickle---> worker: get() -> client C     (made by the worker)

Sockets and threads of a client belong to the process that made it. A child that used the parent's
would read the parent's replies, or wait for threads that the fork did not copy.
"""

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from pcrstore.concurrency.locks import ForkSafeLock

__all__ = ["PerProcess"]

T = TypeVar("T")


class PerProcess(Generic[T]):
    """An object that each process makes for itself, when it first needs it.

    A pickle carries `make` and not the object.

    Args:
        make: Makes the object. It runs once in a process, however many threads ask at a time; if
            it raises, the next call of `get` tries again.

    Examples:
        >>> threads = PerProcess(list)
        >>> threads.get() is threads.get()
        True
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = ForkSafeLock()
        self._made: tuple[int, T] | None = None  # with the id of the process that made it

    def __reduce__(self) -> tuple[type["PerProcess[T]"], tuple[Callable[[], T]]]:
        return type(self), (self._make,)

    def get(self) -> T:
        """Return this process's object."""
        pid = os.getpid()
        made = self._made  # read once: the pair is replaced whole, so that no lock is needed here
        if made is None or made[0] != pid:
            with self._lock:
                made = self._made
                if made is None or made[0] != pid:
                    made = self._made = (pid, self._make())
        return made[1]
