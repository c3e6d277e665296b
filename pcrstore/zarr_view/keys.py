"""Keys and values of a dataset as a Zarr group, by range reads of either layout.

    zarr layout      the keys of the group that the dataset has, read as they are
    record layout    the same arrays, put together: chunks of regions from range reads of records,
                     metadata and side arrays from the index

A region is a scan group, or the restore blobs, of all images of a record; the array of a region
has those of all records one after the other.

Example: three records whose first groups have 40, 50 and 30 bytes: the array `group_1` has 120
bytes, and the edges of the records in it are 0, 40, 90, 120. Its even chunks of at most 100 bytes
are two of 60. Bytes 20 to 30 of chunk 1 are bytes 80 to 90 of the array, which are bytes 40 to 50
of record 1's first group: one range.
"""

import threading
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from pcrstore.core import ByteRange, place_words
from pcrstore.dataset import Counter, Dataset, IndexReader, Part, fetch_ranges, get_ranges
from pcrstore.errors import FormatError
from pcrstore.format import SideRows, even_chunk, region_specs, side_objects
from pcrstore.storage import ReadableStore

__all__ = ["Keys", "keys_of"]


class Keys(Protocol):
    """The keys of a Zarr store and their values."""

    def size(self, key: str) -> int | None:
        """Return the length of a value; None when there is no such key."""

    def read(self, key: str, start: int, stop: int) -> bytes:
        """Return bytes of a value that exists."""

    def names(self) -> Sequence[str]:
        """Return every key."""


def keys_of(ds: Dataset, chunk_bytes: int) -> Keys:
    """Return the keys of a dataset; chunks made of records have `chunk_bytes` at most."""
    index = IndexReader(ds.store, ds.manifest, ds.cost)
    parts = index.parts(range(len(ds.manifest.parts)))
    runs = [run for part in parts for run in part.directory.runs]
    groups = {run.name.rpartition("/")[0] for run in runs}
    if ds.manifest.layout == "zarr" and len(groups) == 1 and not any(run.unused for run in runs):
        return _StoredGroup(ds.store, groups.pop())
    return _RecordGroup(ds, index, parts, chunk_bytes)


class _StoredGroup:
    """The group that a dataset in zarr layout has."""

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


class _RecordGroup:
    """A group that no store has, made from the records and the index of a dataset."""

    def __init__(
        self, ds: Dataset, index: IndexReader, parts: Sequence[Part], chunk_bytes: int
    ) -> None:
        self._ds = ds
        self._index = index
        self._parts = parts
        self._counter = Counter()
        self._lock = threading.Lock()
        self._small: dict[str, bytes] | None = None
        lengths = np.concatenate([part.records["length"] for part in parts]).astype(np.int64)
        zero = np.zeros((1, lengths.shape[1]), np.int64)
        self._edges = np.concatenate((zero, np.cumsum(lengths, axis=0)))
        """First byte of each record in each region's array, and the end. (R + 1, G + 1)"""
        totals = self._edges[-1].tolist()
        self._region_arrays = region_specs(totals, [even_chunk(n, chunk_bytes) for n in totals])

    def size(self, key: str) -> int | None:
        found = self._region_chunk(key)
        if found is not None:
            return self._region_arrays[found[0]].chunk_rows
        data = self._small_values().get(key)
        return None if data is None else len(data)

    def read(self, key: str, start: int, stop: int) -> bytes:
        found = self._region_chunk(key)
        if found is None:
            return self._small_values()[key][start:stop]
        name, chunk = found
        region, spec = list(self._region_arrays).index(name), self._region_arrays[name]
        first = chunk * spec.chunk_rows
        ranges = list(self._locate(region, first + start, min(first + stop, spec.shape[0])))
        bodies = fetch_ranges(self._ds.store, ranges, self._ds.cost, self._counter)
        return b"".join(bodies).ljust(stop - start, b"\0")  # the array ends inside its last chunk

    def names(self) -> Sequence[str]:
        region_keys = (
            f"{name}/{spec.chunk_key(c)}"
            for name, spec in self._region_arrays.items()
            for c in range(spec.n_chunks)
        )
        return sorted((*region_keys, *self._small_values()))

    def _region_chunk(self, key: str) -> tuple[str, int] | None:
        """Return the array and number of a region's chunk; None for any other key."""
        name, _, chunk = key.partition("/c/")
        if name not in self._region_arrays or not (chunk.isascii() and chunk.isdecimal()):
            return None
        exists = chunk == str(int(chunk)) and int(chunk) < self._region_arrays[name].n_chunks
        return (name, int(chunk)) if exists else None

    def _locate(self, region: int, start: int, stop: int) -> Iterator[ByteRange]:
        """Yield the ranges of bytes `start` to `stop` of a region's array, in order."""
        edges = self._edges[:, region]
        record = int(np.searchsorted(edges, start, side="right")) - 1
        while start < stop:
            base, end = int(edges[record]), min(stop, int(edges[record + 1]))
            if start < end:
                part = int(np.searchsorted(self._index.record_edges, record, side="right")) - 1
                local = record - int(self._index.record_edges[part])
                placement = self._parts[part].placement(local)
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
        m = self._ds.manifest
        objects = side_objects(
            self._region_arrays,
            self._side_rows(),
            conversion=m.conversions[-1].id if m.conversions else m.uid,
            group_labels=m.group_labels,
            classes=m.classes,
        )
        return dict(objects)

    def _side_rows(self) -> SideRows:
        numbers = [(p, r) for p, part in enumerate(self._parts) for r in range(len(part.records))]
        headers = self._index.headers(numbers)
        columns = self._index.columns(["label", "key"], range(self._ds.manifest.n_images))
        return SideRows(
            lengths=np.concatenate([h.lengths for h in headers]),
            checksums=np.concatenate(
                [h.checksums ^ place_words(h.seed, h.n_images, h.n_groups) for h in headers]
            ),
            opaque=np.concatenate([h.opaque for h in headers]).astype(np.uint8),
            restore_lengths=np.concatenate(
                [self._index.restore_rows(p, r)["length"] for p, r in numbers]
            ),
            images_per_record=np.concatenate([part.records["n_images"] for part in self._parts]),
            labels=np.asarray(columns["label"], np.int32),
            keys=[str(k) for k in columns["key"]],
        )
