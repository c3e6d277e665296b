"""Check a dataset: every stored byte against its checksums, every rule of FORMAT.md.

    manifest ──▶ parts (directory, every page) ──▶ every record: header, cells, restore blobs
        │          ├─▶ rules between columns, headers and cells          `rules`
        │          ├─▶ Zarr metadata and side arrays against the index   `zarr_check`
        │          └─▶ totals, and the places of records                 `tally`
        └─▶ objects that are checked whole (report, Zarr metadata and side arrays)

Sizes in the store's listing must be those that the index implies, so that bytes can be neither cut
off nor added where no record would read them. One fault does not hide the next. What several
versions have in common is read once.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pcrstore.core import ByteRange, coalesce, crc32c
from pcrstore.cost import DEFAULT_COST
from pcrstore.dataset import IndexReader, Part, WantedCells, list_versions
from pcrstore.errors import (
    AccessDeniedError,
    ChecksumError,
    FormatError,
    NotFoundError,
    PcrstoreError,
    StoreError,
    TransientStoreError,
)
from pcrstore.format import (
    CODECS,
    COLUMNS,
    FOLDERS,
    LATEST,
    MAX_LATEST,
    MAX_MANIFEST,
    ROOT_JSON,
    ROOTS,
    Checked,
    Directory,
    Header,
    Manifest,
    PartEntry,
    Rows,
    Run,
    chunk_ranges,
    decode_directory,
    decode_latest,
    decode_manifest,
    decode_part,
    manifest_name,
)
from pcrstore.maintenance.rules import (
    image_fault,
    json_fault,
    manifest_faults,
    part_faults,
    part_headers,
)
from pcrstore.maintenance.tally import VersionTally
from pcrstore.maintenance.zarr_check import ZarrGroup, groups_of
from pcrstore.storage import Engine, ReadableStore, store_of

__all__ = ["Fault", "VerifyReport", "verify"]

_BEFORE_DIRECTORY: Final = 12
"""Bytes of an index part before its directory."""


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
    """One run over a store.

    Args:
        store: The store of the dataset.
        progress: Called with the number of images checked since the last call.
    """

    def __init__(self, store: ReadableStore, progress: Callable[[int], None] | None) -> None:
        self._store = store
        self._progress = progress or (lambda _: None)
        self._sizes = {e.name: e.n_bytes for e in store.list("")}
        self._faults: dict[Fault, None] = {}
        """In order, each once."""
        self._bad: set[str] = set()
        """Names of objects with a fault."""
        self._seen: set[str] = set()
        self._checked: set[Checked] = set()
        self._runs: set[tuple[str, int, int | None]] = set()
        self._groups: dict[tuple[tuple[Run, ...], tuple[Checked, ...]], ZarrGroup] = {}
        """By their arrays, and by what a manifest says of their objects."""
        self._read_parts: set[PartEntry] = set()
        """Parts whose records were read."""
        self._n_images = 0
        self._n_bytes = 0

    def run(self) -> VerifyReport:
        """Check every version, the newest first."""
        found = list_versions(self._store)
        hinted = self._hint(found)
        if not found and not hinted:
            raise NotFoundError(f"{self._store.url}: no pcrstore dataset there (no manifest)")
        for version in found:
            name = manifest_name(version)
            self._seen.add(name)
            try:
                manifest = self._manifest(name, version)
            except (FormatError, NotFoundError) as e:
                self._fault(name, e)
                continue
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
        self._bad.add(name)
        self._faults[Fault(name=name, message=str(error))] = None

    def _hint(self, found: list[int]) -> bool:
        """Check the hint of the newest version; return False if there is none."""
        if LATEST not in self._sizes:
            return False
        self._seen.add(LATEST)
        try:
            hint = decode_latest(self._store.get(LATEST, max_bytes=MAX_LATEST), where=LATEST)
        except FormatError as e:
            self._fault(LATEST, e)
            return True
        if hint not in found:
            self._fault(LATEST, f"names version {hint}, whose manifest is gone")
        return True

    def _manifest(self, name: str, version: int) -> Manifest:
        """Read a manifest, a second time where it comes damaged."""
        data = self._store.get(name, max_bytes=MAX_MANIFEST)
        try:
            m = decode_manifest(data, version=version, where=name)
        except ChecksumError:
            data = self._store.get(name, max_bytes=MAX_MANIFEST)
            m = decode_manifest(data, version=version, where=name)
        self._n_bytes += len(data)
        wrong = json_fault(data.partition(b"\n")[2])
        if wrong is not None:
            self._fault(name, wrong)
        return m

    def _version(self, m: Manifest) -> None:
        name = manifest_name(m.version)
        for message in manifest_faults(m):
            self._fault(name, message)
        for c in m.checked:
            self._whole(c)
        for root in ROOTS if m.layout == "zarr" else ():
            size, checksum = len(ROOT_JSON), crc32c(ROOT_JSON)
            if Checked(name=root, n_bytes=size, checksum=checksum) not in m.checked:
                self._fault(root, f"must be {ROOT_JSON.decode()}, and checked by the manifest")
        index = IndexReader(self._store, m, DEFAULT_COST)
        tally = VersionTally(m)
        found = [self._part(m, index, number, tally) for number in range(len(m.parts))]
        if all(found):  # otherwise sums say nothing
            for place, message in tally.faults(name):
                self._fault(place, message)

    def _whole(self, c: Checked) -> None:
        """Check an object that is read whole."""
        if c not in self._checked and self._sized(c.name, c.n_bytes):
            try:
                self._get(c)
            except FormatError as e:
                self._fault(c.name, e)
        self._checked.add(c)
        self._seen.add(c.name)

    def _get(self, c: Checked) -> bytes:
        data = self._store.get(c.name, max_bytes=c.n_bytes)
        self._n_bytes += len(data)
        if (len(data), crc32c(data)) != (c.n_bytes, c.checksum):
            raise ChecksumError(
                f"{c.name} fails its checksum (expected {c.n_bytes} bytes with {c.checksum:08x}, "
                f"got {len(data)} with {crc32c(data):08x})"
            )
        return data

    def _sized(self, name: str, n_bytes: int) -> bool:
        if name not in self._sizes:
            self._fault(name, "is missing")
        elif self._sizes[name] != n_bytes:
            self._fault(name, f"must have {n_bytes} bytes, got {self._sizes[name]}")
        return self._sizes.get(name) == n_bytes

    def _part(self, m: Manifest, index: IndexReader, number: int, tally: VersionTally) -> bool:
        """Check an index part and all that it names; return False where it cannot be read."""
        entry = m.parts[number]
        self._seen.add(entry.name)
        if not self._sized(entry.name, entry.n_bytes):
            return False
        try:
            directory, rows = self._rows(m, entry)
            [part] = index.parts([number])
            headers = part_headers(directory, rows)
            for message in part_faults(m, directory, rows, headers):
                self._fault(entry.name, message)
        except FormatError as e:
            self._fault(entry.name, e)
            return False
        tally.add(directory, rows)
        for run in directory.runs:
            self._run(run)
        if m.layout == "zarr":
            self._zarr(m, part, rows, headers)
        if entry not in self._read_parts:
            self._read_parts.add(entry)
            self._records(m, part, rows, headers)
        return True

    def _rows(self, m: Manifest, entry: PartEntry) -> tuple[Directory, Rows]:
        """Return an index part, every page checked.

        Raises:
            FormatError: It is damaged, or of a later version of the format.
        """
        data = self._store.get(entry.name, max_bytes=entry.n_bytes)
        self._n_bytes += len(data)
        head = data[: entry.head.n_bytes]
        directory = decode_directory(
            head, entry, layout=m.layout, n_groups=m.n_groups, columns=m.columns
        )
        wrong = json_fault(head[_BEFORE_DIRECTORY:])
        if wrong is not None:
            self._fault(entry.name, wrong)
        # A column of a later version is named as a fault, and all else is checked; without those
        # that every part has nothing can be.
        found = directory.columns
        known = [
            c
            for c in m.columns
            if c in COLUMNS
            or (c.is_known and (c.name not in found or found[c.name].codec in CODECS))
        ]
        return directory, decode_part(data, directory, known)

    def _run(self, run: Run) -> None:
        """Check the length of an object, or of every chunk of an array, and zeros at its end."""
        key = run.name, run.n_bytes, run.chunk
        if key in self._runs:
            return
        self._runs.add(key)
        if run.chunk is None:
            self._seen.add(run.name)
            self._sized(run.name, run.n_bytes)
            return
        n_chunks = -(-run.n_bytes // run.chunk)
        if n_chunks > len(self._sizes):  # before anything is made for each of them
            self._fault(run.name, f"must have {n_chunks} chunks; {len(self._sizes)} objects exist")
            return
        for r in chunk_ranges(run.name, 0, run.n_bytes, run.chunk):
            self._seen.add(r.name)
            if self._sized(r.name, run.chunk) and r.stop < run.chunk:
                [rest] = self._store.get_ranges([ByteRange(r.name, r.stop, run.chunk)])
                self._n_bytes += len(rest)
                if any(rest):
                    self._fault(r.name, f"bytes {r.stop}..{run.chunk} must be zero")

    def _zarr(self, m: Manifest, part: Part, rows: Rows, headers: Sequence[Header]) -> None:
        """Check the Zarr groups that hold a part's records against the index."""
        checked = {c.name: c for c in m.checked}

        def read(name: str) -> bytes:
            if name not in checked:
                raise FormatError(f"{name} must be checked by the manifest")
            if self._sizes.get(name) != checked[name].n_bytes:
                raise FormatError(f"{name} cannot be read")
            return self._get(checked[name])

        try:
            for runs, records in groups_of(part.directory, rows):
                folder = part.placement(int(records[0])).name
                objects = tuple(c for c in m.checked if c.name.startswith(f"{folder}/"))
                group = self._groups.get((runs, objects))
                if group is None:
                    group = self._groups[runs, objects] = ZarrGroup(runs, m, read)
                    for name, message in group.faults():
                        self._fault(name, message)
                of_group = {r: headers[r] for r in records.tolist()}
                for name, message in group.record_faults(m, part.directory, rows, of_group):
                    self._fault(name, message)
        except FormatError as e:
            self._fault(part.entry.name, e)

    def _records(self, m: Manifest, part: Part, rows: Rows, headers: Sequence[Header]) -> None:
        """Check records: the header against the index's copy, every cell, every restore blob."""
        forms, widths, heights = (
            np.asarray(rows.columns[c]).tolist() for c in ("format", "width", "height")
        )
        for r, header in enumerate(headers):
            first, stop = part.image_edges[r : r + 2].tolist()
            want = WantedCells(
                record=part.first_record + r,
                placement=part.placement(r),
                header=header,
                images=tuple(range(header.n_images)),
                fidelities=(m.n_groups,) * header.n_images,
                restore=rows.restore[first:stop],
            )
            name = want.placement.name
            ranges = want.ranges()
            if want.placement.has_header:
                ranges = [*want.placement.prefix(0), *ranges]
            try:
                bodies = self._read(ranges)
                if want.placement.has_header and bodies.pop(0) != rows.headers[r]:
                    self._fault(name, f"header of record {r} of {part.entry.name} differs")
                for i, image in enumerate(want.checked(bodies), first):
                    wrong = image_fault(
                        image.cells, image.restore, form=forms[i], size=(widths[i], heights[i])
                    )
                    if wrong is not None:
                        self._fault(name, f"image {i} of {part.entry.name} {wrong}")
            except FormatError as e:
                self._fault(name, e)
            except StoreError as e:
                if self._is_unreachable({r.name for r in ranges}, e):
                    raise
                self._fault(name, e)
            self._n_images += header.n_images
            self._progress(header.n_images)

    def _is_unreachable(self, names: set[str], e: StoreError) -> bool:
        """Return True if the store failed, False if an object is gone or cut short: a fault."""
        failing = isinstance(e, (TransientStoreError, AccessDeniedError))
        return failing or not (names & self._bad or isinstance(e, NotFoundError))

    def _read(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Read a record's ranges by one request per object: they lie side by side there."""
        merged = coalesce(ranges, max_gap=sys.maxsize, max_size=sys.maxsize)
        bodies = self._store.get_ranges([r.range for r in merged.requests])
        self._n_bytes += sum(map(len, bodies))
        return merged.split(bodies)
