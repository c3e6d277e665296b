"""Turn finished units into index parts, a report and a manifest: the end of a conversion.

units ──▶ index parts, of at most 65,536 images each ──▶ manifest
   └────▶ totals ──▶ report ─────────────────────────────┘
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from pcrstore.conversion.ids import digest
from pcrstore.conversion.journal import FinishedUnit
from pcrstore.conversion.report import Problem, Report, RestoreTotals
from pcrstore.conversion.writer import Extra, Writer
from pcrstore.core import crc32c
from pcrstore.errors import SourceError
from pcrstore.format import (
    COLUMNS,
    MAX_PART_IMAGES,
    Checked,
    Manifest,
    ObjectEntry,
    PartEntry,
    Quality,
    Rows,
    ScriptEntry,
    Totals,
    concat,
    index_name,
    report_name,
    zarr_group_name,
)
from pcrstore.jpeg import Script
from pcrstore.storage import Store

__all__ = ["ManifestBuilder"]


@dataclass(slots=True, kw_only=True)
class ManifestBuilder:
    """Takes finished units in order; writes an index part whenever one is full."""

    store: Store
    writer: Writer
    conversion: str
    script: Script
    layout: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    options: Mapping[str, str]
    n_hidden: int
    writer_id: str
    """Id of this run, by which it recognises a manifest as its own."""
    created: str
    _pending: list[tuple[Rows, ObjectEntry]] = field(default_factory=list)
    _parts: list[PartEntry] = field(default_factory=list)
    _objects: int = 0
    _sources: int = 0
    _groups: list[int] = field(default_factory=list)
    _headers: int = 0
    _problems: list[Problem] = field(default_factory=list)
    _quality: list[tuple[float, ...]] = field(default_factory=list)
    _kinds: dict[str, RestoreTotals] = field(default_factory=dict)
    _checked: list[Checked] = field(default_factory=list)

    def add(self, unit: FinishedUnit) -> None:
        """Take the next unit's rows, problems and totals."""
        outcomes = unit.outcomes
        self._problems.extend(outcomes.problems)
        self._quality.extend(outcomes.quality)
        for kind, n_bytes in outcomes.restore_bytes.items():
            images, total = self._kinds.get(kind, (0, 0))
            self._kinds[kind] = RestoreTotals(
                images + outcomes.restore_images[kind], total + n_bytes
            )
        rows = unit.rows
        if rows is None:
            return
        self._sources += int(np.asarray(rows.columns["source_bytes"]).sum())
        lengths = rows.records["length"].sum(axis=0, dtype=np.int64).tolist()
        self._groups = [
            a + b for a, b in zip(self._groups or [0] * len(lengths), lengths, strict=True)
        ]
        entry = unit.object
        if entry is not None:  # it holds the headers too
            self._objects += 1
            self._headers += sum(map(len, rows.headers))
        else:
            entry = ObjectEntry(name=zarr_group_name(self.conversion), uid=self._uid(), n_bytes=0)
        self._gather(rows, entry)

    def _uid(self) -> bytes:
        return bytes.fromhex(self.conversion)

    def _gather(self, rows: Rows, entry: ObjectEntry) -> None:
        """Fill parts with whole records, writing each that the next record would overfill."""
        first = 0
        room = MAX_PART_IMAGES - sum(r.n_images for r, _ in self._pending)
        for i, n in enumerate(rows.records["n_images"].tolist()):
            if n > room:
                if i > first:
                    self._pending.append((rows.slice(first, i), entry))
                self._flush()
                first, room = i, MAX_PART_IMAGES
            room -= n
        self._pending.append((rows.slice(first, len(rows.records)), entry))

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        objects: list[ObjectEntry] = []
        numbers: list[int] = []
        for rows, entry in pending:
            if not objects or objects[-1] != entry:
                objects.append(entry)
            numbers += [len(objects) - 1] * len(rows.records)
        joined = concat([rows for rows, _ in pending])
        joined.records["object"] = numbers
        number = len(self._parts)
        part, data = joined.encode(
            name=index_name(self.conversion, number),
            uid=bytes.fromhex(digest(f"{self.conversion} part {number}")),
            layout=self.layout,
            n_groups=self.script.n_groups,
            objects=objects,
            columns=COLUMNS,
        )
        self.store.put(part.name, data)
        self._parts.append(part)
        self.writer.add_rows(joined)

    def finish(self) -> Manifest:
        """Write what is left and return the manifest to commit.

        Raises:
            SourceError: Not one image was converted.
        """
        self._flush()
        if not self._parts:
            reasons = "".join(f"\n  {p.key}: {p.reason}" for p in self._problems[:20])
            raise SourceError(f"no file could be converted, nothing was committed:{reasons}")
        for extra in self.writer.finish():
            self._put(extra)
        report = self._report()
        self._put(Extra(name=report_name(self.conversion), data=report.encode(), is_checked=True))
        return Manifest(
            version=1,
            layout=self.layout,
            script=ScriptEntry(name=self.script.name, text=self.script.text),
            group_labels=self.script.labels,
            n_images=report.n_images,
            n_records=report.n_records,
            totals=Totals(
                sources=report.source_bytes,
                groups=report.group_bytes,
                headers=report.header_bytes,
                restore=report.restore_bytes,
            ),
            quality=self._measured(),
            classes=self.classes,
            splits=self.splits,
            columns=COLUMNS,
            parts=tuple(self._parts),
            checked=tuple(self._checked),
            chunk_bytes=self.writer.chunk_sizes(),
            conversion=self.conversion,
            options=dict(self.options),
            writer=self.writer_id,
            created=self.created,
        )

    def _put(self, extra: Extra) -> None:
        self.store.put(extra.name, extra.data)
        if extra.is_checked:
            self._checked.append(
                Checked(name=extra.name, n_bytes=len(extra.data), checksum=crc32c(extra.data))
            )

    def _measured(self) -> Quality:
        if not self._quality:
            return Quality(n_images=0, ms_ssim=(), ms_ssim_p05=())
        q = np.array(self._quality)
        return Quality(
            n_images=len(q),
            ms_ssim=tuple(np.round(q.mean(axis=0), 6).tolist()),
            ms_ssim_p05=tuple(np.round(np.percentile(q, 5, axis=0), 6).tolist()),
        )

    def _report(self) -> Report:
        quality = self._measured()
        n_images = sum(p.n_images for p in self._parts)
        lost = sum(p.outcome == "skipped" for p in self._problems)
        return Report(
            conversion=self.conversion,
            version=1,
            layout=self.layout,
            script=self.script.name,
            n_files=n_images + lost,
            n_hidden=self.n_hidden,
            n_images=n_images,
            n_records=sum(p.n_records for p in self._parts),
            n_objects=self._objects or len(self._groups),
            source_bytes=self._sources,
            group_bytes=tuple(self._groups[:-1]),
            header_bytes=self._headers,
            restore_bytes=self._groups[-1],
            index_bytes=sum(p.n_bytes for p in self._parts) + sum(c.n_bytes for c in self._checked),
            restore_kinds=dict(sorted(self._kinds.items())),
            ms_ssim=quality.ms_ssim,
            n_measured=quality.n_images,
            problems=tuple(sorted(self._problems, key=lambda p: p.key)),
        )
