"""Read one marker segment of a JPEG: its extent, a frame header, and what APPn segments mean.

Pure: bytes in, values out. Names and section numbers are from ITU-T T.81,
https://www.w3.org/Graphics/JPEG/itu-t81.pdf
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from pcrstore.errors import DamagedJpegError, UnsupportedJpegError

__all__ = [
    "APP0",
    "APP1",
    "APP14",
    "EOI",
    "SOI",
    "SOS",
    "ColourModel",
    "Component",
    "Frame",
    "Segment",
    "colour_model",
    "is_adobe",
    "is_frame_header",
    "is_jfif",
    "is_metadata",
    "read_frame",
    "read_segment",
    "require_soi",
]

SOI = b"\xff\xd8"
EOI = b"\xff\xd9"

SOS, APP0, APP1, APP14 = 0xDA, 0xE0, 0xE1, 0xEE
_TEM, _SOF2, _APP15, _COM = 0x01, 0xC2, 0xEF, 0xFE

_HUFFMAN_SOF = frozenset({0xC0, 0xC1, _SOF2})
_OTHER_SOF = {
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

_FILL = re.compile(rb"\xff*")


class ColourModel(Enum):
    """What the components mean, by the rule of libjpeg (default_decompress_parms)."""

    GREY = "grey"
    YCBCR = "ycbcr"
    RGB = "rgb"
    CMYK = "cmyk"
    YCCK = "ycck"
    OTHER = "other"
    """Two components; no standard says what they are."""

    @property
    def has_chroma(self) -> bool:
        """Whether components 1 and 2 are Cb and Cr."""
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
    precision: int
    """Bits per sample; always 8."""
    height: int
    """Y, in pixels, at least 1."""
    width: int
    """X, in pixels, at least 1."""
    components: tuple[Component, ...]
    """One to four, in the order of the frame."""

    @property
    def is_progressive(self) -> bool:
        """Whether scans may be partial (SOF2)."""
        return self.sof == _SOF2

    def blocks(self, index: int) -> tuple[int, int]:
        """Rows and columns of 8 x 8 blocks in a non-interleaved scan of one component (A.2.2)."""
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


def is_frame_header(marker: int) -> bool:
    """Whether the marker is a SOF, of whatever process (table B.1)."""
    return marker in _HUFFMAN_SOF or marker in _OTHER_SOF


def read_frame(data: bytes, segment: Segment) -> Frame:
    """Read a frame header (B.2.2); see `jpeg.parse` for what is raised."""
    if segment.marker in _OTHER_SOF:
        raise UnsupportedJpegError(
            f"a Huffman-coded sequential or progressive JPEG expected, got"
            f" {_OTHER_SOF[segment.marker]} (FF{segment.marker:02X})"
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
        precision=precision,
        height=height,
        width=width,
        components=components,
    )


def is_jfif(marker: int, body: bytes) -> bool:
    """Whether libjpeg takes the segment for JFIF; `body` is its parameters, or the first 14."""
    return marker == APP0 and len(body) >= 14 and body.startswith(b"JFIF\x00")


def is_adobe(marker: int, body: bytes) -> bool:
    """Whether libjpeg takes the segment for Adobe; `body` is its parameters, or the first 12."""
    return marker == APP14 and len(body) >= 12 and body.startswith(b"Adobe")


def is_metadata(data: bytes, segment: Segment) -> bool:
    """Whether it is an APPn or COM segment that does not say what the samples mean."""
    if not (APP0 <= segment.marker <= _APP15 or segment.marker == _COM):
        return False
    body = data[segment.start + 4 : min(segment.start + 18, segment.stop)]
    return not (is_jfif(segment.marker, body) or is_adobe(segment.marker, body))


def colour_model(data: bytes, segments: Iterable[Segment], frame: Frame) -> ColourModel:
    """Decide as libjpeg's default_decompress_parms does at the first scan header."""
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
