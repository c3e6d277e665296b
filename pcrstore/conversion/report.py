"""The report of a conversion, as `convert` returns it and as it is stored beside the dataset."""

import json
from dataclasses import asdict, dataclass, replace

from pcrstore.core import crc32c, parse_json
from pcrstore.errors import FormatError
from pcrstore.format import Manifest, report_name
from pcrstore.storage import ReadableStore

__all__ = ["Problem", "Report", "read_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A source file that could not be transcoded losslessly, and the outcome."""

    key: str
    reason: str
    outcome: str
    """`refused` (policy raise), `skipped`, `opaque` or `encoded`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a conversion did. All sizes in bytes."""

    conversion: str
    version: int
    layout: str
    script: str
    n_files: int
    """Files looked at."""
    n_hidden: int
    """Hidden files left out."""
    n_images: int
    n_records: int
    n_objects: int
    """Objects that hold scan groups."""
    source_bytes: int
    """Of the images converted."""
    group_bytes: tuple[int, ...]
    """Each scan group over all images. (G,)"""
    header_bytes: int
    restore_bytes: int
    index_bytes: int
    """Index parts, and a zarr layout's side arrays."""
    restore_kinds: dict[str, tuple[int, int]]
    """Images and bytes by how their original comes back."""
    ms_ssim: tuple[float, ...]
    """Mean at fidelity 1..G on `n_measured` images."""
    n_measured: int
    problems: tuple[Problem, ...]
    """Files that could not be transcoded losslessly, with reason and outcome."""
    already: bool = False
    """Whether the destination held this very conversion before."""
    n_resumed: int = 0
    """Images that an earlier, interrupted run had done."""
    seconds: float = 0.0

    @property
    def stored_bytes(self) -> int:
        """Everything a reader may need but the restore regions."""
        return sum(self.group_bytes) + self.header_bytes + self.index_bytes

    def encode(self) -> bytes:
        """Return the report as it is stored: what happened in this run alone is left out."""
        kept = asdict(replace(self, already=False, n_resumed=0, seconds=0.0))
        for name in ("already", "n_resumed", "seconds"):
            del kept[name]
        return json.dumps(kept, sort_keys=True, indent=1).encode()


def read_report(store: ReadableStore, manifest: Manifest) -> Report:
    """Read the report of the conversion that made a version.

    Raises:
        FormatError: Damaged, or not there.
    """
    name = report_name(manifest.conversion)
    entry = next((c for c in manifest.checked if c.name == name), None)
    if entry is None:
        raise FormatError(f"{store.url}: the manifest names no report")
    data = store.get(name)
    if len(data) != entry.n_bytes or crc32c(data) != entry.checksum:
        raise FormatError(f"{store.url}: {name} fails its checksum")
    f = parse_json(data, where=name)
    kinds = f.object("restore_kinds")
    return Report(
        conversion=f.string("conversion"),
        version=f.integer("version", 1),
        layout=f.string("layout"),
        script=f.string("script"),
        n_files=f.integer("n_files", 0),
        n_hidden=f.integer("n_hidden", 0),
        n_images=f.integer("n_images", 0),
        n_records=f.integer("n_records", 0),
        n_objects=f.integer("n_objects", 0),
        source_bytes=f.integer("source_bytes", 0),
        group_bytes=f.integers("group_bytes", max_items=16),
        header_bytes=f.integer("header_bytes", 0),
        restore_bytes=f.integer("restore_bytes", 0),
        index_bytes=f.integer("index_bytes", 0),
        restore_kinds={
            k: (kinds.integers(k, max_items=2)[0], kinds.integers(k, max_items=2)[1])
            for k in kinds.names()
        },
        ms_ssim=f.numbers("ms_ssim", max_items=16, low=-1.0, high=1.0),
        n_measured=f.integer("n_measured", 0),
        problems=tuple(
            Problem(
                key=p.string("key"),
                reason=p.string("reason", max_length=65_536),
                outcome=p.string("outcome"),
            )
            for p in f.objects("problems", max_items=10**8)
        ),
    )
