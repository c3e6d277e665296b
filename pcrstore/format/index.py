"""Index parts: what a reader must know of up to 65,536 images, in blocks it can read apart.

Pure. Here is what a part consists of; `pages` turns it into bytes and back. FORMAT.md, "Index
part", is the normative text.

    manifest ──▶ PartEntry ──▶ Directory ──▶ Block ──▶ Page ──▶ rows
                                  ├─▶ ObjectEntry (where records lie)
                                  └── Column (what is known of every image)

A part is immutable; an append adds parts and rewrites none. An epoch reads the `records` pages of
its share; a scattered plan reads `headers` rows as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import UID_BYTES, JsonReader
from pcrstore.errors import FormatError

__all__ = [
    "COLUMNS",
    "ENCODED",
    "FORMATS",
    "HEADERS",
    "JPEG",
    "MAX_PART_IMAGES",
    "NO_LABEL",
    "NO_SPLIT",
    "OPAQUE",
    "RECORDS",
    "RESTORE",
    "RESTORE_DTYPE",
    "SYSTEM_BLOCKS",
    "UTF8",
    "Block",
    "Column",
    "Directory",
    "ObjectEntry",
    "Page",
    "PartEntry",
    "check_records",
    "record_dtype",
]

MAX_PART_IMAGES: Final = 65_536

RECORDS: Final = "records"
HEADERS: Final = "headers"
RESTORE: Final = "restore"
SYSTEM_BLOCKS: Final = (RECORDS, HEADERS, RESTORE)

_LEAST_DIRECTORY: Final = 12
_MAX_DIRECTORY: Final = 16 * 2**20
_MAX_RECORD: Final = 2**32 - 1
_MAX_PIECES: Final = 4096
"""Chunks that a region of one record may lie in: a record of 1 GiB in chunks of 256 kB."""

_DTYPES: Final = frozenset({"|u1", "<u2", "<u4", "<u8", "<i4", "<i8", "<f4", "<f8"})
UTF8: Final = "utf8"

RESTORE_DTYPE: Final = np.dtype([("length", "<u4"), ("checksum", "<u4")])


def record_dtype(layout: str, n_groups: int) -> np.dtype[np.void]:
    """Return the row of the `records` block.

    `start` is the record's first byte in its object (record layout) or the first byte of each of
    its regions in their arrays (zarr layout); `length` has a number for each region: 1..G, restore.
    """
    n_starts = 1 if layout == "record" else n_groups + 1
    return np.dtype(
        [
            ("object", "<u4"),
            ("ordinal", "<u4"),
            ("n_images", "<u4"),
            ("start", "<u8", (n_starts,)),
            ("length", "<u4", (n_groups + 1,)),
        ]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column with one value, or `width` values, per image."""

    name: str
    dtype: str
    """A NumPy type string of fixed size and byte order, or `utf8`."""
    width: int = 1

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"name": self.name, "dtype": self.dtype, "width": self.width}

    @classmethod
    def from_json(cls, f: JsonReader) -> "Column":
        """Read the JSON form."""
        return cls(
            name=f.string("name", max_length=256),
            dtype=f.choice("dtype", _DTYPES | {UTF8}),
            width=f.integer("width", 1, 1024),
        )

    @property
    def row_dtype(self) -> np.dtype[np.generic] | None:
        """The row as NumPy sees it; None for text."""
        if self.dtype == UTF8:
            return None
        return np.dtype((self.dtype, (self.width,))) if self.width > 1 else np.dtype(self.dtype)


COLUMNS: Final = (
    Column(name="key", dtype=UTF8),
    Column(name="label", dtype="<i4"),
    Column(name="split", dtype="|u1"),
    Column(name="format", dtype="|u1"),
    Column(name="orientation", dtype="|u1"),
    Column(name="width", dtype="<u4"),
    Column(name="height", dtype="<u4"),
    Column(name="source_bytes", dtype="<u8"),
    Column(name="source_sha256", dtype="|u1", width=32),
)
"""Known of every image; a part may have more columns, not fewer."""

JPEG: Final = 0
"""`format` of an image that was a JPEG and lost nothing."""
OPAQUE: Final = 1
"""`format` of a file kept whole in group 1."""
ENCODED: Final = 2
"""`format` of an image that was encoded to JPEG, with its source file in the restore region."""

FORMATS: Final = {JPEG: "jpeg", OPAQUE: "opaque", ENCODED: "encoded"}
"""Name of each `format`, as `Sample.format` says it."""

NO_LABEL: Final = -1
"""`label` of an image without a class."""
NO_SPLIT: Final = 255
"""`split` of an image without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEntry:
    """What the manifest says of an index part."""

    name: str
    uid: bytes
    n_images: int
    n_records: int
    n_bytes: int
    """Length of the whole object."""
    directory_bytes: int
    """Length of its head: fixed fields and directory."""
    directory_checksum: int
    """CRC32C of that head."""

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "uid": self.uid.hex(),
            "images": self.n_images,
            "records": self.n_records,
            "bytes": self.n_bytes,
            "directory": [self.directory_bytes, self.directory_checksum],
        }

    @classmethod
    def from_json(cls, f: JsonReader, *, n_groups: int) -> "PartEntry":
        """Read the JSON form."""
        n_images = f.integer("images", 1, MAX_PART_IMAGES)
        n_bytes = f.integer("bytes", 1)
        directory = f.integers("directory", max_items=2)
        if len(directory) != 2 or not _LEAST_DIRECTORY < directory[0] <= min(
            n_bytes, _MAX_DIRECTORY
        ):
            f.fail("directory", f"a length of at most {_MAX_DIRECTORY} and a checksum", directory)
        if n_bytes < n_images * 8 * n_groups:
            f.fail("bytes", f"at least {n_images * 8 * n_groups} for {n_images} images", n_bytes)
        return cls(
            name=f.object_name("name"),
            uid=f.hexadecimal("uid", UID_BYTES),
            n_images=n_images,
            n_records=f.integer("records", 1, n_images),
            n_bytes=n_bytes,
            directory_bytes=directory[0],
            directory_checksum=directory[1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEntry:
    """An object that holds records, or the Zarr group that does."""

    name: str
    uid: bytes
    n_bytes: int
    """Length of the object; 0 in the zarr layout."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A column of the part, or one of its system tables."""

    name: str
    kind: str
    """`rows` (fixed size), `utf8`, or `headers` (record headers, each self-checking)."""
    dtype: np.dtype[np.generic] | None
    packed: bool
    """Whether pages are zlib streams."""
    pages: tuple[Page, ...]

    def pages_of(self, start: int, stop: int) -> tuple[Page, ...]:
        """Return the pages that hold rows start..stop."""
        return tuple(p for p in self.pages if p.first_row < stop and start < p.first_row + p.n_rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """The head of an index part."""

    entry: PartEntry
    layout: str
    n_groups: int
    objects: tuple[ObjectEntry, ...]
    blocks: Mapping[str, Block]


def check_records(
    rows: NDArray[np.void],
    directory: Directory,
    *,
    header_sizes: NDArray[np.int64],
    totals: Sequence[int],
    chunk_bytes: Sequence[int],
) -> None:
    """Check that records lie inside their objects, before anything is read or allocated by them.

    Args:
        rows: (R,) rows of the `records` block.
        directory: Of the same part.
        header_sizes: (R,) bytes of each record's header.
        totals: (G + 1,) bytes of each region over the dataset.
        chunk_bytes: (G + 1,) chunk sizes in the zarr layout; not looked at otherwise.

    Raises:
        FormatError: Names the first record that does not.
    """
    objects = np.array([o.n_bytes for o in directory.objects], np.int64)
    known = rows["object"] < len(objects)
    length = rows["length"].sum(axis=1, dtype=np.int64)
    sized = (rows["n_images"] >= 1) & (rows["n_images"] < MAX_PART_IMAGES)
    inside = known & sized
    if directory.layout == "record":
        size = header_sizes + length
        stop = rows["start"][:, 0].astype(np.float64) + size
        limit = objects[np.where(known, rows["object"], 0)] if len(objects) else np.zeros(len(rows))
        inside &= (stop <= limit) & (size <= _MAX_RECORD)
    else:
        stops = rows["start"].astype(np.float64) + rows["length"]
        pieces = rows["length"] // np.asarray(chunk_bytes)
        inside &= (stops <= np.asarray(totals)).all(axis=1) & (length <= _MAX_RECORD)
        inside &= (pieces <= _MAX_PIECES).all(axis=1)
    bad = np.flatnonzero(~inside)
    if len(bad):
        raise FormatError(
            f"{directory.entry.name}: record {int(bad[0])} must lie inside one of "
            f"{len(objects)} objects, got {rows[bad[0]]}"
        )
