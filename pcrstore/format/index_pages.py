"""The bytes of an index part: a directory, then blocks in pages.

Pure: bytes in, arrays out. FORMAT.md, "Index part", is the normative text.

    "PCRI" length checksum | directory (JSON) | records | key | label | ... | restore | headers
                                              |-- a block = pages, each with its checksum --|

The directory's checksum stands in the manifest and each page's in the directory, so a page of
another part or another place fails. Record headers carry a checksum each, and so can be read one
by one.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Annotated, Final

import numpy as np
from msgspec import Meta
from msgspec.structs import replace
from numpy.typing import NDArray

from pcrstore.core import (
    MAX_INT,
    Count,
    Stored,
    Uid,
    Word,
    crc32c,
    decode_json,
    encode_json,
    refuse,
)
from pcrstore.errors import ChecksumError, FormatError, UnsupportedFormatError
from pcrstore.format.column_values import has_nulls, pack_values, unpack_values
from pcrstore.format.columns import COLUMNS, Column, ColumnName, Shape, Values
from pcrstore.format.index import (
    COLUMN,
    HEADERS,
    MAX_DIRECTORY,
    MAX_PART_KEYS,
    NONE,
    RECORDS,
    RESTORE,
    RESTORE_DTYPE,
    TABLE,
    ZLIB,
    Block,
    Directory,
    Head,
    Page,
    PartEntry,
    Run,
    StoredPage,
    record_dtype,
)

__all__ = ["StoredDirectory", "decode_directory", "decode_page", "encode_part", "rows_as"]

_MAGIC: Final = b"PCRI"
_FIXED: Final = struct.Struct("<4sII")
_MAX_PAGE: Final = 2**24
"""Bytes of a page once unpacked."""
_MAX_PAGES: Final = 65_536
_FREE_BYTES: Final = 2**20
_MAX_RATIO: Final = 64
"""A block may unpack to `_FREE_BYTES` and to this many times its stored bytes: what it takes in
memory is backed by what is stored. Values of one number for every image stay below the first."""

_ROWS_PER_PAGE: Final = 4096
"""A page of keys is then about 40 kB packed, and 1/64 of ImageNet's epoch touches five of them."""

_UINTS: Final = ("|u1", "<u2", "<u4", "<u8")
_TABLES: Final = ((RECORDS, TABLE), (RESTORE, TABLE), (HEADERS, HEADERS))
"""Name and kind of the blocks that every part has beside its columns."""


class Field(Stored, frozen=True, array_like=True, gc=False):
    """A field of a table's rows: [name, type, count]."""

    name: ColumnName
    dtype: Word
    count: Annotated[int, Meta(ge=1, le=65_536)]


class StoredBlock(Stored, frozen=True, kw_only=True, rename={"n_rows": "rows"}, omit_defaults=True):
    """A block in the JSON of a directory."""

    name: ColumnName
    kind: Word
    codec: Word
    n_rows: Count
    rows_per_page: Annotated[int, Meta(ge=1, le=MAX_INT)]
    pages: Annotated[tuple[StoredPage, ...], Meta(max_length=_MAX_PAGES)]
    fields: Annotated[tuple[Field, ...], Meta(max_length=64)] | None = None
    """Fields of a row, of a table."""
    dtype: Word | None = None
    """Of a column."""
    shape: Shape | None = None
    """Of a column."""
    nulls: bool | None = None
    """Of a column."""


class StoredDirectory(Stored, frozen=True, kw_only=True, rename={"runs": "objects"}):
    """The JSON of a directory."""

    uid: Uid
    n_groups: Count
    n_images: Count
    n_records: Count
    runs: Annotated[tuple[Run, ...], Meta(max_length=2**21)]
    blocks: Annotated[tuple[StoredBlock, ...], Meta(max_length=2000)]


def encode_part(
    *,
    name: str,
    uid: str,
    n_groups: int,
    runs: Sequence[Run],
    records: NDArray[np.void],
    headers: Sequence[bytes],
    restore: NDArray[np.void],
    columns: Sequence[tuple[Column, Values]],
) -> tuple[PartEntry, bytes]:
    """Return a part and the line that the manifest keeps of it.

    Args:
        name: Object name.
        uid: Unique id of the part.
        n_groups: Scan groups.
        runs: Runs that `records["object"]` counts.
        records: (R,) of `record_dtype`.
        headers: The R encoded record headers.
        restore: (N,) of lengths and checksums of the restore blobs.
        columns: Columns and their N values.

    Raises:
        FormatError: No reader would take it: a value that is too long, too many pages or runs.
    """
    body: list[bytes] = []

    def add(
        block: StoredBlock, pack: Callable[[int, int], bytes], *, may_pack: bool = False
    ) -> StoredBlock:
        """Return a block with its pages, whose bytes go to the body."""
        most = None if block.kind == HEADERS else _MAX_PAGE
        step, raw = _cut(pack, block.n_rows, block.rows_per_page, most, f"{name}: {block.name}")
        codec, stored = _stored(raw) if may_pack else (NONE, raw)
        body.extend(stored)
        pages = [StoredPage(len(s), len(r), crc32c(s)) for s, r in zip(stored, raw, strict=True)]
        return replace(block, rows_per_page=step, codec=codec, pages=tuple(pages))

    def table(name: str, rows: NDArray[np.void]) -> StoredBlock:
        block = _block(name, TABLE, len(rows))
        return add(replace(block, fields=_describe(rows.dtype)), lambda a, b: rows[a:b].tobytes())

    def column(c: Column, values: Values) -> StoredBlock:
        nulls = has_nulls(values)
        block = _block(c.name, COLUMN, len(values))
        return add(
            replace(block, dtype=c.dtype, shape=c.shape, nulls=nulls),
            lambda a, b: pack_values(c, values[a:b], nulls=nulls),
            may_pack=True,
        )

    blocks = [
        table(RECORDS, records),
        *(column(c, values) for c, values in columns),
        table(RESTORE, restore),
        add(
            replace(_block(HEADERS, HEADERS, len(headers)), rows_per_page=len(headers)),
            lambda a, b: b"".join(headers[a:b]),
        ),
    ]
    directory = encode_json(
        StoredDirectory(
            uid=uid,
            n_groups=n_groups,
            n_images=len(restore),
            n_records=len(records),
            runs=tuple(runs),
            blocks=tuple(blocks),
        )
    )
    head = _FIXED.pack(_MAGIC, len(directory), crc32c(directory)) + directory
    if len(head) > MAX_DIRECTORY:
        refuse(name, "directory", f"at most {MAX_DIRECTORY} bytes", len(head))
    data = b"".join((head, *body))
    entry = PartEntry(
        name=name,
        uid=uid,
        n_images=len(restore),
        n_records=len(records),
        n_bytes=len(data),
        head=Head(len(head), crc32c(head)),
    )
    layout = "record" if records.dtype["object"].shape == (1,) else "zarr"
    known = [c for c, _ in columns]
    decode_directory(head, entry, layout=layout, n_groups=n_groups, columns=known)
    return entry, data


def _block(name: str, kind: str, n_rows: int) -> StoredBlock:
    return StoredBlock(
        name=name, kind=kind, codec=NONE, n_rows=n_rows, rows_per_page=_ROWS_PER_PAGE, pages=()
    )


def _cut(
    pack: Callable[[int, int], bytes], n_rows: int, step: int, most: int | None, where: str
) -> tuple[int, list[bytes]]:
    """Return rows to a page, at most `step`, and the pages: none has more than `most` bytes."""
    while True:
        pages = [pack(a, min(a + step, n_rows)) for a in range(0, n_rows, step)]
        longest = max(map(len, pages))
        if most is None or longest <= most:
            return step, pages
        if step == 1:
            raise FormatError(f"{where}: a value has at most {most} bytes, got {longest}")
        step //= 2


def _stored(raw: Sequence[bytes]) -> tuple[str, Sequence[bytes]]:
    """Return the codec of a block, and its pages by it."""
    packed = [zlib.compress(page, 6) for page in raw]
    n_raw, n_packed = sum(map(len, raw)), sum(map(len, packed))
    if n_packed < n_raw <= _FREE_BYTES + _MAX_RATIO * n_packed:
        return ZLIB, packed
    return NONE, raw


def _describe(dtype: np.dtype[np.void]) -> tuple[Field, ...]:
    names = dtype.names or ()
    return tuple(
        Field(n, dtype[n].base.str, int(np.prod(dtype[n].shape, dtype=int))) for n in names
    )


def decode_directory(
    data: bytes, entry: PartEntry, *, layout: str, n_groups: int, columns: Sequence[Column]
) -> Directory:
    """Parse and check the head of a part against its entry in the manifest.

    Raises:
        ChecksumError: Not that part's head, or damaged.
        FormatError: A field that is missing or out of bounds.
    """
    where = entry.name
    if (len(data), crc32c(data)) != (entry.head.n_bytes, entry.head.checksum):
        raise ChecksumError(
            f"{where}: index directory fails its checksum (expected {entry.head.n_bytes} "
            f"bytes with {entry.head.checksum:08x}, got {len(data)} with {crc32c(data):08x})"
        )
    magic, length, checksum = _FIXED.unpack_from(data)
    text = data[_FIXED.size :]
    if magic != _MAGIC or length != len(text) or checksum != crc32c(text):
        raise FormatError(f"{where}: index part must start with {_MAGIC!r}, got {data[:12]!r}")
    stored = decode_json(text, StoredDirectory, where=where)
    for name, expected, got in (
        ("uid", entry.uid, stored.uid),
        ("n_groups", n_groups, stored.n_groups),
        ("n_images", entry.n_images, stored.n_images),
        ("n_records", entry.n_records, stored.n_records),
    ):
        if got != expected:
            refuse(where, name, f"{expected!r}, as the manifest says", got)
    most = entry.n_records * (1 if layout == "record" else n_groups + 1)
    if not 1 <= len(stored.runs) <= most:
        refuse(where, "objects", f"1 to {most} objects", len(stored.runs))
    wrong = [r.name for r in stored.runs if (r.chunk is None) != (layout == "record")]
    if wrong:
        expected = "objects without" if layout == "record" else "arrays with"
        refuse(where, "objects", f"{expected} a chunk size, for layout {layout}", wrong[0])
    tables, found = _blocks_of(stored, entry, record_dtype(layout, n_groups), columns)
    return Directory(
        entry=entry,
        layout=layout,
        n_groups=n_groups,
        runs=stored.runs,
        tables=tables,
        columns=found,
    )


def _blocks_of(
    stored: StoredDirectory,
    entry: PartEntry,
    records: np.dtype[np.void],
    columns: Sequence[Column],
) -> tuple[dict[str, Block], dict[str, Block]]:
    """Return tables and columns of a directory whose other fields agree with the manifest.

    Blocks of other names and kinds are those of a later version, and passed over.
    """
    where = entry.name
    known = {c.name: c for c in columns}
    tables: dict[str, Block] = {}
    found: dict[str, Block] = {}
    at = entry.head.n_bytes
    n_pages = 0
    for b in stored.blocks:
        what = f"block {b.name}"
        edges = np.array([*accumulate((p.n_bytes for p in b.pages), initial=at)], np.int64)
        at = int(edges[-1])
        n_pages += len(b.pages)
        if at > entry.n_bytes:
            refuse(where, what, f"pages inside {entry.n_bytes} bytes", at)
        is_column = b.kind == COLUMN and b.name in known
        is_table = (b.name, b.kind) in _TABLES
        if not is_column and not is_table:
            continue
        if b.name in (found if is_column else tables):
            refuse(where, what, "there once", "another one")
        n_rows = entry.n_images if is_column or b.name == RESTORE else entry.n_records
        _check_pages(b, n_rows, f"{where}: {what}")
        block = Block(
            name=b.name,
            kind=b.kind,
            codec=b.codec,
            n_rows=n_rows,
            rows_per_page=b.rows_per_page,
            edges=edges,
            pages=b.pages,
            dtype=_row_of(b, records if b.name == RECORDS else RESTORE_DTYPE, f"{where}: {what}")
            if b.kind == TABLE
            else None,
            column=_column_of(b, known[b.name], f"{where}: {what}") if is_column else None,
            nulls=bool(b.nulls),
        )
        (found if is_column else tables)[b.name] = block
    if at != entry.n_bytes:
        refuse(where, "blocks", f"blocks that end at byte {entry.n_bytes}", at)
    if n_pages > _MAX_PAGES:
        refuse(where, "blocks", f"at most {_MAX_PAGES} pages", n_pages)
    for names, there in (
        ([name for name, _ in _TABLES], tables),
        ([c.name for c in COLUMNS], found),
    ):
        missing = [name for name in names if name not in there]
        if missing:
            refuse(where, "blocks", f"all of {', '.join(names)}", f"no {missing[0]}")
    nullable = [c.name for c in COLUMNS if found[c.name].nulls]
    if nullable:
        refuse(where, f"block {nullable[0]}", "a column without nulls", "nulls")
    return tables, found


def _check_pages(block: StoredBlock, n_rows: int, where: str) -> None:
    """Check a block's rows, and that what its pages unpack to is backed by what is stored."""
    n_pages = -(-n_rows // block.rows_per_page)
    if block.n_rows != n_rows:
        refuse(where, "rows", f"{n_rows}", block.n_rows)
    if len(block.pages) != n_pages or (block.kind == HEADERS and n_pages != 1):
        refuse(where, "pages", f"{n_pages} pages of {block.rows_per_page} rows", len(block.pages))
    raw = sum(p.raw_bytes for p in block.pages)
    most = _FREE_BYTES + _MAX_RATIO * sum(p.n_bytes for p in block.pages)
    if block.kind == COLUMN and block.name == "key":
        most = min(most, MAX_PART_KEYS)
    if raw > most:
        refuse(where, "pages", f"pages of at most {most} raw bytes", raw)
    if block.kind != HEADERS and any(p.raw_bytes > _MAX_PAGE for p in block.pages):
        refuse(where, "pages", f"pages of at most {_MAX_PAGE} raw bytes each", raw)
    if block.codec == NONE and any(p.raw_bytes != p.n_bytes for p in block.pages):
        refuse(where, "pages", "raw bytes equal to those stored, for codec none", raw)
    if block.kind == HEADERS and block.codec != NONE:
        refuse(where, "codec", NONE, block.codec)


def _column_of(block: StoredBlock, column: Column, where: str) -> Column:
    if (block.dtype, block.shape) != (column.dtype, column.shape) or block.nulls is None:
        refuse(
            where,
            "column",
            f"of type {column.dtype}, shape {list(column.shape)}, with nulls or without",
            (block.dtype, block.shape, block.nulls),
        )
    return column


def _row_of(block: StoredBlock, row: np.dtype[np.void], where: str) -> np.dtype[np.void]:
    """Return the row of a table as stored: with the fields of `row`, in any order, and others."""
    fields = block.fields or ()
    new = [f.dtype for f in fields if f.dtype not in _UINTS]
    if new:
        raise UnsupportedFormatError(
            f"{where} has a field of type {new[0]!r}, which this pcrstore does not know; "
            "upgrade pcrstore"
        )
    counts = {f.name: f.count for f in fields}
    if len(counts) != len(fields):
        refuse(where, "fields", "distinct names", sorted(f.name for f in fields))
    for f in _describe(row):
        if counts.get(f.name) != f.count:
            refuse(where, f"field {f.name}", f"{f.count} numbers", counts.get(f.name))
    return np.dtype([(f.name, f.dtype, (f.count,)) for f in fields])


def decode_page(block: Block, page: Page, stored: bytes, *, where: str) -> Values:
    """Return the rows of a page: of a table as its row, of a column its values.

    Raises:
        ChecksumError: Damaged, or another page.
        UnsupportedFormatError: A codec or type of a later version.
        FormatError: Right bytes that do not hold the rows they should.
    """
    where = f"{where}: {block.name} rows {page.first_row}..{page.first_row + page.n_rows}"
    if len(stored) != page.stop - page.start or crc32c(stored) != page.checksum:
        raise ChecksumError(
            f"{where} fail their checksum (expected {page.stop - page.start} bytes with "
            f"{page.checksum:08x}, got {len(stored)} with {crc32c(stored):08x})"
        )
    block.require_known(where)
    raw = _unpack(block.codec, stored, page.raw_bytes, where)
    if block.column is not None:
        return unpack_values(block.column, raw, page.n_rows, nulls=block.nulls, where=where)
    if block.dtype is None:
        return np.frombuffer(raw, np.uint8)
    if len(raw) != page.n_rows * block.dtype.itemsize:
        raise FormatError(
            f"{where} must have {page.n_rows * block.dtype.itemsize} bytes, got {len(raw)}"
        )
    return np.frombuffer(raw, block.dtype, page.n_rows)


def rows_as(rows: NDArray[np.void], row: np.dtype[np.void], where: str) -> NDArray[np.void]:
    """Return rows of a table with the fields of `row`, whatever types and order are stored.

    Raises:
        FormatError: A number too large for its field.
    """
    out = np.zeros(len(rows), row)
    for name in row.names or ():
        values = rows[name].reshape(out[name].shape)
        out[name] = values
        if not np.array_equal(out[name], values):
            raise FormatError(f"{where}: {name} must be below 2^{8 * out[name].itemsize}")
    return out


def _unpack(codec: str, stored: bytes, raw_bytes: int, where: str) -> bytes:
    if codec == NONE:
        return stored
    unpacker = zlib.decompressobj()
    try:
        # max_length bounds the allocation whatever the stream claims; 0 would mean no bound.
        raw = unpacker.decompress(stored, raw_bytes + 1)
    except zlib.error as e:
        raise FormatError(f"{where}: not a zlib stream: {e}") from e
    if len(raw) != raw_bytes or not unpacker.eof or unpacker.unused_data:
        raise FormatError(f"{where} must unpack to {raw_bytes} bytes, got {len(raw)}")
    return raw
