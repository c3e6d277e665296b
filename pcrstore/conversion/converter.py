"""Convert a folder of images into a dataset: list, pack, build, store, commit.

    list ──▶ pack ──▶ build records (workers) ──▶ sink ──▶ put objects ──▶ note in the journal
                                                                │ all units
                     manifest (one conditional create) ◀── index parts ◀┘

Nothing is visible before the last step. Every unit that is stored is noted, so that a killed
conversion goes on where it stopped, to the same bytes. The source is never written to.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from pcrstore.concurrency import ordered_map, usable_cores
from pcrstore.conversion.journal import FinishedUnit, Journal
from pcrstore.conversion.manifest_builder import ManifestBuilder
from pcrstore.conversion.options import Options
from pcrstore.conversion.packing import Unit, pack, shuffled
from pcrstore.conversion.record_builder import BuiltRecord, RecordBuilder, RecordTask
from pcrstore.conversion.report import Report, read_report
from pcrstore.conversion.sources.folder import Listing, SourceFile, list_folder
from pcrstore.conversion.uploads import Uploads
from pcrstore.conversion.writers import ArrayWriter, RecordWriter
from pcrstore.core import UID_BYTES, record_seed
from pcrstore.dataset import commit, keep_hint, new_writer, newest_version, read_manifest
from pcrstore.errors import DatasetExistsError, OptionError, SourceError
from pcrstore.format import MAX_SPLITS, NO_LABEL, NO_SPLIT
from pcrstore.jpeg import Limits, Script, require
from pcrstore.storage import ReadableStore, Store, probe_conditional_create, store_of

__all__ = ["Progress", "convert"]

_log = logging.getLogger(__name__)

_MIN_CHUNK: Final = 2**20
_CHUNKS: Final = 300
"""A dataset in fewer chunks than this gets smaller ones: filling up the last chunk of each array
then costs about 1 % of it at most."""

_MIN_MEASURED: Final = 16
_MAX_MEASURED: Final = 256
"""Images whose MS-SSIM is measured: 2 % of them within these bounds. At 256 the mean's standard
error is below 0.002 on ImageNet."""


class Progress(Protocol):
    """Told how far a conversion is."""

    def begin(self, n_images: int, n_done: int) -> None:
        """Say how many files there are, and how many an earlier run has done."""

    def advance(self, n_images: int, n_bytes: int) -> None:
        """Say that some more files, of this many bytes, are done."""


class _Silent:
    def begin(self, n_images: int, n_done: int) -> None: ...

    def advance(self, n_images: int, n_bytes: int) -> None: ...


def convert(
    source: str | os.PathLike[str] | ReadableStore,
    destination: str | os.PathLike[str] | Store,
    options: Options | None = None,
    *,
    workers: int | None = None,
    source_options: Mapping[str, object] | None = None,
    destination_options: Mapping[str, object] | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Convert a class-per-folder tree into a dataset.

    Args:
        source: URL of the folder, or a store of one's own.
        destination: URL of the dataset, or a store of one's own; it need not exist.
        options: How; see `Options`.
        workers: Processes; None: one per core.
        source_options: fsspec storage options of the source.
        destination_options: Likewise of the destination.
        restart: Forget what an unfinished conversion from a source that changed since has done.
        progress: Told how far it is.

    Returns:
        What was converted, skipped and written. Running it again with the same arguments does
        nothing and returns a report with `already` set.

    Raises:
        SourceError: Policy `raise` met files that cannot be transcoded; nothing was committed.
        DatasetExistsError: The destination holds other content.
        SourceChangedError: The source changed since the unfinished conversion began.
        StoreError: A store failed; run it again to go on.
    """
    options = options or Options()
    require()
    if workers is not None and workers < 1:
        raise OptionError(f"workers must be at least 1, got {workers}")
    started = time.monotonic()
    store = store_of(destination, destination_options)
    version = newest_version(store)
    src, listing = list_folder(source, source_options, split_dirs=options.split_dirs)
    if len(listing.splits) > MAX_SPLITS:
        raise OptionError(
            f"at most {MAX_SPLITS} split folders expected, got {len(listing.splits)}; "
            "if they are classes, convert without split dirs"
        )
    if _place(store).startswith(_place(src)):
        raise OptionError(f"the destination {store.url} must not lie inside the source {src.url}")
    if listing.likely_splits and not options.split_dirs:
        _log.warning(
            "%s: %s become classes; if they are splits, convert with split_dirs=True, or "
            "--split-dirs on the command line",
            src.url,
            ", ".join(listing.likely_splits),
        )
    job = _Job(store=store, source=src, listing=listing, options=options)
    if version:
        report = job.already(version)
    else:
        _probe(store)
        report = job.run(workers or usable_cores(), restart=restart, progress=progress or _Silent())
    return replace(report, seconds=time.monotonic() - started)


def _place(store: ReadableStore) -> str:
    """Return where a store is, as text that the places of everything below it begin with."""
    path = store.url.removeprefix("file://")
    return (os.path.realpath(path) if store.is_local else path).rstrip("/") + "/"


def _probe(store: Store) -> None:
    is_near = store.is_local or not store.shared_by_processes
    if not is_near and not probe_conditional_create(store):
        _log.warning(
            "%s does not refuse to create an object twice: make sure nobody else writes there",
            store.url,
        )


class _Job:
    """One conversion, from its listing to its manifest."""

    def __init__(
        self, *, store: Store, source: ReadableStore, listing: Listing, options: Options
    ) -> None:
        self._store = store
        self._source = source
        self._listing = listing
        self._options = options
        self._script = options.parsed_script()
        self._arrays = options.layout == "zarr"
        how = json.dumps(options.describe(), sort_keys=True)
        self._content = _digest(how, listing.fingerprint)
        # The policy is not part of `content`: a rerun with another one reuses every unit in which
        # no file needs it.
        encode = f"encode{options.encode_quality}"
        self._policy = encode if options.policy == "encode" else options.policy
        self.conversion = _digest(self._content, self._policy)
        self._classes = _class_names(listing, options.classes)
        self._files = _packing_order(listing.files, options)
        self._units = pack(
            [f.n_bytes for f in self._files],
            record_bytes=options.record_bytes,
            record_images=options.record_images,
            object_bytes=options.object_bytes,
        )
        self._journal = Journal(
            store,
            options=_digest(how, source.url, self._policy if self._arrays else ""),
            content=self._content,
            layout=options.layout,
            n_groups=self._script.n_groups,
        )

    def already(self, version: int) -> Report:
        """Return the report of the version that is there, if it is this conversion's.

        Raises:
            DatasetExistsError: It is not.
        """
        manifest = read_manifest(self._store, version)
        if manifest.conversion != self.conversion:
            raise DatasetExistsError(
                f"{self._store.url} already holds version {version}, converted from other files "
                "or with other options; choose another destination"
            )
        keep_hint(self._store, version)  # a run may have been killed between its commit and these
        self._clean()
        return replace(read_report(self._store, manifest), already=True)

    def run(self, workers: int, *, restart: bool, progress: Progress) -> Report:
        """Convert what is not yet done, and commit."""
        known = self._journal.begin(self._listing, restart=restart)
        done = self._finished_before(known)
        n_done = sum(_n_files(u) for u in self._units if u.number in done)
        progress.begin(len(self._files), n_done)
        sink = None
        replay: frozenset[int] = frozenset()
        if self._arrays:
            sink, replay = self._open_arrays(done)
        finisher = self._finisher()
        refused: list[str] = []
        with contextlib.closing(
            self._convert_units(workers, done, replay, sink, progress)
        ) as finished:
            for unit in finished:
                refused.extend(
                    f"{_shown(p.key)}: {p.reason}" for p in unit.problems if p.outcome == "refused"
                )
                finisher.add(unit)
        if refused:
            raise SourceError(
                f"{len(refused)} of {len(self._files)} files cannot be converted losslessly; "
                "nothing was committed. Fix them, or choose what becomes of them: skip, opaque or "
                "encode (--on-error, Options.policy); what is done is kept:\n  "
                + "\n  ".join(sorted(refused))
            )
        committed = commit(self._store, finisher.finish(sink))
        self._clean()
        return replace(read_report(self._store, committed.manifest), n_resumed=n_done)

    def _clean(self) -> None:
        """Remove what runs that were killed left behind."""
        self._journal.remove()
        self._store.sweep()

    def _finisher(self) -> ManifestBuilder:
        return ManifestBuilder(
            store=self._store,
            conversion=self.conversion,
            script=self._script,
            layout=self._options.layout,
            classes=self._classes,
            splits=self._listing.splits,
            options={**self._options.describe(), "on_error": self._policy},
            n_hidden=self._listing.n_hidden,
            writer=new_writer(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _finished_before(self, known: frozenset[str]) -> dict[int, FinishedUnit]:
        """Return the units that an earlier run finished and this one can use."""
        done: dict[int, FinishedUnit] = {}
        stored = {e.name: e.n_bytes for e in self._store.list("objects")} if known else {}
        for unit in self._units:
            names = (self._journal.name(unit.number, v) for v in (self._policy, ""))
            name = next((n for n in names if n in known), None)
            found = self._journal.read(name) if name is not None else None
            entry = found.object if found is not None else None
            if entry is not None and stored.get(entry.name) != entry.n_bytes:
                found = None  # noted, and deleted since
            if found is not None:
                done[unit.number] = found
            elif self._arrays:
                break  # arrays grow in order: nothing after a hole has its place yet
        return done

    def _open_arrays(self, done: Mapping[int, FinishedUnit]) -> tuple[ArrayWriter, frozenset[int]]:
        """Return the sink, and the finished units to build again for its unstored tails."""
        n = self._script.n_groups + 1
        ends = [[0] * n]
        for unit in done.values():
            rows = unit.rows
            grown = [0] * n if rows is None else rows.records["length"].sum(axis=0).tolist()
            ends.append([a + b for a, b in zip(ends[-1], grown, strict=True)])
        n_bytes = sum(f.n_bytes for f in self._files)
        hold = n_bytes <= self._options.hold_bytes
        least = self._options.chunk_bytes if hold else max(_MIN_CHUNK, n_bytes // _CHUNKS)
        sink = ArrayWriter(
            n_groups=self._script.n_groups,
            name=f"zarr/{self.conversion}",
            chunk_bytes=min(self._options.chunk_bytes, least),
            hold=hold,
        )
        stored = sink.stored_of(ends[-1])
        first = len(done)
        while first > 0 and any(a > b for a, b in zip(ends[first], stored, strict=True)):
            first -= 1
        sink.resume(ends[first], ends[-1])
        return sink, frozenset(range(first, len(done)))

    def _convert_units(
        self,
        workers: int,
        done: Mapping[int, FinishedUnit],
        replay: frozenset[int],
        sink: ArrayWriter | None,
        progress: Progress,
    ) -> Generator[FinishedUnit, None, None]:
        """Yield every unit in order; all are stored and noted when the last was taken."""
        wanted = [u for u in self._units if u.number not in done or u.number in replay]
        again = {u.number for u in wanted}
        built = self._build(workers, wanted)
        uploads = Uploads(self._store, self._journal)
        storing = True
        try:
            for unit in self._units:
                if unit.number not in again:
                    yield done[unit.number]
                    continue
                records = []
                for span in unit.records:
                    records.append(next(built))
                    if unit.number not in done:
                        n_bytes = sum(f.n_bytes for f in self._files[span.start : span.stop])
                        progress.advance(span.stop - span.start, n_bytes)
                if sink is not None and unit.number in done:
                    for r in records:
                        sink.add(r)
                    sink.finish_unit()  # its full chunks are stored; what remains is the tail
                    yield done[unit.number]
                    continue
                refused = any(p.outcome == "refused" for r in records for p in r.problems)
                # Arrays have no place for what follows a refused unit; objects do.
                storing = storing and not (refused and sink is not None)
                if refused or not storing:
                    yield _looked_at(unit, records)
                    continue
                yield self._store_unit(unit, records, sink, uploads)
            uploads.wait()
        finally:
            built.close()
            uploads.close()

    def _store_unit(
        self, unit: Unit, records: Sequence[BuiltRecord], sink: ArrayWriter | None, uploads: Uploads
    ) -> FinishedUnit:
        finished = _looked_at(unit, records)
        variant = self._policy if finished.problems else ""
        if sink is None:
            name = f"objects/{self._content}-{unit.number:06d}{variant and '-' + variant}.pcr"
            taker = RecordWriter(n_groups=self._script.n_groups)
            for r in records:
                taker.add(r)
            stored = taker.finish_unit(name, self._object_uid(unit))
        else:
            for r in records:
                sink.add(r)
            stored = sink.finish_unit()
        finished = replace(finished, object=stored.object, rows=stored.rows)
        uploads.put(stored.objects, finished, variant)
        return finished

    def _object_uid(self, unit: Unit) -> bytes:
        return bytes.fromhex(_digest(self._content, f"object {unit.number}"))

    def _build(self, workers: int, units: Sequence[Unit]) -> Generator[BuiltRecord, None, None]:
        setting = _Setting(
            source=self._source,
            script=self._script,
            policy=self._options.policy,
            limits=self._options.limits,
            encode_quality=self._options.encode_quality,
            n_readers=1 if self._source.is_local else 8,
        )
        return ordered_map(
            _builder,
            setting,
            self._tasks(units),
            n_workers=workers,
            in_process=not self._source.shared_by_processes,
        )

    def _tasks(self, units: Sequence[Unit]) -> Iterator[RecordTask]:
        ids = {name: i for i, name in enumerate(self._classes)}
        splits = {name: i for i, name in enumerate(self._listing.splits)}
        measured = _measured(self._listing.files)
        first = {}
        n = 0
        for unit in self._units:
            first[unit.number] = n
            n += len(unit.records)
        for unit in units:
            base = first[unit.number] if self._arrays else 0
            uid = bytes.fromhex(self.conversion) if self._arrays else self._object_uid(unit)
            for ordinal, span in enumerate(unit.records, base):
                files = self._files[span.start : span.stop]
                yield RecordTask(
                    ordinal=ordinal,
                    seed=record_seed(uid, ordinal),
                    files=tuple(files),
                    labels=tuple(NO_LABEL if f.label is None else ids[f.label] for f in files),
                    splits=tuple(NO_SPLIT if f.split is None else splits[f.split] for f in files),
                    measured=tuple(f.key in measured for f in files),
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """What a worker needs to make its `RecordBuilder`."""

    source: ReadableStore
    script: Script
    policy: str
    limits: Limits
    encode_quality: int
    n_readers: int


def _builder(setting: _Setting) -> Callable[[RecordTask], BuiltRecord]:
    return RecordBuilder(
        source=setting.source,
        script=setting.script,
        policy=setting.policy,
        limits=setting.limits,
        encode_quality=setting.encode_quality,
        n_readers=setting.n_readers,
    ).build


def _looked_at(unit: Unit, records: Sequence[BuiltRecord]) -> FinishedUnit:
    return FinishedUnit(
        number=unit.number,
        object=None,
        rows=None,
        problems=tuple(p for r in records for p in r.problems),
        quality=tuple(q for r in records for q in r.quality),
        restore_bytes=_sum(r.restore_bytes for r in records),
        restore_images=_sum(r.restore_images for r in records),
    )


def _sum(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for table in tables:
        for key, value in table.items():
            out[key] = out.get(key, 0) + value
    return out


def _digest(*parts: str) -> str:
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=UID_BYTES).hexdigest()


def _shown(key: str) -> str:
    """Return a key on one line, whatever it holds."""
    return key if key.isprintable() else repr(key)


def _n_files(unit: Unit) -> int:
    return unit.records[-1].stop - unit.records[0].start


def _class_names(listing: Listing, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the class of each id: those given, then new ones in order of name."""
    found = {f.label for f in listing.files if f.label is not None}
    known = given or ()
    return (*known, *sorted(found - set(known)))


def _packing_order(files: Sequence[SourceFile], options: Options) -> list[SourceFile]:
    """Return the files in the order in which records hold them: each split by itself.

    A record of several splits would be read for the sake of a few of its images.
    """
    if not options.shuffle:
        return list(files)
    mixed = [files[i] for i in shuffled([f.key for f in files], seed=options.seed)]
    return sorted(mixed, key=lambda f: f.split or "")


def _measured(files: Sequence[SourceFile]) -> frozenset[str]:
    """Return the keys of the images to measure: the same few whatever the order and the options."""
    n = min(max(_MIN_MEASURED, len(files) // 50), _MAX_MEASURED)
    keys = [f.key for f in files]
    return frozenset(keys[i] for i in shuffled(keys, seed=0x7063)[:n])
