"""The manifest: the one small object whose creation makes a dataset version visible.

Pure: bytes in, values out. FORMAT.md, "Manifest", is the normative text.

    pcrstore-manifest v1 crc32c=1a2b3c4d bytes=2317
    {"bytes":{...},"checked":[...],"classes":["cat","dog"],"columns":[...],...}
"""

import re
from typing import Annotated, Final, Literal

from msgspec import Meta
from msgspec.structs import replace

from pcrstore.core import (
    MAX_INT,
    Count,
    ObjectName,
    Stored,
    Uid,
    Word,
    crc32c,
    decode_json,
    encode_json,
    refuse,
    require_few_values,
)
from pcrstore.errors import ChecksumError, FormatError, UnsupportedFormatError
from pcrstore.format.columns import COLUMNS, Column, Ranges
from pcrstore.format.index import LAYOUTS, PartEntry
from pcrstore.format.names import MAX_VERSION
from pcrstore.jpeg import MAX_GROUPS

__all__ = [
    "FORMAT_VERSION",
    "MAX_CHECKED",
    "MAX_CLASSES",
    "MAX_LATEST",
    "MAX_MANIFEST",
    "MAX_NAME",
    "MAX_SPLITS",
    "MS_SSIM",
    "Checked",
    "Conversion",
    "Manifest",
    "Measurement",
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
class names. Opened, it takes at most four times its length and 64 MiB of memory."""

MAX_LATEST: Final = 64
MAX_CHECKED: Final = 64 * 2**20
"""Bytes of an object that is read whole."""
MAX_SPLITS: Final = 255
"""The `split` column is a u8 whose 255 stands for none."""
MAX_CLASSES: Final = 1_000_000
"""A class name takes at least 58 bytes in memory: 58 MB."""
_MAX_ENTRIES: Final = 100_000
"""Index parts, checked objects, conversions."""

MS_SSIM: Final = "ms_ssim"
"""The metric that a conversion measures: MS-SSIM of the luma."""

MAX_NAME: Final = 4096
"""Characters of the name of a class or a split."""

Short = Annotated[str, Meta(max_length=128)]
Name = Annotated[str, Meta(max_length=MAX_NAME)]
PerGroup = Annotated[tuple[Count, ...], Meta(max_length=MAX_GROUPS)]
Values = Annotated[tuple[float, ...], Meta(max_length=MAX_GROUPS)]
Features = Annotated[tuple[Word, ...], Meta(max_length=64)]

FEATURES: Final[frozenset[str]] = frozenset()
"""Features that this release reads. A manifest that names another one is refused."""

_ENVELOPE = re.compile(rb"pcrstore-manifest v1 crc32c=([0-9a-f]{8}) bytes=(0|[1-9][0-9]{0,9})\n")
_ANY_ENVELOPE = re.compile(rb"pcrstore-manifest v([0-9]{1,9}) ")


class ScriptEntry(Stored, frozen=True, kw_only=True):
    """The scan script, by which the images of later versions must be written, too."""

    name: Word
    text: Annotated[str, Meta(max_length=65_536)]


class Totals(Stored, frozen=True, kw_only=True):
    """Bytes of the whole dataset, by their use."""

    sources: Count
    """The source files."""
    groups: PerGroup
    """Each scan group over all images. (G,)"""
    headers: Count
    """Record headers (0 in the zarr layout, whose headers lie in the index)."""
    restore: Count
    """Restore regions, read only for `original`."""


class Measurement(Stored, frozen=True, kw_only=True):
    """A metric of each fidelity against the full one, over a sample of the images."""

    metric: Short
    """`ms_ssim`, or any other name."""
    n_images: Annotated[int, Meta(ge=1, le=MAX_INT)]
    """Images measured."""
    mean: Values
    """Of fidelity 1..G. (G,)"""
    low: Values
    """Lower bound of the mean's 95 % confidence interval. (G,)"""
    high: Values
    """Upper bound of the same. (G,)"""
    percentiles: Annotated[dict[Word, Values], Meta(max_length=101)]
    """Values of fidelity 1..G that so many percent of the images stay below, by that number."""

    def check(self, n_groups: int, where: str) -> None:
        """Raise `FormatError` unless each list has a value for each group."""
        for name, values in (
            ("mean", self.mean),
            ("low", self.low),
            ("high", self.high),
            *self.percentiles.items(),
        ):
            if len(values) != n_groups:
                refuse(where, f"quality.{self.metric}.{name}", f"{n_groups} values", len(values))


class Checked(Stored, frozen=True, kw_only=True, rename={"n_bytes": "bytes", "checksum": "crc32c"}):
    """A whole object with its length and checksum, where the format has no finer one."""

    name: ObjectName
    n_bytes: Annotated[int, Meta(ge=0, le=MAX_CHECKED)]
    checksum: Count


class Conversion(Stored, frozen=True, kw_only=True):
    """A conversion that images of the dataset came from."""

    id: Uid
    """A hash of sources, options and writer."""
    created: Short
    """ISO 8601, UTC."""
    software: Short
    """Name and version of the program."""
    n_images: Count
    options: Annotated[dict[Short, Annotated[str, Meta(max_length=65_536)]], Meta(max_length=1000)]
    """For people; nothing is read from it."""
    report: ObjectName | None
    """Name of its report, which is checked; None where there is none."""


class Manifest(
    Stored, frozen=True, kw_only=True, rename={"group_labels": "groups", "totals": "bytes"}
):
    """A dataset version: everything that opening it needs; the rest is found from here."""

    format: Literal["pcrstore"]
    features: Features
    """What a reader must know beyond FORMAT.md."""
    write_features: Features
    """What a writer of the next version must know beyond FORMAT.md."""
    uid: Uid
    """Identity of the dataset, through all its versions."""
    version: Annotated[int, Meta(ge=1, le=MAX_VERSION)]
    created: Short
    """ISO 8601, UTC."""
    writer: Short
    """Unique per attempt: tells a writer whether a commit whose reply was lost was its own."""
    layout: Word
    """`record` or `zarr`."""
    group_labels: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,32}$(?!\n)")], ...],
        Meta(min_length=1, max_length=MAX_GROUPS),
    ]
    """Meaning of each scan group. (G,)"""
    script: ScriptEntry
    n_images: Count
    n_records: Count
    totals: Totals
    classes: Annotated[tuple[Name, ...], Meta(max_length=MAX_CLASSES)]
    """Class name of each id; a later version only adds to the end."""
    splits: Annotated[tuple[Name, ...], Meta(max_length=MAX_SPLITS)]
    """Split name of each id of the `split` column; empty without splits."""
    columns: Annotated[tuple[Column, ...], Meta(max_length=1000)]
    parts: Annotated[tuple[PartEntry, ...], Meta(max_length=_MAX_ENTRIES)]
    checked: Annotated[tuple[Checked, ...], Meta(max_length=_MAX_ENTRIES)]
    """Objects that are read whole: reports, and a zarr layout's metadata and small arrays."""
    conversions: Annotated[tuple[Conversion, ...], Meta(max_length=_MAX_ENTRIES)]
    """Where the images came from, oldest first."""
    quality: Annotated[tuple[Measurement, ...], Meta(max_length=64)] = ()
    """Measurements of the fidelities, each of a metric."""

    @property
    def n_groups(self) -> int:
        """Scan groups, and so the highest fidelity."""
        return len(self.group_labels)

    @property
    def ranges(self) -> Ranges:
        """Ranges of the columns that every dataset has."""
        return Ranges(n_classes=len(self.classes), n_splits=len(self.splits))

    def column(self, name: str) -> Column | None:
        """Return a column by its name; None if there is none."""
        return next((c for c in self.columns if c.name == name), None)

    def measured(self, metric: str = MS_SSIM) -> Measurement | None:
        """Return the measurement of a metric; None if it was not measured."""
        return next((q for q in self.quality if q.metric == metric), None)

    def same_content(self, other: "Manifest") -> bool:
        """Say whether two manifests differ in nothing but who wrote them and when."""
        return _content(self) == _content(other)


def _content(m: Manifest) -> Manifest:
    conversions = tuple(replace(c, created="") for c in m.conversions)
    return replace(m, uid="", writer="", created="", conversions=conversions)


class _Kind(Stored, frozen=True, kw_only=True):
    """The fields by which a reader knows whether it can read the others."""

    format: Literal["pcrstore"]
    features: Features
    write_features: Features
    layout: Word


def encode_manifest(m: Manifest) -> bytes:
    """Return the manifest's bytes; equal manifests give equal bytes.

    Raises:
        FormatError: No reader would take it: too many classes, a name that is too long.
    """
    text = encode_json(m)
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
    del data  # up to 16 MiB, if the caller does not need it either
    if len(text) != int(head[2]) or crc32c(text) != int(head[1], 16):
        raise ChecksumError(
            f"{where}: manifest fails its checksum (expected {int(head[2])} bytes with "
            f"{head[1].decode()}, got {len(text)} with {crc32c(text):08x})"
        )
    require_few_values(text, Manifest, where=where)
    kind = decode_json(text, _Kind, where=where, is_weighed=True)
    new = [*sorted({*kind.features} - FEATURES)]
    new += [f"layout {kind.layout!r}"] if kind.layout not in LAYOUTS else []
    if new:
        raise UnsupportedFormatError(
            f"{where}: needs {', '.join(new)}, which this pcrstore does not know; upgrade pcrstore"
        )
    m = decode_json(text, Manifest, where=where, is_weighed=True)
    if m.version != version:
        refuse(where, "version", f"{version}, as its name says", m.version)
    _check(m, where)
    return m


def _check(m: Manifest, where: str) -> None:
    """Check the rules between fields: sums, and lists with one item for each group."""
    n_groups = m.n_groups
    for name, expected, got in (
        ("n_images", sum(p.n_images for p in m.parts), m.n_images),
        ("n_records", sum(p.n_records for p in m.parts), m.n_records),
        ("bytes.groups", n_groups, len(m.totals.groups)),
        ("groups", n_groups, len({*m.group_labels})),
        ("splits", len(m.splits), len({*m.splits})),
        ("quality", len(m.quality), len({q.metric for q in m.quality})),
        ("parts", len(m.parts), len({p.name for p in m.parts})),
        ("columns", len(m.columns), len({c.name for c in m.columns})),
        ("checked", len(m.checked), len({c.name for c in m.checked})),
        ("ids of conversions", len(m.conversions), len({c.id for c in m.conversions})),
    ):
        if got != expected:
            refuse(where, name, f"{expected}", got)
    for i, part in enumerate(m.parts):
        if not part.name.startswith("index/"):
            refuse(where, f"parts[{i}].name", "a name in index/", part.name)
        part.check(n_groups, f"{where}: parts[{i}]")
    for column in m.columns:
        column.check(f"{where}: columns.{column.name}")
    missing = [c for c in COLUMNS if c not in m.columns]
    if missing:
        wanted = f"a column {missing[0].name} of {missing[0].dtype} {list(missing[0].shape)}"
        refuse(where, "columns", wanted, m.column(missing[0].name))
    for measurement in m.quality:
        measurement.check(n_groups, where)
    checked = {c.name for c in m.checked}
    for c in m.conversions:
        if c.report is not None and c.report not in checked:
            refuse(where, f"report of conversion {c.id}", "one of the checked objects", c.report)


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
