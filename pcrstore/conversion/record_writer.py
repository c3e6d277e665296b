"""Record layout: the records of a unit back to back in one object.

    objects/<content>-<unit>.pcr    header | group 1 | ... | group G | restore | header | ...
                                    |----------- record 0 -------------------| |-- record 1 --

Units share nothing, so any of them may be finished, missing or refused after a kill.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pcrstore.conversion.ids import Ids, digest
from pcrstore.conversion.journal import FinishedUnit
from pcrstore.conversion.packing import Unit
from pcrstore.conversion.record_builder import BuiltRecord
from pcrstore.conversion.writer import Extra, Placed, Resumed, rows_of
from pcrstore.format import Rows, Run, object_name

__all__ = ["RecordWriter"]


@dataclass(frozen=True, slots=True)
class RecordWriter:
    """Writer of one object per unit. An object depends on its unit alone."""

    ids: Ids

    @property
    def scope(self) -> str:
        """Empty: conversions under any policy share the units that needed none."""
        return ""

    def address(self, unit: Unit) -> tuple[bytes, int]:
        """Return the id of the unit's object; records are numbered from 0 in it."""
        return bytes.fromhex(digest(self.ids.content, f"object {unit.number}")), 0

    def resume(self, noted: Mapping[int, FinishedUnit]) -> Resumed:
        """Go on after any units: none needs another."""
        return Resumed(done=noted)

    def place(self, unit: Unit, records: Sequence[BuiltRecord]) -> Placed | None:
        """Return the unit's object; None when a file was refused."""
        if any(r.is_refused for r in records):
            return None
        kept = [r for r in records if r.n_images]
        if not kept:
            return Placed(object=None, rows=None, objects=())
        variant = self.ids.variant(has_problems=any(r.problems for r in records))
        name = object_name(self.ids.content, unit.number, variant)
        *starts, n_bytes = accumulate((r.n_bytes for r in kept), initial=0)
        uid, _ = self.address(unit)
        return Placed(
            object=Run(name=name, uid=uid.hex(), n_bytes=n_bytes),
            rows=rows_of(kept, starts, "record"),
            objects=((name, b"".join(p for r in kept for p in (r.header, *r.regions))),),
        )

    def add_rows(self, rows: Rows) -> None:
        """Do nothing: the index parts hold everything."""

    def finish(self) -> Iterator[Extra]:
        """Yield nothing: every unit is an object of its own."""
        return iter(())

    def runs(self) -> tuple[Run, ...]:
        """Return (): each unit has its own."""
        return ()
