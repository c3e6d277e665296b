"""Zarr layout: one array per region, cut into equal chunks, and arrays that describe them.

    zarr/<conversion>/group_1/c/0, c/1, ...    group 1 of every record, back to back
                      restore/c/0, ...         restore region of every record
                      labels, key_bytes, ...   side arrays: what a plain Zarr reader needs
                      zarr.json                metadata of the group and its arrays
    zarr.json, zarr/zarr.json                  empty groups, the same for every dataset

A Zarr chunk is always stored in full, so the last one of each array is filled up with zeros. A
dataset that fits in memory (`hold`) is cut at the end, into chunks whose size divides each array;
one that does not is cut as it grows, and loses half a chunk per array on average.

Units adjoin in the arrays, so after a kill only units without a hole before them count as finished.
Bytes that filled no chunk were in memory alone: the records of the last finished units are built
and placed again for them. With chunks of 100 bytes and one array, into which units 0, 1 and 2 have
put bytes 0..80, 80..130 and 130..190, chunk 0 is stored and bytes 100..190 are lost; they are in
units 1 and 2, which are replayed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from pcrstore.conversion.ids import Ids
from pcrstore.conversion.journal import FinishedUnit
from pcrstore.conversion.options import Options
from pcrstore.conversion.packing import Unit
from pcrstore.conversion.record_builder import BuiltRecord
from pcrstore.conversion.writer import Extra, Placed, Resumed, rows_of
from pcrstore.core import record_seed
from pcrstore.errors import OptionError
from pcrstore.format import (
    MAX_PIECES,
    ROOT_JSON,
    ROOTS,
    Rows,
    Run,
    SideRows,
    array_name,
    chunk_key,
    even_chunk,
    region_specs,
    side_objects,
    unbound_checksums,
    zarr_group_name,
)

__all__ = ["ArrayWriter"]

_MIN_CHUNK: Final = 2**20
_CHUNKS: Final = 300
"""A dataset that would have fewer chunks than this gets smaller ones, of `_MIN_CHUNK` at least:
filling up the last chunk of each array then costs about 1 % of the dataset at most."""

_MOST_CHUNKS: Final = MAX_PIECES // 2 - 1
"""Chunks of `chunk_bytes` that a region of a record may fill. With `hold` chunks may turn out half
as large, and a region begins and ends inside of one."""


@dataclass(slots=True, kw_only=True)
class ArrayWriter:
    """Writer of one array per region, of side arrays and of Zarr metadata."""

    ids: Ids
    group_labels: tuple[str, ...]
    classes: tuple[str, ...]
    chunk_bytes: int
    """Size of a chunk; with `hold` its approximate size."""
    hold: bool
    """True if all bytes stay in memory until the end."""
    _positions: list[int] = field(init=False)
    """Bytes placed in each array so far. (G + 1,)"""
    _stored: list[int] = field(init=False)
    """Bytes of each array that are in stored chunks: a multiple of `chunk_bytes`."""
    _tails: list[bytearray] = field(init=False)
    """Bytes of each array from `_stored` to the position."""
    _side: list[SideRows] = field(default_factory=list)
    """Of each part of the index."""
    _next_unit: int = 0
    _is_cut_off: bool = False
    """True once a unit was refused: those after it have no place."""

    def __post_init__(self) -> None:
        self._start([0] * self._n_arrays, [0] * self._n_arrays)

    @classmethod
    def sized(
        cls,
        ids: Ids,
        options: Options,
        *,
        group_labels: tuple[str, ...],
        classes: tuple[str, ...],
        n_bytes: int,
    ) -> "ArrayWriter":
        """Return the writer for a source of `n_bytes` bytes."""
        hold = n_bytes <= options.hold_bytes
        least = options.chunk_bytes if hold else max(_MIN_CHUNK, n_bytes // _CHUNKS)
        return cls(
            ids=ids,
            group_labels=group_labels,
            classes=classes,
            chunk_bytes=min(options.chunk_bytes, least),
            hold=hold,
        )

    @property
    def _n_groups(self) -> int:
        return len(self.group_labels)

    @property
    def _n_arrays(self) -> int:
        return self._n_groups + 1

    @property
    def _folder(self) -> str:
        return zarr_group_name(self.ids.conversion)

    @property
    def scope(self) -> str:
        """The policy: a unit that another policy left out would move all that follow."""
        return self.ids.policy

    def address(self, unit: Unit) -> tuple[bytes, int]:
        """Return the id of the Zarr group; records are numbered through it."""
        return bytes.fromhex(self.ids.conversion), unit.first_record

    def resume(self, noted: Mapping[int, FinishedUnit]) -> Resumed:
        """Go on after the units up to the first hole, the last of them placed once more."""
        done: dict[int, FinishedUnit] = {}
        ends = [[0] * self._n_arrays]
        while (unit := noted.get(len(done))) is not None:
            grown = [0] * self._n_arrays
            if unit.rows is not None:
                grown = unit.rows.records["length"].sum(axis=0).tolist()
            ends.append([a + b for a, b in zip(ends[-1], grown, strict=True)])
            done[len(done)] = unit
        stored = self._stored_of(ends[-1])
        first = len(done)
        while first and any(a > b for a, b in zip(ends[first], stored, strict=True)):
            first -= 1
        self._start(ends[first], stored)
        self._next_unit = first
        return Resumed(done=done, replayed=frozenset(range(first, len(done))))

    def _stored_of(self, ends: Sequence[int]) -> list[int]:
        """Return the bytes that are in stored chunks once arrays have grown to `ends`."""
        if self.hold:
            return [0] * len(ends)
        return [end // self.chunk_bytes * self.chunk_bytes for end in ends]

    def _start(self, positions: Sequence[int], stored: Sequence[int]) -> None:
        self._positions, self._stored = list(positions), list(stored)
        self._tails = [bytearray() for _ in positions]

    def place(self, unit: Unit, records: Sequence[BuiltRecord]) -> Placed | None:
        """Append the records; return the chunks that became full. None after a refused file."""
        if unit.number != self._next_unit:
            raise AssertionError(f"expected unit {self._next_unit} next, got {unit.number}")
        self._next_unit += 1
        self._is_cut_off = self._is_cut_off or any(r.is_refused for r in records)
        if self._is_cut_off:
            return None
        kept = [r for r in records if r.n_images]
        starts = [self._append(r) for r in kept]
        full: list[tuple[str, bytes]] = []
        if not self.hold:
            for g in range(self._n_arrays):
                full.extend(self._cut(g, self.chunk_bytes, last=False))
        return Placed(object=None, rows=rows_of(kept, starts, "zarr"), objects=tuple(full))

    def _append(self, record: BuiltRecord) -> list[int]:
        """Append each region to its array; return where they begin."""
        starts = list(self._positions)
        longest = max(map(len, record.regions))
        if longest > _MOST_CHUNKS * self.chunk_bytes:
            raise OptionError(
                f"chunk_bytes must be at least {-(-longest // _MOST_CHUNKS)}, as a record has "
                f"{longest} bytes of one scan group or of restore blobs; got {self.chunk_bytes}"
            )
        for g, region in enumerate(record.regions):
            # A replayed record may begin in a chunk that is stored already.
            known = max(0, min(len(region), self._stored[g] - self._positions[g]))
            self._tails[g] += region[known:]
            self._positions[g] += len(region)
        return starts

    def add_rows(self, rows: Rows) -> None:
        """Keep the columns that become side arrays."""
        uid = bytes.fromhex(self.ids.conversion)
        seeds = [record_seed(uid, int(o)) for o in rows.records["ordinal"]]
        lengths, checksums, opaque = unbound_checksums(
            rows.headers, seeds, rows.records, self._n_groups
        )
        self._side.append(
            SideRows(
                lengths=lengths,
                checksums=checksums,
                opaque=opaque,
                restore_lengths=rows.restore["length"],
                images_per_record=rows.records["n_images"],
                labels=np.asarray(rows.columns["label"], np.int32),
                keys=[str(key) for key in rows.columns["key"]],
            )
        )

    def runs(self) -> tuple[Run, ...]:
        """Return the arrays of the regions, (G + 1,), once every unit is placed."""
        sizes = zip(self._positions, self._chunk_sizes(), strict=True)
        return tuple(
            Run(
                name=f"{self._folder}/{array_name(g, self._n_groups)}",
                uid=self.ids.conversion,
                n_bytes=n,
                chunk=size,
            )
            for g, (n, size) in enumerate(sizes)
        )

    def _chunk_sizes(self) -> tuple[int, ...]:
        """Return the chunk size of each array, (G + 1,), once every unit is placed.

        With `hold`, 2,500 bytes and `chunk_bytes` 1000 make 3 chunks of 834: 2 bytes are padding.
        """
        if not self.hold:
            return (self.chunk_bytes,) * self._n_arrays
        return tuple(even_chunk(n, self.chunk_bytes) for n in self._positions)

    def finish(self) -> Iterator[Extra]:
        """Yield the chunks that are not stored yet, then side arrays and metadata."""
        for g, size in enumerate(self._chunk_sizes()):
            for name, data in self._cut(g, size, last=True):
                yield Extra(name=name, data=data, is_checked=False)
        objects = side_objects(
            region_specs(self._positions, self._chunk_sizes()),
            self._all_side_rows(),
            conversion=self.ids.conversion,
            group_labels=self.group_labels,
            classes=self.classes,
        )
        for name, data in objects:
            yield Extra(name=f"{self._folder}/{name}", data=data, is_checked=True)
        for name in ROOTS:
            yield Extra(name=name, data=ROOT_JSON, is_checked=True)

    def _all_side_rows(self) -> SideRows:
        side = self._side
        return SideRows(
            lengths=np.concatenate([s.lengths for s in side]),
            checksums=np.concatenate([s.checksums for s in side]),
            opaque=np.concatenate([s.opaque for s in side]),
            restore_lengths=np.concatenate([s.restore_lengths for s in side]),
            images_per_record=np.concatenate([s.images_per_record for s in side]),
            labels=np.concatenate([s.labels for s in side]),
            keys=[key for s in side for key in s.keys],
        )

    def _cut(self, g: int, size: int, *, last: bool) -> Iterator[tuple[str, bytes]]:
        """Take chunks off an array's tail; with `last` the rest too, filled up with zeros."""
        tail = self._tails[g]
        array = f"{self._folder}/{array_name(g, self._n_groups)}"
        while len(tail) >= size or (last and tail):
            chunk = bytes(tail[:size]).ljust(size, b"\0")
            yield f"{array}/{chunk_key(self._stored[g] // size)}", chunk
            del tail[:size]
            self._stored[g] += size
