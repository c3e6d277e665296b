"""The report of a conversion, as `convert` returns it and as it is stored beside the dataset."""

import json
from dataclasses import dataclass, replace
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from pcrstore.core import Count, Uid, crc32c, decode_json
from pcrstore.errors import FormatError
from pcrstore.format import Manifest
from pcrstore.jpeg import MAX_GROUPS
from pcrstore.storage import ReadableStore

__all__ = ["MsSsims", "Problem", "Report", "RestoreTotals", "read_report"]

MsSsims = Annotated[tuple[Annotated[float, Meta(ge=-1, le=1)], ...], Meta(max_length=MAX_GROUPS)]
"""MS-SSIM at fidelity 1..G."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A source file that could not be transcoded losslessly, and the outcome."""

    key: str
    reason: str
    outcome: str
    """`refused` (policy raise), `skipped`, `opaque` or `encoded`."""


class RestoreTotals(NamedTuple):
    """Images whose originals are restored in the same way, and the bytes for it."""

    n_images: Count
    n_bytes: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts, sizes and problems of a conversion. All sizes in bytes."""

    conversion: Uid
    version: Annotated[int, Meta(ge=1)]
    layout: str
    script: str
    n_files: Count
    """Number of source files."""
    n_hidden: Count
    """Number of hidden files left out."""
    n_images: Count
    n_records: Count
    n_objects: Count
    """Number of objects, or of arrays, that hold scan groups."""
    source_bytes: Count
    """Source bytes of the images converted."""
    group_bytes: Annotated[tuple[Count, ...], Meta(max_length=MAX_GROUPS)]
    """Bytes of each scan group over all images. (G,)"""
    header_bytes: Count
    restore_bytes: Count
    index_bytes: Count
    """Bytes of index parts, and of a zarr layout's side arrays."""
    restore_kinds: dict[str, RestoreTotals]
    """Images and bytes by the way in which the original is restored: `whole`, `recoded` or `stored`
    (see `jpeg.Kind`), or `encoded`, the source file kept beside the JPEG that was made of it."""
    ms_ssim: MsSsims
    """Mean MS-SSIM at fidelity 1..G on `n_measured` images."""
    n_measured: Count
    problems: tuple[Problem, ...]
    """Files that could not be transcoded losslessly, with reason and outcome. Of millions, a
    stored report has the first."""
    already: bool = False
    """True if the destination held this very conversion before."""
    n_resumed: int = 0
    """Number of images that an earlier, interrupted run had done."""
    seconds: float = 0.0

    @property
    def stored_bytes(self) -> int:
        """Bytes of everything that readers read, without the restore regions."""
        return sum(self.group_bytes) + self.header_bytes + self.index_bytes

    def encode(self) -> bytes:
        """Return the report as it is stored, without the fields of this run alone."""
        table = msgspec.to_builtins(replace(self, problems=_fitting(self.problems)))
        kept = {name: value for name, value in table.items() if name not in _OF_THIS_RUN}
        return json.dumps(kept, sort_keys=True, indent=1).encode()


_OF_THIS_RUN: Final = frozenset({"already", "n_resumed", "seconds"})
"""Fields that describe the run and not its result."""


_PROBLEM_BYTES: Final = 2**25
"""Bytes of the problems that a stored report has: half of what a reader reads whole."""


def _fitting(problems: tuple[Problem, ...]) -> tuple[Problem, ...]:
    """Return the first problems, as many as a stored report has room for."""
    total = 0
    for i, p in enumerate(problems):
        total += 100 + len(json.dumps([p.key, p.reason]))
        if total > _PROBLEM_BYTES:
            return problems[:i]
    return problems


def read_report(store: ReadableStore, manifest: Manifest) -> Report:
    """Read the report of the last conversion that a version came from.

    Raises:
        FormatError: Damaged, or not there.
    """
    name = manifest.conversions[-1].report if manifest.conversions else None
    entry = next((c for c in manifest.checked if c.name == name), None)
    if name is None or entry is None:
        raise FormatError(f"{store.url}: the manifest names no report")
    data = store.get(name, max_bytes=entry.n_bytes)
    if len(data) != entry.n_bytes or crc32c(data) != entry.checksum:
        raise FormatError(f"{store.url}: {name} fails its checksum")
    return decode_json(data, Report, where=name)
