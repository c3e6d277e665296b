"""Find the frame, the segments and the scans of a JPEG without decoding it.

Pure: bytes in, offsets out. Names and section numbers are from ITU-T T.81,
https://www.w3.org/Graphics/JPEG/itu-t81.pdf

    SOI  APPn DQT SOF2   DHT SOS ecs   DHT SOS ecs   ...   EOI   trailing bytes
         |- segments --| |segs-|       |segs-|             ^eoi
                             |scan 0|      |scan 1|

Only the frame of the file is checked here: marker order, lengths, the frame header and which
components a scan names. What the entropy-coded bytes say is for a decoder to judge.
"""

import re
import struct
from dataclasses import dataclass
from enum import Enum

from pcrstore.errors import DamagedJpegError, LimitError, UnsupportedJpegError
from pcrstore.tiff import tiff_orientation

__all__ = [
    "EOI",
    "SOI",
    "ColourModel",
    "Component",
    "Frame",
    "Header",
    "Jpeg",
    "Scan",
    "Segment",
    "exif_orientation",
    "identity_segments",
    "metadata_segments",
    "parse",
    "parse_frame",
    "parse_header",
]

SOI = b"\xff\xd8"
EOI = b"\xff\xd9"

_TEM, _SOF2, _SOS, _APP0, _APP1, _APP14, _COM = 0x01, 0xC2, 0xDA, 0xE0, 0xE1, 0xEE, 0xFE

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

# In entropy-coded bytes FF 00 is a stuffed FF, FF D0..D7 a restart and FF FF fill (B.1.1.2,
# B.1.1.5, F.1.2.3). One literal and one set: the regex engine runs memchr, and never backtracks.
_END_OF_ECS = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FILL = re.compile(rb"\xff*")

_EXIF = b"Exif\x00\x00"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """A scan header and the entropy-coded bytes behind it (B.2.3)."""

    components: tuple[int, ...]
    """Positions in `Frame.components`, in the order of the scan header."""
    ss: int
    """First coefficient, in zigzag order."""
    se: int
    """Last coefficient."""
    ah: int
    """Successive approximation: point transform of the scan before, 0 in a first scan."""
    al: int
    """Successive approximation: this scan's point transform."""
    sos: int
    """Offset of the FF DA."""
    ecs_start: int
    """First entropy-coded byte."""
    ecs_stop: int
    """One past the last; restart markers are inside, fill bytes before the next marker are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What comes before the first scan header."""

    frame: Frame
    model: ColourModel
    segments: tuple[Segment, ...]
    """Every marker after SOI and before the scan, in order of start."""
    sos: int
    """Offset of the first FF DA."""

    def without_metadata(self, data: bytes) -> bytes:
        """Return the segments but for metadata: what a decoder needs between SOI and the scan."""
        return b"".join(data[s.start : s.stop] for s in self.segments if not _is_metadata(data, s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """Where everything is in one file."""

    frame: Frame
    model: ColourModel
    segments: tuple[Segment, ...]
    """Every marker after SOI and before EOI, scan headers among them, in order of start."""
    scans: tuple[Scan, ...]
    """At least one, in order."""
    eoi: int
    """Offset of the FF D9."""
    n_bytes: int
    """Length of the file, with what trails EOI."""


def parse(data: bytes, *, max_scans: int = 100, max_segments: int = 10_000) -> Jpeg:
    """Find the parts of a whole file, in time linear in its length.

    Args:
        data: A file from SOI to EOI; bytes may trail, as in a multi-picture file.
        max_scans: A scan costs a decoder a pass over all coefficients, however few its bytes.
        max_segments: A marker costs 2 bytes there and a hundred here.

    Raises:
        UnsupportedJpegError: Not a JPEG, or lossless, arithmetic, hierarchical, of 12 bits, of
            more than four components, or with its height behind the first scan (DNL).
        DamagedJpegError: Cut short, a marker out of place, or a header that contradicts itself.
        LimitError: More scans or segments than allowed.
    """
    header = parse_header(data, max_segments=max_segments)
    segments = list(header.segments)
    scans: list[Scan] = []
    segment = _segment(data, header.sos)
    while segment.marker != EOI[1]:
        if len(segments) == max_segments:
            raise LimitError(f"at most {max_segments} marker segments are allowed, got more")
        if _is_sof(segment.marker):
            raise DamagedJpegError(f"one frame header expected, got another at {segment.start}")
        segments.append(segment)
        at = segment.stop
        if segment.marker == _SOS:
            if len(scans) == max_scans:
                raise LimitError(f"at most {max_scans} scans are allowed, got more")
            scans.append(_scan(data, segment, header.frame))
            at = scans[-1].ecs_stop
        segment = _segment(data, at)
    return Jpeg(
        frame=header.frame,
        model=header.model,
        segments=tuple(segments),
        scans=tuple(scans),
        eoi=segment.start,
        n_bytes=len(data),
    )


def parse_header(data: bytes, *, max_segments: int = 10_000) -> Header:
    """Read what comes before the first scan header; nothing after it is looked at.

    Raises:
        UnsupportedJpegError: As `parse`.
        DamagedJpegError: As `parse`, or no frame header and scan header before the end of `data`.
        LimitError: More segments than allowed come before the scan.
    """
    _require_soi(data)
    segments: list[Segment] = []
    frame: Frame | None = None
    segment = _segment(data, len(SOI))
    while segment.marker != _SOS:
        if segment.marker == EOI[1]:
            raise DamagedJpegError(f"a scan expected before EOI at {segment.start}")
        if len(segments) == max_segments:
            raise LimitError(f"at most {max_segments} marker segments are allowed, got more")
        if _is_sof(segment.marker):
            if frame is not None:
                raise DamagedJpegError(f"one frame header expected, got another at {segment.start}")
            frame = _frame(data, segment)
        segments.append(segment)
        segment = _segment(data, segment.stop)
    if frame is None:
        raise DamagedJpegError(f"frame header expected before the scan at {segment.start}")
    return Header(
        frame=frame,
        model=_model(data, segments, frame),
        segments=tuple(segments),
        sos=segment.start,
    )


def parse_frame(data: bytes, *, max_segments: int = 10_000) -> Frame:
    """Read the frame header of a file or of the first bytes of one; nothing after it is looked at.

    Raises:
        UnsupportedJpegError: As `parse`.
        DamagedJpegError: No frame header before the first scan or the end of `data`.
        LimitError: More segments than allowed come before it.
    """
    _require_soi(data)
    at = len(SOI)
    for _ in range(max_segments):
        segment = _segment(data, at)
        if _is_sof(segment.marker):
            return _frame(data, segment)
        if segment.marker in (_SOS, EOI[1]):
            raise DamagedJpegError(
                f"frame header expected, got marker FF{segment.marker:02X} at {segment.start}"
            )
        at = segment.stop
    raise LimitError(f"frame header expected within {max_segments} marker segments")


def identity_segments(data: bytes, jpeg: Jpeg) -> bytes:
    """Return the JFIF APP0 and Adobe APP14 segments, which say what the samples mean.

    Where a kind repeats, libjpeg obeys the last, and that one is returned. The thumbnail of a JFIF
    segment is cut off and its size set to 0 x 0. Those behind the first scan header do not count.
    """
    kept: dict[int, tuple[int, bytes]] = {}
    for segment in jpeg.segments:
        if segment.start > jpeg.scans[0].sos:
            break
        body = data[segment.start + 4 : segment.stop]
        if _is_jfif(segment.marker, body):
            kept[_APP0] = segment.start, b"\xff\xe0\x00\x10" + body[:12] + b"\x00\x00"
        elif _is_adobe(segment.marker, body):
            kept[_APP14] = segment.start, data[segment.start : segment.stop]
    return b"".join(segment for _, segment in sorted(kept.values()))


def metadata_segments(data: bytes, jpeg: Jpeg) -> bytes:
    """Return every APPn and COM segment before EOI but JFIF and Adobe ones, verbatim, in order.

    JFIF and Adobe segments are left out wherever they stand: behind the first scan header they mean
    nothing, and moved before it they would.
    """
    return b"".join(data[s.start : s.stop] for s in jpeg.segments if _is_metadata(data, s))


def exif_orientation(data: bytes, jpeg: Jpeg) -> int:
    """Return the EXIF orientation, 1 to 8; 1 when there is none or it cannot be read."""
    for segment in jpeg.segments:
        start = segment.start + 4
        if segment.marker == _APP1 and data.startswith(_EXIF, start, segment.stop):
            return tiff_orientation(data[start + len(_EXIF) : segment.stop])
    return 1


def _ceil(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)


def _require_soi(data: bytes) -> None:
    if not data.startswith(SOI):
        raise UnsupportedJpegError(
            f"a JPEG starts with FFD8, got {data[:2].hex(' ') or 'no bytes'}"
        )


def _is_sof(marker: int) -> bool:
    return marker in _HUFFMAN_SOF or marker in _OTHER_SOF


def _segment(data: bytes, at: int) -> Segment:
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


def _frame(data: bytes, segment: Segment) -> Frame:
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


def _scan(data: bytes, segment: Segment, frame: Frame) -> Scan:
    body = data[segment.start + 4 : segment.stop]
    if not body or not 1 <= body[0] <= 4 or len(body) != 4 + 2 * body[0]:
        raise DamagedJpegError(f"scan header at {segment.start} has a wrong length, {len(body)}")
    position = {c.id: i for i, c in enumerate(frame.components)}
    try:
        components = tuple(position[body[1 + 2 * i]] for i in range(body[0]))
    except KeyError as e:
        raise DamagedJpegError(
            f"scan at {segment.start} names component {e.args[0]}, frame has {list(position)}"
        ) from None
    if len(set(components)) != len(components):
        raise DamagedJpegError(f"scan at {segment.start} names a component twice")
    end = _END_OF_ECS.search(data, segment.stop)
    if end is None:
        raise DamagedJpegError(f"EOI expected, got the end of the file at {len(data)}")
    ecs_stop = end.start()
    while ecs_stop > segment.stop and data[ecs_stop - 1] == 0xFF:  # fill bytes
        ecs_stop -= 1
    ss, se, a = body[-3:]
    return Scan(
        components=components,
        ss=ss,
        se=se,
        ah=a >> 4,
        al=a & 15,
        sos=segment.start,
        ecs_start=segment.stop,
        ecs_stop=ecs_stop,
    )


def _is_jfif(marker: int, body: bytes) -> bool:
    return marker == _APP0 and len(body) >= 14 and body.startswith(b"JFIF\x00")


def _is_adobe(marker: int, body: bytes) -> bool:
    return marker == _APP14 and len(body) >= 12 and body.startswith(b"Adobe")


def _is_metadata(data: bytes, segment: Segment) -> bool:
    if not (_APP0 <= segment.marker <= 0xEF or segment.marker == _COM):
        return False
    body = data[segment.start + 4 : min(segment.start + 18, segment.stop)]
    return not (_is_jfif(segment.marker, body) or _is_adobe(segment.marker, body))


def _model(data: bytes, segments: list[Segment], frame: Frame) -> ColourModel:
    """Decide as libjpeg's default_decompress_parms does at the first scan header."""
    jfif = False
    adobe: int | None = None
    for segment in segments:
        body = data[segment.start + 4 : min(segment.start + 18, segment.stop)]
        jfif = jfif or _is_jfif(segment.marker, body)
        if _is_adobe(segment.marker, body):
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
