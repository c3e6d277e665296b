"""Memory that comes back: of batches to us, of bodies and files to the system.

A batch of 64 images of 224 x 224 is 9.6 MB: fresh memory costs 2,350 page faults, milliseconds. So
a batch's memory is used again when the consumer has let go of the last view of it.
"""

import ctypes
import os
import sys
import weakref
from collections import deque
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["BatchMemory", "share_one_arena", "trim"]

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_malloc_trim = getattr(_libc, "malloc_trim", None)
_mallopt = getattr(_libc, "mallopt", None)

_M_ARENA_MAX: Final = -8
"""Of malloc.h."""

_KEPT: Final = 8
"""Blocks that wait to be used again; whoever keeps more batches keeps them once."""


class BatchMemory:
    """Gives out arrays of up to `n` rows.

    Args:
        n: Rows of the largest batch.
        row: Shape of a row.
    """

    def __init__(self, n: int, row: tuple[int, ...]) -> None:
        self._row = row
        self._bytes = n * prod(row)
        # No lock: the collector may run in the midst of `take`, in its thread, and give back there.
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=_KEPT)

    def __getstate__(self) -> dict[str, object]:
        """Leave the memory behind: a copy takes its own."""
        return {**self.__dict__, "_free": deque(maxlen=_KEPT)}

    def take(self, n: int) -> NDArray[np.uint8]:
        """Return an array of shape (n, *row) with arbitrary contents."""
        try:
            block = self._free.pop()
        except IndexError:
            block = np.empty(self._bytes, np.uint8)
        # NumPy makes the base of a view the owner of its memory, past arrays in between, and a
        # memoryview stops it there: every view of the lease, a tensor's too, keeps the lease alive.
        lease = np.frombuffer(memoryview(block.data), np.uint8)
        weakref.finalize(lease, self._free.append, block).atexit = False
        return lease[: n * prod(self._row)].reshape(n, *self._row)


def share_one_arena() -> None:
    """Let threads that start from now on share memory, where the C library is glibc.

    Each thread else has an arena of its own, whose free end is never given back: what the largest
    image and body there took, 40 MB and more over 20 epochs. Decoding asks for memory a few dozen
    times an image, so sharing costs nothing. It holds for the whole process, and only where neither
    MALLOC_ARENA_MAX nor GLIBC_TUNABLES says otherwise. Arenas that threads have made before stay in
    use, and where these are over eight, glibc does not listen any more.
    """
    if _mallopt is not None and not {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & os.environ.keys():
        _mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Give free memory back to the system, where the C library is glibc: some milliseconds.

    Bodies and files live and die in many threads, and what lies between two that live is kept: 20
    epochs took 1.7 times the memory of the first one.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
