"""Read a dataset on a Ray cluster: disjoint runs of records, one task each.

    images = read_pcrstore("s3://bucket/photos", fidelity=3, where={"split": "train"})
    images.map_batches(...)

    driver   manifest, record tables, columns named in `where` ──▶ runs of records, rows of each
    worker   open the dataset once ──▶ fetch window by window, reading one ahead ──▶ Arrow tables

A task carries the URL, the options as given, the version and the images to read, nothing else.
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

from pcrstore.core import integer
from pcrstore.dataset import Dataset, IndexReader, conditions_of, dataset_in, open_dataset
from pcrstore.errors import MissingDependencyError, OptionError
from pcrstore.fidelity import Fidelity
from pcrstore.format import FORMATS, Values
from pcrstore.loader import Where
from pcrstore.storage import Engine, ReadableStore, checked_url, store_of

try:
    import pyarrow as pa
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.context import DataContext
    from ray.data.datasource import Datasource, ReadTask
    from ray.data.extensions import ArrowVariableShapedTensorArray
except ImportError as e:
    raise MissingDependencyError(
        "reading on Ray needs the ray package: pip install 'pcrstore[ray]'"
    ) from e

__all__ = ["PcrstoreDatasource", "Predicate", "read_pcrstore"]

Columns: TypeAlias = Mapping[str, NDArray[np.generic]]
Predicate: TypeAlias = Where | Callable[[Columns], NDArray[np.bool_]]
"""Conditions on columns, as `Dataset.find` takes them; or a function of columns, (N,) each, that
says which rows, (N,)."""

_BASE: Final = ("key", "label", "split")
"""Columns of every row, beside `image`."""

_WINDOW_BYTES: Final = 16 * 2**20
"""What a task reads at once, as when a dataset is iterated."""

_BLOCK_BYTES: Final = 128 * 10**6
"""What a task yields at once at most, pixels counted: Ray's own target for a block. A record is
never cut, so that one larger than this is a block of its own."""

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
) -> ray.data.Dataset:
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
        override_num_blocks: How many tasks to make, of one record at least; None: as Ray sees fit.

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
    out: ray.data.Dataset = ray.data.read_datasource(
        source, override_num_blocks=override_num_blocks
    )
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """What every task of a read has in common: enough to open the dataset and make rows."""

    url: str | ReadableStore = field(repr=False)
    options: Mapping[str, object] | None = field(repr=False)
    version: int
    engine: Engine
    fidelity: int
    columns: tuple[str, ...]
    decode: bool

    def open(self) -> Dataset:
        return open_dataset(self.url, self.options, version=self.version, engine=self.engine)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The images that one task reads."""

    windows: tuple[tuple[int, int], ...]
    """First image and one past the last of each window of whole records."""
    chosen: bytes | None = field(repr=False)
    """A bit for each image from the first window's start on, packed; None: all are read."""
    n_rows: int
    n_bytes: int
    """About what its rows take in memory."""

    def images(self, most: int | None) -> Iterator[NDArray[np.int64]]:
        """Yield the positions of each window's images, `most` in all."""
        base = self.windows[0][0]
        left = self.n_rows if most is None else most
        mask = None
        if self.chosen is not None:
            mask = np.unpackbits(np.frombuffer(self.chosen, np.uint8)).astype(np.bool_)
        for start, stop in self.windows:
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
        extra = _known(ds, [c for c in names if c not in _BASE])
        self._source = _Source(
            url=place,
            options=storage_options,
            version=ds.version,
            engine=engine,
            fidelity=ds.resolve(fidelity),
            columns=(*_BASE, *dict.fromkeys(extra)),
            decode=decode,
        )
        self._dataset = repr(ds)
        self._schema = _schema(ds, self._source)
        self._chosen = None if where is None else _chosen(ds, conditions)
        self._plan(ds)

    def __repr__(self) -> str:
        return f"<PcrstoreDatasource of {self._dataset} at fidelity {self._source.fidelity}>"

    def _plan(self, ds: Dataset) -> None:
        """Find each record's images, the rows wanted of it, and what they take."""
        catalog = IndexReader(ds.store, ds.manifest, ds.cost)
        k = self._source.fidelity
        parts = catalog.parts(range(len(ds.manifest.parts)))
        edges = [p.first_image + p.image_edges[:-1] for p in parts]
        self._edges = np.concatenate([*edges, [len(ds)]]).astype(np.int64)
        sizes = [p.records["length"][:, :k].sum(axis=1, dtype=np.int64) for p in parts]
        n_images = np.diff(self._edges)
        if self._chosen is None:
            self._rows = n_images
        else:
            before = np.concatenate(([0], np.cumsum(self._chosen, dtype=np.int64)))
            self._rows = np.diff(before[self._edges])
        share = self._rows / np.maximum(n_images, 1)
        self._read = np.concatenate([*sizes, []]) * share
        """Bytes to read of each record, about: a record is read in part when few rows match."""
        held = self._read
        if self._source.decode:
            pixels = np.asarray(ds.column("width")).astype(np.int64) * np.asarray(
                ds.column("height")
            ).astype(np.int64)
            if self._chosen is not None:
                pixels = pixels * self._chosen
            held = 3.0 * np.diff(np.concatenate(([0], np.cumsum(pixels)))[self._edges])
        self._held = held + _ROW_BYTES * self._rows

    def estimate_inmemory_data_size(self) -> int:
        """Return about how many bytes all rows take."""
        return int(self._held.sum())

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: DataContext | None = None,  # noqa: ARG002 - Ray gives it
    ) -> list[ReadTask]:
        """Return at most `parallelism` tasks of about the same size, in stored order.

        Args:
            parallelism: Tasks wanted; there are fewer when there are fewer records.
            per_task_row_limit: Rows that a task yields at most; the rest is not read.
            data_context: Not used.
        """
        return [
            _task(self._source, run, self._schema, per_task_row_limit)
            for run in self._runs(parallelism)
        ]

    def _runs(self, n: int) -> list[_Run]:
        """Share records out so that every run holds about the same."""
        done = np.concatenate(([0.0], np.cumsum(self._held)))
        cuts = np.searchsorted(done, np.arange(1, max(1, n)) * (done[-1] / max(1, n)))
        cuts = np.unique([0, *cuts.tolist(), len(self._rows)])
        runs = (self._run(a, b) for a, b in pairwise(cuts.tolist()))
        return [run for run in runs if run.n_rows]

    def _run(self, a: int, b: int) -> _Run:
        """Return the run of records `a` to `b`."""
        windows: list[tuple[int, int]] = []
        first, read, held = a, 0.0, 0.0
        for r in range(a, b):
            read, held = read + self._read[r], held + self._held[r]
            if r > first and (read > _WINDOW_BYTES or held > _BLOCK_BYTES):
                windows.append((int(self._edges[first]), int(self._edges[r])))
                first, read, held = r, self._read[r], self._held[r]
        windows.append((int(self._edges[first]), int(self._edges[b])))
        start, stop = windows[0][0], windows[-1][1]
        return _Run(
            windows=tuple(windows),
            chosen=None
            if self._chosen is None
            else np.packbits(self._chosen[start:stop]).tobytes(),
            n_rows=int(self._rows[a:b].sum()),
            n_bytes=int(self._held[a:b].sum()),
        )


def _everywhere(url: str | PathLike[str] | ReadableStore) -> str | ReadableStore:
    """Return a URL that means the same in every process of this machine, or the store."""
    if isinstance(url, ReadableStore):
        return url
    url = checked_url(url)
    return str(Path(url).absolute()) if url and "://" not in url else url


def _task(source: _Source, run: _Run, schema: pa.Schema, most: int | None) -> ReadTask:
    """Return a task. Its function is a closure: nothing that is printed of it shows options."""

    def read() -> Iterator[pa.Table]:
        ds = source.open()
        pool = ThreadPoolExecutor(1, thread_name_prefix="pcrstore-ray")
        try:
            ahead: Future[pa.Table] | None = None
            for images in run.images(most):
                ready, ahead = ahead, pool.submit(_table, ds, source, schema, images)
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()
        finally:
            pool.shutdown(cancel_futures=True)

    n_rows = run.n_rows if most is None else min(run.n_rows, most)
    metadata = BlockMetadata(
        num_rows=n_rows,
        size_bytes=run.n_bytes * n_rows // run.n_rows,
        input_files=None,
        exec_stats=None,
    )
    return ReadTask(read, metadata, schema=schema)


def _table(ds: Dataset, source: _Source, schema: pa.Schema, images: NDArray[np.int64]) -> pa.Table:
    """Return some images as rows."""
    at = images.tolist()
    if source.decode:
        pixels = ArrowVariableShapedTensorArray.from_numpy(ds.read(at, source.fidelity))
        image = pa.chunked_array([pixels])
    else:
        image = pa.chunked_array([pa.array(ds.fetch(at, source.fidelity), pa.binary())])
    arrays = [
        pa.chunked_array([_arrow(_named(ds, name, ds.column(name, at)), schema.field(name).type)])
        for name in source.columns
    ]
    return pa.Table.from_arrays([*arrays, image], schema=schema)


def _schema(ds: Dataset, source: _Source) -> pa.Schema:
    """Return the columns of the rows."""
    fields: list[tuple[str, pa.DataType]] = []
    for column in (next(c for c in ds.manifest.columns if c.name == n) for n in source.columns):
        if column.row_dtype is None or column.name in ("split", "format"):
            kind = pa.string()
        elif column.name == "label":
            kind = pa.int64()
        else:
            kind = pa.from_numpy_dtype(np.dtype(column.dtype))
            kind = pa.list_(kind, column.width) if column.width > 1 else kind
        fields.append((column.name, kind))
    one = ArrowVariableShapedTensorArray.from_numpy([np.zeros((1, 1, 3), np.uint8)])
    return pa.schema([*fields, ("image", one.type if source.decode else pa.binary())])


def _arrow(values: Sequence[object] | NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        flat = pa.array(values.ravel(), kind.value_type)
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return pa.array(values, kind)


def _named(ds: Dataset, name: str, values: Values) -> list[str | None] | Values:
    """Return a column with names for ids where its ids are not for users: splits and formats."""
    if name == "split":
        names = dict(enumerate(ds.splits))
        return [names.get(int(v)) for v in np.asarray(values)]
    if name == "format":
        return [FORMATS.get(int(v), "unknown") for v in np.asarray(values)]
    return values


def _names(columns: object) -> list[str]:
    """Return the columns that were asked for; None: none.

    Raises:
        OptionError: Not several names. One alone would be read letter by letter.
    """
    several = isinstance(columns, Collection) and not isinstance(columns, str | bytes | Mapping)
    given: list[object] = list(columns) if several else [None]  # type: ignore[call-overload]  # as just looked at
    names = [name for name in given if isinstance(name, str)]
    if columns is not None and len(names) < len(given):
        raise OptionError(f"columns must be names in a list, got {repr(columns)[:80]}")
    return names


def _known(ds: Dataset, names: Sequence[str]) -> list[str]:
    """Return names that are all columns."""
    for name in names:
        if name not in ds.columns:
            raise OptionError(f"column must be one of {', '.join(sorted(ds.columns))}, got {name}")
    return list(names)


class _NoColumnError(OptionError, KeyError):
    """What a mapping raises, and what a user of this package catches."""

    __str__ = Exception.__str__  # KeyError's own shows a message in quotes


class _Lazy(Mapping[str, NDArray[np.generic]]):
    """Columns as arrays, each read when it is first asked for."""

    def __init__(self, ds: Dataset) -> None:
        self._ds = ds
        self._read: dict[str, NDArray[np.generic]] = {}

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        if name not in self:
            known = ", ".join(sorted(self))
            raise _NoColumnError(f"column must be one of {known}, got {name}")
        if name not in self._read:
            self._read[name] = np.asarray(_named(self._ds, name, self._ds.column(name)))
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._ds.columns

    def __iter__(self) -> Iterator[str]:
        return iter(self._ds.columns)

    def __len__(self) -> int:
        return len(self._ds.columns)


def _chosen(ds: Dataset, where: Predicate) -> NDArray[np.bool_]:
    """Return which images match, (N,)."""
    columns = _Lazy(ds)
    if callable(where):
        mask = np.asarray(where(columns))
        if mask.dtype != np.bool_ or mask.shape != (len(ds),):
            raise OptionError(
                f"where must return {len(ds)} booleans, got {mask.dtype} of shape {mask.shape}"
            )
        return mask
    found = np.zeros(len(ds), np.bool_)
    found[ds.find(**where)] = True
    return found
