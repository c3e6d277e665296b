"""The protocol of a store: named objects, read by range and written whole.

An object with these methods is a store, and goes where pcrstore takes a URL. A class that has
`Store` as its base gets those that can have a default; `pcrstore.testing.contract` is the suite of
tests that a store must pass. Names are relative to the store's root, with `/` between their parts.

    name      get, get_ranges      put, create, delete      list(prefix), sizes(names)
      |             |                      |                     |
      v             v                      v                     v
    <root>/<name>   one request each       atomic, or not at all   [Entry(name, n_bytes, etag)]

Every read has a bound that is known before: the length of its range, or `max_bytes` of a whole
object. A dataset may be hostile, and a name says nothing of the size of what is behind it.

Stores also say what they can (`can_list`, `is_local`, `shared_by_processes`, `create_is_atomic`),
so that nobody has to ask of which class they are.

Pure: no I/O here. `pcrstore.storage.open.open_store` makes a store from a URL.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

from pcrstore.core import ByteRange
from pcrstore.errors import FormatError, NotFoundError, OptionError, StoreError

__all__ = [
    "Bodies",
    "Entries",
    "Entry",
    "RangeCache",
    "ReadableStore",
    "Sizes",
    "Store",
    "check_name",
    "check_prefix",
    "exact",
    "probe_conditional_create",
    "shown_entries",
    "too_large",
]

PROBE_NAME = ".pcrstore-probe"
"""Key that `probe_conditional_create` makes and removes; never shown by `list`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One object of a listing."""

    name: str
    """Relative to the store's root."""
    n_bytes: int
    """Size of the object."""
    etag: str | None = None
    """Unquoted entity tag, or the time of the last change: differs when the content changed."""


# Inside the classes below `list` is a method, so that the type needs other names.
Bodies: TypeAlias = list[bytes]
Entries: TypeAlias = list[Entry]
Sizes: TypeAlias = list[int]


@runtime_checkable
class ReadableStore(Protocol):
    """A store that can be read.

    Safe to use from several threads and after a fork; hashable. To be read by worker processes that
    are spawned, a store has to be picklable.
    """

    @property
    def url(self) -> str:
        """Root of the store, without credentials: for messages, not for opening."""

    @property
    def can_list(self) -> bool:
        """False where `list` raises: a plain web server."""
        return True

    @property
    def is_local(self) -> bool:
        """True where `url` is `file://` and the path of a folder.

        Its reads cost no request, so that several at a time gain nothing, and "access denied" is
        said of one file and not of everybody's credentials.
        """
        return False

    @property
    def shared_by_processes(self) -> bool:
        """False where the objects lie in the memory of this process, out of reach for others."""
        return True

    @property
    def n_retries(self) -> int:
        """Requests of this process so far that failed in a way worth another try."""
        return 0

    def get(self, name: str, *, max_bytes: int) -> bytes:
        """Return a whole object, in one request.

        Args:
            name: The object.
            max_bytes: Size of the largest object that the caller takes. It is checked before the
                body is held: by the size that the store says, or by reading one byte more.

        Raises:
            NotFoundError: No such object.
            FormatError: The object is larger than `max_bytes`; see `too_large`.
            StoreError: Any other failure; see `pcrstore.errors`.
        """

    def get_ranges(self, ranges: Sequence[ByteRange]) -> Bodies:
        """Return the bytes of each range, in order.

        Exactly one request per range, in parallel: never merged and never split, whatever the
        caller asks for (merging is `core.ranges.coalesce`). An empty range needs no request.

        Raises:
            NotFoundError: No such object.
            StoreError: A range reaches past the end of its object, or any other failure. A body
                that is longer or shorter than its range never comes back.
        """

    def list(self, prefix: str) -> Entries:
        """Return every object below the folder `prefix`, sorted by name; `""` is the root.

        A folder that does not exist has no entries.

        Raises:
            NotFoundError: The bucket does not exist.
            StoreError: The store cannot list (plain `https://`), or any other failure.
        """

    def sizes(self, names: Sequence[str]) -> Sizes:
        """Return the size of each object, in order, without reading it.

        One request each, in parallel; `list` costs fewer where a folder holds many of them. The
        default lists the folders that the names lie in.

        Raises:
            NotFoundError: No such object; the message names one.
            StoreError: The store does not say, or any other failure.
        """
        folders = dict.fromkeys(name.rpartition("/")[0] for name in map(check_name, names))
        found = {e.name: e.n_bytes for folder in folders for e in self.list(folder)}
        missing = next((name for name in names if name not in found), None)
        if missing is not None:
            raise NotFoundError(f"cannot look at {self.url}/{missing}: not found")
        return [found[name] for name in names]


@runtime_checkable
class Store(ReadableStore, Protocol):
    """A store that can be written."""

    @property
    def create_is_atomic(self) -> bool:
        """False where `create` is a check followed by a put: one writer at a time."""

    def put(self, name: str, data: bytes) -> None:
        """Write a whole object; a reader sees all of it or nothing. Overwrites."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole object unless one of that name exists.

        `data` should be unique to its writer, as by an id in it. When a reply is lost and the retry
        finds an object, the object's bytes are compared with `data` to tell whose they are: two
        writers of equal bytes may both be told True.

        Returns:
            True when this call made the object; False when another writer's object exists.

        Raises:
            TransientStoreError: The outcome is unknown; read the object to find out.
        """

    def delete(self, names: Sequence[str]) -> None:
        """Remove objects; one that does not exist is no error."""

    def sweep(self) -> int:
        """Remove temporary files that writers left when they died; return their number."""
        return 0


class RangeCache(Protocol):
    """A cache of the bodies of ranges, near the reader; `pcrstore.storage.cache` has one.

    Bodies may come back damaged: whoever reads them checks them, and discards what is wrong.
    """

    def get(self, wanted: ByteRange) -> bytes | None:
        """Return a body of the range's length, or None."""

    def put(self, wanted: ByteRange, body: bytes) -> None:
        """Keep a body, or not."""

    def discard(self, wanted: ByteRange) -> None:
        """Forget a body that turned out damaged."""


def check_name(name: str) -> str:
    """Return the object name if it names an object below the root, in any store.

    Raises:
        OptionError: Empty, absolute, ending in `/`, with a NUL, or with a part that is empty,
            `.` or `..`.
    """
    parts = name.split("/")
    if "\0" in name or any(part in {"", ".", ".."} for part in parts):
        raise OptionError(
            f"object name must be relative with no '', '.' or '..' part, got {name!r}"
        )
    return name


def check_prefix(prefix: str) -> str:
    """Return the folder without its trailing slash; `""` is the root."""
    folder = prefix.removesuffix("/")
    return check_name(folder) if folder else ""


def shown_entries(entries: Iterable[Entry]) -> Entries:
    """Return the entries that `list` shows, sorted by name.

    Left out are the probes of `probe_conditional_create`, and the empty objects that stand for
    folders: consoles, Hadoop and Azure's tools make one with the name of the folder. Where such a
    name ends in a slash, clients leave it out.

    Examples:
        >>> names = {"cat": 0, "cat/1.jpg": 9, "dog": 9, "dog/2.jpg": 9, "dog/.pcrstore-probe": 5}
        >>> [e.name for e in shown_entries(Entry(name=k, n_bytes=n) for k, n in names.items())]
        ['cat/1.jpg', 'dog', 'dog/2.jpg']
    """
    objects = (entry for entry in entries if entry.name.rpartition("/")[2] != PROBE_NAME)
    ordered = sorted(objects, key=lambda entry: entry.name)
    folders = {folder for entry in ordered for folder in _folders_of(entry.name)}
    return [entry for entry in ordered if entry.n_bytes or entry.name not in folders]


def _folders_of(name: str) -> Iterator[str]:
    """Yield the folders that the name lies in, nearest first."""
    folder = name.rpartition("/")[0]
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def probe_conditional_create(store: Store) -> bool:
    """Try whether the store refuses to create an object twice.

    Some S3 servers ignore `If-None-Match` and let the second writer win. Costs three requests and
    leaves nothing behind. Concurrent probes may see each other's object; both answers stay right.
    """
    if not store.create_is_atomic:
        return False
    try:
        store.create(PROBE_NAME, b"first")
        return not store.create(PROBE_NAME, b"second")
    finally:
        store.delete([PROBE_NAME])


def too_large(url: str, name: str, *, max_bytes: int, n_bytes: int | None = None) -> FormatError:
    """Return the error for a whole object that is larger than its reader takes.

    Args:
        url: Root of the store, without credentials.
        name: The object.
        max_bytes: Size of the largest object that the reader takes.
        n_bytes: Size of the object; None: only that it is larger is known.

    Examples:
        >>> print(too_large("s3://bucket/ds", "latest", max_bytes=64))
        s3://bucket/ds: latest: expected at most 64 bytes, got 65 or more
    """
    got = f"{max_bytes + 1} or more" if n_bytes is None else n_bytes
    return FormatError(f"{url}: {name}: expected at most {max_bytes} bytes, got {got}")


def exact(body: bytes, wanted: ByteRange) -> bytes:
    """Return the body of a range.

    Raises:
        StoreError: It is not as long as its range.
    """
    if len(body) == len(wanted):
        return body
    is_long = len(body) > len(wanted)
    reason = (
        "server ignores Range requests" if is_long else "object is shorter or the reply was cut"
    )
    raise StoreError(
        f"{wanted.name}: asked for bytes {wanted.start}..{wanted.stop} ({len(wanted)}), got "
        f"{len(body)}: the {reason}"
    )
