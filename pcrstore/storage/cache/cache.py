"""Scan groups on a local disk, shared by all processes of a host.

    reader  -- get --> Cache.of(url) --> file by hash of (url, object, start, stop)
               put -->               --> temporary, then rename; what nobody reads makes room

Objects of a dataset are never rewritten, so a URL, an object's name and a range mean the same bytes
for ever, and nothing here can be stale. Bodies are not hashed here: the reader checks the CRC32C of
every scan group, wherever it came from, and calls `discard` and reads again where it is wrong. What
a cache checks is the length.

A disk that fails, is full or read-only costs a warning and no error: nothing is stored for a while,
and reading goes on. The folder belongs to one user and no other may write to it.
"""

import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
"""Processes and folders that were warned about."""


class CacheWarning(UserWarning):
    """A cache cannot be used for the moment; reading goes on without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetUsage:
    """What a cache holds of one dataset."""

    url: str | None
    """None when it was lost."""
    n_entries: int
    n_bytes: int
    oldest: float
    """When the entry that was not used for longest was used, to a minute. Seconds since 1970."""
    newest: float
    """When the one used last was used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a cache holds, or held."""

    n_entries: int
    n_bytes: int
    limit: int
    """Bytes."""
    datasets: tuple[DatasetUsage, ...]
    """Those with entries, the one used last first."""


class Cache:
    """A folder of scan groups.

    Any number of processes and threads may use it at once, also with different limits; it survives
    fork, pickling and kill -9.

    Args:
        folder: Made if it does not exist. On a disk of this host.
        limit: Bytes, or a text such as "10gb"; see `core.parse_size`. What lies in the
            folder never exceeds it: entries that are not read any more make room, and where all
            are, what is new is not stored (`storage.cache.folder`). A training job that reads
            more than the limit in an epoch thus finds the limit's share of it every time. (The
            URLs of the datasets and the folders themselves are not counted.)
        clock: Seconds, ever growing.

    Raises:
        OptionError: The folder is a link or a file, belongs to another user, is writable by others
            or holds something else; or the limit is no size.
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
        """Return the cache in a folder, with the limit that it was last written with.

        Raises:
            OptionError: There is none, or see the class.
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

    def __getstate__(self) -> tuple[str, int]:
        return str(self._folder.path), self._folder.limit

    def __setstate__(self, state: tuple[str, int]) -> None:
        self.__init__(state[0], limit=state[1])  # type: ignore[misc]  # of this very class

    def of(self, url: str) -> "DatasetCache":
        """Return the part of the cache for one dataset.

        Args:
            url: Its URL, without credentials: it is stored.
        """
        return DatasetCache(self, url)

    def usage(self) -> Usage:
        """Count what is there, by looking at every file.

        Raises:
            StoreError: The disk fails.
        """
        try:
            return self._usage(file for file in files(self._folder.path) if file.is_body)
        except OSError as e:
            raise self._error("read", e) from e

    def clear(self, url: str | None = None) -> Usage:
        """Remove all entries, or those of one dataset; return what there was.

        Only files that a cache makes are removed.

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
        """Tell whether nothing is stored for the moment."""
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
        # They only grow: `discard` is told of damage wherever it came from, and more than once.
        # Threads may share them: CPython does not switch threads within `x.n += 1`.
        self.n_hits = 0
        """Bodies that were here, sound or not."""
        self.n_misses = 0
        """Bodies that were not."""
        self.hit_bytes = 0
        """Bytes of the hits."""

    def __repr__(self) -> str:
        return f"{self._cache!r}.of({self._url!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._cache, self._url)

    def get(self, wanted: ByteRange) -> bytes | None:
        """Return the bytes of a range, or None; their checksum is for the caller to check."""
        if not len(wanted):
            return b""
        try:
            body = self._cache.folder.read(body_name(self._dataset, wanted), len(wanted))
        except FileNotFoundError:
            body = None
        except (OSError, OptionError) as e:
            self._cache.pause(e)
            body = None
        if body is None:
            self.n_misses += 1
        else:
            self.n_hits += 1
            self.hit_bytes += len(body)
        return body

    def put(self, wanted: ByteRange, body: bytes) -> None:
        """Keep the bytes of a range, if there is or can be room and the disk takes them.

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
        """Remove a body that proved damaged, if it is here."""
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
