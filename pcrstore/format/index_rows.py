"""Index rows of consecutive records, as conversion gathers them and index parts store them.

Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pcrstore.format.index import (
    HEADERS,
    RECORDS,
    RESTORE,
    Column,
    Directory,
    ObjectEntry,
    PartEntry,
)
from pcrstore.format.index_pages import decode_page, encode_part
from pcrstore.format.record import header_size

__all__ = ["Rows", "Values", "concat", "decode_part", "header_edges"]

Values = list[str] | NDArray[np.generic]
"""A column's values: text as a list, anything else as an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some records and their images."""

    records: NDArray[np.void]
    """(R,) of `index.record_dtype`."""
    headers: list[bytes]
    """The R encoded record headers."""
    restore: NDArray[np.void]
    """(N,) of `index.RESTORE_DTYPE`."""
    columns: Mapping[str, Values]
    """N values each."""

    @property
    def n_images(self) -> int:
        """Images in all records."""
        return len(self.restore)

    def slice(self, start: int, stop: int) -> "Rows":
        """Return records `start` to `stop` and their images."""
        edges = np.concatenate(([0], np.cumsum(self.records["n_images"], dtype=np.int64)))
        a, b = int(edges[start]), int(edges[stop])
        return Rows(
            records=self.records[start:stop],
            headers=self.headers[start:stop],
            restore=self.restore[a:b],
            columns={name: values[a:b] for name, values in self.columns.items()},
        )

    def encode(
        self,
        *,
        name: str,
        uid: bytes,
        layout: str,
        n_groups: int,
        objects: Sequence[ObjectEntry],
        columns: Sequence[Column],
    ) -> tuple[PartEntry, bytes]:
        """Return these rows as an index part."""
        return encode_part(
            name=name,
            uid=uid,
            layout=layout,
            n_groups=n_groups,
            objects=objects,
            records=self.records,
            headers=self.headers,
            restore=self.restore,
            columns=[(c, self.columns[c.name]) for c in columns],
        )


def concat(rows: Sequence[Rows]) -> Rows:
    """Join rows in order; at least one must be given."""
    columns: dict[str, Values] = {}
    for name in rows[0].columns:
        values = [r.columns[name] for r in rows]
        first = values[0]
        columns[name] = (
            [v for part in values for v in part]
            if isinstance(first, list)
            else np.concatenate([np.asarray(v) for v in values])
        )
    return Rows(
        records=np.concatenate([r.records for r in rows]),
        headers=[h for r in rows for h in r.headers],
        restore=np.concatenate([r.restore for r in rows]),
        columns=columns,
    )


def header_edges(records: NDArray[np.void], n_groups: int) -> NDArray[np.int64]:
    """Return the offset of each record's header in the `headers` block, and the end of the last.

    Two records of 8 and 9 images in 5 groups have headers of 333 and 374 bytes: edges 0, 333, 707.
    """
    sizes = header_size(records["n_images"].astype(np.int64), n_groups)
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))


def decode_part(data: bytes, directory: Directory, columns: Sequence[Column]) -> Rows:
    """Return all rows of a whole part, every page checked."""

    def values(name: str) -> Values:
        block = directory.blocks[name]
        pages = [
            decode_page(block, p, data[p.start : p.stop], where=directory.entry.name)
            for p in block.pages
        ]
        first = pages[0]
        if isinstance(first, list):
            return [v for page in pages for v in page]
        return np.concatenate([np.asarray(p) for p in pages])

    records = np.asarray(values(RECORDS))
    joined = np.asarray(values(HEADERS)).tobytes()
    edges = header_edges(records, directory.n_groups).tolist()
    return Rows(
        records=records,
        headers=[joined[a:b] for a, b in pairwise(edges)],
        restore=np.asarray(values(RESTORE)),
        columns={c.name: values(c.name) for c in columns},
    )
