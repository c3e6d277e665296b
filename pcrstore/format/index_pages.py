"""The bytes of an index part: a directory, then blocks in pages.

Pure: bytes in, arrays out. FORMAT.md, "Index part", is the normative text.

    "PCRI" length checksum | directory (JSON) | records | key | label | ... | restore | headers
                                              |-- a block = pages, each with its checksum --|

The directory's checksum stands in the manifest and each page's in the directory, so a page of
another part or another place fails. Record headers carry a checksum each, and so can be read one
by one.
"""

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import UID_BYTES, JsonReader, crc32c, parse_json
from pcrstore.errors import ChecksumError, FormatError
from pcrstore.format.index import (
    HEADERS,
    MAX_PART_IMAGES,
    RECORDS,
    RESTORE,
    RESTORE_DTYPE,
    UTF8,
    Block,
    Column,
    Directory,
    ObjectEntry,
    Page,
    PartEntry,
    record_dtype,
)

__all__ = ["decode_directory", "decode_page", "encode_part"]

_MAGIC: Final = b"PCRI"
_FIXED: Final = struct.Struct("<4sII")
_MAX_STRING: Final = 65_536
_MAX_PAGE: Final = 2**26
"""Bytes of a page once unpacked: what conversion writes stays below 16 kB for each of 4096 rows."""

_ROWS_PER_PAGE: Final = 4096
"""A page of keys is then about 40 kB packed, and 1/64 of ImageNet's epoch touches five of them."""


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
    b: JsonReader, n_rows: int, at: int, entry: PartEntry
) -> tuple[tuple[Page, ...], int]:
    step = b.integer("rows_per_page", 1)
    listed = b.items("pages", max_items=MAX_PART_IMAGES)
    if len(listed) != -(-n_rows // step):
        b.fail("pages", f"{-(-n_rows // step)} pages of {step} rows", len(listed))
    pages: list[Page] = []
    for i, item in enumerate(listed):
        where = f"{entry.name}: {b.string('name')}[{i}]"
        numbers = JsonReader({"page": item}, where).integers("page", max_items=3)
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
