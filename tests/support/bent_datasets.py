"""Small datasets that break a rule of the format, with every length and checksum right.

bent = Bent.of("zarr")                                        six images, three records
bent = Bent.of("zarr", lambda images: images[0].columns.update(label=9))
bent.manifest(lambda m: m.update(features=["later"]))         the manifest's JSON
bent.directory(lambda d: d.update(n_groups=9))                the JSON of a part's directory
bent.draft(lambda draft: draft.set("label", 0, 9))            the rows of parts
bent.side("labels/zarr.json", lambda data: b"{}")             an object of the Zarr group
bent.objects                                                  name -> bytes
"""

import json
import struct
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise

import numpy as np
from built_records import IDS, SCRIPT, build
from flows import DictStore, photo, png
from index_parts import enveloped
from msgspec.structs import replace as changed
from rewritten import Draft
from two_conversions import smaller, stretches, totals_of

from pcrstore.conversion.array_writer import ArrayWriter
from pcrstore.conversion.journal import FinishedUnit, Outcomes
from pcrstore.conversion.manifest_builder import ManifestBuilder
from pcrstore.conversion.packing import Unit
from pcrstore.conversion.record_builder import BuiltRecord
from pcrstore.conversion.record_writer import RecordWriter
from pcrstore.core import crc32c, decode_json, encode_json, place_words, record_seed
from pcrstore.dataset.versions import commit
from pcrstore.format.columns import COLUMNS
from pcrstore.format.index import RESTORE_DTYPE, Head, PartEntry
from pcrstore.format.names import manifest_name
from pcrstore.format.record import RecordImage, build_record

CLASSES, SPLITS = ("cat", "dog"), ("train", "val")
RECORDS = (2, 2, 2)
"""Images of each record."""
OPAQUE, ENCODED = 2, 5
"""Positions of the images of these formats."""
CHUNK = 700
EXIF = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"


@dataclass
class Image:
    """An image that may be changed before it is stored."""

    groups: list[bytes]
    restore: bytes
    columns: dict[str, object]
    opaque: bool = field(init=False)
    """As the header has it."""

    def __post_init__(self):
        self.opaque = self.columns["format"] == 1


@cache
def _sources():
    """Key, file and policy of each image."""
    return (
        ("cat/0.jpg", photo(0), "raise"),
        ("dog/1.jpg", photo(1, mode="L", size=(24, 33)), "raise"),
        ("cat/2.txt", b"no image", "opaque"),
        ("dog/3.jpg", photo(3, exif=EXIF), "raise"),
        ("cat/4.jpg", photo(4, progressive=True), "raise"),
        ("dog/5.png", png(5), "encode"),
    )


def sources():
    """Key -> file of every image."""
    return {key: data for key, data, _ in _sources()}


@cache
def _built():
    return [build([(key, data)], policy) for key, data, policy in _sources()]


def images():
    """The six images, in stored order."""
    out = []
    for i, b in enumerate(_built()):
        values = {name: values[0] for name, values in b.columns.items()}
        values |= {"label": i % 2, "split": (0, 1, 255)[i % 3]}
        out.append(Image(groups=list(b.regions[:-1]), restore=b.regions[-1], columns=values))
    return out


def _record(some, ordinal, seed):
    """The record of some images."""
    header, regions = build_record(
        [RecordImage(groups=tuple(i.groups), restore=i.restore, opaque=i.opaque) for i in some],
        seed=seed,
    )
    g, n = SCRIPT.n_groups, len(some)
    restore = np.zeros(n, RESTORE_DTYPE)
    restore["length"] = [len(i.restore) for i in some]
    restore["checksum"] = [crc32c(i.restore) for i in some] ^ place_words(seed, n, g + 1)[:, g]
    columns = {}
    for c in COLUMNS:
        values = [i.columns[c.name] for i in some]
        columns[c.name] = np.array(values, c.item) if c.is_array else values
    return BuiltRecord(
        ordinal=ordinal,
        header=header.encode(),
        regions=tuple(regions),
        restore=restore,
        columns=columns,
        problems=(),
        quality=(),
        restore_bytes={},
        restore_images={},
    )


def made(layout, some, *, ordinals=(0, 1, 2), ids=IDS, chunk=CHUNK):
    """Name -> bytes of a dataset of images, in records of two."""
    writer = RecordWriter(ids)
    if layout == "zarr":
        writer = ArrayWriter(
            ids=ids, group_labels=SCRIPT.labels, classes=CLASSES, chunk_bytes=chunk, hold=False
        )
    edges = np.cumsum((0, *RECORDS)).tolist()
    spans = tuple(range(a, b) for a, b in pairwise(edges))
    unit = Unit(number=0, records=spans, first_record=0)
    uid, _ = writer.address(unit)
    records = [
        _record(some[span.start : span.stop], ordinal, record_seed(uid, ordinal))
        for span, ordinal in zip(spans, ordinals, strict=True)
    ]
    placed = writer.place(unit, records)
    store = DictStore(placed.objects)
    builder = ManifestBuilder(
        store=store,
        writer=writer,
        conversion=ids.conversion,
        script=SCRIPT,
        layout=layout,
        classes=CLASSES,
        splits=SPLITS,
        options={},
        n_hidden=0,
        writer_id="w",
        created="2026-01-01T00:00:00Z",
    )
    outcomes = Outcomes(problems=(), quality=(), restore_bytes={}, restore_images={})
    builder.add(FinishedUnit(number=0, object=placed.object, rows=placed.rows, outcomes=outcomes))
    commit(store, builder.finish())
    return store.objects


@cache
def _whole(layout):
    return made(layout, images())


@dataclass
class Bent:
    """A stored dataset, and the ways to change it."""

    layout: str
    objects: dict[str, bytes]

    @classmethod
    def of(cls, layout, edit=None, **how):
        """The dataset of the six images, which `edit` changes first."""
        if edit is None and not how:
            return cls(layout, dict(_whole(layout)))
        some = images()
        if edit is not None:
            edit(some)
        return cls(layout, made(layout, some, **how))

    @property
    def head(self):
        """Name of the manifest."""
        return manifest_name(1)

    @property
    def group(self):
        """Name of the Zarr group."""
        return f"zarr/{IDS.conversion}"

    @property
    def object(self):
        """Name of the object of records, or of the array of group 1."""
        if self.layout == "zarr":
            return f"{self.group}/group_1"
        return next(n for n in self.objects if n.startswith("objects/"))

    @property
    def part(self):
        """Name of the only index part."""
        return next(n for n in self.objects if n.startswith("index/"))

    def manifest(self, edit):
        """Change the JSON of the manifest; `edit` may return another text."""
        table = json.loads(self.objects[self.head].partition(b"\n")[2])
        text = edit(table)
        if not isinstance(text, bytes):
            text = json.dumps(table).encode()
        self.objects[self.head] = enveloped(text)

    def directory(self, edit, pages=None, number=0):
        """Change the JSON of a directory, and the bytes behind it."""
        table = json.loads(self.objects[self.head].partition(b"\n")[2])
        entry = decode_json(json.dumps(table["parts"][number]).encode(), PartEntry, where="")
        data, n = self.objects[entry.name], entry.head.n_bytes
        if pages is not None:
            data = data[:n] + pages(data[n:])
        table = json.loads(data[12:n])
        text = edit(table)
        if not isinstance(text, bytes):
            text = json.dumps(table).encode()
        head = b"PCRI" + struct.pack("<II", len(text), crc32c(text)) + text
        self.objects[entry.name] = head + data[n:]
        entry = changed(
            entry,
            n_bytes=len(self.objects[entry.name]),
            head=Head(len(head), crc32c(head)),
        )
        part = json.loads(encode_json(entry))
        self.manifest(lambda m: m["parts"].__setitem__(number, part))

    def draft(self, edit):
        """Change what parts hold."""
        draft = Draft.of(self.objects)
        edit(draft)
        for name in [n for n in self.objects if n.startswith("index/")]:
            del self.objects[name]
        self.objects |= draft.encode()

    def checked(self, name, data):
        """Store an object that the manifest checks; None removes it, from the manifest too."""
        if data is None:
            self.objects.pop(name, None)
        else:
            self.objects[name] = data

        def edit(m):
            m["checked"] = [c for c in m["checked"] if c["name"] != name]
            if data is not None:
                m["checked"].append({"name": name, "bytes": len(data), "crc32c": crc32c(data)})

        self.manifest(edit)

    def side(self, name, edit):
        """Change an object of the Zarr group; of one that ends in .json its JSON."""
        name = f"{self.group}/{name}"
        data = self.objects[name]
        if name.endswith(".json"):
            table = json.loads(data)
            text = edit(table)
            self.checked(name, text if isinstance(text, bytes) else json.dumps(table).encode())
        else:
            self.checked(name, edit(data))

    def array(self, name, edit):
        """Change the JSON of an array, and the copy of it in the group's."""
        self.side(f"{name}/zarr.json", edit)
        self.side("zarr.json", lambda group: edit(group["consolidated_metadata"]["metadata"][name]))


def keep_records(draft, kept, *, unused=True):
    """Leave in a draft's only part the records `kept`, in that order, and put the totals right.

    With `unused` the runs say which bytes belong to no record then.
    """
    [part] = draft.parts
    lost = {}
    for r in {*range(len(part.rows.records))} - {*kept}:
        for name, n in stretches(draft.manifest, part, r).items():
            lost[name] = lost.get(name, 0) + n
    draft.parts = [smaller(part, kept, lost if unused else {}, version=1)]
    totals = totals_of(draft.manifest.layout, [part.rows for part in draft.parts])
    draft.manifest = changed(draft.manifest, totals=totals)


def split_part(draft, at=1):
    """Make two parts of a draft's first, the first of `at` records."""
    part = draft.parts[0]
    rows = part.rows
    second = type(part)(
        part.name.replace("-000000", "-000009"),
        "9" * 32,
        part.runs,
        rows.slice(at, len(rows.records)),
        part.columns,
    )
    part.rows = rows.slice(0, at)
    draft.parts.insert(1, second)
