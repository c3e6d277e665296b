"""Check every stored byte of a dataset against its checksums.

    manifest ──▶ parts (directory, every page) ──▶ every record: header, cells, restore blobs
        └─▶ objects that are checked whole (report, Zarr metadata and side arrays)

Sizes in the store's listing must be those that the index implies, so that bytes can be neither cut
off nor added where no record would read them. One fault does not hide the next.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from pcrstore.core import ByteRange, coalesce, crc32c, runs_of
from pcrstore.cost import DEFAULT_COST
from pcrstore.dataset import IndexReader, Part, WantedCells, list_versions, read_manifest
from pcrstore.errors import (
    AccessDeniedError,
    FormatError,
    NotFoundError,
    PcrstoreError,
    StoreError,
    TransientStoreError,
)
from pcrstore.format import (
    FOLDERS,
    HEADERS,
    LATEST,
    Manifest,
    ObjectPlacement,
    array_name,
    chunk_ranges,
    decode_directory,
    decode_latest,
    decode_part,
    manifest_name,
    zarr_group_name,
)
from pcrstore.storage import Engine, ReadableStore, store_of

__all__ = ["Fault", "VerifyReport", "verify"]

_BATCH_BYTES: Final = 32 * 2**20
"""Size of the records whose headers are read at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An object, or a part of one, that is not as it was written.

    The failures that tests put into a store are `pcrstore.testing.Fault`.
    """

    name: str
    """Name of the object."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """Counts of everything checked, and the faults found."""

    versions: tuple[int, ...]
    n_objects: int
    n_images: int
    n_bytes: int
    """Number of bytes read."""
    faults: tuple[Fault, ...]
    unreferenced: tuple[str, ...] = ()
    """Objects in a dataset's folders that no version names: of an unfinished conversion, or of one
    that lost a race. They are no fault. Empty where there are faults: a damaged version may name
    objects that cannot be known."""
    unreferenced_bytes: int = 0


def verify(
    url: str | os.PathLike[str] | ReadableStore,
    storage_options: Mapping[str, object] | None = None,
    *,
    engine: Engine = "auto",
    progress: Callable[[int], None] | None = None,
) -> VerifyReport:
    """Read and check all versions of a dataset.

    Args:
        url: URL of the dataset, or a store of one's own.
        storage_options: fsspec storage options of the URL.
        engine: As for `open_dataset`.
        progress: Called with the number of images checked since the last call.

    Raises:
        NotFoundError: There is no dataset.
        StoreError: The store cannot be reached.
    """
    return _Check(store_of(url, storage_options, engine=engine), progress).run()


class _Check:
    def __init__(self, store: ReadableStore, progress: Callable[[int], None] | None) -> None:
        self._store = store
        self._progress = progress or (lambda _: None)
        self._sizes = {e.name: e.n_bytes for e in store.list("")}
        self._faults: list[Fault] = []
        self._seen: set[str] = set()
        self._n_images = 0
        self._n_bytes = 0

    def run(self) -> VerifyReport:
        found = list_versions(self._store)
        hinted = self._hint(found)
        if not found and not hinted:
            raise NotFoundError(f"{self._store.url}: no pcrstore dataset there (no manifest)")
        for version in found:
            name = manifest_name(version)
            self._seen.add(name)
            try:
                manifest = read_manifest(self._store, version)
            except (FormatError, NotFoundError) as e:
                self._fault(name, e)
                continue
            self._n_bytes += self._sizes.get(name, 0)
            self._version(manifest)
        unreferenced = () if self._faults else self._unreferenced()
        return VerifyReport(
            versions=tuple(found),
            n_objects=len(self._seen),
            n_images=self._n_images,
            n_bytes=self._n_bytes,
            faults=tuple(self._faults),
            unreferenced=unreferenced,
            unreferenced_bytes=sum(self._sizes[name] for name in unreferenced),
        )

    def _unreferenced(self) -> tuple[str, ...]:
        ours = [n for n in self._sizes if n.partition("/")[0] in FOLDERS]
        return tuple(sorted(set(ours) - self._seen))

    def _fault(self, name: str, error: PcrstoreError | str) -> None:
        self._faults.append(Fault(name=name, message=str(error)))

    def _hint(self, found: list[int]) -> bool:
        """Check the hint of the newest version; return False if there is none."""
        if LATEST not in self._sizes:
            return False
        self._seen.add(LATEST)
        try:
            hint = decode_latest(self._store.get(LATEST, max_bytes=64), where=LATEST)
        except FormatError as e:
            self._fault(LATEST, e)
            return True
        if hint not in found:
            self._fault(LATEST, f"names version {hint}, whose manifest is gone")
        return True

    def _version(self, m: Manifest) -> None:
        for c in m.checked:
            data = self._whole(c.name, c.n_bytes)
            if data is not None and crc32c(data) != c.checksum:
                self._fault(
                    c.name,
                    f"fails its checksum (expected {c.checksum:08x}, got {crc32c(data):08x})",
                )
        if m.layout == "zarr":
            self._chunks(m)  # first: reading records must know of chunks cut short
        index = IndexReader(self._store, m, DEFAULT_COST)
        for number, entry in enumerate(m.parts):
            data = self._whole(entry.name, entry.n_bytes)
            if data is None:
                continue
            try:
                head = data[: entry.head.n_bytes]
                directory = decode_directory(
                    head, entry, layout=m.layout, n_groups=m.n_groups, columns=m.columns
                )
                decode_part(data, directory, m.columns)
                part = index.parts([number])[0]
            except FormatError as e:
                self._fault(entry.name, e)
                continue
            self._objects(m, part)
            sizes = part.records["length"].sum(axis=1, dtype=np.int64).tolist()
            for batch in runs_of(sizes, _BATCH_BYTES):
                self._records(index, m, number, part=part, batch=batch, encoded=data)

    def _whole(self, name: str, n_bytes: int) -> bytes | None:
        """Read an object; None when it was read before, is missing or has another size."""
        if name in self._seen:
            return None
        self._seen.add(name)
        if not self._sized(name, n_bytes):
            return None
        self._n_bytes += n_bytes
        return self._store.get(name, max_bytes=n_bytes)

    def _sized(self, name: str, n_bytes: int) -> bool:
        if name not in self._sizes:
            self._fault(name, "is missing")
        elif self._sizes[name] != n_bytes:
            self._fault(name, f"must have {n_bytes} bytes, got {self._sizes[name]}")
        return self._sizes.get(name) == n_bytes

    def _objects(self, m: Manifest, part: Part) -> None:
        """Check that the records of each object cover all of it."""
        if m.layout != "record":
            return
        for i, entry in enumerate(part.directory.objects):
            self._seen.add(entry.name)
            self._sized(entry.name, entry.n_bytes)
            rows = np.flatnonzero(part.records["object"] == i)
            at = int(part.records["start"][rows[0], 0]) if len(rows) else 0
            for r in rows.tolist():
                placed = part.placement(r, m.chunk_bytes)
                if isinstance(placed, ObjectPlacement):
                    if placed.start != at:
                        self._fault(entry.name, f"bytes {at}..{placed.start} belong to no record")
                    at = placed.start + placed.header_bytes + sum(placed.lengths)

    def _records(
        self,
        index: IndexReader,
        m: Manifest,
        number: int,
        *,
        part: Part,
        batch: range,
        encoded: bytes,
    ) -> None:
        """Check records: the header against the index's copy, every cell, every restore blob."""
        try:
            headers = index.headers([(number, r) for r in batch])
            wants = [
                WantedCells(
                    record=part.first_record + r,
                    placement=part.placement(r, m.chunk_bytes),
                    header=h,
                    images=tuple(range(h.n_images)),
                    fidelities=(m.n_groups,) * h.n_images,
                    restore=index.restore_rows(number, r),
                )
                for r, h in zip(batch, headers, strict=True)
            ]
        except FormatError as e:
            self._fault(part.entry.name, e)
            return
        base = part.directory.blocks[HEADERS].pages[0].start
        for r, want in zip(batch, wants, strict=True):
            try:
                ranges = want.ranges()
                if isinstance(want.placement, ObjectPlacement):
                    ranges = [*want.placement.prefix(0), *ranges]
                parts = self._read(ranges)
                if isinstance(want.placement, ObjectPlacement):
                    copy = encoded[base + part.header_edges[r] : base + part.header_edges[r + 1]]
                    if parts.pop(0) != copy:
                        self._fault(
                            want.placement.name,
                            f"header of record {want.placement.ordinal} differs from the index's",
                        )
                for _ in want.checked(parts):
                    pass
            except (FormatError, StoreError) as e:
                if isinstance(e, StoreError) and self._is_unreachable(want.placement.name, e):
                    raise
                self._fault(want.placement.name, e)
            self._n_images += len(want.images)
            self._progress(len(want.images))

    def _is_unreachable(self, name: str, e: StoreError) -> bool:
        """Return True if the store failed, False if an object is gone or cut short: a fault."""
        known = any(f.name == name or f.name.startswith(f"{name}/") for f in self._faults)
        failing = isinstance(e, (TransientStoreError, AccessDeniedError))
        return failing or not (known or isinstance(e, NotFoundError))

    def _read(self, ranges: list[ByteRange]) -> list[bytes]:
        """Read a record's ranges by one request per object: they lie side by side there."""
        merged = coalesce(ranges, max_gap=sys.maxsize, max_size=sys.maxsize)
        bodies = self._store.get_ranges([r.range for r in merged.requests])
        self._n_bytes += sum(map(len, bodies))
        return merged.split(bodies)

    def _chunks(self, m: Manifest) -> None:
        """Check the size of every chunk, and that the last of each array is zeros at its end."""
        lengths = (*m.totals.groups, m.totals.restore)
        for g, (n, size) in enumerate(zip(lengths, m.chunk_bytes, strict=True)):
            array = f"{zarr_group_name(m.conversion)}/{array_name(g, m.n_groups)}"
            for r in chunk_ranges(array, 0, n, size):
                self._seen.add(r.name)
                if self._sized(r.name, size) and r.stop < size:
                    rest = self._store.get_ranges([ByteRange(r.name, r.stop, size)])[0]
                    self._n_bytes += len(rest)
                    if any(rest):
                        self._fault(r.name, f"bytes {r.stop}..{size} must be zero")
