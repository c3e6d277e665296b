"""The orientation tag of EXIF, the one tag that moves pixels.

Pure. EXIF is a TIFF file in an APP1 segment; the tag is in its first directory (TIFF 6.0, 2).

    FF E1  length  "Exif" 0 0  |  "II*" 0  offset --> n entries | tag 0x0112, SHORT, 1, value | ...
                               |-- a TIFF file, offsets from here
"""

import struct

from pcrstore.jpeg.markers import APP1
from pcrstore.jpeg.parser import Jpeg

__all__ = ["exif_orientation"]

_EXIF = b"Exif\x00\x00"
_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4


def exif_orientation(data: bytes, jpeg: Jpeg) -> int:
    """Return the EXIF orientation, 1 to 8; 1 when there is none or it cannot be read.

    A value that is not one SHORT (or one LONG, which some writers use) counts as none.
    """
    for segment in jpeg.segments:
        start = segment.start + 4
        if segment.marker == APP1 and data.startswith(_EXIF, start, segment.stop):
            return _tiff_orientation(data[start + len(_EXIF) : segment.stop])
    return 1


def _tiff_orientation(tiff: bytes) -> int:
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 8:
        return 1
    (ifd,) = struct.unpack_from(order + "I", tiff, 4)
    if ifd + 2 > len(tiff):
        return 1
    (n_entries,) = struct.unpack_from(order + "H", tiff, ifd)
    for at in range(ifd + 2, min(ifd + 2 + 12 * n_entries, len(tiff) - 11), 12):
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, at)
        if tag == _ORIENTATION:
            form = {_SHORT: "H", _LONG: "I"}.get(kind)
            if form is None or count != 1:
                return 1
            (value,) = struct.unpack_from(order + form, tiff, at + 8)
            return int(value) if 1 <= value <= 8 else 1
    return 1
