"""Index parts: what a reader must know of up to 65,536 images, in blocks it can read apart.

Pure: bytes in, arrays out. FORMAT.md, "Index part", is the normative text.

    "PCRI" length checksum | directory (JSON) | records | key | label | ... | restore | headers
                                              |-- a block = pages, each with its checksum --|

A part is immutable; an append adds parts and rewrites none. The directory's checksum stands in the
manifest and each page's in the directory, so a page of another part or another place fails. An
epoch reads the `records` pages of its share; a scattered plan reads `headers` rows as well, which
carry a checksum each and so are read without pages.
"""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.checksum import UID_BYTES, crc32c
from pcrstore.errors import ChecksumError, FormatError
from pcrstore.fields import Fields, parse_json

__all__ = [
    "COLUMNS",
    "HEADERS",
    "MAX_GROUPS",
    "MAX_PART_IMAGES",
    "RECORDS",
    "RESTORE",
    "SYSTEM_BLOCKS",
    "Block",
    "Column",
    "Directory",
    "ObjectEntry",
    "Page",
    "PartEntry",
    "check_records",
    "decode_directory",
    "decode_page",
    "encode_part",
    "record_dtype",
]

MAX_PART_IMAGES: Final = 65_536
MAX_GROUPS: Final = 7
"""8 bytes a cell: seven groups keep the record header within 64 bytes per image."""

RECORDS: Final = "records"
HEADERS: Final = "headers"
RESTORE: Final = "restore"
SYSTEM_BLOCKS: Final = (RECORDS, HEADERS, RESTORE)

_MAGIC: Final = b"PCRI"
_FIXED: Final = struct.Struct("<4sII")
_MAX_DIRECTORY: Final = 16 * 2**20
_MAX_STRING: Final = 65_536
_MAX_PAGE: Final = 2**26
"""Bytes of a page once unpacked: what conversion writes stays below 16 kB for each of 4096 rows."""

_MAX_RECORD: Final = 2**32 - 1
_MAX_PIECES: Final = 4096
"""Chunks that a region of one record may lie in: a record of 1 GiB in chunks of 256 kB."""

_DTYPES: Final = frozenset({"|u1", "<u2", "<u4", "<u8", "<i4", "<i8", "<f4", "<f8"})
UTF8: Final = "utf8"

_ROWS_PER_PAGE: Final = 4096
"""A page of keys is then about 40 kB packed, and 1/64 of ImageNet's epoch touches five of them."""

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
    def from_json(cls, f: Fields) -> "Column":
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
"""Known of every image; a part may have more columns, not fewer. `split` is 255 for none."""


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
    def from_json(cls, f: Fields, *, n_groups: int) -> "PartEntry":
        """Read the JSON form."""
        n_images = f.integer("images", 1, MAX_PART_IMAGES)
        n_bytes = f.integer("bytes", 1)
        directory = f.integers("directory", max_items=2)
        if len(directory) != 2 or not _FIXED.size < directory[0] <= min(n_bytes, _MAX_DIRECTORY):
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


def _pack(kind: str, values: Sequence[str] | NDArray[np.generic]) -> bytes:
    if kind != UTF8:
        return np.ascontiguousarray(values).tobytes()
    encoded = [str(v).encode("utf-8", "surrogateescape") for v in values]
    return struct.pack(f"<{len(encoded)}I", *map(len, encoded)) + b"".join(encoded)


def encode_part(
    *,
    name: str,
    uid: bytes,
    layout: str,
    n_groups: int,
    objects: Sequence[ObjectEntry],
    records: NDArray[np.void],
    headers: Sequence[bytes],
    restore: NDArray[np.void],
    columns: Sequence[tuple[Column, Sequence[str] | NDArray[np.generic]]],
) -> tuple[PartEntry, bytes]:
    """Return a part and the line that the manifest keeps of it.

    Args:
        name: Object name.
        uid: Unique id of the part.
        layout: `record` or `zarr`.
        n_groups: Scan groups.
        objects: Objects that `records["object"]` counts.
        records: (R,) of `record_dtype`.
        headers: The R encoded record headers.
        restore: (N,) of lengths and checksums of the restore blobs.
        columns: Columns and their N values.
    """
    blocks: list[dict[str, object]] = []
    body: list[bytes] = []

    def add(
        name: str,
        kind: str,
        row: object,
        values: Sequence[str] | NDArray[np.generic],
        *,
        pack: bool,
    ) -> None:
        pages: list[list[int]] = []
        for first in range(0, len(values), _ROWS_PER_PAGE):
            raw = _pack(kind, values[first : first + _ROWS_PER_PAGE])
            stored = zlib.compress(raw, 6) if pack else raw
            pages.append([len(stored), len(raw), crc32c(stored)])
            body.append(stored)
        blocks.append(
            {
                "name": name,
                "kind": kind,
                "row": row,
                "rows": len(values),
                "rows_per_page": _ROWS_PER_PAGE,
                "packed": pack,
                "pages": pages,
            }
        )

    add(RECORDS, "rows", _describe(records.dtype), records, pack=False)
    for column, values in columns:
        kind = UTF8 if column.dtype == UTF8 else "rows"
        row = None if column.row_dtype is None else [["", column.dtype, column.width]]
        # Hashes do not pack; everything else does.
        add(column.name, kind, row, values, pack=column.width < 16)
    add(RESTORE, "rows", _describe(restore.dtype), restore, pack=False)
    joined = b"".join(headers)
    blocks.append(
        {
            "name": HEADERS,
            "kind": "headers",
            "row": None,
            "rows": len(headers),
            "rows_per_page": len(headers),
            "packed": False,
            "pages": [[len(joined), len(joined), crc32c(joined)]],
        }
    )
    body.append(joined)
    directory = json.dumps(
        {
            "uid": uid.hex(),
            "layout": layout,
            "n_groups": n_groups,
            "n_images": len(restore),
            "n_records": len(records),
            "objects": [{"name": o.name, "uid": o.uid.hex(), "bytes": o.n_bytes} for o in objects],
            "blocks": blocks,
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    head = _FIXED.pack(_MAGIC, len(directory), crc32c(directory)) + directory
    data = b"".join((head, *body))
    entry = PartEntry(
        name=name,
        uid=uid,
        n_images=len(restore),
        n_records=len(records),
        n_bytes=len(data),
        directory_bytes=len(head),
        directory_checksum=crc32c(head),
    )
    return entry, data


def _describe(dtype: np.dtype[np.void]) -> list[list[object]]:
    names = dtype.names or ()
    return [[n, dtype[n].base.str, int(np.prod(dtype[n].shape, dtype=int))] for n in names]


def decode_directory(
    data: bytes, entry: PartEntry, *, layout: str, n_groups: int, columns: Sequence[Column]
) -> Directory:
    """Parse and check the head of a part against what the manifest says of it.

    Raises:
        ChecksumError: Not that part's head, or damaged.
        FormatError: A field that is missing or out of bounds.
    """
    where = entry.name
    if len(data) != entry.directory_bytes or crc32c(data) != entry.directory_checksum:
        raise ChecksumError(
            f"{where}: index directory fails its checksum (expected {entry.directory_bytes} bytes "
            f"with {entry.directory_checksum:08x}, got {len(data)} with {crc32c(data):08x})"
        )
    magic, length, checksum = _FIXED.unpack_from(data)
    text = data[_FIXED.size :]
    if magic != _MAGIC or length != len(text) or checksum != crc32c(text):
        raise FormatError(f"{where}: index part must start with {_MAGIC!r}, got {data[:12]!r}")
    f = parse_json(text, where=where)
    if f.hexadecimal("uid", UID_BYTES) != entry.uid:
        f.fail("uid", entry.uid.hex(), f.string("uid"))
    if f.choice("layout", frozenset({"record", "zarr"})) != layout:
        f.fail("layout", layout, f.string("layout"))
    f.integer("n_groups", n_groups, n_groups)
    n_images = f.integer("n_images", entry.n_images, entry.n_images)
    n_records = f.integer("n_records", entry.n_records, entry.n_records)
    objects = tuple(
        ObjectEntry(
            name=o.object_name("name"),
            uid=o.hexadecimal("uid", UID_BYTES),
            n_bytes=o.integer("bytes", 0),
        )
        for o in f.objects("objects", max_items=n_records)
    )
    expected: dict[str, tuple[str, int, np.dtype[np.generic] | None]] = {
        RECORDS: ("rows", n_records, record_dtype(layout, n_groups)),
        HEADERS: ("headers", n_records, None),
        RESTORE: ("rows", n_images, RESTORE_DTYPE),
    }
    for c in columns:
        expected[c.name] = (UTF8 if c.dtype == UTF8 else "rows", n_images, c.row_dtype)
    blocks: dict[str, Block] = {}
    at = entry.directory_bytes
    for b in f.objects("blocks", max_items=2000):
        name = b.string("name", max_length=256)
        kind, n_rows, dtype = expected.get(name, (b.string("kind"), n_images, None))
        b.choice("kind", frozenset({kind}))
        b.integer("rows", n_rows, n_rows)
        packed = b.boolean("packed")
        if name in blocks or (packed and kind == HEADERS):
            b.fail("name", "a new block, not packed if it holds headers", name)
        pages, at = _decode_pages(b, n_rows, at, entry)
        blocks[name] = Block(name=name, kind=kind, dtype=dtype, packed=packed, pages=pages)
    if at != entry.n_bytes:
        f.fail("blocks", f"blocks that end at byte {entry.n_bytes}", at)
    missing = expected.keys() - blocks.keys()
    if missing:
        f.fail("blocks", f"all of {', '.join(sorted(expected))}", sorted(blocks))
    return Directory(entry=entry, layout=layout, n_groups=n_groups, objects=objects, blocks=blocks)


def _decode_pages(
    b: Fields, n_rows: int, at: int, entry: PartEntry
) -> tuple[tuple[Page, ...], int]:
    step = b.integer("rows_per_page", 1)
    listed = b.items("pages", max_items=MAX_PART_IMAGES)
    if len(listed) != -(-n_rows // step):
        b.fail("pages", f"{-(-n_rows // step)} pages of {step} rows", len(listed))
    pages: list[Page] = []
    for i, item in enumerate(listed):
        where = f"{entry.name}: {b.string('name')}[{i}]"
        numbers = Fields({"page": item}, where).integers("page", max_items=3)
        if len(numbers) != 3 or at + numbers[0] > entry.n_bytes or numbers[1] > _MAX_PAGE:
            b.fail("pages", f"[length, raw length, checksum] inside {entry.n_bytes} bytes", item)
        pages.append(
            Page(
                start=at,
                stop=at + numbers[0],
                raw_bytes=numbers[1],
                checksum=numbers[2],
                first_row=i * step,
                n_rows=min(step, n_rows - i * step),
            )
        )
        at += numbers[0]
    return tuple(pages), at


def decode_page(
    block: Block, page: Page, stored: bytes, *, where: str
) -> NDArray[np.generic] | list[str]:
    """Return the rows of a page.

    Raises:
        ChecksumError: Damaged, or another page.
        FormatError: Right bytes that do not hold the rows they should.
    """
    where = f"{where}: {block.name} rows {page.first_row}..{page.first_row + page.n_rows}"
    if len(stored) != page.stop - page.start or crc32c(stored) != page.checksum:
        raise ChecksumError(
            f"{where} fail their checksum (expected {page.stop - page.start} bytes with "
            f"{page.checksum:08x}, got {len(stored)} with {crc32c(stored):08x})"
        )
    if block.dtype is not None and page.raw_bytes != page.n_rows * block.dtype.itemsize:
        raise FormatError(
            f"{where} must have {page.n_rows * block.dtype.itemsize} bytes, got {page.raw_bytes}"
        )
    raw = _unpack(stored, page.raw_bytes, where) if block.packed else stored
    if len(raw) != page.raw_bytes:
        raise FormatError(f"{where} must have {page.raw_bytes} bytes, got {len(raw)}")
    if block.kind == UTF8:
        return _decode_strings(raw, page.n_rows, where)
    if block.kind == HEADERS:
        return np.frombuffer(raw, np.uint8)
    if block.dtype is None:
        raise FormatError(f"{where}: rows of an unknown column cannot be read")
    return np.frombuffer(raw, block.dtype, page.n_rows)


def _unpack(stored: bytes, raw_bytes: int, where: str) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        # max_length bounds the allocation whatever the stream claims; 0 would mean no bound.
        raw = unpacker.decompress(stored, raw_bytes + 1)
    except zlib.error as e:
        raise FormatError(f"{where}: not a zlib stream: {e}") from e
    if len(raw) != raw_bytes or not unpacker.eof or unpacker.unused_data:
        raise FormatError(f"{where} must unpack to {raw_bytes} bytes, got {len(raw)}")
    return raw


def _decode_strings(raw: bytes, n_rows: int, where: str) -> list[str]:
    if len(raw) < 4 * n_rows:
        raise FormatError(f"{where} must have {4 * n_rows} bytes of lengths, got {len(raw)}")
    lengths = np.frombuffer(raw, "<u4", n_rows)
    if len(lengths) and int(lengths.max()) > _MAX_STRING:
        raise FormatError(f"{where}: a string has at most {_MAX_STRING} bytes")
    edges = (4 * n_rows + np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))).tolist()
    if edges[-1] != len(raw):
        raise FormatError(f"{where} must have {edges[-1]} bytes, got {len(raw)}")
    return [raw[edges[i] : edges[i + 1]].decode("utf-8", "surrogateescape") for i in range(n_rows)]


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
