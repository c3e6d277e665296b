"""Find the frame, the segments and the scans of a JPEG without decoding it.

Pure: bytes in, offsets out. Names and section numbers are from ITU-T T.81,
https://www.w3.org/Graphics/JPEG/itu-t81.pdf

    SOI  APPn DQT SOF2   DHT SOS ecs   DHT SOS ecs   ...   EOI   trailing bytes
         |- segments --| |segs-|       |segs-|             ^eoi
                             |scan 0|      |scan 1|

Only the frame of the file is checked here: marker order, lengths, the frame header and which
components a scan names. The entropy-coded bytes are left to a decoder to judge.
"""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.errors import DamagedJpegError, LimitError
from pcrstore.jpeg.markers import (
    APP0,
    APP14,
    EOI,
    HUFFMAN_FRAMES,
    MAX_SCANS,
    SOI,
    SOS,
    ColourModel,
    Frame,
    Segment,
    colour_model,
    end_of_segments,
    is_adobe,
    is_frame_header,
    is_jfif,
    is_metadata,
    read_frame,
    read_segment,
    require_soi,
)

__all__ = [
    "Jpeg",
    "JpegHeader",
    "Scan",
    "frame_segment",
    "identity_segments",
    "metadata_segments",
    "parse",
    "parse_frame",
    "parse_jpeg_header",
]

# In entropy-coded bytes FF 00 is a stuffed FF, FF D0..D7 a restart and FF FF fill (B.1.1.2,
# B.1.1.5, F.1.2.3). One literal and one set: the regex engine runs memchr, and never backtracks.
_END_OF_ECS: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

MAX_SEGMENTS: Final = 10_000
"""Default limit on the marker segments of a file: each has 2 bytes or more there, and takes about
a hundred here."""

_BEFORE_FRAME: Final = frozenset(range(256)) - HUFFMAN_FRAMES


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
class JpegHeader:
    """The segments before the first scan header."""

    frame: Frame
    model: ColourModel
    segments: tuple[Segment, ...]
    """Every marker after SOI and before the scan, in order of start."""
    sos: int
    """Offset of the first FF DA."""

    def without_metadata(self, data: bytes) -> bytes:
        """Return the segments that a decoder needs between SOI and the scan: all but metadata."""
        return b"".join(data[s.start : s.stop] for s in self.segments if not is_metadata(data, s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """Offsets of the segments and scans of one file."""

    frame: Frame
    model: ColourModel
    segments: tuple[Segment, ...]
    """Every marker after SOI and before EOI, scan headers among them, in order of start."""
    scans: tuple[Scan, ...]
    """At least one, in order."""
    eoi: int
    """Offset of the FF D9."""
    n_bytes: int
    """Length of the file, bytes behind EOI included."""


def parse(data: bytes, *, max_scans: int = MAX_SCANS, max_segments: int = MAX_SEGMENTS) -> Jpeg:
    """Find the parts of a whole file, in time linear in its length.

    Args:
        data: A file from SOI to EOI; bytes may trail, as in a multi-picture file.
        max_scans: Bound on the scans; see `markers.MAX_SCANS`.
        max_segments: Bound on the marker segments; see `MAX_SEGMENTS`.

    Raises:
        UnsupportedJpegError: Not a JPEG, or lossless, arithmetic, hierarchical, of 12 bits, of
            more than four components, or with its height behind the first scan (DNL).
        DamagedJpegError: Cut short, a marker out of place, or a header that contradicts itself.
        LimitError: More scans or segments than allowed.
    """
    header = parse_jpeg_header(data, max_segments=max_segments)
    segments = list(header.segments)
    scans: list[Scan] = []
    segment = read_segment(data, header.sos)
    while segment.marker != EOI[1]:
        if len(segments) == max_segments:
            raise LimitError(f"at most {max_segments} marker segments are allowed, got more")
        if is_frame_header(segment.marker):
            raise DamagedJpegError(f"one frame header expected, got another at {segment.start}")
        segments.append(segment)
        at = segment.stop
        if segment.marker == SOS:
            if len(scans) == max_scans:
                raise LimitError(f"at most {max_scans} scans are allowed, got more")
            scans.append(_scan(data, segment, header.frame))
            at = scans[-1].ecs_stop
        segment = read_segment(data, at)
    return Jpeg(
        frame=header.frame,
        model=header.model,
        segments=tuple(segments),
        scans=tuple(scans),
        eoi=segment.start,
        n_bytes=len(data),
    )


def parse_jpeg_header(data: bytes, *, max_segments: int = MAX_SEGMENTS) -> JpegHeader:
    """Read the segments before the first scan header; nothing after it is looked at.

    Raises:
        UnsupportedJpegError: As `parse`.
        DamagedJpegError: As `parse`, or no frame header and scan header before the end of `data`.
        LimitError: More segments than allowed come before the scan.
    """
    require_soi(data)
    segments: list[Segment] = []
    frame: Frame | None = None
    segment = read_segment(data, len(SOI))
    while segment.marker != SOS:
        if segment.marker == EOI[1]:
            raise DamagedJpegError(f"a scan expected before EOI at {segment.start}")
        if len(segments) == max_segments:
            raise LimitError(f"at most {max_segments} marker segments are allowed, got more")
        if is_frame_header(segment.marker):
            if frame is not None:
                raise DamagedJpegError(f"one frame header expected, got another at {segment.start}")
            frame = read_frame(data, segment)
        segments.append(segment)
        segment = read_segment(data, segment.stop)
    if frame is None:
        raise DamagedJpegError(f"frame header expected before the scan at {segment.start}")
    return JpegHeader(
        frame=frame,
        model=colour_model(data, segments, frame),
        segments=tuple(segments),
        sos=segment.start,
    )


def parse_frame(data: bytes, *, max_segments: int = MAX_SEGMENTS) -> Frame:
    """Read the frame header of a file or of the first bytes of one; nothing after it is looked at.

    Raises:
        UnsupportedJpegError: As `parse`.
        DamagedJpegError: No frame header before the first scan or the end of `data`.
        LimitError: More segments than allowed come before it.
    """
    require_soi(data)
    at = len(SOI)
    for _ in range(max_segments):
        segment = read_segment(data, at)
        if is_frame_header(segment.marker):
            return read_frame(data, segment)
        if segment.marker in (SOS, EOI[1]):
            raise DamagedJpegError(
                f"frame header expected, got marker FF{segment.marker:02X} at {segment.start}"
            )
        at = segment.stop
    raise LimitError(f"frame header expected within {max_segments} marker segments")


_USUAL_HEAD: Final = re.compile(
    rb"\xff\xd8"
    # JFIF, Adobe, one table of 8 bits, two of them: what libjpeg writes, each of its fixed length.
    rb"(?:\xff\xe0\0\x10.{14}|\xff\xee\0\x0e.{12}|\xff\xdb\0\x43.{65}|\xff\xdb\0\x84.{130})*"
    rb"(\xff[\xc0-\xc2]\0(?:\x0b.{9}|\x11.{15}|\x14.{18}))",
    re.DOTALL,
)
"""The usual segments up to the frame header of 1, 3 or 4 components, which is group 1."""


def frame_segment(data: bytes | NDArray[np.uint8]) -> bytes:
    """Return the frame header of bytes that were checked before: marker, length and contents.

    It is called for every image that is decoded at less than full fidelity. A match, or a walk
    over markers and lengths alone, takes less than a microsecond, where `parse_frame` takes ten.

    Raises:
        DamagedJpegError: No frame header before the end of `data`.
    """
    if usual := _USUAL_HEAD.match(data if isinstance(data, bytes) else data.data):
        return usual[1]
    data = bytes(data)
    at = end_of_segments(data, len(SOI), _BEFORE_FRAME)
    frame = data[at : end_of_segments(data, at, HUFFMAN_FRAMES)]
    if not frame or len(frame) != 2 + int.from_bytes(frame[2:4]):
        raise DamagedJpegError(f"frame header expected within {len(data)} bytes")
    return frame


def identity_segments(data: bytes, jpeg: Jpeg) -> bytes:
    """Return the JFIF APP0 and Adobe APP14 segments, which tell the meaning of the samples.

    Where a kind repeats, libjpeg obeys the last, and that one is returned. The thumbnail of a JFIF
    segment is cut off and its size set to 0 x 0. Those behind the first scan header do not count.
    """
    kept: dict[int, tuple[int, bytes]] = {}
    for segment in jpeg.segments:
        if segment.start > jpeg.scans[0].sos:
            break
        body = data[segment.start + 4 : segment.stop]
        if is_jfif(segment.marker, body):
            kept[APP0] = segment.start, b"\xff\xe0\x00\x10" + body[:12] + b"\x00\x00"
        elif is_adobe(segment.marker, body):
            kept[APP14] = segment.start, data[segment.start : segment.stop]
    return b"".join(segment for _, segment in sorted(kept.values()))


def metadata_segments(data: bytes, jpeg: Jpeg) -> bytes:
    """Return every APPn and COM segment before EOI but JFIF and Adobe ones, verbatim, in order.

    JFIF and Adobe segments are left out wherever they stand: behind the first scan header they mean
    nothing, and moved before it they would.
    """
    return b"".join(data[s.start : s.stop] for s in jpeg.segments if is_metadata(data, s))


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
