r"""JPEG files: parsed, rewritten into scan groups, and put together again, losing nothing.

    markers     numbers of T.81, marker segments, frame headers
      parser    segments and scans of a file                exif  orientation
      probe     size and limits of a file to be decoded; the JPEG of its first rows
      end_of_band  scans that say "no more coefficients"    assemble  cells to a file
    scan_script    the scans of each group
    coding         scans, Huffman tables and restart interval of a source file
    restore        the rest of a source file, packed
    transcoder     source ──▶ groups + restore blob ──▶ source, by the C transcoder

    source ──parser──▶ Jpeg ──scan_script──▶ scans ──_native──▶ progressive JPEG
                        └────restore───▶ blob             split into groups 1..G

All is pure: bytes in, bytes or values out. `transcode` reads its result back and compares it with
the source, coefficient for coefficient; `original` checks the file that it returns. Errors are
JpegErrors, which mean one image, or FormatErrors, which mean stored bytes.

An example: a script of two groups for a grey image sends the DC coefficients first, then all AC.

    >>> script = parse_script("[dc]\n*: 0-0, 0, 0\n[ac]\n*: 1-63, 0, 0", name="two")
    >>> script.labels, [(step.group, step.ss, step.se) for step in script.steps]
    (('dc', 'ac'), [(0, 0, 0), (1, 1, 63)])

Group 1 is then SOI, the header segments and the DC scan; with EOI behind it, a decoder shows blocks
of 8 x 8 pixels. Group 2 is the AC scan, behind EXIF and other metadata.
"""

from pcrstore.jpeg.assemble import assemble_full, decodable
from pcrstore.jpeg.markers import EOI, MAX_PIXELS, SOI
from pcrstore.jpeg.parser import JpegHeader, parse
from pcrstore.jpeg.probe import (
    JpegInfo,
    check_pixels,
    first_rows,
    jpeg_shape,
    readable_header,
)
from pcrstore.jpeg.restore import Kind, RestoreBlob, pack_blob, unpack_blob
from pcrstore.jpeg.scan_script import BUILTIN, MAX_GROUPS, Script, builtin, parse_script
from pcrstore.jpeg.transcoder import (
    DEFAULT_LIMITS,
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
    "first_rows",
    "jpeg_shape",
    "original",
    "pack_blob",
    "parse",
    "parse_script",
    "readable_header",
    "require",
    "transcode",
    "unpack_blob",
]
