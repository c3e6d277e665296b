"""Progressive Compressed Records on object stores: one JPEG dataset, every fidelity, read by range.

    import pcrstore

    pcrstore.convert("photos/", "s3://bucket/photos")
    ds = pcrstore.open("s3://bucket/photos", storage_options={...})
    for sample in ds.iter(fidelity=3):
        sample.key, sample.label, sample.jpeg

Images are stored as progressive JPEG whose scans are regrouped: all first scan groups of a record,
then all second ones. A reader that wants less fidelity reads a shorter prefix.

The house has floors, and imports go down only (a test holds it to that); 0 to 3 do no I/O:

    6 surface  __init__  cli  demo  testing  zarr_view
    5 flows    convert  build  sink  journal  finish  commit  |  dataset  reader  catalog  verify  export
    4 edges    stores_*  retry  |  transcode  _native  decode
    3 policy   cost  fidelity  quality
    2 layout   record  placement  plan  packing  rows  zarr_layout
    1 bytes    jpeg  scripts  tail  restore  manifest  index
    0 ground   errors  ranges  checksum  fields
"""

from pcrstore.convert import convert
from pcrstore.cost import CostModel, Link, Prices
from pcrstore.dataset import Dataset, Sample
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
)
from pcrstore.fidelity import ByteBudget, MsSsim
from pcrstore.finish import Report
from pcrstore.options import Options
from pcrstore.plan import ReadPlan
from pcrstore.transcode import Limits

__all__ = [
    "AccessDeniedError",
    "ByteBudget",
    "ChecksumError",
    "CostModel",
    "DamagedJpegError",
    "Dataset",
    "DatasetExistsError",
    "DecodeError",
    "FidelityError",
    "FormatError",
    "JpegError",
    "LimitError",
    "Limits",
    "Link",
    "MissingDependencyError",
    "MsSsim",
    "NotFoundError",
    "OptionError",
    "Options",
    "PcrstoreError",
    "Prices",
    "ReadPlan",
    "Report",
    "Sample",
    "ScriptError",
    "SourceChangedError",
    "SourceError",
    "StoreError",
    "TransientStoreError",
    "UnsupportedFormatError",
    "UnsupportedJpegError",
    "UsageError",
    "convert",
    "open",
]
