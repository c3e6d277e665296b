"""Any fsspec file system as a store.

    thread --coroutine--> fsspec's I/O loop      one task per range, `max_in_flight` at a time,
           <---bodies----                        each with its own retries and stall limit

A file system without coroutines (memory, archives, chained caches, sftp) is called in the caller's
thread, and most of them by one thread at a time: members of an archive share its file handle, and
files of an FTP server its connection. A client belongs to the process that made it: after a fork
the child makes its own.
"""

import contextlib
import os
import posixpath
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar
from urllib.parse import quote

import fsspec
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs
from fsspec.generic import GenericFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.implementations.reference import ReferenceFileSystem

from pcrstore.concurrency import each, run_on
from pcrstore.core import ByteRange
from pcrstore.errors import (
    AccessDeniedError,
    MissingDependencyError,
    NotFoundError,
    OptionError,
    StoreError,
    TransientStoreError,
)
from pcrstore.storage.errors import Translator, status_of
from pcrstore.storage.protocol import (
    PROBE_NAME,
    Bodies,
    Entries,
    Entry,
    check_name,
    check_prefix,
    exact,
    without_markers,
)
from pcrstore.storage.redact import redact_url, secrets_in
from pcrstore.storage.retry import RetryPolicy, retry, retry_async

__all__ = ["FsspecStore"]

T = TypeVar("T")

CONDITIONAL = frozenset({"s3", "s3a", "gs", "gcs", "memory"})
"""Protocols whose create has exactly one winner (adlfs has no conditional pipe_file)."""
PACKAGES = {
    "s3": "pcrstore[s3]",
    "s3a": "pcrstore[s3]",
    "gs": "pcrstore[gcs]",
    "gcs": "pcrstore[gcs]",
    "az": "pcrstore[azure]",
    "abfs": "pcrstore[azure]",
    "abfss": "pcrstore[azure]",
}
THREAD_SAFE = (LocalFileSystem, MemoryFileSystem)
"""File systems without coroutines that any number of threads may read: each read opens its own
file. What is not known to be safe is taken not to be."""
FOREIGN_COROUTINES = (GenericFileSystem, ReferenceFileSystem)
"""File systems whose coroutines may run another's blocking calls, each in a thread of its own."""
_memory_lock = threading.Lock()
"""Held while a `memory://` object is created: the whole process shares that file system."""
_serial_lock = threading.Lock()
"""Held during a call of a file system that is not known to be thread-safe. One for the process:
fsspec gives one connection to several instances, which cannot be told from outside."""
os.register_at_fork(
    after_in_child=lambda: globals().update(
        _memory_lock=threading.Lock(), _serial_lock=threading.Lock()
    )
)


class FsspecStore:
    """A folder of an fsspec file system.

    Args:
        url: URL of the folder, or its path in `filesystem`.
        options: What fsspec calls storage_options.
        filesystem: Use this instance, with its own settings and retries.
        policy: Waits and deadline.
        max_in_flight: Requests at a time, of one call.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, object] | None = None,
        *,
        filesystem: fsspec.AbstractFileSystem | None = None,
        policy: RetryPolicy | None = None,
        max_in_flight: int = 64,
    ) -> None:
        self._url = url
        self._options = dict(options or {})
        self._given = filesystem
        self._policy = policy or RetryPolicy()
        self._max_in_flight = max_in_flight
        shown = url
        if filesystem is not None and "://" not in url:
            shown = f"{_protocol_of(filesystem)}://{url.lstrip('/')}"
        settings = self._options if filesystem is None else {"_": filesystem.storage_options}
        self._translator = Translator(shown, secrets_in(url, settings), self._policy)
        self._lock = threading.Lock()
        self._pid = -1
        self._fs: fsspec.AbstractFileSystem
        self._root = ""
        self._query = ""
        self._member_names: dict[str, str] = {}
        """Plain path -> name in the archive, where they differ: `tar -cf x.tar .` writes ./a."""
        self._filesystem()  # a missing driver or a wrong option is said here, not at first use

    @property
    def url(self) -> str:
        """Root of the store, without credentials."""
        return self._translator.url

    @property
    def n_retries(self) -> int:
        """Requests so far that failed in a way worth another try."""
        return self._translator.n_retryable

    @property
    def create_is_atomic(self) -> bool:
        """False where `create` is a check followed by a put."""
        return _protocol_of(self._filesystem()) in CONDITIONAL

    @property
    def can_list(self) -> bool:
        """False for plain web servers."""
        return _protocol_of(self._filesystem()) not in {"http", "https"}

    def __repr__(self) -> str:
        return f"FsspecStore({self.url!r})"

    def __getstate__(self) -> dict[str, object]:
        return {
            "url": self._url,
            "options": self._options,
            "filesystem": self._given,
            "policy": self._policy,
            "max_in_flight": self._max_in_flight,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # a store is its arguments

    def get(self, name: str) -> bytes:
        """Return a whole object, in one request."""
        fs, path = self._filesystem(), self._path(name)
        if not _has_coroutines(fs):
            return self._call("read", name, lambda: bytes(fs.cat_file(path)))
        # Without this s3fs asks for the size first and reads in pieces.
        options = {"max_concurrency": 1} if _protocol_of(fs) in {"s3", "s3a"} else {}

        async def read() -> bytes:
            return bytes(await fs._cat_file(path, **options))  # noqa: SLF001 (fsspec's async API)

        return self._await("read", name, read)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range, in order; one request each."""
        fs = self._filesystem()
        paths = [self._path(r.name) for r in ranges]
        if _has_coroutines(fs):
            limit = self._max_in_flight
            return run_on(fs.loop, each(ranges, lambda r: self._read_range(fs, r), limit=limit))
        wanted = [i for i in range(len(ranges)) if len(ranges[i])]
        bodies = [b""] * len(ranges)

        def read() -> None:
            got = fs.cat_ranges(
                [paths[i] for i in wanted],
                [ranges[i].start for i in wanted],
                [ranges[i].stop for i in wanted],
                on_error="raise",
            )
            for i, body in zip(wanted, got, strict=True):
                bodies[i] = self._checked(bytes(body), ranges[i], may_be_cut=False)

        if wanted:
            self._call("read", ranges[wanted[0]].name, read)
        return bodies

    async def _read_range(self, fs: AsyncFileSystem, wanted: ByteRange) -> bytes:
        if not len(wanted):
            return b""
        path = self._path(wanted.name)

        async def attempt() -> bytes:
            body = await fs._cat_file(  # noqa: SLF001 (fsspec's async API)
                path, start=wanted.start, end=wanted.stop
            )
            return self._checked(bytes(body), wanted, may_be_cut=True)

        return await retry_async(
            attempt,
            self._policy,
            lambda e: self._translator.error("read", wanted.name, e),
            n_bytes=len(wanted),
        )

    def _checked(self, body: bytes, wanted: ByteRange, *, may_be_cut: bool) -> bytes:
        checked = exact(body, wanted)
        if isinstance(checked, bytes):
            return checked
        if may_be_cut and len(body) < len(wanted):
            raise self._translator.short(wanted.name, checked)
        raise checked

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder, sorted by name."""
        fs, folder = self._filesystem(), check_prefix(prefix)
        if not self.can_list:
            raise StoreError(f"{self.url} cannot be listed: a plain web server has no LIST")
        path = f"{self._root}/{folder}" if folder else self._root
        fs.invalidate_cache()
        try:
            found = self._find(fs, path, folder)
        except NotFoundError as e:
            if "bucket" in str(e):
                raise
            return []
        above = f"{self._root.strip('/')}/" if self._root.strip("/") else ""
        entries = {}
        for key, info in found.items():
            name = str(key).lstrip("/").removeprefix(above)
            if info.get("type") == "directory" or name.endswith("/") or name in {folder, ""}:
                continue
            if posixpath.basename(name) != PROBE_NAME:
                n_bytes = int(str(info.get("size") or 0))
                entries[name] = Entry(name=name, n_bytes=n_bytes, etag=_etag(info))
        return without_markers(entries.values())

    def _find(
        self, fs: fsspec.AbstractFileSystem, path: str, folder: str
    ) -> dict[str, dict[str, object]]:
        if self._member_names:
            return self._call("list", folder, lambda: self._find_members(fs, path))
        if not _has_coroutines(fs):
            return self._call("list", folder, lambda: dict(fs.find(path, detail=True)))

        async def find() -> dict[str, dict[str, object]]:
            return dict(await fs._find(path, detail=True))  # noqa: SLF001 (fsspec's async API)

        # A listing is many requests, and how many is not known: allow it minutes.
        return self._await("list", folder, find, n_bytes=8 << 20)

    def _find_members(
        self, fs: fsspec.AbstractFileSystem, path: str
    ) -> dict[str, dict[str, object]]:
        """Return what an archive holds below a folder, by plain path: ./a/b is below a."""
        plain = {member: path for path, member in self._member_names.items()}
        found = {plain.get(name, name): info for name, info in fs.find("", detail=True).items()}
        below = f"{path.strip('/')}/" if path.strip("/") else ""
        return {name: info for name, info in found.items() if name.startswith(below)}

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""
        self._check_writable("write", name)
        fs, path = self._filesystem(), self._path(name)

        def write() -> None:
            fs.makedirs(posixpath.dirname(path), exist_ok=True)
            fs.pipe_file(path, data)

        async def write_async() -> None:
            await fs._pipe_file(path, data)  # noqa: SLF001 (fsspec's async API)

        if _has_coroutines(fs):
            self._await("write", name, write_async, n_bytes=len(data))
        else:
            self._call("write", name, write)

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless it exists; see `pcrstore.storage.protocol.Store.create`."""
        self._check_writable("create", name)
        fs, path = self._filesystem(), self._path(name)
        if not self.create_is_atomic or _protocol_of(fs) == "memory":
            with _memory_lock:
                if self._call("create", name, lambda: bool(fs.exists(path))):
                    return False
                self.put(name, data)
                return True
        return self._create_if_none_match(fs, name, data)

    def _create_if_none_match(self, fs: AsyncFileSystem, name: str, data: bytes) -> bool:
        path = self._path(name)

        async def attempt() -> bool:
            try:
                await fs._pipe_file(path, data, mode="create")  # noqa: SLF001 (fsspec's async API)
            except Exception as e:
                if isinstance(e, FileExistsError) or status_of(e) == 412:
                    return False
                if status_of(e) == 409:
                    raise self._translator.conflict(name, e) from e
                raise
            return True

        if self._await("create", name, attempt, n_bytes=len(data)):
            return True
        # aiohttp sends a PUT again by itself when its connection breaks, and then the object that
        # is in the way may be ours. It is whoever's bytes it holds.
        try:
            return self.get(name) == data
        except StoreError as e:
            raise TransientStoreError(
                f"cannot tell who created {self.url}/{name}: it exists and could not be read"
            ) from e

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that do not exist are fine."""
        for name in names:
            self._check_writable("delete", name)
        fs = self._filesystem()
        if _has_coroutines(fs):
            limit = self._max_in_flight
            run_on(fs.loop, each(names, lambda name: self._delete_one(fs, name), limit=limit))
            return
        for name in names:
            path = self._path(name)
            with contextlib.suppress(NotFoundError):
                self._call("delete", name, lambda path=path: fs.rm_file(path))  # type: ignore[misc]

    async def _delete_one(self, fs: AsyncFileSystem, name: str) -> None:
        path = self._path(name)

        async def attempt() -> None:
            await fs._rm_file(path)  # noqa: SLF001 (fsspec's async API)

        with contextlib.suppress(NotFoundError):
            await retry_async(
                attempt, self._policy, lambda e: self._translator.error("delete", name, e)
            )

    def _check_writable(self, verb: str, name: str) -> None:
        if not self.can_list:
            raise AccessDeniedError(f"cannot {verb} {self.url}/{name}: a web server is read only")

    def _path(self, name: str) -> str:
        check_name(name)
        if self.can_list:
            path = f"{self._root}/{name}"
            return self._member_names.get(path.lstrip("/"), path)
        return f"{self._root}/{quote(name)}{self._query}"

    def _await(
        self, verb: str, name: str, attempt: Callable[[], Awaitable[T]], *, n_bytes: int = 0
    ) -> T:
        def translate(e: Exception) -> StoreError:
            return self._translator.error(verb, name, e)

        work = retry_async(attempt, self._policy, translate, n_bytes=n_bytes)
        return run_on(self._filesystem().loop, work)

    def _call(self, verb: str, name: str, attempt: Callable[[], T]) -> T:
        fs = self._filesystem()
        guard = contextlib.nullcontext() if isinstance(fs, THREAD_SAFE) else _serial_lock

        def guarded() -> T:
            with guard:
                return attempt()

        return retry(guarded, self._policy, lambda e: self._translator.error(verb, name, e))

    def _filesystem(self) -> fsspec.AbstractFileSystem:
        """Return this process's file system, made on first use."""
        if self._pid != os.getpid():
            lock = (
                self._lock if self._pid == -1 else threading.Lock()
            )  # a fork may hold the old one
            with lock:
                if self._pid != os.getpid():
                    self._fs, self._root = self._open()
                    if not self._fs_can_list():
                        self._root, question, query = self._root.partition("?")
                        self._query = question + query
                    self._root = self._root.rstrip("/")
                    self._member_names = _dotted_members(self._fs)
                    self._lock, self._pid = lock, os.getpid()
        return self._fs

    def _fs_can_list(self) -> bool:
        return _protocol_of(self._fs) not in {"http", "https"}

    def _open(self) -> tuple[fsspec.AbstractFileSystem, str]:
        fs, root = self._open_outermost()
        if self._given is None and self._url.startswith(("dir::", "dir://::")):
            root = ""  # fsspec gives the path of the next link, which `fs.path` is too
        while isinstance(fs, DirFileSystem | AsyncFileSystemWrapper):  # they pass calls on
            if isinstance(fs, DirFileSystem):
                root = posixpath.join(str(fs.path), root.lstrip("/"))
            fs = fs.fs if isinstance(fs, DirFileSystem) else fs.sync_fs
        return fs, root

    def _open_outermost(self) -> tuple[fsspec.AbstractFileSystem, str]:
        if self._given is not None:
            fs = self._given
            if self._pid != -1:  # inherited: its sockets and threads are the parent's
                fs = type(fs)(*fs.storage_args, **fs.storage_options, skip_instance_cache=True)
            if getattr(fs, "asynchronous", False):
                raise OptionError("filesystem must not be asynchronous=True: pcrstore calls block")
            return fs, str(fs._strip_protocol(self._url))  # noqa: SLF001 (fsspec has no public one)
        protocol = self._url.partition("://")[0] if "::" not in self._url else ""
        settings = _with_defaults(protocol, self._options, self._policy)
        try:
            fs, root = url_to_fs(self._url, **settings)
        except ImportError as e:
            package = PACKAGES.get(protocol)
            hint = f"pip install '{package}'" if package else self._translator.redact(str(e))
            raise MissingDependencyError(f"{redact_url(self._url)} needs a driver: {hint}") from e
        except ValueError as e:
            reason = self._translator.redact(str(e))
            if "Protocol not known" in reason:
                raise MissingDependencyError(
                    f"no installed driver knows {protocol or self._url}://; known to pcrstore are "
                    "s3, gs, az, https, file and memory"
                ) from None
            raise OptionError(f"cannot use {redact_url(self._url)}: {reason}") from None
        except (TypeError, KeyError) as e:
            reason = self._translator.redact(str(e))
            raise OptionError(
                f"a storage option of {redact_url(self._url)} cannot be used: {reason}"
            ) from None
        except Exception as e:  # noqa: BLE001 (some connect when made, and raise anything)
            made = self._translator.error("open", "", e)
            raise made from made.__cause__
        if protocol in {"s3", "s3a"}:
            fs.retries = 1  # ours is the only loop; s3fs would square its own with botocore's
        return fs, str(root)


def _with_defaults(
    protocol: str, options: Mapping[str, object], policy: RetryPolicy
) -> dict[str, object]:
    """Return the options with the limits that the libraries leave open, where none were given."""
    if not protocol:
        return dict(options)  # a chain: fsspec hands the options out itself
    settings = {"skip_instance_cache": True, "use_listings_cache": False, **options}
    if protocol in {"s3", "s3a"}:
        given = options.get("config_kwargs")
        settings["config_kwargs"] = {
            "connect_timeout": policy.connect,
            "read_timeout": policy.stall,
            "max_pool_connections": 64,  # botocore's 10 gives 17 MB/s where 64 gives 65
            "retries": {"total_max_attempts": 1, "mode": "standard"},
            **(given if isinstance(given, Mapping) else {}),
        }
    elif protocol in {"http", "https"}:
        import aiohttp  # noqa: PLC0415 (only fsspec's http file system needs it)

        given = options.get("client_kwargs")
        # aiohttp's default cuts every reply off after five minutes.
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=policy.connect, sock_read=policy.stall
        )
        settings["client_kwargs"] = {
            "timeout": limits,
            **(given if isinstance(given, Mapping) else {}),
        }
    return settings


def _has_coroutines(fs: fsspec.AbstractFileSystem) -> TypeGuard[AsyncFileSystem]:
    """Say whether the file system works on fsspec's loop, where nothing is shared with threads."""
    return (
        isinstance(fs, AsyncFileSystem)
        and bool(fs.async_impl)
        and not isinstance(fs, FOREIGN_COROUTINES)
    )


def _dotted_members(fs: fsspec.AbstractFileSystem) -> dict[str, str]:
    """Return plain path -> name of an archive's members that are named as ./a or a/./b."""
    if not isinstance(fs, AbstractArchiveFileSystem):
        return {}
    names = (str(name) for name in fs.find(""))
    return {plain: name for name in names if (plain := _without_dots(name)) != name}


def _without_dots(path: str) -> str:
    return "/".join(part for part in path.split("/") if part != ".")


def _protocol_of(fs: fsspec.AbstractFileSystem) -> str:
    protocol = fs.protocol
    return protocol if isinstance(protocol, str) else str(protocol[0])


def _etag(info: Mapping[str, object]) -> str | None:
    for field in ("ETag", "etag", "e_tag", "md5Hash", "mtime", "created", "LastModified"):
        value = info.get(field)
        if value:
            return str(value).strip('"')
    return None
