"""Range reads that are coalesced and counted.

What the index (`catalog`) and the images (`reader`) have in common.
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
    "checked",
    "fetch_ranges",
    "get_ranges",
]

Cut = TypeVar("Cut")

ATTEMPTS: Final = 3
"""Reads of bytes that fail their checksum: the first and two more, then the error is real."""


@dataclass(slots=True)
class Counter:
    """Requests and bytes of one kind, added up over threads."""

    n_requests: int = 0
    n_bytes: int = 0
    _lock: ForkSafeLock = field(default_factory=ForkSafeLock, repr=False)

    def add(self, n_requests: int, n_bytes: int) -> None:
        """Count some more."""
        with self._lock:
            self.n_requests += n_requests
            self.n_bytes += n_bytes


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
    requests = coalesce(ranges, max_gap=break_even_gap(cost), max_size=cost.max_request)
    bodies = get_ranges(store, [r.range for r in requests])
    counter.add(len(requests), sum(map(len, bodies)))
    out = [b""] * len(ranges)
    for request, body in zip(requests, bodies, strict=True):
        base = request.range.start
        for i in request.members:
            out[i] = body[ranges[i].start - base : ranges[i].stop - base]
    return out


def checked(
    cut: Callable[[Sequence[bytes]], Cut],
    parts: Sequence[bytes],
    again: Callable[[], Sequence[bytes]],
) -> Cut:
    """Return what `cut` makes of what was read; read it again while that fails its checksum.

    Args:
        cut: Makes it of `parts`.
        parts: As they were read.
        again: Reads them anew, from where they are stored and from no cache.

    Raises:
        ChecksumError: Stored bytes are damaged, also after reading them again.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return cut(parts)
        except ChecksumError:
            parts = again()
    return cut(parts)
