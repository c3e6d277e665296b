"""Base class of all loaders of batches: epochs one after the other, a state, and counters.

    EpochCursor ──position──▶ EpochPartition ──_start──▶ BatchIterator ──▶ the loop of the user
         ▲                                                    │
         └───────────── batches yielded ──────────────────────┘

`EpochCursor` decides what is read; this class holds iterations, their threads and the counters.
"""

import copy
import threading
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Generic, Self, TypeVar
from weakref import ref

from pcrstore.core import integer
from pcrstore.errors import OptionError
from pcrstore.fidelity import Fidelities
from pcrstore.loader.batches import BatchStream
from pcrstore.loader.cursor import EpochCursor, Position, Status
from pcrstore.loader.iterator import BatchIterator
from pcrstore.loader.pipeline import Pipeline
from pcrstore.loader.state import BATCHES, brief, dump_state, parse_state
from pcrstore.loader.stats import Signals
from pcrstore.sampling import EpochPartition, ShardSlice, Topology

__all__ = ["BaseLoader", "LoaderProperties", "check_rank"]

Item = TypeVar("Item")
Payload = TypeVar("Payload")


class LoaderProperties:
    """Mixin: the `fidelity`, `classes` and `n_samples` properties of every loader."""

    _pipeline: Pipeline
    _fidelity: Fidelities

    @property
    def fidelity(self) -> Fidelities:
        """Fidelity at which records are read, in all workers, from the next request on."""
        return self._fidelity

    @fidelity.setter
    def fidelity(self, fidelity: Fidelities) -> None:
        self._pipeline.shared_fidelity.set(fidelity)
        self._fidelity = fidelity

    @property
    def classes(self) -> tuple[str, ...]:
        """Class name of each label."""
        return self._pipeline.classes

    @property
    def n_samples(self) -> int:
        """Samples of an epoch, over all ranks."""
        return sum(self._pipeline.sample_set.counts)


class BaseLoader(LoaderProperties, Generic[Item, Payload]):
    """The position of a loader in its epochs, its state, and its counters.

    A subclass defines `Item`, the batch that the user gets, and starts iterations; `Payload` is
    what its streams hand out with the images of a batch.

    A copy, in this process or by a pickle in another one, has the position of a loader whose loop
    was left here: it reads the next epoch, and its state has the rest of this one. Connections,
    threads, counters and the fidelity are its own.
    """

    _stream: BatchStream[Payload] | None
    """Stream of the iteration under way, if threads of this process decode."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._cursor: EpochCursor[list[ShardSlice]] = EpochCursor()
        self._partition: EpochPartition | None = None
        """Partition of the iteration under way, or of the last one."""
        self._done = Signals()
        """Counters of the iterations that have ended."""
        self._started: float | None = None
        self._stream = None
        self._iteration: ref[BatchIterator[Item]] | None = None
        """The last iteration; not held, because a loop that is left drops it and so ends it."""
        self._n_begun = 0
        """Iterations that have begun; the number of an iteration counts those up to itself."""
        # Reentrant: the collector may end an iteration in the thread that holds the lock.
        self._lock = threading.RLock()

    def __getstate__(self) -> dict[str, object]:
        """Leave an iteration under way behind, its threads, and the counters."""
        cursor = copy.copy(self._cursor)
        cursor.end()
        own = {
            "_cursor": cursor,
            "_started": None,
            "_stream": None,
            "_iteration": None,
            "_done": Signals(),
        }
        return {k: v for k, v in {**self.__dict__, **own}.items() if k != "_lock"}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()
        # A pickle for a process that is being started shares the fidelity, for its workers; a
        # loader that is sent to such a process has its own.
        self._pipeline.shared_fidelity = copy.deepcopy(self._pipeline.shared_fidelity)

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # a shallow copy would share connections

    def __repr__(self) -> str:
        datasets = ", ".join(repr(s.dataset) for s in self._pipeline.sample_set.sources)
        return (
            f"<{type(self).__name__} of {datasets} at fidelity {brief(self._fidelity)}, "
            f"{self.n_samples} samples an epoch>"
        )

    # ---- iterations

    def __iter__(self) -> BatchIterator[Item]:
        """Begin an iteration: it looks up its epoch, and begins to read ahead, at once.

        An older iteration that is not over cannot go on: its next batch is a `UsageError`. If the
        older one has yielded nothing it does not count, and this one reads the same epoch.
        """
        position, rank, partition = self._upcoming()
        with self._lock:
            # Another thread may still hand over a batch of the older iteration, or end it.
            number = self._n_begun = self._n_begun + 1
        self._end("another iteration of this loader has begun")
        started = time.perf_counter()
        batches = self._start(partition, rank)
        self._partition = partition
        self._cursor.begin(position, is_empty=not partition.n_batches)
        self._started = started
        iteration = BatchIterator(
            batches,
            partition.n_batches,
            on_given=partial(self._on_given, number),
            on_ended=partial(self._on_ended, number),
        )
        self._iteration = ref(iteration)
        return iteration

    @abstractmethod
    def _topology(self) -> tuple[int, Topology]:
        """Return rank and topology, which are looked up when an iteration begins."""

    @abstractmethod
    def _start(self, partition: EpochPartition, rank: int) -> Iterator[Item]:
        """Start to read the share of a rank, at once; return its batches."""

    def _on_given(self, number: int) -> None:
        """Count a batch, unless it is of an older iteration."""
        with self._lock:
            if number == self._n_begun:
                self._cursor.advance()

    def _on_ended(self, number: int) -> None:
        """End the iteration under way, unless it is newer than the one that ended."""
        with self._lock:
            if number == self._n_begun:
                self._end()

    def _end(self, reason: str = "") -> None:
        """End the iteration under way and its threads; `reason` is for the error on going on."""
        iteration = None if self._iteration is None else self._iteration()
        if iteration is not None:
            iteration.cut_off(reason)
        stream = self._stream
        if stream is not None:
            stream.close()
        self._stop_clock()
        self._stream = None
        self._cursor.end()

    def close(self) -> None:
        """End the iteration under way, and let threads and worker processes go.

        A loader that was closed can tell its state and be iterated again: it reads the next epoch,
        as after a `break`.
        """
        self._end("this loader was closed")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
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
        dropped = self._cursor.set_epoch(integer(epoch, "epoch", least=0))
        if dropped is not None and dropped.left != []:
            warnings.warn(
                f"set_epoch({epoch}) drops the position in epoch {dropped.epoch} that was loaded; "
                "go on with `for epoch in range(loader.epoch, ...)`",
                stacklevel=2,
            )

    def _upcoming(self) -> tuple[Position[list[ShardSlice]], int, EpochPartition]:
        """Return what an iteration that begins now would read, and this process's rank."""
        rank, topology = self._topology()

        def partition(position: Position[list[ShardSlice]]) -> EpochPartition:
            return self._pipeline.partition(position.epoch, position.left, topology)

        position = self._cursor.upcoming(lambda loaded: not partition(loaded).n_batches)
        return position, rank, partition(position)

    def _current(self) -> EpochPartition:
        """Return the partition of the iteration under way, or of the next where none is."""
        if self._cursor.is_reading and self._partition is not None:
            return self._partition
        return self._upcoming()[2]

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch; `n_left` is what a resumption leaves of it."""
        partition = self._current()
        # Epochs differ in order alone, so that one has as many batches as any other.
        order = partition.order
        return EpochPartition(order, order.all(), partition.topology).n_batches

    @property
    def n_left(self) -> int:
        """Batches of this rank that are left of the epoch under way, or of the next where none is.

        An epoch is under way from the start of its iteration until that has ended, by itself or by
        a `break`; after `load_state_dict` it is the one that the state is of.
        """
        n_read = self._cursor.n_yielded if self._cursor.is_reading else 0
        return self._current().n_batches - n_read

    @property
    def n_padded(self) -> int:
        """Samples that the iteration reads twice, so that all ranks have as many batches."""
        return self._current().n_padded

    @property
    def n_dropped(self) -> int:
        """Samples that the iteration leaves out."""
        return self._current().n_dropped

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
        cursor = self._cursor
        if cursor.status is Status.READY or self._partition is None:
            position, topology, n = cursor.waiting, self._topology()[1], 0
        else:
            position, topology, n = cursor.now, self._partition.topology, cursor.n_yielded
        return dump_state(
            self._pipeline,
            kind=BATCHES,
            epoch=position.epoch,
            slices=position.left,
            topology=topology,
            n=n,
        )

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a state, to the sample, on any number of ranks and workers.

        The fidelity stays as it is; set it too, where the one that stopped had another.

        Raises:
            OptionError: Not a state, or one of other data, another selection, seed or window.
        """
        loaded = parse_state(self._pipeline, state, kind=BATCHES)
        left = loaded.left(self._pipeline)
        self._cursor.load(Position(epoch=loaded.epoch, left=left, is_loaded=True))

    # ---- counters

    def stats(self) -> Signals:
        """Return the counters since the loader was made; `str` of them is one line.

        They are this loader's alone, but for `retries`: the store of an open dataset counts those
        of everybody who reads it.
        """
        started = self._started  # once: another thread may end it
        running = 0.0 if started is None else time.perf_counter() - started
        return (
            self._done
            + self._running()
            + self._pipeline.connections.traffic()
            + Signals(seconds=running)
        )

    def _running(self) -> Signals:
        """Return the counters of the iteration under way, without traffic and time."""
        stream = self._stream  # once: another thread may end it
        return Signals() if stream is None else stream.stats()

    def _stop_clock(self) -> None:
        """Add the counters of the iteration that ends to those of the iterations before."""
        started = self._started
        if started is not None:
            self._done += Signals(seconds=time.perf_counter() - started)
        self._done += replace(self._running(), queue_depth=0)
        self._started = None


def check_rank(rank: int, world_size: int) -> None:
    """Raise `OptionError` unless the rank is in 0..world_size - 1."""
    if type(rank) is not int or not 0 <= rank < world_size:
        raise OptionError(f"rank must be in 0..{world_size - 1}, got {rank!r}")
