"""Which samples of an epoch a rank and a worker read, and how far they are.

Pure. An epoch that nobody has stopped is one leg; resuming begins another, with ranks, workers and
batches of its own, over what the legs before have left.

    what is left ──▶ equal shares for ranks ──▶ whole batches for workers: 0, W, 2W .. to worker 0

All ranks take the same number of batches in step, so what one rank has yielded tells what all have,
and the state of one is the state of the job. `pcrstore.sampling.order` says what the words mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pcrstore.errors import OptionError
from pcrstore.sampling.order import EpochOrder, ShardSlice, cut, n_of, skip

__all__ = ["MAX_READERS", "EpochPartition", "Topology", "Uneven"]

Uneven = Literal["pad", "drop"]

MAX_READERS: Final = 2**16
"""Workers on all ranks. Shares are worked out one by one: a number that was mistyped, or a state
that was spoilt, must not take for ever."""

_MAX_BATCH: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Who reads."""

    world_size: int = 1
    n_workers: int = 1
    """Processes of each rank that yield batches in turn."""
    batch_size: int = 1
    uneven: Uneven = "pad"
    """Where samples do not divide by ranks: `pad` reads up to world_size - 1 of them twice, `drop`
    leaves as many out."""
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


class EpochPartition:
    """What is read from one start or resumption of an epoch to its end.

    Args:
        order: Of the epoch.
        stretches: What is left of it.
        topology: Who reads.
    """

    def __init__(
        self, order: EpochOrder, stretches: Sequence[ShardSlice], topology: Topology
    ) -> None:
        self.order = order
        self.stretches = list(stretches)
        self.is_whole = self.stretches == order.all()
        """Whether it is all of the epoch."""
        self.topology = topology
        t = topology
        left = self._left = n_of(order, self.stretches)
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
        over = n * t.batch_size - self._n_samples(worker, self.n_batches)
        return [*[t.batch_size] * (n - 1), t.batch_size - over] if n else []

    def _n_samples(self, worker: int, n_batches: int) -> int:
        """Return the samples that a worker gives to the first batches of its rank."""
        t = self.topology
        size = len(range(worker, n_batches, t.n_workers)) * t.batch_size
        has_last = n_batches and n_batches == self.n_batches
        if has_last and worker == (n_batches - 1) % t.n_workers:
            size -= n_batches * t.batch_size - self.n_per_rank
        return size

    def _sizes(self, n_batches: int) -> list[int]:
        """Return the samples of every worker of every rank in its first batches."""
        t = self.topology
        return [self._n_samples(w, n_batches) for w in range(t.n_workers)] * t.world_size

    def _padding(self) -> list[ShardSlice]:
        """Return the samples that are read twice: the first ones, as often as it takes."""
        padding: list[ShardSlice] = []
        missing = self.n_padded
        while missing:
            take = min(missing, self._left)
            padding += cut(self.order, self.stretches, [take])[0]
            missing -= take
        return padding

    def share(self, rank: int, worker: int) -> list[ShardSlice]:
        """Return what a worker of a rank reads, in order."""
        t = self.topology
        if not 0 <= rank < t.world_size or not 0 <= worker < t.n_workers:
            raise OptionError(
                f"rank and worker must be below {t.world_size} and {t.n_workers}, "
                f"got {rank} and {worker}"
            )
        whole = [*self.stretches, *self._padding()]
        sizes, at = self._sizes(self.n_batches), rank * t.n_workers + worker
        return cut(self.order, whole, [sum(sizes[:at]), sizes[at]])[1]

    def left_after(self, n_batches: int) -> list[ShardSlice]:
        """Return what is left once every rank has yielded so many batches of this leg.

        Padding is not part of it: it was added to this leg alone. What the leg would drop is, for
        a leg that is stopped drops nothing yet: it stands at the end, where a leg of the same
        topology drops it again, and one of another may read it. At the leg's end nothing is left.

        Raises:
            OptionError: More batches than there are.
        """
        if not 0 <= n_batches <= self.n_batches:
            raise OptionError(f"batches yielded must be in 0..{self.n_batches}, got {n_batches}")
        if n_batches == 0:
            return self.stretches
        if n_batches == self.n_batches:
            return []
        sizes, read = self._sizes(self.n_batches), self._sizes(n_batches)
        # The padding stands at the end of the line: the last shares lose it.
        over = max(0, sum(sizes) - self._left)
        for i in reversed(range(len(sizes))):
            lost = min(sizes[i], over)
            sizes[i] -= lost
            over -= lost
        shares = cut(self.order, self.stretches, [*sizes, self.n_dropped])
        out: list[ShardSlice] = []
        for share, size, n in zip(shares, sizes, read, strict=False):
            out += skip(self.order, share, min(size, n))
        return [*out, *shares[-1]]
