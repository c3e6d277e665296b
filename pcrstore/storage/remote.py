"""A store over a client's coroutines: retries, fan-out and errors that every engine shares.

    caller's thread                            the client's loop
    get_ranges([a, b, c]) --client.run--> each: try get_range(a)   --> one request
                                                try get_range(b)   --> one request, fails
                                                  wait, try again  --> one request
                                                try get_range(c)   --> one request
                  [A, B, C] <-------------- in order

A client only sends requests. It has no retries, and its errors are those of its library:
`pcrstore.storage.errors` makes them ours and says which are worth another try.
"""

import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

from pcrstore.concurrency import ForkSafeLock, PerProcess, each
from pcrstore.core import ByteRange
from pcrstore.errors import (
    AccessDeniedError,
    FormatError,
    NotFoundError,
    StoreError,
    TransientStoreError,
)
from pcrstore.storage.errors import Translator, says_no_bucket
from pcrstore.storage.protocol import (
    Bodies,
    Entries,
    Entry,
    Sizes,
    Store,
    check_name,
    check_prefix,
    exact,
    shown_entries,
    too_large,
)
from pcrstore.storage.retry import RetryPolicy, retry_async

__all__ = ["Client", "ConflictError", "RemoteStore", "TooLargeError", "create_lock"]

T = TypeVar("T")

_LISTING_BYTES: Final = 8 << 20
"""Size by which the time limit of a listing is set: a listing is many requests, and how many is not
known before, so that it is allowed minutes."""

create_lock: Final = ForkSafeLock()
"""Held while an object is created by a check and a put. One for the process and for stores of every
kind, because two stores may be of one folder, and the whole process shares `memory://`."""


class ConflictError(Exception):
    """A create found another one of the same name under way, which may yet fail."""


class TooLargeError(Exception):
    """The store says that an object is larger than its reader takes; its body was not read."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__(n_bytes)
        self.n_bytes = n_bytes


class Client(Protocol):
    """One process's connection to a folder of a store. Names are relative to the folder."""

    create_is_atomic: bool
    """As `pcrstore.storage.protocol.Store.create_is_atomic`."""
    can_list: bool
    """False for a plain web server, which cannot be written either."""
    resends: bool
    """The library may send a request a second time by itself, so that a create that is told "it
    exists" may have met its own object."""

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Return what a coroutine returns, run on the loop that the others below run on."""

    async def get(self, name: str, max_bytes: int) -> bytes:
        """Return a whole object by one request, or the first bytes of it, over `max_bytes`.

        Raises:
            TooLargeError: It has more, and the reply says how many.
        """

    async def get_range(self, wanted: ByteRange) -> bytes:
        """Return the bytes of a range that is not empty, by one request; too few may come."""

    async def list(self, folder: str) -> Entries:
        """Return every object below a folder; `""` is the root."""

    async def size(self, name: str) -> int:
        """Return the size of an object, by one request where it is there."""

    async def is_object(self, entry: Entry) -> bool:
        """Say whether an empty entry is an object, and not the marker of an empty folder."""

    async def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""

    async def create(self, name: str, data: bytes) -> bool:
        """Write a whole object; False where one of that name exists.

        Raises:
            ConflictError: Chained to the library's error.
        """

    async def delete(self, name: str) -> None:
        """Remove an object."""


class RemoteStore(Store):
    """A folder of a store, read and written by a client that each process makes for itself.

    Args:
        connect: Makes this process's client.
        translator: Makes errors of ours, and counts those worth another try.
        policy: Waits and deadline.
        max_in_flight: Requests at a time, of one call.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        translator: Translator,
        policy: RetryPolicy,
        *,
        max_in_flight: int = 64,
    ) -> None:
        self._clients = PerProcess(connect)
        self._translator = translator
        self._policy = policy
        self._max_in_flight = max_in_flight

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
        return self._clients.get().create_is_atomic

    @property
    def can_list(self) -> bool:
        """False for plain web servers."""
        return self._clients.get().can_list

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole object, in one request."""
        client = self._clients.get()

        async def attempt() -> bytes:
            try:
                body = await client.get(name, max_bytes)
            except TooLargeError as e:
                raise too_large(self.url, name, max_bytes=max_bytes, n_bytes=e.n_bytes) from None
            if len(body) > max_bytes:
                raise too_large(self.url, name, max_bytes=max_bytes)
            return body

        return client.run(self._tried("read", check_name(name), attempt))

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range, in order; one request each."""
        client = self._clients.get()
        for r in ranges:
            check_name(r.name)
        return client.run(each(ranges, partial(self._range, client), limit=self._max_in_flight))

    async def _range(self, client: Client, wanted: ByteRange) -> bytes:
        if not len(wanted):
            return b""

        async def attempt() -> bytes:
            body = await client.get_range(wanted)
            try:
                return exact(body, wanted)
            except StoreError as e:
                # Too few bytes may come whole the next time; too many are what this server does.
                if len(body) < len(wanted):
                    raise self._translator.short(wanted.name, e) from None
                raise

        return await self._tried("read", wanted.name, attempt, n_bytes=len(wanted))

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder, sorted by name."""
        return self._listed(self._clients.get(), check_prefix(prefix))

    def _listed(self, client: Client, folder: str) -> Entries:
        if not client.can_list:
            raise StoreError(f"{self.url} cannot be listed: a plain web server has no LIST")
        listing = self._tried("list", folder, partial(client.list, folder), n_bytes=_LISTING_BYTES)
        entries = shown_entries(client.run(listing))
        empty = [entry for entry in entries if not entry.n_bytes]
        objects = client.run(
            each(empty, partial(self._is_object, client), limit=self._max_in_flight)
        )
        markers = {e.name for e, is_object in zip(empty, objects, strict=True) if not is_object}
        return [entry for entry in entries if entry.name not in markers]

    def sizes(self, names: Sequence[str]) -> Sizes:
        """Return the size of each object, in order; one request each."""
        client = self._clients.get()
        for name in names:
            check_name(name)
        return client.run(each(names, partial(self._size, client), limit=self._max_in_flight))

    async def _size(self, client: Client, name: str) -> int:
        return await self._tried("look at", name, partial(client.size, name))

    async def _is_object(self, client: Client, entry: Entry) -> bool:
        try:
            return await self._tried("look at", entry.name, partial(client.is_object, entry))
        except NotFoundError:
            return False
        except AccessDeniedError:  # listed, so it is there: a reader of it is told, not a listing
            return True

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""
        client = self._writable("write", name)
        write = partial(client.put, check_name(name), data)
        client.run(self._tried("write", name, write, n_bytes=len(data)))

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless it exists; see `pcrstore.storage.protocol.Store.create`."""
        client, n_tries = self._writable("create", check_name(name)), 0

        async def attempt() -> bool:
            nonlocal n_tries
            n_tries += 1
            try:
                return await client.create(name, data)
            except ConflictError as e:
                raise self._translator.conflict(name) from e.__cause__

        # Where creating is checking and then writing, one thread of this process does it at a time.
        with contextlib.nullcontext() if client.create_is_atomic else create_lock:
            created = client.run(self._tried("create", name, attempt, n_bytes=len(data)))
        if created or (n_tries == 1 and not client.resends):
            return created
        # An earlier try failed without an answer, and may have made the object that is in the way
        # of this one. Its bytes say whose it is.
        try:
            return self.get(name, max_bytes=len(data)) == data
        except FormatError:  # it is larger
            return False
        except StoreError as e:
            raise TransientStoreError(
                f"cannot tell who created {self.url}/{name}: it exists and could not be read"
            ) from e

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; those that do not exist are fine."""
        client = self._clients.get()
        for name in names:
            self._writable("delete", check_name(name))
        client.run(each(names, partial(self._deleted, client), limit=self._max_in_flight))

    async def _deleted(self, client: Client, name: str) -> None:
        try:
            await self._tried("delete", name, partial(client.delete, name))
        except NotFoundError as e:
            if says_no_bucket(e):
                raise

    def _writable(self, verb: str, name: str) -> Client:
        client = self._clients.get()
        if not client.can_list:
            raise AccessDeniedError(f"cannot {verb} {self.url}/{name}: a web server is read only")
        return client

    def _tried(
        self, verb: str, name: str, attempt: Callable[[], Awaitable[T]], *, n_bytes: int = 0
    ) -> Coroutine[object, object, T]:
        """Return a coroutine that makes a request until it succeeds or the policy gives up."""
        translate = partial(self._translator.error, verb, name)
        return retry_async(attempt, self._policy, translate, n_bytes=n_bytes)
