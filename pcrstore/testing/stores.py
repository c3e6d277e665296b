"""Stores around a store: one writes down every request, one fails at the request it is told to.

code under test -> RecordingStore.requests -> FaultyStore{n: Fault} -> any store
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from pcrstore.core import ByteRange
from pcrstore.errors import TransientStoreError
from pcrstore.storage import Bodies, Entries, Sizes, Store

__all__ = ["Fault", "FaultyStore", "Recorded", "RecordingStore", "StoreKilled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One request that a store was asked for."""

    op: str
    """`get`, `get_range`, `list`, `size`, `put`, `create` or `delete`."""
    name: str
    """Object, or the folder of a list."""
    start: int | None = None
    """First byte of a `get_range`."""
    stop: int | None = None
    """One past the last byte of a `get_range`."""
    n_bytes: int
    """Size of the body, either way; entries of a list; 0 of a `size` and a `delete`."""


class _Wrapper(Store):
    """A store that says of itself what the store beneath does."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Root of the store beneath."""
        return self.store.url

    @property
    def can_list(self) -> bool:
        """As the store beneath."""
        return self.store.can_list

    @property
    def is_local(self) -> bool:
        """As the store beneath."""
        return self.store.is_local

    @property
    def shared_by_processes(self) -> bool:
        """As the store beneath."""
        return self.store.shared_by_processes

    @property
    def n_retries(self) -> int:
        """As the store beneath."""
        return self.store.n_retries

    @property
    def create_is_atomic(self) -> bool:
        """As the store beneath."""
        return self.store.create_is_atomic

    def sweep(self) -> int:
        """As the store beneath; neither recorded nor made to fail, for it is no request."""
        return self.store.sweep()


class RecordingStore(_Wrapper):
    """Passes everything on to `store` and appends what came back to `requests`."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.requests: list[Recorded] = []

    def clear(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self.requests.clear()

    def named(self, op: str) -> tuple[Recorded, ...]:
        """Return the requests of one kind."""
        return tuple(r for r in self.requests if r.op == op)

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole object."""
        body = self.store.get(name, max_bytes=max_bytes)
        self._note(Recorded(op="get", name=name, n_bytes=len(body)))
        return body

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range; each non-empty one is a request."""
        bodies = self.store.get_ranges(ranges)
        for r in ranges:
            if len(r):
                self._note(
                    Recorded(
                        op="get_range", name=r.name, start=r.start, stop=r.stop, n_bytes=len(r)
                    )
                )
        return bodies

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder."""
        entries = self.store.list(prefix)
        self._note(Recorded(op="list", name=prefix, n_bytes=len(entries)))
        return entries

    def sizes(self, names: Sequence[str]) -> Sizes:
        """Return the size of each object; each is a request."""
        found = self.store.sizes(names)
        for name in names:
            self._note(Recorded(op="size", name=name, n_bytes=0))
        return found

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""
        self.store.put(name, data)
        self._note(Recorded(op="put", name=name, n_bytes=len(data)))

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless it exists; recorded either way."""
        created = self.store.create(name, data)
        self._note(Recorded(op="create", name=name, n_bytes=len(data)))
        return created

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects."""
        self.store.delete(names)
        for name in names:
            self._note(Recorded(op="delete", name=name, n_bytes=0))

    def _note(self, request: Recorded) -> None:
        with self._lock:
            self.requests.append(request)


class StoreKilled(BaseException):
    """The process would have died here. As KeyboardInterrupt, no handler of errors catches it."""


class Fault(Enum):
    """Failure of one request, for `FaultyStore`; a fault of a dataset is `pcrstore.Fault`."""

    LOST_REQUEST = auto()
    """TransientStoreError; the store never saw it."""
    LOST_REPLY = auto()
    """TransientStoreError; the store did it."""
    KILLED_BEFORE = auto()
    """StoreKilled; the store never saw it."""
    KILLED_AFTER = auto()
    """StoreKilled; the store did it."""
    FLIPPED_BIT = auto()
    """The lowest bit of the middle byte of the body is wrong, whichever way the body goes."""


BEFORE = {Fault.LOST_REQUEST: TransientStoreError, Fault.KILLED_BEFORE: StoreKilled}
AFTER = {Fault.LOST_REPLY: TransientStoreError, Fault.KILLED_AFTER: StoreKilled}


class FaultyStore(_Wrapper):
    """Passes everything on to `store`, and fails at the requests named by number.

    Args:
        store: The store beneath.
        faults: Fault by number of the request, from 0. Each range counts, each deleted name too.
    """

    def __init__(self, store: Store, faults: Mapping[int, Fault]) -> None:
        super().__init__(store)
        self.faults = dict(faults)
        self.n_requests = 0

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole object."""
        fault = self._before(name)
        body = self.store.get(name, max_bytes=max_bytes)
        self._after(fault, name)
        return _spoiled(body, fault)

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range."""
        bodies = []
        for r in ranges:
            fault = self._before(r.name) if len(r) else None
            body = self.store.get_ranges([r])[0]
            self._after(fault, r.name)
            bodies.append(_spoiled(body, fault))
        return bodies

    def list(self, prefix: str) -> Entries:
        """Return every object below a folder."""
        fault = self._before(prefix)
        entries = self.store.list(prefix)
        self._after(fault, prefix)
        return entries

    def sizes(self, names: Sequence[str]) -> Sizes:
        """Return the size of each object, one request each."""
        found = []
        for name in names:
            fault = self._before(name)
            found += self.store.sizes([name])
            self._after(fault, name)
        return found

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object."""
        fault = self._before(name)
        self.store.put(name, _spoiled(data, fault))
        self._after(fault, name)

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless it exists."""
        fault = self._before(name)
        created = self.store.create(name, _spoiled(data, fault))
        self._after(fault, name)
        return created

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects, one request each."""
        for name in names:
            fault = self._before(name)
            self.store.delete([name])
            self._after(fault, name)

    def _before(self, name: str) -> Fault | None:
        with self._lock:
            fault = self.faults.get(self.n_requests)
            self.n_requests += 1
        if fault in BEFORE:
            raise BEFORE[fault](f"{name}: made to fail before the request ({fault.name})")
        return fault

    def _after(self, fault: Fault | None, name: str) -> None:
        if fault in AFTER:
            raise AFTER[fault](f"{name}: made to fail after the request ({fault.name})")


def _spoiled(body: bytes, fault: Fault | None) -> bytes:
    if fault is not Fault.FLIPPED_BIT or not body:
        return body
    at = len(body) // 2
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
