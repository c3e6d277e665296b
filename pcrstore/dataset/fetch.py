"""Range reads that are counted, coalesced and repeated where the bytes come damaged.

`index_reader` and `reader` both read by these functions. Locks are free in a forked child.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from pcrstore.concurrency import ForkSafeLock
from pcrstore.core import ByteRange, coalesce
from pcrstore.cost import CostModel, break_even_gap
from pcrstore.errors import ChecksumError, FormatError, NotFoundError
from pcrstore.storage import ReadableStore

__all__ = [
    "ATTEMPTS",
    "Counter",
    "decode_checked",
    "fetch_ranges",
    "get_ranges",
    "sizes_of",
]

Decoded = TypeVar("Decoded")

ATTEMPTS: Final = 3
"""Reads of bytes that fail their checksum, the first included. A transfer may damage bytes; three
transfers that fail alike mean that the stored bytes are damaged."""


@dataclass(slots=True)
class Counter:
    """Requests and bytes of one kind (index or images), counted by all threads together."""

    n_requests: int = 0
    n_bytes: int = 0
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock, repr=False)

    def add(self, n_requests: int, n_bytes: int) -> None:
        """Add requests and the bytes that they returned."""
        with self._lock:
            self.n_requests += n_requests
            self.n_bytes += n_bytes


def sizes_of(store: ReadableStore, names: Sequence[str]) -> Sequence[int]:
    """Return the sizes of objects that the dataset names, a request each.

    Raises:
        FormatError: An object is gone.
        StoreError: Any other failure.
    """
    try:
        return store.sizes(names)
    except NotFoundError as e:
        raise FormatError(f"an object that the dataset names is missing: {e}") from e


def get_ranges(store: ReadableStore, ranges: Sequence[ByteRange]) -> list[bytes]:
    """Read ranges of objects that the dataset names.

    Raises:
        FormatError: An object is gone: the dataset is damaged, and trying again would not help.
        StoreError: Any other failure.
    """
    try:
        return store.get_ranges(ranges)
    except NotFoundError as e:
        raise FormatError(f"an object that the dataset names is missing: {e}") from e


def fetch_ranges(
    store: ReadableStore, ranges: Sequence[ByteRange], cost: CostModel, counter: Counter
) -> list[bytes]:
    """Read ranges with as few requests as the cost model finds cheapest; return them in order."""
    merged = coalesce(ranges, max_gap=break_even_gap(cost), max_size=cost.max_request)
    bodies = get_ranges(store, [r.range for r in merged.requests])
    counter.add(len(bodies), sum(map(len, bodies)))
    return merged.split(bodies)


def decode_checked(
    decode: Callable[[Sequence[bytes]], Decoded],
    fetched: Sequence[bytes],
    fetch_again: Callable[[], Sequence[bytes]],
) -> Decoded:
    """Decode what was fetched; fetch it again where it fails its checksum.

    Args:
        decode: Raises `ChecksumError` where the bytes are not what was stored.
        fetched: The first argument of `decode`.
        fetch_again: Reads the same ranges from the store, and not from a cache.

    Raises:
        ChecksumError: The bytes are damaged at the last of `ATTEMPTS` reads, too.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return decode(fetched)
        except ChecksumError:
            fetched = fetch_again()
    return decode(fetched)
