"""Byte ranges in named objects, and the one place where they are merged.

Pure. Ranges are half-open everywhere in pcrstore; only a client that speaks HTTP subtracts one.

    wanted    |--|  |---|                 |--|   |-|
                  ^gap                  ^gap too wide
    requests  |---------|                 |------|
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from pcrstore.errors import OptionError

__all__ = ["ByteRange", "Coalesced", "Request", "coalesce", "divide", "runs_of"]


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """Bytes `start` up to but not including `stop` of the object called `name`."""

    name: str
    """Object name relative to the dataset."""
    start: int
    """First byte wanted."""
    stop: int
    """One past the last byte wanted."""

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise OptionError(
                f"range of {self.name} must have 0 <= start <= stop, got {self.start}..{self.stop}"
            )

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One GET, and the wanted ranges that its body holds."""

    range: ByteRange
    members: tuple[int, ...]
    """Positions in `wanted` of the ranges inside, in order of start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coalesced:
    """Ranges, the requests that read them, and the way back from bodies to ranges."""

    wanted: Sequence[ByteRange]
    requests: tuple[Request, ...]
    """Ordered by name and start. Every non-empty range of `wanted` is in exactly one."""

    def split(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Return the bytes of each range of `wanted`, given the body of each request.

        A range of no request is empty. A body that is too short gives short ranges: whoever
        decodes them checks their length.
        """
        out = [b""] * len(self.wanted)
        for request, body in zip(self.requests, bodies, strict=True):
            base = request.range.start
            for i in request.members:
                wanted = self.wanted[i]
                out[i] = body[wanted.start - base : wanted.stop - base]
        return out


def coalesce(wanted: Sequence[ByteRange], *, max_gap: int, max_size: int) -> Coalesced:
    """Merge ranges that are close enough that one request beats two.

    Overlapping and repeated ranges share their bytes. Empty ranges are left out: they need no
    request.

    Args:
        wanted: Ranges in any order.
        max_gap: Bytes we would rather download than pay another request for; see
            `cost.break_even_gap`. 0 merges touching ranges, -1 keeps even those apart.
        max_size: No merge of ranges that lie apart makes a request longer than this; one range,
            or ranges that overlap, may be longer.

    Examples:
        Bytes 2..4 are read over, for a gap of 2 is cheaper than another request; 6..20 are not.

        >>> wanted = [ByteRange("a", 4, 6), ByteRange("a", 0, 2), ByteRange("a", 20, 23)]
        >>> merged = coalesce(wanted, max_gap=2, max_size=100)
        >>> [(r.range.start, r.range.stop, r.members) for r in merged.requests]
        [(0, 6, (1, 0)), (20, 23, (2,))]
        >>> merged.split([b"012345", b"xyz"])
        [b'45', b'01', b'xyz']
    """
    order = sorted((i for i in range(len(wanted)) if len(wanted[i])), key=lambda i: wanted[i])
    requests: list[Request] = []
    members: list[int] = []
    name, start, stop = "", 0, 0
    for i in order:
        r = wanted[i]
        joined = max(stop, r.stop)
        overlaps = r.start < stop
        near = r.start - stop <= max_gap and joined - start <= max_size
        if members and r.name == name and (overlaps or near):
            stop = joined
            members.append(i)
            continue
        if members:
            requests.append(Request(range=ByteRange(name, start, stop), members=tuple(members)))
        name, start, stop, members = r.name, r.start, r.stop, [i]
    if members:
        requests.append(Request(range=ByteRange(name, start, stop), members=tuple(members)))
    return Coalesced(wanted=wanted, requests=tuple(requests))


def divide(wanted: ByteRange, max_size: int) -> list[ByteRange]:
    """Return the fewest ranges of equal size that make up one, none longer than `max_size`.

    >>> [len(r) for r in divide(ByteRange("a", 0, 10), 4)]
    [3, 3, 4]
    """
    n = max(1, -(-len(wanted) // max_size))
    edges = [wanted.start + len(wanted) * i // n for i in range(n + 1)]
    return [ByteRange(wanted.name, a, b) for a, b in pairwise(edges)]


def runs_of(sizes: Iterable[int], limit: int, *more: tuple[Iterable[int], int]) -> Iterator[range]:
    """Yield runs of neighbouring items whose sizes sum to a limit at the most.

    A run ends before the item that would exceed the limit; one item may exceed it alone.

    Args:
        sizes: Size of each item.
        limit: Largest sum in a run.
        more: Other sizes of the same items, each with a limit that holds too.

    Examples:
        >>> list(runs_of([3, 3, 3, 9, 1], 7))
        [range(0, 2), range(2, 3), range(3, 4), range(4, 5)]

        At most 7 bytes and one item a run:

        >>> list(runs_of([3, 3], 7, ([1, 1], 1)))
        [range(0, 1), range(1, 2)]
    """
    limits = (limit, *(m for _, m in more))
    start, stop = 0, 0
    totals: list[int] = []
    for row in zip(sizes, *(column for column, _ in more), strict=False):
        grown = [total + size for total, size in zip(totals, row, strict=False)]
        if any(total > most for total, most in zip(grown, limits, strict=False)):
            yield range(start, stop)
            start, grown = stop, []
        totals = grown or list(row)
        stop += 1
    if stop:
        yield range(start, stop)
