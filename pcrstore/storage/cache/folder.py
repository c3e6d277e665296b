"""A folder that any number of processes fill with files, up to a limit.

    write   lock | count + n, make room, temporary of n bytes | unlock
            write the body
            lock | rename | unlock
    remove  lock | unlink, count - n | unlock
    read    open, fstat, read

One rule keeps the total right: whatever adds or removes a file holds the lock and changes the count
with it, up before a file is made, down after one is gone. Then a process that is killed anywhere
leaves a count that is too high, never too low, and a sweep, which counts everything again, heals
it. A temporary has its full length from the start, so that a sweep counts what is being written.

Room is made by what is not read any more:

    gap     the longest time from one use of an entry to the next that hits have shown lately
    stale   not used for twice that gap; without a hit so far, not since this cache was opened

Stale entries go, the least recently used first; where there are none, a body is not stored. For an
epoch reads every record once, each time in another order: what was used least recently comes next,
and a plain LRU cache of half the data finds 14 % of it. Whatever stays is found: half.

Two limits: a host that loses power may keep files and forget the count, so the total can be over
the limit by what was not on the disk yet, until the next sweep; and where the file system has no
flock, nothing is stored.
"""

import contextlib
import errno
import fcntl
import math
import os
import stat
import time
from pathlib import Path
from typing import Final

from pcrstore.errors import OptionError
from pcrstore.storage.cache.files import (
    SAFELY,
    CachedFile,
    datasets,
    fans,
    files,
    is_left_behind,
    temporary_beside,
)
from pcrstore.storage.cache.ledger import MARKER, Ledger, is_marked, make_marker, read_state

__all__ = ["CacheFolder", "check_folder"]

_URL: Final = "url"
_MAX_URL: Final = 65_536
_NOT_OURS_BUT_FINE: Final = "lost+found"
"""The root of a file system of its own has it from the start."""

_KEEP: Final = 0.9
"""A sweep makes room for many: it goes down to this share of the limit. The first one, and the next
after one that found too little, waits for as many bytes refused since the cache was opened, by all
processes: hits show what is in use."""

_STALE: Final = 2.0
"""Longest gaps without a use. In epochs a gap is at most two, and hits show nearly that."""

_FADE: Final = 0.999
"""What is left of the longest gap at the next hit that shows no longer one: that of a weekend is
forgotten after some thousands."""

_TOUCH_SECONDS: Final = 60.0
"""Uses are noted as exactly as this; shorter gaps say nothing."""


class CacheFolder:
    """The files below a folder. Every method raises OSError when the disk fails."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self.since = time.time()
        """When this was opened. Seconds since 1970."""
        self._gap = 0.0
        """Longest gap that hits have shown lately; 0 before the first. Seconds."""
        self._refused_before = math.inf
        """Of the bytes refused that the ledger has, those from before this was opened."""

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
        self._note_refused(0 if state is None else state.refused)

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
            if len(body) == size and abs(gap) > _TOUCH_SECONDS:
                self._gap = max(gap, self._gap * _FADE)
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
            False when it is there already, is larger than the limit, or finds no room: what is
            there is in use or is being written now.
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
                    # A sweep tells by it that the writer lives; it ends with the writer.
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.ftruncate(file, len(body))
                except BaseException:
                    _unlink(temporary)
                    ledger.subtract(len(body))
                    raise
            try:
                _write_all(file, body)
                with ledger.held():
                    file_of.close()  # some file systems say only now that they are full
                    if not _is_there(path):
                        temporary.rename(path)
                        return True
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
                # One that was cut or grew was counted as it was, or as it is: never too low.
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
        """Remove all files, or those of one dataset; return the bodies that there were.

        What is being written at the moment stays.
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
        """Count `size` more bytes, making room for them if need be; say whether there is room."""
        state = ledger.read()
        used, refused = (state.used, state.refused) if state else (self.limit + 1, 0)
        self._note_refused(refused)
        if used > self.limit:  # the count is lost, or the limit was larger
            used = self._sweep(size)
        elif used + size > self.limit:
            refused += size
            if refused - self._refused_before >= self.limit * (1 - _KEEP):
                used = self._sweep(size)
                if used + size > self.limit * _KEEP:
                    refused = 0
        has_room = used + size <= self.limit
        ledger.write(used + size if has_room else used, self.limit, refused)
        return has_room

    def _note_refused(self, refused: int) -> None:
        """Note what the ledger has: where it is less than before, somebody began to count anew."""
        self._refused_before = min(self._refused_before, refused)

    def _sweep(self, size: int) -> int:
        """Count everything again, remove what is stale and in the way of `size` bytes.

        What was used least recently goes first. Under the lock.

        Returns:
            Bytes that are left: at most the limit, if what is being written now allows it.
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
        bodies.sort(key=lambda file: file.mtime)
        n_gone = 0
        if used + size > self.limit:
            room, stale = self.limit * _KEEP - size, self._stale_before()
            while n_gone < len(bodies) and (
                used > self.limit or (used > room and bodies[n_gone].mtime < stale)
            ):
                _unlink(Path(bodies[n_gone].path))
                used -= bodies[n_gone].n_bytes
                n_gone += 1
        kept |= {file.dataset for file in bodies[n_gone:]}
        self._prune(kept)
        return used

    def _stale_before(self) -> float:
        """Return when what is stale was used at the latest. Seconds since 1970."""
        return time.time() - _STALE * self._gap if self._gap else self.since

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
        """Open a new file, making the folders above it. Under the lock."""
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
        """Remove a temporary whose writing failed, by whatever still works."""
        try:
            with ledger.held():
                if _unlink(temporary):
                    ledger.subtract(size)
        except OSError:
            with contextlib.suppress(OSError):
                _unlink(temporary)

    def _ledger(self) -> Ledger:
        """Open the ledger; make everything again if the folder was removed."""
        try:
            return Ledger(self.path)
        except FileNotFoundError:
            self.prepare()
            return Ledger(self.path)


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
