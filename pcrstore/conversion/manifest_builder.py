"""Turn finished units into index parts, a report and a manifest: the end of a conversion.

units ──▶ index parts, of at most 65,536 images each ──▶ manifest
   └────▶ totals ──▶ report ─────────────────────────────┘
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.conversion.ids import digest
from pcrstore.conversion.journal import FinishedUnit
from pcrstore.conversion.packing import key_bytes
from pcrstore.conversion.report import Problem, Report, RestoreTotals
from pcrstore.conversion.writer import Extra, Writer
from pcrstore.core import UID_BYTES, crc32c
from pcrstore.errors import SourceError
from pcrstore.format import (
    COLUMNS,
    MAX_PART_IMAGES,
    MAX_PART_KEYS,
    MS_SSIM,
    Checked,
    Conversion,
    Manifest,
    Measurement,
    PartEntry,
    Rows,
    Run,
    ScriptEntry,
    Totals,
    concat,
    index_name,
    report_name,
)
from pcrstore.jpeg import Script
from pcrstore.storage import Store

__all__ = ["ManifestBuilder"]

_MAX_PART: Final = np.array((MAX_PART_IMAGES, MAX_PART_KEYS, 32_768))
"""Images of a part; bytes of their keys, each with the 4 of its length; objects, which are 4 MB of
the directory then. The bounds of FORMAT.md, section 7."""
_PERCENTILES: Final = (5, 25, 50, 75, 95)
_NORMAL_95: Final = 1.96
"""Standard errors on each side of a mean that are its 95 % confidence interval."""


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
    _late: list[Rows] = field(default_factory=list)
    """Rows whose runs are known at the end only."""
    _pending: list[tuple[Rows, tuple[Run, ...]]] = field(default_factory=list)
    _filled: NDArray[np.int64] = field(default_factory=lambda: np.zeros(3, np.int64))
    """Images, bytes of keys and objects that are pending."""
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
        if unit.object is not None:  # it holds the headers too
            self._objects += 1
            self._headers += sum(map(len, rows.headers))
            self._gather(rows, (unit.object,))
        else:
            self._late.append(rows)

    def _gather(self, rows: Rows, runs: tuple[Run, ...]) -> None:
        """Fill parts with whole records, writing each that the next record would overfill."""
        images = rows.records["n_images"].tolist()
        edges = np.concatenate(([0], np.cumsum([key_bytes(k) for k in rows.columns["key"]])))
        sizes = np.diff(edges[np.concatenate(([0], np.cumsum(images)))]).tolist()
        first = 0
        is_new = not self._pending or self._pending[-1][1] != runs
        for i, (n, size) in enumerate(zip(images, sizes, strict=True)):
            needed = np.array((n, size, len(runs) if is_new and i == first else 0))
            if (self._filled + needed > _MAX_PART).any():
                if i > first:
                    self._pending.append((rows.slice(first, i), runs))
                self._flush()
                first, needed = i, np.array((n, size, len(runs)))
            self._filled += needed
        self._pending.append((rows.slice(first, len(rows.records)), runs))

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        self._filled = np.zeros(3, np.int64)
        if not pending:
            return
        runs: list[Run] = []
        numbers: list[NDArray[np.int64]] = []
        last: tuple[Run, ...] = ()
        for rows, of in pending:
            if of != last:
                runs += of
                last = of
            # Record layout: the run of the unit. Zarr layout: one for each region, G + 1.
            row = np.arange(len(runs) - len(of), len(runs))
            numbers.append(np.broadcast_to(row, (len(rows.records), len(of))))
        joined = concat([rows for rows, _ in pending])
        joined.records["object"] = np.concatenate(numbers)
        number = len(self._parts)
        part, data = joined.encode(
            name=index_name(self.conversion, number),
            uid=digest(f"{self.conversion} part {number}"),
            n_groups=self.script.n_groups,
            runs=runs,
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
        late, self._late = self._late, []
        if late:
            runs = self.writer.runs()
            for rows in late:
                self._gather(rows, runs)
        self._flush()
        if not self._parts:
            reasons = "".join(f"\n  {p.key}: {p.reason}" for p in self._problems[:20])
            raise SourceError(f"no file could be converted, nothing was committed:{reasons}")
        for extra in self.writer.finish():
            self._put(extra)
        report = self._report()
        name = report_name(self.conversion)
        self._put(Extra(name=name, data=report.encode(), is_checked=True))
        return Manifest(
            format="pcrstore",
            features=(),
            write_features=(),
            uid=secrets.token_hex(UID_BYTES),
            version=1,
            created=self.created,
            writer=self.writer_id,
            layout=self.layout,
            group_labels=self.script.labels,
            script=ScriptEntry(name=self.script.name, text=self.script.text),
            n_images=report.n_images,
            n_records=report.n_records,
            totals=Totals(
                sources=report.source_bytes,
                groups=report.group_bytes,
                headers=report.header_bytes,
                restore=report.restore_bytes,
            ),
            classes=self.classes,
            splits=self.splits,
            columns=COLUMNS,
            parts=tuple(self._parts),
            checked=tuple(self._checked),
            conversions=(
                Conversion(
                    id=self.conversion,
                    created=self.created,
                    software=f"pcrstore {version('pcrstore')}",
                    n_images=report.n_images,
                    options=dict(self.options),
                    report=name,
                ),
            ),
            quality=_measured(self._quality),
        )

    def _put(self, extra: Extra) -> None:
        self.store.put(extra.name, extra.data)
        if extra.is_checked:
            self._checked.append(
                Checked(name=extra.name, n_bytes=len(extra.data), checksum=crc32c(extra.data))
            )

    def _report(self) -> Report:
        quality = _measured(self._quality)
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
            ms_ssim=quality[0].mean if quality else (),
            n_measured=len(self._quality),
            problems=tuple(sorted(self._problems, key=lambda p: p.key)),
        )


def _measured(values: Sequence[tuple[float, ...]]) -> tuple[Measurement, ...]:
    """Return the measurement of MS-SSIM at fidelity 1..G of some images; () of none."""
    if not values:
        return ()
    q = np.array(values)
    n = len(q)
    mean = q.mean(axis=0)
    # One image says nothing of the spread: its interval is itself.
    margin = _NORMAL_95 * q.std(axis=0, ddof=min(1, n - 1)) / np.sqrt(n)
    return (
        Measurement(
            metric=MS_SSIM,
            n_images=n,
            mean=_rounded(mean),
            low=_rounded(np.maximum(mean - margin, -1)),
            high=_rounded(np.minimum(mean + margin, 1)),
            percentiles={str(p): _rounded(np.percentile(q, p, axis=0)) for p in _PERCENTILES},
        ),
    )


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.round(values, 6).tolist())
