"""One JPEG into scan groups and a restore blob, and back, by way of the C transcoder.

Every result is proved before it is returned: the scan groups are read back and compared with the
source, coefficient for coefficient, and the source file is rebuilt from groups and blob.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pcrstore.core import crc32c
from pcrstore.errors import ChecksumError, FormatError, LimitError, MissingDependencyError
from pcrstore.jpeg import restore
from pcrstore.jpeg.coding import Coding, pack_scan, read_coding
from pcrstore.jpeg.exif import exif_orientation
from pcrstore.jpeg.markers import EOI, MAX_PIXELS, MAX_SCANS
from pcrstore.jpeg.parser import Jpeg, identity_segments, metadata_segments, parse
from pcrstore.jpeg.restore import Kind, RestoreBlob
from pcrstore.jpeg.scan_script import ScanSpec, Script

_missing: ImportError | None = None
try:
    from pcrstore._native import _transcoder
except ImportError as e:  # installed without a compiler or libjpeg's headers; see setup.py
    _missing = e

__all__ = ["DEFAULT_LIMITS", "Limits", "Transcoded", "original", "require", "transcode"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one image, checked before work on it starts."""

    max_bytes: int = 64 << 20
    """Length of the source file."""
    max_pixels: int = MAX_PIXELS
    """Width times height."""
    max_scans: int = MAX_SCANS
    """Scans of the source file."""
    max_memory: int = 1 << 30
    """Bytes of coefficients, held twice while a result is compared: 6 bytes a pixel in 4:2:0."""


DEFAULT_LIMITS = Limits()

_HEAD_ROOM = 1 << 12
"""Bytes that a restore blob's head may have beside the file: 255 runs of 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcoded:
    """One image as it is stored."""

    groups: tuple[bytes, ...]
    """Scan groups. The first starts with SOI and the header, the last with EXIF, ICC, XMP and
    comments; joined, with an EOI, they are a JPEG."""
    restore: bytes
    """The restore blob, which `original` needs beside the groups."""
    kind: Kind
    """Kind of the restore blob."""
    width: int
    """In pixels, as stored."""
    height: int
    """In pixels, as stored."""
    n_components: int
    orientation: int
    """EXIF orientation, 1 to 8; the stored pixels are not turned."""


def require() -> None:
    """Make sure that the C transcoder is there.

    Raises:
        MissingDependencyError: pcrstore was installed without it.
    """
    if _missing is not None:
        raise MissingDependencyError(
            "converting and fidelity='original' need pcrstore's C transcoder, which was not built:"
            " install a C compiler and libjpeg's headers (Debian, Ubuntu: gcc libjpeg-dev;"
            " Fedora: gcc libjpeg-turbo-devel; macOS: brew install jpeg-turbo), then"
            " pip install --force-reinstall --no-cache-dir pcrstore"
        ) from _missing


def transcode(source: bytes, script: Script, limits: Limits = DEFAULT_LIMITS) -> Transcoded:
    """Rewrite a JPEG into scan groups, losing nothing.

    Args:
        source: A JPEG file, sequential or progressive, Huffman-coded, of 8 bits per sample.
        script: The coefficients of each group.
        limits: Bounds on the source.

    Raises:
        UnsupportedJpegError: A file of another kind, or not a JPEG.
        DamagedJpegError: libjpeg warned or failed, in its own words.
        LimitError: Over one of `limits`.
        MissingDependencyError: As `require`.
    """
    require()
    if len(source) > limits.max_bytes:
        raise LimitError(f"at most {limits.max_bytes} bytes expected, got {len(source)}")
    jpeg = parse(source, max_scans=limits.max_scans)
    specs = script.expand(jpeg.frame, jpeg.model)
    metadata = metadata_segments(source, jpeg)
    header = identity_segments(source, jpeg)
    if script.n_groups == 1:
        header, metadata = header + metadata, b""
    coding = read_coding(source, jpeg)
    proving = None if coding is None else coding.with_all_codes()
    output, stops, recoded = _transcoder.transcode(
        source,
        header,
        b"".join(pack_scan(s.components, (s.ss, s.se, s.ah, s.al)) for s in specs),
        None if proving is None else proving.packed,
        limits.max_pixels,
        limits.max_scans,
        limits.max_memory,
    )
    groups = _groups_of(output, stops, specs, script.n_groups, metadata)
    kind, blob = _restorable(source, jpeg, groups, _by_rule(coding, recoded))
    return Transcoded(
        groups=groups,
        restore=blob,
        kind=kind,
        width=jpeg.frame.width,
        height=jpeg.frame.height,
        n_components=len(jpeg.frame.components),
        orientation=exif_orientation(source, jpeg),
    )


def original(groups: Sequence[bytes], blob: bytes, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return the source file of an image, byte for byte.

    Args:
        groups: All scan groups, as `transcode` returned them.
        blob: The restore blob.
        limits: Bounds on the source.

    Raises:
        ChecksumError: The rebuilt file is not the source file: groups are missing or changed; or
            the source is progressive, and its Huffman tables are not the optimal ones that this
            libjpeg makes, the only ones that it can code a progressive file with.
        UnsupportedFormatError: A blob of a newer pcrstore.
        FormatError: The blob does not add up, or groups and blob do not fit together.
        LimitError: Over one of `limits`.
        MissingDependencyError: As `require`, for kinds that need libjpeg.
    """
    try:
        read = restore.unpack_blob(blob, groups, max_bytes=limits.max_bytes + _HEAD_ROOM)
        source = _rebuilt(read, _recoded(read, groups, limits))
    except (LimitError, FormatError, MissingDependencyError):
        raise
    except ValueError as e:  # a marker in the skeleton, or libjpeg's view of the groups
        raise FormatError(f"restore blob and scan groups do not fit together: {e}") from e
    if crc32c(source) != read.checksum:
        raise ChecksumError(
            f"source file of CRC32C {read.checksum:#010x} expected, got {crc32c(source):#010x}:"
            f" groups are missing or changed, or the source has Huffman tables that this libjpeg"
            f" does not make"
        )
    return source


def _groups_of(
    output: bytes,
    stops: Sequence[int],
    specs: Sequence[ScanSpec],
    n_groups: int,
    metadata: bytes,
) -> tuple[bytes, ...]:
    """Cut the transcoder's output into groups, and put the metadata in front of the last."""
    edges = [0] * (n_groups + 1)
    for spec, stop in zip(specs, stops, strict=True):
        edges[spec.group + 1] = stop
    groups = [output[start:stop] for start, stop in pairwise(edges)]
    groups[-1] = metadata + groups[-1]
    return tuple(groups)


def _recoded(blob: RestoreBlob, groups: Sequence[bytes], limits: Limits) -> Sequence[bytes]:
    """Return the entropy-coded segments of the source."""
    if blob.kind is not Kind.RECODED:
        return blob.segments
    coding = read_coding(blob.skeleton, parse(blob.skeleton, max_scans=limits.max_scans))
    if coding is None:
        raise FormatError("restore blob asks for a coding that libjpeg cannot write")
    require()
    return _transcoder.reencode(
        b"".join((*groups, EOI)),
        coding.packed,
        limits.max_pixels,
        max(limits.max_scans, MAX_SCANS),
        limits.max_memory,
    )


def _rebuilt(blob: RestoreBlob, segments: Sequence[bytes]) -> bytes:
    if blob.kind is Kind.WHOLE:
        return blob.skeleton
    return restore.join_ecs(blob.skeleton, segments)


def _by_rule(
    coding: Coding | None, recoded: tuple[bytes, list[bytes]] | None
) -> Sequence[bytes] | None:
    """Return the segments that libjpeg made, if whoever codes by the source's tables makes them.

    For a progressive file libjpeg makes optimal tables, those that it needs to code the symbols.
    Equal bytes alone would not do: other tables might give other symbols the same bits.

    Args:
        coding: Of the source.
        recoded: Skeleton and segments of what libjpeg wrote.
    """
    if coding is None or recoded is None:
        return None
    skeleton, segments = recoded
    if coding.tables is not None:  # libjpeg was given them
        return segments
    made = read_coding(skeleton, parse(skeleton, max_scans=len(segments)))
    alike = made is not None and made.tables_of_scans == coding.tables_of_scans
    return segments if alike else None


def _restorable(
    source: bytes, jpeg: Jpeg, groups: Sequence[bytes], recoded: Sequence[bytes] | None
) -> tuple[Kind, bytes]:
    """Return the smallest blob that brings the source back, having brought it back.

    `recoded` equals the `reencode` of these groups: the C side made it from the coefficients
    of its own output, of which the groups are slices; the metadata put between them is APPn and
    COM segments, which libjpeg skips.
    """
    skeleton, segments = restore.split_ecs(source, jpeg)
    for kind, head, kept in (
        (Kind.RECODED, skeleton, ()),
        (Kind.STORED, skeleton, segments),
        (Kind.WHOLE, source, ()),
    ):
        if kind is Kind.RECODED and recoded is None:
            continue
        made = RestoreBlob(kind=kind, checksum=crc32c(source), skeleton=head, segments=kept)
        blob = restore.pack_blob(made, groups)
        read = restore.unpack_blob(blob, groups, max_bytes=len(source) + _HEAD_ROOM)
        back = _rebuilt(read, recoded if kind is Kind.RECODED and recoded else read.segments)
        if back == source:
            return kind, blob
    raise AssertionError("a file kept in full must come back")
