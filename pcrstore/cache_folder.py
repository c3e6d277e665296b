"""A folder that any number of processes fill with files, up to a limit.

    FOLDER/                        mode 0700
        pcrstore-cache             what this is, the lock, bytes in use, the limit (32 bytes)
        <hash of a URL>/
            url                    the URL, for people
            3f/<hash>              a body
            3f/tmp-<pid>-<uuid>    a body that is being written, as long as it will be

One rule keeps the total right: whatever adds or removes a file holds the lock (flock on the first
file) and changes the count with it, up before a file is made, down after one is gone. Then a
process that is killed anywhere leaves a count that is too high, never too low, and a sweep, which
counts everything again, heals it. Bodies are written without the lock, into temporaries that have
their full length already. Reading takes no lock.

Two limits: a host that loses power may keep files and forget the count, so the total can be over
the limit by what was not on the disk yet, until the next sweep; and where the file system has no
flock, nothing is stored.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pcrstore.errors import OptionError

__all__ = ["CacheFolder", "CachedFile", "check_folder"]

_MARKER: Final = "pcrstore-cache"
_MAGIC: Final = b"pcrstore cache 1"
_STATE: Final = struct.Struct("<16sQQ")
"""Magic, bytes in use, the limit of the process that wrote it."""
_URL: Final = "url"
_MAX_URL: Final = 65_536
_DATASET: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
_FAN: Final = re.compile(r"[0-9a-f]{2}", re.ASCII)
_BODY: Final = re.compile(r"[0-9a-f]{38}", re.ASCII)
_TEMPORARY: Final = re.compile(r"tmp-[0-9]+-[0-9a-f]{32}", re.ASCII)
_NOT_OURS_BUT_FINE: Final = "lost+found"
"""The root of a file system of its own has it from the start."""

_LOCK_SECONDS: Final = 5.0
"""A sweep of 100,000 files holds the lock for about a second. A process that is stopped while it
holds it must not stop the others."""
_OLD_SECONDS: Final = 3600.0
_KEEP: Final = 0.9
"""A sweep makes room for many: it goes down to this share of the limit."""
_OPEN: Final = os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFile:
    """One file of the cache, as a scan found it."""

    dataset: str
    """Name of the folder that it is in."""
    path: str
    n_bytes: int
    mtime: float
    """Last use, to a minute. Seconds since 1970."""
    is_body: bool
    """False for a temporary."""


class CacheFolder:
    """The files below a folder. Every method raises OSError when the disk fails."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.limit = limit
        self._marker = path / _MARKER

    def prepare(self) -> None:
        """Make the folder and its marker, unless they are there.

        Raises:
            OptionError: It holds other files, or `check_folder` refuses it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
        check_folder(self.path)
        if not self.is_marked():
            others = {p.name for p in self.path.iterdir()} - {_MARKER, _NOT_OURS_BUT_FINE}
            if others and not self.is_marked():  # another process may have made it just now
                raise OptionError(
                    f"cache folder {self.path} must be empty or a cache already, but it holds "
                    f"{min(others)!r}"
                )
            os.close(os.open(self._marker, os.O_RDWR | os.O_CREAT | _OPEN, 0o600))

    def is_marked(self) -> bool:
        """Tell whether the marker is there.

        Raises:
            OptionError: There is a file of its name that is none.
        """
        try:
            marker = os.open(self._marker, os.O_RDONLY | _OPEN)
        except FileNotFoundError:
            return False
        try:
            magic = os.read(marker, len(_MAGIC))
        finally:
            os.close(marker)
        if magic not in {b"", _MAGIC}:  # empty: made, and not written to yet
            raise OptionError(f"{self._marker} is not of a cache that this release knows")
        return True

    def stored_limit(self) -> int | None:
        """Return the limit that the last writer had; None before there was one."""
        with self._opened() as ledger:
            state = _read_state(ledger)
        return state[1] if state else None

    def read(self, name: str, size: int) -> bytes | None:
        """Return a file that is `size` bytes long; one of another length is removed.

        Raises:
            FileNotFoundError: There is none.
        """
        file = os.open(f"{self.path}/{name}", os.O_RDONLY | _OPEN)
        try:
            status = os.fstat(file)
            body = os.read(file, size) if status.st_size == size else b""
            while 0 < len(body) < size and (more := os.read(file, size - len(body))):
                body += more
            if len(body) == size and abs(time.time() - status.st_mtime) > 60:
                with contextlib.suppress(OSError):  # a disk that takes no writes can be read
                    os.utime(file)
        finally:
            os.close(file)
        if len(body) == size:
            return body
        self.remove(name)
        return None

    def write(self, name: str, body: bytes, url: str) -> bool:
        """Store a file that a reader sees whole or not at all.

        Returns:
            False when it is there already, is larger than the limit, or finds no room because of
            files that are being written now.
        """
        if len(body) > self.limit:
            return False
        path = self.path / name
        with self._opened() as ledger, contextlib.ExitStack() as file_of:
            with _held(ledger):
                if _is_there(path) or not self._reserve(ledger, len(body)):
                    return False
                temporary = path.with_name(f"tmp-{os.getpid()}-{uuid.uuid4().hex}")
                try:
                    file = self._create(temporary, url)
                    file_of.callback(os.close, file)
                    # A sweep tells by it that the writer lives; it ends with the writer.
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.ftruncate(file, len(body))
                except BaseException:
                    _unlink(temporary)
                    _add(ledger, -len(body), self.limit)
                    raise
            try:
                _write_all(file, body)
                with _held(ledger):
                    file_of.close()  # some file systems say only now that they are full
                    if not _is_there(path):
                        temporary.rename(path)
                        return True
                    if _unlink(temporary):
                        _add(ledger, -len(body), self.limit)
                    return False
            except BaseException:
                self._drop(ledger, temporary, len(body))
                raise

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        path = self.path / name
        try:
            with self._opened() as ledger, _held(ledger):
                size = path.lstat().st_size
                if _unlink(path):
                    _add(ledger, -size, self.limit)
        except FileNotFoundError:
            return
        except OSError:
            _unlink(path)  # the count stays too high until the next sweep
            raise

    def files(self) -> Iterator[CachedFile]:
        """Yield every file of ours. Those that come or go meanwhile may be missed."""
        for dataset in _matching(self.path, _DATASET):
            for fan in _matching(dataset, _FAN):
                for entry in _entries(fan):
                    is_body = bool(_BODY.fullmatch(entry.name))
                    if not is_body and not _TEMPORARY.fullmatch(entry.name):
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if stat.S_ISREG(status.st_mode):
                        yield CachedFile(
                            dataset=dataset.name,
                            path=entry.path,
                            n_bytes=status.st_size,
                            mtime=status.st_mtime,
                            is_body=is_body,
                        )

    def datasets(self) -> list[str]:
        """Return the names of the datasets' folders."""
        return [path.name for path in _matching(self.path, _DATASET)]

    def url_of(self, dataset: str) -> str | None:
        """Return the URL that a dataset's folder is for; None when it was lost."""
        try:
            file = os.open(self.path / dataset / _URL, os.O_RDONLY | _OPEN)
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
        with self._opened() as ledger, _held(ledger):
            used, kept = 0, set()
            for file in self.files():
                wanted = dataset in {None, file.dataset}
                if wanted and (file.is_body or _is_left_behind(file)):
                    if _unlink(Path(file.path)) and file.is_body:
                        removed.append(file)
                else:
                    used += file.n_bytes
                    kept.add(file.dataset)
            self._prune(kept)
            _write_state(ledger, used, self.limit)
        return removed

    def _reserve(self, ledger: int, size: int) -> bool:
        """Count `size` more bytes, making room for them if need be; say whether there is room."""
        state = _read_state(ledger)
        used = state[0] if state else None
        if used is None or used + size > self.limit:
            used = self._sweep(size)
        has_room = used + size <= self.limit
        _write_state(ledger, used + size if has_room else used, self.limit)
        return has_room

    def _sweep(self, size: int) -> int:
        """Count everything again, remove what is in the way of `size` bytes, return what is left.

        What was used least recently goes first. Under the lock.
        """
        bodies, used, kept = [], 0, set()
        for file in self.files():
            if not file.is_body and _is_left_behind(file):
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
            room = self.limit * _KEEP - size
            while n_gone < len(bodies) and used > room:
                _unlink(Path(bodies[n_gone].path))
                used -= bodies[n_gone].n_bytes
                n_gone += 1
        kept |= {file.dataset for file in bodies[n_gone:]}
        self._prune(kept)
        return used

    def _prune(self, kept: set[str]) -> None:
        """Remove the folders of datasets that hold no files of ours, if they are empty."""
        for dataset in _matching(self.path, _DATASET):
            if dataset.name in kept:
                continue
            try:
                for fan in _matching(dataset, _FAN):
                    fan.rmdir()
                _unlink(dataset / _URL)
                dataset.rmdir()
            except OSError as e:
                if e.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                    raise

    def _create(self, temporary: Path, url: str) -> int:
        """Open a new file, making the folders above it. Under the lock."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
        try:
            return os.open(temporary, flags, 0o600)
        except FileNotFoundError:
            fan, dataset = temporary.parent, temporary.parent.parent
            for folder in (dataset, fan):
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
            if self.url_of(dataset.name) is None:
                file = os.open(dataset / _URL, os.O_WRONLY | os.O_CREAT | _OPEN, 0o600)
                try:
                    _write_all(file, url.encode("utf-8", "replace")[:_MAX_URL])
                finally:
                    os.close(file)
            return os.open(temporary, flags, 0o600)

    def _drop(self, ledger: int, temporary: Path, size: int) -> None:
        """Remove a temporary whose writing failed, by whatever still works."""
        try:
            with _held(ledger):
                if _unlink(temporary):
                    _add(ledger, -size, self.limit)
        except OSError:
            with contextlib.suppress(OSError):
                _unlink(temporary)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Give the file that holds the lock and the count; make it if the folder was removed."""
        try:
            ledger = os.open(self._marker, os.O_RDWR | _OPEN)
        except FileNotFoundError:
            self.prepare()
            ledger = os.open(self._marker, os.O_RDWR | _OPEN)
        try:
            yield ledger
        finally:
            os.close(ledger)


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


@contextlib.contextmanager
def _held(ledger: int) -> Iterator[None]:
    """Hold the lock."""
    end, pause = time.monotonic() + _LOCK_SECONDS, 0.0005
    while True:
        try:
            fcntl.flock(ledger, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                raise TimeoutError(errno.ETIMEDOUT, "another process holds its lock") from None
        time.sleep(pause)
        pause = min(0.02, 2 * pause)
    try:
        if not os.fstat(ledger).st_nlink:
            raise FileNotFoundError(errno.ENOENT, "the folder was removed")
        yield
    finally:
        # Not left to close() alone: a process forked meanwhile has the file open too.
        with contextlib.suppress(OSError):
            fcntl.flock(ledger, fcntl.LOCK_UN)


def _read_state(ledger: int) -> tuple[int, int] | None:
    """Return the bytes in use and the limit; None when they were never written."""
    data = os.pread(ledger, _STATE.size, 0)
    if len(data) != _STATE.size:
        return None
    _, used, limit = _STATE.unpack(data)
    return int(used), int(limit)


def _write_state(ledger: int, used: int, limit: int) -> None:
    os.pwrite(ledger, _STATE.pack(_MAGIC, max(0, used), limit), 0)


def _add(ledger: int, n_bytes: int, limit: int) -> None:
    state = _read_state(ledger)
    if state:
        _write_state(ledger, state[0] + n_bytes, limit)


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


def _is_left_behind(file: CachedFile) -> bool:
    """Tell a temporary whose writer is dead: it holds no lock, or the file is old."""
    if time.time() - file.mtime > _OLD_SECONDS:
        return True
    try:
        temporary = os.open(file.path, os.O_RDWR | _OPEN)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(temporary, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(temporary)
    return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []


def _matching(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """Return the folders in a folder whose names match; links are not followed."""
    found = [e for e in _entries(folder) if name.fullmatch(e.name)]
    return [Path(e.path) for e in found if e.is_dir(follow_symlinks=False)]
