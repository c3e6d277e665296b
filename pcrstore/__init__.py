"""Progressive Compressed Records on object stores: one JPEG dataset, every fidelity, read by range.

    import pcrstore

    pcrstore.convert("photos/", "s3://bucket/photos")
    ds = pcrstore.open("s3://bucket/photos", storage_options={...})
    for sample in ds.iter(fidelity=3):
        sample.key, sample.label, sample.jpeg

Images are stored as progressive JPEG whose scans are regrouped: all first scan groups of a record,
then all second ones. A reader that wants less fidelity reads a shorter prefix.

The package is made of wings. A wing imports only wings above it in this table, and no imports go
round; what is pure has no I/O, no clock and no threads. tests/test_floors.py reads the table and
holds the code to it:

    wing         pure                 holds
    errors       all                  the tree of errors
    _native      -                    the C transcoder
    core         all                  arguments, hashes, checksums, byte ranges, hostile JSON
    cost         all                  prices and times of requests and bytes
    concurrency  -                    threads, worker processes, coroutines, objects across forks
    jpeg         all                  markers, scans, scan scripts, the lossless transcoder
    image        crops similarity     decoders, crops, rows of a batch, MS-SSIM
    format       all                  FORMAT.md as code: names, manifest, index, records, arrays
    storage      options protocol     stores of named objects, retries, the disk cache
    fidelity     mixture targets      targets, mixtures, a fidelity that processes share
    dataset      filters planner      an open dataset: versions, index, plans, reads
    conversion   ids options packing  images of a source become one version of a dataset
    exports      -                    files written to a folder
    maintenance  -                    every stored byte checked
    sampling     order sharding       the order of an epoch, and each reader's share of it
    loader       cursor limits stats  batches: read ahead, decoded in threads, resumable
    torch        -                    loaders and datasets for PyTorch
    ray          -                    a Ray datasource
    zarr_view    -                    any dataset as a Zarr group
    preview      -                    contact sheets of all fidelities
    demo         -                    the main job with everything embedded
    testing      -                    the store contract, recording and failing stores
    cli          -                    the command line
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the names of `_HOMES`, for type checkers and editors
    from pcrstore.conversion import Listing, Options, Report, Source, SourceFile, convert
    from pcrstore.core import ByteRange
    from pcrstore.cost import CostModel, Link, Prices
    from pcrstore.dataset import Dataset, ReadPlan, Sample, Traffic
    from pcrstore.dataset import open_dataset as open  # noqa: A004 - read as pcrstore.open
    from pcrstore.errors import (
        AccessDeniedError,
        ChecksumError,
        DamagedJpegError,
        DatasetExistsError,
        DecodeError,
        FidelityError,
        FormatError,
        JpegError,
        LimitError,
        MissingDependencyError,
        NotFoundError,
        OptionError,
        PcrstoreError,
        ScriptError,
        SourceChangedError,
        SourceError,
        StoreError,
        TransientStoreError,
        UnsupportedFormatError,
        UnsupportedJpegError,
        UsageError,
        WorkerDiedError,
    )
    from pcrstore.exports import ExportReport, export
    from pcrstore.fidelity import ByteBudget, Fidelity, Mixture, MsSsim
    from pcrstore.image import CenterCrop, RandomResizedCrop, Squash
    from pcrstore.jpeg import Limits
    from pcrstore.loader import NumpyLoader, Signals
    from pcrstore.maintenance import Fault, VerifyReport, verify
    from pcrstore.sampling import Mix
    from pcrstore.storage import (
        CacheWarning,
        Entry,
        ForkedObstoreWarning,
        ReadableStore,
        RetryPolicy,
        Store,
        open_store,
    )

__all__ = [
    "AccessDeniedError",
    "ByteBudget",
    "ByteRange",
    "CacheWarning",
    "CenterCrop",
    "ChecksumError",
    "CostModel",
    "DamagedJpegError",
    "Dataset",
    "DatasetExistsError",
    "DecodeError",
    "Entry",
    "ExportReport",
    "Fault",
    "Fidelity",
    "FidelityError",
    "ForkedObstoreWarning",
    "FormatError",
    "JpegError",
    "LimitError",
    "Limits",
    "Link",
    "Listing",
    "MissingDependencyError",
    "Mix",
    "Mixture",
    "MsSsim",
    "NotFoundError",
    "NumpyLoader",
    "OptionError",
    "Options",
    "PcrstoreError",
    "Prices",
    "RandomResizedCrop",
    "ReadPlan",
    "ReadableStore",
    "Report",
    "RetryPolicy",
    "Sample",
    "ScriptError",
    "Signals",
    "Source",
    "SourceChangedError",
    "SourceError",
    "SourceFile",
    "Squash",
    "Store",
    "StoreError",
    "Traffic",
    "TransientStoreError",
    "UnsupportedFormatError",
    "UnsupportedJpegError",
    "UsageError",
    "VerifyReport",
    "WorkerDiedError",
    "convert",
    "export",
    "open",
    "open_store",
    "verify",
]

_NAMES: Final = {
    "conversion": ("Listing", "Options", "Report", "Source", "SourceFile", "convert"),
    "core": ("ByteRange",),
    "cost": ("CostModel", "Link", "Prices"),
    "dataset": ("Dataset", "ReadPlan", "Sample", "Traffic", "open"),
    "errors": (
        "AccessDeniedError",
        "ChecksumError",
        "DamagedJpegError",
        "DatasetExistsError",
        "DecodeError",
        "FidelityError",
        "FormatError",
        "JpegError",
        "LimitError",
        "MissingDependencyError",
        "NotFoundError",
        "OptionError",
        "PcrstoreError",
        "ScriptError",
        "SourceChangedError",
        "SourceError",
        "StoreError",
        "TransientStoreError",
        "UnsupportedFormatError",
        "UnsupportedJpegError",
        "UsageError",
        "WorkerDiedError",
    ),
    "exports": ("ExportReport", "export"),
    "fidelity": ("ByteBudget", "Fidelity", "Mixture", "MsSsim"),
    "image": ("CenterCrop", "RandomResizedCrop", "Squash"),
    "jpeg": ("Limits",),
    "loader": ("NumpyLoader", "Signals"),
    "maintenance": ("Fault", "VerifyReport", "verify"),
    "sampling": ("Mix",),
    "storage": (
        "CacheWarning",
        "Entry",
        "ForkedObstoreWarning",
        "ReadableStore",
        "RetryPolicy",
        "Store",
        "open_store",
    ),
}
_HOMES: Final = {name: wing for wing, names in _NAMES.items() for name in names}
"""The wing of each public name. A name is imported when it is first used (PEP 562), so that
`import pcrstore` in a training script does not load what only converting or the demo needs."""

_RENAMED: Final = {"open": "open_dataset"}
"""Names that a wing calls otherwise: there `open` would hide the builtin."""

if not TYPE_CHECKING:  # or a checker would take every name for one of the package's

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'pcrstore' has no attribute {name!r}")
        value = getattr(import_module(f"pcrstore.{home}"), _RENAMED.get(name, name))
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
