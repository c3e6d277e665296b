"""Write section 8 of FORMAT.md anew: a whole dataset of one image, and test vectors.

python tests/support/page_examples.py

Bytes are put together by hand, from the page, with nothing of pcrstore.
"""

import hashlib
import json
import re
import struct
import textwrap
import zlib
from collections.abc import Sequence
from pathlib import Path

import google_crc32c
from second_reader import K33

PAGE = Path(__file__).parents[2] / "FORMAT.md"
BETWEEN = re.compile(r"(?<=^## 8\. Example\n\n).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)

UID, ORDINAL = bytes(range(16)), 5
SCRIPT = "[a]\n*: 0-0, 0, 0\n[b]\n*: 1-63, 0, 0\n"
WHEN = "2026-01-01T00:00:00+00:00"
CONVERSION, PART_UID = "c0" * 16, "1d" * 16
MANIFEST, PART, OBJECT = "manifests/fffffffe.pcrm", "index/example.pcri", "objects/example.pcr"

DEFLATED = bytes.fromhex("63f84f4494dd0400")
"""A head of no runs and SOURCE, deflated with SOI and K33 as the dictionary, by zlib."""
SOURCE = b"\xff\xd8" + K33[:33] + b"\xff\xd9"

Dump = list[tuple[bytes, str]]
"""Bytes and a word on them, line by line."""


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


SEED = crc(UID + struct.pack("<Q", ORDINAL))


def checksum(cell: bytes, i: int, g: int) -> int:
    """The checksum of cell (i, g), section 4.3."""
    return crc(cell) ^ (SEED + i * 0x9E3779B1 + g * 0x85EBCA6B) % 2**32


def header(images: Sequence[Sequence[bytes]], opaque: int) -> Dump:
    """The header of a record of the cells of `images`; bits of `opaque` say which are."""
    n, g = len(images), len(images[0])
    cells = [(i, j, images[i][j]) for i in range(n) for j in range(g)]
    lengths = struct.pack(f"<{n * g}I", *(len(cell) for *_, cell in cells))
    checksums = struct.pack(f"<{n * g}I", *(checksum(cell, i, j) for i, j, cell in cells))
    tail = [
        (struct.pack("<H", n), "N, images"),
        (bytes([g]), "G, groups"),
        (b"\x00", "flags"),
        (bytes([opaque]), "which images are opaque"),
        (lengths, "lengths of cells"),
        (checksums, "checksums of cells"),
    ]
    own = crc(b"".join(data for data, _ in tail)) ^ SEED
    return [(b"PCR1", '"PCR1"'), (struct.pack("<I", own), "checksum"), *tail]


def joined(dump: Dump) -> bytes:
    return b"".join(data for data, _ in dump)


def as_lines(value: dict[str, object]) -> str:
    """JSON with a line for each field, and for each object of a list."""

    def dumped(item: object) -> str:
        return json.dumps(item, separators=(",", ":"))

    def field(item: object) -> str:
        if isinstance(item, list) and item and isinstance(item[0], dict):
            return "[\n" + ",\n".join(map(dumped, item)) + "]"
        return dumped(item)

    return "{" + ",\n".join(f"{dumped(k)}:{field(v)}" for k, v in value.items()) + "}\n"


HEADER = header([[b"abc", b""]], opaque=1)
RECORD = [*HEADER, (b"abc", "group 1: cell (0, 0). Group 2 and the restore region are empty")]


def part() -> tuple[Dump, str, Dump]:
    """The index part: its first bytes, its directory and its pages."""
    one = {"codec": "none", "rows": 1, "rows_per_page": 1}
    blocks, pages = [], []

    def add(name: str, kind: str, page: bytes, word: str, **more: object) -> None:
        pages.append((page, word))
        entry = [len(page), len(page), crc(page)]
        blocks.append({"name": name, "kind": kind, **more, **one, "pages": [entry]})

    fields = [["object", "|u1", 1], ["ordinal", "<u4", 1], ["n_images", "<u2", 1]]
    fields += [["start", "<u8", 1], ["length", "<u4", 3]]
    row = struct.pack("<BIHQ3I", 0, ORDINAL, 1, 0, 3, 0, 0)
    add("records", "table", row, "records: 0, 5, 1, 0, [3, 0, 0]", fields=fields)
    columns = [
        ("key", "utf8", [], struct.pack("<I", 5) + b"a.bin", "5 bytes, a.bin"),
        ("label", "<i4", [], struct.pack("<i", -1), "-1, none"),
        ("split", "|u1", [], b"\xff", "255, none"),
        ("format", "|u1", [], b"\x01", "1, opaque"),
        ("orientation", "|u1", [], b"\x01", "1"),
        ("width", "<u4", [], bytes(4), "0"),
        ("height", "<u4", [], bytes(4), "0"),
        ("source_bytes", "<u8", [], struct.pack("<Q", 3), "3"),
        ("source_sha256", "|u1", [32], hashlib.sha256(b"abc").digest(), "of abc"),
    ]
    for name, dtype, shape, page, word in columns:
        add(name, "column", page, f"{name}: {word}", dtype=dtype, shape=shape, nulls=False)
    blob = struct.pack("<II", 0, checksum(b"", 0, 2))
    table = [["length", "<u4", 1], ["checksum", "<u4", 1]]
    add("restore", "table", blob, "restore: length 0, checksum of cell (0, 2)", fields=table)
    add("headers", "headers", joined(HEADER), "headers: the bytes that start the record")
    run = {"name": OBJECT, "uid": UID.hex(), "bytes": len(joined(RECORD))}
    directory = as_lines(
        {
            "uid": PART_UID,
            "n_groups": 2,
            "n_images": 1,
            "n_records": 1,
            "objects": [run],
            "blocks": blocks,
        }
    )
    head = [
        (b"PCRI", '"PCRI"'),
        (struct.pack("<I", len(directory)), f"{len(directory)}, bytes of the directory"),
        (struct.pack("<I", crc(directory.encode())), "CRC32C of the directory"),
    ]
    return head, directory, pages


def manifest(head: bytes, n_bytes: int) -> str:
    """The manifest of a part whose pages are behind `head`."""
    names = ["key", "label", "split", "format", "orientation", "width", "height", "source_bytes"]
    dtypes = ["utf8", "<i4", "|u1", "|u1", "|u1", "<u4", "<u4", "<u8"]
    columns = [{"name": n, "dtype": d, "shape": []} for n, d in zip(names, dtypes, strict=True)]
    columns.append({"name": "source_sha256", "dtype": "|u1", "shape": [32]})
    entry = {"name": PART, "uid": PART_UID, "n_images": 1, "n_records": 1}
    conversion = {"id": CONVERSION, "created": WHEN, "software": "by hand"}
    body = as_lines(
        {
            "format": "pcrstore",
            "features": [],
            "write_features": [],
            "uid": "da" * 16,
            "version": 1,
            "created": WHEN,
            "writer": "by hand",
            "layout": "record",
            "groups": ["a", "b"],
            "script": {"name": "example", "text": SCRIPT},
            "n_images": 1,
            "n_records": 1,
            "bytes": {"sources": 3, "groups": [3, 0], "headers": len(joined(HEADER)), "restore": 0},
            "classes": [],
            "splits": [],
            "columns": columns,
            "parts": [{**entry, "bytes": n_bytes, "directory": [len(head), crc(head)]}],
            "checked": [],
            "conversions": [{**conversion, "n_images": 1, "options": {}, "report": None}],
        }
    )
    return envelope(body.encode()) + body


def envelope(body: bytes) -> str:
    """The first line of a manifest."""
    return f"pcrstore-manifest v1 crc32c={crc(body):08x} bytes={len(body)}\n"


def restore_blob(kind: int, source: bytes, head: bytes) -> bytes:
    return bytes([kind]) + struct.pack("<I", crc(source)) + head


def vectors() -> dict[str, str]:
    """Test vectors: what each is of, and its bytes or value."""
    two = joined(header([[b"abc", b"d"], [b"abc", b""]], opaque=2))
    values = struct.pack("<B3I2I", 0b101, 2, 0, 0, 1, 2) + "aé".encode()
    unzip = zlib.decompressobj(-15, zdict=b"\xff\xd8" + K33)
    assert unzip.decompress(DEFLATED) == b"\x00" + SOURCE
    return {
        "CRC32C of `123456789`": f"{crc(b'123456789'):08x}",
        "first line of a manifest of the 2 bytes `{}`": envelope(b"{}").strip(),
        "`latest` of version 12": latest(12).strip(),
        "seed, of the uid `000102030405060708090a0b0c0d0e0f` and ordinal 5": f"{SEED:08x}",
        "checksum of cell (3, 2), `abc`, under that seed": f"{checksum(b'abc', 3, 2):08x}",
        "header, under that seed, of `abc`, `d` and of the opaque `abc`; G = 2": two.hex(),
        'page of `utf8`, [null], with nulls: `["a","é"]`, null, `[]`': values.hex(),
        "restore blob of kind 0 of the source file `abc`": restore_blob(
            0, b"abc", b"\x00abc"
        ).hex(),
        f"the same of the {len(SOURCE)} bytes FF D8, the first DHT of K.3.3, FF D9; deflated, for "
        "a cell 1 that begins FF D8 FF DA": restore_blob(128, SOURCE, DEFLATED).hex(),
    }


def latest(version: int) -> str:
    text = f"pcrstore-latest {version}"
    return f"{text} crc32c={crc(text.encode()):08x}\n"


def shown(dump: Dump, at: int = 0) -> str:
    """Lines of at most 16 bytes: offset, hex, a word."""
    lines = []
    for data, word in dump:
        for i in range(0, len(data), 16):
            pair = data[i : i + 16].hex(" ").ljust(47), word if i == 0 else ""
            lines.append(f"{at + i:4}  {pair[0]}  {pair[1]}".rstrip())
        at += len(data)
    return "\n".join(lines)


def section() -> str:
    """Section 8 without its heading."""
    head, directory, pages = part()
    start = joined(head) + directory.encode()
    table = "\n".join(f"| {name} | `{value}` |" for name, value in vectors().items())

    def block(text: str) -> str:
        return textwrap.indent(text.strip("\n"), "    ")

    return f"""\
A dataset of version 1 in the record layout, with G = 2 and one opaque image: the 3 bytes `abc`,
key `a.bin`, of no class and no split. It has four objects. Where they are shown as text, each line
ends with one line feed; elsewhere a line is an offset, bytes in hexadecimal and a word on them.

`{MANIFEST}`:

{block(manifest(start, len(start) + len(joined(pages))))}

`latest`:

{block(latest(1))}

`{OBJECT}`, one record, whose ordinal is 5:

{block(shown(RECORD))}

`{PART}` begins:

{block(shown(head))}

goes on with its directory:

{block(directory)}

and ends with its pages:

{block(shown(pages, len(start)))}

Test vectors; values of four bytes are shown as numbers, all others as bytes:

| of | |
|---|---|
{table}
"""


def main() -> None:
    PAGE.write_text(BETWEEN.sub(lambda _: section(), PAGE.read_text()))


if __name__ == "__main__":
    main()
