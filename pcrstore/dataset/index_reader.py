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
from typing import Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import ForkSafeLock
from pcrstore.core import ByteRange
from pcrstore.cost import CostModel
from pcrstore.dataset.fetch import Counter, decode_checked, fetch_ranges, sizes_of
from pcrstore.errors import FormatError, OptionError
from pcrstore.format import (
    COLUMN,
    HEADERS,
    RECORDS,
    RESTORE,
    RESTORE_DTYPE,
    TABLE,
    ArrayPlacement,
    Block,
    Column,
    Directory,
    Header,
    Manifest,
    ObjectPlacement,
    PartEntry,
    Placement,
    Ranges,
    Values,
    check_records,
    decode_directory,
    decode_page,
    header_edges,
    masked,
    null_values,
    parse_header,
    record_dtype,
    rows_as,
)
from pcrstore.storage import ReadableStore

Decoded = TypeVar("Decoded")
Key = TypeVar("Key")

_PageKey = tuple[int, str, str, int]
"""Part, kind and name of the block (a column may have a table's name), and number of a page."""

__all__ = ["IndexReader", "Located", "Part"]

_HEADER_BYTES: Final = 40 * 2**20
"""Bytes of parsed headers remembered: those of 16,384 records of 60 images in five groups."""

_PAGE_BYTES: Final = 96 * 2**20
"""Bytes of column pages remembered, as they are in memory: 256 pages of keys."""

_OBJECT_BYTES: Final = 64
"""Bytes that a value takes in a list of values, beside its contents."""

_TRUSTED_IMAGES: Final = 2**21
"""Images that memory is allocated for without a look at their index parts. What a call allocates
for images before it reads of them is about 32 bytes each: 64 MiB."""


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

    def placement(self, record: int) -> Placement:
        """Return the placement of a record, which is counted in the part."""
        row = self.records[record]
        make = ObjectPlacement if self.directory.layout == "record" else ArrayPlacement
        return make(
            runs=tuple(self.directory.runs[i] for i in row["object"].tolist()),
            ordinal=int(row["ordinal"]),
            n_images=int(row["n_images"]),
            starts=tuple(row["start"].tolist()),
            lengths=tuple(row["length"].tolist()),
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
        self._pages = _Remembered[_PageKey, Values](self._lock, n_bytes=_PAGE_BYTES)
        self._headers = _Remembered[tuple[int, int], Header](self._lock, n_bytes=_HEADER_BYTES)
        self._is_backed = False

    def __reduce__(self) -> tuple[type["IndexReader"], tuple[ReadableStore, Manifest, CostModel]]:
        return IndexReader, (self._store, self._manifest, self._cost)

    def sibling(self) -> "IndexReader":
        """Return a reader with a counter of its own that shares all that was and will be read."""
        other = IndexReader(self._store, self._manifest, self._cost)
        other._lock = self._lock
        other._parts, other._pages, other._headers = self._parts, self._pages, self._headers
        other._is_backed = self._is_backed
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
        self.require_backed(sum(m.parts[p].n_images for p in missing))
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
        n_pages = [len(d.tables[RECORDS].pages) for d in directories]
        pages = iter(
            self._read_decoded(
                [
                    _page(d, d.tables[RECORDS], page)
                    for d, n in zip(directories, n_pages, strict=True)
                    for page in range(n)
                ]
            )
        )
        for p, d, n in zip(missing, directories, n_pages, strict=True):
            table = np.concatenate([np.asarray(page) for page in itertools.islice(pages, n)])
            row = record_dtype(m.layout, m.n_groups)
            self._parts[p] = self._make_part(p, d, rows_as(table, row, f"{d.entry.name}: records"))

    def _make_part(self, number: int, d: Directory, records: NDArray[np.void]) -> Part:
        edges = np.concatenate(([0], np.cumsum(records["n_images"], dtype=np.int64)))
        if int(edges[-1]) != d.entry.n_images:
            raise FormatError(
                f"{d.entry.name}: records must hold {d.entry.n_images} images, got {edges[-1]}"
            )
        headers = header_edges(records, d.n_groups)
        page = d.tables[HEADERS].page(0)
        if int(headers[-1]) != page.stop - page.start:
            raise FormatError(
                f"{d.entry.name}: record headers must have {headers[-1]} bytes, "
                f"got {page.stop - page.start}"
            )
        check_records(records, d, header_sizes=np.diff(headers))
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
        found = self._headers.get(wanted, self._read_headers)
        return [found[key] for key in wanted]

    def _read_headers(self, wanted: Sequence[tuple[int, int]]) -> list[tuple[Header, int]]:
        located: list[tuple[ByteRange, Callable[[bytes], Header]]] = []
        parts = self.parts(p for p, _ in wanted)
        for part, (_, record) in zip(parts, wanted, strict=True):
            base = part.directory.tables[HEADERS].page(0).start
            a, b = part.header_edges[record : record + 2].tolist()
            where = ByteRange(part.entry.name, base + a, base + b)
            located.append((where, partial(self._parse_header, part, record)))
        sizes = [len(where) for where, _ in located]
        return [*zip(self._read_decoded(located), sizes, strict=True)]

    def _parse_header(self, part: Part, record: int, data: bytes) -> Header:
        row = part.records[record]
        header = parse_header(
            data,
            seed=part.directory.seed(row),
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
            UnsupportedFormatError: A column of a type of a later version of the format.
        """
        for name in names:
            column = self._manifest.column(name)
            if column is None:
                known = sorted(c.name for c in self._manifest.columns)
                raise OptionError(f"column must be one of {', '.join(known)}, got {name}")
            column.require_known(self._store.url)
        self.require_backed(len(images))
        index = np.asarray(images, np.int64)
        numbers = self.part_numbers(index)
        needed = np.flatnonzero(np.bincount(numbers)).tolist() if len(index) else []
        parts = dict(zip(needed, self.parts(needed), strict=True))
        wanted: list[_PageKey] = []
        for p, part in parts.items():
            rows = index[numbers == p] - part.first_image
            for name in names:
                block = part.directory.columns.get(name)
                if block is not None:
                    touched = np.unique(rows // block.rows_per_page).tolist()
                    wanted.extend((p, COLUMN, name, page) for page in touched)
        pages = self._pages_of(wanted)
        return {name: self._gather(name, index, numbers, parts, pages) for name in names}

    def _gather(
        self,
        name: str,
        index: NDArray[np.int64],
        numbers: NDArray[np.int64],
        parts: Mapping[int, Part],
        pages: Mapping[_PageKey, Values],
    ) -> Values:
        """Return a column's values in the order of `index`, from the pages that hold them.

        With pages of 4 rows, row 6 of a part is row 6 - 1 * 4 = 2 of page 1.
        """
        column = self._manifest.column(name)
        if column is None:
            raise AssertionError(name)
        found: list[tuple[NDArray[np.int64], Values]] = []
        for p, part in parts.items():
            at = np.flatnonzero(numbers == p)
            rows = index[at] - part.first_image
            block = part.directory.columns.get(name)
            if block is None:
                found.append((at, null_values(column, len(at), where=part.entry.name)))
                continue
            page_of_row = rows // block.rows_per_page
            for page in np.unique(page_of_row).tolist():
                here = page_of_row == page
                values = pages[p, COLUMN, name, page]
                local = rows[here] - page * block.rows_per_page
                if isinstance(values, list):
                    found.append((at[here], [values[i] for i in local.tolist()]))
                else:
                    found.append((at[here], values[local]))
        return _scatter(column, len(index), found)

    def restore_rows(self, part: int, record: int) -> NDArray[np.void]:
        """Return the (N,) lengths and checksums of the restore blobs of a record."""
        [p] = self.parts([part])
        a, b = p.image_edges[record : record + 2].tolist()
        step = p.directory.tables[RESTORE].rows_per_page
        first, last = a // step, (b - 1) // step
        keys = [(part, TABLE, RESTORE, page) for page in range(first, last + 1)]
        pages = self._pages_of(keys)
        rows = np.concatenate([np.asarray(pages[key]) for key in keys])
        where = f"{p.entry.name}: restore"
        found = rows_as(rows[a - first * step : b - first * step], RESTORE_DTYPE, where)
        if int(found["length"].sum(dtype=np.int64)) != int(p.records[record]["length"][-1]):
            raise FormatError(f"{p.entry.name}: restore lengths of record {record} do not add up")
        return found

    def require_backed(self, n_images: int) -> None:
        """Check that all index parts exist, before memory is allocated for `n_images` images.

        A manifest of 150 kB can claim 65 million images, which are 2 GB of positions and masks. The
        parts of so many that are there have at least 8 bytes for each image and group. Few images
        need no check, and so no request.

        Raises:
            FormatError: A part is missing, or not as long as the manifest says.
        """
        m = self._manifest
        if self._is_backed or n_images <= _TRUSTED_IMAGES:
            return
        names = [part.name for part in m.parts]
        if self._store.can_list:
            listed = {e.name: e.n_bytes for e in self._store.list("index")}
            sizes = [listed.get(name) for name in names]
        else:
            sizes = [*sizes_of(self._store, names)]
        for part, size in zip(m.parts, sizes, strict=True):
            if size != part.n_bytes:
                raise FormatError(
                    f"{self._store.url}: {part.name} must have {part.n_bytes} bytes, "
                    f"got {'none: it is missing' if size is None else size}"
                )
        self._is_backed = True

    def _pages_of(self, wanted: Sequence[_PageKey]) -> dict[_PageKey, Values]:
        """Return pages by (part, block, number of the page)."""
        return self._pages.get(wanted, self._read_pages)

    def _read_pages(self, wanted: Sequence[_PageKey]) -> list[tuple[Values, int]]:
        parts = self.parts(p for p, *_ in wanted)
        pages: list[tuple[ByteRange, Callable[[bytes], Values]]] = []
        blocks: list[tuple[Block, int]] = []
        for part, (_, kind, name, number) in zip(parts, wanted, strict=True):
            d = part.directory
            block = (d.columns if kind == COLUMN else d.tables)[name]
            pages.append(_page(d, block, number, self._manifest.ranges))
            blocks.append((block, number))
        found = self._read_decoded(pages)
        return [(v, _memory(*of, v)) for v, of in zip(found, blocks, strict=True)]

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
    directory: Directory, block: Block, number: int, ranges: Ranges | None = None
) -> tuple[ByteRange, Callable[[bytes], Values]]:
    """Return the range of a page of a block, and its decoder."""
    part, page = directory.entry.name, block.page(number)

    def decode(stored: bytes) -> Values:
        values = decode_page(block, page, stored, where=part)
        if ranges is not None and block.column is not None:
            ranges.check(block.name, values, f"{part}: rows from {page.first_row}")
        return values

    return ByteRange(part, page.start, page.stop), decode


def _memory(block: Block, page: int, values: Values) -> int:
    """Return about how many bytes the values of a page take in memory.

    Two values of the shape [null, 4], of 2 and 1 rows, are two objects as numbers, which are an
    array each, and 2 + 3 * 4 as texts.
    """
    raw = block.pages[page].raw_bytes
    column = block.column
    if column is None or isinstance(values, np.ndarray):
        return raw
    n_objects = len(values)
    if column.is_text and column.shape:
        n_rows = sum(len(v) for v in values if v is not None) if column.is_ragged else n_objects
        n_objects += n_rows * column.n_items
    return raw + _OBJECT_BYTES * n_objects


def _scatter(column: Column, n: int, found: Sequence[tuple[NDArray[np.int64], Values]]) -> Values:
    """Return n values of a column, of which some are given at a time, by their positions."""
    if not column.is_array:
        out: list[object] = [None] * n
        for at, values in found:
            for i, value in zip(at.tolist(), values, strict=True):
                out[i] = value
        return out
    shape = (n, *column.row_shape)
    some_are_null = any(np.ma.is_masked(values) for _, values in found)
    array = masked(shape, column.item) if some_are_null else np.empty(shape, column.item)
    for at, values in found:
        array[at] = values
    return array


class _Remembered(Generic[Key, Decoded]):
    """Values by key, of which those used last are kept; the others are read in one batch.

    The lock is not held while reading: two threads may read the same value, and neither waits for
    the other.
    """

    def __init__(self, lock: ForkSafeLock, *, n_bytes: int) -> None:
        self._lock = lock
        self._most = n_bytes
        self._kept: OrderedDict[Key, tuple[Decoded, int]] = OrderedDict()
        self._n_bytes = 0

    def get(
        self, wanted: Sequence[Key], read: Callable[[Sequence[Key]], list[tuple[Decoded, int]]]
    ) -> dict[Key, Decoded]:
        """Return values by key.

        Args:
            wanted: Keys.
            read: Returns the values of missing ones, each with its size in bytes.
        """
        with self._lock:
            found = {key: self._kept[key] for key in wanted if key in self._kept}
        missing = [key for key in dict.fromkeys(wanted) if key not in found]
        if missing:
            found.update(zip(missing, read(missing), strict=True))
        with self._lock:
            for key, (value, size) in found.items():
                if key not in self._kept:
                    self._n_bytes += size
                self._kept[key] = value, size
                self._kept.move_to_end(key)
            while self._n_bytes > self._most:
                _, (_, size) = self._kept.popitem(last=False)
                self._n_bytes -= size
        return {key: value for key, (value, _) in found.items()}
