"""The orientation is read from every form of TIFF, and is 1 where it cannot be."""

import io
import struct

import pytest
from jpeg_files import segment, tiny
from PIL import Image

from pcrstore.jpeg.exif import exif_orientation
from pcrstore.jpeg.parser import parse

XMP = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00<x/>")


def tiff(order, value, *, tag=0x0112, kind=3, count=1, entries_before=0):
    """A TIFF with one directory."""
    mark = {"<": b"II*\x00", ">": b"MM\x00*"}[order]
    form = {3: "HH", 4: "I"}.get(kind, "I")
    values = (value, 0) if kind == 3 else (value,)
    entry = struct.pack(order + "HHI" + form, tag, kind, count, *values)
    other = struct.pack(order + "HHII", 0x010F, 2, 4, 0)
    head = mark + struct.pack(order + "IH", 8, entries_before + 1)
    return head + other * entries_before + entry


ORIENTATIONS = {
    "little-endian": (tiff("<", 6), 6),
    "big-endian": (tiff(">", 6), 6),
    "long": (tiff("<", 3, kind=4), 3),
    "long-big-endian": (tiff(">", 3, kind=4), 3),
    "third-entry": (tiff("<", 8, entries_before=2), 8),
    "value-0": (tiff("<", 0), 1),
    "value-8": (tiff("<", 8), 8),
    "value-9": (tiff("<", 9), 1),
    "ascii": (tiff("<", 6, kind=2), 1),
    "two-values": (tiff("<", 6, count=2), 1),
    "other-tag": (tiff("<", 6, tag=0x0113), 1),
    "no-tiff": (b"not a tiff at all", 1),
    "directory-past-end": (b"II*\x00\xff\xff\xff\xff" + bytes(20), 1),
    "many-entries-claimed": (b"II*\x00\x08\x00\x00\x00\xff\xff", 1),
    "empty": (b"", 1),
}


@pytest.mark.parametrize(("body", "orientation"), ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_the_orientation_is_read_or_is_1(body, orientation):
    data = tiny(segment(0xE1, b"Exif\x00\x00" + body))
    assert exif_orientation(data, parse(data)) == orientation


@pytest.mark.parametrize("row", ["little-endian", "big-endian", "long", "third-entry"])
def test_every_cut_of_an_orientation_is_1(row):
    body, _ = ORIENTATIONS[row]
    for stop in range(len(body)):
        data = tiny(segment(0xE1, b"Exif\x00\x00" + body[:stop]))
        assert exif_orientation(data, parse(data)) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_writes_orientations_that_are_read(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.new("L", (9, 7)).save(out, "JPEG", exif=exif)
    assert exif_orientation(out.getvalue(), parse(out.getvalue())) == orientation


def test_no_exif_is_orientation_1():
    assert exif_orientation(tiny(), parse(tiny())) == 1
    xmp_first = tiny(XMP + segment(0xE1, b"Exif\x00\x00" + tiff("<", 5)))
    assert exif_orientation(xmp_first, parse(xmp_first)) == 5
