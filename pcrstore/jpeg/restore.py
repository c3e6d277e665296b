"""Restore blobs: the rest of a source file beside its coefficients, to rebuild it byte for byte.

Pure. The scan groups hold every coefficient. The blob of an image in the restore region holds the
rest: the file with its entropy-coded segments (ecs) cut out, which is called the skeleton. How
those segments were coded can be read from the skeleton, too.

    source    SOI APPn DQT SOF DHT SOS ecs DHT SOS ecs EOI trailing bytes
    skeleton  SOI APPn DQT SOF DHT SOS     DHT SOS     EOI trailing bytes

    blob      kind | flags   1 byte   Kind in bits 0 to 3; bit 7: the head is deflated
              checksum       4 bytes  CRC32C of the source file, little-endian
              body

    kind      body
    WHOLE     head, of the source file
    RECODED   head, of the skeleton
    STORED    u32 length of the head as it stands here, head, of the skeleton,
              u32 number of segments, u32 length of each, segments

    head      number of runs (1 byte), u32 offset and u32 length of each, bytes

Integers are little-endian. A run stands for APPn and COM segments, which the last scan group has
already: put the next `length` bytes of that group before byte `offset` of the head's bytes.

    last group   EXIF (100 bytes) ICC (50 bytes) SOS ...
    skeleton     SOI EXIF ICC DQT SOF DHT SOS EOI
    head         1 run: offset 2, length 150 | SOI DQT SOF DHT SOS EOI

The segments of RECODED are the coefficients coded again by the skeleton: by its scan headers, its
restart interval, and the Huffman tables in force at each scan header (see `coding`).

The head is deflated where that is smaller: raw deflate (RFC 1951), since the blob's checksum makes
zlib's own superfluous, with a preset dictionary: the first scan group from its first byte up to its
first SOS marker, then `STANDARD_TABLES`. Deflate looks 32 KiB back; only the last 32 KiB of a
longer dictionary count.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

from pcrstore.errors import FormatError, LimitError, UnsupportedFormatError
from pcrstore.jpeg.coding import STANDARD_TABLES
from pcrstore.jpeg.markers import APPN_AND_COM, SOI, SOS, end_of_segments
from pcrstore.jpeg.parser import Jpeg, parse

__all__ = ["Kind", "RestoreBlob", "join_ecs", "pack_blob", "split_ecs", "unpack_blob"]

_DEFLATED = 0x80
_KIND = 0x0F
_BEFORE_SCAN = frozenset(range(256)) - {SOS}
_MAX_RUNS = 255
_START = struct.Struct("<BI")
_RUN = struct.Struct("<II")
_LENGTH = struct.Struct("<I")


class Kind(IntEnum):
    """Source of the entropy-coded segments when a file is rebuilt."""

    WHOLE = 0
    """Not needed: the source file is kept in full."""
    RECODED = 1
    """Coded again by the scan headers, Huffman tables and restart interval of the skeleton."""
    STORED = 2
    """Kept beside the skeleton: coding them again gives other bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreBlob:
    """A restore blob, unpacked."""

    kind: Kind
    checksum: int
    """CRC32C of the source file."""
    skeleton: bytes
    """The whole source file when `kind` is WHOLE."""
    segments: tuple[bytes, ...]
    """Entropy-coded segments; empty unless `kind` is STORED."""


def split_ecs(source: bytes, jpeg: Jpeg) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the skeleton of a parsed file and its entropy-coded segments."""
    edges = [0, *(edge for s in jpeg.scans for edge in (s.ecs_start, s.ecs_stop)), len(source)]
    pieces = [source[start:stop] for start, stop in pairwise(edges)]
    return b"".join(pieces[::2]), tuple(pieces[1::2])


def join_ecs(skeleton: bytes, segments: Sequence[bytes]) -> bytes:
    """Put entropy-coded segments back behind the scan headers of a skeleton.

    Raises:
        FormatError: The skeleton has another number of scans.
    """
    scans = parse(skeleton, max_scans=len(segments)).scans
    if len(scans) != len(segments):
        raise FormatError(f"{len(scans)} segments expected, got {len(segments)}")
    edges = [0, *(scan.ecs_start for scan in scans), len(skeleton)]
    pieces: list[bytes] = []
    for (start, stop), segment in zip(pairwise(edges), (*segments, b""), strict=True):
        pieces += skeleton[start:stop], segment
    return b"".join(pieces)


def pack_blob(blob: RestoreBlob, groups: Sequence[bytes]) -> bytes:
    """Return the bytes of a blob for an image with these scan groups."""
    metadata = b"" if blob.kind is Kind.WHOLE else _metadata(groups)
    head = _without_metadata(blob.skeleton, metadata)
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=_dictionary(groups))
    body = deflate.compress(head) + deflate.flush()
    flags = _DEFLATED
    if len(body) >= len(head):
        body, flags = head, 0
    if blob.kind is Kind.STORED:
        numbers = (len(blob.segments), *map(len, blob.segments))
        lengths = struct.pack(f"<{len(numbers)}I", *numbers)
        body = b"".join((_LENGTH.pack(len(body)), body, lengths, *blob.segments))
    return _START.pack(blob.kind | flags, blob.checksum) + body


def unpack_blob(data: bytes, groups: Sequence[bytes], *, max_bytes: int) -> RestoreBlob:
    """Read the bytes of a blob.

    Args:
        data: From `pack_blob`.
        groups: The scan groups that it was packed for.
        max_bytes: Bound on the head, and so on the memory that a forged blob can claim.

    Raises:
        FormatError: The blob does not add up.
        UnsupportedFormatError: A kind or flag of a newer pcrstore.
        LimitError: A head of over `max_bytes`.
    """
    if len(data) < _START.size:
        raise FormatError(f"restore blob of at least {_START.size} bytes expected, got {len(data)}")
    first, checksum = _START.unpack_from(data)
    if first & ~(_DEFLATED | _KIND) or first & _KIND > max(Kind):
        raise UnsupportedFormatError(
            f"restore blob of kind 0 to {max(Kind)} and no flag but {_DEFLATED:#04x} expected, got"
            f" {first:#04x}: upgrade pcrstore"
        )
    kind = Kind(first & _KIND)
    head = data[_START.size :]
    segments: tuple[bytes, ...] = ()
    if kind is Kind.STORED:
        head, segments = _split_body(head)
    if first & _DEFLATED:
        head = _inflate(head, _dictionary(groups), max_bytes)
    if len(head) > max_bytes:
        raise LimitError(f"restore blob of at most {max_bytes} bytes expected, got {len(head)}")
    skeleton = _with_metadata(head, _metadata(groups))
    return RestoreBlob(kind=kind, checksum=checksum, skeleton=skeleton, segments=segments)


def _dictionary(groups: Sequence[bytes]) -> bytes:
    first = groups[0]
    return first[: end_of_segments(first, len(SOI), _BEFORE_SCAN)] + STANDARD_TABLES


def _metadata(groups: Sequence[bytes]) -> bytes:
    last = groups[-1]
    return last[: end_of_segments(last, 0, APPN_AND_COM)]


def _without_metadata(skeleton: bytes, metadata: bytes) -> bytes:
    """Return the head: the skeleton with runs in place of segments that `metadata` has."""
    runs: list[tuple[int, int]] = []  # start and stop in the skeleton
    taken = 0
    # A scan has a byte at least, so this bound never holds: the source was bounded before.
    segments = parse(skeleton, max_scans=len(skeleton)).segments if metadata else ()
    for segment in segments:
        piece = skeleton[segment.start : segment.stop]
        if segment.marker in APPN_AND_COM and metadata.startswith(piece, taken):
            taken += len(piece)
            if runs and runs[-1][1] == segment.start:
                runs[-1] = runs[-1][0], segment.stop
            elif len(runs) < _MAX_RUNS:
                runs.append((segment.start, segment.stop))
            else:
                break
    edges = [0, *(edge for run in runs for edge in run), len(skeleton)]
    kept = [skeleton[start:stop] for start, stop in list(pairwise(edges))[::2]]
    numbers: list[int] = []
    for i, (start, stop) in enumerate(runs):
        numbers += sum(map(len, kept[: i + 1])), stop - start
    return b"".join((bytes((len(runs),)), struct.pack(f"<{len(numbers)}I", *numbers), *kept))


def _with_metadata(head: bytes, metadata: bytes) -> bytes:
    """Return the skeleton of which `_without_metadata` made this head."""
    start = 1 + _RUN.size * (head[0] if head else 0)
    if start > len(head):
        raise FormatError(f"head of at least {start} bytes expected, got {len(head)}")
    pieces: list[bytes] = []
    at = taken = 0
    for offset, length in _RUN.iter_unpack(head[1:start]):
        if not at <= offset <= len(head) - start or taken + length > len(metadata):
            raise FormatError(
                f"run of {length} bytes at {offset} is outside {len(head) - start} bytes of head"
                f" or {len(metadata)} of metadata"
            )
        pieces += head[start + at : start + offset], metadata[taken : taken + length]
        at, taken = offset, taken + length
    return b"".join((*pieces, head[start + at :]))


def _split_body(body: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Split the body of STORED into the head, deflated or not, and the segments."""
    start = _LENGTH.size + _length(body, 0)
    head = body[_LENGTH.size : start]
    n = _length(body, start)
    at = start + _LENGTH.size * (1 + n)
    if at > len(body):
        raise FormatError(f"lengths of {n} segments expected, got {len(body) - start} bytes")
    edges = [at]
    for i in range(1, n + 1):
        edges.append(edges[-1] + _length(body, start + _LENGTH.size * i))
    if edges[-1] != len(body):
        raise FormatError(f"segments up to byte {edges[-1]} expected, got {len(body)}")
    return head, tuple(body[a:b] for a, b in pairwise(edges))


def _length(body: bytes, at: int) -> int:
    if at + _LENGTH.size > len(body):
        raise FormatError(f"a length expected at byte {at}, got {len(body)} bytes")
    return int(_LENGTH.unpack_from(body, at)[0])


def _inflate(body: bytes, preset: bytes, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj(-15, zdict=preset)
    try:
        data = inflate.decompress(body, max_bytes + 1)  # one more, to see the end of the stream
    except zlib.error as e:
        raise FormatError(f"restore blob does not inflate: {e}") from e
    if len(data) > max_bytes:
        raise LimitError(f"restore blob of at most {max_bytes} bytes expected, got more")
    if not inflate.eof or inflate.unused_data:
        raise FormatError("restore blob is cut short, or bytes trail it")
    return data
