"""Single samples for torch's DataLoader, split by rank and worker, and resumed."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Unpack

import torch
from torch.utils import data as torch_data

from pcrstore.buffers import BatchMemory
from pcrstore.dial import Fidelities, SharedNumber
from pcrstore.errors import OptionError, UsageError
from pcrstore.integers import integer
from pcrstore.loader import Dialled
from pcrstore.loading import Data, MoreOptions, Spec, check_options
from pcrstore.order import Stretch, skip
from pcrstore.shares import Leg, Topology, Uneven
from pcrstore.state import SAMPLES, resume, written
from pcrstore.torch.processes import load, ranks, settle, start_method, threads_of

__all__ = ["IterableDataset"]

_SAMPLES_AT_ONCE: Final = 32
"""Samples that `IterableDataset` has decoded together before it yields them one by one."""


@dataclass(slots=True, kw_only=True)
class _Run:
    """One iteration of an `IterableDataset`."""

    state: Mapping[str, object] | None
    """What it goes on from; None: it begins an epoch."""
    now: tuple[Leg, int, int] | None = None
    """Leg, epoch and worker, once it reads."""
    n_yielded: int = 0
    """Samples of the leg, those before it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a state says."""

    epoch: int
    stretches: list[Stretch] | None
    """What was left of the epoch when the iteration began; None: all."""
    topology: Topology
    worker: int
    n_read: int
    """Samples that this worker has yielded since."""
    n_left: int
    """Those that it has not."""


class IterableDataset(Dialled, torch_data.IterableDataset[tuple[torch.Tensor, int]]):
    """Single samples, for torch's DataLoader and torchdata's StatefulDataLoader.

    It splits itself by rank and worker. `Loader` does the same with less copying and follows epochs
    by itself; here `set_epoch` must be called before each epoch, as with a DistributedSampler.

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
            or somebody stopped its threads before the end.
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
        self._epoch = SharedNumber(0)
        self._state: Mapping[str, object] | None = None
        """Loaded, and not yet gone on from."""
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
        return {**self.__dict__, "_of_maker": self._ranks()}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self._came_to = os.getpid()

    def set_epoch(self, epoch: int) -> None:
        """Let every iteration read this epoch that has not given its first sample, in workers too.

        (torchdata makes an iterator when it is asked for a state, long before it reads.) A position
        within this epoch that `load_state_dict` set is kept.

        Raises:
            OptionError: Not an integer, or negative.
        """
        self._epoch.value = epoch
        epoch, state = self._epoch.value, self._state
        if state is None or state["epoch"] == epoch:
            return
        self._state = None
        # Workers have gone on from it where they are newer: then it is not lost.
        if not self._is_with_workers.value and self._place(state).n_left:
            warnings.warn(
                f"set_epoch({epoch}) drops the position in epoch {state['epoch']} that was "
                f"loaded; set_epoch({state['epoch']}) keeps it",
                stacklevel=2,
            )

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
        return self._loading.leg(self._epoch.value, None, self._topology()[2]).n_per_rank

    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        # At once: torchdata makes an iterator of a state and drops it where that was of an end, and
        # asks for the state of one that has yielded nothing.
        run = self._newest = self._position = _Run(state=self._state)
        self._state = None
        self._is_with_workers.value = int(torch_data.get_worker_info() is not None)
        return self._samples(run)

    def _samples(self, run: _Run) -> Iterator[tuple[torch.Tensor, int]]:
        rank, worker, topology = self._topology()
        settle(self._loading)
        epoch, stretches, n_read = self._resumed(run.state, worker, topology)
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
                run.n_yielded += 1
                yield (image if self._transform is None else self._transform(image)), label
            del images
        if run.n_yielded < n_in_all:
            raise UsageError(
                "the threads of this dataset were stopped: "
                f"{n_in_all - run.n_yielded} samples of this iteration are left"
            )

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
        state = self._state
        if state is None and run is not None and run.now is None:
            state = run.state
        return self._written(run) if state is None else dict(state)

    def _written(self, run: _Run | None) -> dict[str, object]:
        stretches: Sequence[Stretch] | None = None
        if run is None or run.now is None:
            _, worker, topology = self._topology()
            epoch, n = self._epoch.value, 0
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
        self._state, self._position = dict(state), None
        if torch_data.get_worker_info() is None:
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
        self, state: Mapping[str, object] | None, worker: int, topology: Topology
    ) -> tuple[int, list[Stretch] | None, int]:
        """Return epoch, what is left of it, and how much of the own share was read."""
        if state is None:
            return self._epoch.value, None, 0
        place = self._place(state)
        was = place.topology
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


def _n_samples(leg: Leg, worker: int) -> int:
    """Return the samples of a worker, where batches are of one."""
    return len(range(worker, leg.n_batches, leg.topology.n_workers))
