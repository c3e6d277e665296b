"""Single samples for torch's DataLoader, split by rank and worker, and resumed.

The position of a dataset is held in three places:

    holder                      holds                            changed by
    --------------------------  -------------------------------  -----------------------------------
    `SharedCursor`, one for     the epoch that is next, or the   `set_epoch` and `load_state_dict`
    the parent and its workers  position that was loaded         of the parent; an iteration, when
                                                                 it counts

    `_Iteration`, in each       the position that the iteration  the first sample in the parent, the
    process that reads          began at; samples yielded since  start in a worker; then each sample

    `StatefulDataLoader`        the state of each worker         `state_dict` of the worker, which
    of torchdata                                                 gets it back by `load_state_dict`

The parent is the process that made the dataset, where `num_workers=0` reads. There an iteration
counts from its first sample on: torchdata makes iterators that it drops. In a worker it counts from
its start: the worker reads ahead, and all workers of one DataLoader must agree on the epoch.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import context
from typing import Any, Final, Unpack

import torch
from torch.utils import data as torch_data
from torch.utils.data._utils.worker import WorkerInfo

from pcrstore.core import integer
from pcrstore.errors import OptionError, UsageError
from pcrstore.fidelity import Fidelities
from pcrstore.loader import (
    SAMPLES,
    BatchMemory,
    Data,
    LoaderOptions,
    LoaderProperties,
    LoaderState,
    Position,
    Spec,
    Status,
    check_options,
    dump_state,
    parse_state,
)
from pcrstore.sampling import (
    MAX_EPOCH,
    EpochPartition,
    ShardSlice,
    Topology,
    Uneven,
    skip,
)
from pcrstore.torch.distributed import ranks, start_method, threads_of
from pcrstore.torch.open import open_for_workers, use_chosen_engine
from pcrstore.torch.shared_cursor import SharedCursor

__all__ = ["IterableDataset"]

_SAMPLES_AT_ONCE: Final = 32
"""Samples that are decoded together and then yielded one by one."""


@dataclass(slots=True, kw_only=True)
class _Iteration:
    """One iteration of this process."""

    position: Position[int] | None = None
    """Start of the iteration; None: the position that is next when its first sample is read."""
    state: Mapping[str, object] | None = None
    """State that the iteration goes on from; None: it begins an epoch."""
    reading: tuple[EpochPartition, int] | None = None
    """Partition and number of the worker, once the iteration reads."""
    n_yielded: int = 0
    """Samples of the worker's share that were yielded, with those before the state."""
    is_counted: bool = False
    """True once the iteration has given a sample, or had none to give."""


class IterableDataset(LoaderProperties, torch_data.IterableDataset[tuple[torch.Tensor, int]]):
    """Single samples, for torch's DataLoader and torchdata's StatefulDataLoader.

    It splits itself by rank and worker. `Loader` does the same with less copying.

    Every iteration reads the next epoch, unless `set_epoch` or `load_state_dict` says otherwise;
    one that has given no sample does not count. Workers look up the epoch where this process keeps
    it, when they begin; since they read ahead, an iteration of theirs counts from then on.

    Hugging Face's accelerate, and so its Trainer, shares out among ranks whatever it prepares:
    give it a `Loader`, which it leaves alone, or rank=0 and world_size=1.

    Args:
        dataset: As `Loader`.
        fidelity: As `Loader`.
        size: As `Loader`.
        shuffle: As `Loader`.
        seed: As `Loader`.
        n_threads: Decoding threads of each process; None: cores / ranks on this host / workers.
        rank: As `Loader`.
        world_size: As `Loader`.
        storage_options: As `Loader`.
        uneven: As `Loader`.
        transform: Applied to each image, a uint8 (3, height, width) tensor.
        options: Others of `Loader`: crop, where, select, shuffle_window, prefetch, hedge,
            dct_scaling, apply_orientation, opaque, on_error, version, cache, cache_limit, engine.

    Yields:
        The image, uint8 (3, height, width) unless transformed, and its label.

    Raises:
        OptionError: An option that cannot be used.
        UsageError: While iterating: a newer iteration has begun, for a dataset has one position;
            somebody stopped its threads before the end; or accelerate may share out the epoch among
            ranks a second time.
    """

    def __init__(  # noqa: PLR0913 - by keyword
        self,
        dataset: Data,
        fidelity: Fidelities = 3,
        size: int | tuple[int, int] = 224,
        *,
        shuffle: bool = True,
        seed: int = 0,
        n_threads: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        storage_options: Mapping[str, object] | None = None,
        uneven: Uneven = "pad",
        transform: Callable[[torch.Tensor], Any] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__()
        check_options("IterableDataset", options, LoaderOptions.__annotations__)
        spec = Spec(
            dataset=dataset,
            fidelity=fidelity,
            size=size,
            shuffle=shuffle,
            seed=seed,
            storage_options=storage_options,
            **options,
        )
        self._pipeline = open_for_workers(spec, start=start_method())
        self._fidelity = fidelity
        self._n_threads = n_threads
        self._given_ranks = rank, world_size
        self._maker_ranks: tuple[int, int]
        """Rank and world size of the process that pickled this dataset."""
        self._unpickled_in: int | None = None
        """Process that unpickled this dataset; None: it was made here."""
        self._uneven: Uneven = uneven
        self._transform = transform
        self._shared = SharedCursor()
        self._state: Mapping[str, object] | None = None
        """State that was loaded last."""
        self._state_number = 0
        """Number of the `load_state_dict` call that loaded it, among those in the process that made
        the dataset; 0: torchdata gave the state to this worker alone."""
        self._n_begun = 0
        """Iterations of this worker."""
        self._newest: _Iteration | None = None
        ranks(rank, world_size)
        threads_of(n_threads, 1, 1)
        Topology(uneven=uneven)

    def __getstate__(self) -> dict[str, object]:
        """Add the rank of this process, for which a spawned worker reads."""
        if context.get_spawning_popen() is not None:  # a worker sees no accelerator in `__iter__`
            self._refuse_second_split()
        return {**self.__dict__, "_maker_ranks": self._ranks()}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._unpickled_in = os.getpid()

    def set_epoch(self, epoch: int) -> None:
        """Let every iteration that has not given its first sample read this epoch.

        (torchdata makes an iterator when it is asked for a state, long before it reads.) Iterations
        of workers that begin from now on read it too. A position within this epoch that
        `load_state_dict` set is kept.

        Raises:
            OptionError: Not an integer, or negative.
        """
        epoch = integer(epoch, "epoch", least=0, most=MAX_EPOCH)
        with self._shared.locked() as shared:
            dropped = shared.cursor.set_epoch(epoch)
        state = None if dropped is None else self._state_at(dropped)
        if state is not None and self._parsed(state)[1]:
            warnings.warn(
                f"set_epoch({epoch}) drops the position in epoch {state['epoch']} that was "
                f"loaded; set_epoch({state['epoch']}) keeps it",
                stacklevel=2,
            )

    def _state_at(self, position: Position[int]) -> Mapping[str, object] | None:
        """Return the state that a position was loaded from, if this process has it."""
        return self._state if position.is_loaded and position.left == self._state_number else None

    def _is_over(self, position: Position[int]) -> bool:
        """Say whether nothing is left of a loaded position."""
        state = self._state_at(position)
        if state is None:
            return False
        loaded, n_left = self._parsed(state)
        # One process cannot know what is left of the shares of other workers.
        is_known = loaded.topology.n_workers == 1 or torch_data.get_worker_info() is not None
        return is_known and not n_left

    def _ranks(self) -> tuple[int, int]:
        # A worker that was forked inherits torch.distributed; one that was spawned does not.
        is_worker = torch_data.get_worker_info() is not None
        is_spawned = is_worker and self._unpickled_in == os.getpid()
        return self._maker_ranks if is_spawned else ranks(*self._given_ranks)

    def _topology(self) -> tuple[int, int, Topology]:
        rank, world_size = self._ranks()
        info = torch_data.get_worker_info()
        worker, n_workers = (0, 1) if info is None else (info.id, info.num_workers)
        topology = Topology(world_size=world_size, n_workers=n_workers, uneven=self._uneven)
        return rank, worker, topology

    def __len__(self) -> int:
        """Samples of this rank.

        With workers a DataLoader may yield more batches than it counts by this: each worker ends
        with a batch of its own that is not full.
        """
        return self._pipeline.partition(0, None, self._topology()[2]).n_per_rank  # as any epoch

    def _refuse_second_split(self) -> None:
        """Raise `UsageError` if accelerate would divide the share of this rank among ranks again.

        From here it cannot be seen if the DataLoader around this dataset went through `prepare`.
        A warning would be lost in the logs of many ranks, and the training would look well on a
        part of the data; a program that prepares something else can say its rank.
        """
        if self._given_ranks != (None, None) or self._ranks()[1] == 1 or not _has_accelerator():
            return
        raise UsageError(
            "accelerate shares out an IterableDataset among ranks, and this one shares itself out "
            "already: each rank would read a part of its part. Use pcrstore.torch.Loader, which "
            "Accelerator.prepare leaves as it is, or IterableDataset(rank=0, world_size=1) for "
            "accelerate to share out. If the DataLoader is not prepared, give "
            "rank=accelerator.process_index and world_size=accelerator.num_processes"
        )

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        self._refuse_second_split()
        iteration = self._newest = _Iteration()
        info = torch_data.get_worker_info()
        if info is not None:
            self._join(iteration, info)
        else:
            # torchdata makes iterators that it drops, and asks for the state before it reads: until
            # the first sample is given, the state is of the position that comes next.
            with self._shared.locked() as shared:
                shared.cursor.prepare()
                shared.has_workers = False
        return self._samples(iteration)

    def _join(self, iteration: _Iteration, info: WorkerInfo) -> None:
        """Set the position of an iteration of this worker; others may begin it with it."""
        self._n_begun += 1
        state = self._state
        if state is not None and not self._state_number:
            loaded, n_left = self._parsed(state)
            with self._shared.locked() as shared:
                shared.resume(loaded.epoch, is_over=not n_left)
            iteration.position = Position(epoch=loaded.epoch)
            iteration.state, self._state = state, None
            return
        seed = info.seed - info.id  # torch adds the worker's number to the seed of the iterator
        with self._shared.locked() as shared:
            iteration.position = shared.join(
                seed, self._n_begun, info.id, info.num_workers, self._is_over
            )
        iteration.state = self._state_at(iteration.position)

    def _samples(self, iteration: _Iteration) -> Iterator[tuple[torch.Tensor, int]]:
        rank, worker, topology = self._topology()
        use_chosen_engine(self._pipeline)
        if iteration.position is None:
            with self._shared.locked() as shared:
                iteration.position = shared.cursor.upcoming(self._is_over)
            iteration.state = self._state_at(iteration.position)
        slices, n_read = self._resumed(iteration.state, worker, topology)
        partition = self._pipeline.partition(iteration.position.epoch, slices, topology)
        n_in_all = partition.n_samples(worker)
        iteration.reading, iteration.n_yielded = (partition, worker), n_read
        rest = skip(partition.order, partition.share(rank, worker), n_read)
        n = n_in_all - n_read
        sizes = [min(_SAMPLES_AT_ONCE, n - i) for i in range(0, n, _SAMPLES_AT_ONCE)]
        memory = BatchMemory(_SAMPLES_AT_ONCE, self._pipeline.rendering.shape)
        stream = self._pipeline.stream(
            partition,
            rest,
            sizes,
            n_threads=threads_of(self._n_threads, topology.world_size, topology.n_workers),
            allocate=lambda n: (memory.take(n), None),
        )
        for batch in stream:
            images = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
            labels = batch.samples.labels.tolist()
            del batch
            for i, label in enumerate(labels):
                # A sample outlives its batch in a collation that waits, so it gets its own memory.
                image = images[i].contiguous()
                if self._newest is not iteration:
                    raise UsageError(
                        "another iteration of this dataset has begun: "
                        f"{n_in_all - iteration.n_yielded} samples of this one are left"
                    )
                self._count(iteration)
                iteration.n_yielded += 1
                yield (image if self._transform is None else self._transform(image)), label
            del images
        if iteration.n_yielded < n_in_all:
            raise UsageError(
                "the threads of this dataset were stopped: "
                f"{n_in_all - iteration.n_yielded} samples of this iteration are left"
            )
        self._count(iteration)

    def _count(self, iteration: _Iteration) -> None:
        """Let the newest iteration count as one of its epoch; those of workers count already."""
        if iteration.is_counted or iteration.position is None:
            return
        if self._newest is iteration:
            iteration.is_counted = True
            if torch_data.get_worker_info() is None:
                with self._shared.locked() as shared:
                    shared.begin(iteration.position)

    def state_dict(self) -> dict[str, object]:
        """Return the position of this process: with workers, each has its own.

        torchdata's StatefulDataLoader keeps those of all workers, and gives each its own back; it
        wants the same number of workers again. `Loader` resumes on any. Beside a DataLoader with
        workers the process that iterates over it has no position to tell.

        Raises:
            UsageError: Workers read, and this process is none of them.
        """
        iteration = self._newest
        if torch_data.get_worker_info() is None:
            with self._shared.locked() as shared:
                has_workers, position = shared.has_workers, shared.cursor.waiting
                is_ready = shared.cursor.status is Status.READY
            if has_workers:
                raise UsageError(
                    "workers read this dataset, and each has a position of its own: take the state "
                    "of torchdata's StatefulDataLoader, or use pcrstore.torch.Loader"
                )
            if is_ready:
                iteration = _Iteration(position=position, state=self._state_at(position))
        elif self._state is not None and not self._state_number:
            iteration = _Iteration(state=self._state)
        if iteration is None:
            iteration = _Iteration()
        if iteration.reading is None and iteration.state is not None:
            return dict(iteration.state)
        return self._dump(iteration)

    def _dump(self, iteration: _Iteration) -> dict[str, object]:
        """Return the state of an iteration that reads, or is at the start of an epoch."""
        slices: Sequence[ShardSlice] | None = None
        if iteration.reading is None:
            _, worker, topology = self._topology()
            epoch = 0 if iteration.position is None else iteration.position.epoch
        else:
            partition, worker = iteration.reading
            topology, epoch = partition.topology, partition.order.epoch
            slices = partition.slices
        return dump_state(
            self._pipeline,
            kind=SAMPLES,
            epoch=epoch,
            slices=slices,
            topology=topology,
            n=iteration.n_yielded,
            worker=worker,
        )

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Let the next iteration go on from a state.

        Raises:
            OptionError: Not a state, or one of other data.
        """
        loaded, _ = self._parsed(state)
        self._state, self._state_number = dict(state), 0
        if torch_data.get_worker_info() is None:
            with self._shared.locked() as shared:
                self._state_number = shared.load(loaded.epoch)

    def _parsed(self, state: object) -> tuple[LoaderState, int]:
        """Return the content of a state, checked, and the samples left of its worker's share."""
        loaded = parse_state(self._pipeline, state, kind=SAMPLES)
        topology, worker, n_read = loaded.topology, loaded.worker, loaded.n_yielded
        if topology.batch_size != 1 or topology.drop_last:
            raise OptionError(
                "a state that counts samples must have batch_size 1 and drop_last false, "
                f"got {topology.batch_size} and {topology.drop_last}"
            )
        if worker >= topology.n_workers:
            raise OptionError(
                f"worker of a state must be in 0..{topology.n_workers - 1}, got {worker}"
            )
        n = self._pipeline.partition(loaded.epoch, loaded.slices, topology).n_samples(worker)
        if n_read > n:
            raise OptionError(f"batches of a state must be in 0..{n}, got {n_read}")
        return loaded, n - n_read

    def _resumed(
        self, state: Mapping[str, object] | None, worker: int, topology: Topology
    ) -> tuple[list[ShardSlice] | None, int]:
        """Return the slices of an iteration, and how many samples of its share were read before."""
        if state is None:
            return None, 0
        loaded, _ = self._parsed(state)
        was = loaded.topology
        if was == topology and loaded.worker == worker:
            return loaded.slices, loaded.n_yielded
        if was == topology:
            raise OptionError(
                f"the state is of worker {loaded.worker} of {was.n_workers}, got worker "
                f"{worker}: StatefulDataLoader gives each its own; pcrstore.torch.Loader has one "
                "for all"
            )
        if was.n_workers != 1:
            raise OptionError(
                f"the state is of one of {was.n_workers} workers of each of {was.world_size} ranks "
                f"and can be resumed with as many, got {topology.n_workers} of "
                f"{topology.world_size}; pcrstore.torch.Loader resumes on any number"
            )
        return loaded.left(self._pipeline), 0


def _has_accelerator() -> bool:
    """Say whether an `accelerate.Accelerator` was made in this process."""
    module = sys.modules.get("accelerate.state")
    return module is not None and bool(module.is_initialized())
