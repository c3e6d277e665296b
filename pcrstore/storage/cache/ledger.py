"""The ledger of a cache: one file that marks the folder, is its lock, and holds the count.

    0                    16             24                         32              40
    | "pcrstore cache 1" | bytes in use | limit of the last writer | bytes refused |

Two entries of 1,000 and 2,000 bytes under a limit of 10,000, nothing refused: the numbers are 3000,
10000 and 0. All are little-endian and of 8 bytes.

The lock is flock on this file, which is opened anew each time: in that way it holds between threads
too, and the system releases it when a process dies.
"""

import contextlib
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pcrstore.errors import OptionError
from pcrstore.storage.cache.files import SAFELY

__all__ = ["LOCK_SECONDS", "MARKER", "Ledger", "State", "is_marked", "make_marker", "read_state"]

MARKER: Final = "pcrstore-cache"
"""Name of the file in the folder of the cache."""

_MAGIC: Final = b"pcrstore cache 1"
_STATE: Final = struct.Struct("<16sQQQ")
_TOO_MANY: Final = 2**63 - 1
"""A count above any limit: the next writer counts all files again."""
LOCK_SECONDS: Final = 5.0
"""Longest wait for the lock. A sweep of 100,000 files holds it for one to three seconds
(`benchmarks cache`, two busy cores), and a process that was stopped (SIGSTOP) while it holds the
lock must not stop the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """The numbers in the file."""

    used: int
    """Bytes; never fewer than the files of the cache have, except after a crash of the host."""
    limit: int
    """Bytes, of the process that wrote this."""
    refused: int
    """Bytes that found no room since the last sweep that evicted too little."""


class Ledger:
    """The file, open.

    Args:
        folder: Of the cache.
        lock_seconds: Longest wait for the lock.

    Raises:
        FileNotFoundError: There is none.
    """

    def __init__(self, folder: Path, *, lock_seconds: float = LOCK_SECONDS) -> None:
        self._lock_seconds = lock_seconds
        self._file = os.open(folder / MARKER, os.O_RDWR | SAFELY)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            TimeoutError: Another process held the lock all the time.
            FileNotFoundError: The folder was removed meanwhile.
        """
        end, pause = time.monotonic() + self._lock_seconds, 0.0005
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock") from None
            time.sleep(pause)
            pause = min(0.02, 2 * pause)
        try:
            if not os.fstat(self._file).st_nlink:
                raise FileNotFoundError(errno.ENOENT, "its folder was removed")
            yield
        finally:
            # Not left to close() alone: a process forked meanwhile has the file open too.
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def read(self) -> State | None:
        """Return the numbers; None when none were written yet."""
        return _parsed(os.pread(self._file, _STATE.size, 0))

    def write(self, used: int, limit: int, refused: int = 0) -> None:
        """Replace the numbers. The caller holds the lock."""
        os.pwrite(self._file, _STATE.pack(_MAGIC, used, limit, refused), 0)

    def subtract(self, n_bytes: int) -> None:
        """Count some bytes less. The caller holds the lock.

        A count that would fall below zero was wrong before: a crash of the host lost a part of it.
        It is set so high that the next writer counts all files again. 3,000 less 1,000 is 2,000;
        500 less 1,000 is `_TOO_MANY`.
        """
        state = self.read()
        if state is not None:
            used = state.used - n_bytes if n_bytes <= state.used else _TOO_MANY
            self.write(used, state.limit, state.refused)


def make_marker(folder: Path) -> None:
    """Make the file, unless it exists."""
    os.close(os.open(folder / MARKER, os.O_RDWR | os.O_CREAT | SAFELY, 0o600))


def is_marked(folder: Path) -> bool:
    """Say whether the file exists.

    Raises:
        OptionError: A file of its name is something else.
    """
    try:
        data = _bytes(folder)
    except FileNotFoundError:
        return False
    if data[: len(_MAGIC)] not in {b"", _MAGIC}:  # empty: made, and not written to yet
        raise OptionError(f"{folder / MARKER} is not of a cache that this release knows")
    return True


def read_state(folder: Path) -> State | None:
    """Return the numbers in the file, also from a disk that is read-only."""
    return _parsed(_bytes(folder))


def _bytes(folder: Path) -> bytes:
    file = os.open(folder / MARKER, os.O_RDONLY | SAFELY)
    try:
        return os.read(file, _STATE.size)
    finally:
        os.close(file)


def _parsed(data: bytes) -> State | None:
    if len(data) != _STATE.size:
        return None
    _, used, limit, refused = _STATE.unpack(data)
    return State(used=used, limit=limit, refused=refused)
