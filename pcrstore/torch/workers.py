"""Worker processes of a loader: the share that each reads, and the batches that it sends.

WorkerStream ──torch's DataLoader──▶ Sent: tensors in shared memory, worker, counters so far
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.context import BaseContext
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import data as torch_data

from pcrstore.concurrency import SharedNumber
from pcrstore.errors import OptionError
from pcrstore.loader import Batch, Pipeline, Signals
from pcrstore.sampling import EpochPartition, Topology
from pcrstore.torch.distributed import start_method

__all__ = ["Pool", "Sent", "StartMethod", "WorkerStream", "context_of", "tensors_of"]

StartMethod = Literal["fork", "spawn", "forkserver"]

Sent = tuple[Sequence[torch.Tensor], int, Signals]
"""Message of a worker for each batch: its tensors, the worker's number, its counters so far."""


def tensors_of(
    pipeline: Pipeline, batch: Batch[torch.Tensor], *, with_positions: bool
) -> tuple[torch.Tensor, ...]:
    """Return the tensors that a loader yields for a batch, over the same memory."""
    images = batch.payload.permute(0, 3, 1, 2)
    labels = torch.from_numpy(batch.samples.labels)
    if with_positions:
        return images, labels, torch.from_numpy(pipeline.positions(batch))
    return images, labels


class WorkerStream(torch_data.IterableDataset[Sent]):
    """The batches of a worker process of `Loader`, with its number and counters."""

    def __init__(
        self,
        pipeline: Pipeline,
        partition: EpochPartition,
        *,
        rank: int,
        n_threads: int,
        with_positions: bool,
    ) -> None:
        super().__init__()
        self._pipeline = pipeline
        self._topology = partition.topology
        # Workers that stay know an epoch by its number; the slices of a resumed epoch, which can be
        # many, are for new workers alone.
        self._slices = None if partition.is_whole else partition.slices
        self.epoch = SharedNumber(partition.order.epoch, "epoch")
        self._rank = rank
        self._n_threads = n_threads
        self._with_positions = with_positions
        self._before: Signals | None = None
        self._ended = Signals()

    def __iter__(self) -> Iterator[Sent]:
        info = torch_data.get_worker_info()
        worker = 0 if info is None else info.id
        before = self._before = self._before or self._pipeline.connections.traffic()
        stream = self._pipeline.stream_share(
            self._pipeline.partition(self.epoch.value, self._slices, self._topology),
            rank=self._rank,
            worker=worker,
            n_threads=self._n_threads,
            allocate=self._allocate,
        )
        try:
            for batch in stream:
                total = self._pipeline.connections.traffic() - before + self._ended + stream.stats()
                # The consumer counts the batches that it takes, and the time that it waits.
                total = replace(total, samples=0, batches=0, stall_seconds=0.0)
                tensors = tensors_of(self._pipeline, batch, with_positions=self._with_positions)
                yield tensors, worker, total
                del batch, tensors
        finally:
            self._ended += replace(stream.stats(), queue_depth=0)

    def _allocate(self, n: int) -> tuple[NDArray[np.uint8], torch.Tensor]:
        """Return shared memory, as torch's own collation does: sending it copies nothing."""
        shape = (n, *self._pipeline.rendering.shape)
        storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))  # type: ignore[no-untyped-call]  # noqa: SLF001 - see above
        images = torch.empty(0, dtype=torch.uint8).set_(storage, 0, shape)  # type: ignore[call-overload]  # stubs lack it
        return images.numpy(), images


class Pool(NamedTuple):
    """Worker processes that stay from epoch to epoch."""

    who: tuple[int, Topology]
    """Rank and topology that the workers read for."""
    stream: WorkerStream
    batches: "torch_data.DataLoader[Sent]"

    def is_alive(self) -> bool:
        """Say whether no worker has died, as one may while the consumer does something else."""
        workers = getattr(self.batches._iterator, "_workers", [])  # noqa: SLF001 - nothing public
        return all(w.is_alive() for w in workers)


def context_of(given: StartMethod | BaseContext | None) -> BaseContext:
    """Return the context in which workers start; None: the one of the program or platform.

    Raises:
        OptionError: There is no such start method.
    """
    if isinstance(given, BaseContext):
        return given
    if given not in (None, "fork", "spawn", "forkserver"):
        raise OptionError(
            f"multiprocessing_context must be fork, spawn or forkserver, got {given!r}"
        )
    # Not get_context(None), after which the program could not choose a method any more.
    return multiprocessing.get_context(given or start_method())
