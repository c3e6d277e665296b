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
    fidelity     targets              fidelity targets, mixtures, a fidelity that processes share
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

from pcrstore import _launch as _launch  # first: it sees to interrupts during the others
from pcrstore.conversion.converter import convert
from pcrstore.conversion.options import Options
from pcrstore.conversion.report import Report
from pcrstore.cost.model import CostModel, Link, Prices
from pcrstore.dataset.dataset import Dataset, Sample, Traffic
from pcrstore.dataset.dataset import open_dataset as open  # noqa: A004 - read as pcrstore.open
from pcrstore.dataset.planner import ReadPlan
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
from pcrstore.exports.folder import ExportReport, export
from pcrstore.fidelity.shared_fidelity import Mixture
from pcrstore.fidelity.targets import ByteBudget, Fidelity, MsSsim
from pcrstore.image.crops import CenterCrop, RandomResizedCrop, Squash
from pcrstore.jpeg.transcoder import Limits
from pcrstore.loader.numpy_loader import NumpyLoader
from pcrstore.loader.stats import Signals
from pcrstore.maintenance.verifier import Fault, VerifyReport, verify
from pcrstore.sampling.lookup import Mix

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
