"""The manifest: the one small object whose creation makes a dataset version visible.

Pure: bytes in, values out. FORMAT.md, "Manifest", is the normative text.

    pcrstore-manifest v1 crc32c=1a2b3c4d bytes=2317
    {"classes":["cat","dog"],"columns":[...],"created":"...",...}
"""

import re
from dataclasses import dataclass, replace
from typing import Annotated, Final

from pcrstore.core import (
    UID_BYTES,
    Count,
    Hex,
    Key,
    ObjectName,
    crc32c,
    encode_json,
    from_json,
    longest,
    one_of,
    parse_object,
    refuse,
    to_json,
    within,
)
from pcrstore.errors import ChecksumError, FormatError, UnsupportedFormatError
from pcrstore.format.index import COLUMNS, SYSTEM_BLOCKS, Column, PartEntry
from pcrstore.format.names import MAX_VERSION
from pcrstore.jpeg import MAX_GROUPS

__all__ = [
    "FORMAT_VERSION",
    "MAX_SPLITS",
    "Checked",
    "Manifest",
    "Quality",
    "ScriptEntry",
    "Totals",
    "decode_latest",
    "decode_manifest",
    "encode_latest",
    "encode_manifest",
]

FORMAT_VERSION: Final = 1

MAX_MANIFEST: Final = 16 * 2**20
"""A billion images are 15,259 parts of about 200 bytes: 3 MB. The rest is room for half a million
class names. JSON takes up to 32 times its length in memory, so that a hostile one takes 0.5 GB."""

MAX_PARTS: Final = 1_000_000
MAX_SPLITS: Final = 255
"""The `split` column is a u8 whose 255 stands for none."""

PerGroup = Annotated[tuple[Count, ...], longest(MAX_GROUPS)]
Similarities = Annotated[tuple[Annotated[float, within(-1, 1)], ...], longest(MAX_GROUPS)]

_FEATURES: Final[frozenset[str]] = frozenset()
"""Required features this release knows. A manifest that names another one is refused."""

_ENVELOPE = re.compile(rb"pcrstore-manifest v1 crc32c=([0-9a-f]{8}) bytes=(0|[1-9][0-9]{0,9})\n")
_ANY_ENVELOPE = re.compile(rb"pcrstore-manifest v([0-9]{1,9}) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptEntry:
    """The scan script, by which the images of later versions must be written, too."""

    name: Annotated[str, longest(64)]
    text: Annotated[str, longest(65_536)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Bytes of the whole dataset, by their use."""

    sources: Count
    """The source files."""
    groups: PerGroup
    """Each scan group over all images. (G,)"""
    headers: Count
    """Record headers (0 in the zarr layout, whose headers lie in the index)."""
    restore: Count
    """Restore regions, read only for `original`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Similarity of each fidelity to the full one, measured at conversion on some images."""

    n_images: Count
    """Images measured; 0 when none could be."""
    ms_ssim: Similarities
    """Mean MS-SSIM of the luma of fidelity 1..G against fidelity G. (G,)"""
    ms_ssim_p05: Similarities
    """5th percentile of the same. (G,)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A whole object with its length and checksum, where the format has no finer one."""

    name: ObjectName
    n_bytes: Annotated[Count, Key("bytes")]
    checksum: Annotated[int, Hex(4), Key("crc32c")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A dataset version: everything that opening it needs; the rest is found from here."""

    version: Annotated[int, within(1, MAX_VERSION)]
    layout: Annotated[str, one_of("record", "zarr")]
    script: ScriptEntry
    group_labels: Annotated[
        tuple[Annotated[str, longest(64)], ...], longest(MAX_GROUPS), Key("groups")
    ]
    """Meaning of each scan group. (G,)"""
    n_images: Count
    n_records: Count
    totals: Annotated[Totals, Key("bytes")]
    quality: Quality
    classes: Annotated[tuple[str, ...], longest(10_000_000)]
    """Class name of each id; a later version only adds to the end."""
    splits: Annotated[tuple[str, ...], longest(MAX_SPLITS)]
    """Split name of each id of the `split` column; empty without splits."""
    columns: Annotated[tuple[Column, ...], longest(1000)]
    parts: Annotated[tuple[PartEntry, ...], longest(MAX_PARTS)]
    checked: Annotated[tuple[Checked, ...], longest(MAX_PARTS)]
    """Objects that are read whole: the report, and a zarr layout's metadata and small arrays."""
    chunk_bytes: Annotated[tuple[Annotated[int, within(1, 2**31)], ...], longest(MAX_GROUPS + 1)]
    """Chunk size of each region's array in the zarr layout. (G + 1,), empty otherwise."""
    conversion: Annotated[str, Hex(UID_BYTES)]
    """Id of the conversion: a hash of sources, options and transcoder."""
    options: Annotated[dict[str, Annotated[str, longest(65_536)]], longest(1000)]
    """Options of the conversion, for people; nothing is read from it."""
    writer: Annotated[str, longest(128)]
    """Unique per attempt: tells a writer whether a commit whose reply was lost was its own."""
    created: Annotated[str, longest(64)]
    """ISO 8601, UTC."""

    @property
    def n_groups(self) -> int:
        """Scan groups, and so the highest fidelity."""
        return len(self.group_labels)

    def same_content(self, other: "Manifest") -> bool:
        """Say whether two manifests differ in nothing but who wrote them and when."""
        return self == replace(other, writer=self.writer, created=self.created)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """The fields by which a reader knows whether it can read the others."""

    format: Annotated[str, one_of("pcrstore")]
    features: Annotated[tuple[Annotated[str, longest(64)], ...], longest(64)]


def encode_manifest(m: Manifest) -> bytes:
    """Return the manifest's bytes; equal manifests give equal bytes.

    Raises:
        FormatError: No reader would take it: too many classes, a name that is too long.
    """
    text = encode_json(_Kind(format="pcrstore", features=tuple(sorted(_FEATURES))), m)
    data = b"pcrstore-manifest v1 crc32c=%08x bytes=%d\n" % (crc32c(text), len(text)) + text
    decode_manifest(data, version=m.version, where="manifest to be written")
    return data


def decode_manifest(
    data: bytes, *, version: int, where: str, max_bytes: int = MAX_MANIFEST
) -> Manifest:
    """Parse and check a manifest that was found under the name of `version`.

    Raises:
        ChecksumError: Damaged, cut short, or stored under another version's name.
        UnsupportedFormatError: Written by a newer pcrstore.
        FormatError: A field that is missing or out of bounds, or more than `max_bytes`.
    """
    if len(data) > max_bytes:
        raise FormatError(f"{where}: a manifest has at most {max_bytes} bytes, got {len(data)}")
    head = _ENVELOPE.match(data)
    if head is None:
        newer = _ANY_ENVELOPE.match(data)
        if newer is not None and int(newer[1]) > FORMAT_VERSION:
            raise UnsupportedFormatError(
                f"{where}: format version {int(newer[1])} is newer than this pcrstore reads "
                f"({FORMAT_VERSION}); upgrade pcrstore"
            )
        raise ChecksumError(f"{where}: not a pcrstore manifest (starts with {data[:24]!r})")
    text = data[head.end() :]
    if len(text) != int(head[2]) or crc32c(text) != int(head[1], 16):
        raise ChecksumError(
            f"{where}: manifest fails its checksum (expected {int(head[2])} bytes with "
            f"{head[1].decode()}, got {len(text)} with {crc32c(text):08x})"
        )
    table = parse_object(text, where=where)
    unknown = set(from_json(_Kind, table, where=where).features) - _FEATURES
    if unknown:
        raise UnsupportedFormatError(
            f"{where}: needs {', '.join(sorted(unknown))}, which this pcrstore does not know; "
            "upgrade pcrstore"
        )
    m = from_json(Manifest, table, where=where)
    if m.version != version:
        refuse(where, "version", f"{version}, as its name says", m.version)
    _check(m, where)
    return m


def _check(m: Manifest, where: str) -> None:
    """Check the rules between fields: sums, and lists with one item for each group."""
    n_groups, names = m.n_groups, [p.name for p in m.parts]
    n_measured = n_groups if m.quality.n_images else len(m.quality.ms_ssim)
    n_chunk_sizes = n_groups + 1 if m.layout == "zarr" else 0
    for name, expected, got in (
        ("groups", max(1, n_groups), n_groups),
        ("n_images", sum(p.n_images for p in m.parts), m.n_images),
        ("n_records", sum(p.n_records for p in m.parts), m.n_records),
        ("parts", len(set(names)), len(names)),
        ("bytes.groups", n_groups, len(m.totals.groups)),
        ("quality.ms_ssim", n_measured, len(m.quality.ms_ssim)),
        ("quality.ms_ssim_p05", n_measured, len(m.quality.ms_ssim_p05)),
        ("chunk_bytes", n_chunk_sizes, len(m.chunk_bytes)),
    ):
        if got != expected:
            refuse(where, name, f"{expected}", got)
    for i, part in enumerate(m.parts):
        part.check(n_groups, f"{where}: parts[{i}]")
    columns = [c.name for c in m.columns]
    if len({*columns, *SYSTEM_BLOCKS}) != len(columns) + len(SYSTEM_BLOCKS):
        refuse(where, "columns", f"distinct names, none of {', '.join(SYSTEM_BLOCKS)}", columns)
    missing = [c for c in COLUMNS if c not in m.columns]
    if missing:
        refuse(where, "columns", f"columns with {to_json(missing[0])}", columns)


def encode_latest(version: int) -> bytes:
    """Return the hint for stores that cannot LIST: a version that existed when it was written."""
    text = b"pcrstore-latest %d" % version
    return text + b" crc32c=%08x\n" % crc32c(text)


def decode_latest(data: bytes, *, where: str) -> int:
    """Return the version that the hint names.

    Raises:
        ChecksumError: Damaged.
    """
    m = re.fullmatch(rb"(pcrstore-latest ([1-9][0-9]{0,9})) crc32c=([0-9a-f]{8})\n", data)
    if m is None or crc32c(m[1]) != int(m[3], 16) or int(m[2]) > MAX_VERSION:
        raise ChecksumError(f"{where}: the latest hint is damaged, got {data[:64]!r}")
    return int(m[2])
