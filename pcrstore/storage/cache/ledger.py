"""The first file of a cache: its mark, the lock of all its processes, and what they have in use.

    0                    16             24                         32              40
    | "pcrstore cache 1" | bytes in use | limit of the last writer | bytes refused |

The lock is flock on this file, opened anew each time: it holds between threads too, and a process
that dies lets it go.
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

__all__ = ["MARKER", "Ledger", "State", "is_marked", "make_marker", "read_state"]

MARKER: Final = "pcrstore-cache"
"""Name of the file in the folder of the cache."""

_MAGIC: Final = b"pcrstore cache 1"
_STATE: Final = struct.Struct("<16sQQQ")
_TOO_MANY: Final = 2**63 - 1
"""Bytes in use that are above any limit: whoever writes next counts again."""
_LOCK_SECONDS: Final = 5.0
"""A sweep of 100,000 files holds the lock for one to three seconds (`benchmarks cache`, two busy
cores). A process that is stopped while it holds it must not stop the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What stands in the file."""

    used: int
    """Bytes; never less than what the files of the cache have, but after a crash of the host."""
    limit: int
    """Bytes, of the process that wrote this."""
    refused: int
    """Bytes that found no room since somebody looked for what may go, and found too little."""


class Ledger:
    """The file, open.

    Raises:
        FileNotFoundError: There is none.
    """

    def __init__(self, folder: Path) -> None:
        self._file = os.open(folder / MARKER, os.O_RDWR | SAFELY)

    def close(self) -> None:
        """Close it."""
        os.close(self._file)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            TimeoutError: Somebody else held it all the time.
            FileNotFoundError: The folder was removed meanwhile.
        """
        end, pause = time.monotonic() + _LOCK_SECONDS, 0.0005
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
        """Return what stands there; None when nothing was written yet."""
        return _parsed(os.pread(self._file, _STATE.size, 0))

    def write(self, used: int, limit: int, refused: int = 0) -> None:
        """Replace what stands there. Under the lock."""
        os.pwrite(self._file, _STATE.pack(_MAGIC, used, limit, refused), 0)

    def subtract(self, n_bytes: int) -> None:
        """Count some bytes less. Under the lock.

        Where fewer are counted, a crash lost the count of others too: it is not to be trusted.
        """
        state = self.read()
        if state is not None:
            used = state.used - n_bytes if n_bytes <= state.used else _TOO_MANY
            self.write(used, state.limit, state.refused)


def make_marker(folder: Path) -> None:
    """Make the file, unless it is there."""
    os.close(os.open(folder / MARKER, os.O_RDWR | os.O_CREAT | SAFELY, 0o600))


def is_marked(folder: Path) -> bool:
    """Tell whether the file is there.

    Raises:
        OptionError: There is one of its name that is something else.
    """
    try:
        data = _bytes(folder)
    except FileNotFoundError:
        return False
    if data[: len(_MAGIC)] not in {b"", _MAGIC}:  # empty: made, and not written to yet
        raise OptionError(f"{folder / MARKER} is not of a cache that this release knows")
    return True


def read_state(folder: Path) -> State | None:
    """Return what stands in the file, on a disk that is read-only too."""
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
