"""JPEG files of every kind, and whether their entropy-coded bytes can be coded again."""

import io
from functools import cache

from jpeg_files import KINDS, adobe, jpegtran, make, segment
from PIL import Image

from pcrstore.jpeg.markers import EOI, SOI
from pcrstore.jpeg.parser import parse
from pcrstore.jpeg.restore import Kind
from pcrstore.jpeg.scan_script import parse_script

ONE_GROUP = parse_script("[all]\n*: 0-0, 0, 0\n*: 1-63, 0, 0\n", name="one")

EXIF = segment(
    0xE1,
    b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01\x00\x00\x00\x06\x00\x00\x00"
    + bytes(4),
)
ICC = segment(0xE2, b"ICC_PROFILE\x00\x01\x01" + bytes(i * i % 251 for i in range(3000)))
COM = segment(0xFE, b"a comment")


def with_metadata(data, *segments):
    """`data` with segments behind its SOI and its JFIF or Adobe segment."""
    at = 2
    while data[at + 1] in {0xE0, 0xEE}:
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return data[:at] + b"".join(segments) + data[at:]


@cache
def by_jpegtran(kind, *arguments):
    return jpegtran(make(kind), *arguments)


def spoiled_padding():
    """A file whose last entropy-coded byte is padded with zeros instead of ones (F.1.2.3)."""
    for width in range(8, 80):
        data = make("grey", 8, width)
        scan = parse(data).scans[0]
        last = data[scan.ecs_stop - 1]
        if last & 1 and last != 0xFF:
            return data[: scan.ecs_stop - 1] + bytes([last & ~1]) + data[scan.ecs_stop :]
    raise AssertionError("no file with padding")


# One row: name, how to make it, and how its entropy-coded bytes come back.
FILES = {
    **{kind: (lambda k=kind: make(k), Kind.RECODED) for kind in KINDS},
    **{
        f"{kind}-progressive": (lambda k=kind: make(k, progressive=True), Kind.RECODED)
        for kind in KINDS
    },
    "one-pixel": (lambda: make("420", 1, 1), Kind.RECODED),
    "one-pixel-progressive": (lambda: make("grey", 1, 1, progressive=True), Kind.RECODED),
    "one-block-and-a-pixel": (lambda: make("420", 17, 17), Kind.RECODED),
    "narrow": (lambda: make("422", 300, 3), Kind.RECODED),
    "lowest-quality": (lambda: make("420", quality=1), Kind.RECODED),
    "highest-quality": (lambda: make("444", quality=100), Kind.RECODED),
    "trailing-bytes": (lambda: make("420") + b"trailing \xff\xd9 bytes", Kind.RECODED),
    "trailing-jpeg": (lambda: make("420") + make("grey", progressive=True), Kind.RECODED),
    "fill-before-markers": (
        lambda: make("420").replace(b"\xff\xc4", b"\xff\xff\xff\xc4"),
        Kind.RECODED,
    ),
    "fill-before-eoi": (lambda: make("420")[:-2] + b"\xff\xff\xff" + EOI, Kind.RECODED),
    "metadata": (lambda: with_metadata(make("420"), EXIF, ICC, COM), Kind.RECODED),
    "metadata-first": (lambda: SOI + EXIF + make("420")[2:], Kind.RECODED),
    "metadata-cmyk": (lambda: with_metadata(make("cmyk"), EXIF, ICC), Kind.RECODED),
    "metadata-between-scans": (
        lambda: make("420", progressive=True).replace(b"\xff\xc4", COM + b"\xff\xc4"),
        Kind.RECODED,
    ),
    "metadata-before-eoi": (lambda: make("420")[:-2] + COM + EXIF + EOI, Kind.RECODED),
    "jfif-thumbnail": (
        lambda: (
            SOI
            + segment(0xE0, b"JFIF\x00\x01\x02\x01\x00\x48\x00\x48\x02\x01" + bytes(range(6)))
            + make("420")[20:]
        ),
        Kind.RECODED,
    ),
    "jfif-twice": (lambda: SOI + make("420")[2:20] + make("420")[2:], Kind.RECODED),
    "adobe-ycbcr": (lambda: SOI + adobe(1) + make("420")[20:], Kind.RECODED),
    "no-tables-as-in-motion-jpeg": (
        lambda: (
            b"".join(
                make("420")[a.start : a.stop]
                for a in [slice(0, 2), *parse(make("420")).segments]
                if getattr(a, "marker", None) != 0xC4
            )
            + make("420")[parse(make("420")).scans[0].ecs_start :]
        ),
        Kind.RECODED,
    ),
    # libjpeg reads ahead, so it does not notice: the bytes come back all the same.
    "three-bytes-too-many": (lambda: make("420")[:-2] + b"abc" + EOI, Kind.STORED),
    "padded-with-zeros": (spoiled_padding, Kind.STORED),
}

# The same, made by jpegtran.
BY_JPEGTRAN = {
    "optimised": (("420", "-optimize"), Kind.RECODED),
    "restart-1": (("420", "-restart", "1B"), Kind.RECODED),
    "restart-7": (("444", "-restart", "7B"), Kind.RECODED),
    "restart-rows": (("cmyk", "-restart", "1"), Kind.RECODED),
    "restart-optimised": (("grey", "-restart", "3B", "-optimize"), Kind.RECODED),
    "restart-progressive": (("420", "-restart", "5B", "-progressive"), Kind.RECODED),
}

# Scan scripts of jpegtran, not of pcrstore.
WITH_SCANS = {
    "not-interleaved": ("420", "0; 1; 2;", (), Kind.RECODED),
    "not-interleaved-optimised": ("420", "0; 1; 2;", ("-optimize",), Kind.RECODED),
    "half-interleaved-restarts": ("422", "1 2; 0;", ("-restart", "4B"), Kind.RECODED),
    "cmyk-not-interleaved": ("cmyk", "3; 0 2; 1;", ("-optimize",), Kind.RECODED),
    "progressive-dc-only": ("420", "0 1 2: 0-0, 0, 0;", (), Kind.RECODED),
    "progressive-dc-apart": (
        "444",
        "0: 0-0, 0, 0; 1: 0-0, 0, 0; 2: 0-0, 0, 0; 2: 1-63, 0, 3; 2: 1-63, 3, 2; 0: 1-63, 0, 0;",
        (),
        Kind.RECODED,
    ),
}


def eob_table(*symbols):
    """A DHT segment of AC table 0: codes 0, 10, 110, .. for its symbols."""
    counts = bytes([1] * len(symbols)).ljust(16, b"\0")
    return segment(0xC4, b"\x10" + counts + bytes(symbols))


def flat():
    """Two blocks without AC: each AC scan is a run of two blocks, EOB1 and a bit, coded 0 0."""
    out = io.BytesIO()
    Image.new("L", (16, 8), 90).save(out, "JPEG", progressive=True)
    assert out.getvalue().count(eob_table(0x10)) == 4
    return out.getvalue()
