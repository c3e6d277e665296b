"""Open a store by its URL.

file://, plain path -> LocalStore        s3:// gs:// az:// -> ObstoreStore when it is installed
memory://, https://, anything else -> FsspecStore            and understands every option
"""

import contextlib
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, TypeAlias

import fsspec
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from pcrstore.errors import OptionError
from pcrstore.retry import RetryPolicy
from pcrstore.store import Store
from pcrstore.store_options import NotTranslatableError
from pcrstore.stores_fsspec import FsspecStore
from pcrstore.stores_local import LocalStore
from pcrstore.stores_obstore import ObstoreStore

__all__ = ["Engine", "open_store"]

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
    url = os.fspath(url)
    if engine not in {"auto", "fsspec", "obstore"}:
        raise OptionError(f"engine must be auto, fsspec or obstore, got {engine!r}")
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
