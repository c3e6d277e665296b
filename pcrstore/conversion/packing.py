"""Which image goes into which record, and which record into which object.

Pure. Packing needs nothing but the listing, so that it is the same for every worker count and after
a resume: the order is a hash of the key, and sizes are those of the source files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from pcrstore.format import MAX_IMAGES, MAX_PART_IMAGES

__all__ = ["MAX_RECORD_BYTES", "RecordSpan", "Unit", "pack", "shuffled"]

MAX_RECORD_BYTES = 2**30
"""A record is built in memory, and its lengths are u32s: one counted by images ends here too."""


def shuffled(keys: Sequence[str], *, seed: int) -> list[int]:
    """Return the positions of `keys` in a random order that depends on the seed and keys alone.

    Sorting by a keyed hash needs no generator whose stream must stay the same for ever, and adding
    a file moves none of the others relative to each other.
    """
    salt = seed.to_bytes(8, "little", signed=True)
    digests = [
        hashlib.blake2b(k.encode("utf-8", "surrogateescape"), digest_size=16, salt=salt).digest()
        for k in keys
    ]
    return sorted(range(len(keys)), key=lambda i: (digests[i], keys[i]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSpan:
    """Samples `start` to `stop` of the packing order make one record."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Records that are converted, stored and resumed together; one object in the record layout."""

    number: int
    records: tuple[RecordSpan, ...]


def pack(
    sizes: Sequence[int],
    *,
    record_bytes: int | None,
    record_images: int | None,
    object_bytes: int,
) -> list[Unit]:
    """Cut a sequence of samples into records and units.

    Args:
        sizes: Bytes of each sample's source, in packing order.
        record_bytes: Close a record before it exceeds this; one image may exceed it alone.
        record_images: Close a record at this many images, or before it exceeds
            `MAX_RECORD_BYTES`. At least one of the two is given.
        object_bytes: Close a unit before its sources exceed this, or its images what an index part
            holds; one record may exceed `object_bytes` alone.
    """
    limit = min(record_images or MAX_IMAGES, MAX_IMAGES)
    max_bytes = min(record_bytes or MAX_RECORD_BYTES, MAX_RECORD_BYTES)
    records: list[tuple[RecordSpan, int]] = []
    start, total = 0, 0
    for i, size in enumerate(sizes):
        full = i - start == limit or total + size > max_bytes
        if i > start and full:
            records.append((RecordSpan(start=start, stop=i), total))
            start, total = i, 0
        total += size
    if start < len(sizes):
        records.append((RecordSpan(start=start, stop=len(sizes)), total))
    units: list[Unit] = []
    pending: list[RecordSpan] = []
    total = 0
    for span, size in records:
        n_images = span.stop - pending[0].start if pending else 0
        if pending and (total + size > object_bytes or n_images > MAX_PART_IMAGES):
            units.append(Unit(number=len(units), records=tuple(pending)))
            pending, total = [], 0
        pending.append(span)
        total += size
    if pending:
        units.append(Unit(number=len(units), records=tuple(pending)))
    return units
