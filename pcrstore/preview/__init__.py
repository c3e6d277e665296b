"""The preview wing."""

from pcrstore.preview.sheet import Row, contact_sheet

__all__ = [
    "Row",
    "contact_sheet",
]
