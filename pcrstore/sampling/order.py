"""The order in which an epoch reads its samples: a function of sizes, seed and epoch.

Pure. Nobody holds the order of an epoch; everybody computes the stretch of it that they read.

    sources ──▶ canonical shards ──▶ a line per shard ──▶ its order
               blocks of images,    records, each whole,   every sample moves on by a hash
               hashed, cut into     hashed                 below `window`, then sort
               equal shares

A shard is made from sizes alone; only who reads from a shard looks up its records. A sample's code
is its place in the shard's order: (position on the line + hash % window, position). So a batch is
drawn from about `window` samples, reading begins with the first few records, a record is read once
and is done with `window` samples later, and neighbours on the line can be given to different
readers without one reading the other's records.

What is still to be read of an epoch is a list of stretches: samples of a shard with a position in
start..stop and a code of at least `after`. A stretch cut between readers, or read in part, leaves
stretches; so an epoch that was stopped anywhere goes on with any number of readers.

A source of n images of which the epoch reads c is an endless line of passes, each in an order of
its own; epoch e reads c images from e * c on. Two epochs of half a source read all of it.

The words, from what an epoch is made of to what is fetched for a sample:

    block     the selected images of one index part; a pass takes blocks in hashed order
    shard     an equal share of an epoch, of about 2^18 samples at most
    run       neighbours within a block, in one pass, that belong to one shard
    line      the samples of a shard, record after record; a sample has a position on it
    window    a sample moves on by fewer positions than that, at the line's ends by fewer still
    stretch   samples of a line that are still to be read: start..stop, with codes from `after` on
    leg       `shares`: one start or resumption of an epoch: stretches, and who reads them
    leaflet   `population`: a stretch in reading order, once its records were looked up
    unit      `population`: a record, or those of its images that a leaflet has; fetched at once
    slot      the position of a sample among its unit's images; in `RecordRead.slots`, in the record
    lane      `prefetch`: a leaflet that is being read: what was asked for of it, and what came

`reader.Window`, the units of a conversion and the runs of `ray` are other things.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import hashes, integer, key_of
from pcrstore.errors import OptionError

__all__ = ["MAX_EPOCH", "EpochOrder", "Run", "ShardSlice", "cut", "n_of", "skip"]

MAX_EPOCH: Final = 2**62
"""Workers see it in 64 bits."""

_MAX_SEED: Final = 2**64 - 1
"""Keys are of 64 bits: a seed above would have the order of one below."""

_MAX_WINDOW: Final = 2**24

SHARD_IMAGES: Final = 2**18
"""Images of a canonical shard: 4 index parts, so that a reader of 1/64 of a large dataset reads
the record tables of its own share; 20 ms to sort."""

_BLOCKS, _RECORDS, _LINE, _CROPS = range(4)
"""What a hash is for: the first word of its key."""

_POSITION_BITS: Final = 31

_FIRST_REACH: Final = 64
"""The window of a shard's first sample; it grows with the position. The first batch of 64 then
comes from about 120 samples instead of 360, with a third of the bytes and of the wait. Towards the
end it shrinks: no sample moves over more than half of what is left, so that when the last record
of 38 images comes, 46 samples are left to decode instead of 508, and of the last ten, which come
together, 505 instead of 854, while the link has nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Images of one source that belong to one shard: a run of the source's selected images."""

    source: int
    turn: int
    """Pass over the source, counted over all epochs: it decides the order."""
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSlice:
    """Samples of a shard that are still to be read."""

    shard: int
    start: int
    """First position on the shard's line."""
    stop: int
    after: int = 0
    """Lowest code that is still to be read."""


class EpochOrder:
    """The order of one epoch.

    Args:
        blocks: For each source the edges of its blocks of images, from 0 to its size: (B + 1,).
            What lies in one block is read near in time: an index part.
        counts: Samples that an epoch reads of each source.
        seed: With `epoch`, the only source of randomness.
        epoch: From 0.
        shuffle: False: stored order.
        window: Samples among which a sample moves; 1 leaves whole records together.

    Raises:
        OptionError: A size, seed or epoch that is none.
    """

    def __init__(
        self,
        blocks: Sequence[NDArray[np.int64]],
        counts: Sequence[int],
        *,
        seed: int,
        epoch: int,
        shuffle: bool,
        window: int,
    ) -> None:
        self._seed = integer(seed, "seed", least=0, most=_MAX_SEED)
        self._epoch = integer(epoch, "epoch", least=0, most=MAX_EPOCH)
        self._window = integer(window, "shuffle_window", least=1, most=_MAX_WINDOW)
        if not isinstance(shuffle, bool):
            raise OptionError(f"shuffle must be true or false, got {shuffle!r}")
        self._shuffle = shuffle
        self._blocks = [np.asarray(b, np.int64) for b in blocks]
        self._counts = tuple(counts)
        for edges, count in zip(self._blocks, self._counts, strict=True):
            if count < 0 or count > edges[-1] == 0:
                raise OptionError(f"an epoch cannot read {count} of {edges[-1]} images")
        self._n_left: dict[ShardSlice, int] = {}
        self.n_samples = sum(self._counts)
        """Samples of the epoch."""
        self.n_shards = max(1, -(-self.n_samples // SHARD_IMAGES))

    def _share(self, source: int, shard: int) -> tuple[int, int]:
        """Return what a shard holds of a source's endless line, as start and stop."""
        count = self._counts[source]
        base = self._epoch * count
        return (
            base + shard * count // self.n_shards,
            base + (shard + 1) * count // self.n_shards,
        )

    def size(self, shard: int) -> int:
        """Return the samples of a shard."""
        return sum(b - a for a, b in (self._share(s, shard) for s in range(len(self._counts))))

    def runs(self, shard: int) -> list[Run]:
        """Return the images of a shard."""
        return [r for s in range(len(self._counts)) for r in self._runs(s, *self._share(s, shard))]

    def _runs(self, source: int, start: int, stop: int) -> Iterator[Run]:
        edges = self._blocks[source]
        n = int(edges[-1])
        while start < stop:
            turn, at = divmod(start, n)
            end = min(n, at + stop - start)
            order = self._order_of_blocks(source, turn)
            line = np.concatenate(([0], np.cumsum(np.diff(edges)[order])))
            first = int(np.searchsorted(line, at, side="right")) - 1
            for i in range(first, len(order)):
                a, b = max(at, int(line[i])), min(end, int(line[i + 1]))
                if line[i] >= end:
                    break
                if a == b:  # a block of which nothing is selected
                    continue
                shift = int(edges[order[i]]) - int(line[i])
                yield Run(source=source, turn=turn, start=a + shift, stop=b + shift)
            start += end - at

    def _order_of_blocks(self, source: int, turn: int) -> NDArray[np.int64]:
        numbers = np.arange(len(self._blocks[source]) - 1)
        if not self._shuffle:
            return numbers
        return np.argsort(hashes(key_of(_BLOCKS, self._seed, source, turn), numbers), kind="stable")

    def order_of_records(
        self, runs: Sequence[Run], records: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """Return the order of records on a shard's line.

        Args:
            runs: The shard's.
            records: The numbers of the records of each run, counted in their source.

        Returns:
            Positions in the concatenation of `records`.
        """
        n = sum(map(len, records))
        if not self._shuffle or not n:
            return np.arange(n)
        words = [
            hashes(key_of(_RECORDS, self._seed, run.source, run.turn), of_run)
            for run, of_run in zip(runs, records, strict=True)
        ]
        return np.argsort(np.concatenate(words), kind="stable")

    def crop_keys(self, run: Run, images: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return the keys by which the crops of images are drawn.

        Args:
            run: A run that holds them.
            images: Positions in the dataset.
        """
        first = self._epoch * self._counts[run.source] // int(self._blocks[run.source][-1])
        return crop_keys(self._seed, self._epoch, run.source, images, repeat=run.turn - first)

    def codes(self, shard: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the codes of positions start..stop of a shard's line."""
        line = np.arange(start, stop, dtype=np.int64)
        moved = line
        if self._shuffle:
            words = hashes(key_of(_LINE, self._seed, self._epoch, shard), line)
            edge = np.minimum(line + _FIRST_REACH, (self.size(shard) - line + 1) // 2)
            reach = np.minimum(edge, self._window).astype(np.uint64)
            moved = line + (words % reach).astype(np.int64)
        return (moved << _POSITION_BITS) | line

    def walk(self, stretch: ShardSlice) -> NDArray[np.int64]:
        """Return the positions of a stretch in the order in which they are read."""
        codes = np.sort(self.codes(stretch.shard, stretch.start, stretch.stop))
        left = codes[np.searchsorted(codes, stretch.after) :]
        return left & ((1 << _POSITION_BITS) - 1)

    def all(self) -> list[ShardSlice]:
        """Return the whole epoch."""
        sizes = [self.size(s) for s in range(self.n_shards)]
        return [ShardSlice(shard=s, start=0, stop=n) for s, n in enumerate(sizes) if n]

    def left(self, stretch: ShardSlice) -> NDArray[np.int64]:
        """Return the positions of a stretch that are still to be read, ascending."""
        near, border = self._near(stretch)
        return np.concatenate((near, np.arange(border, stretch.stop)))

    def n_left(self, stretch: ShardSlice) -> int:
        """Return the samples of a stretch that are still to be read; costs one window, once."""
        if not stretch.after:
            return stretch.stop - stretch.start
        n = self._n_left.get(stretch)
        if n is None:
            near, border = self._near(stretch)
            n = self._n_left[stretch] = len(near) + stretch.stop - border
        return n

    def edge(self, stretch: ShardSlice, n: int) -> int:
        """Return number n of `left`, the position that has n of it before it; costs one window."""
        near, border = self._near(stretch)
        return int(near[n]) if n < len(near) else border + n - len(near)

    def code_of(self, stretch: ShardSlice, n: int) -> int:
        """Return the code of number n of `walk`, below which n are read; costs two windows."""
        # Of n positions in front of `edge` all that are a window away have lower codes, and behind
        # it all that are a window away have higher ones: moves are forward and below a window.
        edge = self.edge(stretch, n)
        low, high = edge - self._window + 1, edge + self._window
        before = replace(stretch, stop=max(stretch.start, low))
        around = replace(stretch, start=before.stop, stop=min(stretch.stop, high))
        codes = self.codes(around.shard, around.start, around.stop)
        rank = n - self.n_left(before)
        return int(np.partition(codes[codes >= stretch.after], rank)[rank])

    def _near(self, stretch: ShardSlice) -> tuple[NDArray[np.int64], int]:
        """Return what is left of the window of `after`, and where the unread rest starts."""
        # A code is at least its position's, so behind `after` nothing has been read.
        border = min(stretch.stop, max(stretch.start, (stretch.after >> _POSITION_BITS) + 1))
        if not stretch.after:
            return np.empty(0, np.int64), stretch.start
        low = max(stretch.start, border - self._window - 1)
        near = np.arange(low, border)
        return near[self.codes(stretch.shard, low, border) >= stretch.after], border


def crop_keys(
    seed: int, epoch: int, source: int, images: NDArray[np.int64], *, repeat: int = 0
) -> NDArray[np.uint64]:
    """Return the keys of crops drawn from (seed, epoch, sample).

    Args:
        seed: Of the loader.
        epoch: Number of the epoch.
        source: Position of the dataset among those mixed.
        images: Positions in the dataset.
        repeat: How often the epoch has read them before.
    """
    return hashes(key_of(_CROPS, seed, epoch, source, repeat), images)


def n_of(order: EpochOrder, stretches: Sequence[ShardSlice]) -> int:
    """Return the samples of some stretches."""
    return sum(map(order.n_left, stretches))


def cut(
    order: EpochOrder, stretches: Sequence[ShardSlice], sizes: Sequence[int]
) -> list[list[ShardSlice]]:
    """Share out stretches among readers: the first `sizes[0]` samples to the first, and so on.

    Cuts are made across the line, so that readers share no records but those at a cut. What is left
    over is given to nobody.

    Raises:
        OptionError: The stretches hold less than is asked for.
    """
    out: list[list[ShardSlice]] = []
    rest = list(reversed(stretches))
    for size in sizes:
        mine: list[ShardSlice] = []
        missing = size
        while missing:
            if not rest:
                raise OptionError(f"{missing} samples are missing of {size} asked for")
            head = rest.pop()
            left = order.n_left(head)
            if left > missing:
                edge = order.edge(head, missing)
                rest.append(replace(head, start=edge))
                head = replace(head, stop=edge)
            mine.append(head)
            missing -= min(missing, left)
        out.append(mine)
    return out


def skip(order: EpochOrder, stretches: Sequence[ShardSlice], n: int) -> list[ShardSlice]:
    """Return what is left of stretches once their first n samples were read.

    Raises:
        OptionError: There are less than n.
    """
    for i, stretch in enumerate(stretches):
        if not n:
            return list(stretches[i:])
        left = order.n_left(stretch)
        if n < left:
            return [replace(stretch, after=order.code_of(stretch, n)), *stretches[i + 1 :]]
        n -= left
    if n:
        raise OptionError(f"the stretches have {n} samples too few")
    return []
