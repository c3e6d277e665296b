"""The jpeg wing."""

from pcrstore.jpeg.assemble import assemble_full, decodable
from pcrstore.jpeg.end_of_band import end_of_band_tail
from pcrstore.jpeg.markers import EOI, MAX_PIXELS, SOI
from pcrstore.jpeg.parser import JpegHeader, parse_frame
from pcrstore.jpeg.probe import (
    JpegInfo,
    check_pixels,
    first_rows,
    jpeg_shape,
    readable_header,
)
from pcrstore.jpeg.restore import RestoreBlob, pack_blob
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
    "JpegHeader",
    "JpegInfo",
    "Kind",
    "Limits",
    "RestoreBlob",
    "Script",
    "Transcoded",
    "assemble_full",
    "builtin",
    "check_pixels",
    "decodable",
    "end_of_band_tail",
    "first_rows",
    "jpeg_shape",
    "original",
    "pack_blob",
    "parse_frame",
    "parse_script",
    "readable_header",
    "require",
    "transcode",
]
