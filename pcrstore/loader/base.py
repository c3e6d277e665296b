"""What all loaders of batches are: epochs one after the other, a state, and counters.

epoch, slices left ──▶ EpochPartition ──batches yielded──▶ state_dict ──▶ epoch, slices left
"""

import copy
import threading
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar
from weakref import ref

from pcrstore.core import integer
from pcrstore.errors import OptionError
from pcrstore.fidelity import Fidelities
from pcrstore.loader.batches import BatchStream
from pcrstore.loader.iterator import BatchIterator
from pcrstore.loader.pipeline import Pipeline
from pcrstore.loader.state import BATCHES, brief, resume, written
from pcrstore.loader.stats import Signals
from pcrstore.sampling import EpochPartition, ShardSlice, Topology

__all__ = ["BaseLoader", "Dialled", "check_rank"]

Item = TypeVar("Item")
Payload = TypeVar("Payload")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Position:
    """Where an iteration begins."""

    epoch: int
    stretches: list[ShardSlice] | None = None
    """What is left of the epoch; None: all."""
    is_loaded: bool = False
    """Whether a state said so: then it wins over an iteration under way."""
    is_asked_for: bool = False
    """Whether `set_epoch` said so: then an epoch of which nothing is left yields nothing."""


class Dialled:
    """What has a dial for its fidelity, and classes."""

    _loading: Pipeline
    _fidelity: Fidelities

    @property
    def fidelity(self) -> Fidelities:
        """What records are read at, from the next request on, in all workers."""
        return self._fidelity

    @fidelity.setter
    def fidelity(self, fidelity: Fidelities) -> None:
        self._loading.dial.set(fidelity)
        self._fidelity = fidelity

    @property
    def classes(self) -> tuple[str, ...]:
        """Class name of each label."""
        return self._loading.classes

    @property
    def n_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return sum(self._loading.population.counts)


class BaseLoader(Dialled, Generic[Item, Payload]):
    """The position of a loader in its epochs, its state, and what it tells of itself.

    A subclass says what an `Item` is, and starts an iteration of them; `Payload` is what its feeds
    hand out with the images of a batch.

    A copy, in this process or by a pickle in another one, has the position of a loader whose loop
    was left here: it reads the next epoch, and its state has the rest of this one. Connections,
    threads, counters and the dial are its own.
    """

    _feed: BatchStream[Payload] | None
    """Of the iteration under way, where threads of this process decode."""

    def __init__(self, loading: Pipeline) -> None:
        self._loading = loading
        self._next: _Position | None = _Position(epoch=0)
        self._now: tuple[_Position, EpochPartition] | None = None
        self._n_yielded = 0
        self._done = Signals()
        self._started: float | None = None
        self._feed = None
        self._iteration: ref[BatchIterator[Item]] | None = None
        """The last one; not held, for a loop that is left drops it and so ends it."""
        self._n_begun = 0
        """Iterations; how many there were with it is the number of one."""
        # One that the collector finds may end here while this thread holds it.
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, object]:
        """Leave an iteration under way behind, its threads, and the counters."""
        own = {"_started": None, "_feed": None, "_iteration": None, "_done": Signals()}
        return {k: v for k, v in {**self.__dict__, **own}.items() if k != "_lock"}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        # A process that is being started shares the dial, as workers do; this one is none of them.
        self._loading.dial = copy.deepcopy(self._loading.dial)

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # a shallow one would share what is read with

    def __repr__(self) -> str:
        datasets = ", ".join(repr(s.dataset) for s in self._loading.population.sources)
        return (
            f"<{type(self).__name__} of {datasets} at fidelity {brief(self._fidelity)}, "
            f"{self.n_samples} samples an epoch>"
        )

    # ---- iterations

    def __iter__(self) -> BatchIterator[Item]:
        """Begin an iteration: its epoch is settled, and it reads ahead, from now on.

        An older one that is not over cannot go on: its next batch is a `UsageError`. One that has
        yielded nothing does not count: this one reads the same.
        """
        position, rank, leg = self._upcoming()
        with self._lock:
            # What another thread still says of the older one is not of this one.
            number = self._n_begun = self._n_begun + 1
        self._end("another iteration of this loader has begun")
        started = time.perf_counter()
        batches = self._start(leg, position.epoch, rank)
        self._now, self._next, self._n_yielded = (position, leg), None, 0
        self._started = started
        iteration = BatchIterator(
            batches,
            leg.n_batches,
            given=partial(self._given, number),
            ended=partial(self._ended, number),
        )
        self._iteration = ref(iteration)
        return iteration

    @abstractmethod
    def _topology(self) -> tuple[int, Topology]:
        """Return rank and topology; looked at when an iteration begins."""

    @abstractmethod
    def _start(self, leg: EpochPartition, epoch: int, rank: int) -> Iterator[Item]:
        """Start to read a leg, at once; return its batches."""

    def _given(self, number: int) -> None:
        """Count a batch, unless it is of an older iteration."""
        with self._lock:
            if number == self._n_begun:
                self._n_yielded += 1

    def _ended(self, number: int) -> None:
        """End the iteration under way, unless it is newer than the one that ended."""
        with self._lock:
            if number == self._n_begun:
                self._end()

    def _end(self, reason: str = "") -> None:
        """End the iteration under way, and its threads; `reason` is why it cannot go on."""
        iteration = None if self._iteration is None else self._iteration()
        if iteration is not None:
            iteration.cut_off(reason)
        feed = self._feed
        if feed is not None:
            feed.close()
        self._stop_clock()
        self._feed = None

    def close(self) -> None:
        """End the iteration under way, and let threads and worker processes go.

        A loader that was closed can tell its state and be iterated again: it reads the next epoch,
        as after a `break`.
        """
        self._end("this loader was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ---- epochs

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration reads, or goes on with."""
        return self._upcoming()[0].epoch

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration read this epoch. Without it each iteration reads the next one.

        A position within this epoch that `load_state_dict` set is kept.

        Raises:
            OptionError: Not an integer, or negative.
        """
        epoch = integer(epoch, "epoch", least=0)
        pending = self._pending()
        loaded = pending if pending is not None and pending.is_loaded else None
        if loaded is not None and loaded.epoch == epoch:
            if self._next is not None:  # else an iteration has it already, and yielded nothing yet
                self._next = replace(loaded, is_asked_for=True)
            return
        if loaded is not None and loaded.stretches != []:
            warnings.warn(
                f"set_epoch({epoch}) drops the position in epoch {loaded.epoch} that was loaded; "
                "go on with `for epoch in range(loader.epoch, ...)`",
                stacklevel=2,
            )
        self._next = _Position(epoch=epoch, is_asked_for=True)

    def _under_way(self) -> tuple[_Position, EpochPartition]:
        """Return what the iteration under way, or the last one, began with."""
        if self._now is None:
            raise AssertionError("a loader has a next position or one that is being read")
        return self._now

    def _pending(self) -> _Position | None:
        """Return the position that is set, loaded, or of an iteration that has yielded nothing."""
        if self._next is None and not self._n_yielded:
            position, leg = self._under_way()
            return position if leg.n_batches else None
        return self._next

    def _upcoming(self) -> tuple[_Position, int, EpochPartition]:
        """Return what an iteration that begins now would read, and this process's rank."""
        position = self._pending() or _Position(epoch=self._under_way()[0].epoch + 1)
        rank, topology = self._topology()
        leg = self._loading.leg(position.epoch, position.stretches, topology)
        if position.stretches is not None and not leg.n_batches and not position.is_asked_for:
            position = _Position(epoch=position.epoch + 1)
            leg = self._loading.leg(position.epoch, None, topology)
        return position, rank, leg

    def _is_running(self) -> bool:
        """Say whether an iteration is under way that no loaded state has put an end to."""
        return self._started is not None and not (self._next and self._next.is_loaded)

    def _leg(self) -> EpochPartition:
        return self._under_way()[1] if self._is_running() else self._upcoming()[2]

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch; `n_left` is what a resumption leaves of it."""
        leg = self._leg()
        # Epochs differ in order alone, so that one has as many batches as any other.
        return EpochPartition(leg.order, leg.order.all(), leg.topology).n_batches

    @property
    def n_left(self) -> int:
        """Batches of this rank that are left of the epoch under way, or of the next where none is.

        An epoch is under way from the start of its iteration until that has ended, by itself or by
        a `break`; after `load_state_dict` it is the one that the state is of.
        """
        if self._is_running():
            return self._under_way()[1].n_batches - self._n_yielded
        return self._upcoming()[2].n_batches

    @property
    def n_padded(self) -> int:
        """Samples that the iteration reads twice, so that all ranks have as many batches."""
        return self._leg().n_padded

    @property
    def n_dropped(self) -> int:
        """Samples that the iteration leaves out."""
        return self._leg().n_dropped

    # ---- state

    def state_dict(self) -> dict[str, object]:
        """Return the position in JSON types, the same on every rank.

        A few hundred bytes, and after a resumption a row for each reader before it. It counts the
        batches that the loop was given, not those fetched ahead; what wraps a loader and is itself
        ahead of the training must hand over the state of the batch that it gave. Ranks take
        batches in step, so the state of any rank is the state of the job.

        The fidelity is not in it, nor is what becomes of the images (size, crop): they do not
        decide what is read next. A fidelity that changes while training is yours to restore.
        """
        if self._next is not None and not self._is_running():
            position, topology, n = self._next, self._topology()[1], 0
        else:
            position, leg = self._under_way()
            topology, n = leg.topology, self._n_yielded
        return written(
            self._loading,
            kind=BATCHES,
            epoch=position.epoch,
            stretches=position.stretches,
            topology=topology,
            n=n,
        )

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a state, to the sample, on any number of ranks and workers.

        The fidelity stays as it is; set it too, where the one that stopped had another.

        Raises:
            OptionError: Not a state, or one of other data, another selection, seed or window.
        """
        epoch, stretches = resume(self._loading, state, kind=BATCHES)
        self._next = _Position(epoch=epoch, stretches=stretches, is_loaded=True)

    # ---- signals

    def stats(self) -> Signals:
        """Return the counters since the loader was made; `str` of them is one line.

        They are this loader's alone, but for `retries`: the store of an open dataset counts those
        of everybody who reads it.
        """
        started = self._started  # once: another thread may end it
        running = 0.0 if started is None else time.perf_counter() - started
        return self._done + self._running() + self._loading.traffic() + Signals(seconds=running)

    def _running(self) -> Signals:
        """Return the counters of the iteration under way, but for traffic and time."""
        feed = self._feed  # once: another thread may end it
        return Signals() if feed is None else feed.signals()

    def _stop_clock(self) -> None:
        """Add the iteration that ends to what was done before."""
        started = self._started
        if started is not None:
            self._done += Signals(seconds=time.perf_counter() - started)
        self._done += replace(self._running(), queue_depth=0)
        self._started = None


def check_rank(rank: int, world_size: int) -> None:
    """Raise `OptionError` unless the rank is one of the world's."""
    if type(rank) is not int or not 0 <= rank < world_size:
        raise OptionError(f"rank must be in 0..{world_size - 1}, got {rank!r}")
