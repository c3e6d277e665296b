"""What a loader reads: some images of some datasets, and where a shard's samples lie in records.

datasets, selections, weights ──▶ SampleSet ──(seed, epoch)──▶ EpochOrder
                                      │ record tables               │ stretch
                                      ▼                             ▼
                                   ReadList: units (records), and samples in reading order

`pcrstore.sampling.order` says what the words mean.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import integer, real
from pcrstore.dataset import Dataset
from pcrstore.errors import OptionError
from pcrstore.sampling.order import EpochOrder, ShardSlice

__all__ = ["Mix", "ReadList", "RecordRead", "SampleSet", "SelectedDataset", "mix_of"]

_MOST_SAMPLES: Final = 2**40
"""Of an epoch of a mix. It is held as a stretch for every 2^18 of them."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Several datasets read as one, each as often as its weight says.

    An epoch has as many samples as the datasets have images together, or `epoch_size`; a dataset
    with more than its share is read on in the next epoch, one with less is read again.

    Raises:
        OptionError: On making one: not a mapping of URLs or datasets to weights over 0, or a size
            that is none.
    """

    weights: Mapping[str | os.PathLike[str] | Dataset, float] = field(repr=False)
    """URLs or open datasets, and their shares relative to each other."""
    epoch_size: int | None = None

    def __post_init__(self) -> None:
        given: object = self.weights
        if not isinstance(given, Mapping):
            kind = type(given).__name__
            raise OptionError(f"a mix must be a mapping of datasets to weights, got a {kind}")
        if not self.weights:
            raise OptionError("a mix must have at least one dataset, got none")
        for data in self.weights:
            _check_data(data)
        if not all(0 < real(w, "a weight") < float("inf") for w in self.weights.values()):
            raise OptionError(f"weights must be over 0, got {list(self.weights.values())}")
        if self.epoch_size is not None:
            size = integer(self.epoch_size, "epoch_size", least=1, most=_MOST_SAMPLES)
            object.__setattr__(self, "epoch_size", size)


def _check_data(data: object) -> None:
    # Its kind alone is said, for a URL may have a password in it.
    if not isinstance(data, str | os.PathLike | Dataset):
        kind = type(data).__name__
        raise OptionError(f"a dataset must be a URL, a path or an open dataset, got a {kind}")


def mix_of(data: object) -> Mix:
    """Return a mix as it is, and of a URL, a path or an open dataset a mix of that alone.

    Raises:
        OptionError: Something else.
    """
    if isinstance(data, Mix):
        return data
    _check_data(data)
    return Mix({data: 1.0})  # type: ignore[dict-item]  # as just looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedDataset:
    """The images of one dataset that are read."""

    dataset: Dataset
    positions: NDArray[np.int64] | None = None
    """Ascending positions in the dataset; None: all."""

    def __len__(self) -> int:
        return len(self.dataset) if self.positions is None else len(self.positions)

    def blocks(self) -> NDArray[np.int64]:
        """Return where index parts begin among the images selected, and their number."""
        edges = self.dataset.index.image_edges
        if self.positions is not None:
            edges = np.searchsorted(self.positions, edges).astype(np.int64)
        return np.unique(edges)

    def images(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions in the dataset of selected images start..stop."""
        if self.positions is None:
            return np.arange(start, stop)
        return self.positions[start:stop]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRead:
    """A record, or the images of one that a stretch reads: what is fetched at once."""

    source: int
    part: int
    record: int
    """Counted in the part."""
    number: int
    """The record counted in the dataset."""
    images: NDArray[np.int64]
    """Positions in the dataset, ascending."""
    slots: tuple[int, ...] | None
    """Positions in the record; None: it is read whole."""
    first_use: int
    """First of the leaflet's samples that needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadList:
    """The samples of a stretch in the order in which they are read."""

    units: list[RecordRead]
    """By first use."""
    unit: NDArray[np.int64]
    """Position in `units` of each sample. (n,)"""
    slot: NDArray[np.int64]
    """Position of each sample among its unit's images. (n,)"""
    source: NDArray[np.int64]
    """(n,)"""
    image: NDArray[np.int64]
    """Position in its dataset of each sample. (n,)"""
    crop_key: NDArray[np.uint64]
    """What the crop of each sample is drawn by. (n,)"""

    def __len__(self) -> int:
        return len(self.unit)


class SampleSet:
    """The images that a loader reads.

    Args:
        sources: At least one, none of them empty.
        counts: Samples that an epoch reads of each.
    """

    def __init__(self, sources: Sequence[SelectedDataset], counts: Sequence[int]) -> None:
        empty = [s.dataset.url for s in sources if not len(s)]
        if empty:
            raise OptionError(f"{empty[0]}: no image is selected")
        self.sources = tuple(sources)
        self.counts = tuple(counts)
        self._blocks = [s.blocks() for s in sources]
        self._last: tuple[EpochOrder, int, _ShardOrder] | None = None

    def order(self, *, seed: int, epoch: int, shuffle: bool, window: int) -> EpochOrder:
        """Return the order of an epoch."""
        return EpochOrder(
            self._blocks, self.counts, seed=seed, epoch=epoch, shuffle=shuffle, window=window
        )

    def __getstate__(self) -> dict[str, object]:
        """Leave the last line behind: it has an array for every image of a shard."""
        return {**self.__dict__, "_last": None}

    def leaflet(self, order: EpochOrder, stretch: ShardSlice) -> ReadList:
        """Look up the records of a stretch: reads record tables of the parts of its shard."""
        last = self._last
        # A resumed epoch has many stretches of the same shard.
        if last is None or last[0] is not order or last[1] != stretch.shard:
            last = self._last = (order, stretch.shard, self._line(order, stretch.shard))
        return last[2].read(order.walk(stretch))

    def _line(self, order: EpochOrder, shard: int) -> "_ShardOrder":
        runs = order.runs(shard)
        sources = [self.sources[run.source] for run in runs]
        images = [s.images(r.start, r.stop) for s, r in zip(sources, runs, strict=True)]
        found = [s.dataset.index.locate(i) for s, i in zip(sources, images, strict=True)]
        # Where each record begins among its run's images, then among those of all runs.
        firsts = [np.flatnonzero(np.diff(f.number, prepend=-1)) for f in found]
        offsets = np.cumsum([0, *map(len, images)])
        starts = np.concatenate([f + o for f, o in zip(firsts, offsets[:-1], strict=True)])
        numbers = [f.number[first] for f, first in zip(found, firsts, strict=True)]
        permutation = order.order_of_records(runs, numbers)
        at = starts[permutation]
        counts = np.diff(starts, append=offsets[-1])[permutation]
        where = np.repeat(at - np.cumsum(counts) + counts, counts) + np.arange(offsets[-1])
        keys = [order.crop_keys(r, i) for r, i in zip(runs, images, strict=True)]
        return _ShardOrder(
            source=np.repeat([r.source for r in runs], np.diff(offsets))[at],
            part=np.concatenate([f.part for f in found])[at],
            record=np.concatenate([f.record for f in found])[at],
            number=np.concatenate(numbers)[permutation],
            record_size=np.concatenate([f.record_size for f in found])[at],
            unit=np.repeat(np.arange(len(counts)), counts),
            image=np.concatenate(images)[where],
            slot=np.concatenate([f.slot for f in found])[where],
            crop_key=np.concatenate(keys)[where],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ShardOrder:
    """A shard's line: units (U,) in the epoch's order, and their samples (n,)."""

    source: NDArray[np.int64]
    part: NDArray[np.int64]
    record: NDArray[np.int64]
    number: NDArray[np.int64]
    record_size: NDArray[np.int64]
    unit: NDArray[np.int64]
    image: NDArray[np.int64]
    slot: NDArray[np.int64]
    crop_key: NDArray[np.uint64]

    def read(self, at: NDArray[np.int64]) -> ReadList:
        """Return the samples at some positions of the line, in the order given."""
        unit = self.unit[at]
        numbers, first, position = np.unique(unit, return_index=True, return_inverse=True)
        by_use = np.argsort(first, kind="stable")
        rank = np.empty(len(numbers), np.int64)
        rank[by_use] = np.arange(len(numbers))
        # Positions of the line ascend with a unit's images, so sorting them groups by unit.
        sorted_at = np.sort(at)
        counts = np.bincount(position, minlength=len(numbers))
        edges = np.concatenate(([0], np.cumsum(counts)))
        slot = np.searchsorted(sorted_at, at) - edges[position]
        units: list[RecordRead] = []
        rows = zip(
            *(
                column[numbers[by_use]].tolist()
                for column in (self.source, self.part, self.record, self.number, self.record_size)
            ),
            edges[by_use].tolist(),
            counts[by_use].tolist(),
            first[by_use].tolist(),
            strict=True,
        )
        images, slots = self.image[sorted_at], self.slot[sorted_at]
        for source, part, record, number, size, start, count, use in rows:
            units.append(
                RecordRead(
                    source=source,
                    part=part,
                    record=record,
                    number=number,
                    images=images[start : start + count],
                    slots=None if count == size else tuple(slots[start : start + count].tolist()),
                    first_use=use,
                )
            )
        return ReadList(
            units=units,
            unit=rank[position],
            slot=slot,
            source=self.source[unit],
            image=self.image[at],
            crop_key=self.crop_key[at],
        )
