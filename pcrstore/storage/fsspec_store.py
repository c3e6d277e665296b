# ruff: noqa: SLF001 (fsspec documents its coroutines under names with an underscore)
"""Any fsspec file system as a store.

    file systems with coroutines (s3, gs, az, https)     FsspecStore: a RemoteStore on fsspec's loop
    file systems without (memory, archives, chained      BlockingStore: calls in the caller's
    caches, sftp)                                        thread, most of them one at a time

Members of an archive share its file handle, and files of an FTP server its connection: only file
systems that are known to be safe are called by several threads at a time.
"""

import contextlib
import posixpath
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from pcrstore.concurrency import ForkSafeLock, run_on
from pcrstore.core import ByteRange
from pcrstore.errors import NotFoundError
from pcrstore.storage.errors import says_no_bucket, status_of
from pcrstore.storage.fsspec_client import FsspecFolder, OpenFolder
from pcrstore.storage.fsspec_whole import (
    by_range,
    by_stream,
    read_blocking,
    size_in,
    size_of_reply,
)
from pcrstore.storage.protocol import (
    Bodies,
    Entries,
    Entry,
    Sizes,
    check_prefix,
    exact,
    shown_entries,
    too_large,
)
from pcrstore.storage.remote import ConflictError, RemoteStore, create_lock
from pcrstore.storage.retry import RetryPolicy, retry

__all__ = ["BlockingStore", "FsspecClient", "FsspecStore", "open_fsspec"]

T = TypeVar("T")

THREAD_SAFE: Final = (LocalFileSystem, MemoryFileSystem)
"""File systems without coroutines that any number of threads may read: each read opens its own
file. Any other is taken not to be safe."""
_serial_lock = ForkSafeLock()
"""Held during a call of a file system that is not known to be thread-safe. One for the process:
fsspec gives one connection to several instances, which cannot be told from outside."""


def open_fsspec(
    url: str,
    options: Mapping[str, object] | None = None,
    *,
    filesystem: fsspec.AbstractFileSystem | None = None,
    policy: RetryPolicy | None = None,
) -> "FsspecStore":
    """Open a folder of a file system as a store; see `FsspecFolder`."""
    folder = FsspecFolder(url, options, filesystem=filesystem, policy=policy)
    return FsspecStore(folder) if folder.here().has_coroutines else BlockingStore(folder)


class FsspecClient:
    """The coroutines of a file system, as `pcrstore.storage.remote.Client`."""

    resends = True  # aiohttp sends a PUT again by itself when its connection breaks

    def __init__(self, folder: OpenFolder) -> None:
        self._folder = folder
        self._fs = folder.fs
        self.create_is_atomic = folder.create_is_atomic
        self.can_list = folder.can_list

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Return what a coroutine returns, run on fsspec's loop."""
        return run_on(self._fs.loop, work)

    async def get(self, name: str, max_bytes: int) -> bytes:
        """Return a whole object, or one byte more of it than `max_bytes`."""
        read = by_range if self.can_list else by_stream
        return await read(self._fs, self._folder.path(name), max_bytes + 1)

    async def get_range(self, wanted: ByteRange) -> bytes:
        """Return the bytes of a range."""
        path = self._folder.path(wanted.name)
        return bytes(await self._fs._cat_file(path, start=wanted.start, end=wanted.stop))

    async def list(self, folder: str) -> Entries:
        """Return every object below a folder."""
        self._fs.invalidate_cache()
        try:
            found = await self._fs._find(self._folder.folder_path(folder), detail=True)
        except (FileNotFoundError, NotADirectoryError) as e:
            if says_no_bucket(e):
                raise
            return []
        return self._folder.entries(found, folder)

    async def size(self, name: str) -> int:
        """Return the size of an object."""
        path = self._folder.path(name)
        if not self.can_list:
            return await size_of_reply(self._fs, path, name)
        self._fs.invalidate_cache()
        return size_in(await self._fs._info(path), name)

    async def is_object(self, entry: Entry) -> bool:
        """Return True: markers are known by the slash at their end, which fsspec keeps."""
        del entry
        return True

    async def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""
        await self._fs._pipe_file(self._folder.path(name), data)

    async def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless it exists."""
        path = self._folder.path(name)
        if not self.create_is_atomic:
            if await self._fs._exists(path):
                return False
            await self._fs._pipe_file(path, data)
            return True
        try:
            await self._fs._pipe_file(path, data, mode="create")
        except Exception as e:
            if isinstance(e, FileExistsError) or status_of(e) == 412:
                return False
            if status_of(e) == 409:
                raise ConflictError from e
            raise
        return True

    async def delete(self, name: str) -> None:
        """Remove an object."""
        await self._fs._rm_file(self._folder.path(name))


class FsspecStore(RemoteStore):
    """A folder of a file system with coroutines."""

    def __init__(self, folder: FsspecFolder) -> None:
        self._folder = folder
        super().__init__(lambda: FsspecClient(folder.here()), folder.translator, folder.policy)

    def __reduce__(self) -> tuple[type["FsspecStore"], tuple[FsspecFolder]]:
        return type(self), (self._folder,)

    @property
    def shared_by_processes(self) -> bool:
        """False for `memory://`."""
        return not self._folder.is_in_memory


class BlockingStore(FsspecStore):
    """A folder of a file system without coroutines: the same requests, in the caller's thread."""

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole object, in one request."""
        here = self._folder.here()
        read = partial(read_blocking, here.fs, here.path(name), max_bytes + 1)
        body = self._call("read", name, read)
        if len(body) > max_bytes:
            raise too_large(self.url, name, max_bytes=max_bytes)
        return body

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range, in order."""
        here = self._folder.here()
        paths = [here.path(r.name) for r in ranges]
        wanted = [i for i in range(len(ranges)) if len(ranges[i])]
        bodies = [b""] * len(ranges)

        def read() -> None:
            got = here.fs.cat_ranges(
                [paths[i] for i in wanted],
                [ranges[i].start for i in wanted],
                [ranges[i].stop for i in wanted],
                on_error="raise",
            )
            for i, body in zip(wanted, got, strict=True):
                bodies[i] = exact(bytes(body), ranges[i])

        if wanted:
            self._call("read", ranges[wanted[0]].name, read)
        return bodies

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder, sorted by name."""
        here, folder = self._folder.here(), check_prefix(prefix)
        here.fs.invalidate_cache()
        find = here.find_members if here.member_names else partial(here.fs.find, detail=True)
        try:
            found = self._call("list", folder, lambda: dict(find(here.folder_path(folder))))
        except NotFoundError as e:
            if says_no_bucket(e):
                raise
            return []
        return shown_entries(here.entries(found, folder))

    def sizes(self, names: Sequence[str]) -> Sizes:
        """Return the size of each object, in order."""
        here = self._folder.here()
        here.fs.invalidate_cache()

        def size(path: str, name: str) -> int:
            return size_in(here.fs.info(path), name)

        paths = [here.path(name) for name in names]
        return [
            self._call("look at", name, partial(size, path, name))
            for path, name in zip(paths, names, strict=True)
        ]

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""
        here = self._folder.here()
        path = here.path(name)

        def write() -> None:
            here.fs.makedirs(posixpath.dirname(path), exist_ok=True)
            here.fs.pipe_file(path, data)

        self._call("write", name, write)

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless it exists; see `pcrstore.storage.protocol.Store.create`."""
        here = self._folder.here()
        path = here.path(name)
        with create_lock:
            if self._call("create", name, lambda: bool(here.fs.exists(path))):
                return False
            self.put(name, data)
            return True

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that do not exist are fine."""
        here = self._folder.here()
        for path, name in [(here.path(name), name) for name in names]:
            with contextlib.suppress(NotFoundError):
                self._call("delete", name, partial(here.fs.rm_file, path))

    def _call(self, verb: str, name: str, attempt: Callable[[], T]) -> T:
        is_safe = isinstance(self._folder.here().fs, THREAD_SAFE)
        guard = contextlib.nullcontext() if is_safe else _serial_lock

        def guarded() -> T:
            with guard:
                return attempt()

        return retry(guarded, self._folder.policy, partial(self._translator.error, verb, name))
