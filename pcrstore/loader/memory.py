"""Memory that is used again: batches by this process, bodies and files by the system.

Fresh memory for a batch of 64 images of 224 x 224, 9.6 MB, costs 2,350 page faults, which take
milliseconds. So the memory of a batch is used again once the consumer has dropped its last view.

    block ◀──held by── BatchMemory           a block is lent as a lease: an array over its memory
      ▲                    │ weak reference  that all views keep alive; when the lease is dead, no
    lease ◀──base of── view of a batch       view is left and the block is free
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
"""M_ARENA_MAX of glibc's malloc.h."""

_KEPT: Final = 16
"""Size of the pool of blocks: for the batches that are ready, that of the consumer, and some that
the consumer keeps. A consumer that keeps more batches gets fresh memory for them; of the blocks
that it drops then, at most this many stay in the pool."""


class BatchMemory:
    """A pool of memory for batches of up to `n` rows.

    Args:
        n: Rows of the largest batch.
        row: Shape of a row.
    """

    def __init__(self, n: int, row: tuple[int, ...]) -> None:
        self._row = row
        self._bytes = n * prod(row)
        # No lock, which a fork could leave held: `popleft` is atomic, so that no other thread sees
        # the block that one thread looks at.
        self._lent: deque[tuple[ref[NDArray[np.uint8]], NDArray[np.uint8]]] = deque(maxlen=_KEPT)
        """The last lease of each block, and the block, which is free once the lease is dead. If
        none is free, the pool forgets the block that was lent first."""

    def __getstate__(self) -> dict[str, object]:
        """Leave the memory behind: a copy allocates its own."""
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
        # The pool polls its leases. A finalizer would lose interrupts: a KeyboardInterrupt that
        # Python raises inside a callback, as when a loop drops its last batch, is printed and
        # ignored.
        with suppress(IndexError):  # another thread has taken the last one
            for _ in range(len(self._lent)):
                lease, block = self._lent.popleft()
                if lease() is None:
                    return block
                self._lent.append((lease, block))
        return np.empty(self._bytes, np.uint8)


def share_one_arena() -> None:
    """Let threads that start from now on share one memory arena, where the C library is glibc.

    Otherwise each thread has an arena of its own, whose free end is never returned to the system:
    the largest image and body of each thread, 40 MB and more over 20 epochs. Decoding allocates a
    few dozen times an image, so that sharing costs nothing. The setting holds for the whole
    process, unless MALLOC_ARENA_MAX or GLIBC_TUNABLES is set. Arenas that threads have made before
    stay in use, and if there are more than eight, glibc ignores the setting.
    """
    if _mallopt is not None and not {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & os.environ.keys():
        _mallopt(_M_ARENA_MAX, 1)


def trim() -> None:
    """Return free memory to the system, where the C library is glibc; takes some milliseconds.

    Bodies and files are allocated and freed in many threads, and malloc keeps the free memory
    between two that are in use: without trimming, 20 epochs took 1.7 times the memory of one.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)
