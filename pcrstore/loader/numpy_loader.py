"""Batches as NumPy arrays, decoded in threads of this process: for JAX, TensorFlow, or none."""

from collections.abc import Iterator, Mapping
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from pcrstore.concurrency import usable_cores
from pcrstore.core import integer
from pcrstore.fidelity import Fidelities
from pcrstore.loader.base import BaseLoader, check_rank
from pcrstore.loader.batches import Batch
from pcrstore.loader.memory import BatchMemory
from pcrstore.loader.open import open_pipeline
from pcrstore.loader.options import Data, LoaderOptions, Spec, check_options
from pcrstore.sampling import EpochPartition, Topology, Uneven

__all__ = ["NumpyLoader"]


class NumpyLoader(BaseLoader[tuple[NDArray[np.generic], ...], None]):
    """Batches of a dataset as NumPy arrays, decoded in threads of this process.

    JAX and TensorFlow feed from it. The arguments mean what they mean for `pcrstore.torch.Loader`,
    and each iteration reads the next epoch, as there. There are no worker processes, no pinned
    memory and no line of progress here; and the environment is not looked at, so rank and
    world_size must be given where there are several processes (`jax.process_index()`,
    `jax.process_count()`). It can be pickled, as `pcrstore.torch.Loader`.

    Args:
        dataset: URL, path, store, open dataset, or `Mix`.
        batch_size: Samples of a batch, on each rank.
        fidelity: See `Fidelities`.
        size: Size of the images yielded: a side, or (height, width).
        shuffle: False: stored order, and central crops unless `crop` says otherwise.
        seed: Seed of order, crops and mixtures.
        n_threads: Threads that decode; None: one for each core.
        rank: Rank of this process.
        world_size: Processes that share the epoch.
        uneven: For samples that do not divide by ranks: "pad" or "drop".
        drop_last: Leave out a last batch that is not full.
        positions: Yield a third array, the position of each sample in the dataset; in a mix
            counted on over the datasets.
        storage_options: As for fsspec.
        options: Others of `pcrstore.torch.Loader`: crop, where, select, shuffle_window, prefetch,
            hedge, dct_scaling, apply_orientation, opaque, on_error, version, cache, cache_limit,
            engine.

    Yields:
        uint8 (N, height, width, 3) and int64 (N,), -1 for no label.

    Raises:
        OptionError: An option that cannot be used.
        FidelityError: A dataset does not have the fidelity.
        UsageError: While iterating: another iteration has begun, or the loader was closed.
    """

    def __init__(  # noqa: PLR0913 - by keyword
        self,
        dataset: Data,
        batch_size: int = 64,
        fidelity: Fidelities = 3,
        size: int | tuple[int, int] = 224,
        *,
        shuffle: bool = True,
        seed: int = 0,
        n_threads: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        uneven: Uneven = "pad",
        drop_last: bool = False,
        positions: bool = False,
        storage_options: Mapping[str, object] | None = None,
        **options: Unpack[LoaderOptions],
    ) -> None:
        check_options("NumpyLoader", options, LoaderOptions.__annotations__)
        spec = Spec(
            dataset=dataset,
            fidelity=fidelity,
            size=size,
            shuffle=shuffle,
            seed=seed,
            storage_options=storage_options,
            **options,
        )
        topology = Topology(
            world_size=world_size, batch_size=batch_size, uneven=uneven, drop_last=drop_last
        )
        check_rank(rank, world_size)
        if n_threads is not None:
            n_threads = integer(n_threads, "n_threads", least=1)
        super().__init__(open_pipeline(spec))
        self._fidelity = fidelity
        self._share = rank, topology
        self._n_threads = n_threads
        self._with_positions = positions
        self._memory = BatchMemory(batch_size, self._pipeline.rendering.shape)

    def _topology(self) -> tuple[int, Topology]:
        return self._share

    def _start(
        self, partition: EpochPartition, rank: int
    ) -> Iterator[tuple[NDArray[np.generic], ...]]:
        self._stream = stream = self._pipeline.stream_share(
            partition,
            rank=rank,
            worker=0,
            n_threads=self._n_threads or usable_cores(),
            allocate=lambda n: (self._memory.take(n), None),
        )
        # Not a generator, which would keep its batch until the next one is there.
        return map(self._arrays, stream)

    def _arrays(self, batch: Batch[None]) -> tuple[NDArray[np.generic], ...]:
        if self._with_positions:
            return batch.images, batch.samples.labels, self._pipeline.positions(batch)
        return batch.images, batch.samples.labels
