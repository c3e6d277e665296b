"""Random access for samplers: any samples, read by one plan and decoded in threads."""

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

import numpy as np
import torch
from torch.utils import data as torch_data

from pcrstore.concurrency import PerProcess, SharedNumber
from pcrstore.core import uniforms
from pcrstore.dataset import Dataset
from pcrstore.errors import JpegError, OptionError
from pcrstore.fidelity import Fidelities
from pcrstore.image import render
from pcrstore.loader import LoaderProperties, SampleOptions, Spec, check_options
from pcrstore.sampling import Mix, crop_keys
from pcrstore.storage import ReadableStore
from pcrstore.torch.distributed import ranks, start_method, threads_of
from pcrstore.torch.open import open_for_workers, use_chosen_engine

__all__ = ["MapDataset"]


class MapDataset(LoaderProperties, torch_data.Dataset[tuple[Any, int]]):
    """Random access, for samplers: DistributedSampler, WeightedRandomSampler, your own.

    A batch of scattered samples costs a range read for each; `Loader` reads whole records and is
    what to use where the order may be any. `__getitems__`, which torch calls with a whole batch,
    plans its samples together.

    Args:
        dataset: URL, path, store or open dataset.
        fidelity: As `Loader`.
        size: As `Loader`.
        storage_options: As `Loader`.
        seed: Seed of crops, with the epoch and the sample.
        n_threads: Decoding threads; None: cores / ranks on this host / workers.
        transform: Applied to each image, a uint8 (3, height, width) tensor.
        options: Others of `Loader`: crop (`CenterCrop()` unless given), where, select,
            dct_scaling, apply_orientation, opaque, version, engine. Position i is the image
            select[i], as in torch's Subset; what `where` and `opaque` leave out is not counted.

    Raises:
        OptionError: An option that cannot be used, or a `Mix`.
    """

    def __init__(
        self,
        dataset: str | os.PathLike[str] | ReadableStore | Dataset,
        fidelity: Fidelities = "full",
        size: int | tuple[int, int] = 224,
        storage_options: Mapping[str, object] | None = None,
        *,
        seed: int = 0,
        n_threads: int | None = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
        **options: Unpack[SampleOptions],
    ) -> None:
        super().__init__()
        check_options("MapDataset", options, SampleOptions.__annotations__)
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
        self._pipeline = open_for_workers(spec, start=start_method())
        self._fidelity = fidelity
        self._n_threads = n_threads
        self._transform = transform
        self._epoch = SharedNumber(0, "epoch")
        self._images = self._pipeline.sample_set.sources[0].positions
        """Image in the dataset for each position; None: the position itself."""
        if options.get("select") is not None:
            given = np.asarray(options["select"]).astype(np.int64)
            chosen = self._images
            self._images = given if chosen is None else given[np.isin(given, chosen)]
        self._pools: PerProcess[dict[int, ThreadPoolExecutor]] = PerProcess(dict)
        threads_of(n_threads, 1, 1)

    def set_epoch(self, epoch: int) -> None:
        """Let crops be drawn for this epoch from now on, in workers too.

        Raises:
            OptionError: Not an integer, or negative.
        """
        self._epoch.value = epoch

    def __len__(self) -> int:
        return len(self._pipeline.sample_set.sources[0])

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return one sample; see `__getitems__` for what is raised."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Return several samples, read by one plan and decoded in threads.

        Raises:
            IndexError: A position outside of the selection.
            TypeError: Not an integer.
            JpegError: An image that cannot be decoded; it is named.
        """
        use_chosen_engine(self._pipeline)
        source, reader = self._pipeline.sample_set.sources[0], self._pipeline.connections.readers[0]
        n = len(self)
        images = np.array([_position(index, n) for index in indices], np.int64)
        if self._images is not None:
            images = self._images[images]
        rendering, epoch = self._pipeline.rendering, self._epoch.value
        seed = self._pipeline.settings.seed
        records = reader.index.locate(images).number.tolist()
        groups = [
            self._pipeline.shared_fidelity.choose(
                0, images[i : i + 1], record, seed=seed, epoch=epoch
            )
            for i, record in enumerate(records)
        ]
        files = reader.files_at(
            images.tolist(), [g if isinstance(g, int) else g[0] for g in groups]
        )
        names = ["label", "orientation"]
        known = reader.index.columns(names, images.tolist())
        turns = np.asarray(known["orientation"]).tolist()
        if not self._pipeline.settings.apply_orientation:
            turns = [1] * len(turns)
        draws = uniforms(crop_keys(seed, epoch, 0, images), rendering.crop.n_draws).tolist()
        out = np.empty((len(images), *rendering.shape), np.uint8)

        def decode(i: int) -> None:
            try:
                render(files[i], rendering, draws[i], out[i], orientation=turns[i])
            except JpegError as e:
                raise type(e)(f"{source.dataset.url}: image {images[i]}: {e}") from e

        info = torch_data.get_worker_info()
        n_workers = 1 if info is None else info.num_workers
        n_threads = threads_of(self._n_threads, ranks(None, None)[1], n_workers)
        if n_threads == 1 or len(files) == 1:
            for i in range(len(files)):
                decode(i)
        else:
            list(self._threads(n_threads).map(decode, range(len(files))))
        tensors = torch.from_numpy(out).permute(0, 3, 1, 2)
        return [
            (image if self._transform is None else self._transform(image), int(label))
            for image, label in zip(tensors, np.asarray(known["label"]).tolist(), strict=True)
        ]

    def _threads(self, n: int) -> ThreadPoolExecutor:
        """Return `n` threads of this process; a parent's do not run in one that was forked."""
        pools = self._pools.get()
        if n not in pools:
            pools[n] = ThreadPoolExecutor(n, "pcrstore-map")
        return pools[n]


def _position(index: object, n: int) -> int:
    """Return the position for an index of n, as in a list: -1 is n - 1.

    Raises:
        IndexError: Outside of -n..n-1.
        TypeError: Not an integer.
    """
    try:
        found = operator.index(index)  # type: ignore[arg-type]  # callers pass what they like
    except TypeError:
        raise TypeError(f"index must be an integer, got {index!r}") from None
    if not -n <= found < n:
        raise IndexError(f"index must be in 0..{n - 1}, got {found}")
    return found % n
