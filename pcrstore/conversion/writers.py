"""Where built records go: objects of records, or the chunks of growing arrays.

Both sinks place records in order and give each unit's bytes to the caller to store, so that stores,
threads and the journal stay in one place (`convert`).

    RecordWriter   header | regions    one object per unit
    ArrayWriter    region g of every record appended to array g, cut into equal chunks
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pcrstore.conversion.record_builder import BuiltRecord
from pcrstore.format import ObjectEntry, Rows, array_name, concat, record_dtype

__all__ = ["ArrayWriter", "PlacedUnit", "RecordWriter"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedUnit:
    """A unit that is ready to be written."""

    object: ObjectEntry | None
    rows: Rows | None
    """None when no image was left."""
    objects: tuple[tuple[str, bytes], ...]
    """What to put, by name."""


def _rows(records: list[BuiltRecord], placed: NDArray[np.void]) -> Rows | None:
    if not records:
        return None
    each = [
        Rows(records=placed[i : i + 1], headers=[r.header], restore=r.restore, columns=r.columns)
        for i, r in enumerate(records)
    ]
    return concat(each)


@dataclass(slots=True)
class RecordWriter:
    """Record layout: a unit's records back to back in one object."""

    n_groups: int
    _records: list[BuiltRecord] = field(default_factory=list)

    def add(self, record: BuiltRecord) -> None:
        """Place a record; one without images is left out."""
        if record.n_images:
            self._records.append(record)

    def finish_unit(self, name: str, uid: bytes) -> PlacedUnit:
        """Return the unit's rows and its object."""
        records, self._records = self._records, []
        placed = np.zeros(len(records), record_dtype("record", self.n_groups))
        pieces: list[bytes] = []
        at = 0
        for row, r in zip(placed, records, strict=True):
            row["ordinal"], row["n_images"], row["start"] = r.ordinal, r.n_images, at
            row["length"] = [len(x) for x in r.regions]
            pieces.extend((r.header, *r.regions))
            at += len(r.header) + sum(len(x) for x in r.regions)
        if not records:
            return PlacedUnit(object=None, rows=None, objects=())
        entry = ObjectEntry(name=name, uid=uid, n_bytes=at)
        data = b"".join(pieces)
        return PlacedUnit(object=entry, rows=_rows(records, placed), objects=((name, data),))


@dataclass(slots=True)
class ArrayWriter:
    """Zarr layout: each region appended to its array, cut into equal chunks.

    A Zarr chunk is always stored in full, so the last one of each array is filled up with zeros.
    For a dataset that fits in memory (`hold`) nothing is cut before the end, where chunks are sized
    to divide each array; a larger one loses half a chunk per array.

    After a kill, the records of some finished units are built again, because what no chunk held yet
    was in memory alone: `resume` says up to where chunks are stored.
    """

    n_groups: int
    name: str
    chunk_bytes: int
    """Size of a chunk, or with `hold` about that."""
    hold: bool
    positions: list[int] = field(default_factory=list)
    """Bytes placed in each array so far. (G + 1,)"""
    _stored: list[int] = field(default_factory=list)
    """Bytes of each array that are in stored chunks: a multiple of `chunk_bytes`."""
    _tails: list[bytearray] = field(default_factory=list)
    """Bytes from there to the position."""
    _records: list[BuiltRecord] = field(default_factory=list)
    _starts: list[list[int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.resume([0] * (self.n_groups + 1), [0] * (self.n_groups + 1))

    def stored_of(self, totals: Sequence[int]) -> list[int]:
        """Return the bytes that are in stored chunks once `totals` have been placed."""
        if self.hold:
            return [0] * len(totals)
        return [t // self.chunk_bytes * self.chunk_bytes for t in totals]

    def resume(self, positions: Sequence[int], totals: Sequence[int]) -> None:
        """Go on at `positions`, of arrays whose chunks are stored as `totals` filled them."""
        self.positions = list(positions)
        self._stored = self.stored_of(totals)
        self._tails = [bytearray() for _ in positions]

    def add(self, record: BuiltRecord) -> None:
        """Place a record; one without images is left out."""
        if not record.n_images:
            return
        self._records.append(record)
        self._starts.append(list(self.positions))
        for g, region in enumerate(record.regions):
            known = max(0, min(len(region), self._stored[g] - self.positions[g]))
            self._tails[g] += region[known:]
            self.positions[g] += len(region)

    def finish_unit(self) -> PlacedUnit:
        """Return the unit's rows and the chunks that it filled."""
        records, self._records = self._records, []
        starts, self._starts = self._starts, []
        placed = np.zeros(len(records), record_dtype("zarr", self.n_groups))
        for row, r, start in zip(placed, records, starts, strict=True):
            row["ordinal"], row["n_images"], row["start"] = r.ordinal, r.n_images, start
            row["length"] = [len(x) for x in r.regions]
        full: list[tuple[str, bytes]] = []
        if not self.hold:
            for g in range(len(self._tails)):
                full.extend(self._cut(g, self.chunk_bytes, last=False))
        return PlacedUnit(object=None, rows=_rows(records, placed), objects=tuple(full))

    def chunk_sizes(self) -> tuple[int, ...]:
        """Return the chunk size of each array, (G + 1,), once everything is placed."""
        if not self.hold:
            return (self.chunk_bytes,) * len(self.positions)
        counts = [max(1, -(-n // self.chunk_bytes)) for n in self.positions]
        return tuple(max(1, -(-n // c)) for n, c in zip(self.positions, counts, strict=True))

    def finish(self) -> Iterator[tuple[str, bytes]]:
        """Yield the chunks that are not stored yet, the last of each array filled up with zeros."""
        for g, size in enumerate(self.chunk_sizes()):
            yield from self._cut(g, size, last=True)

    def _cut(self, g: int, size: int, *, last: bool) -> Iterator[tuple[str, bytes]]:
        tail = self._tails[g]
        array = f"{self.name}/{array_name(g, self.n_groups)}"
        while len(tail) >= size or (last and tail):
            chunk = bytes(tail[:size]).ljust(size, b"\0")
            yield f"{array}/c/{self._stored[g] // size}", chunk
            del tail[:size]
            self._stored[g] += size
