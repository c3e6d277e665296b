"""Placements: byte ranges of the regions of a record, in either layout.

Pure. The planner and the assembler see only these two classes, and so treat both layouts alike.
A record's regions are its scan groups 0..G-1 and, as region G, its restore blobs. In the record
layout they are one stretch of a run, which is an object; in the zarr layout each is a stretch of a
run of its own, which is an array.

    ObjectPlacement  objects/a.pcr    ... header | group 1 | group 2 | restore ...
    ArrayPlacement   zarr/b/group_1   ... | group 1 | ...
                     zarr/b/group_2   ... | group 2 | ...
                     zarr/b/restore   ... | restore | ...
"""

import itertools
from dataclasses import dataclass

from pcrstore.core import ByteRange, record_seed
from pcrstore.format.index import Run
from pcrstore.format.names import chunk_key
from pcrstore.format.record import header_size

__all__ = ["ArrayPlacement", "ObjectPlacement", "Placement", "chunk_ranges"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordPlacement:
    """A record that has a place, in either layout."""

    runs: tuple[Run, ...]
    """The run that holds the record, or that of each region. (1,) or (G + 1,)"""
    ordinal: int
    """Number of the record among those of its uid."""
    n_images: int
    starts: tuple[int, ...]
    """First byte of the record in its run, or of each region. (1,) or (G + 1,)"""
    lengths: tuple[int, ...]
    """Bytes of each region. (G + 1,)"""

    @property
    def seed(self) -> int:
        """Binds the record's checksums; see `checksum.record_seed`."""
        return record_seed(bytes.fromhex(self.runs[0].uid), self.ordinal)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectPlacement(_RecordPlacement):
    """Record layout: header, groups and restore region are one stretch of an object."""

    has_header = True

    @property
    def name(self) -> str:
        """Name of the object."""
        return self.runs[0].name

    @property
    def start(self) -> int:
        """First byte of the header in the object."""
        return self.starts[0]

    @property
    def header_bytes(self) -> int:
        """Bytes of the header."""
        return header_size(self.n_images, len(self.lengths) - 1)

    def prefix(self, k: int) -> list[ByteRange]:
        """Return the header and groups 1..k: always one range."""
        stop = self.start + self.header_bytes + sum(self.lengths[:k])
        return [ByteRange(self.name, self.start, stop)]

    def groups(self, k: int) -> list[ByteRange]:
        """Return groups 1..k one by one, the header with the first."""
        stops = itertools.accumulate(self.lengths[:k], initial=self.start + self.header_bytes)
        edges = [self.start, *itertools.islice(stops, 1, None)]
        return [ByteRange(self.name, a, b) for a, b in itertools.pairwise(edges)]

    def locate(self, region: int, start: int, stop: int) -> list[ByteRange]:
        """Return the ranges of bytes `start` to `stop` of a region."""
        base = self.start + self.header_bytes + sum(self.lengths[:region])
        return [ByteRange(self.name, base + start, base + stop)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPlacement(_RecordPlacement):
    """Zarr layout: each region is a stretch of a 1-D array in equal chunks."""

    has_header = False

    @property
    def name(self) -> str:
        """Name of the Zarr group that has the arrays."""
        return self.runs[0].name.rpartition("/")[0]

    def prefix(self, k: int) -> list[ByteRange]:
        """Return groups 1..k: a range each, two where a chunk ends inside."""
        return [r for g in range(k) for r in self.locate(g, 0, self.lengths[g])]

    def groups(self, k: int) -> list[ByteRange]:
        """Return the same: here groups lie apart."""
        return self.prefix(k)

    def locate(self, region: int, start: int, stop: int) -> list[ByteRange]:
        """Return the ranges of bytes `start` to `stop` of a region."""
        run, base = self.runs[region], self.starts[region]
        if run.chunk is None:
            return [ByteRange(run.name, base + start, base + stop)]
        return chunk_ranges(run.name, base + start, base + stop, run.chunk)


Placement = ObjectPlacement | ArrayPlacement


def chunk_ranges(array: str, start: int, stop: int, chunk_bytes: int) -> list[ByteRange]:
    """Return the ranges of chunk objects that hold bytes `start` to `stop` of a 1-D array.

    >>> [(r.name, r.start, r.stop) for r in chunk_ranges("a", 6, 19, 8)]
    [('a/c/0', 6, 8), ('a/c/1', 0, 8), ('a/c/2', 0, 3)]
    """
    out: list[ByteRange] = []
    while start < stop:
        chunk, offset = divmod(start, chunk_bytes)
        n = min(stop - start, chunk_bytes - offset)
        out.append(ByteRange(f"{array}/{chunk_key(chunk)}", offset, offset + n))
        start += n
    return out
