"""Join the cells of an image, which are its scan groups 1..k, to a JPEG.

Pure: bytes in, bytes out.

    k < G    cell 1 | .. | cell k | end-of-band tail | EOI                           `decodable`

    k = G    SOI JFIF DQT SOF2 scans | .. | EXIF ICC COM scans             as stored
             SOI JFIF EXIF ICC COM DQT SOF2 scans | .. | scans | EOI       `assemble_full`
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pcrstore.errors import JpegError
from pcrstore.jpeg.end_of_band import ending
from pcrstore.jpeg.markers import APPN_AND_COM, EOI, SOI, end_of_segments

__all__ = ["assemble_full", "decodable"]


def assemble_full(cells: Sequence[bytes]) -> bytes:
    """Join all G cells of an image to its full-fidelity JPEG.

    Metadata (EXIF, ICC, XMP, COM) is stored at the start of the last group, where a low-fidelity
    read does not pay for it. A decoder looks for it in the file's head, so it moves behind the
    JFIF and Adobe segments of group 1.
    """
    first, last = cells[0], cells[-1]
    n_meta = end_of_segments(last, 0, APPN_AND_COM)
    if len(cells) == 1 or n_meta == 0:
        return b"".join((*cells, EOI))
    at = end_of_segments(first, len(SOI), APPN_AND_COM)
    return b"".join((first[:at], last[:n_meta], first[at:], *cells[1:-1], last[n_meta:], EOI))


def decodable(cells: Sequence[bytes | NDArray[np.uint8]], n_groups: int, *, opaque: bool) -> bytes:
    """Join an image's cells to a file that a decoder takes.

    Args:
        cells: Its groups 1..k; views of a record are joined without a copy of each.
        n_groups: Of the dataset. With fewer cells an end-of-band tail follows them.
        opaque: True where cell 1 is a whole file, of whatever format.
    """
    if opaque:
        return bytes(cells[0])
    if len(cells) == n_groups:
        return assemble_full([bytes(c) for c in cells])
    try:
        end = ending(cells[0])
    except JpegError:  # the decoder will refuse the file, and its caller can name the image
        end = EOI
    # An array is a buffer, but NumPy's type stubs say so only for Python 3.12 and later.
    return b"".join((*cells, end))  # type: ignore[arg-type]  # see above
