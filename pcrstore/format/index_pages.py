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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import (
    Count,
    Key,
    crc32c,
    encode_json,
    from_json,
    longest,
    parse_object,
    refuse,
    within,
)
from pcrstore.errors import ChecksumError, FormatError
from pcrstore.format.index import (
    HEADERS,
    MAX_PART_IMAGES,
    RECORDS,
    RESTORE,
    RESTORE_DTYPE,
    UTF8,
    Block,
    BlockName,
    Column,
    Directory,
    Head,
    ObjectEntry,
    Page,
    PartEntry,
    Uid,
    record_dtype,
)

__all__ = ["decode_directory", "decode_page", "encode_part"]

_MAGIC: Final = b"PCRI"
_FIXED: Final = struct.Struct("<4sII")
_MAX_STRING: Final = 65_536
_MAX_PAGE: Final = 2**26
"""Bytes of a page once unpacked: conversion writes less than 16 kB for each of 4096 rows."""

_ROWS_PER_PAGE: Final = 4096
"""A page of keys is then about 40 kB packed, and 1/64 of ImageNet's epoch touches five of them."""


class _StoredPage(NamedTuple):
    """A page in the JSON of a directory."""

    n_bytes: Count
    raw_bytes: Annotated[int, within(0, _MAX_PAGE)]
    checksum: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredBlock:
    """A block in the JSON of a directory."""

    name: BlockName
    kind: str
    row: object
    """Fields of a row as [name, NumPy type, count] each, for other readers; null for text."""
    n_rows: Annotated[Count, Key("rows")]
    rows_per_page: Annotated[int, within(1)]
    packed: bool
    pages: Annotated[tuple[_StoredPage, ...], longest(MAX_PART_IMAGES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _StoredDirectory:
    """The JSON of a directory."""

    uid: Uid
    layout: str
    n_groups: Count
    n_images: Count
    n_records: Count
    objects: Annotated[tuple[ObjectEntry, ...], longest(MAX_PART_IMAGES)]
    blocks: Annotated[tuple[_StoredBlock, ...], longest(2000)]


_Values = Sequence[str] | Sequence[bytes] | NDArray[np.generic]


def _pack(kind: str, values: _Values) -> bytes:
    if kind == HEADERS:
        return b"".join(map(bytes, values))
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
    blocks: list[_StoredBlock] = []
    body: list[bytes] = []

    def add(
        name: str,
        kind: str,
        row: object,
        values: _Values,
        *,
        pack: bool,
        step: int = _ROWS_PER_PAGE,
    ) -> None:
        pages: list[_StoredPage] = []
        for first in range(0, len(values), step):
            raw = _pack(kind, values[first : first + step])
            stored = zlib.compress(raw, 6) if pack else raw
            pages.append(_StoredPage(len(stored), len(raw), crc32c(stored)))
            body.append(stored)
        blocks.append(
            _StoredBlock(
                name=name,
                kind=kind,
                row=row,
                n_rows=len(values),
                rows_per_page=step,
                packed=pack,
                pages=tuple(pages),
            )
        )

    add(RECORDS, "rows", _describe(records.dtype), records, pack=False)
    for column, values in columns:
        kind = UTF8 if column.dtype == UTF8 else "rows"
        row = None if column.row_dtype is None else [["", column.dtype, column.width]]
        # Hashes do not pack; everything else does.
        add(column.name, kind, row, values, pack=column.width < 16)
    add(RESTORE, "rows", _describe(restore.dtype), restore, pack=False)
    add(HEADERS, HEADERS, None, headers, pack=False, step=len(headers))
    directory = encode_json(
        _StoredDirectory(
            uid=uid,
            layout=layout,
            n_groups=n_groups,
            n_images=len(restore),
            n_records=len(records),
            objects=tuple(objects),
            blocks=tuple(blocks),
        )
    )
    head = _FIXED.pack(_MAGIC, len(directory), crc32c(directory)) + directory
    data = b"".join((head, *body))
    entry = PartEntry(
        name=name,
        uid=uid,
        n_images=len(restore),
        n_records=len(records),
        n_bytes=len(data),
        head=Head(len(head), crc32c(head)),
    )
    return entry, data


def _describe(dtype: np.dtype[np.void]) -> list[list[object]]:
    names = dtype.names or ()
    return [[n, dtype[n].base.str, int(np.prod(dtype[n].shape, dtype=int))] for n in names]


def decode_directory(
    data: bytes, entry: PartEntry, *, layout: str, n_groups: int, columns: Sequence[Column]
) -> Directory:
    """Parse and check the head of a part against its entry in the manifest.

    Raises:
        ChecksumError: Not that part's head, or damaged.
        FormatError: A field that is missing or out of bounds.
    """
    where = entry.name
    if (len(data), crc32c(data)) != entry.head:
        raise ChecksumError(
            f"{where}: index directory fails its checksum (expected {entry.head.n_bytes} "
            f"bytes with {entry.head.checksum:08x}, got {len(data)} with {crc32c(data):08x})"
        )
    magic, length, checksum = _FIXED.unpack_from(data)
    text = data[_FIXED.size :]
    if magic != _MAGIC or length != len(text) or checksum != crc32c(text):
        raise FormatError(f"{where}: index part must start with {_MAGIC!r}, got {data[:12]!r}")
    stored = from_json(_StoredDirectory, parse_object(text, where=where), where=where)
    for name, expected, got in (
        ("uid", entry.uid, stored.uid),
        ("layout", layout, stored.layout),
        ("n_groups", n_groups, stored.n_groups),
        ("n_images", entry.n_images, stored.n_images),
        ("n_records", entry.n_records, stored.n_records),
    ):
        if got != expected:
            refuse(where, name, f"{expected!r}, as the manifest says", got)
    if len(stored.objects) > entry.n_records:
        refuse(where, "objects", f"at most {entry.n_records} objects", len(stored.objects))
    return Directory(
        entry=entry,
        layout=layout,
        n_groups=n_groups,
        objects=stored.objects,
        blocks=_blocks_of(stored, entry, columns),
    )


def _blocks_of(
    stored: _StoredDirectory, entry: PartEntry, columns: Sequence[Column]
) -> dict[str, Block]:
    """Return the blocks of a directory whose other fields agree with the manifest."""
    where, n_images, n_records = entry.name, stored.n_images, stored.n_records
    kinds: dict[str, tuple[str, int, np.dtype[np.generic] | None]] = {
        RECORDS: ("rows", n_records, record_dtype(stored.layout, stored.n_groups)),
        HEADERS: ("headers", n_records, None),
        RESTORE: ("rows", n_images, RESTORE_DTYPE),
    }
    for c in columns:
        kinds[c.name] = (UTF8 if c.dtype == UTF8 else "rows", n_images, c.row_dtype)
    blocks: dict[str, Block] = {}
    at = entry.head.n_bytes
    for b in stored.blocks:
        kind, n_rows, dtype = kinds.get(b.name, (b.kind, n_images, None))
        if (b.kind, b.n_rows) != (kind, n_rows):
            refuse(where, f"block {b.name}", f"{n_rows} rows of kind {kind}", (b.n_rows, b.kind))
        if b.name in blocks or (b.packed and kind == HEADERS):
            refuse(where, f"block {b.name}", "a new one, not packed if it holds headers", b.packed)
        pages = _pages_of(b, at, entry)
        blocks[b.name] = Block(name=b.name, kind=kind, dtype=dtype, packed=b.packed, pages=pages)
        at = pages[-1].stop if pages else at
    if at != entry.n_bytes:
        refuse(where, "blocks", f"blocks that end at byte {entry.n_bytes}", at)
    missing = kinds.keys() - blocks.keys()
    if missing:
        refuse(where, "blocks", f"all of {', '.join(sorted(kinds))}", sorted(blocks))
    return blocks


def _pages_of(block: _StoredBlock, at: int, entry: PartEntry) -> tuple[Page, ...]:
    """Return the pages of a block that starts at byte `at` of its part.

    Of 10 rows, 4 to a page, pages of 90, 80 and 40 bytes from byte 500 are bytes 500..590 with rows
    0..4, 590..670 with rows 4..8, and 670..710 with rows 8..10.
    """
    step, n_pages = block.rows_per_page, -(-block.n_rows // block.rows_per_page)
    where = f"{entry.name}: block {block.name}"
    if len(block.pages) != n_pages:
        refuse(where, "pages", f"{n_pages} pages of {step} rows", len(block.pages))
    pages: list[Page] = []
    for i, stored in enumerate(block.pages):
        stop = at + stored.n_bytes
        if stop > entry.n_bytes:
            refuse(where, f"pages[{i}]", f"inside {entry.n_bytes} bytes", stored)
        pages.append(
            Page(
                start=at,
                stop=stop,
                raw_bytes=stored.raw_bytes,
                checksum=stored.checksum,
                first_row=i * step,
                n_rows=min(step, block.n_rows - i * step),
            )
        )
        at = stop
    return tuple(pages)


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
