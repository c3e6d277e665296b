"""Sums over the parts of a version, and the places of its records: what no part shows alone.

Pure: parts in, sentences out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pcrstore.format import Directory, Manifest, Rows, Run, header_edges

__all__ = ["VersionTally"]


@dataclass(slots=True)
class _Stretches:
    """Bytes of one run that the records of a version take."""

    run: Run
    unused: int = 0
    starts: list[NDArray[np.int64]] = field(default_factory=list)
    stops: list[NDArray[np.int64]] = field(default_factory=list)

    def fault(self) -> str | None:
        """Return what is wrong with them; None where they cover the run but for `unused`.

        In a run of 100 bytes, stretches 10..40 and 40..90 leave 0..10 and 90..100: 20 bytes.
        """
        starts, stops = (
            np.concatenate([np.zeros(0, np.int64), *some]) for some in (self.starts, self.stops)
        )
        order = np.argsort(starts, kind="stable")
        starts, stops = starts[order], stops[order]
        overlap = np.flatnonzero(starts[1:] < stops[:-1])
        if len(overlap):
            return f"byte {starts[1:][overlap[0]]} belongs to two records"
        begins = np.concatenate(([0], stops))
        ends = np.concatenate((starts, [self.run.n_bytes]))
        if int((ends - begins).sum()) == self.unused:
            return None
        first = np.flatnonzero(ends > begins)
        at = f", the first {begins[first[0]]}..{ends[first[0]]}" if len(first) else ""
        return f"bytes of no record must be {self.unused}, got {int((ends - begins).sum())}{at}"


@dataclass(slots=True)
class VersionTally:
    """The parts of one version."""

    manifest: Manifest
    _runs: dict[str, _Stretches] = field(default_factory=dict)
    _sources: int = 0
    _headers: int = 0
    _regions: NDArray[np.int64] = field(init=False)
    _uids: dict[str, int] = field(default_factory=dict)
    """Number of each uid, in order of first use."""
    _places: list[NDArray[np.uint64]] = field(default_factory=list)
    """Number of the uid * 2^32 + ordinal of the records of each part."""
    _faults: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._regions = np.zeros(self.manifest.n_groups + 1, np.int64)

    def add(self, directory: Directory, rows: Rows) -> None:
        """Take a part, whose records lie inside their runs."""
        records, runs = rows.records, directory.runs
        lengths = records["length"].astype(np.int64)
        self._sources += sum(np.asarray(rows.columns["source_bytes"]).tolist())
        self._regions += lengths.sum(axis=0)
        if directory.layout == "record":
            headers = np.diff(header_edges(records, directory.n_groups))
            self._headers += int(headers.sum())
            lengths = (headers + lengths.sum(axis=1))[:, None]
        self._add_stretches(directory, records, lengths)
        uids = [self._uids.setdefault(run.uid, len(self._uids)) for run in runs]
        of_record = np.array(uids, np.uint64)[records["object"][:, 0]]
        self._places.append((of_record << np.uint64(32)) + records["ordinal"])

    def _add_stretches(
        self, directory: Directory, records: NDArray[np.void], lengths: NDArray[np.int64]
    ) -> None:
        """Take the stretches of a part, (R,) or (R, G + 1), sorted by their runs."""
        numbers, starts = records["object"].ravel(), records["start"].astype(np.int64).ravel()
        stops = starts + lengths.ravel()
        order = np.argsort(numbers, kind="stable")
        order = order[stops[order] > starts[order]]
        edges = np.searchsorted(numbers[order], np.arange(len(directory.runs) + 1)).tolist()
        for run, (a, b) in zip(directory.runs, pairwise(edges), strict=True):
            known = self._runs.setdefault(run.name, _Stretches(run))
            if (run.uid, run.n_bytes, run.chunk) != (
                known.run.uid,
                known.run.n_bytes,
                known.run.chunk,
            ):
                self._faults.append((directory.entry.name, f"says of {run.name} what others deny"))
            known.unused = max(known.unused, run.unused)
            known.starts.append(starts[order[a:b]])
            known.stops.append(stops[order[a:b]])

    def faults(self, manifest_name: str) -> Iterator[tuple[str, str]]:
        """Yield names of objects and what is wrong with them, once every part was taken."""
        yield from self._faults
        for name, stretches in self._runs.items():
            fault = stretches.fault()
            if fault is not None:
                yield name, fault
        places, counts = np.unique(
            np.concatenate([np.zeros(0, np.uint64), *self._places]), return_counts=True
        )
        for place in places[counts > 1][:1].tolist():
            uid = [*self._uids][place >> 32]
            yield manifest_name, f"two records have uid {uid} and ordinal {place & 0xFFFFFFFF}"
        *groups, restore = self._regions.tolist()
        totals = self.manifest.totals
        for what, expected, got in (
            ("sources", self._sources, totals.sources),
            ("groups", groups, [*totals.groups]),
            ("headers", self._headers, totals.headers),
            ("restore", restore, totals.restore),
        ):
            if got != expected:
                yield manifest_name, f"bytes.{what} must be {expected}, got {got}"
