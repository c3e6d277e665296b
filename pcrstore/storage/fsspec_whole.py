# ruff: noqa: SLF001 (fsspec documents its coroutines under names with an underscore)
"""Whole objects of fsspec file systems, never more of them than their reader takes.

fsspec has no bound for a whole read. Up to `limit` bytes of an object are asked for by

    s3, gs, az and others with coroutines   one range, 0..limit: clouds clip it at the object's end,
                                            and answer 416 where the object is empty
    https                                   a stream, as servers may ignore Range
    ftp                                     a stream, as a range costs a listing of the folder first
    reference                               a range that ends with the part: see `_stop`
    memory, archives, sftp and the rest     0..limit of the opened file; git, github, jupyter and
                                            libarchive hold the whole of it for that

An object that is larger than its reader takes comes back as its first `limit` bytes, one more than
the reader takes, or is a `TooLargeError`.
"""

from collections.abc import Mapping
from ftplib import error_perm
from typing import TYPE_CHECKING, Final

import fsspec
from fsspec.implementations.ftp import FTPFileSystem
from fsspec.implementations.reference import ReferenceFileSystem

from pcrstore.errors import StoreError
from pcrstore.storage.errors import status_of
from pcrstore.storage.remote import TooLargeError

if TYPE_CHECKING:
    from aiohttp import ClientResponse

__all__ = ["by_range", "by_stream", "read_blocking", "size_in", "size_of_reply"]

_STEP: Final = 256 << 20
"""Bytes of one read: a Python file sets aside as many as it is asked for, whatever it has."""


async def by_range(fs: fsspec.AbstractFileSystem, path: str, limit: int) -> bytes:
    """Return an object of a file system with coroutines, or its first `limit` bytes of more."""
    try:
        return bytes(await fs._cat_file(path, start=0, end=limit))
    except Exception as e:
        if _is_empty(e):
            return b""
        raise


async def by_stream(fs: fsspec.AbstractFileSystem, url: str, limit: int) -> bytes:
    """Return an object of a web server, or its first bytes, `limit` at the least, of more.

    Raises:
        TooLargeError: The head of the reply says so.
    """
    async with await _asked(fs, url) as reply:
        reply.raise_for_status()
        n_bytes = 0 if "Content-Encoding" in reply.headers else reply.content_length or 0
        if n_bytes >= limit:
            reply.close()
            raise TooLargeError(n_bytes)
        body = bytearray()
        async for chunk in reply.content.iter_any():
            body += chunk
            if len(body) >= limit:
                reply.close()
                break
        return bytes(body)


def read_blocking(fs: fsspec.AbstractFileSystem, path: str, limit: int) -> bytes:
    """Return an object of any other file system, or its first `limit` bytes of more."""
    if isinstance(fs, FTPFileSystem):
        return _by_ftp(fs, path, limit)
    stop = _stop(fs, path, limit)
    parts: list[bytes] = []
    start = 0
    while start < stop:
        end = min(start + _STEP, stop)
        try:
            parts.append(bytes(fs.cat_file(path, start=start, end=end)))
        except Exception as e:
            if not _is_empty(e):
                raise
            break
        start += len(parts[-1])
        if start < end:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def size_of_reply(fs: fsspec.AbstractFileSystem, url: str, name: str) -> int:
    """Return the size of an object of a web server, by a GET of one byte: not all answer HEAD.

    Raises:
        StoreError: The reply does not say.
    """
    async with await _asked(fs, url, {"Range": "bytes=0-0"}) as reply:
        if reply.status == 416:
            return 0
        reply.raise_for_status()
        total = reply.headers.get("Content-Range", "").rpartition("/")[2]
        if reply.status != 206:
            total = str(reply.content_length)
            reply.close()
        if not total.isdecimal():
            raise StoreError(f"{name}: the web server does not say its size")
        return int(total)


def size_in(info: Mapping[str, object], name: str) -> int:
    """Return the size that a file system says an object has.

    Raises:
        FileNotFoundError: It is a folder.
        StoreError: It does not say.
    """
    size = info.get("size")
    if info.get("type") == "directory":
        raise FileNotFoundError(name)
    if not isinstance(size, int):
        raise StoreError(f"{name}: the file system does not say its size")
    return size


async def _asked(
    fs: fsspec.AbstractFileSystem, url: str, headers: Mapping[str, str] | None = None
) -> "ClientResponse":
    """Return the reply to a GET, by the session and with the options of the file system."""
    options = dict(fs.kwargs)
    if headers:
        given = options.get("headers") or {}
        options["headers"] = {**given, "Accept-Encoding": "identity", **headers}
    session = await fs.set_session()
    reply: ClientResponse = await session.get(fs.encode_url(url), **options)
    return reply


def _is_empty(error: Exception) -> bool:
    """Say whether an object is empty, by its error: no range of it can be satisfied."""
    return status_of(error) == 416


def _stop(fs: fsspec.AbstractFileSystem, path: str, limit: int) -> int:
    """Return the end of a range that holds an object, or its first `limit` bytes of more.

    A part of a file may be followed by others, and fsspec up to 2026.6 reads on into those: of a
    part of 5 bytes the range 0..9 is the part and the 4 bytes behind it.
    """
    if not isinstance(fs, ReferenceFileSystem):
        return limit
    part = fs.references.get(fs._strip_protocol(path))
    is_part = isinstance(part, list | tuple) and len(part) == 3
    return min(limit, int(part[2])) if is_part else limit


class _EnoughError(Exception):
    """Raised in a transfer to break it off."""


def _by_ftp(fs: FTPFileSystem, path: str, limit: int) -> bytes:
    body = bytearray()

    def take(chunk: bytes) -> None:
        body.extend(chunk)
        if len(body) >= limit:
            raise _EnoughError

    try:
        fs.ftp.retrbinary(f"RETR {path}", take, blocksize=fs.blocksize)
    except _EnoughError:
        fs.ftp.close()  # the rest is under way, and would be taken for the next reply
        fs._connect()
    except error_perm as e:
        raise FileNotFoundError(path) from e
    return bytes(body)
