"""The Ray source: disjoint runs of records, one read task each.

    driver   manifest, record tables, columns named in `where` ──▶ records shared out to tasks
    worker   open the dataset once ──▶ fetch span by span, reading one ahead ──▶ Arrow tables

A task carries the URL, the options as given, the version and the images to read, nothing else.

Example: 6 records of 3 images, 2 tasks, and rows wanted of images 0, 1 and 15 alone. Records 0 and
5 hold what is wanted, so they weigh 2 and 1 rows and the others nothing: the first task gets
record 0, the second the others. Its one span is images 3 to 18 with a mask in which the bit of
image 15 is set, so it reads that image and no other.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import integer, runs_of
from pcrstore.dataset import Dataset, IndexReader, Where, conditions_of, dataset_in, open_dataset
from pcrstore.errors import OptionError
from pcrstore.fidelity import Fidelity
from pcrstore.ray.libraries import BlockMetadata, DataContext, Datasource, ReadTask, pa, ray_data
from pcrstore.ray.rows import BASE, LazyColumns, schema_of, table_of
from pcrstore.storage import Engine, ReadableStore, checked_url, store_of

__all__ = ["PcrstoreDatasource", "Predicate", "read_pcrstore"]

Columns: TypeAlias = Mapping[str, NDArray[np.generic]]
Predicate: TypeAlias = Where | Callable[[Columns], NDArray[np.bool_]]
"""Conditions on columns, as `Dataset.find` takes them; or a function that gets columns, (N,) each,
and returns a mask of the rows, (N,)."""

_SPAN_BYTES: Final = 16 * 2**20
"""Bytes that a task reads at once, as when a dataset is iterated."""

_BLOCK_BYTES: Final = 128 * 10**6
"""Bytes that a task yields at once at most, pixels counted: Ray's own target for a block. A record
is never divided, so that one larger than this is a block of its own."""

_ROW_BYTES: Final = 96
"""Key, label and offsets of a row, about."""


def read_pcrstore(
    url: str | PathLike[str] | ReadableStore,
    *,
    fidelity: Fidelity = "full",
    where: Predicate | None = None,
    columns: Sequence[str] | None = None,
    decode: bool = False,
    storage_options: Mapping[str, object] | None = None,
    version: int | None = None,
    engine: Engine = "auto",
    override_num_blocks: int | None = None,
) -> ray_data.Dataset:
    """Return a dataset as a Ray dataset, in stored order, nothing of the images read yet.

    A row has `key` (text), `label` (integer, -1 for none), `split` (text or null) and `image`. The
    version is chosen now: later commits do not change what is read. Tasks are in stored order; Ray
    keeps it in the rows where `ray.data.DataContext.get_current().execution_options.preserve_order`
    is set.

    Args:
        url: As for `pcrstore.open`; every node must reach it, so that a folder must be
            shared, and a store pickled.
        fidelity: One for all.
        where: Rows to read: conditions as for `Dataset.find`, `{"split": "train", "label": ["cat",
            3]}`, or a function that gets a mapping of columns to arrays and returns a boolean
            array. Columns that it does not name are not read, nor are records without a match.
        columns: Columns of the dataset to add to the rows.
        decode: Give `image` as uint8 (H, W, 3); else the bytes of a JPEG that strict decoders take
            (an opaque image's own file).
        storage_options: As for `pcrstore.open`. They travel to the workers as they are.
        version: An older version; None: the newest.
        engine: As for `pcrstore.open`.
        override_num_blocks: Number of tasks, of one record at least; None: as Ray sees fit.

    Raises:
        NotFoundError: There is no dataset, or no such version.
        FidelityError: A fidelity that the dataset does not have.
        OptionError: A column, class or split that it does not have, a URL that only this process
            can read, or any argument that is of another kind.
        StoreError: The store cannot be reached. Reading raises what `Dataset.fetch` raises.
    """
    source = PcrstoreDatasource(
        url,
        fidelity=fidelity,
        where=where,
        columns=columns,
        decode=decode,
        storage_options=storage_options,
        version=version,
        engine=engine,
    )
    if override_num_blocks is not None:
        override_num_blocks = integer(override_num_blocks, "override_num_blocks", least=1)
    out: ray_data.Dataset = ray_data.read_datasource(
        source, override_num_blocks=override_num_blocks
    )
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """The settings that all tasks of a read share: enough to open the dataset and make rows."""

    url: str | ReadableStore = field(repr=False)
    options: Mapping[str, object] | None = field(repr=False)
    version: int
    engine: Engine
    fidelity: int

    def open(self) -> Dataset:
        return open_dataset(self.url, self.options, version=self.version, engine=self.engine)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TaskImages:
    """The images that one task reads."""

    spans: tuple[tuple[int, int], ...]
    """Positions of the first image, and one past the last, of whole records read together."""
    mask: bytes | None = field(repr=False)
    """A bit for each image from the first span's start on, packed: 1 to read it. None: all are."""
    n_rows: int
    n_bytes: int
    """Bytes that the rows take in memory, about."""

    def positions(self, most: int | None) -> Iterator[NDArray[np.int64]]:
        """Yield the positions of each span's images, `most` in all."""
        base = self.spans[0][0]
        left = self.n_rows if most is None else most
        mask = None
        if self.mask is not None:
            mask = np.unpackbits(np.frombuffer(self.mask, np.uint8)).astype(np.bool_)
        for start, stop in self.spans:
            found = np.arange(start, stop, dtype=np.int64)
            if mask is not None:
                found = found[mask[start - base : stop - base]]
            found = found[:left]
            left -= len(found)
            if len(found):
                yield found


class PcrstoreDatasource(Datasource):
    """The source beneath `read_pcrstore`, for `ray.data.read_datasource` and its options.

    Planning is done when it is made, by one LIST, the manifest, the record tables and the columns
    that `where` names (and, to know how large pixels are, `width` and `height` when decoding).
    """

    def __init__(
        self,
        url: str | PathLike[str] | ReadableStore,
        *,
        fidelity: Fidelity = "full",
        where: Predicate | None = None,
        columns: Sequence[str] | None = None,
        decode: bool = False,
        storage_options: Mapping[str, object] | None = None,
        version: int | None = None,
        engine: Engine = "auto",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Ray's
        place = _everywhere(url)
        store = store_of(place, storage_options, engine=engine)
        if not store.shared_by_processes:
            raise OptionError(f"Ray's workers cannot read {store.url}, which is this process's own")
        if not isinstance(decode, bool):
            raise OptionError(f"decode must be true or false, got {decode!r}")
        conditions = where if callable(where) else conditions_of(where)
        names = _names(columns)
        ds = dataset_in(store, version=version)
        ds.index.require_backed(len(ds))  # planning has arrays of all images
        self._source = _Source(
            url=place,
            options=storage_options,
            version=ds.version,
            engine=engine,
            fidelity=ds.resolve(fidelity),
        )
        self._dataset = repr(ds)
        self._schema = schema_of(ds, [*dict.fromkeys((*BASE, *names))], decode=decode)
        self._mask = None if where is None else _mask(ds, conditions)
        self._weigh(ds, decode=decode)

    def __repr__(self) -> str:
        return f"<PcrstoreDatasource of {self._dataset} at fidelity {self._source.fidelity}>"

    def _weigh(self, ds: Dataset, *, decode: bool) -> None:
        """Find for each record its images, the rows wanted of it, and the bytes of these."""
        index = IndexReader(ds.store, ds.manifest, ds.cost)
        k = self._source.fidelity
        parts = index.parts(range(len(ds.manifest.parts)))
        edges = [p.first_image + p.image_edges[:-1] for p in parts]
        self._edges = np.concatenate([*edges, [len(ds)]]).astype(np.int64)
        """First image of each record, and the number of images. (R + 1,)"""
        sizes = [p.records["length"][:, :k].sum(axis=1, dtype=np.int64) for p in parts]
        n_images = np.diff(self._edges)
        self._rows = n_images if self._mask is None else self._per_record(self._mask)
        share = self._rows / np.maximum(n_images, 1)
        self._read = np.concatenate([*sizes, []]) * share
        """Bytes to read of each record, about: a record is read in part when few rows match."""
        held = self._read
        if decode:
            sides = ds.index.columns(["width", "height"], range(len(ds)))
            pixels = np.prod([np.asarray(side, np.int64) for side in sides.values()], axis=0)
            wanted = pixels if self._mask is None else pixels * self._mask
            held = np.asarray(3 * self._per_record(wanted), np.float64)
        self._held = held + _ROW_BYTES * self._rows
        """Bytes that the rows of each record take in memory, about."""

    def _per_record(self, values: NDArray[np.generic]) -> NDArray[np.int64]:
        """Return the sum of each record's values, given one of each image."""
        sums = np.concatenate(([0], np.cumsum(values, dtype=np.int64)))
        return np.asarray(np.diff(sums[self._edges]))

    def estimate_inmemory_data_size(self) -> int:
        """Return about how many bytes all rows take."""
        return int(self._held.sum())

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,
    ) -> list[ReadTask]:
        """Return at most `parallelism` tasks of about the same size, in stored order.

        Args:
            parallelism: Tasks wanted; there are fewer when there are fewer records.
            per_task_row_limit: Rows that a task yields at most; the rest is not read.
            data_context: Not used.
        """
        del data_context
        return [
            _task(self._source, images, self._schema, per_task_row_limit)
            for images in self._shares(parallelism)
        ]

    def _shares(self, n: int) -> list[_TaskImages]:
        """Share the records out to n tasks, so that each holds about the same.

        Records that hold 5, 1, 1, 5 go to two tasks as (5, 1) and (1, 5): the running sums are 0,
        5, 6, 7, 12, and the half of 12 is reached at record 2.
        """
        sums = np.concatenate(([0.0], np.cumsum(self._held)))
        edges = np.searchsorted(sums, np.arange(1, max(1, n)) * (sums[-1] / max(1, n)))
        edges = np.unique([0, *edges.tolist(), len(self._rows)])
        shares = (self._images_of(a, b) for a, b in pairwise(edges.tolist()))
        return [images for images in shares if images.n_rows]

    def _images_of(self, a: int, b: int) -> _TaskImages:
        """Return the images of records `a` to `b`."""
        read, held = (sizes[a:b].astype(np.int64).tolist() for sizes in (self._read, self._held))
        runs = runs_of(read, _SPAN_BYTES, (held, _BLOCK_BYTES))
        edges = self._edges[a : b + 1].tolist()
        spans = tuple((edges[run.start], edges[run.stop]) for run in runs)
        mask = None if self._mask is None else self._mask[spans[0][0] : spans[-1][1]]
        return _TaskImages(
            spans=spans,
            mask=None if mask is None else np.packbits(mask).tobytes(),
            n_rows=int(self._rows[a:b].sum()),
            n_bytes=int(self._held[a:b].sum()),
        )


def _everywhere(url: str | PathLike[str] | ReadableStore) -> str | ReadableStore:
    """Return a URL that means the same in every process of this machine, or the store."""
    if isinstance(url, ReadableStore):
        return url
    url = checked_url(url)
    return str(Path(url).absolute()) if url and "://" not in url else url


def _task(source: _Source, images: _TaskImages, schema: pa.Schema, most: int | None) -> ReadTask:
    """Return a task. Its function is a closure: nothing that is printed of it shows options."""

    def read() -> Iterator[pa.Table]:
        ds = source.open()
        pool = ThreadPoolExecutor(1, thread_name_prefix="pcrstore-ray")
        try:
            ahead: Future[pa.Table] | None = None
            for positions in images.positions(most):
                ready = ahead
                ahead = pool.submit(table_of, ds, positions, source.fidelity, schema)
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()
        finally:
            pool.shutdown(cancel_futures=True)

    n_rows = images.n_rows if most is None else min(images.n_rows, most)
    metadata = BlockMetadata(
        num_rows=n_rows,
        size_bytes=images.n_bytes * n_rows // images.n_rows,
        input_files=None,
        exec_stats=None,
    )
    return ReadTask(read, metadata, schema=schema)


def _names(columns: object) -> list[str]:
    """Return the names of columns that were asked for; None: none.

    Raises:
        OptionError: Not several names. One alone would be read letter by letter.
    """
    if columns is None:
        return []
    if isinstance(columns, Collection) and not isinstance(columns, str | bytes | Mapping):
        names = [name for name in columns if isinstance(name, str)]
        if len(names) == len(columns):
            return names
    raise OptionError(f"columns must be names in a list, got {repr(columns)[:80]}")


def _mask(ds: Dataset, where: Predicate) -> NDArray[np.bool_]:
    """Return a mask of the images that match, (N,)."""
    if callable(where):
        mask = np.asarray(where(LazyColumns(ds)))
        if mask.dtype != np.bool_ or mask.shape != (len(ds),):
            raise OptionError(
                f"where must return {len(ds)} booleans, got {mask.dtype} of shape {mask.shape}"
            )
        return mask
    found = np.zeros(len(ds), np.bool_)
    found[ds.find(**where)] = True
    return found
