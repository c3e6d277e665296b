"""Size and limits of a JPEG that is about to be decoded, and the JPEG of its first rows.

Pure: bytes in, numbers or bytes out, in a tenth of the time of `parser.parse_jpeg_header`: while
Python runs no other thread can decode.

    SOI  APPn DQT SOF          DHT SOS scan | SOS scan | ...  EOI
                  ^ height                ^ each counted, and whether its bits are all there
"""

import itertools
import re
import struct
from functools import lru_cache
from typing import Final, NamedTuple

from pcrstore.errors import DamagedJpegError, LimitError, UnsupportedJpegError
from pcrstore.jpeg.markers import (
    APPN_AND_COM,
    DHT,
    DQT,
    DRI,
    HUFFMAN_FRAMES,
    MAX_SCANS,
    SOF2,
    SOI,
    SOS,
    is_frame_header,
)
from pcrstore.jpeg.parser import JpegHeader, parse_jpeg_header

__all__ = [
    "MAX_DECODED_SCANS",
    "JpegInfo",
    "check_pixels",
    "first_rows",
    "jpeg_shape",
    "readable_header",
]

MAX_DECODED_SCANS: Final = MAX_SCANS + 10
"""Limit on the scans of an image to decode: an end-of-band tail adds at most four."""

# Behind a literal first byte the regex engine runs memchr: three times as fast as bytes.count.
_SCANS: Final = re.compile(rb"\xff(?:\xd9|\xda(?:(?=(.{8}))|))", re.DOTALL)
"""EOI, or SOS with the bytes behind it in a scan of one component (B.2.3): length, number of
components, component, tables, Ss, Se, Ah and Al."""

_ONE_COMPONENT: Final = b"\x00\x08\x01"

_MAX_WALK: Final = 100
"""Segments to walk over before the parser, which counts them, is asked."""
_FRAME: Final = struct.Struct(">BHHB")
_SKIPPED: Final = APPN_AND_COM | {DHT, DQT, DRI}

_Found = tuple[int, int, int, int, int]
"""Width, height, number of components, offsets of the frame header and of the first scan header."""

_ROWS: Final = 16
"""Rows of an MCU of most files: to end in the midst of one would save nothing."""


class JpegInfo(NamedTuple):
    """Facts about a JPEG that a decoder needs beforehand."""

    width: int
    height: int
    n_components: int
    frame: int
    """Offset of the frame header's marker."""
    is_complete: bool
    """True where no bit of an AC coefficient is missing. In other images libjpeg smooths each block
    by the blocks around it, so that a cut by `first_rows` would be seen."""


def jpeg_shape(data: bytes, max_pixels: int) -> JpegInfo | None:
    """Return the facts in a JPEG's headers, its limits checked; None for another format.

    Raises:
        LimitError: More than `max_pixels` pixels, or than `MAX_DECODED_SCANS` scans.
    """
    found = _walked(data) or _parsed(data)
    if found is None:
        return None
    width, height, n_components, frame, sos = found
    check_pixels(width, height, max_pixels)
    # In entropy-coded bytes FF is followed by 00, so this counts scans, and bytes that look like
    # a scan header in a segment between scans. Each costs a pass over all coefficients.
    scans = tuple(m[1] for m in itertools.islice(_SCANS.finditer(data, sos), MAX_DECODED_SCANS + 2))
    if len(scans) > MAX_DECODED_SCANS + 1:
        raise LimitError(f"at most {MAX_DECODED_SCANS} scans are decoded, got more")
    ids = data[frame + 10 : frame + 10 + 3 * n_components : 3]
    is_complete = data[frame + 1] != SOF2 or _brings_every_bit(ids, scans)
    return JpegInfo(width, height, n_components, frame, is_complete)


@lru_cache(maxsize=256)
def _brings_every_bit(ids: bytes, scans: tuple[bytes | None, ...]) -> bool:
    """Say whether scans bring every AC coefficient of every component to its last bit (G.1.1.1).

    Images of one dataset have the same scan headers, or nearly.
    """
    al: dict[tuple[int, int], int] = {}
    for scan in itertools.takewhile(bool, scans):  # up to EOI, where a decoder stops
        if scan and scan.startswith(_ONE_COMPONENT):  # those of several bring DC coefficients
            _, _, _, component, _, first, last, a = scan
            al.update(dict.fromkeys(((component, i) for i in range(first, last + 1)), a & 15))
    # Of components with one id a decoder takes the first for all scans.
    return len(set(ids)) == len(ids) and all(al.get((c, i)) == 0 for c in ids for i in range(1, 64))


def readable_header(data: bytes) -> JpegHeader | None:
    """Return the JPEG header; None for another format and for a JPEG that only Pillow may read."""
    try:
        return parse_jpeg_header(data)
    except (UnsupportedJpegError, DamagedJpegError):
        return None


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise `LimitError` for an image of more pixels."""
    if width * height > max_pixels:
        raise LimitError(f"at most {max_pixels} pixels are decoded, got {width} x {height}")


def first_rows(data: bytes, shape: JpegInfo, rows: int, scale: int) -> tuple[bytes, JpegInfo]:
    """Return a JPEG that ends below its first rows, for callers that need no more; and its shape.

    Only the height in the frame header differs. Of each scan libjpeg then decodes the blocks of
    these rows and looks for the next marker, with a warning about the bytes that it skips: a
    decoder must be lenient. The rows asked for are the same to the bit. Damage below them may go
    unnoticed, or be fatal where libjpeg would have found its way at a restart marker.

    Args:
        data: A JPEG.
        shape: Of `jpeg_shape`.
        rows: At full size.
        scale: 1, 2, 4 or 8, by which each side of the image will be reduced.
    """
    # Chroma of half the height is interpolated from the row of chroma below too.
    height = -(-(rows + 2 * scale) // _ROWS) * _ROWS
    if height >= shape.height or not shape.is_complete:
        return data, shape
    at = shape.frame + 5  # FF C2, length, precision, height (B.2.2)
    view = memoryview(data)
    cut = b"".join((view[:at], height.to_bytes(2), view[at + 2 :]))
    return cut, shape._replace(height=height)


def _parsed(data: bytes) -> _Found | None:
    """Return the facts of a header that `parse_jpeg_header` can read; else None."""
    header = readable_header(data)
    if header is None:
        return None
    frame = header.frame
    [at] = [s.start for s in header.segments if is_frame_header(s.marker)]
    return frame.width, frame.height, len(frame.components), at, header.sos


def _walked(data: bytes) -> _Found | None:
    """Return the facts of a header that has nothing unusual; None for any other.

    It goes from length to length and leaves the contents of tables and components to libjpeg: where
    libjpeg refuses them, `parse_jpeg_header` is asked after all.
    """
    if not data.startswith(SOI):
        return None
    at, frame_at, frame = len(SOI), 0, (0, 0, 0)
    try:
        for _ in range(_MAX_WALK):
            if data[at] != 0xFF:
                return None
            marker = data[at + 1]
            if marker == SOS:
                return (*frame, frame_at, at) if frame_at else None
            length = data[at + 2] << 8 | data[at + 3]  # it counts itself (B.1.1.4)
            if marker in HUFFMAN_FRAMES:
                # B.2.2: precision, height, width, number of components, three bytes for each
                precision, height, width, n = _FRAME.unpack_from(data, at + 4)
                wanted = precision == 8 and height and width and n in (1, 3, 4)
                if frame_at or not wanted or length != 8 + 3 * n:
                    return None
                frame_at, frame = at, (width, height, n)
            elif marker not in _SKIPPED:
                return None
            at += 2 + length
    except (IndexError, struct.error):  # cut short
        pass
    return None
