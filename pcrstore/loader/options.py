"""The options of loaders, which `pcrstore.torch.Loader` documents.

`Spec` has every option that says which samples are read and how, with its default. A typed dict has
those that few users need and that `NumpyLoader`, `IterableDataset` and `MapDataset` pass on. To add
an option: a field here, a key here, and a parameter of `Loader`; tests hold the three together.
"""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from pcrstore.dataset import Dataset, Where
from pcrstore.errors import OptionError
from pcrstore.fidelity import Fidelities
from pcrstore.image import Crop
from pcrstore.loader.limits import StreamLimits
from pcrstore.sampling import Mix, Selection
from pcrstore.storage import Engine, ReadableStore

__all__ = [
    "Data",
    "LoaderOptions",
    "OnError",
    "Opaque",
    "ReadSettings",
    "SampleOptions",
    "Spec",
    "check_options",
]

Opaque = Literal["decode", "skip"]
OnError = Literal["raise", "skip"]
Data = str | os.PathLike[str] | ReadableStore | Dataset | Mix
"""Source of a loader: URL, path, store, open dataset, or several mixed."""


class SampleOptions(TypedDict, total=False):
    """Options that make sense for single samples too, as `MapDataset` reads them."""

    crop: Crop | None
    where: Where | None
    select: Selection | None
    dct_scaling: bool
    apply_orientation: bool
    opaque: Opaque
    version: int | None
    engine: Engine


class LoaderOptions(SampleOptions, total=False):
    """Options of all loaders that read epochs."""

    shuffle_window: int
    prefetch: int | str
    hedge: bool
    on_error: OnError
    cache: str | os.PathLike[str] | None
    cache_limit: int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The samples that a loader reads and how it reads them, as its user asked for them."""

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

    def __post_init__(self) -> None:
        for name, known in (("opaque", ("decode", "skip")), ("on_error", ("raise", "skip"))):
            value = getattr(self, name)
            if value not in known:
                raise OptionError(f"{name} must be one of {known}, got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSettings:
    """Settings of a loader that its worker processes need; checked."""

    seed: int
    shuffle: bool
    shuffle_window: int
    prefetch_bytes: int
    """Bytes that all streams of a rank may be ahead of the samples needed."""
    hedge: bool
    apply_orientation: bool
    skip_errors: bool
    cache: str | os.PathLike[str] | None
    """Folder of the disk cache."""
    cache_limit: int | str
    limits: StreamLimits


def check_options(loader: str, given: Collection[str], known: Collection[str]) -> None:
    """Raise `OptionError` for an option that a loader does not have."""
    unknown = set(given) - set(known)
    if unknown:
        raise OptionError(f"{loader} has no option {min(unknown)}")
