"""Any dataset as a read-only Zarr v3 group: the arrays of the zarr layout, whatever the layout is.

    view = zarr_view("s3://bucket/photos")
    i = view["image_offsets"][7]                       first byte of image 7 in each array
    view["group_1"][i[0] : view["image_offsets"][8, 0]]

A record layout dataset has no such arrays: their chunks are put together from range reads of its
records, coalesced as the cost model finds cheapest, and the arrays beside them from the index. A
chunk holds parts of cells, so that nothing here checks a cell; `image_checksums` is for that.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import ByteRange, place_words
from pcrstore.cost import CostModel
from pcrstore.dataset import (
    Counter,
    Dataset,
    IndexReader,
    Part,
    fetch_ranges,
    get_ranges,
    open_dataset,
)
from pcrstore.errors import FormatError, MissingDependencyError
from pcrstore.format import (
    CHUNK_BYTES,
    ArraySpec,
    Manifest,
    chunks,
    group_json,
    side_arrays,
    side_spec,
    stream_specs,
)
from pcrstore.storage import ReadableStore

try:
    import zarr
    from zarr.abc.store import (
        ByteRequest,
        OffsetByteRequest,
        RangeByteRequest,
        Store,
        SuffixByteRequest,
    )
    from zarr.core.buffer import Buffer, BufferPrototype
except ImportError as e:
    raise MissingDependencyError(
        "a Zarr view needs the zarr package: pip install 'pcrstore[zarr]'"
    ) from e

__all__ = ["ZarrStore", "zarr_view"]


def zarr_view(
    url_or_dataset: str | Dataset, storage_options: Mapping[str, object] | None = None
) -> zarr.Group:
    """Return a dataset as a read-only Zarr group.

    Args:
        url_or_dataset: Where the dataset is, or the dataset opened (a version of it, say).
        storage_options: As for `pcrstore.open`, for a URL.

    Returns:
        The group: `group_1` .. `group_G`, `restore`, `record_first_image`, `image_offsets`,
        `image_checksums`, `opaque`, `labels`, `key_bytes`, `key_offsets`; see FORMAT.md, 5.

    Raises:
        StoreError: The store cannot be reached.
        FormatError: The manifest or an index part is damaged.
    """
    ds = (
        open_dataset(url_or_dataset, storage_options)
        if isinstance(url_or_dataset, str)
        else url_or_dataset
    )
    return zarr.open_group(store=ZarrStore(ds), mode="r", zarr_format=3)


class ZarrStore(Store):
    """A read-only Zarr store over a dataset of either layout."""

    supports_writes = False
    supports_deletes = False
    supports_listing = True

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(read_only=True)
        self._dataset = dataset
        self._keys = _keys_of(dataset)

    def __getstate__(self) -> Dataset:
        return self._dataset

    def __setstate__(self, dataset: Dataset) -> None:
        self.__init__(dataset)  # type: ignore[misc]  # what was pickled

    def __repr__(self) -> str:
        return f"ZarrStore({self._dataset!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZarrStore) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, int]:
        return self._dataset.url, self._dataset.version

    def with_read_only(self, read_only: bool = False) -> "ZarrStore":  # noqa: FBT001, FBT002 - zarr's
        """Return this store: there is no other kind."""
        if not read_only:
            self._refuse()
        return self

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return a value or some of its bytes; None when there is no such key."""
        data = await asyncio.to_thread(self._get, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    def _get(self, key: str, wanted: ByteRequest | None) -> bytes | None:
        size = self._keys.size(key)
        if size is None:
            return None
        start, stop = 0, size
        if isinstance(wanted, RangeByteRequest):
            start, stop = wanted.start, wanted.end
        elif isinstance(wanted, OffsetByteRequest):
            start = wanted.offset
        elif isinstance(wanted, SuffixByteRequest):
            start = size - wanted.suffix
        start = min(max(start, 0), size)
        return self._keys.read(key, start, min(max(stop, start), size))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return some bytes of several values."""
        return await asyncio.gather(*(self.get(k, prototype, r) for k, r in key_ranges))

    async def exists(self, key: str) -> bool:
        """Say whether there is such a key."""
        return await asyncio.to_thread(self._keys.size, key) is not None

    async def getsize(self, key: str) -> int:
        """Return the length of a value in bytes."""
        size = await asyncio.to_thread(self._keys.size, key)
        if size is None:
            raise FileNotFoundError(key)
        return size

    async def list(self) -> AsyncIterator[str]:
        """Yield every key."""
        for key in await asyncio.to_thread(self._keys.names):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys that start with `prefix`."""
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names right below the folder `prefix`."""
        folder = f"{prefix.rstrip('/')}/" if prefix.rstrip("/") else ""
        keys = await asyncio.to_thread(self._keys.names)
        below = (k.removeprefix(folder).split("/")[0] for k in keys if k.startswith(folder))
        for name in dict.fromkeys(below):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse."""
        del key, value
        self._refuse()

    async def delete(self, key: str) -> None:
        """Refuse."""
        del key
        self._refuse()

    def _refuse(self) -> NoReturn:
        # ValueError is what zarr's own stores raise, by `_check_writable`.
        raise ValueError(f"{self!r} is read-only: convert to make a dataset")


class _Keys(Protocol):
    """What a Zarr store holds, by key."""

    def size(self, key: str) -> int | None:
        """Return the length of a value; None when there is no such key."""

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Return bytes of a value that exists."""

    def names(self) -> Sequence[str]:
        """Return every key."""


def _keys_of(ds: Dataset) -> _Keys:
    catalog = IndexReader(ds.store, ds.manifest, ds.cost)
    parts = catalog.parts(range(len(ds.manifest.parts)))
    groups = {o.name for part in parts for o in part.directory.objects}
    if ds.manifest.layout == "zarr" and len(groups) == 1:
        return _StoredGroup(ds.store, groups.pop())
    return _ViewedGroup(ds.store, ds.manifest, ds.cost, catalog, parts)


class _StoredGroup:
    """The keys of a group that a zarr layout dataset has."""

    def __init__(self, store: ReadableStore, folder: str) -> None:
        self._store = store
        self._folder = folder
        self._lock = threading.Lock()
        self._sizes: dict[str, int] | None = None

    def _listed(self) -> dict[str, int]:
        with self._lock:
            if self._sizes is None:
                n = len(self._folder) + 1
                self._sizes = {e.name[n:]: e.n_bytes for e in self._store.list(self._folder)}
            return self._sizes

    def size(self, key: str) -> int | None:
        size = self._listed().get(key)
        if size is None and "/c/" in key:
            # Zarr would read a chunk that is gone as zeros.
            raise FormatError(f"{self._store.url}: {self._folder}/{key} is missing")
        return size

    def read(self, key: str, start: int, stop: int) -> bytes:
        return get_ranges(self._store, [ByteRange(f"{self._folder}/{key}", start, stop)])[0]

    def names(self) -> Sequence[str]:
        return sorted(self._listed())


class _ViewedGroup:
    """The keys of a group that no store has, made from records and index."""

    def __init__(
        self,
        store: ReadableStore,
        manifest: Manifest,
        cost: CostModel,
        catalog: IndexReader,
        parts: Sequence[Part],
    ) -> None:
        self._store, self._manifest, self._cost = store, manifest, cost
        self._catalog = catalog
        self._parts = parts
        self._counter = Counter()
        self._lock = threading.Lock()
        self._small: dict[str, bytes] | None = None
        lengths = np.concatenate([part.records["length"] for part in parts]).astype(np.int64)
        zero = np.zeros((1, lengths.shape[1]), np.int64)
        self._edges: NDArray[np.int64] = np.concatenate((zero, np.cumsum(lengths, axis=0)))
        """Where each record's regions start in their arrays, and end. (R + 1, G + 1)"""
        totals = self._edges[-1].tolist()
        self._streams = stream_specs(totals, [_even_chunk(n) for n in totals])

    def size(self, key: str) -> int | None:
        found = self._stream_chunk(key)
        if found is not None:
            return self._streams[found[0]].chunk_rows
        data = self._small_values().get(key)
        return None if data is None else len(data)

    def read(self, key: str, start: int, stop: int) -> bytes:
        found = self._stream_chunk(key)
        if found is None:
            return self._small_values()[key][start:stop]
        name, chunk = found
        region, spec = list(self._streams).index(name), self._streams[name]
        first = chunk * spec.chunk_rows
        ranges = list(self._locate(region, first + start, min(first + stop, spec.shape[0])))
        bodies = fetch_ranges(self._store, ranges, self._cost, self._counter)
        return b"".join(bodies).ljust(stop - start, b"\0")  # the array ends inside its last chunk

    def names(self) -> Sequence[str]:
        streams = (
            f"{name}/{spec.chunk_key(c)}"
            for name, spec in self._streams.items()
            for c in range(spec.n_chunks)
        )
        return sorted((*streams, *self._small_values()))

    def _stream_chunk(self, key: str) -> tuple[str, int] | None:
        """Return array and number of a chunk of a region's array; None for any other key."""
        name, _, chunk = key.partition("/c/")
        if name not in self._streams or not (chunk.isascii() and chunk.isdecimal()):
            return None
        exists = chunk == str(int(chunk)) and int(chunk) < self._streams[name].n_chunks
        return (name, int(chunk)) if exists else None

    def _locate(self, region: int, start: int, stop: int) -> Iterator[ByteRange]:
        """Yield where bytes of a region's array lie, in order."""
        edges = self._edges[:, region]
        record = int(np.searchsorted(edges, start, side="right")) - 1
        while start < stop:
            base, end = int(edges[record]), min(stop, int(edges[record + 1]))
            if start < end:
                part = int(np.searchsorted(self._catalog.record_edges, record, side="right")) - 1
                local = record - int(self._catalog.record_edges[part])
                placement = self._parts[part].placement(local, self._manifest.chunk_bytes)
                yield from placement.locate(region, start - base, end - base)
                start = end
            record += 1

    def _small_values(self) -> dict[str, bytes]:
        """Return all metadata and the chunks of the arrays beside the regions, read once."""
        with self._lock:
            if self._small is None:
                self._small = self._make_small_values()
            return self._small

    def _make_small_values(self) -> dict[str, bytes]:
        specs: dict[str, ArraySpec] = dict(self._streams)
        out: dict[str, bytes] = {}
        for name, values in self._side_arrays().items():
            specs[name] = side_spec(values)
            out.update({f"{name}/{k}": v for k, v in chunks(values, specs[name]).items()})
        m = self._manifest
        attributes = {
            "pcrstore": {"conversion": m.conversion, "groups": list(m.group_labels)},
            "classes": list(m.classes),
        }
        return {**out, **group_json(specs, attributes)}

    def _side_arrays(self) -> dict[str, NDArray[np.generic]]:
        numbers = [(p, r) for p, part in enumerate(self._parts) for r in range(len(part.records))]
        headers = self._catalog.headers(numbers)
        columns = self._catalog.columns(["label", "key"], range(self._manifest.n_images))
        return side_arrays(
            lengths=np.concatenate([h.lengths for h in headers]),
            checksums=np.concatenate(
                [h.checksums ^ place_words(h.seed, h.n_images, h.n_groups) for h in headers]
            ),
            opaque=np.concatenate([h.opaque for h in headers]).astype(np.uint8),
            restore_lengths=np.concatenate(
                [self._catalog.restore_rows(p, r)["length"] for p, r in numbers]
            ),
            images_per_record=np.concatenate([part.records["n_images"] for part in self._parts]),
            labels=np.asarray(columns["label"], np.int32),
            keys=[str(k) for k in columns["key"]],
        )


def _even_chunk(n_bytes: int) -> int:
    """Return a chunk size of about `CHUNK_BYTES` that leaves the last chunk almost full."""
    n_chunks = max(1, -(-n_bytes // CHUNK_BYTES))
    return max(1, -(-n_bytes // n_chunks))
