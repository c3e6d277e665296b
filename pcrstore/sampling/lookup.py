"""The records to fetch for the samples of a shard slice, and the order in which both are read.

    SampleSet ──(seed, epoch)──▶ EpochOrder ──positions in a shard──┐
        │                                                           ▼
        └─record tables of the shard's index parts──▶ _ShardOrder ──select──▶ ReadList

An index part is read when a slice of its shard is looked up, and not before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pcrstore.errors import OptionError
from pcrstore.sampling.order import EpochOrder, ShardSlice
from pcrstore.sampling.selection import SelectedDataset

__all__ = ["ReadList", "RecordRead", "SampleSet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRead:
    """A record, or some images of a record, that are fetched at once."""

    source: int
    """Position of the dataset among those mixed."""
    part: int
    """Number of the index part in the dataset."""
    record: int
    """Number of the record in its index part."""
    number: int
    """Number of the record in the dataset."""
    images: NDArray[np.int64]
    """Positions in the dataset, ascending."""
    slots: tuple[int, ...] | None
    """Positions of the images in the record; None: the whole record."""
    first_use: int
    """First sample of the read list that needs the record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadList:
    """The samples of a shard slice in reading order, and the records that hold them.

    Sample i is image `slot[i]` of `reads[read_index[i]]`.
    """

    reads: list[RecordRead]
    """Reads by first use."""
    read_index: NDArray[np.int64]
    """Position in `reads` of each sample. (n,)"""
    slot: NDArray[np.int64]
    """Position of each sample among the images of its read. (n,)"""
    source: NDArray[np.int64]
    """Position of each sample's dataset among those mixed. (n,)"""
    image: NDArray[np.int64]
    """Position in its dataset of each sample. (n,)"""
    crop_key: NDArray[np.uint64]
    """Key by which the crop of each sample is drawn. (n,)"""

    def __len__(self) -> int:
        return len(self.read_index)


class SampleSet:
    """The images that a loader reads.

    Args:
        sources: Selected images of at least one dataset, none of them empty.
        counts: Samples that an epoch reads of each source.

    Raises:
        OptionError: No image of a source is selected.
    """

    def __init__(self, sources: Sequence[SelectedDataset], counts: Sequence[int]) -> None:
        empty = [s.dataset.url for s in sources if not len(s)]
        if empty:
            raise OptionError(f"{empty[0]}: no image is selected")
        self.sources = tuple(sources)
        self.counts = tuple(counts)
        self._blocks = [s.blocks() for s in sources]
        self._last: tuple[EpochOrder, int, _ShardOrder] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave the last shard order behind, whose arrays have an entry for every image."""
        return {**self.__dict__, "_last": None}

    def order(self, *, seed: int, epoch: int, shuffle: bool, window: int) -> EpochOrder:
        """Return the order of an epoch."""
        return EpochOrder(
            self._blocks, self.counts, seed=seed, epoch=epoch, shuffle=shuffle, window=window
        )

    def read_list(self, order: EpochOrder, shard_slice: ShardSlice) -> ReadList:
        """Look up the records of a slice; reads the record tables of its shard's index parts."""
        last = self._last
        # A resumed epoch has many slices of the same shard.
        if last is None or last[0] is not order or last[1] != shard_slice.shard:
            shard = shard_slice.shard
            last = self._last = (order, shard, self._shard_order(order, shard))
        return last[2].select(order.walk(shard_slice))

    def _shard_order(self, order: EpochOrder, shard: int) -> "_ShardOrder":
        """Lay out the samples of a shard, record after record.

        For the example of `pcrstore.sampling.order`, one run of 12 images in records of 3:

            starts       0  3  6  9                    first image of each record, in the runs
            permutation  1  2  0  3                    records in hashed order
            at           3  6  0  9                    starts[permutation]
            counts       3  3  3  3                    images of each of these records
            where        3  4  5  6  7  8  0  1  2 ..  each record's images, one after the other
        """
        runs = order.runs(shard)
        sources = [self.sources[run.source] for run in runs]
        images = [s.images(r.start, r.stop) for s, r in zip(sources, runs, strict=True)]
        found = [s.dataset.index.locate(i) for s, i in zip(sources, images, strict=True)]
        # Records begin where their number changes: first within each run, then over all runs.
        firsts = [np.flatnonzero(np.diff(f.number, prepend=-1)) for f in found]
        offsets = np.cumsum([0, *map(len, images)])
        starts = np.concatenate([f + o for f, o in zip(firsts, offsets[:-1], strict=True)])
        numbers = [f.number[first] for f, first in zip(found, firsts, strict=True)]
        permutation = order.order_of_records(runs, numbers)
        at = starts[permutation]
        counts = np.diff(starts, append=offsets[-1])[permutation]
        # A record that begins at 6 in the runs and at 3 in the shard order moves its images by 3.
        where = np.repeat(at - np.cumsum(counts) + counts, counts) + np.arange(offsets[-1])
        keys = [order.crop_keys(r, i) for r, i in zip(runs, images, strict=True)]
        return _ShardOrder(
            source=np.repeat([r.source for r in runs], np.diff(offsets))[at],
            part=np.concatenate([f.part for f in found])[at],
            record=np.concatenate([f.record for f in found])[at],
            number=np.concatenate(numbers)[permutation],
            record_size=np.concatenate([f.record_size for f in found])[at],
            record_index=np.repeat(np.arange(len(counts)), counts),
            image=np.concatenate(images)[where],
            slot=np.concatenate([f.slot for f in found])[where],
            crop_key=np.concatenate(keys)[where],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShardOrder:
    """The records (R,) of a shard in hashed order, and their samples (n,), record after record."""

    source: NDArray[np.int64]
    """Position of each record's dataset among those mixed. (R,)"""
    part: NDArray[np.int64]
    """Index part of each record. (R,)"""
    record: NDArray[np.int64]
    """Number of each record in its index part. (R,)"""
    number: NDArray[np.int64]
    """Number of each record in its dataset. (R,)"""
    record_size: NDArray[np.int64]
    """Images of the whole record, selected or not. (R,)"""
    record_index: NDArray[np.int64]
    """Position of each sample's record among these records, ascending. (n,)"""
    image: NDArray[np.int64]
    """Position of each sample in its dataset. (n,)"""
    slot: NDArray[np.int64]
    """Position of each sample in its record, ascending within a record. (n,)"""
    crop_key: NDArray[np.uint64]
    """Key by which the crop of each sample is drawn. (n,)"""

    def select(self, positions: NDArray[np.int64]) -> ReadList:
        """Return the samples at some positions, in the order given.

        For positions 5, 1 and 4 of records of 3, which are samples of records 1, 0 and 1:

            records     0  1        records with a sample, ascending
            first       1  0        first sample of each of them
            by_use      1  0        records by their first sample: record 1 is read first
            member      1  0  1     position of each sample's record in `records`
            ascending   1  4  5     positions sorted, which groups them by record
            edges       0  1  3     record 0 has ascending[0:1], record 1 has ascending[1:3]
            slot        1  0  0     5 is the second of record 1, after 4
            read_index  0  1  0
        """
        record_of = self.record_index[positions]
        records, first, member = np.unique(record_of, return_index=True, return_inverse=True)
        by_use = np.argsort(first, kind="stable")
        rank = np.empty(len(records), np.int64)
        rank[by_use] = np.arange(len(records))
        ascending = np.sort(positions)
        counts = np.bincount(member, minlength=len(records))
        edges = np.concatenate(([0], np.cumsum(counts)))
        images, slots = self.image[ascending], self.slot[ascending]
        # Lists: taking single elements of arrays would make a NumPy scalar of each.
        rows = zip(
            *(
                column[records[by_use]].tolist()
                for column in (self.source, self.part, self.record, self.number, self.record_size)
            ),
            edges[by_use].tolist(),
            counts[by_use].tolist(),
            first[by_use].tolist(),
            strict=True,
        )
        return ReadList(
            reads=[
                RecordRead(
                    source=source,
                    part=part,
                    record=record,
                    number=number,
                    images=images[start : start + count],
                    slots=None if count == size else tuple(slots[start : start + count].tolist()),
                    first_use=first_use,
                )
                for source, part, record, number, size, start, count, first_use in rows
            ],
            read_index=rank[member],
            slot=np.searchsorted(ascending, positions) - edges[member],
            source=self.source[record_of],
            image=self.image[positions],
            crop_key=self.crop_key[positions],
        )
