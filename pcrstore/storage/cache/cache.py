"""Scan groups on a local disk, shared by all processes of a host.

    reader  -- get --> Cache.of(url) --> file by hash of (url, object, start, stop)
               put -->               --> temporary, then rename; unused entries make room

Objects of a dataset are never rewritten: a URL, an object's name and a range mean the same bytes
for ever, and no entry becomes outdated. Of a body only the length is checked here. The reader
checks the CRC32C of every scan group, from a cache or not; where it is wrong, the reader calls
`discard` and reads again.

A disk that fails, is full or is read-only causes a warning and no error: nothing is stored for a
minute, and reading goes on. The folder belongs to one user, and no other may write to it.
"""

import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Self

from pcrstore.core import ByteRange, parse_size
from pcrstore.errors import OptionError, StoreError
from pcrstore.storage.cache.files import CachedFile, body_name, datasets, files, folder_name
from pcrstore.storage.cache.folder import CacheFolder, check_folder
from pcrstore.storage.cache.ledger import is_marked, read_state

__all__ = ["Cache", "CacheWarning", "DatasetCache", "DatasetUsage", "Usage"]

DEFAULT_LIMIT: Final = "10gb"
PAUSE: Final = 60.0
"""Seconds without writing after a write or a read failed."""

_warned: set[tuple[int, str]] = set()
"""Process id and folder of each warning so far: a process is warned once of a folder."""


class CacheWarning(UserWarning):
    """A cache cannot be used for the moment; reading goes on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUsage:
    """A cache's entries of one dataset, counted."""

    url: str | None
    """None when the file with the URL was lost."""
    n_entries: int
    n_bytes: int
    oldest: float
    """Last use of the least recently used entry, to a minute. Seconds since 1970."""
    newest: float
    """Last use of the most recently used entry. Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """A cache's entries, or those that were removed, counted."""

    n_entries: int
    n_bytes: int
    limit: int
    """Bytes."""
    datasets: tuple[DatasetUsage, ...]
    """Datasets that have entries, the most recently used first."""


class Cache:
    """A folder of scan groups.

    Any number of processes and threads may use it at once, also with different limits; it survives
    fork, pickling and kill -9.

    Args:
        folder: Made if it does not exist. On a disk of this host.
        limit: Bytes, or a text such as "10gb"; see `core.parse_size`. The files in the
            folder never exceed it: entries that are not read any more make room, and where all
            are in use, a new body is not stored (`storage.cache.eviction`). A training job that
            reads 20 GB in an epoch thus finds 10 GB of them every time. (The URLs of the datasets
            and the folders themselves are not counted.)
        clock: Monotonic time in seconds, for pauses.

    Raises:
        OptionError: The folder is a link or a file, belongs to another user, is writable by others
            or holds other files; or the limit is no size.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        limit: int | str = DEFAULT_LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = CacheFolder(_path(folder), parse_size(limit))
        self._clock = clock
        self._paused_until = -float("inf")
        try:
            self._folder.prepare()
        except OSError as e:
            self.pause(e)

    @classmethod
    def existing(cls, folder: str | os.PathLike[str]) -> Self:
        """Return the cache in a folder, with the limit of its last writer.

        Raises:
            OptionError: The folder is no cache, or as the class.
            StoreError: The disk fails.
        """
        path = _path(folder)
        try:
            check_folder(path)
            if not is_marked(path):
                raise OptionError(f"{path} is not a pcrstore cache (it has no marker file)")
            state = read_state(path)
            return cls(path, limit=state.limit if state is not None else DEFAULT_LIMIT)
        except FileNotFoundError as e:
            raise OptionError(f"{path} is not a pcrstore cache: there is no such folder") from e
        except OSError as e:
            raise StoreError(f"cache {path} cannot be read: {e.strerror or e}") from e

    def __repr__(self) -> str:
        return f"Cache({str(self._folder.path)!r}, limit={self._folder.limit})"

    def __reduce__(self) -> tuple[Callable[[str], "Cache"], tuple[str]]:
        return partial(Cache, limit=self._folder.limit), (str(self._folder.path),)

    def of(self, url: str) -> "DatasetCache":
        """Return the part of the cache for one dataset.

        Args:
            url: Its URL, without credentials: it is stored.
        """
        return DatasetCache(self, url)

    def usage(self) -> Usage:
        """Count the entries, by a look at every file.

        Raises:
            StoreError: The disk fails.
        """
        try:
            return self._usage(file for file in files(self._folder.path) if file.is_body)
        except OSError as e:
            raise self._error("read", e) from e

    def clear(self, url: str | None = None) -> Usage:
        """Remove all entries, or those of one dataset; return their numbers.

        Files that no cache makes stay.

        Raises:
            StoreError: The disk fails.
        """
        try:
            urls = {d.name: self._folder.url_of(d.name) for d in datasets(self._folder.path)}
            gone = self._folder.clear(None if url is None else folder_name(url))
            return self._usage(gone, urls)
        except OSError as e:
            raise self._error("cleared", e) from e

    def pause(self, error: Exception) -> None:
        """Store nothing for a while; warn, once in a process."""
        self._paused_until = self._clock() + PAUSE
        me = (os.getpid(), str(self._folder.path))
        if me not in _warned:
            _warned.add(me)
            reason = error.strerror or error if isinstance(error, OSError) else error
            warnings.warn(
                f"cache {self._folder.path} cannot be used: {reason}; reading goes on without it, "
                f"next try in {PAUSE:.0f} seconds",
                CacheWarning,
                stacklevel=3,
            )

    def is_paused(self) -> bool:
        """Say whether nothing is stored for the moment."""
        return self._clock() < self._paused_until

    @property
    def folder(self) -> CacheFolder:
        """The files themselves."""
        return self._folder

    def _usage(
        self, files: Iterable[CachedFile], urls: dict[str, str | None] | None = None
    ) -> Usage:
        by_dataset: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for file in files:
            by_dataset[file.dataset].append((file.n_bytes, file.mtime))
        datasets = [
            DatasetUsage(
                url=self._folder.url_of(dataset) if urls is None else urls.get(dataset),
                n_entries=len(found),
                n_bytes=sum(n for n, _ in found),
                oldest=min(t for _, t in found),
                newest=max(t for _, t in found),
            )
            for dataset, found in by_dataset.items()
        ]
        return Usage(
            n_entries=sum(d.n_entries for d in datasets),
            n_bytes=sum(d.n_bytes for d in datasets),
            limit=self._folder.limit,
            datasets=tuple(sorted(datasets, key=lambda d: (-d.newest, d.url or ""))),
        )

    def _error(self, done: str, e: OSError) -> StoreError:
        return StoreError(f"cache {self._folder.path} cannot be {done}: {e.strerror or e}")


class DatasetCache:
    """The scan groups of one dataset. No method raises an error when the disk fails."""

    def __init__(self, cache: Cache, url: str) -> None:
        self._cache = cache
        self._url = url
        self._dataset = folder_name(url)
        # These counters only grow: `discard` takes no hit back, as it is called for damage on the
        # disk and in the store alike, and more than once for a body.
        # Threads may share them without a lock: CPython does not switch threads in `x.n += 1`.
        self.n_hits = 0
        """Bodies that were found, sound or not."""
        self.hit_bytes = 0
        """Bytes of the hits."""

    def __repr__(self) -> str:
        return f"{self._cache!r}.of({self._url!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._cache, self._url)

    def get(self, wanted: ByteRange) -> bytes | None:
        """Return the bytes of a range, or None; the caller checks their checksum."""
        if not len(wanted):
            return b""
        try:
            body = self._cache.folder.read(body_name(self._dataset, wanted), len(wanted))
        except FileNotFoundError:
            body = None
        except (OSError, OptionError) as e:
            self._cache.pause(e)
            body = None
        if body is not None:
            self.n_hits += 1
            self.hit_bytes += len(body)
        return body

    def put(self, wanted: ByteRange, body: bytes) -> None:
        """Store the bytes of a range, if they find room and the disk does not fail.

        Raises:
            OptionError: The body is not as long as the range.
        """
        if len(body) != len(wanted):
            raise OptionError(f"{wanted.name}: body must have {len(wanted)} bytes, got {len(body)}")
        if not body or self._cache.is_paused():
            return
        try:
            self._cache.folder.write(body_name(self._dataset, wanted), body, self._url)
        except (OSError, OptionError) as e:
            self._cache.pause(e)

    def discard(self, wanted: ByteRange) -> None:
        """Remove a body that proved damaged, if there is one."""
        try:
            self._cache.folder.remove(body_name(self._dataset, wanted), len(wanted))
        except (OSError, OptionError) as e:
            self._cache.pause(e)


def _path(folder: str | os.PathLike[str]) -> Path:
    text: object = os.fspath(folder) if isinstance(folder, os.PathLike) else folder
    if (
        not isinstance(text, str)
        or not text
        or text.startswith("~")
        or "://" in text
        or "\0" in text
    ):
        raise OptionError(f"cache must be a folder on this machine, got {text!r}")
    return Path(os.path.abspath(text))  # noqa: PTH100 (resolve() would follow links)
