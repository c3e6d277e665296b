"""Restore blobs: the rest of a source file beside its coefficients, to rebuild it byte for byte.

Pure. The scan groups hold every coefficient. The blob of an image in the restore region holds the
rest: the file with its entropy-coded segments (ecs) cut out, which is called the skeleton. How
those segments were coded can be read from the skeleton, too.

    source    SOI APPn DQT SOF DHT SOS ecs DHT SOS ecs EOI trailing bytes
    skeleton  SOI APPn DQT SOF DHT SOS     DHT SOS     EOI trailing bytes

    blob      kind | flags   1 byte   Kind in bits 0 to 3; bit 7: the head is deflated
              checksum       4 bytes  CRC32C of the source file, little-endian
              body

    kind         body
    WHOLE        head, of the source file
    SEQUENTIAL   head, of the skeleton
    PROGRESSIVE  head, of the skeleton
    ENTROPY      u32 length of the head as it stands here, head, of the skeleton,
                 u32 number of segments, u32 length of each, segments

    head      number of runs (1 byte), u32 offset and u32 length of each, bytes

Integers are little-endian. A run stands for APPn and COM segments, which the last scan group has
already: put the next `length` bytes of that group before byte `offset` of the head's bytes.

    last group   EXIF (100 bytes) ICC (50 bytes) SOS ...
    skeleton     SOI EXIF ICC DQT SOF DHT SOS EOI
    head         1 run: offset 2, length 150 | SOI DQT SOF DHT SOS EOI

The head is deflated where that is smaller: raw deflate (RFC 1951), since the blob's checksum makes
zlib's own superfluous, with a preset dictionary: the first scan group up to its first SOS, then
`STANDARD_TABLES`. Deflate looks 32 KiB back; only the last 32 KiB of a longer dictionary count.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from itertools import pairwise

from pcrstore.errors import FormatError, LimitError, UnsupportedFormatError
from pcrstore.jpeg.markers import APPN_AND_COM, DHT, DRI, SOI, SOS, end_of_segments
from pcrstore.jpeg.parser import Jpeg, parse

__all__ = [
    "STANDARD_TABLES",
    "Coding",
    "Kind",
    "RestoreBlob",
    "join_ecs",
    "pack_blob",
    "pack_scan",
    "read_coding",
    "split_ecs",
    "unpack_blob",
]

STANDARD_TABLES = bytes.fromhex(
    # DC luminance and chrominance (K.3, K.4), then AC (K.5, K.6), each a DHT segment of its own in
    # the order in which libjpeg and most cameras write them: DC 0, AC 0, DC 1, AC 1.
    "ffc4001f00 00010501010101010100000000000000 000102030405060708090a0b"
    "ffc400b510 0002010303020403050504040000017d 0102030004110512213141061351610722711432"
    "8191a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a43444546474849"
    "4a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3"
    "a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9ea"
    "f1f2f3f4f5f6f7f8f9fa"
    "ffc4001f01 00030101010101010101010000000000 000102030405060708090a0b"
    "ffc400b511 00020102040403040705040400010277 0001020311040521310612415107617113223281"
    "08144291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a434445464748"
    "494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999a"
    "a2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9"
    "eaf2f3f4f5f6f7f8f9fa"
)
"""The DHT segments of the tables of T.81 K.3.3, which most encoders write."""

_DEFLATED = 0x80
_BEFORE_SCAN = frozenset(range(256)) - {SOS}
_MAX_RUNS = 255
_START = struct.Struct("<BI")
_RUN = struct.Struct("<II")
_PACKED_TABLE = 16 + 256
_LENGTH = struct.Struct("<I")


class Kind(IntEnum):
    """Source of the entropy-coded segments when a file is rebuilt."""

    WHOLE = 0
    """Not needed: the source file is kept in full."""
    SEQUENTIAL = 1
    """Coded again with the tables, scans and restart interval of the skeleton."""
    PROGRESSIVE = 2
    """Coded again by the scans of the skeleton, with the optimal tables of each."""
    ENTROPY = 3
    """Kept beside the skeleton: coding them again gives other bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coding:
    """Coding of a file's coefficients, in the packed form of `_native/_transcoder.pyi`."""

    scans: bytes
    tables: bytes | None
    """None in progressive mode, where libjpeg knows only optimal tables."""
    dc_slots: bytes
    """DC table number of each component; those of the same share an optimal table."""
    restart_interval: int
    """In MCUs; 0: none."""

    @property
    def packed(self) -> tuple[bytes, bytes | None, bytes, int]:
        """The tuple that the C transcoder takes."""
        return self.scans, self.tables, self.dc_slots, self.restart_interval


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreBlob:
    """A restore blob, unpacked."""

    kind: Kind
    checksum: int
    """CRC32C of the source file."""
    skeleton: bytes
    """The whole source file when `kind` is WHOLE."""
    segments: tuple[bytes, ...]
    """Entropy-coded segments; empty unless `kind` is ENTROPY."""


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


def read_coding(data: bytes, jpeg: Jpeg) -> Coding | None:
    """Read how a parsed file or skeleton is coded; None when libjpeg cannot code so.

    libjpeg's encoder keeps one restart interval for all scans, and a sequential file must send
    each component once.
    """
    tables = dict(_tables(STANDARD_TABLES))  # in force until defined, as in Motion JPEG
    of_component: dict[int, bytes] = {}
    slots: dict[int, int] = {}
    intervals: set[int] = set()
    interval = 0
    for segment in jpeg.segments:
        body = data[segment.start + 4 : segment.stop]
        if segment.marker == DHT:
            tables.update(_tables(data[segment.start : segment.stop]))
        elif segment.marker == DRI:
            interval = int.from_bytes(body[:2])
        elif segment.marker == SOS:
            intervals.add(interval)
            # Behind each component id a selector: Td in the high half, Ta in the low (B.2.3).
            for id_, selector in zip(body[1:-3:2], body[2:-3:2], strict=True):
                dc = tables.get((0, selector >> 4), b"")
                slots.setdefault(id_, selector >> 4)  # of the DC scan, which is the first
                of_component[id_] = dc + tables.get((1, selector & 15), b"")
    scans = b"".join(pack_scan(s.components, (s.ss, s.se, s.ah, s.al)) for s in jpeg.scans)
    packed = b"".join(of_component.get(c.id, b"") for c in jpeg.frame.components)
    complete = len(packed) == 2 * _PACKED_TABLE * len(jpeg.frame.components)
    if len(intervals) != 1 or not (complete or jpeg.frame.is_progressive):
        return None
    return Coding(
        scans=scans,
        tables=None if jpeg.frame.is_progressive else packed,
        dc_slots=bytes(slots.get(c.id, 0) for c in jpeg.frame.components),
        restart_interval=intervals.pop(),
    )


def pack_scan(components: Sequence[int], parameters: tuple[int, int, int, int]) -> bytes:
    """Return one scan in the packed form of `_native/_transcoder.pyi`.

    Args:
        components: One to four positions in the frame.
        parameters: Ss, Se, Ah and Al.
    """
    return bytes((len(components), *components)).ljust(5, b"\0") + bytes(parameters)


@lru_cache(maxsize=1024)
def _tables(segments: bytes) -> tuple[tuple[tuple[int, int], bytes], ...]:
    """Return ((class, slot), packed table) of DHT segments (B.2.4.2); none when they are malformed.

    Cached: most files of a set have the same.
    """
    found = []
    at = 0
    while at + 4 <= len(segments):
        stop = at + 2 + int.from_bytes(segments[at + 2 : at + 4])
        at += 4
        while at < stop:
            counts = segments[at + 1 : at + 17]
            symbols = segments[at + 17 : at + 17 + sum(counts)]
            if len(counts) != 16 or len(symbols) != sum(counts) or len(symbols) > 256:
                return ()
            found.append(
                ((segments[at] >> 4, segments[at] & 15), counts + symbols.ljust(256, b"\0"))
            )
            at += 17 + len(symbols)
        if at != stop:
            return ()
    return tuple(found)


def pack_blob(blob: RestoreBlob, groups: Sequence[bytes]) -> bytes:
    """Return the bytes of a blob for an image with these scan groups."""
    metadata = b"" if blob.kind is Kind.WHOLE else _metadata(groups)
    head = _without_metadata(blob.skeleton, metadata)
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=_dictionary(groups))
    body = deflate.compress(head) + deflate.flush()
    flags = _DEFLATED
    if len(body) >= len(head):
        body, flags = head, 0
    if blob.kind is Kind.ENTROPY:
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
        UnsupportedFormatError: A kind or flag that this release does not know.
        LimitError: A head of over `max_bytes`.
    """
    if len(data) < _START.size:
        raise FormatError(f"restore blob of at least {_START.size} bytes expected, got {len(data)}")
    first, checksum = _START.unpack_from(data)
    if first & 0x70 or first & 0x0F > max(Kind):
        raise UnsupportedFormatError(f"restore kind 0 to {max(Kind)} expected, got {first:#04x}")
    kind = Kind(first & 0x0F)
    head = data[_START.size :]
    segments: tuple[bytes, ...] = ()
    if kind is Kind.ENTROPY:
        head, segments = _split_body(head)
    if first & _DEFLATED:
        head = _inflate(head, _dictionary(groups), max_bytes)
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
    """Split the body of ENTROPY into the head, deflated or not, and the segments."""
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
