"""The definition of a loader that all its processes share, and each process's connections.

Pipeline ──partition──▶ EpochPartition ──stream_share──▶ BatchStream of one worker
   │
   ├── travels to worker processes: samples, fidelity (in shared memory), rendering, settings
   └── made anew in each process: Connections, which are readers, disk caches and counters
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import crc32c
from pcrstore.dataset import Dataset
from pcrstore.fidelity import SharedFidelity
from pcrstore.image import Rendering
from pcrstore.loader.batches import Batch, BatchStream
from pcrstore.loader.options import ReadSettings
from pcrstore.loader.prefetch import ReadSpec
from pcrstore.loader.stats import Signals
from pcrstore.sampling import EpochOrder, EpochPartition, SampleSet, ShardSlice, Topology
from pcrstore.storage import Cache

__all__ = ["Connections", "Pipeline"]

Payload = TypeVar("Payload")


class Connections:
    """Readers and disk caches of one process, and their traffic since they were made."""

    def __init__(self, datasets: Sequence[Dataset], settings: ReadSettings) -> None:
        cache = (
            None if settings.cache is None else Cache(settings.cache, limit=settings.cache_limit)
        )
        self._datasets = datasets
        self._caches = [None if cache is None else cache.of(ds.url) for ds in datasets]
        self.readers = [
            ds.reader(cache=of, part_bytes=settings.limits.part_bytes)
            for ds, of in zip(datasets, self._caches, strict=True)
        ]
        self._retries_before = sum(ds.store.n_retries for ds in datasets)

    def traffic(self) -> Signals:
        """Return requests, bytes, retries and cache hits so far."""
        counters = [c for r in self.readers for c in (r.counter, r.index.counter)]
        return Signals(
            requests=sum(c.n_requests for c in counters),
            bytes=sum(c.n_bytes for c in counters),
            retries=sum(ds.store.n_retries for ds in self._datasets) - self._retries_before,
            cache_hits=sum(c.n_hits for c in self._caches if c is not None),
            cache_bytes=sum(c.hit_bytes for c in self._caches if c is not None),
        )


class Pipeline:
    """Samples, fidelity and rendering of a loader, and streams of its batches.

    Args:
        sample_set: Images that are read.
        shared_fidelity: Fidelity of each dataset, which may change while records are read.
        rendering: Crop and size of the images yielded.
        settings: All else that worker processes need.
        classes: Class name of each label.
    """

    def __init__(
        self,
        sample_set: SampleSet,
        shared_fidelity: SharedFidelity,
        rendering: Rendering,
        settings: ReadSettings,
        classes: tuple[str, ...],
    ) -> None:
        self.sample_set = sample_set
        self.shared_fidelity = shared_fidelity
        self.rendering = rendering
        self.settings = settings
        self.classes = classes
        self._first = np.cumsum([0, *(len(s.dataset) for s in sample_set.sources)])
        self.connections = self._connect()

    def _connect(self) -> Connections:
        return Connections([s.dataset for s in self.sample_set.sources], self.settings)

    def __getstate__(self) -> dict[str, object]:
        """Leave the connections behind: every process has its own."""
        return {name: value for name, value in self.__dict__.items() if name != "connections"}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state)
        self.connections = self._connect()

    def order(self, epoch: int) -> EpochOrder:
        """Return the order of an epoch."""
        settings = self.settings
        return self.sample_set.order(
            seed=settings.seed,
            epoch=epoch,
            shuffle=settings.shuffle,
            window=settings.shuffle_window,
        )

    def partition(
        self, epoch: int, slices: Sequence[ShardSlice] | None, topology: Topology
    ) -> EpochPartition:
        """Return the shares of slices of an epoch; None: of all of it."""
        order = self.order(epoch)
        return EpochPartition(order, order.all() if slices is None else slices, topology)

    def stream_share(
        self,
        partition: EpochPartition,
        *,
        rank: int,
        worker: int,
        n_threads: int,
        allocate: Callable[[int], tuple[NDArray[np.uint8], Payload]],
    ) -> BatchStream[Payload]:
        """Start to read the share of one worker of one rank."""
        slices, batch_sizes = partition.share(rank, worker), partition.batch_sizes(worker)
        return self.stream(partition, slices, batch_sizes, n_threads=n_threads, allocate=allocate)

    def stream(
        self,
        partition: EpochPartition,
        slices: Sequence[ShardSlice],
        batch_sizes: Sequence[int],
        *,
        n_threads: int,
        allocate: Callable[[int], tuple[NDArray[np.uint8], Payload]],
    ) -> BatchStream[Payload]:
        """Start to read slices; the workers of a rank divide the bytes to be ahead among them."""
        settings = self.settings
        read_spec = ReadSpec(
            sample_set=self.sample_set,
            readers=self.connections.readers,
            order=partition.order,
            slices=slices,
            fidelity=self.shared_fidelity,
            prefetch_bytes=max(1, settings.prefetch_bytes // partition.topology.n_workers),
            n_draws=self.rendering.crop.n_draws,
            settings=settings,
        )
        return BatchStream(
            read_spec,
            batch_sizes,
            rendering=self.rendering,
            n_threads=n_threads,
            allocate=allocate,
        )

    def positions(self, batch: Batch[Payload]) -> NDArray[np.int64]:
        """Return the positions of a batch's samples, counted on from one dataset to the next."""
        first: NDArray[np.int64] = self._first[batch.samples.sources]
        return batch.samples.positions + first

    @cached_property
    def fingerprint(self) -> Mapping[str, object]:
        """All that the order of epochs depends on, in JSON types.

        A state may be resumed by a loader that has the same. Computed once: a selection may be
        millions of positions.
        """
        settings, sources = self.settings, self.sample_set.sources
        selected = [s.positions for s in sources if s.positions is not None]
        return {
            "seed": settings.seed,
            "shuffle": settings.shuffle,
            "shuffle_window": settings.shuffle_window,
            "versions": [s.dataset.version for s in sources],
            "images": [len(s.dataset) for s in sources],
            "selected": [len(s) for s in sources],
            "selection": crc32c(b"".join(p.astype("<i8").tobytes() for p in selected)),
            "counts": list(self.sample_set.counts),
            "parts": crc32c(
                b"".join(p.uid.encode() for s in sources for p in s.dataset.manifest.parts)
            ),
        }
