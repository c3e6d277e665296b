"""Shares of an epoch: the samples of each rank and worker, and what a stopped epoch leaves.

Pure. An epoch that was never stopped is one partition. Resuming it makes another partition, with
ranks, workers and batches of its own, of the slices that the partitions before have left.

    slices left ──▶ equal shares for ranks ──▶ whole batches for workers: worker w of W yields the
                                               batches w, w + W, w + 2W .. of its rank

All ranks take the same number of batches in step, so the number that one rank has yielded is the
number of all, and the state of one rank is the state of the job.

12 samples, 2 ranks, batches of 2; the order is the example of `pcrstore.sampling.order`:

    >>> import numpy as np
    >>> order = EpochOrder(
    ...     [np.array([0, 12])], [12], seed=0, epoch=0, shuffle=True, window=4
    ... )
    >>> partition = EpochPartition(order, order.all(), Topology(world_size=2, batch_size=2))
    >>> partition.n_batches
    3
    >>> [order.walk(s).tolist() for rank in (0, 1) for s in partition.share(rank, 0)]
    [[0, 2, 1, 3, 5, 4], [6, 7, 8, 9, 10, 11]]
    >>> [order.walk(s).tolist() for s in partition.left_after(1)]
    [[1, 3, 5, 4], [8, 9, 10, 11]]
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from pcrstore.errors import OptionError
from pcrstore.sampling.order import EpochOrder, ShardSlice

__all__ = ["MAX_READERS", "EpochPartition", "Topology", "Uneven", "cut", "n_of", "skip"]

Uneven = Literal["pad", "drop"]

MAX_READERS: Final = 2**16
"""Most workers on all ranks. The sizes of shares are computed one by one: a mistyped number or a
damaged state must not take for ever."""

_MAX_BATCH: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The readers of an epoch: ranks, workers and batches."""

    world_size: int = 1
    n_workers: int = 1
    """Worker processes of each rank, which yield its batches in turn; 1 without any."""
    batch_size: int = 1
    uneven: Uneven = "pad"
    """Treatment of samples that do not divide by ranks: `pad` reads up to world_size - 1 of them
    twice, `drop` leaves as many out."""
    drop_last: bool = False
    """Leave out a last batch that is not full."""

    def __post_init__(self) -> None:
        for name in ("world_size", "n_workers", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise OptionError(f"{name} must be a positive integer, got {value!r}")
        if self.world_size * self.n_workers > MAX_READERS:
            raise OptionError(
                f"there must be at most {MAX_READERS} workers on all ranks, "
                f"got {self.n_workers} on {self.world_size}"
            )
        if self.batch_size > _MAX_BATCH:
            raise OptionError(f"batch_size must be at most {_MAX_BATCH}, got {self.batch_size}")
        if self.uneven not in ("pad", "drop"):
            raise OptionError(f'uneven must be "pad" or "drop", got {self.uneven!r}')
        if not isinstance(self.drop_last, bool):
            raise OptionError(f"drop_last must be true or false, got {self.drop_last!r}")


def n_of(order: EpochOrder, slices: Sequence[ShardSlice]) -> int:
    """Return the number of samples of some slices."""
    return sum(map(order.n_left, slices))


def cut(
    order: EpochOrder, slices: Sequence[ShardSlice], sizes: Sequence[int]
) -> list[list[ShardSlice]]:
    """Share out slices among readers: the first `sizes[0]` samples to the first, and so on.

    Shard orders are cut, not reading orders, so that two readers have at most one record in common.
    Samples beyond the sum of `sizes` go to nobody.

    Raises:
        OptionError: The slices have fewer samples than `sizes` asks for.
    """
    out: list[list[ShardSlice]] = []
    rest = list(reversed(slices))
    for size in sizes:
        mine: list[ShardSlice] = []
        missing = size
        # Positions 0..5 and 0..9 cut into sizes 3 and 4: the first reader gets 0..3; the second
        # one 3..5 and then, of the next shard, 0..2.
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


def skip(order: EpochOrder, slices: Sequence[ShardSlice], n: int) -> list[ShardSlice]:
    """Return the slices that are left once their first n samples were read, in reading order.

    Raises:
        OptionError: The slices have fewer than n samples.
    """
    for i, shard_slice in enumerate(slices):
        if not n:
            return list(slices[i:])
        left = order.n_left(shard_slice)
        if n < left:  # stopped within this slice: its codes below that of sample n are read
            return [replace(shard_slice, after=order.code_of(shard_slice, n)), *slices[i + 1 :]]
        n -= left
    if n:
        raise OptionError(f"the slices have {n} samples too few")
    return []


class EpochPartition:
    """The shares of all readers from one start or resumption of an epoch to its end.

    Args:
        order: Order of the epoch.
        slices: Samples that are left of it.
        topology: The readers.
    """

    def __init__(self, order: EpochOrder, slices: Sequence[ShardSlice], topology: Topology) -> None:
        self.order = order
        self.slices = list(slices)
        self.is_whole = self.slices == order.all()
        """True: the slices are the whole epoch."""
        self.topology = topology
        t = topology
        left = self._left = n_of(order, self.slices)
        per_rank = -(-left // t.world_size) if t.uneven == "pad" else left // t.world_size
        if t.drop_last:
            per_rank -= per_rank % t.batch_size
        self.n_per_rank = per_rank
        """Samples that each rank reads."""
        self.n_padded = max(0, per_rank * t.world_size - left)
        """Samples that are read twice, over all ranks."""
        self.n_dropped = max(0, left - per_rank * t.world_size)
        """Samples that nobody reads, over all ranks."""
        self.n_batches = -(-per_rank // t.batch_size)
        """Batches that each rank reads."""

    def batch_sizes(self, worker: int) -> list[int]:
        """Return the sizes of the batches of a worker, in order."""
        t = self.topology
        n = len(range(worker, self.n_batches, t.n_workers))
        # 5 samples in batches of 2 for 2 workers: worker 0 has batches 0 and 2, which would be 4
        # samples, and gives 3: its last batch is one short. Worker 1 has batch 1.
        over = n * t.batch_size - self.n_samples(worker)
        return [*[t.batch_size] * (n - 1), t.batch_size - over] if n else []

    def n_samples(self, worker: int, n_batches: int | None = None) -> int:
        """Return the samples of a worker in the first batches of its rank; None: in all of them."""
        t = self.topology
        n_batches = self.n_batches if n_batches is None else n_batches
        size = len(range(worker, n_batches, t.n_workers)) * t.batch_size
        has_last = n_batches and n_batches == self.n_batches
        if has_last and worker == (n_batches - 1) % t.n_workers:
            size -= n_batches * t.batch_size - self.n_per_rank
        return size

    def _sizes(self, n_batches: int) -> list[int]:
        """Return the number of samples of each reader in the first batches, rank by rank."""
        t = self.topology
        return [self.n_samples(w, n_batches) for w in range(t.n_workers)] * t.world_size

    def _padding(self) -> list[ShardSlice]:
        """Return the samples that are read twice: the first ones, repeated as often as needed."""
        padding: list[ShardSlice] = []
        missing = self.n_padded
        while missing:
            take = min(missing, self._left)
            padding += cut(self.order, self.slices, [take])[0]
            missing -= take
        return padding

    def share(self, rank: int, worker: int) -> list[ShardSlice]:
        """Return the slices that a worker of a rank reads, in order."""
        t = self.topology
        if not 0 <= rank < t.world_size or not 0 <= worker < t.n_workers:
            raise OptionError(
                f"rank and worker must be below {t.world_size} and {t.n_workers}, "
                f"got {rank} and {worker}"
            )
        whole = [*self.slices, *self._padding()]
        # 12 samples, 2 ranks of 2 workers, batches of 2 have the sizes 4, 2, 4, 2: worker 0 of
        # rank 1 is reader 2, and cuts off 6 samples before its own 4.
        sizes, at = self._sizes(self.n_batches), rank * t.n_workers + worker
        return cut(self.order, whole, [sum(sizes[:at]), sizes[at]])[1]

    def left_after(self, n_batches: int) -> list[ShardSlice]:
        """Return the slices that are left once every rank has yielded `n_batches`.

        Padding is not among them: it belongs to this partition alone. Samples that this partition
        would drop are, at the end: a partition of the same topology drops them again, and one of
        another topology may read them. After the last batch nothing is left.

        Raises:
            OptionError: `n_batches` is more than the partition has.
        """
        if not 0 <= n_batches <= self.n_batches:
            raise OptionError(f"batches yielded must be in 0..{self.n_batches}, got {n_batches}")
        if n_batches == 0:
            return self.slices
        if n_batches == self.n_batches:
            return []
        sizes, read = self._sizes(self.n_batches), self._sizes(n_batches)
        # Padding is at the end of the shares: 2 samples padded to 8 for 8 ranks are shares of 1, of
        # which the last six lose theirs.
        over = max(0, sum(sizes) - self._left)
        for i in reversed(range(len(sizes))):
            lost = min(sizes[i], over)
            sizes[i] -= lost
            over -= lost
        shares = cut(self.order, self.slices, [*sizes, self.n_dropped])
        out: list[ShardSlice] = []
        for share, size, n in zip(shares, sizes, read, strict=False):
            out += skip(self.order, share, min(size, n))
        return [*out, *shares[-1]]
