"""A record: the scan groups of some images, regrouped so that every fidelity is a prefix.

Pure: bytes in, bytes out. FORMAT.md, "Record", is the normative text.

    header | group 1: image 0, 1, .. n-1 | group 2: 0, 1, .. | ... | group G | restore: 0, 1, ..
    |-------- fidelity 1 ---------------|
    |-------- fidelity 2 ----------------------------------|

The header holds all that a reader of any prefix needs to cut it into images and to check each:
one length and one checksum per cell (image, group). The index part holds a copy of every header,
so that a scattered read of a few images can be planned without reading records; in the zarr layout
that copy is the only one.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import crc32c, place_words
from pcrstore.errors import ChecksumError, FormatError, UnsupportedFormatError

__all__ = [
    "MAX_IMAGES",
    "Header",
    "RecordImage",
    "build_record",
    "header_size",
    "parse_header",
]

MAX_IMAGES = 65_535
"""`n_images` is a u16, and an index part holds no more than 65,536 images anyway."""

_MAGIC = b"PCR1"
_Count = TypeVar("_Count", int, NDArray[np.int64])
_FIXED = struct.Struct("<4sIHBB")  # magic, checksum of the rest, n_images, n_groups, flags


def header_size(n_images: _Count, n_groups: int) -> _Count:
    """Return the length of a record's header, or of each record's of an array.

    >>> header_size(32, 5) / 32  # per image
    40.5
    """
    return _FIXED.size + (n_images + 7) // 8 + 8 * n_images * n_groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Lengths and checksums of the cells of a record."""

    seed: int
    """Binds this record to its object and ordinal; see `checksum.record_seed`."""
    opaque: NDArray[np.bool_]
    """(N,): True where group 1 is a whole source file that is not cut into scans."""
    lengths: NDArray[np.uint32]
    """(N, G): bytes of each cell."""
    checksums: NDArray[np.uint32]
    """(N, G): CRC32C of each cell, bound to its place."""

    @property
    def n_images(self) -> int:
        """Images in the record."""
        return int(self.lengths.shape[0])

    @property
    def n_groups(self) -> int:
        """Scan groups per image."""
        return int(self.lengths.shape[1])

    @property
    def size(self) -> int:
        """Bytes of the encoded header."""
        return header_size(self.n_images, self.n_groups)

    def group_lengths(self) -> NDArray[np.int64]:
        """Return the bytes of each group over all images. (G,)."""
        return np.asarray(self.lengths.sum(axis=0, dtype=np.int64))

    def starts(self) -> NDArray[np.int64]:
        """Return the start of each cell in its own group's bytes. (N, G)."""
        stops = np.cumsum(self.lengths, axis=0, dtype=np.int64)
        return np.asarray(stops - self.lengths, np.int64)

    def encode(self) -> bytes:
        """Return the header's bytes."""
        tail = b"".join(
            (
                struct.pack("<HBB", self.n_images, self.n_groups, 0),
                np.packbits(self.opaque, bitorder="little").tobytes(),
                self.lengths.astype("<u4").tobytes(),
                self.checksums.astype("<u4").tobytes(),
            )
        )
        return _MAGIC + struct.pack("<I", crc32c(tail) ^ self.seed) + tail

    def check(self, image: int, group: int, cell: bytes, *, where: str) -> None:
        """Raise `ChecksumError` unless `cell` is as stored; image and group count from 0."""
        if len(cell) != int(self.lengths[image, group]):
            raise ChecksumError(
                f"{where}: image {image}, group {group + 1} must have "
                f"{int(self.lengths[image, group])} bytes, got {len(cell)}"
            )
        word = int(place_words(self.seed, [image], group + 1)[0, group])
        if crc32c(cell) ^ word != int(self.checksums[image, group]):
            raise ChecksumError(
                f"{where}: image {image}, group {group + 1} fails its checksum "
                f"(expected {int(self.checksums[image, group]) ^ word:08x}, got {crc32c(cell):08x})"
            )

    def cut(
        self, body: bytes, k: int, *, where: str, start: int = 0
    ) -> Iterator[list[NDArray[np.uint8]]]:
        """Cut the bytes of groups 1..k into cells; yield those of each image, checked.

        An image is checked when it is asked for, so that its cells are in the CPU's cache when the
        caller joins them. Two images with groups of 3 and 2, and 5 and 4 bytes, lie so:

            body    3 (image 0)  5 (image 1) | 2 (image 0)  4 (image 1)
            edges   0            3           8              10           14

        Args:
            body: The groups back to back, from byte `start` on.
            k: Fidelity, 1..G.
            where: Object and range, for error messages.
            start: Length of the encoded header, where `body` begins with it.

        Yields:
            Per image its k cells: views of `body`.

        Raises:
            ChecksumError: While iterated: the body is short, long, or not as written.
        """
        # Lists, and only such calls of NumPy as keep the GIL: for a hundred numbers, waiting for
        # another thread's turn would cost more than all of this.
        n = self.n_images
        lengths = self.lengths[:, :k].T.tolist()  # group-major, as stored
        edges = [*itertools.accumulate(itertools.chain.from_iterable(lengths), initial=start)]
        if len(body) != edges[-1]:
            raise ChecksumError(
                f"{where}: groups 1..{k} must have {edges[-1] - start} bytes, "
                f"got {len(body) - start}"
            )
        view = np.frombuffer(body, np.uint8)
        every = [view[a:b] for a, b in itertools.pairwise(edges)]
        expected = (self.checksums[:, :k] ^ place_words(self.seed, n, k)).tolist()
        for i, checksums in enumerate(expected):
            cells = every[i::n]
            if [*map(crc32c, cells)] != checksums:
                for g, cell in enumerate(cells):
                    self.check(i, g, cell.tobytes(), where=where)
            yield cells


def parse_header(data: bytes, *, seed: int, n_images: int, n_groups: int, where: str) -> Header:
    """Parse and check the header at the start of `data`.

    Raises:
        ChecksumError: Not this record's header, or damaged.
        UnsupportedFormatError: A flag of a later version.
        FormatError: The header of a record of another shape.
    """
    size = header_size(n_images, n_groups)
    if len(data) < size:
        raise ChecksumError(f"{where}: record header must have {size} bytes, got {len(data)}")
    magic, checksum, n, groups, flags = _FIXED.unpack_from(data)
    if magic != _MAGIC:
        raise ChecksumError(f"{where}: record header must start with {_MAGIC!r}, got {magic!r}")
    got = crc32c(data[8:size]) ^ seed
    if got != checksum:
        raise ChecksumError(
            f"{where}: record header fails its checksum (expected {checksum:08x}, got {got:08x})"
        )
    if flags:
        raise UnsupportedFormatError(
            f"{where}: record header has flags {flags:#04x}, which this pcrstore does not know; "
            "upgrade pcrstore"
        )
    if (n, groups) != (n_images, n_groups):
        raise FormatError(
            f"{where}: record header must say {n_images} images, {n_groups} groups, "
            f"got {n}, {groups}"
        )
    at = _FIXED.size
    bits = np.frombuffer(data, np.uint8, (n + 7) // 8, at)
    at += len(bits)
    lengths = np.frombuffer(data, "<u4", n * groups, at).reshape(n, groups)
    at += lengths.nbytes
    checksums = np.frombuffer(data, "<u4", n * groups, at).reshape(n, groups)
    flags_of_images = np.unpackbits(bits, bitorder="little").view(np.bool_)
    opaque, spare = flags_of_images[:n], flags_of_images[n:]
    if spare.any():
        raise FormatError(f"{where}: record header must have zeros behind the bits of its images")
    return Header(seed=seed, opaque=opaque, lengths=lengths, checksums=checksums)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordImage:
    """One image of a record to be built: its groups and its restore blob."""

    groups: tuple[bytes, ...]
    """G cells; an opaque image has its file first and G-1 empty ones."""
    restore: bytes
    """Blob of the restore region; empty for an opaque image."""
    opaque: bool


def build_record(images: Sequence[RecordImage], *, seed: int) -> tuple[Header, list[bytes]]:
    """Return a record's header and its regions: groups 1..G, then the restore region.

    The record layout stores `header.encode()` and the regions back to back; the zarr layout appends
    each region to its array.
    """
    n_groups = len(images[0].groups)
    cells = [[im.groups[g] for im in images] for g in range(n_groups)]
    plain = np.array([[crc32c(c) for c in column] for column in cells], np.uint32).T
    header = Header(
        seed=seed,
        opaque=np.array([im.opaque for im in images]),
        lengths=np.array([[len(c) for c in column] for column in cells], np.uint32).T,
        checksums=plain ^ place_words(seed, len(images), n_groups),
    )
    return header, [*(b"".join(c) for c in cells), b"".join(im.restore for im in images)]
