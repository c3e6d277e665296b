"""Folders as stores, with writes that are atomic and survive a crash of the host.

    put       temporary beside the target -> fsync -> rename -> fsync of the folder
    create    temporary beside the target -> fsync -> link (fails if the name exists) -> fsync

fsspec's local file system is not used, since its mode "create" opens the target itself: of 8
writers that raced, 2 were told that they had won, and readers saw half of the file.
"""

import contextlib
import errno
import fcntl
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from pcrstore.core import ByteRange
from pcrstore.errors import OptionError
from pcrstore.storage.errors import Translator
from pcrstore.storage.protocol import (
    PROBE_NAME,
    Bodies,
    Entries,
    Entry,
    Sizes,
    Store,
    check_name,
    check_prefix,
    exact,
    too_large,
)
from pcrstore.storage.retry import RetryPolicy

__all__ = ["LocalStore"]

TEMPORARY = ".pcrstore-tmp-"
"""Prefix of files that are being written, or whose writer died. `list` leaves them out."""
_TEMPORARY_NAME = re.compile(re.escape(TEMPORARY) + r"[0-9]+-[0-9a-f]{32}")
_OLD_SECONDS = 86_400
_PIPE_BYTES = 65_536
"""Bytes that a pipe holds at the most, on Linux: how many come at a time."""
NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class LocalStore(Store):
    """The files below a folder, which need not exist yet.

    Links to files and folders are followed, but a link back to a folder above is not.
    """

    create_is_atomic = True
    is_local = True

    def __init__(self, root: str) -> None:
        if root.startswith("~"):
            raise OptionError(f"path {root!r} starts with ~, which only a shell expands")
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 (resolve() would follow links)
        self._translator = Translator(self.url, (), RetryPolicy())

    @property
    def url(self) -> str:
        """Root of the store."""
        return f"file://{self._root}"

    def __repr__(self) -> str:
        return f"LocalStore({str(self._root)!r})"

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole file."""
        try:
            file = _open(self._path(name))
            try:
                n_bytes = os.fstat(file).st_size
                if n_bytes > max_bytes:
                    raise too_large(self.url, name, max_bytes=max_bytes, n_bytes=n_bytes)
                body = _read_up_to(max_bytes + 1, file, n_bytes)
            finally:
                os.close(file)
        except OSError as e:
            raise self._translator.error("read", name, e) from e
        if len(body) > max_bytes:  # it grew, or it is a pipe, which has no size
            raise too_large(self.url, name, max_bytes=max_bytes)
        return body

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range, in order."""
        bodies = []
        with contextlib.ExitStack() as stack:
            open_files: dict[str, int] = {}
            for r in ranges:
                if not len(r):
                    bodies.append(b"")
                    continue
                try:
                    if r.name not in open_files:
                        if len(open_files) >= 64:  # far below any limit on open files
                            stack.close()
                            open_files.clear()
                        file = _open(self._path(r.name))
                        stack.callback(os.close, file)
                        open_files[r.name] = file
                    body = _read_at(open_files[r.name], r)
                except OSError as e:
                    raise self._translator.error("read", r.name, e) from e
                bodies.append(exact(body, r))
        return bodies

    def list(self, prefix: str) -> Entries:
        """Return every file below a folder, sorted by name."""
        folder = check_prefix(prefix)
        try:
            entries = list(self._walk(self._root / folder, folder, ()))
        except OSError as e:
            raise self._translator.error("list", folder, e) from e
        return sorted(entries, key=lambda entry: entry.name)

    def sizes(self, names: Sequence[str]) -> Sizes:
        """Return the size of each file, in order."""
        return [self._size(name) for name in names]

    def _size(self, name: str) -> int:
        try:
            status = self._path(name).stat()
            if not stat.S_ISREG(status.st_mode):  # `list` does not show it either
                raise FileNotFoundError(errno.ENOENT, "not a regular file", name)
        except OSError as e:
            raise self._translator.error("look at", name, e) from e
        return status.st_size

    def _walk(self, path: Path, name: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        try:
            at = path.stat()
            found = list(os.scandir(path))
        except (FileNotFoundError, NotADirectoryError):
            return
        if (at.st_dev, at.st_ino) in above:
            return
        for item in found:
            if item.name.startswith(TEMPORARY) or item.name == PROBE_NAME:
                continue
            inner = f"{name}/{item.name}" if name else item.name
            try:
                status = item.stat()
            except FileNotFoundError:
                if item.is_symlink():  # leaving it out would lose a file that somebody meant
                    raise
                continue  # removed since the folder was read
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(path / item.name, inner, (*above, (at.st_dev, at.st_ino)))
            elif stat.S_ISREG(status.st_mode):
                etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
                yield Entry(name=inner, n_bytes=status.st_size, etag=etag)

    def put(self, name: str, data: bytes) -> None:
        """Write a whole file; a reader sees all of it or nothing."""
        try:
            with self._temporary(name, data) as (temporary, path):
                temporary.replace(path)
                _sync_folder(path.parent)
        except OSError as e:
            raise self._translator.error("write", name, e) from e

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole file unless it exists."""
        try:
            with self._temporary(name, data) as (temporary, path):
                try:
                    os.link(temporary, path)
                except FileExistsError:
                    return False
                except OSError as e:
                    if e.errno not in NO_LINKS:
                        raise
                    if not _move_unless_exists(temporary, path):
                        return False
                _sync_folder(path.parent)
                return True
        except OSError as e:
            raise self._translator.error("create", name, e) from e

    def delete(self, names: Sequence[str]) -> None:
        """Remove files, and the folders that this leaves empty."""
        for name in names:
            path = self._path(name)
            try:
                path.unlink(missing_ok=True)
                self._prune(path)
            except NotADirectoryError:
                continue
            except OSError as e:
                raise self._translator.error("delete", name, e) from e

    def sweep(self) -> int:
        """Remove temporary files whose writers died; return their number.

        A writer holds a lock on its temporary, which ends with it however it ends. Where the file
        system has no locks, a temporary that nobody wrote to for a day counts as left behind.
        """
        n = 0
        for folder, _, names in os.walk(self._root):
            for name in names:
                path = Path(folder, name)
                if _TEMPORARY_NAME.fullmatch(name) and _remove_if_left_behind(path):
                    self._prune(path)
                    n += 1
        return n

    def _prune(self, path: Path) -> None:
        """Remove the folders above that are empty now."""
        try:
            for folder in path.parents:
                if folder == self._root or self._root not in folder.parents:
                    break
                folder.rmdir()
        except OSError as e:
            if e.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EBUSY}:
                raise

    def _path(self, name: str) -> Path:
        return self._root / check_name(name)

    @contextlib.contextmanager
    def _temporary(self, name: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """Give a synced file with the data beside its target, in the same file system.

        It stays open and locked meanwhile, so that `sweep` sees that its writer lives.
        """
        path = self._path(name)
        temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex}")
        while True:
            _make_folder(path.parent)
            with contextlib.suppress(FileNotFoundError):  # a delete took the folder away again
                file = temporary.open("xb")
                if _claim(file.fileno()):
                    break
                file.close()
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                yield temporary, path
        finally:
            temporary.unlink(missing_ok=True)


def _claim(file: int) -> bool:
    """Lock a new temporary; False when a sweep came between its making and this."""
    with contextlib.suppress(OSError):  # some network file systems have no locks
        fcntl.flock(file, fcntl.LOCK_EX)
    return os.fstat(file).st_nlink > 0


def _remove_if_left_behind(path: Path) -> bool:
    """Remove a temporary whose writer is dead; say whether it was.

    The lock is held until it is gone: a writer that has made it and not yet locked it then finds
    that it has no name, and makes another.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False  # gone by now, or not ours
    with os.fdopen(file):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # no locks here
            if time.time() - os.fstat(file).st_mtime <= _OLD_SECONDS:
                return False
        path.unlink(missing_ok=True)
        return True


def _open(path: Path) -> int:
    """Open a file to be read; a FIFO that nobody writes to is empty, and is not waited for."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    os.set_blocking(file, True)
    return file


def _read_up_to(limit: int, file: int, n_bytes: int) -> bytes:
    """Return all bytes of a file, which should have `n_bytes`, or the first `limit` of more."""
    parts = []
    while limit and (part := os.read(file, min(limit, max(n_bytes + 1, _PIPE_BYTES)))):
        parts.append(part)
        limit -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_at(file: int, wanted: ByteRange) -> bytes:
    """Return the range, or less at the end of the file; one read() stops at 2 GiB."""
    body = os.pread(file, len(wanted), wanted.start)
    while len(body) < len(wanted):
        more = os.pread(file, len(wanted) - len(body), wanted.start + len(body))
        if not more:
            break
        body += more
    return body


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a crash."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        if folder.parent == folder:
            break
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as e:
        if e.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems
            raise
    finally:
        os.close(file)


def _move_unless_exists(temporary: Path, path: Path) -> bool:
    """Stand in for link() on file systems without it: exclusive among pcrstore's own writers."""
    lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return False
        temporary.replace(path)
        return True
    finally:
        os.close(lock)
