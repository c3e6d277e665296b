"""The exports wing."""

from pcrstore.exports.folder import ExportReport, export

__all__ = [
    "ExportReport",
    "export",
]
