"""Assign images to records, and records to units.

    files ──packing_order──▶ a seeded order, split by split ──pack──▶ records of about 4 MiB
                                                                      units of about 128 MiB

Pure. Packing needs the listing alone, so that it is the same for every worker count and after a
resume: the order is a hash of the key, and sizes are those of the source files. A unit is what is
stored, noted and resumed at once; in the record layout it becomes one object.

Six files of 3 bytes, at most 7 bytes a record and 12 a unit:

    >>> units = pack([3] * 6, record_bytes=7, record_images=None, object_bytes=12)
    >>> [[(r.start, r.stop) for r in unit.records] for unit in units]
    [[(0, 2), (2, 4)], [(4, 6)]]
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Final

from pcrstore.conversion.sources.base import SourceFile
from pcrstore.core import runs_of
from pcrstore.format import MAX_IMAGES, MAX_PART_IMAGES, MAX_PART_KEYS

__all__ = ["MAX_RECORD_BYTES", "Unit", "key_bytes", "pack", "packing_order", "shuffled"]

MAX_RECORD_BYTES: Final = 2**30
"""A record is built in memory, and its lengths are u32s: one counted by images ends here too."""


def shuffled(keys: Sequence[str], *, seed: int) -> list[int]:
    """Return the positions of `keys` in a random order that depends on the seed and keys alone.

    Sorting by a keyed hash needs no generator whose stream must stay the same for ever, and adding
    a file moves none of the others relative to each other.
    """
    salt = seed.to_bytes(8, "little", signed=True)
    digests = [
        hashlib.blake2b(k.encode("utf-8", "surrogatepass"), digest_size=16, salt=salt).digest()
        for k in keys
    ]
    return sorted(range(len(keys)), key=lambda i: (digests[i], keys[i]))


def packing_order(files: Sequence[SourceFile], *, shuffle: bool, seed: int) -> list[SourceFile]:
    """Return the files in the order in which records hold them: each split by itself.

    A record that held two splits would be read for the sake of a few of its images.
    """
    if not shuffle:
        return list(files)
    mixed = [files[i] for i in shuffled([f.key for f in files], seed=seed)]
    return sorted(mixed, key=lambda f: f.split or "")


def key_bytes(key: str) -> int:
    """Return the bytes that a key takes in an index part, its length among them."""
    return 4 + len(key.encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Records that are converted, stored and resumed together; one object in the record layout."""

    number: int
    records: tuple[range, ...]
    """Places in the packing order of the files of each record."""
    first_record: int
    """Number of records in the units before this one."""

    @property
    def n_files(self) -> int:
        """Number of source files."""
        return self.records[-1].stop - self.records[0].start


def pack(
    sizes: Sequence[int],
    *,
    keys: Iterable[int] = repeat(0),
    record_bytes: int | None,
    record_images: int | None,
    object_bytes: int,
) -> list[Unit]:
    """Cut a sequence of files into records, and those into units.

    Args:
        sizes: Bytes of each file, in packing order.
        keys: Bytes that the key of each takes in an index part, which holds whole records.
        record_bytes: Close a record before it exceeds this; one image may exceed it alone.
        record_images: Close a record at this many images, or before it exceeds
            `MAX_RECORD_BYTES`. At least one of the two is given.
        object_bytes: Close a unit before its files exceed this, or its images what an index part
            holds; one record may exceed `object_bytes` alone.
    """
    max_bytes = min(record_bytes or MAX_RECORD_BYTES, MAX_RECORD_BYTES)
    max_images = min(record_images or MAX_IMAGES, MAX_IMAGES)
    of_keys = [*islice(keys, len(sizes))]
    runs = [*runs_of(sizes, max_bytes, (repeat(1), max_images), (of_keys, MAX_PART_KEYS))]
    totals, key_totals = (
        [sum(some[run.start : run.stop]) for run in runs] for some in (sizes, of_keys)
    )
    of_unit = runs_of(
        totals, object_bytes, (map(len, runs), MAX_PART_IMAGES), (key_totals, MAX_PART_KEYS)
    )
    return [
        Unit(
            number=number,
            records=tuple(runs[u.start : u.stop]),
            first_record=u.start,
        )
        for number, u in enumerate(of_unit)
    ]
