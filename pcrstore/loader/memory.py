"""Memory that comes back: of batches to us, of bodies and files to the system.

A batch of 64 images of 224 x 224 is 9.6 MB: fresh memory costs 2,350 page faults, milliseconds. So
a batch's memory is used again when the consumer has let go of the last view of it.
"""

import ctypes
import os
import sys
from collections import deque
from contextlib import suppress
from math import prod
from typing import Final
from weakref import ref

import numpy as np
from numpy.typing import NDArray

__all__ = ["BatchMemory", "share_one_arena", "trim"]

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_malloc_trim = getattr(_libc, "malloc_trim", None)
_mallopt = getattr(_libc, "mallopt", None)

_M_ARENA_MAX: Final = -8
"""Of malloc.h."""

_KEPT: Final = 16
"""Blocks that are looked at: of the batches that are ready, the consumer's, and some that it keeps.
Who keeps more gets fresh memory, and of the blocks of all that are let go so many stay here."""


class BatchMemory:
    """Gives out arrays of up to `n` rows.

    Args:
        n: Rows of the largest batch.
        row: Shape of a row.
    """

    def __init__(self, n: int, row: tuple[int, ...]) -> None:
        self._row = row
        self._bytes = n * prod(row)
        # No lock, which a fork could leave held: what one thread looks at no other one sees.
        self._lent: deque[tuple[ref[NDArray[np.uint8]], NDArray[np.uint8]]] = deque(maxlen=_KEPT)
        """Blocks, and a lease of each, whose death says that the block is free; where none is free
        the block lent first is forgotten."""

    def __getstate__(self) -> dict[str, object]:
        """Leave the memory behind: a copy takes its own."""
        return {**self.__dict__, "_lent": deque(maxlen=_KEPT)}

    def take(self, n: int) -> NDArray[np.uint8]:
        """Return an array of shape (n, *row) with arbitrary contents."""
        block = self._free_block()
        # NumPy makes the base of a view the owner of its memory, past arrays in between, and a
        # memoryview stops it there: every view of the lease, a tensor's too, keeps the lease alive.
        lease = np.frombuffer(memoryview(block.data), np.uint8)
        self._lent.append((ref(lease), block))
        return lease[: n * prod(self._row)].reshape(n, *self._row)

    def _free_block(self) -> NDArray[np.uint8]:
        # It looks. To be told by a finalizer would lose interrupts: one that Python takes inside a
        # callback, where a loop over batches lets go of its last one, is printed and ignored.
        with suppress(IndexError):  # two threads look at once
            for _ in range(len(self._lent)):
                lease, block = self._lent.popleft()
                if lease() is None:
                    return block
                self._lent.append((lease, block))
        return np.empty(self._bytes, np.uint8)


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
