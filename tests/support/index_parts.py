"""Rows, index parts and manifests to test with, made without converting anything."""

import json
import struct

import numpy as np
from msgspec.structs import replace

from pcrstore.core.checksum import crc32c, record_seed
from pcrstore.format.columns import COLUMNS
from pcrstore.format.index import RESTORE_DTYPE, Head, Run, record_dtype
from pcrstore.format.index_rows import Rows
from pcrstore.format.manifest import (
    Checked,
    Conversion,
    Manifest,
    Measurement,
    ScriptEntry,
    Totals,
)
from pcrstore.format.names import array_name
from pcrstore.format.record import RecordImage, build_record

UID = bytes(range(16)).hex()
PART_UID = bytes(range(1, 17)).hex()
G = 2
CHUNK = 8


def column_values(n):
    """Values of the columns that every dataset has; those of images differ."""
    return {
        "key": [f"cat/{i}\u00e9\U0001f431.jpg" for i in range(n)],
        "label": (np.arange(n) % 3 - 1).astype("<i4"),
        "split": np.where(np.arange(n) % 2, 255, 0).astype("|u1"),
        "format": (np.arange(n) % 2 * 2).astype("|u1"),
        "orientation": (np.arange(n) % 8 + 1).astype("|u1"),
        "width": np.arange(1, n + 1).astype("<u4"),
        "height": np.arange(2, n + 2).astype("<u4"),
        "source_bytes": np.arange(n).astype("<u8"),
        "source_sha256": np.arange(n * 32).astype("|u1").reshape(n, 32),
    }


def rows(layout="record", sizes=(2, 3)):
    """Records of `sizes` images, two groups."""
    table = np.zeros(len(sizes), record_dtype(layout, G))
    headers, n, at, positions = [], sum(sizes), 0, [0] * (G + 1)
    for ordinal, size in enumerate(sizes):
        images = [
            RecordImage(groups=(b"a" * (i + 1), b"b" * i), restore=b"r", opaque=False)
            for i in range(size)
        ]
        header, regions = build_record(images, seed=record_seed(bytes.fromhex(UID), ordinal))
        lengths = list(map(len, regions))
        table[ordinal]["object"] = 0 if layout == "record" else range(G + 1)
        table[ordinal]["ordinal"], table[ordinal]["n_images"] = ordinal, size
        table[ordinal]["start"] = [at] if layout == "record" else positions
        table[ordinal]["length"] = lengths
        headers.append(header.encode())
        at += header.size + sum(lengths)
        positions = [p + n for p, n in zip(positions, lengths, strict=True)]
    restore = np.zeros(n, RESTORE_DTYPE)
    restore["length"], restore["checksum"] = 1, np.arange(n)
    return Rows(records=table, headers=headers, restore=restore, columns=column_values(n))


def runs(layout="record", some=None):
    """The runs that `rows` lie in, which they fill."""
    some = rows(layout) if some is None else some
    sizes = some.records["length"].sum(axis=0, dtype=np.int64).tolist()
    if layout == "record":
        size = sum(map(len, some.headers)) + sum(sizes)
        return [Run(name="objects/a.pcr", uid=UID, n_bytes=size)]
    return [
        Run(name=f"zarr/a/{array_name(g, G)}", uid=UID, n_bytes=size, chunk=CHUNK)
        for g, size in enumerate(sizes)
    ]


def part(layout="record", some=None, columns=COLUMNS):
    """An index part: its line in the manifest, and its bytes."""
    some = rows(layout) if some is None else some
    return some.encode(
        name="index/p.pcri",
        uid=PART_UID,
        n_groups=G,
        runs=runs(layout, some),
        columns=columns,
    )


def measurement(metric="ms_ssim", scores=(0.9, 1.0)):
    """A measurement whose numbers are all the same."""
    return Measurement(
        metric=metric,
        n_images=2,
        mean=scores,
        low=scores,
        high=scores,
        percentiles={"5": scores, "50": scores},
    )


def manifest(layout="record", **changes):
    entry, _ = part(layout)
    values = {
        "format": "pcrstore",
        "features": (),
        "write_features": (),
        "uid": "cd" * 16,
        "version": 1,
        "created": "2026-01-01T00:00:00Z",
        "writer": "w",
        "layout": layout,
        "group_labels": ("a", "b"),
        "script": ScriptEntry(name="two", text="[a]\n*: 0-0, 0, 0\n[b]\n*: 1-63, 0, 0\n"),
        "n_images": entry.n_images,
        "n_records": entry.n_records,
        "totals": Totals(sources=100, groups=(9, 4), headers=50, restore=5),
        "classes": ("cat", "d\u00f6g"),
        "splits": ("train",),
        "columns": COLUMNS,
        "parts": (entry,),
        "checked": (Checked(name="reports/x.json", n_bytes=3, checksum=7),),
        "conversions": (
            Conversion(
                id="ab" * 16,
                created="2026-01-01T00:00:00Z",
                software="pcrstore 0",
                n_images=entry.n_images,
                options={"seed": "0"},
                report="reports/x.json",
            ),
        ),
        "quality": (measurement(),),
    }
    return Manifest(**{**values, **changes})


def enveloped(text: bytes) -> bytes:
    """A manifest of any text whose first line is right."""
    return b"pcrstore-manifest v1 crc32c=%08x bytes=%d\n" % (crc32c(text), len(text)) + text


def with_directory(entry, data, edit, *, fit=False):
    """A part whose directory was edited, checksums put right: what a forger would make.

    Args:
        entry: The line in the manifest of the part.
        data: Its bytes.
        edit: Changes the directory's JSON, or returns another.
        fit: Whether pages are cut or filled up with zeros to the length that the directory says.
    """
    old = entry.head.n_bytes
    directory = json.loads(data[12:old])
    directory = edit(directory) or directory
    text = json.dumps(directory, sort_keys=True, separators=(",", ":")).encode()
    size = None
    if fit:
        size = sum(page[0] for block in directory["blocks"] for page in block["pages"])
    return with_text(entry, data, text, size=size)


def with_text(entry, data, text, *, size=None):
    """A part with another directory, and pages cut or filled up with zeros to a size."""
    head = b"PCRI" + struct.pack("<II", len(text), crc32c(text)) + text
    body = data[entry.head.n_bytes :]
    if size is not None:
        body = body[:size].ljust(size, b"\0")
    changed = replace(entry, n_bytes=len(head) + len(body), head=Head(len(head), crc32c(head)))
    return changed, head + body
