"""The report of a conversion, as `convert` returns it and as it is stored beside the dataset."""

import json
from dataclasses import dataclass
from typing import Annotated, Final, NamedTuple

from pcrstore.core import (
    UID_BYTES,
    Count,
    Hex,
    crc32c,
    from_json,
    longest,
    parse_object,
    to_json,
    within,
)
from pcrstore.errors import FormatError
from pcrstore.format import Manifest, report_name
from pcrstore.jpeg import MAX_GROUPS
from pcrstore.storage import ReadableStore

__all__ = ["MsSsims", "Problem", "Report", "RestoreTotals", "read_report"]

MsSsims = Annotated[tuple[Annotated[float, within(-1, 1)], ...], longest(MAX_GROUPS)]
"""MS-SSIM at fidelity 1..G."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A source file that could not be transcoded losslessly, and the outcome."""

    key: str
    reason: Annotated[str, longest(65_536)]
    outcome: str
    """`refused` (policy raise), `skipped`, `opaque` or `encoded`."""


class RestoreTotals(NamedTuple):
    """Images whose originals are restored in the same way, and the bytes for it."""

    n_images: Count
    n_bytes: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Counts, sizes and problems of a conversion. All sizes in bytes."""

    conversion: Annotated[str, Hex(UID_BYTES)]
    version: Annotated[int, within(1)]
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
    group_bytes: Annotated[tuple[Count, ...], longest(MAX_GROUPS)]
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
    problems: Annotated[tuple[Problem, ...], longest(10**8)]
    """Files that could not be transcoded losslessly, with reason and outcome."""
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
        kept = {name: value for name, value in to_json(self).items() if name not in _OF_THIS_RUN}
        return json.dumps(kept, sort_keys=True, indent=1).encode()


_OF_THIS_RUN: Final = frozenset({"already", "n_resumed", "seconds"})
"""Fields that describe the run and not its result."""


def read_report(store: ReadableStore, manifest: Manifest) -> Report:
    """Read the report of the conversion that made a version.

    Raises:
        FormatError: Damaged, or not there.
    """
    name = report_name(manifest.conversion)
    entry = next((c for c in manifest.checked if c.name == name), None)
    if entry is None:
        raise FormatError(f"{store.url}: the manifest names no report")
    data = store.get(name, max_bytes=entry.n_bytes)
    if len(data) != entry.n_bytes or crc32c(data) != entry.checksum:
        raise FormatError(f"{store.url}: {name} fails its checksum")
    return from_json(Report, parse_object(data, where=name), where=name)
