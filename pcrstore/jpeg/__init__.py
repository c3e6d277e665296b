"""The jpeg wing."""

from pcrstore.jpeg.end_of_band import end_of_band_tail, ending
from pcrstore.jpeg.parser import EOI, SOI, Header, parse_frame
from pcrstore.jpeg.probe import (
    MAX_PIXELS,
    JpegInfo,
    check_pixels,
    first_rows,
    jpeg_shape,
    readable_header,
)
from pcrstore.jpeg.restore import Stored, pack
from pcrstore.jpeg.scan_script import BUILTIN, MAX_GROUPS, Script, builtin, parse_script
from pcrstore.jpeg.transcoder import (
    DEFAULT_LIMITS,
    Kind,
    Limits,
    Transcoded,
    original,
    require,
    transcode,
)

__all__ = [
    "BUILTIN",
    "DEFAULT_LIMITS",
    "EOI",
    "MAX_GROUPS",
    "MAX_PIXELS",
    "SOI",
    "Header",
    "JpegInfo",
    "Kind",
    "Limits",
    "Script",
    "Stored",
    "Transcoded",
    "builtin",
    "check_pixels",
    "end_of_band_tail",
    "ending",
    "first_rows",
    "jpeg_shape",
    "original",
    "pack",
    "parse_frame",
    "parse_script",
    "readable_header",
    "require",
    "transcode",
]
