"""The index of an open dataset, read on demand and remembered.

    image ──image_edges──▶ part ──record table──▶ record, slot      `locate`
    (part, record) ──────▶ its copy of the record's header          `headers`, `restore_rows`
    (image, column) ─────▶ page of the column ──▶ value             `columns`

A part's directory is read when something of the part is first asked for, and its record table with
it, which gives the place of every record. Columns are read by pages; record headers are read one by
one, for scattered reads need few of them. Every read checks itself by a checksum. All ranges that
one call needs are coalesced into one batch of requests, and counted.

Example: parts of 7 and 5 images give `image_edges` [0, 7, 12]. If the first part has records of 4
and 3 images, the `image_edges` of the part are [0, 4, 7]. Image 5 is then in part 0 (0 <= 5 < 7),
in its record 1 (4 <= 5 < 7), at slot 5 - 4 = 1 of 3. Image 9 is number 9 - 7 = 2 of part 1.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import ForkSafeLock
from pcrstore.core import ByteRange, record_seed
from pcrstore.cost import CostModel
from pcrstore.dataset.fetch import Counter, decode_checked, fetch_ranges
from pcrstore.errors import FormatError, OptionError
from pcrstore.format import (
    HEADERS,
    RECORDS,
    RESTORE,
    ArrayPlacement,
    Block,
    Directory,
    Header,
    Manifest,
    Page,
    PartEntry,
    Placement,
    RunPlacement,
    Values,
    check_records,
    decode_directory,
    decode_page,
    header_edges,
    parse_header,
)
from pcrstore.storage import ReadableStore

Decoded = TypeVar("Decoded")

__all__ = ["IndexReader", "Located", "Part"]

_HEADERS_KEPT = 16_384
"""Parsed headers remembered: about 40 MB for records of 32 images."""

_PAGES_KEPT = 256
"""Column pages remembered: about 100 MB when all are keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """An index part whose directory and record table have been read."""

    entry: PartEntry
    directory: Directory
    first_image: int
    """Position in the dataset of its first image."""
    first_record: int
    """Number in the dataset of its first record."""
    records: NDArray[np.void]
    """(R,) rows of the record table."""
    image_edges: NDArray[np.int64]
    """First image of each record, counted in the part, and N. (R + 1,)"""
    header_edges: NDArray[np.int64]
    """First byte of each record's header in the `headers` block, and its end. (R + 1,)"""

    def placement(self, record: int, chunk_bytes: tuple[int, ...]) -> Placement:
        """Return the placement of a record, which is counted in the part."""
        row = self.records[record]
        entry = self.directory.objects[int(row["object"])]
        lengths = tuple(row["length"].tolist())
        if self.directory.layout == "record":
            return RunPlacement(
                uid=entry.uid,
                ordinal=int(row["ordinal"]),
                n_images=int(row["n_images"]),
                name=entry.name,
                start=int(row["start"][0]),
                lengths=lengths,
            )
        return ArrayPlacement(
            uid=entry.uid,
            ordinal=int(row["ordinal"]),
            n_images=int(row["n_images"]),
            name=entry.name,
            chunk_bytes=chunk_bytes,
            starts=tuple(row["start"].tolist()),
            lengths=lengths,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """The records that hold some images: arrays with a value for each image, (n,)."""

    part: NDArray[np.int64]
    """Number of the part."""
    record: NDArray[np.int64]
    """Counted in the part."""
    number: NDArray[np.int64]
    """The same record, counted in the dataset."""
    record_size: NDArray[np.int64]
    """Number of images in the record."""
    slot: NDArray[np.int64]
    """Position of the image in the record."""


class IndexReader:
    """Reads the index of one version of a dataset.

    A pickle holds what the reader was given, and none of what it has read: every process reads the
    pages of its own share.
    """

    def __init__(self, store: ReadableStore, manifest: Manifest, cost: CostModel) -> None:
        self._store = store
        self._manifest = manifest
        self._cost = cost
        self.counter = Counter()
        sizes = np.array([p.n_images for p in manifest.parts], np.int64)
        counts = np.array([p.n_records for p in manifest.parts], np.int64)
        self.image_edges = np.concatenate(([0], np.cumsum(sizes)))
        """First image of each part, and the number of images. (P + 1,)"""
        self.record_edges = np.concatenate(([0], np.cumsum(counts)))
        """First record of each part, and the number of records. (P + 1,)"""
        self._lock = ForkSafeLock()
        self._parts: dict[int, Part] = {}
        self._pages: OrderedDict[tuple[int, str, int], Values] = OrderedDict()
        self._headers: OrderedDict[tuple[int, int], Header] = OrderedDict()

    def __reduce__(self) -> tuple[type["IndexReader"], tuple[ReadableStore, Manifest, CostModel]]:
        return IndexReader, (self._store, self._manifest, self._cost)

    def sibling(self) -> "IndexReader":
        """Return a reader with a counter of its own that shares all that was and will be read."""
        other = IndexReader(self._store, self._manifest, self._cost)
        other._lock = self._lock
        other._parts, other._pages, other._headers = self._parts, self._pages, self._headers
        return other

    def part_of_image(self, image: int) -> int:
        """Return the part that holds an image."""
        return int(np.searchsorted(self.image_edges, image, side="right")) - 1

    def parts(self, wanted: Iterable[int]) -> list[Part]:
        """Return some parts, reading directories and record tables in two batches."""
        numbers = list(wanted)
        with self._lock:
            missing = [p for p in dict.fromkeys(numbers) if p not in self._parts]
            if missing:
                self._load_parts(missing)
            return [self._parts[p] for p in numbers]

    def _load_parts(self, missing: Sequence[int]) -> None:
        m = self._manifest
        directories = self._read_decoded(
            [
                (
                    ByteRange(e.name, 0, e.directory_bytes),
                    partial(
                        decode_directory,
                        entry=e,
                        layout=m.layout,
                        n_groups=m.n_groups,
                        columns=m.columns,
                    ),
                )
                for e in (m.parts[p] for p in missing)
            ]
        )
        wanted = [
            (p, d, page)
            for p, d in zip(missing, directories, strict=True)
            for page in d.blocks[RECORDS].pages
        ]
        values = self._read_pages([(d.entry, d.blocks[RECORDS], page) for _, d, page in wanted])
        for p, d in zip(missing, directories, strict=True):
            tables = [v for (q, _, _), v in zip(wanted, values, strict=True) if q == p]
            self._parts[p] = self._make_part(p, d, np.concatenate([np.asarray(t) for t in tables]))

    def _make_part(self, number: int, d: Directory, records: NDArray[np.void]) -> Part:
        edges = np.concatenate(([0], np.cumsum(records["n_images"], dtype=np.int64)))
        if int(edges[-1]) != d.entry.n_images:
            raise FormatError(
                f"{d.entry.name}: records must hold {d.entry.n_images} images, got {edges[-1]}"
            )
        headers = header_edges(records, d.n_groups)
        block = d.blocks[HEADERS].pages[0]
        if int(headers[-1]) != block.stop - block.start:
            raise FormatError(
                f"{d.entry.name}: record headers must have {headers[-1]} bytes, "
                f"got {block.stop - block.start}"
            )
        m = self._manifest
        check_records(
            records,
            d,
            header_sizes=np.diff(headers),
            totals=(*m.totals.groups, m.totals.restore),
            chunk_bytes=m.chunk_bytes,
        )
        return Part(
            entry=d.entry,
            directory=d,
            first_image=int(self.image_edges[number]),
            first_record=int(self.record_edges[number]),
            records=records,
            image_edges=edges,
            header_edges=headers,
        )

    def locate(self, images: Sequence[int] | NDArray[np.int64]) -> Located:
        """Return the record that holds each of some images, by the record tables of their parts.

        See the example of this module.
        """
        image = np.asarray(images, np.int64)
        part = self.image_edges.searchsorted(image, side="right") - 1
        record, slot, size = (np.empty(len(image), np.int64) for _ in range(3))
        touched = np.flatnonzero(np.bincount(part)).tolist()
        for p, found in zip(touched, self.parts(touched), strict=True):
            here = part == p
            local = image[here] - found.first_image
            r = found.image_edges.searchsorted(local, side="right") - 1
            record[here] = r
            slot[here] = local - found.image_edges[r]
            size[here] = found.records["n_images"][r]
        return Located(
            part=part,
            record=record,
            number=self.record_edges[part] + record,
            record_size=size,
            slot=slot,
        )

    def headers(self, wanted: Sequence[tuple[int, int]]) -> list[Header]:
        """Return the headers of records, each given as (part, record in the part)."""
        unique = list(dict.fromkeys(wanted))
        parts = dict(zip((p for p, _ in unique), self.parts([p for p, _ in unique]), strict=True))
        with self._lock:
            found = {key: self._headers[key] for key in unique if key in self._headers}
        missing = [key for key in unique if key not in found]
        wanted_ranges: list[tuple[ByteRange, Callable[[bytes], Header]]] = []
        for p, r in missing:
            part = parts[p]
            base = part.directory.blocks[HEADERS].pages[0].start
            a, b = int(part.header_edges[r]), int(part.header_edges[r + 1])
            where = ByteRange(part.entry.name, base + a, base + b)
            wanted_ranges.append((where, partial(self._parse_header, part, r)))
        found.update(zip(missing, self._read_decoded(wanted_ranges), strict=True))
        with self._lock:
            for key in unique:
                self._headers[key] = found[key]
                self._headers.move_to_end(key)
            while len(self._headers) > _HEADERS_KEPT:
                self._headers.popitem(last=False)
        return [found[key] for key in wanted]

    def _parse_header(self, part: Part, record: int, data: bytes) -> Header:
        row = part.records[record]
        header = parse_header(
            data,
            seed=record_seed(part.directory.objects[int(row["object"])].uid, int(row["ordinal"])),
            n_images=int(row["n_images"]),
            n_groups=self._manifest.n_groups,
            where=f"{part.entry.name}: header of record {record}",
        )
        if header.group_lengths().tolist() != row["length"][:-1].tolist():
            raise FormatError(f"{part.entry.name}: record {record} and its header disagree")
        return header

    def column(self, name: str, images: Sequence[int] | range) -> Values:
        """Return a column's values for some images, reading the pages that hold them."""
        return self.columns([name], images)[name]

    def columns(self, names: Sequence[str], images: Sequence[int] | range) -> dict[str, Values]:
        """Return several columns' values, in one batch of reads.

        Raises:
            OptionError: No such column.
        """
        known = {c.name for c in self._manifest.columns}
        unknown = [n for n in names if n not in known]
        if unknown:
            raise OptionError(f"column must be one of {', '.join(sorted(known))}, got {unknown[0]}")
        index = np.asarray(images, np.int64)
        numbers = np.searchsorted(self.image_edges, index, side="right") - 1
        needed = sorted(set(numbers.tolist()))
        parts = dict(zip(needed, self.parts(needed), strict=True))
        wanted: list[tuple[int, str, Page]] = []
        for p, part in parts.items():
            rows = index[numbers == p] - part.first_image
            for name in names:
                block = part.directory.blocks[name]
                step = block.pages[0].n_rows
                hit = np.unique(rows // step).tolist()
                wanted.extend((p, name, block.pages[i]) for i in hit)
        pages = self._load_pages(parts, wanted)
        return {name: self._gather(name, index, numbers, parts, pages) for name in names}

    def _load_pages(
        self, parts: Mapping[int, Part], wanted: Sequence[tuple[int, str, Page]]
    ) -> dict[tuple[int, str, int], Values]:
        """Return pages by (part, block, first row), from memory or by one batch of reads."""
        found: dict[tuple[int, str, int], Values] = {}
        missing: list[tuple[int, str, Page]] = []
        with self._lock:
            for p, name, page in wanted:
                key = (p, name, page.first_row)
                if key in self._pages:
                    self._pages.move_to_end(key)
                    found[key] = self._pages[key]
                else:
                    missing.append((p, name, page))
        values = self._read_pages(
            [(parts[p].entry, parts[p].directory.blocks[n], page) for p, n, page in missing]
        )
        with self._lock:
            for (p, name, page), v in zip(missing, values, strict=True):
                found[p, name, page.first_row] = self._pages[p, name, page.first_row] = v
            while len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
        return found

    def _gather(
        self,
        name: str,
        index: NDArray[np.int64],
        numbers: NDArray[np.int64],
        parts: Mapping[int, Part],
        pages: Mapping[tuple[int, str, int], Values],
    ) -> Values:
        """Return a column's values in the order of `index`, from the pages that hold them.

        With pages of 4 rows, row 6 of a part is row 6 - 4 = 2 of the page whose first row is 4.
        """
        column = next(c for c in self._manifest.columns if c.name == name)
        text: list[str] = [""] * len(index)
        shape = (len(index), column.width) if column.width > 1 else (len(index),)
        out = np.empty(shape, column.dtype if column.row_dtype is not None else "u1")
        for p, part in parts.items():
            at = np.flatnonzero(numbers == p)
            rows = index[at] - part.first_image
            step = part.directory.blocks[name].pages[0].n_rows
            pages_of = rows // step
            for page in np.unique(pages_of).tolist():
                here = pages_of == page
                values = pages[p, name, page * step]
                if isinstance(values, np.ndarray):
                    out[at[here]] = values[rows[here] - page * step]
                    continue
                for i, row in zip(at[here].tolist(), rows[here].tolist(), strict=True):
                    text[i] = values[row - page * step]
        return text if column.row_dtype is None else out

    def restore_rows(self, part: int, record: int) -> NDArray[np.void]:
        """Return the (N,) lengths and checksums of the restore blobs of a record."""
        p = self.parts([part])[0]
        a, b = int(p.image_edges[record]), int(p.image_edges[record + 1])
        block = p.directory.blocks[RESTORE]
        pages = block.pages_of(a, b)
        loaded = self._load_pages({part: p}, [(part, RESTORE, page) for page in pages])
        rows = np.concatenate([np.asarray(loaded[part, RESTORE, page.first_row]) for page in pages])
        found = rows[a - pages[0].first_row : b - pages[0].first_row]
        if int(found["length"].sum(dtype=np.int64)) != int(p.records[record]["length"][-1]):
            raise FormatError(f"{p.entry.name}: restore lengths of record {record} do not add up")
        return found

    def _read_pages(self, wanted: Sequence[tuple[PartEntry, Block, Page]]) -> list[Values]:
        return self._read_decoded(
            [
                (
                    ByteRange(entry.name, page.start, page.stop),
                    partial(decode_page, block, page, where=entry.name),
                )
                for entry, block, page in wanted
            ]
        )

    def _read_decoded(
        self, wanted: Sequence[tuple[ByteRange, Callable[[bytes], Decoded]]]
    ) -> list[Decoded]:
        """Read ranges in one batch; decode each by its own function."""
        fetched = self._read([where for where, _ in wanted])
        return [
            self._decode_checked(decode, where, data)
            for (where, decode), data in zip(wanted, fetched, strict=True)
        ]

    def _decode_checked(
        self, decode: Callable[[bytes], Decoded], where: ByteRange, data: bytes
    ) -> Decoded:
        """Decode the bytes of a range; read the range again where they fail their checksum."""
        return decode_checked(
            lambda fetched: decode(fetched[0]), [data], lambda: self._read([where])
        )

    def _read(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        return fetch_ranges(self._store, ranges, self._cost, self.counter)
