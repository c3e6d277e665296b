"""`Loader`: batches as tensors, from threads of this process or from worker processes."""

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing.context import BaseContext
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import data as torch_data
from tqdm import tqdm

from pcrstore.core import integer
from pcrstore.dataset import Where
from pcrstore.errors import WorkerDiedError
from pcrstore.fidelity import Fidelities
from pcrstore.image import Crop
from pcrstore.loader import BaseLoader, BatchMemory, Data, OnError, Opaque, Signals, Spec
from pcrstore.sampling import EpochPartition, Topology, Uneven
from pcrstore.storage import Engine
from pcrstore.torch.distributed import ranks, threads_of
from pcrstore.torch.open import open_for_workers
from pcrstore.torch.workers import Pool, Sent, StartMethod, WorkerStream, context_of, tensors_of

__all__ = ["Loader"]

Found = TypeVar("Found")

_DIED: Final = "DataLoader worker"
"""Start of torch's RuntimeError about a dead worker (torch/utils/data/dataloader.py, 2.13)."""


class Loader(BaseLoader[tuple[torch.Tensor, ...], torch.Tensor]):
    """Batches of a dataset as tensors.

    One process keeps all its cores busy: records are fetched ahead in the background and decoded in
    threads, so `num_workers=0` is the fast way for a plain pipeline. With `num_workers` processes
    each yields whole batches in turn.

    Every iteration reads the next epoch, also after a `break`, unless `set_epoch` says which; one
    that has yielded nothing does not count. `len` is the epoch's, `n_left` what is left. There is
    one at a time: where another begins, going on with the older one is a `UsageError`. Workers
    stay from epoch to epoch, and go with the loader, or by `close()` or `with`.

    A copy by a pickle has the position of one whose loop was left here; it makes connections and
    workers of its own, and looks up rank and world size where it is. Like a dataset's, its pickle
    holds the URL and the storage options as they were given.

    Args:
        dataset: URL, path, store, open `pcrstore.Dataset`, or `Mix` of them.
        batch_size: Samples of a batch, on each rank.
        fidelity: A group number, "full", a quality or byte target, a `Mixture`, or one for each
            image; `loader.fidelity = k` changes it while it runs.
        size: Size of the images yielded: a side, or (height, width).
        shuffle: Records, then samples among `shuffle_window`. False: stored order, and central
            crops unless `crop` says otherwise.
        seed: Seed of order, crops and mixtures: all are functions of (seed, epoch, sample).
        num_workers: Processes that read and decode; 0: threads of this one.
        n_threads: Decoding threads of each process; None: cores / ranks on this host / processes.
        rank: Rank of this process; None: torch.distributed's, else RANK, else 0.
        world_size: Ranks that share an epoch; None: torch.distributed's, else WORLD_SIZE, else 1.
        storage_options: As for fsspec.
        crop: `RandomResizedCrop()` when shuffled, else `CenterCrop()`; or any other `Crop`.
        where: Conditions on columns, as `Dataset.find`: {"split": "train", "label": ["cat"]}.
        select: Positions of the images to read, in any order: it is not the order of reading.
        uneven: Where samples do not divide by ranks: "pad" reads some twice, "drop" leaves some
            out; `n_padded` and `n_dropped` say how many.
        drop_last: Leave out a last batch that is not full.
        shuffle_window: Samples among which one is drawn; memory holds about half of them, encoded.
        prefetch: Bytes to be ahead of the window, "16mb"; workers share it.
        hedge: Ask a second time for what takes three times as long as usual.
        dct_scaling: Decode at 1/2, 1/4 or 1/8 where the crop is at least so much larger than size.
        apply_orientation: Turn images as their EXIF orientation says.
        opaque: "decode" files that were kept as they are, or "skip" them.
        on_error: "skip" an image that cannot be decoded: another of its batch is repeated, pixels,
            label and position, so that a position may come twice; the log names it and
            `stats().skipped` counts it. A batch of which nothing can be decoded is raised all the
            same, and so is damage in the store.
        version: Of the dataset at the URL; None: the newest. Give it where ranks start apart in
            time and images are being appended.
        pin_memory: Yield pinned memory, for copies to a GPU that do not block; without CUDA a
            warning, and nothing else.
        cache: Folder that keeps the scan groups of records that are read whole on local disk.
        cache_limit: Its size, "10gb". Of an epoch that reads more, that much is found in it.
        engine: "obstore", "fsspec", or "auto".
        multiprocessing_context: How workers start: "fork", "spawn", "forkserver", or a context;
            None: the platform's way.
        positions: Yield a third tensor, the position of each sample in the dataset; in a mix
            counted on over the datasets.
        progress: Show a line on stderr.

    Yields:
        images: uint8 (N, 3, height, width), in channels_last memory, as convolutions like it.
        labels: int64 (N,), -1 for none.

    Raises:
        OptionError: An option that cannot be used.
        FidelityError: A dataset does not have the fidelity.
        UsageError: While iterating: another iteration has begun, or the loader was closed.
        WorkerDiedError: While iterating: a worker was killed. Where that happens while your own
            code runs, torch raises its RuntimeError there.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - the options of a training job
        self,
        dataset: Data,
        batch_size: int = 64,
        fidelity: Fidelities = 3,
        size: int | tuple[int, int] = 224,
        shuffle: bool = True,  # noqa: FBT001, FBT002 - as torch's DataLoader
        seed: int = 0,
        num_workers: int = 0,
        n_threads: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        storage_options: Mapping[str, object] | None = None,
        *,
        crop: Crop | None = None,
        where: Where | None = None,
        select: Sequence[int] | NDArray[np.integer] | None = None,
        uneven: Uneven = "pad",
        drop_last: bool = False,
        shuffle_window: int = 1024,
        prefetch: int | str = "16mb",
        hedge: bool = False,
        dct_scaling: bool = True,
        apply_orientation: bool = False,
        opaque: Opaque = "decode",
        on_error: OnError = "raise",
        version: int | None = None,
        pin_memory: bool = False,
        cache: str | os.PathLike[str] | None = None,
        cache_limit: int | str = "10gb",
        engine: Engine = "auto",
        multiprocessing_context: StartMethod | BaseContext | None = None,
        positions: bool = False,
        progress: bool = False,
    ) -> None:
        num_workers = integer(num_workers, "num_workers", least=0)
        spec = Spec(
            dataset=dataset,
            fidelity=fidelity,
            size=size,
            shuffle=shuffle,
            seed=seed,
            storage_options=storage_options,
            crop=crop,
            where=where,
            select=select,
            shuffle_window=shuffle_window,
            prefetch=prefetch,
            hedge=hedge,
            dct_scaling=dct_scaling,
            apply_orientation=apply_orientation,
            opaque=opaque,
            on_error=on_error,
            version=version,
            cache=cache,
            cache_limit=cache_limit,
            engine=engine,
        )
        self._context = context_of(multiprocessing_context) if num_workers else None
        start = None if self._context is None else self._context.get_start_method()
        self._given_ranks = rank, world_size
        self._rank_topology = Topology(
            n_workers=max(1, num_workers),
            batch_size=batch_size,
            uneven=uneven,
            drop_last=drop_last,
        )
        self._topology()
        threads_of(n_threads, 1, 1)
        super().__init__(open_for_workers(spec, start=start))
        self._fidelity = fidelity
        self._num_workers = num_workers
        self._n_threads = n_threads
        self._pin_memory = pin_memory
        self._can_pin = torch.cuda.is_available()
        if pin_memory and not self._can_pin:
            warnings.warn("pin_memory is for GPUs, and CUDA finds none", stacklevel=2)
        self._with_positions = positions
        self._progress = progress
        self._memory = BatchMemory(batch_size, self._pipeline.rendering.shape)
        self._worker_counters = Signals()
        """Counters of the workers in the iteration under way."""
        self._last_sent: dict[int, Signals] = {}
        """Counters that each worker sent with its last batch."""
        self._pool: Pool | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave worker processes behind too, and their counters."""
        return {
            **super().__getstate__(),
            "_worker_counters": Signals(),
            "_last_sent": {},
            "_pool": None,
        }

    def __setstate__(self, state: Mapping[str, object]) -> None:
        super().__setstate__(state)
        self._can_pin = torch.cuda.is_available()

    def _topology(self) -> tuple[int, Topology]:
        rank, world_size = ranks(*self._given_ranks)
        return rank, replace(self._rank_topology, world_size=world_size)

    def close(self) -> None:
        """End the iteration under way, and let threads and worker processes go.

        A loader that was closed can tell its state and be iterated again: it reads the next epoch,
        as after a `break`, with new workers.
        """
        super().close()
        self._pool = None

    def _start(self, partition: EpochPartition, rank: int) -> Iterator[tuple[torch.Tensor, ...]]:
        if self._num_workers:
            pool = self._pool_for(partition, rank)
            batches = self._from_workers(self._call_torch(lambda: iter(pool)))
        else:
            self._stream = stream = self._pipeline.stream_share(
                partition,
                rank=rank,
                worker=0,
                n_threads=threads_of(self._n_threads, partition.topology.world_size, 1),
                allocate=self._allocate,
            )
            # Not a generator, which would keep its batch until the next one is there.
            of_batch = partial(tensors_of, self._pipeline, with_positions=self._with_positions)
            batches = map(of_batch, stream)
        return self._shown(batches, partition.n_batches) if self._progress else batches

    def _shown(
        self, batches: Iterator[tuple[torch.Tensor, ...]], n_batches: int
    ) -> Iterator[tuple[torch.Tensor, ...]]:
        with tqdm(total=n_batches, unit="batch") as bar:
            for batch in batches:
                bar.update()
                bar.set_postfix_str(str(self.stats()), refresh=False)
                yield batch
                del batch  # as `BatchStream` does: it would be kept until the next one is there

    def _end(self, reason: str = "") -> None:
        super()._end(reason)
        self._worker_counters = Signals()

    def _running(self) -> Signals:
        return super()._running() + self._worker_counters

    def _allocate(self, n: int) -> tuple[NDArray[np.uint8], torch.Tensor]:
        if self._pin_memory and self._can_pin:
            # torch's own pool knows which copies to a GPU are still under way; ours would not.
            shape = (n, *self._pipeline.rendering.shape)
            images = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
            return images.numpy(), images
        array = self._memory.take(n)
        return array, torch.from_numpy(array)

    def _from_workers(self, batches: Iterator[Sent]) -> Iterator[tuple[torch.Tensor, ...]]:
        waiting = time.perf_counter()
        while (found := self._call_torch(lambda: next(batches, None))) is not None:
            tensors, worker, total = found
            stalled = time.perf_counter() - waiting
            self._worker_counters += Signals(
                samples=len(tensors[0]), batches=1, stall_seconds=stalled
            )
            # Workers send sums, and the difference to the last sum is added here: the batches that
            # a `break` leaves behind are counted with the next one.
            self._worker_counters += total - self._last_sent.get(worker, Signals())
            self._last_sent[worker] = total
            yield tuple(tensors)
            del found, tensors
            waiting = time.perf_counter()

    def _call_torch(self, call: Callable[[], Found]) -> Found:
        """Return the answer of torch's DataLoader.

        Raises:
            WorkerDiedError: A worker was killed.
        """
        try:
            return call()
        except Exception as e:
            # torch's frames hold the error and the workers: a cycle, which forks would inherit.
            e.with_traceback(None)
            if isinstance(e, RuntimeError):
                self._pool = None
                if str(e).startswith(_DIED):
                    raise WorkerDiedError(
                        f"{e}. Where memory is short use fewer workers, a smaller prefetch or a "
                        "smaller shuffle_window"
                    ) from e
            raise

    def _pool_for(self, partition: EpochPartition, rank: int) -> "torch_data.DataLoader[Sent]":
        """Return worker processes that yield a partition: those of the last epoch if they can.

        Workers that stay can read a whole epoch of the rank and topology that they began with.
        """
        who, pool = (rank, partition.topology), self._pool
        if pool is not None and partition.is_whole and pool.who == who and pool.is_alive():
            pool.stream.epoch.value = partition.order.epoch
            self._last_sent = {w: replace(s, queue_depth=0) for w, s in self._last_sent.items()}
            return pool.batches
        self._last_sent = {}
        n_threads = threads_of(self._n_threads, partition.topology.world_size, self._num_workers)
        stream = WorkerStream(
            self._pipeline,
            partition,
            rank=rank,
            n_threads=n_threads,
            with_positions=self._with_positions,
        )
        batches = torch_data.DataLoader(
            stream,
            batch_size=None,
            num_workers=self._num_workers,
            multiprocessing_context=self._context,
            pin_memory=self._pin_memory and self._can_pin,
            persistent_workers=partition.is_whole,
            # For the seed that torch draws for workers: not from the generator that all share, or
            # a training would depend on num_workers.
            generator=torch.Generator(),
        )
        self._pool = Pool(who, stream, batches) if partition.is_whole else None
        return batches
