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

import itertools
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
    Directory,
    Header,
    Manifest,
    ObjectPlacement,
    PartEntry,
    Placement,
    Values,
    check_records,
    decode_directory,
    decode_page,
    header_edges,
    parse_header,
)
from pcrstore.storage import ReadableStore

Decoded = TypeVar("Decoded")
Key = TypeVar("Key")

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

    def page_rows(self, block: str) -> int:
        """Return the number of rows of each page of a block; the last page may have fewer."""
        return self.directory.blocks[block].pages[0].n_rows

    def placement(self, record: int, chunk_bytes: tuple[int, ...]) -> Placement:
        """Return the placement of a record, which is counted in the part."""
        row = self.records[record]
        entry = self.directory.objects[int(row["object"])]
        lengths = tuple(row["length"].tolist())
        if self.directory.layout == "record":
            return ObjectPlacement(
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

    def part_numbers(self, images: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the part that holds each image."""
        return self.image_edges.searchsorted(images, side="right") - 1

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
                    ByteRange(e.name, 0, e.head.n_bytes),
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
        n_pages = [len(d.blocks[RECORDS].pages) for d in directories]
        pages = iter(
            self._read_decoded(
                [
                    _page(d, RECORDS, page)
                    for d, n in zip(directories, n_pages, strict=True)
                    for page in range(n)
                ]
            )
        )
        for p, d, n in zip(missing, directories, n_pages, strict=True):
            table = np.concatenate([np.asarray(page) for page in itertools.islice(pages, n)])
            self._parts[p] = self._make_part(p, d, table)

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
        part = self.part_numbers(image)
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
        found = self._remember(self._headers, wanted, self._read_headers, most=_HEADERS_KEPT)
        return [found[key] for key in wanted]

    def _read_headers(self, wanted: Sequence[tuple[int, int]]) -> list[Header]:
        located: list[tuple[ByteRange, Callable[[bytes], Header]]] = []
        parts = self.parts(p for p, _ in wanted)
        for part, (_, record) in zip(parts, wanted, strict=True):
            base = part.directory.blocks[HEADERS].pages[0].start
            a, b = part.header_edges[record : record + 2].tolist()
            where = ByteRange(part.entry.name, base + a, base + b)
            located.append((where, partial(self._parse_header, part, record)))
        return self._read_decoded(located)

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
        numbers = self.part_numbers(index)
        needed = sorted(set(numbers.tolist()))
        parts = dict(zip(needed, self.parts(needed), strict=True))
        wanted: list[tuple[int, str, int]] = []
        for p, part in parts.items():
            rows = index[numbers == p] - part.first_image
            for name in names:
                step = part.page_rows(name)
                wanted.extend((p, name, page) for page in np.unique(rows // step).tolist())
        pages = self._pages_of(wanted)
        return {name: self._gather(name, index, numbers, parts, pages) for name in names}

    def _gather(
        self,
        name: str,
        index: NDArray[np.int64],
        numbers: NDArray[np.int64],
        parts: Mapping[int, Part],
        pages: Mapping[tuple[int, str, int], Values],
    ) -> Values:
        """Return a column's values in the order of `index`, from the pages that hold them.

        With pages of 4 rows, row 6 of a part is row 6 - 1 * 4 = 2 of page 1.
        """
        column = next(c for c in self._manifest.columns if c.name == name)
        text: list[str] = [""] * len(index)
        shape = (len(index), column.width) if column.width > 1 else (len(index),)
        out = np.empty(shape, column.dtype if column.row_dtype is not None else "u1")
        for p, part in parts.items():
            at = np.flatnonzero(numbers == p)
            rows = index[at] - part.first_image
            step = part.page_rows(name)
            page_of_row = rows // step
            for page in np.unique(page_of_row).tolist():
                here = page_of_row == page
                values = pages[p, name, page]
                if isinstance(values, np.ndarray):
                    out[at[here]] = values[rows[here] - page * step]
                    continue
                for i, row in zip(at[here].tolist(), rows[here].tolist(), strict=True):
                    text[i] = values[row - page * step]
        return text if column.row_dtype is None else out

    def restore_rows(self, part: int, record: int) -> NDArray[np.void]:
        """Return the (N,) lengths and checksums of the restore blobs of a record."""
        [p] = self.parts([part])
        a, b = p.image_edges[record : record + 2].tolist()
        step = p.page_rows(RESTORE)
        first, last = a // step, (b - 1) // step
        keys = [(part, RESTORE, page) for page in range(first, last + 1)]
        pages = self._pages_of(keys)
        rows = np.concatenate([np.asarray(pages[key]) for key in keys])
        found = rows[a - first * step : b - first * step]
        if int(found["length"].sum(dtype=np.int64)) != int(p.records[record]["length"][-1]):
            raise FormatError(f"{p.entry.name}: restore lengths of record {record} do not add up")
        return found

    def _pages_of(
        self, wanted: Sequence[tuple[int, str, int]]
    ) -> dict[tuple[int, str, int], Values]:
        """Return pages by (part, block, number of the page)."""
        return self._remember(self._pages, wanted, self._read_pages, most=_PAGES_KEPT)

    def _read_pages(self, wanted: Sequence[tuple[int, str, int]]) -> list[Values]:
        parts = self.parts(p for p, _, _ in wanted)
        return self._read_decoded(
            [
                _page(part.directory, name, page)
                for part, (_, name, page) in zip(parts, wanted, strict=True)
            ]
        )

    def _remember(
        self,
        kept: OrderedDict[Key, Decoded],
        wanted: Sequence[Key],
        read: Callable[[Sequence[Key]], list[Decoded]],
        *,
        most: int,
    ) -> dict[Key, Decoded]:
        """Return values by key: those that are kept, and the others by one batch of reads.

        The `most` values that were used last are kept. The lock is not held while reading: two
        threads may read the same page, and neither waits for the other.
        """
        with self._lock:
            found = {key: kept[key] for key in wanted if key in kept}
        missing = [key for key in dict.fromkeys(wanted) if key not in found]
        if missing:
            found.update(zip(missing, read(missing), strict=True))
        with self._lock:
            kept.update(found)
            for key in found:
                kept.move_to_end(key)
            while len(kept) > most:
                kept.popitem(last=False)
        return found

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


def _page(
    directory: Directory, name: str, number: int
) -> tuple[ByteRange, Callable[[bytes], Values]]:
    """Return the range of a page of a block, and its decoder."""
    block, part = directory.blocks[name], directory.entry.name
    page = block.pages[number]
    return ByteRange(part, page.start, page.stop), partial(decode_page, block, page, where=part)
