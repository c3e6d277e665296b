"""Markers, marker segments and frame headers: everything here that is a number of T.81.

Pure: bytes in, values out. Names and section numbers are from ITU-T T.81,
https://www.w3.org/Graphics/JPEG/itu-t81.pdf

    FF DA 00 08 01 01 00 00 3F 00      a marker segment (B.1.1.4)
    ^  ^  ^     ^
    |  |  |     parameters: six bytes here
    |  |  length of the parameters and of itself, 8 here
    |  second byte of the marker, by which it is named here: SOS
    the marker
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from pcrstore.errors import DamagedJpegError, UnsupportedJpegError

__all__ = [
    "APP0",
    "APP1",
    "APP14",
    "APPN_AND_COM",
    "COM",
    "DHT",
    "DQT",
    "DRI",
    "EOI",
    "HUFFMAN_FRAMES",
    "MAX_PIXELS",
    "MAX_SCANS",
    "SOF2",
    "SOI",
    "SOS",
    "ColourModel",
    "Component",
    "Frame",
    "Segment",
    "colour_model",
    "end_of_segments",
    "is_adobe",
    "is_frame_header",
    "is_jfif",
    "is_metadata",
    "read_frame",
    "read_segment",
    "require_soi",
]

SOI: Final = b"\xff\xd8"
EOI: Final = b"\xff\xd9"

SOF2: Final = 0xC2
DHT: Final = 0xC4
SOS: Final = 0xDA
DQT: Final = 0xDB
DRI: Final = 0xDD
APP0: Final = 0xE0
APP1: Final = 0xE1
APP14: Final = 0xEE
COM: Final = 0xFE
_TEM: Final = 0x01

APPN_AND_COM: Final = frozenset({*range(APP0, APP0 + 16), COM})
"""Segments that a decoder may leave out, but for JFIF and Adobe ones."""

HUFFMAN_FRAMES: Final = frozenset({0xC0, 0xC1, SOF2})
"""Frame headers of the Huffman-coded DCT processes: baseline, extended and progressive."""

MAX_PIXELS: Final = 178_956_970
"""Default limit on the pixels of an image, half a GiB in RGB: twice Pillow's
`Image.MAX_IMAGE_PIXELS`, over which Pillow raises DecompressionBombError."""

MAX_SCANS: Final = 160
"""Default limit on the scans of an image. Each costs a pass over all coefficients, however few its
bytes; real files have 1 to 18. A script of 32 groups may have, in each, an AC scan of each of four
components and a DC scan: 32 * (4 + 1)."""

_OTHER_FRAMES: Final = {
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical lossless",
    0xC9: "arithmetic",
    0xCA: "arithmetic progressive",
    0xCB: "arithmetic lossless",
    0xCD: "arithmetic hierarchical",
    0xCE: "arithmetic hierarchical",
    0xCF: "arithmetic hierarchical lossless",
}

_FILL: Final = re.compile(rb"\xff*")


class ColourModel(Enum):
    """Meaning of the components, by the rule of libjpeg (default_decompress_parms)."""

    GREY = "grey"
    YCBCR = "ycbcr"
    RGB = "rgb"
    CMYK = "cmyk"
    YCCK = "ycck"
    OTHER = "other"
    """Two components, whose meaning is in no standard."""

    @property
    def has_chroma(self) -> bool:
        """True where components 1 and 2 are Cb and Cr."""
        return self in (ColourModel.YCBCR, ColourModel.YCCK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component of a frame header (B.2.2)."""

    id: int
    """Ci, the name by which scans refer to it."""
    h: int
    """Hi, horizontal sampling factor, 1 to 4."""
    v: int
    """Vi, vertical sampling factor, 1 to 4."""
    quant_table: int
    """Tqi, quantisation table slot, 0 to 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame header (B.2.2)."""

    sof: int
    """Second byte of the marker: C0 baseline, C1 extended, C2 progressive."""
    height: int
    """Y, in pixels, at least 1."""
    width: int
    """X, in pixels, at least 1."""
    components: tuple[Component, ...]
    """One to four, in the order of the frame."""

    @property
    def is_progressive(self) -> bool:
        """True for SOF2, whose scans may carry a part of the coefficients."""
        return self.sof == SOF2

    def blocks(self, index: int) -> tuple[int, int]:
        """Rows and columns of 8 x 8 blocks in a non-interleaved scan of one component (A.2.2).

        Of 101 x 75 pixels in 4:2:0, Y has ceil(75 / 8) = 10 rows of ceil(101 / 8) = 13 blocks, and
        Cb, of 51 x 38 samples, 5 rows of 7.
        """
        c = self.components[index]
        h_max = max(other.h for other in self.components)
        v_max = max(other.v for other in self.components)
        rows = _ceil(_ceil(self.height * c.v, v_max), 8)
        columns = _ceil(_ceil(self.width * c.h, h_max), 8)
        return rows, columns


@dataclass(frozen=True, slots=True)
class Segment:
    """A marker and its parameters, bytes `start` up to but not including `stop`."""

    marker: int
    """Second byte of the marker."""
    start: int
    """Offset of the marker's FF, after any fill bytes."""
    stop: int
    """One past its last parameter."""


def require_soi(data: bytes) -> None:
    """Raise UnsupportedJpegError where the bytes do not start as a JPEG does."""
    if not data.startswith(SOI):
        raise UnsupportedJpegError(
            f"a JPEG starts with FFD8, got {data[:2].hex(' ') or 'no bytes'}"
        )


def read_segment(data: bytes, at: int) -> Segment:
    """Read the marker at `at`, behind fill bytes, and the length that follows it."""
    fill = _FILL.match(data, at)
    code = fill.end() if fill else at
    if code >= len(data):
        raise DamagedJpegError(f"marker or EOI expected, got the end of the file at {len(data)}")
    marker = data[code]
    if code == at or marker == 0:
        raise DamagedJpegError(f"marker expected at {at}, got {data[at : at + 2].hex().upper()}")
    start = code - 1
    if marker == EOI[1] or marker == _TEM or 0xD0 <= marker <= 0xD7:
        return Segment(marker, start, code + 1)
    if marker == SOI[1]:
        raise DamagedJpegError(f"one SOI expected, got another at {start}")
    if marker < 0xC0:
        raise DamagedJpegError(f"marker FF{marker:02X} at {start} is reserved")
    # The length counts itself (B.1.1.4).
    length = int.from_bytes(data[code + 1 : code + 3])
    stop = code + 1 + length
    if length < 2 or stop > len(data):
        raise DamagedJpegError(
            f"segment FF{marker:02X} at {start} must have 2 to {len(data) - code - 1} bytes,"
            f" got {length}"
        )
    return Segment(marker, start, stop)


def end_of_segments(data: bytes, at: int, markers: frozenset[int]) -> int:
    r"""Return the offset behind the segments at `at` that have one of these markers.

    The segments are not checked: they were when the bytes were written, or a checksum covers them.

    >>> end_of_segments(SOI + b"\xff\xfe\x00\x03c" + b"\xff\xda", 2, APPN_AND_COM)
    7
    """
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] in markers:
        at += 2 + (data[at + 2] << 8 | data[at + 3])  # the length counts itself (B.1.1.4)
    return min(at, len(data))


def is_frame_header(marker: int) -> bool:
    """Say whether the marker is a SOF, of whatever process (table B.1)."""
    return marker in HUFFMAN_FRAMES or marker in _OTHER_FRAMES


def read_frame(data: bytes, segment: Segment) -> Frame:
    """Read a frame header (B.2.2); errors are those of `parser.parse`."""
    if segment.marker in _OTHER_FRAMES:
        raise UnsupportedJpegError(
            f"a Huffman-coded sequential or progressive JPEG expected, got"
            f" {_OTHER_FRAMES[segment.marker]} (FF{segment.marker:02X})"
        )
    body = data[segment.start + 4 : segment.stop]
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise DamagedJpegError(f"frame header at {segment.start} has a wrong length, {len(body)}")
    precision, height, width, n_components = struct.unpack_from(">BHHB", body)
    if precision != 8:
        raise UnsupportedJpegError(f"8 bits per sample expected, got {precision}")
    if not 1 <= n_components <= 4:
        raise UnsupportedJpegError(f"1 to 4 components expected, got {n_components}")
    if width == 0:
        raise DamagedJpegError(f"width must be at least 1, got 0 in the frame at {segment.start}")
    if height == 0:
        raise UnsupportedJpegError("height must be in the frame header, got 0 (DNL)")
    components = tuple(
        Component(id=body[i], h=body[i + 1] >> 4, v=body[i + 1] & 15, quant_table=body[i + 2])
        for i in range(6, len(body), 3)
    )
    for c in components:
        if not (1 <= c.h <= 4 and 1 <= c.v <= 4 and c.quant_table <= 3):
            raise DamagedJpegError(
                f"component {c.id} must have sampling factors 1 to 4 and table 0 to 3,"
                f" got {c.h} x {c.v} and {c.quant_table}"
            )
    if len({c.id for c in components}) != n_components:
        raise DamagedJpegError(f"distinct component ids expected, got {[c.id for c in components]}")
    return Frame(
        sof=segment.marker,
        height=height,
        width=width,
        components=components,
    )


def is_jfif(marker: int, body: bytes) -> bool:
    """Say whether libjpeg takes the segment for JFIF; `body` is its parameters, or the first 14."""
    return marker == APP0 and len(body) >= 14 and body.startswith(b"JFIF\x00")


def is_adobe(marker: int, body: bytes) -> bool:
    """Say whether libjpeg takes the segment for Adobe; `body`: its parameters, or the first 12."""
    return marker == APP14 and len(body) >= 12 and body.startswith(b"Adobe")


def is_metadata(data: bytes, segment: Segment) -> bool:
    """Say whether a segment is APPn or COM and neither JFIF nor Adobe, which define the samples."""
    if segment.marker not in APPN_AND_COM:
        return False
    body = data[segment.start + 4 : min(segment.start + 18, segment.stop)]
    return not (is_jfif(segment.marker, body) or is_adobe(segment.marker, body))


def colour_model(data: bytes, segments: Iterable[Segment], frame: Frame) -> ColourModel:
    """Return the model that libjpeg's default_decompress_parms finds at the first scan header."""
    jfif = False
    adobe: int | None = None
    for segment in segments:
        body = data[segment.start + 4 : min(segment.start + 18, segment.stop)]
        jfif = jfif or is_jfif(segment.marker, body)
        if is_adobe(segment.marker, body):
            adobe = body[11]
    match len(frame.components):
        case 1:
            return ColourModel.GREY
        case 3 if jfif:
            return ColourModel.YCBCR
        case 3 if adobe is not None:
            return ColourModel.RGB if adobe == 0 else ColourModel.YCBCR
        case 3:
            ids = bytes(c.id for c in frame.components)
            return ColourModel.RGB if ids == b"RGB" else ColourModel.YCBCR
        case 4:
            return ColourModel.CMYK if adobe in (None, 0) else ColourModel.YCCK
        case _:
            return ColourModel.OTHER


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
