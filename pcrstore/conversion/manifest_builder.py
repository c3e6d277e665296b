"""Turn finished units into index parts, a report and a manifest: the end of a conversion."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pcrstore.conversion.journal import FinishedUnit
from pcrstore.conversion.record_builder import COLUMNS, Problem
from pcrstore.conversion.report import Report
from pcrstore.conversion.writers import ArrayWriter
from pcrstore.core import UID_BYTES, crc32c, record_seed
from pcrstore.errors import SourceError
from pcrstore.format import (
    MAX_PART_IMAGES,
    ArraySpec,
    Checked,
    Manifest,
    ObjectEntry,
    PartEntry,
    Quality,
    Rows,
    ScriptEntry,
    Totals,
    chunks,
    concat,
    group_json,
    group_name,
    index_name,
    report_name,
    side_arrays,
    side_spec,
    stream_specs,
    unbound_checksums,
)
from pcrstore.jpeg import Script
from pcrstore.storage import Store

__all__ = ["ManifestBuilder"]


@dataclass(slots=True, kw_only=True)
class ManifestBuilder:
    """Takes finished units in order; writes a part whenever one is full, and at last the rest."""

    store: Store
    conversion: str
    script: Script
    layout: str
    classes: tuple[str, ...]
    splits: tuple[str, ...]
    options: Mapping[str, str]
    n_hidden: int
    writer: str
    created: str
    _pending: list[tuple[Rows, ObjectEntry]] = field(default_factory=list)
    _parts: list[PartEntry] = field(default_factory=list)
    _side: list[dict[str, object]] = field(default_factory=list)
    _objects: int = 0
    _sources: int = 0
    _groups: list[int] = field(default_factory=list)
    _headers: int = 0
    _problems: list[Problem] = field(default_factory=list)
    _quality: list[tuple[float, ...]] = field(default_factory=list)
    _kinds: dict[str, tuple[int, int]] = field(default_factory=dict)
    _checked: list[Checked] = field(default_factory=list)

    def add(self, unit: FinishedUnit) -> None:
        """Take the next unit."""
        self._problems.extend(unit.problems)
        self._quality.extend(unit.quality)
        for kind, n_bytes in unit.restore_bytes.items():
            images, total = self._kinds.get(kind, (0, 0))
            self._kinds[kind] = (images + unit.restore_images[kind], total + n_bytes)
        rows = unit.rows
        if rows is None:
            return
        self._objects += unit.object is not None
        self._sources += int(np.asarray(rows.columns["source_bytes"]).sum())
        lengths = rows.records["length"].sum(axis=0, dtype=np.int64).tolist()
        self._groups = [
            a + b for a, b in zip(self._groups or [0] * len(lengths), lengths, strict=True)
        ]
        if self.layout == "record":
            self._headers += sum(map(len, rows.headers))
        entry = unit.object or ObjectEntry(name=self._arrays, uid=self._uid(), n_bytes=0)
        self._gather(rows, entry)

    @property
    def _arrays(self) -> str:
        return group_name(self.conversion)

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
        uid = hashlib.blake2b(
            f"{self.conversion} part {number}".encode(), digest_size=UID_BYTES
        ).digest()
        part, data = joined.encode(
            name=index_name(self.conversion, number),
            uid=uid,
            layout=self.layout,
            n_groups=self.script.n_groups,
            objects=objects,
            columns=COLUMNS,
        )
        self.store.put(part.name, data)
        self._parts.append(part)
        if self.layout == "zarr":
            self._keep_side(joined)

    def _keep_side(self, rows: Rows) -> None:
        seeds = [record_seed(self._uid(), int(o)) for o in rows.records["ordinal"]]
        lengths, checksums, opaque = unbound_checksums(
            rows.headers, seeds, rows.records, self.script.n_groups
        )
        self._side.append(
            {
                "lengths": lengths,
                "checksums": checksums,
                "opaque": opaque,
                "restore_lengths": rows.restore["length"],
                "images_per_record": rows.records["n_images"],
                "labels": rows.columns["label"],
                "keys": rows.columns["key"],
            }
        )

    def finish(self, sink: ArrayWriter | None) -> Manifest:
        """Write what is left and return the manifest to commit.

        Raises:
            SourceError: Not one image was converted.
        """
        self._flush()
        if not self._parts:
            reasons = "".join(f"\n  {p.key}: {p.reason}" for p in self._problems[:20])
            raise SourceError(f"no file could be converted, nothing was committed:{reasons}")
        if sink is not None:
            self._write_arrays(sink)
        report = self._report()
        self._put_checked(report_name(self.conversion), report.encode())
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
            chunk_bytes=() if sink is None else sink.chunk_sizes(),
            conversion=self.conversion,
            options=dict(self.options),
            writer=self.writer,
            created=self.created,
        )

    def _put_checked(self, name: str, data: bytes) -> None:
        self.store.put(name, data)
        self._checked.append(Checked(name=name, n_bytes=len(data), checksum=crc32c(data)))

    def _write_arrays(self, sink: ArrayWriter) -> None:
        for name, data in sink.finish():
            self.store.put(name, data)
        specs: dict[str, ArraySpec] = dict(stream_specs(sink.positions, sink.chunk_sizes()))
        side = _join(self._side)
        for name, values in side_arrays(**side).items():  # type: ignore[arg-type]  # columns are typed by name
            specs[name] = side_spec(values)
            for key, data in chunks(values, specs[name]).items():
                self._put_checked(f"{self._arrays}/{name}/{key}", data)
        attributes = {
            "pcrstore": {"conversion": self.conversion, "groups": list(self.script.labels)},
            "classes": list(self.classes),
        }
        for name, data in group_json(specs, attributes).items():
            self._put_checked(f"{self._arrays}/{name}", data)

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


def _join(parts: Sequence[Mapping[str, object]]) -> dict[str, object]:
    out: dict[str, object] = {}
    for name in parts[0]:
        values = [p[name] for p in parts]
        out[name] = (
            [v for part in values for v in part]  # type: ignore[attr-defined]  # keys are lists
            if name == "keys"
            else np.concatenate(values)  # type: ignore[arg-type]  # all others are arrays
        )
    return out
