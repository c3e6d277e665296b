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
    concurrency  -                    threads, worker processes, coroutines
    jpeg         all                  markers, scans, scan scripts, the lossless transcoder
    image        crops similarity     decoders, crops, rows of a batch, MS-SSIM
    format       all                  FORMAT.md as code: manifest, index parts, records, zarr arrays
    storage      -                    stores of named objects, retries, the disk cache
    fidelity     mixture targets      targets, mixtures, a fidelity that processes share
    dataset      filters planner      an open dataset: versions, index, plans, reads
    conversion   packing              sources in, one dataset version out
    exports      -                    files written to a folder
    maintenance  -                    verification
    sampling     order sharding       the order of an epoch, and each reader's share of it
    loader       stats                batches: read ahead, decoded in threads, resumable
    torch        -                    loaders and datasets for PyTorch
    ray          -                    a Ray datasource
    zarr_view    -                    any dataset as a Zarr group
    preview      -                    contact sheets
    demo         -                    the main job with everything embedded
    testing      -                    the store contract, recording and failing stores
    cli          -                    the command line
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:  # the names of `_HOMES`, for type checkers and editors
    from pcrstore.conversion import Options, Report, convert
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

__all__ = [
    "AccessDeniedError",
    "ByteBudget",
    "CenterCrop",
    "ChecksumError",
    "CostModel",
    "DamagedJpegError",
    "Dataset",
    "DatasetExistsError",
    "DecodeError",
    "ExportReport",
    "Fault",
    "Fidelity",
    "FidelityError",
    "FormatError",
    "JpegError",
    "LimitError",
    "Limits",
    "Link",
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
    "Report",
    "Sample",
    "ScriptError",
    "Signals",
    "SourceChangedError",
    "SourceError",
    "Squash",
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
    "verify",
]

_HOMES: Final = {
    "AccessDeniedError": "errors",
    "ByteBudget": "fidelity",
    "CenterCrop": "image",
    "ChecksumError": "errors",
    "CostModel": "cost",
    "DamagedJpegError": "errors",
    "Dataset": "dataset",
    "DatasetExistsError": "errors",
    "DecodeError": "errors",
    "ExportReport": "exports",
    "Fault": "maintenance",
    "Fidelity": "fidelity",
    "FidelityError": "errors",
    "FormatError": "errors",
    "JpegError": "errors",
    "LimitError": "errors",
    "Limits": "jpeg",
    "Link": "cost",
    "MissingDependencyError": "errors",
    "Mix": "sampling",
    "Mixture": "fidelity",
    "MsSsim": "fidelity",
    "NotFoundError": "errors",
    "NumpyLoader": "loader",
    "OptionError": "errors",
    "Options": "conversion",
    "PcrstoreError": "errors",
    "Prices": "cost",
    "RandomResizedCrop": "image",
    "ReadPlan": "dataset",
    "Report": "conversion",
    "Sample": "dataset",
    "ScriptError": "errors",
    "Signals": "loader",
    "SourceChangedError": "errors",
    "SourceError": "errors",
    "Squash": "image",
    "StoreError": "errors",
    "Traffic": "dataset",
    "TransientStoreError": "errors",
    "UnsupportedFormatError": "errors",
    "UnsupportedJpegError": "errors",
    "UsageError": "errors",
    "VerifyReport": "maintenance",
    "WorkerDiedError": "errors",
    "convert": "conversion",
    "export": "exports",
    "open": "dataset",
    "verify": "maintenance",
}
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
