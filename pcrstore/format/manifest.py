"""The manifest: the one small object whose creation makes a dataset version visible.

Pure: bytes in, values out. FORMAT.md, "Manifest", is the normative text.

    pcrstore-manifest v1 crc32c=1a2b3c4d bytes=2317
    {"classes":["cat","dog"],"columns":[...],"created":"...",...}
"""

import json
import re
from dataclasses import dataclass, field, replace
from typing import Final

from pcrstore.core import MAX_INT, UID_BYTES, JsonReader, crc32c, parse_json
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
MAX_CLASSES: Final = 10_000_000
MAX_SPLITS: Final = 255
"""The `split` column is a u8 whose 255 stands for none."""

_FEATURES: Final[frozenset[str]] = frozenset()
"""Required features this release knows. A manifest that names another one is refused."""

_ENVELOPE = re.compile(rb"pcrstore-manifest v1 crc32c=([0-9a-f]{8}) bytes=(0|[1-9][0-9]{0,9})\n")
_ANY_ENVELOPE = re.compile(rb"pcrstore-manifest v([0-9]{1,9}) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Bytes of the whole dataset, by what they are for."""

    sources: int
    """The source files."""
    groups: tuple[int, ...]
    """Each scan group over all images. (G,)"""
    headers: int
    """Record headers (0 in the zarr layout, whose headers lie in the index)."""
    restore: int
    """Restore regions, read only for `original`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What each fidelity looks like, measured at conversion on a sample of the images."""

    n_images: int
    """Images measured; 0 when none could be."""
    ms_ssim: tuple[float, ...]
    """Mean MS-SSIM of the luma of fidelity 1..G against fidelity G. (G,)"""
    ms_ssim_p05: tuple[float, ...]
    """5th percentile of the same. (G,)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A whole object with its length and checksum, where the format has no finer one."""

    name: str
    n_bytes: int
    checksum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that opening a dataset needs; the rest is found from here."""

    version: int
    layout: str
    """`record` or `zarr`."""
    script_name: str
    script_text: str
    """The scan script in its text form; appended images must be written by the same."""
    group_labels: tuple[str, ...]
    """Meaning of each scan group. (G,)"""
    n_images: int
    n_records: int
    totals: Totals
    quality: Quality
    classes: tuple[str, ...]
    """Class name of each id; a later version only adds to the end."""
    splits: tuple[str, ...]
    """Split name of each id of the `split` column; empty without splits."""
    columns: tuple[Column, ...]
    parts: tuple[PartEntry, ...]
    checked: tuple[Checked, ...] = ()
    """Objects that are read whole: the report, and a zarr layout's metadata and small arrays."""
    chunk_bytes: tuple[int, ...] = ()
    """Chunk size of each region's array in the zarr layout. (G + 1,), empty otherwise."""
    conversion: str
    """Id of the conversion: a hash of sources, options and transcoder."""
    options: dict[str, str] = field(default_factory=dict)
    """How the images were converted, for people; nothing is read from it."""
    writer: str
    """Unique per attempt: tells a writer whether a commit whose reply was lost was its own."""
    created: str
    """ISO 8601, UTC."""

    @property
    def n_groups(self) -> int:
        """Scan groups, and so the highest fidelity."""
        return len(self.group_labels)

    def same_content(self, other: "Manifest") -> bool:
        """Say whether two manifests differ in nothing but who wrote them and when."""
        return self == replace(other, writer=self.writer, created=self.created)


def encode_manifest(m: Manifest) -> bytes:
    """Return the manifest's bytes; equal manifests give equal bytes.

    Raises:
        FormatError: No reader would take it: too many classes, a name that is too long.
    """
    body = {
        "format": "pcrstore",
        "features": sorted(_FEATURES),
        "version": m.version,
        "layout": m.layout,
        "script": {"name": m.script_name, "text": m.script_text},
        "groups": list(m.group_labels),
        "n_images": m.n_images,
        "n_records": m.n_records,
        "bytes": {
            "sources": m.totals.sources,
            "groups": list(m.totals.groups),
            "headers": m.totals.headers,
            "restore": m.totals.restore,
        },
        "quality": {
            "n_images": m.quality.n_images,
            "ms_ssim": list(m.quality.ms_ssim),
            "ms_ssim_p05": list(m.quality.ms_ssim_p05),
        },
        "classes": list(m.classes),
        "splits": list(m.splits),
        "columns": [c.to_json() for c in m.columns],
        "parts": [p.to_json() for p in m.parts],
        "checked": [
            {"name": c.name, "bytes": c.n_bytes, "crc32c": f"{c.checksum:08x}"} for c in m.checked
        ],
        "chunk_bytes": list(m.chunk_bytes),
        "conversion": m.conversion,
        "options": m.options,
        "writer": m.writer,
        "created": m.created,
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    data = b"pcrstore-manifest v1 crc32c=%08x bytes=%d\n" % (crc32c(text), len(text)) + text
    decode_manifest(data, version=m.version, where="manifest to be written")
    return data


def decode_manifest(data: bytes, *, version: int, where: str) -> Manifest:
    """Parse and check a manifest that was found under the name of `version`.

    Raises:
        ChecksumError: Damaged, cut short, or stored under another version's name.
        UnsupportedFormatError: Written by a newer pcrstore.
        FormatError: A field that is missing or out of bounds.
    """
    if len(data) > MAX_MANIFEST:
        raise FormatError(f"{where}: a manifest has at most {MAX_MANIFEST} bytes, got {len(data)}")
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
    f = parse_json(text, where=where)
    unknown = set(f.strings("features", max_items=64, max_length=64)) - _FEATURES
    if unknown:
        raise UnsupportedFormatError(
            f"{where}: needs {', '.join(sorted(unknown))}, which this pcrstore does not know; "
            "upgrade pcrstore"
        )
    if f.integer("version", 1, MAX_VERSION) != version:
        f.fail("version", f"{version}, as its name says", f.integer("version", 1, MAX_VERSION))
    return _decode_body(f, version)


def _decode_body(f: JsonReader, version: int) -> Manifest:
    f.choice("format", frozenset({"pcrstore"}))
    layout = f.choice("layout", frozenset({"record", "zarr"}))
    labels = f.strings("groups", max_items=MAX_GROUPS, max_length=64)
    n_groups = len(labels)
    if n_groups < 1:
        f.fail("groups", f"1 to {MAX_GROUPS} labels", labels)
    totals = f.object("bytes")
    quality = f.object("quality")
    script = f.object("script")
    n_images = f.integer("n_images", 0)
    n_records = f.integer("n_records", 0, n_images)
    parts = tuple(
        PartEntry.from_json(p, n_groups=n_groups) for p in f.objects("parts", max_items=MAX_PARTS)
    )
    if sum(p.n_images for p in parts) != n_images:
        f.fail("n_images", f"{sum(p.n_images for p in parts)}, the sum over its parts", n_images)
    if sum(p.n_records for p in parts) != n_records:
        f.fail("n_records", f"{sum(p.n_records for p in parts)}, the sum over its parts", n_records)
    names = [p.name for p in parts]
    if len(set(names)) != len(names):
        f.fail("parts", "distinct names", names)
    options = f.object("options")
    out = Manifest(
        version=version,
        layout=layout,
        script_name=script.string("name", max_length=64),
        script_text=script.string("text", max_length=65_536),
        group_labels=labels,
        n_images=n_images,
        n_records=n_records,
        totals=Totals(
            sources=totals.integer("sources", 0),
            groups=totals.integers("groups", max_items=n_groups),
            headers=totals.integer("headers", 0),
            restore=totals.integer("restore", 0),
        ),
        quality=Quality(
            n_images=quality.integer("n_images", 0),
            ms_ssim=quality.numbers("ms_ssim", max_items=n_groups, low=-1.0, high=1.0),
            ms_ssim_p05=quality.numbers("ms_ssim_p05", max_items=n_groups, low=-1.0, high=1.0),
        ),
        classes=f.strings("classes", max_items=MAX_CLASSES),
        splits=f.strings("splits", max_items=MAX_SPLITS),
        columns=_decode_columns(f),
        parts=parts,
        checked=tuple(
            Checked(
                name=c.object_name("name"),
                n_bytes=c.integer("bytes", 0),
                checksum=int.from_bytes(c.hexadecimal("crc32c", 4), "big"),
            )
            for c in f.objects("checked", max_items=MAX_PARTS)
        ),
        chunk_bytes=f.integers("chunk_bytes", max_items=n_groups + 1, high=2**31),
        conversion=f.hexadecimal("conversion", UID_BYTES).hex(),
        options={k: options.string(k, max_length=65_536) for k in options.names()},
        writer=f.string("writer", max_length=128),
        created=f.string("created", max_length=64),
    )
    if len(out.totals.groups) != n_groups:
        f.fail("bytes: groups", f"{n_groups} numbers", out.totals.groups)
    if out.quality.n_images and not (
        len(out.quality.ms_ssim) == len(out.quality.ms_ssim_p05) == n_groups
    ):
        f.fail("quality: ms_ssim", f"{n_groups} numbers", out.quality.ms_ssim)
    n_sizes = n_groups + 1 if layout == "zarr" else 0
    if len(out.chunk_bytes) != n_sizes or 0 in out.chunk_bytes:
        f.fail("chunk_bytes", f"{n_sizes} positive sizes", out.chunk_bytes)
    return out


def _decode_columns(f: JsonReader) -> tuple[Column, ...]:
    columns = tuple(Column.from_json(c) for c in f.objects("columns", max_items=1000))
    names = [c.name for c in columns]
    if len({*names, *SYSTEM_BLOCKS}) != len(names) + len(SYSTEM_BLOCKS):
        f.fail("columns", f"distinct names, none of {', '.join(SYSTEM_BLOCKS)}", names)
    missing = [c for c in COLUMNS if c not in columns]
    if missing:
        f.fail("columns", f"columns with {missing[0].to_json()}", names)
    return columns


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
    if m is None or crc32c(m[1]) != int(m[3], 16) or int(m[2]) > min(MAX_VERSION, MAX_INT):
        raise ChecksumError(f"{where}: the latest hint is damaged, got {data[:64]!r}")
    return int(m[2])
