"""The interface of the two writers, which place records in stored objects: one for each layout.

    RecordWriter   header | regions    a unit's records back to back in one object
    ArrayWriter    region g of every record appended to array g, cut into equal chunks

A writer decides where bytes go and gives them back to be stored: stores, threads and the journal
are the job's.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pcrstore.conversion.journal import FinishedUnit
from pcrstore.conversion.packing import Unit
from pcrstore.conversion.record_builder import BuiltRecord
from pcrstore.format import Rows, Run, concat, record_dtype

__all__ = ["Extra", "Placed", "Resumed", "Writer", "rows_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A unit whose records have their places."""

    object: Run | None
    """The object that the unit makes, if it makes one."""
    rows: Rows | None
    """Its part of the index; None when no image was left."""
    objects: tuple[tuple[str, bytes], ...]
    """Objects to store, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The work of earlier runs that a run goes on from."""

    done: Mapping[int, FinishedUnit]
    """Finished units by number."""
    replayed: frozenset[int] = frozenset()
    """Those of them whose records are built and placed again, for bytes that were not stored.

    In the zarr layout the last bytes of a unit lie in chunks that the next units fill up.
    """

    def must_build(self, unit: int) -> bool:
        """Return True where the records of a unit are built in this run."""
        return unit not in self.done or unit in self.replayed


@dataclass(frozen=True, slots=True, kw_only=True)
class Extra:
    """An object that belongs to no unit."""

    name: str
    data: bytes
    is_checked: bool
    """True if the manifest holds its checksum: no other checksum covers it."""


class Writer(Protocol):
    """Places the records of units, in order of their numbers."""

    @property
    def scope(self) -> str:
        """Text that tells apart the unfinished conversions whose units cannot be shared."""

    def address(self, unit: Unit) -> tuple[bytes, int]:
        """Return the id of what holds the unit's records, and the first one's number in it.

        Both are bound into the records' checksums.
        """

    def resume(self, noted: Mapping[int, FinishedUnit]) -> Resumed:
        """Go on after the units that the journal holds."""

    def place(self, unit: Unit, records: Sequence[BuiltRecord]) -> Placed | None:
        """Place a unit; records without images are left out.

        Returns:
            None when the unit has no place, for a file of it (or, where units adjoin, of an
            earlier one) was refused.
        """

    def add_rows(self, rows: Rows) -> None:
        """Take the rows of a part of the index, for what a layout keeps of them outside it."""

    def finish(self) -> Iterator[Extra]:
        """Yield the objects that are left to store once every unit is placed."""

    def runs(self) -> tuple[Run, ...]:
        """Return the arrays that hold the regions, (G + 1,), once every unit is placed.

        () where each unit makes an object that holds its records.
        """


def rows_of(
    records: Sequence[BuiltRecord], starts: Iterable[int | Sequence[int]], layout: str
) -> Rows | None:
    """Return the rows of placed records in the index; None if there are none.

    Args:
        records: The records, each with images.
        starts: First byte of each: an offset in its object, or one in each array.
        layout: Layout of the dataset.
    """
    if not records:
        return None
    placed = np.zeros(len(records), record_dtype(layout, len(records[0].regions) - 1))
    for row, record, start in zip(placed, records, starts, strict=True):
        row["ordinal"], row["n_images"], row["start"] = record.ordinal, record.n_images, start
        row["length"] = [len(region) for region in record.regions]
    return concat(
        [
            Rows(
                records=placed[i : i + 1], headers=[r.header], restore=r.restore, columns=r.columns
            )
            for i, r in enumerate(records)
        ]
    )
