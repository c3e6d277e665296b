"""fsspec file systems: opened with limits, looked through, and named as pcrstore names objects.

    URL, options --open--> the outermost file system --unwrap--> the one that does the work, a root
                                                                 in it, and names below the root

A file system belongs to the process that made it: its sockets and threads do not survive a fork.
`FsspecFolder` opens it anew in each process.
"""

import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from urllib.parse import quote

import fsspec
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.asyn import AsyncFileSystem
from fsspec.core import url_to_fs
from fsspec.generic import GenericFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.implementations.reference import ReferenceFileSystem

from pcrstore.concurrency import PerProcess
from pcrstore.errors import MissingDependencyError, OptionError
from pcrstore.storage.errors import Translator
from pcrstore.storage.protocol import Entries, Entry, check_name
from pcrstore.storage.redact import redact_url, secrets_in
from pcrstore.storage.retry import RetryPolicy

__all__ = ["FsspecFolder", "OpenFolder"]

CONDITIONAL: Final = frozenset({"s3", "s3a", "gs", "gcs", "memory"})
"""Protocols whose create has exactly one winner (adlfs has no conditional pipe_file)."""
PACKAGES: Final = {
    "s3": "pcrstore[s3]",
    "s3a": "pcrstore[s3]",
    "gs": "pcrstore[gcs]",
    "gcs": "pcrstore[gcs]",
    "az": "pcrstore[azure]",
    "abfs": "pcrstore[azure]",
    "abfss": "pcrstore[azure]",
}
"""The extra of pcrstore that installs the driver of a protocol."""
FOREIGN_COROUTINES: Final = (GenericFileSystem, ReferenceFileSystem)
"""File systems whose coroutines may run another's blocking calls, each in a thread of its own."""
_WEB: Final = frozenset({"http", "https"})
_S3: Final = frozenset({"s3", "s3a"})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenFolder:
    """A folder of a file system that this process opened."""

    fs: fsspec.AbstractFileSystem
    root: str
    """Path of the folder, without a slash at its end."""
    query: str = ""
    """Of a web address, with its question mark: every name gets it, as it may hold a signature."""
    member_names: Mapping[str, str] = field(default_factory=dict)
    """Plain path -> name in the archive, where they differ: `tar -cf x.tar .` writes ./a."""

    @property
    def protocol(self) -> str:
        """Name of the file system's protocol; the first of several."""
        protocol = self.fs.protocol
        return protocol if isinstance(protocol, str) else str(protocol[0])

    @property
    def can_list(self) -> bool:
        """False for plain web servers."""
        return self.protocol not in _WEB

    @property
    def create_is_atomic(self) -> bool:
        """False where a create has to be a check followed by a put."""
        return self.protocol in CONDITIONAL

    @property
    def has_coroutines(self) -> bool:
        """True where the file system works on fsspec's loop and shares nothing with threads."""
        is_async = isinstance(self.fs, AsyncFileSystem) and bool(self.fs.async_impl)
        return is_async and not isinstance(self.fs, FOREIGN_COROUTINES)

    def path(self, name: str) -> str:
        """Return the file system's path of an object."""
        check_name(name)
        if self.can_list:
            path = f"{self.root}/{name}"
            return self.member_names.get(path.lstrip("/"), path)
        return f"{self.root}/{quote(name)}{self.query}"

    def folder_path(self, folder: str) -> str:
        """Return the file system's path of a folder; `""` is the root."""
        return f"{self.root}/{folder}" if folder else self.root

    def entries(self, found: Mapping[str, Mapping[str, object]], folder: str) -> Entries:
        """Return what `find` found below a folder, by names below the root.

        With the root `bucket/ds`, the key `bucket/ds/a/1` is the object `a/1`.
        """
        above = f"{self.root.strip('/')}/" if self.root.strip("/") else ""
        entries = []
        for key, info in found.items():
            name = str(key).lstrip("/").removeprefix(above)
            if (
                info.get("type") != "directory"
                and not name.endswith("/")
                and name not in {folder, ""}
            ):
                n_bytes = int(str(info.get("size") or 0))
                entries.append(Entry(name=name, n_bytes=n_bytes, etag=_etag(info)))
        return entries

    def find_members(self, path: str) -> dict[str, Mapping[str, object]]:
        """Return what an archive holds below a path, by plain path: ./a/b is below a."""
        plain = {member: path for path, member in self.member_names.items()}
        found = self.fs.find("", detail=True)
        below = f"{path.strip('/')}/" if path.strip("/") else ""
        named = {plain.get(name, name): info for name, info in found.items()}
        return {name: info for name, info in named.items() if name.startswith(below)}


class FsspecFolder:
    """A folder of an fsspec file system, by URL or of an instance, opened once in each process.

    Args:
        url: URL of the folder, or its path in `filesystem`.
        options: fsspec's storage_options.
        filesystem: Use this instance, with its own settings and retries.
        policy: Gives the libraries the limits that they leave open.
        translator: Makes errors of ours; None: one of its own.

    Raises:
        MissingDependencyError: No driver for the URL is installed.
        OptionError: A URL or an option that cannot be used.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, object] | None = None,
        *,
        filesystem: fsspec.AbstractFileSystem | None = None,
        policy: RetryPolicy | None = None,
        translator: Translator | None = None,
    ) -> None:
        self._url = url
        self._options = dict(options or {})
        self._given = filesystem
        self._maker = os.getpid()
        self.policy = policy or RetryPolicy()
        self.translator = translator or self._translator()
        self._opened = PerProcess(self._open)
        self._opened.get()  # a missing driver or a wrong option is said here, not at first use

    def __reduce__(self) -> tuple[object, ...]:
        make = partial(FsspecFolder, filesystem=self._given, policy=self.policy)
        return make, (self._url, self._options)

    def here(self) -> OpenFolder:
        """Return the folder as this process opened it."""
        return self._opened.get()

    @property
    def is_in_memory(self) -> bool:
        """True where the objects lie in the memory of this process."""
        links = [link.partition("://")[0] for link in self._url.split("::")]
        return "memory" in links or isinstance(self.here().fs, MemoryFileSystem)

    def _translator(self) -> Translator:
        shown, settings = self._url, self._options
        if self._given is not None:
            settings = {"_": self._given.storage_options}
            if "://" not in shown:
                protocol = OpenFolder(fs=self._given, root="").protocol
                shown = f"{protocol}://{shown.lstrip('/')}"
        return Translator(shown, secrets_in(self._url, settings), self.policy)

    def _open(self) -> OpenFolder:
        fs, root = self._open_outermost()
        if self._given is None and self._url.startswith(("dir::", "dir://::")):
            root = ""  # fsspec gives the path of the next link, which `fs.path` is too
        while isinstance(fs, DirFileSystem | AsyncFileSystemWrapper):  # they pass calls on
            if isinstance(fs, DirFileSystem):
                root = posixpath.join(str(fs.path), root.lstrip("/"))
            fs = fs.fs if isinstance(fs, DirFileSystem) else fs.sync_fs
        query = ""
        if not OpenFolder(fs=fs, root=root).can_list:
            root, question, query = root.partition("?")
            query = question + query
        try:
            members = _dotted_members(fs)
        except Exception as e:  # an archive is read here, by whatever library it needs
            raise self.translator.error("open", "", e) from e
        return OpenFolder(fs=fs, root=root.rstrip("/"), query=query, member_names=members)

    def _open_outermost(self) -> tuple[fsspec.AbstractFileSystem, str]:
        if self._given is not None:
            fs = self._given
            if os.getpid() != self._maker:  # inherited: its sockets and threads are the parent's
                fs = type(fs)(*fs.storage_args, **fs.storage_options, skip_instance_cache=True)
            if getattr(fs, "asynchronous", False):
                raise OptionError("filesystem must not be asynchronous=True: pcrstore calls block")
            return fs, str(fs._strip_protocol(self._url))  # noqa: SLF001 (fsspec has no public one)
        protocol = self._url.partition("://")[0] if "::" not in self._url else ""
        settings = _with_defaults(protocol, self._options, self.policy)
        try:
            fs, root = url_to_fs(self._url, **settings)
        except ImportError as e:
            package = PACKAGES.get(protocol)
            hint = f"pip install '{package}'" if package else self.translator.redact(str(e))
            raise MissingDependencyError(f"{redact_url(self._url)} needs a driver: {hint}") from e
        except ValueError as e:
            reason = self.translator.redact(str(e))
            if "Protocol not known" in reason:
                raise MissingDependencyError(
                    f"no installed driver knows {protocol or self._url}://; known to pcrstore are "
                    "s3, gs, az, https, file and memory"
                ) from None
            raise OptionError(f"cannot use {redact_url(self._url)}: {reason}") from None
        except (TypeError, KeyError) as e:
            reason = self.translator.redact(str(e))
            raise OptionError(
                f"a storage option of {redact_url(self._url)} cannot be used: {reason}"
            ) from None
        except Exception as e:  # noqa: BLE001 (some connect when made, and raise anything)
            made = self.translator.error("open", "", e)
            raise made from made.__cause__
        if protocol in _S3:
            fs.retries = 1  # ours is the only loop; s3fs would square its own with botocore's
        return fs, str(root)


def _with_defaults(
    protocol: str, options: Mapping[str, object], policy: RetryPolicy
) -> dict[str, object]:
    """Return the options with the limits that the libraries leave open, where none were given."""
    if not protocol:
        return dict(options)  # a chain: fsspec hands the options out itself
    settings = {"skip_instance_cache": True, "use_listings_cache": False, **options}
    if protocol in _S3:
        defaults: dict[str, object] = {
            "connect_timeout": policy.connect,
            "read_timeout": policy.stall,
            "max_pool_connections": 64,  # botocore's 10 gives 17 MB/s where 64 gives 65
            "retries": {"total_max_attempts": 1, "mode": "standard"},
        }
        settings["config_kwargs"] = _over(defaults, options.get("config_kwargs"))
    elif protocol in _WEB:
        import aiohttp  # noqa: PLC0415 (only fsspec's http file system needs it)

        # aiohttp's default cuts every reply off after five minutes.
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=policy.connect, sock_read=policy.stall
        )
        settings["client_kwargs"] = _over({"timeout": limits}, options.get("client_kwargs"))
    return settings


def _over(defaults: Mapping[str, object], given: object) -> dict[str, object]:
    """Return the defaults with what was given over them."""
    return {**defaults, **(given if isinstance(given, Mapping) else {})}


def _dotted_members(fs: fsspec.AbstractFileSystem) -> dict[str, str]:
    """Return plain path -> name of an archive's members that are named as ./a or a/./b."""
    if not isinstance(fs, AbstractArchiveFileSystem):
        return {}
    names: Iterable[str] = map(str, fs.find(""))
    return {plain: name for name in names if (plain := _without_dots(name)) != name}


def _without_dots(path: str) -> str:
    return "/".join(part for part in path.split("/") if part != ".")


def _etag(info: Mapping[str, object]) -> str | None:
    for name in ("ETag", "etag", "e_tag", "md5Hash", "mtime", "created", "LastModified"):
        value = info.get(name)
        if value:
            return str(value).strip('"')
    return None
