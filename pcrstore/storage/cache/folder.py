"""A folder that any number of processes fill with files, up to a limit.

    write   lock | count + n, make room, temporary of n bytes | unlock
            write the body
            lock | rename | unlock
    remove  lock | unlink, count - n | unlock
    read    open, fstat, read

One rule keeps the count right: every process that adds or removes a file holds the lock and changes
the count with it, up before the file is made, down after it is gone. A process that is killed at
any point thus leaves a count that is too high, never one that is too low, and the next sweep, which
counts all files again, corrects it. A temporary has its full length from the start, so that a sweep
counts bodies that are being written, too.

    limit 10 kB, 9 kB of files, a body of 1 kB          files    count
    count + 1 kB                                         9 kB    10 kB
    temporary of 1 kB, renamed once it is written       10 kB    10 kB
    killed between these two                             9 kB    10 kB   until the next sweep

Entries that are not read any more make room, as `eviction` decides.

Two limitations: a host that loses power may keep files and forget the count, so that the total can
exceed the limit by the bytes that were not on the disk yet, until the next sweep; and where the
file system has no flock, nothing is stored.
"""

import contextlib
import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import Final

from pcrstore.errors import OptionError
from pcrstore.storage.cache.eviction import Eviction
from pcrstore.storage.cache.files import (
    SAFELY,
    CachedFile,
    datasets,
    fans,
    files,
    is_left_behind,
    temporary_beside,
)
from pcrstore.storage.cache.ledger import (
    LOCK_SECONDS,
    MARKER,
    Ledger,
    is_marked,
    make_marker,
    read_state,
)

__all__ = ["CacheFolder", "check_folder"]

_URL: Final = "url"
_MAX_URL: Final = 65_536
_NOT_OURS_BUT_FINE: Final = "lost+found"
"""Name of a folder that a new file system may have in its root from the start."""

_TOUCH_SECONDS: Final = 60.0
"""Accuracy with which a use is noted, in a file's time of modification: a hit within a minute of
the last one writes nothing, and says nothing about gaps."""


class CacheFolder:
    """The files below a folder. Every method raises OSError when the disk fails.

    Args:
        path: The folder.
        limit: Bytes.
        lock_seconds: Longest wait for other processes.
    """

    def __init__(self, path: Path, limit: int, *, lock_seconds: float = LOCK_SECONDS) -> None:
        self.path = path
        self.limit = limit
        self.lock_seconds = lock_seconds
        self.eviction = Eviction(limit, opened=time.time())

    def prepare(self) -> None:
        """Make the folder and its marker, unless they are there.

        Raises:
            OptionError: It holds other files, or `check_folder` refuses it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        check_folder(self.path)
        if not is_marked(self.path):
            others = {p.name for p in self.path.iterdir()} - {MARKER, _NOT_OURS_BUT_FINE}
            if others and not is_marked(self.path):  # another process may have made it just now
                raise OptionError(
                    f"cache folder {self.path} must be empty or a cache already, but it holds "
                    f"{min(others)!r}"
                )
            make_marker(self.path)
        state = read_state(self.path)
        self.eviction.note_refused(0 if state is None else state.refused)

    def read(self, name: str, size: int) -> bytes | None:
        """Return a file that is `size` bytes long; one of another length is removed.

        Raises:
            FileNotFoundError: There is none.
        """
        file = os.open(f"{self.path}/{name}", os.O_RDONLY | SAFELY)
        try:
            status = os.fstat(file)
            body = os.read(file, size) if status.st_size == size else b""
            while 0 < len(body) < size and (more := os.read(file, size - len(body))):
                body += more
            gap = time.time() - status.st_mtime
            # A time of modification may lie in the future: the clock was set back.
            if len(body) == size and abs(gap) > _TOUCH_SECONDS:
                self.eviction.note_hit(gap)
                with contextlib.suppress(OSError):  # a disk that takes no writes can be read
                    os.utime(file)
        finally:
            os.close(file)
        if len(body) == size:
            return body
        self.remove(name, size)
        return None

    def write(self, name: str, body: bytes, url: str) -> bool:
        """Store a file that a reader sees whole or not at all.

        Returns:
            False when the file exists already, is larger than the limit, or finds no room, as
            other entries are in use or being written.
        """
        if len(body) > self.limit:
            return False
        path = self.path / name
        with contextlib.closing(self._ledger()) as ledger, contextlib.ExitStack() as file_of:
            with ledger.held():
                if _is_there(path) or not self._reserve(ledger, len(body)):
                    return False
                temporary = temporary_beside(path)
                try:
                    file = self._create(temporary, url)
                    file_of.callback(os.close, file)
                    # This lock tells a sweep that the writer lives, and ends with the writer.
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.ftruncate(file, len(body))
                except BaseException:
                    _unlink(temporary)
                    ledger.subtract(len(body))
                    raise
            try:
                _write_all(file, body)  # without the lock: others may read and write meanwhile
                with ledger.held():
                    file_of.close()  # some file systems say only now that they are full
                    if not _is_there(path):
                        temporary.rename(path)
                        return True
                    # Another process stored the same body meanwhile, and counted it: two of these
                    # files were counted, and one of them stays.
                    if _unlink(temporary):
                        ledger.subtract(len(body))
                    return False
            except BaseException:
                self._drop(ledger, temporary, len(body))
                raise

    def remove(self, name: str, size: int) -> None:
        """Remove a file, if it is there, of `size` bytes when it was counted."""
        path = self.path / name
        try:
            with contextlib.closing(self._ledger()) as ledger, ledger.held():
                # A file that changed its length was counted with `size` when it was stored, or
                # with its length of now by a sweep. The smaller of the two leaves no count that is
                # too low: of a body of 1,000 bytes that was cut to 10, 10 are subtracted.
                size = min(size, path.lstat().st_size)
                if _unlink(path):
                    ledger.subtract(size)
        except FileNotFoundError:
            return
        except OSError:
            _unlink(path)  # the count stays too high until the next sweep
            raise

    def url_of(self, dataset: str) -> str | None:
        """Return the URL that a dataset's folder is for; None when it was lost."""
        try:
            file = os.open(self.path / dataset / _URL, os.O_RDONLY | SAFELY)
        except FileNotFoundError:
            return None
        try:
            return os.read(file, _MAX_URL).decode("utf-8", "replace") or None
        finally:
            os.close(file)

    def clear(self, dataset: str | None = None) -> list[CachedFile]:
        """Remove all files, or those of one dataset; return the bodies that were removed.

        Bodies that are being written at the moment stay.
        """
        removed = []
        with contextlib.closing(self._ledger()) as ledger, ledger.held():
            used, kept = 0, set()
            for file in files(self.path):
                wanted = dataset in {None, file.dataset}
                if wanted and (file.is_body or is_left_behind(file)):
                    if _unlink(Path(file.path)) and file.is_body:
                        removed.append(file)
                else:
                    used += file.n_bytes
                    kept.add(file.dataset)
            self._prune(kept)
            ledger.write(used, self.limit)
        return removed

    def _reserve(self, ledger: Ledger, size: int) -> bool:
        """Count `size` more bytes, and make room for them if need be; say whether there is room.

        With a limit of 10,000 bytes, and bodies of 1,000 that are refused from 9,500 used bytes on:

            used    refused    what happens
            8,500         0    8,500 + 1,000 fit: used 9,500
            9,500         0    over the limit by 500; refused 1,000, which is 10 % of the limit:
                               a sweep, that finds nothing stale: refused begins at 0 again
            9,500         0    the same at each tenth of the limit: sweeps do not follow each other
            9,500         0    a sweep finds stale entries: used 8,000 + 1,000, as much as is under
                               the low-water mark; the next body needs no sweep
        """
        state = ledger.read()
        # Without a state nothing is known, and the files have to be counted.
        used, refused = (state.used, state.refused) if state else (self.limit + 1, 0)
        self.eviction.note_refused(refused)
        if used > self.limit:  # the count is lost, or the limit was larger
            used = self._sweep(size)
        elif used + size > self.limit:
            refused += size
            if self.eviction.is_due(refused):
                used = self._sweep(size)
                # A sweep that ends over the low-water mark found too little. The next one would
                # find no more at once: it waits until another tenth was refused.
                if used + size > self.eviction.low_water:
                    refused = 0
        has_room = used + size <= self.limit
        ledger.write(used + size if has_room else used, self.limit, refused)
        return has_room

    def _sweep(self, size: int) -> int:
        """Count all files again, and evict entries to make room for `size` bytes.

        The caller holds the lock.

        Returns:
            Bytes that are left: at most the limit, unless temporaries alone exceed it.
        """
        bodies, used, kept = [], 0, set()
        for file in files(self.path):
            if not file.is_body and is_left_behind(file):
                _unlink(Path(file.path))
                continue
            used += file.n_bytes
            if file.is_body:
                bodies.append(file)
            else:
                kept.add(file.dataset)
        evicted = self.eviction.evicted(bodies, used, size, now=time.time())
        for file in evicted:
            _unlink(Path(file.path))
            used -= file.n_bytes
        gone = {file.path for file in evicted}
        kept |= {file.dataset for file in bodies if file.path not in gone}
        self._prune(kept)
        return used

    def _prune(self, kept: set[str]) -> None:
        """Remove the folders of datasets that hold no files of ours, if they are empty."""
        for dataset in datasets(self.path):
            if dataset.name in kept:
                continue
            try:
                for fan in fans(dataset):
                    fan.rmdir()
                _unlink(dataset / _URL)
                dataset.rmdir()
            except OSError as e:
                if e.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                    raise

    def _create(self, temporary: Path, url: str) -> int:
        """Open a new file, and make the folders above it. The caller holds the lock."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | SAFELY
        try:
            return os.open(temporary, flags, 0o600)
        except FileNotFoundError:
            fan, dataset = temporary.parent, temporary.parent.parent
            for folder in (dataset, fan):
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
            if self.url_of(dataset.name) is None:
                file = os.open(dataset / _URL, os.O_WRONLY | os.O_CREAT | SAFELY, 0o600)
                try:
                    _write_all(file, url.encode("utf-8", "replace")[:_MAX_URL])
                finally:
                    os.close(file)
            return os.open(temporary, flags, 0o600)

    def _drop(self, ledger: Ledger, temporary: Path, size: int) -> None:
        """Remove a temporary whose writing failed, also where the ledger fails now."""
        try:
            with ledger.held():
                if _unlink(temporary):
                    ledger.subtract(size)
        except OSError:  # the count stays too high until the next sweep
            with contextlib.suppress(OSError):
                _unlink(temporary)

    def _ledger(self) -> Ledger:
        """Open the ledger; make the folder and its marker again if they were removed."""
        try:
            return Ledger(self.path, lock_seconds=self.lock_seconds)
        except FileNotFoundError:
            self.prepare()
            return Ledger(self.path, lock_seconds=self.lock_seconds)


def check_folder(path: Path) -> None:
    """Refuse a folder in which another user could put files.

    Raises:
        OptionError: It is a link or a file, is not ours, or others may write to it.
        OSError: It cannot be looked at, or does not exist.
    """
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise OptionError(f"cache folder {path} must be a folder itself, got a link to one")
    if not stat.S_ISDIR(status.st_mode):
        raise OptionError(f"cache folder {path} must be a folder, got a file")
    if status.st_uid != os.geteuid():
        raise OptionError(
            f"cache folder {path} must belong to this user ({os.geteuid()}), it belongs to "
            f"{status.st_uid}"
        )
    if status.st_mode & 0o022:
        raise OptionError(
            f"cache folder {path} must not be writable by others, its mode is "
            f"{stat.S_IMODE(status.st_mode):04o}; chmod 700 it"
        )


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _unlink(path: Path) -> bool:
    """Remove a file; say whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
