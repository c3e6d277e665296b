"""From the options of a loader to its pipeline: open datasets, select images, mix.

Spec ──open_pipeline──▶ Pipeline
"""

import os
from collections.abc import Callable

from pcrstore.core import integer, parse_size
from pcrstore.dataset import Dataset, conditions_of, open_dataset
from pcrstore.errors import OptionError
from pcrstore.fidelity import SharedFidelity
from pcrstore.image import CenterCrop, RandomResizedCrop, Rendering
from pcrstore.loader.limits import StreamLimits
from pcrstore.loader.options import ReadSettings, Spec
from pcrstore.loader.pipeline import Pipeline
from pcrstore.sampling import Mix, SampleSet, counts_of, mix_of, same_classes, select_images
from pcrstore.storage import ReadableStore

__all__ = ["open_pipeline"]


def open_pipeline(
    spec: Spec,
    open_with: Callable[[str | os.PathLike[str] | ReadableStore], Dataset] | None = None,
    *,
    limits: StreamLimits = StreamLimits(),  # noqa: B008 - frozen
) -> Pipeline:
    """Open the datasets of a loader.

    Args:
        spec: Options as the user gave them.
        open_with: Opens a URL; None: `open_dataset`. `pcrstore.torch.open` gives another one where
            workers are forked.
        limits: Bounds of each stream.

    Raises:
        OptionError: An option cannot be used, or no image is selected.
        FidelityError: A dataset does not have the fidelity.
    """
    settings = ReadSettings(
        seed=integer(spec.seed, "seed", least=0),
        shuffle=spec.shuffle,
        shuffle_window=integer(spec.shuffle_window, "shuffle_window", least=1),
        prefetch_bytes=parse_size(spec.prefetch),
        hedge=spec.hedge,
        apply_orientation=spec.apply_orientation,
        skip_errors=spec.on_error == "skip",
        cache=spec.cache,
        cache_limit=spec.cache_limit,
        limits=limits,
    )
    default_crop = RandomResizedCrop() if spec.shuffle else CenterCrop()
    crop = default_crop if spec.crop is None else spec.crop
    rendering = Rendering(size=spec.size, crop=crop, dct_scaling=spec.dct_scaling)
    mix = mix_of(spec.dataset)
    _check_sources(spec, mix)

    def open_url(url: str | os.PathLike[str] | ReadableStore) -> Dataset:
        return open_dataset(url, spec.storage_options, version=spec.version, engine=spec.engine)

    opened = open_with or open_url
    # Others may read an open dataset too, so a loader counts its requests on a sibling of it.
    datasets = [d.sibling() if isinstance(d, Dataset) else opened(d) for d in mix.weights]
    conditions = conditions_of(spec.where)
    if spec.opaque == "skip":
        conditions.setdefault("format", ["jpeg", "encoded"])
    classes = same_classes(datasets)
    sources = [select_images(ds, spec.select, conditions) for ds in datasets]
    pipeline = Pipeline(
        SampleSet(sources, counts_of(mix, list(map(len, sources)))),
        SharedFidelity([ds.manifest for ds in datasets], spec.fidelity),
        rendering,
        settings,
        classes,
    )
    pipeline.order(0)  # raises for a seed or window out of range
    return pipeline


def _check_sources(spec: Spec, mix: Mix) -> None:
    """Raise `OptionError` for an option that the kind or number of datasets rules out."""
    is_open = any(isinstance(d, Dataset) for d in mix.weights)
    is_mixed = len(mix.weights) > 1
    if spec.select is not None and is_mixed:
        raise OptionError("select gives positions in one dataset; in a mix use where")
    if is_open and spec.storage_options:
        raise OptionError("storage_options are for URLs: an open dataset has its own")
    if spec.version is not None and (is_open or is_mixed):
        raise OptionError("version is for one URL: open datasets have theirs")
    if is_open and spec.engine != "auto":
        raise OptionError("engine is for URLs: an open dataset has its own")
