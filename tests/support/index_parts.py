"""Rows, index parts and manifests to test with, made without converting anything."""

import json
import struct

import numpy as np

from pcrstore.core.checksum import crc32c, record_seed
from pcrstore.format.index import COLUMNS, RESTORE_DTYPE, Head, ObjectEntry, record_dtype
from pcrstore.format.index_rows import Rows
from pcrstore.format.manifest import Checked, Manifest, Quality, ScriptEntry, Totals
from pcrstore.format.record import RecordImage, build_record

UID = bytes(range(16))
PART_UID = bytes(range(1, 17))
G = 2


def rows(layout="record", sizes=(2, 3)):
    """Records of `sizes` images, two groups."""
    table = np.zeros(len(sizes), record_dtype(layout, G))
    headers, n, at, positions = [], sum(sizes), 0, [0] * (G + 1)
    for ordinal, size in enumerate(sizes):
        images = [
            RecordImage(groups=(b"a" * (i + 1), b"b" * i), restore=b"r", opaque=False)
            for i in range(size)
        ]
        header, regions = build_record(images, seed=record_seed(UID, ordinal))
        lengths = list(map(len, regions))
        table[ordinal]["ordinal"], table[ordinal]["n_images"] = ordinal, size
        table[ordinal]["start"] = [at] if layout == "record" else positions
        table[ordinal]["length"] = lengths
        headers.append(header.encode())
        at += header.size + sum(lengths)
        positions = [p + n for p, n in zip(positions, lengths, strict=True)]
    restore = np.zeros(n, RESTORE_DTYPE)
    restore["length"], restore["checksum"] = 1, np.arange(n)
    columns = {
        c.name: [f"cat/{i}\u00e9\udcff.jpg" for i in range(n)]
        if c.row_dtype is None
        else np.arange(n * c.width).astype(c.dtype).reshape((n, c.width) if c.width > 1 else n)
        for c in COLUMNS
    }
    return Rows(records=table, headers=headers, restore=restore, columns=columns)


def objects(layout="record", some=None):
    some = rows(layout) if some is None else some
    name = "objects/a.pcr" if layout == "record" else "zarr/a"
    size = sum(map(len, some.headers)) + int(some.records["length"].sum())
    return [ObjectEntry(name=name, uid=UID, n_bytes=size if layout == "record" else 0)]


def part(layout="record", some=None):
    """An index part: its line in the manifest, and its bytes."""
    some = rows(layout) if some is None else some
    return some.encode(
        name="index/p.pcri",
        uid=PART_UID,
        layout=layout,
        n_groups=G,
        objects=objects(layout, some),
        columns=COLUMNS,
    )


def manifest(layout="record", **changes):
    entry, _ = part(layout)
    values = {
        "version": 1,
        "layout": layout,
        "script": ScriptEntry(name="two", text="[a]\n*: 0-0, 0, 0\n[b]\n*: 1-63, 0, 0\n"),
        "group_labels": ("a", "b"),
        "n_images": entry.n_images,
        "n_records": entry.n_records,
        "totals": Totals(sources=100, groups=(9, 4), headers=50, restore=5),
        "quality": Quality(n_images=2, ms_ssim=(0.9, 1.0), ms_ssim_p05=(0.8, 1.0)),
        "classes": ("cat", "d\u00f6g"),
        "splits": ("train",),
        "columns": COLUMNS,
        "parts": (entry,),
        "checked": (Checked(name="reports/x.json", n_bytes=3, checksum=7),),
        "chunk_bytes": (5, 6, 7) if layout == "zarr" else (),
        "conversion": "ab" * 16,
        "options": {"seed": "0"},
        "writer": "w",
        "created": "2026-01-01T00:00:00Z",
    }
    return Manifest(**{**values, **changes})


def enveloped(text: bytes) -> bytes:
    """A manifest of any text whose first line is right."""
    return b"pcrstore-manifest v1 crc32c=%08x bytes=%d\n" % (crc32c(text), len(text)) + text


def with_directory(entry, data, edit):
    """A part whose directory was edited, checksums put right: what a forger would make."""
    old = entry.head.n_bytes
    directory = json.loads(data[12:old])
    directory = edit(directory) or directory
    text = json.dumps(directory, sort_keys=True, separators=(",", ":")).encode()
    head = b"PCRI" + struct.pack("<II", len(text), crc32c(text)) + text
    changed = {
        "n_bytes": len(data) - old + len(head),
        "head": Head(len(head), crc32c(head)),
    }
    slots = {name: getattr(entry, name) for name in entry.__slots__}
    return type(entry)(**{**slots, **changed}), head + data[old:]
