"""Open a store by its URL.

file://, plain path -> LocalStore        s3:// gs:// az:// -> ObstoreStore when it is installed
memory://, https://, anything else -> FsspecStore            and understands every option
"""

import contextlib
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Literal, TypeAlias

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from pcrstore.core import ByteRange
from pcrstore.errors import OptionError
from pcrstore.storage.fsspec_store import FsspecStore
from pcrstore.storage.local import LocalStore
from pcrstore.storage.obstore_store import ObstoreStore
from pcrstore.storage.options import NotTranslatableError
from pcrstore.storage.protocol import Bodies, Entries, Store
from pcrstore.storage.retry import RetryPolicy

__all__ = ["Engine", "ForkingStore", "checked_url", "open_store"]

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss"})
Engine: TypeAlias = Literal["auto", "fsspec", "obstore"]


def open_store(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, object] | None = None,
    *,
    engine: Engine = "auto",
    filesystem: fsspec.AbstractFileSystem | None = None,
    policy: RetryPolicy | None = None,
) -> Store:
    """Return the store whose root is the folder `url`. Asks nothing of the store yet.

    Args:
        url: `s3://bucket/folder`, `gs://`, `az://container/folder`, `https://`, `memory://`,
            `file:///folder`, a plain path, or any other URL that fsspec can open, chained or not.
        storage_options: As for fsspec: `key`, `secret`, `endpoint_url`, `anon` and so on.
        engine: Which library speaks to the store. `auto` takes obstore where it is installed and
            understands every option, else fsspec.
        filesystem: Use this fsspec instance; `url` is then a path in it.
        policy: Waits and deadline of each request.

    Raises:
        OptionError: An option, engine or URL that cannot be used.
        MissingDependencyError: The driver is not installed; the message says which.
    """
    url = checked_url(url)
    _check_engine(engine)
    _check_options(storage_options)
    if not url and filesystem is None:
        raise OptionError("url is empty")
    if filesystem is not None:
        if storage_options or engine == "obstore":
            raise OptionError("filesystem comes with its own options: give one or the other")
        return _of_filesystem(filesystem, url, policy)
    protocol, separator, path = url.partition("://")
    if "::" not in url and (not separator or protocol in {"file", "local"}):
        if storage_options:
            raise OptionError(f"{url} is a local path and takes no storage_options")
        return LocalStore(path if separator else url)
    if engine == "obstore":
        return ObstoreStore(url, storage_options, policy=policy)
    if engine == "auto" and "::" not in url and protocol in OBJECT_STORES and _can_use_obstore():
        with contextlib.suppress(NotTranslatableError):
            store = ObstoreStore(url, storage_options, policy=policy)
            if find_spec("boto3") or not store.needs_boto:
                return store
    return FsspecStore(url, storage_options, policy=policy)


def checked_url(url: object) -> str:
    """Return a URL or path as text.

    Raises:
        OptionError: Neither text nor a path of text, or with a zero byte.
    """
    text = os.fspath(url) if isinstance(url, os.PathLike) else url
    if not isinstance(text, str):
        raise OptionError(f"url must be a text or a path, got a {type(text).__name__}")
    if "\0" in text:
        raise OptionError("url must not have a zero byte in it")
    return text


def _check_engine(engine: object) -> None:
    if engine not in ("auto", "fsspec", "obstore"):
        raise OptionError(f"engine must be auto, fsspec or obstore, got {engine!r}")


def _check_options(options: object) -> None:
    # Its kind alone is said, for there may be secrets in it.
    if options is not None and not isinstance(options, Mapping):
        raise OptionError(f"storage_options must be a mapping, got a {type(options).__name__}")


def _can_use_obstore() -> bool:
    return find_spec("obstore") is not None


def _of_filesystem(
    filesystem: fsspec.AbstractFileSystem, path: str, policy: RetryPolicy | None
) -> Store:
    while isinstance(filesystem, DirFileSystem):
        path = f"{filesystem.path}/{path}".rstrip("/")
        filesystem = filesystem.fs
    if isinstance(filesystem, LocalFileSystem):
        return LocalStore(path.removeprefix("file://"))
    return FsspecStore(path, filesystem=filesystem, policy=policy)


class ForkingStore:
    """A store whose maker reads through fsspec, so that its forked children can use obstore.

    obstore hangs in a child of a process that has used it. The parent of a loader's workers reads
    metadata alone; the children, and whoever gets it pickled, open the store anew. A maker that
    turns out to have no children says so by `settle`.

    Args:
        url: As `open_store`.
        storage_options: As `open_store`.
        engine: For the children.

    Raises:
        OptionError: As `open_store`.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, object] | None = None,
        *,
        engine: Engine = "auto",
    ) -> None:
        _check_engine(engine)  # here, and not in every child
        _check_options(storage_options)
        self._maker = os.getpid()
        self._arguments = url, dict(storage_options or {}), engine
        self._store = open_store(url, storage_options, engine="fsspec")
        self._pid = self._maker
        self._is_settled = False
        self._retries_before = 0
        """Of the store that this process read through until it settled."""

    def __getstate__(self) -> dict[str, object]:
        return {"_maker": self._maker, "_arguments": self._arguments}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._pid, self._is_settled, self._retries_before = -1, False, 0

    def __repr__(self) -> str:
        return f"ForkingStore({self.url!r})"

    def _here(self) -> Store:
        """Return this process's store."""
        if self._pid != os.getpid():
            url, options, engine = self._arguments
            engine = "fsspec" if os.getpid() == self._maker else engine
            self._store = open_store(url, options, engine=engine)
            self._pid, self._retries_before = os.getpid(), 0
        return self._store

    @property
    def url(self) -> str:
        """Root of the store, without credentials."""
        return self._here().url

    @property
    def can_list(self) -> bool:
        """False for a plain web server."""
        return bool(getattr(self._here(), "can_list", True))

    def settle(self) -> None:
        """Read here too as children would: no worker reads for this process."""
        if self._pid == self._maker == os.getpid() and not self._is_settled:
            url, options, engine = self._arguments
            store = open_store(url, options, engine=engine)
            self._retries_before = self.n_retries
            self._store, self._is_settled = store, True

    @property
    def n_retries(self) -> int:
        """Requests of this process that failed in a way worth another try."""
        n = int(getattr(self._here(), "n_retries", 0))
        return n + self._retries_before

    def get(self, name: str) -> bytes:
        """Return a whole object, in one request."""
        return self._here().get(name)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range, in order; one request each."""
        return self._here().get_ranges(ranges)

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder, sorted by name."""
        return self._here().list(prefix)
