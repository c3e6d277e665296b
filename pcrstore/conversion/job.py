"""Run one conversion, from its listing to its manifest.

    listing ──pack──▶ units ──build (workers)──▶ records ──place──▶ objects ──put──▶ note in the
       │                                                                             journal
       └─ ids                     manifest (one conditional create) ◀── index parts ◀── all units

Nothing is visible before the last step. Every unit that is stored is noted, so that a killed
conversion can be resumed, to the same bytes.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Protocol

from pcrstore.concurrency import ordered_map
from pcrstore.conversion.array_writer import ArrayWriter
from pcrstore.conversion.ids import Ids, digest
from pcrstore.conversion.journal import FinishedUnit, Journal, Outcomes
from pcrstore.conversion.manifest_builder import ManifestBuilder
from pcrstore.conversion.measure import measured_keys
from pcrstore.conversion.options import Options
from pcrstore.conversion.packing import Unit, key_bytes, pack, packing_order
from pcrstore.conversion.record_builder import BuiltRecord, RecordBuilder, RecordTask
from pcrstore.conversion.record_writer import RecordWriter
from pcrstore.conversion.report import Report, read_report
from pcrstore.conversion.sources import Listing, Source
from pcrstore.conversion.texts import unicode_name
from pcrstore.conversion.uploads import Uploads
from pcrstore.conversion.writer import Resumed, Writer
from pcrstore.core import record_seed
from pcrstore.dataset import commit, new_writer_id, read_manifest, write_hint
from pcrstore.errors import DatasetExistsError, OptionError, SourceError
from pcrstore.format import MAX_CLASSES, MAX_NAME, NO_LABEL, NO_SPLIT, OBJECTS
from pcrstore.storage import Store

__all__ = ["Job", "Progress"]

_WORKER_DIED = (
    "a worker process died (out of memory, or killed); run the same again to go on from where it "
    "stopped, with fewer workers if memory is short"
)
_NO_WORKER_RAN = (
    "the worker processes died before they did anything: a script must call convert() under "
    '`if __name__ == "__main__":`, for each worker imports it; or pass workers=1'
)


class Progress(Protocol):
    """Receiver of the progress of a conversion."""

    def begin(self, n_images: int, n_done: int) -> None:
        """Take the number of files, and the number that an earlier run has done."""

    def advance(self, n_images: int, n_bytes: int) -> None:
        """Take the number of files that were done since the last call, and their bytes."""


class Job:
    """One conversion of a listed source into a store."""

    def __init__(self, *, store: Store, source: Source, listing: Listing, options: Options) -> None:
        self._store = store
        self._source = source
        self._listing = listing
        self._options = options
        self._script = options.parsed_script()
        self._ids = Ids.of(options, listing)
        self._classes = _class_names(listing, options.classes)
        self._splits = tuple(dict.fromkeys(map(unicode_name, listing.splits)))
        _check_names(self._classes, self._splits)
        self._files = packing_order(listing.files, shuffle=options.shuffle, seed=options.seed)
        sizes = [f.n_bytes for f in self._files]
        self._units = pack(
            sizes,
            keys=(key_bytes(unicode_name(f.key)) for f in self._files),
            record_bytes=options.record_bytes,
            record_images=options.record_images,
            object_bytes=options.object_bytes,
        )
        self._writer: Writer = (
            RecordWriter(self._ids)
            if options.layout == "record"
            else ArrayWriter.sized(
                self._ids,
                options,
                group_labels=self._script.labels,
                classes=self._classes,
                n_bytes=sum(sizes),
            )
        )
        self._journal = Journal(
            store,
            options=digest(self._ids.option_text, source.url, self._writer.scope),
            content=self._ids.content,
            layout=options.layout,
            n_groups=self._script.n_groups,
        )

    def already(self, version: int) -> Report:
        """Return the report of the version that is there, if it is this conversion's.

        Raises:
            DatasetExistsError: It is not.
        """
        manifest = read_manifest(self._store, version)
        if [c.id for c in manifest.conversions] != [self._ids.conversion]:
            raise DatasetExistsError(
                f"{self._store.url} already holds version {version}, converted from other files "
                "or with other options; choose another destination"
            )
        write_hint(self._store, version)  # a run may have been killed between its commit and these
        self._clean()
        return replace(read_report(self._store, manifest), already=True)

    def run(self, workers: int, *, restart: bool, progress: Progress) -> Report:
        """Convert the files that no earlier run has done, and commit.

        Raises:
            SourceError: Policy `raise` met files that cannot be transcoded.
            SourceChangedError: The source is not the one that an earlier run began with.
            StoreError: A store failed.
        """
        known = self._journal.begin(self._listing, restart=restart)
        resumed = self._writer.resume(self._noted(known) if known else {})
        n_done = sum(u.n_files for u in self._units if u.number in resumed.done)
        progress.begin(len(self._files), n_done)
        builder = self._manifest_builder()
        refused: list[str] = []
        with contextlib.closing(self._finish_units(workers, resumed, progress)) as finished:
            for unit in finished:
                refused.extend(
                    f"{_shown(p.key)}: {p.reason}"
                    for p in unit.outcomes.problems
                    if p.outcome == "refused"
                )
                builder.add(unit)
        if refused:
            raise SourceError(
                f"{len(refused)} of {len(self._files)} files cannot be converted losslessly; "
                "nothing was committed. Fix them, or choose what becomes of them: skip, opaque or "
                "encode (--on-error, Options.policy); what is done is kept:\n  "
                + "\n  ".join(sorted(refused))
            )
        committed = commit(self._store, builder.finish())
        self._clean()
        return replace(read_report(self._store, committed), n_resumed=n_done)

    def _clean(self) -> None:
        """Remove the journal, and temporary files of runs that were killed."""
        self._journal.remove()
        self._store.sweep()

    def _manifest_builder(self) -> ManifestBuilder:
        return ManifestBuilder(
            store=self._store,
            writer=self._writer,
            conversion=self._ids.conversion,
            script=self._script,
            layout=self._options.layout,
            classes=self._classes,
            splits=self._splits,
            options={**self._options.describe(), "on_error": self._ids.policy},
            n_hidden=self._listing.n_hidden,
            writer_id=new_writer_id(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _noted(self, known: frozenset[str]) -> dict[int, FinishedUnit]:
        """Return the units that the journal holds, by number, and whose objects are there."""
        stored = {e.name: e.n_bytes for e in self._store.list(OBJECTS)}
        noted: dict[int, FinishedUnit] = {}
        for unit in self._units:
            names = (self._journal.name(unit.number, v) for v in (self._ids.policy, ""))
            name = next((n for n in names if n in known), None)
            found = self._journal.read(name) if name is not None else None
            entry = found.object if found is not None else None
            is_lost = entry is not None and stored.get(entry.name) != entry.n_bytes
            if found is not None and not is_lost:  # a bucket's rules may have removed an object
                noted[unit.number] = found
        return noted

    def _finish_units(
        self, workers: int, resumed: Resumed, progress: Progress
    ) -> Generator[FinishedUnit, None, None]:
        """Yield every unit in order; all are stored and noted when the last was taken.

        A replayed unit is built and placed for the sake of the writer, whose next chunks begin with
        its last bytes. It is yielded as the journal has it, and not stored again.
        """
        todo = [u for u in self._units if resumed.must_build(u.number)]
        built = self._build(workers, todo)
        uploads = Uploads(self._store, self._journal)
        try:
            for unit in self._units:
                done = resumed.done.get(unit.number)
                if done is not None and not resumed.must_build(unit.number):
                    yield done
                    continue
                records = []
                for span in unit.records:
                    records.append(next(built))
                    if done is None:
                        files = self._files[span.start : span.stop]
                        progress.advance(len(files), sum(f.n_bytes for f in files))
                placed = self._writer.place(unit, records)
                if done is not None:
                    yield done
                    continue
                finished = FinishedUnit(
                    number=unit.number,
                    object=None if placed is None else placed.object,
                    rows=None if placed is None else placed.rows,
                    outcomes=_outcomes_of(records),
                )
                if placed is not None:
                    variant = self._ids.variant(has_problems=bool(finished.outcomes.problems))
                    uploads.put(placed.objects, finished, variant)
                # The uploads hold the object until it is stored; nothing here needs it longer.
                del placed, records
                yield finished
            uploads.wait()
        finally:
            built.close()
            uploads.close()

    def _build(self, workers: int, units: Sequence[Unit]) -> Generator[BuiltRecord, None, None]:
        builder = RecordBuilder(
            source=self._source,
            script=self._script,
            policy=self._options.policy,
            limits=self._options.limits,
            encode_quality=self._options.encode_quality,
        )
        return ordered_map(
            _build_of,
            builder,
            self._tasks(units),
            n_workers=workers,
            in_process=not self._source.shared_by_processes,
            if_died=_WORKER_DIED,
            if_never_ran=_NO_WORKER_RAN,
        )

    def _tasks(self, units: Sequence[Unit]) -> Iterator[RecordTask]:
        ids = {name: i for i, name in enumerate(self._classes)}
        splits = {name: i for i, name in enumerate(self._splits)}
        measured = measured_keys([f.key for f in self._listing.files])
        for unit in units:
            uid, first = self._writer.address(unit)
            for ordinal, span in enumerate(unit.records, first):
                files = self._files[span.start : span.stop]
                yield RecordTask(
                    ordinal=ordinal,
                    seed=record_seed(uid, ordinal),
                    files=tuple(files),
                    labels=tuple(
                        NO_LABEL if f.label is None else ids[unicode_name(f.label)] for f in files
                    ),
                    splits=tuple(
                        NO_SPLIT if f.split is None else splits[unicode_name(f.split)]
                        for f in files
                    ),
                    measured=tuple(f.key in measured for f in files),
                )


def _build_of(builder: RecordBuilder) -> Callable[[RecordTask], BuiltRecord]:
    """Return the function that a worker process runs."""
    return builder.build


def _outcomes_of(records: Sequence[BuiltRecord]) -> Outcomes:
    """Return the outcomes of a unit, gathered from its records."""
    return Outcomes(
        problems=tuple(p for r in records for p in r.problems),
        quality=tuple(q for r in records for q in r.quality),
        restore_bytes=_sum(r.restore_bytes for r in records),
        restore_images=_sum(r.restore_images for r in records),
    )


def _sum(tables: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for table in tables:
        total.update(table)
    return dict(total)


def _shown(key: str) -> str:
    """Return a key on one line, whatever it holds."""
    return key if key.isprintable() else repr(key)


def _check_names(classes: tuple[str, ...], splits: tuple[str, ...]) -> None:
    """Refuse what no manifest has room for, before any work is done."""
    if len(classes) > MAX_CLASSES:
        raise OptionError(f"at most {MAX_CLASSES} classes expected, got {len(classes)}")
    longest = max((*classes, *splits), key=len, default="")
    if len(longest) > MAX_NAME:
        raise OptionError(
            f"names of classes and splits have at most {MAX_NAME} characters, got {len(longest)}: "
            f"{longest[:40]!r}..."
        )


def _class_names(listing: Listing, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the class of each id: those given, then new ones in order of name."""
    found = {unicode_name(f.label) for f in listing.files if f.label is not None}
    known = given or ()
    return (*known, *sorted(found - set(known)))
