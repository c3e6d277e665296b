"""The conversion wing."""

from pcrstore.conversion.converter import convert
from pcrstore.conversion.options import OBJECT_BYTES, RECORD_BYTES, Options
from pcrstore.conversion.record_builder import POLICIES
from pcrstore.conversion.report import Report

__all__ = [
    "OBJECT_BYTES",
    "POLICIES",
    "RECORD_BYTES",
    "Options",
    "Report",
    "convert",
]
