"""What every loader is beneath its surface: sources, order, dial, readers.

Spec (what the user asked for) ──▶ Pipeline ──▶ BatchStream of one stream
└── travels to worker processes
"""

import copy
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from pcrstore.core import crc32c, integer, parse_size
from pcrstore.dataset import Dataset, conditions_of, open_dataset
from pcrstore.errors import OptionError
from pcrstore.fidelity import Fidelities, SharedFidelity
from pcrstore.image import CenterCrop, Crop, RandomResizedCrop, Rendering
from pcrstore.loader.batches import Batch, BatchStream
from pcrstore.loader.prefetch import ReadSpec
from pcrstore.loader.stats import Signals
from pcrstore.sampling import (
    EpochOrder,
    EpochPartition,
    Mix,
    SampleSet,
    SelectedDataset,
    ShardSlice,
    Topology,
    mix_of,
)
from pcrstore.storage import Engine
from pcrstore.storage.cache import Cache

__all__ = [
    "Data",
    "MoreOptions",
    "OnError",
    "Opaque",
    "Pipeline",
    "Selection",
    "Spec",
    "Where",
    "check_options",
]

PART_BYTES: Final = 2 * 2**20
"""A record prefix longer than this is read by several requests at once, so that few records are
under way at a time and the first of them is soon there; one connection to S3 gives 85 MB/s."""

Payload = TypeVar("Payload")
Where = Mapping[str, object]
Selection = Sequence[int] | NDArray[np.integer]
Opaque = Literal["decode", "skip"]
OnError = Literal["raise", "skip"]
Data = str | os.PathLike[str] | Dataset | Mix
"""What a loader reads: URL, path, open dataset, or several mixed."""


class MoreOptions(TypedDict, total=False):
    """Options that all loaders have and few users need; see `pcrstore.torch.Loader`."""

    crop: Crop | None
    where: Where | None
    select: Selection | None
    shuffle_window: int
    prefetch: int | str
    hedge: bool
    dct_scaling: bool
    apply_orientation: bool
    opaque: Opaque
    on_error: OnError
    version: int | None
    cache: str | os.PathLike[str] | None
    cache_limit: int | str
    engine: Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What is read and what becomes of it; see `pcrstore.torch.Loader` for the meaning."""

    dataset: Data = field(repr=False)
    fidelity: Fidelities = field(default=3, repr=False)
    size: int | tuple[int, int] = 224
    shuffle: bool = True
    seed: int = 0
    storage_options: Mapping[str, object] | None = field(default=None, repr=False)
    crop: Crop | None = None
    where: Where | None = None
    select: Selection | None = None
    shuffle_window: int = 1024
    prefetch: int | str = "16mb"
    hedge: bool = False
    dct_scaling: bool = True
    apply_orientation: bool = False
    opaque: Opaque = "decode"
    on_error: OnError = "raise"
    version: int | None = None
    cache: str | os.PathLike[str] | None = None
    cache_limit: int | str = "10gb"
    engine: Engine = "auto"


def check_options(loader: str, given: Collection[str], known: Collection[str]) -> None:
    """Raise `OptionError` where an option is given that a loader does not have."""
    unknown = set(given) - set(known)
    if unknown:
        raise OptionError(f"{loader} has no option {min(unknown)}")


class Pipeline:
    """Datasets, selection, order and dial: what all processes of a loader share.

    Args:
        spec: What the user asked for.
        open_with: Opens a URL; a parent of forked workers opens in its own way.

    Raises:
        OptionError: An option that cannot be used, or a selection of nothing.
        FidelityError: A dataset does not have the fidelity.
    """

    def __init__(
        self, spec: Spec, open_with: Callable[[str | os.PathLike[str]], Dataset] | None = None
    ) -> None:
        for name, known in (("opaque", ("decode", "skip")), ("on_error", ("raise", "skip"))):
            if getattr(spec, name) not in known:
                raise OptionError(f"{name} must be one of {known}, got {getattr(spec, name)!r}")
        spec = replace(
            spec,
            seed=integer(spec.seed, "seed", least=0),
            shuffle_window=integer(spec.shuffle_window, "shuffle_window", least=1),
        )
        default = RandomResizedCrop() if spec.shuffle else CenterCrop()
        crop = default if spec.crop is None else spec.crop
        self.rendering = Rendering(size=spec.size, crop=crop, dct_scaling=spec.dct_scaling)
        self.prefetch_bytes = parse_size(spec.prefetch)
        mix = mix_of(spec.dataset)
        if spec.select is not None and len(mix.weights) > 1:
            raise OptionError("select gives positions in one dataset; in a mix use where")
        given = [d for d in mix.weights if isinstance(d, Dataset)]
        if given and spec.storage_options:
            raise OptionError("storage_options are for URLs: an open dataset has its own")
        if spec.version is not None and (given or len(mix.weights) > 1):
            raise OptionError("version is for one URL: open datasets have theirs")
        if given and spec.engine != "auto":
            raise OptionError("engine is for URLs: an open dataset has its own")

        def opened(url: str | os.PathLike[str]) -> Dataset:
            options = spec.storage_options
            return open_dataset(url, options, version=spec.version, engine=spec.engine)

        open_url = open_with or opened
        # A dataset that is given may be read by others too, and its index counts for all of them.
        datasets = [d.sibling() if isinstance(d, Dataset) else open_url(d) for d in mix.weights]
        self.classes = _same_classes(datasets)
        sources = [SelectedDataset(dataset=ds, positions=_positions(ds, spec)) for ds in datasets]
        self.population = SampleSet(sources, _counts(mix, sources))
        self.dial = SharedFidelity([s.dataset.manifest for s in sources], spec.fidelity)
        self._first = np.cumsum([0, *(len(s.dataset) for s in sources)])
        # What is done with is not sent to workers: a function in `where` could not be.
        self.spec = replace(
            spec, dataset="", fidelity=1, where=None, select=None, storage_options=None
        )
        self._fingerprint: dict[str, object] | None = None
        self._connect()
        self.order(0)  # checks how wide the window may be

    def _connect(self) -> None:
        cache = (
            None if self.spec.cache is None else Cache(self.spec.cache, limit=self.spec.cache_limit)
        )
        datasets = [s.dataset for s in self.population.sources]
        self._caches = [None if cache is None else cache.of(ds.url) for ds in datasets]
        self.readers = [
            ds.reader(cache=of, part_bytes=PART_BYTES)
            for ds, of in zip(datasets, self._caches, strict=True)
        ]
        self._retries_before = [_n_retries(ds) for ds in datasets]

    def __getstate__(self) -> dict[str, object]:
        """Leave connections and counters behind: every process has its own."""
        own = ("readers", "_caches", "_retries_before")
        return {k: v for k, v in self.__dict__.items() if k not in own}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._connect()

    def order(self, epoch: int) -> EpochOrder:
        """Return the order of an epoch."""
        return self.population.order(
            seed=self.spec.seed,
            epoch=epoch,
            shuffle=self.spec.shuffle,
            window=self.spec.shuffle_window,
        )

    def leg(
        self, epoch: int, stretches: Sequence[ShardSlice] | None, topology: Topology
    ) -> EpochPartition:
        """Return what is read of an epoch from here on; None: all of it."""
        order = self.order(epoch)
        return EpochPartition(order, order.all() if stretches is None else stretches, topology)

    def feed(
        self,
        leg: EpochPartition,
        epoch: int,
        *,
        rank: int,
        worker: int,
        n_threads: int,
        allocate: Callable[[int], tuple[NDArray[np.uint8], Payload]],
    ) -> BatchStream[Payload]:
        """Start the stream of one worker of one rank."""
        return self.stream(
            leg.order,
            leg.share(rank, worker),
            leg.batch_sizes(worker),
            epoch,
            n_threads=n_threads,
            share=leg.topology.n_workers,
            allocate=allocate,
        )

    def stream(
        self,
        order: EpochOrder,
        stretches: Sequence[ShardSlice],
        batch_sizes: Sequence[int],
        epoch: int,
        *,
        n_threads: int,
        share: int,
        allocate: Callable[[int], tuple[NDArray[np.uint8], Payload]],
    ) -> BatchStream[Payload]:
        """Start a stream of some stretches; `share` streams share the bytes to be ahead."""
        stream = ReadSpec(
            population=self.population,
            readers=self.readers,
            order=order,
            stretches=stretches,
            dial=self.dial,
            prefetch_bytes=max(1, self.prefetch_bytes // share),
            hedge=self.spec.hedge,
            apply_orientation=self.spec.apply_orientation,
            seed=self.spec.seed,
            epoch=epoch,
            n_draws=self.rendering.crop.n_draws,
        )
        return BatchStream(
            stream,
            batch_sizes,
            rendering=self.rendering,
            n_threads=n_threads,
            skip_errors=self.spec.on_error == "skip",
            allocate=allocate,
        )

    def traffic(self) -> Signals:
        """Return requests, bytes, retries and cache hits of this process so far."""
        counters = [c for r in self.readers for c in (r.counter, r.index.counter)]
        retries = sum(_n_retries(s.dataset) for s in self.population.sources)
        return Signals(
            requests=sum(c.n_requests for c in counters),
            bytes=sum(c.n_bytes for c in counters),
            retries=retries - sum(self._retries_before),
            cache_hits=sum(c.n_hits for c in self._caches if c is not None),
            cache_bytes=sum(c.hit_bytes for c in self._caches if c is not None),
        )

    def positions(self, batch: Batch[Payload]) -> NDArray[np.int64]:
        """Return where a batch's samples lie in the datasets, counted on from one to the next."""
        first: NDArray[np.int64] = self._first[batch.sources]
        return batch.positions + first

    def fingerprint(self) -> dict[str, object]:
        """Return what a state must agree in with the loader that takes it up again."""
        if self._fingerprint is None:  # once: a selection may be of millions of positions
            self._fingerprint = self._digest()
        return copy.deepcopy(self._fingerprint)

    def _digest(self) -> dict[str, object]:
        selected = [s.positions for s in self.population.sources if s.positions is not None]
        return {
            "seed": self.spec.seed,
            "shuffle": self.spec.shuffle,
            "shuffle_window": self.spec.shuffle_window,
            "versions": [s.dataset.version for s in self.population.sources],
            "images": [len(s.dataset) for s in self.population.sources],
            "selected": [len(s) for s in self.population.sources],
            "selection": crc32c(b"".join(p.astype("<i8").tobytes() for p in selected)),
            "counts": list(self.population.counts),
            "parts": crc32c(
                b"".join(p.uid for s in self.population.sources for p in s.dataset.manifest.parts)
            ),
        }


def _same_classes(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Return the class names of datasets whose labels mean the same.

    Raises:
        OptionError: A label is one class here and another there.
    """
    longest = max(datasets, key=lambda ds: len(ds.classes))
    for ds in datasets:
        for label, (name, other) in enumerate(zip(ds.classes, longest.classes, strict=False)):
            if name != other:
                raise OptionError(
                    f"datasets of a mix must number their classes alike: label {label} is "
                    f"{name!r} in {ds.url} and {other!r} in {longest.url}; convert with --classes"
                )
    return longest.classes


def _n_retries(dataset: Dataset) -> int:
    n = getattr(dataset.store, "n_retries", 0)
    return n if isinstance(n, int) else 0


def _positions(dataset: Dataset, spec: Spec) -> NDArray[np.int64] | None:
    """Return the positions selected, ascending; None for all."""
    found: NDArray[np.int64] | None = None
    if spec.select is not None:
        try:
            given = np.asarray(spec.select)
        except ValueError as e:
            raise OptionError(
                f"select must be positions, got {type(spec.select).__name__}: {e}"
            ) from e
        if given.ndim != 1 or (given.size and not np.issubdtype(given.dtype, np.integer)):
            raise OptionError(
                f"select must be positions, got {given.dtype} of shape {given.shape}; of a mask "
                "take numpy.flatnonzero"
            )
        found = np.unique(given.astype(np.int64))
        if len(found) != len(given):
            raise OptionError(f"select must name no image twice, got {len(given) - len(found)}")
        if len(found) and not (found[0] >= 0 and found[-1] < len(dataset)):
            raise OptionError(
                f"select must be in 0..{len(dataset) - 1}, got {found[0]}..{found[-1]}"
            )
    conditions = conditions_of(spec.where)
    if spec.opaque == "skip":
        conditions.setdefault("format", ["jpeg", "encoded"])
    if conditions:
        matching = dataset.find(**conditions)
        found = matching if found is None else np.intersect1d(found, matching)
    return None if found is None or len(found) == len(dataset) else found


def _counts(mix: Mix, sources: Sequence[SelectedDataset]) -> list[int]:
    """Return how many samples an epoch reads of each source."""
    sizes = [len(s) for s in sources]
    if len(sizes) == 1 and mix.epoch_size is None:
        return sizes
    total = mix.epoch_size or sum(sizes)
    weights = np.array(list(mix.weights.values()), np.float64)
    edges = np.round(np.cumsum(weights) / weights.sum() * total).astype(np.int64)
    counts: list[int] = np.diff(edges, prepend=0).tolist()
    if 0 in counts:
        raise OptionError(f"an epoch of {total} samples has none of a dataset: {counts}")
    return counts
