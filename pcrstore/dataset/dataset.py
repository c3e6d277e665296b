"""An open dataset: columns from the index, files and pixels of images.

ds = pcrstore.open("s3://bucket/photos")
ds.plan(range(1000), fidelity=2).n_bytes      what it would cost
ds.fetch([7, 8], fidelity="original")         files
ds.read([7, 8], fidelity=3, scale=2)          arrays
for sample in ds.iter(fidelity=3): ...        all images, record by record
"""

import operator
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import usable_cores
from pcrstore.core import integer
from pcrstore.cost import CostModel
from pcrstore.dataset.filters import matching
from pcrstore.dataset.index_reader import IndexReader
from pcrstore.dataset.planner import ImageCells, ReadPlan
from pcrstore.dataset.reader import Reader, RecordSpan
from pcrstore.dataset.sample import Sample, Traffic, samples_of
from pcrstore.dataset.versions import list_versions
from pcrstore.errors import OptionError
from pcrstore.fidelity import Fidelity, resolve, resolve_fetch
from pcrstore.format import Manifest, Values
from pcrstore.image import decode
from pcrstore.jpeg import original, require
from pcrstore.storage import RangeCache, ReadableStore

__all__ = ["Dataset"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_SPANS_AHEAD: Final = 2
"""Spans that an iteration reads while the caller has the one before: 32 MiB."""


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
        self._reader = Reader(store, manifest, cost, index=catalog)

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
        """URL of the dataset, without credentials."""
        return self._store.url

    @property
    def store(self) -> ReadableStore:
        """The store that the dataset is read from."""
        return self._store

    @property
    def cost(self) -> CostModel:
        """Prices and link by which ranges are read together."""
        return self._cost

    @property
    def index(self) -> IndexReader:
        """The index, read on demand and remembered."""
        return self._reader.index

    @property
    def catalog(self) -> IndexReader:
        """The index, by its former name."""
        return self._reader.index

    def sibling(self) -> "Dataset":
        """Return the same dataset with counters of its own; the index that was read is shared."""
        return Dataset(self._store, self._manifest, self._cost, catalog=self.index.sibling())

    def reader(self, *, cache: RangeCache | None = None, part_bytes: int | None = None) -> Reader:
        """Return a reader with a counter of its own and the same index; see `reader.Reader`."""
        return Reader(
            self._store,
            self._manifest,
            self._cost,
            cache=cache,
            part_bytes=part_bytes,
            index=self.index,
        )

    @property
    def manifest(self) -> Manifest:
        """The manifest, which opening read: classes, statistics, script, parts."""
        return self._manifest

    @property
    def version(self) -> int:
        """The version that is open, whatever is committed later."""
        return self._manifest.version

    @property
    def versions(self) -> list[int]:
        """Versions of the dataset in the store now, newest first."""
        return list_versions(self._store)

    @property
    def n_groups(self) -> int:
        """Number of scan groups, which is the highest fidelity."""
        return self._manifest.n_groups

    @property
    def n_records(self) -> int:
        """Number of records; an epoch makes at least one request for each."""
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
        index, data = self.index.counter, self._reader.counter
        return Traffic(
            index_requests=index.n_requests,
            index_bytes=index.n_bytes,
            data_requests=data.n_requests,
            data_bytes=data.n_bytes,
        )

    def column(self, name: str, indices: Sequence[int] | None = None) -> Values:
        """Return a column of all images, or of some.

        Args:
            name: One of `columns`.
            indices: Positions in the dataset; None: all.

        Returns:
            Numbers of fixed shape: an array, masked where values are null. Others: a list of text,
            bytes or arrays (n, ...), with None for null.

        Raises:
            OptionError: No such column.
            IndexError: A position outside the dataset.
        """
        images = range(len(self)) if indices is None else self._positions(indices)
        return self.index.column(name, images)

    def find(self, /, **conditions: object) -> NDArray[np.int64]:
        """Return the positions of the images that meet all conditions, ascending.

        Reads the pages of the columns named, and nothing of the images.

        Args:
            conditions: Column and value, or several of which one must match, or a function of the
                column's values, as `column` returns them, that returns a mask. `label`, `split`
                and `format` take names too. None finds images without a label, without a split, or
                whose value is null, which nothing else finds.

        Raises:
            OptionError: No such column, class, split or format, or a mask of another shape.

        Examples:
            `ds.find(split="train", label=["cat", "dog"], width=lambda w: w >= 224)`
        """
        self.index.require_backed(len(self))
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
        """Plan the reads of some images, without reading them.

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
        fidelities, originals = self._fidelities(fidelity, len(positions))
        if any(originals):
            require()

        def file(image: ImageCells) -> bytes:
            if image.restore is not None and not image.opaque:
                return original(image.cells, image.restore)
            return image.file(self.n_groups)

        images = self._reader.cells_at(positions, fidelities, originals)
        return _map(file, images, threads=any(originals))

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
        scale = integer(scale, "scale", least=1)
        if scale not in (1, 2, 4, 8):
            raise OptionError(f"scale must be 1, 2, 4 or 8, got {scale}")
        positions = self._positions(indices)
        fidelities, originals = self._fidelities(fidelity, len(positions))
        if any(originals):
            raise OptionError('"original" is for fetch; read decodes 1..G or "full"')
        orientations = [1] * len(positions)
        if apply_orientation:
            orientations = np.asarray(self.index.column("orientation", positions)).tolist()

        def decode_one(image: tuple[bytes, int]) -> NDArray[np.uint8]:
            file, orientation = image
            return decode(file, scale=scale, orientation=orientation)

        files = self._reader.files_at(positions, fidelities)
        return _map(decode_one, [*zip(files, orientations, strict=True)], threads=True)

    def batches(self) -> Iterator[range]:
        """Yield runs of whole records, each as the positions of its images, to fetch everything.

        A run has about 16 MiB at full fidelity; `fetch` reads it with the fewest requests. It is
        not a batch of a loader: runs differ in length and follow the stored order.
        """
        for span in self._reader.spans(self.n_groups, 0, self.n_records):
            yield span.images

    def __getitem__(self, index: int) -> Sample:
        """Return one image at full fidelity; `fetch` and `read` take many at once, at any."""
        images = self._positions([index])
        [sample] = samples_of(self.index, self.splits, images, self.fetch(images), self.n_groups)
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
        pool = ThreadPoolExecutor(_SPANS_AHEAD, thread_name_prefix="pcrstore-read")
        try:
            for span in self._reader.spans(k, start, stop):
                pending.append(pool.submit(self._read_span, span, k))
                if len(pending) > _SPANS_AHEAD:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _read_span(self, span: RecordSpan, k: int) -> list[Sample]:
        files = [image.file(self.n_groups) for image in self._reader.read_span(span, k)]
        return samples_of(self.index, self.splits, span.images, files, k)

    def _positions(self, indices: Sequence[int]) -> list[int]:
        """Return positions 0..N-1; those that count from the end are negative, as in a list."""
        self.index.require_backed(len(indices))
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
        """Return for each of n images its group number, and True if its source file is wanted."""
        if isinstance(fidelity, Sequence) and not isinstance(fidelity, str):
            if len(fidelity) != n:
                raise OptionError(f"expected one fidelity or {n}, got {len(fidelity)}")
            resolved = [resolve_fetch(f, self._manifest) for f in fidelity]
        elif isinstance(fidelity, np.ndarray):
            return self._fidelities(fidelity.tolist(), n)
        else:
            resolved = [resolve_fetch(fidelity, self._manifest)] * n
        return [k for k, _ in resolved], [original for _, original in resolved]


def _map(run: Callable[[Item], Result], items: Sequence[Item], *, threads: bool) -> list[Result]:
    """Run over all items, in threads where that pays: codecs release the GIL."""
    if not threads or len(items) < 2:
        return [*map(run, items)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        return [*pool.map(run, items)]
