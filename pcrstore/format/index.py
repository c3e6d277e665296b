"""Index parts: facts about up to 65,536 images, in blocks that a reader can read apart.

Pure. These are the types of a part's contents; `index_pages` turns them into bytes and back.
FORMAT.md, "Index part", is the normative text.

    manifest ──▶ PartEntry ──▶ Directory ──▶ Block ──▶ Page ──▶ rows
                                  ├─▶ Run (where regions of records lie)
                                  └── Column (one fact about every image)

A part is immutable: a later version of the dataset adds parts, or names others in place of some. An
epoch reads the `records` pages of its share; a scattered plan reads `headers` rows as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from pcrstore.core import MAX_INT, Count, ObjectName, Stored, Uid, record_seed, refuse
from pcrstore.errors import FormatError, UnsupportedFormatError
from pcrstore.format.columns import Column

__all__ = [
    "CODECS",
    "COLUMN",
    "HEADERS",
    "LAYOUTS",
    "MAX_DIRECTORY",
    "MAX_PART_IMAGES",
    "MAX_PART_KEYS",
    "MAX_PIECES",
    "NONE",
    "RECORDS",
    "RESTORE",
    "RESTORE_DTYPE",
    "TABLE",
    "ZLIB",
    "Block",
    "Directory",
    "Head",
    "Page",
    "PartEntry",
    "Run",
    "StoredPage",
    "check_records",
    "n_pieces",
    "record_dtype",
]

MAX_PART_IMAGES: Final = 65_536
MAX_PART_KEYS: Final = 2**24
"""Bytes of the keys of a part, with 4 more for each: 65,536 keys of 252 bytes."""

RECORDS: Final = "records"
HEADERS: Final = "headers"
RESTORE: Final = "restore"

TABLE: Final = "table"
COLUMN: Final = "column"
"""Kinds of blocks; headers are of a kind of their own."""

LAYOUTS: Final = ("record", "zarr")
"""Layouts: a record is one stretch of an object, or each of its regions one of an array."""

_LEAST_DIRECTORY: Final = 13
"""The fixed fields have 12 bytes."""
MAX_DIRECTORY: Final = 8 * 2**20
"""65,536 records in an object each are 7.5 MB. Parsed, it takes 6 times its length at most."""
_MAX_BYTES: Final = 2**32 - 1
"""Longest record, header included, and longest part."""
_MAX_CHUNK: Final = 2**31
MAX_PIECES: Final = 4096
"""Chunks that a region of one record may lie in: a record of 1 GiB in chunks of 256 kB."""

NONE: Final = "none"
ZLIB: Final = "zlib"
CODECS: Final = frozenset({NONE, ZLIB})
"""Codecs of pages: the raw bytes, or a zlib stream of them."""

RESTORE_DTYPE: Final = np.dtype([("length", "<u4"), ("checksum", "<u4")])


def record_dtype(layout: str, n_groups: int) -> np.dtype[np.void]:
    """Return the row of the `records` block.

    `object` is the position of the run that holds the record (record layout), or of each of its
    regions (zarr layout), and `start` the first byte there; `length` has a number for each region:
    1..G, restore.
    """
    n = 1 if layout == "record" else n_groups + 1
    return np.dtype(
        [
            ("object", "<u4", (n,)),
            ("ordinal", "<u4"),
            ("n_images", "<u4"),
            ("start", "<u8", (n,)),
            ("length", "<u4", (n_groups + 1,)),
        ]
    )


class Head(Stored, frozen=True, array_like=True, rename={"n_bytes": "bytes"}):
    """Size and checksum of the head of an index part: its fixed fields and its directory."""

    n_bytes: Annotated[int, Meta(ge=_LEAST_DIRECTORY, le=MAX_DIRECTORY)]
    checksum: Count
    """CRC32C of these bytes."""


class PartEntry(
    Stored, frozen=True, kw_only=True, rename={"n_bytes": "bytes", "head": "directory"}
):
    """An index part, as the manifest lists it."""

    name: ObjectName
    uid: Uid
    n_images: Annotated[int, Meta(ge=1, le=MAX_PART_IMAGES)]
    n_records: Annotated[int, Meta(ge=1, le=MAX_PART_IMAGES)]
    n_bytes: Annotated[int, Meta(ge=1, le=_MAX_BYTES)]
    """Length of the whole object."""
    head: Head

    def check(self, n_groups: int, where: str) -> None:
        """Raise `FormatError` where the numbers do not fit together."""
        least = self.head.n_bytes + self.n_images * 8 * n_groups
        if self.n_bytes < least:
            refuse(where, "bytes", f"at least {least} for {self.n_images} images", self.n_bytes)
        if self.n_records > self.n_images:
            refuse(where, "n_records", f"at most {self.n_images}, the images", self.n_records)


class Run(Stored, frozen=True, kw_only=True, rename={"n_bytes": "bytes"}, omit_defaults=True):
    """A run of bytes that holds regions of records: an object, or an array of a Zarr group."""

    name: ObjectName
    uid: Uid
    """Its part in the checksums of records; arrays of one Zarr group share it."""
    n_bytes: Count
    chunk: Annotated[int, Meta(ge=1, le=_MAX_CHUNK)] | None = None
    """Size of the chunks that an array is stored in; None for an object."""
    unused: Count = 0
    """Bytes of it that belong to no record of the version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some rows of a block, as stored."""

    start: int
    """First byte in the part."""
    stop: int
    raw_bytes: int
    """Length once unpacked."""
    checksum: int
    """CRC32C of the stored bytes."""
    first_row: int
    n_rows: int


class StoredPage(Stored, frozen=True, array_like=True, gc=False):
    """A page in the JSON of a directory: [stored, raw, crc32c]."""

    n_bytes: Annotated[int, Meta(ge=0, le=_MAX_BYTES)]
    raw_bytes: Annotated[int, Meta(ge=0, le=MAX_INT)]
    checksum: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A column of the part, or one of its tables."""

    name: str
    kind: str
    """`table`, `column`, or `headers` (record headers, each self-checking)."""
    codec: str
    """`none`, or `zlib` where pages are zlib streams."""
    n_rows: int
    rows_per_page: int
    edges: NDArray[np.int64]
    """First byte of each page in the part, and the end of the last. (P + 1,)"""
    pages: tuple[StoredPage, ...]
    dtype: np.dtype[np.void] | None = None
    """Row of a table, as stored."""
    column: Column | None = None
    """Of a column."""
    nulls: bool = False
    """True where a value of the column may be null."""

    def require_known(self, where: str) -> None:
        """Raise `UnsupportedFormatError` for a codec or a type of a later version."""
        if self.codec not in CODECS:
            raise UnsupportedFormatError(
                f"{where} are stored with codec {self.codec!r}, which this pcrstore does not know; "
                "upgrade pcrstore"
            )
        if self.column is not None:
            self.column.require_known(where)

    def page(self, i: int) -> Page:
        """Return page i.

        Of 10 rows, 4 to a page, pages of 90, 80 and 40 bytes from byte 500: page 1 is bytes
        590..670, rows 4..8.
        """
        first = i * self.rows_per_page
        return Page(
            start=int(self.edges[i]),
            stop=int(self.edges[i + 1]),
            raw_bytes=self.pages[i].raw_bytes,
            checksum=self.pages[i].checksum,
            first_row=first,
            n_rows=min(self.rows_per_page, self.n_rows - first),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """The directory of an index part, parsed: its runs, and where each block lies."""

    entry: PartEntry
    layout: str
    n_groups: int
    runs: tuple[Run, ...]
    tables: Mapping[str, Block]
    """`records`, `restore` and `headers`."""
    columns: Mapping[str, Block]
    """Those of the manifest's columns that the part has."""

    def seed(self, record: np.void) -> int:
        """Return the seed of the checksums of a record, given as its row."""
        uid = self.runs[int(record["object"][0])].uid
        return record_seed(bytes.fromhex(uid), int(record["ordinal"]))


def n_pieces(
    start: NDArray[np.int64], length: NDArray[np.int64], chunk: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the number of chunks that stretches of arrays touch.

    Bytes 6..19 of chunks of 8 are in chunks 0, 1 and 2: 18 // 8 - 6 // 8 + 1 = 3.
    """
    last = np.maximum(start + length - 1, start)
    return np.where(length > 0, last // chunk - start // chunk + 1, 0)


def check_records(
    rows: NDArray[np.void], directory: Directory, *, header_sizes: NDArray[np.int64]
) -> None:
    """Check that records lie inside their runs, before anything is read or allocated by them.

    Args:
        rows: (R,) rows of the `records` block, of `record_dtype`.
        directory: Of the same part.
        header_sizes: (R,) bytes of each record's header.

    Raises:
        FormatError: Names the first record that does not.
    """
    runs = directory.runs
    length = rows["length"].astype(np.int64)
    sizes = header_sizes + length.sum(axis=1)
    known = np.asarray((rows["object"] < len(runs)).all(axis=1), np.bool_)
    sized = (rows["n_images"] >= 1) & (rows["n_images"] < MAX_PART_IMAGES)
    inside = np.asarray(known & sized, np.bool_)
    inside &= np.asarray((sizes <= _MAX_BYTES) & (rows["start"] <= MAX_INT).all(axis=1))
    start = np.minimum(rows["start"], MAX_INT).astype(np.int64)
    # One stretch for the whole record, header and all; or one for each region.
    stretch = sizes[:, None] if directory.layout == "record" else length
    limit = np.array([r.n_bytes for r in runs] or [0], np.int64)
    number = np.where(known[:, None], rows["object"], 0)
    inside &= (start + stretch <= limit[number]).all(axis=1)
    if directory.layout == "zarr":
        chunk = np.array([r.chunk or 1 for r in runs] or [1], np.int64)
        inside &= (n_pieces(start, stretch, chunk[number]) <= MAX_PIECES).all(axis=1)
    bad = np.flatnonzero(~inside)
    if len(bad):
        raise FormatError(
            f"{directory.entry.name}: record {int(bad[0])} must lie inside one of "
            f"{len(runs)} objects, got {rows[bad[0]]}"
        )
