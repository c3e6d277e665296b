"""Small stored datasets written anew with other values: every checksum and length is right.

    draft = Draft.of(stored("record", 20))
    draft.add(Column(name="score", dtype="<f4", shape=()), values, lacking={1})
    draft.set("label", 7, 2**31 - 1)
    draft.manifest = replace(draft.manifest, classes=("cat",))
    ds = opened(DictStore(draft.encode()))

Nothing is checked: a draft may say what no reader takes.
"""

from dataclasses import dataclass, replace

import numpy as np
from msgspec.structs import replace as changed

from pcrstore.core import crc32c, encode_json
from pcrstore.format.column_values import null_values
from pcrstore.format.columns import Column
from pcrstore.format.index import Run
from pcrstore.format.index_pages import decode_directory
from pcrstore.format.index_rows import Rows, decode_part
from pcrstore.format.manifest import Manifest, decode_manifest
from pcrstore.format.names import manifest_name, version_of

__all__ = ["Draft", "DraftPart", "manifest_bytes"]


def manifest_bytes(value):
    """The object of a manifest, or of any JSON text, whose first line is right."""
    text = value if isinstance(value, bytes) else encode_json(value)
    return b"pcrstore-manifest v1 crc32c=%08x bytes=%d\n" % (crc32c(text), len(text)) + text


@dataclass
class DraftPart:
    """An index part: its runs, its rows, and which columns it has."""

    name: str
    uid: str
    runs: tuple[Run, ...]
    rows: Rows
    columns: tuple[Column, ...]

    def encode(self, n_groups):
        """The part's line in the manifest, and its bytes."""
        return self.rows.encode(
            name=self.name, uid=self.uid, n_groups=n_groups, runs=self.runs, columns=self.columns
        )

    def put(self, column, values):
        """Give the part a column, or other values of one that it has."""
        self.columns = (*(c for c in self.columns if c.name != column.name), column)
        self.rows = replace(self.rows, columns={**self.rows.columns, column.name: values})


@dataclass
class Draft:
    """A dataset taken apart: change what it holds, then `encode` it."""

    manifest: Manifest
    parts: list[DraftPart]
    objects: dict[str, bytes]
    """Everything that is stored but for the manifest and the index parts."""

    @classmethod
    def of(cls, objects):
        """The newest version of a stored dataset."""
        version = max(v for v in map(version_of, objects) if v is not None)
        name = manifest_name(version)
        m = decode_manifest(objects[name], version=version, where=name)
        parts = []
        for entry in m.parts:
            data = objects[entry.name]
            d = decode_directory(
                data[: entry.head.n_bytes],
                entry,
                layout=m.layout,
                n_groups=m.n_groups,
                columns=m.columns,
            )
            columns = tuple(c for c in m.columns if c.name in d.columns)
            rows = decode_part(data, d, columns)
            parts.append(DraftPart(entry.name, entry.uid, d.runs, rows, columns))
        written = {name, *(p.name for p in parts)}
        return cls(m, parts, {k: v for k, v in objects.items() if k not in written})

    @property
    def edges(self):
        """First image of each part, and the number of images."""
        return np.cumsum([0, *(p.rows.n_images for p in self.parts)]).tolist()

    def add(self, column, values, *, lacking=()):
        """Give the dataset a column, `values` being those of all images; some parts lack it."""
        kept = [c for c in self.manifest.columns if c.name != column.name]
        self.manifest = changed(self.manifest, columns=(*kept, column))
        edges = self.edges
        for i, part in enumerate(self.parts):
            if i not in lacking:
                part.put(column, values[edges[i] : edges[i + 1]])

    def set(self, name, image, value):
        """Set one image's value of a column that its part has; None: null."""
        part = int(np.searchsorted(self.edges, image, side="right")) - 1
        found, row = self.parts[part], image - self.edges[part]
        column = next(c for c in found.columns if c.name == name)
        values = found.rows.columns[name]
        if isinstance(values, list):
            values = [*values[:row], value, *values[row + 1 :]]
        else:
            values = values.copy()
            values[row] = null_values(column, 1, where="rewritten")[0] if value is None else value
        found.put(column, values)

    def encode(self):
        """Name -> bytes of the dataset."""
        m = self.manifest
        encoded = [part.encode(m.n_groups) for part in self.parts]
        entries = tuple(entry for entry, _ in encoded)
        m = changed(
            m,
            parts=entries,
            n_images=sum(e.n_images for e in entries),
            n_records=sum(e.n_records for e in entries),
        )
        return {
            **self.objects,
            **{entry.name: data for entry, data in encoded},
            manifest_name(m.version): manifest_bytes(m),
        }
