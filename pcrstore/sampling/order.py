"""The order in which an epoch reads its samples: a function of sizes, seed and epoch.

Pure. The order of an epoch is never held in memory: every reader computes the slice that it reads.

    sources ──▶ shards ──▶ shard order ──▶ reading order
               equal shares   records in      each sample moves on by a hash
               of hashed      hashed order,   below its reach, `window` at
               blocks         each whole      most; then they are sorted

A block is the selected images of one index part. A pass over a source takes its blocks in hashed
order and is cut into shards of at most 2^18 samples, from sizes alone; only a reader of a shard
looks up its records. The images of one block that fall into one shard are a run.

A sample's position is its index in the shard order. Its code is the pair (position + hash % reach,
position), and the reading order is the order of codes. The reach of position p in a shard of n is
min(p + 64, (n - p + 1) // 2, window): the window, and less at both ends of the shard (see
`_FIRST_REACH`). So a batch is drawn from about `window` samples, reading begins with the first few
records, a record is needed for about `window` samples and never again, and a shard order can be cut
between readers that then share at most one record.

An unfinished epoch is a list of `ShardSlice`: the samples of a shard with a position in start..stop
and a code of at least `after`. A slice that is cut between readers, or read in part, leaves slices;
so an epoch that was stopped anywhere goes on with any number of readers.

A source of n images of which an epoch reads c is an endless sequence of passes, each in an order of
its own; epoch e reads c samples from e * c on. Two epochs of half a source read all of it.

12 images in records of 3, all in one block, with a window of 4 and seed 0:

    >>> order = EpochOrder(
    ...     [np.array([0, 12])], [12], seed=0, epoch=0, shuffle=True, window=4
    ... )
    >>> [run] = order.runs(0)
    >>> records = order.order_of_records([run], [np.arange(4)])
    >>> records
    array([1, 2, 0, 3])
    >>> shard_order = (records[:, None] * 3 + np.arange(3)).ravel()
    >>> shard_order  # record 1, then 2, 0 and 3
    array([ 3,  4,  5,  6,  7,  8,  0,  1,  2,  9, 10, 11])
    >>> # Reach: 4 at positions 0 to 5, then 3, 3, 2, 2, 1, 1. Position 1 moves on by 3, 2 by 1, ..
    >>> order.codes(0, 0, 12) >> 31
    array([ 0,  4,  3,  5,  7,  5,  7,  7,  8,  9, 10, 11])
    >>> [whole] = order.all()
    >>> order.walk(whole)  # positions in reading order
    array([ 0,  2,  1,  3,  5,  4,  6,  7,  8,  9, 10, 11])
    >>> shard_order[order.walk(whole)]  # images in reading order
    array([ 3,  5,  4,  6,  8,  7,  0,  1,  2,  9, 10, 11])
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import hashes, integer, key_of
from pcrstore.errors import OptionError

__all__ = ["MAX_EPOCH", "EpochOrder", "Run", "ShardSlice", "crop_keys"]

MAX_EPOCH: Final = 2**62
"""Largest epoch: processes share it in a signed 64-bit word."""

_MAX_SEED: Final = 2**64 - 1
"""Keys have 64 bits: a larger seed would have the order of a smaller one."""

_MAX_WINDOW: Final = 2**24

SHARD_IMAGES: Final = 2**18
"""Images of a shard: 4 index parts, so that a reader of 1/64 of a large dataset reads the record
tables of its own share alone. Sorting a shard takes 20 ms."""

_BLOCKS, _RECORDS, _MOVES, _CROPS = range(4)
"""First word of the key of each kind of hash."""

_POSITION_BITS: Final = 31
"""Low bits of a code, which hold the position; the bits above hold the position moved on."""

_FIRST_REACH: Final = 64
"""Reach of the first sample of a shard order: the first batch needs few records, and comes soon.
At the end the reach is half of the samples left: few are left to decode once the link is idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Images of one block and one pass that belong to one shard.

    They are the selected images start..stop of the source.
    """

    source: int
    turn: int
    """Number of the pass over the source, counted over all epochs; each pass has its own order."""
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSlice:
    """Samples of a shard that are still to be read."""

    shard: int
    start: int
    """First position in the shard order."""
    stop: int
    after: int = 0
    """Lowest code that is still to be read; 0: none was read."""


class EpochOrder:
    """The order of one epoch.

    Args:
        blocks: For each source the edges of its blocks of images, from 0 to its size: (B + 1,).
            The images of a block, an index part, are read near in time.
        counts: Samples that an epoch reads of each source.
        seed: With `epoch`, the only source of randomness.
        epoch: From 0.
        shuffle: False: stored order.
        window: Bound on how far a sample moves; 1 leaves whole records together.

    Raises:
        OptionError: A count, seed, epoch or window is out of range.
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
        self.epoch = integer(epoch, "epoch", least=0, most=MAX_EPOCH)
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
        """Return the start and stop of a shard in a source's endless sequence of passes."""
        # A source of 10 images of which epochs read 6, in 2 shards: shard 1 of epoch 1 has 9..12,
        # the last image of pass 0 and the first two of pass 1.
        count = self._counts[source]
        base = self.epoch * count
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
            # Blocks 0..4, 4..6 and 6..9 in the order 2, 0, 1 have the edges 0, 3, 7, 9 in the pass;
            # its samples 2..5 are the image 8 of block 2 and the images 0..2 of block 0.
            in_pass = np.concatenate(([0], np.cumsum(np.diff(edges)[order])))
            first = int(np.searchsorted(in_pass, at, side="right")) - 1
            for i in range(first, len(order)):
                a, b = max(at, int(in_pass[i])), min(end, int(in_pass[i + 1]))
                if in_pass[i] >= end:
                    break
                if a == b:  # a block of which nothing is selected
                    continue
                shift = int(edges[order[i]]) - int(in_pass[i])
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
        """Return the records of a shard in shard order.

        Args:
            runs: The runs of the shard.
            records: Numbers of the records of each run, counted in their source.

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
            run: The run that holds the images.
            images: Positions in the dataset.
        """
        first = self.epoch * self._counts[run.source] // int(self._blocks[run.source][-1])
        return crop_keys(self._seed, self.epoch, run.source, images, repeat=run.turn - first)

    def codes(self, shard: int, start: int, stop: int) -> NDArray[np.int64]:
        """Return the codes of positions start..stop of a shard order."""
        positions = np.arange(start, stop, dtype=np.int64)
        moved = positions
        if self._shuffle:
            words = hashes(key_of(_MOVES, self._seed, self.epoch, shard), positions)
            left = self.size(shard) - positions
            edge = np.minimum(positions + _FIRST_REACH, (left + 1) // 2)
            reach = np.minimum(edge, self._window).astype(np.uint64)
            moved = positions + (words % reach).astype(np.int64)
        # Position 2 that moves on to 3 has the code 3 << 31 | 2: codes differ, and at one place
        # the sample that moved on furthest is read first.
        return (moved << _POSITION_BITS) | positions

    def walk(self, shard_slice: ShardSlice) -> NDArray[np.int64]:
        """Return the positions of a slice in reading order."""
        codes = np.sort(self.codes(shard_slice.shard, shard_slice.start, shard_slice.stop))
        left = codes[np.searchsorted(codes, shard_slice.after) :]
        return left & ((1 << _POSITION_BITS) - 1)

    def all(self) -> list[ShardSlice]:
        """Return the slices of the whole epoch."""
        sizes = [self.size(s) for s in range(self.n_shards)]
        return [ShardSlice(shard=s, start=0, stop=n) for s, n in enumerate(sizes) if n]

    def left(self, shard_slice: ShardSlice) -> NDArray[np.int64]:
        """Return the positions of a slice that are still to be read, ascending."""
        scattered, rest = self._unread(shard_slice)
        return np.concatenate((scattered, np.arange(rest, shard_slice.stop)))

    def n_left(self, shard_slice: ShardSlice) -> int:
        """Return the number of samples that are still to be read; costs one window, once."""
        if not shard_slice.after:
            return shard_slice.stop - shard_slice.start
        n = self._n_left.get(shard_slice)
        if n is None:
            scattered, rest = self._unread(shard_slice)
            n = self._n_left[shard_slice] = len(scattered) + shard_slice.stop - rest
        return n

    def edge(self, shard_slice: ShardSlice, n: int) -> int:
        """Return `left(shard_slice)[n]`, where n samples can be cut off; costs one window."""
        scattered, rest = self._unread(shard_slice)
        return int(scattered[n]) if n < len(scattered) else rest + n - len(scattered)

    def code_of(self, shard_slice: ShardSlice, n: int) -> int:
        """Return the code of `walk(shard_slice)[n]`, below which n are read; costs two windows."""
        # Samples move forward, by less than a window. So all positions a window before `edge` have
        # lower codes than the sample sought, and all a window behind it have higher ones: it is
        # enough to rank the codes between. In the example of the module, with n = 2: edge is 2,
        # positions 0..6 have the places 0, 4, 3, 5, 7, 5, and the third lowest is 4, of position 1.
        edge = self.edge(shard_slice, n)
        low, high = edge - self._window + 1, edge + self._window
        before = replace(shard_slice, stop=max(shard_slice.start, low))
        around = replace(shard_slice, start=before.stop, stop=min(shard_slice.stop, high))
        codes = self.codes(around.shard, around.start, around.stop)
        rank = n - self.n_left(before)
        return int(np.partition(codes[codes >= shard_slice.after], rank)[rank])

    def _unread(self, shard_slice: ShardSlice) -> tuple[NDArray[np.int64], int]:
        """Return the scattered positions that are unread, and from where on all positions are."""
        if not shard_slice.after:
            return np.empty(0, np.int64), shard_slice.start
        # In the example of the module, when two samples were read: `after` is the code (4, 1). A
        # code is at least its position's, so from position 5 on nothing was read. Of the window
        # below, positions 0..5, those with codes from `after` on are unread: 1, 3 and 4.
        rest = (shard_slice.after >> _POSITION_BITS) + 1
        rest = min(shard_slice.stop, max(shard_slice.start, rest))
        low = max(shard_slice.start, rest - self._window - 1)
        scattered = np.arange(low, rest)
        is_unread = self.codes(shard_slice.shard, low, rest) >= shard_slice.after
        return scattered[is_unread], rest


def crop_keys(
    seed: int, epoch: int, source: int, images: NDArray[np.int64], *, repeat: int = 0
) -> NDArray[np.uint64]:
    """Return the keys of crops drawn from (seed, epoch, sample).

    Args:
        seed: Of the loader.
        epoch: Number of the epoch.
        source: Position of the dataset among those mixed.
        images: Positions in the dataset.
        repeat: Number of times that the epoch has read them before.
    """
    return hashes(key_of(_CROPS, seed, epoch, source, repeat), images)
