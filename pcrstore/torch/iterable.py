"""Single samples for torch's DataLoader, split by rank and worker, and resumed."""

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

from pcrstore.concurrency import SharedNumber
from pcrstore.core import integer
from pcrstore.errors import OptionError, UsageError
from pcrstore.fidelity import Fidelities
from pcrstore.loader import (
    SAMPLES,
    BatchMemory,
    Data,
    Dialled,
    MoreOptions,
    Spec,
    check_options,
    resume,
    written,
)
from pcrstore.sampling import EpochPartition, ShardSlice, Topology, Uneven, skip
from pcrstore.torch.distributed import load, ranks, settle, start_method, threads_of
from pcrstore.torch.epochs import SharedEpochs

__all__ = ["IterableDataset"]

_SAMPLES_AT_ONCE: Final = 32
"""Samples that `IterableDataset` has decoded together before it yields them one by one."""


@dataclass(slots=True, kw_only=True)
class _Run:
    """One iteration of an `IterableDataset`."""

    state: Mapping[str, object] | None = None
    """What it goes on from; None: it begins an epoch."""
    epoch: int | None = None
    """That it begins; None: the one that is next when it gives its first sample."""
    now: tuple[EpochPartition, int, int] | None = None
    """EpochPartition, epoch and worker, once it reads."""
    n_yielded: int = 0
    """Samples of the leg, those before it too."""
    has_begun: bool = False
    """Whether it has given a sample, or there was none to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a state says."""

    epoch: int
    stretches: list[ShardSlice] | None
    """What was left of the epoch when the iteration began; None: all."""
    topology: Topology
    worker: int
    n_read: int
    """Samples that this worker has yielded since."""
    n_left: int
    """Those that it has not."""


class IterableDataset(Dialled, torch_data.IterableDataset[tuple[torch.Tensor, int]]):
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
        **options: Unpack[MoreOptions],
    ) -> None:
        super().__init__()
        check_options("IterableDataset", options, MoreOptions.__annotations__)
        spec = Spec(
            dataset=dataset,
            fidelity=fidelity,
            size=size,
            shuffle=shuffle,
            seed=seed,
            storage_options=storage_options,
            **options,
        )
        self._loading = load(spec, start=start_method())
        self._fidelity = fidelity
        self._n_threads = n_threads
        self._given = rank, world_size
        self._of_maker: tuple[int, int]
        """Rank and world size of the process that made the pickle which this came by."""
        self._came_to: int | None = None
        """The process that it came to by a pickle."""
        self._uneven: Uneven = uneven
        self._transform = transform
        self._epochs = SharedEpochs()
        self._state: Mapping[str, object] | None = None
        """Loaded, and not yet gone on from here; workers may have, see `_loaded`."""
        self._number = 0
        """Of this state, among those that were loaded where the dataset was made; 0: a worker's."""
        self._is_asked_for = False
        """Whether `set_epoch` said the epoch of this state again: where nothing is left of it,
        nothing is read."""
        self._n_begun = 0
        """Iterations of this worker."""
        self._newest: _Run | None = None
        self._position: _Run | None = None
        """The newest iteration, unless a state was loaded since."""
        self._is_with_workers = SharedNumber(0)
        """Whether the newest iteration is one of worker processes; they say so."""
        ranks(rank, world_size)
        threads_of(n_threads, 1, 1)
        Topology(uneven=uneven)

    def __getstate__(self) -> dict[str, object]:
        """Tell workers the rank of the process that they work for."""
        if context.get_spawning_popen() is not None:  # a worker's is the only one that asks here
            self._refuse_second_split()
        return {**self.__dict__, "_of_maker": self._ranks()}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._came_to = os.getpid()

    def set_epoch(self, epoch: int) -> None:
        """Let every iteration read this epoch that has not given its first sample.

        (torchdata makes an iterator when it is asked for a state, long before it reads.) Iterations
        of workers read it that begin from now on. A position within this epoch that
        `load_state_dict` set is kept.

        Raises:
            OptionError: Not an integer, or negative.
        """
        state = self._loaded()
        is_same = state is not None and state["epoch"] == epoch
        self._epochs.set(epoch, keeps_loaded=is_same)
        self._is_asked_for = is_same
        if state is None or is_same:
            return
        self._state = None
        if self._newest is not None:
            self._newest.state = None
        if self._place(state).n_left:
            warnings.warn(
                f"set_epoch({epoch}) drops the position in epoch {state['epoch']} that was "
                f"loaded; set_epoch({state['epoch']}) keeps it",
                stacklevel=2,
            )

    def _loaded(self) -> Mapping[str, object] | None:
        """Return the state that the next iteration of this process goes on from."""
        if self._state is not None and self._number not in (0, self._epochs.loaded):
            self._state = None  # workers went on from it
        newest = self._newest
        if self._state is None and newest is not None and not newest.has_begun:
            return newest.state
        return self._state

    def _ranks(self) -> tuple[int, int]:
        # A worker that was forked inherits torch.distributed; one that was spawned does not.
        is_worker = torch_data.get_worker_info() is not None
        is_spawned = is_worker and self._came_to == os.getpid()
        return self._of_maker if is_spawned else ranks(*self._given)

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
        return self._loading.leg(self._epochs.next, None, self._topology()[2]).n_per_rank

    def _refuse_second_split(self) -> None:
        """Raise `UsageError` where accelerate would share out what is one rank's share already.

        Whether the DataLoader around this dataset went through `prepare` cannot be seen from here.
        A warning would be lost in the logs of many ranks, and the training would look well on a
        part of the data; a program that prepares something else can say its rank.
        """
        if self._given != (None, None) or self._ranks()[1] == 1 or not _has_accelerator():
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
        info = torch_data.get_worker_info()
        # At once: torchdata makes an iterator of a state and drops it where that was of an end, and
        # asks for the state of one that has yielded nothing.
        run = _Run(state=self._loaded()) if info is None else self._run_of_worker(info)
        self._newest = self._position = run
        self._state = None
        self._is_with_workers.value = int(info is not None)
        return self._samples(run)

    def _run_of_worker(self, info: WorkerInfo) -> _Run:
        """Return the run that this worker begins; others may begin it with it."""
        self._n_begun += 1
        state = self._state
        if state is not None and not self._number:  # torchdata gave it to this worker alone
            epoch, is_over = self._epoch_of(state)
            (self._epochs.end if is_over else self._epochs.begin)(epoch)
            return _Run(state=state)
        loaded = None
        if state is not None:
            epoch, is_over = self._epoch_of(state)
            if is_over and not self._is_asked_for:
                state, epoch = None, epoch + 1
            loaded = self._number, epoch
        seed = info.seed - info.id  # that of the DataLoader's iterator: torch adds the worker
        turn = self._epochs.join(seed, self._n_begun, info.id, info.num_workers, loaded)
        return _Run(state=state if turn.loaded else None, epoch=turn.epoch)

    def _epoch_of(self, state: Mapping[str, object]) -> tuple[int, bool]:
        """Return the epoch of a state, and whether nothing is left of it."""
        place = self._place(state)
        return place.epoch, not place.n_left

    def _samples(self, run: _Run) -> Iterator[tuple[torch.Tensor, int]]:
        rank, worker, topology = self._topology()
        settle(self._loading)
        epoch, stretches, n_read = self._resumed(run, worker, topology)
        leg = self._loading.leg(epoch, stretches, topology)
        n_in_all = _n_samples(leg, worker)
        run.now, run.n_yielded = (leg, epoch, worker), n_read
        rest = skip(leg.order, leg.share(rank, worker), n_read)
        n = n_in_all - n_read
        sizes = [min(_SAMPLES_AT_ONCE, n - i) for i in range(0, n, _SAMPLES_AT_ONCE)]
        memory = BatchMemory(
            _SAMPLES_AT_ONCE, (self._loading.rendering.height, self._loading.rendering.width, 3)
        )
        feed = self._loading.stream(
            leg.order,
            rest,
            sizes,
            epoch,
            n_threads=threads_of(self._n_threads, topology.world_size, topology.n_workers),
            share=topology.n_workers,
            allocate=lambda n: (memory.take(n), None),
        )
        for batch in feed:
            images = torch.from_numpy(batch.images).permute(0, 3, 1, 2)
            labels = batch.labels.tolist()
            del batch
            for i, label in enumerate(labels):
                # A sample outlives its batch in a collation that waits, so it gets its own memory.
                image = images[i].contiguous()
                if self._newest is not run:
                    raise UsageError(
                        "another iteration of this dataset has begun: "
                        f"{n_in_all - run.n_yielded} samples of this one are left"
                    )
                self._count(run, epoch)
                run.n_yielded += 1
                yield (image if self._transform is None else self._transform(image)), label
            del images
        if run.n_yielded < n_in_all:
            raise UsageError(
                "the threads of this dataset were stopped: "
                f"{n_in_all - run.n_yielded} samples of this iteration are left"
            )
        self._count(run, epoch)

    def _count(self, run: _Run, epoch: int) -> None:
        """Let an iteration count that has not done so."""
        if not run.has_begun:
            run.has_begun = True
            if torch_data.get_worker_info() is None:
                self._epochs.begin(epoch)

    def state_dict(self) -> dict[str, object]:
        """Return the position of this process: with workers, each has its own.

        torchdata's StatefulDataLoader keeps those of all workers, and gives each its own back; it
        wants the same number of workers again. `Loader` resumes on any. Beside a DataLoader with
        workers the process that iterates over it has no position to tell.

        Raises:
            UsageError: Workers read, and this process is none of them.
        """
        if self._is_with_workers.value and torch_data.get_worker_info() is None:
            raise UsageError(
                "workers read this dataset, and each has a position of its own: take the state of "
                "torchdata's StatefulDataLoader, or use pcrstore.torch.Loader"
            )
        run = self._position
        state = self._loaded() if run is None else None
        if run is not None and run.now is None:
            state = run.state
        return self._written(run) if state is None else dict(state)

    def _written(self, run: _Run | None) -> dict[str, object]:
        stretches: Sequence[ShardSlice] | None = None
        if run is None or run.now is None:
            _, worker, topology = self._topology()
            epoch, n = self._epochs.next if run is None or run.epoch is None else run.epoch, 0
        else:
            leg, epoch, worker = run.now
            topology, stretches, n = leg.topology, leg.stretches, run.n_yielded
        state = written(
            self._loading,
            kind=SAMPLES,
            epoch=epoch,
            stretches=stretches,
            topology=topology,
            n=n,
        )
        return {**state, "worker": worker}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Let the next iteration go on from a state.

        Raises:
            OptionError: Not a state, or one of other data.
        """
        self._place(state)
        self._state, self._position, self._number = dict(state), None, 0
        self._is_asked_for = False
        if torch_data.get_worker_info() is None:
            self._number = self._epochs.load()
            self._is_with_workers.value = 0

    def _place(self, state: object) -> _Place:
        """Check a state, whose count of samples may be a worker's."""
        at_start = {**state, "batches": 0} if isinstance(state, Mapping) else state
        epoch, stretches = resume(self._loading, at_start, kind=SAMPLES)
        given = state if isinstance(state, Mapping) else {}

        def number(name: str, least: int) -> int:
            return integer(given.get(name), f"{name} of a state", least=least)

        if number("batch_size", 1) != 1 or given["drop_last"]:
            raise OptionError(
                "a state that counts samples must have batch_size 1 and drop_last false, "
                f"got {given['batch_size']} and {given['drop_last']}"
            )
        topology = Topology(
            world_size=number("world_size", 1),
            n_workers=number("num_workers", 1),
            uneven="pad" if given["uneven"] == "pad" else "drop",
        )
        worker, n_read = number("worker", 0), number("batches", 0)
        if worker >= topology.n_workers:
            raise OptionError(
                f"worker of a state must be in 0..{topology.n_workers - 1}, got {worker}"
            )
        n = _n_samples(self._loading.leg(epoch, stretches, topology), worker)
        if n_read > n:
            raise OptionError(f"batches of a state must be in 0..{n}, got {n_read}")
        return _Place(
            epoch=epoch,
            stretches=stretches,
            topology=topology,
            worker=worker,
            n_read=n_read,
            n_left=n - n_read,
        )

    def _resumed(
        self, run: _Run, worker: int, topology: Topology
    ) -> tuple[int, list[ShardSlice] | None, int]:
        """Return epoch, what is left of it, and how much of the own share was read."""
        state = run.state
        if state is None:
            return self._epochs.next if run.epoch is None else run.epoch, None, 0
        place = self._place(state)
        was = place.topology
        # Workers have no more to give; a process that reads alone goes on with the next epoch.
        is_alone = was.n_workers == 1 and torch_data.get_worker_info() is None
        if not place.n_left and is_alone and not self._is_asked_for:
            return self._epochs.after(place.epoch), None, 0
        if was == topology and place.worker == worker:
            return place.epoch, place.stretches, place.n_read
        if was == topology:
            raise OptionError(
                f"the state is of worker {place.worker} of {was.n_workers}, got worker {worker}: "
                "StatefulDataLoader gives each its own; pcrstore.torch.Loader has one for all"
            )
        if was.n_workers != 1:
            raise OptionError(
                f"the state is of one of {was.n_workers} workers of each of {was.world_size} ranks "
                f"and can be resumed with as many, got {topology.n_workers} of "
                f"{topology.world_size}; pcrstore.torch.Loader resumes on any number"
            )
        epoch, stretches = resume(self._loading, state, kind=SAMPLES)
        return epoch, stretches, 0


def _has_accelerator() -> bool:
    """Say whether an `accelerate.Accelerator` was made in this process."""
    module = sys.modules.get("accelerate.state")
    return module is not None and bool(module.is_initialized())


def _n_samples(leg: EpochPartition, worker: int) -> int:
    """Return the samples of a worker, where batches are of one."""
    return len(range(worker, leg.n_batches, leg.topology.n_workers))
