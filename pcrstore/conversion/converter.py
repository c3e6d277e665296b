"""The call `convert`: check the arguments, open source and destination, run the job.

The source is never written to.
"""

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace

from pcrstore.concurrency import usable_cores
from pcrstore.conversion.job import Job, Progress
from pcrstore.conversion.options import Options
from pcrstore.conversion.report import Report
from pcrstore.conversion.sources import FolderSource, Source
from pcrstore.dataset import newest_version
from pcrstore.errors import OptionError
from pcrstore.format import MAX_SPLITS
from pcrstore.jpeg import require
from pcrstore.storage import ReadableStore, Store, probe_conditional_create, store_of

__all__ = ["convert"]

_log = logging.getLogger(__name__)


class _Silent:
    """Progress that nobody watches."""

    def begin(self, n_images: int, n_done: int) -> None: ...

    def advance(self, n_images: int, n_bytes: int) -> None: ...


def convert(
    source: str | os.PathLike[str] | ReadableStore | Source,
    destination: str | os.PathLike[str] | Store,
    options: Options | None = None,
    *,
    workers: int | None = None,
    source_options: Mapping[str, object] | None = None,
    destination_options: Mapping[str, object] | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Convert images into a dataset.

    Args:
        source: URL of a class-per-folder tree, a store that holds one, or any other `Source`.
        destination: URL of the dataset, or a store of one's own; it need not exist.
        options: Options that decide the stored bytes; see `Options`.
        workers: Number of processes; None: one per core.
        source_options: fsspec storage options of the source's URL.
        destination_options: fsspec storage options of the destination's URL.
        restart: Forget the work of an unfinished conversion whose source has changed since.
        progress: Receiver of the progress.

    Returns:
        The files converted and skipped, and the bytes written. The same call again does nothing
        and returns a report with `already` set.

    Raises:
        SourceError: Policy `raise` met files that cannot be transcoded; nothing was committed.
        DatasetExistsError: The destination holds other content.
        SourceChangedError: The source changed since the unfinished conversion began.
        StoreError: A store failed; run it again to go on.
    """
    require()
    if workers is not None and workers < 1:
        raise OptionError(f"workers must be at least 1, got {workers}")
    options = options or Options()
    if not isinstance(source, Source):
        source = FolderSource(store_of(source, source_options), split_dirs=options.split_dirs)
    elif source_options or options.split_dirs:
        raise OptionError(
            "source_options and split_dirs are for a source that is given by its URL; "
            f"{type(source).__name__} has its own"
        )
    started = time.monotonic()
    store = store_of(destination, destination_options, is_written=True)
    version = newest_version(store)
    listing = source.list()
    if len(listing.splits) > MAX_SPLITS:
        raise OptionError(
            f"at most {MAX_SPLITS} split folders expected, got {len(listing.splits)}; "
            "if they are classes, convert without split dirs"
        )
    # The URL of a source of one's own may be any name, which says nothing about places.
    if "://" in source.url and _place(store.url).startswith(_place(source.url)):
        raise OptionError(
            f"the destination {store.url} must not lie inside the source {source.url}"
        )
    job = Job(store=store, source=source, listing=listing, options=options)
    if version:
        report = job.already(version)
    else:
        _probe(store)
        report = job.run(workers or usable_cores(), restart=restart, progress=progress or _Silent())
    return replace(report, seconds=time.monotonic() - started)


def _place(url: str) -> str:
    """Return a URL as text with which the URLs of everything below it begin."""
    path = url.removeprefix("file://")
    return (os.path.realpath(path) if path != url else path).rstrip("/") + "/"


def _probe(store: Store) -> None:
    is_near = store.is_local or not store.shared_by_processes
    if not is_near and not probe_conditional_create(store):
        _log.warning(
            "%s does not refuse to create an object twice: make sure nobody else writes there",
            store.url,
        )
