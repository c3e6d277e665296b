"""The conversion wing."""

from pcrstore.conversion.converter import convert
from pcrstore.conversion.options import OBJECT_BYTES, POLICIES, RECORD_BYTES, Options
from pcrstore.conversion.report import Report
from pcrstore.conversion.sources import Listing, Source, SourceFile

__all__ = [
    "OBJECT_BYTES",
    "POLICIES",
    "RECORD_BYTES",
    "Listing",
    "Options",
    "Report",
    "Source",
    "SourceFile",
    "convert",
]
