"""Index rows of consecutive records, as conversion gathers them and index parts store them.

Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pcrstore.format.column_values import null_values
from pcrstore.format.columns import Column, Values
from pcrstore.format.index import (
    HEADERS,
    RECORDS,
    RESTORE,
    RESTORE_DTYPE,
    Block,
    Directory,
    PartEntry,
    Run,
    record_dtype,
)
from pcrstore.format.index_pages import decode_page, encode_part, rows_as
from pcrstore.format.record import header_size

__all__ = ["Rows", "concat", "decode_part", "header_edges", "join_values"]


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
        uid: str,
        n_groups: int,
        runs: Sequence[Run],
        columns: Sequence[Column],
    ) -> tuple[PartEntry, bytes]:
        """Return these rows as an index part."""
        return encode_part(
            name=name,
            uid=uid,
            n_groups=n_groups,
            runs=runs,
            records=self.records,
            headers=self.headers,
            restore=self.restore,
            columns=[(c, self.columns[c.name]) for c in columns],
        )


def join_values(values: Sequence[Values]) -> Values:
    """Join a column's values in order; at least one must be given."""
    if isinstance(values[0], list):
        return [v for some in values for v in some]
    arrays = [v for v in values if isinstance(v, np.ndarray)]
    if any(isinstance(a, np.ma.MaskedArray) for a in arrays):
        mask = np.concatenate([np.ma.getmaskarray(a) for a in arrays])
        return np.ma.MaskedArray(np.concatenate([np.ma.getdata(a) for a in arrays]), mask=mask)
    return np.concatenate(arrays)


def concat(rows: Sequence[Rows]) -> Rows:
    """Join rows in order; at least one must be given."""
    return Rows(
        records=np.concatenate([r.records for r in rows]),
        headers=[h for r in rows for h in r.headers],
        restore=np.concatenate([r.restore for r in rows]),
        columns={name: join_values([r.columns[name] for r in rows]) for name in rows[0].columns},
    )


def header_edges(records: NDArray[np.void], n_groups: int) -> NDArray[np.int64]:
    """Return the offset of each record's header in the `headers` block, and the end of the last.

    Two records of 8 and 9 images in 5 groups have headers of 333 and 374 bytes: edges 0, 333, 707.
    """
    sizes = header_size(records["n_images"].astype(np.int64), n_groups)
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))


def decode_part(data: bytes, directory: Directory, columns: Sequence[Column]) -> Rows:
    """Return all rows of a whole part, every page checked; columns it lacks are null."""
    where = directory.entry.name

    def read(block: Block) -> Values:
        pages = [block.page(i) for i in range(len(block.pages))]
        return join_values(
            [decode_page(block, p, data[p.start : p.stop], where=where) for p in pages]
        )

    def table(name: str, row: np.dtype[np.void]) -> NDArray[np.void]:
        return rows_as(np.asarray(read(directory.tables[name])), row, f"{where}: {name}")

    n_groups = directory.n_groups
    records = table(RECORDS, record_dtype(directory.layout, n_groups))
    joined = np.asarray(read(directory.tables[HEADERS])).tobytes()
    edges = header_edges(records, n_groups).tolist()
    found = directory.columns
    return Rows(
        records=records,
        headers=[joined[a:b] for a, b in pairwise(edges)],
        restore=table(RESTORE, RESTORE_DTYPE),
        columns={
            c.name: read(found[c.name])
            if c.name in found
            else null_values(c, directory.entry.n_images, where=where)
            for c in columns
        },
    )
