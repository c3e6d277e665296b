"""The one EXIF tag that changes which pixel is where.

Pure. EXIF is a TIFF file in an APP1 segment; the tag is in its first directory (TIFF 6.0, 2).
"""

import struct

__all__ = ["tiff_orientation"]

_ORIENTATION = 0x0112
_SHORT, _LONG = 3, 4


def tiff_orientation(tiff: bytes) -> int:
    """Return the orientation, 1 to 8; 1 when there is none or it cannot be read.

    A value that is not one SHORT (or one LONG, which some writers use) counts as none.
    """
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
