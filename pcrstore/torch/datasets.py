"""Datasets for torch's own DataLoader: iterable and map-style."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypedDict, Unpack

import numpy as np
import torch
from torch.utils import data as torch_data

from pcrstore.buffers import BatchMemory
from pcrstore.crops import Crop
from pcrstore.dataset import Dataset
from pcrstore.dial import Fidelities, SharedNumber
from pcrstore.errors import OptionError
from pcrstore.hashing import uniforms
from pcrstore.loader import SAMPLES, STATE_FORMAT, Dialled, resume, rows_of
from pcrstore.loading import Data, MoreOptions, Opaque, Selection, Spec, Where
from pcrstore.order import Stretch, crop_keys, skip
from pcrstore.pixels import render
from pcrstore.population import Mix
from pcrstore.shares import Leg, Topology, Uneven
from pcrstore.stores import Engine
from pcrstore.torch.processes import load, ranks, settle, start_method, threads_of

__all__ = ["IterableDataset", "MapDataset"]

_SAMPLES_AT_ONCE: Final = 32
"""Samples that `IterableDataset` has decoded together before it yields them one by one."""


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
            dct_scaling, apply_orientation, opaque, cache, cache_limit, engine.

    Yields:
        The image, uint8 (3, height, width) unless transformed, and its label.
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
        self._uneven: Uneven = uneven
        self._transform = transform
        self._epoch = SharedNumber(0)
        self._state: Mapping[str, object] | None = None
        self._begun: Mapping[str, object] | None = None
        self._now: tuple[Leg, int, int] | None = None
        self._n_yielded = 0
        ranks(rank, world_size)
        threads_of(n_threads, 1, 1)
        Topology(uneven=uneven)

    def __getstate__(self) -> dict[str, object]:
        """Tell workers the rank of the process that they work for."""
        state = dict(self.__dict__)
        state["_given"] = ranks(*self._given)
        return state

    def set_epoch(self, epoch: int) -> None:
        """Let every iteration that begins from now on read this epoch, in workers too."""
        if epoch < 0:
            raise OptionError(f"epoch must be 0 or more, got {epoch}")
        self._epoch.value = epoch
        if self._state is not None and self._state.get("epoch") != epoch:
            self._state = None

    def _topology(self) -> tuple[int, int, Topology]:
        rank, world_size = ranks(*self._given)
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
        self._begun, self._state = self._state, None
        self._now, self._n_yielded = None, 0
        return self._samples(self._begun)

    def _samples(self, state: Mapping[str, object] | None) -> Iterator[tuple[torch.Tensor, int]]:
        rank, worker, topology = self._topology()
        settle(self._loading)
        epoch, stretches, n_read = self._resumed(state, topology)
        leg = self._loading.leg(epoch, stretches, topology)
        n = sum(leg.batch_sizes(worker))
        self._now, self._n_yielded = (leg, epoch, worker), n_read
        rest = skip(leg.order, leg.share(rank, worker), n_read)
        n -= n_read
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
            for i, label in enumerate(batch.labels.tolist()):
                # A sample outlives its batch in a collation that waits, so it gets its own memory.
                image = images[i].contiguous()
                self._n_yielded += 1
                yield (image if self._transform is None else self._transform(image)), label

    def state_dict(self) -> dict[str, object]:
        """Return the position of this process: with workers, each has its own.

        torchdata's StatefulDataLoader keeps those of all workers, and gives each its own back; it
        wants the same number of workers again. `Loader` resumes on any.
        """
        state = self._state or self._begun
        if self._now is None and state is not None:
            return dict(state)
        return self._written(self._now)

    def _written(self, now: tuple[Leg, int, int] | None) -> dict[str, object]:
        if now is None:
            _, worker, topology = self._topology()
            epoch, left = int(self._epoch.value), None
        else:
            leg, epoch, worker = now
            topology = leg.topology
            left = rows_of(leg.stretches)
        return {
            "format": STATE_FORMAT,
            "kind": SAMPLES,
            "data": self._loading.fingerprint(),
            "epoch": epoch,
            "left": left,
            "world_size": topology.world_size,
            "num_workers": topology.n_workers,
            "batch_size": 1,
            "uneven": topology.uneven,
            "drop_last": False,
            "batches": self._n_yielded,
            "worker": worker,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Let the next iteration go on from a state.

        Raises:
            OptionError: Not a state, or one of other data.
        """
        self._check(state)
        self._state, self._now = state, None

    def _check(self, state: object) -> tuple[int, list[Stretch] | None]:
        """Return epoch and stretches of a state, whose count of samples may be a worker's."""
        at_start = {**state, "batches": 0} if isinstance(state, Mapping) else state
        return resume(self._loading, at_start, kind=SAMPLES)

    def _resumed(
        self, state: Mapping[str, object] | None, topology: Topology
    ) -> tuple[int, list[Stretch] | None, int]:
        """Return epoch, what is left of it, and how much of the own share was read."""
        if state is None:
            return self._epoch.value, None, 0
        was = (state["world_size"], state["num_workers"], state["uneven"])
        epoch, left = self._check(state)
        n = state["batches"]
        if was == (topology.world_size, topology.n_workers, topology.uneven) and isinstance(n, int):
            return epoch, left, n
        if state["num_workers"] != 1:
            raise OptionError(
                f"the state is of one of {state['num_workers']} workers and can be resumed with as "
                f"many, got {topology.n_workers}; pcrstore.torch.Loader resumes on any number"
            )
        epoch, left = resume(self._loading, state, kind=SAMPLES)
        return epoch, left, 0


class MapOptions(TypedDict, total=False):
    """Options of `Loader` that mean something where samples are read one by one."""

    crop: Crop | None
    where: Where | None
    select: Selection | None
    dct_scaling: bool
    apply_orientation: bool
    opaque: Opaque
    version: int | None
    engine: Engine


class MapDataset(Dialled, torch_data.Dataset[tuple[Any, int]]):
    """Random access, for samplers: DistributedSampler, WeightedRandomSampler, your own.

    A batch of scattered samples costs a range read for each; `Loader` reads whole records and is
    what to use where the order may be any. `__getitems__`, which torch calls with a whole batch,
    plans its samples together.

    Args:
        dataset: URL, path or open dataset.
        fidelity: As `Loader`.
        size: As `Loader`.
        storage_options: As `Loader`.
        seed: Of crops, with the epoch and the sample.
        n_threads: Decoding threads; None: cores / ranks on this host / workers.
        transform: Applied to each image, a uint8 (3, height, width) tensor.
        options: Others of `Loader`: crop (`CenterCrop()` unless given), where, select,
            dct_scaling, apply_orientation, opaque, version, engine.

    Raises:
        OptionError: An option that cannot be used, or a `Mix`.
    """

    def __init__(
        self,
        dataset: str | os.PathLike[str] | Dataset,
        fidelity: Fidelities = "full",
        size: int | tuple[int, int] = 224,
        storage_options: Mapping[str, object] | None = None,
        *,
        seed: int = 0,
        n_threads: int | None = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
        **options: Unpack[MapOptions],
    ) -> None:
        super().__init__()
        unknown = set(options) - set(MapOptions.__annotations__)
        if unknown:
            raise OptionError(f"MapDataset has no option {min(unknown)}")
        if isinstance(dataset, Mix):
            raise OptionError("MapDataset reads one dataset; join several by torch's ConcatDataset")
        spec = Spec(
            dataset=dataset,
            fidelity=fidelity,
            size=size,
            storage_options=storage_options,
            shuffle=False,
            seed=seed,
            **options,
        )
        self._loading = load(spec, start=start_method())
        self._fidelity = fidelity
        self._seed = seed
        self._n_threads = n_threads
        self._transform = transform
        self._epoch = SharedNumber(0)
        threads_of(n_threads, 1, 1)

    def set_epoch(self, epoch: int) -> None:
        """Let crops be drawn for this epoch from now on, in workers too."""
        if epoch < 0:
            raise OptionError(f"epoch must be 0 or more, got {epoch}")
        self._epoch.value = epoch

    def __len__(self) -> int:
        return len(self._loading.population.sources[0])

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Return several samples, read by one plan and decoded in threads.

        Raises:
            IndexError: A position outside of the selection.
        """
        settle(self._loading)
        n = len(self)
        asked = np.asarray(indices, np.int64)
        if len(asked) and not (-n <= asked.min() and asked.max() < n):
            raise IndexError(f"index must be in 0..{n - 1}, got {asked.min()}..{asked.max()}")
        source, reader = self._loading.population.sources[0], self._loading.readers[0]
        images = asked % n
        if source.positions is not None:
            images = source.positions[images]
        rendering, epoch = self._loading.rendering, self._epoch.value
        records = reader.catalog.locate(images).number.tolist()
        groups = [
            self._loading.dial.choose(0, images[i : i + 1], record, seed=self._seed, epoch=epoch)
            for i, record in enumerate(records)
        ]
        files = reader.files_at(
            images.tolist(), [g if isinstance(g, int) else g[0] for g in groups]
        )
        names = ["label", "orientation"]
        known = reader.catalog.columns(names, images.tolist())
        turns = np.asarray(known["orientation"]).tolist()
        if not self._loading.spec.apply_orientation:
            turns = [1] * len(turns)
        draws = uniforms(crop_keys(self._seed, epoch, 0, images), rendering.crop.n_draws).tolist()
        out = np.empty((len(images), rendering.height, rendering.width, 3), np.uint8)

        def decode(i: int) -> None:
            render(files[i], rendering, draws[i], out[i], orientation=turns[i])

        info = torch_data.get_worker_info()
        n_workers = 1 if info is None else info.num_workers
        n_threads = threads_of(self._n_threads, ranks(None, None)[1], n_workers)
        if n_threads == 1 or len(files) == 1:
            for i in range(len(files)):
                decode(i)
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(decode, range(len(files))))
        tensors = torch.from_numpy(out).permute(0, 3, 1, 2)
        return [
            (image if self._transform is None else self._transform(image), int(label))
            for image, label in zip(tensors, np.asarray(known["label"]).tolist(), strict=True)
        ]
