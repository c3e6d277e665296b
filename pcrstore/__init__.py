"""Progressive Compressed Records on object stores: one JPEG dataset, every fidelity, read by range.

    import pcrstore

    pcrstore.convert("photos/", "s3://bucket/photos")
    ds = pcrstore.open("s3://bucket/photos", storage_options={...})
    for sample in ds.iter(fidelity=3):
        sample.key, sample.label, sample.jpeg

Images are stored as progressive JPEG whose scans are regrouped: all first scan groups of a record,
then all second ones. A reader that wants less fidelity reads a shorter prefix.

The house has floors. Imports go down, or along a floor without a cycle; floors 0 to 3 have no I/O,
no clock and no threads. tests/test_floors.py reads this table and holds the code to it:

    6 surface  __init__ __main__ _launch cli contact_sheet demo ray testing torch zarr_view
    5 flows    build commit convert finish journal options report sink source uploads workers
               catalog dataset export fetching reader verify
               feed in_flight iteration loader loading numpy_loader population prefetch state
    4 edges    buffers concurrency dial retry store store_errors store_options stores stores_fsspec
               stores_local stores_obstore threads _native decode pixels transcode
               cache cache_files cache_folder cache_ledger
    3 policy   cost fidelity plan quality
    2 layout   crops order packing placement record rows selection shares zarr_layout
    1 bytes    index jpeg manifest pages restore scripts shape tail
    0 ground   checksum errors fields hashing integers markers ranges reals signals sizes tiff
"""

from pcrstore import _launch as _launch  # first: it sees to interrupts during the others
from pcrstore.convert import convert
from pcrstore.cost import CostModel, Link, Prices
from pcrstore.crops import CenterCrop, RandomResizedCrop, Squash
from pcrstore.dataset import Dataset, Sample, Traffic
from pcrstore.dataset import open_dataset as open  # noqa: A004 - read as pcrstore.open
from pcrstore.dial import Mixture
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
from pcrstore.export import ExportReport, export
from pcrstore.fidelity import ByteBudget, Fidelity, MsSsim
from pcrstore.numpy_loader import NumpyLoader
from pcrstore.options import Options
from pcrstore.plan import ReadPlan
from pcrstore.population import Mix
from pcrstore.report import Report
from pcrstore.signals import Signals
from pcrstore.transcode import Limits
from pcrstore.verify import Fault, VerifyReport, verify

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
