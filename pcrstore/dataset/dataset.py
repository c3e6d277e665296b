"""Read a dataset: manifest ──▶ plan ──▶ fetch ──▶ assemble ──▶ decode.

ds = pcrstore.open("s3://bucket/photos")
ds.plan(range(1000), fidelity=2).n_bytes      what it would cost
ds.fetch([7, 8], fidelity="original")         files
ds.read([7, 8], fidelity=3, scale=2)          arrays
for sample in ds.iter(fidelity=3): ...        all of it, record by record
"""

import operator
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

import fsspec
import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import usable_cores
from pcrstore.cost import DEFAULT_COST, CostModel
from pcrstore.dataset.filters import matching
from pcrstore.dataset.index_reader import IndexReader
from pcrstore.dataset.planner import Pieces, ReadPlan
from pcrstore.dataset.reader import Reader, Window
from pcrstore.dataset.versions import list_versions, newest_version, read_manifest
from pcrstore.errors import NotFoundError, OptionError
from pcrstore.fidelity import Fidelity, resolve, resolve_fetch
from pcrstore.format import FORMATS, MAX_VERSION, Manifest, Values
from pcrstore.image import decode
from pcrstore.jpeg import original, require
from pcrstore.storage import Engine, RangeCache, ReadableStore, store_of

__all__ = ["Dataset", "Sample", "Traffic", "dataset_in", "open_dataset"]

Extra = TypeVar("Extra")
Item = TypeVar("Item")
Result = TypeVar("Result")

_WINDOWS_AHEAD: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image as iteration yields it."""

    index: int
    """Position in the dataset."""
    key: str
    label: int
    """Class id; -1 for none."""
    split: str | None
    """Split folder that it came from; None without splits."""
    jpeg: bytes = field(repr=False)
    """A JPEG of the fidelity asked for; the source file itself when `format` is `opaque`."""
    format: str
    """`jpeg`; `encoded`: a JPEG made from another format; `opaque`: a file kept as it was."""
    fidelity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests and bytes of a dataset object so far."""

    index_requests: int
    index_bytes: int
    data_requests: int
    data_bytes: int


class Dataset:
    """One version of a dataset.

    Safe to use from several threads and after fork. A pickle holds the manifest, the URL and the
    storage options as they were given, so treat it as you treat those.
    """

    def __init__(
        self,
        store: ReadableStore,
        manifest: Manifest,
        cost: CostModel,
        *,
        catalog: IndexReader | None = None,
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._cost = cost
        self._reader = Reader(store, manifest, cost, catalog=catalog)

    def __reduce__(self) -> tuple[type["Dataset"], tuple[ReadableStore, Manifest, CostModel]]:
        return Dataset, (self._store, self._manifest, self._cost)

    def __repr__(self) -> str:
        m = self._manifest
        return (
            f"<pcrstore.Dataset {self._store.url} version {m.version}: {m.n_images} images, "
            f"{m.n_groups} groups, {m.layout} layout>"
        )

    def __len__(self) -> int:
        return self._manifest.n_images

    @property
    def url(self) -> str:
        """Where it is, without credentials."""
        return self._store.url

    @property
    def store(self) -> ReadableStore:
        """What it is read from."""
        return self._store

    @property
    def cost(self) -> CostModel:
        """Prices and link by which ranges are read together."""
        return self._cost

    @property
    def catalog(self) -> IndexReader:
        """The index, read on demand and remembered."""
        return self._reader.catalog

    def sibling(self) -> "Dataset":
        """Return the same dataset with counters of its own; the index that was read is shared."""
        catalog = self.catalog.sibling()
        return Dataset(self._store, self._manifest, self._cost, catalog=catalog)

    def reader(self, *, cache: RangeCache | None = None, part_bytes: int | None = None) -> Reader:
        """Return a reader that counts for itself and shares the index; see `reader.Reader`."""
        return Reader(
            self._store,
            self._manifest,
            self._cost,
            cache=cache,
            part_bytes=part_bytes,
            catalog=self.catalog,
        )

    @property
    def manifest(self) -> Manifest:
        """Everything that opening read: classes, statistics, script, parts."""
        return self._manifest

    @property
    def version(self) -> int:
        """The version that is read, whatever is committed later."""
        return self._manifest.version

    @property
    def versions(self) -> list[int]:
        """Versions there are now, newest first."""
        return list_versions(self._store)

    @property
    def n_groups(self) -> int:
        """Scan groups, and so the highest fidelity."""
        return self._manifest.n_groups

    @property
    def n_records(self) -> int:
        """Records: what an epoch reads at least one request each for."""
        return self._manifest.n_records

    @property
    def classes(self) -> tuple[str, ...]:
        """Class name of each label."""
        return self._manifest.classes

    @property
    def splits(self) -> tuple[str, ...]:
        """Name of each value of the column `split`; empty without split folders."""
        return self._manifest.splits

    @property
    def columns(self) -> tuple[str, ...]:
        """Names that `column` takes."""
        return tuple(c.name for c in self._manifest.columns)

    @property
    def keys(self) -> list[str]:
        """Key of every image, in stored order. Reads the key pages of all parts."""
        return [str(k) for k in self.column("key")]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class id of every image, (N,), -1 for none."""
        return np.asarray(self.column("label")).astype(np.int64)

    @property
    def traffic(self) -> Traffic:
        """Requests and bytes so far, opening left out."""
        index = self._reader.catalog.counter
        return Traffic(
            index_requests=index.n_requests,
            index_bytes=index.n_bytes,
            data_requests=self._reader.counter.n_requests,
            data_bytes=self._reader.counter.n_bytes,
        )

    def column(self, name: str, indices: Sequence[int] | None = None) -> Values:
        """Return a column of all images, or of some.

        Args:
            name: One of `columns`.
            indices: Positions in the dataset; None: all.

        Raises:
            OptionError: No such column.
            IndexError: A position outside the dataset.
        """
        if indices is None:
            return self._reader.catalog.column(name, range(len(self)))
        return self._reader.catalog.column(name, self._positions(indices))

    def find(self, /, **conditions: object) -> NDArray[np.int64]:
        """Return the positions of the images that meet all conditions, ascending.

        Reads the pages of the columns named, and nothing of the images.

        Args:
            conditions: Column and value, or several of which one must match, or a function of the
                column's values that returns a mask. `label`, `split` and `format` take names too,
                and None for none.

        Raises:
            OptionError: No such column, class, split or format, or a mask of another shape.

        Examples:
            `ds.find(split="train", label=["cat", "dog"], width=lambda w: w >= 224)`
        """
        mask = np.ones(len(self), np.bool_)
        for name, wanted in conditions.items():
            mask &= matching(self._manifest, name, self.column(name), wanted)
        return np.flatnonzero(mask)

    def resolve(self, fidelity: Fidelity) -> int:
        """Return the group number that a fidelity comes to: see `fidelity.Fidelity`."""
        return resolve(fidelity, self._manifest)

    def plan(
        self, indices: Sequence[int], fidelity: Fidelity | Sequence[Fidelity] = "full"
    ) -> ReadPlan:
        """Plan the reads of some images; nothing of the images moves.

        The index pages that the plan needs are read now (see `traffic`) and remembered, so that
        `fetch` of the same images makes exactly the plan's requests.

        Args:
            indices: Positions in the dataset, in any order.
            fidelity: One for all, or one for each.

        Returns:
            The plan: `n_requests`, `n_bytes`, `dollars`, `seconds`.

        Raises:
            FidelityError: A fidelity that the dataset does not have.
            IndexError: A position outside the dataset.
        """
        positions = self._positions(indices)
        return self._reader.plan(positions, *self._fidelities(fidelity, len(positions)))

    def fetch(
        self, indices: Sequence[int], fidelity: Fidelity | Sequence[Fidelity] = "full"
    ) -> list[bytes]:
        """Return the files of some images, in the order of `indices`.

        Args:
            indices: Positions in the dataset, in any order, repeats allowed.
            fidelity: One for all or one for each; `"original"` is the source file byte for byte
                (needs the C extension).

        Returns:
            JPEGs that strict decoders take; an opaque image's own file.

        Raises:
            FidelityError: A fidelity that the dataset does not have.
            ChecksumError: Stored bytes are damaged, also after reading them again.
            StoreError: The store failed.
        """
        positions = self._positions(indices)
        fidelities, source = self._fidelities(fidelity, len(positions))
        if any(source):
            require()

        def file(piece: Pieces, wanted: bool) -> bytes:  # noqa: FBT001 - mapped over two lists
            if wanted and not piece.opaque and piece.restore is not None:
                return original(piece.cells, piece.restore)
            return piece.file(self.n_groups)

        return _map(
            file, self._reader.pieces(positions, fidelities, source), source, threads=any(source)
        )

    def read(
        self,
        indices: Sequence[int],
        fidelity: Fidelity | Sequence[Fidelity] = "full",
        *,
        scale: int = 1,
        apply_orientation: bool = False,
    ) -> list[NDArray[np.uint8]]:
        """Return some images decoded to RGB, in the order of `indices`.

        Below full fidelity libjpeg's block smoothing is off, so that pixels do not depend on the
        decoder's version.

        Args:
            indices: Positions in the dataset.
            fidelity: One for all or one for each.
            scale: Decode at 1/scale: 1, 2, 4 or 8. Sizes are rounded up.
            apply_orientation: Turn the image as its EXIF orientation says.

        Returns:
            uint8 arrays of shape (H, W, 3).

        Raises:
            DecodeError: An opaque file that no decoder here takes.
            ChecksumError: Stored bytes are damaged.
        """
        if not _is_integer(scale) or scale not in (1, 2, 4, 8):
            raise OptionError(f"scale must be 1, 2, 4 or 8, got {scale!r}")
        positions = self._positions(indices)
        fidelities, source = self._fidelities(fidelity, len(positions))
        if any(source):
            raise OptionError('"original" is for fetch; read decodes 1..G or "full"')
        turns = [1] * len(positions)
        if apply_orientation:
            turns = np.asarray(self._reader.catalog.column("orientation", positions)).tolist()

        def decode_one(file: bytes, turn: int) -> NDArray[np.uint8]:
            return decode(file, scale=scale, orientation=turn)

        return _map(decode_one, self._reader.files_at(positions, fidelities), turns, threads=True)

    def batches(self) -> Iterator[range]:
        """Yield runs of images that fill whole records, for those who fetch everything.

        A run has about 16 MiB at full fidelity; `fetch` reads it with the fewest requests.
        """
        for window in self._reader.windows(self.n_groups, 0, self.n_records):
            yield window.images

    def __getitem__(self, index: int) -> Sample:
        """Return one image at full fidelity; `fetch` and `read` take many at once, at any."""
        [i] = self._positions([index])
        [sample] = self._samples([i], self.fetch([i]), self.n_groups)
        return sample

    def iter(
        self, fidelity: Fidelity = "full", *, start: int = 0, stop: int | None = None
    ) -> Iterator[Sample]:
        """Yield images in stored order, whole records at a time, reading ahead in the background.

        Each record is one range read of its prefix (record layout), neighbours merged where that
        is cheaper; labels and keys come from the index. Images are stored in a seeded random order
        unless they were converted with `--no-shuffle`.

        Args:
            fidelity: As for `fetch`, one for all.
            start: First record, 0..n_records.
            stop: One past the last record; None: all. `start` and `stop` share an epoch out.

        Raises:
            ChecksumError: Stored bytes are damaged, also after reading them again.
        """
        k = resolve(fidelity, self._manifest)
        stop = self.n_records if stop is None else stop
        if not 0 <= start <= stop <= self.n_records:
            raise OptionError(
                f"records must be in 0..{self.n_records}, got start {start}, stop {stop}"
            )
        return self._iterate(k, start, stop)

    def __iter__(self) -> Iterator[Sample]:
        return self.iter()

    def _iterate(self, k: int, start: int, stop: int) -> Iterator[Sample]:
        pending: deque[Future[list[Sample]]] = deque()
        pool = ThreadPoolExecutor(_WINDOWS_AHEAD, thread_name_prefix="pcrstore-read")
        try:
            for window in self._reader.windows(k, start, stop):
                pending.append(pool.submit(self._read_window, window, k))
                if len(pending) > _WINDOWS_AHEAD:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read_window(self, window: Window, k: int) -> list[Sample]:
        pieces = self._reader.read_window(window, k)
        return self._samples(window.images, [p.file(self.n_groups) for p in pieces], k)

    def _samples(self, images: Sequence[int], files: Sequence[bytes], k: int) -> list[Sample]:
        """Put together what was read of some images and what the index knows of them."""
        names = ["key", "label", "format", "split"]
        columns = self._reader.catalog.columns(names, images)
        return [
            Sample(
                index=image,
                key=str(key),
                label=int(label),
                split=self.splits[split] if split < len(self.splits) else None,
                jpeg=file,
                format=FORMATS.get(int(form), "unknown"),
                fidelity=k,
            )
            for image, file, key, label, form, split in zip(
                images, files, *(columns[name] for name in names), strict=True
            )
        ]

    def _positions(self, indices: Sequence[int]) -> list[int]:
        n = len(self)
        out: list[int] = []
        for i in indices:
            if isinstance(i, bool | np.bool_):
                raise OptionError("indices must be positions, got booleans; see numpy.flatnonzero")
            at = operator.index(i)
            if not -n <= at < n:
                raise IndexError(f"index must be in 0..{n - 1}, got {at}")
            out.append(at % n)
        return out

    def _fidelities(
        self, fidelity: Fidelity | Sequence[Fidelity], n: int
    ) -> tuple[list[int], list[bool]]:
        if isinstance(fidelity, Sequence) and not isinstance(fidelity, str):
            if len(fidelity) != n:
                raise OptionError(f"expected one fidelity or {n}, got {len(fidelity)}")
            resolved = [resolve_fetch(f, self._manifest) for f in fidelity]
        elif isinstance(fidelity, np.ndarray):
            return self._fidelities(fidelity.tolist(), n)
        else:
            resolved = [resolve_fetch(fidelity, self._manifest)] * n
        return [k for k, _ in resolved], [source for _, source in resolved]


def _is_integer(value: object) -> bool:
    """Say whether a value is one, whatever its annotation promised."""
    return isinstance(value, int) and not isinstance(value, bool)


def _map(
    run: Callable[[Item, Extra], Result],
    items: Sequence[Item],
    extra: Sequence[Extra],
    *,
    threads: bool,
) -> list[Result]:
    """Run over all items; in threads where that pays, for codecs release the GIL."""
    if not threads or len(items) < 2:
        return [run(i, e) for i, e in zip(items, extra, strict=True)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(run, items, extra))


def open_dataset(
    url: str | os.PathLike[str] | ReadableStore,
    storage_options: Mapping[str, object] | None = None,
    *,
    version: int | None = None,
    engine: Engine = "auto",
    filesystem: fsspec.AbstractFileSystem | None = None,
    cost: CostModel = DEFAULT_COST,
) -> Dataset:
    """Open a dataset by reading its manifest alone: one LIST and one GET.

    Args:
        url: `s3://`, `gs://`, `az://`, `https://`, `file://`, `memory://`, any fsspec URL, a path;
            or a store of one's own.
        storage_options: As for fsspec.
        version: An older version; None: the newest.
        engine: `obstore`, `fsspec`, or `auto`: obstore where it understands every option.
        filesystem: Use this fsspec instance; `url` is then a path in it.
        cost: Prices and link; decides which ranges are read together.

    Raises:
        NotFoundError: There is no dataset, or no such version.
        FormatError: The manifest is damaged.
        UnsupportedFormatError: Written by a newer pcrstore.
        StoreError: The store cannot be reached.
    """
    store = store_of(url, storage_options, engine=engine, filesystem=filesystem)
    return dataset_in(store, version=version, cost=cost)


def dataset_in(
    store: ReadableStore, *, version: int | None = None, cost: CostModel = DEFAULT_COST
) -> Dataset:
    """Open the dataset of a store; see `open_dataset`."""
    if version is not None:
        if not _is_integer(version) or not 1 <= version <= MAX_VERSION:
            raise OptionError(
                f"version must be a positive integer, at most {MAX_VERSION}, got {version!r}"
            )
        try:
            return Dataset(store, read_manifest(store, version), cost)
        except NotFoundError:
            found = newest_version(store)
            raise NotFoundError(
                f"{store.url}: no version {version} there; the newest is {found or 'none'}"
            ) from None
    version = newest_version(store)
    if version == 0:
        raise NotFoundError(f"{store.url}: no pcrstore dataset there (it has no manifest)")
    return Dataset(store, read_manifest(store, version), cost)
