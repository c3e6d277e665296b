"""Index parts: facts about up to 65,536 images, in blocks that a reader can read apart.

Pure. These are the types of a part's contents; `index_pages` turns them into bytes and back.
FORMAT.md, "Index part", is the normative text.

    manifest ──▶ PartEntry ──▶ Directory ──▶ Block ──▶ Page ──▶ rows
                                  ├─▶ ObjectEntry (where records lie)
                                  └── Column (one fact about every image)

A part is immutable; a later version of the dataset adds parts and rewrites none. An epoch reads the
`records` pages of its share; a scattered plan reads `headers` rows as well.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import (
    UID_BYTES,
    Count,
    Hex,
    Key,
    ObjectName,
    longest,
    one_of,
    refuse,
    within,
)
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
    "Head",
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

_LEAST_DIRECTORY: Final = 13
"""The fixed fields have 12 bytes."""
_MAX_DIRECTORY: Final = 16 * 2**20
_MAX_RECORD: Final = 2**32 - 1
_MAX_PIECES: Final = 4096
"""Chunks that a region of one record may lie in: a record of 1 GiB in chunks of 256 kB."""

UTF8: Final = "utf8"
_DTYPES: Final = ("|u1", "<u2", "<u4", "<u8", "<i4", "<i8", "<f4", "<f8", UTF8)

Uid = Annotated[bytes, Hex(UID_BYTES)]
"""Unique id of an object, an index part or a Zarr group."""
BlockName = Annotated[str, longest(256)]

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

    name: BlockName
    dtype: Annotated[str, one_of(*_DTYPES)]
    """A NumPy type string of fixed size and byte order, or `utf8`."""
    width: Annotated[int, within(1, 1024)]

    @property
    def row_dtype(self) -> np.dtype[np.generic] | None:
        """The row as NumPy sees it; None for text."""
        if self.dtype == UTF8:
            return None
        return np.dtype((self.dtype, (self.width,))) if self.width > 1 else np.dtype(self.dtype)


COLUMNS: Final = (
    Column(name="key", dtype=UTF8, width=1),
    Column(name="label", dtype="<i4", width=1),
    Column(name="split", dtype="|u1", width=1),
    Column(name="format", dtype="|u1", width=1),
    Column(name="orientation", dtype="|u1", width=1),
    Column(name="width", dtype="<u4", width=1),
    Column(name="height", dtype="<u4", width=1),
    Column(name="source_bytes", dtype="<u8", width=1),
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


class Head(NamedTuple):
    """Size and checksum of the head of an index part: its fixed fields and its directory."""

    n_bytes: Annotated[int, within(_LEAST_DIRECTORY, _MAX_DIRECTORY)]
    checksum: Count
    """CRC32C of these bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartEntry:
    """An index part, as the manifest lists it."""

    name: ObjectName
    uid: Uid
    n_images: Annotated[int, within(1, MAX_PART_IMAGES), Key("images")]
    n_records: Annotated[int, within(1, MAX_PART_IMAGES), Key("records")]
    n_bytes: Annotated[int, within(1), Key("bytes")]
    """Length of the whole object."""
    head: Annotated[Head, Key("directory")]

    def check(self, n_groups: int, where: str) -> None:
        """Raise `FormatError` where the numbers do not fit together."""
        least = self.n_images * 8 * n_groups
        if self.n_bytes < max(least, self.head.n_bytes):
            refuse(where, "bytes", f"at least {least} for {self.n_images} images", self.n_bytes)
        if self.n_records > self.n_images:
            refuse(where, "records", f"at most {self.n_images}, the images", self.n_records)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEntry:
    """An object that holds records, or the Zarr group that does."""

    name: ObjectName
    uid: Uid
    n_bytes: Annotated[Count, Key("bytes")]
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
    """True where pages are zlib streams."""
    pages: tuple[Page, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """The directory of an index part, parsed: its objects, and where each block lies."""

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
