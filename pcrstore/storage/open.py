"""A store from a URL, by the library that reads it best.

URL                               store
--------------------------------  ---------------------------------------------------------------
a path, file://                   LocalStore
s3://  gs://  az://               ObstoreStore, where obstore is installed and understands every
option; else FsspecStore
https://, others with coroutines  FsspecStore
memory://, archives, chains       BlockingStore
"""

import contextlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, TypeAlias, TypeVar

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from pcrstore.errors import OptionError
from pcrstore.storage.fsspec_store import open_fsspec
from pcrstore.storage.local import LocalStore
from pcrstore.storage.obstore_store import ObstoreStore
from pcrstore.storage.options import NotTranslatableError
from pcrstore.storage.protocol import ReadableStore, Store
from pcrstore.storage.retry import RetryPolicy

__all__ = [
    "Engine",
    "check_engine",
    "check_storage_options",
    "checked_url",
    "open_store",
    "store_of",
]

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
        engine: The library that speaks to the store. `auto` takes obstore where it is installed and
            understands every option, else fsspec.
        filesystem: Use this fsspec instance; `url` is then a path in it.
        policy: Waits and deadline of each request.

    Raises:
        OptionError: An option, engine or URL that cannot be used.
        MissingDependencyError: The driver is not installed; the message says which.
    """
    url = checked_url(url)
    check_engine(engine)
    check_storage_options(storage_options)
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
    if engine == "auto" and "::" not in url and protocol in OBJECT_STORES and find_spec("obstore"):
        with contextlib.suppress(NotTranslatableError):
            store = ObstoreStore(url, storage_options, policy=policy)
            if find_spec("boto3") or not store.needs_boto:
                return store
    return open_fsspec(url, storage_options, policy=policy)


S = TypeVar("S", bound=ReadableStore)


def store_of(
    location: str | os.PathLike[str] | S,
    storage_options: Mapping[str, object] | None = None,
    *,
    engine: Engine = "auto",
    filesystem: fsspec.AbstractFileSystem | None = None,
    is_written: bool = False,
) -> Store | S:
    """Return a store that is given as it is, and open a URL or path by `open_store`.

    Args:
        location: URL, path, or a store of one's own.
        storage_options: As `open_store`.
        engine: As `open_store`.
        filesystem: As `open_store`.
        is_written: Whether the store must have the methods that write, too.

    Raises:
        OptionError: As `open_store`; an object that lacks something of a store; or options, an
            engine or a filesystem beside a store, which has its own.
    """
    if isinstance(location, str | os.PathLike) or not hasattr(location, "get_ranges"):
        url = checked_url(location)
        return open_store(url, storage_options, engine=engine, filesystem=filesystem)
    missing = [
        name
        for name in (*vars(ReadableStore), *(vars(Store) if is_written else ()))
        if not name.startswith("_") and not hasattr(location, name)
    ]
    if missing:
        raise OptionError(
            f"a {type(location).__name__} is no store, for it lacks {', '.join(missing)}; a class "
            "with pcrstore.Store as its base has defaults for all that can have one"
        )
    if storage_options or engine != "auto" or filesystem is not None:
        raise OptionError(
            "storage_options, engine and filesystem are for URLs: a store has its own"
        )
    return location


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


def check_engine(engine: object) -> None:
    """Raise `OptionError` unless `engine` is one."""
    if engine not in ("auto", "fsspec", "obstore"):
        raise OptionError(f"engine must be auto, fsspec or obstore, got {engine!r}")


def check_storage_options(options: object) -> None:
    """Raise `OptionError` unless `options` are a mapping."""
    # Its kind alone is said, for there may be secrets in it.
    if options is not None and not isinstance(options, Mapping):
        raise OptionError(f"storage_options must be a mapping, got a {type(options).__name__}")


def _of_filesystem(
    filesystem: fsspec.AbstractFileSystem, path: str, policy: RetryPolicy | None
) -> Store:
    while isinstance(filesystem, DirFileSystem):
        path = f"{filesystem.path}/{path}".rstrip("/")
        filesystem = filesystem.fs
    if isinstance(filesystem, LocalFileSystem):
        return LocalStore(path.removeprefix("file://"))
    return open_fsspec(path, filesystem=filesystem, policy=policy)
